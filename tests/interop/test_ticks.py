"""Ticks, with a net_ticktime of 4 seconds: idle connections stay, stopped peers are noticed.

Slow by nature; nothing here measures time, it only waits until something has happened.
"""

from __future__ import annotations

import asyncio
import signal

import pytest
from beamkit.beam import Beam

from node import Atom, NodeDown

pytestmark = [pytest.mark.usefixtures("python_only"), pytest.mark.slow]
TICK_ARGS = ["-kernel", "net_ticktime", "4"]


@pytest.fixture
def ticking(runtime, start_beam) -> Beam:
    return start_beam(runtime, args=TICK_ARGS)


def test_idle_and_blocking(ticking: Beam, start_node) -> None:
    """Nothing is sent for more than two ticktimes, while a function blocks a worker thread: nobody goes down."""
    subject = start_node(net_ticktime=4)
    text = """
        monitor_node(Py, true),
        Slow = erpc:send_request(Py, py, sleep, [9000, slow]),
        receive {nodedown, Py} -> went_down after 9000 -> erpc:receive_response(Slow, 20000) end
        """
    assert ticking.eval(text, Py=subject.name) == "slow"
    assert ticking.eval("gen_server:call({calc, Py}, {add, 1, 2})", Py=subject.name) == "3"


def test_a_stopped_beam_is_noticed(ticking: Beam, start_node) -> None:
    subject = start_node(net_ticktime=4)

    async def test(node) -> None:
        downs: list[str] = []
        node.on_nodes(lambda up, name, reason: None if up else downs.append(reason))
        await ticking.ask("interop_peer:start()")
        call = asyncio.ensure_future(node.call(("server", ticking.name), Atom("never"), None))
        watch = node.monitor(("server", ticking.name))
        assert await node.ping(ticking.name)
        with ticking.stopped():
            with pytest.raises(NodeDown):
                await call
            assert await watch is Atom("noconnection")
            assert len(downs) == 1
            assert node.nodes() == []
        assert await node.ping(ticking.name)

    subject.do(test)


def test_a_stopped_python_is_noticed(ticking: Beam, start_python) -> None:
    python = start_python()
    assert ticking.eval("gen_server:call({calc, Py}, {add, 1, 2})", Py=python.name) == "3"
    down = ticking.submit("interop_peer:down({calc, Py})", Py=python.name)
    ticking.eval("pong = net_adm:ping(Py)", Py=python.name)
    python.signal(signal.SIGSTOP)
    try:
        assert down.result(50).decode() == f"{{{{calc,'{python.name}'}},noconnection}}"
    finally:
        python.signal(signal.SIGCONT)
    again = "gen_server:call({calc, Py}, {add, 1, 2})"
    assert ticking.eval(again, Py=python.name) == "3"
