%% The codec for a test in another language: commands on standard input, answers on standard output, in hexadecimal.
-module(straw_codec_pipe).
-export([main/0, known/0]).

%% again otp|ling FRAME   decode, and encode the same in that dialect
%% read json|own FRAME    the external term of {Name, Msg}
%% write json TERM        the frame of an external term, to buddy
%% send ling|otp SEED      the frame of a random message, with pids and references of all kinds
%% back ling|otp FRAME     whether the message that comes is the one that was sent last
-spec main() -> no_return().
main() ->
    io:setopts([binary]),
    loop().

%% Atoms that frames may bear: none is made of them.
-spec known() -> [atom()].
known() -> [buddy, shop, 'b@127.0.0.1', hello, lists, map, local, x, y, '\x{e9}', 'nonode@other1', 'nonode@other2'].

loop() ->
    case io:get_line("") of
        Line when is_binary(Line) ->
            [What, How, Hex] = binary:split(string:trim(Line, trailing, "\n"), <<" ">>, [global]),
            case answer(binary_to_atom(What), binary_to_atom(How), binary:decode_hex(Hex)) of
                {ok, Bytes} -> io:format("ok ~s~n", [binary:encode_hex(Bytes)]);
                {error, Reason} -> io:format("error ~0tp~n", [Reason])
            end,
            loop();
        _ -> halt()
    end.

answer(again, Dialect, Frame) ->
    Ids = straw_ids:new(#{domid => 7, peer => 5, dialect => Dialect}),
    case straw_codec:decode(Frame, #{ids => Ids}) of
        {ok, Addr, Msg, More} ->
            case straw_codec:encode(Addr, Msg, #{ids => More}) of
                {ok, Again, _} -> {ok, iolist_to_binary(Again)};
                {error, Reason, _} -> {error, Reason}
            end;
        {error, Reason, _} -> {error, Reason}
    end;
answer(read, json, Frame) -> read(straw_json:decode_envelope(Frame));
answer(read, own, Frame) ->
    case straw_json:decode_own(Frame, maps) of
        {ok, #{<<"addr">> := Name, <<"msg">> := Msg}} when is_binary(Name) -> read({ok, Name, Msg});
        {ok, _} -> {error, envelope};
        {error, Text} -> {error, Text}
    end;
answer(write, json, Term) ->
    case straw_codec:encode(buddy, binary_to_term(Term), #{format => json}) of
        {ok, Frame, _} -> {ok, iolist_to_binary(Frame)};
        {error, Reason, _} -> {error, Reason}
    end;
answer(send, Dialect, <<Seed:32>>) ->
    rand:seed(exsss, Seed),
    Message = message(5),
    Ids = straw_ids:new(#{domid => 7, peer => 5, dialect => Dialect}),
    {ok, Frame, More} = straw_codec:encode(buddy, Message, #{ids => Ids}),
    put(sent, {Message, More}),
    {ok, iolist_to_binary(Frame)};
answer(back, _Dialect, Frame) ->
    {Message, Ids} = get(sent),
    case straw_codec:decode(Frame, #{ids => Ids}) of
        {ok, buddy, Message, _} -> {ok, <<"same">>};
        {ok, buddy, Other, _} -> {error, {Message, Other}};
        {error, Reason, _} -> {error, Reason}
    end.

message(0) ->
    case rand:uniform(12) of
        1 -> self();
        2 -> whereis(init);
        3 -> {self(), [alias | erlang:alias()]};
        4 -> {whereis(init), [[alias | make_ref()] | label]};
        5 -> [alias | make_ref()];
        6 -> {self(), make_ref()};
        7 -> ref(rand:uniform(5));
        8 -> [];
        9 -> (1 bsl rand:uniform(80)) - (1 bsl (rand:uniform(80) - 1));
        10 -> rand:bytes(rand:uniform(20) - 1);
        11 -> lists:nth(rand:uniform(5), [x, '\x{e9}', fun lists:map/2, <<5:3>>, -2.5]);
        12 -> "text"
    end;
message(Depth) ->
    Parts = [message(rand:uniform(Depth) - 1) || _ <- lists:seq(1, rand:uniform(4))],
    case rand:uniform(3) of
        1 -> Parts;
        2 -> Parts ++ message(0);
        3 -> list_to_tuple(Parts)
    end.

ref(Count) ->
    Words = [rand:uniform(1 bsl 19) - 1 | [rand:uniform(3) - 1 || _ <- lists:seq(2, Count)]],
    binary_to_term(<<131, 90, Count:16, 119, 13, "nonode@other", ($0 + rand:uniform(2)), (rand:uniform(1 bsl 32) - 1):32,
                     << <<Word:32>> || Word <- Words >>/binary>>).

read({ok, Name, Msg}) -> {ok, term_to_binary({Name, Msg})};
read(Error) -> Error.
