"""rpc and erpc of a BEAM into functions that the node under test exports, and what it must refuse."""

from __future__ import annotations

import pytest
from beamkit.beam import Beam

# Evaluates F() to {class, Reason} or {value, V}.
CATCH = """
    Try = fun(F) -> try F() of V -> {value, V} catch C:R -> {C, R} end end,
    """
RAISED = "{python, 'ValueError', <<\"no good\">>}"


def test_rpc_call(beam: Beam, subject) -> None:
    assert beam.eval("rpc:call(Py, math, sqrt, [16.0])", Py=subject.name) == "4.0"
    assert beam.eval("rpc:call(Py, py, add, [1 bsl 70, 1])", Py=subject.name) == str((1 << 70) + 1)


def test_rpc_call_keeps_terms(beam: Beam, subject) -> None:
    text = """
        Terms = [a, "str", <<"b">>, [1|2], #{[1] => 2}, self(), make_ref(), {error, x}, {badrpc, y}, [],
                 fun lists:map/2],
        [T || T <- Terms, rpc:call(Py, py, ident, [T]) =/= T]
        """
    assert beam.eval(text, Py=subject.name) == "[]"


def test_rpc_call_of_a_function_without_a_result(beam: Beam, subject) -> None:
    assert beam.eval("rpc:call(Py, py, nothing, [])", Py=subject.name) == "undefined"


def test_rpc_call_that_raises(beam: Beam, subject) -> None:
    text = f"""
        {{badrpc, {{'EXIT', {{Reason, [{{_, _, _, _}} | _]}}}}}} = rpc:call(Py, py, raise, [<<"no good">>]),
        Reason =:= {RAISED}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_rpc_call_that_times_out(beam: Beam, subject) -> None:
    assert beam.eval("rpc:call(Py, py, sleep, [3000, x], 50)", Py=subject.name) == "{badrpc,timeout}"
    assert beam.eval("rpc:call(Py, py, add, [1, 2], 20000)", Py=subject.name) == "3"


@pytest.mark.parametrize("mfa", ["nomod, f, [1]", "py, nofun, []", "py, add, [1]", "py, add, [1, 2, 3]"])
def test_rpc_call_of_what_is_not_there(beam: Beam, subject, mfa: str) -> None:
    """Unknown module, function or arity: undef, with the call in the stack."""
    module, function, args = mfa.split(", ", 2)
    text = f"""
        {{badrpc, {{'EXIT', {{undef, [{{{module}, {function}, Args, _}} | _]}}}}}} = rpc:call(Py, {mfa}),
        Args =:= {args} orelse Args =:= length({args})
        """
    assert beam.eval(text, Py=subject.name) == "true"


NOT_EXPORTED = [
    'os, cmd, ["id"]', 'os, system, [<<"id">>]', "os, getpid, []", "builtins, eval, [<<\"1\">>]", "sys, exit, [1]",
    "erlang, halt, []", "erlang, node, []", "erlang, apply, [math, sqrt, [4.0]]", "init, stop, []",
    "math, cos, [0.0]", "py, '__class__', []", "subprocess, run, [[]]", "code, all_loaded, []",
    "erl_eval, exprs, [[], []]", "'', '', []",
]  # fmt: skip


@pytest.mark.parametrize("mfa", NOT_EXPORTED)
def test_only_exports_can_be_called(beam: Beam, subject, python_only: None, mfa: str) -> None:
    """Nothing is importable from the wire, nothing of Erlang's is there by itself."""
    module, function, _ = mfa.split(", ", 2)
    text = f"""
        {{badrpc, {{'EXIT', {{undef, [{{{module}, {function}, _, _}} | _]}}}}}} = rpc:call(Py, {mfa}),
        {{'EXIT', {{{{exception, undef, [{{{module}, {function}, _, _}} | _]}}, _}}}} = (catch erpc:call(Py, {mfa})),
        ok
        """
    assert beam.eval(text, Py=subject.name) == "ok"


@pytest.mark.parametrize("old", ["call", "block_call"])
def test_rex(beam: Beam, subject, old: str) -> None:
    """rpc as ei, Jinterface, erl_call and block_call use it: a gen_server call of rex."""
    call = f"gen_server:call({{rex, Py}}, {{{old}, M, F, A, group_leader()}}, 20000)"
    text = f"Rex = fun(M, F, A) -> {call} end, {{Rex(py, add, [1, 2]), Rex(nomod, f, [])}}"
    found = beam.eval(text, Py=subject.name)
    assert found.startswith("{3,{badrpc,{'EXIT',{undef,[{nomod,f,[],[]}")


