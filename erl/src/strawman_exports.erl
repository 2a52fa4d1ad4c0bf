%% Whom envelopes from other domains may reach: a table of names, empty unless filled; what became of envelopes, as
%% counts; and a limit on what strangers may write into the log. The process only owns the table.
%%
%% Anybody can knock, and on a shared host in another's name too, so no name is reachable that was not exported to
%% straws. (A pid that we gave out on a straw is reachable from there: strawman_straw.)
-module(strawman_exports).
-behaviour(gen_server).

-export([start_link/1, add/2, remove/1, find/1, names/0, is_forged/1, is_service/1]).
-export([count/1, counts/0, warn/3]).
-export([init/1, handle_call/3, handle_cast/2]).
-export_type([address/0, options/0, export/0]).

%% What an envelope is addressed to, and where it goes.
-type address() :: atom() | pid() | {atom(), node()}.
%% to: where envelopes go, the same unless given. domains: who may send them, all unless given. sender: the message
%% arrives as {straw, DomId, Msg}.
-type options() :: #{to => address(), domains => all | [non_neg_integer()], sender => boolean()}.
-type export() :: #{to := address(), domains := all | [non_neg_integer()], sender := boolean()}.

%% Lines that one kind of trouble may log within so many milliseconds; the rest are counted.
-define(WARN_LINES, 5).
-define(WARN_PERIOD, 10000).

%% Every envelope is counted: in an array, which costs nothing. sent, received: envelopes. malformed: frames that were no envelope. unknown: for an address that is not exported.
%% refused: from a domain that the export does not name, or in the shape of a signal. undelivered: there is no such
%% process. dropped_busy: the straw held too much. unsayable: the format or the dialect has no words for it. unopened: no
%% straw could be opened. late: an answer that nobody waits for any more. oversized: frames beyond the limit.
-define(COUNTS, [
    sent, received, malformed, unknown, refused, undelivered, dropped_busy, unsayable, unopened, late, oversized
]).

%% Processes of a node itself that no export can name: what kernel and stdlib register (OTP 25, 28), and our own.
-define(SERVICES, [
    strawman, strawman_exports, straw_sup, straw_domain, straw_backend, xenstore, membrane,
    rex, net_kernel, user, user_drv, user_drv_writer, init, auth, boot_server,
    application_controller, code_server, erl_prim_loader, erl_signal_server, erts_code_purger,
    file_server_2, disk_log_server, disk_log_sup, dets, dets_sup, ddll_server, os_server, heart,
    global_group, global_group_check, global_name_server, inet_db, erl_epmd, net_sup, pg,
    kernel_config, kernel_refc, kernel_safe_sup, kernel_sup, socket_registry, error_logger,
    logger, logger_handler_watcher, logger_proxy, logger_std_h_default, logger_sup,
    standard_error, standard_error_sup, standard_error_writer
]).

%% Exports: Name | {Name, options()}; a {Name, Node} is to be written with options.
-spec start_link([address() | {address(), options()}]) -> gen_server:start_ret().
start_link(Exports) ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, Exports, []).

%% {error, service}: it is one of the node itself. {error, badarg}: no address, or no such options.
-spec add(address(), options()) -> ok | {error, service | badarg}.
add(Name, Options) ->
    gen_server:call(?MODULE, {add, Name, Options}).

%% May be called twice.
-spec remove(address()) -> ok.
remove(Name) ->
    gen_server:call(?MODULE, {remove, Name}).

%% The export that an envelope's address means.
-spec find(term()) -> export() | undefined.
find(Address) ->
    case ets:lookup(?MODULE, {export, Address}) of
        [{_, Export}] -> Export;
        [] -> undefined
    end.

-spec names() -> [address()].
names() ->
    ets:select(?MODULE, [{{{export, '$1'}, '_'}, [], ['$1']}]).

%% Whether a message looks like a signal or like one of the system: the receiver would act on it as if it came from there.
%% A call is one only when it names no process to answer.
-spec is_forged(term()) -> boolean().
is_forged({'$gen_call', {Pid, _}, _}) -> not is_pid(Pid);
is_forged({'$gen_call', _, _}) -> true;
is_forged({system, _, _}) -> true;
is_forged({'EXIT', _, _}) -> true;
is_forged({'DOWN', _, _, _, _}) -> true;
is_forged(_) -> false.

