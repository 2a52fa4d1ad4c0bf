"""``strawbridge names --watch``: the nodes of an epmd, looked up again each second.

On a terminal the list is drawn anew until q is pressed (that needs the package ``term``, of the extra ``cli``);
elsewhere each look-up is one line, a list, until SIGINT or SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from ..errors import EpmdError
from ..net.epmd_client import EpmdClient
from ..syntax import format
from .failure import OK, USAGE, Failure
from .signals import stop_signals

__all__ = ["PERIOD", "listed", "watch"]

#: Seconds between two look-ups.
PERIOD = 1.0

_CLEAR = "\x1b[H\x1b[2J"


def listed(found: list[tuple[str, int]]) -> list[Any]:
    """The terms to print: {Name, Port}, by name."""
    return [([ord(c) for c in name], port) for name, port in sorted(found)]


def watch(host: str | None) -> int:
    """Until q or a signal."""
    screen = sys.stdin.isatty() and sys.stdout.isatty()
    with _keys(screen):
        return asyncio.run(_watch(host, screen))


async def _watch(host: str | None, screen: bool) -> int:
    client = EpmdClient()
    loop = asyncio.get_running_loop()
    with stop_signals() as stopped:
        if screen:
            loop.add_reader(sys.stdin.fileno(), _key, stopped)
        try:
            while not stopped.is_set():
                try:
                    terms = listed(await client.names(host))
                    _show([format(term) for term in terms] if screen else [format(terms)], screen)
                except EpmdError as error:  # it may come back
                    print(f"strawbridge: {error}", file=sys.stderr, flush=True)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopped.wait(), PERIOD)
        finally:
            if screen:
                loop.remove_reader(sys.stdin.fileno())
    return OK


def _show(lines: list[str], screen: bool) -> None:
    text = "\n".join(lines)
    print(f"{_CLEAR}{text}\n\nq ends" if screen else text, flush=True)


def _key(stopped: asyncio.Event) -> None:
    if b"q" in (typed := os.read(sys.stdin.fileno(), 64)).lower() or not typed:
        stopped.set()


@contextlib.contextmanager
def _keys(screen: bool) -> Iterator[None]:
    """Keys come one by one and are not shown. The terminal is as before afterwards, whatever happens."""
    if not screen:
        yield
        return
    try:
        import term  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise Failure(USAGE, "--watch on a terminal needs the extra `cli`: pip install 'strawbridge[cli]'") from None
    with term.cbreakmode(sys.stdin.fileno()):
        yield
