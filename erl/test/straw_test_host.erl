%% A host service of its own for a test module, started with this repository's Python (PYTHON, else ../.venv's, else python3).
%% It ends with the process that started it.
-module(straw_test_host).

-export([start/0, stop/1, folder/1, kill/1, device/0]).
-export([domain/1, wait_until/1, trapping/1]).

-record(host, {port :: port(), folder :: string(), pid :: string()}).

-spec start() -> #host{}.
start() ->
    Folder = string:trim(os:cmd("mktemp -d /tmp/strawXXXXXX")),
    %% The port's end is the end of the shell's input, and then of the host.
    Script = "\"$0\" -m pores.host --rundir \"$1\" 2>\"$1/log\" & echo $!; cat; kill $! 2>/dev/null; wait $!; rm -rf \"$1\"",
    Port = open_port({spawn_executable, "/bin/sh"}, [
        {args, ["-c", Script, python(), Folder]}, {cd, root()}, {env, [{"LD_PRELOAD", false}]}, {line, 100}, exit_status
    ]),
    Pid =
        receive
            {Port, {data, {eol, Line}}} -> Line
        end,
    wait_until(fun() -> answers(list_to_binary(filename:join(Folder, "host.sock"))) end),
    #host{port = Port, folder = Folder, pid = Pid}.

-spec stop(#host{}) -> ok.
stop(#host{port = Port, folder = Folder}) ->
    catch port_close(Port),
    wait_until(fun() -> not filelib:is_dir(Folder) end).

-spec folder(#host{}) -> string().
folder(#host{folder = Folder}) -> Folder.

-spec kill(#host{}) -> ok.
kill(#host{pid = Pid}) ->
    _ = os:cmd("kill -KILL " ++ Pid),
    ok.

%% A device with a store behind it (fake_xenbus.py): {Port, Path}. It ends with the port.
-spec device() -> {port(), binary()}.
device() ->
    Script = filename:join([root(), "erl", "test", "fake_xenbus.py"]),
    Port = open_port({spawn_executable, python()}, [{args, [Script]}, {env, [{"LD_PRELOAD", false}]}, {line, 100}]),
    receive
        {Port, {data, {eol, Path}}} -> {Port, list_to_binary(Path)}
    end.

%% A domain of this host, linked to the caller: {its straw_backend, its id}.
-spec domain(#host{}) -> {pid(), non_neg_integer()}.
domain(#host{folder = Folder}) ->
    {ok, Server} = straw_backend:start_link(anonymous, #{host => Folder, backend => local}),
    {Server, straw_backend:domid(Server)}.

%% Runs it in a process of its own, which traps exits: what it starts and what dies is nobody else's.
-spec trapping(fun(() -> term())) -> ok.
trapping(Fun) ->
    {Pid, Monitor} = spawn_monitor(fun() ->
        process_flag(trap_exit, true),
        Fun()
    end),
    receive
        {'DOWN', Monitor, process, Pid, normal} -> ok;
        {'DOWN', Monitor, process, Pid, Why} -> error(Why)
    end.

-spec wait_until(fun(() -> boolean())) -> ok.
wait_until(Fun) -> wait_until(Fun, 3000).

wait_until(_Fun, 0) ->
    error(never);
wait_until(Fun, Turns) ->
    case Fun() of
        true ->
            ok;
        false ->
            timer:sleep(10),
            wait_until(Fun, Turns - 1)
    end.

answers(Socket) ->
    case pore_nif:host_connect(Socket) of
        {ok, Connection} -> pore_nif:host_close(Connection);
        {error, _} -> false
    end.

%% The repository, wherever the modules were put.
root() ->
    Source = proplists:get_value(source, pore_nif:module_info(compile)),
    filename:dirname(filename:dirname(filename:dirname(Source))).

python() ->
    case {os:getenv("PYTHON"), filename:join(root(), ".venv/bin/python")} of
        {false, Python} ->
            case filelib:is_file(Python) of
                true -> Python;
                false -> os:find_executable("python3")
            end;
        {Python, _} ->
            case os:find_executable(Python) of
                false -> Python;
                Found -> Found
            end
    end.
