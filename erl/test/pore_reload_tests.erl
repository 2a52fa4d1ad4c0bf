%% The libraries loaded anew, as by l(pore_nif) or a release upgrade, while pores are open and busy: the same file, and a copy,
%% which the dynamic loader takes for another library.
-module(pore_reload_tests).

-include_lib("eunit/include/eunit.hrl").

-define(RELOADS, 6).

all_test_() ->
    {setup, fun straw_test_host:start/0, fun straw_test_host:stop/1, fun(Host) ->
        [
            {"pores", {timeout, 120, fun() -> straw_test_host:trapping(fun() -> pores(Host) end) end}},
            {"codec", {timeout, 60, fun codec/0}}
        ]
    end}.

pores(Host) ->
    {A, DA} = straw_test_host:domain(Host),
    {B, DB} = straw_test_host:domain(Host),
    [garbage_collect(Pid) || Pid <- processes()],
    Before = pore:held(),
    % what a process has had of pores goes with it
    straw_test_host:trapping(fun() -> reloaded({A, DA}, {B, DB}) end),
    Nothing = #{grants => 0, mappings => 0, channels => 0},
    straw_test_host:wait_until(fun() ->
        [garbage_collect(Pid) || Pid <- processes()],
        [straw_backend:held(A), straw_backend:held(B), pore:held()] =:= [Nothing, Nothing, Before]
    end),
    [straw_backend:stop(Server) || Server <- [A, B]],
    ok.

reloaded({A, DA}, {B, DB}) ->
    {Ping, Echo} = straw({A, DA}, {B, DB}),
    {ok, Acceptor} = pore_tube:accept(A, DB),
    {Page, Tx, Rx} = pore_tube:info(Acceptor),
    {ok, Opener} = pore_tube:open(B, DA, Page, Tx, Rx),
    Xs = pore_xs:open(A),
    lists:foreach(
        fun(Folder) ->
            Count = count(Ping),
            loaded(pore_nif, Folder),
            % those that were busy meanwhile go on
            straw_test_host:wait_until(fun() -> count(Ping) > Count + 20 end),
            % what was idle
            ok = pore_tube:send(Opener, <<"packet">>),
            straw_test_host:wait_until(fun() -> pore_tube:recv(Acceptor) =:= {ok, <<"packet">>} end),
            ok = pore_xs:write(Xs, <<2:32/little, 7:32/little, 0:32/little, 6:32/little, "domid", 0>>),
            straw_test_host:wait_until(fun() ->
                case pore_xs:avail(Xs) of
                    {_, In} when In > 16 -> <<2:32/little, 7:32/little, _/binary>> = pore_xs:read(Xs), true;
                    _ -> false
                end
            end),
            % what is made now, and what dies now: the types' destructors are the new library's
            {P, Q} = straw({B, DB}, {A, DA}),
            straw_test_host:wait_until(fun() -> count(P) > 20 end),
            [exit(Pid, kill) || Pid <- [P, Q]]
        end,
        folders()
    ),
    [exit(Pid, kill) || Pid <- [Ping, Echo]],
    [true = pore:close(Pore) || Pore <- [Acceptor, Opener, Xs]],
    ok.

%% Messages of both dialects are made all the time.
codec() ->
    Self = self(),
    {Pid, Monitor} = spawn_monitor(fun() -> crossing(Self, 0) end),
    [
        begin
            loaded(straw_codec, Folder),
            [receive crossed -> ok end || _ <- lists:seq(1, 50)]
        end
     || Folder <- folders()
    ],
    exit(Pid, kill),
    receive
        {'DOWN', Monitor, process, Pid, Why} -> ?assertEqual(killed, Why)
    end.

