%% One open tube: a process that owns the pore, and what an Erlang program does with it.
%%
%% Packets of 1 to 4096 bytes between two domains, each as it was sent; 31 at a time each way. It is the membrane's until it is
%% open, then its owner's: a process that asks for packets by recv/1,2, or gets messages:
%%
%%     {tube, Tube, Packet}             while it is active; by `active(Tube, N)` so many, then
%%     {tube_passive, Tube}
%%     {can_send, Tube, Slots}          what can_send/2 has asked for
%%     {tube_closed, Tube, Reason}      nothing comes after it. What was left in the tube came before, active or not
%%
%% The process ends when the tube does, with the reason, as a straw's: closed, peer_closed, peer_gone, host_down, corrupt,
%% stopped. It traps exits: to be linked to it does not close it.
-module(tube).
-behaviour(gen_server).

-export([open/1, open/2, accept/1, resend/0, send/2, send_nowait/2, can_send/1, can_send/2, recv/1, recv/2]).
-export([active/2, controlling_process/2, close/1, close/2, info/1]).
%% For the membrane.
-export([start/1, last_look/1, finished/2]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).
-export_type([tube/0, info/0, packet/0]).

-include("membrane.hrl").

-define(MEMBRANE, membrane_tubes).
-define(PACKET, 4096).
%% There are 31 each way: what is read when it ends, and what can be waited for.
-define(SLOTS, 31).
%% Packets that are read before messages get their turn.
-define(READ_TURN, 64).

-type tube() :: pid().
-type packet() :: iodata().
-type info() :: #{
    peer := non_neg_integer(), number := non_neg_integer(), we_opened := boolean(), dialect := ling | otp, _ => _
}.

-record(s, {
    membrane :: pid(),
    membrane_monitor :: reference(),
    key :: membrane_machine:key(),
    terms :: #terms{},
    pore :: pore:pore() | closed,
    owner = none :: none | {pid(), reference()},
    %% packets that the owner gets now
    active = 0 :: non_neg_integer() | infinity,
    %% the owner, who waits in recv
    receiver = none :: none | {gen_server:from(), reference() | none},
    %% who waits for a slot
    senders = queue:new() :: queue:queue({gen_server:from(), binary()}),
    %% slots that the owner wants to hear of; 0: none
    wish = 0 :: 0..?SLOTS,
    %% the pore's own end, as the membrane was told
    ended = '' :: atom()
}).

%% ── for who uses tubes ──

