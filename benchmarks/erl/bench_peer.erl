%% The BEAM peer of the distribution benchmark: echo, calc and sink as an Erlang program would write them.
%%
%% Not the load: bench_client.erl.
-module(bench_peer).
-behaviour(gen_server).
-export([start/0, init/1, handle_call/3, handle_cast/2, handle_info/2]).

start() ->
    register(echo, spawn(fun echo/0)),
    {ok, _} = gen_server:start({local, calc}, ?MODULE, [], []),
    {ok, _} = gen_server:start({local, sink}, ?MODULE, [], []),
    io:format("ready~n").

echo() ->
    receive
        {From, Ref, Payload} -> From ! {Ref, Payload}, echo();
        _ -> echo()
    end.

init([]) -> {ok, 0}.

handle_call({add, A, B}, _From, N) -> {reply, A + B, N};
handle_call({echo, Term}, _From, N) -> {reply, Term, N};
handle_call(count, _From, N) -> {reply, N, 0}.

handle_cast(_, N) -> {noreply, N + 1}.

handle_info(_, N) -> {noreply, N}.
