"""What a LING's terms are in Python, and as JSON on the line between a test and the stand-in.

int, float, list, tuple, bytes (binary) and dict (map) stand for themselves; the rest are the classes here. JSON has
ints, floats and lists as they are, everything else as an object of one key, {"t": [...]} for a tuple and so on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Atom", "Bits", "Export", "Improper", "LongPid", "Pid", "Port", "Ref", "from_json", "show", "to_json"]


@dataclass(frozen=True, slots=True)
class Atom:
    name: str


@dataclass(frozen=True, slots=True)
class Pid:
    """A process of this LING: a *short* pid."""

    id: int


@dataclass(frozen=True, slots=True)
class LongPid:
    box: int
    domid: int
    id: int


@dataclass(frozen=True, slots=True)
class Ref:
    """Three words always: LING keeps no length."""

    node: Atom
    creation: int
    words: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Port:
    node: Atom
    id: int
    creation: int


@dataclass(frozen=True, slots=True)
class Bits:
    """A bitstring whose last byte has `bits` of 1 to 7 bits."""

    data: bytes
    bits: int


@dataclass(frozen=True, slots=True)
class Export:
    module: Atom
    function: Atom
    arity: int


@dataclass(frozen=True, slots=True)
class Improper:
    items: tuple[Any, ...]
    tail: Any


def to_json(term: Any) -> Any:
    match term:
        case Atom(name):
            return {"a": name}
        case Pid(number):
            return {"pid": [number]}
        case LongPid(box, domid, number):
            return {"pid": [box, domid, number]}
        case Ref(node, creation, words):
            return {"ref": [node.name, creation, list(words)]}
        case Port(node, number, creation):
            return {"port": [node.name, number, creation]}
        case Bits(data, bits):
            return {"bits": [data.hex(), bits]}
        case Export(module, function, arity):
            return {"export": [module.name, function.name, arity]}
        case Improper(items, tail):
            return {"l": [to_json(item) for item in items], "tail": to_json(tail)}
        case tuple():
            return {"t": [to_json(item) for item in term]}
        case list():
            return [to_json(item) for item in term]
        case dict():
            return {"m": [[to_json(key), to_json(value)] for key, value in term.items()]}
        case bytes():
            return {"b": term.decode("latin-1")}
        case bool() | str():
            raise TypeError(f"no term: {term!r}")
        case int() | float():
            return term
    raise TypeError(f"no term: {term!r}")


def from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"a": str(name)}:
            return Atom(name)
        case {"t": list(items)}:
            return tuple(from_json(item) for item in items)
        case {"b": str(text)}:
            return text.encode("latin-1")
        case {"pid": [number]}:
            return Pid(number)
        case {"pid": [box, domid, number]}:
            return LongPid(box, domid, number)
        case {"ref": [node, creation, words]}:
            return Ref(Atom(node), creation, tuple(words))
        case {"port": [node, number, creation]}:
            return Port(Atom(node), number, creation)
        case {"bits": [data, bits]}:
            return Bits(bytes.fromhex(data), bits)
        case {"export": [module, function, arity]}:
            return Export(Atom(module), Atom(function), arity)
        case {"l": list(items), "tail": tail}:
            return Improper(tuple(from_json(item) for item in items), from_json(tail))
        case {"m": list(pairs)}:
            return {from_json(key): from_json(item) for key, item in pairs}
    raise ValueError(f"no term: {value!r}")


def show(term: Any) -> str:
    """For messages to people; cut off when it is long."""
    text = repr(term)
    return text if len(text) < 200 else text[:200] + "…"
