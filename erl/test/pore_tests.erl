%% Pores between two domains of one BEAM: bytes, frames, ends, hostile peers, leaks.
-module(pore_tests).

-include_lib("eunit/include/eunit.hrl").

-export([memories/0]).

-define(RING, 16375).

all_test_() ->
    {setup, fun straw_test_host:start/0, fun straw_test_host:stop/1, fun(Host) ->
        [
            {atom_to_list(Name), {timeout, 120, fun() -> with_domains(Host, Test) end}}
         || {Name, Test} <- tests()
        ]
    end}.

tests() ->
    [
        {bytes, fun bytes/2},
        {frames, fun frames/2},
        {frames_too_big, fun frames_too_big/2},
        {more_pieces_than_a_call_takes, fun more_pieces/2},
        {larger_than_the_ring, fun larger_than_the_ring/2},
        {wide, fun wide/2},
        {notify_when, fun notify_when/2},
        {info, fun info/2},
        {bad_arguments, fun bad_arguments/2},
        {closed, fun closed/2},
        {peer_closes, fun peer_closes/2},
        {peer_closes_after_writing, fun peer_closes_after_writing/2},
        {failed, fun failed/2},
        {owner_dies, fun owner_dies/2},
        {owner_killed_mid_write, fun owner_killed_mid_write/2},
        {irq_once, fun irq_once/2},
        {no_poke_is_lost, fun no_poke_is_lost/2},
        {hostile_indexes, fun hostile_indexes/2},
        {opened_wrongly, fun opened_wrongly/2},
        {hostile_words_at_any_time, fun hostile_words/2},
        {many_processes_on_one_pore, fun many_processes/2},
        {many_cycles, fun many_cycles/2}
    ].

with_domains(Host, Test) ->
    {A, DA} = straw_test_host:domain(Host),
    {B, DB} = straw_test_host:domain(Host),
    try
        Test({A, DA}, {B, DB})
    after
        [straw_backend:stop(Server) || Server <- [A, B]]
    end.

