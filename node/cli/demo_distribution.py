"""Act 1 of ``strawbridge demo``: Erlang distribution."""

from __future__ import annotations

import math
from collections.abc import Awaitable
from typing import Any

from .. import Atom, GenServer, Node, Process
from .failure import shown
from .stage import STEP_TIME, Act, Stage

__all__ = ["ACT"]

PROGRAM = """
Say = fun(Step, Value) -> io:format("~s ~0tp~n", [Step, Value]) end,
Try = fun(Step, Fun) -> Say(Step, try Fun() catch Class:Reason -> {Class, Reason} end) end,
Say(otp, erlang:system_info(otp_release)),
Try(ping, fun() -> net_adm:ping(Py) end),
Try(call, fun() -> gen_server:call({calc, Py}, {add, 2, 3}) end),
Try(echo, fun() ->
    {echo, Py} ! {self(), 1, <<"hello">>},
    receive {1, Payload} -> Payload after 5000 -> timeout end
end),
Try(rpc, fun() -> rpc:call(Py, math, sqrt, [2.0]) end),
Try(private, fun() -> rpc:call(Py, os, system, ["true"]) end),
Guard = spawn(fun() -> erlang:monitor_node(Py, true), receive {nodedown, Py} -> halt(1) end end),
register(counter, self()),
Say(serving, registered),
(fun Serve(N) ->
    receive
        {'$gen_call', From, {add, K}} -> gen_server:reply(From, N + K), Serve(N + K);
        {watch, Name} -> erlang:monitor(process, {Name, Py}), Say(watching, Name), Serve(N);
        {'DOWN', _, process, Who, Reason} -> Say(down, {Who, Reason}), Serve(N);
        stop -> exit(Guard, kill), init:stop()
    after 120000 -> halt(1)
    end
end)(0).
"""


# -- the Python side, as any app would write it


async def echo(me: Process) -> None:
    while True:
        sender, ref, payload = await me.receive()
        me.send(sender, (ref, payload))


class Calc(GenServer):
    async def handle_call(self, request: Any, caller: Any) -> Any:
        match request:
            case tuple((Atom("add"), int(a), int(b))):
                return a + b
            case _:
                raise ValueError(request)


async def fragile(me: Process) -> None:
    raise ValueError(f"fragile can't stand {shown(await me.receive())}")


def prepare(node: Node) -> None:
    node.register("echo", echo)
    node.register("calc", Calc)
    node.register("fragile", fragile)
    node.export("math", "sqrt", math.sqrt)


# -- the act


async def distribution(stage: Stage) -> None:
    """Act 1: Erlang distribution over TCP, both ways."""
    node, beam, said = stage.node, stage.beam_name, stage.said
    py = node.name
    await stage.expect(f"BEAM: net_adm:ping('{py}')", said("ping"), Atom("pong"))
    await stage.expect(f"BEAM: gen_server:call({{calc, '{py}'}}, {{add, 2, 3}})", said("call"), 5)
    await stage.expect(f"BEAM: {{echo, '{py}'}} ! {{self(), 1, <<\"hello\">>}}, receive", said("echo"), b"hello")
    await stage.expect(f"BEAM: rpc:call('{py}', math, sqrt, [2.0])", said("rpc"), math.sqrt(2.0))
    await stage.expect(f"BEAM: rpc:call('{py}', os, system, ...), not exported", said("private"), _is_undef)
    await stage.expect("BEAM: serves as counter", said("serving"), Atom("registered"))

    await stage.expect(f'Python: node.ping("{beam}")', node.ping(beam), True)
    await stage.expect('Python: node.call(("counter", beam), ("add", 5))', _add(stage, 5), 5)
    await stage.expect('Python: node.call(("counter", beam), ("add", 7))', _add(stage, 7), 12)
    asked = node.rpc(beam, "erlang", "node", [])
    await stage.expect('Python: node.rpc(beam, "erlang", "node", [])', asked, Atom(beam))

    node.send(("counter", beam), (Atom("watch"), Atom("fragile")))
    await stage.expect("BEAM: erlang:monitor(process, {fragile, Python})", said("watching"), Atom("fragile"))
    node.send("fragile", Atom("stones"))
    await stage.expect("BEAM: 'DOWN' when the Python handler raised", said("down"), _is_crash)

    node.send(("counter", beam), Atom("stop"))
    await stage.expect("BEAM: ended by itself, exit code", stage.beam.ended(), 0)


def _add(stage: Stage, number: int) -> Awaitable[Any]:
    return stage.node.call(("counter", stage.beam_name), (Atom("add"), number), timeout=STEP_TIME)


def _is_undef(value: Any) -> bool:
    """{badrpc, {'EXIT', {undef, Stack}}}"""
    match value:
        case (Atom("badrpc"), (Atom("EXIT"), (Atom("undef"), list()))):
            return True
    return False


def _is_crash(value: Any) -> bool:
    """{{fragile, Node}, {{python, 'ValueError', Text}, Stack}}"""
    match value:
        case ((Atom("fragile"), Atom()), ((Atom("python"), Atom("ValueError"), bytes(text)), list())):
            return b"stones" in text
    return False


ACT = Act(distribution, PROGRAM, prepare)
