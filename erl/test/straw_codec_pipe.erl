%% The codec for a test in another language: commands on standard input, answers on standard output, in hexadecimal.
-module(straw_codec_pipe).
-export([main/0, known/0]).

%% again otp|ling FRAME   decode, and encode the same in that dialect
%% read json|own FRAME    the external term of {Name, Msg}
%% write json TERM        the frame of an external term, to buddy
-spec main() -> no_return().
main() ->
    io:setopts([binary]),
    loop().

%% Atoms that frames may bear: none is made of them.
-spec known() -> [atom()].
known() -> [buddy, shop, 'b@127.0.0.1', hello, lists, map, local, x, y].

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
    end.

read({ok, Name, Msg}) -> {ok, term_to_binary({Name, Msg})};
read(Error) -> Error.
