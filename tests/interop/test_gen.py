"""A BEAM's gen_server calls, casts and plain messages to named processes of the node under test."""

from __future__ import annotations

import pytest
from beamkit.beam import Beam, BeamError, Erl


def test_call(beam: Beam, subject) -> None:
    assert beam.eval("gen_server:call({calc, Py}, {add, 1, 2})", Py=subject.name) == "3"


def test_call_by_pid(beam: Beam, subject) -> None:
    text = "Pid = gen_server:call({calc, Py}, pid), {Py =:= node(Pid), gen_server:call(Pid, {add, 1, 2})}"
    assert beam.eval(text, Py=subject.name) == "{true,3}"


def test_call_returns_the_term_that_was_sent(beam: Beam, subject) -> None:
    text = """
        Terms = [1, -1, 1.5, atom, 'å', <<"bin">>, <<5:3>>, [], [1,2|3], "abc", {}, {a,{b}}, #{}, #{1 => a, 1.0 => b},
                 self(), make_ref(), fun erlang:abs/1, 1 bsl 100, true, undefined, nil],
        [T || T <- Terms, gen_server:call({calc, Py}, {echo, T}) =/= T]
        """
    assert beam.eval(text, Py=subject.name) == "[]"


def test_many_calls_of_one_process(beam: Beam, subject) -> None:
    text = "[3 = gen_server:call({calc, Py}, {add, 1, 2}) || _ <- lists:seq(1, 500)], interop_peer:all()"
    assert beam.eval(text, Py=subject.name) == "[]"


def test_calls_of_many_processes(beam: Beam, subject) -> None:
    text = """
        Parent = self(),
        Pids = [spawn_link(fun() -> Parent ! {self(), [gen_server:call({calc, Py}, {add, N, M}) - N - M
                                                       || M <- lists:seq(1, 20)]} end)
                || N <- lists:seq(1, 50)],
        lists:usort(lists:append([receive {P, L} -> L end || P <- Pids]))
        """
    assert beam.eval(text, Py=subject.name) == "[0]"


def test_call_answered_later(beam: Beam, subject) -> None:
    """{noreply, ...} and a reply when the server is free for others."""
    text = """
        Parent = self(),
        spawn_link(fun() -> Parent ! {late, gen_server:call({calc, Py}, {later, 300, done})} end),
        3 = gen_server:call({calc, Py}, {add, 1, 2}),
        receive {late, V} -> V end
        """
    assert beam.eval(text, Py=subject.name) == "done"


def test_one_message_at_a_time(beam: Beam, subject) -> None:
    """Also while a handler awaits: the second call is answered after the first."""
    text = """
        R1 = gen_server:send_request({calc, Py}, {sleep, 200, first}),
        R2 = gen_server:send_request({calc, Py}, {add, 1, 2}),
        {reply, 3} = gen_server:wait_response(R2, 20000),
        gen_server:receive_response(R1, 0)
        """
    assert beam.eval(text, Py=subject.name) == "{reply,first}"


def test_call_times_out_in_the_beam(beam: Beam, subject) -> None:
    text = """
        try gen_server:call({calc, Py}, never, 100) catch exit:{Reason, _} -> Reason end
        """
    assert beam.eval(text, Py=subject.name) == "timeout"


def test_a_late_reply_does_not_reach_the_caller(beam: Beam, subject) -> None:
    """Its alias is gone; the server lives on."""
    text = """
        timeout = try gen_server:call({calc, Py}, {later, 150, late}, 20) catch exit:{R, _} -> R end,
        done = gen_server:call({calc, Py}, {later, 300, done}),
        interop_peer:all()
        """
    assert beam.eval(text, Py=subject.name) == "[]"


def test_call_of_a_name_that_nobody_has(beam: Beam, subject) -> None:
    """noproc at once; the infinite timeout is never waited for."""
    text = "try gen_server:call({nobody, Py}, hello, infinity) catch exit:Reason -> Reason end"
    found = beam.eval(text, Py=subject.name)
    assert found == f"{{noproc,{{gen_server,call,[{{nobody,'{subject.name}'}},hello,infinity]}}}}"


