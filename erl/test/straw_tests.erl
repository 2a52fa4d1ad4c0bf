%% One open straw, both ends in this BEAM: this process plays the membrane of both.
-module(straw_tests).

-include_lib("eunit/include/eunit.hrl").
-include("../src/membrane.hrl").

-define(HOST, straw_test_host).

%% As a straw's module.
-export([init/2, frames/2, message/3, call/4, oversized/2, closed/3]).

%% ── with a host ──

straws_test_() ->
    {setup, fun ?HOST:start/0, fun ?HOST:stop/1, fun(Host) ->
        [
            {atom_to_list(Name), {timeout, 30, fun() -> with(Host, Ring, Test) end}}
         || Ring <- [0, 4096, 1 bsl 18],
            {Name, Test} <- [
                {sizes, fun sizes/2},
                {credit, fun credit/2},
                {passive, fun passive/2},
                {busy, fun busy/2},
                {truncated, fun truncated/2},
                {owner, fun owner/2},
                {handler, fun handler/2},
                {killed, fun killed/2},
                {closing, fun closing/2},
                {system, fun system/2},
                {order, fun order/2},
                {bounded, fun bounded/2}
            ]
        ]
    end}.

with(Host, Ring, Test) ->
    {A, DomA} = ?HOST:domain(Host),
    {B, DomB} = ?HOST:domain(Host),
    Terms = #terms{dialect = otp, ring_bytes = Ring, suppress = Ring > 0},
    {ok, Grant} = straw_backend:grant(A, DomB, membrane_straw:pages(Terms)),
    {ok, Out} = straw_backend:alloc_channel(A, DomB),
    {ok, One} = straw:start(options({active, DomB}, Terms, Grant, Out)),
    {ok, Mapping} = straw_backend:map(B, DomA, straw_backend:grant_refs(Grant)),
    {ok, In} = straw_backend:bind_channel(B, DomA, straw_backend:channel_port(Out)),
    {ok, Other} = straw:start(options({passive, DomA}, Terms, Mapping, In)),
    try
        Test(One, Other)
    after
        [exit(Straw, kill) || Straw <- [One, Other]],
        [straw_backend:stop(Backend) || Backend <- [A, B]],
        flush()
    end.

options(Key, Terms, Memory, Channel) ->
    #{membrane => self(), key => Key, terms => Terms, memory => Memory, channel => Channel}.

flush() ->
    receive
        _ -> flush()
    after 0 -> ok
    end.

mine(Straw, Active) ->
    ok = straw:take(Straw, owner, self()),
    ok = straw:active(Straw, Active).

next(Straw) ->
    receive
        {straw, Straw, Frame} -> Frame;
        {Word, Straw} -> Word;
        {Word, Straw, Reason} -> {Word, Reason}
    after 20000 -> nothing
    end.

%% What the membrane would be told.
told() ->
    receive
        {'$gen_cast', Cast} -> Cast
    after 20000 -> nothing
    end.

