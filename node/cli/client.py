"""``strawbridge ping``, ``call``, ``send`` and ``rpc``: a node of our own for the time of one question."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ..errors import NoConnection
from ..node import Node
from ..terms import Atom
from .failure import CANNOT_CONNECT, NEGATIVE, OK, Failure, as_failure, shown
from .naming import client_name
from .options import cookie_arguments, term

__all__ = ["call", "ping", "rpc", "send"]


def ping(arguments: argparse.Namespace) -> int:
    """pong, or pang with the reason on stderr."""
    answered = False

    async def question(node: Node) -> None:
        nonlocal answered
        answered = await node.ping(arguments.node)

    try:
        _ask(arguments, question)
    except Failure as failure:
        if not isinstance(failure.__cause__, NoConnection):
            raise
        print("pang", flush=True)
        raise Failure(NEGATIVE, str(failure)) from failure
    print("pong" if answered else "pang")
    return OK if answered else NEGATIVE


def call(arguments: argparse.Namespace) -> int:
    """The reply of a gen_server."""
    request = term(arguments.term)
    target = (arguments.name, arguments.node)
    _ask(arguments, lambda node: node.call(target, request, timeout=arguments.timeout), prints=True)
    return OK


def send(arguments: argparse.Namespace) -> int:
    """ok when the node has taken the message; whether a process has that name nobody says, as in Erlang."""
    message = term(arguments.term)

    async def deliver(node: Node) -> Any:
        await node.deliver((arguments.name, arguments.node), message)
        # What was sent before on this connection has arrived when this is answered.
        if not await node.ping(arguments.node):
            raise Failure(CANNOT_CONNECT, f"the connection to {arguments.node} ended before the message was taken")
        return Atom("ok")

    _ask(arguments, deliver, prints=True)
    return OK


def rpc(arguments: argparse.Namespace) -> int:
    """The value of a function called on the node."""
    values = [term(text) for text in arguments.terms]
    module, function = arguments.module, arguments.function
    _ask(
        arguments,
        lambda node: node.rpc(arguments.node, module, function, values, timeout=arguments.timeout),
        prints=True,
    )
    return OK


def _ask(arguments: argparse.Namespace, question: Callable[[Node], Awaitable[Any]], *, prints: bool = False) -> None:
    """Runs the question on a temporary node; prints its answer as a term."""
    name = client_name(arguments.node)
    with as_failure():
        answer = asyncio.run(_asked(name, cookie_arguments(arguments), question))
    if prints:
        print(shown(answer))


async def _asked(name: str, options: dict[str, Any], question: Callable[[Node], Awaitable[Any]]) -> Any:
    async with Node(name, hidden=True, **options) as node:
        return await question(node)
