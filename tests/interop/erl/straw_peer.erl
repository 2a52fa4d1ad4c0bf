%% A domain on a BEAM, without strawman: does what a test says with bare straws, as membranekit/child.py does in Python.
%% One process owns all straws and is the membrane's controller; it answers do/1 when what was asked for has happened.
-module(straw_peer).
-export([start/3, stop/0, do/1]).
%% For tube_peer.
-export([quiet/1]).

start(Folder, Domid, RingBytes) ->
    ok = application:load(straw),
    Set = [{host, Folder}, {domid, Domid}, {backend, local}, {start_strawman, false}, {controller, ?MODULE},
           {ring_bytes, RingBytes}],
    [application:set_env(straw, Key, Value) || {Key, Value} <- Set],
    Me = self(),
    Pid = spawn(fun() -> register(?MODULE, self()), Me ! ready, loop(#{straws => #{}, closed => [], waiting => [],
                                                                       got => #{}, up => []}) end),
    receive ready -> ok end,
    {ok, _} = application:ensure_all_started(straw),
    Pid ! go,
    straw_backend:domid().

stop() ->
    Before = {straw_backend:held(), membrane:straws()},
    ok = application:stop(straw),
    Before.

do(What) ->
    Ref = monitor(process, ?MODULE),
    ?MODULE ! {do, {self(), Ref}, What},
    receive {Ref, Answer} -> Answer; {'DOWN', Ref, _, _, Why} -> exit(Why) end.

reply({Pid, Ref}, Answer) -> Pid ! {Ref, Answer}.

loop(S) ->
    receive
        {do, From, What} -> loop(asked(What, From, S));
        {membrane, _, {up, Domid}} -> loop(again(S#{up := [Domid | maps:get(up, S)]}));
        {membrane, _, {straw, Straw, #{peer := Peer}}} -> loop(again(came(Peer, Straw, S)));
        {opened, From, Peer, {ok, Straw, _}} -> reply(From, #{}), loop(again(came(Peer, Straw, S)));
        {opened, From, _, {error, Why}} -> reply(From, #{error => Why}), loop(S);
        {straw, Straw, Frame} -> loop(again(got(Straw, Frame, S)));
        {straw_passive, _} -> loop(S);
        {straw_truncated, Straw} -> loop(S#{{truncated, Straw} => true});
        {straw_closed, Straw, Reason} -> loop(again(closed(Straw, Reason, S)));
        _ -> loop(S)
    end.

came(Peer, Straw, #{straws := Straws} = S) ->
    ok = straw:take(Straw, owner, self()),
    S#{straws := Straws#{Peer => Straw}}.

closed(Straw, Reason, #{straws := Straws, closed := Closed} = S) ->
    Peers = [Peer || {Peer, Found} <- maps:to_list(Straws), Found =:= Straw],
    Truncated = maps:get({truncated, Straw}, S, false),
    S#{closed := [{Peer, Reason, Truncated} || Peer <- Peers] ++ Closed}.

%% Frames are compared with those that the other side makes of the same seed.
got(Straw, Frame, #{got := Got} = S) ->
    case Got of
        #{Straw := {{_, Left, _} = Wanted, Count, Bytes, Sum}} when Left > 0 ->
            case next(Wanted) of
                {Frame, More} ->
                    Done = {More, Count + 1, Bytes + byte_size(Frame), erlang:crc32(Sum, Frame)},
                    S#{got := Got#{Straw := Done}};
                _ ->
                    S#{got := Got#{Straw := {differs, Count}}}
            end;
        _ ->
            S#{{extra, Straw} => Frame}
    end.

%% What was asked for may have happened now.
again(#{waiting := Waiting} = S) ->
    lists:foldl(fun({From, What}, S1) -> asked(What, From, S1) end, S#{waiting := []}, lists:reverse(Waiting)).

later(What, From, #{waiting := Waiting} = S) -> S#{waiting := [{From, What} | Waiting]}.

asked({open, Peer}, From, S) ->
    Me = self(),
    %% As straw:open/1, with this process as the owner.
    spawn(fun() -> Me ! {opened, From, Peer, membrane:open(Peer, #{})} end),
    S;
asked({wait, Peer} = What, From, #{straws := Straws} = S) ->
    case Straws of
        #{Peer := _} -> reply(From, #{}), S;
        _ -> later(What, From, S)
    end;
asked({send, Peer, Seed, Count, Limit}, From, #{straws := Straws} = S) ->
    #{Peer := Straw} = Straws,
    spawn(fun() -> reply(From, send({Seed, Count, Limit}, Straw, 0, 0, 0)) end),
    S;
asked({'receive', Peer, Seed, Count, Limit}, From, #{straws := Straws, got := Got} = S) ->
    #{Peer := Straw} = Straws,
    _ = straw:active(Straw, Count),
    again(later({received, Peer, Straw}, From, S#{got := Got#{Straw => {{Seed, Count, Limit}, 0, 0, 0}}}));
asked({received, Peer, Straw} = What, From, #{got := Got, closed := Closed} = S) ->
    case Got of
        #{Straw := {{_, 0, _}, Count, Bytes, Sum}} ->
            reply(From, #{bytes => Bytes, sum => Sum, count => Count}),
            S#{got := maps:remove(Straw, Got)};
        #{Straw := {differs, Count}} ->
            reply(From, #{error => {differs, Count}}),
            S;
        #{Straw := {_, Count, _, _}} ->
            case lists:keyfind(Peer, 1, Closed) of
                {_, Reason, _} -> reply(From, #{error => Reason, count => Count}), S#{got := maps:remove(Straw, Got)};
                false -> later(What, From, S)
            end
    end;
asked({active, Peer, Active}, From, #{straws := Straws} = S) ->
    reply(From, straw:active(maps:get(Peer, Straws), Active)),
    S;
asked({straw, Peer}, From, #{straws := Straws} = S) ->
    reply(From, maps:get(Peer, Straws)),
    S;
asked({close, Peer}, From, #{straws := Straws} = S) ->
    #{Peer := Straw} = Straws,
    spawn(fun() -> reply(From, #{closed => straw:close(Straw)}) end),
    S;
asked({forget, Peer}, From, #{straws := Straws} = S) ->
    reply(From, #{}),
    S#{straws := maps:remove(Peer, Straws)};
asked({ended, Peer} = What, From, #{closed := Closed, straws := Straws} = S) ->
    case lists:keytake(Peer, 1, Closed) of
        {value, {_, Reason, Truncated}, Left} ->
            reply(From, #{reason => Reason, truncated => Truncated}),
            S#{closed := Left, straws := maps:remove(Peer, Straws)};
        false -> later(What, From, S)
    end;
asked({up, Count} = What, From, #{up := Up} = S) when length(Up) < Count ->
    later(What, From, S);
asked({up, _}, From, #{up := [Domid | _]} = S) ->
    reply(From, Domid),
    S;
asked(quiet, From, S) ->
    spawn(fun() -> reply(From, quiet(fun status/0)) end),
    S;
asked(status, From, S) ->
    spawn(fun() -> reply(From, status()) end),
    S.

send({_, 0, _}, _Straw, Bytes, Sum, Count) ->
    #{bytes => Bytes, sum => Sum, count => Count};
send(Frames, Straw, Bytes, Sum, Count) ->
    {Frame, More} = next(Frames),
    case straw:send(Straw, Frame) of
        ok -> send(More, Straw, Bytes + byte_size(Frame), erlang:crc32(Sum, Frame), Count + 1);
        {error, Why} -> #{error => Why, bytes => Bytes}
    end.

%% The status when no pore is left.
quiet(Look) ->
    case Look() of
        #{pores := 0} = Status -> Status;
        _ -> timer:sleep(5), quiet(Look)
    end.

status() ->
    [erlang:garbage_collect(Pid) || Pid <- processes()],
    {ok, Maps} = read_all("/proc/self/maps"),
    {ok, Fds} = file:list_dir("/proc/self/fd"),
    {ok, Active} = xenstore:list("data/straw"),
    {ok, Passive} = xenstore:list("data/warts"),
    #{keys => Active ++ Passive, fds => length(Fds), held => straw_backend:held(),
      pores => map_size(membrane:pores()), mapped => length(binary:matches(Maps, <<"memfd:strawbridge">>))}.

read_all(Name) ->
    {ok, File} = file:open(Name, [read, raw, binary]),
    Read = fun Read(Done) ->
                   case file:read(File, 65536) of
                       {ok, More} -> Read([Done, More]);
                       eof -> iolist_to_binary(Done)
                   end
           end,
    Text = Read([]),
    ok = file:close(File),
    {ok, Text}.

%% The same as beamkit/strawpeer.py makes.
next({Seed, Left, Limit}) ->
    X = (1103515245 * Seed + 12345) band 16#7FFFFFFF,
    Size = case (X bsr 8) rem 5 of
               0 -> 0;
               1 -> 1;
               2 -> (X bsr 12) rem 100;
               3 -> (X bsr 12) rem 5000;
               4 -> (X bsr 4) rem Limit
           end,
    {binary:part(binary:copy(<<X:32>>, Size div 4 + 1), 0, Size), {X, Left - 1, Limit}}.
