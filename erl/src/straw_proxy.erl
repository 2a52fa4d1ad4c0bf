%% A process that stands for one of another domain: a message to it goes there as an envelope.
%%
%% It can be linked to and monitored; it ends with noconnection when the straw does, however that ended. Exit signals
%% don't cross a straw: it takes none but kill.
-module(straw_proxy).
-export([start/2]).

%% Straw: the process that takes {envelope, Addr, Msg}. Addr: self for a process of the peer (the proxy's own pid is
%% the address: straw_codec writes it as the peer's), or a name. Monitored by the caller.
-spec start(pid(), self | atom()) -> {pid(), reference()}.
start(Straw, Addr) -> spawn_monitor(fun() -> exit({not_yet, Straw, Addr}) end).
