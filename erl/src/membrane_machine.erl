%% The membrane's machine: all pores of one kind of one domain, from the first knock to the last key. Pure, the twin of
%% Python's pores/membrane.py.
%%
%% In: wishes (start, open, close, stop), changes of the store (changed, knocked), results of work, ends (ended,
%% domain_gone, host_down), time (timer; `Now` is passed in). Out, by take/1: work to do and events.
%%
%%     {store, Key | none, Id, Tag, Steps}          one result by store_result/4: {Values of the steps done, Errno | ''}
%%     {pore, Key, Id, Verb, Terms, Offer}          one by pore_result/4: ok | {ok, Offer} | busy | {error, Word}
%%
%% Steps: {read | list | get_perms | mkdir | delete | watch | unwatch, Path}, {write, Path, Value}, {set_perms, Path, Perms},
%% {delete, Path, eacces}, which does nothing when that is the answer, and {atomic, Steps}: one transaction, done again when it
%% gives eagain, in which {unless, Path, Value} ends the steps when the value is that. What is not there reads as undefined; any
%% other refusal ends the work.
-module(membrane_machine).

-export([new/2, take/1, get_timer/1, timer/2, counts/1, pores/1, terms/2, state/1]).
-export([start/2, open/3, open/4, give_up/3, close/4, stop/2, report/4]).
-export([changed/3, knocked/3, store_result/4, pore_result/4, ended/4, domain_gone/3, host_down/2]).
-export_type([machine/0, key/0, work/0, event/0, options/0]).

-include("membrane.hrl").

