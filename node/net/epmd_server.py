"""An epmd inside a Python process: listening sockets around `node.wire.epmd_server`.

For hosts on which no other epmd runs. It binds loopback unless told otherwise, and ends with its process.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import secrets
import socket
from collections.abc import Iterable
from typing import Final, Self, cast

from ..errors import EpmdError, RemoteProtocolError
from ..wire.epmd_server import NameTable, ServerConnection
from .epmd_client import LOOPBACK, describe, epmd_port

__all__ = ["MAX_CONNECTIONS", "EpmdServer", "epmd_addresses", "listen_addresses"]

log = logging.getLogger("strawbridge.epmd")

MAX_CONNECTIONS: Final = 1500
"""Connections at a time: the largest table of names, and questions beside it. More are closed at once."""
ACCEPT_TURNS: Final = 4
"""Turns of the loop in which a connection that was just accepted becomes known to us, so that none is left open."""


def epmd_addresses() -> tuple[str, ...]:
    """ERL_EPMD_ADDRESS: the addresses, separated by commas, on which epmd listens beside loopback."""
    return tuple(part.strip() for part in os.environ.get("ERL_EPMD_ADDRESS", "").split(",") if part.strip())


def listen_addresses(more: Iterable[str]) -> tuple[str, ...]:
    """Where to bind: loopback and `more`, but nothing that a wildcard among them (0.0.0.0, ::) has already.

    EpmdError for what is no address; names are not looked up.
    """
    found: dict[str, ipaddress.IPv4Address | ipaddress.IPv6Address] = {}
    for text in (*LOOPBACK, *more):
        try:
            found[text] = ipaddress.ip_address(text)
        except ValueError:
            raise EpmdError(f"epmd can't listen on {text!r}: not an IP address") from None
    wild = {address.version for address in found.values() if address.is_unspecified}
    return tuple(text for text, address in found.items() if address.is_unspecified or address.version not in wild)


class EpmdServer:
    """The port mapper of this host while no other runs.

    KILL and STOP are refused; registering and dumping is for programs on this host. A name is free again when the
    connection that registered it closes. Limits: MAX_CONNECTIONS, and those of node.wire.epmd_server.
    """

    def __init__(self) -> None:
        self.table = NameTable(lambda: secrets.randbelow(2**32 - 1) + 1)
        self.port = 0
        self.addresses: tuple[str, ...] = ()
        self._servers: list[asyncio.Server] = []
        self._connections: set[_Connection] = set()

    async def start(self, addresses: str | Iterable[str] = (), port: int | None = None) -> int:
        """Listen on 127.0.0.1, on ::1 where the host has it, and on `addresses`; returns the port.

        addresses: one, or several (numbers, not names). port: by default ERL_EPMD_PORT or 4369; 0 for any free one.
        EpmdError when 127.0.0.1 or one of `addresses` can't be had, mostly because another epmd has it.
        """
        if self._servers:
            raise EpmdError("this epmd runs already")
        more = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        wanted = listen_addresses(more)
        self.port = epmd_port() if port is None else port
        address = ""
        try:
            for address in wanted:
                # A host without IPv6 is no error, nor one where something else holds ::1.
                optional = address == "::1" and address not in more
                with contextlib.suppress(OSError) if optional else contextlib.nullcontext():
                    await self._listen(address)
        except OSError as error:
            port = self.port
            await self.close()
            raise EpmdError(f"can't listen on {address}:{port}: {describe(error)}") from error
        return self.port

    async def close(self) -> None:
        """Stop listening and end every connection: all names are free, and their nodes look for another epmd.

        May be called twice.
        """
        for server in self._servers:
            server.close()
        self._servers.clear()
        self.addresses = ()
        for _ in range(ACCEPT_TURNS):
            for connection in list(self._connections):
                connection.abort()
            await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        if not self._servers:
            await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def _listen(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), address, self.port, backlog=128)
        self._servers.append(server)
        self.port = server.sockets[0].getsockname()[1]
        self.addresses = (*self.addresses, address)


class _Connection(asyncio.Protocol):
    """Moves bytes and time between one socket and its machine; owned by the server."""

    def __init__(self, server: EpmdServer) -> None:
        self._server = server
        self._machine: ServerConnection | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an instance of asyncio's class with other event loops (uvloop).
        transport = self._transport = cast(asyncio.Transport, transport)
        if len(self._server._connections) >= MAX_CONNECTIONS:
            log.warning("epmd: more than %d connections", MAX_CONNECTIONS)
            transport.abort()
            return
        self._server._connections.add(self)
        now = asyncio.get_running_loop().time()
        self._machine = ServerConnection(
            self._server.table,
            port=self._server.port,
            local=_is_local(transport),
            now=now,
            about=f", process {os.getpid()}",
        )
        self._set_timer()

    def data_received(self, data: bytes) -> None:
        if self._machine is None or self._transport is None:
            return
        try:
            self._machine.receive_data(data)
        except RemoteProtocolError as error:
            log.info("epmd: %s: %s", self._transport.get_extra_info("peername"), error)
        out = self._machine.data_to_send()
        if out:
            self._transport.write(out)
        if self._machine.state == "closing":
            self._machine.closed()
            self._transport.close()
        self._set_timer()

    def eof_received(self) -> bool:
        """A peer that shuts its side down while we answer still gets the answer: asyncio writes, then closes."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._machine is not None:
            self._machine.closed()

    def abort(self) -> None:
        """End it now; the name is free at once."""
        if self._machine is not None:
            self._machine.closed()
        if self._transport is not None:
            self._transport.abort()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = None if self._machine is None else self._machine.get_timer()
        if when is not None:
            self._timer = asyncio.get_running_loop().call_at(when, self._expired, when)

    def _expired(self, when: float) -> None:
        if self._machine is not None:
            self._machine.handle_timer(when)
            if self._machine.state == "closing":
                self.abort()


def _is_local(transport: asyncio.Transport) -> bool:
    """Does the peer run on this host: is its address loopback, or the one it came to?"""
    peer = transport.get_extra_info("peername")
    ours = transport.get_extra_info("sockname")
    sock = transport.get_extra_info("socket")
    if not peer or not ours or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    address = ipaddress.ip_address(peer[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback or peer[0] == ours[0]
