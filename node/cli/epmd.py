"""``strawbridge names`` and ``strawbridge epmd``."""

from __future__ import annotations

import argparse
import asyncio

from ..net.epmd_client import EpmdClient, epmd_port
from ..net.epmd_server import EpmdServer
from ..syntax import format
from .failure import CANNOT_CONNECT, OK, Failure, as_failure
from .signals import stop_signals
from .watch import listed, watch

__all__ = ["epmd", "names"]


def names(arguments: argparse.Namespace) -> int:
    """Prints {Name, Port} for each node that the host's epmd knows."""
    if arguments.watch:
        return watch(arguments.host)
    with as_failure():
        found = asyncio.run(EpmdClient().names(arguments.host))
    for term in listed(found):
        print(format(term))
    return OK


def epmd(arguments: argparse.Namespace) -> int:
    """Serves until SIGINT or SIGTERM."""
    return asyncio.run(_serve(arguments.listen or "127.0.0.1", arguments.port))


async def _serve(address: str, port: int | None) -> int:
    server = EpmdServer()
    with stop_signals() as stopped, as_failure():
        try:
            port = await server.start(address, epmd_port() if port is None else port)
        except OSError as error:
            raise Failure(CANNOT_CONNECT, f"can't listen on {address}: {error.strerror or error}") from error
        try:
            print(f"epmd is up on {address} port {port}", flush=True)
            await stopped.wait()
        finally:
            await server.close()
    return OK
