"""The Python peer of the distribution benchmark, as users would write it: `strawbridge run benchmarks/app.py:app`.

echo, calc and sink are coroutines and asynchronous servers; the names that end in _inline are the same as plain
functions that run on the loop (inline=True).
"""

from __future__ import annotations

from typing import Any

from node import Atom, GenServer, Node, Process

ADD, ECHO, COUNT = Atom("add"), Atom("echo"), Atom("count")


async def echo(me: Process) -> None:
    while True:
        match await me.receive():
            case (sender, ref, payload):
                me.send(sender, (ref, payload))


class Calc(GenServer):
    async def handle_call(self, request: Any, caller: Any) -> Any:
        match request:
            case (Atom("add"), a, b):
                return a + b
            case (Atom("echo"), term):
                return term


class Sink(GenServer):
    def init(self) -> None:
        self.casts = 0

    async def handle_cast(self, request: Any) -> None:
        self.casts += 1

    async def handle_call(self, request: Any, caller: Any) -> Any:
        casts, self.casts = self.casts, 0
        return casts


def calc_inline(request: Any) -> Any:
    if request[0] is ADD:
        return request[1] + request[2]
    return request[1]


class InlineSink:
    def __init__(self) -> None:
        self.casts = 0

    def __call__(self, request: Any) -> Any:
        if request is COUNT:
            casts, self.casts = self.casts, 0
            return casts
        self.casts += 1
        return None


def app(node: Node) -> None:
    def echo_inline(message: Any) -> None:
        sender, ref, payload = message
        node.send(sender, (ref, payload))

    node.register("echo", echo, straw=True)
    node.register("calc", Calc, straw=True)
    node.register("sink", Sink, straw=True)
    node.register("echo_inline", echo_inline, inline=True)
    node.register("calc_inline", calc_inline, inline=True)
    node.register("sink_inline", InlineSink(), inline=True)
