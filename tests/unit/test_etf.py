"""Every tag of the external term format both ways, what Python may write, and what is refused."""

from __future__ import annotations

import collections
import enum
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from node import _etf
from node.etf import (
    BIG_BINARY,
    MAX_DEPTH,
    DecodeError,
    EncodeError,
    decode,
    decode_prefix,
    encode,
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

NODE = Atom("a@b")
N = b"w\x03a@b"  # the atom NODE
PID = Pid(NODE, 77, 3, 9)
PID_BYTES = b"X" + N + struct.pack(">III", 77, 3, 9)


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def fun_bytes(count: int, free: bytes) -> bytes:
    body = b"\x02" + bytes(range(16)) + u32(5) + u32(count) + b"w\x01m" + b"a\x05" + b"a\x06" + PID_BYTES + free
    return b"p" + u32(len(body) + 4) + body


def fun(free: tuple[object, ...]) -> Fun:
    return Fun(2, bytes(range(16)), 5, free, Atom("m"), 5, 6, PID)


# what both directions agree on: (bytes after 131, value)
SAME = [
    (b"a\x00", 0),
    (b"a\xff", 255),
    (b"b\x00\x00\x01\x00", 256),
    (b"b\xff\xff\xff\xff", -1),
    (b"b\x7f\xff\xff\xff", 2**31 - 1),
    (b"b\x80\x00\x00\x00", -(2**31)),
    (b"n\x04\x00\x00\x00\x00\x80", 2**31),
    (b"n\x04\x01\x01\x00\x00\x80", -(2**31) - 1),
    (b"n\x08\x00" + b"\xff" * 8, 2**64 - 1),
    (b"n\x08\x01" + b"\xff" * 8, 1 - 2**64),
    (b"n\x08\x01" + b"\x00" * 7 + b"\x80", -(2**63)),
    (b"n\x09\x00" + b"\x00" * 8 + b"\x01", 2**64),
    (b"n\xff\x01" + b"\xff" * 255, 1 - 2 ** (8 * 255)),
    (b"o\x00\x00\x01\x00\x00" + b"\x00" * 255 + b"\x01", 2 ** (8 * 255)),
    (b"F" + struct.pack(">d", 1.5), 1.5),
    (b"F" + struct.pack(">d", -0.0), -0.0),
    (b"w\x00", Atom("")),
    (b"w\x04true", True),
    (b"w\x05false", False),
    (b"w\x09undefined", Atom("undefined")),
    (b"w\x02\xc3\xa9", Atom("\u00e9")),
    (b"w\x04\xf0\x9f\x9a\x80", Atom("\U0001f680")),
    (b"w\xff" + b"x" * 255, Atom("x" * 255)),
    (b"v\x03\xfc" + "\U0001f680".encode() * 255, Atom("\U0001f680" * 255)),
    (b"v\x01\x00" + b"\xc3\xa9" * 128, Atom("\u00e9" * 128)),
    (b"h\x00", ()),
    (b"h\x02a\x01h\x01j", (1, ([],))),
    (b"i\x00\x00\x01\x00" + b"a\x01" * 256, (1,) * 256),
    (b"j", []),
    (b"k\x00\x03\x01\x02\xff", [1, 2, 255]),
    (b"k\xff\xff" + b"\x07" * 65535, [7] * 65535),
    (b"l\x00\x01\x00\x00" + b"a\x07" * 65536 + b"j", [7] * 65536),
    (b"l\x00\x00\x00\x02a\x01b\x00\x00\x01\x00j", [1, 256]),
    (b"l\x00\x00\x00\x01w\x04truej", [True]),
    (b"l\x00\x00\x00\x01a\x01a\x02", ImproperList((1,), 2)),
    (b"l\x00\x00\x00\x02a\x01ja\x02", ImproperList((1, []), 2)),
    (b"m\x00\x00\x00\x00", b""),
    (b"m\x00\x00\x00\x03abc", b"abc"),
    (b"M\x00\x00\x00\x02\x03\xab\xe0", BitString(b"\xab\xe0", 3)),
    (b"t\x00\x00\x00\x00", {}),
    (b"t\x00\x00\x00\x02a\x01a\x02m\x00\x00\x00\x01at\x00\x00\x00\x00", {1: 2, b"a": {}}),
    (PID_BYTES, PID),
    (b"x" + N + struct.pack(">QI", 2**63 + 5, 9), Port(NODE, 2**63 + 5, 9)),
    (b"Z\x00\x05" + N + struct.pack(">6I", 9, 1, 2, 3, 4, 2**32 - 1), Reference(NODE, 9, (1, 2, 3, 4, 2**32 - 1))),
    (b"Z\x00\x01" + N + struct.pack(">2I", 9, 1), Reference(NODE, 9, (1,))),
    (b"q" + N + b"w\x01fa\xff", Export(NODE, Atom("f"), 255)),
    (fun_bytes(0, b""), fun(())),
    (fun_bytes(2, b"a\x01l\x00\x00\x00\x01jj"), fun((1, [[]]))),
    (b"C" + u32(0) + b"\x00" + N + b"w\x01r", Record(NODE, Atom("r"), False, (), ())),
    (
        b"C" + u32(2) + b"\x01" + N + b"w\x01rw\x01aw\x01ba\x01h\x00",
        Record(NODE, Atom("r"), True, (Atom("a"), Atom("b")), (1, ())),
    ),
]


@pytest.mark.parametrize(("data", "value"), SAME, ids=lambda x: repr(x)[:30])
def test_both_ways(data: bytes, value: object) -> None:
    data = b"\x83" + data
    got = decode(data)
    assert type(got) is type(value)
    assert repr(got) == repr(value)  # -0.0 too
    assert got == value
    assert encode(value) == data
    assert decode(bytearray(data)) == value
    assert decode(memoryview(b"-" + data)[1:]) == value
    assert decode_prefix(data + b"rest") == (value, len(data))
    assert b"".join(encode_pieces(value)) == data


# forms that are read but not written: (bytes after 131, value)
READ = [
    (b"c" + b"1.50000000000000000000e+00".ljust(31, b"\0"), 1.5),
    (b"c" + b"-1.5e-300".ljust(31, b"\0"), -1.5e-300),
    (b"d\x00\x02\xe9x", Atom("\u00e9x")),
    (b"s\x02\xe9x", Atom("\u00e9x")),
    (b"d\x00\xff" + b"\xff" * 255, Atom("\u00ff" * 255)),
    (b"d\x00\x04true", True),
    (b"s\x05false", False),
    (b"v\x00\x01x", Atom("x")),
    (b"g" + N + struct.pack(">IIB", 1, 2, 3), Pid(NODE, 1, 2, 3)),
    (b"f" + N + struct.pack(">IB", 1, 3), Port(NODE, 1, 3)),
    (b"Y" + N + struct.pack(">II", 2**32 - 1, 3), Port(NODE, 2**32 - 1, 3)),
    (b"e" + N + struct.pack(">IB", 7, 1), Reference(NODE, 1, (7,))),
    (b"r\x00\x03" + N + struct.pack(">B3I", 1, 7, 8, 9), Reference(NODE, 1, (7, 8, 9))),
    (b"r\x00\x02" + b"s\x03a@b" + struct.pack(">B2I", 0, 7, 8), Reference(NODE, 0, (7, 8))),
    (b"b\x00\x00\x00\x01", 1),
    (b"n\x00\x00", 0),
    (b"n\x01\x01\x00", 0),
    (b"n\x01\x01\x05", -5),
    (b"n\x0a\x01\x05" + b"\x00" * 9, -5),
    (b"o\x00\x00\x00\x01\x00\x05", 5),
    (b"i\x00\x00\x00\x00", ()),
    (b"i\x00\x00\x00\x01j", ([],)),
    (b"k\x00\x00", []),
    (b"l\x00\x00\x00\x00j", []),
    (b"l\x00\x00\x00\x00a\x05", 5),
    (b"l\x00\x00\x00\x01a\x01k\x00\x02\x02\x03", [1, 2, 3]),
    (b"l\x00\x00\x00\x01a\x01l\x00\x00\x00\x01a\x02j", [1, 2]),
    (b"l\x00\x00\x00\x01a\x01l\x00\x00\x00\x01a\x02a\x03", ImproperList((1, 2), 3)),
    (b"l\x00\x00\x00\x01a\x01l\x00\x00\x00\x00l\x00\x00\x00\x00j", [1]),
    (b"M\x00\x00\x00\x01\x08\xab", b"\xab"),
    (b"M\x00\x00\x00\x00\x00", b""),
    (b"M\x00\x00\x00\x01\x03\xff", BitString(b"\xe0", 3)),
    (b"q" + N + b"w\x01fb\x00\x00\x00\x02", Export(NODE, Atom("f"), 2)),
    (b"P" + u32(5) + zlib.compress(b"k\x00\x02\x01\x02"), [1, 2]),
]


@pytest.mark.parametrize(("data", "value"), READ, ids=lambda x: repr(x)[:30])
def test_read_only_forms(data: bytes, value: object) -> None:
    data = b"\x83" + data
    got = decode(data)
    assert type(got) is type(value)
    assert got == value
    assert decode(encode(got)) == value
    assert decode_prefix(data + b"rest") == (value, len(data))


# (bytes, part of the reason, offset)
BAD = [
    (b"", "ends", 0),
    (b"\x84a\x01", "131", 0),
    (b"\x83", "ends", 1),
    (b"\x83\x00", "unknown tag", 1),
    (b"\x83a\x01\x00", "after the term", 3),
    (b"\x83h\x02a\x01", "ends", 5),
    (b"\x83h\x09a\x01", "more elements", 1),
    (b"\x83i\xff\xff\xff\xffa\x01", "more elements", 1),
    (b"\x83l\xff\xff\xff\xffa\x01", "more elements", 1),
    (b"\x83t\xff\xff\xff\xffa\x01", "more elements", 1),
    (b"\x83l\x00\x00\x00\x01a\x01", "ends", 8),
    (b"\x83l\x00\x00\x00\x01a\x01l\xff\xff\xff\xffj", "more elements", 8),
    (b"\x83m\x00\x00\x00\x05abc", "ends", 9),
    (b"\x83M\x00\x00\x00\x01\x00a", "1 to 8 bits", 6),
    (b"\x83M\x00\x00\x00\x01\x09a", "1 to 8 bits", 6),
    (b"\x83M\x00\x00\x00\x00\x08", "1 to 8 bits", 6),
    (b"\x83k\x00\x05abc", "ends", 7),
    (b"\x83F\x7f\xf0\x00\x00\x00\x00\x00\x00", "not finite", 1),
    (b"\x83F\x7f\xf8\x00\x00\x00\x00\x00\x00", "not finite", 1),
    (b"\x83F\x7f\xf8", "ends", 4),
    (b"\x83c" + b"nan".ljust(31, b"\0"), "finite", 1),
    (b"\x83c" + b"1e999".ljust(31, b"\0"), "finite", 1),
    (b"\x83c" + b"x".ljust(31, b"\0"), "finite", 1),
    (b"\x83c" + b"1.0", "ends", 5),
    (b"\x83n\x05\x00abc", "ends", 7),
    (b"\x83o\xff\xff\xff\xff\x00abc", "ends", 10),
    (b"\x83w\x01\xff", "UTF-8", 1),
    (b"\x83w\x03\xed\xa0\x80", "UTF-8", 1),
    (b"\x83w\x02\xc0\x80", "UTF-8", 1),
    (b"\x83v\x01\x00" + b"x" * 256, "255 characters", 1),
    (b"\x83d\x01\x00" + b"x" * 256, "255 characters", 1),
    (b"\x83v\x04\x00" + b"x" * 1024, "255 characters", 1),
    (b"\x83X" + N + b"\0" * 11, "ends", 18),
    (b"\x83Xa\x01" + b"\0" * 12, "atom", 2),
    (b"\x83g" + N + struct.pack(">IIB", 1, 2, 4), "creation", 15),
    (b"\x83f" + N + struct.pack(">IB", 1, 4), "creation", 11),
    (b"\x83e" + N + struct.pack(">IB", 1, 4), "creation", 11),
    (b"\x83r\x00\x01" + N + struct.pack(">BI", 4, 1), "creation", 9),
    (b"\x83Z\x00\x06" + N + b"\0" * 40, "1 to 5 words", 2),
    (b"\x83Z\x00\x00" + N + b"\0" * 40, "1 to 5 words", 2),
    (b"\x83q" + N + N + b"b\x00\x00\x01\x00", "arity", 12),
    (b"\x83q" + N + N + b"w\x01a", "integer", 12),
    (b"\x83q" + N + N, "ends", 12),
    (b"\x83t\x00\x00\x00\x02a\x01a\x02a\x01a\x03", "same key", 10),
    (b"\x83t\x00\x00\x00\x02jjjj", "same key", 10),
    (b"\x83h\x01ya\x01", "LOCAL_EXT", 3),
    (b"\x83h\x01P\x00\x00\x00\x00", "compressed", 3),
    (b"\x83R\x00", "cache", 1),
    (b"\x83\xa0" + b"\0" * 16, "LING", 1),
    (b"\x83P" + u32(2), "announced size", 6),
    (b"\x83P" + u32(2) + b"junk", "broken", 6),
    (b"\x83P" + u32(3) + zlib.compress(b"a\x01"), "announced size", 6),
    (b"\x83P" + u32(1) + zlib.compress(b"a\x01"), "announced size", 6),
    (b"\x83P" + u32(2) + zlib.compress(b"a\x01")[:-1], "announced size", 6),
    (b"\x83P" + u32(3) + zlib.compress(b"a\x01a"), "after the term", 6),
    (b"\x83P" + u32(2) + zlib.compress(b"P\x01"), "compressed", 6),
    (b"\x83P" + u32(2**32 - 1) + zlib.compress(b"a\x01"), "max_inflated", 2),
    (b"\x83p" + u32(10), "ends", 6),
    (b"\x83" + fun_bytes(0, b"a\x01"), "size of a fun", 2),
    (b"\x83" + fun_bytes(1, b"a\x01")[:-1], "size of a fun", 2),
    (b"\x83" + fun_bytes(2**32 - 1, b"a\x01"), "more elements", 1),
    (b"\x83C" + u32(2**32 - 1) + b"\x01" + N + N, "more fields", 2),
    (b"\x83C" + u32(0) + b"\x02" + N + N, "export mark", 6),
    (b"\x83C" + u32(1) + b"\x01" + N + N + b"a\x01a\x01", "atom", 17),
]


@pytest.mark.parametrize(("data", "reason", "offset"), [b for b in BAD if b[2] >= 0], ids=lambda x: repr(x)[:30])
def test_bad_bytes(data: bytes, reason: str, offset: int) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(data)
    assert reason in caught.value.reason
    assert caught.value.offset == offset


def test_every_truncation_is_an_error() -> None:
    for data, _ in SAME + READ:
        whole = b"\x83" + data
        for cut in range(len(whole) if len(whole) < 300 else 40):
            with pytest.raises(DecodeError):
                decode(whole[:cut])


def test_claims_of_nested_containers_do_not_add_up() -> None:
    # each level claims as many elements as bytes are left: refused at the second level, nothing large was allocated
    data = b"\x83" + b"".join(b"i" + u32(100_000) for _ in range(1000)) + b"j" * 100_000
    with pytest.raises(DecodeError, match="more elements"):
        decode(data)


def test_local_term_is_opaque_and_only_at_the_top() -> None:
    data = b"\x83y\x00\x01\x02anything"
    term = decode(data)
    assert term == LocalTerm(b"\x00\x01\x02anything")
    assert encode(term) == data
    assert decode(b"\x83y") == LocalTerm(b"")
    with pytest.raises(EncodeError, match=r"LocalTerm .*\[0\]"):
        encode([term])


def test_depth() -> None:
    for wrap, head, tail in ((tuple, b"h\x01", b""), (list, b"l\x00\x00\x00\x01", b"j")):
        value: object = 300
        for _ in range(MAX_DEPTH):
            value = wrap([value])
        data = b"\x83" + head * MAX_DEPTH + b"b\x00\x00\x01\x2c" + tail * MAX_DEPTH
        assert encode(value) == data
        assert encode(decode(data)) == data
        with pytest.raises(EncodeError, match="nested"):
            encode(wrap([value]))
        with pytest.raises(DecodeError, match="too deep"):
            decode(b"\x83" + head + data[1:] + tail)
    with pytest.raises(DecodeError, match="too deep"):
        decode(b"\x83h\x01h\x01j", max_depth=1)
    assert decode(b"\x83h\x01h\x01j", max_depth=2) == (([],),)
    # the tails of lists are no depth
    chain = b"\x83" + b"l\x00\x00\x00\x01a\x01" * 50_000 + b"j"
    assert decode(chain) == [1] * 50_000


def test_max_inflated() -> None:
    data = b"\x83P" + u32(1005) + zlib.compress(b"m" + u32(1000) + b"x" * 1000)
    assert decode(data, max_inflated=1005) == b"x" * 1000
    with pytest.raises(DecodeError, match="max_inflated"):
        decode(data, max_inflated=1004)


def test_large_integers() -> None:
    limit = 8 * _etf.MAX_ENCODED_BIG
    for value in (2**limit - 1, 1 - 2**limit):
        data = encode(value)
        assert data[1:6] == b"o" + u32(_etf.MAX_ENCODED_BIG)
        assert decode(data) == value
    for value in (2**limit, -(2**limit)):
        with pytest.raises(EncodeError, match="integer"):
            encode(value)
    size = _etf.MAX_DECODED_BIG
    assert decode(b"\x83o" + u32(size) + b"\0" + b"\xff" * size) == 2 ** (8 * size) - 1
    with pytest.raises(DecodeError, match="larger"):
        decode(b"\x83o" + u32(size + 1) + b"\0" + b"\xff" * (size + 1))


def test_what_python_values_become() -> None:
    class Color(enum.IntEnum):
        RED = 3

    class Text(str):
        __slots__ = ()

    class Real(float):
        __slots__ = ()

    point = collections.namedtuple("point", "x y")
    assert encode("h\u00e9") == b"\x83m\x00\x00\x00\x03h\xc3\xa9"
    assert encode("") == b"\x83m\x00\x00\x00\x00"
    assert encode("\U0001f680") == b"\x83m\x00\x00\x00\x04\xf0\x9f\x9a\x80"
    assert encode(bytearray(b"ab")) == encode(memoryview(b"ab")) == encode(b"ab")
    assert encode(memoryview(b"a-b-")[::2]) == encode(b"ab")
    assert encode(None) == encode(Atom("undefined"))
    assert encode([None], none="nil") == encode([Atom("nil")], none=Atom("nil"))
    assert encode(Color.RED) == encode(3)
    assert encode([Color.RED]) == encode([3])
    assert encode(point(1, 2)) == encode((1, 2))
    assert encode(collections.OrderedDict(a=1)) == encode({"a": 1})
    assert encode(Text("x")) == encode(b"x")
    assert encode(Real(1.5)) == encode(1.5)
    assert decode(encode({"k": ["v", None, True]})) == {b"k": [b"v", Atom("undefined"), True]}


class Negated(int):
    def __abs__(self) -> int:
        raise AssertionError("the encoder calls no methods of subclasses")

    __index__ = __int__ = __abs__


def test_subclasses_are_read_without_their_methods() -> None:
    assert encode(Negated(-(2**70))) == encode(-(2**70))
    assert encode(Negated(5)) == encode(5)


UNENCODABLE = [
    (float("nan"), "", "finite"),
    ([1, (2, float("-inf"))], "[1][1]", "finite"),
    ({"a": {b"b": [object()]}}, "['a'][b'b'][0]", "object"),
    ({Atom("k"): {1, 2}}, "[Atom('k')]", "set"),
    ({(1, 2): 1j}, "<value 0>", "complex"),
    ({(1, 2j): 1}, "<key 0>[1]", "complex"),
    ("\ud800", "", "surrogate"),
    ([[], "a\udfff"], "[1]", "surrogate"),
    ({"a": 1, b"a": 2}, "", "one term"),
    ([{True: 1, Atom("true"): 2}], "[0]", "one term"),
    ({None: 1, Atom("undefined"): 2}, "", "one term"),
    ({("a", 1): 1, (b"a", 1): 2}, "", "one term"),
    ({(1, (True,)): 1, (1, (Atom("true"),)): 2}, "", "one term"),
    (Map(((1, 2), (1, 3))), "", "one term"),
    (Map((([1], 2), ([1], 3))), "", "one term"),
    (Map((({1: 2, 3: 4}, 2), ({3: 4, 1: 2}, 3))), "", "one term"),
    (Map(((Map((("a", 1), (b"a", 2))), 2),)), "", "one term"),
    (Map((([1], 2j),)), ".pairs[0][1]", "complex"),
    (ImproperList((1, 2j), 3), ".items[1]", "complex"),
    (ImproperList((1, 2), 3j), ".tail", "complex"),
    (fun((1, 2j)), ".free[1]", "complex"),
    (Record(NODE, NODE, True, (NODE,), (2j,)), ".values[0]", "complex"),
    (LingPid(0, 1, 2), "", "ling"),
    (Export(NODE, NODE, 1), None, ""),
    (int, "", "type"),
]


@pytest.mark.parametrize(("value", "path", "reason"), UNENCODABLE, ids=lambda x: repr(x)[:30])
def test_unencodable(value: object, path: str | None, reason: str) -> None:
    if path is None:
        encode(value)
        return
    with pytest.raises(EncodeError) as caught:
        encode(value)
    assert caught.value.path == path
    assert reason in caught.value.reason
    with pytest.raises(EncodeError):
        encode_pieces(value)


def test_containers_within_themselves() -> None:
    loop: list[object] = []
    loop.append(loop)
    mapping: dict[str, object] = {}
    mapping["me"] = (mapping,)
    for value in (loop, mapping):
        with pytest.raises(EncodeError, match="within itself"):
            encode(value)


def test_fields_that_are_not_what_they_should_be() -> None:
    def broken(record: object, **fields: object) -> object:
        for name, value in fields.items():
            object.__setattr__(record, name, value)
        return record

    for value in (
        broken(Export(NODE, NODE, 1), module="x"),
        broken(Export(NODE, NODE, 1), arity=256),
        broken(Export(NODE, NODE, 1), arity="1"),
        broken(BitString(b"a", 1), bits=8),
        broken(BitString(b"a", 1), data=b""),
        broken(ImproperList((1,), 2), tail=[]),
        broken(ImproperList((1,), 2), items=()),
        broken(ImproperList((1,), 2), tail=ImproperList((1,), 2)),
        broken(Map(()), pairs=((1, 2, 3),)),
        broken(Map(()), pairs=[(1, 2)]),
        broken(fun(()), uniq=b"short"),
        broken(fun(()), pid=1),
        broken(fun(()), index=2**32),
        broken(Record(NODE, NODE, True, (), ()), fields=(1,), values=(1,)),
        broken(Record(NODE, NODE, True, (), ()), values=(1,)),
        broken(Record(NODE, NODE, True, (), ()), exported=1),
        object.__new__(Export),
        object.__new__(Fun),
        object.__new__(Map),
        object.__new__(ImproperList),
        object.__new__(Record),
        object.__new__(BitString),
    ):
        with pytest.raises(EncodeError):
            encode([value])
    # an old_index beyond 32 bits is an int like any other
    assert decode(encode(broken(fun(()), old_index=2**80))).old_index == 2**80


def test_pieces_keep_large_binaries() -> None:
    big, small = bytes(BIG_BINARY), bytes(BIG_BINARY - 1)
    pieces = encode_pieces([1, big, (small, big), bytearray(big)])
    assert [piece is big for piece in pieces] == [False, True, False, True, False]
    assert b"".join(pieces) == encode([1, big, (small, big), bytearray(big)])
    assert encode_pieces(big)[-1] is big
    inside_a_fun = fun((big, 1, big))
    assert b"".join(encode_pieces([big, inside_a_fun, big])) == encode([big, inside_a_fun, big])
    assert decode(encode([big, fun((inside_a_fun,)), big])) == [big, fun((inside_a_fun,)), big]


def test_arguments() -> None:
    wrong: list[Callable[[], Any]] = [
        lambda: encode(),  # type: ignore[call-arg]  # noqa: PLW0108
        lambda: encode(*[1, 2]),
        lambda: encode(1, nope=1),  # type: ignore[call-arg]
        lambda: encode(1, none=1),  # type: ignore[arg-type]
        lambda: decode("text"),  # type: ignore[arg-type]
        lambda: decode(b"", nope=1),  # type: ignore[call-arg]
    ]
    for call in wrong:
        with pytest.raises(TypeError):
            call()
    wrong = [
        lambda: encode(1, dialect="elvish"),  # type: ignore[arg-type]
        lambda: encode(1, none="x" * 256),
        lambda: decode(b"", dialect="elvish"),  # type: ignore[arg-type]
        lambda: decode(b"", max_depth=-1),
        lambda: decode(b"", max_inflated=-1),
    ]
    for call in wrong:
        with pytest.raises(ValueError):
            call()


def test_every_integer_width() -> None:
    for bits in range(1200):
        for value in (2**bits, 2**bits - 1, -(2**bits), -(2**bits) - 1):
            assert decode(encode(value)) == value
            if not -(2**31) <= value < 2**31:
                size = (abs(value).bit_length() + 7) // 8
                digits = bytes([value < 0]) + abs(value).to_bytes(size, "little")
                assert encode(value) == b"\x83" + (b"n" + bytes([size]) + digits)
