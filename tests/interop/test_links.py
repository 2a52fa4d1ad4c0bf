"""Links and exit signals between a BEAM and the node under test, both ways, with Erlang's rules."""

from __future__ import annotations

import pytest
from beamkit.beam import Beam

# S is a process of the BEAM (a sleeper dies of exit signals, a trapper keeps them), P a puppet on the node under test.
SEEN = """
    Seen = fun(Trapper) -> R = make_ref(), Trapper ! {self(), R, seen}, receive {R, L} -> L after 20000 -> none end end,
    """


# -- a BEAM process links to the node under test -----------------------------------------------------


@pytest.mark.parametrize("reason", ["bye", "{shutdown,x}", "normal", "kill"])
def test_its_exit_reaches_a_trapping_process(beam: Beam, subject, reason: str) -> None:
    text = f"""
        process_flag(trap_exit, true),
        P = interop_peer:puppet(Py), link(P),
        interop_peer:tell(P, {{exit, {reason}}}), interop_peer:got() =:= {{'EXIT', P, {reason}}}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_its_end_is_a_normal_exit(beam: Beam, subject) -> None:
    text = """
        process_flag(trap_exit, true),
        P = interop_peer:puppet(Py), link(P),
        interop_peer:tell(P, finish), interop_peer:got() =:= {'EXIT', P, normal}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_its_crash_reaches_a_trapping_process(beam: Beam, subject) -> None:
    text = """
        process_flag(trap_exit, true),
        P = interop_peer:puppet(Py), link(P), interop_peer:tell(P, {raise, <<"bad">>}),
        {'EXIT', P, {{python, 'ValueError', <<"bad">>}, [{_, _, _, _} | _]}} = interop_peer:got(), ok
        """
    assert beam.eval(text, Py=subject.name) == "ok"


def test_its_exit_ends_a_linked_process(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py),
        Me = self(),
        {S, M} = spawn_monitor(fun() -> link(P), Me ! linked, interop_peer:sleeper() end),
        linked = interop_peer:got(),
        interop_peer:tell(P, {exit, bye}), interop_peer:got() =:= {'DOWN', M, process, S, bye}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_its_normal_exit_does_not(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), Q = interop_peer:puppet(Py),
        Me = self(),
        S = spawn(fun() -> link(P), Me ! linked, interop_peer:sleeper() end),
        linked = interop_peer:got(),
        interop_peer:tell(P, finish), {P, _} = interop_peer:down(P), ok = interop_peer:cmd(Q, ping),
        R = make_ref(), S ! {self(), R, alive}, receive {R, yes} -> alive after 20000 -> dead end
        """
    assert beam.eval(text, Py=subject.name) == "alive"


def test_link_to_a_dead_pid(beam: Beam, subject) -> None:
    text = """
        process_flag(trap_exit, true),
        P = interop_peer:puppet(Py), interop_peer:tell(P, finish), {P, _} = interop_peer:down(P),
        link(P), interop_peer:got() =:= {'EXIT', P, noproc}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_kill_passes_on_as_killed(beam: Beam, subject) -> None:
    text = """
        process_flag(trap_exit, true),
        P = interop_peer:puppet(Py), link(P), exit(P, kill), interop_peer:got() =:= {'EXIT', P, killed}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_noconnection_ends_links(beam: Beam, subject) -> None:
    text = """
        process_flag(trap_exit, true),
        P = interop_peer:puppet(Py), link(P),
        erlang:disconnect_node(Py), interop_peer:got() =:= {'EXIT', P, noconnection}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_a_beam_process_that_ends_takes_it_along(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), M = monitor(process, P),
        S = spawn(fun() -> link(P), interop_peer:sleeper() end), S ! {exit, bye},
        interop_peer:got() =:= {'DOWN', M, process, P, bye}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_it_survives_when_it_traps(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), ok = interop_peer:cmd(P, {trap_exit, true}),
        S = spawn(fun() -> link(P), interop_peer:sleeper() end), S ! {exit, {bye, [1]}},
        {puppet, P, {'EXIT', S, {bye, [1]}}} = interop_peer:got(),
        interop_peer:cmd(P, ping)
        """
    assert beam.eval(text, Py=subject.name) == "ok"


def test_it_ignores_a_normal_exit(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py),
        S = spawn(fun() -> link(P), interop_peer:sleeper() end), M = monitor(process, S),
        S ! {exit, normal}, {'DOWN', M, process, S, normal} = interop_peer:got(),
        ok = interop_peer:cmd(P, ping), interop_peer:all()
        """
    assert beam.eval(text, Py=subject.name) == "[]"


