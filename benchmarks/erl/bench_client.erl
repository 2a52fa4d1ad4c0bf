%% The load generator of the distribution benchmark.
%%
%% Reads one Erlang term a line from standard input, does that row against the node named in it, prints one line
%% "result Key Value Key Value ...". Each row runs in a process of its own that ends with it. Times in microseconds.
-module(bench_client).
-export([start/0]).

start() ->
    io:format("ready~n"),
    loop().

loop() ->
    case io:read('') of
        {ok, Row} ->
            {Pid, Mon} = spawn_monitor(fun() -> exit({result, row(Row)}) end),
            receive
                {'DOWN', Mon, process, Pid, {result, Result}} -> print(Result);
                {'DOWN', Mon, process, Pid, Reason} -> io:format("failed ~0p~n", [Reason])
            end,
            loop();
        eof -> halt(0)
    end.

print(Result) -> io:format("result~s~n", [[io_lib:format(" ~s ~w", [K, V]) || {K, V} <- Result]]).

%% Which rows there are. Size 0 is the small payload.

row({rtt, Node, Name, N, Size}) ->
    To = {Name, Node}, Payload = payload(Size),
    latencies([timed(fun() -> echo(To, Payload) end) || _ <- lists:seq(1, N)]);
row({call, Node, Name, N}) ->
    To = {Name, Node},
    {Total, Times} = total(fun() -> [timed(fun() -> 3 = call(To, {add, 1, 2}) end) || _ <- lists:seq(1, N)] end),
    [{rate, N / Total} | latencies(Times)];
row({callecho, Node, Name, N, Size}) ->
    To = {Name, Node}, Payload = payload(Size),
    {Total, _} = total(fun() -> [Size = byte_size(call(To, {echo, Payload})) || _ <- lists:seq(1, N)] end),
    [{mbs, N * Size / Total / 1.0e6}];
row({calls, Node, Name, N, Procs}) ->
    To = {Name, Node}, Each = N div Procs,
    Work = fun() -> [3 = call(To, {add, 1, 2}) || _ <- lists:seq(1, Each)] end,
    {Total, _} = total(fun() ->
        Mons = [spawn_monitor(Work) || _ <- lists:seq(1, Procs)],
        [receive {'DOWN', M, process, P, Why} -> normal = Why end || {P, M} <- Mons]
    end),
    [{rate, Each * Procs / Total}];
row({pipe, Node, Name, N, Window, Size}) ->
    To = {Name, Node}, Payload = payload(Size),
    {Total, _} = total(fun() -> send_many(To, Payload, Window), pipe(To, Payload, N - Window, N) end),
    [{rate, N / Total}, {mbs, N * Size / Total / 1.0e6}];
row({sink, Node, Name, N, Size}) ->
    To = {Name, Node}, Payload = payload(Size),
    _ = call(To, count),
    {Total, Count} = total(fun() -> casts(To, Payload, N), call(To, count) end),
    N = Count,
    [{rate, N / Total}, {mbs, N * Size / Total / 1.0e6}];
row({rpc, Node, N}) ->
    {Total, Times} = total(fun() ->
        [timed(fun() -> Node = rpc:call(Node, erlang, node, []) end) || _ <- lists:seq(1, N)]
    end),
    [{rate, N / Total} | latencies(Times)];
row({reconnect, Node, Name, N}) ->
    Times = [begin away(Node), timed(fun() -> 3 = call({Name, Node}, {add, 1, 2}) end) end || _ <- lists:seq(1, N)],
    latencies(Times);
row({bye, Node}) -> away(Node), [];
row({apply, Module, Function, Args}) -> apply(Module, Function, Args).

%% What they are made of.

payload(0) -> {add, 1, 2};
payload(Size) -> binary:copy(<<"x">>, Size).

call(To, Request) -> gen_server:call(To, Request, infinity).

echo(To, Payload) ->
    Ref = make_ref(),
    To ! {self(), Ref, Payload},
    receive {Ref, Reply} -> Reply after 10000 -> exit({no_answer, To}) end.

send_many(_, _, 0) -> ok;
send_many(To, Payload, N) -> To ! {self(), N, Payload}, send_many(To, Payload, N - 1).

pipe(_, _, _, 0) -> ok;
pipe(To, Payload, ToSend, ToGet) ->
    receive
        {_, _} when ToSend > 0 -> To ! {self(), ToSend, Payload}, pipe(To, Payload, ToSend - 1, ToGet - 1);
        {_, _} -> pipe(To, Payload, ToSend, ToGet - 1)
    after 30000 -> exit({no_answer, To})
    end.

casts(_, _, 0) -> ok;
casts(To, Payload, N) -> gen_server:cast(To, Payload), casts(To, Payload, N - 1).

away(Node) ->
    erlang:disconnect_node(Node),
    case lists:member(Node, nodes(connected)) of
        true -> timer:sleep(1), away(Node);
        false -> ok
    end.

timed(Fun) ->
    Start = erlang:monotonic_time(nanosecond),
    _ = Fun(),
    (erlang:monotonic_time(nanosecond) - Start) / 1000.

total(Fun) ->
    Start = erlang:monotonic_time(nanosecond),
    Value = Fun(),
    {(erlang:monotonic_time(nanosecond) - Start) / 1.0e9, Value}.

latencies(Times) ->
    Sorted = lists:sort(Times),
    At = fun(Part) -> lists:nth(max(1, ceil(length(Sorted) * Part)), Sorted) end,
    [{p50, At(0.5)}, {p99, At(0.99)}].
