"""Monitors of a BEAM on processes of the node under test and the other way round: DOWN and its reasons.

A puppet (see ref_node.erl) is a process on the node under test that does what the test tells it.
"""

from __future__ import annotations

import pytest
from beamkit.beam import Beam


def test_normal_end(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), M = monitor(process, P),
        interop_peer:tell(P, finish), interop_peer:got() =:= {'DOWN', M, process, P, normal}
        """
    assert beam.eval(text, Py=subject.name) == "true"


@pytest.mark.parametrize("reason", ["normal", "shutdown", "{shutdown,why}", "[1,2|x]", "kill", "#{a=>1}", "<<1:3>>"])
def test_exit_with_a_reason(beam: Beam, subject, reason: str) -> None:
    """exit(Reason) called by the process itself; exit(kill) is just a reason."""
    text = f"""
        P = interop_peer:puppet(Py), M = monitor(process, P),
        interop_peer:tell(P, {{exit, {reason}}}), interop_peer:got() =:= {{'DOWN', M, process, P, {reason}}}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_crash_reason_and_stack(beam: Beam, subject) -> None:
    """{{python, 'ValueError', Text}, [{Module, Function, Arity, [{file, F}, {line, N}]}, ...]} (node-rules 2)."""
    text = """
        P = interop_peer:puppet(Py), M = monitor(process, P),
        interop_peer:tell(P, {raise, <<"no good: é"/utf8>>}),
        {'DOWN', M, process, P, {Reason, Stack}} = interop_peer:got(),
        Good = [Frame || {Mod, Fun, Arity, Info} = Frame <- Stack, is_atom(Mod), is_atom(Fun),
                         is_integer(Arity) orelse is_list(Arity), is_list(Info)],
        Lines = [L || {_, _, _, Info} <- Stack, {line, L} <- Info, is_integer(L), L > 0],
        Files = [F || {_, _, _, Info} <- Stack, {file, F} <- Info, io_lib:char_list(F)],
        {Reason, Good =:= Stack, length(Lines) > 0, length(Files) > 0}
        """
    want = "{{python,'ValueError',<<\"no good: é\"/utf8>>},true,true,true}"
    assert beam.eval(text, Py=subject.name) == want


def test_crash_is_formatted_by_otp(beam: Beam, subject) -> None:
    """OTP's own formatters take the reason and the stack: no crash in the logger, the text is in it."""
    text = """
        P = interop_peer:puppet(Py), M = monitor(process, P),
        interop_peer:tell(P, {raise, <<"no good">>}),
        {'DOWN', M, process, P, {Reason, Stack}} = interop_peer:got(),
        Logged = interop_peer:logged({Reason, Stack}),
        Formatted = erl_error:format_exception(error, Reason, Stack),
        {string:find(Logged, "FORMATTER CRASH"), string:find(Logged, "ValueError") =/= nomatch,
         string:find(Logged, "no good") =/= nomatch,
         string:find(lists:flatten(Formatted), "ValueError") =/= nomatch}
        """
    assert beam.eval(text, Py=subject.name) == "{nomatch,true,true,true}"


