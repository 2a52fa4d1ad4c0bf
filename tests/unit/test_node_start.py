"""Node.start(app): nobody reaches a node before its names are there."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from node import Atom, NoConnection, Node, Process, TooManyRestarts
from node.net.epmd import EpmdClient, EpmdServer


def new(name: str = "starts@127.0.0.1", **options: Any) -> Node:
    return Node(name, "secret", **{"listen": None, **options})


async def waits(me: Process) -> None:
    await me.receive()


def test_the_app_comes_before_the_listening_and_the_name_in_epmd() -> None:
    seen: list[object] = []

    async def main() -> None:
        epmd = EpmdServer()
        port = await epmd.start(port=0)
        client = EpmdClient(port=port)
        node = new(listen="127.0.0.1", epmd_port=port)

        async def app(given: Node) -> None:
            assert given is node and node.running
            node.register("echo", waits)
            node.export("math", "abs", abs)
            await asyncio.sleep(0)
            seen.append((node.port, await client.names(), await node.rpc(node.name, "math", "abs", [-1])))

        await node.start(app)
        seen.append([name for name, _ in await client.names()])
        assert node.port and node.whereis("echo") is not None
        await node.close()
        await epmd.close()

    asyncio.run(main())
    assert seen == [(0, [], 1), ["starts"]]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_app_that_fails(kind: str) -> None:
    def app(node: Node) -> None:
        raise LookupError("no model")

    async def async_app(node: Node) -> None:
        app(node)

    async def main() -> None:
        node = new()
        with pytest.raises(LookupError, match="no model"):
            await node.start(app if kind == "sync" else async_app)
        assert not node.running
        await node.wait_closed()

    asyncio.run(main())


def test_an_app_that_closes_its_node() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:  # nothing tries to listen there
            node = new(listen="127.0.0.1", port=taken.getsockname()[1])
            await node.start(Node.close)
        assert not node.running
        await node.wait_closed()

    asyncio.run(main())


def test_a_node_that_gives_up_while_its_app_still_starts() -> None:
    cleaned: list[int] = []

    async def hopeless(me: Process) -> None:
        raise OSError("again")

    async def app(node: Node) -> None:
        node.register("hopeless", hopeless, restart="permanent")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cleaned.append(1)

    async def main() -> None:
        node = new()
        await node.start(app)
        with pytest.raises(TooManyRestarts):
            await node.wait_closed()
        await node.close()

    asyncio.run(main())
    assert cleaned == [1]


def test_a_start_that_is_cancelled_ends_the_app_first() -> None:
    seen: list[str] = []
    begun = asyncio.Event()

    async def app(node: Node) -> None:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            seen.append("app" if node.running else "too late")

    async def main() -> None:
        node = new()
        starting = asyncio.ensure_future(node.start(app))
        await begun.wait()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not node.running
        await node.wait_closed()

    asyncio.run(main())
    assert seen == ["app"]


def test_the_app_may_talk_to_processes_it_started() -> None:
    async def answers(me: Process) -> None:
        sender, value = await me.receive()
        me.send(sender, value)

    async def app(node: Node) -> None:
        node.register("answers", answers)
        async with node.process() as me:
            me.send("answers", (me.pid, Atom("ok")))
            assert await me.receive(timeout=20) is Atom("ok")

    async def main() -> None:
        node = new()
        await node.start(app)
        await node.close()

    asyncio.run(main())


def test_a_node_named_by_another() -> None:
    async def main() -> None:
        epmd = EpmdServer()
        port = await epmd.start(port=0)
        try:
            async with Node("server@127.0.0.1", "secret", epmd_port=port) as server:
                server.register("double", lambda number: number * 2, inline=True)
                client = Node("127.0.0.1", "secret", epmd_port=port, listen=None, named_by="server@127.0.0.1")
                async with client:
                    assert client.name.endswith("@127.0.0.1") and client.name != "@127.0.0.1"
                    assert server.nodes() == [client.name]
                    assert await client.call(("double", server.name), 21) == 42
                    async with client.process() as me:
                        assert me.pid.node.name == client.name
                        assert me.pid.creation == client.creation
            lost = Node("127.0.0.1", "secret", epmd_port=port, listen=None, named_by="server@127.0.0.1")
            with pytest.raises(NoConnection):
                await lost.start()
            with pytest.raises(ValueError, match="named by a peer"):
                Node("a@127.0.0.1", "secret", named_by="b@127.0.0.1")
        finally:
            await epmd.close()

    asyncio.run(main())
