"""An OTP 25, an OTP 28 and a Python node together: pids travel, and everybody reaches everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from beamkit.beam import Beam
from waiting import LONG

from node import Atom

pytestmark = pytest.mark.usefixtures("python_only")


@pytest.fixture(scope="module")
def both(_starter) -> Iterator[tuple[Beam, Beam]]:
    old, new = _starter("otp25"), _starter("otp28")
    yield old, new
    old.close()
    new.close()


def test_a_pid_of_one_reaches_the_other_through_python(both, subject) -> None:
    old, new = both

    async def test(node) -> None:
        collected = asyncio.wrap_future(new.submit("register(third, self()), interop_peer:got()"))
        while (pid := await node.rpc(new.name, "erlang", "whereis", [Atom("third")])) is Atom("undefined"):
            await asyncio.sleep(0.01)
        sent = await node.rpc(old.name, "erlang", "send", [pid, (Atom("from_old"), node.router.name)])
        assert sent == (Atom("from_old"), Atom(node.name))
        assert await collected == f"{{from_old,'{node.name}'}}".encode()
        assert sorted(node.nodes()) == sorted([old.name, new.name])

    subject.do(test)


def test_hidden_python_is_not_passed_on(both, subject) -> None:
    """global connects visible nodes with each other, and leaves the Python node out."""
    old, new = both
    assert old.eval("net_adm:ping(Py)", Py=subject.name) == "pong"
    assert old.eval("net_adm:ping(New)", New=new.name) == "pong"
    assert new.eval("lists:member(Py, nodes(connected))", Py=subject.name) == "false"
    assert old.eval("global:sync()") == "ok"


def test_python_pids_between_beams(both, subject) -> None:
    """A puppet's pid made for one BEAM is used, monitored and linked by the other."""
    old, new = both
    old.eval(
        "P = interop_peer:puppet(Py), {rcv, New} ! nothing, true = net_kernel:connect_node(New), "
        "persistent_term:put(puppet, P)",
        Py=subject.name, New=new.name,
    )  # fmt: skip
    text = """
        P = rpc:call(Old, persistent_term, get, [puppet]),
        process_flag(trap_exit, true), link(P), M = monitor(process, P),
        ok = interop_peer:cmd(P, ping),
        interop_peer:tell(P, {exit, bye}),
        lists:sort([interop_peer:got(), interop_peer:got()]) =:=
            lists:sort([{'EXIT', P, bye}, {'DOWN', M, process, P, bye}])
        """
    assert new.eval(text, Old=old.name) == "true"


def test_multicalls_to_a_mixed_cluster(both, subject) -> None:
    old, new = both
    text = "erpc:multicall([Old, Py, New], lists, nothing, [])"
    found = old.eval(text, Old=old.name, Py=subject.name, New=new.name)
    assert found.count("undef") == 3
    text = "{R, []} = rpc:multicall([Py, New], erlang, abs, [-1]), R"
    found = old.eval(text, Py=subject.name, New=new.name)
    assert found.startswith("[{badrpc,{'EXIT',{undef,") and found.endswith(",1]")


def test_priority_signals_of_otp_28(both, subject) -> None:
    """exit/3 and sends with priority (EEP 76, ALTACT_SIG) to a Python process."""
    _, new = both
    text = """
        P = interop_peer:puppet(Py), M = monitor(process, P),
        exit(P, {high, priority}, [priority]),
        {'DOWN', M, process, P, R} = interop_peer:got(),
        Q = interop_peer:puppet(Py), Alias = alias([priority]),
        ok = interop_peer:cmd(Q, {send, Alias, by_alias}),
        {R, interop_peer:got()}
        """
    assert new.eval(text, Py=subject.name) == "{{high,priority},by_alias}"


def test_calls_by_alias_from_a_process(both, subject) -> None:
    """A Python process that calls names an alias; each OTP answers to it in its own way; late replies are dropped."""

    async def test(node) -> None:
        for beam in both:
            await beam.ask("interop_peer:start()")
            server = ("server", beam.name)
            assert await node.ping(beam.name)
            async with node.process() as me:
                assert await me.call(server, (Atom("sum"), [1, 2]), LONG) == 3
                with pytest.raises(TimeoutError):
                    await me.call(server, (Atom("later"), 100, Atom("late")), 0.01)
                assert await me.call(server, (Atom("later"), 200, Atom("done")), LONG) is Atom("done")
                with pytest.raises(TimeoutError):
                    await me.receive(timeout=0.05)

    subject.do(test)


def test_nothing_is_left_behind(both, subject) -> None:
    """After much coming and going the node has the processes, monitors and calls that it had before."""
    text = """
        Work = fun(N) ->
            P = interop_peer:puppet(Py), link(P), M = monitor(process, P), demonitor(M), unlink(P),
            monitor(process, P), monitor(process, {calc, Py}),
            N = rpc:call(Py, py, ident, [N]), 3 = gen_server:call({calc, Py}, {add, 1, 2}),
            catch gen_server:call({calc, Py}, never, 1),
            interop_peer:tell(P, {exit, bye})
        end,
        Ps = [spawn_monitor(fun() -> [Work(N) || N <- lists:seq(1, 50)] end) || _ <- lists:seq(1, 4)],
        [receive {'DOWN', M, process, P, normal} -> ok end || {P, M} <- Ps], done
        """

    async def counts(node) -> tuple[int, ...]:
        router = node.router
        across = [router.across(Atom(beam.name)) for beam in both]
        return (
            len(router.processes), len(router.calls),
            *(sum(len(getattr(side, name)) for side in across) for name in ("links", "monitors_in")),
        )  # fmt: skip

    async def settled(node, want) -> None:
        while await counts(node) != want:
            await asyncio.sleep(0.02)

    for beam in both:
        assert beam.eval("net_adm:ping(Py)", Py=subject.name) == "pong"
    before = subject.do(counts)
    for beam in both:
        assert beam.eval(text, Py=subject.name) == "done"
    try:
        subject.do(lambda node: asyncio.wait_for(settled(node, before), LONG))
    except TimeoutError:
        pass
    assert subject.do(counts) == before
