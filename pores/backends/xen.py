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
from ..forked import replace
from ..xenstore.client import XenStore
from ..xenstore.transport import DEVICES as STORE_DEVICES
from ..xenstore.transport import default_path
from .base import Channel, Grant, Mapping
from .holder import Holder

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

    kept: int
    peer_dead: bool = False

    def end(self) -> None:
        super().end()
        kept, self.kept = self.kept, -1
        if kept >= 0:
            os.close(kept)

    def fds(self) -> list[int]:
        return [*super().fds(), *([self.kept] if self.kept >= 0 else [])]


class XenBackend(Holder):
    """One domain of a Xen host, the one that this process runs in; made by `connect`. Implements `base.Backend`."""

    platform = "xen"

    def __init__(self, store: XenStore, domid: int) -> None:
        super().__init__()
        self.domid = domid
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._locks: dict[str, int] = {}
        self._mapped = 0
        self._looking: asyncio.Task[None] | None = None
        self._look_again = False

    def forked(self) -> None:
        """The parent is the domain's one strawman."""
        super().forked()
        replace(*self._locks.values())

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
        return self._hold(XenGrant(peer, os.dup(kept), refs, kept, xen=True))

    async def end_access(self, grant: Grant) -> bool:
        """A peer that does not say whether it has it mapped: the kernel knows, and keeps the pages until it has not."""
        assert isinstance(grant, XenGrant)
        grant.close_fd()
        if grant.ended:
            return True
        if not grant.peer_dead and _native.xen_still_mapped(grant.kept, len(grant.refs)):
            return False
        self._drop(grant)
        return True

    async def map(self, peer: int, refs: Sequence[int]) -> Mapping:
        self._check()
        fd = _native.xen_map(peer, refs)
        self._mapped += 1
        return self._hold(Mapping(peer, fd, self._mapped, tuple(range(len(refs))), xen=True))

    async def unmap(self, mapping: Mapping) -> None:
        self._drop(mapping)

    # ── channels ──

    async def alloc_channel(self, peer: int) -> Channel:
        self._check()
        return self._channel(peer, *_native.xen_alloc_channel(peer))

    async def bind_channel(self, peer: int, port: int) -> Channel:
        self._check()
        return self._channel(peer, *_native.xen_bind_channel(peer, port))

    def _channel(self, peer: int, fd: int, port: int) -> Channel:
        return self._hold(Channel(peer, fd, port, xen=True))

    async def close_channel(self, channel: Channel) -> None:
        self._drop(channel)

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

    def _let_go(self) -> None:
        for fd in self._locks.values():
            os.close(fd)
        self._locks.clear()

    # ── domains that die ──

    def _domain_released(self) -> None:
        """The store says that some domain has died (to domain 0, or to whom it lets know), not which."""
        self._look_again = True
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        while self._look_again and not self._closed:
            self._look_again = False
            for peer in sorted({thing.peer for thing in self._holding}):
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
        for thing in self._holding:
            if isinstance(thing, XenGrant) and thing.peer == peer:
                thing.peer_dead = True
        for listener in list(self._listeners):
            listener.domain_gone(peer)
