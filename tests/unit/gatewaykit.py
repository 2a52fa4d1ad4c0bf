"""What tests of pids across straws share: names, a server, the tables of a domain."""

from __future__ import annotations

from typing import Any

from node import Atom, GenServer, Node, NoReply
from node.etf import Crossing, encode
from node.strawman.formats import Dialect
from node.strawman.tables import Counted

OK, ERROR, ENVELOPE, PROXY = Atom("ok"), Atom("error"), Atom("envelope"), Atom("proxy")
BUDDY, DOWN, PROCESS, NOCONNECTION = Atom("buddy"), Atom("DOWN"), Atom("process"), Atom("noconnection")
CALL, ALIAS, EXIT = Atom("$gen_call"), Atom("alias"), Atom("EXIT")
EMPTY = Counted(0, 0, 0, 0)
DIALECTS: list[Dialect] = ["otp", "ling"]


def crossing(node: Node, domid: int) -> Crossing:
    """The codec's tables of a domain."""
    process = node.strawman.process(domid)
    assert process is not None
    return process.gateway.tables.crossing


class Double(GenServer):
    """Answers twice what it is asked; keeps who asked for what it is to answer later; tells nobody of `self`."""

    def init(self, *args: Any, **kwargs: Any) -> None:
        self.callers: list[Any] = []

    async def handle_call(self, request: Any, caller: Any) -> Any:
        match request:
            case Atom("later"):
                self.callers.append(caller)
                return NoReply()
            case Atom("answer"):
                for waiting in self.callers:
                    self.reply(waiting, Atom("late"))
                return len(self.callers)
            case Atom("self"):
                return self.pid
            case Atom("map"):
                return {1: 2}
        return request * 2

    async def handle_info(self, message: Any) -> None:
        pass


def frame(addr: Any, message: Any) -> bytes:
    return encode((ENVELOPE, addr, message), dialect="ling", ling_maps=True)
