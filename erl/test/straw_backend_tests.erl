%% straw_backend over a real host service: what is handed out, whose it is, and how it goes back.
-module(straw_backend_tests).

-include_lib("eunit/include/eunit.hrl").

all_test_() ->
    {setup, fun straw_test_host:start/0, fun straw_test_host:stop/1, fun(Host) ->
        [
            {atom_to_list(Name), {timeout, 60, fun() -> with_domains(Host, Test) end}}
         || {Name, Test} <- tests()
        ]
    end}.

tests() ->
    [
        {info, fun info/4},
        {grants, fun grants/4},
        {mappings, fun mappings/4},
        {refused, fun refused/4},
        {owner_dies, fun owner_dies/4},
        {owner_dies_with_grant_mapped, fun owner_dies_with_grant_mapped/4},
        {mapper_dies, fun mapper_dies/4},
        {asker_dies_before_the_answer, fun asker_dies_before_the_answer/4},
        {given_away, fun given_away/4},
        {unmap_waits_for_the_pore, fun unmap_waits_for_the_pore/4},
        {events, fun events/4},
        {locks, fun locks/4},
        {wrong_handles, fun wrong_handles/4},
        {many_at_once, fun many_at_once/4}
    ].

with_domains(Host, Test) ->
    {A, DA} = straw_test_host:domain(Host),
    {B, DB} = straw_test_host:domain(Host),
    try
        Test(A, DA, B, DB),
        [?assertEqual(nothing(), settled(Server)) || Server <- [A, B], is_process_alive(Server)]
    after
        [straw_backend:stop(Server) || Server <- [A, B], is_process_alive(Server)]
    end.

nothing() -> #{grants => 0, mappings => 0, channels => 0}.

%% What dies is given back a moment later.
settled(Server) ->
    try straw_test_host:wait_until(fun() -> straw_backend:held(Server) =:= nothing() end) of
        ok -> nothing()
    catch
        error:never -> straw_backend:held(Server)
    end.

