%% The membrane's pure parts: keys, the table, and two machines in memory that open and close a straw. That the machine is
%% Python's in everything is shown by replaying Python's tests (tests/interop/test_beam_membrane.py).
-module(membrane_tests).

-include_lib("eunit/include/eunit.hrl").
-include("../src/membrane.hrl").

-define(KEYS, membrane_keys).

%% ── keys ──

number_test_() ->
    [
        ?_assertEqual(Expected, ?KEYS:number(Text))
     || {Text, Expected} <- [
            {"0", 0}, {"7", 7}, {"4294967295", 16#FFFFFFFF}, {"4294967296", undefined}, {"", undefined}, {"01", undefined},
            {"-1", undefined}, {"1 ", undefined}, {"+1", undefined}, {"1x", undefined}, {"99999999999", undefined},
            {undefined, undefined}
        ]
    ].

domid_test() ->
    ?assertEqual(16#7FEF, ?KEYS:domid_of("32751")),
    ?assertEqual(undefined, ?KEYS:domid_of("32752")).

owner_test() ->
    ?assert(?KEYS:owned_by(["r5", "b6"], 5, 6)),
    ?assertNot(?KEYS:owned_by(["r6", "b5"], 5, 6)),
    ?assert(?KEYS:owned_by(["n6"], 0, 6)),
    ?assert(?KEYS:owned_by(["n0"], 0, 6)),
    ?assertNot(?KEYS:owned_by([], 5, 6)),
    ?assertNot(?KEYS:owned_by(undefined, 5, 6)).

knocker_test_() ->
    [
        ?_assertEqual(Expected, ?KEYS:knocker(Kind:layout(), 6, "/local/domain/" ++ Rest))
     || {Kind, Rest, Expected} <- [{membrane_straw, Rest, Expected} || {Rest, Expected} <- [
            {"6/data/straw/5/warts", 5}, {"6/data/straw/05/warts", undefined}, {"6/data/straw/6/warts", undefined},
            {"6/data/straw/5/warts/x", undefined}, {"6/data/straw/5", undefined}, {"6/data/straw/x/warts", undefined},
            {"7/data/straw/5/warts", undefined}, {"6/data/straw/40000/warts", undefined}
        ]] ++ [{membrane_tube, Rest, Expected} || {Rest, Expected} <- [
            {"6/data/tip/5/1/nock", {5, 1}}, {"6/data/tip/5/0/nock", {5, 0}}, {"6/data/tip/5/nock", undefined},
            {"6/data/tip/5/01/nock", undefined}, {"6/data/tip/05/1/nock", undefined}, {"6/data/tip/6/1/nock", undefined},
            {"6/data/tip/5/1/2/nock", undefined}, {"6/data/tip/5/40000/nock", undefined}, {"6/data/tip/5/x/nock", undefined},
            {"6/data/straw/5/1/nock", undefined}, {"6/data/tip/5/1/warts", undefined}
        ]]
    ].

about_test_() ->
    [
        ?_assertEqual(Expected, ?KEYS:about(Kind:layout(), 6, Path))
     || {Kind, Path, Expected} <- [{membrane_straw, Path, Expected} || {Path, Expected} <- [
            {"/local/domain/6/data/straw", knock}, {"/local/domain/6/data/straw/5/warts", knock},
            {"/local/domain/5/data/warts/6", {active, 5}}, {"/local/domain/5/data/warts/6/state", {active, 5}},
            {"/local/domain/5/data/straw/6/state", {passive, 5}}, {"/local/domain/5/data/straw/7/state", undefined},
            {"/local/domain/05/data/straw/6", undefined}, {"data/straw/5", undefined}, {"", undefined},
            {"/local/domain/5/data/tip/6/1/state", undefined}
        ]] ++ [{membrane_tube, Path, Expected} || {Path, Expected} <- [
            {"/local/domain/6/data/tip", knock}, {"/local/domain/6/data/tip/5/1/nock", knock},
            {"/local/domain/5/data/nock/6/1", {active, {5, 1}}}, {"/local/domain/5/data/nock/6/1/state", {active, {5, 1}}},
            {"/local/domain/5/data/tip/6/12/state", {passive, {5, 12}}}, {"/local/domain/5/data/tip/7/1/state", undefined},
            {"/local/domain/5/data/tip/6", undefined}, {"/local/domain/5/data/straw/6/state", undefined}
        ]]
    ].

%% Both sides write the same two paths.
dirs_test() ->
    [
        begin
            {Ours, Theirs} = ?KEYS:dirs(Kind:layout(), passive, 5, ToSix),
            ?assertEqual({Theirs, Ours}, ?KEYS:dirs(Kind:layout(), active, 6, ToFive)),
            ?assertEqual({Passive, Active}, {Ours, Theirs})
        end
     || {Kind, ToSix, ToFive, Passive, Active} <- [
            {membrane_straw, 6, 5, "/local/domain/5/data/warts/6", "/local/domain/6/data/straw/5"},
            {membrane_tube, {6, 3}, {5, 3}, "/local/domain/5/data/nock/6/3", "/local/domain/6/data/tip/5/3"}
        ]
    ].

terms_test() ->
    ?assertEqual(#terms{}, ?KEYS:terms_of(#{})),
    ?assertEqual(#terms{}, ?KEYS:terms_of(#{"format" => "erlang", "ring-bytes" => "65536", "suppress" => "1"})),
    ?assertEqual(json, (?KEYS:terms_of(#{"format" => "JSON?"}))#terms.format),
    Own = ?KEYS:wishes(),
    ?assertEqual(Own, ?KEYS:terms_of(maps:from_list(?KEYS:terms_keys(Own)))),
    ?assertEqual(#terms{}, ?KEYS:agree(Own, #terms{})),
    ?assertEqual(Own#terms{ring_bytes = 4096}, ?KEYS:agree(Own, Own#terms{ring_bytes = 4096})),
    ?assertEqual(json, (?KEYS:agree(Own, Own#terms{format = json}))#terms.format),
    [
        ?assertEqual(0, (?KEYS:terms_of(#{"dialect" => "otp", "ring-bytes" => Ring}))#terms.ring_bytes)
     || Ring <- ["2048", "2097152", "5000", "-4096", "x", ""]
    ],
    % LING's xenstore process dies of an empty value
    [?assertNotEqual("", Value) || Terms <- [Own, #terms{}, #terms{dialect = otp}], {_, Value} <- ?KEYS:terms_keys(Terms)].

refs_test() ->
    ?assertEqual("17-20,30,7", ?KEYS:pack_refs([17, 18, 19, 20, 30, 7])),
    ?assertEqual([17, 18, 19, 20, 30, 7], ?KEYS:unpack_refs("17-20,30,7", 6)),
    ?assertEqual(undefined, ?KEYS:pack_refs([2 * N || N <- lists:seq(1, 1000)])),
    [
        ?assertEqual(undefined, ?KEYS:unpack_refs(Text, 3))
     || Text <- ["", undefined, "1-4", "1,2", "1,1,2", "3-1", "1-", "-3", "1,,2", "x", "0-4294967295", "1,2,3,4", "01,2,3"]
    ].

offer_test() ->
    Refs = lists:seq(100, 107),
    Straw = membrane_straw,
    Narrow = maps:from_list(Straw:publish({Refs, [9]}, #terms{})),
    ?assertEqual({Refs, [9]}, Straw:parse(Narrow, #terms{})),
    ?assertEqual(undefined, Straw:parse(Narrow#{"ring-ref-8" => "100"}, #terms{})),
    ?assertEqual(undefined, Straw:parse(maps:remove("ring-ref-3", Narrow), #terms{})),
    ?assertEqual(undefined, Straw:parse(Narrow#{"event-channel" => "x"}, #terms{})),
    Terms = #terms{dialect = otp, ring_bytes = 4096},
    ?assertEqual(3, Straw:pages(Terms)),
    ?assertEqual({[1, 2, 3], [4]}, Straw:parse(maps:from_list(Straw:publish({[1, 2, 3], [4]}, Terms)), Terms)).

tube_offer_test() ->
    Tube = membrane_tube,
    % the other refs are in the page that the first one grants
    Keys = Tube:publish({lists:seq(100, 164), [7, 9]}, #terms{}),
    ?assertEqual([{"ring-ref", "100"}, {"event-channel-tx", "7"}, {"event-channel-rx", "9"}], Keys),
    Values = maps:from_list(Keys),
    ?assertEqual({[100], [7, 9]}, Tube:parse(Values, #terms{})),
    ?assertEqual(lists:sort(Tube:offer_keys()), lists:sort(maps:keys(Values))),
    [
        ?assertEqual(undefined, Tube:parse(Bad, #terms{}))
     || Bad <- [
            Values#{"event-channel-rx" := "7"}, Values#{"ring-ref" := "-1"}, Values#{"event-channel-tx" := undefined},
            maps:remove("ring-ref", Values), #{}
        ]
    ].

%% ── the table ──

table_test() ->
    Table = membrane_table:load(),
    ?assertEqual({look, 'LOOKING'}, membrane_table:row(passive, 'START', open, Table)),
    ?assertEqual(undefined, membrane_table:row(passive, 'START', p4, Table)),
    ?assert(membrane_table:is_busy(active, 'GRANTING', Table)),
    ?assertNot(membrane_table:is_busy(active, 'CONNECTED', Table)),
    ?assertNot(membrane_table:is_busy(active, 'START', Table)).

%% Every action of the table is somebody's.
actions_test_() ->
    Table = membrane_table:load(),
    Common = [opened, bye, fail],
    [
        ?_assertMatch(#pore{}, act(Module, Action, pore(Kind, Role, Table)))
     || Kind <- [membrane_straw, membrane_tube], {Role, Module} <- [{passive, membrane_opener}, {active, membrane_acceptor}],
        Action <- membrane_table:actions(Role, Table) -- Common
    ].

pore(membrane_straw, Role, Table) ->
    P = membrane_pore:new(1, {Role, 5}, {6, membrane_straw}, membrane_keys:wishes(), {Table, #limits{}}),
    P#pore{offer = {[1, 2, 3], [4]}, terms = #terms{dialect = otp, ring_bytes = 4096}};
pore(membrane_tube, Role, Table) ->
    P = membrane_pore:new(1, {Role, {5, 2}}, {6, membrane_tube}, membrane_tube:wishes(), {Table, #limits{}}),
    P#pore{offer = {[1], [3, 4]}, terms = #terms{dialect = otp}}.

act(Module, Action, Pore) ->
    Module:act(Action, 0, Pore).

%% An input that no row knows changes nothing, in any state; of work, which never comes then.
ignored_test() ->
    Table = membrane_table:load(),
    [
        begin
            P = (pore(membrane_straw, Role, Table))#pore{state = State},
            case membrane_table:row(Role, State, What, Table) of
                undefined -> ?assertEqual(State, (membrane_pore:feed(What, 0, P))#pore.state);
                _ -> ok
            end
        end
     || Role <- [passive, active], State <- membrane_table:states(Role, Table), What <- [p1, p2, p3, p4, p5, p6, gone, close]
    ].

%% ── two machines in memory ──

-record(world, {machines, store = #{}, watches = [], mapped = #{}, next = 8, events = []}).

opened_and_closed_test_() ->
    [
        {lists:flatten(io_lib:format("~w closed by ~w", [Kind, Closer])), fun() ->
            {To, From} = {who(Kind, 6), who(Kind, 5)},
            W1 = told(5, fun(M) -> membrane_machine:open(To, 0, M) end, started(Kind)),
            Terms = Kind:wishes(),
            ?assertEqual(
                [{5, {opened, {passive, To}, Terms, true}}, {6, {opened, {active, From}, Terms, false}}],
                lists:sort([E || {_, {opened, _, _, _}} = E <- W1#world.events])
            ),
            Key =
                case Closer of
                    5 -> {passive, To};
                    6 -> {active, From}
                end,
            W2 = told(Closer, fun(M) -> membrane_machine:close(Key, enough, 1, M) end, W1),
            % time: what lingers goes
            W3 = lists:foldl(fun(T, W) -> timed(T, W) end, W2, lists:seq(1000, 20000, 1000)),
            ?assertEqual(
                lists:sort([{Closer, enough}, {11 - Closer, peer_closed}]),
                lists:sort([{D, R} || {D, {closed, _, R}} <- W3#world.events])
            ),
            ?assertEqual([#{}, #{}], [membrane_machine:pores(M) || M <- maps:values(W3#world.machines)]),
            ?assertEqual(#{}, W3#world.mapped),
            W4 = lists:foldl(fun(D, W) -> told(D, fun(M) -> membrane_machine:stop(30000, M) end, W) end, W3, [5, 6]),
            ?assertEqual([5, 6], lists:sort([D || {D, stopped} <- W4#world.events])),
            ?assertEqual([], [Path || Path <- maps:keys(W4#world.store), string:find(Path, "/data/") =/= nomatch])
        end}
     || Kind <- [membrane_straw, membrane_tube], Closer <- [5, 6]
    ].

who(membrane_straw, Peer) -> Peer;
who(membrane_tube, Peer) -> {Peer, 1}.

%% Each number is for itself; both may open the same one; so many of one peer and no more.
many_tubes_test() ->
    Open = fun(Me, Who, W) -> told(Me, fun(M) -> membrane_machine:open(Who, 0, M) end, W) end,
    W1 = lists:foldl(fun(N, W) -> Open(5, {6, N}, W) end, started(membrane_tube), lists:seq(1, 15)),
    W2 = Open(6, {5, 1}, W1),
    ?assertEqual({16, [16, 16]}, {length([E || {_, {opened, _, _, true}} = E <- W2#world.events]), pores(W2)}),
    W3 = Open(5, {6, 16}, Open(5, {6, 3}, W2#world{events = []})),
    ?assertEqual([{5, {refused, {6, 3}, exists}}, {5, {refused, {6, 16}, limit}}], W3#world.events),
    W4 = told(6, fun(M) -> membrane_machine:close({active, {5, 7}}, enough, 1, M) end, W3#world{events = []}),
    W5 = lists:foldl(fun(T, W) -> timed(T, W) end, W4, lists:seq(1000, 20000, 1000)),
    ?assertEqual(
        [{5, {closed, {passive, {6, 7}}, peer_closed}}, {6, {closed, {active, {5, 7}}, enough}}], lists:sort(W5#world.events)
    ),
    ?assertEqual([15, 15], pores(Open(5, {6, 40000}, W5))).

pores(#world{machines = Machines}) -> [map_size(membrane_machine:pores(M)) || M <- maps:values(Machines)].

host_down_test() ->
    W1 = told(5, fun(M) -> membrane_machine:open(6, 0, M) end, started(membrane_straw)),
    W2 = told(5, fun(M) -> membrane_machine:host_down(1, M) end, W1#world{events = []}),
    ?assertEqual([{5, {closed, {passive, 6}, host_down}}, {5, stopped}], W2#world.events),
    W3 = told(5, fun(M) -> membrane_machine:open(6, 2, M) end, W2#world{events = []}),
    ?assertEqual([{5, {refused, 6, host_down}}], W3#world.events).

timeout_test() ->
    % nobody listens there, but its tree is
    W0 = (world(membrane_straw, [5]))#world{store = #{"/local/domain/6/data/straw" => {"", ["b6"]}}},
    W1 = told(5, fun(M) -> membrane_machine:open(6, 0, M) end, start_all(W0)),
    ?assertEqual([], [E || {_, {refused, _, _}} = E <- W1#world.events]),
    W2 = timed(4500, W1),
    ?assertEqual([{5, {refused, 6, timeout}}], [E || {_, {refused, _, _}} = E <- W2#world.events]),
    ?assertMatch(#{"/local/domain/5/data/warts/6/state" := {"2", _}}, W2#world.store),
    ?assertEqual(#{{passive, 6} => 'LATE_WAIT'}, membrane_machine:pores(maps:get(5, W2#world.machines))).

world(Kind, Domids) ->
    #world{machines = maps:from_list([{D, membrane_machine:new(D, #{kind => Kind})} || D <- Domids])}.

started(Kind) -> start_all(world(Kind, [5, 6])).

start_all(W) ->
    lists:foldl(fun(D, W1) -> told(D, fun(M) -> membrane_machine:start(0, M) end, W1) end, W, maps:keys(W#world.machines)).

timed(Now, W) ->
    lists:foldl(fun(D, W1) -> told(D, fun(M) -> membrane_machine:timer(Now, M) end, W1) end, W, maps:keys(W#world.machines)).

%% Tells one machine something, and does all that comes of it.
told(Domid, Fun, #world{machines = Machines} = W) ->
    {Works, Events, M} = membrane_machine:take(Fun(maps:get(Domid, Machines))),
    W1 = W#world{machines = Machines#{Domid := M}, events = W#world.events ++ [{Domid, E} || E <- Events]},
    lists:foldl(fun(Work, W2) -> work(Domid, Work, W2) end, W1, Works).

work(Domid, {store, Key, _, _, Steps} = Work, W0) ->
    {Values, Changed, W1} = steps(Domid, Key, Steps, [], [], W0),
    W2 = told(Domid, fun(M) -> membrane_machine:store_result(Work, {Values, ''}, 0, M) end, W1),
    lists:foldl(fun fired/2, W2, Changed);
work(Domid, {pore, {_, Who}, _, Verb, _, Offer} = Work, #world{next = Next, mapped = Mapped} = W0) ->
    Peer = membrane_keys:peer(Who),
    Number = number(Who),
    Theirs = {Peer, Domid, Number},
    Ours = {Domid, Peer, Number},
    {Result, W1} =
        case Verb of
            grant when is_tuple(Who) -> {{ok, {lists:seq(Next, Next + 64), [Next + 65, Next + 66]}}, W0#world{next = Next + 200}};
            grant -> {{ok, {lists:seq(Next, Next + 128), [Next + 129]}}, W0#world{next = Next + 200}};
            attach -> {ok, W0#world{mapped = Mapped#{Theirs => Offer}}};
            detach -> {ok, W0#world{mapped = maps:remove(Theirs, Mapped)}};
            withdraw when is_map_key(Ours, Mapped) -> {busy, W0};
            withdraw -> {ok, W0}
        end,
    told(Domid, fun(M) -> membrane_machine:pore_result(Work, Result, 0, M) end, W1).

number({_, Number}) -> Number;
number(_) -> none.

steps(_, _, [], Values, Changed, W) ->
    {lists:reverse(Values), lists:reverse(Changed), W};
steps(D, Key, [Step | Steps], Values, Changed, #world{store = Store, watches = Watches} = W) ->
    Next = fun(Value, More, W1) -> steps(D, Key, Steps, [Value | Values], More ++ Changed, W1) end,
    case Step of
        {read, Path} -> Next(element(1, maps:get(Path, Store, {undefined, []})), [], W);
        {get_perms, Path} -> Next(element(2, maps:get(Path, Store, {undefined, undefined})), [], W);
        {list, Path} -> Next(names(Path, Store), [], W);
        {watch, Path} -> Next(undefined, [], W#world{watches = [{D, Key, Path} | Watches]});
        {unwatch, Path} -> Next(undefined, [], W#world{watches = Watches -- [{D, Key, Path}]});
        {atomic, Inner} -> steps(D, Key, Inner ++ Steps, [undefined | Values], Changed, W);
        {unless, Path, Value} ->
            ?assertNotEqual(Value, element(1, maps:get(Path, Store, {undefined, []}))),
            steps(D, Key, Steps, Values, Changed, W);
        {mkdir, Path} -> Next(undefined, [Path], W#world{store = maps:merge(#{Path => {"", perms(Path, D, Store)}}, Store)});
        {write, Path, Value} ->
            {_, Perms} = maps:get(Path, Store, {"", perms(Path, D, Store)}),
            Next(undefined, [Path], W#world{store = Store#{Path => {Value, Perms}}});
        {set_perms, Path, Perms} ->
            #{Path := {Value, _}} = Store,
            Next(undefined, [Path], W#world{store = Store#{Path := {Value, Perms}}});
        {delete, Path} ->
            Left = maps:filter(fun(P, _) -> P =/= Path andalso not lists:prefix(Path ++ "/", P) end, Store),
            Next(undefined, [Path], W#world{store = Left})
    end.

%% Whoever creates a node owns it; the rest is its parent's.
perms(Path, D, Store) ->
    case maps:get(filename:dirname(Path), Store, {"", ["n0"]}) of
        {_, [_ | Rest]} -> ["n" ++ integer_to_list(D) | Rest];
        {_, []} -> ["n" ++ integer_to_list(D)]
    end.

names(Path, Store) ->
    Found = [hd(string:split(Rest, "/")) || P <- maps:keys(Store), Rest <- [string:prefix(P, Path ++ "/")], Rest =/= nomatch],
    case {Found, is_map_key(Path, Store)} of
        {[], false} -> undefined;
        _ -> lists:usort(Found)
    end.

fired(Path, #world{watches = Watches} = W) ->
    Hit = [
        {D, Key}
     || {D, Key, Top} <- Watches, Path =:= Top orelse lists:prefix(Top ++ "/", Path) orelse lists:prefix(Path ++ "/", Top)
    ],
    lists:foldl(
        fun
            ({D, none}, W1) -> told(D, fun(M) -> membrane_machine:knocked(Path, 0, M) end, W1);
            ({D, Key}, W1) -> told(D, fun(M) -> membrane_machine:changed(Key, 0, M) end, W1)
        end,
        W,
        Hit
    ).
