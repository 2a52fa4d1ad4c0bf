%% The straw benchmark's part in a BEAM: the application straw as it comes, and the peer's names as processes here.
%% The load is bench_client's and bench_peer's, the same as over TCP.
-module(bench_straw).
-export([start/0, join/3]).

%% The peer: `erl -straw host ... domid ... -run bench_straw start`.
start() ->
    {ok, _} = application:ensure_all_started(straw),
    [ok = strawman:export(Name) || Name <- [echo, calc, sink]],
    bench_peer:start().

%% The client: Names of that domain can be called here under Prefix_Name.
join(Prefix, Domid, Names) ->
    {ok, _} = application:ensure_all_started(straw),
    [begin
        {ok, Pid} = strawman:proxy(Domid, Name),
        register(list_to_atom(lists:concat([Prefix, "_", Name])), Pid)
     end || Name <- Names],
    [].
