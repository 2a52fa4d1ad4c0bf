"""Active pores: whatever its kind, a pore tells its owner when there is data, room, or an end; and waits for several.

    await any_of(a.has_data(), b.has_room(10))      # what holds now, at least one
    await all_of(a.has_data(), b.has_data())        # when all hold at the same time

Reading and writing are the pore's; nothing is taken here. The asyncio edge of pore.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from .errors import PoreClosed, PoreCorrupt, PoreError
from .pore import Pore

__all__ = ["ActivePore", "Condition", "all_of", "any_of"]

Listener = Callable[[], None]


class ActivePore:
    """A pore on the running loop. Owns it: `close` closes it.

    Listeners are called whenever something about the pore may have changed; what did is asked of the pore. A channel's
    end alone does not say whether the peer died or all that is between us: `doubt`, when given, is called with this
    pore then, and calls `end` when it knows. Until then the pore is silent, as one that is full and has nothing.
    """

    def __init__(self, pore: Pore, doubt: Callable[[ActivePore], None] | None = None) -> None:
        self.pore = pore
        self.ended = ""
        """Why nothing more comes: "peer_gone", "corrupt", "host_down", "closed", …; "" while it is open."""
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[Listener, None] = {}
        self._doubt = doubt
        self._doubtful = False
        self._fd = pore.fd
        self._loop.add_reader(self._fd, self._readable)

    def listen(self, listener: Listener) -> None:
        self._listeners[listener] = None

    def unlisten(self, listener: Listener) -> None:
        self._listeners.pop(listener, None)

    def has_data(self) -> Condition:
        """There is something to read. Raises what ended the pore when nothing will come any more."""
        return Condition(self, self._data)

    def has_room(self, slots: int = 1) -> Condition:
        """So many slots (bytes; of a tube packets) are free for output."""
        return Condition(self, lambda: self._room(slots))

    def has_ended(self) -> Condition:
        """It is closed, by whomever; `ended` says why."""
        return Condition(self, lambda: bool(self.ended))

    def notify_when(self, slots: int, callback: Callable[[bool], None]) -> None:
        """Calls back once: True when so many slots are free, False when the pore ended before."""

        def look() -> None:
            try:
                free = self._room(slots)
            except PoreError:
                free = False
            if free or self.ended:
                self.unlisten(look)
                callback(free)

        self.listen(look)
        self._loop.call_soon(look)

    def _data(self) -> bool:
        self._check()
        try:
            return self.pore.avail()[0] > 0
        except (PoreClosed, PoreCorrupt) as error:
            self.found_end(error)
            self._check()
            return False

    def _room(self, slots: int) -> bool:
        self._check()
        try:
            return self.pore.notify_when(slots)
        except (PoreClosed, PoreCorrupt) as error:
            self.found_end(error)
            self._check()
            return False

    def _check(self) -> None:
        if self.ended:
            raise PoreCorrupt() if self.ended == "corrupt" else PoreClosed(self.ended)

    def _readable(self) -> None:
        try:
            self.pore.avail()
        except (PoreClosed, PoreCorrupt) as error:
            self.found_end(error)
            return
        self._tell()

    def _tell(self) -> None:
        for listener in list(self._listeners):
            if listener in self._listeners:
                listener()

    def found_end(self, error: PoreClosed | PoreCorrupt) -> None:
        """The pore itself says that nothing more comes."""
        if self._doubt is None or error.reason != "peer_gone":
            self.end(error.reason)
        elif not self._doubtful and not self.ended:
            self._doubtful = True
            self._loop.remove_reader(self._fd)
            self._doubt(self)

    def end(self, why: str) -> None:
        """No more events of the pore; those who wait are told. What is left in it can still be read."""
        if not self.ended:
            self.ended = why
            self._loop.remove_reader(self._fd)
            self._tell()

    def close(self, why: str = "closed") -> None:
        """May be called twice."""
        self.end(why)
        self.pore.close(why)
        self._listeners.clear()


class Condition:
    """Something that holds of a pore or does not; `await` it, alone or by any_of and all_of."""

    def __init__(self, active: ActivePore, holds: Callable[[], bool]) -> None:
        self.active = active
        self.holds = holds

    async def wait(self) -> None:
        await any_of(self)


C = TypeVar("C", bound=Condition)


async def any_of(*conditions: C) -> list[C]:
    """Waits until one holds; all that do then. PoreClosed or PoreCorrupt when one can't hold any more."""
    return await _wait(conditions, 1)


async def all_of(*conditions: C) -> list[C]:
    """Waits until all hold at the same time: a conjunction, not one after the other."""
    return await _wait(conditions, len(conditions))


async def _wait(conditions: tuple[C, ...], wanted: int) -> list[C]:
    if not conditions:
        raise ValueError("nothing to wait for")
    pores = {condition.active for condition in conditions}
    woken = asyncio.Event()
    for active in pores:
        active.listen(woken.set)
    try:
        while True:
            woken.clear()
            met = [condition for condition in conditions if condition.holds()]
            if len(met) >= wanted:
                return met
            await woken.wait()
    finally:
        for active in pores:
            active.unlisten(woken.set)
