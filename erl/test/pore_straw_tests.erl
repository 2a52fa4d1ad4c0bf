%% LING's functions: exactly its arguments and results, and an answer where LING would die.
-module(pore_straw_tests).

-include_lib("eunit/include/eunit.hrl").

-define(RING, 16375).

all_test_() ->
    {setup, fun straw_test_host:start/0, fun straw_test_host:stop/1, fun(Host) ->
        [
            {atom_to_list(Name), {timeout, 60, fun() -> with_node(Host, Test) end}}
         || {Name, Test} <- tests()
        ]
    end}.

tests() ->
    [
        {results, fun results/2},
        {active, fun active/2},
        {larger_than_the_ring, fun larger_than_the_ring/2},
        {bad_arguments, fun bad_arguments/2},
        {nobody_there, fun nobody_there/2},
        {closed, fun closed/2},
        {peer_gone, fun peer_gone/2},
        {corrupt, fun corrupt/2},
        {stream_to_the_store, fun stream/2},
        {stream_closed, fun stream_closed/2},
        {tube, fun tube/2},
        {tube_refused, fun tube_refused/2},
        {tube_waits, fun tube_waits/2},
        {cycles, fun cycles/2}
    ].

%% This node is a domain, registered; beside it another one.
with_node(Host, Test) ->
    {ok, Ours} = straw_backend:start_link(#{host => straw_test_host:folder(Host), backend => local}),
    {Other, Domid} = straw_test_host:domain(Host),
    try
        Test(Other, Domid)
    after
        [straw_backend:stop(Server) || Server <- [Ours, Other], is_process_alive(Server)]
    end.

%% The other domain's end, made by our own calls.
peer_of(Pore, Other) ->
    {Refs, Port} = pore_straw:info(Pore),
    Me = straw_backend:domid(),
    {ok, Mapping} = straw_backend:map(Other, Me, Refs),
    {ok, Channel} = straw_backend:bind_channel(Other, Me, Port),
    {ok, Peer} = pore:open_straw(passive, Mapping, Channel, #{give_back => true}),
    Peer.

results(Other, Domid) ->
    P = pore_straw:open(Domid),
    {Refs, Port} = pore_straw:info(P),
    ?assertEqual(8, length([Ref || Ref <- Refs, is_integer(Ref)])),
    ?assert(is_integer(Port)),
    ?assertEqual({0, ?RING}, pore_straw:avail(P)),
    Q = peer_of(P, Other),
    ?assertEqual(ok, pore_straw:write(P, <<"binary">>)),
    ?assertEqual(ok, pore_straw:write(P, ["li", [$s | <<"t">>]])),
    ?assertEqual(ok, pore_straw:write(P, [])),
    ?assertEqual(ok, pore_straw:write(P, <<>>)),
    ?assertEqual(true, pore:poke(P)),
    receive
        {irq, Q} -> ok
    end,
    ?assertEqual(<<"binarylist">>, pore:read(Q, 100)),
    7 = pore:write(Q, "answers"),
    receive
        {irq, P} -> ok
    end,
    ?assertEqual({7, ?RING}, pore_straw:avail(P)),
    ?assertEqual(<<"answers">>, pore_straw:read(P)),
    ?assertEqual(true, pore:poke(P)),
    ?assertEqual(<<>>, pore_straw:read(P)),
    ?assertEqual(true, pore:close(P)).

%% Our side opens: open/3 with what the other has granted.
active(Other, Domid) ->
    Me = straw_backend:domid(),
    {ok, Grant} = straw_backend:grant(Other, Me, 8),
    {ok, Channel} = straw_backend:alloc_channel(Other, Me),
    {ok, Q} = pore:open_straw(active, Grant, Channel, #{give_back => true}),
    Refs = straw_backend:grant_refs(Grant),
    P = pore_straw:open(Domid, Refs, straw_backend:channel_port(Channel)),
    ?assertMatch({Refs, Port} when is_integer(Port), pore_straw:info(P)),
    2 = pore:write(Q, "hi"),
    receive
        {irq, P} -> ok
    end,
    ?assertEqual({2, ?RING}, pore_straw:avail(P)),
    ?assertEqual(<<"hi">>, pore_straw:read(P)),
    true = pore:close(P),
    true = pore:close(Q).

larger_than_the_ring(Other, Domid) ->
    P = pore_straw:open(Domid),
    Q = peer_of(P, Other),
    Full = binary:copy(<<"f">>, ?RING),
    ?assertEqual(ok, pore_straw:write(P, Full)),
    ?assertEqual({0, 0}, pore_straw:avail(P)),
    ?assertError(badarg, pore_straw:write(P, <<"x">>)),
    ?assertEqual(100, byte_size(pore:read(Q, 100))),
    receive
        {irq, P} -> ok
    end,
    ?assertEqual({0, 100}, pore_straw:avail(P)),
    ?assertError(badarg, pore_straw:write(P, binary:copy(<<"x">>, 101))),
    ?assertEqual(ok, pore_straw:write(P, binary:copy(<<"x">>, 100))),
    ?assertError(badarg, pore_straw:write(P, binary:copy(<<"x">>, ?RING + 1))),
    ?assertError(badarg, pore_straw:write(P, binary:copy(<<"x">>, 10000000))).

bad_arguments(_Other, Domid) ->
    P = pore_straw:open(Domid),
    [
        ?assertError(badarg, apply(pore_straw, Function, [Wrong | Arguments]))
     || Wrong <- [make_ref(), atom, <<"x">>, {P}, self(), 5],
        {Function, Arguments} <- [{avail, []}, {read, []}, {info, []}, {write, [<<"x">>]}]
    ],
    [?assertError(badarg, pore_straw:open(Wrong)) || Wrong <- [a, "1", 1.0, -1, 1 bsl 40]],
    [?assertError(badarg, pore_straw:write(P, Wrong)) || Wrong <- [atom, 1, [300], [a], {}, <<1:3>>, [$a | $b]]],
    Refs = [1, 2, 3, 4, 5, 6, 7, 8],
    [
        ?assertError(badarg, pore_straw:open(D, R, C))
     || {D, R, C} <- [
            {a, Refs, 1}, {Domid, Refs, x}, {Domid, tl(Refs), 1}, {Domid, [9 | Refs], 1}, {Domid, refs, 1},
            {Domid, [a | tl(Refs)], 1}, {Domid, [-1 | tl(Refs)], 1}, {Domid, [1 bsl 33 | tl(Refs)], 1},
            {Domid, [1, 2, 3, 4, 5, 6, 7 | 8], 1}, {Domid, Refs, 1 bsl 33}, {Domid, Refs, 424242}
        ]
    ],
    [?assertError(badarg, pore:poke(Wrong)) || Wrong <- [make_ref(), 1, a, {P}]],
    [?assertError(badarg, pore:close(Wrong)) || Wrong <- [make_ref(), 1, a, {P}]],
    true = pore:close(P),
    nothing_held().

nothing_held() ->
    straw_test_host:wait_until(fun() -> straw_backend:held() =:= #{grants => 0, mappings => 0, channels => 0} end).

nobody_there(Other, Domid) ->
    ok = straw_backend:stop(Other),
    straw_test_host:wait_until(fun() ->
        {ok, Domains} = straw_backend:domains(),
        not lists:member(Domid, Domains)
    end),
    ?assertError(badarg, pore_straw:open(Domid)),
    ?assertError(badarg, pore_straw:open(Domid, [1, 2, 3, 4, 5, 6, 7, 8], 1)),
    nothing_held().

closed(_Other, Domid) ->
    P = pore_straw:open(Domid),
    ?assertEqual(true, pore:close(P)),
    ?assertEqual(false, pore:close(P)),
    [?assertError(badarg, pore_straw:F(P)) || F <- [avail, read, info]],
    ?assertError(badarg, pore_straw:write(P, <<"x">>)),
    ?assertError(badarg, pore:poke(P)).

%% Nobody notices, as in LING: it is in the store that a peer has gone.
peer_gone(Other, Domid) ->
    P = pore_straw:open(Domid),
    Q = peer_of(P, Other),
    3 = pore:write(Q, "bye"),
    true = pore:close(Q),
    receive
        {irq, P} -> ok
    end,
    ?assertMatch({3, _}, pore_straw:avail(P)),
    ?assertEqual(<<"bye">>, pore_straw:read(P)),
    ?assertEqual(true, pore:poke(P)),
    straw_test_host:wait_until(fun() -> pore_straw:avail(P) =:= {0, 0} end),
    ?assertEqual(<<>>, pore_straw:read(P)),
    ?assertEqual(ok, pore_straw:write(P, [])),
    ?assertError(badarg, pore_straw:write(P, <<"x">>)),
    ?assertEqual(true, pore:poke(P)),
    ?assertEqual(true, pore:close(P)).

corrupt(Other, Domid) ->
    Self = self(),
    Before = pore_tests:memories(),
    {Pid, Monitor} = spawn_monitor(fun() ->
        P = pore_straw:open(Domid),
        Self ! {opened, P, pore_straw:info(P)},
        loop(P)
    end),
    {P, {Refs, Port}} =
        receive
            {opened, Pore, Info} -> {Pore, Info}
        end,
    {ok, Mapping} = straw_backend:map(Other, straw_backend:domid(), Refs),
    {ok, Channel} = straw_backend:bind_channel(Other, straw_backend:domid(), Port),
    {ok, Q} = pore:open_straw(passive, Mapping, Channel, #{give_back => true}),
    [Memory | _] = pore_tests:memories() -- Before,
    {ok, File} = file:open(Memory, [read, write, raw, binary]),
    1 = pore:write(Q, "x"),
    ok = file:pwrite(File, 0, <<70000:32/little>>),
    _ = pore:poke(Q),
    receive
        {'DOWN', Monitor, process, Pid, Why} -> ?assertEqual({pore_failed, corrupt}, Why)
    end,
    ok = file:close(File),
    straw_test_host:wait_until(fun() -> pore:avail(P) =:= {error, closed} end).

loop(P) ->
    receive
        {irq, P} -> ok
    after 10 -> ok
    end,
    {_, _} = pore_straw:avail(P),
    loop(P).

%% ---- pore_xs ----

-define(READ_DOMID, <<2:32/little, 7:32/little, 0:32/little, 6:32/little, "domid", 0>>).

stream(_Other, _Domid) ->
    Xs = pore_xs:open(),
    ?assertEqual({1024, 0}, pore_xs:avail(Xs)),
    ?assertEqual(ok, pore_xs:write(Xs, ?READ_DOMID)),
    ?assertEqual(true, pore:poke(Xs)),
    Answer = answer(Xs, 16),
    Domid = integer_to_binary(straw_backend:domid()),
    Size = byte_size(Domid),
    ?assertEqual(<<2:32/little, 7:32/little, 0:32/little, Size:32/little, Domid/binary>>, Answer),
    ?assertEqual(<<>>, pore_xs:read(Xs)),
    ?assertEqual(ok, pore_xs:write(Xs, [])),
    %% More than there is room for, and an answer larger than the ring.
    ?assertError(badarg, pore_xs:write(Xs, binary:copy(<<0>>, 1025))),
    Value = binary:copy(<<"v">>, 2000),
    Write = <<11:32/little, 8:32/little, 0:32/little, (2000 + 7):32/little, "data/x", 0, Value/binary>>,
    ok = write(Xs, Write),
    ?assertMatch(<<11:32/little, 8:32/little, _/binary>>, answer(Xs, 16)),
    ok = write(Xs, <<2:32/little, 9:32/little, 0:32/little, 7:32/little, "data/x", 0>>),
    <<2:32/little, 9:32/little, 0:32/little, 2000:32/little, Value/binary>> = answer(Xs, 2016),
    [?assertError(badarg, pore_xs:write(Xs, Wrong)) || Wrong <- [a, 1, [a], {}]],
    [?assertError(badarg, pore_xs:F(Wrong)) || F <- [avail, read], Wrong <- [make_ref(), a, 1]],
    ?assertError(badarg, pore_xs:write(make_ref(), <<"x">>)).

write(_Xs, <<>>) ->
    ok;
write(Xs, Data) ->
    {Room, _} = pore_xs:avail(Xs),
    N = min(Room, byte_size(Data)),
    <<Now:N/binary, Later/binary>> = Data,
    ok = pore_xs:write(Xs, Now),
    N =:= 0 andalso
        receive
            {irq, Xs} -> ok
        end,
    write(Xs, Later).

answer(Xs, AtLeast) -> answer(Xs, AtLeast, <<>>).

answer(_Xs, AtLeast, Got) when byte_size(Got) >= AtLeast, AtLeast > 16 -> Got;
answer(_Xs, _AtLeast, <<_:12/binary, Length:32/little, _:Length/binary>> = Got) -> Got;
answer(Xs, AtLeast, Got) ->
    case pore_xs:avail(Xs) of
        {_, 0} ->
            receive
                {irq, Xs} -> answer(Xs, AtLeast, Got)
            end;
        {_, N} ->
            Data = pore_xs:read(Xs),
            ?assert(byte_size(Data) >= N andalso byte_size(Data) =< 1024),
            answer(Xs, AtLeast, <<Got/binary, Data/binary>>)
    end.

stream_closed(_Other, _Domid) ->
    Xs = pore_xs:open(),
    ?assertEqual(true, pore:close(Xs)),
    ?assertEqual(false, pore:close(Xs)),
    [?assertError(badarg, pore_xs:F(Xs)) || F <- [avail, read]],
    ?assertError(badarg, pore_xs:write(Xs, <<"x">>)),
    %% The store hangs up on who talks nonsense.
    Bad = pore_xs:open(),
    ok = pore_xs:write(Bad, <<99:32/little, 0:32/little, 0:32/little, 16#FFFFFFF:32/little>>),
    ?assertExit(host_down, until_host_down(Bad)).

until_host_down(Xs) ->
    case pore_xs:avail(Xs) of
        {_, 0} ->
            receive
                {irq, Xs} -> ok
            end;
        _ ->
            pore_xs:read(Xs)
    end,
    until_host_down(Xs).

%% ---- tubes ----

tubes(Other, Domid) ->
    Me = straw_backend:domid(),
    {ok, Acceptor} = pore_tube:accept(Other, Me),
    {Page, Tx, Rx} = pore_tube:info(Acceptor),
    {ok, Opener} = pore_tube:open(Domid, Page, Tx, Rx),
    {Opener, Acceptor}.

tube(Other, Domid) ->
    {O, A} = tubes(Other, Domid),
    ?assertEqual({0, 31}, pore_tube:avail(O)),
    ?assertEqual({0, 31}, pore_tube:avail(A)),
    ?assertEqual(none, pore_tube:recv(A)),
    Packets = [rand:bytes(Size) || Size <- [1, 2, 1500, 4095, 4096]],
    [?assertEqual(ok, pore_tube:send(O, Packet)) || Packet <- Packets],
    receive
        {irq, A} -> ok
    end,
    ?assertEqual({5, 31}, pore_tube:avail(A)),
    [?assertEqual({ok, Packet}, pore_tube:recv(A)) || Packet <- Packets],
    ?assertEqual(none, pore_tube:recv(A)),
    ?assertEqual(ok, pore_tube:send(A, ["b", <<"ack">>])),
    receive
        {irq, O} -> ok
    end,
    ?assertEqual({1, 31}, pore_tube:avail(O)),
    ?assertEqual({ok, <<"back">>}, pore_tube:recv(O)),
    [?assertEqual(ok, pore_tube:send(O, <<N>>)) || N <- lists:seq(1, 31)],
    ?assertEqual(full, pore_tube:send(O, <<"dropped">>)),
    ?assertEqual(0, pore_tube:slots(O)),
    ?assertEqual(false, pore_tube:notify_when(O, 2)),
    [{ok, <<N>>} = pore_tube:recv(A) || N <- [1, 2]],
    receive
        {irq, O} -> ok
    end,
    straw_test_host:wait_until(fun() -> pore_tube:avail(O) =:= {0, 2} end),
    [?assertError(badarg, pore_tube:send(O, Wrong)) || Wrong <- ["", <<>>, binary:copy(<<"x">>, 4097), a, [a]]],
    true = pore:close(O),
    straw_test_host:wait_until(fun() ->
        _ = pore_tube:recv(A),
        pore_tube:avail(A) =:= {error, peer_gone}
    end),
    true = pore:close(A),
    nothing_held().

tube_refused(Other, Domid) ->
    Me = straw_backend:domid(),
    {ok, A} = pore_tube:accept(Other, Me),
    {Page, Tx, Rx} = pore_tube:info(A),
    ?assertEqual({error, enoent}, pore_tube:open(Domid, Page + 100000, Tx, Rx)),
    ?assertEqual({error, enoent}, pore_tube:open(Domid, Page, Tx + 100000, Rx)),
    ?assertMatch({error, _}, pore_tube:open(Domid, Page, Tx, Tx)),
    ?assertMatch({error, _}, pore_tube:accept(Me)),
    nothing_held(),
    %% A straw is no tube.
    P = pore_straw:open(Domid),
    ?assertError(badarg, pore_tube:info(P)),
    ?assertError(badarg, pore_straw:info(A)),
    true = pore:close(P),
    true = pore:close(A).

tube_waits(Other, Domid) ->
    {O, A} = tubes(Other, Domid),
    ?assertEqual(31, pore_tube:can_send(O)),
    [ok = pore_tube:send(O, <<N>>) || N <- lists:seq(1, 31)],
    _ = pore_tube:avail(O),
    Reader = self(),
    spawn_link(fun() ->
        timer:sleep(20),
        Taken = [element(2, pore_tube:recv(A)) || _ <- [1, 2, 3]],
        Reader ! {taken, Taken}
    end),
    ?assert(pore_tube:can_send(O) >= 1),
    receive
        {taken, Taken} -> ?assertEqual([<<1>>, <<2>>, <<3>>], Taken)
    end,
    true = pore:close(A),
    straw_test_host:wait_until(fun() -> pore_tube:avail(O) =:= {error, peer_gone} end),
    ?assertEqual({error, peer_gone}, pore_tube:can_send(O)).

cycles(Other, Domid) ->
    [garbage_collect(Process) || Process <- processes()],
    Before = pore:held(),
    {Pid, Monitor} = spawn_monitor(fun() ->
        [
            begin
                P = pore_straw:open(Domid),
                Q = peer_of(P, Other),
                ok = pore_straw:write(P, <<"x">>),
                true = pore:poke(P),
                true = pore:close(Q),
                true = pore:close(P),
                {O, A} = tubes(Other, Domid),
                true = pore:close(O),
                true = pore:close(A),
                true = pore:close(pore_xs:open())
            end
         || _ <- lists:seq(1, 100)
        ]
    end),
    receive
        {'DOWN', Monitor, process, Pid, Why} -> ?assertEqual(normal, Why)
    end,
    nothing_held(),
    straw_test_host:wait_until(fun() ->
        [garbage_collect(Process) || Process <- processes()],
        pore:held() =:= Before
    end).
