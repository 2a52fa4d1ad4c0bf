%% Pores: shared memory and an event channel, behind one handle.
%%
%% `poke/1` and `close/1` are LING's. The rest is ours: bytes or whole frames (u32 big-endian length, then the bytes) over any
%% straw, with errors as values. The process that opens a pore owns it: it gets `{irq, Pore}` when there is something to find
%% out by `avail/1` (once; avail/1 asks for the next one), and its death closes the pore. Nothing here waits.
-module(pore).

-export([poke/1, close/1]).
-export([open_straw/4, avail/1, read/2, write/2, read_frames/2, write_frames/2, info/1, slots/1, notify_when/2, fail/2]).
-export([held/0]).
-export_type([pore/0, reason/0, options/0]).

-type pore() :: pore_nif:pore().
%% peer_gone: its end of the channel was closed; what it had sent was read before. corrupt: it wrote what no honest peer
%% writes. host_down: the host service is dead. refused: by fail/2. closed: by us.
-type reason() :: pore_nif:reason().
-type options() :: #{ring_bytes => non_neg_integer(), suppress => boolean(), give_back => boolean()}.

%% LING's: tells the peer what was read and written.
-spec poke(pore() | pore_xs:xs()) -> true.
poke(Pore) -> pore_nif:poke(Pore).

%% LING's: false when it was closed before. When it returns, nothing of it is mapped any more.
-spec close(pore() | pore_xs:xs()) -> boolean().
close(Pore) -> pore_nif:close(Pore).

%% A straw over memory and a channel of straw_backend; the caller owns it. `ring_bytes`: 0 for LING's 8 pages, else a power of
%% two (wide straw); `suppress`: poke only a peer that waits; `give_back`: memory and channel go back when the pore closes,
%% without end_access, unmap, close_channel.
-spec open_straw(active | passive, straw_backend:grant() | straw_backend:mapping(), straw_backend:event_channel(), options()) ->
    {ok, pore()} | {error, straw_platform:errno()}.
open_straw(Role, Memory, Channel, Options) when Role =:= active; Role =:= passive ->
    Papers = straw_backend:papers(Memory, [Channel], maps:get(give_back, Options, false)),
    RingBytes = maps:get(ring_bytes, Options, 0),
    Suppress = maps:get(suppress, Options, false),
    pore_nif:open_straw(Role, straw_backend:memory(Memory), straw_backend:channel(Channel), RingBytes, Suppress, Papers).

%% Bytes to read and room to write, after taking the pokes that came; asks for the next {irq, Pore}. An error only when there
%% is nothing more to read.
-spec avail(pore()) -> {In :: non_neg_integer(), Out :: non_neg_integer()} | {error, reason()}.
avail(Pore) -> pore_nif:avail(Pore).

%% Up to Max bytes; <<>>: nothing now, {irq, Pore} comes. Pokes the peer if it is to know.
-spec read(pore(), non_neg_integer()) -> binary() | {error, reason()}.
read(Pore, Max) -> pore_nif:read(Pore, Max).

%% How many bytes were taken; less than all: {irq, Pore} comes when there is more room. Pokes the peer if it is to know. What
%% is large is best given as a binary or the result of iolist_to_iovec/1.
-spec write(pore(), iodata()) -> non_neg_integer() | {error, reason()}.
write(Pore, Data) when is_binary(Data) -> write_pieces(Pore, [Data], 0);
write(Pore, Data) -> write_pieces(Pore, erlang:iolist_to_iovec(Data), 0).

-spec write_pieces(pore(), [binary()], non_neg_integer()) -> non_neg_integer() | {error, reason()}.
write_pieces(Pore, Pieces, Done) ->
    case pore_nif:write(Pore, Pieces) of
        {more, N, Rest} -> write_pieces(Pore, Rest, Done + N);
        {error, _} when Done > 0 -> Done;
        {error, Reason} -> {error, Reason};
        N -> Done + N
    end.

%% Whole frames that are there, as many as fit into Max bytes, at most 1024. [] : none yet, {irq, Pore} comes. {big, Length}:
%% the next one is longer than Max or than the ring: read its head (4 bytes) and its bytes by read/2. Pokes the peer.
-spec read_frames(pore(), non_neg_integer()) -> {ok, [binary()]} | {big, Length :: non_neg_integer()} | {error, reason()}.
read_frames(Pore, Max) -> pore_nif:read_frames(Pore, Max).

%% How many of the frames were taken, each whole. Fewer than all: {irq, Pore} comes when the next one fits. {big, Length}: the
%% first one can never fit into the ring at once: write its head and its bytes by write/2. Pokes the peer.
-spec write_frames(pore(), [iodata()]) -> {ok, Taken :: non_neg_integer()} | {big, non_neg_integer()} | {error, reason()}.
write_frames(Pore, Frames) -> write_frames(Pore, [flat(Frame) || Frame <- Frames], 0).

-spec write_frames(pore(), [binary()], non_neg_integer()) ->
    {ok, non_neg_integer()} | {big, non_neg_integer()} | {error, reason()}.
write_frames(Pore, Frames, Done) ->
    case pore_nif:write_frames(Pore, Frames) of
        {ok, N} -> {ok, Done + N};
        {more, N, Rest} -> write_frames(Pore, Rest, Done + N);
        _ when Done > 0 -> {ok, Done};
        Other -> Other
    end.

-spec flat(iodata()) -> binary().
flat(Frame) when is_binary(Frame) -> Frame;
flat(Frame) -> iolist_to_binary(Frame).

%% Free bytes for output (tube: packets) now; nothing is announced.
-spec slots(pore()) -> non_neg_integer() | {error, reason()}.
slots(Pore) -> pore_nif:slots(Pore).

%% true: so many slots are free now. false: {irq, Pore} comes when they are (with a peer that always pokes also earlier).
-spec notify_when(pore(), non_neg_integer()) -> boolean() | {error, reason()}.
notify_when(Pore, Slots) -> pore_nif:notify_when(Pore, Slots).

%% Ends it from our side with a reason; it stays ours to close.
-spec fail(pore(), host_down | refused) -> ok | {error, closed}.
fail(Pore, host_down) -> pore_nif:fail(Pore, 3);
fail(Pore, refused) -> pore_nif:fail(Pore, 4).

-spec info(pore()) -> #{atom() => term()} | {error, closed}.
info(Pore) ->
    case pore_nif:info(Pore) of
        {Kind, Role, State, Refs, Ports, Numbers} ->
            Names = [
                in_size, out_size, packet_max, pages, suppress, in_total, out_total, pokes, pokes_spared, irqs
            ],
            Info = maps:from_list(lists:zip(Names, Numbers)),
            Info#{
                kind => Kind, role => Role, state => State, refs => Refs, ports => Ports,
                suppress := maps:get(suppress, Info) =:= 1
            };
        {error, closed} ->
            {error, closed}
    end.

%% What this emulator holds in all: resources that are not ended.
-spec held() -> #{atom() => non_neg_integer()}.
held() -> maps:from_list(pore_nif:held()).
