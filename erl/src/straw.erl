%% One open straw: a process that owns the pore, and what an Erlang program does with it.
%%
%% It is the membrane's until it is open, then its owner's: a process that gets messages, as with gen_tcp,
%%
%%     {straw, Straw, Frame}            while it is active; by `active(Straw, N)` so many, then
%%     {straw_passive, Straw}
%%     {straw_truncated, Straw}         it ended in the middle of a frame
%%     {straw_closed, Straw, Reason}    nothing comes after it. What was left in the ring came before, active or not
%%
%% or a module with the callbacks below (strawman_straw), for which the frames make no way through a mailbox. A straw
%% that nobody has taken yet reads nothing: its frames wait in the ring.
%%
%% The process ends when the straw does, with the reason: closed, peer_closed, peer_gone, host_down, corrupt, stopped, ….
%% It traps exits: to be linked to it does not close it.
%%
%% It speaks as a gen_server does, to callers and to sys, but is none: what one turn of it costs, every message pays.
-module(straw).

-export([open/1, open/2, send/2, send_nowait/2, active/2, controlling_process/2, close/1, close/2, info/1]).
%% For the membrane and for who has the straws of a domain.
-export([start/1, take/3, last_look/1, finished/2]).
-export([init/1, system_continue/3, system_terminate/4, system_code_change/4, system_get_state/1, system_replace_state/2]).
-export_type([straw/0, info/0, frame/0]).

-include("membrane.hrl").

%% Bytes that may wait to be sent: beyond it send/2 waits, and send_nowait/2 refuses.
-define(UNSENT_LIMIT, (16 bsl 20)).
%% Bytes of a frame that comes.
-define(MAX_FRAME, (16 bsl 20)).
%% Bytes that are read before messages get their turn, and of one read.
-define(READ_TURN, (1 bsl 20)).
-define(READ, (1 bsl 17)).
-define(READ_BIG, (1 bsl 18)).
%% Bytes that are gathered before they are written at once.
-define(WRITE_AT, 32768).
%% Frames up to here are written as they are while nothing waits before them.
-define(SMALL, 8192).
%% Words of the process's heap at least: it makes garbage with every message, and keeps little.
-define(HEAP, 8192).
%% Milliseconds that what is unsent gets when the straw is closed.
-define(FLUSH_TIME, 1000).

-type straw() :: pid().
-type frame() :: iodata().
-type info() :: #{
    peer := non_neg_integer(), we_opened := boolean(), format := erlang | json, dialect := ling | otp,
    ring_bytes := non_neg_integer(), _ => _
}.

%% Frames that came, and after a pause none, before more is read; messages that this module does not know. Busy: so much is
%% unsent that no more is taken.
-callback init(Arg :: term(), info()) -> State :: term().
-callback frames([binary()], State :: term()) -> {ok, State :: term()} | {pause, Milliseconds :: pos_integer(), State :: term()} |
    {close, Reason :: atom(), State :: term()}.
-callback message(Message :: term(), Busy :: boolean(), State :: term()) -> {ok, [frame()], State :: term()} |
    {close, Reason :: atom(), State :: term()}.
-callback call(Request :: term(), gen_server:from(), Busy :: boolean(), State :: term()) ->
    {reply, term(), [frame()], State :: term()}
    | {noreply, State :: term()}
    | {close, Reason :: atom(), State :: term()}.
-callback oversized(Length :: pos_integer(), State :: term()) -> State :: term().
-callback closed(Reason :: atom(), Truncated :: boolean(), State :: term()) -> ok.

