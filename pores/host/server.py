"""The host service's asyncio edge: its control socket, the domains behind it, the store beside it.

A domain is a control connection: when it closes, the domain is dead and everything that it had is taken back. Rights
between processes of one uid are kept against mistakes only (they could trace each other anyway), those between users as
a hypervisor keeps them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
from collections import deque
from pathlib import Path

from ..errors import BackendUnavailable
from ..forked import give_up_in_child, replace
from ..xenstore.server import StoreServer
from . import limits, wire
from .allow import AllowList
from .domains import Domain, Hypervisor
from .rundir import RunDir, peer_of

__all__ = ["Host"]

log = logging.getLogger("strawbridge.host")

#: Requests of one connection that one readiness event answers before others get their turn.
_REQUESTS_PER_EVENT = 32
#: Seconds without accepting when there are no descriptors left: the one who waits would be announced again and again.
_ACCEPT_PAUSE = 1.0
#: Seconds between two log lines about connections that are refused.
_LOG_EVERY = 3.0


class Host:
    """One host service.

    rundir: its folder. allow: who may be which domain; the folder and the control socket are open to other users then.
    Without it only this user and root come in, and may be any domain.
    """

    def __init__(self, rundir: Path | str | None = None, *, allow: AllowList | None = None) -> None:
        self.rundir = RunDir(rundir)
        self.store = StoreServer()
        self._shared = allow is not None
        self._allow = allow or AllowList({})
        self._hypervisor = Hypervisor(self._event)
        self._clients: set[_Connection] = set()
        self._connections: dict[int, _Connection] = {}  # those that are domains
        self._refused = 0
        self._told_refused = -_LOG_EVERY
        self._listener: socket.socket | None = None
        self._lock: int | None = None
        self._closing = False
        self._empty = asyncio.Event()
        self._empty.set()
        give_up_in_child(self)

    @property
    def domids(self) -> list[int]:
        """The live domains."""
        return sorted(self._hypervisor.domains)

    async def start(self) -> None:
        """Take the folder's lock and listen. BackendUnavailable when another host has it."""
        self.rundir.make()
        self._lock = os.open(self.rundir.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            self._lock = None
            raise BackendUnavailable([("local", f"a host service runs in {self.rundir.path} already")]) from None
        self.rundir.share(self._shared)
        self._hypervisor = Hypervisor(self._event, self.rundir.last_domid(), self._allow.reserved)
        self.rundir.store.parent.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.rundir.store.unlink()
        await self.store.start(str(self.rundir.store))
        with contextlib.suppress(FileNotFoundError):
            self.rundir.socket.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        listener.bind(str(self.rundir.socket))
        os.chmod(self.rundir.socket, 0o666 if self._shared else 0o600)
        listener.listen(64)
        self._listener = listener
        self._listen()

    async def close(self) -> None:
        """End all domains and give the folder back. May be called twice."""
        loop = asyncio.get_running_loop()
        if self._listener is not None:
            loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
            with contextlib.suppress(FileNotFoundError):
                self.rundir.socket.unlink()
        # All domains lose their host at once: none is told that another one is gone.
        self._closing = True
        domids = self.domids
        for connection in list(self._clients):
            connection.close()
        self._hypervisor.close()
        await self.store.close()
        for domid in domids:
            self._remove_folder(domid)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def forked(self) -> None:
        """We are a child: the host is the parent's, and ends with it."""
        replace(*(client.fileno() for client in self._clients))
        if self._listener is not None:
            replace(self._listener.fileno())
        if self._lock is not None:
            replace(self._lock)

    async def wait_idle(self, seconds: float) -> None:
        """Return when there has been no domain for that long."""
        while True:
            await self._empty.wait()
            await asyncio.sleep(seconds)
            if not self._clients:
                return

    def _listen(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                client, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                log.warning("can't accept a domain: %s", error)
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener)
                loop.call_later(_ACCEPT_PAUSE, self._listen)
                return
            self._admit(client, peer_of(client).uid)

    def _admit(self, client: socket.socket, uid: int) -> None:
        if self.welcome(uid):
            most, same = limits.CONNECTIONS_PER_UID, sum(one.uid == uid for one in self._clients)
        else:
            most, same = limits.STRANGERS, sum(not self.welcome(one.uid) for one in self._clients)
        if len(self._clients) < limits.MAX_CONNECTIONS and same < most:
            client.setblocking(False)
            self._clients.add(_Connection(self, client, uid))
            return
        client.close()
        self._refused += 1
        now = asyncio.get_running_loop().time()
        if now - self._told_refused >= _LOG_EVERY:
            self._told_refused = now
            text = "no more connections for uid %d: %d of its kind, %d in all (%d refused so far)"
            log.warning(text, uid, same, len(self._clients), self._refused)

    def _event(self, domid: int, number: int, args: tuple[int, ...]) -> None:
        connection = self._connections.get(domid)
        if connection is not None:
            connection.send(wire.event(number, args))

    # What a connection asks.

    def welcome(self, uid: int) -> bool:
        """Whether a user may be any domain at all."""
        domids = self._allow.domids(uid)
        return domids is None or bool(domids)

    async def hello(self, connection: _Connection, wanted: int) -> Domain:
        """Makes the connection a domain, the wanted one or the next (0). Refused: EBUSY, EPERM, EINVAL, ENOSPC."""
        uid = connection.uid
        domain = self._hypervisor.add(wanted, uid, self._allow.domids(uid))
        self.rundir.remember_domid(self._hypervisor.last_domid)
        self._connections[domain.domid] = connection
        self._empty.clear()
        try:
            self.store.introduce(domain.domid)
            path = self.rundir.domain_store(domain.domid)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            await self.store.listen(str(path), domain.domid)
        except OSError as error:
            log.error("no store for domain %d: %s", domain.domid, error)
            self.gone(domain)
            raise wire.Refused(error.errno or errno.EIO) from error
        log.info("domain %d (uid %d)", domain.domid, uid)
        return domain

    def left(self, connection: _Connection, domain: Domain | None) -> None:
        """A connection is closed."""
        self._clients.discard(connection)
        if domain is not None:
            self.gone(domain)

    def gone(self, domain: Domain) -> None:
        """The domain's connection has ended: all of it goes, its peers are told."""
        if self._connections.pop(domain.domid, None) is not None and not self._closing:
            log.info("domain %d is gone", domain.domid)
            self._hypervisor.remove(domain)
            self.store.release(domain.domid)
            self._remove_folder(domain.domid)
            if not self._connections:
                self._empty.set()

    def _remove_folder(self, domid: int) -> None:
        path = self.rundir.domain_store(domid)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()

    def answer(
        self, domain: Domain, op: int, args: tuple[int, ...]
    ) -> tuple[tuple[int, ...], int | socket.socket | None]:
        """The results of one request and what to hand over with them: a socket is closed afterwards, an int kept."""
        hypervisor = self._hypervisor
        match op, args:
            case wire.GRANT, (peer, pages):
                return hypervisor.grant(domain, peer, pages)
            case wire.END_ACCESS, (count, *refs) if count == len(refs):
                hypervisor.end_access(domain, tuple(refs))
                return (), None
            case wire.MAP, (granter, count, *refs) if count == len(refs):
                number, pages_of, fd = hypervisor.map(domain, granter, tuple(refs))
                return (number, *pages_of), fd
            case wire.UNMAP, (number,):
                hypervisor.unmap(domain, number)
                return (), None
            case wire.EVTCHN_ALLOC, (remote,):
                port, end = hypervisor.alloc_channel(domain, remote)
                return (port,), end
            case wire.EVTCHN_BIND, (remote, remote_port):
                port, end = hypervisor.bind_channel(domain, remote, remote_port)
                return (port,), end
            case wire.EVTCHN_CLOSE, (port,):
                hypervisor.close_channel(domain, port)
                return (), None
            case wire.XENSTORE, ():
                return (), self.store.connect(domain.domid)
            case wire.DOMAINS, ():
                domids = self.domids[: wire.MAX_ARGS - 1]
                return (len(domids), *domids), None
        raise wire.Refused(errno.EINVAL if 1 <= op <= wire.DOMAINS else errno.ENOSYS)


class _Connection:
    """One control connection."""

    def __init__(self, host: Host, client: socket.socket, uid: int) -> None:
        self._host = host
        self._socket = client
        self.uid = uid
        self._loop = asyncio.get_running_loop()
        self._domain: Domain | None = None
        self._greeting: asyncio.Task[None] | None = None
        self._backlog: deque[tuple[bytes, int | socket.socket | None]] = deque()
        self._closed = False
        self._loop.add_reader(client, self._readable)

    def _readable(self) -> None:
        for _ in range(_REQUESTS_PER_EVENT):
            try:
                packet = self._socket.recv(wire.MAX_PACKET + 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                packet = b""
            if not packet:
                self.close()
                return
            self._request(packet)
            if self._closed or self._greeting is not None:
                return

    def _request(self, packet: bytes) -> None:
        op = seq = 0
        try:
            op, seq, args = wire.parse_request(packet)
            if self._domain is None:
                if not self._host.welcome(self.uid):
                    raise wire.Refused(errno.EPERM)
                if op == wire.DOMAINS:  # the command line asks without being a domain
                    domids = self._host.domids[: wire.MAX_ARGS - 1]
                    self.send(wire.reply(op, seq, (len(domids), *domids)))
                    return
                if op != wire.HELLO or len(args) != 2 or args[0] != wire.VERSION:
                    raise wire.Refused(errno.EPROTO)
                self._loop.remove_reader(self._socket)
                self._greeting = self._loop.create_task(self._hello(seq, args[1]))
                return
            results, handed = self._host.answer(self._domain, op, args)
            self.send(wire.reply(op, seq, results), handed)
        except wire.Refused as refused:
            self.send(wire.reply(op & 0x3FFF, seq, code=refused.code))
            if self._domain is None:
                self.close()
        except OSError as error:  # out of descriptors or memory: this request's problem, not the host's
            log.warning("request %d of domain %s: %s", op, self._domain and self._domain.domid, error)
            self.send(wire.reply(op, seq, code=error.errno or errno.EIO))

    async def _hello(self, seq: int, wanted: int) -> None:
        code = 0
        try:
            self._domain = await self._host.hello(self, wanted)
        except wire.Refused as refused:
            code = refused.code
        self._greeting = None
        if self._closed:
            self._host.left(self, self._domain)
        elif self._domain is None:
            self.send(wire.reply(wire.HELLO, seq, code=code))
            self.close()
        else:
            self.send(wire.reply(wire.HELLO, seq, (self._domain.domid,)))
            self._loop.add_reader(self._socket, self._readable)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, packet: bytes, handed: int | socket.socket | None = None) -> None:
        """Send a packet, with a descriptor; later when the domain does not read now."""
        if self._closed:
            _close(handed)
            return
        if isinstance(handed, int):
            handed = os.dup(handed)  # the grant may end before the packet leaves
        self._backlog.append((packet, handed))
        if len(self._backlog) > limits.MAX_BACKLOG:
            log.warning("domain %s does not read: cut off", self._domain and self._domain.domid)
            self.close()
        elif len(self._backlog) == 1:
            self._write()

    def _write(self) -> None:
        while self._backlog:
            packet, handed = self._backlog[0]
            number = handed.fileno() if isinstance(handed, socket.socket) else handed
            rights = [] if number is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", number))]
            try:
                self._socket.sendmsg([packet], rights, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._socket, self._write)
                return
            except OSError:
                self.close()
                return
            self._backlog.popleft()
            _close(handed)
        self._loop.remove_writer(self._socket)

    def close(self) -> None:
        """The domain is gone. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        while self._backlog:
            _close(self._backlog.popleft()[1])
        if self._greeting is None:
            self._host.left(self, self._domain)


def _close(handed: int | socket.socket | None) -> None:
    if isinstance(handed, socket.socket):
        handed.close()
    elif handed is not None:
        os.close(handed)
