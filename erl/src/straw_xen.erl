%% The domain of a real Xen in which this node runs: memory by /dev/xen/gntalloc and gntdev, channels by evtchn (pore_nif), the
%% store as it is there. What it does is what pores/backends/xen.py does; docs/xen.md says what Xen tells and what not.
-module(straw_xen).
-behaviour(straw_platform).

-export([open/1, request/3, handle/2, lock/2, unlock/2, describe/1, close/1]).
-export([missing/0]).

-include("xenstore.hrl").
-include_lib("kernel/include/file.hrl").

-record(xen, {
    path :: binary(),
    store :: pid(),
    domid = 0 :: non_neg_integer(),
    mapped = 0 :: non_neg_integer(),
    locks = #{} :: #{atom() => pore_nif:channel()},
    %% those whom we have dealt with, and of these the dead
    peers = #{} :: #{non_neg_integer() => alive | dead},
    granted = #{} :: #{[non_neg_integer()] => non_neg_integer()},
    %% grants that could not be ended, as the peer has them mapped
    busy = #{} :: #{[non_neg_integer()] => pore_nif:memory()},
    timer :: reference() | undefined
}).

-define(DEVICES, ["/dev/xen/evtchn", "/dev/xen/gntalloc", "/dev/xen/gntdev"]).
-define(SOCKET, "/var/run/xenstored/socket").
-define(STORES, [?SOCKET, "/dev/xen/xenbus", "/proc/xen/xenbus"]).
-define(RELEASED, "@releaseDomain").
%% Milliseconds until we look again whether a peer has let go of a grant: nobody tells.
-define(LOOK_AGAIN, 100).

%% ok, or the first thing that is not there or not ours to open.
-spec missing() -> ok | {no_xen, file:filename_all(), straw_platform:errno()}.
missing() ->
    Wrong = [
        {no_xen, Path, Errno}
     || Path <- ?DEVICES ++ [unicode:characters_to_list(store_path())], {error, Errno} <- [usable(Path)]
    ],
    case Wrong of
        [] -> ok;
        [First | _] -> First
    end.