-record(s, {
    membrane :: pid(),
    membrane_monitor :: reference(),
    key :: membrane_machine:key(),
    pore :: pore:pore() | closed,
    terms :: #terms{},
    user = none :: none | {owner, pid(), reference()} | {module, module(), term()},
    %% frames that the owner gets now
    active = 0 :: non_neg_integer() | infinity,
    frames :: straw_frames:frames(),
    %% cut already, beyond what the owner has asked for
    inbox = [] :: [binary()],
    outbox :: straw_outbox:outbox(),
    %% small frames that leave with the next write, latest first; only while nothing is in the outbox
    batch = [] :: [binary()],
    batch_count = 0 :: non_neg_integer(),
    batch_size = 0 :: non_neg_integer(),
    %% the ring will tell when it has room
    full = false :: boolean(),
    %% something waits for the end of the mailbox to be written
    dirty = false :: boolean(),
    paused = false :: boolean(),
    %% the pore's own end, as the membrane was told
    ended = '' :: atom(),
    closing = '' :: atom(),
    senders = queue:new() :: queue:queue({gen_server:from(), frame()}),
    truncated = false :: boolean(),
    frames_in = 0 :: non_neg_integer(),
    frames_out = 0 :: non_neg_integer()
}).

%% ── for who uses straws ──

