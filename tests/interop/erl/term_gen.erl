%% Random terms of every type, sent through an echo process of another node and compared with what comes back.
%%
%% run(Node, Count, Seed): {ok, Count, Kinds} or {failed, Seed, Number, SmallestTerm, WhatCameBack}. The same seed makes
%% the same terms as far as terms can be the same (pids and references are new in each run). A failing term is shrunk:
%% first to the smallest subterm that fails alone, then by leaving out elements.
-module(term_gen).
-export([run/3, echoes/2, a_fun/2]).

-define(PATIENCE, 20000).
-define(CHUNK, 50).

run(Node, Count, Seed) ->
    rand:seed(exsss, Seed),
    put(kinds, #{}),
    put(node, Node),
    put(atoms, list_to_tuple(atoms())),
    put(pids, list_to_tuple(pids(Node))),
    put(ports, list_to_tuple(ports())),
    chunks(Node, 0, Count, Seed).

chunks(_, Done, Count, _) when Done >= Count -> {ok, Done, lists:sort(maps:to_list(get(kinds)))};
chunks(Node, Done, Count, Seed) ->
    Terms = [{N, term(rnd(5))} || N <- lists:seq(Done + 1, Done + min(?CHUNK, Count - Done))],
    [{echo, Node} ! {self(), {Seed, N}, T} || {N, T} <- Terms],
    case check(Terms, Seed) of
        ok -> chunks(Node, Done + length(Terms), Count, Seed);
        {failed, N, Term} ->
            Small = shrink(Node, Term),
            {failed, {seed, Seed}, {number, N}, {term, Small}, {back, echo(Node, Small)}}
    end.

check([], _) -> ok;
check([{N, Term} | Rest], Seed) ->
    receive
        {{Seed, N}, Back} ->
            case same(Term, Back) of
                true -> check(Rest, Seed);
                false -> {failed, N, Term}
            end
    after 20000 -> {failed, N, Term}
    end.

%% =:= and, as 0.0 =:= -0.0 before OTP 27, as many negative zeros.
same(Term, Back) -> Term =:= Back andalso zeros(Term) =:= zeros(Back).

zeros([H | T]) -> zeros(H) + zeros(T);
zeros(T) when is_tuple(T) -> lists:sum([zeros(X) || X <- tuple_to_list(T)]);
zeros(M) when is_map(M) -> lists:sum([zeros({K, V}) || {K, V} <- maps:to_list(M)]);
zeros(F) when is_float(F), F == 0 -> case <<F/float>> of <<1:1, _/bitstring>> -> 1; _ -> 0 end;
zeros(_) -> 0.

echo(Node, Term) ->
    Ref = make_ref(),
    {echo, Node} ! {self(), Ref, Term},
    receive {Ref, Back} -> {ok, Back} after 10000 -> nothing end.

echoes(Node, Term) ->
    case echo(Node, Term) of
        {ok, Back} -> same(Term, Back);
        nothing -> false
    end.

%% -- shrinking ------------------------------------------------------------------------------------

shrink(Node, Term) -> shrink(Node, Term, smaller(Term)).

shrink(_, Term, []) -> Term;
shrink(Node, Term, [Smaller | Others]) ->
    case echoes(Node, Smaller) of
        true -> shrink(Node, Term, Others);
        false -> shrink(Node, Smaller)
    end.

smaller([]) -> [];
smaller(L) when is_list(L) ->
    Improper = not is_list_proper(L),
    if Improper -> [hd(L), tl(L)];
       length(L) > 16 -> {A, B} = lists:split(length(L) div 2, L), [A, B];
       true -> L ++ [lists:delete(X, L) || length(L) > 1, X <- L]
    end;
smaller(T) when is_tuple(T), tuple_size(T) > 0 ->
    L = tuple_to_list(T),
    L ++ [list_to_tuple(Part) || Part <- smaller(L), is_list(Part), length(Part) < length(L)];
smaller(M) when is_map(M), map_size(M) > 16 ->
    %% Below 33 keys the map is another kind of term: leave out one key at a time.
    [X || {K, V} <- maps:to_list(M), X <- [K, V]] ++ [maps:remove(K, M) || K <- maps:keys(M)];
smaller(M) when is_map(M), map_size(M) > 0 ->
    L = maps:to_list(M),
    [X || {K, V} <- L, X <- [K, V]] ++ [maps:from_list(Part) || Part <- smaller(L), is_list(Part), length(Part) < length(L)];
smaller(B) when is_bitstring(B), bit_size(B) > 8 ->
    Half = bit_size(B) div 2, <<X:Half/bitstring, Y/bitstring>> = B, [X, Y];
smaller(I) when is_integer(I), abs(I) > 256 -> [I div 2];
smaller(_) -> [].

is_list_proper([]) -> true;
is_list_proper([_ | T]) -> is_list_proper(T);
is_list_proper(_) -> false.

%% -- generating -----------------------------------------------------------------------------------

rnd(N) -> rand:uniform(N).
pick(T) when is_tuple(T) -> element(rnd(tuple_size(T)), T);
pick(L) -> lists:nth(rnd(length(L)), L).

count(Kind) -> put(kinds, maps:update_with(Kind, fun(N) -> N + 1 end, 1, get(kinds))), Kind.

term(Depth) when Depth =< 0 -> leaf(count(pick({int, big, float, atom, binary, bits, nil, string, pid, port, ref, fun_,
                                                 export})));
term(Depth) ->
    case rnd(10) of
        N when N =< 3 -> term(0);
        _ -> node_(count(pick({list, list, improper, tuple, tuple, map, map, big_map, long, closure, key_clash})), Depth - 1)
    end.

node_(list, D) -> [term(D) || _ <- lists:seq(1, rnd(6))];
node_(improper, D) ->
    case [term(D) || _ <- lists:seq(1, rnd(3))] of L -> lists:foldr(fun(X, T) -> [X | T] end, improper_tail(), L) end;
node_(tuple, D) -> list_to_tuple([term(D) || _ <- lists:seq(1, rnd(6) - 1)]);
node_(map, D) -> maps:from_list([{term(D - 1), term(D)} || _ <- lists:seq(1, rnd(5) - 1)]);
node_(big_map, _) ->
    case rnd(20) of
        1 -> maps:from_list([{term(0), term(0)} || _ <- lists:seq(1, 33 + rnd(40))]);
        _ -> maps:from_list([{N, term(0)} || N <- lists:seq(1, 30 + rnd(8))])
    end;
node_(long, _) ->
    case rnd(60) of
        1 -> list_to_tuple(lists:seq(1, 255 + rnd(300)));
        2 -> lists:duplicate(65535 + rnd(3) - 2, rnd(256) - 1);
        3 -> [rnd(100000) || _ <- lists:seq(1, 66000)];
        4 -> nest(rnd(3000), term(0));
        _ -> lists:duplicate(rnd(40), term(0))
    end;
node_(closure, D) -> a_fun(term(D), rnd(4));
node_(key_clash, D) ->
    %% Keys that Python can't tell apart or can't hash, also inside tuples.
    Clash = {1, 1.0, true, 0, 0.0, -0.0, false, [1], [1.0], {1}, {1.0}, {true}, {[1]}, #{1 => 1}, #{1.0 => 1}, <<"1">>, "1", '1',
             undefined, nil, [], {}, #{}, {{1}}, {{1.0}}, [true], <<1:1>>, [1 | 2], [1.0 | 2], {false}, {0}, 2, 2.0, 1 bsl 60,
             float(1 bsl 60), fun lists:map/2},
    Keys = [pick(Clash) || _ <- lists:seq(1, 1 + rnd(6))],
    maps:from_list([{K, term(D - 1)} || K <- Keys]).

improper_tail() ->
    case term(0) of
        Tail when is_list(Tail) -> tail;
        Tail -> Tail
    end.

nest(0, T) -> T;
nest(N, T) -> nest(N - 1, case N rem 3 of 0 -> [T]; 1 -> {T}; 2 -> #{a => T} end).

leaf(int) ->
    case rnd(3) of
        1 -> rnd(300) - 20;
        2 -> (1 bsl rnd(70)) + rnd(3) - 2;
        3 -> -(1 bsl rnd(70)) + rnd(3) - 2
    end;
leaf(big) ->
    Bytes = case rnd(300) of 1 -> 60000 + rnd(10000); N when N < 10 -> 250 + rnd(10); _ -> rnd(40) end,
    <<I:Bytes/unit:8>> = rand:bytes(Bytes),
    pick({I, -I});
leaf(float) ->
    case rnd(3) of
        1 -> pick({0.0, -0.0, 1.0, -1.0, 0.1, 1.0e308, 5.0e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 9007199254740993.0});
        2 -> rand:normal() * 1000;
        3 -> try <<F/float>> = rand:bytes(8), F catch error:_ -> 1.5 end
    end;
leaf(atom) -> pick(get(atoms));
leaf(binary) -> rand:bytes(case rnd(400) of 1 -> 70000 + rnd(100000); N when N < 20 -> 60 + rnd(400); _ -> rnd(20) - 1 end);
leaf(bits) ->
    Bits = rnd(70), <<B:Bits/bitstring, _/bitstring>> = rand:bytes(10), B;
leaf(nil) -> pick({[], {}, #{}, <<>>, ""});
leaf(string) ->
    case rnd(4) of
        1 -> [rnd(256) - 1 || _ <- lists:seq(1, rnd(30))];
        2 -> [rnd(300) || _ <- lists:seq(1, rnd(30))];
        3 -> "h\x{e9}ll\x{f6} \x{1f600}";
        4 -> [rnd(256) - 1 || _ <- lists:seq(1, rnd(20))] ++ [pick({256, -1, a, 1.0})]
    end;
leaf(pid) -> pick(get(pids));
leaf(port) -> pick(get(ports));
leaf(ref) -> ref(rnd(5));
leaf(fun_) -> a_fun(rnd(1000), rnd(4));
leaf(export) -> pick({fun erlang:abs/1, fun lists:map/2, fun nomodule:nofunction/7, fun term_gen:run/3,
                      fun 'm\x{f6}d':'f\x{1f600}n'/255, fun erlang:spawn_opt/5}).

%% Local funs with an environment, one of them of a module that is not loaded anywhere.
a_fun(X, 1) -> fun() -> X end;
a_fun(X, 2) -> fun(Y, Z) -> {X, Y, Z, node()} end;
a_fun(X, 3) -> fun Self(Y) -> [X, Y, Self] end;
a_fun(X, _) ->
    Bytes = term_to_binary(fun() -> {other, X} end),
    binary_to_term(binary:replace(Bytes, <<"term_gen">>, <<"term_gex">>, [global])).

atoms() ->
    Fixed = ['', true, false, undefined, nil, ok, error, 'EXIT', 'with space', '\x{e9}t\x{e9}', '\x{1f600}', 'a\nb', '\\', '"',
             binary_to_atom(binary:copy(<<"a">>, 255)), binary_to_atom(binary:copy(<<"\x{e9}"/utf8>>, 255)),
             binary_to_atom(binary:copy(<<"\x{1f600}"/utf8>>, 255)), binary_to_atom(binary:copy(<<"\x{800}"/utf8>>, 85))],
    Random = [list_to_atom([pick({rnd(127), 128 + rnd(127), 255 + rnd(5000), 16#ffff + rnd(1000)}) || _ <- lists:seq(1, rnd(255))])
              || _ <- lists:seq(1, 300)],
    Fixed ++ Random.

pids(Node) ->
    {Dead, M} = spawn_monitor(fun() -> ok end),
    receive {'DOWN', M, _, _, _} -> ok end,
    Remote = try [gen_server:call({calc, Node}, pid)] catch _:_ -> [] end,
    [self(), Dead, whereis(init), group_leader() | Remote] ++
        [remote_pid(Name, rnd(1 bsl 15) - 1, rnd(1 bsl 13) - 1, Creation)
         || Name <- [<<"other@127.0.0.1">>, atom_to_binary(node()), atom_to_binary(Node), <<"\x{fc}@h\x{f6}st"/utf8>>],
            Creation <- [1, 2, 3, 4, 16#ffffffff, rnd(1 bsl 32) - 1]] ++
        [remote_pid(<<"other@127.0.0.1">>, 16#ffffffff, 16#ffffffff, 16#ffffffff),
         binary_to_term(<<131, 103, 100, 7:16, "x@y.com", 5:32, 1:32, 2>>)].

remote_pid(Name, Id, Serial, Creation) ->
    binary_to_term(<<131, 88, 119, (byte_size(Name)), Name/binary, Id:32, Serial:32, Creation:32>>).

ports() ->
    lists:sublist(erlang:ports(), 3) ++
        [binary_to_term(<<131, 120, 119, 9, "other@x.y", Id:64, Creation:32>>)
         || Id <- [0, 1, 1 bsl 28, 1 bsl 32, (1 bsl 64) - 1], Creation <- [1, 16#ffffffff]] ++
        [binary_to_term(<<131, 89, 119, 9, "other@x.y", 77:32, 9:32>>),
         binary_to_term(<<131, 102, 119, 9, "other@x.y", 77:32, 3>>)].

ref(1) -> make_ref();
ref(2) -> Ref = alias(), unalias(Ref), Ref;
ref(3) -> R = monitor(process, init), demonitor(R), R;
ref(_) ->
    Words = 1 + rnd(4), % not 1: on OTP 25 a one-word reference of another node is a key of a large map that is not =:= itself
    Name = pick({<<"other@127.0.0.1">>, atom_to_binary(get(node))}),
    Ids = [<<(rnd(1 bsl 18) - 1):32>> | [rand:bytes(4) || _ <- lists:seq(2, Words)]],
    binary_to_term(<<131, 90, Words:16, 119, (byte_size(Name)), Name/binary, (rnd(1 bsl 32) - 1):32,
                     (iolist_to_binary(Ids))/binary>>).
