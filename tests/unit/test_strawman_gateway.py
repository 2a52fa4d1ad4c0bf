"""Pids across straws, in memory: proxies, calls both ways, chains, ends, limits, and peers that forge."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from strawkit import Inbox, MemoryHost, MemoryStraw, run
from waiting import LONG, until

from node import (
    Atom,
    CallTimeout,
    EncodeError,
    GenServer,
    ImproperList,
    Node,
    NodeDown,
    NoProc,
    NoReply,
    PeerBusy,
    Pid,
    Process,
    Reference,
    StrawError,
)
from node.etf import Crossing, encode
from node.strawman.formats import Dialect
from node.strawman.tables import Counted
from node.terms import LingPid

OK, ERROR, ENVELOPE, PROXY = Atom("ok"), Atom("error"), Atom("envelope"), Atom("proxy")
BUDDY, DOWN, PROCESS, NOCONNECTION = Atom("buddy"), Atom("DOWN"), Atom("process"), Atom("noconnection")
CALL, ALIAS, EXIT = Atom("$gen_call"), Atom("alias"), Atom("EXIT")
EMPTY = Counted(0, 0, 0, 0)
DIALECTS: list[Dialect] = ["otp", "ling"]


def crossing(node: Node, domid: int) -> Crossing:
    """The codec's tables of a domain."""
    process = node.strawman.process(domid)
    assert process is not None
    return process.gateway.tables.crossing


class Double(GenServer):
    """Answers twice what it is asked; keeps who asked for what it is to answer later; tells nobody of `self`."""

    def init(self, *args: Any, **kwargs: Any) -> None:
        self.callers: list[Any] = []

    async def handle_call(self, request: Any, caller: Any) -> Any:
        match request:
            case Atom("later"):
                self.callers.append(caller)
                return NoReply()
            case Atom("answer"):
                for waiting in self.callers:
                    self.reply(waiting, Atom("late"))
                return len(self.callers)
            case Atom("self"):
                return self.pid
            case Atom("map"):
                return {1: 2}
        return request * 2

    async def handle_info(self, message: Any) -> None:
        pass


# ---- pids as values --------------------------------------------------------------------------------------------


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


# ---- links and monitors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("closing", ["a", "b", "dies"])
def test_the_end_of_the_straw_is_noconnection(closing: str) -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        name = await a.strawman.proxy(2, "buddy")
        async with a.process() as me, b.process() as watcher, b.process() as linked:
            me.send(name, me.pid)
            pid = await inbox.next()
            ref, by_name = watcher.monitor(pid), me.monitor(name)
            linked.trap_exit = True
            linked.link(pid)
            if closing == "a":
                assert await a.strawman.close(2)
            elif closing == "b":
                assert await b.strawman.close(1)
            else:
                host.die()
            assert await watcher.receive(timeout=LONG) == (DOWN, ref, PROCESS, pid, NOCONNECTION)
            assert await linked.receive(timeout=LONG) == (EXIT, pid, NOCONNECTION)
            assert await me.receive(timeout=LONG) == (DOWN, by_name, PROCESS, name, NOCONNECTION)
            for node in (a, b):
                await until(lambda node=node: node.strawman.tables(3 - 1) == EMPTY)
                assert not node.strawman._gateways
            assert await b.monitor(pid) == Atom("noproc")

    run(test)


def test_signals_do_not_cross() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        b.register("double", Double, straw=True)
        name = await a.strawman.proxy(2, "double")
        server = await a.call(name, Atom("self"))
        async with a.process() as me, a.process() as other:
            for pid in (name, server):
                me.send_exit(pid, "kill")
                other.link(pid)
                other.link(me.pid)
                me.trap_exit = True
            me.send_exit(other.pid, "kill")
            assert (await me.receive(timeout=LONG))[2] == Atom("killed")
            assert await me.call(server, 4) == await me.call(name, 4) == 8
            ref = me.monitor(server)
            me.demonitor(ref)
            me.link(server)
            me.unlink(server)

    run(test)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_end_of_a_process_is_told(dialect: Dialect) -> None:
    """After all that it sent, with its reason; a LING tells nobody, and is told nothing."""

    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)

        async def short(me: Process) -> None:
            me.send(name, me.pid)
            back = await me.receive()
            for n in range(10):
                me.send(back, n)
            me.exit((Atom("gone"), [b"why", me.pid]))

        name = await a.strawman.proxy(2, "buddy")
        a.spawn(short)
        pid = await inbox.next()
        async with b.process() as watcher, b.process() as linked:
            linked.trap_exit = True
            linked.link(pid)
            ref = watcher.monitor(pid)
            watcher.send(pid, watcher.pid)
            assert [await watcher.receive(timeout=5) for _ in range(10)] == list(range(10))
            await until(lambda: not a.strawman.tables(2).pids)
            if dialect == "ling":
                assert b.strawman.tables(1).proxies == 1
                assert await a.strawman.close(2)
                assert await watcher.receive(timeout=5) == (DOWN, ref, PROCESS, pid, NOCONNECTION)
                return
            reason = (await watcher.receive(timeout=5))[4]
            assert reason[0] is Atom("gone") and reason[1][0] == b"why"
            assert await linked.receive(timeout=5) == (EXIT, pid, reason)
            assert await b.monitor(pid) == Atom("noproc")
            await until(lambda: not b.strawman.tables(1).proxies)

    run(test, dialect)


