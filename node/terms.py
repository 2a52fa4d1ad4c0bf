"""The values of Erlang that Python has no type for: frozen, hashable where that makes sense, compared by value.

Atom, Pid, Port and Reference come from the codec extension, because an atom that nobody holds must leave the table
that makes equal atoms one object. The other classes are plain slotted dataclasses; the codec fills and reads their
slots without calling them, so what their constructors check holds for what users build, and the codec checks what
it writes again. This file knows nothing of bytes: see node.etf.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, final

from . import _etf
from ._etf import Atom, Pid, Port, Reference
from .errors import DecodeError, EncodeError

__all__ = [
    "NO_PAYLOAD",
    "Atom",
    "BitString",
    "Export",
    "Fun",
    "ImproperList",
    "LingPid",
    "LocalTerm",
    "Map",
    "NoPayload",
    "Pid",
    "Port",
    "Record",
    "Reference",
]


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


@final
@dataclass(frozen=True, slots=True)
class Export:
    """``fun module:function/arity`` (erl_ext_dist, EXPORT_EXT). arity: 0 to 255."""

    module: Atom
    function: Atom
    arity: int

    def __post_init__(self) -> None:
        _need(type(self.module) is Atom and type(self.function) is Atom, "module and function are Atoms")
        _need(0 <= self.arity <= 255, "arity is 0 to 255")


@final
@dataclass(frozen=True, slots=True)
class Fun:
    """A fun that a BEAM made, as its parsed fields (erl_ext_dist, NEW_FUN_EXT); sent back it is the same fun.

    uniq: 16 bytes, the MD5 of its module's code; free: the values of its free variables; pid: who made it.
    """

    arity: int
    uniq: bytes
    index: int
    free: tuple[Any, ...]
    module: Atom
    old_index: int
    old_uniq: int
    pid: Pid


@final
@dataclass(frozen=True, slots=True)
class BitString:
    """Bits that don't fill their last byte (erl_ext_dist, BIT_BINARY_EXT). bits: 1 to 7, used in the last byte from
    the top; the others are zero."""

    data: bytes
    bits: int

    def __post_init__(self) -> None:
        _need(type(self.data) is bytes and len(self.data) > 0, "data is at least one byte")
        _need(1 <= self.bits <= 7, "bits is 1 to 7; 8 would be bytes")
        last = self.data[-1] & (0xFF00 >> self.bits) & 0xFF
        if last != self.data[-1]:
            object.__setattr__(self, "data", self.data[:-1] + bytes([last]))


@final
@dataclass(frozen=True, slots=True)
class ImproperList:
    """``[A, B | Tail]``: items holds at least one element, tail is anything but a list (erl_ext_dist, LIST_EXT)."""

    items: tuple[Any, ...]
    tail: Any

    def __post_init__(self) -> None:
        _need(type(self.items) is tuple and len(self.items) > 0, "items is a tuple of at least one")
        _need(not isinstance(self.tail, (list, ImproperList)), "tail is not a list")


@final
class Map:
    """A map whose keys a dict can't hold: keys that Python can't hash (lists, maps) or can't keep apart (1, 1.0 and
    true; 0.0 and -0.0), at any depth. Lossless; the codec makes one only where it must.

    pairs: the (key, value) tuples in the order of the wire. Two Maps are equal when they are the same term. Look-up is
    by term, so ``m.get(1)`` and ``m.get(1.0)`` differ.
    """

    __slots__ = ("_index", "pairs")
    __match_args__ = ("pairs",)

    pairs: tuple[tuple[Any, Any], ...]
    _index: dict[bytes, int]

    def __init__(self, pairs: tuple[tuple[Any, Any], ...]) -> None:
        _need(type(pairs) is tuple, "pairs is a tuple")
        _need(all(type(pair) is tuple and len(pair) == 2 for pair in pairs), "a pair is a tuple of two")
        object.__setattr__(self, "pairs", pairs)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Map does not change")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Map does not change")

    def __reduce__(self) -> tuple[type[Map], tuple[Any]]:
        return Map, (self.pairs,)

    def _positions(self) -> dict[bytes, int]:
        try:
            return self._index
        except AttributeError:
            index = {_etf.canonical(key): i for i, (key, _) in enumerate(self.pairs)}
            object.__setattr__(self, "_index", index)
            return index

    def get(self, key: Any, default: Any = None) -> Any:
        """The value of the key that is the same term as `key`, or `default`."""
        i = self._positions().get(_etf.canonical(key))
        return default if i is None else self.pairs[i][1]

    def __getitem__(self, key: Any) -> Any:
        i = self._positions().get(_etf.canonical(key))
        if i is None:
            raise KeyError(key)
        return self.pairs[i][1]

    def __contains__(self, key: Any) -> bool:
        return _etf.canonical(key) in self._positions()

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Any]:
        return (key for key, _ in self.pairs)

    def keys(self) -> list[Any]:
        """The keys, in the order of the wire."""
        return [key for key, _ in self.pairs]

    def values(self) -> list[Any]:
        """The values, in the order of the wire."""
        return [value for _, value in self.pairs]

    def items(self) -> tuple[tuple[Any, Any], ...]:
        """The (key, value) pairs, in the order of the wire."""
        return self.pairs

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Map):
            return NotImplemented
        if self is other:
            return True
        if len(self.pairs) != len(other.pairs):
            return False
        try:
            return _etf.canonical(self) == _etf.canonical(other)
        except EncodeError:  # built by a user from what is no term
            return self.pairs == other.pairs

    def __hash__(self) -> int:
        # of the keys only: values may be lists
        return hash(frozenset(self._positions()))

    def __repr__(self) -> str:
        return f"Map({self.pairs!r})"


@final
@dataclass(frozen=True, slots=True)
class Record:
    """A native record of OTP 29 (RECORD_EXT): its module and name, whether it is exported, field names and values."""

    module: Atom
    name: Atom
    exported: bool
    fields: tuple[Atom, ...]
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        _need(len(self.fields) == len(self.values), "as many values as fields")


@final
@dataclass(frozen=True, slots=True)
class LocalTerm:
    """A term in a form that only the node which wrote it can read (LOCAL_EXT): opaque, written back unchanged by
    node.etf.encode, never sent in a message. data: everything after the tag."""

    data: bytes


@final
@dataclass(frozen=True, slots=True)
class LingPid:
    """A process of a domain as straws write it (LING's tag 160), for who reads or writes frames without a node; in a
    node such a process has a Pid. boxid: the machine, 64 bits; domid: the domain, 32 bits; id: 32 bits, of which LING
    keeps 27."""

    boxid: int
    domid: int
    id: int


class NoPayload(enum.Enum):
    """The type of NO_PAYLOAD."""

    NO_PAYLOAD = "no payload"

    def __repr__(self) -> str:
        return "NO_PAYLOAD"


NO_PAYLOAD: Final = NoPayload.NO_PAYLOAD
"""Stands where a frame has a control message and no message after it."""

_etf.register(
    (Export, Fun, BitString, ImproperList, Map, Record, LocalTerm, LingPid), EncodeError, DecodeError, NO_PAYLOAD
)
