%% One tube's process, without a membrane: this process is both sides' membrane. (Opening and closing with the store:
%% tests/interop/test_beam_tubes.py.)
-module(tube_tests).

-include_lib("eunit/include/eunit.hrl").
-include("../src/membrane.hrl").

tubes_test_() ->
    {setup, fun straw_test_host:start/0, fun straw_test_host:stop/1, fun(Host) ->
        [
            {atom_to_list(Name), {timeout, 60, fun() -> straw_test_host:trapping(fun() -> with(Host, Test) end) end}}
         || {Name, Test} <- [
                {sizes, fun sizes/2}, {credit, fun credit/2}, {recv, fun recv/2}, {full, fun full/2}, {told, fun told/2},
                {owners, fun owners/2}, {ends, fun ends/2}, {corrupt, fun corrupt/2}, {untaken, fun untaken/2}
            ]
        ]
    end}.

%% Two tubes of two domains: the first one is this process's, the other nobody's yet.
with(Host, Test) ->
    {A, DomA} = straw_test_host:domain(Host),
    {B, DomB} = straw_test_host:domain(Host),
    {ok, Grant, Ours} = pore_tube:offered(A, DomB),
    {ok, Tube} = start({active, {DomB, 1}}, Grant, Ours),
    [TxPort, RxPort] = lists:map(fun straw_backend:channel_port/1, Ours),
    {ok, Mapping, Theirs} = pore_tube:attached(B, DomA, hd(straw_backend:grant_refs(Grant)), TxPort, RxPort),
    {ok, Other} = start({passive, {DomA, 1}}, Mapping, Theirs),
    ok = tube:accept(Tube),
    try
        Test(Tube, Other)
    after
        [finish(T, stopped) || T <- [Tube, Other], is_process_alive(T)],
        [ok = straw_backend:give_back(Thing) || Thing <- [Mapping | Theirs] ++ Ours ++ [Grant]],
        [straw_backend:stop(Server) || Server <- [A, B]]
    end.

