"""Pids across straws, in memory: as values, in calls both ways, by name, in chains."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from gatewaykit import ALIAS, DIALECTS, DOWN, EMPTY, ERROR, NOCONNECTION, OK, PROCESS, PROXY, Double, crossing, frame
from strawkit import Inbox, MemoryHost, MemoryStraw, run
from waiting import LONG, until

from node import (
    Atom,
    CallTimeout,
    EncodeError,
    ImproperList,
    Node,
    NodeDown,
    NoProc,
    PeerBusy,
    Pid,
    Process,
    Reference,
    StrawError,
)
from node.strawman.formats import Dialect
from node.strawman.tables import Counted
from node.terms import LingPid


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_pid_goes_and_comes_back(dialect: Dialect) -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        async with a.process() as me:
            await a.strawman.send(2, "buddy", (Atom("from"), [me.pid, me.pid]))
            _, [pid, same] = await inbox.next()
            assert type(pid) is Pid and pid == same and pid.node is Atom(b.name)
            assert b.strawman.place(pid) == (1, crossing(a, 2).out[me.pid] & 0xFFFFFFFF)
            assert b.strawman.place(me.pid) is None
            assert repr(b.router.find(pid)).startswith(
                f"<Process {crossing(a, 2).out[me.pid] & 0xFFFFFFFF} of domain 1 "
            )
            # From Python, from any process, the same pid again: the other side gets its own pid.
            b.send(pid, (Atom("hello"), pid, b.router.caller.pid))
            hello, mine, theirs = await me.receive(timeout=LONG)
            assert (hello, mine) == (Atom("hello"), me.pid)
            assert a.strawman.place(theirs) is not None
            await b.strawman.send(1, pid, "by envelope")
            assert await me.receive(timeout=LONG) == b"by envelope"
            assert a.strawman.tables(2) == Counted(1, 0, 1, 0)
            assert b.strawman.tables(1) == Counted(1, 0, 1, 0)
        assert a.strawman.tables(2) == Counted(0, 0, 1, 0), "the process has ended"
        b.send(pid, "nobody is there")
        await until(lambda: a.strawman.counts.undelivered)
        assert a.strawman.counts.forged == 0

    run(test, dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dead_pid_comes_back_as_one(dialect: Dialect) -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        to_b, to_a = Inbox(), Inbox()
        b.register("buddy", to_b, straw=True)
        a.register("buddy", to_a, straw=True)
        async with a.process() as me:
            await a.strawman.send(2, "buddy", me.pid)
            pid = await to_b.next()
            gone = me.pid
        assert not me.alive
        await b.strawman.send(1, "buddy", [1, pid])
        [_, back] = await to_a.next()
        assert type(back) is Pid and back != gone
        assert await a.monitor(back) == Atom("noproc")
        # One that was dead before it was ever sent is one, too.
        await a.strawman.send(2, "buddy", gone)
        dead = await to_b.next()
        if dialect == "otp":
            await until(lambda: b.router.find(dead) is None)
        else:  # nobody tells
            b.send(dead, 1)
            await until(lambda: a.strawman.counts.undelivered)
        assert a.strawman.tables(2).pids == 0

    run(test, dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_references(dialect: Dialect) -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()

        async def echo(me: Process) -> None:
            while True:
                to, term = await me.receive()
                me.send(to, term)

        b.register("echo", echo, straw=True)
        a.register("inbox", inbox, straw=True)
        here = await a.strawman.proxy(2, "echo")
        async with a.process() as me:
            far = Atom("x@y")
            refs = [a.router.new_ref(), Reference(far, 2**32 - 1, (1, 2, 0)), Reference(far, 7, (1, 0, 0))]
            refs += [Reference(far, 5, (2**18, 1, 1)), Reference(far, 5, (1, 2, 3, 4, 5)), Reference(far, 5, (1,))]
            terms = [*refs, ImproperList((ALIAS,), refs[4]), [ImproperList((ALIAS,), refs[0]), 2]]
            terms += [ImproperList((1, ALIAS), refs[0]), ImproperList((ImproperList((ALIAS,), refs[1]),), 3)]
            me.send(here, (me.pid, terms))
            assert await me.receive(timeout=LONG) == terms
            # none of them was a call that was answered: they wait for their time
            assert a.strawman.tables(2).refs == (3 if dialect == "otp" else 6)

    run(test, dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_calls_leave_nothing(dialect: Dialect) -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        b.register("double", Double, straw=True)
        name = await a.strawman.proxy(2, "double")
        assert name == await a.strawman.proxy(2, Atom("double"))
        server = await a.call(name, Atom("self"))
        assert a.strawman.place(name) == (2, Atom("double"))
        for n in range(200):
            async with a.process() as me:
                assert await me.call(name, n) == 2 * n
                assert await me.call(server, n) == 2 * n
                assert a.strawman.tables(2) == Counted(2, 0, 1, 1)
        assert await a.call(server, 1.5) == 3.0
        assert a.strawman.tables(2) == Counted(1, 0, 1, 1), "the caller without a process, the server, the name"
        assert b.strawman.tables(1).refs == 0
        assert a.strawman.counts.late == b.strawman.counts.forged == 0

    run(test, dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_late_replies_are_dropped_and_counted(dialect: Dialect) -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        a.strawman.limits = replace(a.strawman.limits, ref_time=0.05)
        b.register("double", Double, straw=True)
        name = await a.strawman.proxy(2, "double")
        async with a.process() as me:
            with pytest.raises(CallTimeout):
                await me.call(name, Atom("later"), timeout=0.01)
            assert a.strawman.tables(2).refs == 1
            await until(lambda: a.strawman.tables(2).refs == 0)
            assert await me.call(name, Atom("answer")) == 1
            assert (a.strawman.counts.late, a.strawman.tables(2).refs) == (1, 0)
            with pytest.raises(TimeoutError):
                await me.receive(timeout=0.01)
            # Within its time the table lets it through, to an alias that is gone already.
            a.strawman.limits = replace(a.strawman.limits, ref_time=60.0)
            with pytest.raises(CallTimeout):
                await me.call(name, Atom("later"), timeout=0.01)
            assert await me.call(name, Atom("answer")) == 2
            with pytest.raises(TimeoutError):
                await me.receive(timeout=0.01)
        assert a.strawman.tables(2).refs == 0

    run(test, dialect)


def test_what_cannot_be_said_is_an_error_to_the_sender() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        b.register("double", Double, straw=True)
        name = await a.strawman.proxy(2, "double")
        pid = await a.call(name, Atom("self"))
        async with a.process() as me:
            for to in (name, pid):
                for wrong in ({1: 2}, Atom("\u20ac")):
                    with pytest.raises(EncodeError):
                        me.send(to, [me.pid, wrong])
                    with pytest.raises(EncodeError):
                        await me.call(to, wrong)
            assert a.strawman.tables(2) == Counted(1, 0, 1, 1), "nothing of it is left but the caller of before"
            # A server lives on when its answer can't be said: the caller waits in vain.
            with pytest.raises(CallTimeout):
                await me.call(pid, Atom("map"), timeout=0.05)
            assert await me.call(pid, 1) == 2
            assert b.strawman.counts.unsayable == 1
            b.strawman.ling_maps = True
            assert await me.call(pid, Atom("map")) == {1: 2}

    run(test, "ling")


def test_a_busy_straw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryStraw, "limit", 100)

    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        b.register("double", Double, straw=True)
        name = await a.strawman.proxy(2, "double")
        host.domains[2].straws[0].pause()
        async with a.process() as me:
            me.send(name, bytes(200))
            with pytest.raises(PeerBusy, match="domain 2"):
                me.send(name, me.pid)
            with pytest.raises(PeerBusy):
                await me.call(name, me.pid)
        assert a.strawman.tables(2) == Counted(0, 0, 0, 1)

    run(test)


def test_names_as_pids() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        a.strawman.limits = replace(a.strawman.limits, names=2)
        b.register("double", Double, straw=True)
        answer = await a.call("strawman", (PROXY, 2, Atom("double")))
        assert answer[0] is OK and await a.call(answer[1], 21) == 42
        assert await a.call("strawman", (PROXY, 2, Atom("double"))) == answer
        assert await a.call("strawman", (PROXY, 9, Atom("double"))) == (ERROR, Atom("not_found"))
        assert await a.call("strawman", (PROXY, 1, Atom("double"))) == (ERROR, Atom("self"))
        assert await a.call("strawman", (PROXY, 2, 5)) == (ERROR, Atom("unknown_request"))
        await a.strawman.proxy(2, "second")
        with pytest.raises(StrawError, match="too_many"):
            await a.strawman.proxy(2, "third")
        assert await a.call("strawman", (PROXY, 2, Atom("third"))) == (ERROR, Atom("too_many"))
        await a.strawman.close(2)
        again = await a.call("strawman", (PROXY, 2, Atom("double")))
        assert again[1] != answer[1] and await a.call(again[1], 1) == 2

    run(test)


def test_a_name_on_a_json_straw() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        await a.strawman.open(2, format="json")
        name = await a.strawman.proxy(2, "buddy")
        async with a.process() as me:
            ref = me.monitor(name)
            me.send(name, {b"k": [b"v"]})
            assert await inbox.next() == (Atom("json"), {b"k": [b"v"]})
            with pytest.raises(EncodeError):
                me.send(name, me.pid)
            assert a.strawman.tables(2) == Counted(0, 0, 0, 1)
            await b.strawman.close(1)
            assert await me.receive(timeout=LONG) == (DOWN, ref, PROCESS, name, NOCONNECTION)

    run(test)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_chain(dialect: Dialect) -> None:
    """1 - 2 - 3: what 1 and 3 know of each other is 2's."""

    async def main() -> None:
        host = MemoryHost(dialect)
        async with (
            asyncio.timeout(LONG),
            host.node("a", 1) as a,
            host.node("b", 2) as b,
            host.node("c", 3) as c,
        ):
            c.register("double", Double, straw=True)
            b.strawman.export("double", to=await b.strawman.proxy(3, "double"), domains=[1])
            name = await a.strawman.proxy(2, "double")
            async with a.process() as me:
                assert await me.call(name, 4) == 8
                server = await me.call(name, Atom("self"))
                assert await me.call(server, 5) == 10
                ref = me.monitor(server)
                later = asyncio.create_task(me.call(server, Atom("later"), timeout=None))
                await until(lambda: b.strawman.tables(3).refs or a.strawman.tables(2).refs)
                assert 3 not in a.strawman.domains
                await c.close()
                # The straw from 1 to 2 lives: what 1 knows is a process of 2, and nobody says that it has ended.
                await until(lambda: b.strawman.tables(3) == EMPTY)
                assert b.strawman.tables(1).pids == 0
                await b.strawman.close(1)
                assert await me.receive(timeout=LONG) == (DOWN, ref, PROCESS, server, NOCONNECTION)
                with pytest.raises(NodeDown):
                    await later
            assert a.strawman.tables(2) == b.strawman.tables(1) == EMPTY

    asyncio.run(main())


