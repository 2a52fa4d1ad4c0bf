%% Tubes: packets of 1 to 4096 bytes, 31 at a time each way, over LING's layout (its core/include/tube.h). In LING a tube is a
%% port; here it is a pore, and these are its calls. Who opens it owns it and gets `{irq, Tube}`.
%%
%% The acceptor grants the page and 64 buffers and allocates two channels; the opener maps and binds what `info/1` of the other
%% says. How they tell each other is not here.
-module(pore_tube).

-export([accept/1, accept/2, open/4, open/5, info/1, avail/1, send/2, recv/1, can_send/1, slots/1, notify_when/2]).

-define(PAGES, 65).
-define(PACKET, 4096).

-spec accept(integer()) -> {ok, pore:pore()} | {error, straw_platform:errno()}.
accept(Peer) -> accept(straw_backend, Peer).
-spec accept(straw_backend:server(), integer()) -> {ok, pore:pore()} | {error, straw_platform:errno()}.
accept(Backend, Peer) ->
    build([
        {memory, fun(_) -> straw_backend:grant(Backend, Peer, ?PAGES) end},
        {tx, fun(_) -> straw_backend:alloc_channel(Backend, Peer) end},
        {rx, fun(_) -> straw_backend:alloc_channel(Backend, Peer) end}
    ], active).

%% PageRef: the grant of the page; the buffers' are in it.
-spec open(integer(), non_neg_integer(), non_neg_integer(), non_neg_integer()) ->
    {ok, pore:pore()} | {error, straw_platform:errno()}.
open(Peer, PageRef, TxPort, RxPort) -> open(straw_backend, Peer, PageRef, TxPort, RxPort).
-spec open(straw_backend:server(), integer(), non_neg_integer(), non_neg_integer(), non_neg_integer()) ->
    {ok, pore:pore()} | {error, straw_platform:errno()}.
open(Backend, Peer, PageRef, TxPort, RxPort) ->
    build([
        {page, fun(_) -> straw_backend:map(Backend, Peer, [PageRef]) end},
        {refs, fun(#{page := Page}) -> pore_nif:tube_refs(straw_backend:memory(Page)) end},
        {memory, fun(#{refs := Refs}) -> straw_backend:map(Backend, Peer, [PageRef | Refs]) end},
        {tx, fun(_) -> straw_backend:bind_channel(Backend, Peer, TxPort) end},
        {rx, fun(_) -> straw_backend:bind_channel(Backend, Peer, RxPort) end}
    ], passive).

%% One after the other; the first that fails undoes all.
-spec build([{atom(), fun((map()) -> {ok, term()} | {error, term()})}], active | passive) ->
    {ok, pore:pore()} | {error, straw_platform:errno()}.
build(Steps, Role) -> build(Steps, Role, #{}).

-spec build([{atom(), fun((map()) -> {ok, term()} | {error, term()})}], active | passive, map()) ->
    {ok, pore:pore()} | {error, straw_platform:errno()}.
build([{Name, Step} | Steps], Role, Done) ->
    case Step(Done) of
        {ok, Thing} -> build(Steps, Role, Done#{Name => Thing});
        {error, Errno} -> undo(Errno, Done)
    end;
build([], Role, #{memory := Memory, tx := Tx, rx := Rx} = Done) ->
    Papers = straw_backend:papers(Memory, [Tx, Rx], true),
    Opened = pore_nif:open_tube(
        Role, straw_backend:memory(Memory), straw_backend:channel(Tx), straw_backend:channel(Rx), Papers
    ),
    case {Opened, Done} of
        {{ok, Tube}, #{page := Page}} ->
            _ = straw_backend:give_back(Page),
            {ok, Tube};
        {{ok, Tube}, _} ->
            {ok, Tube};
        {{error, Errno}, _} ->
            undo(Errno, Done)
    end.

-spec undo(straw_platform:errno(), map()) -> {error, straw_platform:errno()}.
undo(Errno, Done) ->
    lists:foreach(fun straw_backend:give_back/1, maps:values(maps:remove(refs, Done))),
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
