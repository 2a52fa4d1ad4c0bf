"""Envelopes as bytes: the two formats of a straw, both ways. No input or output, no processes.

erlang: the external term of ``{envelope, Addr, Msg}``, in OTP's words or in LING's, as the peer reads; what pids and
references become is the Crossing's matter (tables.py). json: an object
with "addr" (a registered name) and "msg". What comes in is hostile: only DecodeError comes out of decode_envelope(),
and nothing that a peer names is looked up or made here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from ..errors import DecodeError, EncodeError
from ..etf import Crossing, decode, encode
from ..terms import Atom, Map, Pid

__all__ = [
    "MAX_DEPTH",
    "MAX_FRAME",
    "MAX_JSON_DEPTH",
    "Dialect",
    "Envelope",
    "Format",
    "decode_envelope",
    "decode_terms",
    "encode_envelope",
    "encode_pieces",
    "encode_terms",
]

#: Bytes of one frame, in and out: what a straw holds unsent (straw-rules 3).
MAX_FRAME = 16 << 20
#: Nesting of a term in a frame: what a LING takes (straw-rules 6).
MAX_DEPTH = 1000
#: Nesting of JSON, in and out: Python's own parser, and what turns it into terms, are recursive.
MAX_JSON_DEPTH = 200

Format = Literal["erlang", "json"]
Dialect = Literal["otp", "ling"]

_ENVELOPE = Atom("envelope")
_JSON = Atom("json")
_NULL = Atom("null")
_WORDS = {Atom("null"): None, Atom("true"): True, Atom("false"): False}


class Envelope(NamedTuple):
    """addr: an Atom, Pid, (name, node) of Atoms, or (domid, name). message: ``{json, Msg}`` of json."""

    addr: Any
    message: Any


def encode_envelope(
    addr: Any,
    message: Any,
    *,
    format: Format = "erlang",
    dialect: Dialect = "otp",
    none: str | Atom = "undefined",
    ling_maps: bool = False,
    from_process: bool = False,
    crossing: Crossing | None = None,
) -> bytes:
    """One frame, without its length. EncodeError when the format, the dialect or a limit forbids it.

    addr: as in Envelope, names also as str. from_process: the message is a term that a process has sent, so its
    binaries are text to JSON and a proplist is an object (as jsx has it); Python's own bytes are no JSON. ling_maps:
    say a map to a LING, which may die of it (straw-rules 6). crossing: the tables of the other domain; without them
    pids stand as OTP writes them.
    """
    addr = address(addr, format, dialect, crossing)
    if format == "json":
        body = {"addr": addr.name, "msg": _json(message, "msg", from_process, 0)}
        try:
            frame = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except ValueError as error:  # an integer of more digits than Python writes
            raise EncodeError(str(error), "msg") from error
        return _fitting(frame)
    return encode_terms(addr, message, none, dialect, ling_maps, crossing)


def address(addr: Any, format: Format, dialect: Dialect, crossing: Crossing | None) -> Any:
    """What a caller has given as the address of an envelope, checked: an Atom, a Pid or a pair. EncodeError."""
    if isinstance(addr, str):
        addr = _atom(addr)
    elif type(addr) is tuple:
        addr = tuple(_atom(part) if isinstance(part, str) else part for part in addr)
    kind = type(addr)
    if format == "json":
        if kind is not Atom:
            raise EncodeError("a json straw takes registered names only", "addr")
        return addr
    if not is_address(addr):
        raise EncodeError("not an address: a name, a pid or {Name, Node}", "addr")
    if kind is Pid and crossing is not None and crossing.out.get(addr, 0) >> 32 != crossing.peer:
        raise EncodeError("not a process of that domain", "addr")
    if kind is tuple and dialect == "ling":
        raise EncodeError("a LING has names and pids of its own only", "addr")
    return addr


def encode_terms(
    addr: Any, message: Any, none: str | Atom, dialect: Dialect, ling_maps: bool, crossing: Crossing | None
) -> bytes:
    """encode_envelope() for an address that needs no check, in the format erlang."""
    envelope = (_ENVELOPE, addr, message)
    try:
        if crossing is None:
            frame = encode(envelope, none=none, dialect=dialect, ling_maps=ling_maps)
        else:
            frame = crossing.encode(envelope, none, dialect, ling_maps)
    except EncodeError as error:
        raise _of_envelope(error) from None
    return frame if len(frame) <= MAX_FRAME else _fitting(frame)


def encode_pieces(
    addr: Any, message: Any, none: str | Atom, dialect: Dialect, ling_maps: bool, crossing: Crossing
) -> bytes | list[bytes]:
    """encode_terms(); a list when it holds big binaries, which stand in it as they are."""
    try:
        frame = crossing.encode((_ENVELOPE, addr, message), none, dialect, ling_maps, True)
    except EncodeError as error:
        raise _of_envelope(error) from None
    if isinstance(frame, bytes):
        return frame if len(frame) <= MAX_FRAME else _fitting(frame)
    _check_size(sum(map(len, frame)))
    return frame


def _of_envelope(error: EncodeError) -> EncodeError:
    """The error with the path as whoever sends knows it."""
    path = error.path
    if not path:
        return error  # of the tables, not of a term
    path = "msg" + path[3:] if path.startswith("[2]") else "addr" + path[3:] if path.startswith("[1]") else path
    return EncodeError(error.reason, path)


def _fitting(frame: bytes) -> bytes:
    _check_size(len(frame))
    return frame


def _check_size(size: int) -> None:
    if size > MAX_FRAME:
        raise EncodeError(f"an envelope of {size} bytes is beyond the limit {MAX_FRAME}")


def decode_envelope(frame: bytes | memoryview, format: Format = "erlang") -> Envelope:
    """What a frame says, whoever wrote it and in whichever dialect. DecodeError for anything that is no envelope."""
    if format == "erlang":
        _, addr, message = decode_terms(frame, None)
        return Envelope(addr, message)
    _check_frame(frame)
    return _from_json(frame)


def _check_frame(frame: bytes | memoryview) -> None:
    if len(frame) > MAX_FRAME:
        raise DecodeError(f"a frame of {len(frame)} bytes is beyond the limit {MAX_FRAME}")


def decode_terms(frame: bytes | memoryview, crossing: Crossing | None) -> tuple[Any, Any, Any]:
    """decode_envelope() in the format erlang, with the other domain's tables: ``(envelope, addr, message)``."""
    _check_frame(frame)
    if crossing is None:
        term = decode(frame, dialect="ling", max_depth=MAX_DEPTH, max_inflated=MAX_FRAME)
    else:
        term = crossing.decode(frame, MAX_DEPTH, MAX_FRAME)
    if type(term) is not tuple or len(term) != 3 or term[0] is not _ENVELOPE:
        raise DecodeError("not an envelope")
    if type(term[1]) is not Atom and not is_address(term[1]):
        raise DecodeError("not an address")
    return term


