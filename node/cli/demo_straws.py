"""Act 2 of ``strawbridge demo``: envelopes through shared memory, between two domains, to a BEAM behind one of them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator
from typing import Any

from .. import Atom, Node, Pid, Process
from .stage import Act, Stage

__all__ = ["ACT"]

PROGRAM = """
Say = fun(Step, Value) -> io:format("~s ~0tp~n", [Step, Value]) end,
Say(otp, erlang:system_info(otp_release)),
pong = net_adm:ping(Py),
Guard = spawn(fun() -> erlang:monitor_node(Py, true), receive {nodedown, Py} -> halt(1) end end),
register(adder, self()),
Say(serving, registered),
(fun Serve() ->
    receive
        {straw, DomId, {add, A, B, Name}} ->
            Say(envelope, {DomId, {add, A, B, Name}}),
            {strawman, Py} ! {envelope, {DomId, Name}, {sum, A + B, node()}},
            Serve();
        {open, DomId} -> Say(open, gen_server:call({strawman, Py}, {open, DomId})), Serve();
        {watch, DomId} ->
            {ok, Straw} = gen_server:call({strawman, Py}, {split, DomId}),
            erlang:monitor(process, Straw), Say(watching, is_pid(Straw)), Serve();
        {'DOWN', _, process, _, Reason} -> Say(down, Reason), Serve();
        stop -> exit(Guard, kill), init:stop()
    after 120000 -> halt(1)
    end
end)().
"""

BIG = 1 << 20  # bytes of the large message: many times LING's ring


@contextlib.asynccontextmanager
async def around() -> AsyncIterator[dict[str, Any]]:
    """The node of the stage is a domain, and the host service too."""
    with tempfile.TemporaryDirectory(prefix="strawbridge-") as rundir:
        yield {"pores": rundir, "embed_host": True}


def prepare(node: Node) -> None:
    pass


async def straws(stage: Stage) -> None:
    """Act 2: straws, shared memory between two domains of this machine; the BEAM is behind one of them."""
    far, beam, said = stage.node, stage.beam_name, stage.said
    adder = ("adder", beam)
    far.strawman.export("adder", to=adder, sender=True)
    # The other domain is a node that nothing but a straw can reach: no port, another cookie.
    near = Node(f"near-{secrets.token_hex(3)}@127.0.0.1", secrets.token_hex(16), listen=None, pores=far.strawman.host)
    notes: asyncio.Queue[Any] = asyncio.Queue()

    async def buddy(me: Process) -> None:
        while True:
            notes.put_nowait(await me.receive())

    near.register("buddy", buddy, straw=True)
    await stage.expect("BEAM: serves as adder", said("serving"), Atom("registered"))
    async with near:
        here, there = near.strawman.domid, far.strawman.domid
        print(f"  domain {here} is {near.name}; domain {there} is {far.name}", flush=True)
        await stage.expect(f"domain {here}: strawman.open({there})", near.strawman.open(there), _is_pid)
        far.send(adder, (Atom("open"), here))
        exists = (Atom("error"), Atom("exists"))
        await stage.expect(f"BEAM: gen_server:call({{strawman, Py}}, {{open, {here}}})", said("open"), exists)

        await far.strawman.send(here, "buddy", ("hello", 1))
        await stage.expect(f"domain {there} -> {here}, a Python handler: got", notes.get(), (b"hello", 1))
        await near.strawman.send(there, "adder", (Atom("add"), 2, 3, Atom("buddy")))
        asked = (here, (Atom("add"), 2, 3, Atom("buddy")))
        await stage.expect(f"domain {here} -> {there} -> BEAM: got", said("envelope"), asked)
        answer = (Atom("sum"), 5, Atom(beam))
        await stage.expect(f"BEAM -> domain {there} -> {here}: got", notes.get(), answer)
        await far.strawman.send(here, "buddy", secrets.token_bytes(BIG))
        await stage.expect(f"domain {there} -> {here}, a binary: bytes", _size(notes), BIG)

        await near.strawman.send(there, "rex", Atom("anything"))
        await stage.expect(f"domain {here} -> rex of {there}, not exported: refused", _unknown(far), 1)
        far.send(adder, (Atom("watch"), here))
        await stage.expect("BEAM: erlang:monitor(process, StrawPid)", said("watching"), True)
        await near.strawman.close(there)
        await stage.expect("BEAM: 'DOWN' when the straw was closed", said("down"), Atom("peer_closed"))
    far.send(adder, Atom("stop"))
    await stage.expect("BEAM: ended by itself, exit code", stage.beam.ended(), 0)


def _is_pid(value: Any) -> bool:
    return type(value) is Pid


async def _size(notes: asyncio.Queue[Any]) -> int:
    return len(await notes.get())


async def _unknown(node: Node) -> int:
    """How many envelopes had an unknown address, when there is one."""
    while True:
        if count := node.strawman.counts.unknown:
            return count
        await asyncio.sleep(0.01)


ACT = Act(straws, PROGRAM, prepare, around)
