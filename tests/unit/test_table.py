"""PeerTables with each other over loopback: who connects, who wins, what is refused, how signals arrive."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from typing import Any

import pytest
from tablekit import HOST, nodes, raw, run

from node.errors import HandshakeRefused, NoConnection, PeerBusy
from node.etf import NO_PAYLOAD, encode_frame
from node.net.peer import Peer
from node.terms import Atom, Pid
from node.wire.control import LINK, REG_SEND
from node.wire.flags import OUR_FLAGS, Flag, our_flags
from node.wire.framing import frame
from node.wire.handshake import digest


@run
async def test_a_signal_connects_and_arrives_in_order() -> None:
    async with nodes("a@h", "b@h") as (a, b):
        for number in range(1000):
            a.send(b, number)
        assert a.peer(b).state == "pending"
        await b.handler.until(lambda: len(b.handler.payloads) == 1000)
        assert b.handler.payloads == list(range(1000))
        assert a.handler.seen == [("up", "b@h")] and b.handler.seen == [("up", "a@h")]
        assert a.peer(b).creation == b.peer(a).creation == 7
        assert a.peer(b).flags == OUR_FLAGS and a.peer(b).hidden
        assert a.peer(b).connection_id == 1
        assert a.table.peers() == [a.peer(b)]
        b.send(a, b"back")
        await a.handler.until(lambda: a.handler.payloads == [b"back"])
        assert a.handler.kinds() == b.handler.kinds() == ["up"]  # the same connection


@run
async def test_answers_are_written_in_the_turn_they_were_caused() -> None:
    async with nodes("a@h", "b@h") as (a, b):

        def echo(peer: Peer, batch: list[Any]) -> None:
            for _, payload in batch:
                b.send("a@h", payload)

        b.handler.on_signals = echo
        for number in range(5000):
            a.send(b, number)
        await a.handler.until(lambda: len(a.handler.payloads) == 5000)
        assert a.handler.payloads == list(range(5000))
        assert b.peer(a).queued == 0


@run
async def test_encoded_frames_and_signals_keep_their_order() -> None:
    async with nodes("a@h", "b@h") as (a, b):
        control = (REG_SEND, Pid(Atom("a@h"), 1, 0, 7), Atom(""), Atom("there"))
        a.send(b, 1)
        a.peer(b).signal_encoded(encode_frame(control, 2))
        a.send(b, 3)
        await b.handler.until(lambda: len(b.handler.payloads) == 3)
        assert b.handler.payloads == [1, 2, 3]


@pytest.mark.parametrize("size", [1, 65536, 3_000_000, 20_000_000])
def test_large_messages_and_back(size: int) -> None:
    async def body() -> None:
        async with nodes("a@h", "b@h") as (a, b):
            b.handler.on_signals = lambda peer, batch: b.send("a@h", batch[0][1])
            payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            a.send(b, payload)
            await a.handler.until(lambda: a.handler.payloads)
            assert a.handler.payloads == [payload]

    asyncio.run(asyncio.wait_for(body(), 60))


@run
async def test_simultaneous_connects_leave_one_connection() -> None:
    for _ in range(30):
        async with nodes("a@h", "b@h") as (a, b):
            for number in range(3):
                a.send(b, number)
                b.send(a, number)
            await asyncio.gather(a.peer(b).connect(), b.peer(a).connect())
            await a.handler.until(lambda: len(a.handler.payloads) == 3)
            await b.handler.until(lambda: len(b.handler.payloads) == 3)
            assert a.handler.seen == [("up", "b@h")] and b.handler.seen == [("up", "a@h")]


@run
async def test_our_name_is_not_sent_while_the_peers_attempt_has_our_ok() -> None:
    """A peer with a smaller name would take ours as the better attempt and drop its own, which we let in."""
    async with nodes("z@h") as (z,):
        near = await raw(z.ports["z@h"])
        near[1].write(frame(b"N" + OUR_FLAGS.to_bytes(8, "big") + (7).to_bytes(4, "big") + b"\0\3a@h"))
        assert await near[0].readexactly(5) == frame(b"sok")
        names: list[bytes] = []

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            names.append(await reader.read(100))
            writer.close()

        server = await asyncio.start_server(listen, HOST, 0)
        z.ports["a@h"] = server.sockets[0].getsockname()[1]
        z.send("a@h", b"queued")
        body = (await near[0].readexactly(2 + 22))[2:]
        await asyncio.sleep(0.1)
        assert names == []
        challenge = int.from_bytes(body[9:13], "big")
        near[1].write(frame(b"r" + bytes(4) + digest(challenge, "k")))
        await z.handler.until(lambda: z.handler.seen)
        assert z.handler.seen == [("up", "a@h")]
        assert await near[0].readexactly(2 + 17) == frame(b"a" + digest(0, "k"))
        (size,) = struct.unpack(">I", await near[0].readexactly(4))
        assert b"queued" in await near[0].readexactly(size)
        near[1].close()
        server.close()
        await server.wait_closed()
        assert names in ([], [b""])


@run
async def test_many_peers_all_at_once() -> None:
    names = [f"n{index}@h" for index in range(8)]
    async with nodes(*names) as sides:
        for one in sides:
            for other in sides:
                if one is not other:
                    one.send(other, one.name)
        for side in sides:
            await side.handler.until(lambda side=side: len(side.handler.payloads) == 7)
            assert side.handler.kinds() == ["up"] * 7
            assert len(side.table.peers()) == 7


@run
async def test_an_unknown_node_says_so() -> None:
    async with nodes("a@h") as (a,):
        with pytest.raises(NoConnection, match="not known"):
            await a.peer("nobody@h").connect()
        a.send("nobody@h", 1)
        a.send("nobody@h", 2)
        await a.handler.until(lambda: len(a.handler.seen) == 2)
        assert a.handler.seen[0] == ("down", "nobody@h", "its address is not known", 0)
        assert a.handler.seen[1] == ("down", "nobody@h", "its address is not known", 2)
        assert a.peer("nobody@h").state == "idle" and a.peer("nobody@h").queued == 0


@run
async def test_nobody_listens_there() -> None:
    async with nodes("a@h") as (a,):
        with socket.socket() as unused:
            unused.bind((HOST, 0))
            a.ports["b@h"] = unused.getsockname()[1]
            with pytest.raises(NoConnection) as refused:
                await a.peer("b@h").connect()
            assert isinstance(refused.value.__cause__, OSError)


@run
async def test_our_own_name_is_no_peer() -> None:
    async with nodes("a@h") as (a,):
        with pytest.raises(NoConnection, match="itself"):
            await a.peer("a@h").connect()


@run
async def test_a_resolver_that_fails() -> None:
    async with nodes("a@h") as (a,):

        async def resolve(name: str) -> tuple[str, int]:
            raise NoConnection(name, "epmd said no")

        a.table.resolve = resolve
        with pytest.raises(NoConnection, match="epmd said no"):
            await a.peer("b@h").connect()


@pytest.mark.parametrize("wrong", ["a", "b"])
def test_wrong_cookie(wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with nodes("a@h", "b@h") as (a, b):
            (a if wrong == "a" else b).local.cookie = lambda peer: "other"
            a.send(b, 1)
            with pytest.raises(NoConnection) as refused:
                await a.peer(b).connect()
            assert isinstance(refused.value.__cause__, HandshakeRefused)
            assert refused.value.__cause__.reason == "cookie"
            assert a.handler.seen == [("down", "b@h", refused.value.reason, 1)]
            assert b.handler.seen == [] and b.table.peers() == []
            assert not b.table._active and not b.table._idle  # nothing is kept of who did not prove anything

    with caplog.at_level(logging.WARNING):
        asyncio.run(asyncio.wait_for(body(), 60))
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "refused a connection from" in line and "cookie" in line]) == 1
    assert len([line for line in lines if line.startswith("connection refused")]) == 1


@run
async def test_allow_list_flags_and_name_clash() -> None:
    async with nodes("a@h", "b@h") as (a, b):
        b.local.allowed = lambda name: name != "a@h"
        with pytest.raises(NoConnection) as refused:
            await a.peer(b).connect()
        assert isinstance(refused.value.__cause__, HandshakeRefused)
        assert refused.value.__cause__.reason == "not_allowed"
        b.local.allowed = lambda name: True
        a.local.flags = OUR_FLAGS & ~Flag.SPAWN
        await a.peer(b).connect()
        assert not a.peer(b).flags & Flag.SPAWN and not b.peer(a).flags & Flag.SPAWN
        a.ports["c@h"] = b.ports["b@h"]
        with pytest.raises(NoConnection, match="says that it is 'b@h'"):
            await a.peer("c@h").connect()


@run
async def test_visible_only_when_both_are() -> None:
    async with nodes("a@h", "b@h", local={"flags": our_flags(visible=True)}) as (a, b):
        await a.peer(b).connect()
        assert not a.peer(b).hidden and not b.peer(a).hidden


@run
async def test_a_name_from_the_peer() -> None:
    async with nodes("127.0.0.1", "b@h") as (a, b):
        await a.peer(b).connect()
        assert a.local.name.endswith("@127.0.0.1") and a.local.creation >= 4
        await b.handler.until(lambda: b.handler.seen)
        assert b.handler.seen == [("up", a.local.name)]
        assert b.table.get(Atom(a.local.name)).creation == a.local.creation
        a.send(b, b"hello")
        await b.handler.until(lambda: b.handler.payloads == [b"hello"])


@run
async def test_back_pressure_and_its_limits() -> None:
    async with nodes("a@h", "b@h", busy_limit=100_000, hard_limit=1_000_000) as (a, b):
        await a.peer(b).connect()
        await b.handler.until(lambda: b.handler.seen)
        b.peer(a).pause_reading("test")
        peer = a.peer(b)
        sent = 0
        await peer.drain()  # not busy: at once
        with pytest.raises(PeerBusy) as busy:
            while True:
                a.send(b, b"x" * 50_000)
                sent += 1
                if not peer.queued > 900_000:
                    await asyncio.sleep(0)
        assert peer.busy and busy.value.queued > 1_000_000
        queued = peer.queued
        with pytest.raises(PeerBusy):
            a.send(b, 1)
        assert peer.queued == queued
        peer.signal((LINK, Pid(Atom("a@h"), 1, 0, 7), Pid(Atom("b@h"), 1, 0, 7)))  # never refused
        sent += 1
        drained = asyncio.ensure_future(peer.drain())
        await asyncio.sleep(0.05)
        assert not drained.done()
        b.peer(a).resume_reading("somebody else")
        b.peer(a).resume_reading("test")
        await drained
        assert not peer.busy and ("drained", "b@h") in a.handler.seen
        await b.handler.until(lambda: len(b.handler.payloads) == sent)


@run
async def test_a_message_over_the_hard_limit_can_be_sent() -> None:
    async with nodes("a@h", "b@h", busy_limit=1000, hard_limit=10_000) as (a, b):
        a.send(b, b"x" * 5_000_000)
        assert a.peer(b).busy
        await b.handler.until(lambda: b.handler.payloads)
        await a.peer(b).drain()


@run
async def test_peers_are_the_same_from_any_thread() -> None:
    async with nodes("a@h") as (a,):
        for index in range(20):
            name = Atom(f"p{index}@h")
            found = await asyncio.gather(*(asyncio.to_thread(a.table.get, name) for _ in range(4)))
            assert len({id(peer) for peer in found}) == 1


@run
async def test_somebody_without_the_cookie_can_not_disturb_a_connection() -> None:
    async with nodes("a@h", "b@h") as (a, b):
        await a.peer(b).connect()
        await b.handler.until(lambda: b.handler.seen)
        reader, writer = await raw(b.ports["b@h"])
        writer.write(frame(b"N" + OUR_FLAGS.to_bytes(8, "big") + bytes(4) + b"\0\3a@h"))
        assert await reader.readexactly(8) == frame(b"salive")
        writer.write(frame(b"strue"))
        await reader.readexactly(2 + 19 + 3)
        writer.write(frame(b"r" + bytes(20)))
        assert await reader.read() == b""
        writer.close()
        a.send(b, b"still there")
        await b.handler.until(lambda: b.handler.payloads == [b"still there"])
        assert b.handler.kinds() == ["up"]


@run
async def test_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    async with nodes("a@h", "b@h") as (a, b):
        port = await b.table.listen("::1")

        async def resolve(name: str) -> tuple[str, int]:
            return "::1", port

        a.table.resolve = resolve
        await a.peer(b).connect()


@run
async def test_the_first_address_that_answers_is_taken() -> None:
    async with nodes("a@h", "b@h") as (a, b):

        async def resolve(name: str) -> tuple[str, int]:
            return "localhost", b.ports["b@h"]  # maybe ::1 too, where nobody listens

        a.table.resolve = resolve
        await a.peer(b).connect()


@run
async def test_no_payload_frames_pass() -> None:
    async with nodes("a@h", "b@h") as (a, b):
        a.peer(b).signal((1, Pid(Atom("a@h"), 1, 0, 7), Pid(Atom("b@h"), 1, 0, 7)))
        await b.handler.until(lambda: b.handler.payloads)
        assert b.handler.payloads == [NO_PAYLOAD]