def test_kill(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), M = monitor(process, P), exit(P, kill),
        interop_peer:got() =:= {'DOWN', M, process, P, killed}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_kill_of_a_process_that_traps(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), ok = interop_peer:cmd(P, {trap_exit, true}),
        M = monitor(process, P), exit(P, kill),
        interop_peer:got() =:= {'DOWN', M, process, P, killed}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_dead_pid(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), interop_peer:tell(P, finish), {P, _} = interop_peer:down(P),
        interop_peer:down(P) =:= {P, noproc}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_pid_that_never_was(beam: Beam, subject) -> None:
    """A pid of this node and incarnation that was never given out."""
    text = """
        P = interop_peer:puppet(Py),
        <<131, 88, NodeAndSoOn/binary>> = term_to_binary(P),
        Size = byte_size(NodeAndSoOn) - 12,
        <<Node:Size/binary, Id:32, Serial:32, Creation:32>> = NodeAndSoOn,
        Other = binary_to_term(<<131, 88, Node/binary, ((Id + 12345) band 16#7fff):32, Serial:32, Creation:32>>),
        interop_peer:down(Other) =:= {Other, noproc}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_name(beam: Beam, subject) -> None:
    """By name the DOWN says {Name, Node}."""
    text = """
        P = interop_peer:puppet(Py), ok = interop_peer:cmd(P, {register, a_name}),
        M = monitor(process, {a_name, Py}),
        interop_peer:tell(P, {exit, bye}),
        interop_peer:got() =:= {'DOWN', M, process, {a_name, Py}, bye}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_name_that_nobody_has(beam: Beam, subject) -> None:
    text = "interop_peer:down({nobody, Py}) =:= {{nobody, Py}, noproc}"
    assert beam.eval(text, Py=subject.name) == "true"


def test_name_of_a_dead_process_is_free(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), ok = interop_peer:cmd(P, {register, free_name}),
        interop_peer:tell(P, finish), {P, _} = interop_peer:down(P),
        {_, noproc} = interop_peer:down({free_name, Py}),
        Q = interop_peer:puppet(Py), interop_peer:cmd(Q, {register, free_name})
        """
    assert beam.eval(text, Py=subject.name) == "ok"


def test_several_monitors_of_one_process(beam: Beam, subject) -> None:
    """Each has its own DOWN."""
    text = """
        P = interop_peer:puppet(Py),
        Monitors = [monitor(process, P) || _ <- lists:seq(1, 20)],
        interop_peer:tell(P, {exit, bye}),
        Downs = [receive {'DOWN', M, process, P, bye} -> M after 20000 -> none end || M <- Monitors],
        {Downs =:= Monitors, interop_peer:all()}
        """
    assert beam.eval(text, Py=subject.name) == "{true,[]}"


def test_demonitor(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), M1 = monitor(process, P), M2 = monitor(process, P),
        true = demonitor(M1),
        interop_peer:tell(P, {exit, bye}),
        {'DOWN', M2, process, P, bye} = interop_peer:got(),
        interop_peer:all()
        """
    assert beam.eval(text, Py=subject.name) == "[]"


def test_demonitor_by_name(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), ok = interop_peer:cmd(P, {register, demonitored}),
        M1 = monitor(process, {demonitored, Py}), M2 = monitor(process, P),
        true = demonitor(M1),
        interop_peer:tell(P, {exit, bye}),
        {'DOWN', M2, process, P, bye} = interop_peer:got(),
        interop_peer:all()
        """
    assert beam.eval(text, Py=subject.name) == "[]"


def test_monitors_with_an_alias(beam: Beam, subject) -> None:
    """A reply sent to the alias reference itself comes; after DOWN or demonitor it does not."""
    text = """
        P = interop_peer:puppet(Py),
        Alias = monitor(process, P, [{alias, explicit_unalias}]),
        ok = interop_peer:cmd(P, {send, Alias, {first, Alias}}),
        {first, Alias} = interop_peer:got(),
        demonitor(Alias, [flush]), unalias(Alias),
        ok = interop_peer:cmd(P, {send, Alias, second}),
        ok = interop_peer:cmd(P, ping),
        interop_peer:all()
        """
    assert beam.eval(text, Py=subject.name) == "[]"


def test_process_alias_without_a_monitor(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), Alias = alias(),
        ok = interop_peer:cmd(P, {send, Alias, {got, it}}), {got, it} = interop_peer:got(), done
        """
    assert beam.eval(text, Py=subject.name) == "done"


