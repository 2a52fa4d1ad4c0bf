"""Tubes and XenStore's ring page: the two other drivers on the same scaffold."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # membranekit; there is no __init__.py below tests/

from membranekit.local import nodes, run, settled

from pores.active import ActivePore
from pores.driver import Holding
from pores.errors import PoreClosed, PoreTooBig, XenstoreError
from pores.keys import Terms
from pores.tube import Tube, TubeDriver
from pores.xenstore.client import XenStore
from pores.xenstore_ring import RingTransport, XenstoreDriver


async def two_tubes(one: Any, other: Any, tid: str = "1") -> tuple[Tube, Tube]:
    tube = await one.membrane.open(other.domid, tid)
    return tube, await other.came.get()


def test_packets_both_ways(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h", driver=TubeDriver(), make=Tube) as (_, one, other):
            ours, theirs = await two_tubes(one, other)
            assert (ours.peer, ours.tid, theirs.peer, theirs.tid) == (2, "1", 1, "1")
            for size in (1, 100, 4095, 4096):
                await ours.send(b"x" * size)
                assert await theirs.receive() == b"x" * size
                await theirs.send(b"y" * size)
                assert await ours.receive() == b"y" * size
            with pytest.raises(PoreTooBig):
                ours.send_nowait(b"x" * 4097)
            with pytest.raises(ValueError, match="one byte"):
                ours.send_nowait(b"")

    run(test)


def test_31_packets_fit_and_the_next_waits_for_a_slot(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h", driver=TubeDriver(), make=Tube) as (_, one, other):
            ours, theirs = await two_tubes(one, other)
            assert [ours.send_nowait(b"%d" % n) for n in range(33)] == [True] * 31 + [False] * 2
            told: list[bool] = []
            ours.notify_when(10, told.append)
            waiting = asyncio.create_task(ours.send(b"31"))
            await asyncio.sleep(0.01)
            assert not waiting.done() and not told
            assert [await theirs.receive() for _ in range(32)] == [b"%d" % n for n in range(32)]
            await waiting
            await settled(lambda: told == [True])

    run(test)


def test_several_tubes_and_their_ends(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h", driver=TubeDriver(), make=Tube) as (_, one, other):
            pairs = [await two_tubes(one, other, tid) for tid in ("1", "2", "3")]
            for n, (ours, theirs) in enumerate(pairs[:2]):
                closer, seen = (ours, theirs) if n else (theirs, ours)
                closer.send_nowait(b"last")
                await closer.close()
                assert await seen.receive() == b"last"
                with pytest.raises(PoreClosed):
                    await seen.receive()
                assert seen.closed == "peer_closed" and closer.closed == "closed"
            ours, theirs = pairs[2]
            ours.send_nowait(b"still here")
            assert await theirs.receive() == b"still here"

    run(test)


def test_xenstore_over_its_ring_page(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h") as (host, dom, store):
            driver = XenstoreDriver()
            served, ours = Holding(store.backend, dom.domid), Holding(dom.backend, store.domid)
            offer = await driver.offer(served, Terms())
            await driver.attach(ours, offer, Terms())
            assert served.pore is not None and ours.pore is not None
            bridge = asyncio.create_task(carry(served.pore, host.store.connect(dom.domid)))
            async with XenStore(RingTransport(ours.pore)) as client:
                assert await client.domid() == dom.domid
                await client.write("data/x", b"y" * 2000)  # larger than the ring
                assert await client.read("data/x") == b"y" * 2000
                with pytest.raises(XenstoreError, match="EACCES"):
                    await client.write("/local/domain/2/data/x", b"")
                events = await client.watch("data")
                await events.next()
                await client.mkdir("data/z")
                assert await events.next() == "data/z"
                texts = await asyncio.gather(*(client.read("data/x") for _ in range(20)))
                assert {len(text) for text in texts} == {2000}
            await bridge
            assert await ours.release() and await served.release()

    run(test)


async def carry(pore: Any, sock: socket.socket) -> None:
    """The store's side: bytes between the page and a connection of the store, until the domain goes."""
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    active = ActivePore(pore)

    async def out() -> None:
        while data := await reader.read(1000):
            while data:
                n = pore.write(data)
                data = data[n:]
                if data:
                    await active.has_room(1).wait()

    sending = asyncio.create_task(out())
    try:
        while True:
            await active.has_data().wait()
            writer.write(pore.read())
    except PoreClosed:
        pass
    sending.cancel()
    writer.close()
    active.end("closed")
