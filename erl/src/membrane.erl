%% The membrane: carries out what its machine asks for, and hands open pores to who has them.
%%
%% One per domain and kind of pores (membrane_kind), registered: `membrane` has the straws, `membrane_tubes` the tubes. What is
%% done when is membrane_machine's; here are time, the store (membrane_store), memory and channels (straw_backend), and a
%% process for each pore (straw, tube). Nothing here waits: work that may wait is done by processes of its own.
%%
%% The controller (a registered name: strawman) gets {membrane, Pid, {up, Domid}} and {membrane, Pid, {straw, Straw, Info}}
%% for the straws that others have opened, and `tube` in the place of `straw` for tubes.
-module(membrane).
-behaviour(gen_server).

-export([start_link/1, open/2, open/3, open_async/3, give_up/1, straws/0, pores/0, pores/1, counts/0, counts/1, resend/1]).
-export([straw_ended/4, close/4, report/4]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-include("membrane.hrl").
-include_lib("kernel/include/logger.hrl").

%% Milliseconds between two log lines of one kind: strangers can't fill a disk.
-define(LOG_EVERY, 1000).
%% Milliseconds after which an open pore that nobody has taken is closed: who asked for it has died meanwhile.
-define(TAKE_TIME, 10000).
%% What a stop may take: the machine's own limit and some work.
-define(STOP_TIME, 6000).

%% What one pore has of the backend, until all is given back, and its process.
-record(held, {
    process :: pid(),
    monitor :: reference(),
    things :: membrane_kind:things(),
    opened = false :: boolean()
}).

-record(s, {
    machine :: membrane_machine:machine(),
    domid :: integer(),
    kind :: module(),
    %% that of its pores' processes
    module :: module(),
    controller :: atom() | pid(),
    watcher :: pid(),
    wishes :: #terms{},
    held = #{} :: #{membrane_machine:key() => #held{}},
    %% work under way, by the monitor of who does it
    workers = #{} :: #{reference() => membrane_machine:work() | {ended, membrane_machine:key(), atom()}},
    opening = #{} :: #{membrane_keys:who() => {pid(), term(), reference()}},
    timer :: undefined | reference(),
    logged = #{} :: #{atom() => integer()},
    stopping = false :: boolean()
}).

%% ── for who uses it ──

%% kind: membrane_straw unless given; name: what it is registered as. controller: who hears of pores that others open.
%% wishes, limits: other ones than the machine's.
-spec start_link(#{
    controller := atom() | pid(), kind => module(), name => atom(), wishes => #terms{}, limits => #limits{}
}) -> gen_server:start_ret().
start_link(Options) ->
    gen_server:start_link({local, maps:get(name, Options, ?MODULE)}, ?MODULE, Options, []).

