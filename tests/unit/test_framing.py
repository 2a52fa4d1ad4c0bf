"""Handshake framing: bounds, splits, the rest behind the last frame."""

from __future__ import annotations

import pytest

from node.errors import LocalProtocolError, RemoteProtocolError
from node.wire.framing import MAX_HANDSHAKE_FRAME, Fields, Framing, frame


@pytest.mark.parametrize("header", [2, 4])
def test_every_split_gives_the_same_frames(header: int) -> None:
    stream = frame(b"one", header) + frame(b"", header) + frame(b"three", header)
    for cut in range(len(stream) + 1):
        framing = Framing(header)
        framing.feed(stream[:cut])
        got = list(framing.frames())
        framing.feed(stream[cut:])
        assert got + list(framing.frames()) == [b"one", b"", b"three"]
        assert framing.take_rest() == b""


def test_rest_is_what_follows_the_last_frame_taken() -> None:
    framing = Framing()
    framing.feed(frame(b"last") + b"\0\0\0\0more")
    assert framing.next_frame() == b"last"
    assert framing.take_rest() == b"\0\0\0\0more"
    assert framing.take_rest() == b""


@pytest.mark.parametrize("header", [2, 4])
def test_an_announced_length_out_of_bounds_is_refused_before_its_bytes_come(header: int) -> None:
    framing = Framing(header)
    framing.feed(MAX_HANDSHAKE_FRAME.to_bytes(header, "big"))
    assert framing.next_frame() is None
    framing = Framing(header)
    framing.feed((MAX_HANDSHAKE_FRAME + 1).to_bytes(header, "big"))
    with pytest.raises(RemoteProtocolError):
        framing.next_frame()


def test_our_own_mistakes_are_local() -> None:
    with pytest.raises(LocalProtocolError):
        frame(b"x" * (MAX_HANDSHAKE_FRAME + 1))
    with pytest.raises(LocalProtocolError):
        Framing(3)


def test_fields_never_read_past_the_end() -> None:
    fields = Fields(b"Nab", 1)
    assert fields.number(2) == 0x6162
    with pytest.raises(RemoteProtocolError):
        fields.octets(1)
