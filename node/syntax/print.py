"""Terms to text, in one line, as OTP's ``io_lib:format("~0tp", [Term])`` prints them.

Pids, ports and references are the exception: a BEAM prints a number of its own for another node, which no other
program can look up, so the node's name stands in its place: ``<'a@127.0.0.1'.85.0>`` (creation left out, as there).
``maybe`` and ``else`` are quoted, as OTP does since 27, and atoms in ``fun m:f/a`` by the same rules as elsewhere
(OTP has others there).
Not for data: a str and the bytes of its UTF-8 print alike, and long terms are not shortened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..terms import (
    Atom,
    BitString,
    Export,
    Fun,
    ImproperList,
    LocalTerm,
    Map,
    Pid,
    Port,
    Record,
    Reference,
)
from .bigint import to_digits
from .scan import is_bare_atom

__all__ = ["format"]

# What stands in a string for itself or as a short escape; anything else makes it a list of numbers.
_CONTROLS = "\b\t\n\v\f\r\x1b"
_LATIN1 = re.compile(rf"[{_CONTROLS} -~\xa0-\xff]+")
_UNICODE = re.compile(rf"[{_CONTROLS} -~\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
_LATIN1_BYTES = re.compile(rb"[\b\t\n\v\f\r\x1b -~\xa0-\xff]+")
_ESCAPED = {code: f"\\{code >> 6}{code >> 3 & 7}{code & 7}" for code in (*range(32), *range(127, 160))}
_ESCAPED |= {8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 27: "\\e", 92: "\\\\", 127: "\\d"}
_IN_ATOM = _ESCAPED | {ord("'"): "\\'"}
_IN_STRING = _ESCAPED | {ord('"'): '\\"'}

# From this size on OTP writes floats with an exponent: not every integer is one any more.
_EXACT_FLOATS = 2.0**53


def format(term: Any, *, printable: str = "latin1", none: str = "undefined") -> str:
    """The term in one line of Erlang syntax.

    printable: which characters make a list or a binary a text: 'latin1' (OTP's default) or 'unicode' (``erl +pc
    unicode``). none: the atom that None stands for. Raises TypeError for what is not a term, ValueError for NaN
    and infinity. Any depth.
    """
    if printable not in ("latin1", "unicode"):
        raise ValueError("printable is 'latin1' or 'unicode'")
    text = _UNICODE if printable == "unicode" else _LATIN1
    pieces: list[str] = []
    waiting: list[Iterator[Any]] = [iter((_Term(term),))]
    while waiting:  # terms nest deeper than Python's stack, so the stack is a list
        for piece in waiting[-1]:
            if type(piece) is str:
                pieces.append(piece)
            else:
                leaf = _leaf(piece.term, text, none)
                if leaf is None:
                    waiting.append(_compound(piece.term))
                    break
                pieces.append(leaf)
        else:
            waiting.pop()
    return "".join(pieces)


class _Term:
    """A term still to be printed, between pieces of text."""

    __slots__ = ("term",)

    def __init__(self, term: Any) -> None:
        self.term = term


def _leaf(term: Any, text: re.Pattern[str], none: str) -> str | None:
    """The text of a term that holds no other terms, None for one that does."""
    if isinstance(term, Atom):
        return _atom(term.name)
    if isinstance(term, bool):
        return "true" if term else "false"
    if isinstance(term, int):
        return to_digits(term)
    if isinstance(term, float):
        return _float(term)
    if isinstance(term, bytes | bytearray | memoryview):
        return _binary(bytes(term), text)
    if isinstance(term, str):
        return _binary(term.encode(), text)
    if isinstance(term, list):
        return _string(term, text)
    if term is None:
        return _atom(none)
    if isinstance(term, Pid):
        return f"<{_atom(term.node.name)}.{term.id}.{term.serial}>"
    if isinstance(term, Port):
        return f"#Port<{_atom(term.node.name)}.{term.id}>"
    if isinstance(term, Reference):
        return f"#Ref<{_atom(term.node.name)}.{'.'.join(str(word) for word in reversed(term.ids))}>"
    if isinstance(term, Export):
        return f"fun {_atom(term.module.name)}:{_atom(term.function.name)}/{term.arity}"
    if isinstance(term, Fun):
        return f"#Fun<{_atom(term.module.name)}.{term.old_index}.{term.old_uniq}>"
    if isinstance(term, BitString):
        return _bits(term)
    if isinstance(term, LocalTerm):
        return f"#LocalTerm<{len(term.data)} bytes>"
    return None


def _compound(term: Any) -> Iterator[Any]:
    if isinstance(term, list):
        return _joined("[", term, "]")
    if isinstance(term, tuple):
        return _joined("{", term, "}")
    if isinstance(term, dict | Map):
        return _pairs("#{", term.items(), " => ", "}")
    if isinstance(term, ImproperList):
        return _improper(term)
    if isinstance(term, Record):
        fields = zip((_atom(name.name) for name in term.fields), term.values, strict=True)
        return _fields(f"#{_atom(term.module.name)}:{_atom(term.name.name)}{{", fields)
    raise TypeError(f"not a term: {type(term).__name__}")


def _joined(opening: str, items: Any, closing: str) -> Iterator[Any]:
    yield opening
    comma = ""
    for item in items:
        if comma:
            yield comma
        comma = ","
        yield _Term(item)
    yield closing


def _improper(term: ImproperList) -> Iterator[Any]:
    yield from _joined("[", term.items, "|")
    yield _Term(term.tail)
    yield "]"


def _pairs(opening: str, pairs: Any, arrow: str, closing: str) -> Iterator[Any]:
    yield opening
    comma = ""
    for key, value in pairs:
        if comma:
            yield comma
        comma = ","
        yield _Term(key)
        yield arrow
        yield _Term(value)
    yield closing


def _fields(opening: str, fields: Any) -> Iterator[Any]:
    yield opening
    comma = ""
    for name, value in fields:
        yield f"{comma}{name} = "
        comma = ","
        yield _Term(value)
    yield "}"


def _atom(name: str) -> str:
    return name if is_bare_atom(name) else f"'{name.translate(_IN_ATOM)}'"


def _quoted(string: str) -> str:
    return f'"{string.translate(_IN_STRING)}"'


def _string(items: list[Any], text: re.Pattern[str]) -> str | None:
    """A list of printable characters as a string, any other None."""
    if not items:
        return "[]"
    if type(items[0]) is not int:
        return None
    for item in items:
        if type(item) is not int or not 8 <= item <= 0x10FFFF:
            return None
    string = "".join(map(chr, items))
    return _quoted(string) if text.fullmatch(string) else None


def _binary(data: bytes, text: re.Pattern[str]) -> str:
    if not data:
        return "<<>>"
    try:
        string = data.decode()
    except UnicodeDecodeError:
        if _LATIN1_BYTES.fullmatch(data):
            return f"<<{_quoted(data.decode('latin-1'))}>>"
    else:
        if text.fullmatch(string):
            return f"<<{_quoted(string)}>>" if len(string) == len(data) else f"<<{_quoted(string)}/utf8>>"
    return f"<<{','.join(map(str, data))}>>"


def _bits(term: BitString) -> str:
    *whole, last = term.data
    return "<<" + "".join(f"{byte}," for byte in whole) + f"{last >> 8 - term.bits}:{term.bits}>>"


def _float(number: float) -> str:
    """Shortest digits that read back the same, and the shorter of the two notations, as float_to_list(F, [short])."""
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(f"{number} is not a term")
    sign = "-" if repr(number).startswith("-") else ""
    if number == 0:
        return f"{sign}0.0"
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    shown = whole + fraction
    digits = shown.strip("0")
    # Where the decimal point is, counted from the first digit that is not 0.
    point = len(whole) + int(exponent or 0) - (len(shown) - len(shown.lstrip("0")))
    scientific = f"{digits[0]}.{digits[1:] or '0'}e{point - 1}"
    if point <= 0:
        plain = f"0.{'0' * -point}{digits}"
    elif point >= len(digits):
        plain = f"{digits}{'0' * (point - len(digits))}.0"
    else:
        plain = f"{digits[:point]}.{digits[point:]}"
    shorter = scientific if abs(number) >= _EXACT_FLOATS or len(scientific) < len(plain) else plain
    return sign + shorter
