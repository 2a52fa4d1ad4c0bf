%% One pore from its knock to its end: what both roles have in common. The roles are membrane_opener and
%% membrane_acceptor; what is done when is in the table.
%%
%% Pure: no clock, no store, no memory. `Now` is passed in; what it wants goes into #pore.out, for membrane_machine.
-module(membrane_pore).

-export([new/5, feed/3, feed/4, settle/2, changed/1, peer_died/2, timer/2, host_down/1]).
-export([store_result/4, verified/3, pore_result/4, is_pending/1]).
%% For the roles.
-export([tell/2, store/3, work/2, report/2, report/3, answer/2, unwatch/1, judge_gone/2, set_why/2]).

-include("membrane.hrl").

-type result() :: {Values :: [term()], Error :: atom()}.

-spec new(integer(), {passive | active, membrane_keys:who()}, {integer(), module()}, #terms{}, {
    membrane_table:table(), #limits{}
}) -> #pore{}.
new(Id, {Role, Who}, {Me, Kind}, Wishes, {Table, Limits}) ->
    Layout = Kind:layout(),
    {Ours, Theirs} = membrane_keys:dirs(Layout, Role, Me, Who),
    #pore{
        id = Id,
        role = Role,
        who = Who,
        peer = membrane_keys:peer(Who),
        me = Me,
        kind = Kind,
        layout = Layout,
        table = Table,
        limits = Limits,
        wishes = Wishes,
        our_dir = Ours,
        peer_dir = Theirs
    }.

