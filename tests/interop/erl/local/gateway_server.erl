%% A gen_server behind the gateway, and callers of one that is beyond it.
-module(gateway_server).
-behaviour(gen_server).
-export([start/1, calls/3, hold/1, ends/1, init/1, handle_call/3, handle_cast/2, handle_info/2]).

start(Name) ->
    {ok, Pid} = gen_server:start({local, Name}, ?MODULE, [], []),
    Pid.

%% Processes callers at once, each of which makes Calls calls and ends; how many answers were right.
calls(To, Processes, Calls) ->
    Tasks = [spawn_monitor(fun() -> exit({right, some(To, N * Calls, Calls)}) end) || N <- lists:seq(1, Processes)],
    lists:sum([receive {'DOWN', M, process, P, {right, N}} -> N; {'DOWN', M, process, P, Why} -> exit(Why) end
               || {P, M} <- Tasks]).

some(_, _, 0) -> 0;
some(To, N, Left) ->
    Double = 2 * N,
    {double, Double} = gen_server:call(To, {double, N}, 20000),
    1 + some(To, N + 1, Left - 1).

%% Links to, monitors and calls a process that never answers, from a process of its own.
hold(To) ->
    Parent = self(),
    spawn(fun() ->
        process_flag(trap_exit, true),
        link(To),
        M = monitor(process, To),
        Me = self(),
        {Caller, C} = spawn_monitor(fun() -> Me ! called, gen_server:call(To, later, infinity) end),
        receive called -> ok end,
        Parent ! {holding, Me},
        Down = receive {'DOWN', M, process, To, Why} -> Why end,
        Exit = receive {'EXIT', To, Why2} -> Why2 end,
        Call = receive {'DOWN', C, process, Caller, {Why3, {gen_server, call, _}}} -> Why3 end,
        receive {ends, Who} -> Who ! {ended, Me, [Down, Exit, Call]} end
    end),
    receive {holding, Pid} -> Pid end.

ends(Holder) ->
    Holder ! {ends, self()},
    receive {ended, _, How} -> How after 20000 -> timeout end.

init([]) -> {ok, []}.

handle_call({double, N}, _, Late) -> {reply, {double, 2 * N}, Late};
handle_call(self, _, Late) -> {reply, self(), Late};
handle_call(node, _, Late) -> {reply, node(), Late};
handle_call(later, From, Late) -> {noreply, [From | Late]};
handle_call(answer, _, Late) -> [gen_server:reply(From, late) || From <- Late], {reply, length(Late), []};
handle_call({echo, Term}, _, Late) -> {reply, Term, Late};
handle_call({watch, Pid}, _, Late) -> {reply, monitor(process, Pid), Late};
handle_call(stop, _, Late) -> {stop, normal, ok, Late};
handle_call({ask, To, Request}, _, Late) -> {reply, catch gen_server:call(To, Request, 3000), Late}.

handle_cast({tell, To, Term}, Late) -> To ! Term, {noreply, Late}.

handle_info({'DOWN', _, process, _, Why}, Late) -> {noreply, [{down, Why} | Late]};
handle_info(_, Late) -> {noreply, Late}.
