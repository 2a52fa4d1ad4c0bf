%% Domains of one host service on one machine, without Xen (docs/host-protocol.md): requests out, replies and events in. The
%% packets and descriptors are C's (pore_nif); who holds what is straw_backend's.
-module(straw_local).
-behaviour(straw_platform).

-export([open/1, request/3, handle/2, lock/2, unlock/2, describe/1, close/1]).
-export([default_folder/0]).

-include_lib("kernel/include/file.hrl").

-record(local, {
    folder :: file:filename_all(),
    host :: pore_nif:host(),
    waiting = #{} :: #{pos_integer() => {straw_platform:tag(), straw_platform:request()}},
    unsent = queue:new() :: queue:queue({straw_platform:tag(), straw_platform:request()})
}).

-define(VERSION, 1).
-define(HELLO, 1).
-define(GRANT, 2).
-define(END_ACCESS, 3).
-define(MAP, 4).
-define(UNMAP, 5).
-define(EVTCHN_ALLOC, 6).
-define(EVTCHN_BIND, 7).
-define(EVTCHN_CLOSE, 8).
-define(XENSTORE, 9).
-define(DOMAINS, 10).
-define(EVENT_UNMAPPED, 1).
-define(EVENT_DOMAIN_GONE, 2).

%% The host's queue of connections was full: so often, so long (ms) apart.
-define(RETRIES, 50).
-define(RETRY_AFTER, 20).

%% As the Python half has it (docs/host-protocol.md): STRAWBRIDGE_HOST, else $XDG_RUNTIME_DIR/strawbridge, else
%% /run/strawbridge-<uid> if it is there or could be made, else /tmp/strawbridge-<uid>.
-spec default_folder() -> file:filename_all().
default_folder() ->
    case {os:getenv("STRAWBRIDGE_HOST", ""), os:getenv("XDG_RUNTIME_DIR", "")} of
        {"", ""} ->
            Name = "strawbridge-" ++ integer_to_list(pore_nif:uid()),
            Run = filename:join("/run", Name),
            case filelib:is_dir(Run) orelse is_writable("/run") of
                true -> Run;
                false -> filename:join("/tmp", Name)
            end;
        {"", Runtime} ->
            filename:join(Runtime, "strawbridge");
        {Given, _} ->
            Given
    end.

