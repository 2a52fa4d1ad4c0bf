%% Writes what this OTP's term_to_binary makes of terms of every type, one "name hex" a line, for
%% tests/unit/test_etf_golden.py.
%%
%%   erlc etf_golden.erl                                     (OTP 25; the .beam runs on both)
%%   erl -noshell -s etf_golden write etf_otp25.txt -s init stop
%%   ERL_ROOTDIR=... erl -noshell -s etf_golden write etf_otp28.txt -s init stop
%%
%% Pids, ports and references of other nodes are read from bytes, so that every run writes the same.
-module(etf_golden).
-export([write/1, terms/0]).

write([File]) ->
    Lines = [[Name, " ", [io_lib:format("~2.16.0b", [B]) || <<B>> <= term_to_binary(Term)], "\n"] || {Name, Term} <- terms()],
    ok = file:write_file(atom_to_list(File), Lines).

terms() ->
    Node = <<119, 7, "a@b.com">>,
    Pid = binary_to_term(<<131, 88, Node/binary, 77:32, 3:32, 12345678:32>>),
    [{"int_0", 0}, {"int_255", 255}, {"int_256", 256}, {"int_minus_1", -1},
     {"int_max32", 2147483647}, {"int_min32", -2147483648},
     {"int_over32", 2147483648}, {"int_under32", -2147483649},
     {"int_max_small", (1 bsl 59) - 1}, {"int_over_small", 1 bsl 59}, {"int_under_small", -(1 bsl 59) - 1},
     {"int_max64", (1 bsl 63) - 1}, {"int_min64", -(1 bsl 63)}, {"int_2_64", 1 bsl 64}, {"int_minus_2_64", -(1 bsl 64)},
     {"int_big_255", 1 bsl (8 * 255) - 1}, {"int_big_256", 1 bsl (8 * 255)}, {"int_big_negative", -(1 bsl 3000) - 17},
     {"float_0", 0.0}, {"float_minus_0", -0.0}, {"float_1", 1.0}, {"float_small", 5.0e-324}, {"float_large", 1.7976931348623157e308},
     {"float_pi", -3.141592653589793},
     {"atom", hello}, {"atom_empty", ''}, {"atom_true", true}, {"atom_false", false}, {"atom_undefined", undefined}, {"atom_nil", nil},
     {"atom_latin1", list_to_atom([233, 255])}, {"atom_utf8", list_to_atom([8364, 128640])},
     {"atom_255_ascii", list_to_atom(lists:duplicate(255, $a))}, {"atom_255_latin1", list_to_atom(lists:duplicate(255, 233))},
     {"atom_255_wide", list_to_atom(lists:duplicate(255, 128640))}, {"atom_85_euro", list_to_atom(lists:duplicate(85, 8364))},
     {"tuple_0", {}}, {"tuple_1", {1}}, {"tuple_nested", {{}, {{a}, 1}}}, {"tuple_255", list_to_tuple(lists:seq(1, 255))},
     {"tuple_256", list_to_tuple(lists:seq(1, 256))},
     {"nil", []}, {"string", "hello"}, {"string_latin1", [255, 0, 128]}, {"list_256", [1, 2, 256]}, {"list_negative", [1, -1]},
     {"list_float", [1.0]}, {"list_atoms", [a, [b], c]}, {"list_true", [true, 1]},
     {"improper", [a | b]}, {"improper_numbers", [1, 2 | 3]}, {"improper_bytes", [1, 2 | <<"x">>]}, {"improper_deep", [[1 | 2] | {x}]},
     {"binary", <<"abc">>}, {"binary_empty", <<>>}, {"binary_300", binary:copy(<<"xyz">>, 100)},
     {"bits_1", <<1:1>>}, {"bits_7", <<127:7>>}, {"bits_9", <<255, 1:1>>}, {"bits_12", <<16#ABC:12>>},
     {"map_0", #{}}, {"map_1", #{a => 1}}, {"map_binary_keys", #{<<"a">> => #{<<"b">> => []}}},
     {"map_1_and_1_0", #{1 => a, 1.0 => b}}, {"map_true_and_1", #{true => a, 1 => b}}, {"map_list_key", #{[1, x] => a}},
     {"map_map_key", #{#{1 => 2} => #{3 => 4}}}, {"map_tuple_keys", #{{1, a} => x, {1.0, a} => y}}, {"map_float_keys", #{0.5 => x}},
     {"map_40", maps:from_list([{I, I * I} || I <- lists:seq(1, 40)])},
     {"pid", Pid}, {"pid_large", binary_to_term(<<131, 88, Node/binary, 16#FFFFFFFF:32, 16#FFFFFFFE:32, 16#FFFFFFFD:32>>)},
     {"port_28_bits", binary_to_term(<<131, 89, Node/binary, 16#0FFFFFFF:32, 9:32>>)},
     {"port_29_bits", binary_to_term(<<131, 120, Node/binary, 16#10000000:64, 9:32>>)},
     {"port_64_bits", binary_to_term(<<131, 120, Node/binary, 16#FEDCBA9876543210:64, 9:32>>)},
     {"ref_1", binary_to_term(<<131, 90, 1:16, Node/binary, 9:32, 1:32>>)},
     {"ref_3", binary_to_term(<<131, 90, 3:16, Node/binary, 9:32, 1:32, 2:32, 16#FFFFFFFF:32>>)},
     {"ref_5", binary_to_term(<<131, 90, 5:16, Node/binary, 9:32, 1:32, 2:32, 3:32, 4:32, 5:32>>)},
     {"old_pid", binary_to_term(<<131, 103, Node/binary, 77:32, 3:32, 2>>)},
     {"old_port", binary_to_term(<<131, 102, Node/binary, 77:32, 2>>)},
     {"old_ref", binary_to_term(<<131, 101, Node/binary, 77:32, 2>>)},
     {"old_new_ref", binary_to_term(<<131, 114, 3:16, Node/binary, 2, 7:32, 8:32, 9:32>>)},
     {"old_float", binary_to_term(<<131, 99, "1.50000000000000000000e+00", 0, 0, 0, 0, 0>>)},
     {"export", fun lists:map/2}, {"export_255", fun 'x y':z/255},
     {"fun", binary_to_term(fun_bytes(Node, 0))}, {"fun_free", binary_to_term(fun_bytes(Node, 3))},
     {"gen_call", {'$gen_call', {Pid, [alias | binary_to_term(<<131, 90, 5:16, Node/binary, 9:32, 1:32, 2:32, 3:32, 4:32, 5:32>>)]},
                   {add, 1, 2}}},
     {"deep", lists:foldl(fun(_, T) -> {[T]} end, x, lists:seq(1, 200))}].

fun_bytes(Node, Free) ->
    Vars = << <<B/binary>> || B <- lists:sublist([<<97, 1>>, <<108, 1:32, 100, 1:16, "x", 97, 7>>, <<109, 2:32, "ab">>], Free) >>,
    Body = <<2, 16#00112233445566778899AABBCCDDEEFF:128, 5:32, Free:32, 119, 3, "mod", 97, 5, 98, 123456789:32,
             88, Node/binary, 77:32, 3:32, 9:32, Vars/binary>>,
    <<131, 112, (byte_size(Body) + 4):32, Body/binary>>.
