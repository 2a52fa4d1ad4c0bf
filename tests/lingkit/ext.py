"""LING's external terms: a reader that takes what LING's reader takes, and a writer whose bytes are LING's.

Independent of node.etf on purpose: what both agree on is agreed on by two. The reader refuses (`Undecodable`) what
LING's does, by the same limits; the writer dies (`Fatal`) where LING's VM does: of a map.
"""

from __future__ import annotations

import contextlib
import math
import struct
import sys
from collections.abc import Iterator
from typing import Any

from .terms import Atom, Bits, Export, Improper, LongPid, Pid, Port, Ref

__all__ = ["MAX_DEPTH", "Fatal", "TooDeep", "Undecodable", "decode", "deep_terms", "encode"]

MAX_DEPTH = 1000
LOCAL = Atom("local")
#: LING's small integers have 28 bits; beyond them it has bignums, which are never equal to a small one.
SMALL_MIN, SMALL_MAX = -(1 << 27), (1 << 27) - 1


@contextlib.contextmanager
def deep_terms() -> Iterator[None]:
    """Within, Python can go down as many levels as there may be; afterwards no further than before: other tests recurse
    until they are stopped.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(20 * MAX_DEPTH)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


class Undecodable(Exception):
    """LING's binary_to_term would be badarg."""


class Fatal(Exception):
    """LING's VM dies."""


class TooDeep(Exception):
    """LING's term_to_binary is system_limit."""


