"""Messages on a pore between two threads: order, sizes, gathering, timeouts, the end."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pores.errors import PoreClosed, PoreTooBig
from pores.messages import Messages
from pores.pore import ACTIVE, PASSIVE, Pore
from tests.unit.test_pore import memory, pair

RINGS = [0, 4096, 262144]


@pytest.fixture(params=RINGS)
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Messages, Messages]]:
    a, b = pair("straw", request.param)
    with a, b:
        yield Messages(a), Messages(b)


def test_to_and_fro(ends: tuple[Messages, Messages]) -> None:
    a, b = ends
    for data in (b"", b"x", b"longer" * 100):
        a.send(data)
        assert b.receive(5) == data
        b.send(data)
        assert a.receive(5) == data


def test_posted_leave_together_and_in_order(ends: tuple[Messages, Messages]) -> None:
    a, b = ends
    a.post(b"1")
    a.post(b"2")
    with pytest.raises(TimeoutError):
        b.receive(0)
    assert a.unsent == 2
    a.send(b"3")
    assert b.receive_all(5) == [b"1", b"2", b"3"]
    a.post(b"4")
    with pytest.raises(TimeoutError):
        a.receive(0)  # waits: what was posted leaves
    assert (b.receive(5), a.unsent) == (b"4", 0)
    with a:
        a.post(b"5")
    assert b.receive(5) == b"5"


def test_many_at_once(ends: tuple[Messages, Messages]) -> None:
    a, b = ends
    frames = [bytes([n % 256]) * (n % 300) for n in range(3000)]
    frames[1000] = bytes(300_000)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(a.send_all, frames, 20)
        assert [b.receive(20) for _ in frames] == frames
        sent.result()
    a.send_all([])


def test_frames_of_any_size_both_ways_at_once(ends: tuple[Messages, Messages]) -> None:
    chance = random.Random(7)
    sizes = [chance.choice([0, 1, 60, 500, 5000, 20_000, 300_000]) for _ in range(300)]
    frames = [bytes([n % 256]) * size for n, size in enumerate(sizes)]

    def send(end: Messages) -> None:
        for n, frame in enumerate(frames):
            (end.send if n % 5 == 0 else end.post)(frame)
        end.flush()

    def receive(end: Messages) -> list[bytes]:
        got: list[bytes] = []
        while len(got) < len(frames):
            if len(got) % 2:
                got.append(end.receive(20))
            else:
                got += end.receive_all(20)
        return got

    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(send, end) for end in ends]
        received = [pool.submit(receive, end) for end in ends]
        assert all(future.result() == frames for future in received)
        for future in sent:
            future.result()


def test_two_that_post_and_receive_by_turns_do_not_wait_for_each_other(ends: tuple[Messages, Messages]) -> None:
    """Both have more to send than the ring takes, before either reads."""
    count, frame = 255, bytes(1024)  # one more would flush

    def turns(end: Messages) -> int:
        got = 0
        for _ in range(5):
            for _ in range(count):
                end.post(frame)
            for _ in range(count):
                got += len(end.receive(20))
        return got

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(turns, ends)) == [5 * count * 1024] * 2


def test_a_full_ring_and_a_timeout(ends: tuple[Messages, Messages]) -> None:
    a, b = ends
    sent = 0
    with pytest.raises(TimeoutError):
        while True:
            a.send(sent.to_bytes(4, "big") * 200, timeout=0)
            sent += 1
    assert a.unsent
    got = []
    while a.unsent or len(got) <= sent:
        got += b.receive_all(5)
        if a.unsent:
            a.flush(5)
    assert [int.from_bytes(frame[:4], "big") for frame in got] == list(range(sent + 1))


def test_a_timeout_amidst_a_large_frame_loses_nothing() -> None:
    a, b = pair("straw", 4096)
    frame = random.Random(1).randbytes(50_000)
    with a, b:
        one, other = Messages(a), Messages(b)
        with pytest.raises(TimeoutError):
            one.send(frame, timeout=0)
        with pytest.raises(TimeoutError):
            other.receive(0)
        flush = threading.Thread(target=one.flush, args=(20,))
        flush.start()
        assert other.receive(20) == frame
        flush.join()


def test_beyond_the_limit() -> None:
    a, b = pair("straw", 4096)
    with a, b:
        one, other = Messages(a), Messages(b, max_frame=10_000)
        with pytest.raises(PoreTooBig):
            other.send(bytes(10_001))
        send = threading.Thread(target=lambda: (one.send(bytes(10_001)), one.send(b"next")))
        send.start()
        with pytest.raises(PoreTooBig, match="10001"):
            other.receive(20)
        assert other.receive(20) == b"next"
        send.join()


def test_the_last_frames_come_before_the_end(ends: tuple[Messages, Messages]) -> None:
    a, b = ends
    a.send(b"one")
    a.send(b"two")
    a.pore.close()
    assert list(b) == [b"one", b"two"]
    with pytest.raises(PoreClosed):
        b.receive()
    with pytest.raises(PoreClosed):
        b.send(b"x")
    with pytest.raises(PoreClosed):
        a.send(b"x")


def test_a_peer_that_goes_while_we_wait(ends: tuple[Messages, Messages]) -> None:
    a, b = ends
    timer = threading.Timer(0.05, a.pore.close)
    timer.start()
    with pytest.raises(PoreClosed):
        b.receive(20)
    timer.join()


def test_a_tube_is_no_stream() -> None:
    (a, b), (c, d) = socket.socketpair(), socket.socketpair()
    fd = memory(65)
    with Pore.tube(fd, a.detach(), c.detach(), role=ACTIVE) as one:
        with pytest.raises(ValueError, match="packets"):
            Messages(one)
        with Pore.tube(fd, b.detach(), d.detach(), role=PASSIVE):
            pass