start(Key, Memory, Channels) ->
    tube:start(#{membrane => self(), key => Key, terms => #terms{dialect = otp}, memory => Memory, channels => Channels}).

%% As the membrane does.
finish(Tube, Reason) ->
    Monitor = monitor(process, Tube),
    _ = tube:last_look(Tube),
    tube:finished(Tube, Reason),
    receive {'DOWN', Monitor, process, Tube, Why} -> ?assertEqual(Reason, Why) end.

%% Another process has it, and does this.
as_owner(Tube, Fun) ->
    Self = self(),
    {Pid, Monitor} = spawn_monitor(fun() -> ok = take(Tube), Self ! {said, self(), Fun()} end),
    receive
        {said, Pid, Said} -> Said;
        {'DOWN', Monitor, process, Pid, Why} -> error(Why)
    end.

take(Tube) -> gen_server:call(Tube, take).

nothing_came() ->
    receive Message -> error({came, Message}) after 0 -> ok end.

sizes(Tube, Other) ->
    ok = take(Other),
    Packets = [binary:copy(<<N>>, Size) || {N, Size} <- [{1, 1}, {2, 100}, {3, 4095}, {4, 4096}]],
    [ok = tube:send(Tube, [P]) || P <- Packets],
    ?assertEqual([{ok, P} || P <- Packets], [tube:recv(Other) || _ <- Packets]),
    [?assertError(badarg, Send(Tube, Bad)) || Send <- [fun tube:send/2, fun tube:send_nowait/2], Bad <- [<<>>, <<0:32776>>, x]],
    ?assertMatch(#{number := 1, we_opened := true, dialect := otp}, tube:info(Other)).

credit(Tube, Other) ->
    ok = take(Other),
    [ok = tube:send(Tube, <<N>>) || N <- lists:seq(1, 10)],
    ok = tube:active(Other, 3),
    Came = fun(Count) -> [receive {tube, Other, <<N>>} -> N; {tube_passive, Other} -> passive end || _ <- lists:seq(1, Count)] end,
    ?assertEqual([1, 2, 3, passive], Came(4)),
    ok = tube:active(Other, 5),
    ok = tube:active(Other, -5),
    ?assertEqual([4, 5, 6, 7, 8, passive], Came(6)),
    ?assertEqual({ok, <<9>>}, tube:recv(Other)),
    ok = tube:active(Other, true),
    ?assertEqual([10], Came(1)),
    [begin ok = tube:send(Tube, <<N:16>>), receive {tube, Other, <<N:16>>} -> ok end end || N <- lists:seq(1, 200)],
    ok = tube:active(Other, false),
    nothing_came().

recv(Tube, Other) ->
    ok = take(Other),
    ?assertEqual({error, timeout}, tube:recv(Other, 0)),
    ?assertEqual({error, timeout}, tube:recv(Other, 5)),
    Self = self(),
    _ = spawn(fun() -> Self ! sending, ok = tube:send(Tube, "late") end),
    ?assertEqual({ok, <<"late">>}, tube:recv(Other)),
    receive sending -> ok end,
    nothing_came().

full(Tube, Other) ->
    ?assertEqual(31, tube:can_send(Tube)),
    ?assertEqual(lists:duplicate(31, ok) ++ [{error, full}], [tube:send_nowait(Tube, <<N>>) || N <- lists:seq(1, 32)]),
    Self = self(),
    Pids = [spawn(fun() -> Self ! {self(), tube:send(Tube, <<N>>)} end) || N <- lists:seq(32, 40)],
    straw_test_host:wait_until(fun() -> tube:can_send(Tube) =:= 0 end),
    Got = as_owner(Other, fun() -> [element(2, tube:recv(Other)) || _ <- lists:seq(1, 40)] end),
    ?assertEqual(lists:seq(1, 31), [N || <<N>> <- lists:sublist(Got, 31)]),
    ?assertEqual(lists:seq(32, 40), lists:sort([N || <<N>> <- lists:nthtail(31, Got)])),
    [receive {Pid, Result} -> ?assertEqual(ok, Result) end || Pid <- Pids].

told(Tube, Other) ->
    ok = take(Other),
    ?assert(tube:can_send(Tube, 31)),
    [ok = tube:send(Tube, <<N>>) || N <- lists:seq(1, 31)],
    ?assertNot(tube:can_send(Tube, 3)),
    [{ok, _} = tube:recv(Other) || _ <- lists:seq(1, 31)],
    receive {can_send, Tube, Slots} -> ?assert(Slots >= 3 andalso Slots =< 31) end,
    [begin ok = tube:send(Tube, <<N>>), {ok, <<N>>} = tube:recv(Other) end || N <- lists:seq(1, 31)],
    nothing_came(),
    [?assertError(function_clause, tube:can_send(Tube, Bad)) || Bad <- [0, 32]].

owners(Tube, Other) ->
    ?assertEqual({error, taken}, tube:accept(Other)),
    ?assertEqual([{error, not_owner}, {error, not_owner}], [tube:recv(Other), tube:can_send(Other, 1)]),
    Self = self(),
    New = spawn(fun() ->
        receive go -> ok end,
        Self ! {recv, tube:recv(Tube)},
        receive stop -> ok end
    end),
    ok = tube:controlling_process(Tube, New),
    ?assertEqual({error, not_owner}, tube:controlling_process(Tube, Self)),
    ok = tube:send(Other, "to the new one"),
    New ! go,
    receive {recv, Got} -> ?assertEqual({ok, <<"to the new one">>}, Got) end,
    nothing_came(),
    New ! stop,
    receive {'$gen_cast', {close, {active, _}, Tube, closed}} -> ok end.

%% What is left comes before the end, to who waits for it and to who does not.
ends(Tube, Other) ->
    ok = take(Other),
    [ok = tube:send(Other, <<N>>) || N <- [1, 2, 3]],
    [ok = tube:send_nowait(Tube, <<N>>) || N <- lists:seq(1, 31)],
    Self = self(),
    _ = spawn(fun() -> Self ! {sent, tube:send(Tube, "waits")} end),
    finish(Other, closed),
    receive {tube_closed, Other, Why} -> ?assertEqual(closed, Why) end,
    ?assertEqual(lists:seq(1, 31), [receive {tube, Other, <<N>>} -> N end || _ <- lists:seq(1, 31)]),
    finish(Tube, peer_closed),
    ?assertEqual([{ok, <<1>>}, {ok, <<2>>}, {ok, <<3>>}, {error, closed}], [tube:recv(Tube) || _ <- [1, 2, 3, 4]]),
    receive {tube_closed, Tube, Reason} -> ?assertEqual(peer_closed, Reason) end,
    receive {sent, Result} -> ?assert(lists:member(Result, [ok, {error, peer_closed}])) end,
    ?assertEqual({error, closed}, tube:send(Tube, "x")),
    ok = tube:close(Tube).

%% What no honest peer writes ends it, by the membrane's word.
corrupt(Tube, Other) ->
    ok = take(Other),
    {ok, Memory} = file:list_dir("/proc/self/fd"),
    Memfds = [Fd || Fd <- Memory, {ok, Name} <- [file:read_link("/proc/self/fd/" ++ Fd)], string:find(Name, "memfd:strawbridge") =/= nomatch],
    [
        begin
            {ok, File} = file:open("/proc/self/fd/" ++ Fd, [read, write, raw, binary]),
            ok = file:pwrite(File, 0, <<77777:32/little, 88888:32/little>>),
            ok = file:pwrite(File, 264, <<77777:32/little, 88888:32/little>>),
            ok = file:close(File)
        end
     || Fd <- Memfds
    ],
    ?assertMatch([_ | _], Memfds),
    ok = tube:active(Tube, true),
    receive {'$gen_cast', {straw_ended, {active, _}, Tube, Reason}} -> ?assertEqual(corrupt, Reason) end,
    ?assertEqual({error, corrupt}, tube:send_nowait(Tube, "x")),
    finish(Tube, corrupt),
    receive {tube_closed, Tube, Why} -> ?assertEqual(corrupt, Why) end.

%% Nobody takes it: it asks to be closed. One that is somebody's does not.
untaken(Tube, Other) ->
    Tube ! untaken,
    Other ! untaken,
    receive {'$gen_cast', {close, Key, Closing, closed}} -> ?assertEqual({passive, Other}, {element(1, Key), Closing}) end,
    ?assertMatch(#{}, tube:info(Tube)),
    nothing_came().
