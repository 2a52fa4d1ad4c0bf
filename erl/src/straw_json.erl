%% JSON for straws: strict both ways, names never made into atoms, nesting and numbers bounded, the same bytes and the
%% same refusals as node/strawman/formats.py.
%%
%% Decoding uses OTP's own json module where it is (27 and later), and a parser of this file before; both give the same.
%% Objects become maps, or proplists as jsx has them; text becomes binaries; null, true and false the atoms.
-module(straw_json).
-export([encode_envelope/2, decode_envelope/1, encode/2, decode/2, decode_own/2]).
-export_type([objects/0, rules/0]).

%% Nesting of a message, as in Python.
-define(MAX_DEPTH, 200).
%% Digits of an integer, as in Python: reading and writing them takes time that grows with the square.
-define(MAX_DIGITS, 4300).
%% Beyond it an integer has more digits.
-define(TOO_LARGE, (1 bsl 14285)).

-type objects() :: maps | proplists.
%% strict: of all atoms null, true and false, keys are binaries and all different. jsx: other atoms are text, keys may
%% be atoms and integers.
-type rules() :: strict | jsx.
-type value() :: term().

%% One frame. The message is what a process has sent: binaries are text, maps and proplists objects, [{}] the empty one.
-spec encode_envelope(atom(), term()) -> {ok, binary()} | {error, binary()}.
encode_envelope(Name, Msg) ->
    case encode(Msg, strict) of
        {ok, Body} ->
            {ok, <<"{\"addr\":", (iolist_to_binary(text(atom_to_binary(Name, utf8))))/binary, ",\"msg\":", Body/binary, "}">>};
        {error, _} = Error -> Error
    end.

