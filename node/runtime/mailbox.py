"""The queue of messages of one process, with selective receive.

Order is kept: a receive takes the first message that matches, the others stay in front of what comes later. A
message is tested once per receive, so a receive costs no more than the length of the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Protocol

from .timers import Deadline, Deadlines
from .waiter import Turn, Waiter

__all__ = ["Mailbox", "Match", "Receive"]

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
        """Add a message; a receiver that waits for it runs at once where that is allowed."""
        waiter = self._waiter
        if waiter is not None and not waiter.done and (self._match is None or self._match(message)):
            self._waiter = None
            self._given_at = len(self.queue)
            waiter.wake(message)
        else:
            queue = self.queue
            queue.append(message)
            if len(queue) > self._gate.mailbox_limit:
                self.full = True
                self._gate.shut(self)

    def check_room(self) -> None:
        """After messages were taken: let the peers send again when there is room."""
        if self.full and len(self.queue) <= self._gate.mailbox_limit // 2:
            self.full = False
            self._gate.reopen(self)

    def clear(self) -> None:
        """Drop everything: the process has ended."""
        self.queue.clear()
        self.check_room()

    def take(self, match: Match | None) -> tuple[Any] | None:
        """The first message that matches, in a tuple, or None."""
        queue = self.queue
        if not queue:
            return None
        if match is None:
            message = queue.popleft()
            if self.full:
                self.check_room()
            return (message,)
        for index, message in enumerate(queue):
            if match(message):
                del queue[index]
                self.check_room()
                return (message,)
        return None

    def receive(self, match: Match | None, timeout: float | None) -> Receive:
        return Receive(self, match, timeout)

    def fail(self, error: BaseException) -> None:
        """Raise in the receiver that waits now, if there is one."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.fail(error)


class Receive:
    """The awaitable that Process.receive() returns. Cancelling it loses no message."""

    __slots__ = ("_mailbox", "_match", "_timeout")

    def __init__(self, mailbox: Mailbox, match: Match | None, timeout: float | None) -> None:
        self._mailbox = mailbox
        self._match = match
        self._timeout = timeout

    def __await__(self) -> Generator[Any, None, Any]:
        mailbox = self._mailbox
        if mailbox._waiter is not None:
            raise RuntimeError("another receive() of this process is waiting already")
        taken = mailbox.take(self._match)
        if taken is not None:
            return taken[0]
        waiter = Waiter(mailbox._turn)
        mailbox._waiter = waiter
        mailbox._match = self._match
        deadline: Deadline | None = None
        if self._timeout is not None:
            deadline = mailbox._deadlines.after(
                self._timeout, lambda: waiter.fail(TimeoutError(f"no message within {self._timeout:g} s"))
            )
        try:
            waiter._asyncio_future_blocking = True
            yield waiter
        except BaseException:
            if waiter.done and waiter.error is None:
                mailbox.queue.insert(mailbox._given_at, waiter.value)  # it was ours already: back to its place
            raise
        finally:
            if mailbox._waiter is waiter:
                mailbox._waiter = None
            if deadline is not None:
                deadline.cancel()
        return waiter.result()
