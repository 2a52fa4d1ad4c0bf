%% What runs on the BEAM of a test: helpers for the text that a test evaluates, and a server for Python to call.
-module(interop_peer).
-behaviour(gen_server).
-export([puppet/1, cmd/2, tell/2, got/0, got/1, none/1, all/0, echo/2]).
-export([flood/3, numbers/2, collect_start/1, collected/0, collect_wait/1]).
-export([start/0, sleeper/0, trapper/0, relay/1, down/1, logged/1]).
-export([fail/1, ident/1, sleep/2, throw_it/1, exit_with/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(PATIENCE, 20000).

%% -- puppets: processes on the other node that do what they are told (see ref_node) -----------------

puppet(Node) ->
    Ref = make_ref(),
    {puppets, Node} ! {new, self(), Ref},
    receive {Ref, Pid} -> Pid after ?PATIENCE -> error(no_puppet) end.

cmd(Puppet, Op) ->
    Ref = make_ref(),
    Puppet ! {cmd, self(), Ref, Op},
    receive {Ref, Result} -> Result after ?PATIENCE -> error({no_answer, Op}) end.

%% A command without an answer (the puppet dies of it).
tell(Puppet, Op) -> Puppet ! {cmd, self(), make_ref(), Op}, ok.

%% The next message, whatever it is. What must not come is checked after a round trip: see none/1.
got() -> got(?PATIENCE).
got(Time) -> receive Message -> Message after Time -> error(nothing_came) end.

%% Nothing has come from the puppet's process: a round trip through it, then a look.
none(Puppet) ->
    ok = cmd(Puppet, ping),
    all().

all() -> receive Message -> [Message | all()] after 0 -> [] end.

down(Target) ->
    Ref = monitor(process, Target),
    receive {'DOWN', Ref, process, Who, Reason} -> {Who, Reason} after ?PATIENCE -> error(no_down) end.

echo(Node, Term) ->
    Ref = make_ref(),
    {echo, Node} ! {self(), Ref, Term},
    receive {Ref, Back} -> Back after ?PATIENCE -> error(no_echo) end.

%% -- volume ---------------------------------------------------------------------------------------

%% Senders processes, each sending {Index, N} for N = 1..Count.
flood(To, Senders, Count) ->
    All = [spawn_monitor(fun() -> numbers({To, Index}, Count) end) || Index <- lists:seq(1, Senders)],
    [receive {'DOWN', M, process, P, normal} -> ok after ?PATIENCE -> error(sender_hangs) end || {P, M} <- All],
    ok.

numbers({To, Index}, Count) -> [To ! {Index, N} || N <- lists:seq(1, Count)], ok.

%% A process `collector` that counts {Index, N} messages and notes the first that is out of order.
collect_start(Total) ->
    Parent = self(),
    Pid = spawn(fun() ->
                        register(collector, self()),
                        Parent ! {self(), ready},
                        collect(Total, #{}, Parent)
                end),
    receive {Pid, ready} -> put(collector, Pid), Pid end.

collect_wait(Pid) -> receive {Pid, Result} -> Result after ?PATIENCE * 2 -> error(collector_waits) end.

collected() -> collect_wait(get(collector)).

collect(0, Seen, Parent) ->
    unregister(collector),
    Parent ! {self(), {ok, lists:sort(maps:to_list(Seen))}};
collect(Left, Seen, Parent) ->
    receive
        {Index, N} ->
            case maps:get(Index, Seen, 0) + 1 of
                N -> collect(Left - 1, Seen#{Index => N}, Parent);
                Due -> Parent ! {self(), {out_of_order, Index, N, Due}}
            end
    end.

%% -- processes for Python to monitor and link -----------------------------------------------------

%% Waits to be told how to end.
sleeper() ->
    receive
        {exit, Reason} -> exit(Reason);
        crash -> error(crashed);
        {From, Ref, alive} -> From ! {Ref, yes}, sleeper();
        _ -> sleeper()
    end.

%% Traps exits and keeps what it gets; {From, Ref, seen} asks for it.
trapper() -> process_flag(trap_exit, true), trapper([]).
trapper(Seen) ->
    receive
        {From, Ref, seen} -> From ! {Ref, lists:reverse(Seen)}, trapper(Seen);
        {link, Pid} -> link(Pid), trapper(Seen);
        {exit, Reason} -> exit(Reason);
        Message -> trapper([Message | Seen])
    end.

%% Passes each message on as {relayed, Message}.
relay(To) -> receive Message -> To ! {relayed, Message}, relay(To) end.

%% The text that OTP's default logger makes of a crash with this reason.
logged(Reason) ->
    Event = #{level => error, meta => #{time => 0, pid => self(), gl => self()},
              msg => {report, #{label => {proc_lib, crash},
                                report => [[{initial_call, {m, f, []}}, {pid, self()}, {registered_name, []},
                                            {error_info, {error, element(1, Reason), element(2, Reason)}},
                                            {ancestors, []}, {message_queue_len, 0}, {messages, []}, {links, []},
                                            {dictionary, []}, {trap_exit, false}, {status, running},
                                            {heap_size, 1}, {stack_size, 1}, {reductions, 1}], []]}}},
    lists:flatten([logger_formatter:format(Event, #{single_line => false}),
                   io_lib:format("~ts", [proc_lib:format([[{error_info, {error, element(1, Reason),
                                                                            element(2, Reason)}}], []])])]).

%% -- a gen_server for Python: `server` --------------------------------------------------------------

start() ->
    case gen_server:start({local, server}, ?MODULE, [], []) of
        {ok, Pid} -> Pid;
        {error, {already_started, Pid}} -> Pid
    end.

init([]) -> {ok, []}.

handle_call({sum, List}, _, Seen) -> {reply, lists:sum(List), Seen};
handle_call({echo, Term}, _, Seen) -> {reply, Term, Seen};
handle_call({sleep, Ms, Value}, _, Seen) -> timer:sleep(Ms), {reply, Value, Seen};
handle_call({later, Ms, Value}, From, Seen) ->
    spawn(fun() -> timer:sleep(Ms), gen_server:reply(From, Value) end),
    {noreply, Seen};
handle_call(never, _, Seen) -> {noreply, Seen};
handle_call(seen, _, Seen) -> {reply, lists:reverse(Seen), []};
handle_call({exit, Reason}, _, _) -> exit(Reason);
handle_call({stop, Reason}, _, Seen) -> {stop, Reason, Seen};
handle_call(crash, _, _) -> error(crashed);
handle_call(who, {Pid, _}, Seen) -> {reply, Pid, Seen}.

handle_cast(Message, Seen) -> {noreply, [{cast, Message} | Seen]}.

handle_info(Message, Seen) -> {noreply, [{info, Message} | Seen]}.

%% -- functions for rpc ----------------------------------------------------------------------------

ident(Term) -> Term.
sleep(Ms, Value) -> timer:sleep(Ms), Value.
fail(Reason) -> error(Reason).
throw_it(Term) -> throw(Term).
exit_with(Reason) -> exit(Reason).