def test_a_trapping_one_sees_a_normal_exit(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), ok = interop_peer:cmd(P, {trap_exit, true}),
        S = spawn(fun() -> link(P), interop_peer:sleeper() end), S ! {exit, normal},
        interop_peer:got() =:= {puppet, P, {'EXIT', S, normal}}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_a_killed_beam_process_is_killed_to_it(beam: Beam, subject) -> None:
    """`killed` passes through a link as any reason: it can be trapped, and ends those that do not."""
    text = """
        P = interop_peer:puppet(Py), ok = interop_peer:cmd(P, {trap_exit, true}),
        Q = interop_peer:puppet(Py), M = monitor(process, Q), Me = self(),
        S = spawn(fun() -> link(P), link(Q), Me ! linked, interop_peer:sleeper() end),
        linked = interop_peer:got(), exit(S, kill),
        lists:sort([interop_peer:got(), interop_peer:got()]) =:=
            lists:sort([{puppet, P, {'EXIT', S, killed}}, {'DOWN', M, process, Q, killed}])
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_link_twice_is_one_link(beam: Beam, subject) -> None:
    text = """
        process_flag(trap_exit, true),
        P = interop_peer:puppet(Py), link(P), link(P),
        interop_peer:tell(P, {exit, bye}), {'EXIT', P, bye} = interop_peer:got(),
        Q = interop_peer:puppet(Py), ok = interop_peer:cmd(Q, ping), interop_peer:all()
        """
    assert beam.eval(text, Py=subject.name) == "[]"


# -- exit/2 -------------------------------------------------------------------------------------------


def test_exit_2_ends_it(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), M = monitor(process, P), exit(P, {some, "reason"}),
        interop_peer:got() =:= {'DOWN', M, process, P, {some, "reason"}}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_exit_2_normal_is_ignored(beam: Beam, subject) -> None:
    text = "P = interop_peer:puppet(Py), exit(P, normal), ok = interop_peer:cmd(P, ping), interop_peer:all()"
    assert beam.eval(text, Py=subject.name) == "[]"


@pytest.mark.parametrize("reason", ["normal", "bye", "killed"])
def test_exit_2_trapped(beam: Beam, subject, reason: str) -> None:
    text = f"""
        P = interop_peer:puppet(Py), ok = interop_peer:cmd(P, {{trap_exit, true}}), exit(P, {reason}),
        {{puppet, P, {{'EXIT', Me, {reason}}}}} = interop_peer:got(), Me =:= self()
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_exit_2_of_a_busy_server(beam: Beam, subject) -> None:
    """A server that sleeps in handle_call is ended all the same: its caller sees the reason."""
    text = """
        Pid = gen_server:call({calc, Py}, pid),
        M = monitor(process, Pid),
        Request = gen_server:send_request(Pid, {sleep, 15000, x}), exit(Pid, enough),
        {gen_server:receive_response(Request, infinity), interop_peer:got()} =:=
            {{error, {enough, Pid}}, {'DOWN', M, process, Pid, enough}}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_it_sends_exit_2(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), {S, M} = spawn_monitor(interop_peer, sleeper, []),
        ok = interop_peer:cmd(P, {exit_signal, S, {go, away}}),
        interop_peer:got() =:= {'DOWN', M, process, S, {go, away}}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_it_sends_kill(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), {S, M} = spawn_monitor(interop_peer, trapper, []),
        ok = interop_peer:cmd(P, {exit_signal, S, kill}), interop_peer:got() =:= {'DOWN', M, process, S, killed}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_it_sends_exit_2_to_a_trapping_process(beam: Beam, subject) -> None:
    text = (
        SEEN
        + """
        P = interop_peer:puppet(Py), S = spawn(interop_peer, trapper, []),
        [] = Seen(S),
        ok = interop_peer:cmd(P, {exit_signal, S, normal}), ok = interop_peer:cmd(P, {exit_signal, S, x}),
        Seen(S) =:= [{'EXIT', P, normal}, {'EXIT', P, x}]
        """
    )
    assert beam.eval(text, Py=subject.name) == "true"


# -- the node under test links -----------------------------------------------------------------------


def test_it_links_and_its_exit_ends_the_beam_process(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), {S, M} = spawn_monitor(interop_peer, sleeper, []),
        ok = interop_peer:cmd(P, {link, S}), interop_peer:tell(P, {exit, bye}),
        interop_peer:got() =:= {'DOWN', M, process, S, bye}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_it_links_and_the_beam_process_traps(beam: Beam, subject) -> None:
    text = (
        SEEN
        + """
        P = interop_peer:puppet(Py), S = spawn(interop_peer, trapper, []),
        [] = Seen(S),
        ok = interop_peer:cmd(P, {link, S}), interop_peer:tell(P, finish), {P, _} = interop_peer:down(P),
        Seen(S) =:= [{'EXIT', P, normal}]
        """
    )
    assert beam.eval(text, Py=subject.name) == "true"


def test_it_links_and_traps(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), ok = interop_peer:cmd(P, {trap_exit, true}),
        S = spawn(interop_peer, sleeper, []), ok = interop_peer:cmd(P, {link, S}), exit(S, kill),
        interop_peer:got() =:= {puppet, P, {'EXIT', S, killed}}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_it_links_to_a_dead_pid(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), ok = interop_peer:cmd(P, {trap_exit, true}),
        {S, M} = spawn_monitor(fun() -> ok end), {'DOWN', M, _, _, _} = interop_peer:got(),
        ok = interop_peer:cmd(P, {link, S}), interop_peer:got() =:= {puppet, P, {'EXIT', S, noproc}}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_it_sees_noconnection(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), ok = interop_peer:cmd(P, {trap_exit, true}),
        S = spawn(interop_peer, sleeper, []), ok = interop_peer:cmd(P, {link, S}),
        erlang:disconnect_node(Py), interop_peer:got() =:= {puppet, P, {'EXIT', S, noconnection}}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_nothing_comes_after_its_end(beam: Beam, subject) -> None:
    """A process that links to a dead one of its own node, and does not trap, is gone at once: what its code still does
    is not seen after its DOWN."""
    text = """
        [P, Q, R] = [interop_peer:puppet(Py) || _ <- [1, 2, 3]],
        interop_peer:tell(Q, finish), {Q, _} = interop_peer:down(Q),
        M = monitor(process, P),
        P ! {cmd, self(), late_answer, {link, Q}},
        {'DOWN', M, process, P, Reason} = interop_peer:got(),
        ok = interop_peer:cmd(R, ping),
        {case Reason of {noproc, _} -> noproc; _ -> Reason end, interop_peer:all()}
        """
    assert beam.eval(text, Py=subject.name) == "{noproc,[]}"


# -- unlink ------------------------------------------------------------------------------------------


def test_beam_unlinks(beam: Beam, subject) -> None:
    text = """
        process_flag(trap_exit, true),
        P = interop_peer:puppet(Py), link(P), unlink(P), M = monitor(process, P),
        interop_peer:tell(P, {exit, bye}), {'DOWN', M, process, P, bye} = interop_peer:got(), interop_peer:all()
        """
    assert beam.eval(text, Py=subject.name) == "[]"


def test_it_unlinks(beam: Beam, subject) -> None:
    text = (
        SEEN
        + """
        P = interop_peer:puppet(Py), S = spawn(interop_peer, trapper, []), [] = Seen(S),
        ok = interop_peer:cmd(P, {link, S}), ok = interop_peer:cmd(P, {unlink, S}),
        interop_peer:tell(P, {exit, bye}), {P, _} = interop_peer:down(P),
        Seen(S)
        """
    )
    assert beam.eval(text, Py=subject.name) == "[]"


def test_link_unlink_link(beam: Beam, subject) -> None:
    """The last link counts although an acknowledgement of the unlink may still be on its way."""
    text = """
        process_flag(trap_exit, true),
        lists:usort([begin
             P = interop_peer:puppet(Py), link(P), unlink(P), link(P),
             interop_peer:tell(P, {exit, {bye, N}}),
             {'EXIT', P, {bye, N}} = interop_peer:got(), ok
         end || N <- lists:seq(1, 100)]) ++ interop_peer:all()
        """
    assert beam.eval(text, Py=subject.name) == "[ok]"


def test_it_links_unlinks_links(beam: Beam, subject) -> None:
    text = """
        lists:usort([begin
             P = interop_peer:puppet(Py), {S, M} = spawn_monitor(interop_peer, sleeper, []),
             Me = self(),
             [P ! {cmd, Me, x, Op} || Op <- [{link, S}, {unlink, S}, {link, S}]],
             [receive {x, ok} -> ok end || _ <- [1, 2, 3]],
             interop_peer:tell(P, {exit, {bye, N}}),
             receive {'DOWN', M, process, S, {bye, N}} -> ok after 20000 -> not_linked end
         end || N <- lists:seq(1, 50)]) ++ interop_peer:all()
        """
    assert beam.eval(text, Py=subject.name) == "[ok]"


def test_unlink_race(beam: Beam, subject) -> None:
    """unlink/1 while the exit of the other side is on its way: afterwards no EXIT comes, as unlink/1 promises."""
    text = """
        process_flag(trap_exit, true),
        Late = [begin
             P = interop_peer:puppet(Py), link(P),
             interop_peer:tell(P, {exit, bye}),
             _ = [ok || _ <- lists:seq(1, N * 20)],
             unlink(P), receive {'EXIT', P, _} -> true after 0 -> true end,
             {P, _} = interop_peer:down(P),
             [Message || {'EXIT', From, _} = Message <- interop_peer:all(), From =:= P]
         end || N <- lists:seq(1, 100)],
        lists:append(Late)
        """
    assert beam.eval(text, Py=subject.name) == "[]"


def test_both_unlink_at_once(beam: Beam, subject) -> None:
    text = """
        process_flag(trap_exit, true),
        lists:usort([begin
             P = interop_peer:puppet(Py), link(P), P ! {cmd, self(), x, {unlink, self()}}, unlink(P),
             receive {x, ok} -> ok end,
             interop_peer:tell(P, {exit, bye}), {P, _} = interop_peer:down(P), interop_peer:all()
         end || _ <- lists:seq(1, 50)])
        """
    assert beam.eval(text, Py=subject.name) == "[[]]"


def test_unlink_of_a_dead_pid(beam: Beam, subject) -> None:
    """Its acknowledgement comes from the node, not from the process: a link made later is not disturbed."""
    text = """
        process_flag(trap_exit, true),
        P = interop_peer:puppet(Py), link(P), interop_peer:tell(P, finish), {P, _} = interop_peer:down(P),
        unlink(P), receive {'EXIT', P, normal} -> ok after 0 -> ok end,
        link(P), interop_peer:got() =:= {'EXIT', P, noproc}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_group_leader_of_it(beam: Beam, subject) -> None:
    """GROUP_LEADER, a rare control message, is taken without harm."""
    text = "P = interop_peer:puppet(Py), group_leader(self(), P), interop_peer:cmd(P, ping)"
    assert beam.eval(text, Py=subject.name) == "ok"