def test_tagged_monitor(beam: Beam, subject) -> None:
    """monitor/3 with a tag is the BEAM's own business and works."""
    text = """
        P = interop_peer:puppet(Py), M = monitor(process, P, [{tag, my_tag}]),
        interop_peer:tell(P, {exit, bye}), interop_peer:got() =:= {my_tag, M, process, P, bye}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_noconnection(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), M = monitor(process, P), N = monitor(process, {echo, Py}),
        erlang:disconnect_node(Py),
        lists:sort([interop_peer:got(), interop_peer:got()]) =:=
            lists:sort([{'DOWN', M, process, P, noconnection}, {'DOWN', N, process, {echo, Py}, noconnection}])
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_monitor_of_a_node(beam: Beam, subject) -> None:
    text = """
        pong = net_adm:ping(Py), monitor_node(Py, true), erlang:disconnect_node(Py),
        interop_peer:got() =:= {nodedown, Py}
        """
    assert beam.eval(text, Py=subject.name) == "true"


# -- a process of the node under test monitors one of the BEAM ---------------------------------------


@pytest.mark.parametrize("reason", ["normal", "{a,[b]}", "shutdown"])
def test_it_monitors_a_pid(beam: Beam, subject, reason: str) -> None:
    text = f"""
        P = interop_peer:puppet(Py), S = spawn(interop_peer, sleeper, []),
        M = interop_peer:cmd(P, {{monitor, S}}),
        S ! {{exit, {reason}}},
        interop_peer:got() =:= {{puppet, P, {{'DOWN', M, process, S, {reason}}}}}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_it_monitors_a_crash(beam: Beam, subject) -> None:
    text = """
        logger:set_primary_config(level, none),
        P = interop_peer:puppet(Py), S = spawn(interop_peer, sleeper, []),
        M = interop_peer:cmd(P, {monitor, S}),
        S ! crash,
        {puppet, P, {'DOWN', M, process, S, {crashed, [{interop_peer, sleeper, 0, _} | _]}}} = interop_peer:got(), ok
        """
    assert beam.eval(text, Py=subject.name) == "ok"


def test_it_monitors_a_killed_process(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), S = spawn(interop_peer, sleeper, []),
        M = interop_peer:cmd(P, {monitor, S}), exit(S, kill),
        interop_peer:got() =:= {puppet, P, {'DOWN', M, process, S, killed}}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_it_monitors_a_dead_pid(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), {S, R} = spawn_monitor(fun() -> ok end), receive {'DOWN', R, _, _, _} -> ok end,
        M = interop_peer:cmd(P, {monitor, S}),
        interop_peer:got() =:= {puppet, P, {'DOWN', M, process, S, noproc}}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_it_monitors_a_name(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), S = spawn(interop_peer, sleeper, []), register(watched, S),
        M = interop_peer:cmd(P, {monitor, {watched, node()}}), S ! {exit, bye},
        interop_peer:got() =:= {puppet, P, {'DOWN', M, process, {watched, node()}, bye}}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_it_monitors_a_name_that_nobody_has(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py),
        M = interop_peer:cmd(P, {monitor, {nobody, node()}}),
        interop_peer:got() =:= {puppet, P, {'DOWN', M, process, {nobody, node()}, noproc}}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_it_demonitors(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), S = spawn(interop_peer, sleeper, []),
        M = interop_peer:cmd(P, {monitor, S}), ok = interop_peer:cmd(P, {demonitor, M}),
        N = interop_peer:cmd(P, {monitor, S}),
        S ! {exit, bye},
        {puppet, P, {'DOWN', N, process, S, bye}} = interop_peer:got(),
        ok = interop_peer:cmd(P, ping),
        interop_peer:all()
        """
    assert beam.eval(text, Py=subject.name) == "[]"


def test_it_sees_noconnection(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), S = spawn(interop_peer, sleeper, []),
        M = interop_peer:cmd(P, {monitor, S}),
        erlang:disconnect_node(Py),
        interop_peer:got() =:= {puppet, P, {'DOWN', M, process, S, noconnection}}
        """
    assert beam.eval(text, Py=subject.name) == "true"
