"""The codec gives back every reference and byte it takes, on success and on failure halfway through."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from node import _etf
from node.etf import (
    BIG_BINARY,
    NO_PAYLOAD,
    Crossing,
    FrameReader,
    Outbox,
    decode,
    decode_prefix,
    encode,
    encode_frame,
    encode_pieces,
)
from node.terms import (
    Atom,
    BitString,
    Export,
    Fun,
    ImproperList,
    LingPid,
    LocalTerm,
    Map,
    Pid,
    Port,
    Record,
    Reference,
)

NODE = Atom("leak@test")
PID = Pid(NODE, 1, 2, 3)
TERMS: list[Any] = [
    [0, 255, 256, -1, 2**40, -(2**63), 2**64, -(2**100), 2**3000],
    (1.5, -0.0, True, False, None, NODE, Atom("\u20ac"), Atom("x" * 255), Atom("\u20ac" * 255)),
    [b"", b"abc", "text", "t\u00e9xt", bytearray(b"x"), memoryview(b"abc")[::2]],
    ([], [1, 2], [[]], (), ((),), tuple(range(300)), list(range(400))),
    {1: 2, b"k": {Atom("z"): []}, (1, (2,)): 3.5},
    Map(((1, [1]), (1.0, (2,)), (True, 3), ([1], {}), (Map(((1, 1), (1.0, 2))), 5))),
    [PID, Port(NODE, 5, 6), Reference(NODE, 1, (1, 2, 3)), Export(NODE, NODE, 2), BitString(b"\xe0", 3)],
    ImproperList((1, [2]), (3,)),
    Fun(1, b"u" * 16, 2, ([1], {2: 3}), NODE, 3, 2**70, PID),
    Record(NODE, NODE, True, (NODE, NODE), ([1], (2,))),
    [bytes(BIG_BINARY), [bytes(BIG_BINARY)]],
]
BAD: list[Any] = [
    [TERMS, 1j],
    {"a": [TERMS], b"a": 2},
    Map((([1], TERMS), ([1], 2))),
    Fun(1, b"u" * 16, 2, ([1], 1j), NODE, 3, 2, PID),
    [2 ** (8 * 524280)],
    "\ud800",
    float("nan"),
    LingPid(1, 2, 3),
    [LocalTerm(b"x")],
    Record(NODE, NODE, True, (NODE,), (1j,)),
]


def fails(function: Callable[..., Any], *args: Any, **options: Any) -> None:
    try:
        function(*args, **options)
    except (ValueError, TypeError, _etf_errors()):
        return
    raise AssertionError("an exception was expected")


def _etf_errors() -> type[Exception]:
    from node.errors import EtfError

    return EtfError


WIRE = [encode(value) for value in TERMS]


def work_encode() -> None:
    for value in TERMS:
        encode(value)
        encode_pieces(value, none="nil")
        encode_frame((1, 2), value)
        _etf.canonical(value)


def work_encode_bad() -> None:
    for value in BAD:
        fails(encode, value)
        fails(encode_pieces, value)
        fails(encode_frame, (1,), value)
        fails(encode_frame, (value,))
        fails(encode, [PID, value], dialect="ling")
    fails(encode, 1, none=5)
    fails(encode, 1, none="nil", dialect="x")


def work_decode() -> None:
    for data in WIRE:
        decode(data)
        decode_prefix(data + b"x")
    decode(b"\x83yabc")
    decode(b"\x83\xa0" + bytes(16), dialect="ling")


def work_decode_bad() -> None:
    for data in WIRE:
        for cut in range(1, min(len(data), 700), 3):
            fails(decode, data[:cut])
        for at in range(1, min(len(data), 300)):
            try:
                decode(data[:at] + b"\xff" + data[at + 1 :])
            except _etf_errors():
                pass
        fails(decode, data + b"x")
    for data in (
        b"\x83t\0\0\0\2a\1a\1a\1a\1",
        b"\x83t\0\0\0\2jjjj",
        b"\x83P\0\0\0\2junk",
        b"\x83l\0\0\0\1a\1l\0\0\0\1jw\1\xff",
        b"\x83c" + b"x" * 31,
    ):
        fails(decode, data)


def work_frames() -> None:
    outbox, reader = Outbox(none="nil"), FrameReader()
    for value in TERMS:
        outbox.send((2, 3), value)
        outbox.append(encode_frame((2, 3), value))
        outbox.send((1,), NO_PAYLOAD)
        outbox.tick()
        fails(outbox.send, (1,), [value, 1j])
        fails(outbox.append, [b"x", bytes(BIG_BINARY), 1])
    views = outbox.buffers()
    data = b"".join(views)
    outbox.sent(len(data) // 2)
    outbox.buffers()
    for i in range(0, len(data), 50_001):
        reader.feed(data[i : i + 50_001])
    view = reader.get_buffer(100_000)
    view[:9] = b"\0\0\0\5p\x83h\1\xff"
    fails(reader.received, 9)
    fails(reader.received, 0)
    FrameReader().feed(b"\0\0\0\x07p\x83h\0\x83h\1")
    fails(FrameReader, 0)
    fails(Outbox, none=5)


def work_terms() -> None:
    for i in range(50):
        Pid(Atom(f"n{i}"), 1, 2, 3) == Pid(NODE, 1, 2, 3)  # noqa: B015
        Port(NODE, 1, 2).__reduce__()
        ref = Reference(NODE, 1, (1, 2, 3))
        ref.__reduce__()
        repr((ref, PID, Atom("x"), ref.ids, hash(ref)))
        fails(Pid, 1, 2, 3, 4)
        fails(Pid, NODE, 2**40, 3, 4)
        fails(Reference, NODE, 1, (1, 2**40))
        fails(Reference, NODE, 1, ())
        fails(Atom, "x" * 300)
        fails(Atom, "\ud800")


class Tables:
    """The least that a Crossing needs: ids that count, pids that are there already."""

    def __init__(self, take: Callable[[Any], Any] | None = None, give: Callable[[Any], Any] | None = None) -> None:
        own = Reference(NODE, 1, (1, 2, 0))
        self.crossing = Crossing(6, 5, 7, own, PID, Atom("domain5@straw"), give or self.give, take or self.take, 2)

    def give(self, wanted: list[tuple[Any, Any]]) -> list[int]:
        numbers = []
        for what, _ in wanted:
            number = self.crossing.spent
            self.crossing.spent += 1
            if type(what) is Pid:
                self.crossing.given[7 + number] = what
                self.crossing.out[what] = 6 << 32 | 7 + number
                number += 7
            else:
                self.crossing.refs[number] = what
            numbers.append(number)
        return numbers

    def take(self, ids: list[int]) -> None:
        for id in ids:
            pid = Pid(NODE, id, 9, 9)
            self.crossing.proxies[id] = pid
            self.crossing.out[pid] = 5 << 32 | id


ALIAS = ImproperList((Atom("alias"),), Reference(NODE, 70000, (1, 2, 3, 4, 5)))
CROSSING_TERMS: list[Any] = [
    [PID, (PID, ALIAS), {PID: [Pid(NODE, n, 1, 1) for n in range(40)]}, (PID, [ALIAS, 1])],
    [Reference(Atom(f"n@{n}"), n, (n, 1, 0)) for n in range(5)] + [Reference(NODE, 1, (2**18, 1))],
    [Reference(Atom("domain5@straw"), 0, (n,)) for n in range(3)],
    TERMS,
]
THEIRS = [
    encode([LingPid(0, 5, n) for n in range(40)], dialect="ling"),
    encode({LingPid(0, 5, n): n for n in range(20)}, dialect="ling", ling_maps=True),
    b"\x83h\x03r\0\1s\5local\0\0\0\0\1r\0\1s\x057:x@y\0\0\0\0\1es\5local\0\0\0\7\0",
]


def raises(*args: Any) -> Any:
    raise ValueError("no")


def work_crossing() -> None:
    tables = Tables()
    for dialect in ("otp", "ling"):
        for term in CROSSING_TERMS if dialect == "otp" else CROSSING_TERMS[:3]:
            data = encode(term, dialect=dialect, ling_maps=True, crossing=tables.crossing)
            decode(data, crossing=tables.crossing)
            for at in range(1, min(len(data), 400), 3):
                for broken in (data[:at], data[:at] + b"\xff" + data[at + 1 :]):
                    try:
                        decode(broken, crossing=tables.crossing)
                    except _etf_errors():
                        pass
    for data in THEIRS:
        encode(decode(data, crossing=tables.crossing), crossing=tables.crossing)
    fails(decode, encode(PID), crossing=tables.crossing)
    fails(encode, [PID, LingPid(0, 5, 1)], dialect="ling", crossing=tables.crossing)


def work_crossing_bad() -> None:
    for give in (raises, lambda wanted: [], lambda wanted: ["x"] * len(wanted), lambda wanted: [2**40] * len(wanted)):
        tables = Tables(raises, give)
        for term in (CROSSING_TERMS[0], [PID, 1j]):
            fails(encode, term, crossing=tables.crossing)
        for data in THEIRS[:2]:
            fails(decode, data, crossing=tables.crossing)
            fails(decode, data, crossing=Tables(lambda ids: None).crossing)
            fails(decode, data[:-1], crossing=tables.crossing)
    fails(Crossing, 6, 5, 7, PID, PID, NODE, raises, raises, 2)
    fails(Crossing, 2**40, 5, 7, Reference(NODE, 1, (1, 2, 0)), PID, NODE, raises, raises, 2)
    fails(Crossing, 6, 5, 7, Reference(NODE, 1, (1,)), PID, NODE, raises, raises, 2)
    fails(encode, 1, crossing=5)
    fails(decode, b"\x83j", crossing=5)


@pytest.mark.parametrize(
    "work",
    [work_encode, work_encode_bad, work_decode, work_decode_bad, work_frames, work_terms]
    + [work_crossing, work_crossing_bad],
    ids=lambda w: w.__name__,
)
def test_nothing_leaks(work: Callable[[], None]) -> None:
    for _ in range(3):
        work()
    gc.collect()
    watched = [NODE, PID, Atom, Pid, Reference, Fun, Map, Record, ImproperList, NO_PAYLOAD, *TERMS]
    if hasattr(sys, "gettotalrefcount"):
        pass  # a debug build counts more, but these are enough
    references = [sys.getrefcount(value) for value in watched]
    tracemalloc.start()
    try:
        work()
        gc.collect()
        before, objects, atoms = tracemalloc.get_traced_memory()[0], len(gc.get_objects()), _etf.atom_count()
        for _ in range(10):
            work()
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        assert len(gc.get_objects()) - objects < 20
        assert _etf.atom_count() == atoms
    finally:
        tracemalloc.stop()
    assert after - before < 4000, f"{after - before} bytes grew in 10 rounds"
    for value, count in zip(watched, references, strict=True):
        if sys.getrefcount(value) < 2**29:  # not immortal
            assert abs(sys.getrefcount(value) - count) < 5, value


def test_collector_state_is_kept() -> None:
    assert gc.isenabled()
    fails(decode, b"\x83h\x01")
    fails(encode, 1j)
    assert gc.isenabled()
    gc.disable()
    try:
        decode(b"\x83h\x01j")
        encode([1])
        FrameReader().feed(b"".join(encode_frame((1,))))
        assert not gc.isenabled()
    finally:
        gc.enable()
