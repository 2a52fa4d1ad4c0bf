"""Arguments that several commands share, and the way to a cookie.

Every value is read here or in the parser; a command sees checked values.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from .. import Atom, CookieError, Node
from ..syntax import TermSyntaxError, parse
from .failure import USAGE, Failure

__all__ = ["add_cookie", "add_timeout", "atom", "make_node", "seconds", "term"]


def add_cookie(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--cookie", metavar="C", help="the cookie itself (shows in the process list: for tests only)")
    group.add_argument("--cookie-file", metavar="FILE", help="a file with the cookie, readable by you alone")


def add_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout", metavar="S", type=seconds, default=5.0, help="seconds to wait for the answer (default: 5)"
    )


def seconds(text: str) -> float:
    """A positive number of seconds, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text}")
    return value


def make_node(
    name: str,
    arguments: argparse.Namespace,
    *,
    listen: str | None,
    none: str = "undefined",
    pores: bool | str | None = None,
    domid: int = 0,
    embed_host: bool = False,
    named_by: str | None = None,
    warn: bool = True,
) -> Node:
    """The node of a command. Failure(USAGE) for a name or a cookie that can't be one."""
    options = _cookie(arguments, warn)
    try:
        return Node(
            name,
            listen=listen,
            none=none,
            pores=pores,
            domid=domid,
            embed_host=embed_host,
            named_by=named_by,
            **options,
        )
    except (ValueError, CookieError) as error:
        raise Failure(USAGE, str(error)) from error


def _cookie(arguments: argparse.Namespace, warn: bool) -> dict[str, Any]:
    """Node's cookie arguments: --cookie or --cookie-file, else STRAWBRIDGE_COOKIE, else Node looks where OTP does."""
    if arguments.cookie is not None:
        if not arguments.cookie:
            raise Failure(USAGE, "the cookie is empty")
        if warn:
            print(
                "strawbridge: warning: others on this machine can read --cookie in the process list; "
                "use --cookie-file or STRAWBRIDGE_COOKIE",
                file=sys.stderr,
            )
        return {"cookie": arguments.cookie}
    if arguments.cookie_file is not None:
        return {"cookie_file": arguments.cookie_file}
    cookie = os.environ.get("STRAWBRIDGE_COOKIE")
    return {"cookie": cookie} if cookie else {}


def atom(name: str) -> Atom:
    """The name of a process, a module or a function, as it is (no quotes). Failure(USAGE) when it can't be one."""
    try:
        return Atom(name)
    except ValueError as error:
        raise Failure(USAGE, f"not an atom: {name!a}: {error}") from error


def term(text: str) -> Any:
    """A term from the command line. Failure(USAGE) with a picture of the place that is wrong."""
    try:
        return parse(text)
    except TermSyntaxError as error:
        raise Failure(USAGE, f"not an Erlang term: {error}") from error
