"""The Python node of the LING tests, told what to do by rpc: app:send, app:next, app:call, app:export, ..."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from node import Atom, GenServer, Node, Process, StrawError

OK, ERROR = Atom("ok"), Atom("error")


class Server(GenServer):
    """ling_server.erl in Python."""

    def init(self, *args: Any, **kwargs: Any) -> None:
        self.late: list[Any] = []

    async def handle_call(self, request: Any, caller: Any) -> Any:
        match request:
            case (Atom("echo"), term):
                return term
            case Atom("whoami"):
                return self.pid
            case (Atom("ask"), to, question):
                return await self.process.call(to, question)
        return (ERROR, Atom("unknown_request"))


def app(node: Node) -> None:
    got: asyncio.Queue[Any] = asyncio.Queue()

    async def inbox(me: Process) -> None:
        while True:
            got.put_nowait(await me.receive())

    async def echo(me: Process) -> None:
        """{From, Msg}: From ! {self(), Msg}"""
        while True:
            match await me.receive():
                case (pid, message):
                    me.send(pid, (me.pid, message))

    async def send(domid: int, to: Any, message: Any) -> Any:
        try:
            await node.strawman.send(domid, to, message)
        except StrawError as error:
            return (ERROR, Atom(error.reason))
        except Exception as error:
            return (ERROR, repr(error).encode())
        return OK

    async def take() -> Any:
        async with asyncio.timeout(20):
            return await got.get()

    async def close(domid: int) -> bool:
        return await node.strawman.close(domid)

    def export(name: Atom, to: Any) -> Any:
        node.strawman.export(name, to=to)
        return OK

    node.register("inbox", inbox, straw=True)
    node.register("echo", echo, straw=True)
    node.register("server", Server, straw=True)

    async def call(domid: int, name: Atom, request: Any, times: int) -> Any:
        """gen_server:call to a name of another domain; the last answer."""
        proxy = await node.strawman.proxy(domid, name)
        for _ in range(times):
            answer = await node.call(proxy, request)
        return answer

    node.export("app", "send", send)
    node.export("app", "call", call)
    node.export("app", "tables", lambda domid: tuple(node.strawman.tables(domid)), inline=True)
    node.export("app", "next", take)
    node.export("app", "close", close)
    node.export("app", "export", export, inline=True)
    node.export("app", "counts", lambda: {Atom(k): v for k, v in dataclasses.asdict(node.strawman.counts).items()})
    node.export("app", "domid", lambda: node.strawman.domid, inline=True)
    node.export("app", "domains", lambda: node.strawman.domains, inline=True)
