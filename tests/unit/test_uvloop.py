"""The same code on another event loop (uvloop, an optional extra)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop

from node import Atom, GenServer, Node, Process
from node.net.epmd import EpmdServer


class OnLoop(GenServer):
    async def handle_call(self, request: Any, caller: Any) -> Any:
        return request


class InThread(GenServer):
    def handle_call(self, request: Any, caller: Any) -> Any:
        return request


async def waits(me: Process) -> None:
    await me.receive()


async def talk() -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    epmd = EpmdServer()
    port = await epmd.start(port=0)
    async with Node("a@127.0.0.1", "s", epmd_port=port) as a, Node("b@127.0.0.1", "s", epmd_port=port) as b:
        b.register("onloop", OnLoop)
        b.register("inthread", InThread)
        b.export("m", "f", len)
        assert await a.ping(b.name)
        for name in ("onloop", "inthread"):
            assert await a.call((name, b.name), (Atom("x"), 1), 30.0) == (Atom("x"), 1)
        large = bytes(5 << 20)
        assert await a.call(("onloop", b.name), large, 30.0) == large
        assert await a.rpc(b.name, "m", "f", [b"abc"], 30.0) == 3
        assert await asyncio.to_thread(a.blocking.call, ("onloop", b.name), 4, 30.0) == 4
        async with a.process() as me:
            target = b.spawn(waits)
            me.link(target.pid)
            with pytest.raises(TimeoutError):
                await me.receive(timeout=0.001)
            assert await a.ping(b.name)  # the link has arrived
            target.end(Atom("done"))
            assert await me.receive(timeout=30) == (Atom("EXIT"), target.pid, Atom("done"))
            me.monitor(("onloop", b.name))
            b.disconnect(a.name)
            assert (await me.receive(timeout=30))[-1] in (Atom("noconnection"), Atom("normal"))
        assert await a.ping(b.name)
    await epmd.close()


@pytest.mark.parametrize("debug", [False, True])
def test_two_nodes_on_uvloop(debug: bool) -> None:
    uvloop.run(asyncio.wait_for(talk(), 60), debug=debug)
