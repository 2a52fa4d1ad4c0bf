%% The one who is knocked upon (LING's active side): checks who knocks, grants, and ends access after the unmapping.
%%
%% The actions of the table's active rows; judge/4 makes an input of what the store said. Pure, as membrane_pore.
-module(membrane_acceptor).

-export([look_steps/1, state_of/2, judge/4, act/3]).

-include("membrane.hrl").
-import(membrane_pore, [store/3, work/2, report/2, answer/2, unwatch/1, judge_gone/2, tell/2]).

-spec look_steps(#pore{}) -> [tuple()].
look_steps(#pore{peer_dir = Dir}) ->
    [{read, Dir ++ "/state"}].

%% The peer's state by a look; undefined: it is gone.
-spec state_of([term()], #pore{}) -> {string() | undefined, #pore{}}.
state_of([State], P) ->
    {State, P}.

-spec judge(atom(), {[term()], atom()}, number(), #pore{}) -> {atom(), #pore{}}.
judge(verify, Result, _Now, P0) ->
    case check(Result, P0) of
        {What, #pore{watching = true} = P} when What =:= no; What =:= forged -> {left, P};
        Checked -> Checked
    end;
judge(read_wishes, {Values, ''}, _Now, #pore{wishes = Wishes} = P) ->
    Told = membrane_keys:terms_of(maps:from_list(lists:zip(membrane_keys:wish_keys(), Values))),
    {ok, P#pore{peer_kind = membrane_keys:own_kind(Told), terms = membrane_keys:agree(Wishes, Told)}};
judge(remove, Result, _Now, P) ->
    judge_gone(Result, P);
judge(_Tag, {_, ''}, _Now, P) ->
    {ok, P};
judge(_Tag, _, _Now, P) ->
    {no, P}.

%% Whether a knock is what it says (straw-rules: strangers).
check({_, Error}, P) when Error =/= '' ->
    {no, P#pore{why = unreadable}};
check({[undefined | _], ''}, P) ->
    {no, P#pore{why = withdrawn}};
check({[Knock, Perms, State, Back, PeerState, Dialect], ''}, #pore{our_dir = Ours, peer_dir = Theirs} = P) ->
    case Knock =:= Theirs andalso membrane_keys:owned_by(Perms, P#pore.peer, P#pore.me) of
        true when Back =:= undefined -> {stale, P#pore{why = withdrawn, peer_left = true}};
        true when Back =:= Ours, State =/= undefined, PeerState =/= "2" -> {stale, P};
        true when Back =:= Ours -> {genuine, P#pore{peer_kind = Dialect =:= "otp"}};
        _ when State =:= undefined -> {forged, P#pore{why = forged}};
        _ -> {stale, P#pore{why = forged}}
    end.

-spec act(atom(), number(), #pore{}) -> #pore{}.
act(verify, _Now, #pore{our_dir = Ours, peer_dir = Theirs, layout = Layout} = P) ->
    store(
        verify,
        [
            {read, Ours ++ "/" ++ Layout#layout.knock},
            {get_perms, Ours},
            {read, Ours ++ "/state"},
            {read, Theirs ++ "/" ++ Layout#layout.back},
            {read, Theirs ++ "/state"},
            {read, Theirs ++ "/dialect"}
        ],
        P
    );
act(report, _Now, P) ->
    tell(gone, report(or_withdrawn(P), P));
act(forget, _Now, P0) ->
    {Unwatch, P} = unwatch(report(or_withdrawn(P0), P0)),
    store(remove, Unwatch, P);
act(hold, _Now, #pore{peer_dir = Dir} = P) ->
    store(hold, [{watch, Dir}], P#pore{watching = true});
act(greet, _Now, #pore{watching = Watching, peer_dir = Dir} = P) ->
    store(greet, [say("1", P)] ++ [{watch, Dir} || not Watching], P#pore{watching = true, dirty = true});
act(wait_opener, Now, P) ->
    P#pore{until = Now + P#pore.limits#limits.opener_time};
act(read_wishes, _Now, #pore{peer_dir = Dir} = P) ->
    store(read_wishes, [{read, Dir ++ "/" ++ Name} || Name <- membrane_keys:wish_keys()], P);
act(grant, _Now, P) ->
    work(grant, P);
act(offer, _Now, #pore{our_dir = Ours, kind = Kind, terms = Terms, wishes = Wishes, offer = Offer} = P) ->
    % whoever granted has seen to it that the offer can be said
    Keys = Kind:publish(Offer, Terms) ++ membrane_keys:terms_keys(Terms#terms{format = Wishes#terms.format}),
    store(offer, [{atomic, [{write, Ours ++ "/" ++ Name, Value} || {Name, Value} <- Keys] ++ [say("3", P)]}], P);
%% A LING that has not read our 4 yet would wait for it for ever.
act(keep, Now, P0) ->
    P = refuse(P0),
    P#pore{until = keep_until(Now, P)};
act(confirm, Now, P) ->
    store(confirm, [say("4", P)], P#pore{confirmed_at = Now});
act(say_closing, _Now, P) ->
    store(say_closing, [say("5", P)], refuse(P));
act(closing_limit, Now, P) ->
    P#pore{until = Now + P#pore.limits#limits.close_time, dirty = true};
act(withdraw, _Now, P) ->
    work(withdraw, refuse(P));
act(retry_later, Now, P) ->
    P#pore{until = Now + P#pore.limits#limits.retry_time};
act(remove, _Now, P0) ->
    {Unwatch, P} = unwatch(refuse(P0)),
    Say = [say("6", P) || P#pore.peer_kind] ++ [{delete, P#pore.our_dir}],
    store(remove, Unwatch ++ unless_knocking(Say, P), P).

keep_until(Now, #pore{peer_kind = true}) -> Now;
keep_until(Now, #pore{confirmed_at = undefined}) -> Now;
keep_until(Now, #pore{confirmed_at = At, limits = #limits{linger_time = Time}}) -> max(Now, At + Time).

%% The peer may be knocking anew already, in the old directory: a LING does not remove it first.
unless_knocking(Say, #pore{peer_left = false, confirmed_at = undefined}) -> Say;
unless_knocking(Say, #pore{peer_dir = Dir}) -> [{atomic, [{unless, Dir ++ "/state", "2"} | Say]}].

refuse(#pore{why = ''} = P) -> answer(refused, P);
refuse(#pore{why = Why} = P) -> answer(Why, P).

or_withdrawn(#pore{why = ''}) -> withdrawn;
or_withdrawn(#pore{why = Why}) -> Why.

say(State, #pore{our_dir = Dir}) -> {write, Dir ++ "/state", State}.
