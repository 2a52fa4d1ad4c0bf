"""FrameReader and Outbox: the two sides of one connection's bytes."""

from __future__ import annotations

import gc
import struct

import pytest

from node.etf import (
    BIG_BINARY,
    NO_PAYLOAD,
    DecodeError,
    EncodeError,
    FrameReader,
    Outbox,
    encode,
    encode_frame,
)
from node.terms import Atom, LocalTerm

SEND = (2, Atom(""), Atom("to"))


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def drain(outbox: Outbox, limit: int = 64) -> bytes:
    data = b""
    while outbox.size:
        chunk = b"".join(outbox.buffers(limit))
        assert chunk
        outbox.sent(len(chunk))
        data += chunk
    return data


MESSAGES = [
    (SEND, [1, 2, 3]),
    ((1, Atom("x")), NO_PAYLOAD),
    (SEND, b"x" * 100_000),
    (SEND, {b"k": (1.5, 0, [])}),
    ((3, 4, Atom("normal")), NO_PAYLOAD),
    (SEND, bytes(BIG_BINARY)),
    (SEND, (b"y" * 70_000, b"z" * 70_000, b"small")),
]


def stream() -> bytes:
    return b"".join(b"".join(encode_frame(*message)) for message in MESSAGES)


def test_encode_frame() -> None:
    assert b"".join(encode_frame(SEND, [1])) == frame(b"p" + encode(SEND) + encode([1]))
    assert b"".join(encode_frame(SEND)) == frame(b"p" + encode(SEND))
    assert b"".join(encode_frame(SEND, None, none="nil")) == frame(b"p" + encode(SEND) + encode(Atom("nil")))
    big = bytes(BIG_BINARY)
    pieces = encode_frame(SEND, (big, 1))
    assert pieces[1] is big
    assert b"".join(pieces) == frame(b"p" + encode(SEND) + encode((big, 1)))
    with pytest.raises(EncodeError):
        encode_frame(SEND, LocalTerm(b"x"))


@pytest.mark.parametrize("step", [1, 3, 7, 1000, 65536, 10**7])
def test_reading_in_pieces(step: int) -> None:
    data = b"\0\0\0\0" + stream() + b"\0\0\0\0\0\0\0\0" + b"".join(encode_frame(SEND, 1))
    if step < 1000:
        data = data[: 8 * 1024 * step]
    reader, got = FrameReader(), []
    for i in range(0, len(data), step):
        got += reader.feed(data[i : i + step])
    assert got == [*MESSAGES, (SEND, 1)][: len(got)]
    if step >= 1000:
        assert len(got) == len(MESSAGES) + 1
        assert reader.pending == 0
    assert reader.error is None


def test_reading_into_the_buffer() -> None:
    data, reader, got = stream(), FrameReader(), []
    at = 0
    while at < len(data):
        view = reader.get_buffer(1000)
        assert not view.readonly
        assert len(view) >= 1000
        n = min(len(view), len(data) - at, 10_000)
        view[:n] = data[at : at + n]
        at += n
        got += reader.received(n)
    assert got == MESSAGES
    with pytest.raises(ValueError):
        reader.received(10**9)
    with pytest.raises(ValueError):
        reader.received(-1)


def test_old_views_stay_valid() -> None:
    reader = FrameReader()
    views = []
    for _ in range(50):
        view = reader.get_buffer(200_000)
        view[:4] = b"\x00\x00\x00\x00"
        views.append(view)
        reader.received(4)
        reader.feed(b"\x7f\x00\x00\x00"[:0])
    del reader
    gc.collect()
    for view in views:
        view[:] = bytes(len(view))


def test_memory_follows_what_arrived_and_goes_again() -> None:
    reader = FrameReader()
    size = 20_000_000
    body = b"p" + encode(SEND) + encode(bytes(size))
    data = frame(body)
    reader.feed(data[:10])
    assert reader.room < 300_000  # an announced length alone costs nothing
    at = 10
    while at < len(data):
        view = reader.get_buffer(65536)
        n = min(len(view), 65536, len(data) - at)
        view[:n] = data[at : at + n]
        at += n
        got = reader.received(n)
        assert reader.room <= 2 * at + 2 * 65536
    assert len(got) == 1
    assert len(got[0][1]) == size
    reader.get_buffer(0)
    assert reader.room <= 65536


def test_a_broken_payload_is_lost_alone() -> None:
    good = b"".join(encode_frame(SEND, 1))
    for payload, offset in (
        (b"\x83\xff", 1),
        (b"\x83a\x01\x00", 3),
        (b"\x82a\x01", 0),
        (b"\x83ya\x01", 1),
        (b"\x83", 1),
    ):
        head = b"p" + encode(SEND)
        got = FrameReader().feed(good + frame(head + payload) + good)
        assert got[0] == got[2] == (SEND, 1)
        assert got[1][0] == SEND
        assert isinstance(got[1][1], DecodeError)
        assert got[1][1].offset == len(head) + offset


