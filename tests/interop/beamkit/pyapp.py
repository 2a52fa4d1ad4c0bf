"""The application of the Python node under test; erl/ref_node.erl and erl/ref/py.erl are the same for a BEAM.

Also usable from the command line: strawbridge run tests/interop/beamkit/pyapp.py:app
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from node import Atom, GenServer, Node, NoReply, Process, Reply, Stop

OK = Atom("ok")


async def echo(me: Process) -> None:
    """{Sender, Ref, Payload} is answered with {Ref, Payload}."""
    while True:
        match await me.receive():
            case (sender, ref, payload):
                me.send(sender, (ref, payload))


class Calc(GenServer):
    """calc of ref_node.erl."""

    def init(self, *args: Any) -> None:
        self.notes: list[Any] = []

    async def handle_call(self, request: Any, caller: Any) -> Any:
        match request:
            case (Atom("add"), a, b):
                return a + b
            case (Atom("echo"), term):
                return Reply(term)
            case Atom("notes"):
                notes, self.notes = self.notes, []
                return notes
            case (Atom("sleep"), ms, value):
                await asyncio.sleep(ms / 1000)
                return value
            case (Atom("later"), ms, value):
                asyncio.get_running_loop().call_later(ms / 1000, self.reply, caller, value)
                return NoReply()
            case Atom("never"):
                return NoReply()
            case (Atom("stop"), reason, reply):
                return Stop(reason, reply=reply)
            case (Atom("stop"), reason):
                return Stop(reason)
            case (Atom("raise"), text):
                raise ValueError(text.decode())
            case Atom("pid"):
                return self.pid
            # Anything else falls through to None, which must not be an answer.

    async def handle_cast(self, note: Any) -> None:
        self.notes.append((Atom("cast"), note))

    async def handle_info(self, note: Any) -> None:
        self.notes.append((Atom("info"), note))


async def puppets(me: Process) -> None:
    """Makes puppets: {new, Owner, Ref} is answered with {Ref, Pid}."""
    while True:
        match await me.receive():
            case (Atom("new"), owner, ref):
                me.send(owner, (ref, me.node.spawn(puppet, owner).pid))


async def puppet(me: Process, owner: Any) -> None:
    """Does what {cmd, From, Ref, Op} says and answers {Ref, Result}; passes everything else to its owner."""
    while True:
        match await me.receive():
            case (Atom("cmd"), sender, ref, op):
                if op is Atom("finish"):
                    return
                me.send(sender, (ref, puppet_do(me, op)))
            case message:
                me.send(owner, (Atom("puppet"), me.pid, message))


def puppet_do(me: Process, op: Any) -> Any:
    match op:
        case Atom("ping"):
            pass
        case (Atom("link"), pid):
            me.link(pid)
        case (Atom("unlink"), pid):
            me.unlink(pid)
        case (Atom("monitor"), target):
            return me.monitor(target)
        case (Atom("demonitor"), ref):
            me.demonitor(ref)
        case (Atom("trap_exit"), flag):
            me.trap_exit = flag
        case (Atom("exit_signal"), pid, reason):
            me.send_exit(pid, reason)
        case (Atom("send"), to, message):
            me.send(to, message)
        case (Atom("register"), name):
            me.register(name)
        case (Atom("raise"), text):
            raise ValueError(text.decode())
        case (Atom("exit"), reason):
            me.exit(reason)
        case _:
            raise ValueError(op)
    return OK


_record: list[Any] = []


def record(term: Any) -> Atom:
    _record.insert(0, term)
    return OK


def recorded() -> list[Any]:
    return list(_record)


def sleep(ms: int, value: Any) -> Any:
    """Blocks its thread, as users' functions do."""
    time.sleep(ms / 1000)
    return value


def fail(text: bytes | list[int]) -> None:
    raise ValueError(bytes(text).decode())


async def ident(term: Any) -> Any:
    return term


def app(node: Node) -> None:
    """Everything that a test's BEAM may reach."""
    _record.clear()
    node.register("echo", echo)
    node.register("calc", Calc, restart="permanent")
    node.register("puppets", puppets)
    node.export("math", "sqrt", math.sqrt)
    node.export("py", "add", lambda a, b: a + b)
    node.export("py", "ident", ident)
    node.export("py", "nothing", lambda: None)
    node.export("py", "raise", fail)
    node.export("py", "sleep", sleep)
    node.export("py", "record", record)
    node.export("py", "recorded", recorded)
