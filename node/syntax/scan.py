"""Text to tokens, by the rules of OTP's erl_scan: what a number or a quoted atom looks like, not what a term is.

Taken: decimal integers with ``_``, ``Base#Digits`` of base 2 to 36, floats, ``$c``, quoted and unquoted atoms,
strings, the sigil ``~"text"`` (a UTF-8 binary, OTP 27), comments, and a form of our own for pids, ports and
references that carries the node's name. Not taken: triple-quoted strings, other sigils, variables.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .bigint import from_digits

__all__ = ["MAX_ATOM", "RESERVED", "TermSyntaxError", "Token", "is_bare_atom", "scan"]

MAX_ATOM = 255  # characters; erts: MAX_ATOM_CHARACTERS

# Words that can't be atoms without quotes. 'maybe' and 'else' joined them in OTP 27: we read them bare
# (OTP 25 does) and print them quoted (which every OTP reads).
RESERVED = frozenset((
    "after", "and", "andalso", "band", "begin", "bnot", "bor", "bsl", "bsr", "bxor", "case", "catch", "cond", "div",
    "end", "fun", "if", "let", "not", "of", "or", "orelse", "receive", "rem", "try", "when", "xor",
))  # fmt: skip
RESERVED_SINCE_27 = frozenset(("maybe", "else"))

_LOWER = "a-zß-öø-ÿ"
_NAME = _LOWER + "A-ZÀ-ÖØ-Þ0-9_@"
_ATOM = re.compile(f"[{_LOWER}][{_NAME}]*")
_VARIABLE = re.compile(f"[A-ZÀ-ÖØ-Þ_][{_NAME}]*")
_BLANK = re.compile(r"(?:[\x00-\x20\x80-\xa0]+|%[^\n]*)+")
_DIGITS = "[0-9]+(?:_[0-9]+)*"
_FLOAT = re.compile(rf"{_DIGITS}\.{_DIGITS}(?:[eE][+-]?{_DIGITS})?")
_BASED = re.compile(rf"({_DIGITS})#([0-9A-Za-z]+(?:_[0-9A-Za-z]+)*)?")
_INTEGER = re.compile(_DIGITS)
_PUNCT = re.compile(r"<<|>>|=>|[{}\[\](),|#:/+\-.=]")
_PARTS = re.compile(r"(?:\.[0-9]+)+>")
_NUMBERED = re.compile(r"[0-9]+(?:\.[0-9]+)*>")
_PLAIN = re.compile(r"[^\\\"']+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_OCTAL = re.compile(r"[0-7]{1,3}")
_HEX_BRACED = re.compile(r"x\{([0-9A-Fa-f]+)\}")
_HEX_TWO = re.compile(r"x([0-9A-Fa-f]{2})")
_ESCAPES = {"n": 10, "r": 13, "t": 9, "v": 11, "b": 8, "f": 12, "e": 27, "s": 32, "d": 127}


class TermSyntaxError(ValueError):
    """The text is not a term. line and column count from 1; position is the index into text."""

    def __init__(self, reason: str, text: str, position: int) -> None:
        self.reason = reason
        self.text = text
        self.position = position
        self.line = text.count("\n", 0, position) + 1
        start = text.rfind("\n", 0, position) + 1
        self.column = position - start + 1
        end = text.find("\n", start)
        shown = text[start:] if end < 0 else text[start:end]
        before = position - start
        if before > 60:  # a long line: keep the place in sight
            shown, before = "..." + shown[before - 50 :], 53
        shown = shown[:100].replace("\t", " ")
        super().__init__(f"line {self.line}, column {self.column}: {reason}\n  {shown}\n  {' ' * before}^")


class Token(NamedTuple):
    """kind: int float char atom quoted string sigil pid ref port variable end, or the text of a punctuation mark."""

    kind: str
    value: object
    position: int


def is_bare_atom(name: str) -> bool:
    """Whether an atom of that name is printed without quotes."""
    return _ATOM.fullmatch(name) is not None and name not in RESERVED and name not in RESERVED_SINCE_27


def scan(text: str) -> list[Token]:
    """All tokens of the text, the last one of kind 'end'. Raises TermSyntaxError."""
    half = _SURROGATE.search(text)  # from bytes on a command line that are not UTF-8
    if half:
        raise TermSyntaxError("not a character", text, half.start())
    tokens: list[Token] = []
    position = 0
    while True:
        blank = _BLANK.match(text, position)
        if blank:
            position = blank.end()
        if position >= len(text):
            tokens.append(Token("end", None, position))
            return tokens
        token, position = _next(text, position)
        tokens.append(token)


def _next(text: str, position: int) -> tuple[Token, int]:
    c = text[position]
    if c in "0123456789":
        return _number(text, position)
    if c == '"':
        if text.startswith('"""', position):
            raise TermSyntaxError("triple-quoted strings are not read here", text, position)
        value, end = _quoted(text, position, '"')
        return Token("string", value, position), end
    if c == "'":
        value, end = _quoted(text, position, "'")
        return Token("quoted", _checked_atom(value, text, position), position), end
    if c == "$":
        return _char(text, position)
    if c == "~":
        if text.startswith('~"', position) and not text.startswith('~"""', position):
            value, end = _quoted(text, position + 1, '"')
            return Token("sigil", value, position), end
        raise TermSyntaxError('of the sigils only ~"text" is read here', text, position)
    atom = _ATOM.match(text, position)
    if atom:
        name = _checked_atom(atom.group(), text, position)
        return Token("atom", name, position), atom.end()
    for opening, kind in (("#Ref<", "ref"), ("#Port<", "port"), ("#Fun<", "fun"), ("<", "pid")):
        if text.startswith(opening, position) and not text.startswith("<<", position):
            return _identifier(text, position, opening, kind)
    punct = _PUNCT.match(text, position)
    if punct:
        return Token(punct.group(), None, position), punct.end()
    variable = _VARIABLE.match(text, position)
    if variable:
        return Token("variable", variable.group(), position), variable.end()
    raise TermSyntaxError(f"unexpected character {c!r}", text, position)


