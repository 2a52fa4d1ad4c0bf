%% Straws for a membrane: LING's ring-ref-1 … ring-ref-8 and event-channel; a wide one has all refs in ring-refs.
-module(membrane_straw).
-behaviour(membrane_kind).

-export([layout/0, wishes/0, offer_keys/0, publish/2, parse/2, pages/1]).
-export([offer/2, attach/3, start/2, process/0]).

-include("membrane.hrl").

-define(REFS, 8).
-define(PAGE, 4096).

-spec layout() -> #layout{}.
layout() ->
    #layout{kind = straw, active_top = "data/straw", passive_top = "data/warts", knock = "warts", back = "straw"}.

-spec wishes() -> #terms{}.
wishes() -> membrane_keys:wishes().

-spec pages(#terms{}) -> pos_integer().
pages(#terms{ring_bytes = 0}) -> ?REFS;
pages(#terms{ring_bytes = Ring}) -> 1 + 2 * Ring div ?PAGE.

-spec offer_keys() -> [string()].
offer_keys() ->
    ref_keys() ++ ["ring-refs", "event-channel"].

ref_keys() -> ["ring-ref-" ++ integer_to_list(N) || N <- lists:seq(1, ?REFS)].

-spec publish(membrane_keys:offer(), #terms{}) -> [{string(), string()}] | undefined.
publish({Refs, [Port]}, #terms{ring_bytes = 0}) ->
    [{"event-channel", integer_to_list(Port)} | lists:zip(ref_keys(), lists:map(fun integer_to_list/1, Refs))];
publish({Refs, [Port]}, _Terms) ->
    case membrane_keys:pack_refs(Refs) of
        undefined -> undefined;
        Text -> [{"event-channel", integer_to_list(Port)}, {"ring-refs", Text}]
    end.

-spec parse(membrane_keys:values(), #terms{}) -> membrane_keys:offer() | undefined.
parse(Values, #terms{ring_bytes = Ring} = Terms) ->
    Refs =
        case Ring of
            0 -> membrane_keys:numbers(ref_keys(), Values);
            _ -> membrane_keys:unpack_refs(maps:get("ring-refs", Values, undefined), pages(Terms))
        end,
    membrane_keys:offer(Refs, membrane_keys:numbers(["event-channel"], Values)).

-spec offer(integer(), #terms{}) ->
    {ok, membrane_kind:things(), membrane_keys:offer()} | {error, straw_platform:errno()}.
offer(Peer, Terms) ->
    case straw_backend:grant(Peer, pages(Terms)) of
        {ok, Grant} ->
            case straw_backend:alloc_channel(Peer) of
                {ok, Channel} ->
                    Offer = {straw_backend:grant_refs(Grant), [straw_backend:channel_port(Channel)]},
                    case publish(Offer, Terms) of
                        undefined -> {error, e2big};
                        _ -> {ok, {Grant, [Channel]}, Offer}
                    end;
                Error ->
                    Error
            end;
        Error ->
            Error
    end.

-spec attach(integer(), membrane_keys:offer(), #terms{}) ->
    {ok, membrane_kind:things()} | {error, straw_platform:errno()}.
attach(Peer, {Refs, [Port]}, _Terms) ->
    case straw_backend:map(Peer, Refs) of
        {ok, Mapping} ->
            case straw_backend:bind_channel(Peer, Port) of
                {ok, Channel} -> {ok, {Mapping, [Channel]}};
                Error -> Error
            end;
        Error ->
            Error
    end.

-spec start(membrane_kind:options(), membrane_kind:things()) -> {ok, pid()} | {error, term()}.
start(Options, {Memory, [Channel]}) ->
    straw:start(Options#{memory => Memory, channel => Channel}).

-spec process() -> module().
process() -> straw.
