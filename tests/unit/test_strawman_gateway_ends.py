"""Links and monitors across straws, in memory: what is told of ends, and what does not cross."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from gatewaykit import DIALECTS, DOWN, EMPTY, EXIT, NOCONNECTION, PROCESS, Double
from strawkit import Inbox, MemoryHost, MemoryStraw, run
from waiting import LONG, until

from node import Atom, Node, NodeDown, Process
from node.strawman.formats import Dialect
from node.strawman.tables import Counted


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
