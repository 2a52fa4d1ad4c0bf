"""What tests of strawman on BEAMs share. The BEAMs have strawman_probe.erl; the fixtures `domain` and `python` of
conftest.py make domains on a BEAM and in Python.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from node import Atom, GenServer, Node, Process, etf

from .beam import Beam

__all__ = ["BIG", "ENVELOPE", "OTPS", "PythonDomain", "counted", "envelope", "next_of"]

OTPS = pytest.mark.parametrize("otp", ["otp25", "otp28"])
ENVELOPE = Atom("envelope")
BIG = 1 << 20


class Server(GenServer):
    """strawman_probe's in Python."""

    async def handle_call(self, request: Any, caller: Any) -> Any:
        match request:
            case (Atom("double"), int(number)):
                return 2 * number
            case Atom("pid"):
                return self.pid
            case (Atom("ask"), to, question):
                return await self.process.call(to, question)


class PythonDomain:
    """A Python node with straws, in no cluster, and what has come to its `inbox`. It talks to the domain `peer`."""

    def __init__(self, node: Node, peer: int) -> None:
        self.node, self.peer = node, peer
        self._got: asyncio.Queue[Any] = asyncio.Queue()
        node.register("inbox", self._inbox, straw=True)
        node.register("double", Server, straw=True)

    async def _inbox(self, me: Process) -> None:
        while True:
            self._got.put_nowait(await me.receive())

    async def next(self) -> Any:
        return await self._got.get()

    async def send(self, message: Any, to: Any = "inbox") -> None:
        await self.node.strawman.send(self.peer, to, message)

    async def strawman(self, request: Any) -> Any:
        return await self.node.call("strawman", request, timeout=30)


async def next_of(beam: Beam, name: str = "inbox") -> Any:
    return await beam.ask_term(f"strawman_probe:next({name})")


async def counted(beam: Beam, name: str, least: int) -> None:
    await beam.ask_until(f"maps:get({name}, strawman:counts()) >= {least}", "true")


def envelope(to: Any, message: Any, **options: Any) -> bytes:
    return etf.encode((ENVELOPE, Atom(to) if isinstance(to, str) else to, message), **options)
