%% A gen_server on a BEAM for the tests of LINGs behind the gateway.
-module(ling_server).
-behaviour(gen_server).
-export([start/0, stop/0, calls/2]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

start() ->
    {ok, _} = gen_server:start({local, ?MODULE}, ?MODULE, [], []),
    ok.

stop() ->
    gen_server:stop(?MODULE).

%% So many calls {echo, N} to somebody, one after the other: how many answers were right.
calls(To, Count) ->
    length([N || N <- lists:seq(1, Count), gen_server:call(To, {echo, N}, 30000) =:= N]).

init([]) -> {ok, []}.

handle_call({echo, Term}, _From, State) -> {reply, Term, State};
handle_call({double, N}, _From, State) -> {reply, {double, 2 * N}, State};
handle_call(whoami, _From, State) -> {reply, self(), State};
handle_call(silence, _From, State) -> {noreply, State};
handle_call(late, From, State) -> {noreply, [From | State]};
handle_call(now, _From, State) ->
    [gen_server:reply(From, late) || From <- State],
    {reply, length(State), []};
handle_call({ask, To, Request}, From, State) ->
    spawn(fun() -> gen_server:reply(From, gen_server:call(To, Request)) end),
    {noreply, State}.

handle_cast(_, State) -> {noreply, State}.

handle_info({From, Term}, State) when is_pid(From) -> From ! {self(), Term}, {noreply, State};
handle_info(_, State) -> {noreply, State}.