def test_nobody_is_there() -> None:
    """That a name over there is nobody's a straw does not tell; that a proxy has ended its node does."""

    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        name = await a.strawman.proxy(2, "nobody")
        with pytest.raises(CallTimeout):
            await a.call(name, 1, timeout=0.02)
        await a.strawman.close(2)
        with pytest.raises(NoProc):
            await a.call(name, 1)

    run(test)


def test_from_other_threads() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        name = await a.strawman.proxy(2, "buddy")

        def work() -> None:
            a.send(name, (1, a.router.caller.pid))
            a.send(name, {1: 2})  # nobody is there to be told
            a.send(name, 3)

        await asyncio.to_thread(work)
        first, last = await inbox.next(), await inbox.next()
        assert b.strawman.place(first[1]) is not None and last == 3
        assert (a.strawman.counts.unsayable, a.router.dropped) == (1, 1)

    run(test, "ling")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_two_straws_to_one_domain_share_their_pids(dialect: Dialect) -> None:
    """Both opened at once; a LING answers on whichever it finds first."""

    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        host.answers = asyncio.Event()
        both = asyncio.gather(a.strawman.open(2), b.strawman.open(1), return_exceptions=True)
        await until(lambda: host.openers == 2)
        host.answers.set()
        await both
        assert len(host.domains[1].straws) == 2
        name = await a.strawman.proxy(2, "buddy")
        async with a.process() as me:
            ref = me.monitor(name)
            me.send(name, me.pid)
            pid = await inbox.next()
            [id] = crossing(a, 2).given
            for straw in host.domains[2].straws:
                straw.send_nowait(frame(LingPid(0, 1, id), straw.opened_by_us))
            assert {await me.receive(timeout=LONG), await me.receive(timeout=LONG)} == {True, False}
            for number, straw in enumerate(list(host.domains[1].straws)):
                b.send(pid, number)
                assert await me.receive(timeout=LONG) == number
                straw.close("gone")
                await asyncio.sleep(0)
                await until(lambda number=number: len(b.strawman._straws.get(1, ())) == 1 - number)
            assert await me.receive(timeout=LONG) == (DOWN, ref, PROCESS, name, NOCONNECTION)
        assert a.strawman.tables(2) == b.strawman.tables(1) == EMPTY

    run(test, dialect)


def test_messages_for_a_proxy() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        proxy = await a.strawman.proxy(2, "buddy")
        message = [1, "text", None, {"key": (2.5, b"bytes")}]
        a.send(proxy, message)
        message.append("too late")
        assert await inbox.next() == [1, b"text", Atom("undefined"), {b"key": (2.5, b"bytes")}]
        ref = a.router.new_ref()
        for strange in (object(), (ref, object()), [float("nan")]):  # no terms: the sender's fault, also in a reply
            with pytest.raises(EncodeError):
                a.send(proxy, strange)
            with pytest.raises(EncodeError):
                await a.call(proxy, strange)
        assert not a.router.calls
        assert a.strawman.counts.sent == 1 and a.strawman.tables(2).refs == 0

    run(test)


def test_messages_for_a_proxy_on_a_json_straw() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        await a.strawman.open(2, format="json")
        proxy = await a.strawman.proxy(2, "buddy")
        a.send(proxy, [1, "text", bytearray(b"more"), {"key": True}])
        assert await inbox.next() == (Atom("json"), [1, b"text", b"more", {b"key": True}])
        with pytest.raises(EncodeError):
            a.send(proxy, (1, 2))

    run(test)
