%% The tests' way into a BEAM: evaluates Erlang text that comes over a loopback TCP socket and sends the result
%% back. It is not distributed Erlang, on purpose: what is under test must not be what the test relies on.
%%
%% The BEAM connects to the test (so there is no port to find and no moment at which it is not ready); when the
%% socket closes, the BEAM halts: no test can leave one behind.
%%
%% Frames have a 4-byte length. A request is <<Id:32, Mode, Text/utf8>>, an answer <<Id:32, Status, Data>>.
%% Mode: $p the value printed on one line; $b the value in the external term format; $x Elixir text, inspected.
%% Status: $o a value; $e the text of an exception. Every request runs in a process of its own.
-module(interop_ctl).
-export([start/1]).

start([Port]) when is_list(Port) -> start(list_to_integer(Port));
start([Port]) -> start(Port);
start(Port) when is_integer(Port) ->
    Parent = self(),
    spawn(fun() -> init(Port, Parent) end),
    receive interop_ctl_ready -> ok end.

init(Port, Parent) ->
    register(interop_ctl, self()),
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {packet, 4}, {active, true}, {nodelay, true}]),
    Hello = io_lib:format("~s ~s", [erlang:system_info(otp_release), node()]),
    ok = gen_tcp:send(Socket, [<<0:32, $o>>, Hello]),
    Parent ! interop_ctl_ready,
    loop(Socket, #{}).

loop(Socket, Running) ->
    receive
        {tcp, Socket, <<Id:32, Mode, Text/binary>>} ->
            {Pid, Monitor} = spawn_monitor(fun() -> exit({interop_answer, run(Mode, Text)}) end),
            loop(Socket, Running#{Monitor => {Id, Pid}});
        {'DOWN', Monitor, process, _, Reason} when is_map_key(Monitor, Running) ->
            {{Id, _}, Rest} = maps:take(Monitor, Running),
            Answer = case Reason of
                         {interop_answer, {Status, Data}} -> [Status | Data];
                         _ -> [$e | print({exit_signal, Reason})]
                     end,
            ok = gen_tcp:send(Socket, [<<Id:32>> | Answer]),
            loop(Socket, Rest);
        {tcp_closed, Socket} ->
            erlang:halt(0, [{flush, false}]);
        {tcp_error, Socket, _} ->
            erlang:halt(1, [{flush, false}]);
        _ ->
            loop(Socket, Running)
    end.

run(Mode, Text) ->
    try
        Value = evaluate(Mode, Text),
        {$o, result(Mode, Value)}
    catch
        Class:Reason:Stack ->
            {$e, print({Class, Reason, Stack})}
    end.

evaluate($x, Text) ->
    {Value, _} = 'Elixir.Code':eval_string(Text),
    Value;
evaluate(_, Text) ->
    {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(Text) ++ "\n."),
    {ok, Exprs} = erl_parse:parse_exprs(Tokens),
    {value, Value, _} = erl_eval:exprs(Exprs, erl_eval:new_bindings()),
    Value.

result($p, Value) -> print(Value);
result($b, Value) -> term_to_binary(Value);
result($x, Value) -> 'Elixir.Kernel':inspect(Value).

print(Value) -> unicode:characters_to_binary(io_lib:format("~0tp", [Value])).
