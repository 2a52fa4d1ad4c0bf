%% Tubes for a membrane: LING's one page that names 64 buffers, and a channel each way; several tubes of two domains, by number.
-module(membrane_tube).
-behaviour(membrane_kind).

-export([layout/0, wishes/0, offer_keys/0, publish/2, parse/2]).
-export([offer/2, attach/3, start/2, process/0]).

-include("membrane.hrl").

-spec layout() -> #layout{}.
layout() ->
    #layout{
        kind = tube, active_top = "data/tip", passive_top = "data/nock", knock = "nock", back = "tip", many = true
    }.

-spec wishes() -> #terms{}.
wishes() -> membrane_keys:wishes(0).

-spec offer_keys() -> [string()].
offer_keys() -> ["ring-ref", "event-channel-tx", "event-channel-rx"].

-spec publish(membrane_keys:offer(), #terms{}) -> [{string(), string()}].
publish({[Page | _], Ports}, _Terms) ->
    lists:zip(offer_keys(), lists:map(fun integer_to_list/1, [Page | Ports])).

%% Only the page's ref: the buffers' are in it.
-spec parse(membrane_keys:values(), #terms{}) -> membrane_keys:offer() | undefined.
parse(Values, _Terms) ->
    [Page | Channels] = offer_keys(),
    membrane_keys:offer(membrane_keys:numbers([Page], Values), membrane_keys:numbers(Channels, Values)).

-spec offer(integer(), #terms{}) ->
    {ok, membrane_kind:things(), membrane_keys:offer()} | {error, straw_platform:errno()}.
offer(Peer, _Terms) ->
    case pore_tube:offered(straw_backend, Peer) of
        {ok, Memory, Channels} ->
            Ports = lists:map(fun straw_backend:channel_port/1, Channels),
            {ok, {Memory, Channels}, {straw_backend:grant_refs(Memory), Ports}};
        Error ->
            Error
    end.

-spec attach(integer(), membrane_keys:offer(), #terms{}) ->
    {ok, membrane_kind:things()} | {error, straw_platform:errno()}.
attach(Peer, {[PageRef], [TxPort, RxPort]}, _Terms) ->
    case pore_tube:attached(straw_backend, Peer, PageRef, TxPort, RxPort) of
        {ok, Memory, Channels} -> {ok, {Memory, Channels}};
        Error -> Error
    end.

-spec start(membrane_kind:options(), membrane_kind:things()) -> {ok, pid()} | {error, term()}.
start(Options, {Memory, Channels}) ->
    tube:start(Options#{memory => Memory, channels => Channels}).

-spec process() -> module().
process() -> tube.
