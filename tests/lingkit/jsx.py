"""JSON as LING's jsx reads and writes it: objects are proplists, [{}] when empty; strings are binaries.

Stricter than Python's json in the ways that jsx is: no NaN, no text that is not UTF-8, no lone surrogates.
"""

from __future__ import annotations

import json
from typing import Any

from .terms import Atom

__all__ = ["decode", "encode"]


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def decode(data: bytes) -> Any:
    """ValueError for what jsx would not take."""
    return _from(json.loads(data.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_Object))


class _Object(list[Any]):
    """The pairs of an object, not yet terms."""


def _from(value: Any) -> Any:
    if isinstance(value, _Object):
        return [(_text(key), _from(item)) for key, item in value] or [()]
    if isinstance(value, list):
        return [_from(item) for item in value]
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return Atom("null" if value is None else "true" if value else "false")
    return value


def _text(text: str) -> bytes:
    return text.encode("utf-8")  # a lone surrogate is a UnicodeEncodeError, which is a ValueError


def encode(term: Any) -> bytes:
    """ValueError for what jsx would not take."""
    return json.dumps(_to(term), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _to(term: Any) -> Any:
    if isinstance(term, Atom):
        return {"null": None, "true": True, "false": False}.get(term.name, term.name)
    if isinstance(term, bytes):
        return term.decode("utf-8")
    if isinstance(term, list):
        if term == [()]:
            return {}
        if term and all(type(item) is tuple and len(item) == 2 for item in term):
            return {_key(key): _to(value) for key, value in term}
        return [_to(item) for item in term]
    if isinstance(term, int | float):
        return term
    raise ValueError(f"no JSON: {term!r}")


def _key(key: Any) -> str:
    if isinstance(key, Atom):
        return key.name
    if isinstance(key, bytes):
        return key.decode("utf-8")
    raise ValueError(f"no JSON key: {key!r}")
