"""Both sides connect at the same moment, again and again: always one connection, nobody hangs, nothing is lost."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from beamkit.beam import Beam, unique
from waiting import LONG

from node import Atom

pytestmark = pytest.mark.usefixtures("python_only")
ROUNDS = 50


async def idle(*nodes) -> None:
    """Until none of them has a connection."""
    while any(node.nodes() for node in nodes):
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("prefix", ["aaa", "zzz"])
def test_beam_and_python(beam: Beam, start_node, prefix: str) -> None:
    """A name below and one above the BEAM's: the greater one's attempt must win."""
    subject = start_node(unique(prefix))

    async def test(node) -> None:
        for delay in range(ROUNDS):
            theirs = asyncio.ensure_future(beam.ask("net_adm:ping(Py)", Py=node.name))
            for _ in range(delay % 10):
                await asyncio.sleep(0)
            ours = asyncio.ensure_future(node.ping(beam.name))
            assert await theirs == "pong"
            assert await ours is True
            assert node.nodes() == [beam.name]
            assert await beam.ask("erlang:disconnect_node(Py)", Py=node.name) == "true"
            await idle(node)

    subject.do(test)


@pytest.mark.parametrize("prefix", ["aaa", "zzz"])
def test_messages_sent_meanwhile(beam: Beam, start_node, prefix: str) -> None:
    """Both sides send at once while there is no connection: each message arrives, once and in order."""
    subject = start_node(unique(prefix))

    async def test(node) -> None:
        await beam.ask("interop_peer:start()")
        for number in range(ROUNDS):
            text = "[{calc, Py} ! {N, I} || I <- [1, 2, 3]], gen_server:call({calc, Py}, notes)"
            theirs = asyncio.ensure_future(beam.ask(text, Py=node.name, N=number))
            for _ in range(number % 10):
                await asyncio.sleep(0)
            for index in (1, 2, 3):
                node.send(("server", beam.name), (number, index))
            seen = await node.call(("server", beam.name), Atom("seen"), LONG)
            assert seen == [(Atom("info"), (number, index)) for index in (1, 2, 3)]
            assert await theirs == f"[{{info,{{{number},1}}}},{{info,{{{number},2}}}},{{info,{{{number},3}}}}]"
            node.disconnect(beam.name)
            await idle(node)
            await beam.ask(
                "(fun W() -> case lists:member(Py, nodes(connected)) of true -> timer:sleep(1), W(); "
                "false -> ok end end)()",
                Py=node.name,
            )

    subject.do(test)


def test_python_and_python(epmd_env: int, cookie: str) -> None:
    from beamkit import pyapp

    from node import Node

    async def test() -> None:
        async with Node(unique("left"), cookie=cookie) as left, Node(unique("right"), cookie=cookie) as right:
            pyapp.app(left)
            pyapp.app(right)
            for number in range(ROUNDS):
                calls = [partial(left.ping, right.name), partial(right.ping, left.name)]
                calls += [partial(left.call, ("calc", right.name), (Atom("add"), number, 1), LONG)]
                calls += [partial(right.call, ("calc", left.name), (Atom("add"), number, 2), LONG)]
                if number % 2:
                    calls.reverse()
                results = await asyncio.wait_for(asyncio.gather(*(call() for call in calls)), LONG)
                assert sorted(map(int, results)) == sorted([1, 1, number + 1, number + 2])
                assert left.nodes() == [right.name]
                (left if number % 3 else right).disconnect((right if number % 3 else left).name)
                await idle(left, right)

    asyncio.run(test())
