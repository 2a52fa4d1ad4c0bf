"""Asking an epmd, and staying registered with one.

Sockets and time around `node.wire.epmd`. Which epmd runs, and starting one, is `epmd.py`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from ..errors import EpmdError, ProtocolError, RemoteProtocolError
from ..wire import epmd as wire

__all__ = ["LOOPBACK", "RECONNECT_TIME", "EpmdClient", "EpmdUnreachable", "NameTaken", "Registration", "epmd_port"]

log = logging.getLogger("strawbridge.epmd")

LOOPBACK: Final = ("127.0.0.1", "::1")
"""Where an epmd is looked for on this host: real epmd always listens on both, whatever else it is told."""
RECONNECT_TIME: Final = 2.0
"""Seconds between attempts to register again, as in OTP (RECONNECT_TIME in erl_epmd)."""
JITTER: Final = 0.25
"""Attempts are spread by this part of RECONNECT_TIME to both sides, so that many nodes don't come at once."""
READ_SIZE: Final = 1 << 16


class EpmdUnreachable(EpmdError):
    """Nothing answers where an epmd should be, or not as an epmd does, or not in time."""


class NameTaken(EpmdError):
    """epmd holds this name for another node."""


def epmd_port(environ: Mapping[str, str] | None = None) -> int:
    """ERL_EPMD_PORT, or 4369. EpmdError when the variable is no port."""
    text = (os.environ if environ is None else environ).get("ERL_EPMD_PORT", "")
    if not text:
        return wire.DEFAULT_PORT
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 0xFFFF):
        raise EpmdError(f"ERL_EPMD_PORT is {text!r}, which is no port")
    return int(text)


def describe(error: OSError) -> str:
    """Why, in the system's words: asyncio puts its own and the address around them, which our texts have already."""
    return error.strerror or str(error) if error.errno is None or error.errno < 0 else os.strerror(error.errno)