info(A, DA, B, DB) ->
    ?assertMatch(#{backend := local, domid := DA, host := _}, straw_backend:info(A)),
    ?assertNotEqual(DA, DB),
    {ok, Domains} = straw_backend:domains(B),
    ?assert(lists:member(DA, Domains) andalso lists:member(DB, Domains)).

grants(A, _DA, _B, DB) ->
    {ok, Grant} = straw_backend:grant(A, DB, 8),
    Refs = straw_backend:grant_refs(Grant),
    ?assertEqual(8, length(lists:usort(Refs))),
    ?assertMatch(#{grants := 1}, straw_backend:held(A)),
    ?assertEqual(ok, straw_backend:end_access(Grant)),
    ?assertEqual(ok, straw_backend:end_access(Grant)),
    {ok, Channel} = straw_backend:alloc_channel(A, DB),
    ?assert(straw_backend:channel_port(Channel) > 0),
    ?assertEqual(ok, straw_backend:close_channel(Channel)),
    ?assertEqual(ok, straw_backend:close_channel(Channel)).

mappings(A, DA, B, DB) ->
    {ok, Grant} = straw_backend:grant(A, DB, 8),
    Refs = straw_backend:grant_refs(Grant),
    {ok, Mapping} = straw_backend:map(B, DA, Refs),
    ok = straw_backend:subscribe(A, self()),
    ?assertEqual({error, busy}, straw_backend:end_access(Grant)),
    ?assertEqual({error, enoent}, straw_backend:map(B, DA, Refs)),
    ?assertEqual(ok, straw_backend:unmap(Mapping)),
    ?assertEqual(ok, straw_backend:unmap(Mapping)),
    receive
        {straw_backend, {unmapped, Unmapped}} -> ?assertEqual(Refs, lists:sort(Unmapped))
    end,
    ?assertEqual(ok, straw_backend:end_access(Grant)).

refused(A, DA, B, DB) ->
    ?assertEqual({error, enoent}, straw_backend:map(B, DA, [1000001, 1000002])),
    ?assertEqual({error, enoent}, straw_backend:bind_channel(B, DA, 4000000)),
    ?assertEqual({error, einval}, straw_backend:grant(A, DB, -1)),
    ?assertEqual({error, einval}, straw_backend:grant(A, not_a_domain, 8)),
    ?assertEqual({error, einval}, straw_backend:map(B, DA, [1 bsl 40])),
    ?assertEqual({error, einval}, straw_backend:map(B, DA, lists:seq(1, 1021))),
    ?assertMatch({error, _}, straw_backend:grant(A, DB, 1 bsl 31)),
    ?assertMatch({error, _}, straw_backend:map(B, DA, [])),
    ?assertMatch({error, _}, straw_backend:grant(A, DA, 1)),
    %% The peer's own refs are not ours, whatever their numbers.
    {ok, Grant} = straw_backend:grant(A, DB, 1),
    ?assertMatch({error, _}, straw_backend:map(A, DB, straw_backend:grant_refs(Grant))),
    ok = straw_backend:end_access(Grant).

in_process(Fun) ->
    Self = self(),
    Pid = spawn(fun() ->
        Self ! {self(), Fun()},
        receive
            stop -> ok
        end
    end),
    receive
        {Pid, Result} -> {Pid, Result}
    end.

owner_dies(A, _DA, _B, DB) ->
    {Pid, _} = in_process(fun() ->
        {ok, G} = straw_backend:grant(A, DB, 8),
        {ok, C} = straw_backend:alloc_channel(A, DB),
        {G, C}
    end),
    ?assertMatch(#{grants := 1, channels := 1}, straw_backend:held(A)),
    exit(Pid, kill),
    ?assertEqual(nothing(), settled(A)).

owner_dies_with_grant_mapped(A, DA, B, DB) ->
    {Pid, Grant} = in_process(fun() ->
        {ok, G} = straw_backend:grant(A, DB, 8),
        G
    end),
    {ok, Mapping} = straw_backend:map(B, DA, straw_backend:grant_refs(Grant)),
    exit(Pid, kill),
    straw_test_host:wait_until(fun() ->
        case straw_backend:map(B, DA, straw_backend:grant_refs(Grant)) of
            {error, enoent} -> true;
            {ok, Another} -> ok =/= straw_backend:unmap(Another)
        end
    end),
    ?assertMatch(#{grants := 1}, straw_backend:held(A)),
    ok = straw_backend:unmap(Mapping),
    ?assertEqual(nothing(), settled(A)).

%% Nobody has unmapped, but nobody is there who could: what is ours goes back when its owner is gone too.
mapper_dies(A, DA, B, DB) ->
    {Pid, Grant} = in_process(fun() ->
        {ok, G} = straw_backend:grant(A, DB, 8),
        G
    end),
    {ok, _} = straw_backend:map(B, DA, straw_backend:grant_refs(Grant)),
    ?assertEqual({error, busy}, straw_backend:end_access(Grant)),
    exit(Pid, kill),
    ok = straw_backend:stop(B),
    ?assertEqual(nothing(), settled(A)).

asker_dies_before_the_answer(A, _DA, _B, DB) ->
    Pids = [
        spawn_monitor(fun() ->
            straw_backend:grant(A, DB, 8),
            straw_backend:alloc_channel(A, DB)
        end)
     || _ <- lists:seq(1, 200)
    ],
    [exit(Pid, kill) || {Pid, _} <- Pids],
    [receive {'DOWN', Monitor, process, _, _} -> ok end || {_, Monitor} <- Pids],
    %% Requests are answered in their order: with this one all of theirs are.
    {ok, Grant} = straw_backend:grant(A, DB, 8),
    ok = straw_backend:end_access(Grant),
    ?assertEqual(nothing(), settled(A)).

given_away(A, _DA, _B, DB) ->
    {Pid, {Grant, Channel}} = in_process(fun() ->
        {ok, G} = straw_backend:grant(A, DB, 8),
        {ok, C} = straw_backend:alloc_channel(A, DB),
        {G, C}
    end),
    ?assertEqual(ok, straw_backend:give_away(Grant, self())),
    ?assertEqual(ok, straw_backend:give_away(Channel, self())),
    exit(Pid, kill),
    _ = straw_backend:domains(A),
    ?assertMatch(#{grants := 1, channels := 1}, straw_backend:held(A)),
    ?assertEqual(ok, straw_backend:end_access(Grant)),
    ?assertEqual({error, gone}, straw_backend:give_away(Grant, self())),
    {Dead, _} = in_process(fun() -> ok end),
    exit(Dead, kill),
    ?assertEqual(ok, straw_backend:give_away(Channel, Dead)),
    ?assertEqual(nothing(), settled(A)).

unmap_waits_for_the_pore(A, DA, B, DB) ->
    {ok, Grant} = straw_backend:grant(A, DB, 8),
    {ok, Ours} = straw_backend:alloc_channel(A, DB),
    {ok, Active} = pore:open_straw(active, Grant, Ours, #{}),
    {ok, Mapping} = straw_backend:map(B, DA, straw_backend:grant_refs(Grant)),
    {ok, Theirs} = straw_backend:bind_channel(B, DA, straw_backend:channel_port(Ours)),
    {ok, Passive} = pore:open_straw(passive, Mapping, Theirs, #{}),
    {Pid, _} = in_process(fun() -> ok end),
    Self = self(),
    spawn_link(fun() -> Self ! {unmapped, straw_backend:unmap(Mapping)} end),
    _ = straw_backend:domains(B),
    ?assertMatch(#{mappings := 1}, straw_backend:held(B)),
    true = pore:close(Passive),
    receive
        {unmapped, Result} -> ?assertEqual(ok, Result)
    end,
    exit(Pid, kill),
    true = pore:close(Active),
    [ok = straw_backend:give_back(Thing) || Thing <- [Grant, Ours, Theirs]].

events(A, DA, B, DB) ->
    ok = straw_backend:subscribe(A, self()),
    ok = straw_backend:subscribe(A, self()),
    {ok, Grant} = straw_backend:grant(B, DA, 1),
    {ok, Mapping} = straw_backend:map(A, DB, straw_backend:grant_refs(Grant)),
    ok = straw_backend:stop(B),
    receive
        {straw_backend, {domain_gone, Gone}} -> ?assertEqual(DB, Gone)
    end,
    ok = straw_backend:unmap(Mapping),
    ?assertEqual({error, host_down}, straw_backend:domains(B)),
    ?assertEqual(ok, straw_backend:end_access(Grant)).

locks(A, _DA, _B, _DB) ->
    {Pid, ok} = in_process(fun() -> straw_backend:take_lock(A, straw) end),
    ?assertEqual({error, taken}, straw_backend:take_lock(A, straw)),
    ?assertEqual(ok, straw_backend:take_lock(A, tube)),
    exit(Pid, kill),
    straw_test_host:wait_until(fun() -> straw_backend:take_lock(A, straw) =:= ok end).

wrong_handles(A, _DA, _B, DB) ->
    {ok, Grant} = straw_backend:grant(A, DB, 8),
    {ok, Channel} = straw_backend:alloc_channel(A, DB),
    ?assertError(_, straw_backend:unmap(Grant)),
    ?assertError(_, straw_backend:end_access(Channel)),
    ?assertError(_, straw_backend:close_channel(nothing)),
    ?assertError(badarg, pore_nif:close_fd(make_ref())),
    ok = straw_backend:end_access(Grant),
    ?assertEqual({error, ebadf}, pore:open_straw(active, Grant, Channel, #{})),
    ok = straw_backend:close_channel(Channel).

many_at_once(A, DA, B, DB) ->
    Self = self(),
    Pids = [
        spawn_link(fun() ->
            {ok, G} = straw_backend:grant(A, DB, 8),
            {ok, M} = straw_backend:map(B, DA, straw_backend:grant_refs(G)),
            ok = straw_backend:unmap(M),
            ok = straw_backend:end_access(G),
            Self ! {done, self()}
        end)
     || _ <- lists:seq(1, 60)
    ],
    [
        receive
            {done, Pid} -> ok
        end
     || Pid <- Pids
    ].

%% ---- the host's end ----

host_dies_test_() -> {timeout, 60, fun() -> straw_test_host:trapping(fun host_dies/0) end}.

host_dies() ->
    Host = straw_test_host:start(),
    {A, DA} = straw_test_host:domain(Host),
    {B, DB} = straw_test_host:domain(Host),
    ok = straw_backend:subscribe(A, self()),
    {ok, Grant} = straw_backend:grant(A, DB, 8),
    {ok, Ours} = straw_backend:alloc_channel(A, DB),
    {ok, Active} = pore:open_straw(active, Grant, Ours, #{}),
    {ok, Mapping} = straw_backend:map(B, DA, straw_backend:grant_refs(Grant)),
    {ok, Theirs} = straw_backend:bind_channel(B, DA, straw_backend:channel_port(Ours)),
    {ok, Passive} = pore:open_straw(passive, Mapping, Theirs, #{}),
    straw_test_host:kill(Host),
    receive
        {straw_backend, {down, _}} -> ok
    end,
    [
        receive
            {'EXIT', Server, Why} -> ?assertEqual({shutdown, host_down}, Why)
        end
     || Server <- [A, B]
    ],
    ?assertEqual({error, host_down}, pore:avail(Active)),
    ?assertMatch({error, Reason} when Reason =:= host_down; Reason =:= peer_gone, pore:avail(Passive)),
    ?assertEqual({error, host_down}, straw_backend:grant(A, DB, 8)),
    ?assertEqual(ok, straw_backend:end_access(Grant)),
    true = pore:close(Active),
    true = pore:close(Passive),
    straw_test_host:stop(Host).

no_host_test() -> straw_test_host:trapping(fun no_host/0).

no_host() ->
    Folder = string:trim(os:cmd("mktemp -d /tmp/strawXXXXXX")),
    Start = fun(Where) -> straw_backend:start_link(anonymous, #{host => Where, backend => local}) end,
    ?assertEqual({error, {shutdown, {no_host, Folder, enoent}}}, Start(Folder)),
    ok = file:change_mode(Folder, 8#755),
    ?assertEqual({error, {shutdown, {no_host, Folder, eperm}}}, Start(Folder)),
    ?assertMatch({error, {shutdown, {no_host, _, enoent}}}, Start(Folder ++ "/none")),
    ?assertMatch({error, {shutdown, {no_host, _, enametoolong}}}, begin
        Long = filename:join(Folder, lists:duplicate(120, $x)),
        ok = file:make_dir(Long),
        ok = file:change_mode(Long, 8#700),
        Start(Long)
    end),
    _ = os:cmd("rm -rf " ++ Folder).

folder_test() ->
    Names = ["STRAWBRIDGE_HOST", "XDG_RUNTIME_DIR"],
    Before = [{Name, os:getenv(Name)} || Name <- Names],
    [os:unsetenv(Name) || Name <- Names],
    Uid = string:trim(os:cmd("id -u")),
    ?assert(lists:member(straw_local:default_folder(), ["/run/strawbridge-" ++ Uid, "/tmp/strawbridge-" ++ Uid])),
    os:putenv("XDG_RUNTIME_DIR", "/run/user/1"),
    ?assertEqual("/run/user/1/strawbridge", straw_local:default_folder()),
    os:putenv("STRAWBRIDGE_HOST", "/somewhere"),
    ?assertEqual("/somewhere", straw_local:default_folder()),
    [
        case Value of
            false -> os:unsetenv(Name);
            _ -> os:putenv(Name, Value)
        end
     || {Name, Value} <- Before
    ].

domid_taken_test_() -> {timeout, 60, fun() -> straw_test_host:trapping(fun domid_taken/0) end}.

domid_taken() ->
    Host = straw_test_host:start(),
    {A, DA} = straw_test_host:domain(Host),
    Options = #{host => straw_test_host:folder(Host), backend => local},
    ?assertEqual({error, {shutdown, {refused, ebusy}}}, straw_backend:start_link(anonymous, Options#{domid => DA})),
    {ok, B} = straw_backend:start_link(anonymous, Options#{domid => 77}),
    ?assertEqual(77, straw_backend:domid(B)),
    [straw_backend:stop(Server) || Server <- [A, B]],
    straw_test_host:stop(Host).
