%% Random programs of links, monitors, names and exits among puppets (see ref_node) of this BEAM and of another node.
%%
%% run(Node, Steps, Seed) gives what could be observed after each step. The same program run against a BEAM and against
%% the node under test must give the same: each step ends when everything that it can cause has arrived.
-module(signal_gen).
-export([run/3]).

-define(PATIENCE, 10000).
-define(PUPPETS, 6).

%% Puppets are {Index, Pid}; odd ones are on the other node. Dead ones are replaced under a new index.
run(Node, Steps, Seed) ->
    rand:seed(exsss, Seed),
    logger:set_primary_config(level, none),
    put(node, Node),
    put(next, 1),
    put(refs, #{}),
    put(all, #{}),
    Puppets = [new() || _ <- lists:seq(1, ?PUPPETS)],
    steps(Puppets, [], Steps, []).

steps(Alive, _, 0, Trace) ->
    [begin exit(Pid, kill), interop_peer:down(Pid) end || {_, Pid} <- Alive],
    _ = interop_peer:all(),
    lists:reverse(Trace);
steps(Alive, Dead, Left, Trace) ->
    Op = op(Alive, Dead, Left),
    do(Op, Left),
    {Still, Gone, Events} = settle(Alive),
    Fresh = [new() || _ <- Gone],
    steps(Still ++ Fresh, lists:sublist(Gone ++ Dead, 4), Left - 1, [{Left, shown(Op), Events} | Trace]).

new() ->
    Index = get(next),
    put(next, Index + 1),
    Pid = case Index rem 2 of
              0 -> spawn(ref_node, puppet, [self()]);
              1 -> interop_peer:puppet(get(node))
          end,
    put(all, (get(all))#{Pid => Index}),
    put({monitor, monitor(process, Pid)}, Index),
    {Index, Pid}.

%% -- choosing -------------------------------------------------------------------------------------

op(Alive, Dead, Step) ->
    A = pick(Alive),
    B = case {rand:uniform(8), Dead} of
            {1, [_ | _]} -> pick(Dead);
            _ -> pick(Alive)
        end,
    Reason = pick([normal, shutdown, bye, kill, killed, {shutdown, Step}, noproc, noconnection]),
    pick([{link, A, B}, {link, A, B}, {link, A, B}, {unlink, A, B}, {monitor, A, B}, {monitor, A, B},
          {monitor_name, A, B}, {register, A}, {demonitor, A}, {trap_exit, A, true}, {trap_exit, A, false},
          {exit_signal, A, B, Reason}, {exit_signal, A, B, Reason}, {exit, A, Reason}, {raise, A}, {finish, A},
          {send, A, B, Step}]).

pick(List) -> lists:nth(rand:uniform(length(List)), List).

shown(Op) -> list_to_tuple([case X of {I, P} when is_pid(P) -> I; _ -> X end || X <- tuple_to_list(Op)]).

%% -- doing ----------------------------------------------------------------------------------------

do({link, {_, A}, {_, B}}, _) when A =:= B -> ok;
do({link, {_, A}, {_, B}}, _) -> cmd(A, {link, B});
do({unlink, {_, A}, {_, B}}, _) -> cmd(A, {unlink, B});
do({monitor, {I, A}, {_, B}}, Step) -> keep(I, Step, cmd(A, {monitor, B}));
do({monitor_name, {I, A}, {J, B}}, Step) -> keep(I, Step, cmd(A, {monitor, {name(J), node(B)}}));
do({register, {I, A}}, _) ->
    case get({registered, I}) of
        undefined -> put({registered, I}, true), cmd(A, {register, name(I)});
        true -> ok
    end;
do({demonitor, {I, A}}, _) ->
    case [{Ref, Step} || {Ref, {J, Step}} <- maps:to_list(get(refs)), J =:= I] of
        [] -> ok;
        Refs ->
            {Ref, _} = hd(lists:keysort(2, Refs)),
            put(refs, maps:remove(Ref, get(refs))),
            cmd(A, {demonitor, Ref})
    end;
do({trap_exit, {_, A}, Flag}, _) -> cmd(A, {trap_exit, Flag});
do({exit_signal, {_, A}, {_, B}, Reason}, _) -> cmd(A, {exit_signal, B, Reason});
do({exit, {_, A}, Reason}, _) -> cmd(A, {exit, Reason});
do({raise, {_, A}}, _) -> cmd(A, {raise, <<"raised">>});
do({finish, {_, A}}, _) -> cmd(A, finish);
do({send, {_, A}, {_, B}, Step}, _) -> cmd(A, {send, B, {hello, Step}}).

name(Index) -> list_to_atom("signal_gen_" ++ integer_to_list(Index)).

keep(Index, Step, {ok, Ref}) -> put(refs, (get(refs))#{Ref => {Index, Step}});
keep(_, _, none) -> ok.

%% The answer, or none when the puppet is dead.
cmd(Pid, Op) ->
    Ref = make_ref(),
    Monitor = monitor(process, Pid),
    Pid ! {cmd, self(), Ref, Op},
    Answer = receive
                 {Ref, Result} -> {ok, Result};
                 {'DOWN', Monitor, process, _, _} -> none
             after ?PATIENCE -> error({no_answer, Op})
             end,
    demonitor(Monitor, [flush]),
    Answer.

%% -- observing ------------------------------------------------------------------------------------

%% Round trips to everybody, as often as a signal can be passed on, then everything that has come. Signals of a node
%% itself (noproc) have no order with the puppets' answers: a moment for them, and the test runs a program again.
settle(Alive) ->
    [begin [cmd(Pid, ping) || {_, Pid} <- Alive], N rem 3 =:= 0 andalso receive after 1 -> ok end end
     || N <- lists:seq(1, ?PUPPETS)],
    %% A puppet that dies while it answers may have sent the answer after its end (test_links has a test of that).
    Events = [event(Message) || Message <- interop_peer:all(), not late(Message)],
    Dead = [Index || {dead, Index, _} <- Events],
    %% What a process still saw before it died of the same cause is a matter of luck.
    Certain = [E || E <- Events, element(1, E) =:= dead orelse not lists:member(element(1, E), Dead)],
    {[P || {I, _} = P <- Alive, not lists:member(I, Dead)], [P || {I, _} = P <- Alive, lists:member(I, Dead)],
     lists:sort(Certain)}.

late({Ref, _}) -> is_reference(Ref);
late(_) -> false.

event({'DOWN', Monitor, process, _, Reason}) -> {dead, get({monitor, Monitor}), reason(Reason)};
event({puppet, Pid, {'EXIT', From, Reason}}) -> {index(Pid), exit, index(From), reason(Reason)};
event({puppet, Pid, {'DOWN', Ref, process, What, Reason}}) ->
    {_, Step} = maps:get(Ref, get(refs), {none, none}),
    {index(Pid), down, Step, case What of {Name, Where} -> {Name, Where =:= node()}; _ -> index(What) end, reason(Reason)};
event({puppet, Pid, Message}) -> {index(Pid), message, Message};
event(Other) -> {other, Other}.

index(Pid) -> maps:get(Pid, get(all), unknown).

%% A crash's stack is its own.
reason({Reason, [{_, _, _, _} | _]}) -> Reason;
reason(Reason) -> Reason.
