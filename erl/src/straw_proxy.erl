%% A process that stands for one of another domain: a message to it goes there as an envelope.
%%
%% It can be linked to and monitored; it ends with its process, where the peer tells of that, and with noconnection when
%% the straw's process ends, however that was. Exit signals don't cross a straw: it takes none but kill, so that a process
%% which linked to it and dies does not end it for others. It keeps nothing: what can't be sent is dropped and counted
%% where the straw is.
-module(straw_proxy).
-export([start/3, stop/2, ended/3, ask/2, is_idle/2]).
-export([init/3, awake/4]).

%% An idle proxy gives its heap back: there may be thousands. Milliseconds.
-define(IDLE, 2000).

%% Straw: the process that takes {envelope, Addr, Msg}. Addr: self for a process of the peer (the proxy's own pid is
%% the address: straw_codec writes it as the peer's), or a name. Secret: known to these two only. Monitored by the caller.
-spec start(pid(), self | {name, atom()}, reference()) -> {pid(), reference()}.
start(Straw, Addr, Secret) ->
    spawn_opt(?MODULE, init, [Straw, Addr, Secret], [monitor, {fullsweep_after, 0}, {message_queue_data, off_heap}]).

%% The straw has ended, but its process goes on. Only that process may call this.
-spec stop(pid(), pid()) -> true.
stop(Proxy, Straw) when Straw =:= self() -> exit(Proxy, noconnection).

%% Its process has ended.
-spec ended(pid(), reference(), term()) -> term().
ended(Proxy, Secret, Reason) -> Proxy ! {Secret, ended, Reason}.

%% {Secret, passed, Proxy} comes to the straw after all envelopes of what the proxy has been sent until now.
-spec ask(pid(), reference()) -> term().
ask(Proxy, Secret) -> Proxy ! {Secret, pass}.

%% Nobody has sent to it for so many ms (or up to ?IDLE less), and nobody but the straw holds it by a link or a monitor.
-spec is_idle(pid(), non_neg_integer()) -> boolean().
is_idle(Proxy, Time) ->
    case process_info(Proxy, [links, monitored_by, message_queue_len, dictionary]) of
        [{links, []}, {monitored_by, [_]}, {message_queue_len, 0}, {dictionary, Dictionary}] ->
            erlang:monotonic_time(millisecond) - proplists:get_value(used, Dictionary) >= Time;
        _ -> false
    end.

-spec init(pid(), self | {name, atom()}, reference()) -> no_return().
init(Straw, self, Secret) -> start_loop(Straw, self(), Secret);
init(Straw, {name, Name}, Secret) -> start_loop(Straw, Name, Secret).

-spec start_loop(pid(), pid() | atom(), reference()) -> no_return().
start_loop(Straw, Addr, Secret) ->
    process_flag(trap_exit, true),
    awake(Straw, monitor(process, Straw), Addr, Secret).

%% The clock is asked once in a while, not with each message: when one comes after a pause, and later when it was last.
-spec awake(pid(), reference(), pid() | atom(), reference()) -> no_return().
awake(Straw, Monitor, Addr, Secret) ->
    put(used, erlang:monotonic_time(millisecond)),
    loop(Straw, Monitor, Addr, Secret, erlang:start_timer(?IDLE, self(), idle), false).

%% Used: since the timer was set.
-spec loop(pid(), reference(), pid() | atom(), reference(), reference(), boolean()) -> no_return().
loop(Straw, Monitor, Addr, Secret, Timer, Used) ->
    receive
        {'DOWN', Monitor, process, _, _} -> exit(noconnection);
        {'EXIT', Straw, _} -> exit(noconnection);
        {'EXIT', _, _} -> loop(Straw, Monitor, Addr, Secret, Timer, Used);
        {Secret, ended, Reason} -> exit(Reason);
        {Secret, pass} ->
            Straw ! {Secret, passed, self()},
            loop(Straw, Monitor, Addr, Secret, Timer, Used);
        {timeout, Timer, idle} when Used -> awake(Straw, Monitor, Addr, Secret);
        {timeout, Timer, idle} -> erlang:hibernate(?MODULE, awake, [Straw, Monitor, Addr, Secret]);
        Message ->
            Straw ! {envelope, Addr, Message},
            loop(Straw, Monitor, Addr, Secret, Timer, true)
    end.
