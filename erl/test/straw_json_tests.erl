%% straw_json and straw_jsx; what node/strawman does with the same bytes is compared by tests/native/test_transcode_beam.py.
-module(straw_json_tests).
-include_lib("eunit/include/eunit.hrl").

both(Text, Objects) ->
    Own = straw_json:decode_own(Text, Objects),
    case {Own, straw_json:decode(Text, Objects)} of
        {{ok, Value}, {ok, Value}} -> {ok, Value};
        {{error, _}, {error, _}} -> error
    end.

objects_test() ->
    Text = <<"{\"b\":1,\"a\":{},\"c\":[{}],\"b\":2}">>,
    ?assertEqual({ok, #{<<"a">> => #{}, <<"b">> => 2, <<"c">> => [#{}]}}, both(Text, maps)),
    ?assertEqual({ok, [{<<"b">>, 1}, {<<"a">>, [{}]}, {<<"c">>, [[{}]]}, {<<"b">>, 2}]}, both(Text, proplists)).

%% Cut off, changed and random texts: both parsers say the same, and nothing else is thrown.
random_test_() ->
    {timeout, 60, fun() ->
        rand:seed(exsss, {7, 8, 9}),
        Seed = <<"{\"addr\":\"b\\u00e9\",\"msg\":[1,-2.5e3,\"\\ud83d\\ude80\\n\",null,true,false,{\"k\":[]},\"",
                 16#20AC/utf8, "\"]} ">>,
        lists:foreach(fun(_) -> both(mutate(Seed), maps) end, lists:seq(1, 30000))
    end}.

mutate(Text) ->
    lists:foldl(
        fun(_, Bytes) ->
            At = rand:uniform(byte_size(Bytes)) - 1,
            <<Head:At/binary, C, Tail/binary>> = Bytes,
            case rand:uniform(5) of
                1 -> <<Head/binary, (rand:uniform(256) - 1), Tail/binary>>;
                2 -> <<Head/binary, (lists:nth(rand:uniform(12), "{}[]\",:\\u0e-")), Tail/binary>>;
                3 -> <<Head/binary, C, C, Tail/binary>>;
                4 -> <<Head/binary, Tail/binary, " ">>;
                5 -> <<C, Head/binary>>
            end
        end, Text, lists:seq(1, rand:uniform(3))).

floats_test() ->
    rand:seed(exsss, {1, 1, 1}),
    lists:foreach(
        fun(_) ->
            <<Number/float>> = finite(rand:bytes(8)),
            {ok, Text} = straw_json:encode(Number, strict),
            ?assertEqual({ok, Number}, both(Text, maps))
        end, lists:seq(1, 5000)).

finite(<<_:1, 16#7FF:11, _:52>>) -> <<0:64>>;
finite(Bytes) -> Bytes.

a_large_text_test() ->
    Text = binary:copy(<<"0123456789abcde\n">>, 1 bsl 16),
    {ok, Frame} = straw_json:encode_envelope(buddy, Text),
    ?assertEqual({ok, <<"buddy">>, Text}, straw_json:decode_envelope(Frame)).

names_test() ->
    {ok, Frame} = straw_json:encode_envelope('a "b" \x{20ac}', 1),
    ?assertEqual({ok, <<"a \"b\" ", 16#20AC/utf8>>, 1}, straw_json:decode_envelope(Frame)).

%% ---- jsx ----

jsx_test() ->
    %% as LING's strawman calls it
    Text = straw_jsx:encode([{<<"addr">>, <<"buddy">>}, {<<"msg">>, [1, <<"x">>, [{}], [{a, hello}, {5, null}]]}]),
    ?assertEqual(<<"{\"addr\":\"buddy\",\"msg\":[1,\"x\",{},{\"a\":\"hello\",\"5\":null}]}">>, Text),
    ?assertEqual([{<<"addr">>, <<"buddy">>}, {<<"msg">>, [1, <<"x">>, [{}], [{<<"a">>, <<"hello">>}, {<<"5">>, null}]]}],
                 straw_jsx:decode(Text)),
    ?assertEqual(<<"{\"k\":[]}">>, straw_jsx:encode(#{k => []})),
    ?assertError(badarg, straw_jsx:encode(self())),
    ?assertError(badarg, straw_jsx:encode({a, b})),
    ?assertError(badarg, straw_jsx:decode(<<"{">>)),
    ?assertError(badarg, straw_jsx:decode("[]")).