def _checked_atom(name: str, text: str, position: int) -> str:
    if len(name) > MAX_ATOM:
        raise TermSyntaxError(f"an atom has at most {MAX_ATOM} characters, this one {len(name)}", text, position)
    return name


def _number(text: str, position: int) -> tuple[Token, int]:
    found = _FLOAT.match(text, position)
    if found:
        value = float(found.group().replace("_", ""))
        if value in (float("inf"), float("-inf")):
            raise TermSyntaxError("the number is too large for a float", text, position)
        return Token("float", value, position), found.end()
    found = _BASED.match(text, position)
    if found:
        base = int(found.group(1).replace("_", "")[:9])
        if not 2 <= base <= 36:
            raise TermSyntaxError("a base is between 2 and 36", text, position)
        digits = found.group(2)
        if digits is None:
            raise TermSyntaxError(f"digits of base {base} are missing", text, found.end())
        try:
            return Token("int", from_digits(digits.replace("_", ""), base), position), found.end()
        except ValueError:
            raise TermSyntaxError(f"not a number of base {base}", text, position) from None
    found = _INTEGER.match(text, position)
    assert found is not None  # the caller saw a digit
    digits = found.group().replace("_", "")
    after = text[found.end() : found.end() + 1]
    if after in ("e", "E"):
        raise TermSyntaxError(f"a float needs a fraction: {digits}.0{after}...", text, position)
    return Token("int", from_digits(digits), position), found.end()


def _char(text: str, position: int) -> tuple[Token, int]:
    if position + 1 >= len(text):
        raise TermSyntaxError("a character is missing after $", text, position)
    if text[position + 1] == "\\":
        code, end = _escape(text, position + 1)
    else:
        code, end = ord(text[position + 1]), position + 2
    return Token("char", code, position), end


