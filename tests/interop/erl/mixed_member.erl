%% A member of the mixed cluster: says who it is, and reaches others as it is told, by name and by pid.
%% What a straw brings makes no atoms, so names and labels are binaries.
-module(mixed_member).
-behaviour(gen_server).
-export([start/1, domain/3, init/1, handle_call/3, handle_cast/2, handle_info/2]).

start(Label) ->
    {ok, _} = gen_server:start({local, member}, ?MODULE, Label, []),
    ok.

%% The member of a BEAM that is a domain: nobody's but the host's.
domain(Folder, Domid, Label) ->
    ok = application:load(straw),
    [application:set_env(straw, Key, Value) ||
        {Key, Value} <- [{host, Folder}, {domid, Domid}, {backend, local}, {exports, [member]}]],
    ok = start(Label),
    {ok, _} = application:ensure_all_started(straw),
    strawman:domid().

init(Label) -> {ok, {Label, []}}.

handle_call(who, _From, {Label, _} = State) -> {reply, Label, State};
handle_call(pid, _From, State) -> {reply, self(), State};
handle_call(told, _From, {Label, Told}) -> {reply, lists:reverse(Told), {Label, []}};
handle_call({tell, Route, Message}, _From, State) -> tell(Route, Message), {reply, ok, State};
handle_call({reach, Route}, From, State) ->
    spawn(fun() -> gen_server:reply(From, reach(Route)) end),
    {noreply, State}.

handle_cast(_, State) -> {noreply, State}.

handle_info({note, Pid, Ref}, {Label, _} = State) -> Pid ! {noted, Label, Ref}, {noreply, State};
handle_info(Message, {Label, Told}) -> {noreply, {Label, [Message | Told]}}.

%% Who answers to a name, to its pid, and to a plain message to the pid: each of the three.
reach(Route) ->
    Name = address(Route),
    Pid = gen_server:call(Name, pid),
    Ref = make_ref(),
    Pid ! {note, self(), Ref},
    Noted = receive {noted, Label, Ref} -> Label after 30000 -> nothing end,
    [gen_server:call(Name, who), gen_server:call(Pid, who), Noted].

address({node, Node}) -> {member, binary_to_atom(Node)};
address({straw, Gateway, Domid, Name}) ->
    {ok, Pid} = gen_server:call(strawman(Gateway), {proxy, Domid, binary_to_atom(Name)}),
    Pid.

tell({straw, Gateway, Domid, Name}, Message) ->
    strawman(Gateway) ! {envelope, {Domid, binary_to_atom(Name)}, Message}.

strawman(<<>>) -> strawman;
strawman(Node) -> {strawman, binary_to_atom(Node)}.
