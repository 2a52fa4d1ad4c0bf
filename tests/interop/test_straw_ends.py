"""The end of a process is told over a straw, to who monitors or links it, after all that it sent; it takes no room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from beamkit.beam import Beam, unique
from membranekit.processes import HostProcess
from waiting import run, until

from node import Atom, GenServer, Node, NoProc, Process

pytestmark = pytest.mark.usefixtures("python_only")

OTPS = pytest.mark.parametrize("otp", ["otp25", "otp28"])
DOWN, EXIT, PROCESS, NORMAL = Atom("DOWN"), Atom("EXIT"), Atom("process"), Atom("normal")
AFTER_ALL = Atom("after_all")
#: More than may be known at a time on a BEAM.
CALLERS = 20_000
#: Messages before the end.
MANY = 2_000

#: `hello` to who asks by {From, hello}; from then on `again` makes it send so many and end.
SPEAKER = """
    strawman_probe:echo(), Me = self(),
    Speaker = spawn(fun() ->
        register(speaker, self()), Me ! ready,
        (fun Loop() ->
            receive {From, hello} ->
                spawn(fun() ->
                    From ! {self(), hello},
                    receive {From, again, N} ->
                        [From ! {K, <<0:800>>} || K <- lists:seq(1, N)],
                        exit({after_all, [<<"why">>, From]})
                    end
                end)
            end,
            Loop()
        end)()
    end),
    receive ready -> strawman:export(speaker) end
    """

#: What has become of a speaker of domain D, which is watched by a monitor and a link.
LISTENER = """
    {ok, Speaker} = strawman:proxy(D, speaker),
    Speaker ! {self(), hello}, Pid = receive {P, hello} -> P end,
    process_flag(trap_exit, true), link(Pid), Monitor = monitor(process, Pid),
    Pid ! {self(), again, MANY},
    Got = (fun Loop(N) ->
        receive {N, _} -> Loop(N + 1); {'DOWN', Monitor, process, Pid, Why} -> {N - 1, Why} end
    end)(1),
    Linked = receive {'EXIT', Pid, Reason} -> Reason end,
    {Got, Linked, catch gen_server:call(Pid, late, 60000), [self()]}
    """


async def speaker(me: Process) -> None:
    """SPEAKER's in Python."""
    while True:
        asker, _ = await me.receive()
        me.spawn(_speak, asker)


async def _speak(me: Process, asker: Any) -> None:
    me.send(asker, (me.pid, Atom("hello")))
    _, _, number = await me.receive()
    for k in range(1, number + 1):
        me.send(asker, (k, bytes(100)))
    me.exit((AFTER_ALL, [b"why", asker]))


class Double(GenServer):
    async def handle_call(self, request: Any, caller: Any) -> Any:
        _, number = request
        return 2 * number


@pytest.fixture
def domain(start_beam: Callable[..., Beam], app: Path, host: HostProcess, rundir: str) -> Callable[[str, int], Beam]:
    def start(otp: str, domid: int) -> Beam:
        beam = start_beam(otp, name=None, paths=[app])
        assert beam.eval(f'strawman_probe:start("{rundir}", {domid}, [])') == str(domid)
        assert beam.eval(SPEAKER) == "ok"
        return beam

    return start


def python(rundir: str, test: Callable[[Node], Any]) -> None:
    """With a Python node that is domain 5."""

    async def main() -> None:
        node = Node(unique("far"), "none of theirs", listen=None, pores=rundir, domid=5)
        node.register("speaker", speaker, straw=True)
        node.register("double", Double, straw=True)
        async with node:
            await test(node)

    run(main)


def listener(domid: int) -> str:
    return LISTENER.replace("proxy(D", f"proxy({domid}").replace("MANY", str(MANY))


def heard(answer: str) -> None:
    me = answer.rpartition("[")[2].removesuffix("]}")
    why = f'{{after_all,[<<"why">>,{me}]}}'
    assert answer.startswith(f"{{{{{MANY},{why}}},{why},{{'EXIT',{{noproc,"), answer


@OTPS
def test_of_python_to_a_beam(domain: Callable[[str, int], Beam], rundir: str, otp: str) -> None:
    beam = domain(otp, 6)

    async def test(node: Node) -> None:
        heard(await beam.ask(listener(5)))
        calls = f"""
            {{ok, P}} = strawman:proxy(5, double),
            Call = fun(N) -> spawn_monitor(fun() -> N = gen_server:call(P, {{double, N}}) div 2 end) end,
            [[receive {{'DOWN', M, _, _, normal}} -> ok end || {{_, M}} <- [Call(N) || N <- lists:seq(1, 100)]]
             || _ <- lists:seq(1, {CALLERS} div 100)],
            ok
            """
        assert await beam.ask(calls) == "ok"
        await until(lambda: node.strawman.tables(6).proxies <= 1)
        assert node.strawman.counts.crowded == 0

    python(rundir, test)


@OTPS
def test_of_a_beam_to_python(domain: Callable[[str, int], Beam], rundir: str, otp: str) -> None:
    beam = domain(otp, 6)

    async def test(node: Node) -> None:
        name = await node.strawman.proxy(6, "speaker")
        async with node.process() as me:
            me.trap_exit = True
            me.send(name, (me.pid, Atom("hello")))
            pid, _ = await me.receive(timeout=20)
            ref = me.monitor(pid)
            me.link(pid)
            me.send(pid, (me.pid, Atom("again"), MANY))
            for k in range(1, MANY + 1):
                assert (await me.receive(timeout=20))[0] == k
            reason = (AFTER_ALL, [b"why", me.pid])
            ends = [await me.receive(timeout=20) for _ in range(2)]
            assert sorted(ends, key=len) == [(EXIT, pid, reason), (DOWN, ref, PROCESS, pid, reason)]
            with pytest.raises(NoProc):
                await node.call(pid, 1, timeout=60)
        double = await node.strawman.proxy(6, "double")

        async def call(caller: Process, n: int) -> None:
            assert await caller.call(double, (Atom("double"), n)) == 2 * n

        for _ in range(CALLERS // 100):
            callers = [node.spawn(call, n) for n in range(100)]
            for caller in callers:
                assert await node.monitor(caller.pid) in (NORMAL, Atom("noproc"))
        counts = "{ok, S} = strawman:split(5), maps:get(proxies, gen_server:call(S, counts))"

        async def all_gone() -> bool:
            return int(await beam.ask(counts)) <= 1

        await until(all_gone)
        assert await beam.ask("[maps:get(K, strawman:counts()) || K <- [undelivered, dropped_busy]]") == "[0,0]"

    python(rundir, test)


@pytest.mark.parametrize(("one_otp", "other_otp"), [("otp25", "otp28"), ("otp28", "otp25")])
def test_of_a_beam_to_a_beam(domain: Callable[[str, int], Beam], one_otp: str, other_otp: str) -> None:
    one, _other = domain(one_otp, 6), domain(other_otp, 7)
    heard(one.eval(listener(7)))
    # What was asked of the proxies is done: the next end is told as well.
    for _ in range(3):
        heard(one.eval(listener(7)))
