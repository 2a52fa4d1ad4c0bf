"""The dialect of LING peers (straw-rules 6): what is written for them, read from them, and what can't be said."""

from __future__ import annotations

import struct

import pytest

from node.etf import DecodeError, EncodeError, decode, encode
from node.terms import Atom, BitString, Export, Fun, ImproperList, LingPid, LocalTerm, Pid, Port, Record, Reference

NODE = Atom("local")
N = b"s\x05local"


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (Atom("ok"), b"s\x02ok"),
        (Atom("\u00e9" * 255), b"s\xff" + b"\xe9" * 255),
        (True, b"s\x04true"),
        (False, b"s\x05false"),
        (None, b"s\x09undefined"),
        (LingPid(1, 2, 3), b"\xa0" + struct.pack(">QII", 1, 2, 3)),
        (
            Reference(NODE, 0, (2**18 - 1, 2**32 - 1, 3)),
            b"r\x00\x03" + N + struct.pack(">B3I", 0, 2**18 - 1, 2**32 - 1, 3),
        ),
        (Port(NODE, 2**18 - 1, 3), b"f" + N + struct.pack(">IB", 2**18 - 1, 3)),
        (Export(NODE, Atom("f"), 2), b"q" + N + b"s\x01fa\x02"),
        ([1, (2.5, b"x")], b"l\x00\x00\x00\x02a\x01h\x02F" + struct.pack(">d", 2.5) + b"m\x00\x00\x00\x01xj"),
        (ImproperList((1,), Atom("x")), b"l\x00\x00\x00\x01a\x01s\x01x"),
        (BitString(b"\x80", 1), b"M\x00\x00\x00\x01\x01\x80"),
        (2**40, b"n\x06\x00\x00\x00\x00\x00\x00\x01"),
    ],
    ids=repr,
)
def test_written_and_read(value: object, data: bytes) -> None:
    assert encode(value, dialect="ling") == b"\x83" + data
    if value is not None:
        assert decode(b"\x83" + data, dialect="ling") == value


@pytest.mark.parametrize(
    "value",
    [
        Atom("\u20ac"),
        Pid(NODE, 1, 2, 3),
        Reference(NODE, 4, (1,)),
        Reference(NODE, 0, (2**18,)),
        Reference(NODE, 0, (1, 2, 3, 4)),
        Reference(Atom("\u20ac"), 0, (1,)),
        Port(NODE, 2**18, 0),
        Port(NODE, 1, 4),
        {},
        {1: 2},
        Fun(1, b"u" * 16, 0, (), NODE, 0, 0, Pid(NODE, 1, 2, 3)),
        Record(NODE, NODE, True, (), ()),
        LocalTerm(b"x"),
        float("inf"),
    ],
    ids=repr,
)
def test_what_cannot_be_said(value: object) -> None:
    with pytest.raises(EncodeError):
        encode(value, dialect="ling")
    with pytest.raises(EncodeError) as caught:
        encode([0, (value,)], dialect="ling")
    assert caught.value.path == "[1][0]"


def test_maps_only_when_asked() -> None:
    data = encode({Atom("k"): 1}, dialect="ling", ling_maps=True)
    assert data == b"\x83t\x00\x00\x00\x01s\x01ka\x01"
    with pytest.raises(EncodeError, match="ling_maps"):
        encode({Atom("k"): 1}, dialect="ling")


def test_nesting() -> None:
    value: object = 1
    for _ in range(999):
        value = (value,)
    encode(value, dialect="ling")
    with pytest.raises(EncodeError, match="999"):
        encode((value,), dialect="ling")


def test_ling_pids_stay_in_their_dialect() -> None:
    with pytest.raises(DecodeError):
        decode(encode(LingPid(1, 2, 3), dialect="ling"))
    with pytest.raises(EncodeError, match="ling"):
        encode(LingPid(1, 2, 3))
    for bad in (LingPid(2**64, 1, 1), LingPid(1, 2**32, 1), LingPid(1, 1, -1)):
        with pytest.raises(EncodeError):
            encode(bad, dialect="ling")
