"""Scale, and that nothing grows: descriptors, tasks, threads and objects after many nodes and connections."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from node import Atom, GenServer, Node, Process
from node.net.epmd import EpmdServer

DOWN, EXIT = Atom("DOWN"), Atom("EXIT")


class Calc(GenServer):
    def init(self) -> None:
        self.calls = 0

    def handle_call(self, request: Any, caller: Any) -> Any:  # in a worker thread
        self.calls += 1
        return request


async def sleeps(me: Process) -> None:
    await me.receive()


@asynccontextmanager
async def epmd() -> AsyncIterator[int]:
    server = EpmdServer()
    try:
        yield await server.start(port=0)
    finally:
        await server.close()


def run(test: Any) -> None:
    asyncio.run(asyncio.wait_for(test, 120))


def held() -> tuple[int, int, int]:
    """Descriptors, tasks and threads; the loop's own pool (asyncio_N, for getaddrinfo) grows when it likes."""
    threads = [thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
    return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()), len(threads)


def objects() -> int:
    """How many there are of this package's types and of what they hold. (Others grow: pytest keeps log records.)"""
    gc.collect()
    rooms = {"node", "asyncio", "_asyncio", "socket", "concurrent", "threading"}
    return sum(str(type(thing).__module__).partition(".")[0] in rooms for thing in gc.get_objects())


async def settled(before: tuple[int, int, int]) -> None:
    """Worker threads of a closed node end by themselves, when they are done."""
    while any(now > then for now, then in zip(held(), before, strict=True)):
        await asyncio.sleep(0.01)


def test_two_hundred_nodes_leave_nothing() -> None:
    async def one(hub: Node, port: int, number: int) -> None:
        async with Node(f"n{number}@127.0.0.1", "secret", epmd_port=port) as node:
            node.register("calc", Calc)
            me = node.spawn(sleeps)
            assert await node.call(("calc", hub.name), 1) == 1
            assert await hub.call(("calc", node.name), 2) == 2
            assert await node.rpc(hub.name, "m", "f", [3]) == 3
            hub.monitor(me.pid).close()
            node.link(hub.whereis("calc")).close()  # type: ignore[arg-type]

    async def main() -> None:
        async with epmd() as port, Node("hub@127.0.0.1", "secret", epmd_port=port) as hub:
            hub.register("calc", Calc, inline=True)
            hub.export("m", "f", lambda value: value, inline=True)
            sizes = []
            before = held()
            for number in range(200):
                await one(hub, port, number)
                if number in (99, 199):
                    await settled(before)
                    sizes.append(objects())
            while hub.nodes():
                await asyncio.sleep(0.01)
            router = hub.router
            assert len(router.processes) == 5 and not router.calls and not router.ties
            assert not hub._table._active and not hub._table._named  # type: ignore[union-attr]
            grown = sizes[1] - sizes[0]
            assert grown < 50, f"{grown} objects for 100 nodes that came and went"

    run(main())


def test_ten_thousand_processes() -> None:
    async def main() -> None:
        async with Node("many@127.0.0.1", "secret", listen=None) as node, node.process() as me:
            here = len(node.router.processes)

            async def echo(process: Process) -> None:
                sender, number = await process.receive()
                process.send(sender, number)

            processes = [node.spawn(echo) for _ in range(10_000)]
            assert len({process.pid for process in processes}) == 10_000
            for number, process in enumerate(processes):
                me.monitor(process.pid)
                me.send(process.pid, (me.pid, number))
            downs = numbers = 0
            while downs < 10_000 or numbers < 10_000:
                message = await me.receive()
                if type(message) is int:
                    numbers += 1
                else:
                    assert message[0] is DOWN and message[4] is Atom("normal")
                    downs += 1
            assert len(node.router.processes) == here

    run(main())


def test_a_thousand_links_and_monitors_each_way() -> None:
    async def main() -> None:
        async with (
            epmd() as port,
            Node("left@127.0.0.1", "secret", epmd_port=port) as left,
            Node("right@127.0.0.1", "secret", epmd_port=port) as right,
            left.process() as a,
            right.process() as b,
        ):
            for me, other in ((a, right), (b, left)):
                for _ in range(1000):
                    target = other.spawn(sleeps)
                    me.link(target.pid)
                    me.monitor(target.pid)
            while not all(
                sum(len(p.links) + len(p.watchers) for p in node.router.processes.values()) >= 3000
                for node in (left, right)
            ):
                await asyncio.sleep(0.01)
            # Half of them end by themselves, half lose the connection.
            for node in (left, right):
                for process in [p for p in node.router.processes.values() if p.watchers][::2]:
                    process.end(Atom("done"))
            reasons = [(await me.receive())[-1] for me in (a, b) for _ in range(1000)]
            assert set(reasons) == {Atom("done")}
            left.disconnect(right.name)
            reasons = [(await me.receive())[-1] for me in (a, b) for _ in range(1000)]
            assert set(reasons) == {Atom("noconnection")}
            while left.router.ties or right.router.ties:
                await asyncio.sleep(0.01)
            assert not len(a.links) and not len(b.links) and not a.monitors and not b.monitors

    run(main())


def test_a_hundred_peers() -> None:
    async def main() -> None:
        async with epmd() as port, Node("hub@127.0.0.1", "secret", epmd_port=port) as hub:
            hub.register("calc", Calc, inline=True)
            nodes = [Node(f"p{number}@127.0.0.1", "secret", epmd_port=port) for number in range(100)]
            try:
                await asyncio.gather(
                    *(node.start(lambda node: node.register("calc", Calc, inline=True)) for node in nodes)
                )
                answers = await asyncio.gather(
                    *(node.call(("calc", hub.name), number, 60.0) for number, node in enumerate(nodes)),
                    *(hub.call(("calc", node.name), number, 60.0) for number, node in enumerate(nodes)),
                )
                assert answers == [*range(100), *range(100)]
                assert sorted(hub.nodes()) == sorted(node.name for node in nodes)
            finally:
                await asyncio.gather(*(node.close() for node in nodes))
            while hub.nodes():
                await asyncio.sleep(0.01)

    run(main())