@pytest.mark.parametrize(
    "body",
    [
        b"q\x83h\x00",
        b"\x83D\x00",
        b"p",
        b"p\x82h\x00",
        b"p\x83",
        b"p\x83h\x01",
        b"p\x83a\x01",
        b"p\x83\xff\x83a\x01",
        b"p\x83" + b"h\x01" * 20_000 + b"j",
    ],
)
def test_a_broken_stream(body: bytes) -> None:
    good = b"".join(encode_frame(SEND, 1))
    reader = FrameReader()
    assert reader.feed(good + good + frame(body) + good) == [(SEND, 1), (SEND, 1)]
    assert isinstance(reader.error, DecodeError)
    for _ in range(2):
        with pytest.raises(DecodeError):
            reader.received(0)
    alone = FrameReader()
    with pytest.raises(DecodeError):
        alone.feed(frame(body))
    assert isinstance(alone.error, DecodeError)


def test_max_frame() -> None:
    body = b"p" + encode(SEND) + encode(1)
    assert FrameReader(max_frame=len(body)).feed(frame(body)) == [(SEND, 1)]
    with pytest.raises(DecodeError, match="max_frame"):
        FrameReader(max_frame=len(body) - 1).feed(frame(body)[:4])
    with pytest.raises(ValueError):
        FrameReader(0)


def test_outbox_writes_what_was_sent() -> None:
    outbox = Outbox()
    for message in MESSAGES:
        outbox.send(*message)
        outbox.tick()
    assert outbox.frames == len(MESSAGES)
    data = drain(outbox, 3)
    assert outbox.frames == outbox.size == 0
    assert outbox.buffers() == []
    assert FrameReader().feed(data) == MESSAGES
    assert data == b"".join(b"".join(encode_frame(*message)) + b"\0\0\0\0" for message in MESSAGES)


def test_outbox_counts() -> None:
    outbox = Outbox()
    first = outbox.send(SEND, 1)
    assert outbox.size == first == len(b"".join(encode_frame(SEND, 1)))
    assert outbox.tick() == first + 4
    assert outbox.append(encode_frame(SEND, 1)) == 2 * first + 4
    assert outbox.frames == 2
    outbox.sent(first - 1)
    assert outbox.frames == 2
    outbox.sent(1)
    assert outbox.frames == 1
    outbox.sent(4)
    assert outbox.frames == 1
    with pytest.raises(ValueError):
        outbox.sent(first + 1)
    outbox.sent(first)
    assert (outbox.frames, outbox.size) == (0, 0)


def test_large_binaries_are_not_copied() -> None:
    outbox, big = Outbox(), b"q" * BIG_BINARY
    outbox.send(SEND, big)
    outbox.append(encode_frame(SEND, big))
    assert sum(piece is big for piece in outbox.buffers()) == 2
    head = len(outbox.buffers(1)[0])
    outbox.sent(head + 10)
    rest = outbox.buffers(1)[0]
    assert isinstance(rest, memoryview)
    assert rest.obj is not big
    assert rest == big[10:]


def test_views_stay_valid_while_more_is_sent() -> None:
    outbox = Outbox()
    seen = []
    for i in range(2000):
        outbox.send(SEND, (i, b"x" * (i % 300)))
        if i % 7 == 0:
            views = outbox.buffers()
            copy = [bytes(view) for view in views]
            seen.append((views, copy))
            if i % 3 == 0:
                outbox.sent(sum(map(len, copy)))
    for views, copy in seen:
        assert [bytes(view) for view in views] == copy


@pytest.mark.parametrize("before", [0, 1, 100, 2000])
def test_a_failed_send_changes_nothing(before: int) -> None:
    outbox, big = Outbox(), bytes(BIG_BINARY)
    for i in range(before):
        outbox.send(SEND, i)
    size, frames = outbox.size, outbox.frames
    for payload in (1j, [1, 2, 1j], [b"x" * 60_000] * 30 + [1j], [big, b"x" * 1000, big, 1j], [[big]] * 20 + [1j]):
        with pytest.raises(EncodeError):
            outbox.send(SEND, payload)
        assert (outbox.size, outbox.frames) == (size, frames)
        with pytest.raises(EncodeError):
            outbox.send((1j,), payload)
    with pytest.raises(TypeError):
        outbox.append([b"x" * 10, big, 1])  # type: ignore[list-item]
    assert (outbox.size, outbox.frames) == (size, frames)
    outbox.send(SEND, b"end")
    assert FrameReader().feed(drain(outbox)) == [*((SEND, i) for i in range(before)), (SEND, b"end")]


def test_outbox_none() -> None:
    outbox = Outbox(none="nil")
    outbox.send(SEND, [None])
    assert FrameReader().feed(drain(outbox)) == [(SEND, [Atom("nil")])]


def test_a_long_conversation() -> None:
    outbox, reader = Outbox(), FrameReader()
    for i in range(20_000):
        outbox.send(SEND, i)
        if i % 100 == 99:
            got = reader.feed(drain(outbox))
            assert [payload for _, payload in got] == list(range(i - 99, i + 1))
    assert reader.room <= 131072
