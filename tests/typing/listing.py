"""A user's program: the face that others write against. Type checkers read it; test_typing.py runs them.

What stands here must go on working: a change that makes this file fail breaks programs outside.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, assert_type

from node import Atom, GenServer, Node, NoReply, Pid, Process, Reply, Stop, StrawError


async def echo(me: Process) -> None:
    while True:
        sender, ref, payload = await me.receive()
        me.send(sender, (ref, payload))


class Calc(GenServer):
    def init(self) -> None:
        self.calls = 0

    async def handle_call(self, request: Any, caller: Any) -> Any:
        self.calls += 1
        match request:
            case tuple((Atom("add"), int(a), int(b))):
                return a + b
            case Atom("nothing"):
                return Reply(None)
            case Atom("later"):
                return NoReply
            case Atom("stop"):
                return Stop(Atom("normal"), reply=Atom("ok"))
            case _:
                raise ValueError(request)


def double(message: Any) -> Any:
    return (message, message)


def app(node: Node) -> None:
    node.register("echo", echo)
    node.register("calc", Calc, restart="permanent")
    node.register("double", double)
    node.export("math", "sqrt", math.sqrt)


async def selective(me: Process) -> None:
    message = await me.receive(match=lambda term: isinstance(term, Pid), timeout=1.5)
    me.send(("server", "a@127.0.0.1"), message)


async def straws(node: Node) -> None:
    node.register("buddy", echo, straw=True)
    node.strawman.export("front", to=("shop", "a@127.0.0.1"), domains=[5, 6], sender=True)
    try:
        assert_type(await node.strawman.open(5, format="json"), Pid)
    except StrawError as error:
        assert_type(error.reason, str)
    await node.strawman.send(5, "buddy", (Atom("hello"), 1))
    assert_type(node.strawman.domid, int)
    assert_type(node.strawman.split(5), Pid | None)
    assert_type(await node.strawman.close(5), bool)


async def main() -> None:
    async with Node("py@127.0.0.1", cookie="secret") as node:
        app(node)
        assert_type(await node.ping("a@127.0.0.1"), bool)
        total = await node.call(("server", "a@127.0.0.1"), (Atom("sum"), [1, 2, 3]), timeout=5.0)
        where = await node.rpc("a@127.0.0.1", "erlang", "node", [])
        assert_type(total, Any)
        assert_type(where, Any)


if __name__ == "__main__":
    asyncio.run(main())
