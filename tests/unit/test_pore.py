"""Pores from Python: buffers, errors, waiting, the end; the table; the host's client."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import select
import signal
import socket
import struct
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from pores._native import HostConnection, straw_pages, tube_refs
from pores.errors import PoreClosed, PoreCorrupt, PoreError, PoreTooBig
from pores.pore import ACTIVE, PASSIVE, Pore
from pores.registry import PoreTable

LING = 16375  # the most that LING's ring holds
WIDE = 65536


def memory(pages: int, seals: int = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, pages * 4096)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def pair(kind: str = "straw", ring: int = 0, table: PoreTable | None = None, owner: int = 0) -> tuple[Pore, Pore]:
    pages = {"straw": straw_pages(ring), "tube": 65, "xenstore": 1}[kind]
    fd = memory(pages)
    ends = []
    channels = [socket.socketpair() for _ in range(2 if kind == "tube" else 1)]
    for role in (ACTIVE, PASSIVE):
        mine = [channel[role - 1].detach() for channel in channels]
        options = {"ring_bytes": ring} if kind == "straw" else {}
        ends.append(getattr(Pore, kind)(fd, *mine, role=role, table=table, owner=owner, **options))
    os.close(fd)
    return ends[0], ends[1]


@pytest.fixture(params=[("straw", 0), ("straw", 4096), ("straw", WIDE), ("xenstore", 0), ("tube", 0)], ids=str)
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Pore, Pore]]:
    a, b = pair(*request.param)
    with a, b:
        yield a, b


def readable(pore: Pore) -> bool:
    return bool(select.select([pore], [], [], 0)[0])


def test_to_and_fro(ends: tuple[Pore, Pore]) -> None:
    a, b = ends
    assert b.read() == b""
    assert a.write(b"ping") == 4
    assert readable(b)
    assert b.avail()[0] in (1, 4)
    assert not readable(b)
    assert b.read() == b"ping"
    assert b.write(b"pong") == 4
    assert a.read() == b"pong"
    assert a.read() == b""


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))])
def test_any_buffer_is_written(make: type) -> None:
    a, b = pair()
    with a, b:
        assert a.write(make(b"abc")) == 3
        assert a.write(make(b"")) == 0
        assert a.write_frame(make(b"abc"))


def test_readinto() -> None:
    a, b = pair()
    with a, b:
        a.write(b"abcdef")
        room = bytearray(10)
        assert b.readinto(memoryview(room)[2:6]) == 4
        assert room == b"\0\0abcd\0\0\0\0"
        assert b.readinto(room) == 2
        assert b.readinto(room) == 0
        with pytest.raises((TypeError, BufferError)):
            b.readinto(b"constant")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            a.write("text")  # type: ignore[arg-type]


def test_frames() -> None:
    a, b = pair("straw", 4096)
    with a, b:
        assert a.write_frame(b"hello")
        assert b.read() == b"\0\0\0\5hello"
        assert a.write_frame(b"x" * 4092)
        assert not a.write_frame(b"")
        with pytest.raises(PoreTooBig) as caught:
            a.write_frame(b"x" * 4093)
        assert (caught.value.size, caught.value.limit) == (4093, 4092)


@pytest.mark.parametrize("ring", [0, WIDE])
def test_many_frames(ring: int) -> None:
    a, b = pair("straw", ring)
    with a, b:
        assert b.read_frames() == []
        messages = [b"", b"one", bytes(1000), b"x"]
        assert a.write_frames(messages) == 4
        assert b.read_frames() == messages
        assert b.read_frames() == []
        assert a.write_frames([]) == 0
        assert a.write_frames([b"alone"]) == 1
        assert b.read_frames() == [b"alone"]
        a.write(b"\0\0\0\3ab")
        assert b.read_frames() == []
        assert not b.wait_read(0, more=True)
        a.write(b"c")
        assert b.wait_read(more=True)
        assert b.read_frames() == [b"abc"]
        big = [bytes(4000)] * 100
        sent = a.write_frames(big)
        assert 0 < sent < 100


@pytest.mark.parametrize("ring", [0, WIDE])
def test_frames_of_who_was_poked_and_of_who_lingers(ring: int) -> None:
    a, b = pair(ring=ring)
    with a, b:
        assert b.drain_frames() == [] and b.linger_frames() == []
        assert a.write_frame(b"one") and a.write_frame(b"two")
        assert readable(b)
        assert b.drain_frames() == [b"one", b"two"]
        assert not readable(b), "the poke is taken"
        assert b.drain_frames() == [], "and waited for is the next"
        assert a.write_frame(b"three")
        assert readable(b)
        assert b.linger_frames() == [b"three"]
        assert b.linger_frames() == []
        a.write(b"\0\0\0\5a")
        assert b.linger_frames() == [], "a part of a frame"
        a.write(b"bcde")
        a.close()
        assert b.drain_frames() == [b"abcde"], "what was sent comes before the end"
        for more in (b.drain_frames, b.linger_frames):
            with pytest.raises(PoreClosed):
                more()
        b.close()
        for more in (b.drain_frames, b.linger_frames):
            with pytest.raises(PoreClosed):
                more()


def test_a_large_frame_is_read_in_its_place() -> None:
    a, b = pair(ring=4096)
    frame, got, sent, filled = os.urandom(20_000), bytes(20_000), 0, 0
    with a, b:
        a.write(len(frame).to_bytes(4, "big"))
        with pytest.raises(PoreTooBig):
            b.drain_frames()
        assert b.read(4) == len(frame).to_bytes(4, "big")
        while filled < len(frame):
            sent += a.write(memoryview(frame)[sent:])
            filled += b.fill(got, filled)
        assert got == frame and b.fill(bytes(1), 0) == 0
        a.close()
        with pytest.raises(PoreClosed):
            b.drain_frames()
        with pytest.raises(PoreClosed):
            b.fill(bytes(1), 0)


def test_a_frame_that_never_fits() -> None:
    a, b = pair()
    with a, b:
        a.write(struct.pack(">I", 20000) + b"part")
        with pytest.raises(PoreTooBig) as caught:
            b.read_frames()
        assert caught.value.size == 20000
        assert b.read(8) == struct.pack(">I", 20000) + b"part"


def test_a_packet_too_big() -> None:
    a, b = pair("tube")
    with a, b, pytest.raises(PoreTooBig, match="packet of 4097 is beyond the limit 4096"):
        a.write(b"x" * 4097)


@pytest.mark.parametrize(("ring", "size"), [(0, LING), (4096, 4096), (1 << 20, 1 << 20)])
def test_slots_and_notices(ring: int, size: int) -> None:
    a, b = pair("straw", ring)
    with a, b:
        assert a.slots == size
        assert a.write(bytes(size)) == size
        assert a.slots == 0
        assert not a.notify_when(1000)
        a.avail()
        assert not readable(a)
        b.readinto(bytearray(999))
        if ring:
            assert not readable(a)
        b.read(1)
        assert readable(a)
        assert a.avail() == (0, 1000)
        assert a.notify_when(1000)
        with pytest.raises(PoreError) as caught:
            a.notify_when(size + 1)
        assert caught.value.errno == errno.EINVAL


def test_pokes_of_a_batch() -> None:
    a, b = pair()
    with a, b:
        for _ in range(10):
            a.write(b"x", poke=False)
        assert not readable(b)
        assert a.poke()
        assert not a.poke()
        b.avail()
        assert b.info().irqs == 1
        assert a.info().pokes == 1


def test_info() -> None:
    a, b = pair("straw", WIDE, owner=99)
    with a, b:
        a.write(b"abc")
        info = a.info()
        assert (info.kind, info.role, info.reason, info.channels, info.owner) == ("straw", ACTIVE, "", 1, 99)
        assert (info.in_size, info.out_size, info.packet_max, info.pages) == (WIDE, WIDE, 0, 33)
        assert info.suppress is True
        assert (info.in_total, info.out_total) == (0, 3)


def test_the_peer_closes(ends: tuple[Pore, Pore]) -> None:
    a, b = ends
    a.write(b"last words")
    a.close()
    assert a.closed
    assert a.reason == "closed"
    while b.reason == "":
        assert readable(b)  # the poke, then the end
        b.avail()
    assert b.reason == "peer_gone"
    assert not b.closed
    with pytest.raises(PoreClosed, match="peer_gone"):
        b.write(b"x")
    assert b.read() == b"last words"
    with pytest.raises(PoreClosed) as caught:
        b.read()
    assert caught.value.reason == "peer_gone"
    with pytest.raises(PoreClosed):
        b.wait_read()


def test_after_close() -> None:
    a, b = pair()
    b.close()
    a.close("no longer wanted")
    a.close("again")
    assert a.reason == "no longer wanted"
    for use in (a.read, a.avail, a.poke, a.wait_read, a.info, a.fileno, a.spin, lambda: a.write(b""), lambda: a.slots):
        with pytest.raises(PoreClosed, match="no longer wanted"):
            use()


def test_failed_by_a_layer_above() -> None:
    a, b = pair()
    with a, b:
        a.write(b"x")
        b.fail("host_down")
        b.fail("peer_gone")
        assert b.reason == "host_down"
        assert b.read() == b"x"
        with pytest.raises(PoreClosed, match="host_down"):
            b.read()
        with pytest.raises(PoreClosed, match="peer_gone"):
            a.avail()
        c, d = pair()
        with c, d:
            c.fail("anything")
            assert c.reason == "refused"


def test_a_peer_that_scribbles() -> None:
    fd = memory(8)
    left, right = socket.socketpair()
    with Pore.straw(fd, left.detach(), role=ACTIVE) as pore, right:
        os.pwrite(fd, struct.pack("<I", 16376), 0)
        with pytest.raises(PoreCorrupt):
            pore.read()
        assert pore.reason == "corrupt"
        with pytest.raises(PoreCorrupt):
            pore.write(b"x")
        assert right.recv(10) == b""  # it sees the end
    os.close(fd)


def test_refused_memory_and_channels() -> None:
    left, right = socket.socketpair()
    good, unsealed, small = memory(8), memory(8, 0), memory(7)
    for fd, number in ((unsealed, errno.EPERM), (small, errno.EINVAL), (left.fileno(), errno.EPERM)):
        with pytest.raises(PoreError) as caught:
            Pore.straw(fd, left.fileno(), role=ACTIVE)
        assert caught.value.errno == number
    with pytest.raises(PoreError) as caught:
        Pore.straw(good, good, role=ACTIVE)
    assert caught.value.errno == errno.ENOTSOCK
    with pytest.raises(PoreError):
        Pore.straw(good, left.fileno(), role=3)
    with pytest.raises(PoreError):
        Pore.straw(good, left.fileno(), role=ACTIVE, suppress=True)
    with pytest.raises(ValueError, match="power of two"):
        Pore.straw(good, left.fileno(), role=ACTIVE, ring_bytes=5000)
    with pytest.raises(ValueError, match="8 pages are needed"):
        Pore.straw(good, left.fileno(), role=ACTIVE, page_index=[1, 2])
    with pytest.raises(ValueError, match="64 refs"):
        Pore.tube(good, left.fileno(), right.fileno(), role=ACTIVE, refs=[1])
    with pytest.raises(PoreCorrupt):  # nobody has laid a wide straw out there
        Pore.straw(good, left.fileno(), role=PASSIVE, ring_bytes=8192, page_index=[0, 1, 2, 3, 4])
    # What was refused is still ours: the channel was never closed.
    left.send(b"x")
    assert right.recv(1) == b"x"
    for fd in (good, unsealed, small):
        os.close(fd)
    left.close()
    right.close()


def test_pages_in_any_order_and_references_of_a_tube() -> None:
    fd = memory(70)
    order = [69, *range(64)]
    (a, b), (c, d) = socket.socketpair(), socket.socketpair()
    refs = [1000 + i for i in range(64)]
    with Pore.tube(fd, a.detach(), c.detach(), role=ACTIVE, refs=refs, page_index=order) as acceptor:
        assert tube_refs(fd, 69) == refs
        with Pore.tube(fd, b.detach(), d.detach(), role=PASSIVE, refs=refs, page_index=order) as opener:
            opener.write(b"first")
            opener.write(b"second")
            assert os.pread(fd, 5, 0) == b"first"
            assert [acceptor.read(), acceptor.read(), acceptor.read()] == [b"first", b"second", b""]
    os.close(fd)


def test_waiting_with_a_timeout() -> None:
    a, b = pair("straw", WIDE)
    with a, b:
        assert not a.wait_read(0)
        assert not a.wait_read(0.01)
        assert a.wait_write(WIDE)
        a.write(bytes(WIDE))
        assert not a.wait_write(1, 0.01)
        assert b.wait_read()
        with pytest.raises(PoreError):
            a.wait_write(WIDE + 1)


def test_waiting_releases_the_gil_and_sees_the_close() -> None:
    a, b = pair("straw", WIDE)
    with a, b:
        results: list[object] = []

        def sleeper() -> None:
            results.append(a.wait_read())
            a.read()
            try:
                a.wait_read()
            except PoreClosed as error:
                results.append(error.reason)

        thread = threading.Thread(target=sleeper)
        thread.start()
        b.write(b"x")
        while a.info().sleeps < 1 or a.slots != WIDE or len(results) < 1:
            pass
        a.close()
        thread.join()
        assert results == [True, "closed"]


def test_a_signal_handler_may_raise_out_of_a_wait() -> None:
    class Alarm(Exception):
        pass

    def ring(number: int, frame: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    a, b = pair()
    with a, b:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Alarm):
            a.wait_read()
    signal.signal(signal.SIGALRM, before)


def test_a_table_of_pores() -> None:
    with PoreTable(4) as table:
        a, b = pair(table=table, owner=1)
        c, d = pair(table=table, owner=2)
        assert len(table) == 4
        assert bool(table)
        with pytest.raises(PoreError) as caught:
            pair(table=table)
        assert caught.value.errno == errno.EMFILE
        gc.collect()
        assert table.close_owned(1) == 2
        assert table.close_owned(1) == 0
        assert len(table) == 2
        for pore in (a, b):
            with pytest.raises(PoreClosed):
                pore.read()
            assert pore.reason == "closed"
        e, f = pair(table=table)
        assert {e.id & 0xFFFFFFFF, f.id & 0xFFFFFFFF} == {a.id & 0xFFFFFFFF, b.id & 0xFFFFFFFF}
        assert {e.id, f.id}.isdisjoint({a.id, b.id})
        with pytest.raises(PoreClosed):
            a.write(b"into the new one?")
        assert f.read() == b""
        c.write(b"x")
        assert d.read() == b"x"
    assert len(table) == 0
    assert c.reason == "closed"
    for capacity in (0, 65537):
        with pytest.raises(ValueError, match="capacity"):
            PoreTable(capacity)


def test_a_forgotten_pore_warns_and_closes() -> None:
    gc.collect()
    a, b = pair()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del a
        gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning]
    with pytest.raises(PoreClosed, match="peer_gone"):
        b.avail()
    b.close()


def test_a_forgotten_pore_closes_when_warnings_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(unraisable.exc_type))
    a, b = pair()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del a
        gc.collect()
    assert raised == [ResourceWarning]
    with pytest.raises(PoreClosed, match="peer_gone"):
        b.avail()
    b.close()


def test_pores_forgotten_while_others_are_at_work() -> None:
    """A finalizer runs in any thread, between any two steps of the others: it must never wait for them."""
    table = PoreTable(64)
    stop = threading.Event()
    a, b = pair(table=table)

    def work() -> None:
        while not stop.is_set():
            a.write(b"x" * 100)
            b.read()
            b.wait_read(0.0005)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(300):
            cycle: list[object] = [*pair(table=table)]
            cycle.append(cycle)
            del cycle
            gc.collect(0)
        gc.collect()
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(table) == 2
    a.close()
    b.close()


def test_garbage_cycles_of_pores_and_their_table() -> None:
    for _ in range(50):
        a, b = pair()
        c, d = pair(table=PoreTable(2))
        for pore in (a, b, c, d):
            cycle: list[object] = [pore]
            cycle.append(cycle)
        del a, b, c, d, pore, cycle
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()


def test_repr() -> None:
    a, b = pair()
    with a, b:
        assert repr(a).endswith(" open>")
    assert repr(a).endswith(" closed>")


# ---- the host's client ----


def reply(op: int, *args: int, status: int = 0, sequence: int = 1) -> bytes:
    return struct.pack(f"<HhI{len(args)}I", op | 0x8000, status, sequence, *args)


@pytest.fixture
def host() -> Iterator[tuple[HostConnection, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with HostConnection.from_fd(ours.detach()) as connection, theirs:
        yield connection, theirs


def test_host_messages(host: tuple[HostConnection, socket.socket]) -> None:
    connection, peer = host
    assert connection.send(1, [1, 0]) == 1
    assert connection.send(10) == 2
    assert peer.recv(100) == struct.pack("<HHIII", 1, 0, 1, 1, 0)
    assert connection.receive() is None
    peer.send(reply(1, 7))
    assert connection.receive() == (False, 1, 0, 1, (7,), -1)
    peer.send(reply(2, status=-errno.EPERM, sequence=2))
    assert connection.receive() == (False, 2, -errno.EPERM, 2, (), -1)
    peer.send(struct.pack("<HHIII", 0x4001, 0, 0, 8, 9))
    assert connection.receive() == (True, 1, 0, 0, (8, 9), -1)
    fd = memory(2)
    socket.send_fds(peer, [reply(2, 8, 9, sequence=3)], [fd])
    message = connection.receive()
    assert message is not None
    assert os.fstat(message.fd).st_ino == os.fstat(fd).st_ino
    os.close(message.fd)
    os.close(fd)
    while connection.send(4, [1, 2, 3]) is not None:
        pass  # until the socket is full: a value, no error


def test_host_down(host: tuple[HostConnection, socket.socket]) -> None:
    connection, peer = host
    peer.close()
    with pytest.raises(PoreClosed, match="host_down"):
        connection.receive()
    for use in (connection.receive, connection.fileno, lambda: connection.send(1)):
        with pytest.raises(PoreClosed, match="host_down"):
            use()
    connection.close()
    connection.close()
    with pytest.raises(PoreClosed):
        connection.send(1)


def test_a_host_that_breaks_the_protocol(host: tuple[HostConnection, socket.socket]) -> None:
    connection, peer = host
    socket.send_fds(peer, [reply(1, 7)], [peer.fileno()])
    with pytest.raises(PoreError) as caught:
        connection.receive()
    assert caught.value.errno == errno.EPROTO
    assert peer.recv(1) == b""


def test_connecting_to_a_host(tmp_path: Path) -> None:
    path = str(tmp_path / "host.sock")
    with pytest.raises(PoreError) as caught:
        HostConnection.connect(path)
    assert caught.value.errno == errno.ENOENT
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        with HostConnection.connect(path) as connection:
            assert not os.get_inheritable(connection.fileno())
            assert not os.get_blocking(connection.fileno())
    with pytest.raises(PoreError):
        HostConnection.from_fd(-1)


# ---- leaks ----


def count() -> tuple[int, int]:
    gc.collect()
    with open("/proc/self/maps") as maps:
        return len(os.listdir("/proc/self/fd")), sum("memfd" in line for line in maps)


@pytest.mark.parametrize("kind", ["straw", "tube", "xenstore"])
def test_a_thousand_opens_leave_nothing(kind: str) -> None:
    before = count()
    for turn in range(1000):
        a, b = pair(kind)
        a.write(b"x")
        (a if turn % 2 else b).close()
        (b if turn % 2 else a).close()
    assert count() == before


def test_a_thousand_refusals_leave_nothing() -> None:
    fd = memory(8)
    left, right = socket.socketpair()
    before = count()
    for _ in range(1000):
        with pytest.raises(PoreError):
            Pore.straw(fd, left.fileno(), role=ACTIVE, page_index=[0, 1, 2, 3, 4, 5, 6, 8])
        with pytest.raises(PoreCorrupt):
            Pore.straw(fd, left.fileno(), role=PASSIVE, ring_bytes=4096, page_index=[0, 1, 2])
    assert count() == before
    os.close(fd)
    left.close()
    right.close()