%% The name and the message, whatever a peer wrote.
-spec decode_envelope(binary()) -> {ok, binary(), term()} | {error, binary()}.
decode_envelope(Frame) ->
    case decode(Frame, maps) of
        {ok, #{<<"addr">> := Name, <<"msg">> := Msg}} when is_binary(Name) -> {ok, Name, Msg};
        {ok, _} -> {error, <<"not an envelope: an object with addr and msg">>};
        {error, Text} -> {error, <<"not JSON: ", Text/binary>>}
    end.

%% ---- encoding ----

-spec encode(value(), rules()) -> {ok, binary()} | {error, binary()}.
encode(Value, Rules) ->
    try {ok, iolist_to_binary(value(Value, 0, Rules))}
    catch throw:{json, Text} -> {error, Text}
    end.

-spec value(value(), non_neg_integer(), rules()) -> iodata().
value(Text, _, _) when is_binary(Text) -> text(Text);
value(Number, _, _) when is_integer(Number) -> whole(Number);
value(Number, _, _) when is_float(Number) -> real(Number);
value(Word, _, _) when Word =:= null; Word =:= true; Word =:= false -> atom_to_binary(Word, utf8);
value(Word, _, jsx) when is_atom(Word) -> text(atom_to_binary(Word, utf8));
value(Word, _, strict) when is_atom(Word) ->
    fail("of all atoms JSON has null, true and false only, not ~tw", [Word]);
value(_, ?MAX_DEPTH, _) -> fail("nested more than ~b deep", [?MAX_DEPTH]);
value(Map, Depth, Rules) when is_map(Map) -> object(maps:to_list(Map), Depth, Rules);
value([], _, _) -> <<"[]">>;
value([{}], _, _) -> <<"{}">>;
value([First | _] = List, Depth, Rules) ->
    case is_list_of_pairs(First, List) of
        true -> object(List, Depth, Rules);
        false -> [$[, value(First, Depth + 1, Rules), items(tl(List), Depth + 1, Rules), $]]
    end;
value(Other, _, _) -> fail("JSON has no ~ts", [kind(Other)]).

-spec is_list_of_pairs(term(), term()) -> boolean().
is_list_of_pairs({_, _}, [{_, _} | Rest]) -> is_list_of_pairs({x, x}, Rest);
is_list_of_pairs({_, _}, []) -> true;
is_list_of_pairs(_, _) -> false.

-spec items(term(), pos_integer(), rules()) -> iodata().
items([], _, _) -> [];
items([Item | Rest], Depth, Rules) -> [$,, value(Item, Depth, Rules) | items(Rest, Depth, Rules)];
items(_, _, _) -> fail("JSON has no improper list", []).

-spec object([{term(), value()}], non_neg_integer(), rules()) -> iodata().
object(Pairs, Depth, Rules) ->
    Members = [{key(Key, Rules), Item} || {Key, Item} <- Pairs],
    Distinct = maps:size(maps:from_list(Members)),
    Rules =:= jsx orelse Distinct =:= length(Pairs) orelse fail("two keys of an object are the same", []),
    [${, lists:join($,, [[text(Key), $:, value(Item, Depth + 1, Rules)] || {Key, Item} <- Members]), $}].

-spec key(term(), rules()) -> binary().
key(Key, _) when is_binary(Key) -> Key;
key(Key, jsx) when is_atom(Key) -> atom_to_binary(Key, utf8);
key(Key, jsx) when is_integer(Key) -> integer_to_binary(Key);
key(Key, _) -> fail("a key of a JSON object is a string, not ~ts", [kind(Key)]).

-spec kind(term()) -> string().
kind(T) when is_tuple(T) -> "tuple";
kind(T) when is_pid(T) -> "pid";
kind(T) when is_reference(T) -> "reference";
kind(T) when is_port(T) -> "port";
kind(T) when is_function(T) -> "fun";
kind(T) when is_bitstring(T) -> "bitstring";
kind(T) when is_atom(T) -> "atom";
kind(T) when is_number(T) -> "number";
kind(T) when is_map(T) -> "map";
kind(_) -> "list".

%% A string: only what must be escaped is.
-spec text(binary()) -> iodata().
text(Text) ->
    case unicode:characters_to_binary(Text) of
        Text -> [$", escaped(Text, Text, 0, 0), $"];
        _ -> fail("not text: a JSON string is UTF-8", [])
    end.

%% At: where the bytes begin that are not passed on yet; Size: how many of them have been seen.
-spec escaped(binary(), binary(), non_neg_integer(), non_neg_integer()) -> iodata().
escaped(<<C, Rest/binary>>, Text, At, Size) when C >= 32, C =/= $", C =/= $\\ -> escaped(Rest, Text, At, Size + 1);
escaped(<<>>, Text, 0, _) -> Text;
escaped(<<>>, Text, At, Size) -> binary_part(Text, At, Size);
escaped(<<C, Rest/binary>>, Text, At, Size) ->
    [binary_part(Text, At, Size), escape(C) | escaped(Rest, Text, At + Size + 1, 0)].

-spec escape(byte()) -> iodata().
escape($") -> <<"\\\"">>;
escape($\\) -> <<"\\\\">>;
escape($\n) -> <<"\\n">>;
escape($\r) -> <<"\\r">>;
escape($\t) -> <<"\\t">>;
escape($\f) -> <<"\\f">>;
escape($\b) -> <<"\\b">>;
escape(C) -> io_lib:format("\\u~4.16.0b", [C]).

-spec whole(integer()) -> binary().
whole(Number) when Number < ?TOO_LARGE, Number > -?TOO_LARGE ->
    Digits = integer_to_binary(Number),
    byte_size(Digits) =< ?MAX_DIGITS orelse byte_size(integer_to_binary(abs(Number))) =< ?MAX_DIGITS
        orelse fail("an integer of more than ~b digits", [?MAX_DIGITS]),
    Digits;
whole(_) -> fail("an integer of more than ~b digits", [?MAX_DIGITS]).

%% As Python writes it: the fewest digits that say this number, an exponent below 1e-4 and from 1e16 on.
-spec real(float()) -> iodata().
real(Number) ->
    case float_to_binary(Number, [short]) of
        <<$-, Rest/binary>> -> [$- | real_text(Rest)];
        Text -> real_text(Text)
    end.

-spec real_text(binary()) -> iodata().
real_text(Text) ->
    [Mantissa | Power] = binary:split(Text, <<"e">>),
    [Before, After] = binary:split(Mantissa, <<".">>),
    Shift = case Power of [] -> 0; [P] -> binary_to_integer(P) end,
    All = string:trim(binary_to_list(<<Before/binary, After/binary>>), trailing, "0"),
    Digits = string:trim(All, leading, "0"),
    %% The number is 0.Digits * 10^Point.
    Point = byte_size(Before) + Shift - (length(All) - length(Digits)),
    Count = length(Digits),
    if
        Digits =:= "" -> "0.0";
        Point > 16; Point < -3 ->
            [First | More] = Digits,
            [First, [[$. | More] || More =/= ""], $e, if Point > 0 -> $+; true -> $- end,
             [$0 || abs(Point - 1) < 10], integer_to_binary(abs(Point - 1))];
        Point =< 0 -> ["0.", lists:duplicate(-Point, $0), Digits];
        Point >= Count -> [Digits, lists:duplicate(Point - Count, $0), ".0"];
        true -> [lists:sublist(Digits, Point), $., lists:nthtail(Point, Digits)]
    end.

%% ---- decoding ----

-spec decode(binary(), objects()) -> {ok, value()} | {error, binary()}.
decode(Bytes, Objects) ->
    case list_to_integer(erlang:system_info(otp_release)) >= 27 of
        true -> decode_otp(Bytes, Objects);
        false -> decode_own(Bytes, Objects)
    end.

%% By OTP's json: an accumulator is how deep we are, and the items so far.
-spec decode_otp(binary(), objects()) -> {ok, value()} | {error, binary()}.
decode_otp(Bytes, Objects) ->
    Start = fun({Depth, _}) -> {deeper(Depth), []} end,
    Decoders = #{array_start => Start,
                 array_push => fun(Item, {Depth, Items}) -> {Depth, [Item | Items]} end,
                 array_finish => fun({_, Items}, Outer) -> {lists:reverse(Items), Outer} end,
                 object_start => Start,
                 object_push => fun(Key, Item, {Depth, Items}) -> {Depth, [{Key, Item} | Items]} end,
                 object_finish => fun({_, Pairs}, Outer) -> {make_object(Pairs, Objects), Outer} end,
                 %% a few bytes must not hold a whole frame
                 string => fun binary:copy/1,
                 integer => fun integer/1,
                 float => fun float_of/1},
    try json:decode(Bytes, {0, []}, Decoders) of
        {Value, _, Rest} ->
            case skip(Rest) of
                <<>> -> {ok, Value};
                _ -> {error, <<"data after the value">>}
            end
    catch
        throw:{json, Text} -> {error, Text};
        error:_ -> {error, <<"it does not parse">>}
    end.

%% By this file, whichever OTP it is.
-spec decode_own(binary(), objects()) -> {ok, value()} | {error, binary()}.
decode_own(Bytes, Objects) ->
    try parse(skip(Bytes), 0, Objects) of
        {Value, Rest} ->
            case skip(Rest) of
                <<>> -> {ok, Value};
                _ -> {error, <<"data after the value">>}
            end
    catch throw:{json, Text} -> {error, Text}
    end.

-spec skip(binary()) -> binary().
skip(<<C, Rest/binary>>) when C =:= $\s; C =:= $\n; C =:= $\r; C =:= $\t -> skip(Rest);
skip(Rest) -> Rest.

-spec parse(binary(), non_neg_integer(), objects()) -> {value(), binary()}.
parse(<<$", Rest/binary>>, _, _) -> string(Rest);
parse(<<${, Rest/binary>>, Depth, Objects) ->
    Deeper = deeper(Depth),
    case skip(Rest) of
        <<$}, After/binary>> -> {make_object([], Objects), After};
        More -> members(More, [], Deeper, Objects)
    end;
parse(<<$[, Rest/binary>>, Depth, Objects) ->
    Deeper = deeper(Depth),
    case skip(Rest) of
        <<$], After/binary>> -> {[], After};
        More -> elements(More, [], Deeper, Objects)
    end;
parse(<<"null", Rest/binary>>, _, _) -> {null, Rest};
parse(<<"true", Rest/binary>>, _, _) -> {true, Rest};
parse(<<"false", Rest/binary>>, _, _) -> {false, Rest};
parse(<<C, _/binary>> = Bytes, _, _) when C =:= $-; C >= $0, C =< $9 -> number(Bytes);
parse(_, _, _) -> fail("it does not parse", []).

-spec elements(binary(), [value()], pos_integer(), objects()) -> {[value()], binary()}.
elements(Bytes, Done, Depth, Objects) ->
    {Item, Rest} = parse(Bytes, Depth, Objects),
    case skip(Rest) of
        <<$,, More/binary>> -> elements(skip(More), [Item | Done], Depth, Objects);
        <<$], After/binary>> -> {lists:reverse(Done, [Item]), After};
        _ -> fail("it does not parse", [])
    end.

-spec members(binary(), [{binary(), value()}], pos_integer(), objects()) -> {value(), binary()}.
members(<<$", Bytes/binary>>, Done, Depth, Objects) ->
    {Key, Rest} = string(Bytes),
    case skip(Rest) of
        <<$:, After/binary>> ->
            {Item, More} = parse(skip(After), Depth, Objects),
            case skip(More) of
                <<$,, Next/binary>> -> members(skip(Next), [{Key, Item} | Done], Depth, Objects);
                <<$}, End/binary>> -> {make_object([{Key, Item} | Done], Objects), End};
                _ -> fail("it does not parse", [])
            end;
        _ -> fail("it does not parse", [])
    end;
members(_, _, _, _) -> fail("it does not parse", []).

%% Of pairs in the reverse order. The last of two that are the same counts.
-spec make_object([{binary(), value()}], objects()) -> value().
make_object([], proplists) -> [{}];
make_object(Pairs, proplists) -> lists:reverse(Pairs);
make_object(Pairs, maps) -> maps:from_list(lists:reverse(Pairs)).

%% The envelope itself is one more.
-spec deeper(non_neg_integer()) -> pos_integer().
deeper(Depth) when Depth > ?MAX_DEPTH -> fail("nested more than ~b deep", [?MAX_DEPTH]);
deeper(Depth) -> Depth + 1.

%% After the quote.
-spec string(binary()) -> {binary(), binary()}.
string(Bytes) ->
    case run(Bytes, 0) of
        {Size, $"} ->
            <<Text:Size/binary, $", Rest/binary>> = Bytes,
            {binary:copy(utf8(Text)), Rest};
        {Size, $\\} ->
            <<Text:Size/binary, $\\, Rest/binary>> = Bytes,
            {Escaped, More} = unescape(Rest),
            string(More, [utf8(Text), Escaped])
    end.

-spec string(binary(), iodata()) -> {binary(), binary()}.
string(Bytes, Done) ->
    case run(Bytes, 0) of
        {Size, $"} ->
            <<Text:Size/binary, $", Rest/binary>> = Bytes,
            {iolist_to_binary([Done, utf8(Text)]), Rest};
        {Size, $\\} ->
            <<Text:Size/binary, $\\, Rest/binary>> = Bytes,
            {Escaped, More} = unescape(Rest),
            string(More, [Done, utf8(Text), Escaped])
    end.

%% Bytes before the next quote or backslash.
-spec run(binary(), non_neg_integer()) -> {non_neg_integer(), byte()}.
run(<<C, _/binary>>, Size) when C =:= $"; C =:= $\\ -> {Size, C};
run(<<C, Rest/binary>>, Size) when C >= 32 -> run(Rest, Size + 1);
run(_, _) -> fail("it does not parse", []).

-spec utf8(binary()) -> binary().
utf8(Text) ->
    case unicode:characters_to_binary(Text) of
        Text -> Text;
        _ -> fail("not UTF-8", [])
    end.

-spec unescape(binary()) -> {binary(), binary()}.
unescape(<<C, Rest/binary>>) when C =:= $"; C =:= $\\; C =:= $/ -> {<<C>>, Rest};
unescape(<<$n, Rest/binary>>) -> {<<$\n>>, Rest};
unescape(<<$t, Rest/binary>>) -> {<<$\t>>, Rest};
unescape(<<$r, Rest/binary>>) -> {<<$\r>>, Rest};
unescape(<<$b, Rest/binary>>) -> {<<$\b>>, Rest};
unescape(<<$f, Rest/binary>>) -> {<<$\f>>, Rest};
unescape(<<$u, Hex:4/binary, Rest/binary>>) ->
    case {hex(Hex), Rest} of
        {High, <<"\\u", Low_hex:4/binary, More/binary>>} when High >= 16#D800, High < 16#DC00 ->
            case hex(Low_hex) of
                Low when Low >= 16#DC00, Low < 16#E000 ->
                    {<<(16#10000 + ((High - 16#D800) bsl 10) + Low - 16#DC00)/utf8>>, More};
                _ -> fail("half a surrogate pair in a string", [])
            end;
        {Half, _} when Half >= 16#D800, Half < 16#E000 -> fail("half a surrogate pair in a string", []);
        {Char, _} -> {<<Char/utf8>>, Rest}
    end;
unescape(_) -> fail("it does not parse", []).

-spec hex(binary()) -> non_neg_integer().
hex(Hex) ->
    [fail("it does not parse", []) || <<C>> <= Hex, not is_hex(C)],
    binary_to_integer(Hex, 16).

-spec is_hex(byte()) -> boolean().
is_hex(C) -> C >= $0 andalso C =< $9 orelse C >= $a andalso C =< $f orelse C >= $A andalso C =< $F.

-spec number(binary()) -> {number(), binary()}.
number(Bytes) ->
    Sign = case Bytes of <<$-, _/binary>> -> 1; _ -> 0 end,
    Whole = Sign + digits(Bytes, Sign),
    case Bytes of
        _ when Whole =:= Sign -> fail("it does not parse", []);
        <<_:Sign/binary, $0, _/binary>> when Whole > Sign + 1 -> fail("it does not parse", []);
        <<_:Whole/binary, $., _/binary>> ->
            case digits(Bytes, Whole + 1) of
                0 -> fail("it does not parse", []);
                More -> number(Bytes, Whole, Whole + 1 + More)
            end;
        _ -> number(Bytes, Whole, Whole)
    end.

%% Fraction: where it ends; the same as Whole when there is none.
-spec number(binary(), pos_integer(), pos_integer()) -> {number(), binary()}.
number(Bytes, Whole, Fraction) ->
    case Bytes of
        <<_:Fraction/binary, E, Sign, _/binary>> when E =:= $e orelse E =:= $E, Sign =:= $- orelse Sign =:= $+ ->
            power(Bytes, Whole, Fraction, 2);
        <<_:Fraction/binary, E, _/binary>> when E =:= $e; E =:= $E -> power(Bytes, Whole, Fraction, 1);
        <<Text:Fraction/binary, Rest/binary>> when Fraction > Whole -> {float_of(Text), Rest};
        <<Text:Whole/binary, Rest/binary>> -> {integer(Text), Rest}
    end.

-spec power(binary(), pos_integer(), pos_integer(), 1..2) -> {float(), binary()}.
power(Bytes, Whole, Fraction, Head) ->
    case digits(Bytes, Fraction + Head) of
        0 -> fail("it does not parse", []);
        Count ->
            Size = Head + Count,
            <<Mantissa:Fraction/binary, Power:Size/binary, Rest/binary>> = Bytes,
            Zero = if Fraction =:= Whole -> <<".0">>; true -> <<>> end,
            {float_of(<<Mantissa/binary, Zero/binary, Power/binary>>), Rest}
    end.

%% How many digits there are from here on.
-spec digits(binary(), non_neg_integer()) -> non_neg_integer().
digits(Bytes, At) ->
    case Bytes of
        <<_:At/binary, Rest/binary>> -> count_digits(Rest, 0);
        _ -> 0
    end.

-spec count_digits(binary(), non_neg_integer()) -> non_neg_integer().
count_digits(<<C, Rest/binary>>, N) when C >= $0, C =< $9 -> count_digits(Rest, N + 1);
count_digits(_, N) -> N.

-spec integer(binary()) -> integer().
integer(<<$-, Digits/binary>>) -> -integer(Digits);
integer(Digits) when byte_size(Digits) =< ?MAX_DIGITS -> binary_to_integer(Digits);
integer(_) -> fail("an integer of more than ~b digits", [?MAX_DIGITS]).

-spec float_of(binary()) -> float().
float_of(Text) ->
    try binary_to_float(Text)
    catch error:_ -> fail("a number beyond a float", [])
    end.

-spec fail(string(), [term()]) -> no_return().
fail(Format, Arguments) -> throw({json, iolist_to_binary(io_lib:format(Format, Arguments))}).
