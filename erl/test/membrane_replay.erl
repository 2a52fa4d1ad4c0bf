%% Replays what Python's machine was told, and compares what the two machines say to it (tests/interop/test_beam_membrane.py
%% records it). Times are Python's seconds.
-module(membrane_replay).

-export([run/2]).

-include("membrane.hrl").

%% Each trace is {Kind, Me, Wishes, Limits, Steps}; a step is {Input, Works, Events, Timer} with Works = [{Number, Work}].
%% The answer: ok | {differs, Trace number, Step number, Input, Python's outputs, ours}.
run(TableFile, TraceFile) ->
    {ok, Bytes} = file:read_file(TraceFile),
    Table = membrane_table:load(TableFile),
    Traces = binary_to_term(Bytes),
    replay_all(Traces, 1, Table).

replay_all([], _, _) ->
    ok;
replay_all([{Kind, Me, Wishes, Limits, Steps} | Traces], N, Table) ->
    Options = #{kind => Kind, table => Table, wishes => terms(Wishes), limits => limits(Limits)},
    M = membrane_machine:new(Me, Options),
    case replay(Steps, 1, M, #{}) of
        ok -> replay_all(Traces, N + 1, Table);
        Differs -> {differs, N, Differs}
    end.

replay([], _, _, _) ->
    ok;
replay([{Input, Works, Events, Timer} | Steps], N, M0, Known) ->
    {OurWorks, OurEvents, M} = membrane_machine:take(input(Input, Known, M0)),
    Theirs = {
        lists:sort([W || {_, W} <- Works]), lists:sort(Events), Timer
    },
    Ours = {
        lists:sort(lists:map(fun work/1, OurWorks)),
        lists:sort(lists:map(fun event/1, OurEvents)),
        membrane_machine:get_timer(M)
    },
    case same(Theirs, Ours) of
        true -> replay(Steps, N + 1, M, match(Works, OurWorks, Known));
        false -> {N, Input, {python, Theirs}, {erlang, Ours}, membrane_machine:pores(M0)}
    end.

same({Works, Events, Timer}, {Works, Events, OurTimer}) when is_number(Timer), is_number(OurTimer) ->
    abs(Timer - OurTimer) < 1.0e-6;
same(Theirs, Ours) ->
    Theirs =:= Ours.

match([], _, Known) ->
    Known;
match([{Number, Work} | Works], Ours, Known) ->
    [Found | _] = [O || O <- Ours, work(O) =:= Work],
    match(Works, lists:delete(Found, Ours), Known#{Number => Found}).

input({start, Now}, _, M) -> membrane_machine:start(Now, M);
input({open, Peer, none, Now}, _, M) -> membrane_machine:open(Peer, Now, M);
input({open, Peer, Wishes, Now}, _, M) -> membrane_machine:open(Peer, terms(Wishes), Now, M);
input({close, Key, Why, Now}, _, M) -> membrane_machine:close(Key, Why, Now, M);
input({give_up, Peer, Now}, _, M) -> membrane_machine:give_up(Peer, Now, M);
input({stop, Now}, _, M) -> membrane_machine:stop(Now, M);
input({ended, Key, Why, Now}, _, M) -> membrane_machine:ended(Key, Why, Now, M);
input({domain_gone, Peer, Now}, _, M) -> membrane_machine:domain_gone(Peer, Now, M);
input({host_down, Now}, _, M) -> membrane_machine:host_down(Now, M);
input({handle_timer, Now}, _, M) -> membrane_machine:timer(Now, M);
input({changed, Key, Now}, _, M) -> membrane_machine:changed(Key, Now, M);
input({knocked, Path, Now}, _, M) -> membrane_machine:knocked(binary_to_list(Path), Now, M);
input({store_result, Number, Values, Error, Now}, Known, M) ->
    membrane_machine:store_result(maps:get(Number, Known), {lists:map(fun text/1, Values), Error}, Now, M);
input({pore_result, Number, Result, Now}, Known, M) ->
    membrane_machine:pore_result(maps:get(Number, Known), Result, Now, M).

text(undefined) -> undefined;
text(Text) when is_binary(Text) -> binary_to_list(Text);
text(List) when is_list(List) -> lists:map(fun text/1, List).

terms({Format, Dialect, Ring, Suppress}) ->
    #terms{format = Format, dialect = Dialect, ring_bytes = Ring, suppress = Suppress}.

limits(Limits) ->
    #{knocks_per_second := Knocks} = Limits,
    Names = record_info(fields, limits),
    Values = [maps:get(Name, Limits, Knocks) || Name <- Names],
    list_to_tuple([limits | Values]).

%% As Python writes them in the trace.
work({store, Key, _, Tag, Steps}) -> {store, Key, Tag, lists:map(fun step/1, Steps)};
work({pore, Key, _, Verb, Terms, Offer}) -> {pore, Key, Verb, plain(Terms), Offer}.

step({delete, Path, eacces}) -> {delete, bin(Path), <<"EACCES">>};
step({atomic, Steps}) -> {atomic, lists:map(fun step/1, Steps)};
step({set_perms, Path, Perms}) -> {set_perms, bin(Path), lists:map(fun bin/1, Perms)};
step(Step) -> list_to_tuple([element(1, Step) | lists:map(fun bin/1, tl(tuple_to_list(Step)))]).

bin(Text) -> list_to_binary(Text).

plain(#terms{format = Format, dialect = Dialect, ring_bytes = Ring, suppress = Suppress}) ->
    {Format, Dialect, Ring, Suppress}.

event({opened, Key, Terms, Asked}) -> {opened, Key, plain(Terms), Asked};
event({reported, What, Peer, _Detail}) -> {reported, What, Peer};
event(Event) -> Event.
