"""TCP under the distribution: a Transport over a raw non-blocking socket, connecting, listening.

The sockets are driven by the loop's add_reader/add_writer: asyncio's own transports copy what is written and hand out
what is read in fixed pieces.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Callable

__all__ = ["BACKLOG", "Listener", "TcpTransport", "connect"]

log = logging.getLogger("strawbridge.net")

#: Connections that the kernel holds for us before they are accepted (as OTP).
BACKLOG = 128
#: Connections accepted in one turn of the loop, so that others get theirs.
ACCEPTS_PER_TURN = 16
#: Seconds without accepting after the process ran out of file descriptors.
ACCEPT_PAUSE = 1.0


class TcpTransport:
    """One connected TCP socket; see transport.Transport."""

    header = 2

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        sock.setblocking(False)
        # Signals are small and answers wait for them: no Nagle. Keepalive finds dead hosts while reading is paused.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._sock = sock
        self._loop = loop
        self._fd = sock.fileno()
        self._reading = self._writing = False
        self.recv_into = sock.recv_into
        self.sendmsg = sock.sendmsg
        try:
            self.remote = format_address(sock.getpeername())
        except OSError:
            self.remote = "a closed connection"

    def waiting(self) -> bool:
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True
        return True

    def on_readable(self, callback: Callable[[], None] | None) -> None:
        if callback is not None:
            self._loop.add_reader(self._fd, callback)
        elif self._reading:
            self._loop.remove_reader(self._fd)
        self._reading = callback is not None

    def on_writable(self, callback: Callable[[], None] | None) -> None:
        if callback is not None:
            self._loop.add_writer(self._fd, callback)
        elif self._writing:
            self._loop.remove_writer(self._fd)
        self._writing = callback is not None

    def end_writing(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.on_readable(None)
        self.on_writable(None)
        self._sock.close()


async def connect(host: str, port: int, loop: asyncio.AbstractEventLoop) -> TcpTransport:
    """Connect to the first address of host that answers. OSError of the last one when none does."""
    last: OSError | None = None
    for family, address in await _addresses(host, port, loop):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
            if sock.getsockname() == sock.getpeername():
                # Linux can connect a port of the ephemeral range to itself; it would read its own bytes.
                raise ConnectionRefusedError("nobody listens there")
            return TcpTransport(sock, loop)
        except OSError as error:
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
    raise last or OSError(f"no address for {host}")


async def _addresses(host: str, port: int, loop: asyncio.AbstractEventLoop) -> list[tuple[int, tuple[object, ...]]]:
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]
    return [(socket.AF_INET6 if version == 6 else socket.AF_INET, (host, port))]


class Listener:
    """A listening socket. on_connection is called with each accepted transport."""

    def __init__(
        self,
        address: str,
        port: int,
        on_connection: Callable[[TcpTransport], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._sock = sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.listen(BACKLOG)
            self.port: int = sock.getsockname()[1]
        except BaseException:
            sock.close()
            raise
        self._loop = loop
        self._on_connection = on_connection
        self._timer: asyncio.TimerHandle | None = None
        loop.add_reader(sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("can't accept connections for %g s: %s", ACCEPT_PAUSE, error)
                self._loop.remove_reader(self._sock.fileno())
                self._timer = self._loop.call_later(ACCEPT_PAUSE, self._resume)
                return
            try:
                transport = TcpTransport(sock, self._loop)
            except OSError:  # it is gone already
                sock.close()
                continue
            self._on_connection(transport)

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        """Stop listening. May be called twice."""
        if self._sock.fileno() < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()


def format_address(address: object) -> str:
    """('127.0.0.1', 80) -> '127.0.0.1:80'."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(address)
