"""``strawbridge straw open``, ``send`` and ``listen``: a domain of our own, for the time of one command.

A node that runs has straws of its own: ``strawbridge call strawman py@127.0.0.1 '{open, 5}'`` asks it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from .. import Node, Process, StrawError
from ..terms import Atom
from .failure import CANNOT_CONNECT, NEGATIVE, OK, USAGE, Failure, as_failure, shown
from .options import atom, term
from .signals import stop_signals

__all__ = ["listen", "open_straw", "send"]


def open_straw(arguments: argparse.Namespace) -> int:
    """ok, or {error, Reason} and exit code 1."""

    async def work(node: Node) -> int:
        try:
            async with asyncio.timeout(arguments.timeout):
                await node.strawman.open(arguments.domid, format="json" if arguments.json else "erlang")
        except (StrawError, TimeoutError) as error:
            print(shown((Atom("error"), Atom(error.reason if isinstance(error, StrawError) else "timeout"))))
            return NEGATIVE
        print("ok")
        return OK

    return _as_domain(arguments, work)


def send(arguments: argparse.Namespace) -> int:
    """ok when the envelope is in shared memory; whether a process has that name nobody says, as in Erlang."""
    message = _json(arguments.term) if arguments.json else term(arguments.term)
    to = atom(arguments.name)

    async def work(node: Node) -> int:
        straws = node.strawman
        try:
            async with asyncio.timeout(arguments.timeout):
                await straws.open(arguments.domid, format="json" if arguments.json else "erlang")
                await straws.send(arguments.domid, to, message)
                await straws.flush(arguments.domid)
        except StrawError as error:
            raise Failure(CANNOT_CONNECT, str(error)) from error
        except TimeoutError:
            raise Failure(CANNOT_CONNECT, f"domain {arguments.domid}: no room within {arguments.timeout:g} s") from None
        print("ok")
        return OK

    return _as_domain(arguments, work)


def listen(arguments: argparse.Namespace) -> int:
    """{DomId, Msg} for each envelope, until a signal or the count."""
    name = atom(arguments.name)

    async def work(node: Node) -> int:
        left = arguments.count
        done = asyncio.Event()

        async def printer(me: Process) -> None:
            nonlocal left
            while left != 0:
                _, domid, message = await me.receive()
                print(shown((domid, message)), flush=True)
                left -= 1
            done.set()

        node.register(name, printer)
        node.strawman.export(name, sender=True)
        print(f"domain {node.strawman.domid} listens as {shown(name)}", flush=True)
        with stop_signals() as stopped:
            waits = [asyncio.create_task(event.wait()) for event in (stopped, done)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        return OK

    return _as_domain(arguments, work)


def _as_domain(arguments: argparse.Namespace, work: Callable[[Node], Awaitable[int]]) -> int:
    """Runs it on a node that is a domain and nothing else: it has no connections and nobody can connect to it."""
    logging.basicConfig(level=logging.CRITICAL)  # what goes wrong ends the command, with one line of its own
    name = f"strawbridge-{os.getpid()}@127.0.0.1"
    node = Node(name, secrets.token_hex(16), listen=None, pores=arguments.host or True, domid=arguments.from_domid)

    async def main() -> int:
        async with node:
            return await work(node)

    with as_failure():
        return asyncio.run(main())


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Failure(USAGE, f"not JSON: {error}") from error
