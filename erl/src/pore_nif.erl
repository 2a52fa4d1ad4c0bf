%% The functions of pore_nif.so, one for one: what they take and give is told in c_src/. Nobody but pore, pore_straw, pore_tube,
%% pore_xs and the backends calls them.
-module(pore_nif).

-export([open_straw/6, open_tube/5, tube_refs/1, close/1, fail_user/2, in_use/1, close_fd/1]).
-export([avail/1, read/2, write/2, write_all/2, read_frames/2, write_frames/2, poke/1, fail/2, info/1, slots/1, notify_when/2]).
-export([uid/0, host_connect/1, host_send/3, host_receive/1, host_close/1]).
-export([xen_grant/3, xen_map/2, xen_still_mapped/1, xen_alloc_channel/1, xen_bind_channel/2, xen_lock/1, store_open/1]).
-export([xs_open/1, xs_avail/1, xs_read/1, xs_write/2]).
-export([held/0]).
-export_type([pore/0, memory/0, channel/0, host/0, xs/0, papers/0, reason/0]).

-on_load(load/0).
-nifs([open_straw/6, open_tube/5, tube_refs/1, close/1, fail_user/2, in_use/1, close_fd/1, avail/1, read/2, write/2,
       write_all/2, read_frames/2, write_frames/2, poke/1, fail/2, info/1, slots/1, notify_when/2, uid/0, host_connect/1,
       host_send/3, host_receive/1, host_close/1, xen_grant/3, xen_map/2, xen_still_mapped/1, xen_alloc_channel/1,
       xen_bind_channel/2, xen_lock/1, store_open/1, xs_open/1, xs_avail/1, xs_read/1, xs_write/2, held/0]).

-opaque pore() :: reference().
-opaque memory() :: reference().
-opaque channel() :: reference().
-opaque host() :: reference().
-opaque xs() :: reference().
%% Refs, ports, who is to hear of the end, and what.
-type papers() :: {[non_neg_integer()], [non_neg_integer()], pid() | none, term()}.
-type reason() :: peer_gone | corrupt | host_down | refused | closed.
-type errno() :: atom() | integer().