class EpmdClient:
    """Asks the epmd of this host, or of another one.

    host: of the epmd to register with; by default 127.0.0.1 and, if nothing listens there, ::1 (real epmd listens on
    both, whatever ERL_EPMD_ADDRESS adds). port: of every epmd; by default ERL_EPMD_PORT or 4369.
    timeout: seconds for one question, the connection included. Errors: EpmdError and its two subclasses here.
    """

    def __init__(self, host: str | None = None, port: int | None = None, *, timeout: float = 5.0) -> None:
        self.hosts: tuple[str, ...] = LOOPBACK if host is None else (host,)
        self.port = epmd_port() if port is None else port
        self.timeout = timeout
        self.revive: Callable[[], Awaitable[None]] | None = None
        """Called before a registration is tried again; ensure_epmd() puts a new epmd in the place of a lost one."""

    async def lookup(self, name: str, host: str | None = None) -> wire.PortInfo | None:
        """Where the node `name` (without @host) listens on host; None when epmd there does not know it."""
        match await self._ask(wire.PortPlease(name), host):
            case wire.Found(info):
                return info
            case other:
                raise EpmdUnreachable(f"epmd answered a look-up with {other}")

    async def names(self, host: str | None = None) -> list[tuple[str, int]]:
        """(name, port) of all nodes that are registered on host."""
        match await self._ask(wire.Names(), host):
            case wire.Named(names=names):
                return list(names)
            case other:
                raise EpmdUnreachable(f"epmd answered a request for the names with {other}")

    async def dump(self, host: str | None = None) -> bytes:
        """The text which `epmd` calls a dump. A real epmd gives it to its own host only."""
        match await self._ask(wire.Dump(), host):
            case wire.Dumped(text=text):
                return text
            case other:
                raise EpmdUnreachable(f"epmd answered a request for a dump with {other}")

    async def is_embedded(self) -> bool:
        """Is the epmd of this host one that a strawbridge node embeds (and that ends with it)?"""
        return (await self.dump()).startswith(wire.EMBEDDED_MARK)

    async def register(
        self,
        name: str,
        port: int,
        *,
        hidden: bool = True,
        protocol: int = 0,
        highest: int = 6,
        lowest: int = 6,
        extra: bytes = b"",
    ) -> Registration:
        """Register name (without @host) as listening on port, and stay registered until the Registration is closed.

        hidden: NodeType 72, not 77. highest, lowest: versions of the distribution protocol; OTP says 6 and 5, we speak
        6 only. Raises NameTaken, or EpmdUnreachable; LocalProtocolError for a name or port that can't be sent.
        """
        node_type = wire.HIDDEN if hidden else wire.VISIBLE
        info = wire.PortInfo(name, port, node_type, protocol, highest, lowest, extra)
        registration = Registration(self, info)
        await registration._register()
        registration._start()
        return registration

    async def _ask(self, request: wire.Request, host: str | None) -> wire.ClientEvent:
        *_, writer, event = await self._open(request, (host,) if host else self.hosts)
        await _drop(writer)
        return event

    async def _open(
        self, request: wire.Request, hosts: tuple[str, ...]
    ) -> tuple[wire.ClientConnection, asyncio.StreamReader, asyncio.StreamWriter, wire.ClientEvent]:
        """Send one request; give back the connection with the first event. EpmdUnreachable in every other case."""
        machine = wire.ClientConnection(request)
        where = f"epmd at {hosts[0]}:{self.port}"
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(self.timeout):
                reader, writer = await self._connect(hosts)
                writer.write(machine.data_to_send())
                return machine, reader, writer, await next_event(machine, reader)
        except BaseException as error:
            await _drop(writer)
            match error:
                case TimeoutError():
                    raise EpmdUnreachable(f"{where} did not answer within {self.timeout:g} s") from None
                case OSError():
                    raise EpmdUnreachable(f"no {where}: {describe(error)}") from error
                case RemoteProtocolError():
                    raise EpmdUnreachable(f"{where} is none, or of another kind: {error}") from error
            raise

    async def _connect(self, hosts: tuple[str, ...]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The first of hosts that takes a connection; the error is the first one, which is about the usual address."""
        first: OSError | None = None
        for host in hosts:
            try:
                return await asyncio.open_connection(host, self.port)
            except OSError as error:
                first = first or error
        raise first or OSError("no address to try")


class Registration:
    """A name that is held at epmd, for as long as this object is open. Made by EpmdClient.register.

    When epmd goes away it is tried again every RECONNECT_TIME seconds until it is back, or `close` is called.
    creation: what epmd handed out last (nodes choose their own).
    """

    def __init__(self, client: EpmdClient, info: wire.PortInfo) -> None:
        self.info = info
        self.creation = 0
        self._client = client
        self._machine: wire.ClientConnection | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._registered = asyncio.Event()

    @property
    def registered(self) -> bool:
        """Does an epmd hold the name now, as far as we know?"""
        return self._registered.is_set()

    async def wait_registered(self) -> None:
        """Return when an epmd holds the name: at once, or after it came back."""
        await self._registered.wait()

    async def close(self) -> None:
        """Give the name back. May be called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._lose()

    async def _register(self) -> None:
        """One attempt. EpmdError when it fails."""
        machine, reader, writer, event = await self._client._open(wire.Alive(self.info), self._client.hosts)
        if not isinstance(event, wire.Accepted):
            await _drop(writer)
            raise NameTaken(f"the name {self.info.name} is taken at epmd, by another node on this host")
        self._machine, self._reader, self._writer = machine, reader, writer
        self.creation = event.creation
        self._registered.set()

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._hold(), name=f"epmd {self.info.name}")

    async def _hold(self) -> None:
        while True:
            await self._until_lost()
            await self._lose()
            log.warning("%s: epmd on port %d went away", self.info.name, self._client.port)
            await self._until_registered()
            log.info("%s: registered again with epmd on port %d", self.info.name, self._client.port)

    async def _until_lost(self) -> None:
        assert self._machine is not None
        assert self._reader is not None
        with contextlib.suppress(OSError, ProtocolError):
            await next_event(self._machine, self._reader)

    async def _until_registered(self) -> None:
        told = ""
        while True:
            if self._client.revive is not None:
                await self._client.revive()
            try:
                return await self._register()
            except EpmdError as error:
                if str(error) != told:  # once for each way in which it fails
                    told = str(error)
                    log.warning("%s: not registered: %s", self.info.name, error)
            await asyncio.sleep(RECONNECT_TIME * random.uniform(1 - JITTER, 1 + JITTER))

    async def _lose(self) -> None:
        self._registered.clear()
        writer, self._machine, self._reader, self._writer = self._writer, None, None, None
        await _drop(writer)


async def next_event(machine: wire.ClientConnection, reader: asyncio.StreamReader) -> wire.ClientEvent:
    """Read until the machine has an event. RemoteProtocolError, OSError."""
    while (event := machine.next_event()) is None:
        machine.receive_data(await reader.read(READ_SIZE))
    return event


async def _drop(writer: asyncio.StreamWriter | None) -> None:
    """Close it now; there is nothing to wait for, but the loop's next turn, in which it lets the socket go."""
    if writer is not None:
        writer.transport.abort()
        await asyncio.sleep(0)
