%% When the peer is told of an end: this process is the straw, and plays no proxy but asks real ones.
-module(straw_ends_tests).

-include_lib("eunit/include/eunit.hrl").

%% Nobody has to be asked.
alone_test() ->
    Ids = straw_ids:new(#{domid => 1, peer => 2, dialect => otp}),
    {Told, Ends} = straw_ends:add(ended(1), Ids, straw_ends:new()),
    ?assertEqual([ended(1)], Told),
    ?assertMatch({[_], _}, straw_ends:add(ended(2), Ids, Ends)),
    straw_ids:stop(Ids).

%% What has ended while proxies are asked waits for the next round, and that one for its time.
rounds_test() ->
    {Ids, [Proxy | _]} = with_proxies(3),
    {[], Ends1} = straw_ends:add(ended(1), Ids, straw_ends:new()),
    {[], Ends2} = straw_ends:add(ended(2), Ids, Ends1),
    {[], Ends3} = straw_ends:add(ended(3), Ids, Ends2),
    {Told, Ends4} = answers(Ids, Ends3, 3),
    ?assertEqual([ended(1)], Told),
    receive ask_proxies -> ok end,
    {[], Ends5} = straw_ends:go_on(Ids, Ends4),
    {More, Ends6} = answers(Ids, Ends5, 3),
    ?assertEqual([ended(2), ended(3)], More),
    ?assertEqual({[], Ends6}, straw_ends:passed(Proxy, Ids, Ends6)),
    straw_ids:stop(Ids).

%% What a proxy was sent before comes before its answer.
order_test() ->
    {Ids, [Proxy]} = with_proxies(1),
    [Proxy ! N || N <- lists:seq(1, 1000)],
    {[], Ends} = straw_ends:add(ended(1), Ids, straw_ends:new()),
    Got = [receive {envelope, Proxy, N} -> N; {_, passed, Proxy} -> early end || _ <- lists:seq(1, 1000)],
    ?assertEqual(lists:seq(1, 1000), Got),
    ?assertMatch({[_], _}, answers(Ids, Ends, 1)),
    straw_ids:stop(Ids).

%% A proxy that is killed answers by its end.
killed_test() ->
    {Ids, [One, Other]} = with_proxies(2),
    exit(One, kill),
    {[], Ends1} = straw_ends:add(ended(1), Ids, straw_ends:new()),
    receive {'DOWN', _, process, One, killed} -> ok end,
    {[], Ends2} = straw_ends:passed(One, Ids, Ends1),
    receive {_, passed, Other} -> ok end,
    ?assertMatch({[_], _}, straw_ends:passed(Other, Ids, Ends2)),
    straw_ids:stop(Ids).

%% A secret that is not the straw's.
forged_test() ->
    {Ids, [Proxy]} = with_proxies(1),
    Proxy ! {make_ref(), ended, forged},
    receive {envelope, Proxy, {_, ended, forged}} -> ok end,
    ?assertNot(straw_ids:is_passed(make_ref(), Ids)),
    ?assertEqual(error, straw_ids:ended(self(), gone, Ids)),
    Monitor = monitor(process, Proxy),
    {ok, Ids1} = straw_ids:ended(Proxy, gone, Ids),
    receive {'DOWN', Monitor, process, Proxy, Why} -> ?assertEqual(gone, Why) end,
    ?assertMatch(#{proxies := 0}, straw_ids:counts(Ids1)),
    straw_ids:stop(Ids1).

ended(N) -> {N, self(), N}.

with_proxies(N) ->
    Ids = straw_ids:new(#{domid => 1, peer => 2, dialect => otp}),
    lists:foldl(
        fun(Id, {Ids0, Pids}) ->
            {ok, peers, Pid, Ids1} = straw_ids:take(2, Id, Ids0),
            {Ids1, [Pid | Pids]}
        end,
        {Ids, []},
        lists:seq(1, N)
    ).

answers(Ids, Ends, Left) ->
    receive
        {Secret, passed, Proxy} ->
            true = straw_ids:is_passed(Secret, Ids),
            case straw_ends:passed(Proxy, Ids, Ends) of
                {[], More} when Left > 1 -> answers(Ids, More, Left - 1);
                Told when Left =:= 1 -> Told
            end
    end.