%% Within 4.5 s. The straw is nobody's until it is taken (straw:take/3).
-spec open(non_neg_integer(), #{format => erlang | json}) -> {ok, pid(), straw:info()} | {error, atom()}.
open(Domid, Options) ->
    open(?MODULE, Domid, Options).

%% The same of any membrane. {Domid, any}, of many: with a number that is free.
-spec open(atom(), non_neg_integer() | {non_neg_integer(), any | non_neg_integer()}, map()) ->
    {ok, pid(), #{peer := non_neg_integer(), _ => _}} | {error, atom()}.
open(Name, Who, Options) ->
    case whereis(Name) of
        undefined ->
            {error, host_down};
        Membrane ->
            Monitor = monitor(process, Membrane),
            gen_server:cast(Membrane, {open, Who, Options, self(), Monitor}),
            receive
                {membrane_opened, Monitor, Result} ->
                    demonitor(Monitor, [flush]),
                    Result;
                {'DOWN', Monitor, process, _, _} ->
                    {error, host_down}
            end
    end.

%% The caller gets {membrane_opened, Tag, {ok, Straw, Info} | {error, Reason}}, unless the membrane ends before.
-spec open_async(non_neg_integer(), #{format => erlang | json}, term()) -> ok.
open_async(Domid, Options, Tag) ->
    gen_server:cast(?MODULE, {open, Domid, Options, self(), Tag}).

%% Nobody waits for it any more.
-spec give_up(non_neg_integer()) -> ok.
give_up(Domid) ->
    gen_server:cast(?MODULE, {give_up, Domid}).

%% All that are open, ours and others'.
-spec straws() -> [{pid(), straw:info()}].
straws() ->
    gen_server:call(?MODULE, straws).

%% All that are under way, with their states: for tests and status.
-spec pores() -> #{membrane_machine:key() => atom()}.
pores() ->
    pores(?MODULE).

-spec pores(atom()) -> #{membrane_machine:key() => atom()}.
pores(Name) ->
    gen_server:call(Name, pores).

%% What was refused, ignored or given up, by a short word.
-spec counts() -> #{atom() => pos_integer()}.
counts() ->
    counts(?MODULE).

-spec counts(atom()) -> #{atom() => pos_integer()}.
counts(Name) ->
    gen_server:call(Name, counts).

%% A controller that was started anew hears once more what there is.
-spec resend(pid()) -> ok.
resend(Membrane) ->
    gen_server:cast(Membrane, resend).

%% ── for straws and tubes ──

%% Its pore has found its end.
-spec straw_ended(pid(), membrane_machine:key(), pid(), atom()) -> ok.
straw_ended(Membrane, Key, Straw, Reason) ->
    gen_server:cast(Membrane, {straw_ended, Key, Straw, Reason}).

%% It wants to be closed.
-spec close(pid(), membrane_machine:key(), pid(), atom()) -> ok.
close(Membrane, Key, Straw, Reason) ->
    gen_server:cast(Membrane, {close, Key, Straw, Reason}).

-spec report(pid(), atom(), integer(), term()) -> ok.
report(Membrane, What, Peer, Detail) ->
    gen_server:cast(Membrane, {report, What, Peer, Detail}).

%% ── the process ──

-spec init(map()) -> {ok, #s{}} | {stop, term()}.
init(#{controller := Controller} = Options) ->
    process_flag(trap_exit, true),
    Kind = maps:get(kind, Options, membrane_straw),
    #layout{kind = Word} = Kind:layout(),
    case straw_backend:take_lock(Word) of
        ok ->
            ok = straw_backend:subscribe(self()),
            Domid = straw_backend:domid(),
            Machine = membrane_machine:new(Domid, maps:with([kind, limits, wishes], Options)),
            S = #s{
                machine = membrane_machine:start(now_ms(), Machine),
                domid = Domid,
                kind = Kind,
                module = Kind:process(),
                controller = Controller,
                wishes = maps:get(wishes, Options, Kind:wishes()),
                watcher = membrane_store:start_watcher(self())
            },
            started(pump(S));
        {error, _} ->
            {stop, {shutdown, list_to_atom(atom_to_list(Word) ++ "_taken")}}
    end.

%% Knocks are heard before start_link returns.
started(S) ->
    case membrane_machine:state(S#s.machine) of
        running ->
            {ok, S};
        stopped ->
            {stop, {shutdown, host_down}};
        _ ->
            receive
                % calls and casts wait until it is up
                Message when element(1, Message) =/= '$gen_call', element(1, Message) =/= '$gen_cast' ->
                    case handle_info(Message, S) of
                        {noreply, S1} -> started(S1);
                        {stop, Reason, _} -> {stop, Reason}
                    end
            end
    end.

-spec handle_call(term(), gen_server:from(), #s{}) -> {reply, term(), #s{}}.
handle_call(straws, _From, S) ->
    {reply, open_straws(S), S};
handle_call(pores, _From, S) ->
    {reply, membrane_machine:pores(S#s.machine), S};
handle_call(counts, _From, S) ->
    {reply, membrane_machine:counts(S#s.machine), S}.

-spec handle_cast(term(), #s{}) -> {noreply, #s{}} | {stop, term(), #s{}}.
handle_cast({open, {Domid, any}, Options, Pid, Tag}, S) ->
    handle_cast({open, {Domid, free_number(Domid, S)}, Options, Pid, Tag}, S);
handle_cast({open, Who, Options, Pid, Tag}, #s{opening = Opening, machine = Machine, wishes = Wishes} = S) ->
    case is_map_key(Who, Opening) of
        true ->
            Pid ! {membrane_opened, Tag, {error, exists}},
            {noreply, S};
        false ->
            Liked =
                case maps:get(format, Options, erlang) of
                    erlang -> undefined;
                    Format -> Wishes#terms{format = Format}
                end,
            S1 = S#s{opening = Opening#{Who => {Pid, Tag, monitor(process, Pid)}}},
            next(S1#s{machine = membrane_machine:open(Who, Liked, now_ms(), Machine)})
    end;
handle_cast({give_up, Who}, S) ->
    next(gave_up(Who, S));
handle_cast({straw_ended, Key, Straw, Reason}, #s{held = Held} = S) ->
    case Held of
        #{Key := #held{process = Straw}} when Reason =:= peer_gone ->
            %% The end of a channel alone says nothing: a host that dies takes the peers with it. What answers now has
            %% outlived it.
            {noreply, work({ended, Key, Reason}, fun() -> straw_backend:domains() end, S)};
        #{Key := #held{process = Straw}} ->
            next(S#s{machine = membrane_machine:ended(Key, Reason, now_ms(), S#s.machine)});
        _ ->
            {noreply, S}
    end;
handle_cast({close, Key, Straw, Reason}, #s{held = Held} = S) ->
    case Held of
        #{Key := #held{process = Straw}} ->
            next(S#s{machine = membrane_machine:close(Key, Reason, now_ms(), S#s.machine)});
        _ ->
            {noreply, S}
    end;
handle_cast({report, What, Peer, Detail}, #s{machine = Machine} = S) ->
    next(S#s{machine = membrane_machine:report(What, Peer, Detail, Machine)});
handle_cast(resend, S) ->
    tell_controller({up, S#s.domid}, S),
    [tell_came(Straw, Info, S) || {Straw, Info} <- open_straws(S)],
    {noreply, S}.

-spec handle_info(term(), #s{}) -> {noreply, #s{}} | {stop, term(), #s{}}.
handle_info({timeout, Timer, machine}, #s{timer = Timer, machine = Machine} = S) ->
    next(S#s{timer = undefined, machine = membrane_machine:timer(now_ms(), Machine)});
handle_info({changed, Path}, S) ->
    next(S#s{machine = changed(Path, S)});
handle_info({done, Worker, Result}, #s{workers = Workers} = S) ->
    case maps:take(Worker, Workers) of
        {Work, Left} ->
            demonitor(Worker, [flush]),
            next(done(Work, Result, S#s{workers = Left}));
        error ->
            {noreply, S}
    end;
handle_info({straw_backend, {domain_gone, Peer}}, #s{machine = Machine} = S) ->
    next(S#s{machine = membrane_machine:domain_gone(Peer, now_ms(), Machine)});
handle_info({straw_backend, {down, _Why}}, S) ->
    down(S);
handle_info({'EXIT', Watcher, _}, #s{watcher = Watcher} = S) ->
    down(S);
handle_info({'EXIT', _, Reason}, S) when Reason =/= normal ->
    {stop, Reason, S};
handle_info({'DOWN', Monitor, process, Pid, Reason}, #s{workers = Workers, held = Held, opening = Opening} = S) ->
    case maps:take(Monitor, Workers) of
        {Work, Left} ->
            ?LOG_ERROR("membrane: ~tp failed: ~tp", [Work, Reason]),
            next(done(Work, failed(Work), S#s{workers = Left}));
        error ->
            case [Key || {Key, #held{process = Process}} <- maps:to_list(Held), Process =:= Pid] of
                [Key] ->
                    % it was killed, or has ended as it was told
                    next(S#s{machine = membrane_machine:close(Key, closed, now_ms(), S#s.machine)});
                [] ->
                    Left = [Who || {Who, {_, _, M}} <- maps:to_list(Opening), M =:= Monitor],
                    next(lists:foldl(fun gave_up/2, S, Left))
            end
    end;
handle_info(_Message, S) ->
    {noreply, S}.

%% In order, if the store lives: everybody is told, and nothing stays there.
-spec terminate(term(), #s{}) -> ok.
terminate(_Reason, #s{machine = Machine} = S) ->
    case {membrane_machine:state(Machine), whereis(xenstore)} of
        {stopped, _} ->
            ok;
        {_, undefined} ->
            _ = pump(S#s{machine = membrane_machine:host_down(now_ms(), Machine)}),
            ok;
        _ ->
            Timer = erlang:send_after(?STOP_TIME, self(), stop_over),
            stopped(pump(S#s{stopping = true, machine = membrane_machine:stop(now_ms(), Machine)})),
            _ = erlang:cancel_timer(Timer),
            ok
    end.

stopped(S) ->
    case membrane_machine:state(S#s.machine) of
        stopped ->
            ok;
        _ ->
            receive
                stop_over -> ok;
                {'$gen_call', From, _} -> gen_server:reply(From, {error, stopped}), stopped(S);
                {'$gen_cast', Cast} -> stopped(element(2, handle_cast(Cast, S)));
                Message ->
                    case handle_info(Message, S) of
                        {noreply, S1} -> stopped(S1);
                        {stop, _, _} -> ok
                    end
            end
    end.

down(#s{machine = Machine} = S) ->
    next(S#s{machine = membrane_machine:host_down(now_ms(), Machine)}).

gave_up(Who, #s{opening = Opening, machine = Machine} = S) ->
    case maps:take(Who, Opening) of
        {{_, _, Monitor}, Left} ->
            demonitor(Monitor, [flush]),
            S#s{opening = Left, machine = membrane_machine:give_up(Who, now_ms(), Machine)};
        error ->
            S
    end.

%% The first that no pore of ours to this domain has.
free_number(Domid, #s{machine = Machine, opening = Opening}) ->
    Used = [Who || {passive, Who} <- maps:keys(membrane_machine:pores(Machine))] ++ maps:keys(Opening),
    hd(lists:seq(1, length(Used) + 1) -- [Number || {Peer, Number} <- Used, Peer =:= Domid]).

open_straws(#s{held = Held} = S) ->
    [{Process, info(Key, S)} || {Key, #held{process = Process, opened = true}} <- maps:to_list(Held)].

info({Role, Who} = Key, #s{machine = Machine}) ->
    #terms{format = Format, dialect = Dialect, ring_bytes = Ring} = membrane_machine:terms(Key, Machine),
    Info = #{peer => membrane_keys:peer(Who), we_opened => Role =:= passive, dialect => Dialect},
    case Who of
        {_, Number} -> Info#{number => Number};
        _ -> Info#{format => Format, ring_bytes => Ring}
    end.

%% ── the machine's outputs ──

next(S0) ->
    S = pump(S0),
    case membrane_machine:state(S#s.machine) of
        stopped when not S#s.stopping -> {stop, {shutdown, host_down}, S};
        _ -> {noreply, S}
    end.

%% Carries on until the machine wants nothing more now.
pump(#s{machine = Machine0} = S0) ->
    {Works, Events, Machine} = membrane_machine:take(Machine0),
    S1 = lists:foldl(fun start_work/2, S0#s{machine = Machine}, Works),
    S2 = lists:foldl(fun event/2, S1, Events),
    case {Works, Events} of
        {[], []} -> set_timer(S2);
        _ -> pump(S2)
    end.

set_timer(#s{timer = Old, machine = Machine} = S) ->
    _ = Old =/= undefined andalso erlang:cancel_timer(Old),
    case membrane_machine:get_timer(Machine) of
        undefined -> S#s{timer = undefined};
        At -> S#s{timer = erlang:start_timer(At, self(), machine, [{abs, true}])}
    end.

event(started, S) ->
    tell_controller({up, S#s.domid}, S),
    S;
event(stopped, #s{opening = Opening, held = Held, stopping = Stopping} = S) ->
    Word =
        case Stopping of
            true -> stopped;
            false -> host_down
        end,
    [Pid ! {membrane_opened, Tag, {error, Word}} || {Pid, Tag, _} <- maps:values(Opening)],
    [(S#s.module):finished(Process, Word) || #held{process = Process} <- maps:values(Held)],
    S#s{opening = #{}, held = #{}};
event({opened, {_, Who} = Key, _Terms, Asked}, #s{held = Held, opening = Opening} = S0) ->
    #{Key := #held{process = Process} = H} = Held,
    _ = erlang:send_after(?TAKE_TIME, Process, untaken),
    S = S0#s{held = Held#{Key := H#held{opened = true}}},
    case maps:take(Who, Opening) of
        {{Pid, Tag, Monitor}, Left} when Asked ->
            demonitor(Monitor, [flush]),
            Pid ! {membrane_opened, Tag, {ok, Process, info(Key, S)}},
            S#s{opening = Left};
        _ ->
            tell_came(Process, info(Key, S), S),
            S
    end;
event({refused, Who, Reason}, #s{opening = Opening} = S) ->
    case maps:take(Who, Opening) of
        {{Pid, Tag, Monitor}, Left} ->
            demonitor(Monitor, [flush]),
            Pid ! {membrane_opened, Tag, {error, Reason}},
            S#s{opening = Left};
        error ->
            S
    end;
event({closed, Key, Reason}, #s{held = Held, module = Module} = S) ->
    case Held of
        #{Key := #held{process = Process}} -> Module:finished(Process, Reason);
        _ -> ok
    end,
    S;
event({reported, What, Peer, Detail}, #s{logged = Logged, machine = Machine, kind = Kind} = S) ->
    Now = now_ms(),
    case Logged of
        #{What := At} when Now - At < ?LOG_EVERY ->
            S;
        _ ->
            #{What := Count} = membrane_machine:counts(Machine),
            Level =
                case What of
                    withdrawn -> debug;
                    _ -> warning
                end,
            #layout{kind = Word} = Kind:layout(),
            ?LOG(Level, "~ws: domain ~w: ~ts ~tp (~w in all)", [Word, Peer, What, Detail, Count]),
            S#s{logged = Logged#{What => Now}}
    end.

%% Of a pore that nobody here has asked for.
tell_came(Process, Info, #s{kind = Kind} = S) ->
    #layout{kind = Word} = Kind:layout(),
    tell_controller({Word, Process, Info}, S).

tell_controller(What, #s{controller = Controller}) ->
    try
        Controller ! {membrane, self(), What},
        ok
    catch
        error:badarg -> ok
    end.

%% What a changed path is about: a knock, or the peer of one of our pores.
changed(Path, #s{machine = Machine, domid = Me, kind = Kind}) ->
    case membrane_keys:about(Kind:layout(), Me, Path) of
        knock -> membrane_machine:knocked(Path, now_ms(), Machine);
        undefined -> Machine;
        Key -> membrane_machine:changed(Key, now_ms(), Machine)
    end.

%% ── work ──

start_work({store, _, _, _, Steps} = Work, #s{watcher = Watcher} = S) ->
    work(Work, fun() -> membrane_store:perform(Steps, Watcher) end, S);
start_work({pore, {_, Who} = Key, _, Verb, Terms, Offer} = Work, #s{held = Held, kind = Kind, module = Module} = S) ->
    Options = #{membrane => self(), key => Key, terms => Terms},
    Peer = membrane_keys:peer(Who),
    Do =
        case {Verb, Held} of
            {grant, _} -> fun() -> make(Kind, Options, Kind:offer(Peer, Terms)) end;
            {attach, _} -> fun() -> make(Kind, Options, attached(Kind:attach(Peer, Offer, Terms), Offer)) end;
            {_, #{Key := #held{} = H}} -> fun() -> give_back(Verb, Module, H) end;
            {_, _} -> fun() -> ok end
        end,
    work(Work, Do, S).

work(What, Do, #s{workers = Workers} = S) ->
    Membrane = self(),
    {Pid, Monitor} = spawn_monitor(fun() ->
        receive
            {go, Me} -> Membrane ! {done, Me, Do()}
        end
    end),
    Pid ! {go, Monitor},
    S#s{workers = Workers#{Monitor => What}}.

failed({store, _, _, _, _}) -> {[], eio};
failed({pore, _, _, _, _, _}) -> {error, failed};
failed({ended, _, _}) -> {error, failed}.

done({store, _, _, _, _} = Work, Result, #s{machine = Machine} = S) ->
    S#s{machine = membrane_machine:store_result(Work, Result, now_ms(), Machine)};
done({ended, _, _}, {error, host_down}, S) ->
    S;
done({ended, Key, Reason}, _, #s{machine = Machine} = S) ->
    S#s{machine = membrane_machine:ended(Key, Reason, now_ms(), Machine)};
done({pore, Key, _, _, _, _} = Work, {made, Process, Things, Offer}, #s{held = Held} = S) ->
    H = #held{process = Process, monitor = monitor(process, Process), things = Things},
    pore_result(Work, {ok, Offer}, S#s{held = Held#{Key => H}});
done({pore, _, _, _, _, _} = Work, busy, S) ->
    pore_result(Work, busy, S);
done({pore, _, _, Verb, _, _} = Work, {error, _} = Error, S) when Verb =:= grant; Verb =:= attach; Verb =:= withdraw ->
    pore_result(Work, Error, S);
done({pore, Key, _, _, _, _} = Work, Result, #s{held = Held} = S0) ->
    S = pore_result(Work, Result, S0),
    case maps:take(Key, Held) of
        {#held{process = Process, monitor = Monitor}, Left} ->
            demonitor(Monitor, [flush]),
            % one that was opened is told by its own event why
            S1 = pump(S),
            (S#s.module):finished(Process, closed),
            S1#s{held = Left};
        error ->
            S
    end.

pore_result(Work, Result, #s{machine = Machine} = S) ->
    S#s{machine = membrane_machine:pore_result(Work, Result, now_ms(), Machine)}.

%% What follows runs in a process of its own. Whatever it has got belongs to the membrane when it is done.
make(Kind, #{membrane := Membrane} = Options, {ok, {Memory, Channels} = Things, Offer}) ->
    case Kind:start(Options, Things) of
        {ok, Process} ->
            case lists:usort([straw_backend:give_away(Thing, Membrane) || Thing <- [Memory | Channels]]) of
                [ok] -> {made, Process, Things, Offer};
                _ -> {error, host_down}
            end;
        {error, {shutdown, Errno}} ->
            {error, word(Errno)};
        {error, _} ->
            {error, failed}
    end;
make(_Kind, _Options, {error, Errno}) ->
    {error, word(Errno)}.

attached({ok, Things}, Offer) -> {ok, Things, Offer};
attached(Error, _Offer) -> Error.

give_back(Verb, Module, #held{process = Process, things = {Memory, Channels}}) ->
    _ = Module:last_look(Process),
    lists:foreach(fun straw_backend:close_channel/1, Channels),
    case Verb of
        detach ->
            given(straw_backend:unmap(Memory));
        withdraw ->
            case straw_backend:end_access(Memory) of
                {error, busy} -> busy;
                Result -> given(Result)
            end
    end.

given(ok) -> ok;
given({error, Errno}) -> {error, word(Errno)}.

%% A short word for an owner: why a pore could not be made.
word(host_down) -> host_down;
word(enoent) -> not_found;
word(eacces) -> not_found;
word(enospc) -> limit;
word(emfile) -> limit;
word(enfile) -> limit;
word(e2big) -> limit;
word(_) -> bad_offer.

now_ms() ->
    erlang:monotonic_time(millisecond).
