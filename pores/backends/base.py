"""What the membrane asks of a platform: memory for a peer, a peer's memory, event channels, the store, news of domains.

Everything handed out is an object with one owner and a `close` that may be called twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..xenstore.client import XenStore

__all__ = ["Backend", "BackendListener", "Channel", "Grant", "Held", "Mapping"]


@dataclass(eq=False)
class Held:
    """Something of a backend's that is held until it is given back, with a descriptor that may be closed before."""

    peer: int
    fd: int
    ended: bool = field(default=False, kw_only=True)
    xen: bool = field(default=False, kw_only=True)
    """Of Xen's devices: a pore has to know."""

    def close_fd(self) -> None:
        """May be called twice."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def end(self) -> None:
        """It is given back, or the backend is down. May be called twice."""
        self.close_fd()
        self.ended = True

    def fds(self) -> list[int]:
        """The descriptors that are open now: what a child of fork() must not keep."""
        return [self.fd] if self.fd >= 0 else []


@dataclass(eq=False)
class Grant(Held):
    """Memory of ours that a peer may map. `fd` is ours until `close_fd`; the pages until `Backend.end_access`."""

    refs: tuple[int, ...]


@dataclass(eq=False)
class Mapping(Held):
    """A peer's memory. The nth ref asked for is page `page_index[n]` of `fd`; the platform knows it by `number`."""

    number: int
    page_index: tuple[int, ...]


@dataclass(eq=False)
class Channel(Held):
    """An end of an event channel. `fd` is ours until a pore has taken it (`taken`)."""

    port: int

    def taken(self) -> None:
        self.fd = -1


@dataclass(eq=False)
class BackendListener:
    """Who hears of a backend's news. Calls come on the loop."""

    unmapped: Callable[[tuple[int, ...]], None] = field(default=lambda refs: None)
    """The peer has unmapped the grant of these refs."""
    domain_gone: Callable[[int], None] = field(default=lambda domid: None)
    """A domain that we dealt with is dead."""
    host_down: Callable[[str], None] = field(default=lambda why: None)
    """Nothing works any more; the backend has closed itself."""


class Backend(Protocol):
    """One domain on one platform. Methods raise PoreError by errno, BackendUnavailable when the host is down.

    A peer is a domain id, a page 4096 bytes, a ref a grant reference, a port an event channel's local number, as with
    Xen; docs/host-protocol.md says what the host service makes of them.
    """

    @property
    def domid(self) -> int:
        """Who we are."""
        ...

    @property
    def closed(self) -> bool:
        """Whether `close` was called, or the host is down: nothing works any more."""
        ...

    def listen(self, listener: BackendListener) -> None:
        """From now on it hears of news, on the loop."""
        ...

    def unlisten(self, listener: BackendListener) -> None:
        """May be called twice."""
        ...

    async def answers(self) -> bool:
        """Whether the platform lives; not told from memory: a sign of life that is younger than this call."""
        ...

    def take_lock(self, name: str) -> bool:
        """One strawman per domain: False when somebody has it."""
        ...

    def drop_lock(self, name: str) -> None:
        """May be called twice."""
        ...

    async def grant(self, peer: int, pages: int) -> Grant:
        """New memory, zeroed, that the peer may map. PoreError EINVAL: ourselves, ENOENT: no such domain (where the
        platform can tell), ENOSPC: more than the domain may have.
        """
        ...

    async def end_access(self, grant: Grant) -> bool:
        """False: the peer still has it mapped. Nobody can map it from now on. May be called again."""
        ...

    async def map(self, peer: int, refs: Sequence[int]) -> Mapping:
        """What the peer has granted to us. PoreError ENOENT: it has not (on Xen what the kernel says); ENOSPC."""
        ...

    async def unmap(self, mapping: Mapping) -> None:
        """To be called when nothing of it is mapped in this process any more. May be called twice."""
        ...

    async def alloc_channel(self, peer: int) -> Channel:
        """A new channel whose other end the peer may bind, by its `port`. PoreError as of `grant`."""
        ...

    async def bind_channel(self, peer: int, port: int) -> Channel:
        """The other end of the peer's channel. PoreError ENOENT: it has none of that port for us, or it is bound."""
        ...

    async def close_channel(self, channel: Channel) -> None:
        """May be called twice."""
        ...

    async def store(self) -> XenStore:
        """A new connection to the store, as this domain; the caller closes it."""
        ...

    async def domains(self) -> list[int]:
        """All that there are, or that we may see; sorted."""
        ...

    @property
    def held(self) -> dict[str, int]:
        """How many grants, mappings and channels are not given back: for tests and status."""
        ...

    async def close(self) -> None:
        """Gives back all that is held; the domain ends, where it is ours to end. May be called twice."""
        ...
