"""The scaffold of drivers: what every kind of pore needs for its set-up and tear-down, once.

A driver says which memory and channels its kind has and makes the pore of them; `Holding` gets them from the backend,
owns them, and gives them back in the order that keeps the peer alive. See straw.py, tube.py and xenstore_ring.py.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Sequence
from typing import Protocol

from .backends.base import Backend, Channel, Grant, Mapping
from .errors import BackendUnavailable, PoreError
from .keys import Terms
from .kinds import Kind
from .pore import ACTIVE, PASSIVE, Pore
from .registry import PoreTable
from .work import Offer

__all__ = ["Driver", "Holding", "Negotiated"]


class Driver(Protocol):
    """One kind of pore. Both methods fill the holding and its `pore`; what they raise is cleaned up by the caller."""

    async def offer(self, holding: Holding, terms: Terms) -> Offer:
        """The side that is knocked upon: grants and allocates, makes its pore, says what there is to attach to."""
        ...

    async def attach(self, holding: Holding, offer: Offer, terms: Terms) -> None:
        """The side that opens: maps and binds what was offered, makes its pore."""
        ...


class Negotiated(Driver, Protocol):
    """A driver whose pores the membrane negotiates."""

    @property
    def kind(self) -> Kind: ...


class Holding:
    """All that one pore has of a backend. `release` may be called until it says True."""

    def __init__(self, backend: Backend, peer: int, table: PoreTable | None = None) -> None:
        self.backend = backend
        self.peer = peer
        self.table = table
        self.role = PASSIVE
        self.pore: Pore | None = None
        self._grants: list[Grant] = []
        self._mappings: list[Mapping] = []
        self._channels: list[Channel] = []

    async def grant(self, pages: int) -> Grant:
        self.role = ACTIVE
        grant = await self.backend.grant(self.peer, pages)
        self._grants.append(grant)
        return grant

    async def alloc_channel(self) -> Channel:
        channel = await self.backend.alloc_channel(self.peer)
        self._channels.append(channel)
        return channel

    @property
    def ports(self) -> tuple[int, ...]:
        """What `Pore` has to know of the channels, in their order: on Xen our ports, else nothing."""
        return tuple(channel.port for channel in self._channels if channel.xen)

    async def map(self, refs: Sequence[int]) -> Mapping:
        mapping = await self.backend.map(self.peer, refs)
        self._mappings.append(mapping)
        return mapping

    async def unmap(self, mapping: Mapping) -> None:
        """Gives one back early."""
        self._mappings.remove(mapping)
        await self.backend.unmap(mapping)

    async def bind_channel(self, port: int) -> Channel:
        channel = await self.backend.bind_channel(self.peer, port)
        self._channels.append(channel)
        return channel

    def took(self, pore: Pore) -> Pore:
        """The pore is made: it owns the channels' descriptors, and has mapped the memory."""
        self.pore = pore
        for channel in self._channels:
            channel.taken()
        for grant in self._grants:
            grant.close_fd()
        for mapping in self._mappings:
            mapping.close_fd()
        return pore

    def close_pore(self, why: str = "closed") -> None:
        """Unmaps in this process. May be called twice."""
        if self.pore is not None:
            self.pore.close(why)

    async def release(self) -> bool:
        """Gives everything back. False: the peer still has our memory mapped; call again."""
        self.close_pore()
        for channel in self._channels:
            with contextlib.suppress(BackendUnavailable):
                await self.backend.close_channel(channel)
        for mapping in self._mappings:
            with contextlib.suppress(BackendUnavailable):
                await self.backend.unmap(mapping)
        done = True
        for grant in self._grants:
            try:
                done = await self.backend.end_access(grant) and done
            except BackendUnavailable:
                pass  # the host is gone, and all that it knew
        return done


def word(error: BaseException) -> str:
    """A short word for an owner: why a pore could not be made."""
    if isinstance(error, BackendUnavailable):
        return "host_down"
    if isinstance(error, PoreError):
        return {
            errno.ENOENT: "not_found",
            errno.EACCES: "not_found",
            errno.ENOSPC: "limit",
            errno.EMFILE: "limit",
            errno.ENFILE: "limit",
            errno.E2BIG: "limit",
        }.get(error.errno, "bad_offer")
    return "failed"
