%% What one straw knows of processes and references: who was given out to the peer's domain and under which number,
%% which processes of the peer have a proxy here, and which references stand for one of ours. A value, held by the
%% straw's process and by nobody else; the processes that it monitors and the proxies belong to the caller.
%%
%% A pid crosses as (domid, id). An entry ends when its process ends (the straw's process gets 'DOWN' and calls down/2),
%% when the reply has passed or after REF_TTL (references), and with the straw (stop/1). Full tables refuse; nothing
%% that lives is thrown out.
%%
%% It is not the codec: straw_codec turns terms into frames with the help of this module.
-module(straw_ids).
-export([new/1, down/2, expire/2, stop/1, counts/1, proxy/2]).
-export_type([ids/0, reason/0]).

-opaque ids() :: map().
%% {limit, What}: a table is full: the message is refused, the straw lives on. ids_exhausted: 2^27 ids are spent: the
%% straw must close.
-type reason() :: {limit, pids | refs | proxies | nodes} | ids_exhausted.

%% domid: ours. peer: the other domain. dialect: ling unless given. straw: the process that sends envelopes to the peer
%% (`{envelope, Addr, Msg}` as a message), self() unless given. limits: instead of the defaults. ref_ttl: milliseconds.
-spec new(#{domid := non_neg_integer(), peer := non_neg_integer(), dialect => ling | otp, straw => pid(),
            limits => #{pids => pos_integer(), refs => pos_integer(), proxies => pos_integer()},
            ref_ttl => pos_integer()}) -> ids().
new(#{domid := _, peer := _} = Options) -> Options.

%% A 'DOWN' message came: its monitor reference, or the pid. Whatever was known by it is forgotten; other references are
%% ignored, so that any 'DOWN' may be passed on.
-spec down(reference() | pid(), ids()) -> ids().
down(_MonitorOrPid, Ids) -> Ids.

%% Forget references older than their TTL. Now: erlang:monotonic_time(millisecond). Call it now and then, say every 10 s.
-spec expire(integer(), ids()) -> ids().
expire(_Now, Ids) -> Ids.

%% The straw ends: no process is monitored any more, the proxies end with noconnection.
-spec stop(ids()) -> ok.
stop(_Ids) -> ok.

%% Entries of now, and `late`: how many replies came for references that nobody waits for any more.
-spec counts(ids()) -> #{pids := non_neg_integer(), refs := non_neg_integer(), proxies := non_neg_integer(),
                         late := non_neg_integer()}.
counts(_Ids) -> #{pids => 0, refs => 0, proxies => 0, late => 0}.

%% The process that stands for a registered name of the peer's domain: messages to it become {envelope, Name, Msg}. One
%% per name.
-spec proxy(atom(), ids()) -> {ok, pid(), ids()} | {error, reason(), ids()}.
proxy(_Name, Ids) -> {error, {limit, proxies}, Ids}.
