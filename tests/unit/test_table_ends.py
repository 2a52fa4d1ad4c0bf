"""PeerTables and ends: disconnects, restarts, silence, what is written out, faults; and that nothing is left."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import Any

import pytest
from tablekit import Side, nodes, raw, run

from node.errors import NoConnection, NodeDown, RemoteProtocolError
from node.net.peer import Peer
from node.terms import Atom
from node.wire.framing import frame


@run
async def test_nothing_is_left_of_peers_that_come_and_go() -> None:
    async with nodes("b@h") as (b,):
        for index in range(20):
            async with nodes("127.0.0.1") as (a,):
                a.ports.update(b.ports)
                await a.peer(b).connect()
            await b.handler.until(lambda index=index: len(b.handler.seen) == 2 * (index + 1))
        assert b.handler.kinds() == ["up", "down"] * 20
        gc.collect()
        assert not b.table._active and not b.table._idle
        held = b.peer("c@h")
        assert b.peer("c@h") is held


@run
async def test_disconnect_on_one_side_is_seen_on_both_and_a_new_one_is_a_new_incarnation() -> None:
    async with nodes("a@h", "b@h") as (a, b):
        await a.peer(b).connect()
        await b.handler.until(lambda: b.handler.seen)
        a.send(b, b"last words")
        a.peer(b).disconnect("enough")
        assert a.handler.seen[-1] == ("down", "b@h", "enough", 0)
        await b.handler.until(lambda: len(b.handler.seen) == 2)
        assert b.handler.seen[-1] == ("down", "a@h", "connection closed", 0)
        assert b.handler.payloads == [b"last words"]
        a.peer(b).disconnect("twice")
        await b.peer(a).connect()
        await a.handler.until(lambda: len(a.handler.seen) == 3)
        assert a.handler.kinds() == b.handler.kinds() == ["up", "down", "up"]
        assert a.peer(b).connection_id == 2


@run
async def test_disconnect_while_pending() -> None:
    async with nodes("a@h", "b@h") as (a, b):
        waiter = asyncio.ensure_future(a.peer(b).connect())
        a.send(b, 1)
        await asyncio.sleep(0)
        a.peer(b).disconnect("changed our mind")
        with pytest.raises(NodeDown, match="changed our mind"):
            await waiter
        assert a.handler.seen == [("down", "b@h", "changed our mind", 1)]
        await a.peer(b).connect()


@run
async def test_a_peer_that_restarted_replaces_its_old_connection() -> None:
    async with nodes("a@h", "b@h") as (a, b):
        await a.peer(b).connect()
        await b.handler.until(lambda: b.handler.seen)
        # a dies without a word: b has not noticed when the next a connects
        again = Side("a@h", a.ports, {}, {"creation": 8})
        await again.peer(b).connect()
        again.send(b, b"new")
        await b.handler.until(lambda: b.handler.payloads == [b"new"])
        assert b.handler.kinds() == ["up", "down", "up"]
        assert "replaced" in b.handler.seen[1][2]
        assert b.peer(a).creation == 8 and b.peer(a).connection_id == 2
        await again.table.close()


@run
async def test_ticks_keep_an_idle_connection_and_silence_ends_it() -> None:
    async with nodes("a@h", "b@h", net_ticktime=1.0) as (a, b):
        await a.peer(b).connect()
        await b.handler.until(lambda: b.handler.seen)
        await asyncio.sleep(2.0)
        assert a.handler.kinds() == b.handler.kinds() == ["up"]
        b.peer(a).pause_reading("slow")  # ticks go on both ways
        a.send(b, b"while paused")
        await asyncio.sleep(2.0)
        assert a.handler.kinds() == b.handler.kinds() == ["up"]
        assert b.handler.payloads == [b"while paused"]  # one receive in three quarters of the ticktime
        b.peer(a).resume_reading("slow")
        silent = b.peer(a)._connection
        assert silent is not None
        silent._timer.cancel()  # b no longer ticks
        await a.handler.until(lambda: len(a.handler.seen) == 2)
        assert a.handler.seen[1][:3] == ("down", "b@h", "net_tick_timeout")


@run
async def test_closing_writes_out_what_is_queued() -> None:
    async with nodes("a@h", "b@h") as (a, b):
        await a.peer(b).connect()
        for number in range(50):
            a.send(b, bytes([number]) * 1_000_000)
        await a.table.close()
        await b.handler.until(lambda: len(b.handler.seen) == 2)
        assert len(b.handler.payloads) == 50
        assert a.handler.seen[-1] == ("down", "b@h", "this node closed", 0)
        await a.table.close()
        with pytest.raises(NoConnection, match="closing"):
            await a.peer(b).connect()
        with pytest.raises(NoConnection):
            await b.peer(a).connect()


@run
async def test_a_handler_that_fails_does_not_stop_the_connection() -> None:
    async with nodes("a@h", "b@h") as (a, b):

        def fail(peer: Peer, batch: list[Any]) -> None:
            b.handler.on_signals = None
            raise ValueError("a bug")

        b.handler.on_signals = fail
        a.send(b, 1)
        await b.handler.until(lambda: b.handler.payloads == [1])
        a.send(b, 2)
        await b.handler.until(lambda: b.handler.payloads == [1, 2])


@run
async def test_a_fault_that_the_handler_finds_drops_the_connection() -> None:
    async with nodes("a@h", "b@h") as (a, b):

        def fail(peer: Peer, batch: list[Any]) -> None:
            raise RemoteProtocolError("in somebody else's name")

        b.handler.on_signals = fail
        a.send(b, 1)
        await a.handler.until(lambda: len(a.handler.seen) == 2)
        assert b.handler.seen == [("up", "a@h"), ("down", "a@h", "in somebody else's name", 0)]


@run
async def test_no_descriptor_is_left() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with nodes("a@h", "b@h", setup_time=1.0) as (a, b):
        await a.peer(b).connect()
        a.peer(b).disconnect()
    before = descriptors()
    for _ in range(5):
        async with nodes("a@h", "b@h") as (a, b):
            a.local.cookie = lambda peer: "wrong"
            with pytest.raises(NoConnection):
                await a.peer(b).connect()
            a.local.cookie = lambda peer: "k"
            a.send(b, 1)
            b.send(a, 1)
            await b.handler.until(lambda b=b: b.handler.payloads)
            _reader, writer = await raw(b.ports["b@h"])
            writer.close()
            a.peer(b).disconnect()
            await a.peer(b).connect()
    assert descriptors() <= before


@run
async def test_a_malformed_control_message_drops_the_connection_after_what_came_before() -> None:
    async with nodes("a@h", "b@h") as (a, b):
        await a.peer(b).connect()
        a.send(b, b"good")
        a.peer(b).signal((99,))
        a.send(b, b"never seen")
        await b.handler.until(lambda: len(b.handler.seen) == 2)
        assert b.handler.payloads == [b"good"]
        assert b.handler.seen[1][0] == "down" and "99" in b.handler.seen[1][2]
        await a.peer(b).connect()


@run
async def test_drain_ends_with_the_peer() -> None:
    async with nodes("a@h", "b@h", busy_limit=1000) as (a, b):
        await a.peer(b).connect()
        await b.handler.until(lambda: b.handler.seen)
        b.peer(a).pause_reading("test")
        for _ in range(40):
            a.send(b, b"x" * 1_000_000)
        waiter = asyncio.ensure_future(a.peer(b).drain())
        await asyncio.sleep(0.02)
        b.table.get(Atom("a@h")).disconnect("gone")
        with pytest.raises(NodeDown):
            await waiter
        down = a.handler.seen[-1]
        assert down[0] == "down" and down[3] > 0 and a.peer(b).queued == 0


@run
async def test_garbage_and_silence_before_the_handshake() -> None:
    async with nodes("a@h", "b@h", max_handshakes=3, setup_time=1.0) as (a, b):
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\0\0", b"\xff\xff", frame(b"N"), frame(b"x" * 100)):
            reader, writer = await raw(a.ports["a@h"])
            writer.write(data)
            writer.write_eof()
            assert await reader.read() in (b"", frame(b"snot_allowed"))
            writer.close()
        silent = [await raw(a.ports["a@h"]) for _ in range(10)]  # more than max_handshakes
        await b.peer(a).connect()
        for reader, writer in silent:
            assert await reader.read() == b""
            writer.close()
        assert a.handler.kinds() == ["up"]
