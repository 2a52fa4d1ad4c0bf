"""Straws in memory: a host, its domains and their straws, as node.strawman's seam has them. No shared memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from waiting import LONG

from node import Node, Process, StrawError
from node.strawman.formats import Dialect, Format

__all__ = ["Inbox", "MemoryCarrier", "MemoryHost", "MemoryStraw", "Test", "run"]


class MemoryStraw:
    """One end of a straw that holds `limit` bytes unsent while its peer is paused."""

    limit = 1000

    def __init__(self, domid: int, format: Format, dialect: Dialect, opened_by_us: bool) -> None:
        self.domid, self.format, self.dialect, self.opened_by_us = domid, format, dialect, opened_by_us
        self.other: MemoryStraw
        self.queue: deque[bytes] = deque()
        self.frames: Callable[[list[bytes]], None] | None = None
        self.closed_callbacks: list[Callable[[str], None]] = []
        self.closed = ""
        self.paused = False
        self.changed = asyncio.Event()

    @property
    def unsent(self) -> int:
        return sum(map(len, self.other.queue))

    @property
    def busy(self) -> bool:
        return self.unsent > self.limit

    def send_nowait(self, frame: bytes | list[bytes]) -> bool:
        if self.closed:
            raise StrawError(self.closed, self.domid)
        if self.busy:
            return False
        self.other.queue.append(frame if isinstance(frame, bytes) else b"".join(frame))
        asyncio.get_running_loop().call_soon(self.other.look)
        return True

    async def send(self, frame: bytes) -> None:
        while not self.send_nowait(frame):
            await self.wait()

    async def drain(self) -> None:
        while self.unsent:
            if self.closed:
                raise StrawError(self.closed, self.domid)
            await self.wait()

    async def wait(self) -> None:
        self.changed.clear()
        await self.changed.wait()

    def look(self) -> None:
        while self.queue and self.frames is not None and not self.paused:
            self.frames([self.queue.popleft()])
        self.other.changed.set()

    def on_frames(self, callback: Callable[[list[bytes]], None]) -> None:
        self.frames = callback
        self.look()

    def on_closed(self, callback: Callable[[str], None]) -> None:
        self.closed_callbacks.append(callback)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        asyncio.get_running_loop().call_soon(self.look)

    def close(self, reason: str) -> None:
        if not self.closed:
            self.end(reason)
            asyncio.get_running_loop().call_soon(self.other.end, "peer_closed")

    def end(self, reason: str) -> None:
        if not self.closed:
            self.closed = reason
            self.changed.set()
            for callback in self.closed_callbacks:
                callback(reason)


class MemoryCarrier:
    """One domain of a MemoryHost."""

    def __init__(self, host: MemoryHost, domid: int) -> None:
        self.host, self.domid = host, domid
        self.on_straw: Callable[[Any], object]
        self.on_lost: Callable[[str], None]
        self.straws: list[MemoryStraw] = []

    def listen(self, on_straw: Callable[[Any], object], on_lost: Callable[[str], None]) -> None:
        self.on_straw, self.on_lost = on_straw, on_lost

    async def open(self, domid: int, format: Format) -> MemoryStraw:
        await asyncio.sleep(0)
        if self.host.answers is not None:
            self.host.openers += 1
            await self.host.answers.wait()
        peer = self.host.domains.get(domid)
        if peer is None:
            raise StrawError("not_found", domid)
        ours = MemoryStraw(domid, format, self.host.dialect, True)
        theirs = MemoryStraw(self.domid, format, self.host.dialect, False)
        ours.other, theirs.other = theirs, ours
        self.straws.append(ours)
        peer.straws.append(theirs)
        peer.on_straw(theirs)
        return ours

    async def close(self) -> None:
        self.host.domains.pop(self.domid, None)


class MemoryHost:
    def __init__(self, dialect: Dialect = "otp") -> None:
        self.dialect = dialect
        self.domains: dict[int, MemoryCarrier] = {}
        self.answers: asyncio.Event | None = None
        """What those who open a straw wait for; `openers` is how many do."""
        self.openers = 0
        self.up = True

    async def connect(self, host: str | None, domid: int) -> MemoryCarrier:
        if not self.up:
            raise StrawError("no_host")
        domid = domid or max(self.domains, default=0) + 1
        carrier = self.domains[domid] = MemoryCarrier(self, domid)
        return carrier

    def die(self) -> None:
        carriers = list(self.domains.values())
        self.domains.clear()
        for carrier in carriers:
            for straw in carrier.straws:
                straw.end("host_down")
            carrier.on_lost("host_down")

    def node(self, name: str, domid: int) -> Node:
        node = Node(f"{name}@127.0.0.1", "secret", listen=None, pores=True, domid=domid)
        node.strawman._make = self.connect
        return node


class Inbox:
    """A handler that keeps what comes."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Any] = asyncio.Queue()

    async def __call__(self, me: Process) -> None:
        while True:
            self.messages.put_nowait(await me.receive())

    async def next(self) -> Any:
        return await self.messages.get()


Test = Callable[[MemoryHost, Node, Node], Awaitable[None]]


def run(test: Test, dialect: Dialect = "otp") -> None:
    """With node a (domain 1) and node b (domain 2)."""

    async def main() -> None:
        host = MemoryHost(dialect)
        async with asyncio.timeout(LONG), host.node("a", 1) as a, host.node("b", 2) as b:
            await test(host, a, b)

    asyncio.run(main())
