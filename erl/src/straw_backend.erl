%% The domain that this BEAM is: its grants, mappings and event channels, and who they belong to.
%%
%% Whatever is handed out belongs to the process that asked; it is given back when it says so, or dies (`give_away/2` makes it
%% another's). Memory is given back to the platform only when no pore has it mapped. When the platform ends (the host service
%% dies), every pore fails with `host_down` and this process exits with `{shutdown, host_down}`.
-module(straw_backend).
-behaviour(gen_server).

-export([start_link/1, start_link/2, stop/1]).
-export([domid/0, domid/1, info/0, info/1, domains/0, domains/1, held/0, held/1, subscribe/1, subscribe/2]).
-export([grant/2, grant/3, grant_refs/1, end_access/1, map/2, map/3, unmap/1]).
-export([alloc_channel/1, alloc_channel/2, bind_channel/2, bind_channel/3, channel_port/1, close_channel/1]).
-export([give_away/2, give_back/1, store/0, store/1, take_lock/1, take_lock/2]).
-export([memory/1, channel/1, papers/3]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).
-export_type([server/0, grant/0, mapping/0, event_channel/0, options/0]).

-record(straw_grant, {server :: pid(), key :: pos_integer(), peer, refs, memory}).
-record(straw_mapping, {server :: pid(), key :: pos_integer(), peer, refs, memory}).
-record(straw_channel, {server :: pid(), key :: pos_integer(), peer, port, channel}).

-opaque grant() :: #straw_grant{}.
-opaque mapping() :: #straw_mapping{}.
-opaque event_channel() :: #straw_channel{}.
-type server() :: pid() | atom().
-type errno() :: straw_platform:errno().
-type domid() :: 0..16#7FFF.
-type options() :: #{
    host => file:filename_all() | undefined, domid => non_neg_integer(), backend => auto | local | xen | module()
}.

%% What is handed out, until the platform has it back.
-record(thing, {
    handle :: grant() | mapping() | event_channel(),
    id :: term(),
    monitor :: reference() | undefined,
    %% idle; asked: the platform was asked to take it back; parked: a mapping that a pore still uses; busy: a grant that the
    %% peer has mapped
    state = idle :: idle | asked | parked | busy,
    %% nobody will ask for it again
    orphan = false :: boolean(),
    waiting = [] :: [gen_server:from()]
}).

-record(state, {
    platform :: module(),
    inner :: term(),
    domid = 0 :: domid(),
    next = 1 :: pos_integer(),
    things = #{} :: #{pos_integer() => #thing{}},
    %% of the owners of things, and of those who have asked for one
    monitors = #{} :: #{reference() => {thing, pos_integer()} | {asking, pos_integer()} | {lock, atom()} | subscriber},
    locks = #{} :: #{atom() => pid()},
    asking = #{} :: #{pos_integer() => {gen_server:from(), straw_platform:request(), reference() | undefined}},
    subscribers = #{} :: #{pid() => reference()},
    %% requests without an answer
    open = 0 :: non_neg_integer(),
    watchdog :: reference() | undefined
}).

%% A host that does not answer for so long (ms) is taken for dead.
-define(PATIENCE, 15000).
-define(HOST_DOWN, 3).

%% ---- starting ----

%% The domain of this node, registered as straw_backend. `host`: the host service's folder; `domid`: the id wanted, 0: any.
%% {error, {shutdown, Why}}: {no_host, Folder, Errno}: no host service there; {no_xen, Path, Errno}; {refused, ebusy}: the id is
%% somebody else's; {host_down, Why}: it died just now.
-spec start_link(options()) -> gen_server:start_ret().
start_link(Options) -> gen_server:start_link({local, ?MODULE}, ?MODULE, Options, []).

%% Another domain beside it, not registered: tests.
-spec start_link(anonymous, options()) -> gen_server:start_ret().
start_link(anonymous, Options) -> gen_server:start_link(?MODULE, Options, []).

-spec stop(server()) -> ok.
stop(Server) -> gen_server:stop(Server).

%% ---- asking ----

-spec domid() -> domid().
domid() -> domid(?MODULE).
-spec domid(server()) -> domid().
domid(Server) -> maps:get(domid, info(Server)).

-spec info() -> #{backend := atom(), domid := domid(), host := term()}.
info() -> info(?MODULE).
-spec info(server()) -> #{backend := atom(), domid := domid(), host := term()}.
info(Server) -> call(Server, info).