%% Its handshake is at the beginning: only so many of these may be under way.
-spec is_pending(#pore{}) -> boolean().
is_pending(#pore{role = active, state = State}) ->
    lists:member(State, ['START', 'VERIFYING', 'GREETING', 'INITIALISING', 'READING', 'GRANTING', 'OFFERING']);
is_pending(_) ->
    false.

%% ── the table ──

-spec feed(atom(), number(), #pore{}) -> #pore{}.
feed(What, Now, P) ->
    feed(What, '', Now, P).

%% One input. Those from outside wait while work is under way.
-spec feed(atom(), atom(), number(), #pore{}) -> #pore{}.
feed(_What, _Why, _Now, #pore{state = 'GONE'} = P) ->
    P;
feed(What, Why, Now, P) ->
    case membrane_table:is_external(What) andalso is_busy(P) of
        true -> hold(What, Why, P);
        false -> step(What, Why, Now, P)
    end.

%% What the peer's directory says may be old when we come to it: it is looked at again.
hold(What, _Why, P) when What =:= p1; What =:= p2; What =:= p3; What =:= p4; What =:= p5; What =:= p6 ->
    P#pore{dirty = true};
hold(gone, _Why, P) ->
    P#pore{dirty = true, peer_left = true};
hold(timer, _Why, P) ->
    P;
hold(What, Why, #pore{waiting = Waiting} = P) ->
    case lists:keymember(What, 1, Waiting) of
        true -> P;
        false -> P#pore{waiting = Waiting ++ [{What, Why}]}
    end.

step(What, Why, Now, P0) ->
    P1 =
        case What of
            gone -> P0#pore{peer_left = true};
            _ -> P0
        end,
    case row(What, P1) of
        undefined ->
            P1;
        {Action, Next} ->
            P2 =
                case What =:= p6 andalso P1#pore.why =:= peer_gone of
                    % its end of the channel closed first, now its word has come
                    true -> P1#pore{why = peer_closed};
                    false -> P1
                end,
            P3 =
                case What =:= close orelse is_end(Action) of
                    true when Why =/= '' -> set_why(Why, P2);
                    true -> set_why(reason(What), P2);
                    false -> P2
                end,
            settle(Now, act(Action, Now, P3#pore{state = Next, until = undefined}))
    end.

row(What, #pore{role = Role, state = State, table = Table}) ->
    membrane_table:row(Role, State, What, Table).

is_busy(#pore{role = Role, state = State, table = Table}) ->
    membrane_table:is_busy(Role, State, Table).

%% The first reason is the one that counts.
-spec set_why(atom(), #pore{}) -> #pore{}.
set_why(Why, #pore{why = ''} = P) -> P#pore{why = Why};
set_why(_Why, P) -> P.

%% Why it ends when an input leads to its end.
reason(late) -> timeout;
reason(close) -> closed;
reason(gone) -> peer_gone;
reason(p1) -> peer_closed;
reason(p2) -> peer_closed;
reason(p3) -> peer_closed;
reason(p5) -> peer_closed;
reason(p6) -> peer_closed;
reason(no) -> refused;
reason(_) -> peer_gone.

%% Actions that begin an end.
is_end(Action) ->
    lists:member(Action, [
        fail,
        fail_delete,
        fail_finish,
        fail_limit,
        unknock,
        delete,
        detach,
        withdraw,
        remove,
        say_closed,
        say_closing
    ]).

%% Brings in what had to wait, now that nothing is under way.
-spec settle(number(), #pore{}) -> #pore{}.
settle(Now, P0) ->
    P = unhold(Now, P0),
    case P#pore.state =:= 'GONE' orelse is_busy(P) of
        true -> P;
        false -> settle_idle(Now, P)
    end.

%% It was let in while we stop, and is so far that it can be sent away again.
settle_idle(Now, #pore{leaving = true, role = active, state = State, peer_kind = Own} = P) when
    State =:= 'INITIALISED'; State =:= 'INITIALISING', Own
->
    feed(close, stopped, Now, P);
settle_idle(Now, #pore{peer_dead = Dead, dirty = Dirty, watching = Watching} = P) ->
    case Dead andalso row(gone, P) =/= undefined of
        true -> plan(Now, feed(gone, Now, P));
        false when Dirty, Watching -> plan(Now, look(P));
        false -> plan(Now, P)
    end.

unhold(Now, #pore{waiting = [{What, Why} | Rest]} = P) ->
    case P#pore.state =:= 'GONE' orelse is_busy(P) of
        true -> P;
        false -> unhold(Now, feed(What, Why, Now, P#pore{waiting = Rest}))
    end;
unhold(_Now, P) ->
    P.

%% ── from outside ──

%% Something below the peer's directory has changed.
-spec changed(#pore{}) -> #pore{}.
changed(P0) ->
    P = P0#pore{dirty = true},
    case P#pore.watching andalso not is_busy(P) of
        true -> look(P);
        false -> P
    end.

%% The whole domain is gone.
-spec peer_died(number(), #pore{}) -> #pore{}.
peer_died(Now, P) ->
    settle(Now, P#pore{peer_dead = true, peer_left = true}).

-spec timer(number(), #pore{}) -> #pore{}.
timer(Now, P) ->
    plan(Now, look_time(Now, own_time(Now, late_time(Now, P)))).

late_time(Now, #pore{late_at = At} = P) when At =/= undefined, Now >= At ->
    case P of
        #pore{asked = true, role = passive} -> feed(late, Now, answer(timeout, P#pore{late_at = undefined}));
        #pore{asked = true} -> answer(timeout, P#pore{late_at = undefined});
        _ -> P#pore{late_at = undefined}
    end;
late_time(_Now, P) ->
    P.

own_time(Now, #pore{until = At} = P) when At =/= undefined, Now >= At ->
    case is_busy(P) of
        true -> P;
        false -> feed(timer, Now, P#pore{until = undefined})
    end;
own_time(_Now, P) ->
    P.

look_time(Now, #pore{look_at = At} = P) when At =/= undefined, Now >= At ->
    changed(P#pore{look_at = undefined});
look_time(_Now, P) ->
    P.

%% Looks by itself now and then, as long as it waits for its peer: an event may be lost.
plan(Now, #pore{watching = Watching, state = State, look_at = At, limits = Limits} = P) ->
    case not Watching orelse State =:= 'GONE' orelse is_busy(P) of
        true -> P#pore{look_at = undefined};
        false when At =/= undefined -> P;
        false when State =:= 'CONNECTED' -> P#pore{look_at = Now + Limits#limits.look_connected};
        false -> P#pore{look_at = Now + Limits#limits.look_time}
    end.

%% Everything is gone at once: host, store and peer.
-spec host_down(#pore{}) -> #pore{}.
host_down(#pore{why = Why} = P0) ->
    P =
        case Why of
            '' -> P0#pore{why = host_down};
            % the peer has lost its host as well, and maybe saw it first
            peer_gone -> P0#pore{why = host_down};
            _ -> P0
        end,
    (closed(answer(host_down, P)))#pore{state = 'GONE'}.

%% ── looking at the peer ──

look(#pore{looking = Looking, looked_enough = Enough, peer_dead = Dead} = P) when Looking; Enough; Dead ->
    P;
look(P) ->
    store(look, (role(P)):look_steps(P), P#pore{dirty = false, looking = true}).

looked(Result, Now, P0) ->
    {What, P1} = seen(Result, P0#pore{looking = false}),
    P2 =
        case P1#pore.dirty andalso not is_busy(P1) of
            % once more, after this one
            true -> look(P1);
            false -> P1
        end,
    case What of
        '' -> P2;
        _ -> feed(What, Now, P2)
    end.

%% The input that the peer's directory makes; '' for nothing new.
seen({_, Error}, P) when Error =:= eacces; Error =:= enoent ->
    {gone, P};
seen({_, Error}, P) when Error =/= '' ->
    {'', P};
seen({Values, ''}, P0) ->
    {State, P} = (role(P0)):state_of(Values, P0),
    {peer_state(State), P}.

peer_state(undefined) -> gone;
peer_state("1") -> p1;
peer_state("2") -> p2;
peer_state("3") -> p3;
peer_state("4") -> p4;
peer_state("5") -> p5;
peer_state("6") -> p6;
peer_state(_) -> ''.

role(#pore{role = passive}) -> membrane_opener;
role(#pore{role = active}) -> membrane_acceptor.

%% ── results ──

-spec store_result(atom(), result(), number(), #pore{}) -> #pore{}.
store_result(look, _Result, _Now, #pore{state = 'GONE'} = P) ->
    P;
store_result(look, Result, Now, P) ->
    looked(Result, Now, P);
store_result(Tag, {_, Error} = Result, Now, P0) ->
    P1 =
        case Error =:= enotconn andalso (P0#pore.why =:= '' orelse P0#pore.why =:= peer_gone) of
            true -> P0#pore{why = host_down};
            false -> P0
        end,
    case (role(P1)):judge(Tag, Result, Now, P1) of
        {genuine, P2} -> tell(glare, P2);
        {What, P2} -> verified(What, Now, blame(What, Error, P2))
    end.

%% What a check has found is brought in; of a genuine knock the machine decides.
-spec verified(atom(), number(), #pore{}) -> #pore{}.
verified(What, Now, P) ->
    feed(What, Now, P).

blame(no, Error, P) when Error =:= e2big; Error =:= enospc -> set_why(limit, P);
blame(_What, _Error, P) -> P.

-spec pore_result(atom(), ok | {ok, membrane_keys:offer()} | busy | {error, atom()}, number(), #pore{}) -> #pore{}.
pore_result(Verb, Result, Now, P0) ->
    P1 =
        case Verb =:= detach orelse Verb =:= withdraw of
            true -> closed(P0);
            false -> P0
        end,
    case {Verb, Result} of
        {_, busy} -> still_mapped(Now, P1);
        {withdraw, {error, _}} -> still_mapped(Now, P1);
        {grant, {error, _}} when P1#pore.terms#terms.ring_bytes > 0 ->
            feed(narrow, Now, P1#pore{terms = membrane_keys:narrow(P1#pore.terms)});
        {detach, {error, Word}} -> feed(no, Now, report(not_unmapped, Word, set_why(Word, P1)));
        {_, {error, Word}} -> feed(no, Now, set_why(Word, P1));
        {grant, {ok, Offer}} -> feed(ok, Now, P1#pore{offer = Offer});
        {_, _} -> feed(ok, Now, P1)
    end.

still_mapped(Now, #pore{since = undefined} = P) ->
    feed(busy, Now, P#pore{since = Now});
still_mapped(Now, #pore{since = Since, limits = #limits{report_time = Time}} = P) when Now - Since >= Time ->
    feed(busy, Now, report(still_mapped, P#pore{since = Now}));
still_mapped(Now, P) ->
    feed(busy, Now, P).

%% ── actions ──

act(none, _Now, P) ->
    P;
act(opened, _Now, #pore{asked = Asked} = P) ->
    tell({opened, Asked}, P#pore{asked = false, late_at = undefined, opened = true});
act(bye, _Now, P) ->
    tell(gone, answer(or_refused(P), P));
act(fail, _Now, P0) ->
    P = answer(or_refused(P0), P0),
    case P#pore.state of
        'GONE' -> tell(gone, P);
        % it may still be opened again, or end otherwise
        _ -> P#pore{why = ''}
    end;
act(Action, Now, P) ->
    (role(P)):act(Action, Now, P).

or_refused(#pore{why = ''}) -> refused;
or_refused(#pore{why = Why}) -> Why.

%% ── what both roles do ──

-spec tell(term(), #pore{}) -> #pore{}.
tell(What, #pore{out = Out} = P) ->
    P#pore{out = [What | Out]}.

%% Work on the store, in this order.
-spec store(atom(), [tuple()], #pore{}) -> #pore{}.
store(Tag, Steps, P) ->
    tell({store, Tag, Steps}, P).

%% Work on memory and channels: grant, attach, detach, withdraw.
-spec work(atom(), #pore{}) -> #pore{}.
work(Verb, #pore{terms = Terms, offer = Offer} = P) ->
    tell({pore, Verb, Terms, Offer}, P).

-spec report(atom(), #pore{}) -> #pore{}.
report(What, P) ->
    report(What, "", P).

-spec report(atom(), term(), #pore{}) -> #pore{}.
report(What, Detail, P) ->
    tell({report, What, Detail}, P).

%% Tells an open of ours that it failed.
-spec answer(atom(), #pore{}) -> #pore{}.
answer(Reason, #pore{asked = true} = P) ->
    tell({refused, Reason}, P#pore{asked = false, late_at = undefined});
answer(_Reason, P) ->
    P.

closed(#pore{opened = true, why = ''} = P) -> tell({closed, closed}, P#pore{opened = false});
closed(#pore{opened = true, why = Why} = P) -> tell({closed, Why}, P#pore{opened = false});
closed(P) -> P.

-spec unwatch(#pore{}) -> {[tuple()], #pore{}}.
unwatch(#pore{watching = true, peer_dir = Dir} = P) -> {[{unwatch, Dir}], P#pore{watching = false}};
unwatch(P) -> {[], P}.

%% A directory of ours was deleted, or not. Whose owner has forbidden it to us is never our own kind.
-spec judge_gone(result(), #pore{}) -> {ok | no, #pore{}}.
judge_gone({_, eacces}, P) -> {ok, report(not_removed, P#pore.our_dir, P)};
judge_gone({_, ''}, P) -> {ok, P};
judge_gone(_, P) -> {no, P}.
