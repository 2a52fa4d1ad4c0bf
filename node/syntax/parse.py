"""Tokens to terms, by the grammar of OTP's erl_parse:parse_term/1 with the same extras and none of its variables.

A string is a list of integers, as in Erlang; ``<<"text"/utf8>>`` and ``~"text"`` are binaries. Where we differ from
erl_parse: in ``<<"text">>`` a character above 255 is an error (Erlang cuts it to eight bits without a word), and the
trailing dot may be left out.
"""

from __future__ import annotations

import struct
from typing import Any

from ..etf import encode
from ..terms import Atom, BitString, Export, ImproperList, Map, Pid, Port, Reference
from .scan import RESERVED, TermSyntaxError, Token, scan

__all__ = ["MAX_NESTING", "parse"]

# Terms inside terms. Each level costs three Python frames, of which there are 1,000; nobody types a hundred.
MAX_NESTING = 200

# <<Value:Size>> can't ask for more bits than this (16 MiB), or seven characters would take all memory.
MAX_BITS = 1 << 27

_CLOSERS = ("}", "]", ")", ">>")
_SEGMENT_TYPES = frozenset(("integer", "float", "binary", "bytes", "bitstring", "bits", "utf8", "utf16", "utf32"))
_FLOAT_CODES = {16: "e", 32: "f", 64: "d"}