-spec domains() -> {ok, [domid()]} | {error, errno()}.
domains() -> domains(?MODULE).
-spec domains(server()) -> {ok, [domid()]} | {error, errno()}.
domains(Server) -> call(Server, {ask, domains}).

%% How many are not given back.
-spec held() -> #{grants := integer(), mappings := integer(), channels := integer()}.
held() -> held(?MODULE).
-spec held(server()) -> #{grants := integer(), mappings := integer(), channels := integer()}.
held(Server) -> call(Server, held).

%% Pid gets {straw_backend, {unmapped, Refs} | {domain_gone, Domid} | {down, Why}}.
-spec subscribe(pid()) -> ok.
subscribe(Pid) -> subscribe(?MODULE, Pid).
-spec subscribe(server(), pid()) -> ok.
subscribe(Server, Pid) when is_pid(Pid) -> call(Server, {subscribe, Pid}).

%% A new connection to the store as this domain: for pore_xs.
-spec store() -> {ok, pore_nif:channel()} | {error, errno()}.
store() -> store(?MODULE).
-spec store(server()) -> {ok, pore_nif:channel()} | {error, errno()}.
store(Server) -> call(Server, {ask, store}).

%% One process of the domain has a lock (straw, tube, ...), until it dies.
-spec take_lock(atom()) -> ok | {error, taken}.
take_lock(Name) -> take_lock(?MODULE, Name).
-spec take_lock(server(), atom()) -> ok | {error, taken}.
take_lock(Server, Name) -> call(Server, {take_lock, Name}).

%% ---- memory ----

-spec grant(domid(), pos_integer()) -> {ok, grant()} | {error, errno()}.
grant(Peer, Pages) -> grant(?MODULE, Peer, Pages).
-spec grant(server(), domid(), pos_integer()) -> {ok, grant()} | {error, errno()}.
grant(Server, Peer, Pages) -> call(Server, {ask, {grant, Peer, Pages}}).

