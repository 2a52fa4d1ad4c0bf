%% The straws of this node, by domain: the gen_server that LING's code, a BEAM and Python call alike.
%%
%%     {open, DomId}           ok | {error, exists | self | not_found | timeout | straw_taken | host_down | …}
%%     {open, DomId, json}     the same, for a straw in json
%%     {split, DomId}          {ok, StrawPid} | {error, not_found}
%%     {close, DomId}          ok | {error, not_found}
%%     {proxy, DomId, Name}    {ok, Pid}: a process that stands for the name, also to gen_server:call
%%     domid, domains          our domain id; those that we have a straw to
%%
%% {envelope, {DomId, Name}, Msg} opens a straw on first use and forwards; called with, it is answered ok or
%% {error, Reason}. Nothing here blocks: an open is answered when it ends. One straw is strawman_straw; who may be reached
%% is strawman_exports.
-module(strawman).
-behaviour(gen_server).

-export([start_link/0]).
-export([open/1, open/2, split/1, close/1, send/2, proxy/2, domid/0, domains/0]).
-export([export/1, export/2, unexport/1, exports/0, counts/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

%% Bytes of envelopes that wait for one straw to be opened.
-define(OPENING_LIMIT, (16 bsl 20)).
%% Milliseconds that a straw of the other side may take to come after ours gave way to it.
-define(YIELD_TIME, 3000).
-define(LAST_DOMID, 16#7FEF).

-type domid() :: non_neg_integer().

%% A straw that is being opened, and who waits for it: callers to be answered ok, and what is to be forwarded. Latest
%% first.
-record(opening, {
    tag :: reference(),
    callers = [] :: [gen_server:from()],
    waiting = [] :: [term()],
    size = 0 :: non_neg_integer(),
    timer :: undefined | reference()
}).

-record(s, {
    membrane :: undefined | {pid(), reference()},
    domid = 0 :: domid(),
    %% of a domain with two (a LING's glare) first the one to send on
    straws = #{} :: #{domid() => [{pid(), straw:info()}]},
    by_monitor = #{} :: #{reference() => {domid(), pid()}},
    opening = #{} :: #{domid() => #opening{}}
}).

%% ── calls ──

-spec start_link() -> gen_server:start_ret().
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

-spec open(domid()) -> ok | {error, atom()}.
open(Domid) -> gen_server:call(?MODULE, {open, Domid}).

-spec open(domid(), erlang | json) -> ok | {error, atom()}.
open(Domid, Format) -> gen_server:call(?MODULE, {open, Domid, Format}).

%% The straw's process: it takes {envelope, Addr, Msg}, can be linked to and monitored. The caller is told of drops on it:
%% {straw_busy, DomId}, {straw_error, DomId, Reason}.
-spec split(domid()) -> {ok, pid()} | {error, not_found}.
split(Domid) -> gen_server:call(?MODULE, {split, Domid}).

%% What is unsent gets a second to leave.
-spec close(domid()) -> ok | {error, not_found}.
close(Domid) -> gen_server:call(?MODULE, {close, Domid}, infinity).

%% To a name of another domain; the first one opens the straw. As any message: that it has arrived nobody says.
-spec send({domid(), atom()}, term()) -> ok | {error, term()}.
send({Domid, Name}, Msg) -> gen_server:call(?MODULE, {envelope, {Domid, Name}, Msg}).

%% A process that stands for a name of another domain.
-spec proxy(domid(), atom()) -> {ok, pid()} | {error, term()}.
proxy(Domid, Name) -> gen_server:call(?MODULE, {proxy, Domid, Name}).

%% 0: there is none, the host service is gone.
-spec domid() -> domid().
domid() -> gen_server:call(?MODULE, domid).

-spec domains() -> [domid()].
domains() -> gen_server:call(?MODULE, domains).

-spec export(strawman_exports:address()) -> ok | {error, service | badarg}.
export(Name) -> export(Name, #{}).

%% Lets envelopes from other domains reach a process; no name can be reached without.
-spec export(strawman_exports:address(), strawman_exports:options()) -> ok | {error, service | badarg}.
export(Name, Options) -> strawman_exports:add(Name, Options).

-spec unexport(strawman_exports:address()) -> ok.
unexport(Name) -> strawman_exports:remove(Name).

-spec exports() -> [strawman_exports:address()].
exports() -> strawman_exports:names().

%% What became of envelopes.
-spec counts() -> #{atom() => non_neg_integer()}.
counts() -> strawman_exports:counts().

%% ── the process ──

-spec init([]) -> {ok, #s{}}.
init([]) ->
    %% After a crash of this one the straws live on, and are told once more.
    [membrane:resend(Membrane) || Membrane <- [whereis(membrane)], is_pid(Membrane)],
    {ok, #s{}}.

-spec handle_call(term(), gen_server:from(), #s{}) -> {reply, term(), #s{}} | {noreply, #s{}}.
handle_call({open, Domid}, From, S) ->
    handle_call({open, Domid, erlang}, From, S);
handle_call({open, Domid, Format}, From, #s{straws = Straws, opening = Opening} = S) when
    is_integer(Domid), Format =:= erlang orelse Format =:= json
->
    case is_map_key(Domid, Straws) orelse is_map_key(Domid, Opening) of
        true ->
            {reply, {error, exists}, S};
        false ->
            case ready(Domid, S) of
                ok -> {noreply, start_opening(Domid, Format, #opening{tag = make_ref(), callers = [From]}, S)};
                Error -> {reply, Error, S}
            end
    end;
handle_call({split, Domid}, {Caller, _}, #s{straws = Straws} = S) ->
    case Straws of
        #{Domid := [{Straw, _} | _]} ->
            Straw ! {add_owner, Caller},
            {reply, {ok, Straw}, S};
        _ ->
            {reply, {error, not_found}, S}
    end;
handle_call({close, Domid}, From, #s{straws = Straws} = S) ->
    case Straws of
        #{Domid := Found} ->
            _ = spawn(fun() ->
                Monitors = [monitor(process, Straw) || {Straw, _} <- Found],
                [gen_server:cast(Straw, {close, closed}) || {Straw, _} <- Found],
                [receive {'DOWN', Monitor, _, _, _} -> ok end || Monitor <- Monitors],
                gen_server:reply(From, ok)
            end),
            {noreply, S};
        _ ->
            {reply, {error, not_found}, S}
    end;
handle_call({envelope, Place, Msg}, From, S) ->
    case place(Place) of
        {ok, Domid, Name} -> forward(Domid, {call, From, {envelope, Name, Msg}}, S);
        error -> {reply, {error, badarg}, S}
    end;
handle_call({proxy, Domid, Name}, From, S) ->
    case place({Domid, Name}) of
        {ok, _, _} when is_atom(Name) -> forward(Domid, {call, From, {proxy, Name}}, S);
        _ -> {reply, {error, badarg}, S}
    end;
handle_call(domid, _From, S) ->
    {reply, S#s.domid, S};
handle_call(domains, _From, S) ->
    {reply, lists:sort(maps:keys(S#s.straws)), S};
handle_call(_, _From, S) ->
    {reply, {error, unknown_request}, S}.

-spec handle_cast(term(), #s{}) -> {noreply, #s{}}.
handle_cast(_, S) ->
    {noreply, S}.

-spec handle_info(term(), #s{}) -> {noreply, #s{}}.
handle_info({envelope, Place, Msg}, S) ->
    case place(Place) of
        {ok, Domid, Name} ->
            case forward(Domid, {info, {envelope, Name, Msg}}, S) of
                {reply, _, S1} -> {noreply, S1};
                NoReply -> NoReply
            end;
        error ->
            strawman_exports:warn(addr, "strawman takes {envelope, {DomId, Name}, Msg}, not for ~0tp", [Place]),
            {noreply, S}
    end;
handle_info({membrane, Pid, {up, _}}, #s{membrane = {Pid, _}} = S) ->
    % told once more
    {noreply, S};
handle_info({membrane, Pid, {up, Domid}}, S) ->
    logger:info("straws: this node is domain ~w", [Domid]),
    {noreply, (lost(S))#s{membrane = {Pid, monitor(process, Pid)}, domid = Domid}};
handle_info({membrane, Pid, {straw, Straw, Info}}, #s{membrane = {Pid, _}} = S) ->
    {noreply, adopt(Straw, Info, S)};
handle_info({membrane_opened, {opening, Domid, Tag}, Result}, S) ->
    {noreply, opened(Domid, Tag, Result, S)};
handle_info({timeout, Timer, {opening, Domid}}, #s{opening = Opening} = S) ->
    case Opening of
        #{Domid := #opening{timer = Timer}} -> {noreply, unopened(Domid, exists, S)};
        _ -> {noreply, S}
    end;
handle_info({'DOWN', Monitor, process, Pid, _}, #s{membrane = {Pid, Monitor}} = S) ->
    {noreply, lost(S)};
handle_info({'DOWN', Monitor, process, Straw, Reason}, #s{by_monitor = By, straws = Straws} = S) ->
    case maps:take(Monitor, By) of
        {{Domid, Straw}, Left} ->
            logger:info("straws: the one to domain ~w is closed: ~0tp", [Domid, Reason]),
            Rest =
                case lists:keydelete(Straw, 1, maps:get(Domid, Straws, [])) of
                    [] -> maps:remove(Domid, Straws);
                    Others -> Straws#{Domid => Others}
                end,
            {noreply, S#s{by_monitor = Left, straws = Rest}};
        error ->
            {noreply, S}
    end;
handle_info(_, S) ->
    {noreply, S}.

%% ── addresses ──

place({Domid, Name}) when is_integer(Domid), Domid >= 0, is_atom(Name) -> {ok, Domid, Name};
place(_) -> error.

ready(_, #s{membrane = undefined}) -> {error, host_down};
ready(Domid, _) when Domid < 0; Domid > ?LAST_DOMID -> {error, not_found};
ready(Domid, #s{domid = Domid}) -> {error, self};
ready(_, _) -> ok.

%% ── straws ──

%% To the straw, which answers the caller itself; or it waits for the straw to be opened.
forward(Domid, Item, #s{straws = Straws, opening = Opening} = S) ->
    case Straws of
        #{Domid := [{Straw, _} | _]} ->
            pass(Straw, Item),
            {noreply, S};
        _ ->
            case {ready(Domid, S), Opening} of
                {ok, #{Domid := O}} -> wait(Domid, Item, O, S);
                {ok, _} -> wait(Domid, Item, undefined, S);
                {Error, _} -> drop(Domid, Error, S)
            end
    end.

drop(Domid, {error, Reason} = Error, S) ->
    strawman_exports:count(unopened),
    strawman_exports:warn(unopened, "an envelope for domain ~w is dropped: ~0tp", [Domid, Reason]),
    {reply, Error, S}.

pass(Straw, {info, Message}) -> Straw ! Message;
pass(Straw, {call, From, Request}) -> Straw ! {'$gen_call', From, Request}.

%% A caller is answered ok at once: that the straw comes up nobody promises, as with any message. A proxy waits.
wait(Domid, Item, O, S) ->
    Size = erlang:external_size(Item),
    case O of
        #opening{size = Held} when Held + Size > ?OPENING_LIMIT ->
            strawman_exports:count(dropped_busy),
            {reply, {error, straw_busy}, S};
        #opening{waiting = Waiting, size = Held} ->
            More = O#opening{waiting = [held(Item) | Waiting], size = Held + Size},
            answer(Item, S#s{opening = (S#s.opening)#{Domid => More}});
        undefined ->
            First = #opening{tag = make_ref(), waiting = [held(Item)], size = Size},
            answer(Item, start_opening(Domid, erlang, First, S))
    end.

held({call, _From, {envelope, _, _} = Envelope}) -> {info, Envelope};
held(Item) -> Item.

answer({call, _From, {envelope, _, _}}, S) -> {reply, ok, S};
answer(_, S) -> {noreply, S}.

start_opening(Domid, Format, #opening{tag = Tag} = O, #s{opening = Opening} = S) ->
    membrane:open_async(Domid, #{format => Format}, {opening, Domid, Tag}),
    S#s{opening = Opening#{Domid => O}}.

opened(_Domid, _Tag, {ok, Straw, Info}, S) ->
    adopt(Straw, Info, S);
opened(Domid, Tag, {error, Reason}, #s{opening = Opening, straws = Straws} = S) ->
    case Opening of
        #{Domid := #opening{tag = Tag} = O} when Reason =:= exists, not is_map_key(Domid, Straws) ->
            % both sides opened at once and ours gave way, or a knock is being answered: then that straw comes
            Timer = erlang:start_timer(?YIELD_TIME, self(), {opening, Domid}),
            S#s{opening = Opening#{Domid => O#opening{timer = Timer}}};
        #{Domid := #opening{tag = Tag}} ->
            unopened(Domid, Reason, S);
        _ ->
            S
    end.

unopened(Domid, Reason, #s{opening = Opening} = S) ->
    {#opening{callers = Callers, waiting = Waiting}, Left} = maps:take(Domid, Opening),
    [gen_server:reply(From, {error, Reason}) || From <- Callers],
    [gen_server:reply(From, {error, Reason}) || {call, From, _} <- Waiting],
    Dropped = length([Item || {info, _} = Item <- Waiting]),
    [strawman_exports:count(unopened) || _ <- lists:seq(1, Dropped)],
    [
        strawman_exports:warn(unopened, "~w envelopes for domain ~w are dropped: ~0tp", [Dropped, Domid, Reason])
     || Dropped > 0
    ],
    S#s{opening = Left}.

%% A straw is open: it delivers from now on, and what has waited for it leaves, before all that comes later.
adopt(Straw, #{peer := Domid} = Info, #s{straws = Straws, by_monitor = By, opening = Opening} = S) ->
    Here = maps:get(Domid, Straws, []),
    case lists:keymember(Straw, 1, Here) of
        true ->
            S;
        false ->
            Monitor = monitor(process, Straw),
            {O, Left} =
                case maps:take(Domid, Opening) of
                    error -> {#opening{tag = Monitor}, Opening};
                    Taken -> Taken
                end,
            Owners = [Pid || {Pid, _} <- O#opening.callers],
            Argument = #{
                domid => S#s.domid,
                owners => Owners,
                ling_maps => application:get_env(straw, ling_maps, false),
                holder => holder(Here)
            },
            _ = straw:take(Straw, strawman_straw, Argument),
            [gen_server:reply(From, ok) || From <- O#opening.callers],
            S1 = S#s{
                straws = Straws#{Domid => order([{Straw, Info} | Here], S#s.domid)},
                by_monitor = By#{Monitor => {Domid, Straw}},
                opening = Left
            },
            #{Domid := [{First, _} | _]} = S1#s.straws,
            [Holder ! {partner, Straw, First =:= Straw} || Holder <- [holder(Here)], is_pid(Holder)],
            lists:foreach(fun(Item) -> pass(First, Item) end, lists:reverse(O#opening.waiting)),
            S1
    end.

%% Of two straws to a domain the one that came first has the tables for both.
holder([{Straw, _} | _]) -> Straw;
holder([]) -> undefined.

%% Of two, each opened by one side, that of the lower domain comes first: both sides choose the same.
order(Straws, Me) ->
    Opener = fun({_, #{we_opened := We, peer := Peer}}) ->
        case We of
            true -> Me;
            false -> Peer
        end
    end,
    lists:sort(fun(A, B) -> Opener(A) =< Opener(B) end, Straws).

%% No domain any more: straws end by themselves, with host_down.
lost(#s{membrane = undefined} = S) ->
    S;
lost(#s{membrane = {_, Monitor}, opening = Opening} = S0) ->
    demonitor(Monitor, [flush]),
    S = lists:foldl(fun(Domid, S1) -> unopened(Domid, host_down, S1) end, S0, maps:keys(Opening)),
    S#s{membrane = undefined, domid = 0}.