%% Large ones go to a dirty scheduler.
crossing(To, N) ->
    Message = {N, self(), make_ref(), lists:seq(1, 100), [{K, <<"x">>} || K <- lists:seq(1, 9000), N rem 10 =:= 0]},
    Bytes = term_to_binary({envelope, buddy, Message}),
    [{ok, false, [_ | _]} = straw_codec:transcode(Bytes, Way) || Way <- [to_otp, to_ling]],
    To ! crossed,
    crossing(To, N + 1).

%% The same file and copies, in turn. Each ends as it began.
folders() ->
    Home = folder(),
    Copies = [copied(Home, N) || N <- lists:seq(1, ?RELOADS div 2)],
    lists:append([[Home, Copy] || Copy <- Copies]) ++ [Home].

folder() ->
    case application:get_env(straw, nif_folder) of
        {ok, Folder} -> Folder;
        undefined -> filename:join(filename:dirname(filename:dirname(code:which(pore_nif))), "priv")
    end.

copied(Home, N) ->
    Folder = filename:join(Home, "copy-" ++ os:getpid() ++ "-" ++ integer_to_list(N)),
    [{ok, _} = {filelib:ensure_dir(filename:join(Folder, Name)), copy(Home, Folder, Name)} || Name <- libraries()],
    Folder.

copy(Home, Folder, Name) ->
    {ok, _} = file:copy(filename:join(Home, Name), filename:join(Folder, Name)),
    ok.

libraries() -> ["pore_nif.so", "straw_codec.so"].

%% As l(Module) does; but whoever is in the middle of an old function may finish it.
loaded(Module, Folder) ->
    Set = application:get_env(straw, nif_folder),
    application:set_env(straw, nif_folder, Folder),
    ?assertEqual({module, Module}, code:load_file(Module)),
    straw_test_host:wait_until(fun() -> code:soft_purge(Module) end),
    case Set of
        {ok, Before} -> application:set_env(straw, nif_folder, Before);
        undefined -> application:unset_env(straw, nif_folder)
    end,
    _ = [file:del_dir_r(Folder) || string:find(Folder, "copy-") =/= nomatch],
    ok.

%% ── a straw whose both ends are busy ──

%% The processes that have them: one sends frames, the other sends them back.
straw({A, DA}, {B, DB}) ->
    Self = self(),
    Options = #{ring_bytes => 4096, suppress => true, give_back => true},
    Ping = spawn(fun() ->
        {ok, Grant} = straw_backend:grant(A, DB, 3),
        {ok, Channel} = straw_backend:alloc_channel(A, DB),
        {ok, Pore} = pore:open_straw(active, Grant, Channel, Options),
        Self ! {offer, straw_backend:grant_refs(Grant), straw_backend:channel_port(Channel)},
        put(count, 0),
        _ = pore:avail(Pore),
        ping(Pore, 0)
    end),
    {Refs, Port} =
        receive
            {offer, Refs0, Port0} -> {Refs0, Port0}
        end,
    Echo = spawn(fun() ->
        {ok, Mapping} = straw_backend:map(B, DA, Refs),
        {ok, Channel} = straw_backend:bind_channel(B, DA, Port),
        {ok, Pore} = pore:open_straw(passive, Mapping, Channel, Options),
        _ = pore:avail(Pore),
        echo(Pore)
    end),
    {Ping, Echo}.

ping(Pore, N) ->
    {ok, 1} = pore:write_frames(Pore, [<<N:64>>]),
    <<N:64>> = came(Pore),
    put(count, N + 1),
    ping(Pore, N + 1).

echo(Pore) ->
    {ok, 1} = pore:write_frames(Pore, [came(Pore)]),
    echo(Pore).

came(Pore) ->
    case pore:read_frames(Pore, 4096) of
        {ok, [Frame]} ->
            Frame;
        {ok, []} ->
            receive
                {irq, Pore} -> ok
            end,
            _ = pore:avail(Pore),
            came(Pore)
    end.

count(Ping) ->
    {dictionary, Words} = process_info(Ping, dictionary),
    proplists:get_value(count, Words, 0).