def test_rex_that_raises(beam: Beam, subject) -> None:
    text = """
        {badrpc, {'EXIT', {Reason, [{_, _, _, _} | _]}}} =
            gen_server:call({rex, Py}, {call, py, raise, [<<"no good">>], group_leader()}, 20000),
        Reason
        """
    assert beam.eval(text, Py=subject.name) == "{python,'ValueError',<<\"no good\">>}"


def test_block_call(beam: Beam, subject) -> None:
    assert beam.eval("rpc:block_call(Py, py, add, [1, 2])", Py=subject.name) == "3"


def test_rex_casts(beam: Beam, subject) -> None:
    text = """
        gen_server:cast({rex, Py}, {cast, py, record, [old], group_leader()}),
        rpc:cast(Py, py, record, [new]), rpc:cast(Py, nomod, f, []), rpc:cast(Py, py, raise, [<<"x">>]),
        erpc:cast(Py, py, record, [erpc]),
        Try = fun Try() -> case lists:sort(rpc:call(Py, py, recorded, [])) of
                               L when length(L) < 3 -> timer:sleep(10), Try();
                               L -> L
                           end end,
        Try()
        """
    assert beam.eval(text, Py=subject.name) == "[erpc,new,old]"


def test_rex_tells_its_features(beam: Beam, subject) -> None:
    """OTP 25 asks rex at nodeup whether it may use erpc."""
    text = "{rex, Py} ! {self(), features_request}, interop_peer:got() =:= {features_reply, Py, [erpc]}"
    assert beam.eval(text, Py=subject.name) == "true"


def test_rpc_async_call(beam: Beam, subject) -> None:
    text = """
        Keys = [rpc:async_call(Py, py, add, [N, N]) || N <- lists:seq(1, 30)],
        lists:sum([rpc:yield(K) || K <- Keys])
        """
    assert beam.eval(text, Py=subject.name) == str(30 * 31)


def test_rpc_multicall(beam: Beam, subject) -> None:
    text = "rpc:multicall([Py, 'nonode@127.0.0.1', Py], py, add, [1, 2])"
    assert beam.eval(text, Py=subject.name) == "{[3,3],['nonode@127.0.0.1']}"