%% `{straw, [{nif_folder, Folder}]}`: another build of the library (ASan's).
-spec load() -> ok | {error, term()}.
load() ->
    Folder =
        case application:get_env(straw, nif_folder) of
            {ok, Other} -> Other;
            undefined -> filename:join(filename:dirname(filename:dirname(code:which(?MODULE))), "priv")
        end,
    erlang:load_nif(filename:join(Folder, "pore_nif"), 0).

-spec open_straw(active | passive, memory(), channel(), non_neg_integer(), boolean(), papers()) ->
    {ok, pore()} | {error, errno()}.
open_straw(_Role, _Memory, _Channel, _RingBytes, _Suppress, _Papers) -> erlang:nif_error(not_loaded).

-spec open_tube(active | passive, memory(), channel(), channel(), papers()) -> {ok, pore()} | {error, errno()}.
open_tube(_Role, _Memory, _Tx, _Rx, _Papers) -> erlang:nif_error(not_loaded).

-spec tube_refs(memory()) -> {ok, [non_neg_integer()]} | {error, errno()}.
tube_refs(_Memory) -> erlang:nif_error(not_loaded).

-spec close(pore() | xs()) -> boolean().
close(_Pore) -> erlang:nif_error(not_loaded).

-spec fail_user(memory(), 1..4) -> ok.
fail_user(_Memory, _Reason) -> erlang:nif_error(not_loaded).

-spec in_use(memory()) -> boolean().
in_use(_Memory) -> erlang:nif_error(not_loaded).

-spec close_fd(memory() | channel()) -> ok.
close_fd(_Thing) -> erlang:nif_error(not_loaded).

-spec avail(pore()) -> {non_neg_integer(), non_neg_integer()} | {error, reason()}.
avail(_Pore) -> erlang:nif_error(not_loaded).

-spec read(pore(), non_neg_integer()) -> binary() | {error, reason()}.
read(_Pore, _Max) -> erlang:nif_error(not_loaded).

-spec write(pore(), [binary()]) ->
    non_neg_integer() | {more, non_neg_integer(), [binary()]} | {error, reason() | emsgsize}.
write(_Pore, _Binaries) -> erlang:nif_error(not_loaded).

-spec write_all(pore(), binary()) -> ok | {error, reason()}.
write_all(_Pore, _Binary) -> erlang:nif_error(not_loaded).

-spec read_frames(pore(), non_neg_integer()) -> {ok, [binary()]} | {big, non_neg_integer()} | {error, reason()}.
read_frames(_Pore, _Max) -> erlang:nif_error(not_loaded).

-spec write_frames(pore(), [binary()]) ->
    {ok, non_neg_integer()}
    | {more, non_neg_integer(), [binary()]}
    | {big, non_neg_integer()}
    | {error, reason()}.
write_frames(_Pore, _Binaries) -> erlang:nif_error(not_loaded).

-spec poke(pore() | xs()) -> true.
poke(_Pore) -> erlang:nif_error(not_loaded).

-spec fail(pore(), 1..4) -> ok | {error, closed}.
fail(_Pore, _Reason) -> erlang:nif_error(not_loaded).

-spec info(pore()) ->
    {straw | tube, active | passive, open | reason(), [non_neg_integer()], [non_neg_integer()], [non_neg_integer()]}
    | {error, closed}.
info(_Pore) -> erlang:nif_error(not_loaded).

-spec slots(pore()) -> non_neg_integer() | {error, reason()}.
slots(_Pore) -> erlang:nif_error(not_loaded).

-spec notify_when(pore(), non_neg_integer()) -> boolean() | {error, reason()}.
notify_when(_Pore, _Slots) -> erlang:nif_error(not_loaded).

-spec uid() -> non_neg_integer().
uid() -> erlang:nif_error(not_loaded).

-spec host_connect(binary()) -> {ok, host()} | {error, errno()}.
host_connect(_Path) -> erlang:nif_error(not_loaded).

-spec host_send(host(), integer(), [non_neg_integer()]) -> {ok, pos_integer()} | {error, errno()}.
host_send(_Host, _Op, _Args) -> erlang:nif_error(not_loaded).

-spec host_receive(host()) ->
    {reply, pos_integer(), integer(), ok | {error, errno()}, [non_neg_integer()], memory() | channel() | none}
    | {event, integer(), [non_neg_integer()]}
    | none
    | {error, errno()}.
host_receive(_Host) -> erlang:nif_error(not_loaded).

-spec host_close(host()) -> boolean().
host_close(_Host) -> erlang:nif_error(not_loaded).

-spec xen_grant(non_neg_integer(), non_neg_integer(), pos_integer()) ->
    {ok, {[non_neg_integer()], memory()}} | {error, errno()}.
xen_grant(_Own, _Peer, _Pages) -> erlang:nif_error(not_loaded).

-spec xen_map(non_neg_integer(), [non_neg_integer()]) -> {ok, memory()} | {error, errno()}.
xen_map(_Peer, _Refs) -> erlang:nif_error(not_loaded).

-spec xen_still_mapped(memory()) -> boolean().
xen_still_mapped(_Memory) -> erlang:nif_error(not_loaded).

-spec xen_alloc_channel(non_neg_integer()) -> {ok, {non_neg_integer(), channel()}} | {error, errno()}.
xen_alloc_channel(_Peer) -> erlang:nif_error(not_loaded).

-spec xen_bind_channel(non_neg_integer(), non_neg_integer()) -> {ok, {non_neg_integer(), channel()}} | {error, errno()}.
xen_bind_channel(_Peer, _Port) -> erlang:nif_error(not_loaded).

-spec xen_lock(0..1) -> {ok, channel()} | {error, errno()}.
xen_lock(_Which) -> erlang:nif_error(not_loaded).

-spec store_open(binary()) -> {ok, channel()} | {error, errno()}.
store_open(_Path) -> erlang:nif_error(not_loaded).

-spec xs_open(channel()) -> {ok, xs()} | {error, errno()}.
xs_open(_Channel) -> erlang:nif_error(not_loaded).

-spec xs_avail(xs()) -> {non_neg_integer(), non_neg_integer()} | {error, host_down}.
xs_avail(_Xs) -> erlang:nif_error(not_loaded).

-spec xs_read(xs()) -> binary().
xs_read(_Xs) -> erlang:nif_error(not_loaded).

-spec xs_write(xs(), binary()) -> ok.
xs_write(_Xs, _Binary) -> erlang:nif_error(not_loaded).

%% How many of each resource are not ended: for tests that look for leaks.
-spec held() -> [{atom(), non_neg_integer()}].
held() -> erlang:nif_error(not_loaded).