def is_address(addr: Any) -> bool:
    """Whether an envelope may bear it."""
    kind = type(addr)
    if kind is tuple and len(addr) == 2:
        place, name = addr
        # {DomId, Name} is how LING's users write it; the second of {Name, Node} is a node.
        return type(name) is Atom and (type(place) is Atom or (type(place) is int and place >= 0))
    return kind is Atom or kind is Pid


def _atom(name: str) -> Atom:
    try:
        return Atom(name)
    except ValueError as error:
        raise EncodeError(str(error), "addr") from error


def _json(value: Any, path: str, from_process: bool, depth: int) -> Any:
    """The value as json.dumps takes it and any parser reads it back."""
    kind = type(value)
    if kind is str:
        return _text(value, path)
    if value is None or kind is bool or kind is int:
        return value
    if kind is float:
        if not math.isfinite(value):
            raise EncodeError("JSON has no such number", path)
        return value
    if kind is Atom:
        if value not in _WORDS:
            raise EncodeError(f"of all atoms JSON has null, true and false only, not {value}", path)
        return _WORDS[value]
    if kind is bytes and from_process:
        return _text(value, path)
    if depth >= MAX_JSON_DEPTH:
        raise EncodeError(f"nested more than {MAX_JSON_DEPTH} deep", path)
    if isinstance(value, Mapping):
        return _object(value.items(), path, from_process, depth)
    if isinstance(value, list):
        if from_process and value and all(type(item) is tuple for item in value):
            if value == [()]:
                return {}
            if all(len(item) == 2 for item in value):
                return _object(value, path, from_process, depth)
        return [_json(item, f"{path}[{i}]", from_process, depth + 1) for i, item in enumerate(value)]
    if isinstance(value, (str, bool, int, float)):  # a subclass, as an enum
        base: type = next(base for base in (str, bool, int, float) if isinstance(value, base))
        return _json(base(value), path, from_process, depth)
    if isinstance(value, Map):
        raise EncodeError("its keys are not all strings", path)
    raise EncodeError(f"JSON has no {kind.__name__}", path)


def _object(pairs: Any, path: str, from_process: bool, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in pairs:
        if type(key) is not str and not (from_process and type(key) is bytes):
            raise EncodeError(f"a key of a JSON object is a string, not {key!r:.100}", path)
        name = _text(key, path)
        if name in found:
            raise EncodeError(f"two keys are {name!r:.100}", path)
        found[name] = _json(item, f"{path}[{name!r:.100}]", from_process, depth + 1)
    return found


def _text(value: str | bytes, path: str) -> str:
    try:
        if isinstance(value, bytes):
            return value.decode()
        if not value.isascii():
            value.encode()
    except UnicodeError:
        raise EncodeError("not text: a JSON string is UTF-8", path) from None
    return value


def _from_json(frame: bytes | memoryview) -> Envelope:
    try:
        body = json.loads(bytes(frame).decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # also what is not UTF-8, too many digits, nested too deep to parse
        raise DecodeError(f"not JSON: {error}"[:200]) from None
    if not isinstance(body, dict) or "msg" not in body or not isinstance(body.get("addr"), str):
        raise DecodeError("not an envelope: an object with addr and msg")
    try:
        addr = Atom(body["addr"])
    except ValueError:
        raise DecodeError("addr is no registered name") from None
    return Envelope(addr, (_JSON, _term(body["msg"], 0)))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _term(value: Any, depth: int) -> Any:
    """What JSON says as a term of any other message: text as binaries, null as an atom."""
    kind = type(value)
    if kind is str:
        return _binary(value)
    if kind is list or kind is dict:
        if depth >= MAX_JSON_DEPTH:
            raise DecodeError(f"nested more than {MAX_JSON_DEPTH} deep")
        if kind is list:
            return [_term(item, depth + 1) for item in value]
        return {_binary(key): _term(item, depth + 1) for key, item in value.items()}
    if kind is float and not math.isfinite(value):
        raise DecodeError("a number beyond a float")
    return _NULL if value is None else value


def _binary(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise DecodeError("half a surrogate pair in a string") from None