def test_rpc_abcast_and_sbcast(beam: Beam, subject) -> None:
    """sbcast asks rex whether the name is there."""
    text = """
        abcast = rpc:abcast([Py], calc, one),
        {Good, Bad} = rpc:sbcast([Py], calc, two),
        {_, NoName} = rpc:sbcast([Py], nobody, three),
        {Good, Bad, NoName, gen_server:call({calc, Py}, notes)} =:= {[Py], [], [Py], [{info, one}, {info, two}]}
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_rpc_pmap(beam: Beam, subject) -> None:
    """rpc:parallel_eval asks the nodes that it knows (a hidden one is not among them): nothing breaks."""
    assert beam.eval("pong = net_adm:ping(Py), rpc:parallel_eval([{erlang, abs, [-1]}])", Py=subject.name) == "[1]"


def test_rpc_when_the_connection_breaks(beam: Beam, subject) -> None:
    text = """
        Key = rpc:async_call(Py, py, sleep, [2000, x]),
        3 = rpc:call(Py, py, add, [1, 2]),
        erlang:disconnect_node(Py), rpc:yield(Key)
        """
    assert beam.eval(text, Py=subject.name) == "{badrpc,nodedown}"


# -- erpc --------------------------------------------------------------------------------------------


def test_erpc_call(beam: Beam, subject) -> None:
    assert beam.eval("erpc:call(Py, py, add, [1, 2])", Py=subject.name) == "3"
    assert beam.eval("erpc:call(Py, py, add, [1, 2], 20000)", Py=subject.name) == "3"


def test_erpc_call_that_raises(beam: Beam, subject) -> None:
    text = (
        CATCH
        + f"""
        {{error, {{exception, Reason, [{{_, _, _, _}} | _]}}}} =
            Try(fun() -> erpc:call(Py, py, raise, [<<"no good">>]) end),
        Reason =:= {RAISED}
        """
    )
    assert beam.eval(text, Py=subject.name) == "true"


def test_erpc_call_that_times_out(beam: Beam, subject) -> None:
    text = CATCH + "Try(fun() -> erpc:call(Py, py, sleep, [2000, x], 50) end)"
    assert beam.eval(text, Py=subject.name) == "{error,{erpc,timeout}}"


def test_erpc_call_of_what_is_not_there(beam: Beam, subject) -> None:
    text = (
        CATCH
        + """
        [begin {error, {exception, undef, [{M, F, _, _} | _]}} = Try(fun() -> erpc:call(Py, M, F, A) end), ok end
         || {M, F, A} <- [{nomod, f, [1]}, {py, nofun, []}, {py, add, [1]}]]
        """
    )
    assert beam.eval(text, Py=subject.name) == "[ok,ok,ok]"


def test_erpc_call_of_a_fun(beam: Beam, subject) -> None:
    """A fun of a module that the other node does not have is undef there."""
    text = (
        CATCH
        + """
        {error, {exception, undef, [_ | _]}} = Try(fun() -> erpc:call(Py, interop_local:fun0()) end), ok
        """
    )
    assert beam.eval(text, Py=subject.name) == "ok"


def test_erpc_call_of_an_exported_external_fun(beam: Beam, subject) -> None:
    """fun py:nothing/0 is exported there: it runs; fun nomod:f/0 is undef."""
    text = (
        CATCH
        + """
        {value, undefined} = Try(fun() -> erpc:call(Py, fun py:nothing/0) end),
        {error, {exception, undef, [{nomod, f, _, _} | _]}} = Try(fun() -> erpc:call(Py, fun nomod:f/0) end), ok
        """
    )
    assert beam.eval(text, Py=subject.name) == "ok"


def test_erpc_call_of_an_evaluated_fun(beam: Beam, subject, python_only: None) -> None:
    """A fun of the shell is one of erl_eval, which every BEAM has, and a Python node has not."""
    text = CATCH + "{error, {exception, undef, _}} = Try(fun() -> erpc:call(Py, fun() -> ran end) end), ok"
    assert beam.eval(text, Py=subject.name) == "ok"


def test_erpc_send_request(beam: Beam, subject) -> None:
    text = """
        Ids = [erpc:send_request(Py, py, add, [N, N]) || N <- lists:seq(1, 30)],
        lists:sum([erpc:receive_response(Id, 20000) || Id <- Ids])
        """
    assert beam.eval(text, Py=subject.name) == str(30 * 31)


def test_erpc_send_request_that_raises(beam: Beam, subject) -> None:
    text = (
        CATCH
        + """
        Id = erpc:send_request(Py, py, raise, [<<"no good">>]),
        {error, {exception, {python, 'ValueError', _}, _}} = Try(fun() -> erpc:receive_response(Id, 20000) end),
        Late = erpc:send_request(Py, py, sleep, [2000, x]),
        Try(fun() -> erpc:receive_response(Late, 20) end)
        """
    )
    assert beam.eval(text, Py=subject.name) == "{error,{erpc,timeout}}"


def test_erpc_multicall(beam: Beam, subject) -> None:
    text = "erpc:multicall([Py, 'nonode@127.0.0.1'], py, add, [1, 2])"
    assert beam.eval(text, Py=subject.name) == "[{ok,3},{error,{erpc,noconnection}}]"


def test_erpc_multicall_that_raises(beam: Beam, subject) -> None:
    text = '[{error, {exception, Reason, _}}] = erpc:multicall([Py], py, raise, [<<"x">>]), Reason'
    assert beam.eval(text, Py=subject.name) == "{python,'ValueError',<<\"x\">>}"


def test_erpc_multicast(beam: Beam, subject) -> None:
    text = """
        ok = erpc:multicast([Py, Py], py, record, [many]),
        Try = fun Try() -> case rpc:call(Py, py, recorded, []) of
                               [many, many] -> ok;
                               _ -> timer:sleep(10), Try()
                           end end,
        Try()
        """
    assert beam.eval(text, Py=subject.name) == "ok"


def test_erpc_when_the_connection_breaks(beam: Beam, subject) -> None:
    text = (
        CATCH
        + """
        Id = erpc:send_request(Py, py, sleep, [2000, x]), 3 = erpc:call(Py, py, add, [1, 2]),
        erlang:disconnect_node(Py), Try(fun() -> erpc:receive_response(Id, 20000) end)
        """
    )
    assert beam.eval(text, Py=subject.name) == "{error,{erpc,noconnection}}"


def test_a_blocking_function_stalls_nobody(beam: Beam, subject) -> None:
    """While py:sleep blocks its thread, the node answers others."""
    text = """
        Slow = erpc:send_request(Py, py, sleep, [1500, slow]),
        [3 = rpc:call(Py, py, add, [1, 2]) || _ <- lists:seq(1, 20)],
        [3 = gen_server:call({calc, Py}, {add, 1, 2}) || _ <- lists:seq(1, 20)],
        no_response = erpc:wait_response(Slow, 0),
        erpc:receive_response(Slow, 20000)
        """
    assert beam.eval(text, Py=subject.name) == "slow"


def test_blocking_functions_run_at_once(beam: Beam, subject) -> None:
    """The first does not have to end before the second begins: it could not, it waits for it."""
    text = """
        A = erpc:send_request(Py, py, sleep, [1000, a]), B = erpc:send_request(Py, py, sleep, [1, b]),
        b = erpc:receive_response(B, 20000), no_response = erpc:wait_response(A, 0), erpc:receive_response(A, 20000)
        """
    assert beam.eval(text, Py=subject.name) == "a"


def test_a_large_argument_and_result(beam: Beam, subject) -> None:
    text = "B = binary:copy(<<1,2,3,4>>, 500000), B =:= erpc:call(Py, py, ident, [B])"
    assert beam.eval(text, Py=subject.name) == "true"


# -- spawn/4 and its relatives -----------------------------------------------------------------------


def test_spawn_of_an_export(beam: Beam, subject) -> None:
    """The remote process ends with `normal`, whatever the function returns."""
    text = """
        {P, M} = spawn_monitor(Py, py, add, [1, 2]),
        {true, {'DOWN', M, process, P, normal}} = {node(P) =:= Py, interop_peer:got()}, ok
        """
    assert beam.eval(text, Py=subject.name) == "ok"


def test_spawn_and_record(beam: Beam, subject) -> None:
    text = """
        P = spawn(Py, py, record, [spawned]), interop_peer:down(P), {node(P) =:= Py, rpc:call(Py, py, recorded, [])}
        """
    assert beam.eval(text, Py=subject.name) == "{true,[spawned]}"


def test_spawn_link_that_raises(beam: Beam, subject) -> None:
    text = """
        process_flag(trap_exit, true),
        P = spawn_link(Py, py, raise, [<<"no good">>]),
        {'EXIT', P, {{python, 'ValueError', <<"no good">>}, [{_, _, _, _} | _]}} = interop_peer:got(), ok
        """
    assert beam.eval(text, Py=subject.name) == "ok"


def test_spawn_of_what_is_not_there(beam: Beam, subject) -> None:
    text = """
        logger:set_primary_config(level, none),
        {P, M} = spawn_monitor(Py, nomod, f, [1]),
        {'DOWN', M, process, P, {undef, [{nomod, f, [1], _} | _]}} = interop_peer:got(), ok
        """
    assert beam.eval(text, Py=subject.name) == "ok"


def test_spawn_of_a_fun_is_refused(beam: Beam, subject) -> None:
    text = """
        {P, M} = spawn_monitor(Py, interop_local:fun0()),
        {'DOWN', M, process, P, {undef, [_ | _]}} = interop_peer:got(), ok
        """
    assert beam.eval(text, Py=subject.name) == "ok"


def test_spawn_request(beam: Beam, subject) -> None:
    """With a reply, and options that it may not know are answered, not ignored in silence."""
    text = """
        R = spawn_request(Py, py, add, [1, 2], [monitor, {reply_tag, my_tag}]),
        {my_tag, R, ok, P} = interop_peer:got(),
        {'DOWN', R, process, P, normal} = interop_peer:got(), ok
        """
    assert beam.eval(text, Py=subject.name) == "ok"


def test_exit_of_a_spawned_process(beam: Beam, subject) -> None:
    """The BEAM may end what it started."""
    text = """
        {P, M} = spawn_monitor(Py, py, sleep, [15000, x]), exit(P, kill),
        interop_peer:got() =:= {'DOWN', M, process, P, killed}
        """
    assert beam.eval(text, Py=subject.name) == "true"
