"""A domain with one server, to be called through a gateway and killed."""

from __future__ import annotations

from typing import Any

from node import Atom, GenServer, Node, NoReply


class Server(GenServer):
    async def handle_call(self, request: Any, caller: Any) -> Any:
        if request is Atom("self"):
            return self.pid
        return NoReply()


def app(node: Node) -> None:
    node.register("server", Server, straw=True)
