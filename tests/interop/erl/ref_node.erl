%% The oracle: what the Python application of beamkit/pyapp.py does, written for a BEAM. The same tests run against
%% either, so that what they expect is shown to be OTP's own behaviour.
%%
%% Names: echo (a process), calc (a gen_server), puppets (makes puppets: processes that do what a test tells them).
-module(ref_node).
-behaviour(gen_server).
-export([start/0, stop/0, puppet/1, echo/0, puppets/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

start() ->
    Parent = self(),
    spawn(fun() ->
                  process_flag(trap_exit, true),
                  register(ref_node, self()),
                  register(echo, spawn_link(fun echo/0)),
                  register(puppets, spawn_link(fun puppets/0)),
                  {ok, _} = gen_server:start_link({local, calc}, ?MODULE, [], []),
                  Parent ! ref_node_started,
                  keeper()
          end),
    receive ref_node_started -> ok end.

stop() ->
    Monitors = [monitor(process, Name) || Name <- [ref_node, calc, echo, puppets]],
    exit(whereis(ref_node), kill),
    [receive {'DOWN', M, _, _, _} -> ok end || M <- Monitors],
    [exit(P, kill) || P <- processes(), process_info(P, initial_call) =:= {initial_call, {?MODULE, puppet, 1}}],
    [persistent_term:erase(Key) || {{py_record, _} = Key, _} <- persistent_term:get()],
    [erlang:disconnect_node(Node) || Node <- nodes(connected)],
    ok.

%% restart="permanent" of calc.
keeper() ->
    receive
        {'EXIT', _, killed} -> keeper();
        {'EXIT', _, _} ->
            _ = gen_server:start_link({local, calc}, ?MODULE, [], []),
            keeper()
    end.

%% {Sender, Ref, Payload} is answered with {Ref, Payload}.
echo() ->
    receive
        {Sender, Ref, Payload} -> Sender ! {Ref, Payload}, echo();
        _ -> echo()
    end.

puppets() ->
    receive
        {new, Owner, Ref} ->
            Owner ! {Ref, spawn(?MODULE, puppet, [Owner])},
            puppets()
    end.

%% {cmd, From, Ref, Op} is done and answered with {Ref, Result}; every other message goes to the owner as
%% {puppet, self(), Message}.
puppet(Owner) ->
    receive
        {cmd, From, Ref, Op} -> From ! {Ref, do(Op)};
        Message -> Owner ! {puppet, self(), Message}
    end,
    puppet(Owner).

do(ping) -> ok;
do({link, Pid}) -> link(Pid), ok;
do({unlink, Pid}) -> unlink(Pid), ok;
do({monitor, Target}) -> monitor(process, Target);
do({demonitor, Ref}) -> demonitor(Ref, [flush]), ok;
do({trap_exit, Flag}) -> process_flag(trap_exit, Flag), ok;
do({exit_signal, Pid, Reason}) -> exit(Pid, Reason), ok;
do({send, To, Message}) -> To ! Message, ok;
do({register, Name}) -> register(Name, self()), ok;
do({raise, Text}) -> erlang:error({python, 'ValueError', Text});
do({exit, Reason}) -> exit(Reason);
do(finish) -> exit(normal).

%% -- calc ------------------------------------------------------------------------------------------

init([]) -> {ok, []}.

handle_call({add, A, B}, _, Notes) -> {reply, A + B, Notes};
handle_call({echo, Term}, _, Notes) -> {reply, Term, Notes};
handle_call(notes, _, Notes) -> {reply, lists:reverse(Notes), []};
handle_call({sleep, Ms, Value}, _, Notes) -> timer:sleep(Ms), {reply, Value, Notes};
handle_call({later, Ms, Value}, From, Notes) ->
    spawn(fun() -> timer:sleep(Ms), gen_server:reply(From, Value) end),
    {noreply, Notes};
handle_call(never, _, Notes) -> {noreply, Notes};
handle_call({stop, Reason, Reply}, _, Notes) -> {stop, Reason, Reply, Notes};
handle_call({stop, Reason}, _, Notes) -> {stop, Reason, Notes};
handle_call({raise, Text}, _, _) -> erlang:error({python, 'ValueError', Text});
handle_call(pid, _, Notes) -> {reply, self(), Notes}.

handle_cast(Note, Notes) -> {noreply, [{cast, Note} | Notes]}.

handle_info(Note, Notes) -> {noreply, [{info, Note} | Notes]}.