%% Opens a straw to a domain, for the caller; {error, exists | self | not_found | timeout | host_down | …} within 4.5 s.
-spec open(non_neg_integer()) -> {ok, straw()} | {error, atom()}.
open(Domid) -> open(Domid, #{}).

%% format: erlang unless given. active: as active/2, false unless given.
-spec open(non_neg_integer(), #{format => erlang | json, active => boolean() | pos_integer()}) ->
    {ok, straw()} | {error, atom()}.
open(Domid, Options) ->
    Format = maps:get(format, Options, erlang),
    case membrane:open(Domid, #{format => Format}) of
        {ok, Straw, _Info} ->
            ok = take(Straw, owner, self()),
            ok = active(Straw, maps:get(active, Options, false)),
            {ok, Straw};
        Error ->
            Error
    end.

%% Waits while 16 MiB are unsent. That the peer has taken it nobody says.
-spec send(straw(), frame()) -> ok | {error, atom()}.
send(Straw, Frame) -> call(Straw, {send, Frame, wait}).

%% {error, straw_busy}: nothing was done.
-spec send_nowait(straw(), frame()) -> ok | {error, straw_busy | atom()}.
send_nowait(Straw, Frame) -> call(Straw, {send, Frame, nowait}).

%% How many frames come as messages from now on: true all, false none, a number so many more (or fewer: it may be negative).
-spec active(straw(), boolean() | integer()) -> ok | {error, atom()}.
active(Straw, Active) -> call(Straw, {active, Active}).

%% Only the owner may.
-spec controlling_process(straw(), pid()) -> ok | {error, not_owner | atom()}.
controlling_process(Straw, Pid) -> call(Straw, {controlling_process, Pid}).

-spec close(straw()) -> ok.
close(Straw) -> close(Straw, closed).

%% What is unsent gets a second to leave. Returns when it is closed.
-spec close(straw(), atom()) -> ok.
close(Straw, Reason) ->
    Monitor = monitor(process, Straw),
    gen_server:cast(Straw, {close, Reason}),
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    end.

-spec info(straw()) -> info() | {error, atom()}.
info(Straw) -> call(Straw, info).

call(Straw, Request) ->
    try
        gen_server:call(Straw, Request, infinity)
    catch
        exit:{Reason, {gen_server, call, _}} -> {error, word(Reason)}
    end.

%% Why there is no answer: what the straw has ended with.
word(Reason) when is_atom(Reason), Reason =/= noproc, Reason =/= normal, Reason =/= killed -> Reason;
word(_) -> closed.

%% ── for the membrane ──

%% Makes the pore over memory and a channel; not linked, it ends with the membrane.
-spec start(#{
    membrane := pid(), key := membrane_machine:key(), terms := #terms{}, memory := term(), channel := term()
}) -> {ok, straw()} | {error, term()}.
start(Options) ->
    proc_lib:start(?MODULE, init, [Options], infinity, [{min_heap_size, ?HEAP}]).

%% Whose it is: a process (`owner`, Pid), or a module of callbacks with its argument.
-spec take(straw(), owner | module(), pid() | term()) -> ok | {error, atom()}.
take(Straw, User, Argument) -> call(Straw, {take, User, Argument}).

%% Takes what is left in the ring, at most one ring full, and closes the pore: the memory is about to go.
-spec last_look(straw()) -> ok | {error, atom()}.
last_look(Straw) -> call(Straw, last_look).

%% It is over, by the membrane's word.
-spec finished(straw(), atom()) -> ok.
finished(Straw, Reason) -> gen_server:cast(Straw, {finished, Reason}).

%% ── the process ──

-spec init(map()) -> no_return().
init(#{membrane := Membrane, key := {Role, _} = Key, terms := Terms, memory := Memory, channel := Channel}) ->
    process_flag(trap_exit, true),
    Options = #{ring_bytes => Terms#terms.ring_bytes, suppress => Terms#terms.suppress},
    case pore:open_straw(Role, Memory, Channel, Options) of
        {ok, Pore} ->
            S = #s{
                membrane = Membrane,
                membrane_monitor = monitor(process, Membrane),
                key = Key,
                pore = Pore,
                terms = Terms,
                frames = straw_frames:new(?MAX_FRAME),
                outbox = straw_outbox:new(out_size(Pore))
            },
            proc_lib:init_ack({ok, self()}),
            loop(S);
        {error, Reason} ->
            proc_lib:init_ack({error, {shutdown, Reason}}),
            exit({shutdown, Reason})
    end.

%% What is to be written leaves when the mailbox is empty: then many frames leave in one write.
-spec loop(#s{}) -> no_return().
loop(#s{dirty = false} = S) ->
    receive
        Message -> turn(Message, S)
    end;
loop(S) ->
    receive
        Message -> turn(Message, S)
    after 0 -> loop(flush(S))
    end.

-spec turn(term(), #s{}) -> no_return().
turn({envelope, _, _} = Message, S) ->
    loop(other(Message, S));
turn({irq, Pore}, #s{pore = Pore} = S) ->
    loop(look(S#s{full = false}));
turn({'$gen_call', From, Request}, S) ->
    loop(asked(Request, From, S));
turn({'$gen_cast', Request}, S) ->
    loop(told(Request, S));
turn({system, From, Request}, S) ->
    sys:handle_system_msg(Request, From, self(), ?MODULE, [], S);
turn(Message, S) ->
    loop(got(Message, S)).

-spec system_continue(pid(), [sys:dbg_opt()], #s{}) -> no_return().
system_continue(_Parent, _Debug, S) -> loop(S).

-spec system_terminate(term(), pid(), [sys:dbg_opt()], #s{}) -> no_return().
system_terminate(Reason, _Parent, _Debug, _S) -> exit(Reason).

-spec system_code_change(#s{}, module(), term(), term()) -> {ok, #s{}}.
system_code_change(S, _Module, _Old, _Extra) -> {ok, S}.

-spec system_get_state(#s{}) -> {ok, #s{}}.
system_get_state(S) -> {ok, S}.

-spec system_replace_state(fun((#s{}) -> #s{}), #s{}) -> {ok, #s{}, #s{}}.
system_replace_state(Change, S) ->
    Changed = Change(S),
    {ok, Changed, Changed}.

-spec asked(term(), gen_server:from(), #s{}) -> #s{}.
asked({send, _Frame, nowait}, From, #s{ended = Ended, pore = Pore} = S) when Ended =/= ''; Pore =:= closed ->
    reply(From, {error, end_word(S)}, S);
asked({send, Frame, wait}, From, #s{ended = Ended, pore = Pore} = S) when Ended =/= ''; Pore =:= closed ->
    % the membrane will say why: a peer that is gone may have been its host
    S#s{senders = queue:in({From, Frame}, S#s.senders)};
asked({send, Frame, How}, From, #s{senders = Senders} = S) ->
    case is_busy(S) of
        true when How =:= nowait -> reply(From, {error, straw_busy}, S);
        true -> S#s{senders = queue:in({From, Frame}, Senders)};
        false -> reply(From, ok, put_out([Frame], S))
    end;
asked({active, Active}, From, S) ->
    reply(From, ok, deliver([], look(S#s{active = credit(Active, S#s.active)})));
asked({take, owner, Pid}, From, S) ->
    reply(From, ok, look(owned_by(Pid, S)));
asked({take, Module, _Argument}, From, #s{user = {module, Module, _}} = S) ->
    % it was taken already: whoever has it was started anew
    reply(From, ok, S);
asked({take, Module, Argument}, From, S) ->
    State = Module:init(Argument, info_of(S)),
    reply(From, ok, look((disowned(S))#s{user = {module, Module, State}, active = infinity}));
asked({controlling_process, Pid}, {Owner, _} = From, #s{user = {owner, Owner, _}} = S) ->
    reply(From, ok, owned_by(Pid, S));
asked({controlling_process, _}, From, S) ->
    reply(From, {error, not_owner}, S);
asked(info, From, S) ->
    reply(From, info_of(S), S);
asked(last_look, From, S) ->
    reply(From, ok, take_last(S));
asked(Request, From, #s{user = {module, Module, State}, pore = Pore} = S) when Pore =/= closed ->
    case Module:call(Request, From, is_busy(S), State) of
        {reply, Reply, Frames, State1} ->
            reply(From, Reply, put_out(Frames, S#s{user = {module, Module, State1}}));
        {noreply, State1} ->
            S#s{user = {module, Module, State1}};
        {close, Reason, State1} ->
            reply(From, {error, Reason}, start_closing(Reason, S#s{user = {module, Module, State1}}))
    end;
asked(_Request, From, #s{pore = closed} = S) ->
    reply(From, {error, end_word(S)}, S);
asked(_Request, From, S) ->
    reply(From, {error, unknown_request}, S).

-spec told(term(), #s{}) -> #s{}.
told({close, Reason}, S) -> start_closing(Reason, S);
told({finished, Reason}, S) -> finish(Reason, S);
told(_, S) -> S.

-spec got(term(), #s{}) -> #s{}.
got(read_on, S) ->
    look(S);
got(resume, #s{user = {module, Module, State}} = S) ->
    look(taken(Module:frames([], State), Module, S#s{paused = false}));
got(untaken, #s{user = none} = S) ->
    start_closing(closed, S);
got(untaken, S) ->
    S;
got(flush_over, S) ->
    tell_closing(S);
got({'DOWN', Monitor, process, _, Why}, #s{membrane_monitor = Monitor} = S) ->
    finish(
        case Why of
            {shutdown, host_down} -> host_down;
            shutdown -> stopped;
            _ -> host_down
        end,
        S
    );
got({'DOWN', Monitor, process, _, _}, #s{user = {owner, _, Monitor}} = S) ->
    start_closing(closed, S#s{user = none});
got({irq, _}, S) ->
    S;
got({'EXIT', _, _}, S) ->
    S;
got(Message, S) ->
    other(Message, S).

%% For whoever uses the straw.
-spec other(term(), #s{}) -> #s{}.
other(Message, #s{user = {module, Module, State}, pore = Pore} = S) when Pore =/= closed ->
    case Module:message(Message, is_busy(S), State) of
        {ok, Frames, State1} -> put_out(Frames, S#s{user = {module, Module, State1}});
        {close, Reason, State1} -> start_closing(Reason, S#s{user = {module, Module, State1}})
    end;
other(_Message, S) ->
    S.

-spec reply(gen_server:from(), term(), #s{}) -> #s{}.
reply(From, Reply, S) ->
    gen_server:reply(From, Reply),
    S.

info_of(#s{key = {Role, Peer}, terms = Terms} = S) ->
    #{
        peer => Peer,
        we_opened => Role =:= passive,
        format => Terms#terms.format,
        dialect => Terms#terms.dialect,
        ring_bytes => Terms#terms.ring_bytes,
        unsent => unsent(S),
        frames_in => S#s.frames_in,
        frames_out => S#s.frames_out
    }.

unsent(#s{outbox = Outbox, batch_size = Size}) -> straw_outbox:size(Outbox) + Size.

is_busy(S) -> unsent(S) > ?UNSENT_LIMIT.

owned_by(Pid, S) ->
    (disowned(S))#s{user = {owner, Pid, monitor(process, Pid)}, active = 0}.

disowned(#s{user = {owner, _, Monitor}} = S) ->
    demonitor(Monitor, [flush]),
    S#s{user = none};
disowned(S) ->
    S.

credit(true, _) -> infinity;
credit(false, _) -> 0;
credit(N, infinity) -> max(0, N);
credit(N, Left) -> max(0, Left + N).

%% ── sending ──

put_out([], S) ->
    S;
put_out([Frame], #s{full = false, batch = Batch, batch_count = Count, batch_size = Size, frames_out = Out} = S) when
    is_binary(Frame), byte_size(Frame) =< ?SMALL
->
    case Count > 0 orelse straw_outbox:size(S#s.outbox) =:= 0 of
        true ->
            written_at(Size + 4 + byte_size(Frame), S#s{
                batch = [Frame | Batch],
                batch_count = Count + 1,
                batch_size = Size + 4 + byte_size(Frame),
                frames_out = Out + 1,
                dirty = true
            });
        false ->
            put_in_outbox([Frame], S)
    end;
put_out(Frames, S) ->
    put_in_outbox(Frames, S).

put_in_outbox(Frames, S0) ->
    #s{outbox = Outbox0, frames_out = Out} = S1 = unbatched(S0),
    Outbox = lists:foldl(fun straw_outbox:put/2, Outbox0, Frames),
    S = S1#s{outbox = Outbox, frames_out = Out + length(Frames)},
    case S#s.full of
        true -> S;
        false -> written_at(straw_outbox:size(Outbox), S#s{dirty = true})
    end.

%% In their order, before what comes now.
unbatched(#s{batch = []} = S) ->
    S;
unbatched(#s{batch = Batch, outbox = Outbox} = S) ->
    S#s{outbox = lists:foldr(fun straw_outbox:put/2, Outbox, Batch), batch = [], batch_count = 0, batch_size = 0}.

written_at(Size, S) when Size >= ?WRITE_AT -> flush(S);
written_at(_Size, S) -> S.

flush(#s{pore = Pore, ended = Ended} = S) when Pore =:= closed; Ended =/= '' ->
    S#s{dirty = false};
flush(#s{batch = [_ | _] = Batch, full = false, batch_count = Count, pore = Pore} = S) ->
    case pore:write_frames(Pore, lists:reverse(Batch)) of
        {ok, Count} ->
            sent(S#s{batch = [], batch_count = 0, batch_size = 0, dirty = false});
        {ok, Taken} ->
            flush_outbox(unbatched(S#s{batch = lists:sublist(Batch, Count - Taken)}));
        {big, _} ->
            flush_outbox(unbatched(S));
        {error, Reason} ->
            broken(Reason, S)
    end;
flush(S) ->
    flush_outbox(S).

flush_outbox(#s{outbox = Outbox, pore = Pore} = S) ->
    case straw_outbox:next(Outbox) of
        empty ->
            sent(S#s{dirty = false});
        {Length, Data, Rest} ->
            case pore:write(Pore, Data) of
                Length ->
                    flush_outbox(S#s{outbox = Rest});
                {error, Reason} ->
                    broken(Reason, S);
                N ->
                    <<_:N/binary, Left/binary>> = iolist_to_binary(Data),
                    sent(S#s{outbox = straw_outbox:back(Left, Rest), full = true, dirty = false})
            end
    end.

broken(Reason, S) ->
    ended(Reason, S#s{dirty = false, outbox = straw_outbox:new(), batch = [], batch_count = 0, batch_size = 0}).

%% Some has left: whoever waits for room has it, and a straw that is being closed may be empty.
sent(#s{senders = Senders, closing = Closing} = S) ->
    Size = unsent(S),
    case queue:is_empty(Senders) of
        false when Size =< ?UNSENT_LIMIT div 2 -> let_in(S);
        true when Size =:= 0, Closing =/= '' -> tell_closing(S);
        _ -> S
    end.

let_in(#s{senders = Senders} = S) ->
    case queue:out(Senders) of
        {{value, {From, Frame}}, Rest} ->
            gen_server:reply(From, ok),
            S1 = put_out([Frame], S#s{senders = Rest}),
            case is_busy(S1) of
                true -> S1;
                false -> let_in(S1)
            end;
        {empty, _} ->
            S
    end.

%% ── receiving ──

%% Something may have changed: more room, more data, the end.
look(#s{pore = Pore, ended = Ended} = S) when Pore =:= closed; Ended =/= '' ->
    S;
look(#s{pore = Pore} = S0) ->
    case pore:avail(Pore) of
        {error, Reason} -> ended(Reason, S0);
        {_In, _Out} -> read(?READ_TURN, flush(S0))
    end.

read(_Left, #s{active = 0} = S) -> S;
read(_Left, #s{paused = true} = S) -> S;
read(_Left, #s{user = none} = S) -> S;
read(_Left, #s{ended = Ended} = S) when Ended =/= '' -> S;
read(Left, S) when Left =< 0 ->
    self() ! read_on,
    S;
read(Left, #s{inbox = [_ | _]} = S) ->
    read(Left, deliver([], S));
read(Left, #s{pore = Pore, frames = Frames} = S) ->
    case straw_frames:is_partial(Frames) of
        false ->
            case pore:read_frames(Pore, ?READ) of
                {ok, []} -> S;
                {ok, Got} -> read(Left - iolist_size(Got), deliver(Got, S));
                {big, _} -> read_bytes(4, Left, S);
                {error, Reason} -> ended(Reason, S)
            end;
        true ->
            read_bytes(min(?READ_BIG, straw_frames:wanted(Frames)), Left, S)
    end.

read_bytes(N, Left, #s{pore = Pore, frames = Frames} = S) ->
    case pore:read(Pore, N) of
        <<>> ->
            S;
        {error, Reason} ->
            ended(Reason, S);
        Bytes ->
            {Got, Frames1} = straw_frames:bytes(Bytes, Frames),
            read(Left - byte_size(Bytes), deliver(Got, S#s{frames = Frames1}))
    end.

%% Frames go to whoever uses the straw, as far as they are wanted.
deliver(Got, #s{inbox = Inbox, frames_in = In, user = User} = S0) ->
    Large = [Length || {oversized, Length} <- Got],
    Frames = Inbox ++ [Frame || Frame <- Got, is_binary(Frame)],
    S = oversized(Large, S0#s{inbox = [], frames_in = In + length(Frames) - length(Inbox)}),
    case User of
        _ when Frames =:= [] -> S;
        {module, Module, State} ->
            taken(Module:frames(Frames, State), Module, S);
        {owner, Pid, _} ->
            to_owner(Frames, Pid, S);
        none ->
            S#s{inbox = Frames}
    end.

taken({ok, State}, Module, S) ->
    S#s{user = {module, Module, State}};
taken({pause, Time, State}, Module, S) ->
    erlang:send_after(Time, self(), resume),
    S#s{user = {module, Module, State}, paused = true};
taken({close, Reason, State}, Module, S) ->
    start_closing(Reason, S#s{user = {module, Module, State}}).

to_owner([], _Pid, S) ->
    S;
to_owner(Frames, _Pid, #s{active = 0} = S) ->
    S#s{inbox = Frames};
to_owner([Frame | Frames], Pid, #s{active = Active} = S) ->
    Pid ! {straw, self(), Frame},
    case Active of
        infinity ->
            to_owner(Frames, Pid, S);
        1 ->
            Pid ! {straw_passive, self()},
            to_owner(Frames, Pid, S#s{active = 0});
        _ ->
            to_owner(Frames, Pid, S#s{active = Active - 1})
    end.

oversized([], S) ->
    S;
oversized(Lengths, #s{user = {module, Module, State}} = S) ->
    S#s{user = {module, Module, lists:foldl(fun Module:oversized/2, State, Lengths)}};
oversized([Length | _], #s{membrane = Membrane, key = {_, Peer}} = S) ->
    membrane:report(Membrane, oversized, Peer, Length),
    S.

%% ── the end ──

%% The pore has found its end; the membrane finds out whose death it was, and says when it is over.
ended(Reason, #s{ended = '', membrane = Membrane, key = Key} = S0) ->
    membrane:straw_ended(Membrane, Key, self(), Reason),
    S0#s{ended = Reason, dirty = false};
ended(_Reason, S) ->
    S.

start_closing(Reason, #s{closing = ''} = S0) ->
    S = flush(S0#s{closing = Reason}),
    case unsent(S) of
        0 -> tell_closing(S);
        _ when S#s.ended =/= '' -> tell_closing(S);
        _ ->
            erlang:send_after(?FLUSH_TIME, self(), flush_over),
            S
    end;
start_closing(_Reason, S) ->
    S.

tell_closing(#s{closing = told} = S) ->
    S;
tell_closing(#s{closing = Reason, membrane = Membrane, key = Key} = S) ->
    membrane:close(Membrane, Key, self(), Reason),
    S#s{closing = told}.

take_last(#s{pore = closed} = S) ->
    S;
take_last(#s{pore = Pore, frames = Frames} = S0) ->
    {Got, Frames1} = straw_frames:bytes(iolist_to_binary(drain(Pore, in_size(Pore))), Frames),
    S = deliver_all(Got, S0#s{frames = Frames1}),
    pore:close(Pore),
    S#s{pore = closed, dirty = false, truncated = straw_frames:is_partial(Frames1)}.

in_size(Pore) ->
    case pore:info(Pore) of
        #{in_size := Size} -> Size;
        {error, _} -> 0
    end.

out_size(Pore) ->
    #{out_size := Size} = pore:info(Pore),
    Size.

%% At most one ring: a peer that goes on writing can't keep us.
drain(_Pore, Left) when Left =< 0 ->
    [];
drain(Pore, Left) ->
    case pore:read(Pore, min(Left, ?READ_BIG)) of
        <<_, _/binary>> = Bytes -> [Bytes | drain(Pore, Left - byte_size(Bytes))];
        _ -> []
    end.

%% What is left comes whether it was asked for or not.
deliver_all(Got, #s{user = {owner, _, _}} = S) ->
    (deliver(Got, S#s{active = infinity}))#s{active = 0};
deliver_all(Got, S) ->
    deliver(Got, S).

end_word(#s{ended = ''}) -> closed;
end_word(#s{ended = Ended}) -> Ended.

%% The process ends with the reason, which is no crash and leaves no report.
-spec finish(atom(), #s{}) -> no_return().
finish(Reason, S0) ->
    S = take_last(S0),
    lists:foreach(fun({From, _}) -> gen_server:reply(From, {error, Reason}) end, queue:to_list(S#s.senders)),
    case S#s.user of
        {owner, Pid, _} ->
            [Pid ! {straw_truncated, self()} || S#s.truncated],
            Pid ! {straw_closed, self(), Reason};
        {module, Module, State} ->
            Module:closed(Reason, S#s.truncated, State);
        none ->
            ok
    end,
    process_flag(trap_exit, false),
    exit(self(), Reason),
    receive after infinity -> ok end.
