"""The real carrier of straws: a domain, Xen's or the local host's, the membrane, shared memory. The seam's only one.

With host.py the only place in this package that imports `pores`; what fails there leaves as StrawError.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast

from pores.aio import Membrane
from pores.backends.base import Backend
from pores.backends.choose import connect as connect_backend
from pores.errors import BackendUnavailable, MembraneError, PoreError
from pores.host.server import Host
from pores.host.spawn import embed_host as embedded
from pores.straw import Straw as OpenStraw
from pores.xenstore.client import XenStore

from .errors import StrawError
from .formats import Dialect, Format

__all__ = ["PoreCarrier", "PoreStraw", "connect"]


async def connect(host: str | None, domid: int, *, embed_host: bool = False) -> PoreCarrier:
    """Become a domain of the host service in that folder, which is started when none runs.

    host None: this machine's Xen, when it has one and lets us (pores.backends.choose), else this user's host service;
    "xen", "local": that one of them. embed_host: the host service is started in this process, and ends with the
    carrier. StrawError: no_host, domid_taken, not_allowed, straw_taken.
    """
    service: Host | None = None
    backend: Backend | None = None
    store: XenStore | None = None
    wanted = "local" if embed_host and host is None else ""
    if host in ("xen", "local"):
        wanted, host = host, None
    try:
        if embed_host:
            service = await embedded(host)
        backend = await connect_backend(host, domid, wanted)
        store = await backend.store()
        membrane = Membrane(backend, store)
        carrier = PoreCarrier(backend, store, membrane, service)
        await membrane.start()
    except BaseException as error:
        if store is not None:
            with suppress(PoreError):
                await store.close()
        if backend is not None:
            await backend.close()
        if service is not None:
            await service.close()
        if isinstance(error, PoreError):
            raise StrawError(_start_reason(error), domid, str(error)) from error
        if isinstance(error, ValueError):
            raise StrawError("no_host", domid, str(error)) from error
        raise
    return carrier


def _start_reason(error: PoreError) -> str:
    if isinstance(error, BackendUnavailable):
        return "no_host"
    if isinstance(error, MembraneError):
        return error.reason
    return {errno.EBUSY: "domid_taken", errno.EPERM: "not_allowed", errno.EINVAL: "no_such_domid"}.get(
        error.errno, "no_host"
    )


@contextmanager
def _as_straw_errors(domid: int) -> Any:
    try:
        yield
    except PoreError as error:
        reason = "host_down" if isinstance(error, BackendUnavailable) else getattr(error, "reason", "") or "refused"
        raise StrawError(reason, domid, "" if str(error) == reason else str(error)) from error


class PoreStraw:
    """One open straw of the membrane, as the seam has it."""

    def __init__(self, straw: OpenStraw, closing: set[asyncio.Task[None]]) -> None:
        self._straw = straw
        self._closing = closing
        self.domid = straw.peer
        self.format: Format = "json" if straw.format == "json" else "erlang"
        self.dialect: Dialect = "otp" if straw.dialect == "otp" else "ling"
        self.opened_by_us = straw.we_opened
        self.on_frames = partial(straw.on_frames, views=True)
        self.on_closed = straw.on_closed
        self.pause = straw.pause
        self.resume = straw.resume

    @property
    def busy(self) -> bool:
        return self._straw.busy

    def send_nowait(self, frame: bytes | list[bytes]) -> bool:
        try:
            return self._straw.send_nowait(frame)
        except PoreError as error:
            raise self._error(error) from error

    async def send(self, frame: bytes) -> None:
        try:
            await self._straw.send(frame)
        except PoreError as error:
            raise self._error(error) from error

    async def drain(self) -> None:
        try:
            await self._straw.drain()
        except PoreError as error:
            raise self._error(error) from error

    def _error(self, error: PoreError) -> StrawError:
        return StrawError(getattr(error, "reason", "") or "refused", self.domid)

    def close(self, reason: str) -> None:
        if not self._straw.closed:
            task = asyncio.get_running_loop().create_task(self._straw.close(reason, flush=0))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


class PoreCarrier:
    """One domain: opens straws, and tells of those that others open."""

    def __init__(self, backend: Backend, store: XenStore, membrane: Membrane, service: Host | None) -> None:
        self._backend = backend
        self._service = service  # the host service that is ours
        self._store = store
        self._membrane = membrane
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self.domid = backend.domid
        self._early: list[PoreStraw] = []
        self._on_straw: Callable[[Any], object] = self._early.append
        membrane.on_straw = self._opened_by_peer

    def _opened_by_peer(self, straw: OpenStraw) -> None:
        self._on_straw(PoreStraw(straw, self._closing))

    def listen(self, on_straw: Callable[[Any], object], on_lost: Callable[[str], None]) -> None:
        """From now on; straws that others opened before are told at once."""
        self._on_straw = on_straw
        self._membrane.on_down = on_lost
        early, self._early = self._early, []
        for straw in early:
            on_straw(straw)

    async def open(self, domid: int, format: Format) -> PoreStraw:
        with _as_straw_errors(domid):
            wishes = None if format == "erlang" else replace(self._membrane.machine.wishes, format=format)
            straw = await self._membrane.open(domid, wishes=wishes)
            return PoreStraw(cast(OpenStraw, straw), self._closing)

    async def close(self) -> None:
        """Close all straws, clean the store, give the domain back. May be called twice."""
        if self._closed:
            return
        self._closed = True
        with suppress(PoreError):
            await self._membrane.close()
        if self._closing:
            await asyncio.wait(self._closing)
        with suppress(PoreError):
            await self._store.close()
        await self._backend.close()
        if self._service is not None:
            await self._service.close()
