%% Tubes: packets of 1 to 4096 bytes, 31 at a time each way, over LING's layout (its core/include/tube.h). In LING a tube is a
%% port; here it is a pore, and these are its calls. Who opens it owns it and gets `{irq, Tube}`.
%%
%% The acceptor grants the page and 64 buffers and allocates two channels; the opener maps and binds what `info/1` of the other
%% says. How they tell each other is not here: tubes that a membrane opens are the module tube's.
-module(pore_tube).

-export([accept/1, accept/2, open/4, open/5, offered/2, attached/5, new/4, info/1, avail/1, send/2, recv/1, can_send/1, slots/1, notify_when/2]).

-define(PAGES, 65).
-define(PACKET, 4096).

-spec accept(integer()) -> {ok, pore:pore()} | {error, straw_platform:errno()}.
accept(Peer) -> accept(straw_backend, Peer).
-spec accept(straw_backend:server(), integer()) -> {ok, pore:pore()} | {error, straw_platform:errno()}.
accept(Backend, Peer) -> made(active, offered(Backend, Peer)).

%% PageRef: the grant of the page; the buffers' are in it.
-spec open(integer(), non_neg_integer(), non_neg_integer(), non_neg_integer()) ->
    {ok, pore:pore()} | {error, straw_platform:errno()}.
open(Peer, PageRef, TxPort, RxPort) -> open(straw_backend, Peer, PageRef, TxPort, RxPort).
-spec open(straw_backend:server(), integer(), non_neg_integer(), non_neg_integer(), non_neg_integer()) ->
    {ok, pore:pore()} | {error, straw_platform:errno()}.
open(Backend, Peer, PageRef, TxPort, RxPort) -> made(passive, attached(Backend, Peer, PageRef, TxPort, RxPort)).

made(Role, {ok, Memory, Channels}) ->
    case new(Role, Memory, Channels, true) of
        {ok, Tube} -> {ok, Tube};
        {error, Errno} -> undo(Errno, [Memory | Channels])
    end;
made(_Role, Error) ->
    Error.

%% What a tube is made of, for who makes it by new/4 and gives it back (membrane_tube): the acceptor's side, with [Tx, Rx]
-spec offered(straw_backend:server(), integer()) ->
    {ok, straw_backend:grant(), [straw_backend:event_channel()]} | {error, straw_platform:errno()}.
offered(Backend, Peer) ->
    build([
        fun() -> straw_backend:grant(Backend, Peer, ?PAGES) end,
        fun() -> straw_backend:alloc_channel(Backend, Peer) end,
        fun() -> straw_backend:alloc_channel(Backend, Peer) end
    ]).

%% and the opener's.
-spec attached(straw_backend:server(), integer(), non_neg_integer(), non_neg_integer(), non_neg_integer()) ->
    {ok, straw_backend:mapping(), [straw_backend:event_channel()]} | {error, straw_platform:errno()}.
attached(Backend, Peer, PageRef, TxPort, RxPort) ->
    case straw_backend:map(Backend, Peer, [PageRef]) of
        {ok, Page} ->
            Found = pore_nif:tube_refs(straw_backend:memory(Page)),
            _ = straw_backend:give_back(Page),
            case Found of
                {ok, Refs} ->
                    build([
                        fun() -> straw_backend:map(Backend, Peer, [PageRef | Refs]) end,
                        fun() -> straw_backend:bind_channel(Backend, Peer, TxPort) end,
                        fun() -> straw_backend:bind_channel(Backend, Peer, RxPort) end
                    ]);
                Error ->
                    Error
            end;
        Error ->
            Error
    end.

%% The caller owns it. GiveBack: what it is made of goes back when it closes.
-spec new(active | passive, straw_backend:grant() | straw_backend:mapping(), [straw_backend:event_channel()], boolean()) ->
    {ok, pore:pore()} | {error, straw_platform:errno()}.
new(Role, Memory, [Tx, Rx], GiveBack) ->
    Papers = straw_backend:papers(Memory, [Tx, Rx], GiveBack),
    pore_nif:open_tube(Role, straw_backend:memory(Memory), straw_backend:channel(Tx), straw_backend:channel(Rx), Papers).

%% One after the other; the first that fails undoes all.
build(Steps) -> build(Steps, []).

build([Step | Steps], Done) ->
    case Step() of
        {ok, Thing} -> build(Steps, [Thing | Done]);
        {error, Errno} -> undo(Errno, Done)
    end;
build([], Done) ->
    [Memory | Channels] = lists:reverse(Done),
    {ok, Memory, Channels}.

undo(Errno, Things) ->
    lists:foreach(fun straw_backend:give_back/1, Things),
    {error, Errno}.

%% {the page's grant, port of tx, port of rx}: what the opener needs, when we are the acceptor. tx is from the opener.
-spec info(pore:pore()) -> {non_neg_integer(), non_neg_integer(), non_neg_integer()}.
info(Tube) ->
    case pore_nif:info(Tube) of
        {tube, _, _, [Page | _], [Tx, Rx], _} -> {Page, Tx, Rx};
        _ -> error(badarg)
    end.

%% {packets to receive, slots to send}; asks for the next {irq, Tube}.
-spec avail(pore:pore()) -> {non_neg_integer(), non_neg_integer()} | {error, pore:reason()}.
avail(Tube) -> pore:avail(Tube).

%% full: dropped, as a tube does; {irq, Tube} comes when there is a slot.
-spec send(pore:pore(), iodata()) -> ok | full | {error, pore:reason()}.
send(Tube, Data) ->
    case iolist_size(Data) of
        Size when Size >= 1, Size =< ?PACKET ->
            case pore_nif:write(Tube, [iolist_to_binary(Data)]) of
                Size -> ok;
                0 -> full;
                {error, Reason} -> {error, Reason}
            end;
        _ ->
            error(badarg)
    end.

-spec recv(pore:pore()) -> {ok, binary()} | none | {error, pore:reason()}.
recv(Tube) ->
    case pore:read(Tube, ?PACKET) of
        <<>> -> none;
        {error, Reason} -> {error, Reason};
        Packet -> {ok, Packet}
    end.

%% How many packets can be sent without loss; waits until there is room for one. For the owner, whose {irq, Tube} it takes, and
%% gives one back when it returns: packets may have come meanwhile.
-spec can_send(pore:pore()) -> pos_integer() | {error, pore:reason()}.
can_send(Tube) -> can_send(Tube, false).

-spec can_send(pore:pore(), boolean()) -> pos_integer() | {error, pore:reason()}.
can_send(Tube, Woken) ->
    case pore:notify_when(Tube, 1) of
        false ->
            receive
                {irq, Tube} -> ok
            end,
            case pore:avail(Tube) of
                {error, Reason} -> woken(true, Tube, {error, Reason});
                _ -> can_send(Tube, true)
            end;
        true ->
            woken(Woken, Tube, pore:slots(Tube));
        Error ->
            woken(Woken, Tube, Error)
    end.

-spec woken(boolean(), pore:pore(), T) -> T.
woken(Woken, Tube, Result) ->
    _ = Woken andalso (self() ! {irq, Tube}),
    Result.

-spec slots(pore:pore()) -> non_neg_integer() | {error, pore:reason()}.
slots(Tube) -> pore:slots(Tube).

%% true: so many slots are free. false: {irq, Tube} comes when they are.
-spec notify_when(pore:pore(), non_neg_integer()) -> boolean() | {error, pore:reason()}.
notify_when(Tube, Slots) -> pore:notify_when(Tube, Slots).