-spec is_service(term()) -> boolean().
is_service({Name, Node}) when is_atom(Node) -> is_service(Name);
is_service(Pid) when is_pid(Pid), node(Pid) =:= node() ->
    case process_info(Pid, registered_name) of
        {registered_name, Name} -> is_service(Name);
        _ -> false
    end;
is_service(Name) when is_atom(Name) -> lists:member(Name, ?SERVICES);
is_service(_) -> false.

%% ── counts and warnings ──

-spec count(atom()) -> ok.
count(What) -> counters:add(persistent_term:get(?MODULE), place(What), 1).

-spec place(atom()) -> pos_integer().
place(sent) -> 1;
place(received) -> 2;
place(malformed) -> 3;
place(unknown) -> 4;
place(refused) -> 5;
place(undelivered) -> 6;
place(dropped_busy) -> 7;
place(unsayable) -> 8;
place(unopened) -> 9;
place(late) -> 10;
place(oversized) -> 11.

%% What became of envelopes, since the application started.
-spec counts() -> #{atom() => non_neg_integer()}.
counts() ->
    Counters = persistent_term:get(?MODULE),
    maps:from_list([{What, counters:get(Counters, place(What))} || What <- ?COUNTS]).

%% Logs a trouble that strangers can cause at will: a few lines of each kind in a period.
-spec warn(atom(), io:format(), [term()]) -> ok.
warn(Kind, Format, Arguments) ->
    Key = {warn, Kind, erlang:monotonic_time(millisecond) div ?WARN_PERIOD},
    case ets:update_counter(?MODULE, Key, 1, {Key, 0}) of
        1 ->
            _ = ets:select_delete(?MODULE, [{{{warn, Kind, '$1'}, '_'}, [{'=/=', '$1', element(3, Key)}], [true]}]),
            logger:warning("straws: " ++ Format, Arguments);
        N when N < ?WARN_LINES ->
            logger:warning("straws: " ++ Format, Arguments);
        ?WARN_LINES ->
            logger:warning("straws: " ++ Format ++ " (more of these are counted only)", Arguments);
        _ ->
            ok
    end.

%% ── the process ──

-spec init(list()) -> {ok, []} | {stop, term()}.
init(Exports) ->
    ok = persistent_term:put(?MODULE, counters:new(length(?COUNTS), [write_concurrency])),
    _ = ets:new(?MODULE, [named_table, public, {read_concurrency, true}, {write_concurrency, true}]),
    case [Bad || Bad <- [{Export, put_configured(Export)} || Export <- Exports], element(2, Bad) =/= ok] of
        [] -> {ok, []};
        [{Export, {error, Why}} | _] -> {stop, {bad_export, Export, Why}}
    end.

-spec handle_call(term(), gen_server:from(), []) -> {reply, term(), []}.
handle_call({add, Name, Options}, _From, State) ->
    {reply, put_export(Name, Options), State};
handle_call({remove, Name}, _From, State) ->
    true = ets:delete(?MODULE, {export, Name}),
    {reply, ok, State}.

-spec handle_cast(term(), []) -> {noreply, []}.
handle_cast(_, State) ->
    {noreply, State}.

put_configured({Name, Options}) when is_map(Options) -> put_export(Name, Options);
put_configured(Name) -> put_export(Name, #{}).

put_export(Name, Options) when is_map(Options) ->
    Export = maps:merge(#{to => Name, domains => all, sender => false}, Options),
    #{to := To, domains := Domains, sender := Sender} = Export,
    Good =
        is_address(Name) andalso is_address(To) andalso is_boolean(Sender) andalso map_size(Export) =:= 3 andalso
            (Domains =:= all orelse (is_list(Domains) andalso lists:all(fun is_integer/1, Domains))),
    case Good of
        false ->
            {error, badarg};
        true ->
            case is_service(Name) orelse is_service(To) of
                true ->
                    {error, service};
                false ->
                    true = ets:insert(?MODULE, {{export, Name}, Export}),
                    ok
            end
    end;
put_export(_Name, _Options) ->
    {error, badarg}.

is_address({Name, Node}) -> is_atom(Name) andalso is_atom(Node);
is_address(Name) -> is_atom(Name) orelse is_pid(Name).
