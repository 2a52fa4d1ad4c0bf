%% The one who opens (LING's passive side): it knocks, maps what is offered, and unmaps before it says so.
%%
%% The actions of the table's passive rows; judge/4 makes an input of what the store said. Pure, as membrane_pore.
-module(membrane_opener).

-export([look_steps/1, state_of/2, judge/4, act/3]).

-include("membrane.hrl").
-import(membrane_pore, [store/3, work/2, report/2, answer/2, unwatch/1, judge_gone/2, set_why/2]).

-spec look_steps(#pore{}) -> [tuple()].
look_steps(#pore{peer_dir = Dir, layout = #layout{knock = Knock}}) ->
    [{read, Dir ++ "/" ++ Knock}, {read, Dir ++ "/state"}, {get_perms, Dir ++ "/state"}].

%% The peer's state by a look; undefined: it is gone, "": nothing that counts.
-spec state_of([term()], #pore{}) -> {string() | undefined, #pore{}}.
state_of([Knock, _, _], #pore{our_dir = Ours} = P) when Knock =/= Ours ->
    {undefined, P};
state_of([_, undefined, _], P) ->
    {"", P};
state_of([_, State, Perms], #pore{peer = Peer, me = Me} = P) ->
    case membrane_keys:owned_by(Perms, Peer, Me) of
        true -> {State, P};
        false -> {"", report(not_its_own, P)}
    end.

-spec judge(atom(), {[term()], atom()}, number(), #pore{}) -> {atom(), #pore{}}.
judge(old, {[], Error}, _Now, P) -> not_found(Error, P);
judge(old, {[undefined | _], Error}, _Now, P) -> not_found(Error, P);
judge(old, {_, Error}, _Now, P) when Error =/= '', Error =/= eacces -> {no, P};
judge(old, {[_, undefined], ''}, _Now, P) -> {clear, P};
judge(old, _, Now, #pore{since = Since, limits = #limits{old_time = Time}} = P) when Now - Since >= Time -> {overdue, P};
judge(old, _, _Now, P) -> {occupied, P};
judge(Tag, {_, Error}, _Now, P) when Error =/= '', Tag =:= clear_old orelse Tag =:= prepare -> {no, set_why(occupied, P)};
judge(delete, Result, _Now, P) -> judge_gone(Result, P);
judge(read_offer, Result, _Now, P) ->
    case offered(Result, P) of
        undefined -> {no, report(bad_offer, set_why(bad_offer, P))};
        P1 -> {ok, P1}
    end;
judge(_Tag, {_, ''}, _Now, P) -> {ok, P};
judge(_Tag, _, _Now, P) -> {no, P}.

%% No such domain, or no strawman in it; the store hides which.
not_found(Error, P) when Error =:= ''; Error =:= eacces; Error =:= enoent -> {no, set_why(not_found, P)};
not_found(_Error, P) -> {no, P}.

%% What the peer says, if it is the peer who says it and it makes sense.
offered({_, Error}, _P) when Error =/= '' ->
    undefined;
offered({Read, ''}, #pore{wishes = Wishes, peer = Peer, me = Me, kind = Kind} = P) ->
    Names = names(P),
    {Texts, Perms} = lists:split(length(Names), Read),
    Said = lists:zip3(Names, Texts, Perms),
    Values = maps:from_list([{Name, Text} || {Name, Text, _} <- Said]),
    Owned = lists:all(
        fun({_, Text, Owner}) -> Text =:= undefined orelse membrane_keys:owned_by(Owner, Peer, Me) end, Said
    ),
    Told = membrane_keys:terms_of(Values),
    Terms = membrane_keys:agree(Wishes, Told),
    case Owned andalso is_fair(maps:get("ring-bytes", Values), Terms, Told, Wishes) of
        true ->
            case Kind:parse(Values, Terms) of
                undefined -> undefined;
                Offer -> P#pore{terms = Terms, peer_kind = membrane_keys:own_kind(Told), offer = Offer}
            end;
        false ->
            undefined
    end.

%% A ring that is larger than we asked for, or no such size, is not.
is_fair(_Text, #terms{dialect = ling}, _Told, _Wishes) ->
    true;
is_fair(Text, _Terms, #terms{ring_bytes = Told}, #terms{ring_bytes = Asked}) ->
    case membrane_keys:number(Text) of
        undefined -> true;
        Wide -> Wide =:= Told andalso Wide =< Asked
    end.

names(#pore{kind = Kind}) -> membrane_keys:wish_keys() ++ Kind:offer_keys().

-spec act(atom(), number(), #pore{}) -> #pore{}.
act(look, Now, #pore{peer = Peer, peer_dir = Dir} = P0) ->
    P =
        case P0#pore.since of
            undefined -> P0#pore{since = Now};
            _ -> P0
        end,
    store(old, [{read, membrane_keys:active_top(P#pore.layout, Peer)}, {read, Dir}], P);
act(pause, Now, #pore{limits = Limits} = P) ->
    P#pore{until = Now + Limits#limits.poll_time};
act(clear_old, _Now, P) ->
    store(clear_old, [{delete, P#pore.peer_dir}], P);
%% In one transaction: before it no stranger has written there, after it none can.
act(prepare, _Now, #pore{peer_dir = Dir, me = Me, peer = Peer, layout = #layout{many = Many}} = P) ->
    Perms = ["r" ++ integer_to_list(Me), "b" ++ integer_to_list(Peer)],
    % the level above is ours too
    Dirs = [filename:dirname(Dir) || Many] ++ [Dir],
    Make = lists:append([[{mkdir, Made}, {set_perms, Made, Perms}] || Made <- Dirs]),
    store(prepare, [{atomic, [{delete, Dir} | Make]}], P);
act(knock, _Now, #pore{our_dir = Ours, peer_dir = Theirs, wishes = Wishes, layout = Layout} = P) ->
    Say =
        [{mkdir, Ours}, {write, Ours ++ "/" ++ Layout#layout.back, Theirs}] ++
            [{write, Ours ++ "/" ++ Name, Value} || {Name, Value} <- membrane_keys:terms_keys(Wishes)] ++
            [
                {write, Ours ++ "/state", "2"},
                % last: this wakes the peer
                {write, Theirs ++ "/" ++ Layout#layout.knock, Ours}
            ],
    store(knock, [{watch, Theirs}, {atomic, Say}], P#pore{watching = true});
%% Nobody was woken: nothing of it has to stay.
act(unknock, _Now, P0) ->
    {Unwatch, P} = unwatch(refuse(P0)),
    store(delete, Unwatch ++ [{delete, P#pore.our_dir}, {delete, P#pore.peer_dir}], P);
act(fail_delete, Now, P) ->
    act(delete, Now, refuse(P));
act(delete, _Now, P0) ->
    {Unwatch, P} = unwatch(P0),
    store(delete, Unwatch ++ [{delete, P#pore.our_dir}], P);
act(read_offer, _Now, #pore{peer_dir = Dir} = P) ->
    Paths = [Dir ++ "/" ++ Name || Name <- names(P)],
    store(read_offer, [{read, Path} || Path <- Paths] ++ [{get_perms, Path} || Path <- Paths], P);
act(attach, _Now, P) ->
    work(attach, P);
act(connect, _Now, P) ->
    store(connect, [say("4", P)], P);
act(fail_limit, Now, P) ->
    (answer(or_word(closed, P), P))#pore{until = Now + P#pore.limits#limits.finish_time};
%% Lets a peer that waits for our 4 go on; our own kind understands a 6 as well.
act(finish, _Now, #pore{peer_kind = Own, watching = Watching, peer_dir = Dir} = P) ->
    State =
        case Own of
            true -> "6";
            false -> "4"
        end,
    store(finish, [{watch, Dir} || not Watching] ++ [say(State, P)], P#pore{watching = true});
act(fail_finish, Now, P) ->
    act(finish, Now, refuse(P));
act(limit, Now, P) ->
    P#pore{until = Now + P#pore.limits#limits.finish_time, dirty = true};
act(detach, _Now, P) ->
    work(detach, refuse(P));
act(say_closed, _Now, P) ->
    store(say_closed, [say("6", P)], P);
%% A LING that has deleted its directory may be waiting to read our 6: it gets the whole time.
act(linger, Now, P0) ->
    #pore{peer_kind = Own, peer_dead = Dead, peer_left = Left, limits = Limits} = P = refuse(P0),
    Time =
        case Dead orelse (Left andalso Own) of
            true -> 0;
            false -> Limits#limits.linger_time
        end,
    P#pore{until = Now + Time, looked_enough = Left, dirty = not Left}.

refuse(P) ->
    answer(or_word(refused, P), P).

or_word(Word, #pore{why = ''}) -> Word;
or_word(_Word, #pore{why = Why}) -> Why.

say(State, #pore{our_dir = Dir}) -> {write, Dir ++ "/state", State}.
