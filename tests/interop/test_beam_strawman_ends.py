"""strawman on BEAMs without distribution when something ends: a peer, a straw, strawman itself, the host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from beamkit.beam import Beam, BeamError, Erl
from beamkit.strawbeam import OTPS
from membranekit.processes import HostProcess
from waiting import LONG

pytestmark = pytest.mark.usefixtures("python_only")

Starter = Callable[..., Beam]


@pytest.mark.parametrize(("one_otp", "other_otp"), [("otp25", "otp28"), ("otp28", "otp25")])
def test_two_beams(domain: Callable[..., Beam], host: HostProcess, one_otp: str, other_otp: str) -> None:
    """Neither has distribution; what goes there and comes back is the same term, and processes can be watched."""
    one, other = domain(one_otp, 6), domain(other_otp, 7)
    assert other.eval("strawman_probe:echo(), strawman:export(echo)") == "ok"
    echo = """
        {ok, Echo} = strawman:proxy(7, echo),
        Alias = alias(), Ref = make_ref(),
        Term = {self(), [Ref, Alias, [alias | Alias]], <<5:3>>, 'h\\x{e9}', 1.5, #{self() => [a | self()]},
                fun lists:map/2, binary:copy(<<7>>, 1 bsl 20), "text", 1 bsl 200, -5},
        Echo ! {self(), Term},
        receive {Back, Term} -> {node(Back) =:= node(), is_process_alive(Back)} after 30000 -> timeout end
        """
    assert one.eval(echo) == "{true,true}"
    # The echo's own pid: it can be sent to, monitored and linked to; it goes when the straw does.
    watch = """
        {ok, Echo} = strawman:proxy(7, echo), {ok, Straw} = strawman:split(7),
        Echo ! {self(), hello}, Pid = receive {P, hello} -> P end,
        Pid ! {self(), again}, receive {Pid, again} -> ok end,
        process_flag(trap_exit, true), link(Straw),
        [erlang:monitor(process, X) || X <- [Pid, Echo, Straw]],
        put(watched, {Pid, Echo, Straw}),
        register(watcher, self()),
        receive {tell, To} -> ok end,
        Down = fun(X) -> receive {'DOWN', _, process, X, Why} -> Why end end,
        To ! {Down(Pid), Down(Echo), Down(Straw), receive {'EXIT', Straw, Why} -> Why end}
        """
    ends = "watcher ! {tell, self()}, receive Ends -> Ends after 30000 -> timeout end"
    waits = "case whereis(watcher) of undefined -> no; P -> process_info(P, status) end"
    for how, reasons in (
        ("strawman:close(6)", ["peer_closed"]),
        # Its membrane lives, and says so; what is seen first is the channel's end or the membrane's word.
        ("{ok, S} = strawman:split(6), exit(S, kill)", ["peer_gone", "peer_closed"]),
        ("application:stop(straw)", ["peer_closed"]),
    ):
        watching = one.submit(watch)
        one.eval_until(waits, "{status,waiting}")
        other.eval(how)
        assert one.eval(ends) in [f"{{noconnection,noconnection,{reason},{reason}}}" for reason in reasons]
        watching.result(LONG)
    one.eval_until("strawman:domains()", "[]")
    one.eval_until("element(2, process_info(whereis(strawman), messages))", "[]")
    # And as an answer to a kill.
    other.eval("application:start(straw)")
    domid = other.eval("strawman:domid()")
    assert other.eval("strawman:export(echo), strawman:send({6, inbox}, up)") == "ok"
    assert one.eval("strawman_probe:next()") == "up"
    watching = one.submit(watch.replace("7", domid))
    one.eval_until(waits, "{status,waiting}")
    other.kill()
    assert one.eval(ends) == "{noconnection,noconnection,peer_gone,peer_gone}"
    watching.result(LONG)


@OTPS
def test_the_host_dies_and_another_one_comes(domain: Callable[..., Beam], rundir: str, otp: str) -> None:
    with HostProcess(Path(rundir)) as host:
        one, other = domain("otp28", 5), domain(otp, 6)
        assert one.eval("strawman:send({6, inbox}, hello)") == "ok"
        assert other.eval("strawman_probe:next()") == "hello"
        watch = """
            {ok, P} = strawman:split(D), M = monitor(process, P), register(watching, self()),
            receive {'DOWN', M, process, P, Why} -> Why after 20000 -> timeout end
            """
        watching = [one.submit(watch, D=6), other.submit(watch, D=5)]
        for beam in (one, other):
            beam.eval_until("is_pid(whereis(watching))", "true")
        host.kill()
        assert [future.result(LONG) for future in watching] == [b"host_down", b"host_down"]
        for beam in (one, other):
            beam.eval_until("strawman:domid()", "0")
            assert beam.eval(
                "{strawman:send({6, inbox}, 1), strawman:open(5), strawman:split(5), strawman:domains()}"
            ) == ("{{error,host_down},{error,host_down},{error,not_found},[]}")
    with HostProcess(Path(rundir)):
        for beam in (one, other):
            beam.eval_until("strawman:domid() > 0", "true")
        domid = other.eval("strawman:domid()")
        assert one.eval("strawman:send({D, inbox}, again)", D=Erl(domid)) == "ok"
        assert other.eval("strawman_probe:next()") == "again"
        assert one.eval("application:stop(straw)") == "ok"


@OTPS
def test_strawman_ends_and_its_straws_live_on(domain: Callable[..., Beam], host: HostProcess, otp: str) -> None:
    one, other = domain("otp28", 5), domain(otp, 6)
    assert one.eval("strawman:send({6, inbox}, hello)") == "ok"
    assert other.eval("strawman_probe:next()") == "hello"
    straw = "{ok, P} = strawman:split(5), P"
    before = other.eval(straw)
    assert other.eval("exit(whereis(strawman), kill)") == "true"
    other.eval_until("catch strawman:domains()", "[5]")
    assert other.eval(straw) == before
    assert other.eval("strawman:send({5, inbox}, still)") == "ok"
    assert one.eval("strawman_probe:next()") == "still"
    # The membrane is another matter: this node is a new domain then, and its peers see an end.
    assert other.eval("exit(whereis(membrane), kill)") == "true"
    one.eval_until("strawman:domains()", "[]")
    other.eval_until("catch strawman:open(5)", "ok")
    assert other.eval("strawman:send({5, inbox}, anew)") == "ok"
    assert one.eval("strawman_probe:next()") == "anew"


def test_what_stops_it_from_being_a_domain(
    domain: Callable[..., Beam], start_beam: Starter, app: Path, host: HostProcess, rundir: str
) -> None:
    beam = start_beam("otp25", name=None, paths=[app])
    assert beam.eval("application:load(straw), application:set_env(straw, host, H)", H=Erl(f'"{rundir}x"')) == "ok"
    assert "no_host" in beam.eval("application:start(straw)")
    domain("otp28", 5)
    assert beam.eval("application:set_env(straw, host, H)", H=Erl(f'"{rundir}"')) == "ok"
    assert "ebusy" in beam.eval("application:set_env(straw, domid, 5), application:start(straw)")
    assert beam.eval("application:set_env(straw, exports, [rex]), application:start(straw)").count("service") == 1
    assert (
        beam.eval("application:set_env(straw, exports, [{a, #{to => b}}]), application:set_env(straw, domid, 0)")
        == "ok"
    )
    assert beam.eval("application:start(straw)") == "ok"
    assert beam.eval("strawman:exports()") == "[a]"
    with pytest.raises(BeamError, match="noproc"):
        beam.eval("application:stop(straw), strawman:domid()")
