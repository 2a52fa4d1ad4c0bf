"""Plain functions as processes: each message is one argument, and the return value answers a call.

A function runs in a worker thread, one message at a time and in order; with inline=True (it never blocks) on the
loop, without any task.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..errors import PeerBusy
from ..runtime.process import Process
from ..runtime.reasons import crash_reason
from ..runtime.router import Router
from .gen import GEN_CALL, GEN_CAST, is_from, reply

__all__ = ["FunctionProcess"]

log = logging.getLogger("strawbridge.process")

#: Messages that one visit of a worker thread handles before other processes get the thread.
_BATCH = 256


class FunctionProcess(Process):
    """A process without a task of its own and without receive(): its messages go to the function."""

    __slots__ = ("_function", "_inline", "_working")

    def __init__(self, router: Router, function: Callable[[Any], Any], inline: bool) -> None:
        super().__init__(router, getattr(function, "__name__", "function"))
        self._function = function
        self._inline = inline
        self._working = False

    def deliver(self, message: Any) -> None:
        self.mailbox.put(message)
        if not self._working:
            self._working = True
            self._next()

    def _next(self) -> None:
        """On the loop: go on with the mailbox, after a peer that was overfilled has taken what it was sent."""
        self.mailbox.check_room()
        held, self._held = self._held, None
        if held is not None and self.alive:
            held.flush()
            if held.busy:
                self.task = self.router.turn.loop.create_task(held.drain())
                self.task.add_done_callback(self._drained)
                return
        if not self.mailbox.queue or not self.alive:
            self._working = False
        elif self._inline:
            self.router.turn.wake(self)
        else:
            self.router.node.threads.submit(self._work)

    def _drained(self, task: Any) -> None:
        self.task = None
        if not task.cancelled():
            task.exception()  # the peer went down: it was reported, and there is nothing left to wait for
        self._next()

    def run(self) -> None:
        """On the loop, where no task is running (Turn)."""
        try:
            while self.mailbox.queue and self.alive and self._held is None:
                self._handle(self.mailbox.queue.popleft())
        except Exception as error:
            self._crashed(error)
        self._next()

    def _work(self) -> None:
        """In a worker thread."""
        loop = self.router.turn.loop
        try:
            for _ in range(min(_BATCH, len(self.mailbox.queue))):
                if not self.alive or self._held is not None:
                    break
                self._handle(self.mailbox.queue.popleft())
        except BaseException as error:
            loop.call_soon_threadsafe(self._crashed, error)
            if not isinstance(error, Exception):
                raise
        finally:
            loop.call_soon_threadsafe(self._next)

    def _handle(self, message: Any) -> None:
        if type(message) is tuple and len(message) == 3 and message[0] is GEN_CALL and is_from(message[1]):
            value = self._function(message[2])
            try:
                reply(self, message[1], value)
            except PeerBusy as busy:
                log.warning("%r can't answer: %s", self, busy)
        elif type(message) is tuple and len(message) == 2 and message[0] is GEN_CAST:
            self._function(message[1])
        else:
            self._function(message)

    def _crashed(self, error: BaseException) -> None:
        if self.alive:
            log.error("%r ended by an exception", self, exc_info=error)
            self.end(crash_reason(error))
