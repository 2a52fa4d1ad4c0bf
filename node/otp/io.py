"""The group leader of what this node calls elsewhere: an I/O server that writes to standard output.

A function called by rpc prints to the group leader that came with the call; one that did not answer would hang it.
Source: "The Erlang I/O Protocol" in stdlib's user's guide. Input is always at its end.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from ..runtime.process import Process
from ..syntax import format as format_term
from ..terms import Atom, ImproperList, Pid
from .gen import send_aside

__all__ = ["user"]

_OK = Atom("ok")
_ERROR = Atom("error")
_EOF = Atom("eof")
_ENOTSUP = Atom("enotsup")
_IO_REPLY = Atom("io_reply")

#: Bytes of text that one request may print; more is cut.
MAX_TEXT = 1 << 20


def _text(chars: Any) -> str:
    """The text of a chardata term: a binary, a character, or nested lists of them."""
    out: list[str] = []
    size = 0
    stack = [chars]
    while stack and size < MAX_TEXT:
        item = stack.pop()
        if isinstance(item, bytes):
            out.append(item.decode("utf-8", "replace"))
        elif isinstance(item, int):
            out.append(chr(item) if 0 <= item < 0x110000 else "\ufffd")
        elif isinstance(item, list):
            stack.extend(reversed(item))
            continue
        elif isinstance(item, ImproperList):
            stack.append(item.tail)
            stack.extend(reversed(item.items))
            continue
        else:
            raise ValueError(f"not chardata: {item!r}")
        size += len(out[-1])
    return "".join(out)


#: One control sequence of io_lib:format/2: ~F.P.PadModC.
_CONTROL = re.compile(r"~(?P<width>-?\d+|\*)?(?:\.(?:\d+|\*)?)?(?:\.(?:\*|.))?(?P<mod>[tlkK]*)(?P<char>.)", re.DOTALL)


def _format(text: str, args: list[Any]) -> str:
    """io_lib:format/2 for the common control characters; field widths are not kept. ValueError: args don't fit."""
    rest = iter(args)

    def one(match: re.Match[str]) -> str:
        char = match["char"]
        if char in "~n":
            return "~" if char == "~" else "\n"
        if match["width"] == "*":
            next(rest)
        value = next(rest)
        if char == "s":
            return value.name if isinstance(value, Atom) else _text(value)
        if char == "c":
            return chr(value)
        if char in "PW":
            next(rest)
        return "" if char == "i" else format_term(value)

    try:
        return _CONTROL.sub(one, text)
    except (StopIteration, RuntimeError, TypeError) as error:
        raise ValueError("the arguments don't fit the format") from error


def _answer(request: Any) -> Any:
    match request:
        case (Atom("put_chars"), Atom(), Atom("io_lib"), Atom("format" | "fwrite"), [text, list() as args]):
            sys.stdout.write(_format(_text(text), args))
            sys.stdout.flush()
            return _OK
        case (Atom("put_chars"), Atom(), chars) | (Atom("put_chars"), chars):
            sys.stdout.write(_text(chars))
            sys.stdout.flush()
            return _OK
        case (Atom("requests"), list() as several):
            answer: Any = _OK
            for one in several:
                answer = _answer(one)
                if answer is not _OK:
                    break
            return answer
        case (Atom("get_line" | "get_chars" | "get_until" | "get_password"), *_):
            return _EOF
        case (Atom("setopts"), _):
            return _OK
        case Atom("getopts"):
            return [(Atom("encoding"), Atom("unicode"))]
    # put_chars with any other function would run code of the sender's choice.
    return (_ERROR, _ENOTSUP)


async def user(me: Process) -> None:
    """The process `user`."""
    while True:
        match await me.receive():
            case (Atom("io_request"), Pid() as sender, reply_as, request):
                try:
                    answer = _answer(request)
                except ValueError:
                    answer = (_ERROR, Atom("badarg"))
                except OSError:  # nobody reads our standard output any more, or the disk is full
                    answer = (_ERROR, Atom("terminated"))
                send_aside(me, sender, (_IO_REPLY, reply_as, answer))