-spec usable(file:filename_all()) -> ok | {error, straw_platform:errno()}.
usable(Path) ->
    case file:read_file_info(Path) of
        {ok, #file_info{access = read_write}} -> ok;
        {ok, _} -> {error, eacces};
        {error, Errno} -> {error, Errno}
    end.

%% As Xen's own tools look for it.
-spec store_path() -> binary().
store_path() ->
    Path =
        case {os:getenv("XENSTORED_PATH"), os:getenv("XENSTORED_RUNDIR")} of
            {false, false} -> hd([Path || Path <- ?STORES, usable(Path) =/= {error, enoent}] ++ [?SOCKET]);
            {false, Folder} -> filename:join(Folder, "socket");
            {Given, _} -> Given
        end,
    unicode:characters_to_binary(Path).

-spec open(map()) -> {ok, #xen{}} | {error, term()}.
open(_Options) ->
    Path = store_path(),
    case missing() of
        ok ->
            case xenstore_server:start_link(anonymous, {path, Path}) of
                {ok, Store} -> {ok, #xen{path = Path, store = Store}};
                {error, Reason} -> {error, Reason}
            end;
        NoXen ->
            {error, NoXen}
    end.

-spec request(straw_platform:request(), straw_platform:tag(), #xen{}) -> {[straw_platform:news()], #xen{}}.
request(Request, Tag, Xen) ->
    {Result, Xen1} = answer(Request, Xen),
    {[{reply, Tag, Result}], Xen1}.

-spec answer(straw_platform:request(), #xen{}) -> {straw_platform:result(), #xen{}}.
answer({hello, Wanted}, #xen{store = Store} = Xen) ->
    case xenstore_server:call(Store, ?XS_READ, ["domid"], 0) of
        {ok, Text} ->
            case list_to_integer(Text) of
                Own when Wanted =:= 0; Wanted =:= Own ->
                    %% Only domain 0 may ask for it; elsewhere the peers' directories have to do.
                    _ = xenstore_server:call(Store, ?XS_WATCH, [?RELEASED], 0),
                    {{ok, Own}, Xen#xen{domid = Own}};
                _ ->
                    {{error, einval}, Xen}
            end;
        Error ->
            {Error, Xen}
    end;
answer({grant, Peer, Pages}, #xen{domid = Own} = Xen) ->
    case checked(fun() -> pore_nif:xen_grant(Own, Peer, Pages) end) of
        {ok, {Refs, _}} = Ok ->
            Granted = (Xen#xen.granted)#{Refs => Peer},
            {Ok, met(Peer, Xen#xen{granted = Granted})};
        Error ->
            {Error, Xen}
    end;
answer({end_access, Refs, Memory}, #xen{granted = Granted, peers = Peers, busy = Busy} = Xen) ->
    Dead = maps:get(maps:get(Refs, Granted, none), Peers, alive) =:= dead,
    case not Dead andalso pore_nif:xen_still_mapped(Memory) of
        true ->
            {{error, ebusy}, look_again(Xen#xen{busy = Busy#{Refs => Memory}})};
        false ->
            ok = pore_nif:close_fd(Memory),
            {{ok, ok}, Xen#xen{granted = maps:remove(Refs, Granted), busy = maps:remove(Refs, Busy)}}
    end;
answer({map, Peer, Refs}, #xen{mapped = Mapped} = Xen) ->
    case checked(fun() -> pore_nif:xen_map(Peer, Refs) end) of
        {ok, Memory} -> {{ok, {Mapped, Memory}}, met(Peer, Xen#xen{mapped = Mapped + 1})};
        Error -> {Error, Xen}
    end;
answer({unmap, _Id, Memory}, Xen) ->
    ok = pore_nif:close_fd(Memory),
    {{ok, ok}, Xen};
answer({alloc_channel, Peer}, Xen) ->
    {checked(fun() -> pore_nif:xen_alloc_channel(Peer) end), met(Peer, Xen)};
answer({bind_channel, Peer, Port}, Xen) ->
    {checked(fun() -> pore_nif:xen_bind_channel(Peer, Port) end), met(Peer, Xen)};
answer({close_channel, _Port}, Xen) ->
    {{ok, ok}, Xen};
answer(store, #xen{path = Path} = Xen) ->
    {pore_nif:store_open(Path), Xen};
answer(domains, #xen{store = Store, domid = Own} = Xen) ->
    case xenstore_server:call(Store, ?XS_DIRECTORY, ["/local/domain"], 0) of
        {ok, Names} -> {{ok, lists:sort([list_to_integer(Name) || Name <- Names])}, Xen};
        {error, eacces} -> {{ok, [Own]}, Xen};
        Error -> {Error, Xen}
    end.

%% Numbers that are none, or too large.
-spec checked(fun(() -> straw_platform:result())) -> straw_platform:result().
checked(Fun) ->
    try
        Fun()
    catch
        error:badarg -> {error, einval}
    end.

%% Ids are used again: who answers lives.
-spec met(term(), #xen{}) -> #xen{}.
met(Peer, #xen{peers = Peers} = Xen) when is_integer(Peer), Peer >= 0, Peer < 16#7FF0 ->
    Xen#xen{peers = Peers#{Peer => alive}};
met(_Peer, Xen) ->
    Xen.

%% ---- news ----

-spec handle(term(), #xen{}) -> {[straw_platform:news()], #xen{}} | unknown | {down, term()}.
handle({watch, ?RELEASED}, #xen{store = Store, peers = Peers} = Xen) ->
    %% It does not say who. The questions wait for the store, so they are not ours to ask.
    Me = self(),
    Alive = [Peer || {Peer, alive} <- maps:to_list(Peers)],
    _ = spawn(fun() -> [Me ! {?MODULE, gone, Peer} || Peer <- Alive, not lives(Store, Peer)] end),
    {[], Xen};
handle({?MODULE, gone, Peer}, #xen{peers = Peers, busy = Busy, granted = Granted} = Xen) ->
    case Peers of
        #{Peer := alive} ->
            Free = [Refs || Refs <- maps:keys(Busy), maps:get(Refs, Granted, none) =:= Peer],
            News = [{event, {domain_gone, Peer}} | [{event, {unmapped, Refs}} || Refs <- Free]],
            {News, Xen#xen{peers = Peers#{Peer := dead}, busy = maps:without(Free, Busy)}};
        _ ->
            {[], Xen}
    end;
handle({timeout, Timer, {?MODULE, look}}, #xen{timer = Timer, busy = Busy} = Xen) ->
    Free = [Refs || {Refs, Memory} <- maps:to_list(Busy), not pore_nif:xen_still_mapped(Memory)],
    {[{event, {unmapped, Refs}} || Refs <- Free], look_again(Xen#xen{timer = undefined, busy = maps:without(Free, Busy)})};
handle({'EXIT', Store, Reason}, #xen{store = Store}) ->
    {down, {store, Reason}};
handle(_Message, _Xen) ->
    unknown.

-spec look_again(#xen{}) -> #xen{}.
look_again(#xen{timer = undefined, busy = Busy} = Xen) when map_size(Busy) > 0 ->
    Xen#xen{timer = erlang:start_timer(?LOOK_AGAIN, self(), {?MODULE, look})};
look_again(Xen) ->
    Xen.

-spec lives(pid(), non_neg_integer()) -> boolean().
lives(Store, Peer) ->
    case xenstore_server:call(Store, ?XS_IS_DOMAIN_INTRODUCED, [integer_to_list(Peer)], 0) of
        {ok, Introduced} ->
            Introduced;
        {error, eacces} ->
            Directory = "/local/domain/" ++ integer_to_list(Peer) ++ "/data/straw",
            xenstore_server:call(Store, ?XS_READ, [Directory], 0) =/= {error, enoent};
        {error, _} ->
            true
    end.

%% ---- the rest ----

%% Of all programs of the domain one has it.
-spec lock(atom(), #xen{}) -> {ok, #xen{}} | {error, taken}.
lock(Name, #xen{locks = Locks} = Xen) ->
    case {Name, Locks} of
        {_, #{Name := _}} -> {error, taken};
        {straw, _} -> lock(Name, 0, Xen);
        {tube, _} -> lock(Name, 1, Xen);
        _ -> {ok, Xen}
    end.

-spec lock(atom(), 0..1, #xen{}) -> {ok, #xen{}} | {error, taken}.
lock(Name, Which, #xen{locks = Locks} = Xen) ->
    case pore_nif:xen_lock(Which) of
        {ok, Holder} -> {ok, Xen#xen{locks = Locks#{Name => Holder}}};
        {error, _} -> {error, taken}
    end.

-spec unlock(atom(), #xen{}) -> #xen{}.
unlock(Name, #xen{locks = Locks} = Xen) ->
    case maps:take(Name, Locks) of
        {Holder, Locks1} ->
            ok = pore_nif:close_fd(Holder),
            Xen#xen{locks = Locks1};
        error ->
            Xen
    end.

-spec describe(#xen{}) -> #{backend := xen, host := binary()}.
describe(#xen{path = Path}) -> #{backend => xen, host => Path}.

-spec close(#xen{}) -> ok.
close(#xen{store = Store, locks = Locks}) ->
    lists:foreach(fun pore_nif:close_fd/1, maps:values(Locks)),
    unlink(Store),
    exit(Store, shutdown),
    ok.
