"""Pids across straws, in memory: limits of the tables, and peers that forge, flood and lie."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from gatewaykit import ALIAS, BUDDY, CALL, DOWN, ENVELOPE, EXIT, NOCONNECTION, PROCESS, crossing, frame
from strawkit import Inbox, MemoryHost, run
from waiting import LONG, until

from node import Atom, EncodeError, ImproperList, Node, Pid, Reference, StrawError
from node.etf import encode
from node.terms import LingPid


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
