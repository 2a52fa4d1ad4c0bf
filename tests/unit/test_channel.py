"""The channel: frames at every split, ticks both ways, faults after what came before them."""

from __future__ import annotations

import pytest

from node.errors import DecodeError, EncodeError, RemoteProtocolError
from node.etf import NO_PAYLOAD, FrameReader, Outbox, encode_frame
from node.terms import Atom, Pid
from node.wire.channel import SILENT_QUARTERS, Channel
from node.wire.control import LINK, REG_SEND

A, B = Atom("a@h"), Atom("b@h")
SEND = (REG_SEND, Pid(A, 1, 0, 7), Atom(""), Atom("there"))


def channel(ticktime: float = 60.0, now: float = 0.0, **limits: int) -> Channel:
    """b's side of a connection with a."""
    return Channel(A, B, FrameReader(**limits), Outbox(), ticktime=ticktime, now=now)


def wire(control: tuple[object, ...], payload: object = NO_PAYLOAD) -> bytes:
    return b"".join(encode_frame(control, payload))


def written(side: Channel) -> bytes:
    data = b"".join(bytes(piece) for piece in side.data_to_send(64))
    side.sent(len(data))
    return data


def test_frames_at_every_split() -> None:
    stream = wire(SEND, 1) + bytes(4) + wire(SEND, b"two") + wire((LINK, Pid(A, 1, 0, 7), Pid(B, 1, 0, 8)))
    for cut in range(len(stream) + 1):
        side = channel()
        batch = side.feed(stream[:cut]) + side.feed(stream[cut:])
        assert [payload for _, payload in batch] == [1, b"two", NO_PAYLOAD]
        assert side.error is None
    side = channel()
    assert len([entry for byte in stream for entry in side.feed(bytes([byte]))]) == 3


def test_what_is_sent_is_received() -> None:
    one = Channel(B, A, FrameReader(), Outbox(), ticktime=60.0, now=0.0)
    other = channel()
    assert one.send(SEND, {b"k": [1, 2]}) == one.outbox.size
    assert other.feed(written(one)) == [(SEND, {b"k": [1, 2]})]
    assert one.outbox.size == one.outbox.frames == 0


def test_a_term_that_can_not_be_sent_leaves_no_trace() -> None:
    side = channel()
    side.send(SEND, 1)
    size = side.outbox.size
    with pytest.raises(EncodeError):
        side.send(SEND, [b"x" * 100_000, float("nan")])
    assert side.outbox.size == size and side.outbox.frames == 1


@pytest.mark.parametrize(
    "fault",
    [
        wire((99,)),
        wire((LINK, Pid(A, 1, 0, 7))),
        wire(SEND),  # without its message
        b"\0\0\0\3xyz",
        b"\0\0\0\3p\x83\x61",
        b"\xff\xff\xff\xff",
    ],
)
def test_a_fault_ends_it_after_what_came_before(fault: bytes) -> None:
    side = channel(max_frame=1000)
    batch = side.feed(wire(SEND, 1) + wire(SEND, 2) + fault + wire(SEND, 3))
    assert [payload for _, payload in batch] == [1, 2]
    assert isinstance(side.error, RemoteProtocolError)
    assert side.feed(wire(SEND, 4)) == []
    alone = channel(max_frame=1000)
    assert alone.feed(fault) == [] and isinstance(alone.error, RemoteProtocolError)


def test_a_message_that_can_not_be_read_is_lost_alone() -> None:
    side = channel()
    frame = wire(SEND, b"xyz")
    broken = frame[:-8] + b"\xff" + frame[-7:]  # the tag of the payload
    batch = side.feed(broken + wire(SEND, 2))
    assert isinstance(batch[0][1], DecodeError) and batch[1] == (SEND, 2)
    assert side.error is None


def test_ticks_when_nothing_is_written() -> None:
    side = channel(ticktime=60.0, now=100.0)
    assert side.get_timer() == 115.0
    assert side.handle_timer(114.9) and side.outbox.size == 0
    side.heard()
    assert side.handle_timer(115.0)
    assert written(side) == bytes(4) and side.get_timer() == 130.0
    side.feed(bytes(4))
    assert side.handle_timer(130.0) and side.outbox.size == 0  # the last quarter had bytes both ways
    side.feed(bytes(4))
    assert side.handle_timer(145.0) and written(side) == bytes(4)


def test_a_silent_peer_gets_ticks_though_we_write() -> None:
    side = channel(now=0.0)
    side.send(SEND, 1)
    written(side)
    assert side.handle_timer(15.0) and written(side) == bytes(4)


def test_no_tick_behind_what_the_peer_does_not_take() -> None:
    side = channel(now=0.0)
    side.send(SEND, 1)
    size = side.outbox.size
    assert side.handle_timer(15.0) and side.outbox.size == size


def test_silence_for_four_quarters_is_the_end() -> None:
    side = channel(now=0.0)
    side.feed(b"\0")  # half a tick is life, too
    now = 0.0
    for _ in range(SILENT_QUARTERS):
        now = side.get_timer()
        assert side.handle_timer(now)
    assert not side.handle_timer(side.get_timer())
    assert now == 60.0


def test_bytes_that_wait_unread_count() -> None:
    side = channel(now=0.0)
    for _ in range(20):
        side.heard()
        assert side.handle_timer(side.get_timer())


def test_sleeping_ourselves_is_not_held_against_the_peer() -> None:
    side = channel(now=0.0)
    assert side.handle_timer(1000.0)
    assert side.get_timer() == 1015.0