@pytest.mark.parametrize("unsayable", [False, True], ids=["long", "unsayable"])
def test_a_reason_that_does_not_cross(unsayable: bool) -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        a.strawman.limits = replace(a.strawman.limits, pids=1)
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        async with a.process() as me, b.process() as watcher:
            await a.strawman.send(2, "buddy", me.pid)
            ref = watcher.monitor(pid := await inbox.next())
            me.end(a.spawn(inbox).pid if unsayable else b"x" * (1 << 16))
            assert await watcher.receive(timeout=5) == (DOWN, ref, PROCESS, pid, Atom("noproc"))
            await until(lambda: a.strawman.tables(2).pids == 0)

    run(test)


def test_an_end_is_told_over_a_busy_straw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later, but it is: who monitors would wait for ever."""

    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        async with a.process() as me, a.process() as other, b.process() as watcher:
            await a.strawman.send(2, "buddy", [me.pid, other.pid])
            pids = await inbox.next()
            refs = [watcher.monitor(pid) for pid in pids]
            refuse = True
            send_nowait = MemoryStraw.send_nowait

            def busy(self: MemoryStraw, frame: bytes) -> bool:
                return not refuse and send_nowait(self, frame)

            async def send(self: MemoryStraw, frame: bytes) -> None:
                while not self.send_nowait(frame):
                    await asyncio.sleep(0)

            monkeypatch.setattr(MemoryStraw, "send_nowait", busy)
            monkeypatch.setattr(MemoryStraw, "send", send)
            me.end("one")
            other.end("two")
            await until(lambda: not a.strawman.tables(2).pids)
            refuse = False
            for ref, pid, reason in zip(refs, pids, (b"one", b"two"), strict=True):
                assert await watcher.receive(timeout=5) == (DOWN, ref, PROCESS, pid, reason)

    run(test)


def test_many_short_lived_callers() -> None:
    """As many as come: those that have ended take no room."""

    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        b.strawman.limits = replace(b.strawman.limits, proxies=4)
        b.register("double", Double, straw=True)
        name = await a.strawman.proxy(2, "double")
        for n in range(100):
            async with a.process() as me:
                assert await me.call(name, n) == 2 * n
        assert b.strawman.counts.crowded == 0
        await until(lambda: not b.strawman.tables(1).proxies)
        assert a.strawman.tables(2) == Counted(0, 0, 0, 1)

    run(test)


# ---- calls -----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_caller_that_dies_takes_its_references_along(dialect: Dialect) -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        b.register("double", Double, straw=True)
        name = await a.strawman.proxy(2, "double")
        async with a.process() as me:
            call = asyncio.create_task(me.call(name, Atom("later")))
            await until(lambda: a.strawman.tables(2).refs)
            assert a.strawman.tables(2) == Counted(1, 1, 0, 1)
        assert a.strawman.tables(2) == Counted(0, 0, 0, 1)
        call.cancel()
        assert await a.call(name, Atom("answer")) == 1
        if dialect == "otp":  # the answer stays over there: nobody is there to have it
            assert a.strawman.counts.undelivered == a.strawman.counts.late == 0
        else:
            await until(lambda: a.strawman.counts.undelivered == 1)

    run(test, dialect)


@pytest.mark.parametrize("by_pid", [False, True])
def test_a_straw_that_closes_ends_calls(by_pid: bool) -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        b.register("double", Double, straw=True)
        to = await a.strawman.proxy(2, "double")
        if by_pid:
            to = await a.call(to, Atom("self"))
        async with a.process() as me:
            calls = [
                asyncio.create_task(node.call(to, Atom("later"), timeout=None))
                for node in (a, me)  # type: ignore[attr-defined]
            ]
            await until(lambda: a.strawman.tables(2).refs == 1)
            await b.strawman.close(1)
            for call in calls:
                with pytest.raises(NodeDown, match="the straw has closed"):
                    await call
            assert a.strawman.tables(2) == b.strawman.tables(1) == EMPTY

    run(test)


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


# ---- first addressing ------------------------------------------------------------------------------------------


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


# ---- limits ----------------------------------------------------------------------------------------------------


def test_full_tables() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        a.strawman.limits = replace(a.strawman.limits, pids=3, refs=2)
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        name = await a.strawman.proxy(2, "buddy")
        processes = [a.spawn(inbox) for _ in range(5)]
        with pytest.raises(EncodeError, match="3 processes"):
            a.send(name, [process.pid for process in processes])
        assert a.strawman.tables(2).pids == 0, "what was made for it is taken back"
        a.send(name, [process.pid for process in processes[:3]])
        with pytest.raises(EncodeError, match="3 processes"):
            a.send(name, processes[3].pid)
        assert len(await inbox.next()) == 3
        processes[0].kill()
        a.send(name, processes[3].pid)
        assert b.strawman.place(await inbox.next()) is not None
        tags = [ImproperList((ALIAS,), a.router.new_ref()) for _ in range(3)]
        with pytest.raises(EncodeError, match="2 calls"):
            a.send(name, tags)
        assert a.strawman.tables(2).refs == 0
        a.send(name, tags[:2])
        a.send(name, tags[:1])
        with pytest.raises(EncodeError, match="2 calls"):
            a.send(name, tags[2])

    run(test)


def test_ids_exhausted_closes_the_straw() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        a.strawman.limits = replace(a.strawman.limits, ids=3)
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        name = await a.strawman.proxy(2, "buddy")
        straw = a.strawman.split(2)
        assert straw is not None
        down, far = a.monitor(straw), a.monitor(name)
        for n in range(3):
            async with a.process() as me:
                me.send(name, (n, me.pid))
                assert (await inbox.next())[0] == n
        async with a.process() as me:
            me.send(name, me.pid)  # it could not be sent: the straw is gone
            assert await down == Atom("ids_exhausted")
            assert await far == NOCONNECTION
            await until(lambda: not b.strawman.domains)
            name = await a.strawman.proxy(2, "buddy")
            me.send(name, (4, me.pid))
            assert (await inbox.next())[0] == 4
            with pytest.raises(StrawError, match="ids_exhausted"):
                await a.strawman.send(2, "buddy", [a.spawn(inbox).pid for _ in range(3)])
            a.send("strawman", (ENVELOPE, (2, BUDDY), me.pid))
            assert a.strawman.place(await inbox.next()) is None

    run(test)


def test_proxies_make_room_only_when_nobody_uses_them() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        b.strawman.limits = replace(b.strawman.limits, proxies=4, idle_time=0.0)
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        name = await a.strawman.proxy(2, "buddy")
        gateway = next(iter(b.strawman._gateways.values()))
        async with b.process() as me:
            for _ in range(4):
                a.send(name, a.spawn(inbox).pid)
            pids = [await inbox.next() for _ in range(4)]
            me.monitor(pids[0])
            me.link(pids[1])
            a.send(name, a.spawn(inbox).pid)
            await until(lambda: b.strawman.counts.crowded)
            assert [b.router.find(pid) is not None for pid in pids] == [True] * 4
            gateway._swept -= 100  # now it may look
            a.send(name, [a.spawn(inbox).pid, a.spawn(inbox).pid])
            more = await inbox.next()
            assert [b.router.find(pid) is not None for pid in pids] == [True, True, False, False]
            assert all(b.strawman.place(pid) for pid in more)
            assert b.strawman.tables(1).proxies == 4
        assert b.strawman.counts.crowded == 1

    run(test)


# ---- hostile peers ---------------------------------------------------------------------------------------------


def frame(addr: Any, message: Any) -> bytes:
    return encode((ENVELOPE, addr, message), dialect="ling", ling_maps=True)


def test_forged_pids() -> None:
    async def main() -> None:
        host = MemoryHost()
        async with (
            asyncio.timeout(LONG),
            host.node("a", 1) as a,
            host.node("b", 2) as b,
            host.node("c", 3) as c,
        ):
            inbox, private = Inbox(), Inbox()
            b.register("buddy", inbox, straw=True)
            process = b.register("private", private)
            assert process is not None
            # Domain 1 is told of `private`; domain 3 is not.
            a_inbox = Inbox()
            a.register("buddy", a_inbox, straw=True)
            await b.strawman.send(1, "buddy", process.pid)
            await a_inbox.next()
            [id] = crossing(b, 1).given
            await c.strawman.open(2)
            enemy = host.domains[3].straws[-1]
            forged = [LingPid(0, 2, id), LingPid(0, 1, id), LingPid(0, 1, 5), LingPid(0, 7, 5), LingPid(1, 2, id)]
            forged += [LingPid(0, 2, (id + n) & 0x7FFFFFF) for n in range(-20, 20)]
            forged += [LingPid(0, 3, 1 << 27), LingPid(0, 2, id + (1 << 27)), LingPid(0, 3, 2**32 - 1)]
            for pid in forged:
                enemy.send_nowait(frame(pid, "forged"))
                enemy.send_nowait(frame(BUDDY, [1, (pid,)]))
                enemy.send_nowait(frame(BUDDY, (CALL, (pid, 1), Atom("x"))))
                await asyncio.sleep(0)
            await until(lambda: b.strawman.counts.forged == 3 * len(forged))
            # Pids as OTP writes them, whoever's they are.
            before = b.strawman.counts.malformed
            for pid in (process.pid, b.whereis("rex"), Pid(Atom("x@y"), 1, 2, 3)):
                enemy.send_nowait(encode((ENVELOPE, pid, 1)))
                enemy.send_nowait(encode((ENVELOPE, BUDDY, pid)))
                enemy.send_nowait(encode((ENVELOPE, BUDDY, (CALL, (pid, 1), 1))))
            await until(lambda: b.strawman.counts.malformed == before + 9)
            # Its own processes it may name, but not be sent to by it; nothing that looks like a signal goes anywhere.
            enemy.send_nowait(frame(LingPid(0, 3, 5), "back to me"))
            await until(lambda: b.strawman.counts.unknown == 1)
            straw = host.domains[1].straws[0]
            mine = LingPid(0, 1, 77)
            ref = Reference(Atom("local"), 0, (1, 2, 3))
            alias = ImproperList((ALIAS,), ref)
            signals: list[Any] = [(EXIT, mine, 1), (DOWN, ref, PROCESS, mine, 1), (Atom("system"), (mine, ref), 1)]
            signals += [(CALL, (mine, alias), 1), (CALL, (mine, [alias, 1]), 1), (CALL, 5, 1), (CALL, (1, ref), 1)]
            signals += [(CALL, (mine, ImproperList((alias,), 1)), 1)]
            for signal in signals:
                straw.send_nowait(frame(LingPid(0, 2, id), signal))
                straw.send_nowait(frame(BUDDY, signal))
                await asyncio.sleep(0)
            await until(lambda: b.strawman.counts.refused == 2 * len(signals))
            straw.send_nowait(frame(LingPid(0, 2, id), (ref, "as a reply")))
            assert (await private.next())[1] == b"as a reply"
            straw.send_nowait(frame(BUDDY, "last"))
            assert await inbox.next() == b"last"
            assert private.messages.empty() and inbox.messages.empty()
            assert b.strawman.domains == [1, 3]

    asyncio.run(main())


def test_a_forged_reply_reaches_no_alias() -> None:
    """Only what the table gave out leads to an alias, and only with the pid that it was given out with."""

    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        name = await a.strawman.proxy(2, "buddy")
        async with a.process() as me, a.process() as other:
            call = asyncio.create_task(me.call(name, 1, timeout=None))
            other.send(name, other.pid)
            first, second = await inbox.next(), await inbox.next()
            (_, (_, tag), _) = first if type(first) is tuple else second
            [id] = [id for id, pid in crossing(a, 2).given.items() if pid == other.pid]
            enemy = host.domains[2].straws[0]
            enemy.send_nowait(encode((ENVELOPE, LingPid(0, 1, id), (tag, "to the wrong one")), dialect="ling"))
            got = await other.receive(timeout=LONG)
            assert type(got[0]) is ImproperList and got[1] == b"to the wrong one"
            assert not call.done()
            assert a.strawman.tables(2).refs == 1
            call.cancel()

    run(test, "ling")


def test_a_flood_of_pids() -> None:
    async def test(host: MemoryHost, a: Node, b: Node) -> None:
        b.strawman.limits = replace(b.strawman.limits, proxies=100)
        inbox = Inbox()
        b.register("buddy", inbox, straw=True)
        await a.strawman.open(2)
        enemy = host.domains[1].straws[0]
        processes = len(b.router.processes)
        for n in range(0, 500, 10):
            enemy.send_nowait(frame(BUDDY, [LingPid(0, 1, n + k) for k in range(10)]))
            await asyncio.sleep(0)
        await until(lambda: b.strawman.counts.crowded == 40)
        assert b.strawman.tables(1).proxies == 100
        assert len(b.router.processes) == processes + 100
        # Those that are known still get through, and one frame alone can't bring more than the limit either.
        enemy.send_nowait(frame(BUDDY, LingPid(0, 1, 99)))
        enemy.send_nowait(frame(BUDDY, [LingPid(0, 1, 1000 + k) for k in range(1000)]))
        await until(lambda: b.strawman.counts.crowded == 41)
        for _ in range(11):
            await inbox.next()
        assert inbox.messages.empty()
        await a.strawman.close(2)
        await until(lambda: len(b.router.processes) < processes)

    run(test)


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


# ---- what a proxy gets is not copied before it is encoded ---------------------------------------------------------


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
