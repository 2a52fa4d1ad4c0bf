%% Keeps this node a domain: starts what makes it one, and starts it again, as another domain, when the host service has
%% died.
%%
%% What makes it one (straw_backend, xenstore, membrane, membrane_tubes) lives and dies together. A supervisor would do that as
%% well, but gives up after some attempts, and writes a report about each: a host service may be away for long.
-module(straw_domain).
-behaviour(gen_server).

-export([start_link/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

%% Milliseconds between attempts to find a host again, at random up to this: of several nodes that lost one, the first
%% to come starts the next.
-define(RETRY_TIME, 500).
%% What the end of one may take: the membrane closes its straws in order.
-define(STOP_TIME, 7000).

%% parts: what runs, the last one first. told: why there is no domain, as far as it was logged.
-record(s, {parts = [] :: [pid()], told :: term()}).

%% {error, Reason} when this node can't be a domain now: {no_host, Folder, Errno}, {refused, Errno}, straw_taken, ….
-spec start_link() -> gen_server:start_ret().
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

-spec init([]) -> {ok, #s{}} | {stop, term()}.
init([]) ->
    process_flag(trap_exit, true),
    case start_parts() of
        {ok, Parts} -> {ok, #s{parts = Parts}};
        {error, Reason} -> {stop, {shutdown, Reason}}
    end.

-spec handle_call(term(), gen_server:from(), #s{}) -> {reply, term(), #s{}}.
handle_call(_, _From, S) ->
    {reply, {error, unknown_request}, S}.

-spec handle_cast(term(), #s{}) -> {noreply, #s{}}.
handle_cast(_, S) ->
    {noreply, S}.

-spec handle_info(term(), #s{}) -> {noreply, #s{}}.
handle_info({'EXIT', Part, Why}, #s{parts = Parts} = S) ->
    case lists:member(Part, Parts) of
        true ->
            logger:warning("straws: this node is no domain any more: ~0tp", [reason(Why)]),
            ok = stop_parts(Parts),
            {noreply, later(S#s{parts = []})};
        false ->
            {noreply, S}
    end;
handle_info(again, #s{parts = [], told = Told} = S) ->
    case start_parts() of
        {ok, Parts} ->
            {noreply, S#s{parts = Parts, told = undefined}};
        {error, Told} ->
            {noreply, later(S)};
        {error, Reason} ->
            logger:warning("straws: still no domain: ~0tp", [Reason]),
            {noreply, later(S#s{told = Reason})}
    end;
handle_info(_, S) ->
    {noreply, S}.

-spec terminate(term(), #s{}) -> ok.
terminate(_Reason, #s{parts = Parts}) ->
    stop_parts(Parts).

later(S) ->
    _ = erlang:send_after(?RETRY_TIME div 10 + rand:uniform(?RETRY_TIME * 9 div 10), self(), again),
    S.

%% ── the parts ──

parts() ->
    Backend = #{host => env(host, undefined), domid => env(domid, 0), backend => env(backend, auto)},
    %% Bytes of a ring each way between our own.
    Wishes =
        case env(ring_bytes, undefined) of
            undefined -> #{};
            Bytes -> #{wishes => membrane_keys:wishes(Bytes)}
        end,
    %% Whoever hears of straws that others open; nobody: LING's own strawman does it, over xenstore and pore_straw.
    Controllers =
        case {env(start_strawman, true), env(controller, undefined)} of
            {true, _} -> [strawman];
            {false, undefined} -> [];
            {false, Controller} -> [Controller]
        end,
    %% Whoever hears of tubes that others open.
    Tubes = [
        #{kind => membrane_tube, name => membrane_tubes, controller => Name}
     || Name <- [env(tubes, false)], Name =/= false
    ],
    Membranes = [Wishes#{controller => Controller} || Controller <- Controllers] ++ Tubes,
    [fun() -> straw_backend:start_link(Backend) end, fun xenstore:start_link/0] ++
        [fun() -> membrane:start_link(Options) end || Options <- Membranes].

env(Key, Default) -> application:get_env(straw, Key, Default).

start_parts() -> start_parts(parts(), []).

start_parts([], Parts) ->
    {ok, Parts};
start_parts([Start | Starts], Parts) ->
    case Start() of
        {ok, Part} ->
            start_parts(Starts, [Part | Parts]);
        {error, Reason} ->
            ok = stop_parts(Parts),
            {error, reason(Reason)}
    end.

%% One after the other, as a supervisor does: each may still use those before it.
stop_parts(Parts) ->
    lists:foreach(fun stop_part/1, Parts).

stop_part(Part) ->
    Monitor = monitor(process, Part),
    exit(Part, shutdown),
    receive
        {'DOWN', Monitor, process, Part, _} -> ok
    after ?STOP_TIME ->
        exit(Part, kill),
        receive
            {'DOWN', Monitor, process, Part, _} -> ok
        end
    end.

reason({shutdown, Reason}) -> Reason;
reason(Reason) -> Reason.
