"""Whatever bytes come to a store or to its client: only the errors that are promised, whole or in pieces."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pores.errors import XenstoreError
from pores.xenstore.client import XenStore
from pores.xenstore.commands import Service
from pores.xenstore.server import StoreServer
from pores.xenstore.tree import Tree
from pores.xenstore.wire import MAX_PAYLOAD, ClientConnection, Message, MessageReader, Op, ServerConnection, encode

U32 = st.one_of(st.integers(0, 30), st.integers(0, 0xFFFF_FFFF))
WORDS = [b"/", b"/a", b"/a/b", b"data", b"data/x", b"T", b"F", b"0", b"5", b"7", b"-1", b"n5", b"b0", b"r7", b"t", b""]
WORDS += [b"@releaseDomain", b"@introduceDomain", b"\xff", b"/a//", b"x" * 300, b"help", b"/local/domain/5", b"65536"]
payloads = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=5).map(lambda words: b"".join(word + b"\0" for word in words)),
    st.lists(st.sampled_from(WORDS), max_size=5).map(b"\0".join),
    st.binary(max_size=64),
)
messages = st.builds(Message, U32, U32, U32, payloads)
streams = st.one_of(
    st.lists(messages, max_size=20).map(lambda some: b"".join(map(encode, some))),
    st.binary(max_size=400),
    st.tuples(st.lists(messages, max_size=5), st.binary(max_size=40)).map(
        lambda both: b"".join(map(encode, both[0])) + both[1]
    ),
)


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(st.lists(messages, max_size=20), st.integers(1, 50))
def test_messages_are_read_back(some: list[Message], size: int) -> None:
    reader = MessageReader()
    got = []
    for piece in pieces(b"".join(map(encode, some)), size):
        reader.feed(piece)
        while (message := reader.next()) is not None:
            got.append(message)
    assert got == some


def outcome(machine: ClientConnection | ServerConnection, data: bytes, size: int) -> list[object]:
    """What comes out until the end of the data or the error, which must stay."""
    got: list[object] = []
    for piece in pieces(data, size):
        machine.receive_data(piece)
        try:
            while (event := machine.next_event()) is not None:
                got.append(event)
        except XenstoreError as error:
            assert error.name == "EPROTO"
            with pytest.raises(XenstoreError, match="^EPROTO"):
                machine.next_event()
            return [*got, str(error)]
    return got


@given(streams)
def test_pieces_do_not_matter(data: bytes) -> None:
    for make in (ServerConnection, ClientConnection):
        whole = outcome(make(), data, max(1, len(data)))
        assert outcome(make(), data, 1) == whole
        assert outcome(make(), data, 7) == whole


def answers(service: Service, data: bytes, size: int) -> tuple[bytes, bool]:
    """All that is sent back, and whether the connection broke."""
    out = b""
    for piece in pieces(data, size):
        service.receive_data(piece)
        try:
            while service.work(3):
                out += service.data_to_send()
        except XenstoreError as error:
            assert error.name == "EPROTO"
            return out + service.data_to_send(), True
    return out + service.data_to_send(), False


def services() -> list[tuple[Tree, Service]]:
    trees = []
    for domid in (0, 5):
        tree = Tree()
        tree.introduce(5)
        tree.introduce(7)
        trees.append((tree, Service(tree, domid)))
    return trees


@given(streams)
def test_a_store_answers_everything(data: bytes) -> None:
    for (_, service), (_, other) in zip(services(), services(), strict=True):
        out, broken = answers(service, data, max(1, len(data)))
        reader = MessageReader()
        reader.feed(out)
        while (message := reader.next()) is not None:
            assert len(message.payload) <= MAX_PAYLOAD
        assert reader.pending == 0
        if not service.session.closed:
            assert answers(other, data, 1) == (out, broken)


@pytest.mark.parametrize("seed", range(6))
def test_long_streams_leave_the_store_whole(seed: int) -> None:
    """Many requests that are nearly right, from three domains at once, and then the counts."""
    random = Random(seed)
    tree = Tree()
    for domid in (5, 7):
        tree.introduce(domid)
    clients = [Service(tree, random.choice([0, 5, 7])) for _ in range(6)]
    ops = [op for op in Op if op not in (Op.RELEASE, Op.INTRODUCE)]
    for _ in range(5000):
        client = random.choice(clients)
        words = [random.choice(WORDS) for _ in range(random.randrange(1, 4))]
        payload = b"".join(word + b"\0" for word in words)
        if random.random() < 0.1:
            payload = payload[: random.randrange(len(payload) + 1)]
        tid = random.choice([0, 0, 1, 2, 3])
        client.receive_data(encode(Message(random.choice(ops), random.randrange(1 << 32), tid, payload)))
        assert client.work(5) == 1
        if random.random() < 0.3:
            client.data_to_send()
    for client in clients:
        client.close()
    for domain in tree.domains.values():
        assert (domain.watches, domain.transactions, domain.transaction_bytes, domain.sessions) == (0, 0, 0, {})
    assert tree.watches._by_path == {}
    for domid in (5, 7):
        tree.release(domid)
    assert set(tree._nodes.owned) == {0}


def test_a_server_under_fire() -> None:
    """Random bytes on real sockets, ends at random moments; somebody else is served all the while."""

    async def attack(server: StoreServer, random: Random, domid: int) -> None:
        sock = server.connect(domid)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        with sock, contextlib.suppress(ConnectionError):
            for _ in range(random.randrange(1, 30)):
                kind = random.random()
                if kind < 0.2:
                    await loop.sock_sendall(sock, random.randbytes(random.randrange(1, 100)))
                elif kind < 0.3:
                    with contextlib.suppress(BlockingIOError):
                        sock.recv(random.randrange(1, 1000))
                elif kind < 0.35:
                    sock.shutdown(socket.SHUT_WR)
                    return
                else:
                    words = b"".join(random.choice(WORDS) + b"\0" for _ in range(random.randrange(4)))
                    op = random.choice([op for op in Op if op not in (Op.RELEASE, Op.INTRODUCE)])
                    await loop.sock_sendall(
                        sock, encode(Message(op, random.randrange(99), random.choice([0, 1]), words))
                    )
                await asyncio.sleep(0)

    async def test() -> None:
        random = Random(5)
        server = StoreServer()
        server.introduce(5)
        server.introduce(7)
        async with asyncio.timeout(60):
            honest = await XenStore.connect(server.connect(7))
            for turn in range(60):
                fight = [attack(server, Random(random.random()), random.choice([0, 5])) for _ in range(8)]
                await asyncio.gather(*fight)
                await honest.write("data/turn", turn)
                assert await honest.read_integer("data/turn") == turn
            await honest.close()
            await server.close()
        assert server.connections == 0
        assert server.tree.domains[5].sessions == {}

    before = set(os.listdir("/proc/self/fd"))
    asyncio.run(test())
    assert set(os.listdir("/proc/self/fd")) == before
