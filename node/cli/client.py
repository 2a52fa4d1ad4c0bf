"""``strawbridge ping``, ``call``, ``send`` and ``rpc``: a node of our own for the time of one question."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from .. import Atom, HandshakeRefused, NoConnection, Node
from .failure import CANNOT_CONNECT, NEGATIVE, OK, USAGE, Failure, as_failure, shown
from .naming import client_name
from .options import atom, make_node, term

__all__ = ["call", "ping", "rpc", "send"]


def ping(arguments: argparse.Namespace) -> int:
    """pong, or pang with the reason on stderr."""

    async def question(node: Node) -> bool:
        try:
            async with asyncio.timeout(arguments.timeout):
                await node.connect(arguments.node)  # says why not; ping() does not
        except TimeoutError:
            raise NoConnection(arguments.node, f"no connection within {arguments.timeout:g} s") from None
        return await node.ping(arguments.node, arguments.timeout)

    try:
        if not _ask(arguments, question):
            raise Failure(NEGATIVE, f"{arguments.node} is connected, but does not answer")
    except Failure as failure:
        if failure.code == USAGE:
            raise
        print("pang", flush=True)
        raise Failure(NEGATIVE, str(failure)) from failure
    print("pong")
    return OK


def call(arguments: argparse.Namespace) -> int:
    """The reply of a gen_server."""
    request = term(arguments.term)
    target = (atom(arguments.name), atom(arguments.node))
    _print(_ask(arguments, lambda node: node.call(target, request, arguments.timeout)))
    return OK


def send(arguments: argparse.Namespace) -> int:
    """ok when the node has taken the message; whether a process has that name nobody says, as in Erlang."""
    message = term(arguments.term)
    target = (atom(arguments.name), atom(arguments.node))

    async def deliver(node: Node) -> Any:
        await node.deliver(target, message)
        # What was sent before on this connection has arrived when this is answered.
        if not await node.ping(arguments.node, arguments.timeout):
            raise Failure(CANNOT_CONNECT, f"the connection to {arguments.node} ended before the message was taken")
        return Atom("ok")

    _print(_ask(arguments, deliver))
    return OK


def rpc(arguments: argparse.Namespace) -> int:
    """The value of a function called on the node."""
    values = [term(text) for text in arguments.terms]
    module, function = atom(arguments.module), atom(arguments.function)
    _print(_ask(arguments, lambda node: node.rpc(arguments.node, module, function, values, arguments.timeout)))
    return OK


def _ask(arguments: argparse.Namespace, question: Callable[[Node], Awaitable[Any]]) -> Any:
    """The answer to the question, put by a temporary node that nobody else can connect to."""
    logging.basicConfig(level=logging.CRITICAL)  # what goes wrong ends the command, with one line of its own
    with as_failure():
        return asyncio.run(_asked(arguments, question))


async def _asked(arguments: argparse.Namespace, question: Callable[[Node], Awaitable[Any]]) -> Any:
    """As a node that the other side names (OTP 23 and newer do), else by a name that nobody else has."""
    temporary = client_name(arguments.node)
    node = make_node(temporary.partition("@")[2], arguments, listen=None, named_by=arguments.node)
    try:
        await node.start()
    except NoConnection as error:
        if not isinstance(error.__cause__, HandshakeRefused) or error.__cause__.reason == "cookie":
            raise
        node = make_node(temporary, arguments, listen=None, warn=False)
        await node.start()
    try:
        return await question(node)
    finally:
        await node.close()


def _print(term: Any) -> None:
    print(shown(term))
