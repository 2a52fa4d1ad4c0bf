%% A domain on a BEAM with tubes, told what to do by a test: does what tubepeer.py does in Python.
%% One process is the listener, has all tubes by {Peer, Number, WeOpened}, and answers do/1 when what was asked for has happened.
-module(tube_peer).
-export([start/1, stop/0, do/1]).

start(Folder) ->
    ok = application:load(straw),
    Set = [{host, Folder}, {backend, local}, {start_strawman, false}, {tubes, ?MODULE}],
    [application:set_env(straw, Key, Value) || {Key, Value} <- Set],
    Me = self(),
    spawn(fun() ->
        register(?MODULE, self()),
        {ok, _} = application:ensure_all_started(straw),
        Me ! {up, straw_backend:domid()},
        loop(#{tubes => #{}, closed => #{}, waiting => [], up => 0, mine => #{}})
    end),
    receive {up, Domid} -> Domid end.

stop() ->
    ok = application:stop(straw),
    whereis(membrane_tubes).

do(What) ->
    Ref = monitor(process, ?MODULE),
    ?MODULE ! {do, {self(), Ref}, What},
    receive
        {Ref, Answer} -> demonitor(Ref, [flush]), Answer;
        {'DOWN', Ref, _, _, Why} -> exit(Why)
    end.

reply({Pid, Ref}, Answer) -> Pid ! {Ref, Answer}.

loop(S) ->
    receive
        {do, From, What} -> loop(asked(What, From, S));
        {membrane, _, {up, _}} -> loop(again(S#{up := maps:get(up, S) + 1}));
        {membrane, _, {tube, Tube, Info}} -> ok = tube:accept(Tube), loop(again(came(Tube, Info, S)));
        {mine, From, Tube} -> reply(From, #{}), loop(again(came(Tube, tube:info(Tube), S)));
        {tube, Tube, Packet} -> loop(again(packet(Tube, Packet, S)));
        {tube_passive, Tube} -> loop(again(packet(Tube, passive, S)));
        {can_send, Tube, Slots} -> loop(again(packet(Tube, {can_send, Slots}, S)));
        {tube_closed, Tube, Reason} -> loop(again(closed(Tube, Reason, S)))
    end.

came(Tube, #{peer := Peer, number := Number, we_opened := Ours}, #{tubes := Tubes} = S) ->
    S#{tubes := Tubes#{{Peer, Number, Ours} => {Tube, []}}}.

packet(Tube, Packet, #{tubes := Tubes} = S) ->
    S#{tubes := maps:map(
        fun(_, {T, Got}) when T =:= Tube -> {T, Got ++ [Packet]};
           (_, Other) -> Other
        end, Tubes)}.

closed(Tube, Reason, #{tubes := Tubes, closed := Closed} = S) ->
    [Key] = [Key || {Key, {T, _}} <- maps:to_list(Tubes), T =:= Tube],
    S#{closed := Closed#{Key => Reason}}.

again(#{waiting := Waiting} = S) ->
    lists:foldl(fun({From, What}, S1) -> asked(What, From, S1) end, S#{waiting := []}, lists:reverse(Waiting)).

later(What, From, #{waiting := Waiting} = S) -> S#{waiting := [{From, What} | Waiting]}.

tube(Key, #{tubes := Tubes}) -> element(1, maps:get(Key, Tubes)).

%% For whom it takes long. It may be said no.
asked({open, Peer, Number}, From, S) ->
    Me = self(),
    Options = case Number of any -> #{}; _ -> #{number => Number} end,
    spawn(fun() ->
        case tube:open(Peer, Options) of
            {ok, Tube} -> ok = tube:controlling_process(Tube, Me), Me ! {mine, From, Tube};
            {error, Why} -> reply(From, #{error => Why})
        end
    end),
    S;
asked({wait, Key} = What, From, #{tubes := Tubes} = S) ->
    case Tubes of
        #{Key := _} -> reply(From, #{}), S;
        _ -> later(What, From, S)
    end;
%% Count packets of a size: it waits for slots, in a process of its own.
asked({send, Key, Seed, Count}, From, S) ->
    Tube = tube(Key, S),
    spawn(fun() -> reply(From, send(Tube, Seed, Count, 0)) end),
    S;
%% So many that come as messages.
asked({messages, Key, Count}, From, S) ->
    _ = tube:active(tube(Key, S), Count),
    asked({got, Key, Count}, From, S);
asked({got, Key, Count} = What, From, #{tubes := Tubes, closed := Closed} = S) ->
    #{Key := {Tube, Got}} = Tubes,
    case length([Packet || Packet <- Got, is_binary(Packet)]) >= Count of
        true -> reply(From, #{got => Got}), S#{tubes := Tubes#{Key := {Tube, []}}};
        false when is_map_key(Key, Closed) -> reply(From, #{error => maps:get(Key, Closed)}), S;
        false -> later(What, From, S)
    end;
%% So many by recv, by a process that has the tube meanwhile.
asked({recv, Key, Count}, From, S) ->
    {Me, Tube} = {self(), tube(Key, S)},
    Pid = spawn(fun() ->
        receive go -> ok end,
        Got = [tube:recv(Tube) || _ <- lists:seq(1, Count)],
        _ = tube:controlling_process(Tube, Me),
        reply(From, #{got => [case G of {ok, P} -> P; {error, Why} -> Why end || G <- Got]})
    end),
    _ = tube:controlling_process(Tube, Pid),
    Pid ! go,
    S;
asked({fill, Key, Count}, From, S) ->
    Tube = tube(Key, S),
    reply(From, #{sent => [tube:send_nowait(Tube, <<N>>) || N <- lists:seq(1, Count)], slots => tube:can_send(Tube)}),
    S;
asked({can_send, Key, Slots}, From, S) ->
    reply(From, #{now => tube:can_send(tube(Key, S), Slots)}),
    S;
asked({told, Key} = What, From, #{tubes := Tubes} = S) ->
    case maps:get(Key, Tubes) of
        {Tube, [{can_send, Slots}]} -> reply(From, #{slots => Slots}), S#{tubes := Tubes#{Key := {Tube, []}}};
        _ -> later(What, From, S)
    end;
asked({close, Key}, From, S) ->
    Tube = tube(Key, S),
    spawn(fun() -> reply(From, #{closed => tube:close(Tube)}) end),
    S;
asked({ended, Key} = What, From, #{closed := Closed, tubes := Tubes} = S) ->
    case maps:take(Key, Closed) of
        {Reason, Left} ->
            {_, Got} = maps:get(Key, Tubes),
            reply(From, #{reason => Reason, got => Got}),
            S#{closed := Left, tubes := maps:remove(Key, Tubes)};
        error -> later(What, From, S)
    end;
asked({up, Count}, From, #{up := Up} = S) when Up >= Count ->
    reply(From, straw_backend:domid()),
    S;
asked({up, _} = What, From, S) ->
    later(What, From, S);
asked(quiet, From, S) ->
    spawn(fun() -> reply(From, straw_peer:quiet(fun status/0)) end),
    S;
asked(status, From, S) ->
    spawn(fun() -> reply(From, status()) end),
    S.

send(_Tube, _Seed, 0, Sent) -> #{sent => Sent};
send(Tube, Seed, Count, Sent) ->
    {Packet, More} = next(Seed),
    case tube:send(Tube, Packet) of
        ok -> send(Tube, More, Count - 1, Sent + 1);
        {error, Why} -> #{error => Why, sent => Sent}
    end.

%% Of keys only those of tubes: the level above stays until the end.
status() ->
    [erlang:garbage_collect(Pid) || Pid <- processes()],
    {ok, Fds} = file:list_dir("/proc/self/fd"),
    #{keys => keys("data/tip") ++ keys("data/nock"), fds => length(Fds), held => straw_backend:held(),
      pores => map_size(membrane:pores(membrane_tubes)), counts => membrane:counts(membrane_tubes),
      processes => length(processes())}.

keys(Top) ->
    {ok, Peers} = xenstore:list(Top),
    [Top ++ "/" ++ Peer ++ "/" ++ Number || Peer <- Peers, {ok, Numbers} <- [xenstore:list(Top ++ "/" ++ Peer)],
                                            Number <- Numbers].

%% The same as beamkit/tubepeer.py makes.
next(Seed) ->
    X = (1103515245 * Seed + 12345) band 16#7FFFFFFF,
    Size = case (X bsr 8) rem 3 of
               0 -> 1;
               1 -> 4096;
               2 -> (X bsr 12) rem 4096 + 1
           end,
    {binary:part(binary:copy(<<X:32>>, Size div 4 + 1), 0, Size), X}.