%% Opens a tube to a domain, for the caller; {error, self | not_found | timeout | limit | host_down | …} within 4.5 s.
-spec open(non_neg_integer()) -> {ok, tube()} | {error, atom()}.
open(Domid) -> open(Domid, #{}).

%% number: which of the tubes that we open to this domain, the first free one unless given ({error, exists}: it is open).
%% active: as active/2, false unless given.
-spec open(non_neg_integer(), #{number => non_neg_integer(), active => boolean() | pos_integer()}) ->
    {ok, tube()} | {error, atom()}.
open(Domid, Options) ->
    case membrane:open(?MEMBRANE, {Domid, maps:get(number, Options, any)}, #{}) of
        {ok, Tube, _Info} ->
            case call(Tube, take) of
                ok -> ok(active(Tube, maps:get(active, Options, false)), Tube);
                Error -> Error
            end;
        Error ->
            Error
    end.

ok(ok, Tube) -> {ok, Tube};
ok(Error, _Tube) -> Error.

%% A tube that another domain has opened becomes the caller's. Whoever is registered under the name that the application's key
%% `tubes` has gets {membrane, Pid, {tube, Tube, Info}}; what nobody accepts is closed after 10 s.
-spec accept(tube()) -> ok | {error, taken | atom()}.
accept(Tube) -> call(Tube, accept).

%% For who has been registered under that name anew: it hears once more of all tubes, also of those that are somebody's.
-spec resend() -> ok.
resend() ->
    case whereis(?MEMBRANE) of
        undefined -> ok;
        Membrane -> membrane:resend(Membrane)
    end.

%% Waits until a slot is free. That the peer has taken the packet nobody says.
-spec send(tube(), packet()) -> ok | {error, atom()}.
send(Tube, Packet) -> call(Tube, {send, checked(Packet), wait}).

%% {error, full}: no slot is free, nothing was done.
-spec send_nowait(tube(), packet()) -> ok | {error, full | atom()}.
send_nowait(Tube, Packet) -> call(Tube, {send, checked(Packet), nowait}).

checked(Packet) ->
    case iolist_to_binary(Packet) of
        Bytes when byte_size(Bytes) >= 1, byte_size(Bytes) =< ?PACKET -> Bytes;
        _ -> error(badarg)
    end.

%% How many packets can be sent now.
-spec can_send(tube()) -> 0..?SLOTS | {error, atom()}.
can_send(Tube) -> call(Tube, can_send).

%% Whether so many can. false: the owner, who is the one to ask, gets {can_send, Tube, Slots} when they can; once.
-spec can_send(tube(), 1..?SLOTS) -> boolean() | {error, not_owner | atom()}.
can_send(Tube, Slots) when Slots >= 1, Slots =< ?SLOTS -> call(Tube, {can_send, Slots}).

%% The next packet, for the owner. An error only after the last one.
-spec recv(tube()) -> {ok, binary()} | {error, not_owner | atom()}.
recv(Tube) -> recv(Tube, infinity).

-spec recv(tube(), timeout()) -> {ok, binary()} | {error, timeout | not_owner | atom()}.
recv(Tube, Timeout) ->
    case came(Tube) of
        none ->
            case call(Tube, {recv, Timeout}) of
                {ok, Packet} -> {ok, Packet};
                % what was left when it ended has come as messages
                Error -> first(came(Tube), Error)
            end;
        Packet ->
            Packet
    end.

came(Tube) ->
    receive
        {tube, Tube, Packet} -> {ok, Packet}
    after 0 -> none
    end.

first(none, Error) -> Error;
first(Packet, _Error) -> Packet.

%% How many packets come as messages from now on: true all, false none, a number so many more (or fewer: it may be negative).
-spec active(tube(), boolean() | integer()) -> ok | {error, atom()}.
active(Tube, Active) -> call(Tube, {active, Active}).

%% Only the owner may.
-spec controlling_process(tube(), pid()) -> ok | {error, not_owner | atom()}.
controlling_process(Tube, Pid) -> call(Tube, {controlling_process, Pid}).

-spec close(tube()) -> ok.
close(Tube) -> close(Tube, closed).

%% What is in the slots the peer still gets. Returns when it is closed.
-spec close(tube(), atom()) -> ok.
close(Tube, Reason) ->
    Monitor = monitor(process, Tube),
    gen_server:cast(Tube, {close, Reason}),
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    end.

-spec info(tube()) -> info() | {error, atom()}.
info(Tube) -> call(Tube, info).

call(Tube, Request) ->
    try
        gen_server:call(Tube, Request, infinity)
    catch
        exit:{Reason, {gen_server, call, _}} -> {error, word(Reason)}
    end.

%% Why there is no answer: what the tube has ended with.
word(Reason) when is_atom(Reason), Reason =/= noproc, Reason =/= normal, Reason =/= killed -> Reason;
word(_) -> closed.

%% ── for the membrane ──

%% Makes the pore over memory and channels; not linked, it ends with the membrane.
-spec start(#{
    membrane := pid(), key := membrane_machine:key(), terms := #terms{}, memory := term(), channels := [term()]
}) -> {ok, tube()} | {error, term()}.
start(Options) ->
    gen_server:start(?MODULE, Options, []).

%% Takes what is left, at most all slots, and closes the pore: the memory is about to go.
-spec last_look(tube()) -> ok | {error, atom()}.
last_look(Tube) -> call(Tube, last_look).

%% It is over, by the membrane's word.
-spec finished(tube(), atom()) -> ok.
finished(Tube, Reason) -> gen_server:cast(Tube, {finished, Reason}).

%% ── the process ──

-spec init(map()) -> {ok, #s{}} | {stop, term()}.
init(#{membrane := Membrane, key := {Role, _} = Key, terms := Terms, memory := Memory, channels := Channels}) ->
    process_flag(trap_exit, true),
    case pore_tube:new(Role, Memory, Channels, false) of
        {ok, Pore} ->
            {ok, #s{
                membrane = Membrane, membrane_monitor = monitor(process, Membrane), key = Key, terms = Terms, pore = Pore
            }};
        {error, Reason} ->
            {stop, {shutdown, Reason}}
    end.

-spec handle_call(term(), gen_server:from(), #s{}) -> {noreply, #s{}} | {reply, term(), #s{}}.
handle_call({send, _Packet, nowait}, _From, #s{ended = Ended, pore = Pore} = S) when Ended =/= ''; Pore =:= closed ->
    {reply, {error, end_word(S)}, S};
handle_call({send, Packet, How}, From, #s{senders = Senders} = S) ->
    % in their order; after its end the membrane will say why: a peer that is gone may have been its host
    case queue:is_empty(Senders) of
        true -> flush(S#s{senders = queue:in({From, Packet}, Senders)}, How);
        false when How =:= nowait -> {reply, {error, full}, S};
        false -> {noreply, S#s{senders = queue:in({From, Packet}, Senders)}}
    end;
handle_call({recv, Timeout}, {Pid, _} = From, #s{owner = {Pid, _}} = S) ->
    Timer =
        case Timeout of
            infinity -> none;
            _ -> erlang:start_timer(Timeout, self(), recv)
        end,
    {noreply, read(look(S#s{receiver = {From, Timer}}))};
handle_call({active, Active}, _From, S) ->
    {reply, ok, read(look(S#s{active = credit(Active, S#s.active)}))};
handle_call(can_send, _From, S) ->
    case slots(S) of
        {error, Reason} -> {reply, {error, Reason}, S};
        Slots -> {reply, Slots, S}
    end;
handle_call({can_send, Slots}, {Pid, _}, #s{owner = {Pid, _}} = S) ->
    case slots(S) of
        {error, Reason} -> {reply, {error, Reason}, S};
        Free when Free >= Slots -> {reply, true, S};
        _ -> {reply, false, wish(S#s{wish = Slots})}
    end;
handle_call(take, {Pid, _}, #s{owner = none} = S) ->
    {reply, ok, look(owned_by(Pid, S))};
handle_call(accept, {Pid, _}, #s{owner = none, key = {active, _}} = S) ->
    {reply, ok, look(owned_by(Pid, S))};
handle_call(accept, _From, S) ->
    {reply, {error, taken}, S};
handle_call({controlling_process, Pid}, {From, _}, #s{owner = {From, _}} = S) ->
    {reply, ok, owned_by(Pid, S)};
handle_call(info, _From, #s{key = {Role, {Peer, Number}}, terms = Terms} = S) ->
    {reply, #{peer => Peer, number => Number, we_opened => Role =:= passive, dialect => Terms#terms.dialect}, S};
handle_call(last_look, _From, S) ->
    {reply, ok, take_last(S)};
handle_call(_Request, _From, S) ->
    {reply, {error, not_owner}, S}.

-spec handle_cast(term(), #s{}) -> {noreply, #s{}}.
handle_cast({close, Reason}, S) ->
    {noreply, start_closing(Reason, S)};
handle_cast({finished, Reason}, S) ->
    finish(Reason, S).

-spec handle_info(term(), #s{}) -> {noreply, #s{}}.
handle_info({irq, Pore}, #s{pore = Pore} = S) ->
    {noreply, read(look(S))};
handle_info(read_on, S) ->
    {noreply, read(S)};
handle_info({timeout, Timer, recv}, #s{receiver = {From, Timer}} = S) ->
    gen_server:reply(From, {error, timeout}),
    {noreply, S#s{receiver = none}};
handle_info(untaken, #s{owner = none} = S) ->
    {noreply, start_closing(closed, S)};
handle_info({'DOWN', Monitor, process, _, Why}, #s{membrane_monitor = Monitor} = S) ->
    finish(
        case Why of
            shutdown -> stopped;
            _ -> host_down
        end,
        S
    );
handle_info({'DOWN', Monitor, process, _, _}, #s{owner = {_, Monitor}} = S) ->
    {noreply, start_closing(closed, S#s{owner = none, receiver = none})};
handle_info(_Message, S) ->
    {noreply, S}.

-spec terminate(term(), #s{}) -> ok.
terminate(_Reason, _S) -> ok.

owned_by(Pid, #s{owner = Owner} = S) ->
    _ = [demonitor(Monitor, [flush]) || {_, Monitor} <- [Owner]],
    S#s{owner = {Pid, monitor(process, Pid)}, active = 0, wish = 0}.

credit(true, _) -> infinity;
credit(false, _) -> 0;
credit(N, infinity) -> max(0, N);
credit(N, Left) -> max(0, Left + N).

%% Something may have changed: free slots, packets, the end.
look(#s{pore = Pore, ended = Ended} = S) when Pore =:= closed; Ended =/= '' ->
    S;
look(#s{pore = Pore} = S) ->
    case pore_tube:avail(Pore) of
        {error, Reason} -> ended(Reason, S);
        {_Packets, _Slots} -> wish(flushed(S))
    end.

%% ── sending ──

%% What waits, as far as there are slots. A single one that does not wait gets its answer at once.
flush(S0, nowait) ->
    case flushed(S0) of
        #s{senders = Senders} = S ->
            case queue:out(Senders) of
                {empty, _} -> {noreply, S};
                {{value, {From, _}}, Left} when S#s.ended =:= '' ->
                    gen_server:reply(From, {error, full}),
                    {noreply, S#s{senders = Left}};
                {{value, {From, _}}, Left} ->
                    gen_server:reply(From, {error, end_word(S)}),
                    {noreply, S#s{senders = Left}}
            end
    end;
flush(S, wait) ->
    {noreply, flushed(S)}.

flushed(#s{pore = Pore, ended = Ended} = S) when Pore =:= closed; Ended =/= '' ->
    S;
flushed(#s{pore = Pore, senders = Senders} = S) ->
    case queue:out(Senders) of
        {empty, _} ->
            S;
        {{value, {From, Packet}}, Left} ->
            case pore_tube:send(Pore, Packet) of
                ok ->
                    gen_server:reply(From, ok),
                    flushed(S#s{senders = Left});
                full ->
                    S;
                {error, Reason} ->
                    ended(Reason, S)
            end
    end.

slots(#s{ended = Ended, pore = Pore} = S) when Ended =/= ''; Pore =:= closed -> {error, end_word(S)};
slots(#s{pore = Pore}) -> pore_tube:slots(Pore).

%% Those that wait to send come first.
wish(#s{wish = Wish, senders = Senders, owner = {Pid, _}, pore = Pore, ended = ''} = S) when Wish > 0 ->
    case queue:is_empty(Senders) andalso pore_tube:notify_when(Pore, Wish) of
        true ->
            Pid ! {can_send, self(), pore_tube:slots(Pore)},
            S#s{wish = 0};
        _ ->
            S
    end;
wish(S) ->
    S.

%% ── receiving ──

read(S) -> read(?READ_TURN, S).

read(_Left, #s{active = 0, receiver = none} = S) -> S;
read(_Left, #s{pore = Pore, ended = Ended} = S) when Pore =:= closed; Ended =/= '' -> S;
read(0, S) ->
    self() ! read_on,
    S;
read(Left, #s{pore = Pore} = S) ->
    case pore_tube:recv(Pore) of
        {ok, Packet} -> read(Left - 1, deliver(Packet, S));
        none -> S;
        {error, Reason} -> ended(Reason, S)
    end.

deliver(Packet, #s{receiver = {From, Timer}} = S) ->
    _ = Timer =/= none andalso erlang:cancel_timer(Timer),
    gen_server:reply(From, {ok, Packet}),
    S#s{receiver = none};
deliver(Packet, #s{owner = {Pid, _}, active = Active} = S) ->
    Pid ! {tube, self(), Packet},
    case Active of
        infinity ->
            S;
        1 ->
            Pid ! {tube_passive, self()},
            S#s{active = 0};
        _ ->
            S#s{active = Active - 1}
    end;
deliver(_Packet, S) ->
    S.

%% ── the end ──

%% The pore has found its end; the membrane finds out whose death it was, and says when it is over.
ended(Reason, #s{ended = '', membrane = Membrane, key = Key} = S) ->
    membrane:straw_ended(Membrane, Key, self(), Reason),
    S#s{ended = Reason};
ended(_Reason, S) ->
    S.

start_closing(Reason, #s{membrane = Membrane, key = Key} = S) ->
    membrane:close(Membrane, Key, self(), Reason),
    S.

%% What is left comes whether it was asked for or not.
take_last(#s{pore = closed} = S) ->
    S;
take_last(#s{pore = Pore} = S0) ->
    S = drain(?SLOTS, S0#s{active = infinity}),
    pore:close(Pore),
    S#s{pore = closed, active = 0}.

drain(0, S) ->
    S;
drain(Left, #s{pore = Pore} = S) ->
    case pore_tube:recv(Pore) of
        {ok, Packet} -> drain(Left - 1, deliver(Packet, S));
        _ -> S
    end.

end_word(#s{ended = ''}) -> closed;
end_word(#s{ended = Ended}) -> Ended.

%% The process ends with the reason, which is no crash and leaves no report.
-spec finish(atom(), #s{}) -> no_return().
finish(Reason, S0) ->
    #s{senders = Senders, receiver = Receiver, owner = Owner} = take_last(S0),
    Waiting = [From || {From, _} <- queue:to_list(Senders) ++ [Receiver || Receiver =/= none]],
    lists:foreach(fun(From) -> gen_server:reply(From, {error, Reason}) end, Waiting),
    _ = [Pid ! {tube_closed, self(), Reason} || {Pid, _} <- [Owner]],
    process_flag(trap_exit, false),
    exit(self(), Reason),
    receive after infinity -> ok end.
