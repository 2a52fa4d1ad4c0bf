%% Frames of a stream, and what waits to be written.
-module(straw_frames_tests).

-include_lib("eunit/include/eunit.hrl").

stream(Frames) -> iolist_to_binary([[<<(iolist_size(F)):32>>, F] || F <- Frames]).

frames() -> [<<>>, <<"a">>, <<"hello">>, binary:copy(<<"x">>, 1000), <<>>, <<1, 2, 3, 4, 5>>].

%% The same, however the stream is cut.
cut_test_() ->
    Bytes = stream(frames()),
    [
        ?_assertEqual(frames(), cut(Size, Bytes, straw_frames:new(1000)))
     || Size <- [1, 2, 3, 4, 5, 7, 64, 999, byte_size(Bytes)]
    ].

cut(Size, Bytes, F) when byte_size(Bytes) =< Size ->
    {Out, F1} = straw_frames:bytes(Bytes, F),
    ?assertNot(straw_frames:is_partial(F1)),
    Out;
cut(Size, Bytes, F) ->
    <<Part:Size/binary, Rest/binary>> = Bytes,
    {Out, F1} = straw_frames:bytes(Part, F),
    Out ++ cut(Size, Rest, F1).

oversized_test_() ->
    Bytes = stream([<<"a">>, binary:copy(<<"x">>, 11), <<"b">>]),
    [?_assertEqual([<<"a">>, {oversized, 11}, <<"b">>], cut(Size, Bytes, straw_frames:new(10))) || Size <- [1, 3, 6, 100]].

%% What is announced costs nothing; it is wanted exactly.
wanted_test() ->
    F0 = straw_frames:new(16 bsl 20),
    ?assertEqual(4, straw_frames:wanted(F0)),
    {[], F1} = straw_frames:bytes(<<0, 16>>, F0),
    ?assertEqual(2, straw_frames:wanted(F1)),
    {[], F2} = straw_frames:bytes(<<0, 0, "abc">>, F1),
    ?assertEqual(16#100000 - 3, straw_frames:wanted(F2)),
    ?assert(straw_frames:is_partial(F2)),
    ?assert(erts_debug:flat_size(F2) < 100),
    {[{oversized, 16#FFFFFFFF}], F3} = straw_frames:bytes(<<16#FFFFFFFF:32, 1>>, F0),
    ?assertEqual(16#FFFFFFFE, straw_frames:wanted(F3)).

%% ── outbox ──

outbox_test_() ->
    Frames = frames() ++ [[<<"io">>, ["list"]], binary:copy(<<"y">>, 20000), [binary:copy(<<"z">>, 9000), "!"], "end"],
    [
        {integer_to_list(Room), fun() ->
            Full = lists:foldl(fun straw_outbox:put/2, straw_outbox:new(), Frames),
            ?assertEqual(byte_size(stream(Frames)), straw_outbox:size(Full)),
            ?assertEqual(stream(Frames), iolist_to_binary(emptied(Room, Full)))
        end}
     || Room <- [1, 5, 100, 8192, 1000000]
    ].

%% Written in rooms of so many bytes.
emptied(Room, O) ->
    case straw_outbox:next(O) of
        empty ->
            ?assertEqual(0, straw_outbox:size(O)),
            [];
        {Length, Data, Rest} ->
            Bytes = iolist_to_binary(Data),
            ?assertEqual(Length, byte_size(Bytes)),
            case Bytes of
                <<Part:Room/binary, Left/binary>> when Left =/= <<>> -> [Part | emptied(Room, straw_outbox:back(Left, Rest))];
                _ -> [Bytes | emptied(Room, Rest)]
            end
    end.

%% Many small ones leave together.
gathered_test() ->
    O = lists:foldl(fun straw_outbox:put/2, straw_outbox:new(), lists:duplicate(1000, <<"small">>)),
    {9000, _, Rest} = straw_outbox:next(O),
    ?assertEqual(empty, straw_outbox:next(Rest)).
