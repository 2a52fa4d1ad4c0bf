"""PeerTables with each other over loopback, and what their handlers heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from node.net.options import LocalNode, NetOptions
from node.net.peer import Peer
from node.net.table import PeerTable
from node.terms import Atom, Pid
from node.wire.control import REG_SEND

HOST = "127.0.0.1"


class Recorder:
    """A PeerHandler that writes down what it hears."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.payloads: list[object] = []
        self.on_signals: Callable[[Peer, list[Any]], None] | None = None
        self._changed = asyncio.Event()

    def _note(self, *what: Any) -> None:
        self.seen.append(what)
        self._changed.set()

    def peer_up(self, peer: Peer) -> None:
        self._note("up", str(peer.node))

    def peer_signals(self, peer: Peer, batch: list[tuple[Any, object]]) -> None:
        self.payloads += [payload for _, payload in batch]
        self._changed.set()
        if self.on_signals is not None:
            self.on_signals(peer, batch)

    def peer_down(self, peer: Peer, reason: str, undelivered: int) -> None:
        self._note("down", str(peer.node), reason, undelivered)

    def peer_drained(self, peer: Peer) -> None:
        self._note("drained", str(peer.node))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def kinds(self) -> list[str]:
        return [what[0] for what in self.seen]


class Side:
    """A node with its handler."""

    def __init__(self, name: str, ports: dict[str, int], options: dict[str, Any], local: dict[str, Any]) -> None:
        self.name = name
        self.ports = ports
        self.handler = Recorder()
        self.local = LocalNode(name, **{"creation": 7, "cookie": lambda peer: "k", **local})
        self.table = PeerTable(
            self.local, self.handler, resolve=self.resolve, options=NetOptions(**{"setup_time": 5.0, **options})
        )

    async def resolve(self, node: str) -> tuple[str, int] | None:
        return (HOST, self.ports[node]) if node in self.ports else None

    async def listen(self) -> None:
        self.ports[self.name] = await self.table.listen(HOST)

    def peer(self, other: Side | str) -> Peer:
        return self.table.get(Atom(other if isinstance(other, str) else other.name))

    def send(self, other: Side | str, payload: object) -> None:
        pid = Pid(Atom(self.name), 1, 0, 7)
        self.peer(other).signal((REG_SEND, pid, Atom(""), Atom("there")), payload)


@asynccontextmanager
async def nodes(*names: str, local: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[list[Side]]:
    ports: dict[str, int] = {}
    sides = [Side(name, ports, options, local or {}) for name in names]
    for side in sides:
        if "@" in side.name:
            await side.listen()
    try:
        yield sides
    finally:
        for side in sides:
            await side.table.close()


def run(test: Callable[[], Any]) -> Callable[[], None]:
    def wrapped() -> None:
        asyncio.run(asyncio.wait_for(test(), 60))

    wrapped.__name__ = test.__name__
    return wrapped


async def raw(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(HOST, port)
