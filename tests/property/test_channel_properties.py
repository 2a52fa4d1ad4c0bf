"""Any bytes into a channel: frames or an error, never an exception, the same whole and byte by byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.etf import NO_PAYLOAD, FrameReader, Outbox, encode_frame
from node.terms import Atom, Pid
from node.wire.channel import Channel
from node.wire.control import LINK, REG_SEND

A, B = Atom("a@h"), Atom("b@h")
PID = Pid(A, 1, 0, 7)


def channel() -> Channel:
    return Channel(A, B, FrameReader(max_frame=10_000), Outbox(), ticktime=60.0, now=0.0)


def wire(control: tuple[object, ...], payload: object = NO_PAYLOAD) -> bytes:
    return b"".join(encode_frame(control, payload))


pieces = st.one_of(
    st.just(bytes(4)),
    st.integers(0, 999).map(lambda number: wire((REG_SEND, PID, Atom(""), Atom("x")), number)),
    st.just(wire((LINK, PID, Pid(B, 1, 0, 8)))),
    st.just(wire((LINK, PID, PID))),
    st.binary(max_size=30).map(lambda body: len(body).to_bytes(4, "big") + body),
    st.binary(max_size=30).map(lambda body: (len(body) + 2).to_bytes(4, "big") + b"p\x83" + body),
    st.binary(max_size=8),
)


@given(st.lists(pieces, max_size=8).map(b"".join), st.integers(1, 20))
def test_any_bytes_at_any_split(data: bytes, step: int) -> None:
    whole, parts = channel(), channel()
    at_once = whole.feed(data)
    bit_by_bit = [entry for at in range(0, len(data), step) for entry in parts.feed(data[at : at + step])]
    assert [control for control, _ in at_once] == [control for control, _ in bit_by_bit]
    assert str(whole.error) == str(parts.error)


@given(st.lists(st.one_of(st.integers(0, 200_000), st.just("tick"), st.just("write")), max_size=12))
def test_what_goes_in_comes_out_in_order(steps: list[int | str]) -> None:
    """Messages of any size, ticks and partial writes between them."""
    out, sink = channel(), Channel(B, A, FrameReader(), Outbox(), ticktime=60.0, now=0.0)
    sent, got = [], []

    def write(limit: int) -> None:
        data = b"".join(bytes(piece) for piece in out.data_to_send(3))[:limit]
        out.sent(len(data))
        got.extend(payload for _, payload in sink.feed(data))

    for step in steps:
        if step == "tick":
            out.outbox.tick()
        elif step == "write":
            write(70_000)
        else:
            sent.append(bytes(int(step)))
            out.send((REG_SEND, Pid(B, 1, 0, 7), Atom(""), Atom("x")), sent[-1])
    while out.outbox.size:
        write(50_000)
    assert got == sent and out.outbox.frames == 0
