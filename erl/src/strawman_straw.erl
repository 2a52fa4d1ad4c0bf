%% A straw of strawman's, inside the straw's process: envelopes become frames, frames become messages.
%%
%% From the BEAM: {envelope, Addr, Msg}, from anybody, as a message or a call. From the straw: to what is exported, to the
%% processes that were given out on this very straw, and to nobody else.
%%
%% A LING that opens when we do has two straws with us, sends on either and knows our pids on both: the straw that came
%% first then has the tables for both (the holder), the other one only carries frames (its partner).
-module(strawman_straw).
-behaviour(straw).

-export([init/2, frames/2, message/3, call/4, oversized/2, closed/3]).

%% Processes that one straw tells of what went wrong.
-define(MAX_OWNERS, 64).
%% Milliseconds between looks for references that nobody will answer any more.
-define(EXPIRE, 10000).
%% Messages between looks whether their receivers keep up; messages that one may have waiting; and how long the straw is
%% not read then (milliseconds).
-define(CHECK_EVERY, 256).
-define(QUEUE_LIMIT, 20000).
-define(PAUSE, 1).
%% Bytes of the frame that tells why a process has ended; a longer reason becomes noproc.
-define(MAX_ENDED, 65536).

-record(h, {
    domid :: non_neg_integer(),
    peer :: non_neg_integer(),
    format :: erlang | json,
    %% how terms are written to the peer; nothing of it is said in json
    way :: straw_codec:way(),
    ids :: straw_ids:ids() | undefined,
    %% who has the tables, when it is not this one
    holder :: pid() | undefined,
    %% the other straw that this one has the tables of, and whether it is the one to send on
    partner :: {pid(), boolean()} | undefined,
    %% of our processes that the peer knows, in an order that it can rely on
    ends = straw_ends:new() :: straw_ends:ends(),
    owners = [] :: [pid()],
    told_busy = false :: boolean(),
    %% local receivers since the last look at their queues, and the latest of them
    receivers = #{} :: #{pid() => true},
    latest = none :: pid() | none,
    %% the name that was looked up last in these frames, and what was found
    found = none :: none | {term(), strawman_exports:export() | undefined},
    delivered = 0 :: non_neg_integer()
}).

-spec init(Argument, straw:info()) -> #h{} when
    Argument :: #{
        domid := non_neg_integer(), owners := [pid()], ling_maps := boolean(), holder => pid() | undefined
    }.
