"""Domains of a real Xen: memory by /dev/xen/gntalloc and gntdev, channels by evtchn, the store as it is there.

The ioctls are C's (csrc/pore/xen.c) and never wait, so nothing here does but the store. A peer's process that dies is
told by its kernel, through the memory it shares with us; a domain that dies is found in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .. import _native
from ..errors import BackendUnavailable, PoreError, XenstoreError
from ..forked import give_up_in_child, replace
from ..xenstore.client import XenStore
from ..xenstore.transport import DEVICES as STORE_DEVICES
from ..xenstore.transport import default_path
from .base import BackendListener, Channel, Grant, Mapping

__all__ = ["DEVICES", "XenBackend", "missing", "store_path"]

DEVICES: Final = ("/dev/xen/evtchn", "/dev/xen/gntalloc", "/dev/xen/gntdev")


def missing() -> str:
    """Why this machine offers no Xen to this process: the first thing that is not there; "" when all is."""
    for path in DEVICES:
        if not os.path.exists(path):
            return f"no {path}"
        if not os.access(path, os.R_OK | os.W_OK):
            return f"{path} is not ours to open"
    store = store_path()
    if not os.path.exists(store):
        return f"no {store}"
    if not os.access(store, os.R_OK | os.W_OK):
        return f"{store} is not ours to open"
    try:
        os.close(_native.xen_alloc_channel(0)[0])  # the devices may be there without their hypervisor
    except PoreError as error:
        return str(error)
    return ""


def store_path() -> str:
    """Where the store is: as Xen's tools look for it, but a device that we may open before a socket that we may not."""
    path = default_path()
    if os.environ.get("XENSTORED_PATH") or os.access(path, os.R_OK | os.W_OK):
        return path
    return next((device for device in STORE_DEVICES if os.access(device, os.R_OK | os.W_OK)), path)


@dataclass(eq=False)
class XenGrant(Grant):
    """`fd` is for the pore; `kept` holds the pages until the peer has unmapped them."""

    kept: int = -1
    peer_dead: bool = False

    def end(self) -> None:
        self.close_fd()
        if self.kept >= 0:
            os.close(self.kept)
            self.kept = -1
        self.ended = True


