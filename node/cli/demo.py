"""``strawbridge demo``: a Python node and a real BEAM talk to each other, each step shown as it happens.

A step counts only when the value that really arrived is the expected one, within a deadline. What the BEAM saw comes
back as lines of its stdout; what Python saw is compared here. The first step that fails ends the demo with its name.
An act is a function in ACTS; each has the whole stage and cleans up what it adds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import math
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from .. import Atom, GenServer, Node, NodeError, Process
from ..net.epmd_server import EpmdServer
from ..syntax import TermSyntaxError, parse
from .beam import Beam, find_erl, start_beam
from .failure import NEGATIVE, OK, Failure, shown
from .signals import stop_signals

__all__ = ["ACTS", "Stage", "demo"]

STEP_TIME = 30.0  # seconds for one step: the start of a BEAM takes some on a busy machine

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


class Stage:
    """What an act plays on: the Python node, the BEAM, and the list of steps already shown."""

    def __init__(self, node: Node, beam: Beam, beam_name: str) -> None:
        self.node = node
        self.beam = beam
        self.beam_name = beam_name
        self.steps = 0

    async def expect(self, what: str, answer: Awaitable[Any], expected: Any) -> Any:
        """Shows one step. The answer must come in time and be `expected` (a value, or a predicate)."""
        value = await self.answer(what, answer)
        if not (expected(value) if callable(expected) else _same(value, expected)):
            raise self.failure(what, f"got {shown(value)}")
        self.steps += 1
        print(f"  {self.steps:2}. {what} -> {_shortened(shown(value))}", flush=True)
        return value

    async def answer(self, what: str, answer: Awaitable[Any]) -> Any:
        """The answer, in time, or the step has failed."""
        try:
            return await asyncio.wait_for(answer, STEP_TIME)
        except TimeoutError:
            raise self.failure(what, f"nothing came within {STEP_TIME:g} s") from None
        except NodeError as error:
            raise self.failure(what, f"{type(error).__name__}: {error}") from error

    async def said(self, step: str) -> Any:
        """The value of the next line of the BEAM, which has to be about that step."""
        line = await self.beam.line()
        head, _, text = line.partition(" ")
        if head != step:
            raise self.failure(step, f"the BEAM said {line!r}" if line else "the BEAM has ended")
        try:
            return parse(text)
        except TermSyntaxError as error:
            raise self.failure(step, str(error)) from error

    def failure(self, step: str, reason: str) -> Failure:
        text = f"demo: step {self.steps + 1} failed: {step}: {reason}"
        if self.beam.complaints:
            text += f"\nthe BEAM's stderr:\n{self.beam.complaints.rstrip()}"
        return Failure(NEGATIVE, text)


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


# -- acts


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


ACTS: list[Callable[[Stage], Awaitable[None]]] = [distribution]


def demo(arguments: argparse.Namespace) -> int:
    """0 only if every step of every act was really observed."""
    erl, environment, source = find_erl(arguments.erl)
    logging.basicConfig(level=logging.CRITICAL)  # one handler crashes on purpose; its stack would look like a fault
    started = time.monotonic()
    steps = asyncio.run(_until_signal(_play(erl, environment, source)))
    print(f"all {steps} steps were observed, in {time.monotonic() - started:.1f} s")
    return OK


async def _until_signal(play: Coroutine[Any, Any, int]) -> int:
    """SIGINT and SIGTERM end the play in order: no BEAM is left behind."""
    with stop_signals() as stopped:
        playing = asyncio.create_task(play)
        signal = asyncio.create_task(stopped.wait())
        await asyncio.wait((playing, signal), return_when=asyncio.FIRST_COMPLETED)
        signal.cancel()
        if not playing.done():
            playing.cancel()
            await asyncio.wait((playing,))
            raise Failure(NEGATIVE, "demo: stopped by a signal")
        return playing.result()


async def _play(erl: str, environment: dict[str, str], source: str) -> int:
    steps = 0
    for act in ACTS:
        async with _stage(erl, environment) as stage:
            release = await stage.answer("start of the BEAM", stage.said("otp"))
            print((act.__doc__ or "").strip())
            print(f"the BEAM: Erlang/OTP {''.join(map(chr, release))} ({source}), {stage.beam_name}")
            print(f"Python:   {sys.version.split()[0]}, {stage.node.name}", flush=True)
            await act(stage)
            steps += stage.steps
    return steps


@contextlib.asynccontextmanager
async def _stage(erl: str, environment: dict[str, str]) -> AsyncIterator[Stage]:
    """An epmd, a Python node with its handlers, and a BEAM, all on loopback and gone at the end."""
    tag = secrets.token_hex(3)
    py, beam_name, cookie = f"py-{tag}@127.0.0.1", f"beam-{tag}@127.0.0.1", secrets.token_hex(16)
    epmd = EpmdServer()
    port = await epmd.start(port=0)
    try:
        async with Node(py, cookie=cookie, epmd_port=port) as node:
            node.register("echo", echo)
            node.register("calc", Calc)
            node.register("fragile", fragile)
            node.export("math", "sqrt", math.sqrt)
            program = f"Py = '{py}', {PROGRAM}"
            async with start_beam(erl, environment, beam_name, cookie, port, program) as beam:
                yield Stage(node, beam, beam_name)
    finally:
        await epmd.close()


def _add(stage: Stage, number: int) -> Awaitable[Any]:
    return stage.node.call(("counter", stage.beam_name), (Atom("add"), number), timeout=STEP_TIME)


def _same(value: Any, expected: Any) -> bool:
    """1, 1.0 and True are three different terms."""
    return type(value) is type(expected) and value == expected


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


def _shortened(text: str, limit: int = 100) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
