"""Two Python nodes with each other: in one operating system process, and in two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from beamkit import pyapp
from beamkit.beam import unique
from waiting import LONG

from node import Atom, CallExit, NoConnection, Node, NodeDown, NoProc, RemoteError

pytestmark = pytest.mark.usefixtures("python_only", "epmd_env")


@pytest.fixture(params=["one process", "two processes"])
def pair(request: pytest.FixtureRequest, cookie: str):
    """A function that gives our node and the name of another, which runs pyapp."""
    start_python = request.getfixturevalue("start_python")

    @asynccontextmanager
    async def make() -> AsyncIterator[tuple[Node, str]]:
        async with Node(unique("here"), cookie=cookie) as here:
            if request.param == "one process":
                async with Node(unique("there"), cookie=cookie) as there:
                    pyapp.app(there)
                    yield here, there.name
            else:
                yield here, (await asyncio.to_thread(start_python)).name

    return make


def test_everything(pair) -> None:
    """Ping, call, cast, send, rpc, monitors and links between the two."""

    async def test() -> None:
        async with pair() as (here, there):
            calc = ("calc", there)
            assert await here.ping(there)
            assert await here.call(calc, (Atom("add"), 1, 2), LONG) == 3
            here.cast(calc, 1)
            here.send(calc, 2)
            assert await here.call(calc, Atom("notes"), LONG) == [(Atom("cast"), 1), (Atom("info"), 2)]
            assert await here.rpc(there, "math", "sqrt", [16.0]) == 4.0
            with pytest.raises(RemoteError) as caught:
                await here.rpc(there, "py", "raise", [b"no good"])
            assert caught.value.reason == (Atom("python"), Atom("ValueError"), b"no good")
            with pytest.raises(RemoteError) as caught:
                await here.rpc(there, "os", "getpid", [])
            assert caught.value.reason is Atom("undef")
            with pytest.raises(NoProc):
                await here.call(("nobody", there), 1, None)
            with pytest.raises(CallExit) as exited:
                await here.call(calc, (Atom("raise"), b"no good"), None)
            assert exited.value.reason[0] == (Atom("python"), Atom("ValueError"), b"no good")
            assert await asyncio.wait_for(here.monitor(("nobody", there)), LONG) is Atom("noproc")

    asyncio.run(test())


def test_puppet(pair) -> None:
    """Links, exits and monitors with a process over there."""

    async def test() -> None:
        async with pair() as (here, there), here.process() as me:
            me.send(("puppets", there), (Atom("new"), me.pid, 1))
            _, puppet = await me.receive(timeout=LONG)
            me.link(puppet)
            ref = me.monitor(puppet)
            me.send(puppet, (Atom("cmd"), me.pid, 2, (Atom("exit"), Atom("bye"))))
            got = [await me.receive(timeout=LONG) for _ in range(2)]
            assert sorted(got, key=len) == [
                (Atom("EXIT"), puppet, Atom("bye")), (Atom("DOWN"), ref, Atom("process"), puppet, Atom("bye")),
            ]  # fmt: skip

    asyncio.run(test())


def test_large_and_many(pair) -> None:
    block = bytes(20 << 20)

    async def test() -> None:
        async with pair() as (here, there):
            assert await here.call(("calc", there), (Atom("echo"), block), LONG) == block
            async with here.process() as me:
                for n in range(10000):
                    me.send(("echo", there), (me.pid, n, n))
                assert [await me.receive(timeout=LONG) for _ in range(10000)] == [(n, n) for n in range(10000)]

    asyncio.run(test())


def test_the_other_ends(start_python, cookie: str) -> None:
    async def test() -> None:
        other = await asyncio.to_thread(start_python)
        async with Node(unique("here"), cookie=cookie) as here:
            calc = ("calc", other.name)
            waiting = asyncio.ensure_future(here.call(calc, Atom("never"), None))
            watch = here.monitor(calc)
            assert await here.ping(other.name)
            await asyncio.to_thread(other.kill)
            with pytest.raises(NodeDown):
                await waiting
            assert await asyncio.wait_for(watch, LONG) is Atom("noconnection")
            with pytest.raises(NoConnection):
                await here.deliver(calc, 1)
            await asyncio.to_thread(other.start)
            assert await here.call(calc, (Atom("add"), 1, 2), LONG) == 3

    asyncio.run(test())


def test_many_nodes_in_one_process(cookie: str) -> None:
    """Each pings each; each has its own processes."""

    async def test() -> None:
        nodes = [Node(unique(f"many{i}_"), cookie=cookie) for i in range(6)]
        try:
            for node in nodes:
                pyapp.app(node)
                await node.start()
            answers = await asyncio.gather(*(a.ping(b.name) for a in nodes for b in nodes))
            assert answers == [True] * 36
            for node in nodes:
                assert sorted(node.nodes()) == sorted(n.name for n in nodes if n is not node)
        finally:
            for node in nodes:
                await node.close()

    asyncio.run(test())
