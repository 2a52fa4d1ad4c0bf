"""Domains on one Linux host without Xen: the asyncio client of the host service (docs/host-protocol.md).

The protocol's bytes and descriptors are C's (csrc/pore/local.c); here are requests and their replies, events, and what
is held. When the control connection ends, all of it ends with `host_down`, at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from .._native import HostConnection, HostMessage
from .._native import error as native_error
from ..errors import BackendUnavailable, PoreError
from ..host import limits, wire
from ..host.rundir import RunDir, is_trusted, peer_of
from ..host.spawn import ensure_host
from ..xenstore.client import XenStore
from .base import Channel, Grant, Mapping
from .holder import Holder

__all__ = ["ANSWER_TIME", "LocalBackend"]

#: Seconds that a host gets to give a sign of life before a peer whose channel has ended is taken for dead.
ANSWER_TIME = 5.0


class LocalBackend(Holder):
    """One domain of a host service; made by `connect`. Implements `base.Backend`."""

    platform = "local"

    def __init__(self, connection: HostConnection, where: str) -> None:
        super().__init__()
        self._connection = connection
        self._where = where
        self._loop = asyncio.get_running_loop()
        self._fd = connection.fileno()
        self._waiting: dict[int, asyncio.Future[HostMessage]] = {}
        self._unsent: deque[tuple[int, tuple[int, ...], asyncio.Future[HostMessage]]] = deque()
        self._locks: set[str] = set()
        self.domid = 0
        self._loop.add_reader(self._fd, self._readable)

    @classmethod
    async def connect(cls, rundir: Path | str | None = None, domid: int = 0, *, start: bool = True) -> LocalBackend:
        """Becomes a domain: `domid`, or the next one for 0. Starts a host service when none runs, unless start=False.

        BackendUnavailable: no host. PoreError EBUSY: the id is taken, EPERM: not for this user, EINVAL: no such id.
        """
        place = await ensure_host(rundir) if start else RunDir(rundir)
        if not start and not place.socket.exists():
            raise BackendUnavailable([("local", f"no host service in {place.path}")])
        place.check()
        try:
            connection = HostConnection.connect(str(place.socket))
        except PoreError as error:
            raise BackendUnavailable([("local", f"{place.socket}: {os.strerror(error.errno)}")]) from error
        with socket.socket(fileno=os.dup(connection.fileno())) as other:
            uid = peer_of(other).uid
        if not is_trusted(uid):
            connection.close()
            raise BackendUnavailable([("local", f"{place.socket} is served by uid {uid}, neither us nor root")])
        backend = cls(connection, str(place.path))
        try:
            backend.domid = (await backend._ask(wire.HELLO, wire.VERSION, domid)).args[0]
        except BackendUnavailable:
            problem = f"closed the connection at once: it ends, or uid {os.getuid()} has {limits.CONNECTIONS_PER_UID}"
            raise BackendUnavailable([("local", f"the host service in {place.path} {problem}")]) from None
        except PoreError as error:
            await backend.close()
            if error.errno != errno.EPERM:
                raise
            what = f"domain {domid}" if domid else "a domain"
            problem = f"does not allow uid {os.getuid()} to be {what} (its --allow FILE says who may)"
            raise PoreError(errno.EPERM, f"the host service in {place.path} {problem}") from None
        except BaseException:
            await backend.close()
            raise
        return backend

    def take_lock(self, name: str) -> bool:
        """A local domain is one control connection, so this process is the only one that can hold it."""
        if name in self._locks:
            return False
        self._locks.add(name)
        return True

    def drop_lock(self, name: str) -> None:
        self._locks.discard(name)

    # ── requests ──

    async def _ask(self, op: int, *args: int) -> HostMessage:
        """The reply, when it says success; PoreError by its errno."""
        self._check()
        future: asyncio.Future[HostMessage] = self._loop.create_future()
        self._unsent.append((op, args, future))
        self._send()
        try:
            reply = await asyncio.shield(future)
        except asyncio.CancelledError:
            # What the host hands out now would have no owner: taken, and given back.
            future.add_done_callback(self._nobody)
            raise
        if reply.status:
            _close(reply.fd)
            raise native_error(reply.status)
        return reply

    def _nobody(self, future: asyncio.Future[HostMessage]) -> None:
        if future.cancelled() or future.exception() is not None or future.result().status:
            return
        reply = future.result()
        if reply.op == wire.GRANT:
            _close(reply.fd)
            self._forget(wire.END_ACCESS, len(reply.args), *reply.args)
        elif reply.op == wire.MAP:
            _close(reply.fd)
            self._forget(wire.UNMAP, reply.args[0])
        elif reply.op in (wire.EVTCHN_ALLOC, wire.EVTCHN_BIND):
            _close(reply.fd)
            self._forget(wire.EVTCHN_CLOSE, reply.args[0])
        else:
            _close(reply.fd)

    def _forget(self, op: int, *args: int) -> None:
        """A request whose reply nobody needs."""
        future: asyncio.Future[HostMessage] = self._loop.create_future()
        future.add_done_callback(lambda future: future.cancelled() or future.exception())
        if not self._closed:
            self._unsent.append((op, args, future))
            self._send()

    def _send(self) -> None:
        try:
            while self._unsent:
                op, args, future = self._unsent[0]
                sequence = self._connection.send(op, args)
                if sequence is None:
                    self._loop.add_writer(self._fd, self._writable)
                    return
                self._waiting[sequence] = future
                self._unsent.popleft()
        except PoreError as error:
            self._end(str(error))

    def _writable(self) -> None:
        self._loop.remove_writer(self._fd)
        self._send()

    def _readable(self) -> None:
        try:
            while not self._closed and (message := self._connection.receive()) is not None:
                if message.event:
                    self._event(message)
                    continue
                future = self._waiting.pop(message.sequence, None)
                if future is None or future.done():
                    _close(message.fd)
                else:
                    future.set_result(message)
        except PoreError as error:
            self._end(str(error))

    def _event(self, message: HostMessage) -> None:
        _close(message.fd)
        for listener in list(self._listeners):
            if message.op == wire.UNMAPPED & 0xFFF:
                listener.unmapped(message.args)
            elif message.op == wire.DOMAIN_GONE & 0xFFF and message.args:
                listener.domain_gone(message.args[0])

    # ── memory ──

    async def grant(self, peer: int, pages: int) -> Grant:
        reply = await self._ask(wire.GRANT, peer, pages)
        return self._hold(Grant(peer, reply.fd, reply.args))

    async def end_access(self, grant: Grant) -> bool:
        grant.close_fd()
        if grant.ended:
            return True
        try:
            await self._ask(wire.END_ACCESS, len(grant.refs), *grant.refs)
        except BackendUnavailable:
            pass
        except PoreError as error:
            if error.errno == errno.EBUSY:
                return False
            if error.errno != errno.ENOENT:
                raise
        self._drop(grant)
        return True

    async def map(self, peer: int, refs: Sequence[int]) -> Mapping:
        reply = await self._ask(wire.MAP, peer, len(refs), *refs)
        return self._hold(Mapping(peer, reply.fd, reply.args[0], reply.args[1:]))

    async def unmap(self, mapping: Mapping) -> None:
        await self._give_back(mapping, wire.UNMAP, mapping.number)

    # ── channels ──

    async def alloc_channel(self, peer: int) -> Channel:
        return self._channel(peer, await self._ask(wire.EVTCHN_ALLOC, peer))

    async def bind_channel(self, peer: int, port: int) -> Channel:
        return self._channel(peer, await self._ask(wire.EVTCHN_BIND, peer, port))

    def _channel(self, peer: int, reply: HostMessage) -> Channel:
        return self._hold(Channel(peer, reply.fd, reply.args[0]))

    async def close_channel(self, channel: Channel) -> None:
        await self._give_back(channel, wire.EVTCHN_CLOSE, channel.port)

    async def _give_back(self, thing: Mapping | Channel, op: int, number: int) -> None:
        given_back = thing.ended
        self._drop(thing)
        if given_back:
            return
        with contextlib.suppress(BackendUnavailable):
            try:
                await self._ask(op, number)
            except PoreError as error:
                if error.errno != errno.ENOENT:
                    raise

    # ── the rest ──

    async def store(self) -> XenStore:
        reply = await self._ask(wire.XENSTORE)
        return await XenStore.connect(socket.socket(fileno=reply.fd))

    async def domains(self) -> list[int]:
        return list((await self._ask(wire.DOMAINS)).args[1:])

    async def answers(self) -> bool:
        """A host that does not answer and is not at its end either is taken for one that lives."""
        try:
            async with asyncio.timeout(ANSWER_TIME):
                await self.domains()
        except TimeoutError:
            return True
        except PoreError:
            return False
        return True

    async def close(self) -> None:
        """The domain ends. May be called twice."""
        self._end("closed")

    def forked(self) -> None:
        super().forked()
        self._connection.close()

    def _down(self) -> BackendUnavailable:
        return BackendUnavailable([(self.platform, f"host_down: {self._why} ({self._where})")])

    def _let_go(self) -> None:
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._connection.close()
        waiting = [*self._waiting.values(), *(future for _, _, future in self._unsent)]
        self._waiting.clear()
        self._unsent.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(self._down())


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
