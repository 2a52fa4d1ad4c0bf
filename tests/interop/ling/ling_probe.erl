%% What tests say to a BEAM on which LING's own strawman runs, over this project's xenstore, pore_straw and pore.
-module(ling_probe).
-export([start/2, start/3, stop/0, next/0, send/2, send/3, echo/0, straws/0]).

start(Folder, Domid) -> start(Folder, Domid, []).

%% Options: {xenstore, Start}: a fun that starts a server in place of ours.
start(Folder, Domid, Options) ->
    ok = application:load(straw),
    Set = [{host, Folder}, {domid, Domid}, {backend, local}, {start_strawman, false}],
    [application:set_env(straw, Key, Value) || {Key, Value} <- Set],
    nomatch = string:find(code:which(strawman), "erl/ebin"),
    spawn_registered(inbox, fun() -> collect([]) end),
    case proplists:get_value(xenstore, Options) of
        undefined ->
            {ok, _} = application:ensure_all_started(straw),
            ok;
        Start ->
            {ok, _} = keep(fun() -> straw_backend:start_link(#{host => Folder, domid => Domid, backend => local}) end),
            {ok, _} = keep(Start),
            ok
    end,
    {ok, _} = keep(fun() -> strawman:start_link() end),
    xenstore:domid().

%% As its supervisor would.
stop() ->
    Pid = whereis(strawman),
    Monitor = monitor(process, Pid),
    exit(whereis(strawman_keeper), shutdown),
    receive {'DOWN', Monitor, process, Pid, Why} -> Why after 30000 -> hangs end.

%% Who has started a server is its parent: it stays.
keep(Start) ->
    Me = self(),
    spawn(fun() ->
        Result = Start(),
        case Result of
            {ok, Pid} when is_pid(Pid) ->
                Name = list_to_atom(atom_to_list(element(2, process_info(Pid, registered_name))) ++ "_keeper"),
                register(Name, self());
            _ -> ok
        end,
        Me ! {kept, Result},
        receive never -> ok end
    end),
    receive {kept, Result} -> Result end.

spawn_registered(Name, Fun) ->
    Me = self(),
    spawn(fun() -> register(Name, self()), Me ! {Name, ready}, Fun() end),
    receive {Name, ready} -> ok end.

collect(Messages) ->
    receive
        {'$next', Pid} when Messages =/= [] ->
            Pid ! {next, hd(Messages)},
            collect(tl(Messages));
        {'$next', Pid} ->
            receive Message when not is_tuple(Message); element(1, Message) =/= '$next' -> Pid ! {next, Message} end,
            collect([]);
        Message ->
            collect(Messages ++ [Message])
    end.

next() ->
    inbox ! {'$next', self()},
    receive {next, Message} -> Message after 30000 -> exit(nothing_came) end.

%% Opens on first use, as LING's {DomId, Name} ! Msg does.
send(Domid, Message) -> send(Domid, inbox, Message).

send(Domid, Name, Message) ->
    Straw =
        case strawman:split(Domid) of
            {ok, Pid} -> Pid;
            {error, not_found} ->
                ok = strawman:open(Domid),
                {ok, Pid} = strawman:split(Domid),
                Pid
        end,
    Straw ! {envelope, Name, Message},
    ok.

%% `echo` answers {Domid, Message} over the straw to Domid's inbox.
echo() ->
    spawn_registered(echo, fun Loop() -> receive {Domid, Message} -> send(Domid, Message), Loop() end end),
    ok.

%% Straw processes that are left.
straws() -> element(3, sys:get_state(strawman)).