-record(m, {
    me :: integer(),
    kind :: module(),
    layout :: #layout{},
    table :: membrane_table:table(),
    limits = #limits{} :: #limits{},
    wishes :: #terms{},
    %% new, starting, running, stopping, stopped
    state = new :: atom(),
    pores = #{} :: #{key() => #pore{}},
    next_id = 1 :: integer(),
    counts = #{} :: #{atom() => pos_integer()},
    active_top :: string(),
    passive_top :: string(),
    %% latest first
    work = [] :: [work()],
    events = [] :: [event()],
    %% who has knocked and was not looked at yet, in their order
    knocks = [] :: [membrane_keys:who()],
    tokens :: number(),
    tokens_at = 0 :: number(),
    opens = [] :: [{membrane_keys:who(), number(), #terms{} | undefined}],
    stop_at :: undefined | number(),
    %% when it stops: the door is being shut; who has made its directory and not knocked yet is waited for until then
    shutting = false :: boolean(),
    coming = #{} :: #{integer() => number()},
    down = false :: boolean(),
    now = 0 :: number()
}).

-opaque machine() :: #m{}.
%% Our role (passive: we opened it), and to whom it is.
-type key() :: {passive | active, membrane_keys:who()}.
-type work() ::
    {store, key() | none, integer(), atom(), [tuple()]}
    | {pore, key(), integer(), grant | attach | detach | withdraw, #terms{}, membrane_keys:offer() | none}.
-type event() ::
    started
    | stopped
    | {opened, key(), #terms{}, Asked :: boolean()}
    | {refused, membrane_keys:who(), Reason :: atom()}
    | {closed, key(), Reason :: atom()}
    | {reported, What :: atom(), Peer :: integer(), Detail :: term()}.
-type options() :: #{kind => module(), wishes => #terms{}, limits => #limits{}, table => membrane_table:table()}.

%% The opener's straw may still be given up in favour of the peer's.
-define(MAY_YIELD, [
    'START', 'LOOKING', 'OLD_WAIT', 'CLEARING', 'PREPARING', 'KNOCKING', 'INIT_WAIT', 'LATE_WAIT'
]).
%% It is on its way out: a new one waits until it is gone.
-define(LEAVING, ['LATE_ATTACHED', 'FINISHING', 'FINISHED', 'DETACHING', 'SAYING', 'LEAVING', 'DELETING']).
%% Domain ids end here, and numbers of pores.
-define(LIMIT_DOMID, 16#7FF0).

-spec new(integer(), options()) -> machine().
new(Me, Options) ->
    Limits = maps:get(limits, Options, #limits{}),
    Kind = maps:get(kind, Options, membrane_straw),
    Layout = Kind:layout(),
    #m{
        me = Me,
        kind = Kind,
        layout = Layout,
        table =
            case Options of
                #{table := Table} -> Table;
                _ -> membrane_table:load()
            end,
        limits = Limits,
        wishes = maps:get(wishes, Options, Kind:wishes()),
        tokens = Limits#limits.knocks,
        active_top = membrane_keys:active_top(Layout, Me),
        passive_top = membrane_keys:passive_top(Layout, Me)
    }.

%% Work to be started and events to be told, in their order.
-spec take(machine()) -> {[work()], [event()], machine()}.
take(#m{work = Work, events = Events} = M) ->
    {lists:reverse(Work), lists:reverse(Events), M#m{work = [], events = []}}.

%% What was refused, ignored or given up, by a short word.
-spec counts(machine()) -> #{atom() => pos_integer()}.
counts(#m{counts = Counts}) -> Counts.

%% The states of all straws.
-spec pores(machine()) -> #{key() => atom()}.
pores(#m{pores = Pores}) -> maps:map(fun(_, #pore{state = State}) -> State end, Pores).

%% What was agreed with the peer.
-spec terms(key(), machine()) -> #terms{}.
terms(Key, #m{pores = Pores}) -> (maps:get(Key, Pores))#pore.terms.

-spec state(machine()) -> atom().
state(#m{state = State}) -> State.

%% ── time ──

%% When timer/2 wants to be called.
-spec get_timer(machine()) -> number() | undefined.
get_timer(#m{limits = Limits} = M) ->
    Pores = lists:append([[P#pore.until, P#pore.late_at, P#pore.look_at] || P <- maps:values(M#m.pores)]),
    Opens = [LateAt || {_, LateAt, _} <- M#m.opens],
    Stop = [M#m.stop_at || M#m.state =:= stopping],
    Coming = maps:values(M#m.coming),
    Knocks = [M#m.tokens_at + Limits#limits.poll_time || M#m.knocks =/= [], serves(M)],
    % undefined is an atom, and all atoms are more than any number
    case lists:min([undefined | Pores ++ Opens ++ Stop ++ Coming ++ Knocks]) of
        undefined -> undefined;
        At -> At
    end.

-spec timer(number(), machine()) -> machine().
timer(Now, M0) ->
    M1 = each(fun(P) -> membrane_pore:timer(Now, P) end, maps:keys(M0#m.pores), M0#m{now = Now}),
    {Late, Opens} = lists:partition(fun({_, LateAt, _}) -> Now >= LateAt end, M1#m.opens),
    M2 = lists:foldl(fun({Who, _, _}, M) -> tell({refused, Who, timeout}, M) end, M1#m{opens = Opens}, Late),
    M3 = look_at_knocks(Now, M2),
    Late2 = [Peer || {Peer, Until} <- lists:sort(maps:to_list(M3#m.coming)), Now >= Until],
    Miss = fun(Peer, M) -> check_stopped(M#m{coming = maps:remove(Peer, M#m.coming)}) end,
    case lists:foldl(Miss, M3, Late2) of
        #m{stop_at = At, state = stopping} = M4 when At =/= undefined, Now >= At -> remove_trees(M4);
        M4 -> M4
    end.

%% ── news ──

%% The watch of this pore has fired.
-spec changed(key(), number(), machine()) -> machine().
changed(Key, Now, M) ->
    run(Key, fun membrane_pore:changed/1, M#m{now = Now}).

%% The watch of our own top directory has fired, with this absolute path.
-spec knocked(string(), number(), machine()) -> machine().
knocked(Path, Now, M0) ->
    case M0#m{now = Now} of
        #m{state = running, active_top = Path} = M ->
            % the watch's first event, or the whole tree: whoever is there
            put_work(scan, [{list, Path}], M);
        #m{active_top = Path} = M ->
            M;
        #m{me = Me, layout = Layout} = M ->
            case serves(M) andalso membrane_keys:knocker(Layout, Me, Path) of
                false ->
                    M;
                undefined ->
                    case lists:suffix("/" ++ Layout#layout.knock, Path) of
                        true -> report(forged, -1, tail(Path, 80), M);
                        false -> M
                    end;
                Who ->
                    knock(Who, Now, M)
            end
    end.

-spec store_result(work(), {[term()], atom()}, number(), machine()) -> machine().
store_result({store, none, _, Tag, Steps}, Result, Now, M) ->
    done(Tag, Steps, Result, Now, M#m{now = Now});
store_result({store, Key, Id, Tag, _}, Result, Now, M) ->
    run(Key, Id, fun(P) -> membrane_pore:store_result(Tag, Result, Now, P) end, M#m{now = Now}).

-spec pore_result(work(), ok | {ok, membrane_keys:offer()} | busy | {error, atom()}, number(), machine()) -> machine().
pore_result({pore, Key, Id, Verb, _, _}, Result, Now, M) ->
    run(Key, Id, fun(P) -> membrane_pore:pore_result(Verb, Result, Now, P) end, M#m{now = Now}).

%% ── wishes ──

%% Removes what an earlier run left, then listens.
-spec start(number(), machine()) -> machine().
start(Now, M) ->
    put_work(found, [{list, M#m.active_top}, {list, M#m.passive_top}], M#m{now = Now, state = starting}).

-spec open(membrane_keys:who(), number(), machine()) -> machine().
open(Who, Now, M) ->
    open(Who, undefined, Now, M).

%% Ends in {opened, _, _, true} or refused, within open_time if timer/2 is called. Wishes: other ones than the machine's.
-spec open(membrane_keys:who(), #terms{} | undefined, number(), machine()) -> machine().
open(Who, Wishes, Now, M0) ->
    M = M0#m{now = Now},
    LateAt = Now + M#m.limits#limits.open_time,
    case {M, peer(Who, M)} of
        {#m{state = State, down = true}, _} when State =/= starting, State =/= running ->
            tell({refused, Who, host_down}, M);
        {#m{state = State}, _} when State =/= starting, State =/= running ->
            tell({refused, Who, stopped}, M);
        {#m{me = Peer}, Peer} ->
            tell({refused, Who, self}, M);
        {_, undefined} ->
            tell({refused, Who, not_found}, M);
        {#m{state = State, opens = Opens}, _} ->
            case lists:keymember(Who, 1, Opens) of
                true -> tell({refused, Who, exists}, M);
                false when State =:= starting -> M#m{opens = Opens ++ [{Who, LateAt, Wishes}]};
                false -> open(Who, Wishes, LateAt, Now, M)
            end
    end.

%% undefined: there is no such pore.
peer({Peer, Number}, #m{layout = #layout{many = true}}) when Number >= 0, Number < ?LIMIT_DOMID -> domain(Peer);
peer(Peer, #m{layout = #layout{many = false}}) -> domain(Peer);
peer(_Who, _M) -> undefined.

domain(Peer) when is_integer(Peer), Peer >= 0, Peer < ?LIMIT_DOMID -> Peer;
domain(_) -> undefined.

open(Who, Wishes, LateAt, Now, #m{pores = Pores} = M) ->
    Ours = maps:get({passive, Who}, Pores, undefined),
    Theirs = maps:get({active, Who}, Pores, undefined),
    case {Ours, Theirs} of
        {_, #pore{state = 'CONNECTED', layout = #layout{many = false}}} ->
            tell({refused, Who, exists}, M);
        {undefined, #pore{asked = Asked}} ->
            case is_first(Theirs, M) of
                true when Asked -> tell({refused, Who, exists}, M);
                % its knock came first, and it would be the one in a glare: ours becomes the same straw
                true -> put_pore(Theirs#pore{asked = true, late_at = LateAt}, M);
                false -> open_ours(Who, Wishes, LateAt, Now, M)
            end;
        {undefined, undefined} ->
            open_ours(Who, Wishes, LateAt, Now, M);
        {#pore{state = 'LATE_WAIT'}, _} ->
            feed({passive, Who}, open, Now, put_pore(Ours#pore{asked = true, late_at = LateAt}, M));
        {#pore{state = State}, _} ->
            case lists:member(State, ?LEAVING) of
                true -> M#m{opens = M#m.opens ++ [{Who, LateAt, Wishes}]};
                false -> tell({refused, Who, exists}, M)
            end
    end.

open_ours(Who, Wishes, LateAt, Now, M0) ->
    case is_full(Who, M0) of
        true ->
            tell({refused, Who, limit}, M0);
        false ->
            {P, M} = new_pore({passive, Who}, M0),
            Liked =
                case Wishes of
                    undefined -> M#m.wishes;
                    _ -> Wishes
                end,
            feed({passive, Who}, open, Now, put_pore(P#pore{asked = true, late_at = LateAt, wishes = Liked}, M))
    end.

%% Nobody waits for an open of ours any more.
-spec give_up(membrane_keys:who(), number(), machine()) -> machine().
give_up(Who, Now, M0) ->
    M1 = M0#m{now = Now, opens = lists:keydelete(Who, 1, M0#m.opens)},
    GiveUp = fun
        (#pore{asked = true, role = passive} = P) ->
            membrane_pore:feed(late, Now, P#pore{asked = false, late_at = undefined});
        (#pore{asked = true} = P) ->
            P#pore{asked = false, late_at = undefined};
        (P) ->
            P
    end,
    run({active, Who}, GiveUp, run({passive, Who}, GiveUp, M1)).

%% Ends in closed, when it was opened.
-spec close(key(), atom(), number(), machine()) -> machine().
close(Key, Why, Now, M) ->
    run(Key, fun(P) -> membrane_pore:feed(close, Why, Now, P) end, M#m{now = Now}).

%% Closes all, having let in who knocks: a LING would wait for ever, or crash. Ends in stopped.
-spec stop(number(), machine()) -> machine().
stop(Now, #m{state = State} = M) when State =:= stopping; State =:= stopped ->
    M#m{now = Now};
stop(Now, #m{state = new} = M) ->
    tell(stopped, M#m{now = Now, state = stopped});
stop(Now, #m{state = State, opens = Opens} = M0) ->
    M1 = M0#m{now = Now, state = stopping, stop_at = Now + M0#m.limits#limits.stop_time, opens = []},
    M2 = lists:foldl(fun({Who, _, _}, M) -> tell({refused, Who, stopped}, M) end, M1, Opens),
    M3 = M2#m{pores = maps:map(fun(_, P) -> P#pore{leaving = true} end, M2#m.pores)},
    Close = [Key || {{Role, _} = Key, P} <- lists:sort(maps:to_list(M3#m.pores)), Role =:= passive orelse may_end(P)],
    M4 = each(fun(P) -> membrane_pore:feed(close, stopped, Now, P) end, Close, M3),
    case State of
        starting -> M4;
        running -> shut_door(M4)
    end.

may_end(P) -> P#pore.peer_kind orelse not membrane_pore:is_pending(P).

%% ── ends ──

%% The pore itself found that its peer is gone (peer_gone) or hostile (corrupt).
-spec ended(key(), atom(), number(), machine()) -> machine().
ended(Key, Why, Now, M) ->
    run(Key, fun(P) -> membrane_pore:feed(ended, Why, Now, P) end, M#m{now = Now}).

%% A domain has died, by the backend's word.
-spec domain_gone(integer(), number(), machine()) -> machine().
domain_gone(Peer, Now, M) ->
    Die = fun(P) -> membrane_pore:peer_died(Now, P) end,
    each(Die, to(Peer, M#m.pores), M#m{now = Now}).

%% No host and no store any more: everything ends at once, nothing can be told to anybody.
-spec host_down(number(), machine()) -> machine().
host_down(Now, #m{opens = Opens, state = State} = M0) ->
    M1 = M0#m{now = Now, down = true, opens = []},
    M2 = lists:foldl(fun({Who, _, _}, M) -> tell({refused, Who, host_down}, M) end, M1, Opens),
    M3 = each(fun membrane_pore:host_down/1, maps:keys(M2#m.pores), M2),
    M4 = M3#m{pores = #{}, work = [], knocks = [], coming = #{}},
    case State of
        stopped -> M4;
        _ -> tell(stopped, M4#m{state = stopped})
    end.

%% ── the pores and what they say ──

each(Fun, Keys, M0) ->
    lists:foldl(fun(Key, M) -> run(Key, Fun, M) end, M0, Keys).

feed(Key, What, Now, M) ->
    run(Key, fun(P) -> membrane_pore:feed(What, Now, P) end, M).

run(Key, Fun, M) ->
    run(Key, any, Fun, M).

%% Brings something to a pore, and carries out what it says. A result of work for one that is gone is nothing to its
%% successor.
run(Key, Id, Fun, #m{pores = Pores} = M) ->
    case Pores of
        #{Key := #pore{id = Found} = P0} when Id =:= any; Id =:= Found ->
            P = Fun(P0),
            said(Key, P#pore.id, lists:reverse(P#pore.out), put_pore(P#pore{out = []}, M));
        _ ->
            M
    end.

said(_Key, _Id, [], M) ->
    M;
said({_, Who} = Key, Id, [What | More], M0) ->
    M =
        case What of
            {store, Tag, Steps} ->
                M0#m{work = [{store, Key, Id, Tag, Steps} | M0#m.work]};
            {pore, Verb, Terms, Offer} ->
                M0#m{work = [{pore, Key, Id, Verb, Terms, Offer} | M0#m.work]};
            {report, Word, Detail} ->
                report(Word, membrane_keys:peer(Who), Detail, M0);
            {refused, Reason} ->
                tell({refused, Who, Reason}, M0);
            {closed, Reason} ->
                tell({closed, Key, Reason}, M0);
            {opened, Asked} ->
                #pore{terms = Terms} = maps:get(Key, M0#m.pores),
                freed(Key, tell({opened, Key, Terms, Asked}, M0));
            glare ->
                glare(Key, M0);
            gone ->
                gone(Key, M0)
        end,
    said(Key, Id, More, M).

put_pore(#pore{role = Role, who = Who} = P, M) ->
    M#m{pores = (M#m.pores)#{{Role, Who} => P}}.

new_pore(Key, #m{next_id = Id} = M) ->
    New = membrane_pore:new(Id, Key, {M#m.me, M#m.kind}, M#m.wishes, {M#m.table, M#m.limits}),
    P = New#pore{leaving = M#m.state =:= stopping},
    {P, put_pore(P, M#m{next_id = Id + 1})}.

tell(Event, M) ->
    M#m{events = [Event | M#m.events]}.

%% Counts something, and tells of it: to be logged, at a limited rate.
-spec report(atom(), integer(), term(), machine()) -> machine().
report(What, Peer, Detail, #m{counts = Counts} = M) ->
    Count = maps:get(What, Counts, 0) + 1,
    tell({reported, What, Peer, Detail}, M#m{counts = Counts#{What => Count}}).

%% The opener's pore is up, or gone: a knock that was held behind it is looked at again.
freed({passive, Who}, M) -> feed({active, Who}, free, M#m.now, M);
freed(_, M) -> M.

%% A pore has come to its end.
gone({Role, Who} = Key, #m{pores = Pores, now = Now} = M0) ->
    {#pore{again = Again}, Left} = maps:take(Key, Pores),
    M1 = M0#m{pores = Left},
    M2 =
        case Role of
            active when Again -> knock(Who, Now, M1);
            active -> M1;
            passive -> freed(Key, waiting_open(Who, Now, M1))
        end,
    M3 =
        case M2#m.knocks of
            [_ | _] -> look_at_knocks(Now, M2);
            [] -> M2
        end,
    case M3#m.state of
        stopping -> check_stopped(M3);
        _ -> M3
    end.

waiting_open(Who, Now, #m{opens = Opens} = M) ->
    case lists:keytake(Who, 1, Opens) of
        {value, {_, LateAt, Wishes}, Left} -> open(Who, Wishes, LateAt, Now, M#m{opens = Left});
        false -> M
    end.

%% A knock is genuine: does it stand behind one of ours? Only between our own kind; a LING gets both.
glare({active, Who} = Key, #m{pores = Pores, me = Me, now = Now} = M0) ->
    #pore{peer = Peer} = Theirs = maps:get(Key, Pores),
    Ours = maps:get({passive, Who}, Pores, undefined),
    case Ours =/= undefined andalso is_own(Theirs, M0) andalso lists:member(Ours#pore.state, ?MAY_YIELD) of
        false ->
            run(Key, fun(P) -> membrane_pore:verified(genuine, Now, P) end, M0);
        true when Me < Peer, Ours#pore.state =/= 'LATE_WAIT' ->
            run(Key, fun(P) -> membrane_pore:verified(glare, Now, P) end, M0);
        true ->
            #pore{asked = Asked, late_at = LateAt} = Ours,
            M1 = put_pore(Theirs#pore{asked = Asked, late_at = LateAt}, M0),
            M2 = put_pore(Ours#pore{asked = false, late_at = undefined}, M1),
            M3 = feed({passive, Who}, yield, Now, M2),
            run(Key, fun(P) -> membrane_pore:verified(genuine, Now, P) end, M3)
    end.

%% One of ours: of many each is for itself.
is_own(#pore{peer_kind = Own}, #m{wishes = Wishes, layout = #layout{many = Many}}) ->
    Own andalso membrane_keys:own_kind(Wishes) andalso not Many.

is_first(#pore{state = State} = Theirs, M) ->
    Pending = membrane_pore:is_pending(Theirs) orelse State =:= 'INITIALISED' orelse State =:= 'CONFIRMING',
    Pending andalso M#m.me > Theirs#pore.peer andalso is_own(Theirs, M).

is_full(Who, #m{pores = Pores, limits = Limits, layout = #layout{many = Many}}) ->
    map_size(Pores) >= Limits#limits.pores orelse
        (Many andalso length(to(membrane_keys:peer(Who), Pores)) >= Limits#limits.per_peer).

to(Peer, Pores) -> [Key || {_, Who} = Key <- maps:keys(Pores), membrane_keys:peer(Who) =:= Peer].

%% Knocks are answered: also when we stop, until the trees are removed.
serves(#m{state = State, stop_at = At}) ->
    State =:= running orelse (State =:= stopping andalso At =/= undefined).

knock(Who, Now, M) ->
    case serves(M) of
        true -> knock_served(Who, Now, M#m{coming = maps:remove(Who, M#m.coming)});
        false -> M
    end.

knock_served(Who, Now, #m{pores = Pores, knocks = Knocks, limits = Limits} = M) ->
    case maps:get({active, Who}, Pores, undefined) of
        #pore{} = P ->
            put_pore(P#pore{again = true}, M);
        undefined ->
            case lists:member(Who, Knocks) of
                true -> look_at_knocks(Now, M);
                false when length(Knocks) >= Limits#limits.knocks_waiting ->
                    report(flooded, membrane_keys:peer(Who), "", M);
                false -> look_at_knocks(Now, M#m{knocks = Knocks ++ [Who]})
            end
    end.

%% As many as may be looked at now: a flood of them costs us no more than this.
look_at_knocks(Now, #m{limits = Limits, tokens = Tokens, tokens_at = At, knocks = Knocks} = M) ->
    More = max(0, Now - At) * Limits#limits.knock_rate,
    look_at(Knocks, Now, M#m{tokens = min(Limits#limits.knocks, Tokens + More), tokens_at = Now}).

look_at([Who | Knocks], Now, #m{tokens = Tokens, limits = Limits} = M0) when Tokens >= 1 ->
    Pending = length([P || P <- maps:values(M0#m.pores), membrane_pore:is_pending(P)]),
    case Pending >= Limits#limits.pending orelse is_full(Who, M0) of
        true ->
            M0;
        false ->
            {_, M1} = new_pore({active, Who}, M0#m{tokens = Tokens - 1, knocks = Knocks}),
            M = feed({active, Who}, open, Now, M1),
            look_at(M#m.knocks, Now, M)
    end;
look_at(_, _Now, M) ->
    M.

%% ── start and stop: work without a pore ──

put_work(Tag, Steps, M) ->
    M#m{work = [{store, none, 0, Tag, Steps} | M#m.work]}.

done(scan, _Steps, {[Names], ''}, Now, #m{me = Me, layout = Layout, active_top = Top} = M) when is_list(Names) ->
    %% Knocks that were there before the watch.
    case [Peer || Peer <- lists:map(fun membrane_keys:domid_of/1, Names), Peer =/= undefined, Peer =/= Me] of
        [] -> M;
        Peers when Layout#layout.many ->
            put_work(scan_many, [{list, Top ++ "/" ++ integer_to_list(Peer)} || Peer <- Peers], M);
        Peers -> knock_unknown(Peers, Now, M)
    end;
done(scan, _Steps, _Result, _Now, M) ->
    M;
done(scan_many, Steps, {Lists, _}, Now, M) ->
    % what could not be listed is looked at no further
    Listed = lists:zip(lists:sublist(Steps, length(Lists)), Lists),
    Found = [
        {membrane_keys:domid_of(filename:basename(Top)), membrane_keys:domid_of(Name)}
     || {{list, Top}, Names} <- Listed, Name <- names(Names)
    ],
    knock_unknown([Who || {_, Number} = Who <- Found, Number =/= undefined], Now, M);
done(found, _Steps, {[Active, Passive], ''}, _Now, #m{me = Me, layout = Layout} = M) ->
    %% What an earlier run left. Knocks that it has not answered are not its own: they are for us.
    Found = [{M#m.active_top, active, Name} || Name <- names(Active)] ++
        [{M#m.passive_top, passive, Name} || Name <- names(Passive)],
    Steps = [
        {read, Dir ++ "/state"}
     || {Top, Role, Name} <- Found,
        Dir <- [Top ++ "/" ++ Name, other_side(Layout, Role, Me, membrane_keys:domid_of(Name), Top ++ "/" ++ Name)]
    ],
    put_work(judged, Steps, M);
done(found, _Steps, _Result, Now, M) ->
    host_down(Now, M);
done(judged, Steps, {Values, _}, Now, M0) ->
    %% Removes it, but for passive directories whose LING waits for our 4.
    {Delete, Waiting} = judge(Steps, Values, M0),
    Tops = [{M0#m.active_top, "b"}, {M0#m.passive_top, "r"}],
    Me = integer_to_list(M0#m.me),
    Make = lists:append([[{mkdir, Top}, {set_perms, Top, [Right ++ Me]}] || {Top, Right} <- Tops]),
    Finish = fun(Peer, M) ->
        {_, M1} = new_pore({passive, Peer}, M),
        feed({passive, Peer}, finish, Now, M1)
    end,
    put_work(listening, Delete ++ Make ++ [{watch, M0#m.active_top}], lists:foldl(Finish, M0, Waiting));
done(listening, _Steps, {_, Error}, Now, M) when Error =/= '' ->
    host_down(Now, report(no_store, -1, Error, M));
done(listening, _Steps, _Result, Now, #m{state = starting, opens = Opens} = M0) ->
    M1 = knocked(M0#m.active_top, Now, tell(started, M0#m{state = running})),
    Open = fun({Who, LateAt, Wishes}, M) -> open(Who, Wishes, LateAt, Now, M) end,
    lists:foldl(Open, M1#m{opens = []}, Opens);
done(listening, _Steps, _Result, _Now, M) ->
    shut_door(M);
done(shut, _Steps, _Result, _Now, #m{stop_at = undefined} = M) ->
    M#m{shutting = false};
done(shut, _Steps, {[_, Names], ''}, Now, #m{layout = #layout{many = false}} = M) ->
    #m{me = Me, pores = Pores, knocks = Knocks} = M,
    Until = Now + M#m.limits#limits.shut_time,
    Coming = [
        {Peer, Until}
     || Peer <- lists:map(fun membrane_keys:domid_of/1, names(Names)),
        Peer =/= undefined,
        Peer =/= Me,
        not is_map_key({active, Peer}, Pores),
        not lists:member(Peer, Knocks)
    ],
    check_stopped(M#m{shutting = false, coming = maps:from_list(Coming)});
done(shut, _Steps, _Result, _Now, M) ->
    check_stopped(M#m{shutting = false});
done(removed, _Steps, _Result, _Now, M) ->
    tell(stopped, M#m{pores = #{}, state = stopped}).

knock_unknown(Found, Now, M0) ->
    Knock = fun
        (Who, #m{pores = Pores} = M) when is_map_key({active, Who}, Pores) -> M;
        (Who, M) -> knock(Who, Now, M)
    end,
    lists:foldl(Knock, M0, Found).

names(undefined) -> [];
names(Names) -> Names.

%% The other directory of a pore that left this one; of many there may be several, all of no use.
other_side(#layout{many = false} = Layout, Role, Me, Peer, _Dir) when is_integer(Peer) ->
    element(2, membrane_keys:dirs(Layout, Role, Me, Peer));
other_side(_Layout, _Role, _Me, _Peer, Dir) ->
    Dir.

%% Of each directory that was found, our state in it and the other side's: what is to be deleted, and who waits for us.
judge([{read, Path}, _ | Steps], Values, #m{active_top = Active, layout = #layout{many = Many}} = M) ->
    {Ours, Theirs, Rest} =
        case Values of
            [A, B | More] -> {A, B, More};
            _ -> {"?", undefined, []}
        end,
    Dir = filename:dirname(Path),
    Peer = membrane_keys:domid_of(filename:basename(Dir)),
    {Delete, Waiting} = judge(Steps, Rest, M),
    case lists:prefix(Active ++ "/", Path) of
        true when Ours =:= undefined, Theirs =:= "2", not Many -> {Delete, Waiting};
        % a stranger may have forbidden it to us
        true -> {[{delete, Dir, eacces} | Delete], Waiting};
        false when Many -> {[{delete, Dir} | Delete], Waiting};
        false when Theirs =:= "3", Peer =/= undefined -> {Delete, [Peer | Waiting]};
        false -> {[{delete, Dir} | Delete], Waiting}
    end;
judge([], _, _) ->
    {[], []}.

%% From now on a peer's MKDIR is refused, which it takes for not_found.
shut_door(#m{active_top = Active, me = Me} = M) ->
    put_work(shut, [{set_perms, Active, ["r" ++ integer_to_list(Me)]}, {list, Active}], M#m{shutting = true}).

check_stopped(#m{stop_at = At, shutting = false, knocks = [], coming = Coming, pores = Pores} = M) when
    At =/= undefined, map_size(Coming) =:= 0, map_size(Pores) =:= 0
->
    remove_trees(M);
check_stopped(M) ->
    M.

remove_trees(#m{active_top = Active, passive_top = Passive} = M) ->
    Left = M#m{stop_at = undefined, knocks = [], coming = #{}},
    put_work(removed, [{unwatch, Active}, {delete, Passive}, {delete, Active}], Left).

tail(Path, Length) ->
    lists:nthtail(max(0, length(Path) - Length), Path).
