"""Which epmd a node uses: the one that runs, or one of our own where none does.

Its parts are in `epmd_client.py` (asking, registering) and `epmd_server.py` (the embedded server); their public names
are given on here. When the embedded epmd of another Python node ends with that node, one of those left takes the
port after a random delay, and all register again. A real epmd that went away is only waited for: whoever runs it
will want its port back.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import random
import socket
from collections.abc import Callable, Iterable
from typing import Final, Literal

from ..errors import EpmdError
from ..wire.epmd import EMBEDDED_MARK, HIDDEN, VISIBLE, PortInfo
from .epmd_client import LOOPBACK, RECONNECT_TIME, EpmdClient, EpmdUnreachable, NameTaken, Registration, epmd_port
from .epmd_server import EpmdServer, epmd_addresses

__all__ = [
    "HIDDEN",
    "LOOPBACK",
    "RECONNECT_TIME",
    "VISIBLE",
    "EpmdClient",
    "EpmdKeeper",
    "EpmdServer",
    "EpmdUnreachable",
    "NameTaken",
    "PortInfo",
    "Registration",
    "ensure_epmd",
    "epmd_addresses",
    "epmd_port",
    "loopback_addresses",
    "probe",
]

log = logging.getLogger("strawbridge.epmd")

TAKE_OVER_DELAY: Final = (0.05, 1.5)
"""Seconds, from and to, before a node takes the port of an epmd that ended: below RECONNECT_TIME, so that BEAMs
find it at their first attempt, and spread, so that rarely two nodes try at once."""
ANSWER_TRIES: Final = 10
"""How often the one who lost the race for the port asks the winner, which may not listen yet,"""
ANSWER_PAUSE: Final = 0.1
"""and the seconds between."""

Kind = Literal["none", "embedded", "other"]


def take_over_delay() -> float:
    """Seconds: a random one within TAKE_OVER_DELAY."""
    return random.uniform(*TAKE_OVER_DELAY)


async def probe(client: EpmdClient) -> Kind:
    """What answers where client looks for the epmd of this host: nothing, one that a Python node embeds, or another."""
    with contextlib.suppress(EpmdError):
        return "embedded" if (await client.dump()).startswith(EMBEDDED_MARK) else "other"
    with contextlib.suppress(EpmdError):  # an epmd of another make need not know dumps
        await client.names()
        return "other"
    return "none"


async def loopback_addresses(host: str) -> tuple[str, ...] | None:
    """The addresses of host when all of them are loopback; None for every other host, also an unknown one."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    addresses = tuple(dict.fromkeys(str(address[0]) for *_, address in found))
    return addresses if addresses and all(ipaddress.ip_address(a).is_loopback for a in addresses) else None


class EpmdKeeper:
    """Sees to it that an epmd runs while a node does. Made by ensure_epmd.

    server: the embedded epmd, when it is ours. Close the node's Registration first, then this.
    """

    def __init__(
        self, client: EpmdClient, addresses: tuple[str, ...], embed: bool, delay: Callable[[], float] = take_over_delay
    ) -> None:
        self.server: EpmdServer | None = None
        self._client = client
        self._addresses = addresses
        self._embed = embed
        self._delay = delay
        self._kind: Kind = "none"
        self._closed = False
        self._lock = asyncio.Lock()  # a client may hold several registrations

    async def close(self) -> None:
        """End our epmd, if it is ours. May be called twice."""
        self._closed = True
        self._client.revive = None
        server, self.server = self.server, None
        if server is not None:
            await server.close()

    async def start(self, why_not: str) -> None:
        """Find an epmd, or embed one. EpmdUnreachable with `why_not` when neither is possible."""
        self._kind = await probe(self._client)
        if self._kind == "none":
            if not self._embed:
                raise EpmdUnreachable(f"no epmd answers on port {self._client.port}; {why_not}")
            await self._start_server()
        self._client.revive = self._revive

    async def _start_server(self) -> None:
        """Take the port; when another has it by now, use that one. EpmdError when that is no epmd."""
        server = EpmdServer()
        try:
            await server.start(self._addresses, self._client.port)
        except EpmdError:
            for _ in range(ANSWER_TRIES):
                if (kind := await probe(self._client)) != "none":
                    self._kind = kind
                    return
                await asyncio.sleep(ANSWER_PAUSE)
            raise
        if self._closed:
            await server.close()
            return
        self.server, self._kind = server, "embedded"
        log.info("no epmd on port %d: started one in this process", server.port)

    async def _revive(self) -> None:
        """Before each attempt of a registration to come back: is there an epmd, and if not, may we be it?"""
        async with self._lock:
            if self._closed or self.server is not None:
                return
            kind = await probe(self._client)
            if kind == "none" and self._kind == "embedded" and self._embed:
                await asyncio.sleep(self._delay())
                kind = await probe(self._client)
                if kind == "none" and not self._closed:
                    with contextlib.suppress(EpmdError):  # next time again
                        await self._start_server()
                    return
            if kind != "none":
                self._kind = kind


async def ensure_epmd(
    client: EpmdClient,
    host: str = "127.0.0.1",
    *,
    embed: bool = True,
    addresses: Iterable[str] = (),
    delay: Callable[[], float] = take_over_delay,
) -> EpmdKeeper:
    """Use the epmd of this host, or start one in this process, for a node whose name ends in @host.

    embed: False to start none. addresses: where ours listens beside loopback; by default ERL_EPMD_ADDRESS.
    delay: seconds before the port of an embedded epmd that ended is taken.
    An epmd of ours is for nodes of this host alone: for a host that is not on loopback none is started, unless
    addresses say where it should listen (a warning is logged). EpmdUnreachable when there is none then.
    The keeper goes on watching by way of client.revive: register with the same client.
    """
    listen = tuple(addresses) or epmd_addresses()
    why_not = "start one with `epmd -daemon`, or let the node embed it"
    if not all(at in LOOPBACK for at in client.hosts):
        embed, why_not = False, f"start one on {client.hosts[0]} with `epmd -daemon`"
    local = await loopback_addresses(host) if embed else None
    if local is not None:
        listen = (*local, *listen)
    elif embed and not listen:
        embed = False
        why_not = (
            f"{host} is not on loopback, where a node may embed one: start the real one with `epmd -daemon`, "
            "or set ERL_EPMD_ADDRESS"
        )
    elif embed:
        log.warning("%s is not on loopback: the real epmd (`epmd -daemon`) serves it better than one in a node", host)
    keeper = EpmdKeeper(client, listen, embed, delay)
    await keeper.start(why_not)
    return keeper
