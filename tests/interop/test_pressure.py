"""A peer that does not read: deliver() waits, a sending process is held, past the hard limit send() raises PeerBusy.

The BEAM is stopped by the operating system (SIGSTOP): a suspended Erlang process alone would not stop its reading.
"""

from __future__ import annotations

import asyncio
import signal

import pytest
from beamkit.beam import Beam
from waiting import LONG

from node import Atom, NoConnection, PeerBusy
from node.net.options import NetOptions

pytestmark = pytest.mark.usefixtures("python_only")
BLOCK = bytes(1 << 18)
HARD_LIMIT = 8 << 20


@pytest.fixture
def small(start_node):
    """A node with a small hard limit."""
    return start_node(net=NetOptions(hard_limit=HARD_LIMIT))


async def turns(count: int = 20) -> None:
    """Give everybody else a chance to do what they must not do."""
    for _ in range(count):
        await asyncio.sleep(0.005)


async def fill(node, to) -> int:
    """Send until the peer counts as busy and stays so (the kernel's buffers grow for a while); how many were sent."""
    sent = 0
    while True:
        while not node.peer(to[1]).busy:
            node.send(to, BLOCK)
            sent += 1
            await asyncio.sleep(0)
        await turns()
        if node.peer(to[1]).busy:
            return sent


async def received(node, beam: Beam) -> int:
    seen = await node.call(("server", beam.name), Atom("seen"), LONG)
    assert {message for _, message in seen} <= {BLOCK}
    return len(seen)


def test_deliver_waits(own_beam: Beam, small) -> None:
    async def test(node) -> None:
        await own_beam.ask("interop_peer:start()")
        to = ("server", own_beam.name)
        await node.connect(own_beam.name)
        with own_beam.stopped():
            sent = await fill(node, to)
            waiting = asyncio.ensure_future(node.deliver(to, BLOCK))
            await turns()
            assert not waiting.done()
        await asyncio.wait_for(waiting, LONG)
        assert await received(node, own_beam) == sent + 1

    small.do(test)


def test_a_sending_process_is_held(own_beam: Beam, small) -> None:
    """Its next receive() waits, although a message is there; it goes on when the peer reads."""

    async def test(node) -> None:
        await own_beam.ask("interop_peer:start()")
        to = ("server", own_beam.name)
        await node.connect(own_beam.name)
        async with node.process() as me:
            with own_beam.stopped():
                sent = await fill(node, to)
                me.send(to, BLOCK)
                node.send(me.pid, Atom("hello"))
                waiting = asyncio.ensure_future(me.receive())
                await turns()
                assert not waiting.done()
                # Others are not held.
                assert await node.call("calc", (Atom("add"), 1, 2), LONG) == 3
            assert await asyncio.wait_for(waiting, LONG) is Atom("hello")
        assert await received(node, own_beam) == sent + 1

    small.do(test)


def test_hard_limit(own_beam: Beam, small) -> None:
    """PeerBusy, and nothing was queued: the BEAM gets exactly what send() took."""

    async def test(node) -> None:
        await own_beam.ask("interop_peer:start()")
        to = ("server", own_beam.name)
        await node.connect(own_beam.name)
        with own_beam.stopped():
            sent = 0
            with pytest.raises(PeerBusy):
                for _ in range(4 * HARD_LIMIT // len(BLOCK) + 200):
                    node.send(to, BLOCK)
                    sent += 1
                    await asyncio.sleep(0)
            queued = node.peer(own_beam.name).queued
            assert HARD_LIMIT - len(BLOCK) <= queued <= HARD_LIMIT + 2 * len(BLOCK)
            with pytest.raises(PeerBusy):
                await asyncio.to_thread(node.send, to, BLOCK)
            assert node.peer(own_beam.name).queued == queued
        await node.peer(own_beam.name).drain()
        assert await received(node, own_beam) == sent

    small.do(test)


def test_the_peer_goes_down_while_deliver_waits(own_beam: Beam, small) -> None:
    async def test(node) -> None:
        await own_beam.ask("interop_peer:start()")
        to = ("server", own_beam.name)
        await node.connect(own_beam.name)
        own_beam.signal(signal.SIGSTOP)
        await fill(node, to)
        waiting = asyncio.ensure_future(node.deliver(to, BLOCK))
        await turns()
        await asyncio.to_thread(own_beam.kill)
        with pytest.raises(NoConnection):
            await waiting
        assert node.undelivered > 0

    small.do(test)


def test_a_beam_waits_for_python(own_beam: Beam, start_python) -> None:
    """The other way round: a stopped Python node makes the BEAM's sender wait (busy_dist_port), then all arrives."""
    python = start_python()
    assert own_beam.eval("gen_server:call({calc, Py}, {add, 1, 2})", Py=python.name) == "3"
    python.signal(signal.SIGSTOP)
    sending = own_beam.submit(
        """
        B = binary:copy(<<0>>, 1048576),
        [gen_server:cast({calc, Py}, {N, B}) || N <- lists:seq(1, 40)],
        [N || {cast, {N, _}} <- gen_server:call({calc, Py}, notes, 30000)] =:= lists:seq(1, 40)
        """,
        Py=python.name,
    )
    python.signal(signal.SIGCONT)
    assert sending.result(60) == b"true"
