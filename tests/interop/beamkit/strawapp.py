"""A node with straws, told what to do by rpc: app:send, app:next, app:call, app:close, app:export, app:counts, ..."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from node import Atom, GenServer, Node, Process, StrawError

OK, ERROR = Atom("ok"), Atom("error")
#: Seconds until what should come at once is taken not to come.
LONG = 30


class Server(GenServer):
    """ling_server.erl in Python."""

    async def handle_call(self, request: Any, caller: Any) -> Any:
        match request:
            case (Atom("echo"), term):
                return term
            case Atom("whoami"):
                return self.pid
            case (Atom("ask"), to, question):
                return await self.process.call(to, question)
        return (ERROR, Atom("unknown_request"))


async def echo(me: Process) -> None:
    """{From, Msg}: From ! {self(), Msg}"""
    while True:
        match await me.receive():
            case (pid, message):
                me.send(pid, (me.pid, message))


def app(node: Node) -> None:
    strawman = node.strawman
    got: asyncio.Queue[Any] = asyncio.Queue()

    async def inbox(me: Process) -> None:
        while True:
            got.put_nowait(await me.receive())

    async def send(domid: int, to: Any, message: Any) -> Any:
        try:
            await strawman.send(domid, to, message)
        except StrawError as error:
            return (ERROR, Atom(error.reason))
        except Exception as error:
            return (ERROR, repr(error).encode())
        return OK

    async def take() -> Any:
        async with asyncio.timeout(LONG):
            return await got.get()

    async def call(domid: int, name: Atom, request: Any, times: int) -> Any:
        """gen_server:call to a name of another domain; the last answer."""
        proxy = await strawman.proxy(domid, name)
        for _ in range(times):
            answer = await node.call(proxy, request)
        return answer

    async def close(domid: int) -> bool:
        return await strawman.close(domid)

    def export(name: Atom, to: Any, domains: Any = None, sender: bool = False) -> Any:
        strawman.export(name, to=to, domains=domains if isinstance(domains, list) else None, sender=sender)
        return OK

    node.register("inbox", inbox, straw=True)
    node.register("private", inbox)
    node.register("echo", echo, straw=True)
    node.register("server", Server, straw=True)
    node.export("app", "send", send)
    node.export("app", "next", take)
    node.export("app", "call", call)
    node.export("app", "close", close)
    node.export("app", "export", export, inline=True)
    node.export("app", "counts", lambda: {Atom(k): v for k, v in dataclasses.asdict(strawman.counts).items()})
    node.export("app", "tables", lambda domid: tuple(strawman.tables(domid)), inline=True)
    node.export("app", "domid", lambda: strawman.domid, inline=True)
    node.export("app", "domains", lambda: strawman.domains, inline=True)
