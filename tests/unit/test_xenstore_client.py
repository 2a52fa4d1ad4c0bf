"""The client with our store and with a scripted one: values, transactions, watches and their owners, lost stores."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from storekit import refused
from waiting import LONG, until

from pores.errors import XenstoreError
from pores.xenstore import subscriptions
from pores.xenstore.client import Transaction, XenStore
from pores.xenstore.server import StoreServer
from pores.xenstore.transport import DeviceTransport, default_path
from pores.xenstore.wire import Message, MessageReader, Op, encode


class World:
    """A store with domains 5 and 7, and a client of each."""

    def __init__(self, server: StoreServer, zero: XenStore, five: XenStore, seven: XenStore) -> None:
        self.server, self.zero, self.five, self.seven = server, zero, five, seven


def run(test: Callable[[World], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(LONG):
            server = StoreServer()
            server.introduce(5)
            server.introduce(7)
            stores = [await XenStore.connect(server.connect(domid)) for domid in (0, 5, 7)]
            try:
                await test(World(server, *stores))
            finally:
                for store in stores:
                    await store.close()
                await server.close()

    before = set(os.listdir("/proc/self/fd"))
    asyncio.run(bounded(), debug=True)
    assert set(os.listdir("/proc/self/fd")) == before


def test_nodes() -> None:
    async def test(world: World) -> None:
        five = world.five
        assert await five.domid() == 5
        for value, expected in ((b"\0\xff", b"\0\xff"), ("grün", "grün".encode()), (-12, b"-12"), ("", b"")):
            await five.write("data/x", value)
            assert await five.read("data/x") == expected
        await five.mkdir("data/dir/sub")
        assert await five.list("data") == ["x", "dir"]
        assert await five.list("data/x") == []
        assert await five.exists("data/x") and not await five.exists("data/y")
        await five.delete("data/x")
        assert await five.get_perms("data/dir") == ["n5"]
        await five.set_perms("data/dir", ["n5", "r7"])
        assert await five.get_perms("data/dir") == ["n5", "r7"]
        assert await world.seven.list("/local/domain/5/data/dir") == ["sub"]
        with refused("EACCES /local/domain/5/data/secret"):
            await world.seven.read("/local/domain/5/data/secret")
        with refused("EACCES"):
            await world.seven.exists("/local/domain/5/data/secret")
        with pytest.raises(XenstoreError) as error:
            await five.read("data/nothing")
        assert (error.value.name, error.value.path) == ("ENOENT", "data/nothing")
        assert await five.get_domain_path(7) == "/local/domain/7"
        assert await world.zero.is_domain_introduced(7)
        assert not await world.zero.is_domain_introduced(8)

    run(test)


def test_integers() -> None:
    async def test(world: World) -> None:
        for value in (b"0", b"5", b"-7", b"123456789012345678"):
            await world.five.write("data/x", value)
            assert await world.five.read_integer("data/x") == int(value)
        for value in (b"", b"05", b"+5", b"5 ", b"5\n", b"0x5", b"5_0", "٣".encode(), b"9" * 400, b"-"):
            await world.five.write("data/x", value)
            with refused("EINVAL data/x"):
                await world.five.read_integer("data/x")

    run(test)


def test_what_the_wire_cant_carry() -> None:
    async def test(world: World) -> None:
        with refused("EINVAL"):
            await world.five.read("data\0x")
        with refused("EINVAL"):
            await world.five.read("dätä")
        with refused("EINVAL"):
            await world.five.watch("da\0ta")
        with refused("E2BIG"):
            await world.five.write("data/x", b"v" * 4096)
        with refused("EINVAL"):
            await world.five.set_perms("data", ["n5\0r7"])
        assert await world.five.domid() == 5

    run(test)


def test_long_lists() -> None:
    async def test(world: World) -> None:
        names = [f"a-rather-long-name-{i}" for i in range(700)]
        for name in names:
            await world.zero.mkdir(f"/big/{name}")
        assert await world.zero.list("/big") == names
        listing = asyncio.create_task(world.zero.list("/big"))
        other = await XenStore.connect(world.server.connect(0))
        await other.mkdir("/big/one-more")
        assert await listing in (names, [*names, "one-more"])
        await other.close()

    run(test)


def test_many_requests_at_once() -> None:
    async def test(world: World) -> None:
        await asyncio.gather(*(world.zero.write(f"/x/{i}", i) for i in range(300)))
        assert await asyncio.gather(*(world.zero.read_integer(f"/x/{i}") for i in range(300))) == list(range(300))

    run(test)


class TestTransactions:
    def test_commit_and_rollback(self) -> None:
        async def test(world: World) -> None:
            five = world.five
            tx = await five.begin()
            await tx.write("data/x", 1)
            assert await tx.read_integer("data/x") == 1
            assert not await five.exists("data/x")
            await tx.commit()
            assert await five.read("data/x") == b"1"
            for attempt in (tx.commit, lambda: tx.read("data/x")):
                with refused("ENOENT"):
                    await attempt()
            await tx.rollback()
            tx = await five.begin()
            await tx.delete("data/x")
            await tx.rollback()
            assert await five.exists("data/x")
            async with await five.begin() as tx:
                await tx.mkdir("data/y")
                await tx.set_perms("data/y", ["r5"])
                assert await tx.get_perms("data/y") == ["r5"]
                assert await tx.list("data") == ["x", "y"]
            assert await five.exists("data/y")
            with pytest.raises(ZeroDivisionError):
                async with await five.begin() as tx:
                    await tx.mkdir("data/z")
                    1 / 0  # noqa: B018
            assert not await five.exists("data/z")
            assert world.server.tree.domains[5].transactions == 0

        run(test)

    def test_retry(self) -> None:
        async def test(world: World) -> None:
            await world.zero.write("/count", 0)
            others = [await XenStore.connect(world.server.connect(0)) for _ in range(4)]

            async def add(tx: Transaction) -> int:
                value = await tx.read_integer("/count") + 1
                await tx.write("/count", value)
                return value

            async def many(store: XenStore) -> list[int]:
                return [await store.transaction(add) for _ in range(25)]

            results = await asyncio.gather(*map(many, others))
            assert sorted(value for some in results for value in some) == list(range(1, 101))
            assert await world.zero.read("/count") == b"100"
            for store in others:
                await store.close()

        run(test)

    def test_it_gives_up(self) -> None:
        async def test(world: World) -> None:
            runs = 0

            async def disturbed(tx: Transaction) -> None:
                nonlocal runs
                runs += 1
                assert not await tx.exists(f"/x/{runs}")
                await tx.mkdir("/y")
                await world.zero.mkdir(f"/x/{runs}")

            with refused("EAGAIN"):
                await world.zero.transaction(disturbed, tries=3)
            assert runs == 3

        run(test)

    def test_errors_and_cancels_leave_none_open(self) -> None:
        async def test(world: World) -> None:
            domain = world.server.tree.domains[5]

            async def wrong(tx: Transaction) -> None:
                await tx.read("data/nothing")

            with refused("ENOENT"):
                await world.five.transaction(wrong)

            async def stuck(tx: Transaction) -> None:
                await asyncio.Event().wait()

            task = asyncio.create_task(world.five.transaction(stuck))
            await until(lambda: domain.transactions == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: domain.transactions == 0)
            # Cancelled while the store is asked for one.
            for turns in range(4):
                task = asyncio.create_task(world.five.begin())
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                if not task.cancelled():
                    await task.result().rollback()
            await world.five.domid()
            await until(lambda: domain.transactions == 0)

        run(test)


class TestWatches:
    def test_callbacks_and_queues(self) -> None:
        async def test(world: World) -> None:
            heard: list[str] = []
            await world.five.watch("data", heard.append)
            queue = await world.five.watch("/local/domain/5/data")
            await world.zero.write("/local/domain/5/data/x", 1)
            assert [await queue.next(), await queue.next()] == ["/local/domain/5/data", "/local/domain/5/data/x"]
            assert heard == ["data", "data/x"]
            await queue.unwatch()
            await queue.unwatch()
            with refused("ENOENT"):
                await queue.next()
            assert [path async for path in queue] == []

        run(test)

    def test_one_watch_for_many(self) -> None:
        async def test(world: World) -> None:
            domain = world.server.tree.domains[5]
            first = await world.five.watch("data")
            assert await first.next() == "data"
            later = [await world.five.watch("data") for _ in range(200)]
            assert (domain.watches, world.five.watches) == (1, 1)
            for subscription in later:
                assert await subscription.next() == "data"  # each has a first event of its own
            await world.five.write("data/x", 1)
            for subscription in [first, *later]:
                assert await subscription.next() == "data/x"
            for subscription in later:
                await subscription.unwatch()
            assert domain.watches == 1
            await world.five.write("data/x", 2)
            assert await first.next() == "data/x"
            await world.five.unwatch(first)
            assert (domain.watches, world.five.watches) == (0, 0)
            again = await world.five.watch("data")
            assert await again.next() == "data"
            assert domain.watches == 1

        run(test)

    def test_owners(self) -> None:
        async def test(world: World) -> None:
            domain = world.server.tree.domains[5]
            async with world.five.owner() as one:
                await one.watch("data/a")
                await one.watch("data/b")
                async with world.five.owner() as two:
                    shared = await two.watch("data/a")
                    assert domain.watches == 2
                with refused("ENOENT"):
                    await shared.next()
                    await shared.next()
                assert domain.watches == 2
                gone = await one.watch("data/c")
                await gone.unwatch()
                assert domain.watches == 2
            assert domain.watches == 0
            await one.close()
            with refused("EINVAL"):
                await one.watch("data/a")

        run(test)

    def test_an_owner_that_is_cancelled(self) -> None:
        async def test(world: World) -> None:
            domain = world.server.tree.domains[5]

            async def life() -> None:
                async with world.five.owner() as owner:
                    for i in range(10):
                        await owner.watch(f"data/{i}")
                    await asyncio.Event().wait()

            for turns in (0, 1, 3, 5, 50):
                task = asyncio.create_task(life())
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert world.five.watches == 0
                await world.five.domid()
                assert domain.watches == 0

        run(test)

    def test_no_event_after_unwatch(self) -> None:
        async def test(world: World) -> None:
            heard: list[str] = []
            subscription = await world.five.watch("data", heard.append)
            await until(lambda: heard == ["data"])
            changing = asyncio.create_task(world.zero.write("/local/domain/5/data/x", 1))
            ending = asyncio.create_task(subscription.unwatch())
            await asyncio.gather(changing, ending)
            again = await world.five.watch("data")
            assert await again.next() == "data"
            assert heard in (["data"], ["data", "data/x"])

        run(test)

    def test_a_callback_that_fails_harms_nobody(self) -> None:
        async def test(world: World) -> None:
            reported: list[object] = []
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
            heard: list[str] = []

            def fail(path: str) -> None:
                raise ZeroDivisionError

            await world.five.watch("data", fail)
            await world.five.watch("data", heard.append)
            await world.five.write("data/x", 1)
            await until(lambda: heard[-1:] == ["data/x"])
            assert len(reported) == 2

        run(test)

    def test_refused(self) -> None:
        async def test(world: World) -> None:
            with refused("EINVAL"):
                await world.five.watch("//")
            limit = world.server.tree.limits.watches
            async with world.five.owner() as owner:
                for i in range(limit):
                    await owner.watch(f"data/{i}")
                results = await asyncio.gather(owner.watch("x"), owner.watch("x"), return_exceptions=True)
                assert [getattr(result, "name", None) for result in results] == ["E2BIG", "E2BIG"]
                assert world.five.watches == limit
            assert world.five.watches == 0
            await world.five.watch("x")

        run(test)

    def test_unread_events_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(subscriptions, "QUEUE", 10)

        async def test(world: World) -> None:
            queue = await world.zero.watch("/x")
            for i in range(50):
                await world.zero.mkdir(f"/x/{i}")
            assert [await queue.next() for _ in range(10)] == [f"/x/{i}" for i in range(40, 50)]

        run(test)

    def test_an_event_before_the_reply(self) -> None:
        """Stores may send either first."""

        async def test(world: World) -> None:
            ours, theirs = socket.socketpair()
            async with await XenStore.connect(ours) as store:
                heard: list[str] = []
                watching = asyncio.create_task(store.watch("data", heard.append))
                await asyncio.sleep(0)
                reader = MessageReader()
                reader.feed(theirs.recv(4096))
                request = reader.next()
                assert request is not None
                path, token = request.payload.split(b"\0")[:2]
                theirs.sendall(encode(Message(Op.WATCH_EVENT, 0, 0, path + b"\0" + token + b"\0")))
                await until(lambda: heard == ["data"])
                theirs.sendall(encode(Message(Op.WATCH_EVENT, 0, 0, b"data\0some other token\0")))
                theirs.sendall(encode(Message(Op.WATCH, request.rid, 0, b"OK\0")))
                await watching
                assert heard == ["data"]
            theirs.close()

        run(test)

    def test_reset(self) -> None:
        async def test(world: World) -> None:
            subscription = await world.five.watch("data")
            await world.five.reset_watches()
            assert not subscription.active
            assert world.server.tree.domains[5].watches == 0
            await world.five.watch("data")

        run(test)


class TestWait:
    def test_for_a_value(self) -> None:
        async def test(world: World) -> None:
            waiting = [
                asyncio.create_task(world.five.wait("data/state", 3)),
                asyncio.create_task(world.five.wait("data/state", lambda value: value >= b"3")),
                asyncio.create_task(world.five.wait("data/state", "3")),
            ]
            for value in (1, 2, 3):
                await world.zero.write("/local/domain/5/data/state", value)
                await world.zero.delete("/local/domain/5/data/state")
            await world.zero.write("/local/domain/5/data/state", 3)
            assert await asyncio.gather(*waiting) == [b"3"] * 3
            assert await world.five.wait("data/state", b"3") == b"3"  # at once
            assert world.five.watches == 0

        run(test)

    def test_ends(self) -> None:
        async def test(world: World) -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await world.five.wait("data/state", 3)
            assert world.five.watches == 0
            with refused("EACCES"):
                await world.seven.wait("/local/domain/5/data/state", 3)
            waiting = asyncio.create_task(world.five.wait("data/state", 3))
            await until(lambda: world.five.watches == 1)
            world.server.release(5)
            with refused("ENOTCONN"):
                await waiting

        run(test)


class TestLostStores:
    def test_everybody_hears_of_it(self) -> None:
        async def test(world: World) -> None:
            ours, theirs = socket.socketpair()
            store = await XenStore.connect(ours)
            lost: list[str] = []
            store.on_lost(lambda error: lost.append(error.name))
            asking = [asyncio.create_task(store.read("x")), asyncio.create_task(store.watch("x"))]
            asking.append(asyncio.create_task(store.begin()))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            theirs.close()
            for result in await asyncio.gather(*asking, return_exceptions=True):
                assert isinstance(result, XenstoreError) and result.name == "ENOTCONN"
            await store.wait_closed()
            assert store.closed
            for attempt in (lambda: store.read("x"), lambda: store.watch("x"), store.begin, store.domid):
                with refused("ENOTCONN"):
                    await attempt()  # type: ignore[operator]
            store.on_lost(lambda error: lost.append("late"))
            await asyncio.sleep(0)
            assert lost == ["ENOTCONN", "late"]
            await store.close()
            await store.close()

        run(test)

    def test_watches_end(self) -> None:
        async def test(world: World) -> None:
            subscription = await world.five.watch("data")
            heard: list[str] = []
            owner = world.five.owner()
            await owner.watch("data", heard.append)
            world.server.release(5)
            await world.five.wait_closed()
            assert await subscription.next() == "data"  # what came before is still there
            for _ in range(2):
                with refused("ENOTCONN"):
                    await subscription.next()
            with refused("ENOTCONN"):
                await anext(aiter(subscription))
            await subscription.unwatch()
            await owner.close()

        run(test)

    @pytest.mark.parametrize("answer", [b"\xff" * 20, b"\0" * 16, encode(Message(Op.READ, 77, 0, b""))])
    def test_what_is_no_store(self, answer: bytes) -> None:
        async def test(world: World) -> None:
            ours, theirs = socket.socketpair()
            async with await XenStore.connect(ours) as store:
                asking = asyncio.create_task(store.read("x"))
                await asyncio.sleep(0)
                theirs.sendall(answer)
                with refused("EPROTO"):
                    await asking
                with refused("EPROTO"):
                    await store.read("x")
            theirs.close()

        run(test)

    def test_nobody_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XENSTORED_PATH", str(tmp_path / "nothing"))

        async def test(world: World) -> None:
            for target in (tmp_path / "nothing", tmp_path / "file", None):
                with refused("ENOTCONN"):
                    await XenStore.connect(target)

        run(test)

    def test_an_answer_to_somebody_who_left(self) -> None:
        async def test(world: World) -> None:
            task = asyncio.create_task(world.five.read("domid"))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await world.five.domid() == 5

        run(test)


class TestTransport:
    def test_where_the_store_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XENSTORED_RUNDIR", "/somewhere")
        monkeypatch.delenv("XENSTORED_PATH", raising=False)
        assert default_path() == "/somewhere/socket"
        monkeypatch.setenv("XENSTORED_PATH", "/else/where")
        assert default_path() == "/else/where"
        monkeypatch.delenv("XENSTORED_PATH")
        monkeypatch.delenv("XENSTORED_RUNDIR")
        assert default_path()

    def test_a_device_gets_one_message_a_write(self) -> None:
        """As /dev/xen/xenbus wants it: a packet socket keeps writes apart and fills up soon."""

        async def test(world: World) -> None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            store = XenStore(DeviceTransport(ours.detach()))
            asking = [asyncio.create_task(store.write(f"x/{i}", b"v" * 1000)) for i in range(100)]
            theirs.setblocking(False)
            loop = asyncio.get_running_loop()
            for i in range(100):
                packet = await loop.sock_recv(theirs, 1 << 16)
                reader = MessageReader()
                reader.feed(packet)
                message = reader.next()
                assert message is not None and reader.pending == 0
                assert message.payload == b"x/%d\0" % i + b"v" * 1000
                await loop.sock_sendall(theirs, encode(Message(Op.WRITE, message.rid, 0, b"OK\0")))
            await asyncio.gather(*asking)
            await store.close()
            theirs.close()

        run(test)
