"""Several domains on a host of their own, in one process: for tests of whole straws."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from pores.aio import Membrane
from pores.backends.local import LocalBackend
from pores.host.server import Host
from pores.keys import Terms
from pores.straw import Straw

__all__ = ["Node", "counted", "damaged", "nodes", "raw_domain", "run", "settled"]


class Node:
    """A domain with a membrane; `came` has the straws that others have opened."""

    def __init__(self, backend: LocalBackend, store: Any, membrane: Membrane) -> None:
        self.backend, self.store, self.membrane = backend, store, membrane
        self.domid = backend.domid
        self.came: asyncio.Queue[Straw] = asyncio.Queue()
        membrane.on_straw = self.came.put_nowait

    async def open(self, other: Node) -> tuple[Straw, Straw]:
        """Both ends."""
        straw: Straw = await self.membrane.open(other.domid)
        return straw, await other.came.get()

    async def close(self) -> None:
        await self.membrane.close()
        await self.store.close()
        await self.backend.close()


async def make_node(rundir: Path, domid: int = 0, **options: Any) -> Node:
    backend = await LocalBackend.connect(rundir, domid, start=False)
    store = await backend.store()
    node = Node(backend, store, Membrane(backend, store, **options))
    await node.membrane.start()
    return node


@contextlib.asynccontextmanager
async def nodes(rundir: Path, count: int = 2, **options: Any) -> AsyncIterator[tuple[Any, ...]]:
    """A host and so many nodes: (host, node, node, …). When it ends, nothing is held by anybody."""
    host = Host(rundir)
    await host.start()
    made: list[Node] = []
    try:
        for _ in range(count):
            made.append(await make_node(rundir, **options))
        yield (host, *made)
    finally:
        for node in made:
            await node.close()
        await host.close()
    for node in made:
        assert set(node.backend.held.values()) == {0}, node.backend.held


def damaged(honest: bytes, dice: random.Random) -> bytes:
    """A frame with some wrong bytes at its beginning; now and then nothing but noise."""
    frame = bytearray(honest if dice.random() < 0.7 else dice.randbytes(dice.randrange(60)))
    for _ in range(dice.randrange(1, 4)):
        if frame:
            frame[dice.randrange(min(30, len(frame)))] = dice.randrange(256)
    return bytes(frame)


@contextlib.asynccontextmanager
async def raw_domain(rundir: Path | str, domid: int, wishes: Terms | None = None) -> AsyncIterator[Membrane]:
    """A domain with a membrane and no node: what comes and goes on its straws are bytes."""
    backend = await LocalBackend.connect(rundir, domid)
    store = await backend.store()
    try:
        async with Membrane(backend, store, wishes=wishes) as membrane:
            yield membrane
    finally:
        await store.close()
        await backend.close()


def counted() -> int:
    """Open descriptors of this process, and mappings of pores."""
    with open("/proc/self/maps") as maps:
        return len(os.listdir("/proc/self/fd")) - 1 + sum("memfd:strawbridge" in line for line in maps)


def run(test: Callable[[], Awaitable[None]], limit: float = 30) -> None:
    """Runs it; afterwards no descriptor and no mapping is left over."""

    async def main() -> None:
        async with asyncio.timeout(limit):
            await test()

    before = counted()
    asyncio.run(main())
    assert counted() == before


async def settled(condition: Callable[[], object]) -> None:
    """Waits until it is so."""
    while not condition():
        await asyncio.sleep(0.002)
