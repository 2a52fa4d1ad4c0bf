%% Frames that wait for room in a ring, with their lengths in front. Pure.
%%
%% Small ones are gathered, so that many leave in one write; what is large is not copied.
-module(straw_outbox).

-export([new/0, new/1, put/2, next/1, back/2, size/1]).
-export_type([outbox/0]).

-record(outbox, {
    chunks = queue:new() :: queue:queue({pos_integer(), iodata()}),
    %% put back by back/2
    first = none :: none | {pos_integer(), iodata()},
    %% small frames, latest first
    small = [] :: [iodata()],
    small_size = 0 :: non_neg_integer(),
    size = 0 :: non_neg_integer(),
    %% frames up to here are small
    limit :: pos_integer()
}).
-opaque outbox() :: #outbox{}.

%% Frames up to here (or less, new/1) are gathered, into pieces of about so many bytes.
-define(SMALL, 8192).
-define(PIECE, 65536).

-spec new() -> outbox().
new() -> #outbox{limit = ?SMALL}.

%% For a ring of so many bytes. Who has written a part of a frame waits for half a ring of room, or for what is left of
%% that frame; the reader, for all of it. So what is gathered with others is far less than half a ring.
-spec new(pos_integer()) -> outbox().
new(Ring) -> #outbox{limit = min(?SMALL, Ring div 4)}.

%% Bytes that wait, with the lengths.
-spec size(outbox()) -> non_neg_integer().
size(#outbox{size = Size}) -> Size.

-spec put(iodata(), outbox()) -> outbox().
put(Frame, #outbox{small = Small, small_size = SmallSize, size = Size, limit = Limit} = O) ->
    case iolist_size(Frame) of
        Length when Length =< Limit ->
            gather(?PIECE, O#outbox{
                small = [Frame, <<Length:32>> | Small], small_size = SmallSize + 4 + Length, size = Size + 4 + Length
            });
        Length ->
            #outbox{chunks = Chunks} = O1 = gather(1, O),
            Pieces = [{byte_size(Piece), Piece} || Piece <- erlang:iolist_to_iovec(Frame), Piece =/= <<>>],
            Added = lists:foldl(fun queue:in/2, queue:in({4, <<Length:32>>}, Chunks), Pieces),
            O1#outbox{chunks = Added, size = Size + 4 + Length}
    end.

gather(From, #outbox{chunks = Chunks, small = Small, small_size = Size} = O) when Size >= From ->
    O#outbox{chunks = queue:in({Size, lists:reverse(Small)}, Chunks), small = [], small_size = 0};
gather(_From, O) ->
    O.

%% Takes the next bytes to write.
-spec next(outbox()) -> empty | {pos_integer(), iodata(), outbox()}.
next(#outbox{size = 0}) ->
    empty;
next(#outbox{first = {Length, Data}, size = Size} = O) ->
    {Length, Data, O#outbox{first = none, size = Size - Length}};
next(#outbox{chunks = Chunks, size = Size} = O) ->
    case queue:out(Chunks) of
        {{value, {Length, Data}}, Rest} -> {Length, Data, O#outbox{chunks = Rest, size = Size - Length}};
        {empty, _} -> next(gather(1, O))
    end.

%% What of it could not be written is the next again.
-spec back(binary(), outbox()) -> outbox().
back(Rest, #outbox{first = none, size = Size} = O) ->
    O#outbox{first = {byte_size(Rest), Rest}, size = Size + byte_size(Rest)}.