-spec is_writable(file:filename_all()) -> boolean().
is_writable(Folder) ->
    case file:read_file_info(Folder) of
        {ok, #file_info{access = Access}} -> Access =:= write orelse Access =:= read_write;
        {error, _} -> false
    end.

-spec open(map()) -> {ok, #local{}} | {error, term()}.
open(Options) ->
    Folder =
        case maps:get(host, Options, undefined) of
            undefined -> default_folder();
            Given -> Given
        end,
    Socket = unicode:characters_to_binary(filename:join(Folder, "host.sock")),
    case is_binary(Socket) andalso connect(Socket, ?RETRIES) of
        {ok, Host} -> {ok, #local{folder = Folder, host = Host}};
        {error, Errno} -> {error, {no_host, Folder, Errno}};
        false -> {error, {no_host, Folder, einval}}
    end.

-spec connect(binary(), non_neg_integer()) -> {ok, pore_nif:host()} | {error, straw_platform:errno()}.
connect(Socket, Retries) ->
    case pore_nif:host_connect(Socket) of
        {error, eagain} when Retries > 0 ->
            timer:sleep(?RETRY_AFTER),
            connect(Socket, Retries - 1);
        Result ->
            Result
    end.

-spec request(straw_platform:request(), straw_platform:tag(), #local{}) ->
    {[straw_platform:news()], #local{}} | {down, term()}.
request(Request, Tag, Local) ->
    %% What we have mapped stays mapped; nobody maps it again.
    _ = [ok = pore_nif:close_fd(Memory) || {Op, _, Memory} <- [Request], Op =:= end_access orelse Op =:= unmap],
    send(Local#local{unsent = queue:in({Tag, Request}, Local#local.unsent)}).

-spec send(#local{}) -> {[straw_platform:news()], #local{}} | {down, term()}.
send(#local{unsent = Unsent} = Local) ->
    case queue:peek(Unsent) of
        empty ->
            {[], Local};
        {value, {Tag, Request} = One} ->
            case packet(Request) of
                {Op, Args} ->
                    case pore_nif:host_send(Local#local.host, Op, Args) of
                        {ok, Sequence} ->
                            Waiting = (Local#local.waiting)#{Sequence => One},
                            send(Local#local{unsent = queue:drop(Unsent), waiting = Waiting});
                        {error, eagain} ->
                            {[], Local};
                        {error, Errno} ->
                            {down, Errno}
                    end;
                refused ->
                    case send(Local#local{unsent = queue:drop(Unsent)}) of
                        {down, Why} -> {down, Why};
                        {News, Local1} -> {[{reply, Tag, {error, einval}} | News], Local1}
                    end
            end
    end.

%% Arguments are u32, a packet holds 1022 of them.
-spec packet(straw_platform:request()) -> {integer(), [non_neg_integer()]} | refused.
packet(Request) ->
    {Op, Args} =
        case Request of
            {hello, Wanted} -> {?HELLO, [?VERSION, Wanted]};
            {grant, Peer, Pages} -> {?GRANT, [Peer, Pages]};
            {end_access, Refs, _} -> {?END_ACCESS, [length(Refs) | Refs]};
            {map, Peer, Refs} -> {?MAP, [Peer, length(Refs) | Refs]};
            {unmap, Id, _} -> {?UNMAP, [Id]};
            {alloc_channel, Peer} -> {?EVTCHN_ALLOC, [Peer]};
            {bind_channel, Peer, Port} -> {?EVTCHN_BIND, [Peer, Port]};
            {close_channel, Port} -> {?EVTCHN_CLOSE, [Port]};
            store -> {?XENSTORE, []};
            domains -> {?DOMAINS, []}
        end,
    case length(Args) =< 1022 andalso lists:all(fun is_u32/1, Args) of
        true -> {Op, Args};
        false -> refused
    end.

-spec is_u32(term()) -> boolean().
is_u32(N) -> is_integer(N) andalso N >= 0 andalso N =< 16#FFFFFFFF.

-spec handle(term(), #local{}) -> {[straw_platform:news()], #local{}} | unknown | {down, term()}.
handle({irq, Host}, #local{host = Host} = Local) ->
    case incoming(Local, []) of
        {down, Why} ->
            {down, Why};
        {News, Local1} ->
            case send(Local1) of
                {down, Why} -> {down, Why};
                {More, Local2} -> {News ++ More, Local2}
            end
    end;
handle(_Message, _Local) ->
    unknown.

-spec incoming(#local{}, [straw_platform:news()]) -> {[straw_platform:news()], #local{}} | {down, term()}.
incoming(#local{waiting = Waiting} = Local, News) ->
    case pore_nif:host_receive(Local#local.host) of
        none ->
            {lists:reverse(News), Local};
        {reply, Sequence, Op, Status, Args, Thing} ->
            case maps:take(Sequence, Waiting) of
                {{Tag, Request}, Waiting1} ->
                    Result = result(Request, Op, Status, Args, Thing),
                    incoming(Local#local{waiting = Waiting1}, [{reply, Tag, Result} | News]);
                error ->
                    {down, eproto}
            end;
        {event, ?EVENT_UNMAPPED, Refs} ->
            incoming(Local, [{event, {unmapped, Refs}} | News]);
        {event, ?EVENT_DOMAIN_GONE, [Domid | _]} ->
            incoming(Local, [{event, {domain_gone, Domid}} | News]);
        {error, Errno} when News =:= [] ->
            {down, Errno};
        {error, _} ->
            %% What came before the end counts (a refused HELLO is answered, then hung up).
            self() ! {irq, Local#local.host},
            {lists:reverse(News), Local}
    end.

-spec result(
    straw_platform:request(), integer(), ok | {error, straw_platform:errno()}, [non_neg_integer()], term()
) -> straw_platform:result().
result(_Request, _Op, {error, Errno}, _Args, _Thing) -> {error, Errno};
result({hello, _}, ?HELLO, ok, [Domid | _], none) -> {ok, Domid};
result({grant, _, Pages}, ?GRANT, ok, Refs, Memory) when length(Refs) =:= Pages -> {ok, {Refs, Memory}};
result({map, _, Refs}, ?MAP, ok, [Id | Pages], Memory) when length(Refs) =:= length(Pages) -> {ok, {Id, Memory}};
result({alloc_channel, _}, ?EVTCHN_ALLOC, ok, [Port | _], Channel) -> {ok, {Port, Channel}};
result({bind_channel, _, _}, ?EVTCHN_BIND, ok, [Port | _], Channel) -> {ok, {Port, Channel}};
result(store, ?XENSTORE, ok, _, Channel) -> {ok, Channel};
result(domains, ?DOMAINS, ok, [_ | Domids], none) -> {ok, Domids};
result({end_access, _, _}, ?END_ACCESS, ok, _, none) -> {ok, ok};
result({unmap, _, _}, ?UNMAP, ok, _, none) -> {ok, ok};
result({close_channel, _}, ?EVTCHN_CLOSE, ok, _, none) -> {ok, ok};
result(_Request, _Op, ok, _Args, _Thing) -> {error, eproto}.

%% A domain is one control connection: nobody else can have a lock of it.
-spec lock(atom(), #local{}) -> {ok, #local{}}.
lock(_Name, Local) -> {ok, Local}.

-spec unlock(atom(), #local{}) -> #local{}.
unlock(_Name, Local) -> Local.

-spec describe(#local{}) -> #{backend := local, host := file:filename_all()}.
describe(#local{folder = Folder}) -> #{backend => local, host => Folder}.

-spec close(#local{}) -> ok.
close(#local{host = Host}) ->
    _ = pore_nif:host_close(Host),
    ok.