-spec grant_refs(grant()) -> [non_neg_integer()].
grant_refs(#straw_grant{refs = Refs}) -> Refs.

%% {error, busy}: the peer still has it mapped; {unmapped, Refs} tells when to ask again. Nobody can map it from now on.
-spec end_access(grant()) -> ok | {error, busy | errno()}.
end_access(#straw_grant{server = Server, key = Key}) -> give_back(Server, Key).

-spec map(domid(), [non_neg_integer()]) -> {ok, mapping()} | {error, errno()}.
map(Peer, Refs) -> map(?MODULE, Peer, Refs).
-spec map(server(), domid(), [non_neg_integer()]) -> {ok, mapping()} | {error, errno()}.
map(Server, Peer, Refs) -> call(Server, {ask, {map, Peer, Refs}}).

%% Returns when the peer may know: after the pore that uses it has closed.
-spec unmap(mapping()) -> ok | {error, errno()}.
unmap(#straw_mapping{server = Server, key = Key}) -> give_back(Server, Key).

%% ---- channels ----

-spec alloc_channel(domid()) -> {ok, event_channel()} | {error, errno()}.
alloc_channel(Peer) -> alloc_channel(?MODULE, Peer).
-spec alloc_channel(server(), domid()) -> {ok, event_channel()} | {error, errno()}.
alloc_channel(Server, Peer) -> call(Server, {ask, {alloc_channel, Peer}}).

-spec bind_channel(domid(), non_neg_integer()) -> {ok, event_channel()} | {error, errno()}.
bind_channel(Peer, Port) -> bind_channel(?MODULE, Peer, Port).
-spec bind_channel(server(), domid(), non_neg_integer()) -> {ok, event_channel()} | {error, errno()}.
bind_channel(Server, Peer, Port) -> call(Server, {ask, {bind_channel, Peer, Port}}).

-spec channel_port(event_channel()) -> non_neg_integer().
channel_port(#straw_channel{port = Port}) -> Port.

-spec close_channel(event_channel()) -> ok | {error, errno()}.
close_channel(#straw_channel{server = Server, key = Key}) -> give_back(Server, Key).

%% From now on it goes with Pid.
-spec give_away(grant() | mapping() | event_channel(), pid()) -> ok | {error, gone}.
give_away(Thing, Pid) when is_pid(Pid) ->
    {Server, Key} = key(Thing),
    call(Server, {give_away, Key, Pid}).

%% ---- for pore, pore_straw and pore_tube ----

-spec memory(grant() | mapping()) -> pore_nif:memory().
memory(#straw_grant{memory = Memory}) -> Memory;
memory(#straw_mapping{memory = Memory}) -> Memory.

-spec channel(event_channel()) -> pore_nif:channel().
channel(#straw_channel{channel = Channel}) -> Channel.

%% What a pore made of these keeps. GiveBack: when it closes, they are given back without being asked for.
-spec papers(grant() | mapping(), [event_channel()], boolean()) -> pore_nif:papers().
papers(Memory, Channels, GiveBack) ->
    {Server, Key} = key(Memory),
    Refs =
        case Memory of
            #straw_grant{refs = R} -> R;
            #straw_mapping{refs = R} -> R
        end,
    Keys = [K || #straw_channel{key = K} <- Channels],
    {Refs, [P || #straw_channel{port = P} <- Channels], Server, {pore_closed, Key, Keys, GiveBack}}.

-spec key(grant() | mapping() | event_channel()) -> {pid(), pos_integer()}.
key(#straw_grant{server = Server, key = Key}) -> {Server, Key};
key(#straw_mapping{server = Server, key = Key}) -> {Server, Key};
key(#straw_channel{server = Server, key = Key}) -> {Server, Key}.

%% end_access, unmap, close_channel: whichever it is.
-spec give_back(grant() | mapping() | event_channel()) -> ok | {error, busy | errno()}.
give_back(Thing) ->
    {Server, Key} = key(Thing),
    give_back(Server, Key).

%% What is dead has given everything back.
-spec give_back(pid(), pos_integer()) -> ok | {error, busy | errno()}.
give_back(Server, Key) ->
    case call(Server, {give_back, Key}) of
        {error, host_down} -> ok;
        Result -> Result
    end.

-spec call(server(), term()) -> term().
call(Server, Request) ->
    try
        gen_server:call(Server, Request, infinity)
    catch
        exit:{Why, {gen_server, call, _}} when Why =/= calling_self -> {error, host_down}
    end.

%% ---- the server ----

-spec init(options()) -> {ok, #state{}} | {stop, term()}.
init(Options) ->
    process_flag(trap_exit, true),
    Platform = platform(maps:get(backend, Options, auto)),
    case Platform:open(Options) of
        {ok, Inner} ->
            hello(maps:get(domid, Options, 0), #state{platform = Platform, inner = Inner});
        {error, Reason} ->
            {stop, {shutdown, Reason}}
    end.

-spec platform(atom()) -> module().
platform(local) -> straw_local;
platform(xen) -> straw_xen;
platform(auto) ->
    case straw_xen:missing() of
        ok -> straw_xen;
        _ -> straw_local
    end;
platform(Module) -> Module.

-spec hello(non_neg_integer(), #state{}) -> {ok, #state{}} | {stop, term()}.
hello(Wanted, #state{platform = Platform, inner = Inner} = State) ->
    case Platform:request({hello, Wanted}, hello, Inner) of
        {down, Why} -> {stop, {shutdown, {host_down, Why}}};
        {News, Inner1} -> hello_reply(News, State#state{inner = Inner1})
    end.

-spec hello_reply([straw_platform:news()], #state{}) -> {ok, #state{}} | {stop, term()}.
hello_reply([{reply, hello, {ok, Domid}}], State) ->
    {ok, State#state{domid = Domid}};
hello_reply([{reply, hello, {error, Errno}}], State) ->
    ok = (State#state.platform):close(State#state.inner),
    {stop, {shutdown, {refused, Errno}}};
hello_reply([], #state{platform = Platform, inner = Inner} = State) ->
    receive
        {irq, _} = Message ->
            case Platform:handle(Message, Inner) of
                {down, Why} -> {stop, {shutdown, {host_down, Why}}};
                {News, Inner1} -> hello_reply(News, State#state{inner = Inner1});
                unknown -> hello_reply([], State)
            end
    after ?PATIENCE ->
        ok = Platform:close(Inner),
        {stop, {shutdown, {host_down, timeout}}}
    end.

-spec handle_call(term(), gen_server:from(), #state{}) ->
    {reply, term(), #state{}} | {noreply, #state{}} | {stop, term(), #state{}}.
handle_call(info, _From, #state{platform = Platform, inner = Inner, domid = Domid} = State) ->
    {reply, (Platform:describe(Inner))#{domid => Domid}, State};
handle_call(held, _From, #state{things = Things} = State) ->
    Handles = [H || #thing{handle = H} <- maps:values(Things)],
    Held = #{
        grants => length([x || #straw_grant{} <- Handles]),
        mappings => length([x || #straw_mapping{} <- Handles]),
        channels => length([x || #straw_channel{} <- Handles])
    },
    {reply, Held, State};
handle_call({subscribe, Pid}, _From, #state{subscribers = Subscribers} = State) when is_map_key(Pid, Subscribers) ->
    {reply, ok, State};
handle_call({subscribe, Pid}, _From, #state{subscribers = Subscribers} = State) ->
    Monitor = monitor(process, Pid),
    Monitors = (State#state.monitors)#{Monitor => subscriber},
    {reply, ok, State#state{subscribers = Subscribers#{Pid => Monitor}, monitors = Monitors}};
handle_call({take_lock, Name}, {Pid, _}, #state{locks = Locks} = State) ->
    case Locks of
        #{Name := _} ->
            {reply, {error, taken}, State};
        _ ->
            case (State#state.platform):lock(Name, State#state.inner) of
                {ok, Inner} ->
                    Monitors = (State#state.monitors)#{monitor(process, Pid) => {lock, Name}},
                    {reply, ok, State#state{inner = Inner, locks = Locks#{Name => Pid}, monitors = Monitors}};
                {error, taken} ->
                    {reply, {error, taken}, State}
            end
    end;
handle_call({ask, Request}, {Pid, _} = From, #state{next = Key} = State) ->
    Monitor = monitor(process, Pid),
    Asking = (State#state.asking)#{Key => {From, Request, Monitor}},
    Monitors = (State#state.monitors)#{Monitor => {asking, Key}},
    request(Request, {ask, Key}, State#state{next = Key + 1, asking = Asking, monitors = Monitors});
handle_call({give_back, Key}, From, State) ->
    case State of
        #state{things = #{Key := Thing}} ->
            return(Key, Thing#thing{waiting = [From | Thing#thing.waiting]}, State);
        _ ->
            {reply, ok, State}
    end;
handle_call({give_away, Key, Pid}, _From, State) ->
    case State of
        #state{things = #{Key := #thing{monitor = Old} = Thing}} ->
            State1 = forget(Old, State),
            New = monitor(process, Pid),
            Monitors = (State1#state.monitors)#{New => {thing, Key}},
            Things = (State1#state.things)#{Key := Thing#thing{monitor = New, orphan = false}},
            {reply, ok, State1#state{monitors = Monitors, things = Things}};
        _ ->
            {reply, {error, gone}, State}
    end.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast(_Message, State) -> {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
handle_info({pore_closed, Key, Channels, GiveBack}, State) ->
    closed([{Key, GiveBack} | [{Channel, GiveBack} || Channel <- Channels]], State);
handle_info({'DOWN', Monitor, process, Pid, _}, #state{monitors = Monitors} = State) ->
    case maps:take(Monitor, Monitors) of
        {{thing, Key}, Monitors1} ->
            orphan(Key, State#state{monitors = Monitors1});
        {{asking, Key}, Monitors1} ->
            #{Key := {From, Request, _}} = State#state.asking,
            Asking = (State#state.asking)#{Key := {From, Request, undefined}},
            {noreply, State#state{monitors = Monitors1, asking = Asking}};
        {{lock, Name}, Monitors1} ->
            Inner = (State#state.platform):unlock(Name, State#state.inner),
            {noreply, State#state{inner = Inner, monitors = Monitors1, locks = maps:remove(Name, State#state.locks)}};
        {subscriber, Monitors1} ->
            {noreply, State#state{monitors = Monitors1, subscribers = maps:remove(Pid, State#state.subscribers)}};
        error ->
            {noreply, State}
    end;
handle_info({timeout, Timer, watchdog}, #state{watchdog = Timer} = State) ->
    down(timeout, State);
handle_info(Message, #state{platform = Platform, inner = Inner} = State) ->
    case {Platform:handle(Message, Inner), Message} of
        {unknown, {'EXIT', _, Reason}} -> {stop, Reason, State};
        {unknown, _} -> {noreply, State};
        {Result, _} -> news(Result, State)
    end.

%% Whatever the end, nothing of it can be used any more.
-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, #state{platform = Platform, inner = Inner, things = Things}) ->
    Memories = [memory(H) || #thing{handle = H} <- maps:values(Things), not is_record(H, straw_channel)],
    lists:foreach(fun(Memory) -> pore_nif:fail_user(Memory, ?HOST_DOWN) end, Memories),
    Platform:close(Inner).

%% ---- requests and news ----

-spec request(straw_platform:request(), straw_platform:tag(), #state{}) ->
    {noreply, #state{}} | {stop, term(), #state{}}.
request(Request, Tag, #state{platform = Platform, inner = Inner} = State) ->
    news(Platform:request(Request, Tag, Inner), awaiting(State)).

-spec news({[straw_platform:news()], term()} | {down, term()}, #state{}) ->
    {noreply, #state{}} | {stop, term(), #state{}}.
news({down, Why}, State) -> down(Why, State);
news({News, Inner}, State) -> each(News, fun one/2, State#state{inner = Inner}).

-spec each([T], fun((T, #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}), #state{}) ->
    {noreply, #state{}} | {stop, term(), #state{}}.
each([], _Fun, State) ->
    {noreply, State};
each([One | Rest], Fun, State) ->
    case Fun(One, State) of
        {noreply, State1} -> each(Rest, Fun, State1);
        Stop -> Stop
    end.

-spec one(straw_platform:news(), #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
one({event, Event}, State) ->
    tell(Event, State),
    case Event of
        {unmapped, Refs} -> unmapped(Refs, State);
        _ -> {noreply, State}
    end;
one({reply, {ask, Key}, Result}, State) ->
    {{From, Request, Monitor}, Asking} = maps:take(Key, State#state.asking),
    handed_out(Key, Result, Request, From, Monitor, answered(State#state{asking = Asking}));
one({reply, {return, Key}, Result}, State) ->
    #{Key := Thing} = State#state.things,
    returned(Key, Thing, Result, answered(State)).

-spec down(term(), #state{}) -> {stop, {shutdown, host_down}, #state{}}.
down(Why, State) ->
    tell({down, Why}, State),
    {stop, {shutdown, host_down}, State}.

-spec tell(term(), #state{}) -> ok.
tell(Event, #state{subscribers = Subscribers}) ->
    lists:foreach(fun(Pid) -> Pid ! {straw_backend, Event} end, maps:keys(Subscribers)).

%% Each reply gives the host new patience; none is needed when nothing is asked.
-spec awaiting(#state{}) -> #state{}.
awaiting(#state{open = 0} = State) -> State#state{open = 1, watchdog = erlang:start_timer(?PATIENCE, self(), watchdog)};
awaiting(#state{open = Open} = State) -> State#state{open = Open + 1}.

-spec answered(#state{}) -> #state{}.
answered(#state{open = Open, watchdog = Timer} = State) ->
    _ = erlang:cancel_timer(Timer),
    case Open of
        1 -> State#state{open = 0, watchdog = undefined};
        _ -> State#state{open = Open - 1, watchdog = erlang:start_timer(?PATIENCE, self(), watchdog)}
    end.

%% ---- handing out ----

-spec handed_out(
    pos_integer(), straw_platform:result(), straw_platform:request(), gen_server:from(), reference() | undefined, #state{}
) -> {noreply, #state{}} | {stop, term(), #state{}}.
handed_out(Key, Result, Request, From, Monitor, State) ->
    case {handle(Key, Request, Result), Monitor} of
        {none, _} ->
            gen_server:reply(From, Result),
            {noreply, forget(Monitor, State)};
        {{Handle, Id}, undefined} ->
            %% Who has asked is dead.
            return(Key, #thing{handle = Handle, id = Id, orphan = true}, State);
        {{Handle, Id}, _} ->
            gen_server:reply(From, {ok, Handle}),
            Things = (State#state.things)#{Key => #thing{handle = Handle, id = Id, monitor = Monitor}},
            Monitors = (State#state.monitors)#{Monitor := {thing, Key}},
            {noreply, State#state{things = Things, monitors = Monitors}}
    end.

-spec handle(pos_integer(), straw_platform:request(), straw_platform:result()) ->
    none | {grant() | mapping() | event_channel(), term()}.
handle(Key, {grant, Peer, _}, {ok, {Refs, Memory}}) ->
    {#straw_grant{server = self(), key = Key, peer = Peer, refs = Refs, memory = Memory}, Refs};
handle(Key, {map, Peer, Refs}, {ok, {Id, Memory}}) ->
    {#straw_mapping{server = self(), key = Key, peer = Peer, refs = Refs, memory = Memory}, Id};
handle(Key, {alloc_channel, Peer}, {ok, {Port, Channel}}) ->
    {#straw_channel{server = self(), key = Key, peer = Peer, port = Port, channel = Channel}, Port};
handle(Key, {bind_channel, Peer, _}, {ok, {Port, Channel}}) ->
    {#straw_channel{server = self(), key = Key, peer = Peer, port = Port, channel = Channel}, Port};
handle(_Key, _Request, _Result) ->
    none.

-spec forget(reference() | undefined, #state{}) -> #state{}.
forget(undefined, State) ->
    State;
forget(Monitor, State) ->
    true = demonitor(Monitor, [flush]),
    State#state{monitors = maps:remove(Monitor, State#state.monitors)}.

%% ---- giving back ----

-spec return(pos_integer(), #thing{}, #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
return(Key, #thing{state = asked} = Thing, State) ->
    {noreply, put_thing(Key, Thing, State)};
return(Key, #thing{handle = #straw_mapping{memory = Memory}, id = Id} = Thing, State) ->
    case pore_nif:in_use(Memory) of
        true ->
            {noreply, put_thing(Key, Thing#thing{state = parked}, State)};
        false ->
            request({unmap, Id, Memory}, {return, Key}, put_thing(Key, Thing#thing{state = asked}, State))
    end;
return(Key, #thing{handle = #straw_grant{memory = Memory}, id = Refs} = Thing, State) ->
    request({end_access, Refs, Memory}, {return, Key}, put_thing(Key, Thing#thing{state = asked}, State));
return(Key, #thing{handle = #straw_channel{channel = Channel}, id = Port} = Thing, State) ->
    ok = pore_nif:close_fd(Channel),
    request({close_channel, Port}, {return, Key}, put_thing(Key, Thing#thing{state = asked}, State)).

-spec put_thing(pos_integer(), #thing{}, #state{}) -> #state{}.
put_thing(Key, Thing, State) -> State#state{things = (State#state.things)#{Key => Thing}}.

-spec returned(pos_integer(), #thing{}, straw_platform:result(), #state{}) -> {noreply, #state{}}.
returned(Key, Thing, {error, ebusy}, State) ->
    reply_all(Thing, {error, busy}),
    {noreply, put_thing(Key, Thing#thing{state = busy, waiting = []}, State)};
returned(Key, Thing, Result, State) ->
    Reply =
        case Result of
            {ok, _} -> ok;
            {error, enoent} -> ok;
            Error -> Error
        end,
    reply_all(Thing, Reply),
    State1 = forget(Thing#thing.monitor, State),
    {noreply, State1#state{things = maps:remove(Key, State1#state.things)}}.

-spec reply_all(#thing{}, term()) -> ok.
reply_all(#thing{waiting = Waiting}, Reply) ->
    lists:foreach(fun(From) -> gen_server:reply(From, Reply) end, lists:reverse(Waiting)).

-spec orphan(pos_integer(), #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
orphan(Key, State) ->
    case State of
        #state{things = #{Key := Thing}} -> return(Key, Thing#thing{monitor = undefined, orphan = true}, State);
        _ -> {noreply, State}
    end.

%% A pore has closed: a mapping that waited for that goes now.
-spec closed([{pos_integer(), boolean()}], #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
closed(Keys, State) ->
    each(
        Keys,
        fun({Key, GiveBack}, S) ->
            case S of
                #state{things = #{Key := Thing}} when GiveBack -> return(Key, Thing#thing{orphan = true}, S);
                #state{things = #{Key := #thing{state = parked} = Thing}} -> return(Key, Thing, S);
                _ -> {noreply, S}
            end
        end,
        State
    ).

%% The peer has let go of a grant: if nobody else will ask again, we do.
-spec unmapped([non_neg_integer()], #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
unmapped(Refs, #state{things = Things} = State) ->
    Waiting = [
        {Key, Thing}
     || {Key, #thing{id = [First | _], orphan = true, state = busy, handle = #straw_grant{}} = Thing} <- maps:to_list(Things),
        lists:member(First, Refs)
    ],
    each(Waiting, fun({Key, Thing}, S) -> return(Key, Thing, S) end, State).
