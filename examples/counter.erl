%% A gen_server that adds up numbers, for client.py. It is an ordinary one: nothing in it knows about Python.
-module(counter).
-behaviour(gen_server).
-export([start/0, init/1, handle_call/3, handle_cast/2]).

start() ->
    gen_server:start({local, ?MODULE}, ?MODULE, 0, []).

init(Total) ->
    {ok, Total}.

handle_call({add, N}, _From, Total) ->
    {reply, Total + N, Total + N}.

handle_cast({add, N}, Total) ->
    {noreply, Total + N}.