def parse(text: str) -> Any:
    """The term that the text writes down.

    Raises TermSyntaxError (a ValueError) with line, column and a picture of the place.
    A pid, port or reference is written with its node's name, e.g. ``<'a@127.0.0.1'.85.0>``, and has creation 0,
    which a BEAM takes for whatever incarnation of itself is running.
    """
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = scan(text)
        self.index = 0
        self.depth = 0

    # -- tokens

    def next(self) -> Token:
        token = self.tokens[self.index]
        if token.kind != "end":
            self.index += 1
        return token

    def peek(self) -> str:
        return self.tokens[self.index].kind

    def take(self, kind: str) -> bool:
        if self.tokens[self.index].kind == kind:
            self.index += 1
            return True
        return False

    def expect(self, kind: str, where: str) -> Token:
        token = self.tokens[self.index]
        if token.kind != kind:
            raise self.unexpected(token, f"expected {kind} {where}")
        self.index += 1
        return token

    def error(self, reason: str, token: Token) -> TermSyntaxError:
        return TermSyntaxError(reason, self.text, token.position)

    def unexpected(self, token: Token, wish: str) -> TermSyntaxError:
        if token.kind == "end":
            return self.error(f"the text ends too early: {wish}", token)
        if token.kind == "variable":
            return self.error(f"{token.value} is a variable; as an atom it is written '{token.value}'", token)
        before = self.tokens[self.index - 1] if self.index else token
        if token.kind == "." and before.kind == "atom" and "@" in str(before.value):
            return self.error("a name with dots needs quotes: 'name@127.0.0.1'", token)
        return self.error(wish, token)

    # -- terms

    def whole(self) -> Any:
        if self.peek() == "end":
            raise self.error("a term is missing", self.tokens[0])
        term = self.term()
        token = self.tokens[self.index]
        if token.kind == "." and self.tokens[self.index + 1].kind == "end":
            self.index += 1
        elif token.kind != "end":
            raise self.unexpected(token, "there is text after the term")
        return term

    def term(self) -> Any:
        token = self.next()
        kind = token.kind
        if kind in ("int", "float", "char"):
            return token.value
        if kind in ("atom", "quoted"):
            return self.atom(token)
        if kind == "string":
            return [ord(c) for c in self.string(token)]
        if kind == "sigil":
            return str(token.value).encode()
        if kind in ("-", "+"):
            return self.signed(token)
        if kind in ("pid", "port", "ref"):
            return _identifier(kind, token.value)
        if kind not in ("{", "[", "(", "<<", "#"):
            self.index -= kind != "end"
            raise self.unexpected(token, "a term is missing here" if kind in _CLOSERS else "a term can't begin so")
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise self.error(f"nested deeper than {MAX_NESTING}", token)
        try:
            return self.compound(token)
        finally:
            self.depth -= 1

    def compound(self, token: Token) -> Any:
        kind = token.kind
        if kind == "{":
            return tuple(self.items("}"))
        if kind == "[":
            return self.list()
        if kind == "#":
            return self.map(token)
        if kind == "<<":
            return self.binary()
        term = self.term()
        self.expect(")", "after the term in parentheses")
        return term

    def atom(self, token: Token) -> Any:
        name = str(token.value)
        if token.kind == "atom":
            if name == "fun":
                return self.export(token)
            if name in RESERVED:
                raise self.error(f"{name} is a reserved word; as an atom it is written '{name}'", token)
        return _atom(name)

    def plain_atom(self, where: str) -> Atom:
        token = self.next()
        if token.kind not in ("atom", "quoted") or (token.kind == "atom" and token.value in RESERVED):
            raise self.unexpected(token, f"expected an atom {where}")
        return Atom(str(token.value))

    def export(self, token: Token) -> Export:
        module = self.plain_atom("after fun, as in fun module:function/arity")
        self.expect(":", "in fun module:function/arity")
        function = self.plain_atom("in fun module:function/arity")
        self.expect("/", "in fun module:function/arity")
        arity = self.expect("int", "as the arity in fun module:function/arity").value
        if not isinstance(arity, int) or arity > 255:
            raise self.error("an arity is at most 255", token)
        return Export(module, function, arity)

    def string(self, token: Token) -> str:
        text = str(token.value)
        while self.peek() == "string":
            text += str(self.next().value)
        return text

    def signed(self, sign: Token) -> int | float:
        token = self.next()
        if not isinstance(token.value, int | float):
            raise self.unexpected(token, f"expected a number after {sign.kind}")
        return -token.value if sign.kind == "-" else token.value

    def items(self, closer: str) -> list[Any]:
        items: list[Any] = []
        if self.take(closer):
            return items
        while True:
            items.append(self.term())
            if self.take(closer):
                return items
            self.expect(",", f"or {closer}")

    def list(self) -> Any:
        items: list[Any] = []
        if self.take("]"):
            return items
        while True:
            items.append(self.term())
            if self.take("]"):
                return items
            if self.take("|"):
                tail = self.term()
                self.expect("]", "after the tail of the list")
                return _cons(items, tail)
            self.expect(",", "or | or ]")

    def map(self, token: Token) -> Any:
        if not self.take("{"):
            raise self.error("a map begins with #{; records are tuples on the wire: write {name, ...}", token)
        pairs: list[tuple[Any, Any]] = []
        if self.take("}"):
            return {}
        while True:
            key = self.term()
            self.expect("=>", "after the key of a map")
            pairs.append((key, self.term()))
            if self.take("}"):
                return _map(pairs)
            self.expect(",", "or }")

    # -- binaries: https://www.erlang.org/doc/system/expressions.html#bit-syntax-expressions

    def binary(self) -> bytes | BitString:
        value = bits = 0
        if not self.take(">>"):
            while True:
                more, size = self.segment()
                value, bits = value << size | more, bits + size
                if self.take(">>"):
                    break
                self.expect(",", "or >>")
        rest = -bits % 8
        data = (value << rest).to_bytes((bits + rest) // 8, "big")
        return BitString(data, 8 - rest) if rest else data

    def segment(self) -> tuple[int, int]:
        """One Value:Size/Types as a number and its count of bits."""
        start = self.tokens[self.index]
        value: Any
        if start.kind == "string":
            value = self.string(self.next())
        elif start.kind in ("int", "float", "char", "+", "-", "<<", "sigil", "("):
            value = self.term()
        else:
            raise self.unexpected(start, "expected a number, a string or a binary in <<...>>")
        size: int | None = None
        if self.take(":"):
            size = self.number("as a size")
        spec = self.segment_spec(start) if self.take("/") else _Spec()
        if isinstance(value, bytes | BitString):
            return self.part(value, size, spec, start)
        if spec.unit is not None and size is None and spec.type in ("integer", "float"):
            raise self.error("a unit needs a size", start)
        if not isinstance(value, int | float | str):
            raise self.error("expected a number, a string or a binary in <<...>>", start)
        if isinstance(value, str):
            number = bits = 0
            for c in value:
                if spec.type == "integer" and size is None and ord(c) > 255:
                    raise self.error(f'{c!r} does not fit in a byte: write <<"..."/utf8>>', start)
                one, width = self.scalar(ord(c), size, spec, start)
                number, bits = number << width | one, bits + width
            return number, bits
        return self.scalar(value, size, spec, start)

    def number(self, where: str) -> int:
        token = self.next()
        if token.kind not in ("int", "char") or not isinstance(token.value, int):
            raise self.unexpected(token, f"expected an integer {where}")
        return token.value

    def segment_spec(self, start: Token) -> _Spec:
        spec = _Spec()
        while True:
            token = self.next()
            word = token.value
            if token.kind != "atom":
                raise self.unexpected(token, "expected a type after / in <<...>>")
            if word in _SEGMENT_TYPES:
                spec.type = {"bytes": "binary", "bits": "bitstring"}.get(str(word), str(word))
            elif word in ("big", "little"):
                spec.little = word == "little"
            elif word == "unit" and self.take(":"):
                spec.unit = self.number("as a unit")
                if not 1 <= spec.unit <= 256:
                    raise self.error("a unit is between 1 and 256", token)
            elif word not in ("signed", "unsigned"):  # the sign matters to matching only
                raise self.error(f"{word} is not a type of a binary's segment", token)
            if not self.take("-"):
                return spec

    def part(self, value: bytes | BitString, size: int | None, spec: _Spec, start: Token) -> tuple[int, int]:
        """A binary inside a binary: << <<1,2,3>>:2/binary >>."""
        if spec.type not in ("binary", "bitstring"):
            raise self.error("a binary in a binary needs /binary", start)
        data, spare = (value.data, 8 - value.bits) if isinstance(value, BitString) else (value, 0)
        bits = len(data) * 8 - spare
        if size is None and spec.type == "binary" and spare:
            raise self.error("these bits are not a whole number of bytes: write /bitstring", start)
        wanted = bits if size is None else size * (spec.unit or (8 if spec.type == "binary" else 1))
        if wanted > bits:
            raise self.error("the binary is shorter than the size asked for", start)
        return int.from_bytes(data, "big") >> (spare + bits - wanted), wanted

    def scalar(self, value: int | float, size: int | None, spec: _Spec, start: Token) -> tuple[int, int]:
        """A number as a segment."""
        if spec.type.startswith("utf"):
            if size is not None or spec.unit is not None:
                raise self.error(f"{spec.type} takes no size", start)
            if not isinstance(value, int) or not 0 <= value <= 0x10FFFF or 0xD800 <= value <= 0xDFFF:
                raise self.error(f"not a character for {spec.type}", start)
            order = "" if spec.type == "utf8" else "-le" if spec.little else "-be"
            data = chr(value).encode(spec.type[:3] + "-" + spec.type[3:] + order)
            return int.from_bytes(data, "big"), len(data) * 8
        if spec.type == "float":
            bits = (64 if size is None else size) * (spec.unit or 1)
            if bits not in _FLOAT_CODES:
                raise self.error("a float has 16, 32 or 64 bits", start)
            try:
                data = struct.pack((">", "<")[spec.little] + _FLOAT_CODES[bits], value)
            except (OverflowError, struct.error):
                raise self.error(f"the number does not fit in a float of {bits} bits", start) from None
            return int.from_bytes(data, "big"), bits
        if spec.type != "integer" or not isinstance(value, int):
            raise self.error(f"a {type(value).__name__} can't be a segment of type {spec.type}", start)
        bits = (8 if size is None else size) * (spec.unit or 1)
        if bits > MAX_BITS:
            raise self.error(f"a segment has at most {MAX_BITS} bits here", start)
        value &= (1 << bits) - 1
        return (_swapped(value, bits) if spec.little else value), bits


class _Spec:
    """The part of a segment after the slash."""

    def __init__(self) -> None:
        self.type = "integer"
        self.little = False
        self.unit: int | None = None


def _swapped(value: int, bits: int) -> int:
    """Little-endian order: whole bytes first, the odd bits (the highest) last."""
    whole, odd = divmod(bits, 8)
    low = int.from_bytes((value & ((1 << whole * 8) - 1)).to_bytes(whole, "little"), "big")
    return low << odd | value >> whole * 8


def _atom(name: str) -> Any:
    return True if name == "true" else False if name == "false" else Atom(name)


def _cons(items: list[Any], tail: Any) -> Any:
    """[items | tail] as a list where it is one."""
    if isinstance(tail, list):
        return items + tail
    if isinstance(tail, ImproperList):
        return ImproperList((*items, *tail.items), tail.tail)
    return ImproperList(tuple(items), tail)


def _map(pairs: list[tuple[Any, Any]]) -> Any:
    """A dict where it keeps all keys apart, else a Map. Of equal keys the last counts, as in maps:from_list/1."""
    exact = {encode(key): (key, value) for key, value in pairs}
    try:
        plain = dict(exact.values())
    except TypeError:  # a key that Python can't hash
        return Map(tuple(exact.values()))
    return plain if len(plain) == len(exact) else Map(tuple(exact.values()))


def _identifier(kind: str, value: Any) -> Pid | Port | Reference:
    node, words = Atom(value[0]), value[1]
    if kind == "pid":
        return Pid(node, words[0], words[1], 0)
    if kind == "port":
        return Port(node, words[0], 0)
    return Reference(node, 0, tuple(reversed(words)))  # a BEAM prints the words last to first
