"""Restarts: of a BEAM as Python sees it, and of a Python node as a BEAM sees it. Nothing hangs, nothing is mixed up."""

from __future__ import annotations

import asyncio
import signal

import pytest
from beamkit.beam import Beam
from waiting import LONG, until

from node import Atom, CallError, NoConnection, NodeDown, NodeError

pytestmark = pytest.mark.usefixtures("python_only")


@pytest.mark.parametrize("how", ["kill", "halt"])
def test_beam_ends_and_comes_back(own_beam: Beam, subject, how: str) -> None:
    """kill -9 and an orderly end: calls raise NodeDown, monitors and links end, the next send reaches the new one."""
    beam = own_beam
    events: list[tuple[bool, str]] = []

    async def test(node) -> None:
        node.on_nodes(lambda up, name, reason: events.append((up, name)))
        await beam.ask("interop_peer:start()")
        pid = await node.rpc(beam.name, "erlang", "whereis", [Atom("server")])
        call = asyncio.ensure_future(node.call(pid, Atom("never"), None))
        named = asyncio.ensure_future(node.call(("server", beam.name), Atom("never"), None))
        rpc = asyncio.ensure_future(node.rpc(beam.name, "timer", "sleep", [60000], None))
        monitor, by_name, link = node.monitor(pid), node.monitor(("server", beam.name)), node.link(pid)
        async with node.process() as me:
            me.link(pid)
            ref = me.monitor(pid)
            assert await node.ping(beam.name)  # all of that has arrived there
            assert events == [(True, beam.name)]
            await asyncio.to_thread(beam.kill if how == "kill" else beam.halt)
            got = {await me.receive(timeout=LONG) for _ in range(2)}
            ended = (
                {Atom("noconnection")} if how == "kill" else {Atom("noconnection"), Atom("shutdown"), Atom("killed")}
            )
            for message in got:
                assert message[0] in (Atom("DOWN"), Atom("EXIT"))
                assert message[-1] in ended
            assert any(message[:2] == (Atom("DOWN"), ref) for message in got)
        for waiting in (call, named, rpc):
            with pytest.raises((NodeDown, CallError, NodeError)):
                await waiting
        for watch in (monitor, by_name, link):
            assert await asyncio.wait_for(watch, LONG) in ended
        await until(lambda: events == [(True, beam.name), (False, beam.name)])
        assert node.nodes() == []

        # While it is away.
        assert await node.ping(beam.name) is False
        with pytest.raises(NoConnection):
            await node.deliver(("server", beam.name), 1)
        with pytest.raises(NoConnection):
            await node.call(("server", beam.name), 1, None)
        before = node.undelivered
        node.send(("server", beam.name), 1)
        await until(lambda: node.undelivered > before)

        # The same name again: a new incarnation.
        await asyncio.to_thread(beam.start)
        await beam.ask("interop_peer:start()")
        node.send(("server", beam.name), Atom("again"))
        assert await node.call(("server", beam.name), Atom("seen"), LONG) == [(Atom("info"), Atom("again"))]
        assert events[2:] == [(True, beam.name)] or events[-1] == (True, beam.name)
        # The old pid is nobody: a message is dropped, a call and a monitor say so.
        node.send(pid, Atom("to_the_dead"))
        with pytest.raises(NodeError):
            await node.call(pid, (Atom("sum"), [1]), LONG)
        assert await asyncio.wait_for(node.monitor(pid), LONG) in (Atom("noproc"), Atom("noconnection"))
        assert await node.call(("server", beam.name), Atom("seen"), LONG) == []

    subject.do(test)


def test_restarts_under_a_stream_of_messages(own_beam: Beam, subject) -> None:
    """Every deliver() either succeeded or raised, and after each restart messages arrive again."""
    beam = own_beam

    async def test(node) -> None:
        for _ in range(3):
            await beam.ask("interop_peer:start()")
            streaming = asyncio.ensure_future(stream(node))
            while not await node.call(("server", beam.name), Atom("seen"), LONG):
                await asyncio.sleep(0.01)
            await asyncio.to_thread(beam.kill)
            with pytest.raises(NoConnection):
                await streaming
            await asyncio.to_thread(beam.start)

    async def stream(node) -> None:
        while True:
            await node.deliver(("server", beam.name), Atom("more"))
            await asyncio.sleep(0.001)

    subject.do(test)


