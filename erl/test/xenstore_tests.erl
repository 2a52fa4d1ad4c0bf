%% LING's xenstore: exactly its results, over a real store; and what LING's does not survive.
-module(xenstore_tests).

-include_lib("eunit/include/eunit.hrl").
-include("xenstore.hrl").

all_test_() ->
    {setup, fun straw_test_host:start/0, fun straw_test_host:stop/1, fun(Host) ->
        [
            {atom_to_list(Name), {timeout, 60, fun() -> with_store(Host, Test) end}}
         || {Name, Test} <- tests()
        ]
    end}.

tests() ->
    [
        {values, fun values/0},
        {bad_arguments, fun bad_arguments/0},
        {directories, fun directories/0},
        {long_directories, fun long_directories/0},
        {permissions, fun permissions/0},
        {watches, fun watches/0},
        {two_watches_of_one_path, fun two_watches/0},
        {transactions, fun transactions/0},
        {waits, fun waits/0},
        {wait_error, fun wait_error/0},
        {sizes, fun sizes/0},
        {many_callers, fun many_callers/0},
        {callers_die, fun callers_die/0}
    ].

with_store(Host, Test) ->
    {ok, Backend} = straw_backend:start_link(#{host => straw_test_host:folder(Host), backend => local}),
    {ok, Server} = xenstore:start_link(),
    try
        Test()
    after
        gen_server:stop(Server),
        straw_backend:stop(Backend)
    end.

not_started_test() ->
    ?assertEqual({error, not_started}, xenstore:read("domid")),
    ?assertEqual({error, not_started}, xenstore:write("data/x", "1")),
    ?assertEqual({error, not_started}, xenstore:transaction()),
    ?assertEqual({error, not_started}, xenstore:watch("data")),
    ?assertEqual({error, not_started}, xenstore:unwatch("data")),
    ?assertError({badmatch, {error, not_started}}, xenstore:domid()).

values() ->
    ?assertEqual(straw_backend:domid(), xenstore:domid()),
    ?assertEqual({ok, integer_to_list(xenstore:domid())}, xenstore:read("domid")),
    ?assertEqual({error, enoent}, xenstore:read("data/none")),
    ?assertEqual(ok, xenstore:write("data/x", "value")),
    ?assertEqual({ok, "value"}, xenstore:read("data/x")),
    ?assertEqual({ok, "value"}, xenstore:read("/local/domain/" ++ integer_to_list(xenstore:domid()) ++ "/data/x")),
    ?assertEqual({error, not_integer}, xenstore:read_integer("data/x")),
    ?assertEqual(ok, xenstore:write("data/x", 12345)),
    ?assertEqual({ok, "12345"}, xenstore:read("data/x")),
    ?assertEqual({ok, 12345}, xenstore:read_integer("data/x")),
    ?assertEqual({error, enoent}, xenstore:read_integer("data/none")),
    ?assertEqual(ok, xenstore:write("data/x", "")),
    ?assertEqual({ok, ""}, xenstore:read("data/x")),
    ?assertEqual(ok, xenstore:write("data/x", "OK")),
    ?assertEqual({ok, "OK"}, xenstore:read("data/x")),
    ?assertEqual(ok, xenstore:write("data/x", [$a, 0, $b])),
    ?assertEqual({ok, [$a, 0, $b]}, xenstore:read("data/x")),
    ?assertEqual(ok, xenstore:write("data/x", ["de", [$e | <<"p">>], 255])),
    ?assertEqual({ok, "deep" ++ [255]}, xenstore:read("data/x")),
    ?assertEqual(ok, xenstore:delete("data/x")),
    ?assertEqual({error, enoent}, xenstore:read("data/x")),
    ?assertEqual(ok, xenstore:delete("data/x")),
    ?assertEqual({error, eacces}, xenstore:write("/local/domain/0/x", "1")).

bad_arguments() ->
    [
        ?assertEqual({error, badarg}, apply(xenstore, F, A))
     || {F, A} <- [
            {read, [atom]}, {read, [<<"data">>]}, {read, [1]}, {read_integer, [atom]}, {write, [atom, "1"]},
            {write, ["data/x", atom]}, {write, ["data/x", <<"binary">>]}, {write, ["data/x", "1", atom]},
            {write, ["data/x", [300]]}, {write, ["data/x", 1.0]}, {mkdir, [atom]}, {mkdir, ["data/x", atom]},
            {delete, [atom]}, {delete, ["data/x", "0"]}, {list, [atom]}, {get_perms, [atom]}, {set_perms, ["data", "b5"]},
            {set_perms, ["data", []]}, {set_perms, ["data", b5]}, {set_perms, [data, ["b5"]]},
            {set_perms, ["data", ["b5"], x]}, {watch, [atom]}, {unwatch, [atom]}, {commit, [atom]}, {rollback, ["1"]},
            {commit, [-1]}, {commit, [1 bsl 32]}, {read, ["data" ++ [0]]}, {read, [[a]]}, {mkdir, ["data/" ++ [1000]]}
        ]
    ],
    ?assertEqual({error, einval}, xenstore:read("data//x")),
    ?assertEqual({error, einval}, xenstore:read("data/x y")).

directories() ->
    ?assertEqual(ok, xenstore:mkdir("data/dir")),
    ?assertEqual(ok, xenstore:mkdir("data/dir")),
    ?assertEqual({ok, ""}, xenstore:read("data/dir")),
    ?assertEqual({ok, []}, xenstore:list("data/dir")),
    ok = xenstore:write("data/dir/a", 1),
    ok = xenstore:mkdir("data/dir/b"),
    {ok, Names} = xenstore:list("data/dir"),
    ?assertEqual(["a", "b"], lists:sort(Names)),
    ?assertEqual({error, enoent}, xenstore:list("data/none")),
    ?assertEqual(ok, xenstore:delete("data/dir")),
    ?assertEqual({error, enoent}, xenstore:list("data/dir")).

%% Longer than an answer. Only domain 0 may make them so long.
long_directories() ->
    #{host := Folder, domid := Domid} = straw_backend:info(),
    {ok, Zero} = xenstore_server:start_link(anonymous, {path, list_to_binary(Folder ++ "/xenstored/socket")}),
    Long = "/local/domain/" ++ integer_to_list(Domid) ++ "/data/long",
    Names = ["name-" ++ lists:duplicate(40, $x) ++ integer_to_list(N) || N <- lists:seq(1, 300)],
    [ok = xenstore_server:call(Zero, ?XS_MKDIR, [Long ++ "/" ++ Name], 0) || Name <- Names],
    ?assertEqual({error, e2big}, xenstore_server:call(Zero, ?XS_DIRECTORY, [Long], 0)),
    {ok, Found} = xenstore:list("data/long"),
    ?assertEqual(lists:sort(Names), lists:sort(Found)),
    {ok, Tid} = xenstore:transaction(),
    ?assertEqual({ok, Found}, xenstore:list("data/long", Tid)),
    ok = xenstore:rollback(Tid),
    ?assertEqual({error, e2big}, xenstore:list(lists:duplicate(5000, $a))),
    ok = xenstore_server:call(Zero, ?XS_RM, [Long], 0),
    ok = gen_server:stop(Zero).

permissions() ->
    Me = integer_to_list(xenstore:domid()),
    ok = xenstore:mkdir("data/straw"),
    ?assertEqual({ok, "n" ++ Me}, xenstore:get_perms("data/straw")),
    ?assertEqual(ok, xenstore:set_perms("data/straw", ["b" ++ Me])),
    ?assertEqual({ok, "b" ++ Me}, xenstore:get_perms("data/straw")),
    ?assertEqual(ok, xenstore:set_perms("data/straw", ["b" ++ Me, "r7"])),
    ?assertEqual({ok, ["b" ++ Me, "r7"]}, xenstore:get_perms("data/straw")),
    ?assertEqual({error, enoent}, xenstore:get_perms("data/none")),
    ?assertEqual({error, einval}, xenstore:set_perms("data/straw", ["nonsense"])).

watches() ->
    ?assertEqual(ok, xenstore:watch("data/w")),
    ?assertEqual([{watch, "data/w"}], messages(1)),
    ok = xenstore:write("data/w", "1"),
    ok = xenstore:write("data/w/deep/er", "1"),
    ?assertEqual([{watch, "data/w"}, {watch, "data/w/deep/er"}], messages(2)),
    ok = xenstore:delete("data/w"),
    ?assertEqual([{watch, "data/w"}], messages(1)),
    ?assertEqual(ok, xenstore:unwatch("data/w")),
    ok = xenstore:write("data/w", "1"),
    ?assertEqual(ok, xenstore:unwatch("data/w")),
    %% Absolute stays absolute.
    Absolute = "/local/domain/" ++ integer_to_list(xenstore:domid()) ++ "/data/w",
    ok = xenstore:watch(Absolute),
    ?assertEqual([{watch, Absolute}], messages(1)),
    ok = xenstore:write("data/w", "2"),
    ?assertEqual([{watch, Absolute}], messages(1)),
    ok = xenstore:unwatch(Absolute),
    ?assertEqual({error, einval}, xenstore:watch("data//w")),
    ?assertEqual([], messages(0)).

messages(0) ->
    receive
        {watch, Path} -> [{watch, Path}]
    after 50 -> []
    end;
messages(N) ->
    receive
        {watch, Path} -> [{watch, Path} | messages(N - 1)]
    end.

%% Each watch is the caller's own; unwatch ends all of the caller's of that path.
two_watches() ->
    ok = xenstore:watch("data/two"),
    ok = xenstore:watch("data/two"),
    ?assertEqual(2, length(messages(2))),
    Self = self(),
    Other = spawn_link(fun() ->
        ok = xenstore:watch("data/two"),
        Self ! {self(), messages(1)},
        receive
            {watch, "data/two"} -> Self ! {self(), again}
        end
    end),
    receive
        {Other, First} -> ?assertEqual([{watch, "data/two"}], First)
    end,
    ok = xenstore:write("data/two", 1),
    ?assertEqual(2, length(messages(2))),
    receive
        {Other, again} -> ok
    end,
    ok = xenstore:unwatch("data/two"),
    ok = xenstore:write("data/two", 2),
    ?assertEqual([], messages(0)).

transactions() ->
    {ok, Tid} = xenstore:transaction(),
    ?assert(is_integer(Tid)),
    ?assertEqual(ok, xenstore:write("data/t", "1", Tid)),
    ?assertEqual(ok, xenstore:mkdir("data/td", Tid)),
    ?assertEqual({ok, "1"}, xenstore:read("data/t", Tid)),
    ?assertEqual({error, enoent}, xenstore:read("data/t")),
    ?assertEqual(ok, xenstore:commit(Tid)),
    ?assertEqual({ok, "1"}, xenstore:read("data/t")),
    ?assertEqual({error, enoent}, xenstore:commit(Tid)),
    {ok, Tid2} = xenstore:transaction(),
    ?assertEqual(ok, xenstore:delete("data/t", Tid2)),
    ?assertEqual(ok, xenstore:set_perms("data/td", ["b" ++ integer_to_list(xenstore:domid())], Tid2)),
    ?assertEqual(ok, xenstore:rollback(Tid2)),
    ?assertEqual({ok, "1"}, xenstore:read("data/t")),
    {ok, Tid3} = xenstore:transaction(),
    {ok, "1"} = xenstore:read("data/t", Tid3),
    ok = xenstore:write("data/t", "2"),
    ok = xenstore:write("data/t", "3", Tid3),
    ?assertEqual({error, eagain}, xenstore:commit(Tid3)),
    ?assertEqual({ok, "2"}, xenstore:read("data/t")),
    ?assertEqual({error, enoent}, xenstore:write("data/t", "4", 424242)).

waits() ->
    Path = "data/state",
    Self = self(),
    spawn_link(fun() ->
        ok = xenstore:watch(Path),
        Self ! waiting,
        Self ! {waited, xenstore:wait(Path, ?STATE_CONNECTED)}
    end),
    receive
        waiting -> ok
    end,
    ok = xenstore:write(Path, ?STATE_INITIALISING),
    ok = xenstore:delete(Path),
    ok = xenstore:write(Path, ?STATE_INIT_WAIT),
    receive
        {waited, _} -> error(early)
    after 50 -> ok
    end,
    ok = xenstore:write(Path, ?STATE_CONNECTED),
    receive
        {waited, Result} -> ?assertEqual(ok, Result)
    end.

wait_error() ->
    self() ! {watch, "data//bad"},
    ?assertEqual({error, einval}, xenstore:wait("data//bad", "4")).

sizes() ->
    Largest = lists:duplicate(2000, $v),
    ok = xenstore:write("data/large", Largest),
    ?assertEqual({ok, Largest}, xenstore:read("data/large")),
    ?assertEqual({error, e2big}, xenstore:write("data/large", lists:duplicate(5000, $v))),
    ?assertEqual({error, e2big}, xenstore:read(lists:duplicate(5000, $p))),
    ?assertMatch({error, _}, xenstore:read(lists:duplicate(4000, $p))),
    ?assertEqual({ok, Largest}, xenstore:read("data/large")).

%% Requests of many are under way at once; each gets its own answer.
many_callers() ->
    Self = self(),
    Pids = [
        spawn_link(fun() ->
            Path = "data/many/" ++ integer_to_list(N),
            [
                begin
                    Value = lists:duplicate(500, $a + (N + M) rem 26),
                    ok = xenstore:write(Path, Value),
                    {ok, Value} = xenstore:read(Path)
                end
             || M <- lists:seq(1, 20)
            ],
            Self ! {done, self()}
        end)
     || N <- lists:seq(1, 50)
    ],
    [
        receive
            {done, Pid} -> ok
        end
     || Pid <- Pids
    ].

%% Watches and transactions of the dead are ended in the store: there is a limit for each.
callers_die() ->
    [
        begin
            {Pid, Monitor} = spawn_monitor(fun() ->
                ok = xenstore:watch("data/dead"),
                {ok, _} = xenstore:transaction()
            end),
            receive
                {'DOWN', Monitor, process, Pid, Why} -> ?assertEqual(normal, Why)
            end
        end
     || _ <- lists:seq(1, 300)
    ],
    ?assertEqual(ok, xenstore:watch("data/dead")),
    {ok, Tid} = xenstore:transaction(),
    ?assertEqual(ok, xenstore:commit(Tid)).

server_dies_test_() -> {timeout, 60, fun() -> straw_test_host:trapping(fun server_dies/0) end}.

server_dies() ->
    Host = straw_test_host:start(),
    {ok, _} = straw_backend:start_link(#{host => straw_test_host:folder(Host), backend => local}),
    {ok, Server} = xenstore:start_link(),
    Pid = spawn(fun() -> exit({got, xenstore:wait("data/never", "1")}) end),
    straw_test_host:kill(Host),
    receive
        {'EXIT', Server, Why} -> ?assertEqual({shutdown, host_down}, Why)
    end,
    ?assertEqual({error, not_started}, xenstore:read("domid")),
    exit(Pid, kill),
    straw_test_host:stop(Host).
