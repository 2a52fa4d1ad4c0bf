"""The store on sockets: a listening one for domain 0, others for domains, and socket pairs for the host.

No client can hold up another: each gets a few requests carried out a turn, is not read from while it does not take
its replies, and is cut off when the events that it does not read pass a limit. Which files may lie where is the
host's matter (`pores.host`); sockets are made with mode 0600.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import Final, cast

from ..errors import XenstoreError
from .commands import Service
from .tree import Tree

__all__ = ["StoreServer"]

REQUESTS_A_TURN: Final = 32
"""Requests of one client carried out before the others get their turn."""
UNREAD_REPLIES: Final = 65_536
"""Bytes not taken by a client beyond which nothing more is read from it."""
UNREAD_LIMIT: Final = 1_048_576
"""Bytes not taken by a client beyond which it is cut off: only events can pile up so high."""
CONNECTIONS: Final = 64
"""Connections of one domain other than 0; the next is closed at once."""
BACKLOG: Final = 64


class _Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: StoreServer, domid: int) -> None:
        self._server = server
        self.domid = domid
        self._loop = asyncio.get_running_loop()
        self._service: Service | None = None
        self._transport: asyncio.Transport | None = None
        self._turn: asyncio.Handle | None = None
        self._full = False
        self._reading = True
        self._eof = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=UNREAD_REPLIES)
        if not self._server._admit(self):
            self._transport.abort()
            return
        self._service = Service(self._server.tree, self.domid, self._soon)

    def data_received(self, data: bytes) -> None:
        if self._service is not None:
            self._service.receive_data(data)
            self._work()

    def eof_received(self) -> bool:
        """What it had asked for before is still answered."""
        self._eof = True
        self._soon()
        return True

    def pause_writing(self) -> None:
        self._full = True
        self._throttle()

    def resume_writing(self) -> None:
        self._full = False
        self._soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self._service is not None:
            self._service.close()
        self._server._gone(self)

    def close(self) -> None:
        """Ends the connection; what waits unsent is dropped."""
        if self._service is not None:
            self._service.close()
        if self._transport is not None:
            self._transport.abort()

    def _soon(self) -> None:
        """Another turn for this client, after the others."""
        if self._turn is None and self._transport is not None:
            self._turn = self._loop.call_soon(self._work)

    def _work(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        service, transport = self._service, self._transport
        if service is None or transport is None:
            return
        more = False
        if not self._full:
            try:
                more = service.work(REQUESTS_A_TURN) == REQUESTS_A_TURN
            except XenstoreError:
                self.close()  # it does not speak the protocol
                return
            data = service.data_to_send()
            if data:
                transport.write(data)
        if service.session.closed:
            self.close()  # its domain was released
        elif service.unsent + transport.get_write_buffer_size() > UNREAD_LIMIT:
            self._server.slow_clients += 1
            self.close()
        elif more:
            self._throttle()
            self._soon()
        elif self._eof and not self._full:
            transport.close()
        else:
            self._throttle()

    def _throttle(self) -> None:
        """Reads on only while the client takes its replies and what it has asked is nearly done."""
        service, transport = self._service, self._transport
        if transport is None or service is None or self._eof or transport.is_closing():
            return
        wanted = not self._full and service.pending <= UNREAD_REPLIES
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                transport.resume_reading()
            else:
                transport.pause_reading()


class StoreServer:
    """A store and those who speak with it. tree: the store itself, a new one by default."""

    def __init__(self, tree: Tree | None = None) -> None:
        self.tree = tree if tree is not None else Tree()
        self.slow_clients = 0
        """How many clients were cut off because they did not read."""
        self._connections: dict[int, set[_Connection]] = {}
        self._listening: dict[int, list[tuple[asyncio.Server, Path]]] = {}
        self._starting: set[asyncio.Task[object]] = set()
        self._empty = asyncio.Event()
        self._closed = False

    async def start(self, path: str | os.PathLike[str] | None = None) -> None:
        """Listens at `path` for domain 0; without a path only `connect` and `listen` make connections."""
        if path is not None:
            await self.listen(path, 0)

    async def listen(self, path: str | os.PathLike[str], domid: int) -> None:
        """Listens at a socket file, mode 0600, whose clients are this domain; it goes with the domain.

        A file that nobody listens at any more is replaced. OSError (EADDRINUSE) when somebody does; XenstoreError
        ENOENT when there is no such domain.
        """
        if not self.tree.is_introduced(domid):
            raise XenstoreError("ENOENT", detail=f"domain {domid}")
        file = Path(path)
        sock = _listening_socket(file)
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_unix_server(lambda: _Connection(self, domid), sock=sock, backlog=BACKLOG)
        except BaseException:
            sock.close()
            _unlink(file)
            raise
        self._listening.setdefault(domid, []).append((server, file))

    def connect(self, domid: int) -> socket.socket:
        """The client's end of a new connection as this domain: a blocking stream socket, the caller's to close."""
        if self._closed or not self.tree.is_introduced(domid):
            raise XenstoreError("ENOENT", detail=f"domain {domid}")
        loop = asyncio.get_running_loop()
        theirs, ours = socket.socketpair()
        ours.setblocking(False)
        # What the client sends before the task runs waits in the socket.
        task: asyncio.Task[object] = loop.create_task(
            loop.connect_accepted_socket(lambda: _Connection(self, domid), ours)
        )
        self._starting.add(task)

        def started(task: asyncio.Task[object]) -> None:
            self._starting.discard(task)
            if task.cancelled() or task.exception() is not None:
                ours.close()

        task.add_done_callback(started)
        return theirs

    def introduce(self, domid: int, name: str | None = None) -> None:
        """A new domain, with its tree; see `Tree.introduce`."""
        self.tree.introduce(domid, name)

    def release(self, domid: int) -> None:
        """The end of a domain: its nodes, its sockets and its connections go. ENOENT when there is none."""
        try:
            self.tree.release(domid)
        finally:
            self._shut(domid)

    def _shut(self, domid: int) -> None:
        for server, file in self._listening.pop(domid, ()):
            server.close()
            _unlink(file)
        for connection in list(self._connections.get(domid, ())):
            connection.close()

    async def close(self) -> None:
        """Ends everything. May be called twice."""
        self._closed = True
        for task in self._starting:
            task.cancel()
        if self._starting:
            await asyncio.gather(*self._starting, return_exceptions=True)
        for domid in [*self._listening, *self._connections]:
            self._shut(domid)
        if self._connections:  # the transports tell their end in the next turn
            self._empty.clear()
            await self._empty.wait()

    @property
    def connections(self) -> int:
        """How many there are, of all domains."""
        return sum(map(len, self._connections.values()))

    def _admit(self, connection: _Connection) -> bool:
        here = self._connections.get(connection.domid, set())
        if self._closed or not self.tree.is_introduced(connection.domid):
            return False
        if connection.domid and len(here) >= CONNECTIONS:
            return False
        self._connections.setdefault(connection.domid, here).add(connection)
        return True

    def _gone(self, connection: _Connection) -> None:
        here = self._connections.get(connection.domid)
        if here is not None:
            here.discard(connection)
            if not here:
                del self._connections[connection.domid]
            if not self._connections:
                self._empty.set()


def _listening_socket(file: Path) -> socket.socket:
    """A bound socket that nobody else can open, not even in the moment between bind and chmod."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        os.fchmod(sock.fileno(), 0o600)  # on Linux the file gets the mode of the socket
        try:
            sock.bind(str(file))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or _answers(file):
                raise
            file.unlink()
            sock.bind(str(file))
    except BaseException:
        sock.close()
        raise
    return sock


def _unlink(file: Path) -> None:
    file.unlink(missing_ok=True)


def _answers(file: Path) -> bool:
    """Whether somebody listens at a socket file. True for anything that is not a dead socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(BlockingIOError):
        probe.setblocking(False)
        try:
            probe.connect(str(file))
        except ConnectionRefusedError:
            return not file.is_socket()
        except FileNotFoundError:
            return False
    return True