class XenBackend:
    """One domain of a Xen host, the one that this process runs in; made by `connect`. Implements `base.Backend`."""

    def __init__(self, store: XenStore, domid: int) -> None:
        self.domid = domid
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._listeners: list[BackendListener] = []
        self._locks: dict[str, int] = {}
        self._grants: set[XenGrant] = set()
        self._mappings: set[Mapping] = set()
        self._channels: set[Channel] = set()
        self._mapped = 0
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False
        self._closed = False
        self._why = ""
        give_up_in_child(self)

    def forked(self) -> None:
        """In a child: the parent is the domain's one strawman, and what its pores need is its own."""
        fds = [*self._locks.values()]
        fds += [fd for grant in self._grants for fd in (grant.fd, grant.kept) if fd >= 0]
        fds += [mapping.fd for mapping in self._mappings if mapping.fd >= 0]
        fds += [channel.fd for channel in self._channels if channel.fd >= 0]
        replace(*fds)
        self._closed = True
        self._why = "forked"

    @classmethod
    async def connect(cls, domid: int = 0) -> XenBackend:
        """Becomes what this process is already: the domain that it runs in.

        BackendUnavailable: this is no Xen domain, or its devices are not ours to open. PoreError EINVAL: `domid` is
        given and is not ours.
        """
        if why := missing():
            raise BackendUnavailable([("xen", why)])
        try:
            store = await XenStore.connect(store_path())
        except XenstoreError as error:
            raise BackendUnavailable([("xen", str(error))]) from error
        try:
            own = await store.domid()
            if domid not in (0, own):
                raise PoreError(errno.EINVAL, f"this is domain {own}, not {domid}")
            backend = cls(store, own)
            store.on_lost(lambda error: backend._end(str(error)))
            with contextlib.suppress(XenstoreError):  # then the peers' directories have to do
                await store.watch("@releaseDomain", lambda path: backend._domain_released())
        except BaseException:
            await store.close()
            raise
        return backend

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def held(self) -> dict[str, int]:
        return {"grants": len(self._grants), "mappings": len(self._mappings), "channels": len(self._channels)}

    def listen(self, listener: BackendListener) -> None:
        self._listeners.append(listener)

    def unlisten(self, listener: BackendListener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)

    async def answers(self) -> bool:
        """While we run Xen does."""
        return not self._closed

    def take_lock(self, name: str) -> bool:
        """Of all programs of the domain one has it; it goes with the process."""
        if name in self._locks:
            return False
        try:
            self._locks[name] = _native.xen_lock(name)
        except PoreError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    def drop_lock(self, name: str) -> None:
        if name in self._locks:
            os.close(self._locks.pop(name))

    # ── memory ──

    async def grant(self, peer: int, pages: int) -> Grant:
        """ENOSPC: more pages than the kernel lets its programs grant (the module's parameter `limit`)."""
        self._check()
        kept, refs = _native.xen_grant(self.domid, peer, pages)
        grant = XenGrant(peer, refs, os.dup(kept), xen=True, kept=kept)
        self._grants.add(grant)
        return grant

    async def end_access(self, grant: Grant) -> bool:
        """A peer that does not say whether it has it mapped: the kernel knows, and keeps the pages until it has not."""
        assert isinstance(grant, XenGrant)
        grant.close_fd()
        if grant.ended:
            return True
        if not grant.peer_dead and _native.xen_still_mapped(grant.kept, len(grant.refs)):
            return False
        grant.end()
        self._grants.discard(grant)
        return True

    async def map(self, peer: int, refs: Sequence[int]) -> Mapping:
        self._check()
        fd = _native.xen_map(peer, refs)
        self._mapped += 1
        mapping = Mapping(peer, self._mapped, tuple(range(len(refs))), fd, xen=True)
        self._mappings.add(mapping)
        return mapping

    async def unmap(self, mapping: Mapping) -> None:
        mapping.close_fd()
        mapping.ended = True
        self._mappings.discard(mapping)

    # ── channels ──

    async def alloc_channel(self, peer: int) -> Channel:
        self._check()
        return self._channel(peer, *_native.xen_alloc_channel(peer))

    async def bind_channel(self, peer: int, port: int) -> Channel:
        self._check()
        return self._channel(peer, *_native.xen_bind_channel(peer, port))

    def _channel(self, peer: int, fd: int, port: int) -> Channel:
        channel = Channel(peer, port, fd, xen=True)
        self._channels.add(channel)
        return channel

    async def close_channel(self, channel: Channel) -> None:
        channel.close_fd()
        channel.ended = True
        self._channels.discard(channel)

    # ── the rest ──

    async def store(self) -> XenStore:
        self._check()
        return await XenStore.connect(store_path())

    async def domains(self) -> list[int]:
        """All in domain 0; elsewhere ourselves: the others are not ours to see."""
        try:
            names = await self._store.list("/local/domain")
        except XenstoreError as error:
            if error.name != "EACCES":
                raise
            return [self.domid]
        return sorted(int(name) for name in names if name.isdecimal())

    async def close(self) -> None:
        """Gives everything back. May be called twice."""
        self._end("closed")
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking
            self._looking = None
        await self._store.close()

    def _check(self) -> None:
        if self._closed:
            raise BackendUnavailable([("xen", self._why)])

    def _end(self, why: str) -> None:
        if self._closed:
            return
        self._closed = True
        self._why = why
        for fd in self._locks.values():
            os.close(fd)
        self._locks.clear()
        for grant in self._grants:
            grant.end()
        for mapping in self._mappings:
            mapping.close_fd()
            mapping.ended = True
        for channel in self._channels:
            channel.close_fd()
            channel.ended = True
        self._grants.clear()
        self._mappings.clear()
        self._channels.clear()
        for listener in list(self._listeners):
            listener.host_down(why)

    # ── domains that die ──

    def _domain_released(self) -> None:
        """The store says that some domain has died (to domain 0, or to whom it lets know), not which."""
        self._look_again = True
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        while self._look_again and not self._closed:
            self._look_again = False
            held: list[Grant | Mapping | Channel] = [*self._grants, *self._mappings, *self._channels]
            for peer in sorted({thing.peer for thing in held}):
                if not await self._lives(peer):
                    self._gone(peer)

    async def _lives(self, peer: int) -> bool:
        try:
            return await self._store.is_domain_introduced(peer)
        except XenstoreError as error:
            if error.name != "EACCES":
                return True
        try:  # not domain 0: its directory may tell
            await self._store.read(f"/local/domain/{peer}/data/straw")
        except XenstoreError as error:
            return error.name != "ENOENT"
        return True

    def _gone(self, peer: int) -> None:
        for grant in self._grants:
            if grant.peer == peer:
                grant.peer_dead = True
        for listener in list(self._listeners):
            listener.domain_gone(peer)
