"""The queue of messages of one process, with selective receive.

Order is kept: a receive takes the first message that matches, the others stay in front of what comes later. A
message is tested once per receive, so a receive costs no more than the length of the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from types import coroutine
from typing import Any, Protocol

from .timers import Deadline, Deadlines
from .waiter import Turn, Waiter

__all__ = ["Mailbox", "Match"]

Match = Callable[[Any], object]


class Gate(Protocol):
    """Who stops the peers while a mailbox is too full (the router)."""

    mailbox_limit: int

    def shut(self, mailbox: Mailbox, /) -> None: ...
    def reopen(self, mailbox: Mailbox, /) -> None: ...


class Mailbox:
    """Messages in, one receiver at a time out.

    Past the gate's limit of messages the peer that sends more is no longer read from, until half of them are taken.
    """

    __slots__ = ("_deadlines", "_gate", "_given_at", "_match", "_turn", "_waiter", "full", "queue")

    def __init__(self, turn: Turn, deadlines: Deadlines, gate: Gate) -> None:
        self._turn = turn
        self._deadlines = deadlines
        self._gate = gate
        self.full = False
        self.queue: deque[Any] = deque()
        self._waiter: Waiter | None = None
        self._match: Match | None = None
        self._given_at = 0  # how many messages stood in front of the one that the waiter got

    def put(self, message: Any) -> None:
        """Add a message; a receiver that waits for it is woken (Turn decides when it runs)."""
        waiter = self._waiter
        if waiter is not None and not waiter.done and (self._match is None or self._matches(waiter, message)):
            self._waiter = None
            self._given_at = len(self.queue)
            waiter.wake(message)
        else:
            queue = self.queue
            queue.append(message)
            if len(queue) > self._gate.mailbox_limit:
                self.full = True
                self._gate.shut(self)

    def _matches(self, waiter: Waiter, message: Any) -> bool:
        assert self._match is not None
        try:
            return bool(self._match(message))
        except Exception as error:  # the receiver's fault, not the sender's: it gets it, and the message stays
            waiter.fail(error)
            return False

    def check_room(self) -> None:
        """After messages were taken: let the peers send again when there is room."""
        if self.full and len(self.queue) <= self._gate.mailbox_limit // 2:
            self.full = False
            self._gate.reopen(self)

    def clear(self) -> None:
        """Drop everything: the process has ended."""
        self.queue.clear()
        self.check_room()

    def pop(self) -> Any:
        """The first message; there is one."""
        message = self.queue.popleft()
        if self.full:
            self.check_room()
        return message

    def take(self, match: Match | None) -> tuple[Any] | None:
        """The first message that matches, in a tuple, or None."""
        queue = self.queue
        if not queue:
            return None
        if match is None:
            return (self.pop(),)
        for index, message in enumerate(queue):
            if match(message):
                del queue[index]
                self.check_room()
                return (message,)
        return None

    @coroutine
    def receive(self, match: Match | None, timeout: float | None) -> Generator[Any, None, Any]:
        """To be awaited: the first message that matches. TimeoutError after `timeout` seconds.

        Cancelling it loses no message.
        """
        if self._waiter is not None:
            raise RuntimeError("another receive() of this process is waiting already")
        taken = self.take(match)
        if taken is not None:
            return taken[0]
        waiter = self._waiter = Waiter(self._turn)
        self._match = match
        deadline: Deadline | None = None
        if timeout is not None:
            deadline = self._deadlines.after(
                timeout, lambda: waiter.fail(TimeoutError(f"no message within {timeout:g} s"))
            )
        try:
            waiter._asyncio_future_blocking = True
            yield waiter
        except BaseException:
            if waiter.done and waiter.error is None:
                self.queue.insert(self._given_at, waiter.value)  # it was ours already: back to its place
            raise
        finally:
            if self._waiter is waiter:
                self._waiter = None
            if deadline is not None:
                deadline.cancel()
        return waiter.result()

    def fail(self, error: BaseException) -> None:
        """Raise in the receiver that waits now, if there is one."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.fail(error)
