"""Deadlines by the thousand: one timer of the event loop for all of them.

A call or a receive with a timeout sets a deadline that nearly always is cancelled. loop.call_later costs some
microseconds and leaves its heap entry behind; here a deadline is an entry in a dict of its time slot. Deadlines are
met late by at most one slot, never early; short ones go to the loop directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["SLOT", "Deadline", "Deadlines"]

#: Seconds in one slot; also how late a long deadline may be.
SLOT = 1 / 64
#: Deadlines nearer than this many seconds use loop.call_later, which is exact.
_SHORT = 8 * SLOT


class Deadline:
    """One pending deadline; cancel() may be called twice, and after it has fired."""

    __slots__ = ("_handle", "_slot", "callback")

    def __init__(self, callback: Callable[[], Any]) -> None:
        self.callback = callback
        self._slot: dict[Deadline, None] | None = None
        self._handle: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        if self._slot is not None:
            self._slot.pop(self, None)
            self._slot = None
        elif self._handle is not None:
            self._handle.cancel()
            self._handle = None


class Deadlines:
    """All deadlines of one node."""

    __slots__ = ("_loop", "_slots", "_time", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._time = loop.time
        self._slots: dict[int, dict[Deadline, None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def after(self, seconds: float, callback: Callable[[], Any]) -> Deadline:
        """Call back once, in `seconds` seconds, on the loop's thread."""
        deadline = Deadline(callback)
        if seconds < _SHORT:
            deadline._handle = self._loop.call_later(max(seconds, 0.0), callback)
            return deadline
        number = int((self._time() + seconds) / SLOT) + 1
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = {}
            if self._timer is None or number < min(n for n in self._slots if n != number):
                self._arm()
        slot[deadline] = None
        deadline._slot = slot
        return deadline

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._slots:
            self._timer = self._loop.call_at(min(self._slots) * SLOT, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time() + SLOT / 256  # the loop may call a little early
        for number in sorted(n for n in self._slots if n * SLOT <= now):
            for deadline in list(self._slots.pop(number)):
                if deadline._slot is not None:
                    deadline._slot = None
                    deadline.callback()
        self._arm()

    def close(self) -> None:
        """Forget every deadline."""
        self._slots.clear()
        self._arm()
