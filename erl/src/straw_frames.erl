%% Frames out of a stream of bytes: a length as u32 big-endian, then that many bytes, as on LING's straws. Pure.
%%
%% A frame beyond the limit is passed over without being kept. Memory grows with what came, never with what was announced.
-module(straw_frames).

-export([new/1, bytes/2, wanted/1, is_partial/1]).
-export_type([frames/0]).

-record(frames, {
    limit :: non_neg_integer(),
    %% head: at most 3 bytes of one; body: what is there of it, latest first, and how much is missing; skip: to be passed over
    state = {head, <<>>} :: {head, binary()} | {body, pos_integer(), [binary()]} | {skip, pos_integer()}
}).
-opaque frames() :: #frames{}.

%% Limit: bytes of a frame.
-spec new(non_neg_integer()) -> frames().
new(Limit) -> #frames{limit = Limit}.

%% All frames that are whole with these bytes, in their order.
-spec bytes(binary(), frames()) -> {[binary() | {oversized, pos_integer()}], frames()}.
bytes(Bytes, Frames) ->
    {Out, Frames1} = take(Bytes, Frames, []),
    {lists:reverse(Out), Frames1}.

%% How many bytes bring the frame (or the head) that was begun to its end.
-spec wanted(frames()) -> pos_integer().
wanted(#frames{state = {head, Part}}) -> 4 - byte_size(Part);
wanted(#frames{state = {body, Left, _}}) -> Left;
wanted(#frames{state = {skip, Left}}) -> Left.

%% Whether the stream would end in the middle of a frame if it ended now.
-spec is_partial(frames()) -> boolean().
is_partial(#frames{state = State}) -> State =/= {head, <<>>}.

take(<<>>, F, Out) ->
    {Out, F};
take(Bytes, #frames{state = {head, <<>>}, limit = Limit} = F, Out) ->
    case Bytes of
        <<Length:32, Frame:Length/binary, Rest/binary>> when Length =< Limit -> take(Rest, F, [Frame | Out]);
        <<Length:32, Rest/binary>> -> take(Rest, begin_frame(Length, F), begun(Length, Limit, Out));
        Part -> {Out, F#frames{state = {head, Part}}}
    end;
take(Bytes, #frames{state = {head, Part}} = F, Out) ->
    take(<<Part/binary, Bytes/binary>>, F#frames{state = {head, <<>>}}, Out);
take(Bytes, #frames{state = {body, Left, Parts}} = F, Out) ->
    case Bytes of
        <<Last:Left/binary, Rest/binary>> ->
            Frame = iolist_to_binary(lists:reverse(Parts, [Last])),
            take(Rest, F#frames{state = {head, <<>>}}, [Frame | Out]);
        _ ->
            {Out, F#frames{state = {body, Left - byte_size(Bytes), [Bytes | Parts]}}}
    end;
take(Bytes, #frames{state = {skip, Left}} = F, Out) ->
    case Bytes of
        <<_:Left/binary, Rest/binary>> -> take(Rest, F#frames{state = {head, <<>>}}, Out);
        _ -> {Out, F#frames{state = {skip, Left - byte_size(Bytes)}}}
    end.

begin_frame(0, F) -> F;
begin_frame(Length, #frames{limit = Limit} = F) when Length > Limit -> F#frames{state = {skip, Length}};
begin_frame(Length, F) -> F#frames{state = {body, Length, []}}.

begun(Length, Limit, Out) when Length > Limit -> [{oversized, Length} | Out];
begun(_Length, _Limit, Out) -> Out.
