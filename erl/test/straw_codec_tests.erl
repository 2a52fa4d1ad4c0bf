%% straw_codec, straw_ids and straw_proxy without a straw: frames go from one table to another, in both dialects.
-module(straw_codec_tests).
-include_lib("eunit/include/eunit.hrl").

-define(OURS, 7).
-define(PEER, 5).

%% Our table and that of the peer, which is ours in the mirror.
ids(Dialect) -> ids(Dialect, #{}).
ids(Dialect, More) ->
    {straw_ids:new(More#{domid => ?OURS, peer => ?PEER, dialect => Dialect, known => true}),
     straw_ids:new(#{domid => ?PEER, peer => ?OURS, dialect => Dialect, known => true})}.

encode(Addr, Msg, Ids) ->
    case straw_codec:encode(Addr, Msg, #{ids => Ids}) of
        {ok, Frame, After} -> {ok, iolist_to_binary(Frame), After};
        Error -> Error
    end.

decode(Frame, Ids) -> straw_codec:decode(Frame, #{ids => Ids}).

%% The frame of a message, and what the peer gets.
pass(Addr, Msg, {Ours, Theirs}) ->
    {ok, Frame, Ours2} = encode(Addr, Msg, Ours),
    {ok, To, Got, Theirs2} = decode(Frame, Theirs),
    {To, Got, {Ours2, Theirs2}}.

flip({Ours, Theirs}) -> {Theirs, Ours}.

counts(Ids) -> maps:with([pids, refs, proxies], straw_ids:counts(Ids)).

nothing() -> #{pids => 0, refs => 0, proxies => 0}.

badarg(Addr, Msg, Ids) ->
    {error, {badarg, Text}, _} = encode(Addr, Msg, Ids),
    ?assert(is_binary(Text)),
    Text.

frame(Body) -> <<131, 104, 3, 119, 8, "envelope", Body/binary>>.

to_buddy(Msg) -> frame(<<119, 5, "buddy", Msg/binary>>).

ling_pid(Domid, Id) -> <<160, 0:64, Domid:32, Id:32>>.

%% ---- terms ----

values() ->
    [1, 255, 256, -1, 16#7FFFFFFF, -16#80000000, 16#80000000, -16#80000001, 1 bsl 59, -(1 bsl 59), 1 bsl 64, -(1 bsl 2040),
     1 bsl 2048, 0.0, -1.5, 1.0e300, 5.0e-324, a, '', '\x{e9}', list_to_atom(lists:duplicate(255, $\x{e9})), true,
     undefined, <<>>, <<"abc">>, <<5:3>>, <<1:9>>, <<0:8000>>, [], "text", [1, 2, 300], [a | b], [[], [[]]], {}, {a},
     list_to_tuple(lists:seq(1, 300)), lists:seq(1, 70000), fun lists:map/2, [alias | x], [alias], {[alias | y], alias}].

plain_terms_test_() ->
    [?_assertMatch({buddy, Term, _}, pass(buddy, Term, ids(Dialect))) || Dialect <- [otp, ling], Term <- values()].

more_for_otp_test() ->
    lists:foreach(fun(Term) -> ?assertMatch({buddy, Term, _}, pass(buddy, Term, ids(otp))) end,
                  [#{}, #{a => 1, <<"b">> => [#{}]}, '\x{20ac}', list_to_atom(lists:duplicate(255, 16#1F680)),
                   maps:from_list([{N, N} || N <- lists:seq(1, 1000)])]).

random_terms_test_() ->
    {timeout, 60, fun() ->
        rand:seed(exsss, {1, 2, 3}),
        lists:foreach(
            fun(N) ->
                Dialect = lists:nth(1 + N rem 2, [otp, ling]),
                Term = random(6, Dialect),
                {buddy, Got, _} = pass(buddy, Term, ids(Dialect)),
                ?assertEqual(Term, Got)
            end, lists:seq(1, 1500))
    end}.

random(Depth, Dialect) ->
    case rand:uniform(if Depth =:= 0 -> 7; true -> 12 end) of
        1 -> rand:uniform(1000) - 500;
        2 -> rand:uniform(1 bsl rand:uniform(300)) - (1 bsl rand:uniform(299));
        3 -> rand:normal();
        4 -> lists:nth(rand:uniform(5), [ok, alias, 'a b', '', '\x{ff}']);
        5 -> rand:bytes(rand:uniform(200) - 1);
        6 -> <<(rand:uniform(1 bsl 20)):(rand:uniform(20))>>;
        7 -> ref(<<"nonode@other1">>, rand:uniform(1000), [rand:uniform(1000), rand:uniform(1000), rand:uniform(1000)]);
        8 -> [random(Depth - 1, Dialect) || _ <- lists:seq(1, rand:uniform(5))];
        9 -> [random(Depth - 1, Dialect) | random(0, Dialect)];
        10 -> list_to_tuple([random(Depth - 1, Dialect) || _ <- lists:seq(1, rand:uniform(5) - 1)]);
        11 -> binary_to_list(rand:bytes(rand:uniform(10)));
        12 when Dialect =:= otp -> maps:from_list([{random(Depth - 1, Dialect), N} || N <- lists:seq(1, rand:uniform(5))]);
        12 -> {}
    end.

unsayable_test() ->
    {Otp, _} = ids(otp),
    {Ling, _} = ids(ling),
    badarg(buddy, fun() -> ok end, Otp),
    badarg(buddy, [fun() -> ok end], Ling),
    ?assertEqual(<<"a map would end a LING node (ling_maps allows it)">>, badarg(buddy, #{}, Ling)),
    badarg(buddy, {x, '\x{20ac}'}, Ling),
    badarg('\x{20ac}', x, Ling),
    badarg(buddy, <<0:(16 bsl 20)/unit:8>>, Otp),
    badarg(buddy, lists:duplicate(70000, self()), Otp),
    badarg({buddy, node()}, x, Ling),
    badarg({3, buddy}, x, Ling),
    badarg("buddy", x, Otp),
    badarg(make_ref(), x, Otp),
    badarg(self(), x, Otp),
    ?assertMatch({ok, _, _}, straw_codec:encode(buddy, #{}, #{ids => Ling, ling_maps => true})),
    ?assertMatch({ok, _, _}, encode({buddy, node()}, x, Otp)),
    ?assertMatch({ok, _, _}, encode({3, buddy}, x, Otp)).

deep_test() ->
    Deep = fun(N) -> lists:foldl(fun(_, Acc) -> [Acc] end, x, lists:seq(1, N)) end,
    [begin
         {Ids, _} = ids(Dialect),
         ?assertMatch({buddy, _, _}, pass(buddy, Deep(N), ids(Dialect))),
         badarg(buddy, Deep(N + 1), Ids)
     end || {Dialect, N} <- [{otp, 999}, {ling, 998}]].

large_test() ->
    %% on a dirty scheduler, in pieces, not copied
    Large = binary:copy(<<"0123456789abcdef">>, 1 bsl 19),
    {buddy, {Large, Pid, Large2}, _} = pass(buddy, {Large, self(), binary:part(Large, 0, 5000000)}, ids(otp)),
    ?assertEqual(5000000, byte_size(Large2)),
    ?assert(is_pid(Pid)).

%% In parts, as term_to_iovec has them: the same bytes as in one.
parts_test_() ->
    Large = binary:copy(<<"0123456789abcdef">>, 1000),
    Terms = [Large, {Large}, {a, Large, b}, [Large, Large], {Large, '\x{e9}', Large}, {<<Large/binary, 5:3>>, x},
             {binary:part(Large, 3, 9000), y}, {'$gen_call', {self(), [alias | make_ref()]}, {put, k, Large}},
             {Large, self(), self(), Large}, [Large | binary:part(Large, 0, 5000)],
             [binary:part(Large, 0, 5000 + N) || N <- lists:seq(1, 300)], [Large | lists:seq(1, 30000)],
             #{k => Large}, {Large, fun() -> ok end}, {1, {2, [{Large}]}}],
    [fun() ->
         {Ids, Theirs} = ids(Dialect),
         Options = #{ids => Ids, ling_maps => true},
         Way = if Dialect =:= otp -> to_otp; true -> to_ling_maps end,
         Whole = straw_codec:transcode(term_to_binary({envelope, buddy, Term}), Way),
         case straw_codec:encode(buddy, Term, Options) of
             {ok, Frame, _} ->
                 {ok, false, Pieces} = Whole,
                 ?assertMatch({ok, buddy, _, _}, decode(iolist_to_binary(Frame), Theirs)),
                 case erlang:term_to_iovec({envelope, buddy, Term}) of
                     Parts when length(Parts) =< 256 ->
                         {ok, false, In_parts} = straw_codec:transcode(Parts, Way),
                         ?assertEqual(joined(Pieces), joined(In_parts));
                     Parts -> ?assertError(badarg, straw_codec:transcode(Parts, Way))
                 end;
             {error, {badarg, Text}, _} -> ?assertMatch({error, Text, _}, Whole)
         end
     end || Dialect <- [otp, ling], Term <- Terms].

%% With the bytes between two holes as one.
joined([A, B | Rest]) when is_binary(A), is_binary(B) -> joined([<<A/binary, B/binary>> | Rest]);
joined([A | Rest]) -> [A | joined(Rest)];
joined([]) -> [].

addresses_test() ->
    {_, Ids} = ids(otp),
    At = fun(Bytes) -> decode(frame(<<Bytes/binary, 97, 1>>), Ids) end,
    ?assertMatch({ok, buddy, 1, _}, At(<<119, 5, "buddy">>)),
    ?assertMatch({ok, {buddy, nonode@nohost}, 1, _}, At(<<104, 2, 100, 0, 5, "buddy", 119, 13, "nonode@nohost">>)),
    ?assertMatch({ok, {9, buddy}, 1, _}, At(<<104, 2, 97, 9, 119, 5, "buddy">>)),
    ?assertMatch({ok, buddy, 1, _}, At(<<104, 2, 97, ?PEER, 119, 5, "buddy">>)),   % our own domain: a name
    ?assertMatch({error, unknown_atom, _}, At(<<119, 22, "no such registered one">>)),
    ?assertMatch({error, unknown_pid, _}, At(ling_pid(?PEER, 3))),
    ?assertMatch({error, {malformed, _}, _}, At(ling_pid(?OURS, 3))),
    ?assertMatch({error, unknown_pid, _}, At(ling_pid(9, 3))),
    ?assertMatch({error, unknown_pid, _}, At(<<160, 1:64, ?OURS:32, 3:32>>)),
    ?assertMatch({error, unknown_pid, _}, At(<<88, 119, 13, "nonode@nohost", 0:96>>)),
    [?assertMatch({error, {malformed, _}, _}, At(Bytes))
     || Bytes <- [<<97, 1>>, <<104, 2, 97, 1, 97, 1>>, <<104, 1, 97, 1>>, <<106>>, <<107, 1:16, 5>>,
                  <<104, 2, 98, -1:32, 119, 5, "buddy">>]].

hostile_test_() ->
    {timeout, 120, fun() ->
        {Ids, _} = ids(otp),
        {_, Theirs} = ids(ling),
        rand:seed(exsss, {4, 5, 6}),
        Seeds = [element(2, encode(buddy, T, Ids)) || T <- [{self(), [alias | make_ref()]}, values(), #{a => make_ref()}]]
            ++ [to_buddy(<<104, 2, (ling_pid(?OURS, 77))/binary, 114, 3:16, 115, 5, "local", 0, 1:32, 2:32, 3:32>>)],
        Small = [S || S <- Seeds, byte_size(S) < 5000],
        End = lists:foldl(
            fun(_, Acc) ->
                case decode(mutate(lists:nth(rand:uniform(length(Small)), Small)), Acc) of
                    {ok, _, _, After} -> After;
                    {error, _, After} -> After
                end
            end, Theirs, lists:seq(1, 30000)),
        straw_ids:stop(End)
    end}.

mutate(Frame) ->
    lists:foldl(
        fun(_, Bytes) ->
            At = rand:uniform(byte_size(Bytes)) - 1,
            <<Head:At/binary, C, Tail/binary>> = Bytes,
            case rand:uniform(4) of
                1 -> <<Head/binary, (rand:uniform(256) - 1), Tail/binary>>;
                2 -> <<Head/binary, (C bxor (1 bsl (rand:uniform(8) - 1))), Tail/binary>>;
                3 -> <<Head/binary, (lists:nth(rand:uniform(8), [77, 90, 97, 104, 108, 110, 116, 160])), Tail/binary>>;
                4 -> <<Head/binary, C, (rand:bytes(rand:uniform(3)))/binary, Tail/binary>>
            end
        end, Frame, lists:seq(1, rand:uniform(3))).

%% What only the BEAM itself could be hurt by, whole.
deadly_test() ->
    {_, Ids} = ids(otp),
    [?assertMatch({error, _, _}, decode(to_buddy(Bytes), Ids))
     || Bytes <- [<<77, 0:32, 32, 0>>, <<77, 0:32, 3>>, <<77, 2:32, 0, 0, 0>>, <<80, 100:32, 1, 2, 3>>, <<121, 1, 2, 3>>,
                  <<112, 30:32, 0:240>>, <<116, 2:32, 97, 1, 97, 2, 97, 1, 97, 3>>, <<99, "1.0e999", 0:192>>,
                  <<113, 119, 5, "lists", 119, 15, "no_such_functio", 97, 99>>, <<119, 25, "never an atom in this VM">>,
                  <<90, 6:16, 119, 3, "a@b", 0:224>>, <<108, 16#FFFFFFFF:32, 106>>, <<70, 16#7FF8:16, 0:48>>]],
    [?assertMatch({ok, buddy, _, _}, decode(to_buddy(Bytes), Ids))
     || Bytes <- [<<77, 0:32, 0>>, <<77, 1:32, 8, 1>>, <<108, 0:32, 106>>, <<105, 0:32>>, <<110, 0, 1>>,
                  <<99, "1.0e0", 0:208>>, <<90, 5:16, 119, 13, "nonode@other1", 0:192>>]].

no_atoms_are_made_test() ->
    {_, Ids} = ids(otp),
    Before = erlang:system_info(atom_count),
    lists:foreach(
        fun(N) ->
            Name = <<"unheard of ", (integer_to_binary(N))/binary>>,
            {error, unknown_atom, _} = decode(to_buddy(<<119, (byte_size(Name)), Name/binary>>), Ids),
            {error, unknown_atom, _} = decode(frame(<<119, (byte_size(Name)), Name/binary, 97, 1>>), Ids)
        end, lists:seq(1, 100)),
    ?assertEqual(Before, erlang:system_info(atom_count)).

%% ---- pids ----

pids_test_() ->
    [{atom_to_list(Dialect), fun() -> pids(Dialect) end} || Dialect <- [otp, ling]].

pids(Dialect) ->
    {buddy, {hello, Proxy, Proxy}, Both1} = pass(buddy, {hello, self(), self()}, ids(Dialect)),
    ?assert(is_pid(Proxy) andalso Proxy =/= self()),
    ?assertEqual((nothing())#{pids => 1}, counts(element(1, Both1))),
    ?assertEqual((nothing())#{proxies => 1}, counts(element(2, Both1))),
    %% a message to the proxy is an envelope to the process
    Proxy ! {hi, 1},
    {Addr, Msg} = receive {envelope, A, M} -> {A, M} after 5000 -> error(nothing) end,
    {To, {hi, 1}, Both2} = pass(Addr, Msg, flip(Both1)),
    ?assertEqual(self(), To),
    %% the same again, and home again
    {buddy, Again, Both3} = pass(buddy, self(), flip(Both2)),
    ?assertEqual(Proxy, Again),
    {buddy, Home, Both4} = pass(buddy, [Proxy], flip(Both3)),
    ?assertEqual([self()], Home),
    ?assertEqual((nothing())#{proxies => 1}, counts(element(1, Both4))),
    %% it can be linked to and monitored, takes no exits, and ends with the straw
    Monitor = monitor(process, Proxy),
    Linked = spawn(fun() -> exit(Proxy, boom), link(Proxy), exit(bang) end),
    Linked_monitor = monitor(process, Linked),
    receive {'DOWN', Linked_monitor, _, _, _} -> ok end,
    ?assert(is_process_alive(Proxy)),
    straw_ids:stop(element(1, Both4)),
    receive {'DOWN', Monitor, process, Proxy, Reason} -> ?assertEqual(noconnection, Reason) end.

a_proxy_that_is_killed_is_made_again_test() ->
    {buddy, Proxy, {Ours, Theirs}} = pass(buddy, self(), ids(otp)),
    exit(Proxy, kill),
    After = receive {'DOWN', Monitor, process, Proxy, killed} -> straw_ids:down(Monitor, Theirs) end,
    ?assertEqual(nothing(), counts(After)),
    {buddy, Other, _} = pass(buddy, self(), {Ours, After}),
    ?assertNotEqual(Proxy, Other),
    ?assert(is_process_alive(Other)).

a_proxy_ends_with_its_straw_test() ->
    Test = self(),
    Straw = spawn(fun() ->
        {ok, Pid, _} = straw_ids:proxy(buddy, straw_ids:new(#{domid => 1, peer => 2})),
        {ok, peers, Pid2, _} = straw_ids:take_own(5, straw_ids:new(#{domid => 1, peer => 2})),
        Test ! [Pid, Pid2],
        receive stop -> ok end
    end),
    Monitors = receive Pids -> [monitor(process, Pid) || Pid <- Pids] end,
    Straw ! stop,
    [receive {'DOWN', Monitor, process, _, Reason} -> ?assertEqual(noconnection, Reason) end || Monitor <- Monitors].

an_idle_proxy_works_test() ->
    {ok, Proxy, Ids} = straw_ids:proxy(buddy, straw_ids:new(#{domid => 1, peer => 2})),
    ?assertMatch({ok, Proxy, _}, straw_ids:proxy(buddy, Ids)),
    wait_for(fun() -> process_info(Proxy, current_function) =:= {current_function, {erlang, hibernate, 3}} end),
    Proxy ! awake,
    receive {envelope, buddy, awake} -> ok after 5000 -> error(nothing) end,
    straw_ids:stop(Ids).

wait_for(Fun) -> Fun() orelse begin timer:sleep(20), wait_for(Fun) end.

entries_die_with_their_process_test() ->
    Pid = spawn(fun() -> receive stop -> ok end end),
    {buddy, _, {Ours, _}} = pass(buddy, {Pid, [alias | make_ref()]}, ids(ling)),
    ?assertEqual((nothing())#{pids => 1, refs => 1}, counts(Ours)),
    Pid ! stop,
    After = receive {'DOWN', Monitor, process, Pid, _} -> straw_ids:down(Monitor, Ours) end,
    ?assertEqual(nothing(), counts(After)),
    ?assertEqual(nothing(), counts(straw_ids:down(Pid, Ours))),
    %% in a message it is a pid that nobody has, as an address nothing
    {ok, ours, _, Id, _} = straw_ids:give(Pid, Ours),
    {ok, buddy, [Dead], _} = decode(to_buddy(<<108, 1:32, (ling_pid(?OURS, Id))/binary, 106>>), After),
    ?assert(is_pid(Dead)),
    ?assertNot(is_process_alive(Dead)),
    ?assertMatch({error, unknown_pid, _}, decode(frame(<<(ling_pid(?OURS, Id))/binary, 97, 1>>), After)),
    ?assertMatch({error, unknown_pid, _}, decode(to_buddy(ling_pid(?OURS, (Id + 1) rem (1 bsl 27))), After)),
    ?assertMatch({error, unknown_pid, _}, decode(to_buddy(ling_pid(?OURS, (Id + (1 bsl 27) - 1) rem (1 bsl 27))), After)),
    ?assertEqual(counts(Ours), counts(straw_ids:down(make_ref(), Ours))).

the_dead_are_forgotten_at_once_test() ->
    {Pid, Monitor} = spawn_monitor(fun() -> ok end),
    receive {'DOWN', Monitor, _, _, _} -> ok end,
    {buddy, _, {Ours, _}} = pass(buddy, Pid, ids(otp)),
    After = receive {'DOWN', M, process, Pid, noproc} -> straw_ids:down(M, Ours) end,
    ?assertEqual(nothing(), counts(After)).

ids_are_never_used_again_test() ->
    Given = fun(Ids0) ->
        lists:foldl(fun(_, {Seen, Ids}) ->
                        Pid = spawn(fun() -> ok end),
                        {ok, ours, ?OURS, Id, More} = straw_ids:give(Pid, Ids),
                        ?assertNot(lists:member(Id, Seen)),
                        ?assert(Id >= 0 andalso Id < 1 bsl 27),
                        {[Id | Seen], straw_ids:down(Pid, More)}
                    end, {[], Ids0}, lists:seq(1, 100))
    end,
    {Seen, _} = Given(element(1, ids(otp))),
    {Other, _} = Given(element(1, ids(otp))),
    ?assertEqual([], [Id || Id <- Seen, lists:member(Id, Other)]),   % random start: 1 in a million that it fails
    {Ids, _} = ids(otp, #{limits => #{ids => 1}}),
    {ok, _, _, _, Spent} = straw_ids:give(self(), Ids),
    ?assertMatch({error, ids_exhausted, _}, encode(buddy, spawn(fun() -> ok end), straw_ids:down(self(), Spent))).

limits_test() ->
    Idle = fun() -> spawn_link(fun() -> receive stop -> ok end end) end,
    {Ids, _} = ids(ling, #{limits => #{pids => 2, refs => 2, proxies => 2}}),
    {ok, _, Ids2} = encode(buddy, {self(), Idle()}, Ids),
    ?assertMatch({ok, _, _}, encode(buddy, self(), Ids2)),
    {error, {limit, pids}, Ids3} = encode(buddy, {self(), [alias | make_ref()], Idle()}, Ids2),
    ?assertEqual((nothing())#{pids => 2}, counts(Ids3)),   % a frame that is not sent leaves no references
    {ok, _, Ids4} = encode(buddy, [[alias | make_ref()], [alias | make_ref()]], Ids3),
    ?assertMatch({error, {limit, refs}, _}, encode(buddy, [alias | make_ref()], Ids4)),
    {ok, _, _, Ids5} = decode(to_buddy(<<104, 2, (ling_pid(?PEER, 1))/binary, (ling_pid(?PEER, 2))/binary>>), Ids4),
    {ok, _, _, Ids6} = decode(to_buddy(ling_pid(?PEER, 2)), Ids5),
    ?assertMatch({error, {limit, proxies}, _}, decode(to_buddy(ling_pid(?PEER, 3)), Ids6)),
    ?assertMatch({error, {limit, proxies}, _}, straw_ids:proxy(buddy, Ids6)),
    straw_ids:stop(Ids6).

idle_proxies_make_room_test() ->
    Tests = self(),
    {Ids, _} = ids(ling, #{limits => #{proxies => 3}, idle => 0}),
    {ok, Name, Ids1} = straw_ids:proxy(buddy, Ids),
    {ok, buddy, [Held, Idle], Ids2} =
        decode(to_buddy(<<108, 2:32, (ling_pid(?PEER, 1))/binary, (ling_pid(?PEER, 2))/binary, 106>>), Ids1),
    Holder = spawn_link(fun() -> link(Held), Tests ! linked, receive stop -> ok end end),
    receive linked -> ok end,
    Monitor = monitor(process, Idle),
    ?assertMatch({error, {limit, proxies}, _}, decode(to_buddy(ling_pid(?PEER, 3)), Ids2)),   % we hold it
    demonitor(Monitor),
    {ok, buddy, New, Ids3} = decode(to_buddy(ling_pid(?PEER, 3)), Ids2),
    wait_for(fun() -> not is_process_alive(Idle) end),
    ?assertEqual([true, true, true], [is_process_alive(P) || P <- [Name, Held, New]]),
    Holder ! stop,
    straw_ids:stop(Ids3).

strangers_test() ->
    {_, Ids} = ids(ling),
    ?assertMatch({error, unknown_pid, _}, decode(to_buddy(ling_pid(9, 1)), Ids)),
    ?assertMatch({error, unknown_pid, _}, decode(to_buddy(ling_pid(?OURS, 1 bsl 27)), Ids)),
    ?assertMatch({error, unknown_pid, _}, decode(to_buddy(<<160, 1:64, ?OURS:32, 1:32>>), Ids)),
    ?assertMatch({error, unknown_pid, _}, decode(to_buddy(<<103, 115, 13, "nonode@nohost", 1:32, 0:32, 0>>), Ids)),
    %% a LING of old
    {ok, buddy, [Same, Same], _} =
        decode(to_buddy(<<108, 2:32, 103, 115, 5, "local", 3:32, 1:32, 0, (ling_pid(?OURS, 16#8003))/binary, 106>>), Ids).

%% ---- references ----

aliases_test_() ->
    [{atom_to_list(Dialect), fun() -> aliases(Dialect) end} || Dialect <- [otp, ling]].

aliases(Dialect) ->
    Alias = erlang:alias(),
    {buddy, {'$gen_call', {Caller, Tag}, question}, Both} =
        pass(buddy, {'$gen_call', {self(), [alias | Alias]}, question}, ids(Dialect)),
    ?assert(is_reference(Tag)),
    ?assertEqual((nothing())#{pids => 1, refs => 1}, counts(element(1, Both))),
    Caller ! {Tag, answer},
    {Addr, Reply} = receive {envelope, A, M} -> {A, M} after 5000 -> error(nothing) end,
    {Server, Client} = flip(Both),
    {ok, Reply_frame, _} = encode(Addr, Reply, Server),
    %% a real LING gives our reference back as it got it; one of us names it as it does all foreign ones
    Frame = binary:replace(Reply_frame, <<115, 15, "1:domain7@straw", 0>>, <<115, 13, "domain7@straw", 1>>),
    ?assertMatch({ok, Alias, _, _}, decode(Reply_frame, Client)),
    {ok, To, {[alias | Alias], answer}, After} = decode(Frame, Client),
    To = Alias,
    ?assertEqual((nothing())#{pids => 1}, counts(After)),
    %% a second reply, and one that nobody asked for, come too late
    {error, stale_ref, Late} = decode(Frame, After),
    ?assertMatch(#{late := 1}, straw_ids:counts(Late)),
    %% the same again: a new entry
    {_, {_, {_, Other}, _}, _} = pass(buddy, {'$gen_call', {self(), [alias | Alias]}, question}, {After, Server}),
    ?assertNotEqual(Tag, Other),
    straw_ids:stop(Server).

calls_with_strange_aliases_test() ->
    {Ids, _} = ids(otp),
    Call = fun(Tag) ->
        Bytes = term_to_binary(Tag),
        decode(to_buddy(<<104, 3, 119, 9, "$gen_call", 104, 2, (ling_pid(?PEER, 1))/binary,
                          (binary:part(Bytes, 1, byte_size(Bytes) - 1))/binary, 97, 1>>), Ids)
    end,
    ?assertMatch({ok, buddy, _, _}, Call(make_ref())),
    ?assertMatch({ok, buddy, _, _}, Call([alias | x])),
    ?assertMatch({error, {malformed, _}, _}, Call([alias | erlang:alias()])),
    ?assertMatch({error, {malformed, _}, _}, Call([[alias | erlang:alias()] | label])).

an_alias_with_a_label_test() ->
    Alias = make_ref(),
    {buddy, {_, [Tag | label]}, {Client, Server}} = pass(buddy, {self(), [[alias | Alias] | label]}, ids(otp)),
    {ok, Frame, _} = encode(buddy, {[Tag | label], ok}, Server),
    {ok, buddy, {[[alias | Alias] | label], ok}, Still} = decode(Frame, Client),
    ?assertMatch(#{refs := 1}, straw_ids:counts(Still)),   % it went to a name: no reply
    {ok, Named, _} = encode(buddy, {self(), {[Tag | label], ok}}, Server),
    ?assertMatch({ok, buddy, _, _}, decode(Named, Client)).

a_reply_needs_its_owner_test() ->
    Other = spawn_link(fun() -> receive stop -> ok end end),
    Both1 = ids(otp),
    {buddy, {_, Tag}, Both2} = pass(buddy, {self(), [alias | make_ref()]}, Both1),
    {buddy, Proxy, {Client, Server}} = pass(buddy, Other, Both2),
    {ok, Frame, _} = encode(Proxy, {Tag, forged}, Server),
    {ok, Other, _, After} = decode(Frame, Client),
    ?assertMatch(#{refs := 1}, straw_ids:counts(After)),
    straw_ids:stop(Server).

references_expire_test() ->
    {Ids, Theirs} = ids(otp, #{ref_ttl => 1000}),
    {buddy, Tag, {Client, Server}} = pass(buddy, [alias | make_ref()], {Ids, Theirs}),
    Now = erlang:monotonic_time(millisecond),
    ?assertMatch(#{refs := 1}, straw_ids:counts(straw_ids:expire(Now, Client))),
    Expired = straw_ids:expire(Now + 1001, Client),
    ?assertEqual(nothing(), counts(Expired)),
    {ok, Frame, _} = encode(buddy, [Tag], Server),
    ?assertMatch({ok, buddy, [Tag], _}, decode(Frame, Expired)).   % it stands for nothing any more

references_of_a_vm_without_a_name_test_() ->
    [{atom_to_list(Dialect), fun() ->
        ?assertEqual(nonode@nohost, node()),
        Refs = [make_ref(), monitor(process, self()) | [erlang:alias() || Dialect =:= otp]],
        {buddy, There, Both} = pass(buddy, Refs, ids(Dialect)),
        [?assertEqual('domain7@straw', node(Ref)) || Ref <- There],   % not one of its own
        {buddy, Back, {_, Ours}} = pass(buddy, There, flip(Both)),
        ?assertEqual(Refs, Back),
        ?assertEqual(nothing(), counts(Ours))
     end} || Dialect <- [otp, ling]].

%% Pids and references of before are still those of now.
a_vm_gets_another_name_test_() ->
    {timeout, 30, fun() ->
        Erl = filename:join([code:root_dir(), "bin", "erl"]),
        Paths = [filename:dirname(code:which(Module)) || Module <- [straw_codec, straw_renamed]],
        Args = ["-noshell", "-pa"] ++ Paths ++ ["-kernel", "epmd_module", "straw_renamed", "-s", "straw_renamed", "main"],
        Port = open_port({spawn_executable, Erl}, [{args, Args}, binary, exit_status, stderr_to_stdout]),
        ?assertEqual({0, <<"all came back">>}, said(Port, <<>>))
    end}.

said(Port, Text) ->
    receive
        {Port, {data, More}} -> said(Port, <<Text/binary, More/binary>>);
        {Port, {exit_status, Status}} -> {Status, Text}
    end.

plain_references_test() ->
    %% over to a LING and back without a table
    Ref = ref(<<"nonode@other1">>, 77, [1, 2, 3]),
    {Ours, _} = ids(ling),
    {ok, Frame, After} = encode(buddy, {self(), Ref}, Ours),
    ?assertEqual((nothing())#{pids => 1}, counts(After)),
    Wire = <<114, 3:16, 115, 16, "77:nonode@other1", 0, 1:32, 2:32, 3:32>>,
    ?assertEqual(Wire, binary:part(Frame, byte_size(Frame), -byte_size(Wire))),
    ?assertMatch({ok, buddy, Ref, _}, decode(to_buddy(Wire), Ours)),
    %% and of a VM without a name
    {ok, Own_frame, _} = encode(buddy, ref(<<"nonode@nohost">>, 0, [1, 2, 3]), Ours),
    Own_wire = <<114, 3:16, 115, 13, "domain7@straw", 2, 1:32, 2:32, 3:32>>,
    ?assertEqual(Own_wire, binary:part(Own_frame, byte_size(Own_frame), -byte_size(Own_wire))),
    %% a LING drops zeros at the end
    Zeros = ref(<<"nonode@other2">>, 77, [5, 0, 0]),
    ?assertMatch({ok, buddy, Zeros, _},
                 decode(to_buddy(<<114, 1:16, 115, 16, "77:nonode@other2", 0, 5:32>>), Ours)),
    %% a LING's own
    {ok, buddy, Own, _} = decode(to_buddy(<<114, 3:16, 115, 5, "local", 0, 1:32, 2:32, 3:32>>), Ours),
    ?assertEqual(ref(<<"domain5@straw">>, 0, [1, 2, 3]), Own),
    {ok, Back, _} = encode(buddy, Own, Ours),
    ?assertEqual(<<114, 3:16, 115, 5, "local", 0, 1:32, 2:32, 3:32>>, binary:part(Back, byte_size(Back), -23)),
    %% to another domain it is as any other
    {ok, Elsewhere, _} = encode(buddy, Own, straw_ids:new(#{domid => ?OURS, peer => 6})),
    ?assertNotEqual(nomatch, binary:match(Elsewhere, <<"0:domain5@straw">>)),
    %% what a LING can't hold stands in the table
    [begin
         {ok, Through, Kept} = encode(buddy, R, Ours),
         ?assertMatch(#{refs := 1}, straw_ids:counts(Kept)),
         <<_:(byte_size(Through) - 31)/binary, Tabled/binary>> = Through,
         ?assertMatch(<<114, 3:16, 115, 13, "domain7@straw", 1, _:96>>, Tabled),
         ?assertMatch({ok, buddy, R, _}, decode(to_buddy(Tabled), Kept))
     end || R <- [ref(<<"nonode@other2">>, 1, [1 bsl 18, 2, 3]), ref(<<"nonode@other2">>, 1, [1, 2, 3, 4, 5]),
                  ref(binary:copy(<<"n">>, 250), 100000, [1, 2, 3])]].

ref(Node, Creation, Words) ->
    _ = binary_to_atom(Node, utf8),
    binary_to_term(<<131, 90, (length(Words)):16, 119, (byte_size(Node)), Node/binary, Creation:32,
                     << <<W:32>> || W <- Words >>/binary>>).

nodes_are_bounded_test() ->
    {Ids, _} = ids(otp),
    Wire = fun(N) -> Name = <<"stranger", (integer_to_binary(N))/binary, "@far">>,
                     to_buddy(<<90, 1:16, 119, (byte_size(Name)), Name/binary, 1:32, 1:32>>) end,
    Full = lists:foldl(fun(N, Acc) -> {ok, buddy, _, More} = decode(Wire(N), Acc), More end, Ids, lists:seq(1, 64)),
    ?assertMatch({error, {limit, nodes}, _}, decode(Wire(65), Full)),
    ?assertMatch({ok, buddy, _, _}, decode(Wire(1), Full)),
    %% and going to a LING: the table takes over
    {Ling, _} = ids(ling),
    Out = lists:foldl(fun(N, Acc) -> {ok, _, More} = encode(buddy, ref(<<"nonode@other3">>, N, [1, 2, 3]), Acc), More end,
                      Ling, lists:seq(1, 66)),
    ?assertMatch(#{refs := 2}, straw_ids:counts(Out)).

%% ---- whole conversations: two ends that pass frames as straws do ----

straw_end(Domid, Peer, Dialect, Served) ->
    fun() ->
        Ids = straw_ids:new(#{domid => Domid, peer => Peer, dialect => Dialect}),
        receive {other, Other} -> straw_loop(Other, Served, Ids) end
    end.

straw_loop(Other, Served, Ids) ->
    receive
        {envelope, Addr, Msg} ->
            {ok, Frame, More} = straw_codec:encode(Addr, Msg, #{ids => Ids}),
            Other ! {frame, iolist_to_binary(Frame)},
            straw_loop(Other, Served, More);
        {frame, Frame} ->
            case straw_codec:decode(Frame, #{ids => Ids}) of
                {ok, Addr, Msg, More} ->
                    To = if is_atom(Addr) -> Served; true -> Addr end,
                    To ! Msg,
                    straw_loop(Other, Served, More);
                {error, unknown_pid, More} -> straw_loop(Other, Served, More)
            end;
        {'DOWN', Monitor, process, _, _} -> straw_loop(Other, Served, straw_ids:down(Monitor, Ids));
        {proxy, From, Name} ->
            {ok, Pid, More} = straw_ids:proxy(Name, Ids),
            From ! {proxy, Pid},
            straw_loop(Other, Served, More);
        {counts, From} ->
            From ! {counts, straw_ids:counts(Ids)},
            straw_loop(Other, Served, Ids);
        stop -> straw_ids:stop(Ids)
    end.

%% A server that answers what it is asked, in the form of a gen_server.
echo() ->
    receive
        {'$gen_call', {To, Tag}, slow} ->
            timer:sleep(100),
            To ! {Tag, slow},
            echo();
        {'$gen_call', From, Question} ->
            gen_server:reply(From, {answer, Question}),
            echo()
    end.

ten_thousand_calls_test_() ->
    [{timeout, 120, {atom_to_list(Dialect), fun() -> ten_thousand_calls(Dialect) end}} || Dialect <- [otp, ling]].

ten_thousand_calls(Dialect) ->
    Server = spawn_link(fun echo/0),
    Here = spawn_link(straw_end(?OURS, ?PEER, Dialect, Server)),
    There = spawn_link(straw_end(?PEER, ?OURS, Dialect, Server)),
    Here ! {other, There},
    There ! {other, Here},
    Here ! {proxy, self(), buddy},
    Proxy = receive {proxy, P} -> P end,
    %% a late reply goes nowhere
    ?assertExit({timeout, _}, gen_server:call(Proxy, slow, 10)),
    Callers = [spawn_monitor(fun() ->
                   [{answer, {N, I}} = gen_server:call(Proxy, {N, I}) || I <- lists:seq(1, 100)]
               end) || N <- lists:seq(1, 100)],
    [receive {'DOWN', M, process, _, Reason} -> ?assertEqual(normal, Reason) end || {_, M} <- Callers],
    receive Any -> error({late, Any}) after 0 -> ok end,
    %% the callers are dead: their DOWNs are on the way to Here
    Counts = fun(Straw) -> Straw ! {counts, self()}, receive {counts, C} -> C end end,
    wait_for(fun() -> maps:get(pids, Counts(Here)) =:= 1 end),   % this one, which timed out and lives
    ?assertMatch(#{refs := 0, proxies := 1}, Counts(Here)),
    ?assertMatch(#{refs := 0, pids := 0, proxies := 101}, Counts(There)),
    Monitor = monitor(process, Proxy),
    Here ! stop,
    There ! stop,
    receive {'DOWN', Monitor, process, Proxy, Why} -> ?assertEqual(noconnection, Why) end,
    unlink(Server),
    exit(Server, kill).

%% ---- json ----

json_test() ->
    Options = #{format => json},
    {ok, Frame, undefined} = straw_codec:encode(buddy, [1, <<"x">>, null, [{<<"k">>, 1.5}]], Options),
    ?assertEqual(<<"{\"addr\":\"buddy\",\"msg\":[1,\"x\",null,{\"k\":1.5}]}">>, iolist_to_binary(Frame)),
    ?assertEqual({ok, buddy, {json, [1, <<"x">>, null, #{<<"k">> => 1.5}]}, undefined},
                 straw_codec:decode(iolist_to_binary(Frame), Options)),
    ?assertMatch({error, {badarg, _}, undefined}, straw_codec:encode(self(), 1, Options)),
    ?assertMatch({error, {badarg, _}, undefined}, straw_codec:encode({a, b}, 1, Options)),
    ?assertMatch({error, {badarg, _}, undefined}, straw_codec:encode(buddy, {a, b}, Options)),
    ?assertMatch({error, {badarg, _}, undefined}, straw_codec:encode(buddy, binary:copy(<<"x">>, 16 bsl 20), Options)),
    ?assertMatch({error, unknown_atom, undefined},
                 straw_codec:decode(<<"{\"addr\":\"one that nobody registered\",\"msg\":1}">>, Options)),
    ?assertMatch({error, {malformed, _}, undefined}, straw_codec:decode(<<"{\"addr\":5,\"msg\":1}">>, Options)),
    ?assertMatch({error, {malformed, _}, undefined}, straw_codec:decode(<<"[]">>, Options)),
    ?assertMatch({error, {malformed, _}, undefined}, straw_codec:decode(<<131, 97, 1>>, Options)).
