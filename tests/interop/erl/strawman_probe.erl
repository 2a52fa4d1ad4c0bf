%% What tests say to strawman on a BEAM without distribution: it starts the application, and keeps what comes to `inbox`.
-module(strawman_probe).
-export([start/2, start/3, next/0, next/1, echo/0, collect/0, words/0]).
%% A gen_server to be called over straws.
-behaviour(gen_server).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

%% No atom is made of what a straw brings: those of the tests are known before.
words() -> [hello, still, anew, again, last, after_all, yes, no, here, up, answer, next, k, told, other, 'h\x{e9}'].

start(Folder, Domid) -> start(Folder, Domid, []).

start(Folder, Domid, More) ->
    case application:load(straw) of
        ok -> ok;
        {error, {already_loaded, straw}} -> ok
    end,
    Set = [{host, Folder}, {domid, Domid}, {backend, local}, {exports, [inbox, double]} | More],
    [application:set_env(straw, Key, Value) || {Key, Value} <- Set],
    spawn_registered(inbox, fun() -> collect() end),
    spawn_registered(private, fun() -> collect() end),
    {ok, _} = gen_server:start({local, double}, ?MODULE, [], []),
    {ok, _} = application:ensure_all_started(straw),
    strawman:domid().

spawn_registered(Name, Fun) ->
    Me = self(),
    spawn(fun() -> register(Name, self()), Me ! {Name, ready}, Fun() end),
    receive {Name, ready} -> ok end.

%% Messages are kept until they are asked for, in their order.
collect() -> collect(queue:new(), queue:new()).

collect(Messages, Askers) ->
    case {queue:out(Messages), queue:out(Askers)} of
        {{{value, Message}, Left}, {{value, {Pid, Ref}}, Rest}} ->
            Pid ! {Ref, Message},
            collect(Left, Rest);
        _ ->
            receive
                {'$next', Pid, Ref} -> collect(Messages, queue:in({Pid, Ref}, Askers));
                Message -> collect(queue:in(Message, Messages), Askers)
            end
    end.

next() -> next(inbox).

next(Name) ->
    Ref = make_ref(),
    Name ! {'$next', self(), Ref},
    receive {Ref, Message} -> Message after 30000 -> exit({nothing_came, Name}) end.

%% Registered as `echo`: answers {From, Message} with Message, to a pid that came over a straw.
echo() ->
    spawn_registered(echo, fun Loop() -> receive {From, Message} -> From ! {self(), Message}, Loop() end end),
    ok.

init([]) -> {ok, 0}.

handle_call({double, N}, _From, Count) -> {reply, 2 * N, Count + 1};
handle_call(later, From, Count) -> spawn(fun() -> gen_server:reply(From, now) end), {noreply, Count};
handle_call(pid, _From, Count) -> {reply, self(), Count};
handle_call(count, _From, Count) -> {reply, Count, Count};
handle_call(_, _From, Count) -> {noreply, Count}.

handle_cast(_, Count) -> {noreply, Count}.

handle_info(_, Count) -> {noreply, Count}.
