"""When queued signals are written: once per turn of the loop, for all peers that have some.

Inside a callback of this package (``with turn:``) whatever was queued is written before the callback ends, in the
same turn in which it was received. Signals queued elsewhere (tasks, other callbacks) are written by one call_soon.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .peer import Peer

__all__ = ["Turn"]


class Turn:
    """The peers with something to write, and the promise to write it soon. One for each node."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._dirty: list[Peer] = []
        self._depth = 0
        self._scheduled = False

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *exc: object) -> None:
        self._depth -= 1
        if self._dirty and not self._depth:
            self.flush()

    def add(self, peer: Peer) -> None:
        """This peer has something to write. The caller sees to it that it is added once until it is flushed."""
        self._dirty.append(peer)
        if not self._depth and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._later)

    def flush(self) -> None:
        """Write it now."""
        dirty = self._dirty
        if dirty:
            self._dirty = []
            for peer in dirty:
                peer.flush()

    def _later(self) -> None:
        self._scheduled = False
        self.flush()
