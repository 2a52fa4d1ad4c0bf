"""Frames on a stream, and the buffers that are chipped from the front."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pores.framing import HEADER, ChipBuffer, FrameReader, Outbox, Oversized


def stream(frames: list[bytes]) -> bytes:
    return b"".join(HEADER.pack(len(frame)) + frame for frame in frames)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    points = sorted({0, len(data), *(point % (len(data) + 1) for point in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(points)]


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 1000), max_size=12))
def test_frames_however_they_are_cut(frames: list[bytes], cuts: list[int]) -> None:
    reader = FrameReader()
    got = [frame for piece in cut(stream(frames), cuts) for frame in reader.receive(piece)]
    assert got == frames
    assert not reader.truncated and not reader.pending


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 1000), max_size=12), st.integers(0, 30))
def test_frames_beyond_the_limit_are_passed_over(frames: list[bytes], cuts: list[int], limit: int) -> None:
    reader = FrameReader(limit)
    got = [frame for piece in cut(stream(frames), cuts) for frame in reader.receive(piece)]
    assert got == [frame if len(frame) <= limit else Oversized(len(frame)) for frame in frames]
    assert not reader.truncated


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_give_frames_and_hold_no_more_than_came(pieces: list[bytes]) -> None:
    reader = FrameReader(1000)
    for piece in pieces:
        for frame in reader.receive(piece):
            assert isinstance(frame, Oversized) or len(frame) <= 1000
        assert reader.pending <= 1000 + 4


def test_an_announced_length_costs_nothing() -> None:
    reader = FrameReader(1 << 32)
    assert reader.receive(b"\xff\xff\xff\xff" + b"x") == []
    assert reader.pending == 1 and reader.truncated


@pytest.mark.parametrize("part", range(1, 9))
def test_truncated(part: int) -> None:
    reader = FrameReader()
    assert reader.receive(stream([b"12345"])[:part]) == []
    assert reader.truncated


def test_a_large_frame_in_many_pieces_is_joined_once() -> None:
    frame = bytes(range(256)) * 40_000
    reader = FrameReader()
    data = stream([frame])
    got = [whole for n in range(0, len(data), 4096) for whole in reader.receive(data[n : n + 4096])]
    assert got == [frame]


@given(
    st.lists(
        st.one_of(st.binary(min_size=1, max_size=9).map(lambda b: ("+", b)), st.integers(0, 20).map(lambda n: ("-", n)))
    )
)
def test_chipping_is_like_slicing(steps: list[tuple[str, object]]) -> None:
    buffer, model = ChipBuffer(), b""
    for _, argument in steps:
        if isinstance(argument, bytes):
            buffer.append(argument)
            model += argument
        else:
            assert isinstance(argument, int)
            if argument > len(model):
                with pytest.raises(ValueError):
                    buffer.chip(argument)
            else:
                assert buffer.chip(argument) == model[:argument]
                model = model[argument:]
        assert len(buffer) == len(model)
        assert model.startswith(bytes(buffer.front()))
        assert bool(len(buffer.front())) == bool(model)


def test_a_piece_asked_for_whole_is_the_same_object() -> None:
    buffer = ChipBuffer()
    piece = b"x" * 1000
    buffer.append(piece)
    buffer.append(b"y")
    assert buffer.chip(1000) is piece
    assert buffer.front().obj == b"y"


@given(st.lists(st.binary(max_size=20_000), max_size=10), st.lists(st.integers(1, 9000), min_size=1))
def test_the_outbox_gives_the_frames_in_any_portions(frames: list[bytes], portions: list[int]) -> None:
    outbox = Outbox()
    out = bytearray()
    for n, frame in enumerate(frames):
        outbox.put(frame)
        if n % 3 == 0:
            part = outbox.front()[: portions[n % len(portions)]]
            out += part
            outbox.sent(len(part))
    assert outbox.size == len(stream(frames)) - len(out)
    n = 0
    while outbox.size:
        part = outbox.front()[: portions[n % len(portions)]]
        assert len(part)
        out += part
        outbox.sent(len(part))
        n += 1
    assert bytes(out) == stream(frames)
    assert not len(outbox.front())