def test_call_of_a_dead_pid(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py), interop_peer:tell(P, finish), {P, _} = interop_peer:down(P),
        try gen_server:call(P, hello, infinity) catch exit:{Reason, _} -> Reason end
        """
    assert beam.eval(text, Py=subject.name) == "noproc"


def test_call_of_a_node_that_is_not_there(beam: Beam, subject) -> None:
    text = "try gen_server:call({calc, 'nonode@127.0.0.1'}, hello, infinity) catch exit:{Reason, _} -> Reason end"
    assert beam.eval(text) == "{nodedown,'nonode@127.0.0.1'}"


def test_server_stops_with_a_reply(beam: Beam, subject) -> None:
    """The reply, then DOWN with the reason; restart="permanent" brings a new one under the name."""
    text = """
        Pid = gen_server:call({calc, Py}, pid),
        M = monitor(process, Pid),
        bye = gen_server:call({calc, Py}, {stop, normal, bye}),
        receive {'DOWN', M, process, Pid, Reason} -> Reason end
        """
    assert beam.eval(text, Py=subject.name) == "normal"
    assert new_calc(beam, subject) == "3"


def new_calc(beam: Beam, subject) -> str:
    """The answer of the restarted server; between stop and restart noproc is right."""
    return beam.eval(
        """
        Try = fun Try() ->
                  try gen_server:call({calc, Py}, {add, 1, 2})
                  catch exit:{noproc, _} -> timer:sleep(10), Try() end
              end,
        Try()
        """,
        Py=subject.name,
    )


def test_server_stops_without_a_reply(beam: Beam, subject) -> None:
    text = "try gen_server:call({calc, Py}, {stop, {shutdown, why}}) catch exit:{Reason, _} -> Reason end"
    assert beam.eval(text, Py=subject.name) == "{shutdown,why}"
    assert new_calc(beam, subject) == "3"


def test_server_raises(beam: Beam, subject) -> None:
    """The caller sees the exit with reason and stack; then a new one is there."""
    text = """
        try gen_server:call({calc, Py}, {raise, <<"no good">>})
        catch exit:{{Reason, Stack}, {gen_server, call, _}} -> {Reason, is_list(Stack), length(Stack) > 0} end
        """
    assert beam.eval(text, Py=subject.name) == "{{python,'ValueError',<<\"no good\">>},true,true}"
    assert new_calc(beam, subject) == "3"


def test_a_request_that_no_case_takes(beam: Beam, subject) -> None:
    """None is no answer: the server exits (OTP: function_clause), the caller does not get nil or undefined."""
    text = """
        try gen_server:call({calc, Py}, no_such_request) of Value -> {value, Value}
        catch exit:{{Reason, Stack}, {gen_server, call, _}} when is_list(Stack) -> {exited, Reason} end
        """
    assert beam.eval(text, Py=subject.name).startswith("{exited,")
    assert new_calc(beam, subject) == "3"


def test_cast_and_info(beam: Beam, subject) -> None:
    text = """
        gen_server:cast({calc, Py}, {x, 1}), {calc, Py} ! two, gen_server:cast({calc, Py}, <<"three">>),
        gen_server:abcast([Py], calc, four), erlang:send({calc, Py}, five),
        gen_server:call({calc, Py}, notes)
        """
    want = '[{cast,{x,1}},{info,two},{cast,<<"three">>},{cast,four},{info,five}]'
    assert beam.eval(text, Py=subject.name) == want


def test_multi_call(beam: Beam, subject) -> None:
    """One answers, one node is not there, and this BEAM has no calc."""
    text = """
        {Replies, Bad} = gen_server:multi_call([Py, 'nonode@127.0.0.1', node()], calc, {add, 1, 2}, 20000),
        {Replies =:= [{Py, 3}], lists:sort(Bad) =:= lists:sort(['nonode@127.0.0.1', node()])}
        """
    assert beam.eval(text, Py=subject.name) == "{true,true}"


def test_multi_call_times_out(beam: Beam, subject) -> None:
    text = "gen_server:multi_call([Py], calc, never, 100)"
    assert beam.eval(text, Py=subject.name) == f"{{[],['{subject.name}']}}"


def test_multi_call_of_a_name_that_nobody_has(beam: Beam, subject) -> None:
    text = "gen_server:multi_call([Py], nobody, hello, infinity)"
    assert beam.eval(text, Py=subject.name) == f"{{[],['{subject.name}']}}"


def test_send_request(beam: Beam, subject) -> None:
    text = """
        Ids = [gen_server:send_request({calc, Py}, {add, N, N}) || N <- lists:seq(1, 50)],
        lists:sum([begin {reply, V} = gen_server:receive_response(Id, 20000), V end || Id <- Ids])
        """
    assert beam.eval(text, Py=subject.name) == str(50 * 51)


def test_send_request_to_a_name_that_nobody_has(beam: Beam, subject) -> None:
    text = "gen_server:receive_response(gen_server:send_request({nobody, Py}, hi), infinity)"
    assert beam.eval(text, Py=subject.name) == f"{{error,{{noproc,{{nobody,'{subject.name}'}}}}}}"


def test_gen_call_with_an_old_tag(beam: Beam, subject) -> None:
    """Callers before OTP 24 (and AtomVM, Jinterface) send {'$gen_call', {Pid, Ref}, Request} and get {Ref, Reply}."""
    text = """
        Ref = make_ref(),
        {calc, Py} ! {'$gen_call', {self(), Ref}, {add, 1, 2}},
        receive {Ref, 3} -> ok after 20000 -> no_reply end
        """
    assert beam.eval(text, Py=subject.name) == "ok"


def test_gen_call_for_somebody_else(beam: Beam, subject) -> None:
    """A tag may be any term."""
    text = """
        {calc, Py} ! {'$gen_call', {self(), {my, "tag"}}, {add, 1, 2}},
        receive {{my, "tag"}, 3} -> ok after 20000 -> no_reply end
        """
    assert beam.eval(text, Py=subject.name) == "ok"


def test_named_send_and_its_answer(beam: Beam, subject) -> None:
    text = """
        Ref = make_ref(),
        {echo, Py} ! {self(), Ref, {hello, 'wörld', "text"}},
        receive {Ref, Back} -> Back after 20000 -> no_reply end
        """
    assert beam.eval(text, Py=subject.name) == '{hello,wörld,"text"}'


def test_sends_to_names_and_pids_that_nobody_has(beam: Beam, subject) -> None:
    """They are dropped as on a BEAM; the connection stays."""
    text = """
        [{nobody, Py} ! N || N <- lists:seq(1, 100)],
        P = interop_peer:puppet(Py), interop_peer:tell(P, finish), interop_peer:down(P), P ! hello,
        {interop_peer:echo(Py, fine), interop_peer:all()}
        """
    assert beam.eval(text, Py=subject.name) == "{fine,[]}"


def test_message_of_a_strange_shape_to_echo(beam: Beam, subject) -> None:
    """What a handler does not know is its own business; the next message is answered."""
    text = "{echo, Py} ! <<1>>, {echo, Py} ! [a|b], interop_peer:echo(Py, fine)"
    assert beam.eval(text, Py=subject.name) == "fine"


def test_sends_with_seq_trace(beam: Beam, subject) -> None:
    """Messages that carry a trace token (SEND_TT, REG_SEND_TT) arrive like others."""
    text = """
        seq_trace:set_token(label, 17),
        A = interop_peer:echo(Py, traced),
        B = gen_server:call({calc, Py}, {add, 1, 2}),
        seq_trace:set_token([]),
        {A, B}
        """
    assert beam.eval(text, Py=subject.name) == "{traced,3}"


def test_call_from_a_caller_that_is_killed(beam: Beam, subject) -> None:
    """The reply has nowhere to go; the server lives on."""
    text = """
        {P, M} = spawn_monitor(fun() -> gen_server:call({calc, Py}, {sleep, 200, x}) end),
        timer:sleep(50), exit(P, kill), receive {'DOWN', M, _, _, killed} -> ok end,
        gen_server:call({calc, Py}, {add, 1, 2})
        """
    assert beam.eval(text, Py=subject.name) == "3"


def test_global_lock_is_not_asked(beam: Beam, subject) -> None:
    """A hidden node takes no part in global: names can be registered while it is connected, at once."""
    text = """
        pong = net_adm:ping(Py),
        yes = global:register_name(interop_name, self()),
        global:unregister_name(interop_name)
        """
    assert beam.eval(text, Py=subject.name) in ("ok", "true")


def test_an_unknown_function_text_is_an_error_here(beam: Beam) -> None:
    """The harness itself: an exception in evaluated text is a BeamError with the reason."""
    with pytest.raises(BeamError, match="badarith"):
        beam.eval("1 / Zero", Zero=Erl("0"))