class _Reader:
    def __init__(self, data: bytes, domid: int) -> None:
        self.data, self.at, self.domid = data, 0, domid

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise Undecodable("it ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2))

    def u32(self) -> int:
        return int.from_bytes(self.take(4))

    def count(self) -> int:
        count = self.u32()
        if count >= 1 << 31:
            raise Undecodable(f"a count of {count}")
        return count

    def node(self) -> Atom:
        if self.at < len(self.data) and self.data[self.at] not in (100, 115):
            raise Undecodable(f"tag {self.data[self.at]} as a node name")
        return self.term(1)

    def small(self) -> int:
        value = self.term(1)
        if not isinstance(value, int) or not SMALL_MIN <= value <= SMALL_MAX:
            raise Undecodable("a fun's numbers")
        return value

    def id18(self) -> tuple[int, int]:
        number, creation = self.u32(), self.u8()
        if number >> 18 or creation > 3:
            raise Undecodable(f"id {number} creation {creation}")
        return number, creation

    def term(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise Undecodable(f"deeper than {MAX_DEPTH}")
        tag = self.u8()
        read = _TAGS.get(tag)
        if read is None:
            raise Undecodable(f"tag {tag}")
        return read(self, depth)

    def atom(self, length: int) -> Atom:
        if length > 255:
            raise Undecodable("an atom of more than 255 bytes")
        return Atom(self.take(length).decode("latin-1"))

    def float_text(self) -> float:
        text = self.take(31).split(b"\0")[0]
        try:
            return float(text)
        except ValueError:
            raise Undecodable("a float's text") from None

    def float64(self) -> float:
        value: float = struct.unpack(">d", self.take(8))[0]
        if not math.isfinite(value):
            raise Undecodable("not a finite float")
        return value

    def reference(self) -> Ref:
        node = self.node()
        number, creation = self.id18()
        return Ref(node, creation, (number, 0, 0))

    def new_reference(self) -> Ref:
        length = self.u16()
        if not 1 <= length <= 3:
            raise Undecodable(f"a reference of {length} words")
        node, creation = self.node(), self.u8()
        words = [self.u32() for _ in range(length)] + [0] * (3 - length)
        if words[0] >> 18 or creation > 3:
            raise Undecodable(f"a reference: {words} creation {creation}")
        return Ref(node, creation, (words[0], words[1], words[2]))

    def port(self) -> Port:
        node = self.node()
        return Port(node, *self.id18())

    def local_pid(self) -> Pid:
        node = self.node()
        number, serial, creation = self.u32(), self.u32(), self.u8()
        if node != LOCAL or number >> 15 or creation > 3:
            raise Undecodable(f"a pid of {node.name}")
        return Pid((serial << 15 | number) & 0x7FFFFFF)

    def long_pid(self) -> Pid | LongPid:
        box, domid, number = struct.unpack(">QII", self.take(16))
        number &= 0x7FFFFFF
        return Pid(number) if (box, domid) == (0, self.domid) else LongPid(box, domid, number)

    def tuple(self, arity: int, depth: int) -> tuple[Any, ...]:
        return tuple([self.term(depth + 1) for _ in range(arity)])

    def map(self, depth: int) -> dict[Any, Any]:
        pairs = [(self.term(depth + 1), self.term(depth + 1)) for _ in range(self.count())]
        return {_hashable(key): value for key, value in pairs}

    def list(self, depth: int) -> Any:
        items = [self.term(depth + 1) for _ in range(self.count())]
        tail = self.term(depth + 1)
        if not items:
            return tail
        if isinstance(tail, Improper):
            return Improper((*items, *tail.items), tail.tail)
        return items + tail if isinstance(tail, list) else Improper(tuple(items), tail)

    def bits(self) -> bytes | Bits:
        length, bits = self.count(), self.u8()
        data = self.take(length)
        return Bits(data, bits) if data and bits < 8 else data

    def big(self, length: int) -> int:
        negative = self.u8()
        if length <= 1:
            raise Undecodable("a bignum of one byte")
        value = int.from_bytes(self.take(length), "little")
        value = -value if negative else value
        if SMALL_MIN <= value <= SMALL_MAX:
            raise Undecodable(f"{value} as a bignum, which for a LING is no {value}")
        return value

    def fun(self, depth: int) -> Any:
        raise Undecodable("a fun, which no LING could call")

    def export(self, depth: int) -> Export:
        module, function, arity = (self.term(depth + 1) for _ in range(3))
        if not (isinstance(module, Atom) and isinstance(function, Atom) and isinstance(arity, int) and arity < 256):
            raise Undecodable("an export")
        return Export(module, function, arity)


def _hashable(key: Any) -> Any:
    return tuple(map(_hashable, key)) if isinstance(key, list) else key


_TAGS: dict[int, Any] = {
    70: lambda r, d: r.float64(),
    77: lambda r, d: r.bits(),
    97: lambda r, d: r.u8(),
    98: lambda r, d: int.from_bytes(r.take(4), signed=True),
    99: lambda r, d: r.float_text(),
    100: lambda r, d: r.atom(r.u16()),
    101: lambda r, d: r.reference(),
    102: lambda r, d: r.port(),
    103: lambda r, d: r.local_pid(),
    104: lambda r, d: r.tuple(r.u8(), d),
    105: lambda r, d: r.tuple(r.count(), d),
    106: lambda r, d: [],
    107: lambda r, d: list(r.take(r.u16())),
    108: _Reader.list,
    109: lambda r, d: r.take(r.count()),
    110: lambda r, d: r.big(r.u8()),
    111: lambda r, d: r.big(r.count()),
    112: _Reader.fun,
    113: _Reader.export,
    114: lambda r, d: r.new_reference(),
    115: lambda r, d: r.atom(r.u8()),
    116: _Reader.map,
    117: _Reader.fun,
    160: lambda r, d: r.long_pid(),
}


def decode(data: bytes, domid: int) -> Any:
    """One term. domid: whose pids are short ones. What follows the term is not looked at, as LING does not."""
    if data[:1] != b"\x83":
        raise Undecodable("no version byte")
    reader = _Reader(data, domid)
    reader.at = 1
    return reader.term(1)


def encode(term: Any, domid: int) -> bytes:
    """term_to_binary. domid: of short pids."""
    out = bytearray(b"\x83")
    _put(out, term, 1, domid)
    return bytes(out)


def _put(out: bytearray, term: Any, depth: int, domid: int) -> None:
    if depth > MAX_DEPTH:
        raise TooDeep
    match term:
        case Atom(name):
            text = name.encode("latin-1")
            out += bytes([115, len(text)]) + text
        case Pid(number):
            out += struct.pack(">BQII", 160, 0, domid, number)
        case LongPid(box, owner, number):
            out += struct.pack(">BQII", 160, box, owner, number)
        case Ref(node, creation, words):
            length = 3 if words[2] else 2 if words[1] else 1
            out += struct.pack(">BH", 114, length)
            _put(out, node, depth + 1, domid)
            out += struct.pack(f">B{length}I", creation, *words[:length])
        case Port(node, number, creation):
            out.append(102)
            _put(out, node, depth + 1, domid)
            out += struct.pack(">IB", number, creation)
        case Bits(data, bits):
            out += struct.pack(">BIB", 77, len(data), bits) + data
        case Export(module, function, arity):
            out.append(113)
            _put(out, module, depth + 1, domid)
            _put(out, function, depth + 1, domid)
            out += bytes([97, arity])
        case Improper(items, tail):
            _put_list(out, items, tail, depth, domid)
        case tuple():
            out += bytes([104, len(term)]) if len(term) < 256 else struct.pack(">BI", 105, len(term))
            for item in term:
                _put(out, item, depth + 1, domid)
        case []:
            out.append(106)
        case list():
            if len(term) <= 65535 and all(type(item) is int and 0 <= item < 256 for item in term):
                out += struct.pack(">BH", 107, len(term)) + bytes(term)
            else:
                _put_list(out, term, [], depth, domid)
        case bytes():
            out += struct.pack(">BI", 109, len(term)) + term
        case float():
            out += struct.pack(">Bd", 70, term)
        case int():
            _put_int(out, term)
        case dict():
            raise Fatal("it encodes a map")
        case _:
            raise TypeError(f"no term: {term!r}")


def _put_list(out: bytearray, items: Any, tail: Any, depth: int, domid: int) -> None:
    out += struct.pack(">BI", 108, len(items))
    for item in items:
        _put(out, item, depth + 1, domid)
    _put(out, tail, depth + 1, domid)


def _put_int(out: bytearray, value: int) -> None:
    if 0 <= value < 256:
        out += bytes([97, value])
    elif SMALL_MIN <= value <= SMALL_MAX:
        out += struct.pack(">Bi", 98, value)
    else:
        data = abs(value).to_bytes((abs(value).bit_length() + 7) // 8, "little")
        head = struct.pack(">BB", 110, len(data)) if len(data) < 256 else struct.pack(">BI", 111, len(data))
        out += head + bytes([value < 0]) + data
