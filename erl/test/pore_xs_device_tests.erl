%% The store behind a device that takes one request at a time (fake_xenbus.py says how particular it is).
-module(pore_xs_device_tests).

-include_lib("eunit/include/eunit.hrl").
-include("xenstore.hrl").

all_test_() ->
    {setup, fun start/0, fun stop/1, fun({_, Server}) ->
        [
            {"one after the other", {timeout, 60, fun() -> sizes(Server) end}},
            {"many at once", {timeout, 60, fun() -> many(Server) end}},
            {"the device hangs up", {timeout, 60, fun() -> straw_test_host:trapping(fun hangs_up/0) end}}
        ]
    end}.

start() ->
    {Port, Path} = straw_test_host:device(),
    {ok, Server} = xenstore_server:start_link(anonymous, {path, Path}),
    {Port, Server}.

stop({Port, Server}) ->
    gen_server:stop(Server),
    catch port_close(Port).

read(Server, Path) -> xenstore_server:call(Server, ?XS_READ, [Path], 0).

%% Also requests and answers larger than the 1024 bytes that are moved at a time.
sizes(Server) ->
    [
        begin
            Path = lists:duplicate(Size, $p),
            ?assertEqual({ok, Path}, read(Server, Path))
        end
     || Size <- [1, 15, 16, 17, 100, 1007, 1008, 1009, 2000, 4000]
    ].

many(Server) ->
    Self = self(),
    Pids = [
        spawn_link(fun() ->
            [
                begin
                    Path = integer_to_list(N) ++ lists:duplicate(N * M, $x),
                    ?assertEqual({ok, Path}, read(Server, Path))
                end
             || M <- lists:seq(1, 10)
            ],
            Self ! {done, self()}
        end)
     || N <- lists:seq(1, 20)
    ],
    [
        receive
            {done, Pid} -> ok
        end
     || Pid <- Pids
    ].

hangs_up() ->
    {Port, Path} = straw_test_host:device(),
    {ok, Server} = xenstore_server:start_link(anonymous, {path, Path}),
    ?assertEqual({ok, "x"}, read(Server, "x")),
    port_close(Port),
    receive
        {'EXIT', Server, Why} -> ?assertEqual({shutdown, host_down}, Why)
    end,
    ?assertEqual({error, not_started}, read(Server, "x")),
    ?assertMatch({error, _}, xenstore_server:start_link(anonymous, {path, <<"/dev/none">>})).
