"""The store on sockets: files, connections, clients that are slow, rude or gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from waiting import LONG, until

from pores.errors import XenstoreError
from pores.xenstore import server as server_module
from pores.xenstore.client import XenStore
from pores.xenstore.server import StoreServer
from pores.xenstore.wire import HEADER, Message, Op, encode


def run(test: Callable[[StoreServer], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(LONG):
            server = StoreServer()
            try:
                await test(server)
            finally:
                await server.close()
                await server.close()
            assert server.connections == 0

    before = set(os.listdir("/proc/self/fd"))
    asyncio.run(bounded())
    assert set(os.listdir("/proc/self/fd")) == before


async def streams(server: StoreServer, domid: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(sock=server.connect(domid))


async def receive(reader: asyncio.StreamReader) -> Message:
    op, rid, tid, size = HEADER.unpack(await reader.readexactly(HEADER.size))
    return Message(op, rid, tid, await reader.readexactly(size))


def test_a_listening_socket_is_private_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def test(server: StoreServer) -> None:
        await server.start(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with await XenStore.connect(path) as store:
            assert await store.domid() == 0
        with pytest.raises(OSError, match="in use"):
            await server.listen(path, 0)
        assert path.exists()
        await server.close()
        assert not path.exists()

    run(test)


def test_a_dead_socket_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    other = tmp_path / "file"
    other.write_text("mine")

    async def test(server: StoreServer) -> None:
        await server.start(path)
        async with await XenStore.connect(path) as store:
            assert await store.domid() == 0
        with pytest.raises(OSError, match="in use"):
            await server.listen(other, 0)
        assert other.read_text() == "mine"

    run(test)


def test_a_domains_sockets(tmp_path: Path) -> None:
    path = tmp_path / "five"

    async def test(server: StoreServer) -> None:
        with pytest.raises(XenstoreError, match="^ENOENT"):
            await server.listen(path, 5)
        with pytest.raises(XenstoreError, match="^ENOENT"):
            server.connect(5)
        server.introduce(5, "guest")
        await server.listen(path, 5)
        store = await XenStore.connect(path)
        assert (await store.domid(), await store.read("name")) == (5, b"guest")
        pair = await XenStore.connect(server.connect(5))
        assert await pair.domid() == 5
        server.release(5)
        await store.wait_closed()
        await pair.wait_closed()
        assert not path.exists()
        with pytest.raises(XenstoreError, match="^ENOTCONN"):
            await XenStore.connect(path)
        await store.close()
        await pair.close()

    run(test)


def test_released_between_connect_and_the_first_word() -> None:
    async def test(server: StoreServer) -> None:
        server.introduce(5)
        sock = server.connect(5)
        server.release(5)
        store = await XenStore.connect(sock)
        await store.wait_closed()
        await store.close()

    run(test)


def test_release_by_command_ends_the_connections() -> None:
    async def test(server: StoreServer) -> None:
        server.introduce(5)
        five = await XenStore.connect(server.connect(5))
        await five.domid()
        reader, writer = await streams(server, 0)
        writer.write(encode(Message(Op.RELEASE, 1, 0, b"5\0")))
        assert (await receive(reader)).payload == b"OK\0"
        await five.wait_closed()
        await five.close()
        writer.close()
        await writer.wait_closed()

    run(test)


def test_requests_in_one_piece_and_in_many() -> None:
    async def test(server: StoreServer) -> None:
        reader, writer = await streams(server, 0)
        count = server_module.REQUESTS_A_TURN * 3 + 1
        stream = b"".join(encode(Message(Op.READ, rid, 0, b"domid\0")) for rid in range(1, count + 1))
        writer.write(stream)
        assert [(await receive(reader)).rid for _ in range(count)] == list(range(1, count + 1))
        for byte in stream[:22]:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await receive(reader)).payload == b"0"
        writer.close()
        await writer.wait_closed()

    run(test)


def test_half_closed_clients_get_all_answers() -> None:
    async def test(server: StoreServer) -> None:
        reader, writer = await streams(server, 0)
        count = server_module.REQUESTS_A_TURN * 5 + 3
        for rid in range(1, count + 1):
            writer.write(encode(Message(Op.READ, rid, 0, b"domid\0")))
        writer.write_eof()
        assert [(await receive(reader)).rid for _ in range(count)] == list(range(1, count + 1))
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    run(test)


def test_who_does_not_speak_the_protocol_is_cut_off() -> None:
    async def test(server: StoreServer) -> None:
        reader, writer = await streams(server, 0)
        writer.write(encode(Message(Op.READ, 1, 0, b"domid\0")) + b"\xff" * 100)
        with contextlib.suppress(ConnectionError):  # an abort may take the reply along
            await reader.read()
        await until(lambda: server.connections == 0)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    run(test)


def test_a_client_that_reads_no_events_is_cut_off_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "UNREAD_LIMIT", 100_000)

    async def test(server: StoreServer) -> None:
        sleeper = server.connect(0)
        sleeper.sendall(encode(Message(Op.WATCH, 1, 0, b"/x\0" + b"t" * 1000 + b"\0")))
        async with await XenStore.connect(server.connect(0)) as writer:
            await until(lambda: len(server.tree.watches.at("/x")) == 1)
            turn = 0
            while server.slow_clients == 0:
                turn += 1
                await writer.write(f"/x/{turn}", b"")
            assert turn > 50
            assert server.connections == 1
            assert server.tree.watches.at("/x") == []
            assert await writer.read("/x/1") == b""
        sleeper.close()

    run(test)


def test_the_same_event_again_and_again_waits_once() -> None:
    async def test(server: StoreServer) -> None:
        sleeper = server.connect(0)
        sleeper.sendall(encode(Message(Op.WATCH, 1, 0, b"/x\0" + b"t" * 4000 + b"\0")))
        async with await XenStore.connect(server.connect(0)) as writer:
            for turn in range(2000):
                await writer.write("/x", turn)
            assert server.slow_clients == 0
            assert server.connections == 2
        sleeper.close()

    run(test)


def test_a_client_that_reads_no_replies_is_not_read_from() -> None:
    async def test(server: StoreServer) -> None:
        await asyncio.sleep(0)
        sleeper = server.connect(0)
        async with await XenStore.connect(server.connect(0)) as other:
            await other.write("/big", b"x" * 4000)
            sleeper.setblocking(False)
            loop = asyncio.get_running_loop()
            request = encode(Message(Op.READ, 1, 0, b"/big\0"))
            sent = 0

            async def flood() -> None:
                nonlocal sent
                for _ in range(100_000):
                    await loop.sock_sendall(sleeper, request)
                    sent += 1

            task = loop.create_task(flood())
            before = -1
            while sent != before:  # until it can't send any more
                before = sent
                for _ in range(50):
                    await other.read("/big")
            assert sent < 50_000
            assert server.slow_clients == 0
            # It goes on when it reads again.
            for _ in range(sent):
                got = 0
                while got < len(request) + 4000 - len(b"/big\0"):
                    got += len(await loop.sock_recv(sleeper, len(request) + 4000 - len(b"/big\0") - got))
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        sleeper.close()

    run(test)


def test_connections_of_a_domain_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "CONNECTIONS", 3)

    async def test(server: StoreServer) -> None:
        server.introduce(5)
        stores = [await XenStore.connect(server.connect(5)) for _ in range(3)]
        for store in stores:
            await store.domid()
        more = await XenStore.connect(server.connect(5))
        await more.wait_closed()
        await stores[0].close()
        await until(lambda: server.connections == 2)
        async with await XenStore.connect(server.connect(5)) as again:
            assert await again.domid() == 5
        zeros = [await XenStore.connect(server.connect(0)) for _ in range(5)]
        for store in zeros:
            assert await store.domid() == 0
        for store in [*stores, *zeros, more]:
            await store.close()

    run(test)


def test_a_client_that_is_gone_leaves_nothing() -> None:
    async def test(server: StoreServer) -> None:
        server.introduce(5)
        store = await XenStore.connect(server.connect(5))
        await store.watch("data")
        tx = await store.begin()
        await tx.write("data/x", b"v")
        domain = server.tree.domains[5]
        assert (domain.watches, domain.transactions, len(domain.sessions)) == (1, 1, 1)
        await store.close()
        await until(lambda: server.connections == 0)
        assert (domain.watches, domain.transactions, domain.transaction_bytes, len(domain.sessions)) == (0, 0, 0, 0)

    run(test)
