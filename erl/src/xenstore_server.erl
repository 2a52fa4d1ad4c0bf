%% One connection to the store, shared by all processes of a node: requests go out as they come, answers are told apart by
%% their ids (xen/include/public/io/xs_wire.h). Watches and transactions belong to the process that asked, and end with it.
%%
%% When the store hangs up or talks nonsense, this process exits with `{shutdown, host_down}` or `{store, What}`.
-module(xenstore_server).
-behaviour(gen_server).

-export([start_link/2, call/4]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-include("xenstore.hrl").

-define(HEAD, 16).
-define(PAYLOAD_MAX, 4096).

-record(call, {from :: gen_server:from() | none, op :: integer(), note :: term()}).
-record(watch, {
    owner :: pid(),
    path :: string(),
    %% false: the store has not said yes; what came before that
    set = false :: boolean(),
    early = [] :: [string()]
}).

-record(state, {
    xs :: pore_xs:xs(),
    room = 0 :: non_neg_integer(),
    out = [] :: iodata(),
    out_size = 0 :: non_neg_integer(),
    in = <<>> :: binary(),
    rid = 1 :: pos_integer(),
    calls = #{} :: #{pos_integer() => #call{}},
    watches = #{} :: #{binary() => #watch{}},
    tids = #{} :: #{xenstore:tid() => pid()},
    %% monitor, and how many watches and transactions
    owners = #{} :: #{pid() => {reference(), pos_integer()}}
}).

%% {path, Path}: a store's socket or device, not straw_backend's.
-spec start_link({local, atom()} | anonymous, straw_backend:server() | {path, binary()}) -> gen_server:start_ret().
start_link(anonymous, Backend) -> gen_server:start_link(?MODULE, Backend, []);
start_link(Name, Backend) -> gen_server:start_link(Name, ?MODULE, Backend, []).

%% Op is one of XS_*; parts are the payload's, as xenstore.erl has them.
-spec call(pid() | atom(), integer(), [string()], xenstore:tid()) -> ok | {ok, term()} | xenstore:error().
call(Server, Op, Parts, Tid) ->
    case payload(Op, Parts) of
        {ok, Payload} ->
            try
                gen_server:call(Server, {Op, hd(Parts), Payload, Tid}, infinity)
            catch
                exit:{noproc, _} -> {error, not_started};
                exit:{_Ended, {gen_server, call, _}} -> {error, enotconn}
            end;
        Error ->
            Error
    end.

%% The value of a write is the only part without a zero at its end.
-spec payload(integer(), [string()]) -> {ok, binary()} | xenstore:error().
payload(Op, Parts) ->
    try
        {Ended, Last} =
            case {Op, Parts} of
                {?XS_WRITE, [Path, Value]} -> {[Path], Value};
                {?XS_UNWATCH, [Path]} -> {[Path], ""};
                _ -> {Parts, ""}
            end,
        Binaries = [iolist_to_binary(Part) || Part <- Ended],
        Payload = iolist_to_binary([[[Part, 0] || Part <- Binaries], Last]),
        case [zero || Part <- Binaries, binary:match(Part, <<0>>) =/= nomatch] of
            [] when byte_size(Payload) =< ?PAYLOAD_MAX -> {ok, Payload};
            [] -> {error, e2big};
            _ -> {error, badarg}
        end
    catch
        error:badarg -> {error, badarg}
    end.

%% ---- the server ----

-spec init(straw_backend:server() | {path, binary()}) -> {ok, #state{}} | {stop, term()}.
init(Backend) ->
    try pore_xs:open(Backend) of
        Xs -> {ok, move(#state{xs = Xs})}
    catch
        exit:Reason -> {stop, {shutdown, Reason}};
        error:Reason -> {stop, {shutdown, {store, Reason}}}
    end.

-spec handle_call({integer(), string(), binary(), xenstore:tid()}, gen_server:from(), #state{}) ->
    {noreply, #state{}} | {reply, term(), #state{}}.
handle_call({?XS_WATCH, Path, Payload, _}, {Pid, _} = From, State) ->
    Token = token(),
    Watches = (State#state.watches)#{Token => #watch{owner = Pid, path = Path}},
    State1 = own(Pid, State#state{watches = Watches}),
    {noreply, flow(request(?XS_WATCH, [Payload, Token, 0], 0, From, Token, State1))};
handle_call({?XS_UNWATCH, Path, Payload, _}, {Pid, _} = From, State) ->
    case [Token || {Token, #watch{owner = O, path = P}} <- maps:to_list(State#state.watches), O =:= Pid, P =:= Path] of
        [] -> {reply, ok, State};
        [Last | Others] -> {noreply, flow(unwatch(Payload, Last, From, unwatch_all(Payload, Others, State)))}
    end;
handle_call({?XS_TRANSACTION_START, _, Payload, _}, {Pid, _} = From, State) ->
    {noreply, flow(request(?XS_TRANSACTION_START, Payload, 0, From, none, own(Pid, State)))};
handle_call({?XS_TRANSACTION_END, _, Payload, Tid}, From, State) ->
    {noreply, flow(request(?XS_TRANSACTION_END, Payload, Tid, From, Tid, State))};
handle_call({Op, _, Payload, Tid}, From, State) ->
    {noreply, flow(request(Op, Payload, Tid, From, none, State))}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast(_Message, State) -> {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({irq, Xs}, #state{xs = Xs} = State) ->
    {noreply, move(State)};
handle_info({'DOWN', _, process, Pid, _}, State) ->
    Owners = maps:remove(Pid, State#state.owners),
    Watches = [{T, P} || {T, #watch{owner = O, path = P}} <- maps:to_list(State#state.watches), O =:= Pid],
    Tids = [Tid || {Tid, O} <- maps:to_list(State#state.tids), O =:= Pid],
    State1 = lists:foldl(
        fun({Token, Path}, S) -> unwatch(<<(iolist_to_binary(Path))/binary, 0>>, Token, none, S) end,
        State#state{owners = Owners},
        Watches
    ),
    State2 = lists:foldl(fun rollback/2, State1, Tids),
    {noreply, flow(State2)};
handle_info(_Message, State) ->
    {noreply, State}.

%% ---- requests ----

-spec request(integer(), iodata(), xenstore:tid(), gen_server:from() | none, term(), #state{}) -> #state{}.
request(Op, Payload, Tid, From, Note, #state{rid = Rid, out = Out, out_size = Size} = State) ->
    Length = iolist_size(Payload),
    State#state{
        out = [Out, <<Op:32/little, Rid:32/little, Tid:32/little, Length:32/little>>, Payload],
        out_size = Size + ?HEAD + Length,
        rid = Rid rem 16#FFFFFFFF + 1,
        calls = (State#state.calls)#{Rid => #call{from = From, op = Op, note = Note}}
    }.

-spec unwatch(binary(), binary(), gen_server:from() | none, #state{}) -> #state{}.
unwatch(Payload, Token, From, #state{watches = Watches} = State) ->
    #{Token := #watch{owner = Pid}} = Watches,
    State1 = disown(Pid, State#state{watches = maps:remove(Token, Watches)}),
    request(?XS_UNWATCH, [Payload, Token, 0], 0, From, none, State1).

-spec unwatch_all(binary(), [binary()], #state{}) -> #state{}.
unwatch_all(Payload, Tokens, State) ->
    lists:foldl(fun(Token, S) -> unwatch(Payload, Token, none, S) end, State, Tokens).

-spec rollback(xenstore:tid(), #state{}) -> #state{}.
rollback(Tid, State) -> request(?XS_TRANSACTION_END, <<"F", 0>>, Tid, none, Tid, State).

-spec token() -> binary().
token() -> integer_to_binary(erlang:unique_integer([positive]), 36).

-spec own(pid(), #state{}) -> #state{}.
own(Pid, #state{owners = Owners} = State) ->
    Owner =
        case Owners of
            #{Pid := {Monitor, N}} -> {Monitor, N + 1};
            _ -> {monitor(process, Pid), 1}
        end,
    State#state{owners = Owners#{Pid => Owner}}.

-spec disown(pid(), #state{}) -> #state{}.
disown(Pid, #state{owners = Owners} = State) ->
    case Owners of
        #{Pid := {Monitor, 1}} ->
            true = demonitor(Monitor, [flush]),
            State#state{owners = maps:remove(Pid, Owners)};
        #{Pid := {Monitor, N}} ->
            State#state{owners = Owners#{Pid := {Monitor, N - 1}}};
        _ ->
            State
    end.

%% ---- bytes ----

%% Writes what there is room for. Only when something was written is there something new to ask the stream.
-spec flow(#state{}) -> #state{}.
flow(#state{room = Room, out_size = Size} = State) when Room > 0, Size > 0 -> move(State);
flow(State) -> State.

%% Moves bytes in and out until neither goes on; the last avail/1 has asked for {irq, Xs}.
-spec move(#state{}) -> #state{}.
move(#state{xs = Xs} = State) ->
    State1 = write(State),
    case avail(Xs) of
        {Room, 0} when Room =:= 0; State1#state.out_size =:= 0 ->
            State1#state{room = Room};
        {Room, 0} ->
            move(State1#state{room = Room});
        {Room, _} ->
            In = <<(State1#state.in)/binary, (pore_xs:read(Xs))/binary>>,
            true = pore:poke(Xs),
            move(messages(State1#state{room = Room, in = In}))
    end.

-spec avail(pore_xs:xs()) -> {non_neg_integer(), non_neg_integer()}.
avail(Xs) ->
    try
        pore_xs:avail(Xs)
    catch
        exit:host_down -> exit({shutdown, host_down})
    end.

-spec write(#state{}) -> #state{}.
write(#state{room = Room, out_size = Size} = State) when Room =:= 0; Size =:= 0 ->
    State;
write(#state{xs = Xs, room = Room, out = Out, out_size = Size} = State) when Size =< Room ->
    ok = pore_xs:write(Xs, Out),
    true = pore:poke(Xs),
    State#state{out = [], out_size = 0, room = Room - Size};
write(#state{xs = Xs, room = Room, out = Out, out_size = Size} = State) ->
    <<Now:Room/binary, Later/binary>> = iolist_to_binary(Out),
    ok = pore_xs:write(Xs, Now),
    true = pore:poke(Xs),
    State#state{out = Later, out_size = Size - Room, room = 0}.

-spec messages(#state{}) -> #state{}.
messages(#state{in = In} = State) ->
    case In of
        <<_:12/binary, Length:32/little, _/binary>> when Length > ?PAYLOAD_MAX ->
            exit({store, {too_long, Length}});
        <<Op:32/little, Rid:32/little, _Tid:32/little, Length:32/little, Payload:Length/binary, Rest/binary>> ->
            messages(message(Op, Rid, Payload, State#state{in = Rest}));
        _ ->
            State
    end.

%% ---- answers ----

-spec message(integer(), integer(), binary(), #state{}) -> #state{}.
message(?XS_WATCH_EVENT, _Rid, Payload, State) ->
    case binary:split(Payload, <<0>>, [global]) of
        [Path, Token | _] -> event(binary_to_list(Path), Token, State);
        _ -> exit({store, bad_event})
    end;
message(Op, Rid, Payload, #state{calls = Calls} = State) ->
    case maps:take(Rid, Calls) of
        {#call{op = Asked, from = From} = Call, Calls1} when Op =:= Asked; Op =:= ?XS_ERROR ->
            Result = result(Op, Payload),
            reply(From, Result),
            answered(Call, Result, State#state{calls = Calls1});
        _ ->
            exit({store, {unexpected, Op, Rid}})
    end.

-spec reply(gen_server:from() | none, term()) -> ok.
reply(none, _Result) -> ok;
reply(From, Result) -> gen_server:reply(From, Result).

-spec event(string(), binary(), #state{}) -> #state{}.
event(Path, Token, #state{watches = Watches} = State) ->
    case Watches of
        #{Token := #watch{set = true, owner = Pid}} ->
            Pid ! {watch, Path},
            State;
        #{Token := #watch{early = Early} = Watch} ->
            State#state{watches = Watches#{Token := Watch#watch{early = [Path | Early]}}};
        _ ->
            State
    end.

%% What an answer changes, beyond being told to the caller.
-spec answered(#call{}, term(), #state{}) -> #state{}.
answered(#call{op = ?XS_WATCH, note = Token}, Result, #state{watches = Watches} = State) ->
    case {Watches, Result} of
        {#{Token := #watch{owner = Pid, early = Early} = Watch}, ok} ->
            lists:foreach(fun(Path) -> Pid ! {watch, Path} end, lists:reverse(Early)),
            State#state{watches = Watches#{Token := Watch#watch{set = true, early = []}}};
        {#{Token := #watch{owner = Pid}}, _} ->
            disown(Pid, State#state{watches = maps:remove(Token, Watches)});
        _ ->
            State
    end;
answered(#call{op = ?XS_TRANSACTION_START, from = {Pid, _}}, {ok, Tid}, #state{owners = Owners} = State) ->
    case Owners of
        #{Pid := _} -> State#state{tids = (State#state.tids)#{Tid => Pid}};
        _ -> rollback(Tid, State)
    end;
answered(#call{op = ?XS_TRANSACTION_START, from = {Pid, _}}, _Error, State) ->
    disown(Pid, State);
answered(#call{op = ?XS_TRANSACTION_END, note = Tid}, _Result, #state{tids = Tids} = State) ->
    case maps:take(Tid, Tids) of
        {Pid, Tids1} -> disown(Pid, State#state{tids = Tids1});
        error -> State
    end;
answered(_Call, _Result, State) ->
    State.

-spec result(integer(), binary()) -> ok | {ok, term()} | xenstore:error().
result(?XS_ERROR, Payload) ->
    {error, errno(string:lowercase(chomp(Payload)))};
result(?XS_TRANSACTION_START, Payload) ->
    try
        {ok, binary_to_integer(chomp(Payload))}
    catch
        error:badarg -> exit({store, bad_transaction})
    end;
result(?XS_DIRECTORY, Payload) ->
    {ok, strings(Payload)};
result(?XS_GET_PERMS, Payload) ->
    case strings(Payload) of
        [One] -> {ok, One};
        More -> {ok, More}
    end;
result(?XS_IS_DOMAIN_INTRODUCED, Payload) ->
    {ok, chomp(Payload) =:= <<"T">>};
result(?XS_DIRECTORY_PART, Payload) ->
    case binary:match(Payload, <<0>>) of
        nomatch -> exit({store, bad_directory});
        _ -> {ok, Payload}
    end;
result(?XS_READ, Payload) ->
    {ok, binary_to_list(chomp(Payload))};
result(_Op, _Ok) ->
    ok.

-spec strings(binary()) -> [string()].
strings(Payload) -> [binary_to_list(Part) || Part <- binary:split(Payload, <<0>>, [global]), Part =/= <<>>].

%% As LING: one zero at the end does not count.
-spec chomp(binary()) -> binary().
chomp(<<>>) ->
    <<>>;
chomp(Payload) ->
    case binary:last(Payload) of
        0 -> binary:part(Payload, 0, byte_size(Payload) - 1);
        _ -> Payload
    end.

%% The names are the protocol's (and what older stores say); no others are made atoms.
-spec errno(binary()) -> atom().
errno(Name) ->
    Known = [
        einval, eacces, eexist, eisdir, enoent, enomem, enospc, eio, enotempty, enosys, erofs, ebusy, eagain, eisconn, e2big,
        eperm, enotsup, edquot, emfile, ebadf, esrch
    ],
    case [Errno || Errno <- Known, atom_to_binary(Errno) =:= Name] of
        [Errno] -> Errno;
        [] -> einval
    end.
