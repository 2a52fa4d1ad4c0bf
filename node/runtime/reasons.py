"""From a Python exception to the exit reason that the cluster sees, and bounded text for it.

The reason is ``{{python, 'ValueError', <<"text">>}, [{Module, Function, Arity, [{file, "…"}, {line, N}]}, …]}``: a
two-tuple with a stack trace, which OTP's loggers format as they format their own.
"""

from __future__ import annotations

import concurrent.futures
import os.path
from types import TracebackType
from typing import Any

from ..errors import EncodeError, ProcessExit
from ..etf import encode
from ..terms import Atom

__all__ = ["MAX_FRAMES", "MAX_TEXT", "charlist", "crash_reason", "encodable", "exception_reason", "stack_of"]

#: Bytes of an exception's text in an exit reason: reasons are copied to every linked process.
MAX_TEXT = 2048
#: Innermost frames of the stack in an exit reason.
MAX_FRAMES = 16

_PYTHON = Atom("python")
_FILE = Atom("file")
_LINE = Atom("line")
#: Frames of this package and of what runs a handler for it say nothing to a reader.
_OURS = (
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
    os.path.dirname(concurrent.futures.__file__) + os.sep,
)


def charlist(text: str) -> list[int]:
    """An Erlang string: a list of code points."""
    return [ord(character) for character in text]


def _clean(text: str) -> bytes:
    """UTF-8 of any str, surrogates replaced, cut at MAX_TEXT bytes between characters."""
    data = text.encode("utf-8", "replace")
    return data if len(data) <= MAX_TEXT else data[:MAX_TEXT].decode("utf-8", "ignore").encode() + b"..."


def _atom(text: str) -> Atom:
    return Atom(text.encode("utf-8", "replace").decode()[:255])


def stack_of(traceback: TracebackType | None) -> list[Any]:
    """A stack trace as erlang:raise/3 takes it, innermost call first."""
    frames: list[Any] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not code.co_filename.startswith(_OURS):
            module = traceback.tb_frame.f_globals.get("__name__", "?")
            frames.append(
                (
                    _atom(str(module)),
                    _atom(code.co_qualname),
                    code.co_argcount,
                    [(_FILE, charlist(code.co_filename[-255:])), (_LINE, traceback.tb_lineno)],
                )
            )
        traceback = traceback.tb_next
    return frames[: -MAX_FRAMES - 1 : -1]


def exception_reason(error: BaseException) -> Any:
    """``{python, 'ValueError', <<"text">>}``."""
    try:
        text = str(error)
    except Exception as second:  # a __str__ that fails must not hide the first error
        text = f"<no text: {type(second).__name__}>"
    return (_PYTHON, _atom(type(error).__name__), _clean(text))


def crash_reason(error: BaseException) -> Any:
    """The exit reason of a process whose handler let `error` out."""
    if isinstance(error, ProcessExit):
        return error.reason
    return (exception_reason(error), stack_of(error.__traceback__))


def encodable(reason: Any) -> Any:
    """The reason itself, or a readable stand-in when it has no term."""
    try:
        encode(reason)
    except EncodeError as error:
        return (_PYTHON, Atom("EncodeError"), _clean(f"{error}: {reason!r}"))
    return reason
