"""Exit codes, and how an error of the node becomes one line for a person.

No error that a user can cause (cookie, epmd, names, terms, paths) may show a traceback.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ..errors import (
    CallError,
    CallExit,
    CallTimeout,
    CookieError,
    EncodeError,
    EpmdError,
    HandshakeRefused,
    NoConnection,
    NodeError,
    NoProc,
    PeerBusy,
    RemoteError,
    RemoteExit,
    RemoteThrow,
)
from ..syntax import format
from ..terms import Atom

__all__ = ["CANNOT_CONNECT", "NEGATIVE", "OK", "REMOTE_ERROR", "USAGE", "Failure", "as_failure", "shown"]

OK = 0
NEGATIVE = 1  # the answer is no: pang, the app failed
USAGE = 2  # also argparse's
CANNOT_CONNECT = 3
REMOTE_ERROR = 4  # the other side answered, with an error


class Failure(Exception):
    """Ends a command. code: the exit code; message: what to print on stderr, possibly several lines."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@contextlib.contextmanager
def as_failure() -> Iterator[None]:
    """Errors raised by the node inside the block leave it as Failure."""
    try:
        yield
    except CookieError as error:
        raise Failure(USAGE, str(error)) from error
    except EncodeError as error:
        raise Failure(USAGE, f"the term can't be sent: {error}") from error
    except NoConnection as error:
        raise Failure(CANNOT_CONNECT, _no_connection(error)) from error
    except HandshakeRefused as error:
        raise Failure(CANNOT_CONNECT, f"refused: {error}{_hint(error)}") from error
    except (EpmdError, PeerBusy) as error:
        raise Failure(CANNOT_CONNECT, str(error)) from error
    except NoProc as error:
        raise Failure(REMOTE_ERROR, f"no process {shown(error.target)}") from error
    except CallTimeout as error:
        raise Failure(REMOTE_ERROR, str(error)) from error
    except CallExit as error:
        raise Failure(REMOTE_ERROR, f"the process exited: {shown(error.reason)}") from error
    except RemoteError as error:
        raise Failure(REMOTE_ERROR, f"error: {shown(error.reason)}{_where(error.stack)}") from error
    except RemoteExit as error:
        raise Failure(REMOTE_ERROR, f"exit: {shown(error.reason)}") from error
    except RemoteThrow as error:
        raise Failure(REMOTE_ERROR, f"throw: {shown(error.value)}") from error
    except CallError as error:
        raise Failure(REMOTE_ERROR, str(error)) from error
    except NodeError as error:
        raise Failure(CANNOT_CONNECT, str(error)) from error


def shown(term: Any) -> str:
    """A term in Erlang syntax, or what Python says of it when it is not one."""
    try:
        return format(term, printable="unicode")
    except (TypeError, ValueError):
        return repr(term)


def _no_connection(error: NoConnection) -> str:
    cause: BaseException | None = error.__cause__
    text = f"can't connect to {error.node}: {error.reason}"
    if cause is not None and str(cause) not in text:
        text += f" ({cause})"
    return text + _hint(cause)


def _where(stack: Any) -> str:
    """The innermost function of an Erlang stack trace, where there is one: {Module, Function, Arity or Args, Info}."""
    match stack:
        case [(Atom() as module, Atom() as function, int() | list() as arity, list()), *_]:
            count = len(arity) if isinstance(arity, list) else arity
            return f" in {format(module)}:{format(function)}/{count}"
    return ""


def _hint(cause: BaseException | None) -> str:
    if isinstance(cause, HandshakeRefused) and cause.reason == "cookie":
        return "\nboth nodes need the same cookie: see --cookie-file, STRAWBRIDGE_COOKIE and ~/.erlang.cookie"
    return ""
