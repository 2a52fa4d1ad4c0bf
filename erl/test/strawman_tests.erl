%% Who may be reached over straws, and what a BEAM does without one.
-module(strawman_tests).

-include_lib("eunit/include/eunit.hrl").

exports_test_() ->
    {setup,
        fun() ->
            {ok, Pid} = strawman_exports:start_link([known, {{front, nonode@nohost}, #{to => known, domains => [5]}}]),
            unlink(Pid),
            Pid
        end,
        fun(Pid) -> gen_server:stop(Pid) end,
        [fun found/0, fun refused/0, fun counts/0, fun no_domain/0]}.

found() ->
    ?assertEqual(#{to => known, domains => all, sender => false}, strawman_exports:find(known)),
    ?assertEqual(#{to => known, domains => [5], sender => false}, strawman_exports:find({front, nonode@nohost})),
    ?assertEqual(undefined, strawman_exports:find(front)),
    ?assertEqual(undefined, strawman_exports:find({a, <<"strange">>})),
    ok = strawman:export(self(), #{sender => true}),
    ?assertMatch(#{sender := true}, strawman_exports:find(self())),
    ok = strawman:unexport(self()),
    ok = strawman:unexport(self()),
    ?assertEqual(undefined, strawman_exports:find(self())),
    ?assertEqual([known, {front, nonode@nohost}], lists:sort(strawman:exports())).

refused() ->
    [
        ?assertEqual({error, service}, strawman:export(Name))
     || Name <- [rex, net_kernel, init, strawman, membrane, {rex, node()}, whereis(init), whereis(code_server)]
    ],
    ?assertEqual({error, service}, strawman:export(a, #{to => {user, 'x@y'}})),
    [
        ?assertEqual({error, badarg}, strawman:export(Name, Options))
     || {Name, Options} <- [
            {"text", #{}}, {{a, b, c}, #{}}, {make_ref(), #{}}, {a, #{domains => 5}}, {a, #{domains => [x]}}, {a, #{other => 1}},
            {a, [{to, b}]}, {a, #{sender => yes}}
        ]
    ],
    ?assertEqual(undefined, strawman_exports:find(a)).

%% Signals can't be sent by envelope, and calls only by who can be answered.
forged_test_() ->
    [
        ?_assertEqual(Forged, strawman_exports:is_forged(Message))
     || {Message, Forged} <- [
            {{'EXIT', self(), kill}, true}, {{'DOWN', make_ref(), process, self(), x}, true},
            {{system, {self(), x}, get_state}, true}, {{'$gen_call', x, y}, true}, {{'$gen_call', {x, y}, z}, true},
            {{'$gen_call', {self(), make_ref()}, z}, false}, {{'$gen_cast', x}, false}, {hello, false},
            {{'DOWN', x}, false}, {[], false}
        ]
    ].

counts() ->
    0 = maps:get(malformed, strawman:counts()),
    ok = strawman_exports:count(malformed),
    1 = maps:get(malformed, strawman:counts()).

%% Without a membrane strawman answers, at once.
no_domain() ->
    {ok, Pid} = strawman:start_link(),
    ?assertEqual({error, host_down}, strawman:open(5)),
    ?assertEqual({error, host_down}, strawman:open(5, json)),
    ?assertEqual({error, host_down}, strawman:send({5, a}, b)),
    ?assertEqual({error, host_down}, strawman:proxy(5, a)),
    ?assertEqual({error, not_found}, strawman:split(5)),
    ?assertEqual({error, not_found}, strawman:close(5)),
    ?assertEqual({0, []}, {strawman:domid(), strawman:domains()}),
    [
        ?assertEqual({error, unknown_request}, gen_server:call(strawman, What))
     || What <- [nonsense, {open, five}, {open, 5, xml}, {open, 5, erlang, x}]
    ],
    [?assertEqual({error, badarg}, gen_server:call(strawman, {envelope, Place, x})) || Place <- [a, {a, b}, {-1, a}, {5, "b"}, {5, a, b}]],
    strawman ! {envelope, {5, a}, b},
    strawman ! {envelope, nonsense, b},
    strawman ! nonsense,
    ?assertEqual(0, strawman:domid()),
    ?assert(maps:get(unopened, strawman:counts()) >= 1),
    unlink(Pid),
    gen_server:stop(Pid).