init(#{domid := Domid, owners := Owners, ling_maps := Maps} = Argument, Info) ->
    #{peer := Peer, format := Format, dialect := Dialect} = Info,
    _ = erlang:send_after(?EXPIRE, self(), expire),
    H = #h{
        domid = Domid,
        peer = Peer,
        format = Format,
        way = straw_codec:way(Dialect, #{ling_maps => Maps}),
        owners = Owners
    },
    case Argument of
        #{holder := Holder} when is_pid(Holder) ->
            _ = monitor(process, Holder),
            H#h{holder = Holder};
        _ ->
            with_tables(H)
    end.

with_tables(#h{format = json} = H) ->
    H#h{holder = undefined};
with_tables(#h{domid = Domid, peer = Peer, way = Way} = H) ->
    Dialect = if Way =:= to_otp -> otp; true -> ling end,
    Ids = straw_ids:new(#{domid => Domid, peer => Peer, dialect => Dialect, straw => self(), known => true}),
    H#h{holder = undefined, ids = Ids}.

%% ── from the BEAM to the straw ──

-spec message(term(), boolean(), #h{}) -> {ok, [iodata()], #h{}} | {close, atom(), #h{}}.
message({envelope, _, _} = Envelope, _Busy, #h{holder = Holder} = H) when is_pid(Holder) ->
    Holder ! Envelope,
    {ok, [], H};
message({envelope, Addr, Msg}, Busy, H) ->
    case forward(Addr, Msg, Busy, H) of
        {ok, Frame, H1} -> {ok, mine(Frame, H1), H1};
        {error, ids_exhausted, H1} -> {close, ids_exhausted, H1};
        {error, _Reason, H1} -> {ok, [], H1}
    end;
message({add_owner, Pid}, _Busy, H) ->
    {ok, [], add_owner(Pid, H)};
message({carry, _Frame}, true, H) ->
    strawman_exports:count(dropped_busy),
    tell(H, {straw_busy, H#h.peer}),
    {ok, [], H};
message({carry, Frame}, false, H) ->
    {ok, [Frame], H};
message({carried, Frames}, _Busy, #h{holder = undefined} = H) ->
    case frames(Frames, H) of
        {ok, H1} -> {ok, [], H1};
        {pause, _, H1} -> {ok, [], H1}
    end;
message({partner, Pid, First}, _Busy, H) ->
    _ = monitor(process, Pid),
    {ok, [], H#h{partner = {Pid, First}}};
message({'DOWN', _, process, Pid, _}, _Busy, #h{partner = {Pid, _}} = H) ->
    {ok, [], H#h{partner = undefined}};
message({'DOWN', _, process, Pid, _}, _Busy, #h{holder = Pid} = H) ->
    {ok, [], with_tables(H)};
message({'DOWN', Monitor, process, Pid, Reason}, _Busy, #h{ids = Ids, ends = Ends} = H) when Ids =/= undefined ->
    case straw_ids:dialect(Ids) =:= otp andalso straw_ids:is_given(Pid, Ids) of
        true -> tell_ends(straw_ends:add({Monitor, Pid, Reason}, Ids, Ends), H);
        false ->
            Left = straw_ids:down(Monitor, Ids),
            tell_ends(straw_ends:passed(Pid, Left, Ends), H#h{ids = Left})
    end;
message({Secret, passed, Proxy}, _Busy, #h{ids = Ids, ends = Ends} = H) when is_reference(Secret), Ids =/= undefined ->
    case straw_ids:is_passed(Secret, Ids) of
        true -> tell_ends(straw_ends:passed(Proxy, Ids, Ends), H);
        false -> {ok, [], H}
    end;
message(ask_proxies, _Busy, #h{ids = Ids, ends = Ends} = H) when Ids =/= undefined ->
    tell_ends(straw_ends:go_on(Ids, Ends), H);
message(expire, _Busy, #h{ids = Ids} = H) ->
    _ = erlang:send_after(?EXPIRE, self(), expire),
    case Ids of
        undefined -> {ok, [], H};
        _ -> {ok, [], H#h{ids = straw_ids:expire(erlang:monotonic_time(millisecond), Ids)}}
    end;
message(_, _Busy, H) ->
    {ok, [], H}.

-spec call(term(), gen_server:from(), boolean(), #h{}) ->
    {reply, term(), [iodata()], #h{}} | {noreply, #h{}} | {close, atom(), #h{}}.
call(Request, From, _Busy, #h{holder = Holder} = H) when is_pid(Holder) ->
    Holder ! {'$gen_call', From, Request},
    {noreply, H};
call({envelope, Addr, Msg}, _From, Busy, H) ->
    case forward(Addr, Msg, Busy, H) of
        {ok, Frame, H1} -> {reply, ok, mine(Frame, H1), H1};
        {error, ids_exhausted, H1} -> {close, ids_exhausted, H1};
        {error, Reason, H1} -> {reply, {error, Reason}, [], H1}
    end;
call({proxy, Name}, _From, _Busy, #h{ids = Ids} = H) when is_atom(Name), Ids =/= undefined ->
    case straw_ids:proxy(Name, Ids) of
        {ok, Pid, Ids1} -> {reply, {ok, Pid}, [], H#h{ids = Ids1}};
        {error, Reason, Ids1} -> {reply, {error, Reason}, [], H#h{ids = Ids1}}
    end;
call({proxy, _}, _From, _Busy, H) ->
    {reply, {error, badarg}, [], H};
call(counts, _From, _Busy, #h{ids = undefined} = H) ->
    {reply, #{pids => 0, refs => 0, proxies => 0, late => 0}, [], H};
call(counts, _From, _Busy, #h{ids = Ids} = H) ->
    {reply, straw_ids:counts(Ids), [], H};
call(_, _From, _Busy, H) ->
    {reply, {error, unknown_request}, [], H}.

%% The frame leaves on this straw, or on the other one.
mine(Frame, #h{partner = {Pid, true}}) ->
    Pid ! {carry, Frame},
    [];
mine(Frame, _H) ->
    [Frame].

forward(_Addr, _Msg, true, #h{told_busy = Told} = H) ->
    strawman_exports:count(dropped_busy),
    [tell(H, {straw_busy, H#h.peer}) || not Told],
    {error, straw_busy, H#h{told_busy = true}};
forward(Addr, Msg, false, #h{told_busy = true} = H) ->
    forward(Addr, Msg, false, H#h{told_busy = false});
forward(Addr, Msg, false, H) ->
    case encode(Addr, Msg, H) of
        {ok, Frame, Ids1} ->
            strawman_exports:count(sent),
            {ok, Frame, H#h{ids = Ids1}};
        {error, Reason, Ids1} ->
            strawman_exports:count(unsayable),
            strawman_exports:warn(unsayable, "an envelope for domain ~w is dropped: ~0tp", [H#h.peer, Reason]),
            tell(H, {straw_error, H#h.peer, Reason}),
            {error, Reason, H#h{ids = Ids1}}
    end.

encode(Addr, Msg, #h{format = json}) -> straw_codec:encode(Addr, Msg, #{format => json});
encode(Addr, Msg, #h{way = Way, ids = Ids}) -> straw_codec:encode(Addr, Msg, Way, Ids).

%% However much else is unsent: who monitors one of these would wait for ever.
tell_ends({Ended, Ends}, #h{way = Way, ids = Ids0} = H) ->
    {Frames, Ids} = lists:mapfoldl(
        fun({Monitor, Pid, Reason}, Ids1) ->
            {Frame, Ids2} = end_of(Pid, Reason, Way, Ids1),
            {Frame, straw_ids:down(Monitor, Ids2)}
        end,
        Ids0,
        Ended
    ),
    {ok, Frames, H#h{ids = Ids, ends = Ends}}.

end_of(Pid, Reason, Way, Ids) ->
    case straw_codec:encode('$ended', {Pid, Reason}, Way, Ids) of
        {ok, Frame, Ids1} ->
            case iolist_size(Frame) =< ?MAX_ENDED of
                true -> {Frame, Ids1};
                false -> end_of(Pid, noproc, Way, Ids1)
            end;
        {error, _, Ids1} when Reason =/= noproc ->
            end_of(Pid, noproc, Way, Ids1)
    end.

add_owner(Pid, #h{owners = Owners} = H) ->
    H#h{owners = lists:sublist([Pid | lists:delete(Pid, Owners)], ?MAX_OWNERS)}.

tell(#h{owners = Owners}, Message) ->
    lists:foreach(fun(Owner) -> Owner ! Message end, Owners).

%% ── from the straw to the BEAM ──

%% Whatever the peer wrote: it is delivered, or counted and reported. The straw lives on.
-spec frames([binary()], #h{}) -> {ok, #h{}} | {pause, pos_integer(), #h{}}.
frames(Frames, #h{holder = Holder} = H) when is_pid(Holder) ->
    [Holder ! {carried, Frames} || Frames =/= []],
    case is_slow(Holder) of
        true -> {pause, ?PAUSE, H};
        false -> {ok, H}
    end;
frames(Frames, #h{format = json} = H) ->
    all_arrived(Frames, #{format => json}, H);
frames(Frames, #h{ids = Ids} = H) ->
    all_arrived(Frames, #{}, H#h{ids = straw_ids:current(Ids)}).

all_arrived([], _Options, H) ->
    keep_up(H#h{found = none});
all_arrived([Frame | Frames], Options, #h{ids = Ids} = H) ->
    case straw_codec:decode(Frame, Options#{ids => Ids}) of
        {ok, Addr, Msg, Ids1} ->
            all_arrived(Frames, Options, arrived(Addr, Msg, H#h{ids = Ids1}));
        {error, Reason, Ids1} ->
            dropped(Reason, H),
            all_arrived(Frames, Options, H#h{ids = Ids1})
    end.

dropped(Reason, #h{peer = Peer}) ->
    Kind =
        case Reason of
            unknown_atom -> unknown;
            unknown_pid -> undelivered;
            stale_ref -> late;
            {limit, _} -> undelivered;
            _ -> malformed
        end,
    strawman_exports:count(Kind),
    strawman_exports:warn(Kind, "a frame of domain ~w is dropped: ~0tp", [Peer, Reason]).

arrived({Domid, Name}, Msg, #h{domid = Domid} = H) when is_integer(Domid) ->
    arrived(Name, Msg, H);
%% A process of the peer's has ended.
arrived('$ended', {Pid, Reason}, #h{ids = Ids, peer = Peer} = H) when is_pid(Pid), Ids =/= undefined ->
    case straw_ids:ended(Pid, Reason, Ids) of
        {ok, Ids1} -> H#h{ids = Ids1};
        error ->
            strawman_exports:count(unknown),
            strawman_exports:warn(unknown, "domain ~w tells of the end of ~w, which is none of its", [Peer, Pid]),
            H
    end;
%% A process that was given out on this straw, or the alias of a call that went out on it.
arrived(Addr, Msg, H) when is_pid(Addr); is_reference(Addr) ->
    case strawman_exports:is_forged(Msg) of
        true -> refused(Addr, H);
        false -> deliver(Addr, Msg, H)
    end;
arrived(Addr, Msg, #h{found = {Addr, Export}} = H) ->
    to_export(Export, Addr, Msg, H);
arrived(Addr, Msg, H) ->
    Export = here(strawman_exports:find(Addr)),
    to_export(Export, Addr, Msg, H#h{found = {Addr, Export}}).

%% The process that has the name now, if it has one: while these frames last.
here(#{to := To} = Export) when is_atom(To) ->
    case whereis(To) of
        Pid when is_pid(Pid) -> Export#{to := Pid};
        _ -> Export
    end;
here(Export) ->
    Export.

to_export(undefined, Addr, _Msg, #h{peer = Peer} = H) ->
    strawman_exports:count(unknown),
    strawman_exports:warn(unknown, "domain ~w sends to ~0tp, which is not exported to straws", [Peer, Addr]),
    H;
to_export(#{to := To, domains := Domains, sender := Sender}, Addr, Msg, #h{peer = Peer} = H) ->
    Allowed = Domains =:= all orelse lists:member(Peer, Domains),
    case Allowed andalso not strawman_exports:is_forged(Msg) of
        false -> refused(Addr, H);
        true when Sender -> deliver(To, {straw, Peer, Msg}, H);
        true -> deliver(To, Msg, H)
    end.

refused(Addr, #h{peer = Peer} = H) ->
    strawman_exports:count(refused),
    strawman_exports:warn(refused, "domain ~w may not send that to ~0tp", [Peer, Addr]),
    H.

deliver(To, Msg, H) when is_atom(To) ->
    case whereis(To) of
        undefined -> undelivered(To, H);
        Pid when is_pid(Pid) -> deliver(Pid, Msg, H);
        Port -> undelivered(Port, H)
    end;
deliver(Pid, Msg, #h{latest = Pid, delivered = N} = H) ->
    Pid ! Msg,
    strawman_exports:count(received),
    H#h{delivered = N + 1};
deliver(Pid, Msg, #h{receivers = Receivers} = H) when is_pid(Pid), node(Pid) =:= node() ->
    deliver(Pid, Msg, H#h{receivers = Receivers#{Pid => true}, latest = Pid});
deliver({Name, Node}, Msg, H) when Node =:= node() ->
    deliver(Name, Msg, H);
deliver(Alias, Msg, H) when is_reference(Alias) ->
    _ = erlang:send(Alias, Msg),
    strawman_exports:count(received),
    H;
deliver(To, Msg, H) ->
    %% Another node: a connection that is busy suspends this straw, and nothing else.
    _ = erlang:send(To, Msg),
    strawman_exports:count(received),
    H.

undelivered(To, H) ->
    strawman_exports:count(undelivered),
    strawman_exports:warn(undelivered, "an envelope for ~0tp: there is no such process", [To]),
    H.

%% A receiver that does not keep up stops the straw: the ring stays full, and the peer waits.
keep_up(#h{delivered = N} = H) when N < ?CHECK_EVERY ->
    {ok, H};
keep_up(#h{receivers = Receivers} = H) ->
    Slow = maps:filter(fun(Pid, _) -> is_slow(Pid) end, Receivers),
    case map_size(Slow) of
        0 -> {ok, H#h{receivers = #{}, latest = none, delivered = 0}};
        _ -> {pause, ?PAUSE, H#h{receivers = Slow, latest = none}}
    end.

is_slow(Pid) ->
    case process_info(Pid, message_queue_len) of
        {message_queue_len, N} -> N > ?QUEUE_LIMIT;
        undefined -> false
    end.

-spec oversized(pos_integer(), #h{}) -> #h{}.
oversized(Length, #h{peer = Peer} = H) ->
    strawman_exports:count(oversized),
    strawman_exports:warn(oversized, "a frame of domain ~w is passed over: ~w bytes", [Peer, Length]),
    H.

%% ── the end ──

-spec closed(atom(), boolean(), #h{}) -> ok.
closed(_Reason, _Truncated, #h{ids = undefined}) ->
    ok;
closed(_Reason, _Truncated, #h{ids = Ids}) ->
    straw_ids:stop(Ids).