def test_python_is_killed_and_comes_back(beam: Beam, start_python) -> None:
    """The BEAM sees nodedown, DOWN and EXIT with noconnection; the new one is another incarnation."""
    python = start_python()
    watching = beam.submit(
        """
        process_flag(trap_exit, true),
        net_kernel:monitor_nodes(true, #{node_type => all}),
        P = interop_peer:puppet(Py), {nodeup, Py, _} = interop_peer:got(),
        link(P), M = monitor(process, P), N = monitor(process, {calc, Py}),
        R = gen_server:send_request({calc, Py}, never),
        ok = interop_peer:cmd(P, ping),
        register(restart_watcher, self()),
        Down = receive {nodedown, Py, _} -> nodedown after 20000 -> none end,
        Exit = receive {'EXIT', P, E} -> E after 20000 -> none end,
        Dm = receive {'DOWN', M, process, P, D} -> D after 20000 -> none end,
        Dn = receive {'DOWN', N, process, {calc, Py}, F} -> F after 20000 -> none end,
        {error, {Lost, _}} = gen_server:receive_response(R, 20000),
        persistent_term:put(old_puppet, P),
        {Down, Exit, Dm, Dn, Lost}
        """,
        Py=python.name,
    )
    beam.eval("(fun W() -> case whereis(restart_watcher) of undefined -> timer:sleep(5), W(); P -> P end end)()")
    python.kill()
    assert watching.result(60).decode() == "{nodedown,noconnection,noconnection,noconnection,noconnection}"
    assert beam.eval("net_adm:ping(Py)", Py=python.name) == "pang"
    python.start()
    assert beam.eval("net_adm:ping(Py)", Py=python.name) == "pong"
    assert beam.eval("gen_server:call({calc, Py}, {add, 1, 2})", Py=python.name) == "3"
    down = beam.eval("Old = persistent_term:get(old_puppet), Old ! hello, element(2, interop_peer:down(Old))")
    assert down in ("noproc", "noconnection")
    assert beam.eval("interop_peer:echo(Py, fine)", Py=python.name) == "fine"


def test_python_ends_orderly(beam: Beam, start_python) -> None:
    """SIGTERM: processes exit with shutdown, then the node is down; exit code 0."""
    python = start_python()
    watching = beam.submit(
        """
        process_flag(trap_exit, true), monitor_node(Py, true),
        P = interop_peer:puppet(Py), M = monitor(process, P), link(P), N = monitor(process, {calc, Py}),
        ok = interop_peer:cmd(P, ping), register(stop_watcher, self()),
        Dm = receive {'DOWN', M, process, P, D} -> D after 20000 -> none end,
        Exit = receive {'EXIT', P, E} -> E after 20000 -> none end,
        Dn = receive {'DOWN', N, process, {calc, Py}, F} -> F after 20000 -> none end,
        Down = receive {nodedown, Py} -> nodedown after 20000 -> none end,
        {Dm, Exit, Dn, Down}
        """,
        Py=python.name,
    )
    beam.eval("(fun W() -> case whereis(stop_watcher) of undefined -> timer:sleep(5), W(); P -> P end end)()")
    assert python.stop() == 0
    assert watching.result(60).decode() == "{shutdown,shutdown,shutdown,nodedown}"
    short = python.name.split("@")[0]
    text = "{ok, L} = net_adm:names({127,0,0,1}), lists:keymember(Short, 1, L)"
    assert beam.eval(text, Short=list(short.encode())) == "false"


def test_python_is_restarted_often(beam: Beam, start_python) -> None:
    python = start_python()
    for _ in range(4):
        assert beam.eval("gen_server:call({calc, Py}, {add, 1, 2})", Py=python.name) == "3"
        python.kill()
        python.start()
    assert beam.eval("gen_server:call({calc, Py}, {add, 1, 2})", Py=python.name) == "3"


def test_beam_restarts_while_the_old_connection_is_not_gone(own_beam: Beam, start_python, runtime, start_beam) -> None:
    """The Python node is stopped (SIGSTOP), so it can't know of the old BEAM's end when the new one knocks."""
    beam, python = own_beam, start_python()
    assert beam.eval("gen_server:call({calc, Py}, {add, 1, 2})", Py=python.name) == "3"
    python.signal(signal.SIGSTOP)
    beam.kill()
    beam.start()
    waiting = beam.submit("net_adm:ping(Py)", Py=python.name)
    python.signal(signal.SIGCONT)
    assert waiting.result(60) == b"pong"
    assert beam.eval("gen_server:call({calc, Py}, {add, 1, 2})", Py=python.name) == "3"
