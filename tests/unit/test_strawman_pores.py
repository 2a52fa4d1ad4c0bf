"""Nodes as domains of a host service in this process: the real membrane and shared memory under the strawman."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from node import Atom, Node, Process, StrawError
from pores.host import spawn
from pores.host.rundir import RunDir
from pores.host.server import Host
from pores.host.spawn import answers

INBOX, ENVELOPE = Atom("inbox"), Atom("envelope")


class Place:
    """A host service, and nodes on it that keep what comes for `inbox`."""

    def __init__(self, rundir: str) -> None:
        self.rundir = rundir
        self.host = Host(rundir)
        self.nodes: list[Node] = []

    async def node(self, name: str, domid: int = 0, **options: Any) -> tuple[Node, asyncio.Queue[Any]]:
        node = Node(f"{name}@127.0.0.1", "secret", listen=None, pores=self.rundir, domid=domid, **options)
        got: asyncio.Queue[Any] = asyncio.Queue()

        async def inbox(me: Process) -> None:
            while True:
                got.put_nowait(await me.receive())

        node.register("inbox", inbox, straw=True)
        self.nodes.append(node)
        await node.start()
        return node, got


def run(test: Callable[[Place], Awaitable[None]]) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="straw-") as rundir:
            place = Place(rundir)
            await place.host.start()
            try:
                async with asyncio.timeout(50):
                    await test(place)
            finally:
                for node in place.nodes:
                    await node.close()
                await place.host.close()

    asyncio.run(main())


async def none(node: Node) -> None:
    while node.strawman.domains:
        await asyncio.sleep(0.005)


def test_both_open_at_once_again_and_again() -> None:
    """First use from both sides in the same moment: nothing is lost, order is kept, and nothing leaks."""

    async def test(place: Place) -> None:
        (a, to_a), (b, to_b) = await place.node("a"), await place.node("b")
        da, db = a.strawman.domid, b.strawman.domid
        fds = 0
        for n in range(40):
            a.send("strawman", (ENVELOPE, (db, INBOX), ("first", n)))
            await asyncio.gather(a.strawman.send(db, "inbox", n), b.strawman.send(da, "inbox", n))
            b.send("strawman", (ENVELOPE, (da, INBOX), ("last", n)))
            assert [await to_b.get(), await to_b.get()] == [(b"first", n), n]
            assert [await to_a.get(), await to_a.get()] == [n, (b"last", n)]
            await asyncio.gather(a.strawman.close(db), b.strawman.close(da))
            await asyncio.gather(none(a), none(b))
            if n == 5:
                fds = len(os.listdir("/proc/self/fd"))
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= fds + 8  # one straw may still be on its way out
        assert len(a.router.processes) == len(b.router.processes) == 6

    run(test)


def test_large_messages_in_order() -> None:
    async def test(place: Place) -> None:
        (a, _), (b, got) = await place.node("a"), await place.node("b", 9)
        sizes = [0, 1, 16_000, 16_376, 300_000, 1 << 20, 5, (16 << 20) - 100]
        for n, size in enumerate(sizes):
            await a.strawman.send(9, "inbox", (n, bytes(size)))
        assert [(n, len(data)) for n, data in [await got.get() for _ in sizes]] == list(enumerate(sizes))
        await a.strawman.flush(9)
        assert b.strawman.counts.received == len(sizes)

    run(test)


def test_what_is_sent_before_a_close_arrives() -> None:
    async def test(place: Place) -> None:
        _, got = await place.node("b", 9)
        for _ in range(5):
            a, _ = await place.node("a")
            for n in range(50):
                await a.strawman.send(9, "inbox", (n, bytes(20_000)))
            await a.close()
            assert [(await got.get())[0] for _ in range(50)] == list(range(50))

    run(test)


def test_domain_ids() -> None:
    async def test(place: Place) -> None:
        a, _ = await place.node("a", 7)
        assert a.strawman.domid == 7
        for domid, reason in ((7, "domid_taken"), (0x7FF0, "no_such_domid")):
            with pytest.raises(StrawError) as caught:
                await place.node("b", domid)
            assert caught.value.reason == reason
        await a.close()
        again, _ = await place.node("a", 7)
        assert again.strawman.domid == 7

    run(test)


def test_a_folder_that_others_can_enter() -> None:
    async def test(place: Place) -> None:
        os.chmod(place.rundir, 0o755)
        with pytest.raises(StrawError, match="chmod 700") as caught:
            await place.node("a")
        os.chmod(place.rundir, 0o700)
        assert caught.value.reason == "no_host"

    run(test)


def test_json_is_agreed_on() -> None:
    async def test(place: Place) -> None:
        (a, to_a), (b, to_b) = await place.node("a"), await place.node("b")
        await a.strawman.open(b.strawman.domid, format="json")
        await a.strawman.send(b.strawman.domid, "inbox", {"k": [1, None]})
        assert await to_b.get() == (Atom("json"), {b"k": [1, Atom("null")]})
        await b.strawman.send(a.strawman.domid, "inbox", "back")
        assert await to_a.get() == (Atom("json"), b"back")

    run(test)


def test_a_slow_handler_holds_the_sender() -> None:
    """Its mailbox is full, so the straw is not read, so the ring is full, so send() waits; then all of it arrives."""

    async def test(place: Place) -> None:
        (a, _), (b, _) = await place.node("a"), await place.node("b", 9)
        go, got = asyncio.Event(), []

        async def slow(me: Process) -> None:
            await go.wait()
            while True:
                got.append((await me.receive())[0])

        b.router.mailbox_limit = 100
        b.register("slow", slow, straw=True)
        total = 1000
        sent = 0

        async def flood() -> None:
            nonlocal sent
            for n in range(total):
                await a.strawman.send(9, "slow", (n, bytes(50_000)))
                sent = n + 1

        flooding = asyncio.create_task(flood())
        seen = [-1]
        while sent < 100 or len(set(seen[-5:])) > 1:
            seen.append(sent)
            await asyncio.sleep(0.05)
        assert sent < total, "send() waits"
        assert b.strawman.counts.received < 300
        go.set()
        await flooding
        while len(got) < total:
            await asyncio.sleep(0.005)
        assert got == list(range(total))

    run(test)


def test_a_host_in_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found by others, ends with its node, and the next one is in the next node that wants it so."""
    monkeypatch.setattr(spawn, "_spawn", None)  # no process may be started

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="straw-") as rundir:
            options: Any = {"cookie": "secret", "listen": None, "pores": rundir, "embed_host": True}
            a, b = Node("a@127.0.0.1", **options), Node("b@127.0.0.1", **options)
            await a.start()
            await b.start()
            await a.strawman.open(b.strawman.domid)
            with pytest.raises(StrawError) as caught:
                await Node("c@127.0.0.1", **options, domid=1).start()
            assert caught.value.reason == "domid_taken"
            await a.close()
            while b.strawman.domid != 3:
                await asyncio.sleep(0.005)
            assert answers(RunDir(rundir)) and not b.strawman.domains
            await b.close()
            assert not answers(RunDir(rundir))
            with pytest.raises(StrawError, match="no_such_domid"):
                await Node("d@127.0.0.1", **options, domid=0x7FF0).start()
            assert not answers(RunDir(rundir)), "the host of a node that did not start is gone with it"

    asyncio.run(main())


def test_a_host_in_the_node_is_asked_for_by_one_word(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STRAWBRIDGE_HOST", str(tmp_path / "h"))

    async def main() -> None:
        async with Node("a@127.0.0.1", "secret", listen=None, embed_host=True) as a:
            assert a.strawman.domid == 1

    asyncio.run(main())