%% {active, passive}, owned by the caller; all goes back when they close.
straw(A, B) -> straw(A, B, #{}).

straw({A, DA}, {B, DB}, Options) ->
    Pages =
        case Options of
            #{ring_bytes := Bytes} -> 1 + Bytes div 2048;
            _ -> 8
        end,
    {ok, Grant} = straw_backend:grant(A, DB, Pages),
    {ok, Ours} = straw_backend:alloc_channel(A, DB),
    {ok, Active} = pore:open_straw(active, Grant, Ours, Options#{give_back => true}),
    {ok, Mapping} = straw_backend:map(B, DA, straw_backend:grant_refs(Grant)),
    {ok, Theirs} = straw_backend:bind_channel(B, DA, straw_backend:channel_port(Ours)),
    {ok, Passive} = pore:open_straw(passive, Mapping, Theirs, Options#{give_back => true}),
    {Active, Passive}.

irq(Pore) ->
    receive
        {irq, Pore} -> pore:avail(Pore)
    end.

bytes(A, B) ->
    {P, Q} = straw(A, B),
    ?assertEqual({0, ?RING}, pore:avail(P)),
    ?assertEqual(<<>>, pore:read(P, 100)),
    ?assertEqual(11, pore:write(P, ["hello", <<" ">>, [$w | <<"orld">>]])),
    ?assertEqual({11, ?RING}, irq(Q)),
    ?assertEqual(<<"hello">>, pore:read(Q, 5)),
    ?assertEqual(<<>>, pore:read(Q, 0)),
    ?assertEqual({6, ?RING}, pore:avail(Q)),
    ?assertEqual(<<" world">>, pore:read(Q, 1 bsl 60)),
    ?assertEqual({0, ?RING}, irq(P)),
    ?assertEqual(0, pore:write(Q, "")),
    Full = rand:bytes(20000),
    ?assertEqual(?RING, pore:write(Q, Full)),
    ?assertEqual(0, pore:write(Q, <<"x">>)),
    ?assertMatch({?RING, _}, irq(P)),
    ?assertEqual(binary:part(Full, 0, ?RING), pore:read(P, 100000)),
    ?assertMatch({0, ?RING}, irq(Q)).

frames(A, B) ->
    {P, Q} = straw(A, B),
    ?assertEqual({ok, []}, pore:read_frames(Q, 65536)),
    ?assertEqual({ok, 0}, pore:write_frames(P, [])),
    ?assertEqual({ok, 3}, pore:write_frames(P, [<<"one">>, "", ["t", <<"wo">>]])),
    {18, _} = irq(Q),
    ?assertEqual({ok, [<<"one">>, <<>>, <<"two">>]}, pore:read_frames(Q, 65536)),
    %% The head's form, and half a frame.
    ?assertEqual(6, pore:write(P, <<0, 0, 0, 5, "ab">>)),
    {6, _} = irq(Q),
    ?assertEqual({ok, []}, pore:read_frames(Q, 65536)),
    ?assertEqual(3, pore:write(P, <<"cde">>)),
    {9, _} = irq(Q),
    ?assertEqual({ok, [<<"abcde">>]}, pore:read_frames(Q, 65536)),
    %% As many as fit.
    Frames = [rand:bytes(5000) || _ <- lists:seq(1, 5)],
    ?assertEqual({ok, 3}, pore:write_frames(P, Frames)),
    ?assertEqual({ok, lists:sublist(Frames, 3)}, pore:read_frames(Q, 65536)),
    {_, ?RING} = irq(P),
    ?assertEqual({ok, 2}, pore:write_frames(P, lists:nthtail(3, Frames))),
    ?assertEqual({ok, [lists:nth(4, Frames)]}, pore:read_frames(Q, 9999)),
    ?assertEqual({ok, [lists:nth(5, Frames)]}, pore:read_frames(Q, 5000)).

frames_too_big(A, B) ->
    {P, Q} = straw(A, B),
    Big = binary:copy(<<"x">>, ?RING - 3),
    ?assertEqual({big, ?RING - 3}, pore:write_frames(P, [Big])),
    ?assertEqual({ok, 1}, pore:write_frames(P, [<<"a">>, Big])),
    ?assertEqual({ok, [<<"a">>]}, pore:read_frames(Q, 65536)),
    Largest = binary:copy(<<"x">>, ?RING - 4),
    ?assertEqual({ok, 1}, pore:write_frames(P, [Largest])),
    ?assertEqual({big, ?RING - 4}, pore:read_frames(Q, 100)),
    ?assertEqual({ok, [Largest]}, pore:read_frames(Q, 65536)),
    ?assertEqual(5, pore:write(P, <<16#7FFFFFFF:32, "x">>)),
    ?assertEqual({big, 16#7FFFFFFF}, pore:read_frames(Q, 65536)),
    ?assertEqual(<<16#7FFFFFFF:32>>, pore:read(Q, 4)).

more_pieces(A, B) ->
    {P, Q} = straw(A, B),
    Pieces = [<<(N rem 256)>> || N <- lists:seq(1, 3000)],
    ?assertEqual(3000, pore:write(P, Pieces)),
    ?assertEqual(iolist_to_binary(Pieces), pore:read(Q, 5000)),
    ?assertEqual({ok, 3000}, pore:write_frames(P, Pieces)),
    {ok, First} = pore:read_frames(Q, 65536),
    {ok, Second} = pore:read_frames(Q, 65536),
    {ok, Third} = pore:read_frames(Q, 65536),
    ?assertEqual(1024, length(First)),
    ?assertEqual(Pieces, First ++ Second ++ Third),
    %% No room for all of them.
    Many = [<<"12345678">> || _ <- lists:seq(1, 3000)],
    ?assertEqual({ok, ?RING div 12}, pore:write_frames(P, Many)).

%% Each side is a process; the writer waits for room, the reader for bytes.
write_all(Pore, Data) ->
    case pore:write(Pore, Data) of
        N when N =:= byte_size(Data) ->
            ok;
        N when is_integer(N) ->
            {_, _} = irq(Pore),
            write_all(Pore, binary:part(Data, N, byte_size(Data) - N))
    end.

read_all(Pore, Size) -> iolist_to_binary(read_all(Pore, Size, [])).

read_all(_Pore, 0, Done) ->
    lists:reverse(Done);
read_all(Pore, Size, Done) ->
    case pore:read(Pore, Size) of
        <<>> ->
            {_, _} = irq(Pore),
            read_all(Pore, Size, Done);
        Data ->
            read_all(Pore, Size - byte_size(Data), [Data | Done])
    end.

%% Both straw ends are made by the process that shall own them.
in_two_processes(A, B, Options, ActiveDoes, PassiveDoes) ->
    Self = self(),
    {SA, DA} = A,
    {SB, DB} = B,
    Pages =
        case Options of
            #{ring_bytes := Bytes} -> 1 + Bytes div 2048;
            _ -> 8
        end,
    Active = spawn_link(fun() ->
        {ok, Grant} = straw_backend:grant(SA, DB, Pages),
        {ok, Channel} = straw_backend:alloc_channel(SA, DB),
        {ok, Pore} = pore:open_straw(active, Grant, Channel, Options#{give_back => true}),
        Self ! {ready, straw_backend:grant_refs(Grant), straw_backend:channel_port(Channel)},
        Self ! {self(), ActiveDoes(Pore)},
        receive
            stop -> ok
        end
    end),
    {Refs, Port} =
        receive
            {ready, R, C} -> {R, C}
        end,
    Passive = spawn_link(fun() ->
        {ok, Mapping} = straw_backend:map(SB, DA, Refs),
        {ok, Channel} = straw_backend:bind_channel(SB, DA, Port),
        {ok, Pore} = pore:open_straw(passive, Mapping, Channel, Options#{give_back => true}),
        Self ! {self(), PassiveDoes(Pore)},
        receive
            stop -> ok
        end
    end),
    Results = [
        receive
            {Pid, Result} -> Result
        end
     || Pid <- [Active, Passive]
    ],
    [
        begin
            unlink(Pid),
            exit(Pid, kill)
        end
     || Pid <- [Active, Passive]
    ],
    Results.

larger_than_the_ring(A, B) -> both_ways(A, B, #{}, 400000).

wide(A, B) ->
    both_ways(A, B, #{ring_bytes => 4096, suppress => true}, 100000),
    both_ways(A, B, #{ring_bytes => 1 bsl 20, suppress => true}, 5000000),
    both_ways(A, B, #{ring_bytes => 65536, suppress => false}, 1000000).

both_ways(A, B, Options, Size) ->
    There = rand:bytes(Size),
    Back = rand:bytes(Size),
    Results = in_two_processes(
        A,
        B,
        Options,
        fun(Pore) ->
            ok = write_all(Pore, There),
            read_all(Pore, Size)
        end,
        fun(Pore) ->
            Got = read_all(Pore, Size),
            ok = write_all(Pore, Back),
            Got
        end
    ),
    ?assert(Results =:= [Back, There]).

notify_when(A, B) ->
    {P, Q} = straw(A, B),
    ?assertEqual(true, pore:notify_when(P, ?RING)),
    ?assertError(badarg, pore:notify_when(P, ?RING + 1)),
    ?RING = pore:write(P, binary:copy(<<"x">>, ?RING)),
    ?assertEqual(0, pore:slots(P)),
    _ = pore:avail(P),
    ?assertEqual(false, pore:notify_when(P, 1000)),
    1000 = byte_size(pore:read(Q, 1000)),
    ?assertEqual({0, 1000}, irq(P)),
    ?assertEqual(true, pore:notify_when(P, 1000)).

info(A, B) ->
    {P, Q} = straw(A, B),
    5 = pore:write(P, "hello"),
    ?assertMatch(
        #{
            kind := straw, role := active, state := open, in_size := ?RING, out_size := ?RING, pages := 8, suppress := false,
            out_total := 5, in_total := 0, ports := [_], refs := [_, _, _, _, _, _, _, _]
        },
        pore:info(P)
    ),
    #{refs := Refs} = pore:info(P),
    ?assertMatch(#{role := passive, refs := Refs, ports := [_]}, pore:info(Q)).

bad_arguments(A, B) ->
    {P, _} = straw(A, B),
    [
        ?assertError(badarg, apply(pore, Function, [Wrong | Arguments]))
     || Wrong <- [make_ref(), atom, 1, <<"x">>, {P}, self()],
        {Function, Arguments} <- [
            {avail, []}, {read, [1]}, {write, ["x"]}, {read_frames, [1]}, {write_frames, [["x"]]}, {info, []}, {slots, []},
            {notify_when, [1]}, {poke, []}, {close, []}, {fail, [refused]}
        ]
    ],
    ?assertError(badarg, pore:read(P, -1)),
    ?assertError(badarg, pore:read(P, all)),
    ?assertError(badarg, pore:read_frames(P, -1)),
    ?assertError(badarg, pore:write(P, [300])),
    ?assertError(badarg, pore:write(P, atom)),
    ?assertError(badarg, pore:write_frames(P, [atom])),
    ?assertError(_, pore:write_frames(P, atom)),
    ?assertError(badarg, pore:notify_when(P, -1)),
    ?assertError(_, pore:fail(P, anything)),
    ?assertEqual({0, ?RING}, pore:avail(P)).

closed(A, B) ->
    {P, _} = straw(A, B),
    ?assertEqual(true, pore:close(P)),
    ?assertEqual(false, pore:close(P)),
    ?assertEqual({error, closed}, pore:avail(P)),
    ?assertEqual({error, closed}, pore:read(P, 10)),
    ?assertEqual({error, closed}, pore:write(P, "x")),
    ?assertEqual({error, closed}, pore:read_frames(P, 10)),
    ?assertEqual({error, closed}, pore:write_frames(P, ["x"])),
    ?assertEqual({error, closed}, pore:info(P)),
    ?assertEqual({error, closed}, pore:slots(P)),
    ?assertEqual({error, closed}, pore:notify_when(P, 1)),
    ?assertEqual({error, closed}, pore:fail(P, refused)),
    ?assertError(badarg, pore:poke(P)).

peer_closes(A, B) ->
    {P, Q} = straw(A, B),
    true = pore:close(P),
    ?assertEqual({error, peer_gone}, irq(Q)),
    ?assertEqual({error, peer_gone}, pore:read(Q, 10)),
    ?assertEqual({error, peer_gone}, pore:write(Q, "x")),
    ?assertEqual({error, peer_gone}, pore:read_frames(Q, 10)),
    ?assertEqual({error, peer_gone}, pore:write_frames(Q, ["x"])),
    ?assertEqual(true, pore:poke(Q)),
    ?assertMatch(#{state := peer_gone}, pore:info(Q)),
    %% Nothing more is told: the end would be told for ever.
    receive
        {irq, Q} -> error(again)
    after 100 -> ok
    end.

peer_closes_after_writing(A, B) ->
    {P, Q} = straw(A, B),
    {ok, 2} = pore:write_frames(P, ["first", "second"]),
    2 = pore:write(P, <<0, 0>>),
    true = pore:close(P),
    ?assertMatch({21, _}, irq(Q)),
    ?assertEqual({ok, [<<"first">>, <<"second">>]}, pore:read_frames(Q, 1000)),
    ?assertEqual({error, peer_gone}, pore:read_frames(Q, 1000)),
    ?assertEqual(<<0, 0>>, pore:read(Q, 1000)),
    ?assertEqual({error, peer_gone}, pore:avail(Q)).

failed(A, B) ->
    {P, Q} = straw(A, B),
    ?assertEqual(ok, pore:fail(P, refused)),
    ?assertEqual({error, refused}, pore:avail(P)),
    ?assertEqual(ok, pore:fail(P, host_down)),
    ?assertEqual({error, refused}, pore:write(P, "x")),
    ?assertEqual({error, peer_gone}, irq(Q)),
    ?assertEqual(true, pore:close(P)).

owner_dies({SA, _} = A, B) ->
    Self = self(),
    Pid = spawn(fun() ->
        Self ! {straw, straw(A, B)},
        receive
            stop -> ok
        end
    end),
    {P, Q} =
        receive
            {straw, Straw} -> Straw
        end,
    exit(Pid, kill),
    straw_test_host:wait_until(fun() -> pore:avail(P) =:= {error, closed} andalso pore:avail(Q) =:= {error, closed} end),
    ?assertEqual(false, pore:close(P)),
    nothing_held([SA, element(1, B)]).

nothing_held(Servers) ->
    straw_test_host:wait_until(fun() ->
        [#{grants => 0, mappings => 0, channels => 0}] =:= lists:usort([straw_backend:held(Server) || Server <- Servers])
    end).

%% Whole frames only, whatever the moment of the kill.
owner_killed_mid_write({SA, DA}, {SB, DB}) ->
    [
        begin
            Self = self(),
            Frame = binary:copy(<<N>>, 100 * N),
            Writer = spawn(fun() ->
                {ok, Grant} = straw_backend:grant(SA, DB, 8),
                {ok, Channel} = straw_backend:alloc_channel(SA, DB),
                {ok, Pore} = pore:open_straw(active, Grant, Channel, #{give_back => true}),
                Self ! {ready, straw_backend:grant_refs(Grant), straw_backend:channel_port(Channel)},
                write_for_ever(Pore, Frame)
            end),
            {Refs, Port} =
                receive
                    {ready, R, C} -> {R, C}
                end,
            {ok, Mapping} = straw_backend:map(SB, DA, Refs),
            {ok, Channel} = straw_backend:bind_channel(SB, DA, Port),
            {ok, Pore} = pore:open_straw(passive, Mapping, Channel, #{give_back => true}),
            read_some(Pore, Frame, 20 * N),
            exit(Writer, kill),
            ?assertEqual({error, peer_gone}, read_rest(Pore, Frame)),
            true = pore:close(Pore)
        end
     || N <- lists:seq(1, 30)
    ],
    nothing_held([SA, SB]).

write_for_ever(Pore, Frame) ->
    case pore:write_frames(Pore, [Frame, Frame, Frame]) of
        {ok, 3} ->
            write_for_ever(Pore, Frame);
        {ok, _} ->
            {_, _} = irq(Pore),
            write_for_ever(Pore, Frame)
    end.

read_some(_Pore, _Frame, Left) when Left =< 0 -> ok;
read_some(Pore, Frame, Left) ->
    case pore:read_frames(Pore, 65536) of
        {ok, []} ->
            {_, _} = irq(Pore),
            read_some(Pore, Frame, Left);
        {ok, Frames} ->
            ?assertEqual([Frame], lists:usort(Frames)),
            read_some(Pore, Frame, Left - length(Frames))
    end.

read_rest(Pore, Frame) ->
    case pore:read_frames(Pore, 65536) of
        {ok, []} ->
            case irq(Pore) of
                {error, _} = Error -> Error;
                _ -> read_rest(Pore, Frame)
            end;
        {ok, Frames} ->
            ?assertEqual([Frame], lists:usort(Frames)),
            read_rest(Pore, Frame);
        Error ->
            Error
    end.

irq_once(A, B) ->
    {P, Q} = straw(A, B),
    [1 = pore:write(P, "x") || _ <- lists:seq(1, 100)],
    receive
        {irq, Q} -> ok
    end,
    [1 = pore:write(P, "x") || _ <- lists:seq(1, 100)],
    receive
        {irq, Q} -> error(twice)
    after 50 -> ok
    end,
    ?assertEqual({200, ?RING}, pore:avail(Q)),
    1 = pore:write(P, "x"),
    ?assertMatch({201, _}, irq(Q)).

%% Ping-pong with nothing but {irq, Pore} to go by, in every mode.
no_poke_is_lost(A, B) ->
    [
        begin
            Turns = 3000,
            [done, done] = in_two_processes(
                A,
                B,
                Options,
                fun(Pore) -> ping(Pore, Turns) end,
                fun(Pore) -> pong(Pore, Turns) end
            )
        end
     || Options <- [#{}, #{ring_bytes => 4096, suppress => true}, #{ring_bytes => 4096}]
    ].

ping(_Pore, 0) -> done;
ping(Pore, N) ->
    {ok, 1} = pore:write_frames(Pore, [<<N:32>>]),
    <<N:32>> = frame(Pore),
    ping(Pore, N - 1).

pong(_Pore, 0) -> done;
pong(Pore, N) ->
    Frame = frame(Pore),
    {ok, 1} = pore:write_frames(Pore, [Frame]),
    pong(Pore, N - 1).

frame(Pore) ->
    case pore:read_frames(Pore, 1000) of
        {ok, [Frame]} ->
            Frame;
        {ok, []} ->
            receive
                {irq, Pore} -> ok
            after 20000 -> error({lost_poke, pore:info(Pore)})
            end,
            {_, _} = pore:avail(Pore),
            frame(Pore)
    end.

%% The grant's memory, as somebody who means harm sees it: word 0 in_prod, 1 in_cons, 2 out_cons, 3 out_prod.
hostile_indexes(A, B) ->
    [
        begin
            Before = memories(),
            {P, Q} = straw(A, B),
            [Memory | _] = memories() -- Before,
            {ok, File} = file:open(Memory, [read, write, raw, binary]),
            5 = pore:write(P, "hello"),
            5 = pore:write(Q, "world"),
            ok = file:pwrite(File, Word * 4, <<Value:32/little>>),
            ok = file:close(File),
            Results = [
                F()
             || F <- [
                    fun() -> pore:avail(P) end, fun() -> pore:avail(Q) end, fun() -> pore:read(P, 100) end,
                    fun() -> pore:read_frames(Q, 100) end, fun() -> pore:write(P, binary:copy(<<"y">>, ?RING)) end,
                    fun() -> pore:write_frames(Q, [binary:copy(<<"z">>, 16000)]) end, fun() -> pore:slots(P) end
                ]
            ],
            ?assert(lists:member({error, corrupt}, Results)),
            true = pore:close(P),
            true = pore:close(Q)
        end
     || Word <- lists:seq(0, 3), Value <- [16376, 16#FFFFFFFF, 16#80000000, 20000]
    ].

memories() ->
    {ok, Names} = file:list_dir("/proc/self/fd"),
    Paths = ["/proc/self/fd/" ++ Name || Name <- Names],
    [
        Path
     || Path <- Paths, {ok, Target} <- [file:read_link_all(Path)], string:prefix(Target, "/memfd:") =/= nomatch
    ].

opened_wrongly({SA, DA}, {SB, DB}) ->
    {ok, Grant} = straw_backend:grant(SA, DB, 8),
    {ok, Ours} = straw_backend:alloc_channel(SA, DB),
    ?assertError(_, pore:open_straw(neither, Grant, Ours, #{})),
    ?assertError(_, pore:open_straw(active, Ours, Grant, #{})),
    ?assertError(badarg, pore:open_straw(active, Grant, Ours, #{ring_bytes => -1})),
    ?assertEqual({error, einval}, pore:open_straw(active, Grant, Ours, #{ring_bytes => 5000})),
    ?assertEqual({error, einval}, pore:open_straw(active, Grant, Ours, #{ring_bytes => 4096})),
    ?assertEqual({error, einval}, pore:open_straw(active, Grant, Ours, #{suppress => true})),
    {ok, Active} = pore:open_straw(active, Grant, Ours, #{}),
    ?assertMatch({error, ebadf}, pore:open_straw(active, Grant, Ours, #{})),
    5 = pore:write(Active, "hello"),
    %% Memory that was laid out for somebody else: its indexes are not at their start.
    {ok, Mapping} = straw_backend:map(SB, DA, straw_backend:grant_refs(Grant)),
    {ok, Theirs} = straw_backend:bind_channel(SB, DA, straw_backend:channel_port(Ours)),
    {ok, Passive} = pore:open_straw(passive, Mapping, Theirs, #{}),
    ?assertEqual(<<"hello">>, pore:read(Passive, 5)),
    true = pore:close(Passive),
    true = pore:close(Active),
    [ok = straw_backend:give_back(Thing) || Thing <- [Mapping, Grant, Ours, Theirs]].

%% A peer that writes anything into the shared words while we work: values come back, and once it is found out, that stays.
hostile_words(A, B) ->
    [
        begin
            Before = memories(),
            {P, Q} = straw(A, B, Options),
            [Memory | _] = memories() -- Before,
            {ok, File} = file:open(Memory, [read, write, raw, binary]),
            Worst = [0, 1, 16375, 16376, 4096, 16#7FFFFFFF, 16#80000000, 16#FFFFFFFF],
            [
                begin
                    Word = lists:nth(rand:uniform(length(Words)), Words),
                    Value = lists:nth(rand:uniform(8), Worst),
                    ok = file:pwrite(File, Word, <<Value:32/little>>),
                    value(step(lists:nth(rand:uniform(2), [P, Q])))
                end
             || _ <- lists:seq(1, 60)
            ],
            ok = file:close(File),
            [true, true] = [pore:close(Pore) || Pore <- [P, Q]]
        end
     || {Options, Words} <- [
            {#{}, [0, 4, 8, 12]},
            {#{ring_bytes => 4096, suppress => true}, [64 * N || N <- lists:seq(0, 8)]}
        ],
        _ <- lists:seq(1, 40)
    ],
    flush().

step(Pore) ->
    Data = binary:copy(<<"d">>, rand:uniform(5000)),
    case rand:uniform(9) of
        1 -> pore:avail(Pore);
        2 -> pore:read(Pore, rand:uniform(20000) - 1);
        3 -> pore:read_frames(Pore, rand:uniform(20000) - 1);
        4 -> pore:write(Pore, Data);
        5 -> pore:write_frames(Pore, [Data, <<>>, Data]);
        6 -> pore:slots(Pore);
        7 -> pore:notify_when(Pore, rand:uniform(4000));
        8 -> pore:info(Pore);
        9 -> pore:poke(Pore)
    end.

value({error, Reason}) -> true = lists:member(Reason, [corrupt, peer_gone, closed, host_down]);
value({In, Out}) when is_integer(In), is_integer(Out) -> true;
value({ok, _}) -> true;
value({big, N}) when is_integer(N) -> true;
value(Value) -> true = is_integer(Value) orelse is_binary(Value) orelse is_boolean(Value) orelse is_map(Value).

%% Whoever knows a pore may use it, at any time: also while it is being closed, or its owner dies.
many_processes({SA, _} = A, {SB, _} = B) ->
    [
        begin
            Self = self(),
            Owner = spawn(fun() ->
                {P, Q} = straw(A, B),
                Self ! {straw, P, Q},
                receive
                    close -> [pore:close(Pore) || Pore <- [P, Q]]
                end
            end),
            {P, Q} =
                receive
                    {straw, P0, Q0} -> {P0, Q0}
                end,
            Users = [spawn_monitor(fun() -> hammer([P, Q], 300) end) || _ <- lists:seq(1, 6)],
            timer:sleep(rand:uniform(5)),
            case How of
                close -> Owner ! close;
                kill -> exit(Owner, kill);
                stranger -> [pore:close(Pore) || Pore <- [P, Q]]
            end,
            [
                receive
                    {'DOWN', Monitor, process, Pid, Why} -> ?assertEqual(normal, Why)
                end
             || {Pid, Monitor} <- Users
            ],
            exit(Owner, kill)
        end
     || How <- [close, kill, stranger], _ <- lists:seq(1, 10)
    ],
    nothing_held([SA, SB]).

hammer(_Pores, 0) ->
    ok;
hammer(Pores, N) ->
    try
        value(step(lists:nth(rand:uniform(2), Pores)))
    catch
        %% poke of a closed one
        error:badarg -> ok
    end,
    hammer(Pores, N - 1).

%% 1,000 times: nothing is left, neither descriptors, nor memory, nor what the host keeps for us.
many_cycles({SA, _} = A, {SB, _} = B) ->
    Cycle = fun() ->
        {P, Q} = straw(A, B),
        {ok, 1} = pore:write_frames(P, ["x"]),
        {5, _} = irq(Q),
        true = pore:close(P),
        true = pore:close(Q),
        flush()
    end,
    Many = fun(N) ->
        %% In a process of its own: what it held is collected with it.
        {Pid, Monitor} = spawn_monitor(fun() -> [Cycle() || _ <- lists:seq(1, N)] end),
        receive
            {'DOWN', Monitor, process, Pid, Why} -> ?assertEqual(normal, Why)
        end,
        nothing_held([SA, SB]),
        [garbage_collect(Process) || Process <- processes()]
    end,
    Many(100),
    Before = state(),
    Memory = memory(),
    Many(1000),
    straw_test_host:wait_until(fun() ->
        [garbage_collect(Process) || Process <- processes()],
        state() =:= Before
    end),
    ?assert(memory() - Memory < 2000000).

%% Without its allocators (test-asan) the emulator can't say.
memory() ->
    try
        erlang:memory(total)
    catch
        error:notsup -> 0
    end.

state() ->
    {ok, Fds} = file:list_dir("/proc/self/fd"),
    {length(Fds), pore:held()}.

flush() ->
    receive
        {irq, _} -> flush()
    after 0 -> ok
    end.
