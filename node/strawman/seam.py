"""What the strawman needs of whatever carries its frames, so that it can be tested without shared memory.

Straw is one connection to one domain; Carrier opens them. The real ones come from pores.py, the only file that knows
the package `pores`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from .formats import Dialect, Format

__all__ = ["Carrier", "CarrierFactory", "Straw"]


class Straw(Protocol):
    """One open straw. Frames that come before on_frames() wait for it, as far as there is room."""

    @property
    def domid(self) -> int:
        """The peer."""
        ...

    @property
    def format(self) -> Format: ...
    @property
    def dialect(self) -> Dialect: ...
    @property
    def opened_by_us(self) -> bool: ...
    @property
    def busy(self) -> bool:
        """So much is unsent (16 MiB) that no more is taken."""
        ...

    def send_nowait(self, frame: bytes | list[bytes], /) -> bool:
        """Send one frame, whole or in pieces, or queue it; False when busy. StrawError when closed."""
        ...

    async def send(self, frame: bytes, /) -> None:
        """The same, having waited until not busy."""
        ...

    async def drain(self) -> None:
        """Wait until nothing is unsent. StrawError when the straw closes first."""
        ...

    def on_frames(self, callback: Callable[[list[Any]], None], /) -> None:
        """Frames go there, in order: bytes, or memoryviews, which are good until the callback returns."""
        ...

    def on_closed(self, callback: Callable[[str], None], /) -> None:
        """Called once, after the last frame, with the reason."""
        ...

    def pause(self) -> None:
        """Take no more frames out of the ring, until resume(). What was taken already still comes."""
        ...

    def resume(self) -> None: ...
    def close(self, reason: str, /) -> None:
        """May be called twice."""
        ...


class Carrier(Protocol):
    """A domain's way to others."""

    @property
    def domid(self) -> int: ...
    def listen(self, on_straw: Callable[[Any], object], on_lost: Callable[[str], None], /) -> None:
        """on_straw: called with each Straw that another domain opens. on_lost: with a reason when the host is gone."""
        ...

    async def open(self, domid: int, format: Format, /) -> Straw:
        """StrawError with the reason of the membrane."""
        ...

    async def close(self) -> None: ...


#: Makes the carrier of one node: (place of the host or None, wanted domid or 0).
CarrierFactory = Callable[[str | None, int], Awaitable[Carrier]]