%% All sizes, both ways, in order, those beyond the ring in pieces.
sizes(One, Other) ->
    mine(One, true),
    mine(Other, true),
    Frames = [binary:copy(<<N>>, Size) || {N, Size} <- [{1, 0}, {2, 1}, {3, 4092}, {4, 16372}, {5, 262140}, {6, 1000000}, {7, 5}]],
    Send = fun(Straw) -> spawn_link(fun() -> [ok = straw:send(Straw, [F]) || F <- Frames] end) end,
    Send(One),
    Send(Other),
    [?assertEqual(F, next(Straw)) || F <- Frames, Straw <- [One, Other]],
    ?assertMatch(#{unsent := 0, frames_in := 7, frames_out := 7}, straw:info(One)).

%% So many as were asked for, then a word; what is in the ring stays there.
credit(One, Other) ->
    mine(Other, 2),
    [ok = straw:send(One, <<N>>) || N <- lists:seq(1, 6)],
    ?assertEqual([<<1>>, <<2>>, straw_passive], [next(Other) || _ <- [1, 2, 3]]),
    ok = straw:active(Other, 1),
    ok = straw:active(Other, 1),
    ?assertEqual([<<3>>, straw_passive, <<4>>, straw_passive], [next(Other) || _ <- lists:seq(1, 4)]),
    ok = straw:active(Other, true),
    ?assertEqual([<<5>>, <<6>>], [next(Other) || _ <- [1, 2]]),
    ok = straw:active(Other, false),
    ok = straw:send(One, <<7>>),
    ok = straw:active(Other, 5),
    ok = straw:active(Other, -3),
    ?assertEqual(<<7>>, next(Other)),
    [ok = straw:send(One, <<N>>) || N <- [8, 9]],
    ?assertEqual([<<8>>, straw_passive], [next(Other) || _ <- [1, 2]]),
    receive
        {straw, Other, _} -> error(too_many)
    after 50 -> ok
    end.

%% Nobody reads: the ring is full, the sender waits, and everything comes when somebody reads.
passive(One, Other) ->
    Frame = binary:copy(<<"x">>, 1 bsl 20),
    [?assertEqual(ok, straw:send_nowait(One, Frame)) || _ <- lists:seq(1, 16)],
    mine(Other, true),
    [?assertEqual(Frame, next(Other)) || _ <- lists:seq(1, 16)].

%% What is unsent is bounded; send/2 waits then. Reading goes on.
busy(One, Other) ->
    Frame = binary:copy(<<"x">>, 1 bsl 20),
    Fill = fun Fill(N) ->
        case straw:send_nowait(One, Frame) of
            ok -> Fill(N + 1);
            {error, straw_busy} -> N
        end
    end,
    N = Fill(0),
    ?assert(N >= 16 andalso N =< 18),
    Me = self(),
    Waiting = spawn_link(fun() -> Me ! {sent, straw:send(One, <<"after">>)} end),
    mine(One, true),
    ok = straw:send(Other, <<"back">>),
    ?assertEqual(<<"back">>, next(One)),
    ?assert(is_process_alive(Waiting)),
    ok = straw:take(Other, owner, self()),
    ok = straw:active(Other, true),
    [?assertEqual(Frame, next(Other)) || _ <- lists:seq(1, N)],
    ?assertEqual(<<"after">>, next(Other)),
    receive
        {sent, ok} -> ok
    end.

%% Every whole frame comes, whether asked for or not, then the end of a half one, then the end.
truncated(One, Other) ->
    mine(Other, false),
    [ok = straw:send(One, <<N>>) || N <- [1, 2]],
    ok = straw:send_nowait(One, binary:copy(<<"x">>, 1 bsl 20)),
    exit(One, kill),
    ok = straw:active(Other, true),
    ?assertEqual([<<1>>, <<2>>], [next(Other), next(Other)]),
    Key = {passive, maps:get(peer, straw:info(Other))},
    ?assertEqual({straw_ended, Key, Other, peer_gone}, told()),
    Me = self(),
    Waiting = spawn_link(fun() -> Me ! {sent, straw:send(Other, <<"x">>)} end),
    ?HOST:wait_until(fun() -> process_info(Waiting, status) =:= {status, waiting} end),
    ?assertEqual({error, peer_gone}, straw:send_nowait(Other, <<"x">>)),
    ok = straw:last_look(Other),
    ?assertEqual({error, peer_gone}, straw:send_nowait(Other, <<"x">>)),
    Monitor = monitor(process, Other),
    straw:finished(Other, host_down),
    ?assertEqual([straw_truncated, {straw_closed, host_down}], [next(Other), next(Other)]),
    receive
        {'DOWN', Monitor, process, Other, Why} -> ?assertEqual(host_down, Why)
    end,
    receive
        {sent, Sent} -> ?assertEqual({error, host_down}, Sent)
    end,
    ?assertEqual({error, closed}, straw:send(Other, <<"x">>)).

%% What was left comes before the end, and not asked for.
closing(One, Other) ->
    mine(One, false),
    mine(Other, false),
    ok = straw:send(One, <<"last">>),
    gen_server:cast(One, {close, enough}),
    ?assertMatch({close, {active, _}, One, enough}, told()),
    ok = straw:last_look(One),
    ok = straw:last_look(Other),
    ?assertEqual(<<"last">>, next(Other)),
    straw:finished(One, enough),
    straw:finished(Other, peer_closed),
    ?assertEqual({straw_closed, enough}, next(One)),
    ?assertEqual({straw_closed, peer_closed}, next(Other)).

%% A straw goes with its owner; it can be handed on by the owner only.
owner(One, Other) ->
    mine(Other, true),
    Me = self(),
    First = spawn(fun() ->
        receive
            {give, To} -> Me ! straw:controlling_process(One, To)
        end
    end),
    Second = spawn(fun() -> receive stop -> ok end end),
    ok = straw:take(One, owner, First),
    ?assertEqual({error, not_owner}, straw:controlling_process(One, self())),
    First ! {give, Second},
    receive
        Answer -> ?assertEqual(ok, Answer)
    end,
    ok = straw:send(One, <<"still">>),
    ?assertEqual(<<"still">>, next(Other)),
    Second ! stop,
    ?assertMatch({close, {active, _}, One, closed}, told()).

%% Killed, the other side hears of it.
killed(One, Other) ->
    mine(Other, true),
    exit(One, kill),
    ?assertMatch({straw_ended, {passive, _}, Other, peer_gone}, told()).

%% It answers sys as a gen_server does.
system(One, Other) ->
    mine(Other, true),
    ok = sys:suspend(One),
    One ! {irq, nobody},
    Self = self(),
    Sender = spawn_link(fun() -> Self ! {sent, straw:send(One, <<"later">>)} end),
    ?assertMatch({status, One, {module, straw}, [_, suspended | _]}, sys:get_status(One)),
    ok = sys:resume(One),
    receive {sent, ok} -> unlink(Sender) end,
    ?assertEqual(<<"later">>, next(Other)),
    State = sys:get_state(One),
    ?assertEqual(State, sys:replace_state(One, fun(S) -> S end)).

%% ── with strawman's module at both ends ──

%% What a proxy is sent arrives in its order, whichever way each message takes: all in it known or not, small or not.
order(One, Other) ->
    with_envelopes(One, Other, fun(Proxy) ->
        deliver(Other, One),
        _ = spawn_link(fun() -> [Proxy ! {N, item(N)} || N <- lists:seq(1, 3000)] end),
        ?assertEqual(lists:seq(1, 3000), numbers(3000))
    end).

%% Of so many messages. What else a straw says ({straw_busy, Domid}) has none.
numbers(Count) -> [receive {N, _} when is_integer(N) -> N after 10000 -> nothing end || _ <- lists:seq(1, Count)].

item(N) ->
    case N rem 7 of
        0 -> spawn(fun() -> ok end);
        1 -> self();
        2 -> make_ref();
        3 -> [alias | make_ref()];
        4 -> binary:copy(<<N>>, N);
        5 -> lists:duplicate(N, N);
        6 -> {small, N}
    end.

%% Nobody reads: 16 MiB and no more are kept, who opened it is told, what was counted as sent arrives.
bounded(One, Other) ->
    with_envelopes(One, Other, fun(Proxy) ->
        Bytes = binary:copy(<<"x">>, 1 bsl 16),
        [Proxy ! {N, Bytes} || N <- lists:seq(1, 400)],
        receive {straw_busy, _} -> ok end,
        #{unsent := Unsent} = straw:info(One),
        ?assert(Unsent > 15 bsl 20 andalso Unsent < 17 bsl 20),
        deliver(Other, One),
        ?assertEqual(lists:seq(1, 200), numbers(200)),
        #{sent := Sent, dropped_busy := Dropped} = strawman:counts(),
        ?assertEqual({true, 400}, {Dropped > 0, Sent + Dropped})
    end).

%% A process that stands for the name of this one, at the straw One.
with_envelopes(One, Other, Test) ->
    {ok, Exports} = strawman_exports:start_link([{buddy, #{to => self()}}]),
    deliver(One, Other),
    {ok, Proxy} = gen_server:call(One, {proxy, buddy}),
    try
        Test(Proxy)
    after
        unlink(Exports),
        gen_server:stop(Exports)
    end.

%% Its own domain is the one that the other end has as its peer.
deliver(Straw, Other) ->
    #{peer := Own} = straw:info(Other),
    ok = straw:take(Straw, strawman_straw, #{domid => Own, owners => [self()], ling_maps => false}).

%% ── as a module ──

handler(One, Other) ->
    ok = straw:take(One, ?MODULE, self()),
    ok = straw:take(One, ?MODULE, nobody),
    mine(Other, true),
    One ! {say, [<<"a">>, <<"b">>]},
    ?assertEqual([<<"a">>, <<"b">>], [next(Other), next(Other)]),
    ?assertEqual({answer, false}, gen_server:call(One, question)),
    ?assertEqual(<<"question">>, next(Other)),
    [ok = straw:send(Other, <<N>>) || N <- [1, 2, 3]],
    ?assertEqual([<<1>>, <<2>>, <<3>>], got(3)),
    %% As long as it asks for a pause nothing more is read.
    One ! {pause, 3},
    ok = straw:send(Other, <<4>>),
    ?assertEqual([<<4>>], got(1)),
    ok = straw:send(Other, <<5>>),
    ?assertEqual([[], [], [], [<<5>>]], [receive {frames, Frames} -> Frames end || _ <- lists:seq(1, 4)]),
    One ! {close, enough},
    ?assertMatch({close, {active, _}, One, enough}, told()),
    straw:finished(One, enough),
    receive
        {closed, Reason, Truncated} -> ?assertEqual({enough, false}, {Reason, Truncated})
    end.

got(0) ->
    [];
got(N) ->
    receive
        {frames, Frames} -> Frames ++ got(N - length(Frames))
    after 20000 -> nothing
    end.

init(Pid, #{peer := _}) -> #{pid => Pid, pause => 0}.

frames(Frames, #{pid := Pid, pause := Pause} = State) ->
    Pid ! {frames, Frames},
    case Pause of
        0 -> {ok, State};
        _ -> {pause, 20, State#{pause := Pause - 1}}
    end.

message({say, Frames}, _Busy, State) -> {ok, Frames, State};
message({pause, Times}, _Busy, State) -> {ok, [], State#{pause := Times}};
message({close, Reason}, _Busy, State) -> {close, Reason, State}.

call(question, _From, Busy, State) -> {reply, {answer, Busy}, [<<"question">>], State}.

oversized(_Length, State) -> State.

closed(Reason, Truncated, #{pid := Pid}) ->
    Pid ! {closed, Reason, Truncated},
    ok.
