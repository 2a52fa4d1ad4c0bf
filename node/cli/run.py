"""``strawbridge run APP``: a node with an app on it, until a signal or until it gives up."""

from __future__ import annotations

import argparse
import asyncio
import inspect
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Any

from .. import Node, NodeError, TooManyRestarts
from .failure import CANNOT_CONNECT, NEGATIVE, OK, USAGE, Failure, as_failure
from .loading import load
from .naming import default_name, long_name, short_name, unreachable
from .options import make_node
from .signals import stop_signals

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """0 after a signal; the app's failure, or too many restarts of its processes, is 1."""
    if arguments.visible:
        raise Failure(
            USAGE,
            "--visible is not available yet: OTP's global expects a visible node to take part in its protocol, "
            "and names would be lost if it does not. Hidden nodes can do everything else",
        )
    app = load(arguments.app)
    if arguments.name:
        name = long_name(arguments.name)
    elif arguments.sname:
        name = short_name(arguments.sname)
    else:
        name = default_name(arguments.app)
    logging.basicConfig(level=arguments.log.upper(), format="%(levelname)s %(name)s: %(message)s")
    with as_failure():
        try:
            node = make_node(
                name,
                arguments,
                listen=arguments.listen,
                none=arguments.none,
                pores=arguments.host or arguments.domid is not None or arguments.embed_host,
                domid=arguments.domid or 0,
                embed_host=arguments.embed_host,
            )
            return asyncio.run(_run(app, node, arguments.listen))
        except TooManyRestarts as error:
            raise Failure(NEGATIVE, f"{name} gave up: {error}") from error


async def _run(app: Callable[..., Any], node: Node, listen: str) -> int:
    with stop_signals() as stopped:
        over = asyncio.create_task(_live(app, node, listen))
        signal = asyncio.create_task(stopped.wait())
        try:
            await asyncio.wait((over, signal), return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                return await over
            over.cancel()  # it may be in the app, which may clean up, and may fail at that
            try:
                return await over
            except asyncio.CancelledError:
                return OK
        finally:
            signal.cancel()
            await node.close()


async def _live(app: Callable[..., Any], node: Node, listen: str) -> int:
    """Starts the node with the app on it, then waits until the node closes itself, or raises TooManyRestarts."""
    try:
        await node.start(lambda node: _start_app(app, node))
    except OSError as error:
        raise Failure(CANNOT_CONNECT, f"can't listen on {listen}: {error.strerror or error}") from error
    if node.running:
        warning = unreachable(node.name, listen)
        if warning:
            print(f"strawbridge: warning: {warning}", file=sys.stderr)
        print(f"{node.name} is up", flush=True)
    await node.wait_closed()
    return OK


async def _start_app(app: Callable[..., Any], node: Node) -> None:
    try:
        result = app(node)
        if inspect.isawaitable(result):
            await result
    except NodeError:
        raise
    except Exception as error:
        # The author of the app needs the stack from the app on.
        stack = traceback.extract_tb(error.__traceback__)
        text = "".join(traceback.format_list(stack[1:]) + traceback.format_exception_only(error)).rstrip()
        raise Failure(NEGATIVE, f"the app failed:\n{text}") from error
