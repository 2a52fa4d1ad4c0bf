"""Waking a waiting task in the turn of the event loop in which its message arrived.

A Waiter is what a task waits on: a small stand-in for asyncio.Future whose task is resumed by a direct call, not by
a later turn of the loop. That is only legal where no task is running, so every wake-up goes through one Turn, which
knows: tasks woken by a batch of signals run when the whole batch is delivered (so one step of a task takes all the
messages that came for it), others in the loop's next turn.

Not for use from other threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, Protocol

__all__ = ["Runnable", "Turn", "Waiter"]


class Runnable(Protocol):
    """Something to be run where no task is running."""

    def run(self) -> None: ...


class Turn:
    """The one place that decides whether a waiter's task may run now. One per node."""

    __slots__ = ("_ready", "_scheduled", "crowded", "loop", "open")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        #: True only while a batch is delivered by a callback of ours, in which no task is current.
        self.open = False
        #: True while several tasks are being resumed: what they send should share one write.
        self.crowded = False
        self._ready: list[Runnable] = []
        self._scheduled = False  # run_ready() will be called, by the loop or by finish()

    def begin(self) -> None:
        """At the start of a batch. Usually that is a read callback; what came behind a handshake is in its task."""
        self.open = asyncio.current_task(self.loop) is None

    def wake(self, waiter: Runnable) -> None:
        """Run it at the end of this batch, or else in the loop's next turn."""
        self._ready.append(waiter)
        if not self._scheduled and not self.open:
            self._scheduled = True
            self.loop.call_soon(self.run_ready)

    def run_ready(self) -> None:
        """Resume everything that waits for it. What that makes ready waits for the next round."""
        self._scheduled = False
        ready, self._ready = self._ready, []
        self.crowded = len(ready) > 1
        rest = iter(ready)
        try:
            for waiter in rest:
                waiter.run()
        except BaseException:  # a handler called sys.exit(): the others still get their turn
            self._ready[:0] = rest
            if self._ready:
                self._scheduled = True
                self.loop.call_soon(self.run_ready)
            raise
        finally:
            self.crowded = False

    def settle(self) -> None:
        """In the middle of a batch: let everybody take what was delivered so far, because the next signal ends one."""
        if self.open and self._ready:
            self.open = False
            try:
                self.run_ready()
            finally:
                self.open = True

    def finish(self) -> None:
        """At the end of a batch: two rounds now, so that the answer of a local process leaves in the same turn."""
        if self.open:
            self.open = False
            if self._ready:
                self.run_ready()
                if self._ready:
                    self.run_ready()


class Waiter:
    """One value for one task. Awaitable once; wake() or fail() ends it, the first one wins.

    A task that is cancelled while it waits gets CancelledError; a value that was already given is then left in
    `value`, and whoever made the waiter can take it back (`done` says that there is one).
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_cancelled", "_context", "_turn", "done", "error", "value")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._callback: Callable[[Any], object] | None = None
        self._context: Context | None = None
        self._asyncio_future_blocking = False
        self._cancelled = False
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None

    def wake(self, value: Any) -> None:
        """Give the value and resume the task."""
        if not self.done:
            self.done = True
            self.value = value
            if self._callback is not None:
                self._turn.wake(self)

    def fail(self, error: BaseException) -> None:
        """Raise an exception in the task instead."""
        if not self.done:
            self.done = True
            self.error = error
            if self._callback is not None:
                self._turn.wake(self)

    def run(self) -> None:
        """Step the task (Turn only)."""
        callback, self._callback = self._callback, None
        if callback is not None:
            assert self._context is not None
            self._context.run(callback, self)

    # What asyncio.Task asks of the thing that it waits on.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._turn.loop

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context) -> None:
        self._callback = callback
        self._context = context
        if self.done:
            self._turn.wake(self)

    def cancel(self, msg: Any = None) -> bool:
        if self._cancelled or self.done:
            return False  # the task then raises CancelledError at its next step by itself
        self._cancelled = True
        self.done = True
        self.error = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        if self._callback is not None:
            # Never from here: cancel() may be called by another task.
            self._turn.loop.call_soon(self.run)
        return True

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value

    def __await__(self) -> Generator[Any, None, Any]:
        if not self.done:
            self._asyncio_future_blocking = True
            yield self
        if self.error is not None:
            raise self.error
        return self.value