def _quoted(text: str, position: int, quote: str) -> tuple[str, int]:
    """The value of a quoted atom or string that begins at position, and the index after it."""
    pieces: list[str] = []
    at = position + 1
    while True:
        plain = _PLAIN.match(text, at)
        if plain:
            pieces.append(plain.group())
            at = plain.end()
        if at >= len(text):
            raise TermSyntaxError(f"the closing {quote} is missing", text, position)
        c = text[at]
        if c == quote:
            return "".join(pieces), at + 1
        if c == "\\":
            code, at = _escape(text, at)
            pieces.append(chr(code))
        else:  # the other kind of quote
            pieces.append(c)
            at += 1


def _escape(text: str, position: int) -> tuple[int, int]:
    """The character written by a backslash at position, and the index after it."""
    at = position + 1
    if at >= len(text):
        raise TermSyntaxError("a character is missing after the backslash", text, position)
    found = _OCTAL.match(text, at)
    if found:
        return int(found.group(), 8), found.end()
    c = text[at]
    if c == "x":
        found = _HEX_BRACED.match(text, at) or _HEX_TWO.match(text, at)
        code = int(found.group(1)[-9:], 16) if found and len(found.group(1).lstrip("0")) < 9 else -1
        if not found or not 0 <= code <= 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise TermSyntaxError(r"not a character: write \xHH or \x{HHHH}", text, position)
        return code, found.end()
    if c == "^":
        control = text[at + 1 : at + 2].upper()
        if control == "?":
            return 127, at + 2
        if not control or not "@" <= control <= "_":
            wish = r"\^A to \^Z and \^@ \^[ \^\ \^] \^^ \^_ \^?"
            raise TermSyntaxError(f"not a control character: they are {wish}", text, position)
        return ord(control) & 31, at + 2
    return _ESCAPES.get(c, ord(c)), at + 1


def _identifier(text: str, position: int, opening: str, kind: str) -> tuple[Token, int]:
    """<Node.Id.Serial>, #Port<Node.Id>, #Ref<Node.W.W.W>: Node is the node's name as an atom."""
    if kind == "fun":
        raise TermSyntaxError("a fun can't be written as text, but fun module:function/arity can", text, position)
    at = position + len(opening)
    numbered = _NUMBERED.match(text, at)
    if numbered:
        shown = opening + numbered.group()
        raise TermSyntaxError(
            f"{shown} means something only on the node that printed it; here the node's name is needed, "
            f"as in {opening}'a@127.0.0.1'.{numbered.group().partition('.')[2]}",
            text,
            position,
        )
    if text.startswith("'", at):
        node, at = _quoted(text, at, "'")
    else:
        bare = _ATOM.match(text, at)
        if not bare:
            raise TermSyntaxError(f"a node's name is missing after {opening}", text, at)
        node, at = bare.group(), bare.end()
    _checked_atom(node, text, position)
    parts = _PARTS.match(text, at)
    counts = {"pid": (2, 2), "port": (1, 1), "ref": (1, 5)}[kind]
    words = [int(word) for word in parts.group()[1:-1].split(".") if len(word) <= 20] if parts else []
    if not parts or not counts[0] <= len(words) <= counts[1] or len(words) != parts.group().count("."):
        hint = " (a name with dots needs quotes: 'a@127.0.0.1')" if text.startswith(".", at) else ""
        raise TermSyntaxError(f"not a {kind}, which looks like {_example(kind)}{hint}", text, position)
    limit = 2**64 if kind == "port" else 2**32
    if any(word >= limit for word in words):
        raise TermSyntaxError(f"a number in this {kind} is too large", text, position)
    return Token(kind, (node, words), position), parts.end()


def _example(kind: str) -> str:
    return {"pid": "<'a@127.0.0.1'.85.0>", "port": "#Port<'a@127.0.0.1'.5>", "ref": "#Ref<'a@127.0.0.1'.3.2.1>"}[kind]
