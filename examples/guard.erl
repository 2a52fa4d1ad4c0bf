%% Keeps the worker of worker.py alive: starts it by rpc, monitors it, starts it again when it ends.
%% When the whole Python node goes, the monitor says noconnection, and the guard tries until it is back.
-module(guard).
-behaviour(gen_server).
-export([start/1, init/1, handle_call/3, handle_cast/2, handle_info/2, handle_continue/2]).

-define(RETRY, 200). % milliseconds

start(Node) ->
    gen_server:start({local, ?MODULE}, ?MODULE, Node, []).

init(Node) ->
    {ok, #{node => Node, worker => none, reasons => []}, {continue, start_worker}}.

%% The worker's pid (none while there is none), and why the ones before it ended, the last one first.
handle_call(status, _From, #{worker := Worker, reasons := Reasons} = State) ->
    {reply, {Worker, Reasons}, State}.

handle_cast(_, State) ->
    {noreply, State}.

handle_continue(start_worker, #{node := Node} = State) ->
    try erpc:call(Node, worker, start, [], 5000) of
        {ok, Pid} ->
            erlang:monitor(process, Pid),
            {noreply, State#{worker := Pid}}
    catch
        error:{erpc, _} -> % no connection, or no answer
            erlang:send_after(?RETRY, self(), start_worker),
            {noreply, State}
    end.

handle_info({'DOWN', _, process, Pid, Reason}, #{worker := Pid, reasons := Reasons} = State) ->
    {noreply, State#{worker := none, reasons := [Reason | Reasons]}, {continue, start_worker}};
handle_info(start_worker, State) ->
    {noreply, State, {continue, start_worker}}.
