"""The strawman of a node over straws in memory: opening, first use, delivery, denial, back-pressure, ends."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from typing import Any

import pytest
from strawkit import Inbox, MemoryHost, run
from waiting import LONG, until

from node import Atom, CallExit, EncodeError, GenServer, Node, NoProc, Process, StrawError
from node.strawman import manager
from node.strawman.formats import encode_envelope
from node.strawman.manager import Strawman

OK, ERROR, ENVELOPE = Atom("ok"), Atom("error"), Atom("envelope")
BUDDY, OPEN, SPLIT, CLOSE, STRAW = Atom("buddy"), Atom("open"), Atom("split"), Atom("close"), Atom("straw")


def test_open_split_close() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        assert (a.strawman.domid, b.strawman.domid) == (1, 2)
        assert await a.call("strawman", Atom("domid")) == 1
        assert await a.call("strawman", (SPLIT, 2)) == (ERROR, Atom("not_found"))
        assert await a.call("strawman", (OPEN, 2)) is OK
        assert await a.call("strawman", (OPEN, 2)) == (ERROR, Atom("exists"))
        assert await b.call("strawman", (OPEN, 1)) == (ERROR, Atom("exists"))
        assert await a.call("strawman", (OPEN, 1)) == (ERROR, Atom("self"))
        for nobody in (3, -1, 1 << 40):
            assert await a.call("strawman", (OPEN, nobody)) == (ERROR, Atom("not_found"))
        assert await a.call("strawman", (SPLIT, 2)) == (OK, a.strawman.split(2))
        assert await a.call("strawman", Atom("domains")) == [2]
        assert await a.call("strawman", (CLOSE, 2)) is OK
        assert await a.call("strawman", (CLOSE, 2)) == (ERROR, Atom("not_found"))
        assert a.strawman.split(2) is None
        for strange in (5, b"open", [OPEN, 2], (OPEN,), (OPEN, b"2"), (OPEN, 2, Atom("xml")), {}):
            assert await a.call("strawman", strange) == (ERROR, Atom("unknown_request"))
        with pytest.raises(StrawError) as caught:
            await a.strawman.open(9)
        assert (caught.value.reason, caught.value.domid) == ("not_found", 9)

    run(test)


def test_every_way_to_send() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        await a.strawman.send(2, "buddy", "one")
        pid = a.strawman.split(2)
        assert pid is not None
        a.send(pid, (ENVELOPE, BUDDY, 2))
        assert await a.call(pid, (ENVELOPE, BUDDY, 3)) is OK
        a.send("strawman", (ENVELOPE, (2, BUDDY), 4))
        assert await a.call("strawman", (ENVELOPE, (2, BUDDY), 5)) is OK
        await a.strawman.send(2, (2, BUDDY), "with our domid")
        assert sorted([str(await inbox.next()) for _ in range(6)]) == [
            "2",
            "3",
            "4",
            "5",
            "b'one'",
            "b'with our domid'",
        ]
        assert await a.call(pid, Atom("what")) == (ERROR, Atom("unknown_request"))
        for junk in (1, (), (ENVELOPE, 1), (Atom("letter"), BUDDY, 1), [ENVELOPE, BUDDY, 1]):
            a.send(pid, junk)
        assert await a.call(pid, (ENVELOPE, 5, 1)) == (
            ERROR,
            (Atom("badarg"), b"not an address: a name, a pid or {Name, Node} (at addr)"),
        )
        assert await a.call("strawman", (ENVELOPE, BUDDY, 1)) == (ERROR, Atom("badarg"))
        assert a.strawman.counts.sent == b.strawman.counts.received == 6

    run(test)


def test_first_use_keeps_order() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        host.answers = asyncio.Event()
        for n in range(5):
            a.send("strawman", (ENVELOPE, (2, BUDDY), n))
        sending = asyncio.create_task(a.strawman.send(2, "buddy", 100))
        await asyncio.sleep(0.01)
        assert inbox.messages.empty()
        assert await a.call("strawman", (OPEN, 2)) == (ERROR, Atom("exists")), "it is being opened"
        host.answers.set()
        await sending
        assert [await inbox.next() for _ in range(6)] == [0, 1, 2, 3, 4, 100]

    run(test)


def test_what_waits_for_a_straw_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "OPENING_LIMIT", 1000)

    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        host.answers = asyncio.Event()
        answers = [await a.call("strawman", (ENVELOPE, (2, BUDDY), bytes(300))) for _ in range(5)]
        assert answers == [OK] * 3 + [(ERROR, Atom("straw_busy"))] * 2
        assert a.strawman.counts.dropped_busy == 2
        assert await a.call("strawman", (ENVELOPE, (9, BUDDY), 1)) is OK, "nobody knows yet"
        host.answers.set()
        await a.strawman.send(2, "buddy", 1)
        while a.strawman.counts.unopened < 1:
            await asyncio.sleep(0)

    run(test)


def test_denied_by_default(caplog: pytest.LogCaptureFixture) -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        process = b.register("private", inbox)
        assert process is not None
        for n in range(100):
            await a.strawman.send(2, "private", n)
        for addr in ("rex", "net_kernel", "user", "strawman", ("private", b.name), "nobody", "x" * 255):
            await a.strawman.send(2, addr, 1)
        with pytest.raises(EncodeError, match="not a process of that domain"):
            await a.strawman.send(2, process.pid, 1)
        await a.strawman.send(2, ("rex", "other@127.0.0.1"), 1)
        while b.strawman.counts.unknown < 108:
            await asyncio.sleep(0)
        assert inbox.messages.empty()
        lines = [record for record in caplog.records if "not exported" in record.message]
        assert len(lines) == manager.WARN_LINES, "strangers can't fill a disk"

    with caplog.at_level(logging.WARNING):
        run(test)


def test_exports() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox, pairs = Inbox(), Inbox()
        b.register("buddy", inbox)
        other = b.register("other", pairs)
        assert other is not None
        b.strawman.export("only2", to="buddy", domains=[9])
        b.strawman.export("front", to="buddy", sender=True)
        b.strawman.export("by pid", to=other.pid)
        b.strawman.export(("other", b.name))
        b.strawman.export("gone")
        await a.strawman.send(2, "only2", 1)
        await a.strawman.send(2, "gone", 1)
        await a.strawman.send(2, "by pid", "by pid")
        await a.strawman.send(2, ("other", b.name), "by pair")
        mine = a.router.caller.pid
        for forged in (("EXIT", mine, 1), ("$gen_call", ("front", 1), 1), ("system", (mine, 1), "suspend")):
            await a.strawman.send(2, "front", (Atom(forged[0]), *forged[1:]))
        await a.strawman.send(2, "front", {"k": 1})
        assert await inbox.next() == (STRAW, 1, {b"k": 1})
        assert [await pairs.next(), await pairs.next()] == [b"by pid", b"by pair"]
        counts = b.strawman.counts
        assert (counts.refused, counts.undelivered, counts.received) == (4, 1, 3)
        b.strawman.unexport("front")
        await a.strawman.send(2, "front", 1)
        while not counts.unknown:
            await asyncio.sleep(0)
        for service in ("rex", "user"):
            with pytest.raises(ValueError, match="service"):
                b.strawman.export("x", to=service)
        rex = b.whereis("rex")
        b.strawman.export("sly", to=rex)
        await a.strawman.send(2, "sly", 1)
        while counts.undelivered < 2:
            await asyncio.sleep(0)

    run(test)


def test_a_gen_server_gets_casts_and_messages() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        got: asyncio.Queue[Any] = asyncio.Queue()

        class Server(GenServer):
            async def handle_cast(self, request: Any) -> None:
                got.put_nowait(("cast", request))

            async def handle_info(self, message: Any) -> None:
                got.put_nowait(("info", message))

        b.register("server", Server, straw=True)
        await a.strawman.send(2, "server", (Atom("$gen_cast"), 1))
        await a.strawman.send(2, "server", 2)
        assert [await got.get(), await got.get()] == [("cast", 1), ("info", 2)]

    run(test)


def test_malformed_frames_are_dropped_and_the_straw_lives(caplog: pytest.LogCaptureFixture) -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        await a.strawman.open(2)
        straw = host.domains[1].straws[0]
        for frame in (b"", b"\x83", b"hello", b"\x83a\x01", encode_envelope("buddy", 1)[:-1], b"\x83P\xff\xff\xff\xff"):
            straw.send_nowait(frame)
        straw.send_nowait(encode_envelope("buddy", [Atom("h\u00e9")], dialect="ling"))
        straw.send_nowait(encode_envelope("buddy", 1))
        assert [await inbox.next(), await inbox.next()] == [[Atom("h\u00e9")], 1]
        assert b.strawman.counts.malformed == 6
        assert b.strawman.domains == [1]

    run(test)


def test_json_straws() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        assert await a.call("strawman", (OPEN, 2, Atom("json"))) is OK
        pid = a.strawman.split(2)
        assert pid is not None
        await a.strawman.send(2, "buddy", {"k": [None, "text"]})
        a.send(pid, (ENVELOPE, BUDDY, {b"from": b"a process"}))
        assert await inbox.next() == (Atom("json"), {b"k": [Atom("null"), b"text"]})
        assert await inbox.next() == (Atom("json"), {b"from": b"a process"})
        with pytest.raises(EncodeError):
            await a.strawman.send(2, "buddy", b"bytes")
        with pytest.raises(EncodeError):
            await a.strawman.send(2, pid, 1)
        answer = await a.call(pid, (ENVELOPE, pid, 1))
        assert answer == (ERROR, (Atom("badarg"), b"a json straw takes registered names only (at addr)"))

    run(test)


def test_lings_are_told_what_they_understand() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        async with a.process() as me:
            assert await me.call("strawman", (OPEN, 2)) is OK
            pid = a.strawman.split(2)
            for wrong in ({}, [1, (me.pid, {1: 2})], Atom("\u20ac"), {me.pid: 1}):
                with pytest.raises(EncodeError):
                    await a.strawman.send(2, "buddy", wrong)
                me.send(pid, (ENVELOPE, BUDDY, wrong))
                told = await me.receive(timeout=LONG)
                assert told[:2] == (Atom("straw_error"), 2)
            assert a.strawman.tables(2).pids == 0
            a.strawman.ling_maps = True
            await a.strawman.send(2, "buddy", {1: 2})
            assert await inbox.next() == {1: 2}
        assert a.strawman.counts.unsayable == 4

    run(test, "ling")


def test_back_pressure() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        async with a.process() as me:
            assert await me.call("strawman", (OPEN, 2)) is OK
            pid = a.strawman.split(2)
            assert pid is not None
            theirs = host.domains[2].straws[0]
            theirs.pause()
            for _ in range(4):
                await a.strawman.send(2, "buddy", bytes(300))
            waiting = asyncio.create_task(a.strawman.send(2, "buddy", "late"))
            for _ in range(3):
                me.send(pid, (ENVELOPE, BUDDY, "dropped"))
            assert await a.call(pid, (ENVELOPE, BUDDY, 1)) == (ERROR, Atom("straw_busy"))
            assert await me.receive(timeout=LONG) == (Atom("straw_busy"), 2)
            assert not waiting.done()
            theirs.resume()
            await waiting
            assert [len(await inbox.next()) for _ in range(5)] == [300] * 4 + [4]
            with pytest.raises(TimeoutError):
                await me.receive(timeout=0.01)  # told once
            assert a.strawman.counts.dropped_busy == 4

    run(test)


def test_a_full_mailbox_stops_its_straw() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        go = asyncio.Event()
        got = []

        async def slow(me: Process) -> None:
            await go.wait()
            while True:
                got.append(await me.receive())

        b.router.mailbox_limit = 10
        b.register("buddy", slow, straw=True)
        await a.strawman.open(2)
        for n in range(30):
            await a.strawman.send(2, "buddy", n)
            await asyncio.sleep(0)
        assert host.domains[2].straws[0].paused
        assert b.strawman.counts.received < 15
        go.set()
        while len(got) < 30:
            await asyncio.sleep(0)
        assert got == list(range(30))
        assert not host.domains[2].straws[0].paused

    run(test)


def test_the_end_of_a_straw_is_seen() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        await a.strawman.open(2)
        ours, theirs = a.strawman.split(2), b.strawman.split(1)
        assert ours is not None
        assert theirs is not None
        with pytest.raises(StrawError, match="exists"):
            await a.strawman.open(2)
        monitor, link, far = a.monitor(ours), a.link(ours), b.monitor(theirs)
        assert await a.strawman.close(2)
        assert [await monitor, await link, await far] == [Atom("closed"), Atom("closed"), Atom("peer_closed")]
        assert a.strawman.domains == b.strawman.domains == []
        with pytest.raises(NoProc):
            await a.call(ours, 1)
        # Killing the process closes the straw; the end of one that is linked to it does not.
        await a.strawman.open(2)
        ours, theirs = a.strawman.split(2), b.strawman.split(1)
        assert ours is not None
        monitor, far = a.monitor(ours), b.monitor(theirs)
        async with a.process() as me:
            me.link(ours)
            a.link(ours).exit("crash")
            assert await a.call(ours, 1) == (ERROR, Atom("unknown_request"))
            me.send_exit(ours, "kill")
            assert [await monitor, await far] == [Atom("killed"), Atom("peer_closed")]

    run(test)


def test_the_straw_of_the_lower_domain_is_sent_on() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        a.register("buddy", inbox, straw=True)
        host.answers = asyncio.Event()
        both = asyncio.gather(a.strawman.open(2), b.strawman.open(1), return_exceptions=True)
        await until(lambda: host.openers == 2)
        host.answers.set()
        await both
        assert len(host.domains[1].straws) == 2
        first = [straw for straw in host.domains[1].straws if straw.opened_by_us]
        ours, theirs = a.strawman.process(2), b.strawman.process(1)
        assert ours is not None and ours.straw is first[0]
        assert theirs is not None and theirs.straw is first[0].other
        for straw in host.domains[1].straws:  # and both are read
            straw.send_nowait(encode_envelope("buddy", straw.opened_by_us))
        assert {await inbox.next(), await inbox.next()} == {True, False}
        first[0].close("gone")
        await asyncio.sleep(0)
        await a.strawman.send(2, "buddy", "by the other")
        assert await inbox.next() == b"by the other"

    run(test)


def test_a_dead_host_and_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "RETRY_TIME", 0.01)

    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        pid = await a.strawman.open(2)
        monitor = a.monitor(pid)
        host.up = False
        host.die()
        assert await monitor == Atom("host_down")
        assert a.strawman.domid == 0
        assert await a.call("strawman", (OPEN, 2)) == (ERROR, Atom("host_down"))
        with pytest.raises(StrawError, match="host_down"):
            await a.strawman.send(2, "buddy", 1)
        host.up = True
        while not (a.strawman.domid and b.strawman.domid):
            await asyncio.sleep(0.01)
        await a.strawman.send(b.strawman.domid, "buddy", "again")
        assert await inbox.next() == b"again"

    run(test)


def test_envelopes_wait_for_the_app() -> None:
    async def main() -> None:
        host = MemoryHost()
        async with asyncio.timeout(LONG), host.node("a", 1) as a:
            inbox = Inbox()
            b = host.node("b", 2)
            sent = asyncio.Event()

            async def app(node: Node) -> None:
                await sent.wait()
                node.register("buddy", inbox, straw=True)

            starting = asyncio.create_task(b.start(app))
            while 2 not in host.domains:
                await asyncio.sleep(0)
            await a.strawman.send(2, "buddy", 1)
            await asyncio.sleep(0.01)
            sent.set()
            await starting
            assert await inbox.next() == 1
            await b.close()

    asyncio.run(main())


def test_a_node_that_closes() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        pid = await a.strawman.open(2)
        async with host.node("c", 3) as c:
            for n in range(3):
                await c.strawman.send(2, "buddy", n)
        assert [await inbox.next() for _ in range(3)] == [0, 1, 2]
        assert 3 not in host.domains
        assert b.strawman.domains == [1]
        with pytest.raises(StrawError, match="closed"):
            await c.strawman.open(2)
        theirs = b.monitor(b.strawman.split(1))
        await a.close()
        assert await theirs == Atom("peer_closed")
        assert pid is not None

    run(test)


def test_a_node_without_pores() -> None:
    async def main() -> None:
        async with Node("x@127.0.0.1", "secret", listen=None) as node:
            node.strawman.export("buddy")
            assert node.strawman.domid == 0
            with pytest.raises(StrawError, match="no_pores"):
                await node.strawman.send(2, "buddy", 1)
            with pytest.raises(NoProc):
                await node.call("strawman", (OPEN, 2))

    asyncio.run(main())


def test_the_server_is_made_again() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        await a.strawman.open(2)
        process = a.router.registry.get(Atom("strawman"))
        assert process is not None
        process.kill()
        with pytest.raises((NoProc, CallExit)):
            await a.call(process.pid, (SPLIT, 2))
        while a.whereis("strawman") is None:
            await asyncio.sleep(0)
        assert await a.call("strawman", (SPLIT, 2)) == (OK, a.strawman.split(2))

    run(test)


def test_sys_get_state() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        async with a.process() as me:
            ref = a.router.new_ref()
            me.send("strawman", (Atom("system"), (me.pid, ref), Atom("get_state")))
            assert (await me.receive(timeout=LONG))[0] == ref

    run(test)


def test_repr_and_type() -> None:
    assert isinstance(Node("x@127.0.0.1", "secret", listen=None).strawman, Strawman)


def test_a_node_needs_nothing_of_pores_until_asked() -> None:
    code = "import node, sys; print([name for name in sys.modules if name.split('.')[0] == 'pores'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
