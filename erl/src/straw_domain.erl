%% Keeps this node a domain: starts what makes it one, and starts it again, as another domain, when the host service has
%% died.
%%
%% What makes it one (straw_backend, xenstore, membrane) lives and dies together, below straw_domain_sup.
-module(straw_domain).
-behaviour(gen_server).

-export([start_link/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

%% Milliseconds between attempts to find a host again, at random up to this: of several nodes that lost one, the first
%% to come starts the next.
-define(RETRY_TIME, 500).
%% What a stop may take: the membrane closes its straws in order.
-define(STOP_TIME, 9000).

-spec start_link() -> gen_server:start_ret().
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% {error, Reason} when this node can't be a domain now: {no_host, Folder, Errno}, straw_taken, ….
-spec init([]) -> {ok, pid()} | {stop, term()}.
init([]) ->
    process_flag(trap_exit, true),
    case start_domain() of
        {ok, Supervisor} -> {ok, Supervisor};
        {error, Reason} -> {stop, {shutdown, Reason}}
    end.

-spec handle_call(term(), gen_server:from(), undefined | pid()) -> {reply, term(), undefined | pid()}.
handle_call(_, _From, Supervisor) ->
    {reply, {error, unknown_request}, Supervisor}.

-spec handle_cast(term(), undefined | pid()) -> {noreply, undefined | pid()}.
handle_cast(_, Supervisor) ->
    {noreply, Supervisor}.

-spec handle_info(term(), undefined | pid()) -> {noreply, undefined | pid()}.
handle_info({'EXIT', Supervisor, _}, Supervisor) ->
    {noreply, later()};
handle_info(again, undefined) ->
    case start_domain() of
        {ok, Supervisor} ->
            {noreply, Supervisor};
        {error, Reason} ->
            strawman_exports:warn(no_host, "still no domain: ~0tp", [Reason]),
            {noreply, later()}
    end;
handle_info(_, Supervisor) ->
    {noreply, Supervisor}.

-spec terminate(term(), undefined | pid()) -> ok.
terminate(_Reason, undefined) ->
    ok;
terminate(_Reason, Supervisor) ->
    exit(Supervisor, shutdown),
    receive
        {'EXIT', Supervisor, _} -> ok
    after ?STOP_TIME ->
        exit(Supervisor, kill),
        ok
    end.

later() ->
    _ = erlang:send_after(?RETRY_TIME div 10 + rand:uniform(?RETRY_TIME * 9 div 10), self(), again),
    undefined.

%% The reason in few words: what a supervisor says of a child is long.
start_domain() ->
    case straw_domain_sup:start_link() of
        {ok, Supervisor} ->
            {ok, Supervisor};
        {error, Reason} ->
            % it was linked, and has gone
            receive
                {'EXIT', _, _} -> ok
            after 0 -> ok
            end,
            {error, reason(Reason)}
    end.

reason({shutdown, Reason}) -> reason(Reason);
reason({failed_to_start_child, _, Reason}) -> reason(Reason);
reason(Reason) -> Reason.
