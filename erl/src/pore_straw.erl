%% LING's pore_straw: straws of 8 pages, with LING's arguments and results.
%%
%% What LING dies of is a value or an exit here: wrong arguments and a closed pore are `badarg`; a pore that the peer has spoilt,
%% or whose host is dead, makes the caller exit with `{pore_failed, corrupt | host_down}`; a peer that has gone looks as in
%% LING, where nobody notices: nothing to read, no room (that it has gone is in the store).
-module(pore_straw).

-export([open/1, open/3, info/1, avail/1, read/1, write/2]).

-define(REFS, 8).
-define(RING, 16376).

%% Grants 8 pages to a domain and allocates a channel for it: the side that is knocked upon.
-spec open(integer()) -> pore:pore().
open(Domid) when is_integer(Domid) ->
    Channel = got(straw_backend:alloc_channel(Domid), []),
    Grant = got(straw_backend:grant(Domid, ?REFS), [Channel]),
    pore(active, Grant, Channel);
open(_Domid) ->
    error(badarg).

%% Maps what a domain has granted and binds to its channel.
-spec open(integer(), [integer()], integer()) -> pore:pore().
open(Domid, Refs, Port) when is_integer(Domid), length(Refs) =:= ?REFS, is_integer(Port) ->
    Channel = got(straw_backend:bind_channel(Domid, Port), []),
    Mapping = got(straw_backend:map(Domid, Refs), [Channel]),
    pore(passive, Mapping, Channel);
open(_Domid, _Refs, _Port) ->
    error(badarg).

-spec pore(active | passive, straw_backend:grant() | straw_backend:mapping(), straw_backend:event_channel()) -> pore:pore().
pore(Role, Memory, Channel) ->
    got(pore:open_straw(Role, Memory, Channel, #{give_back => true}), [Memory, Channel]).

%% Who asks for a grant, a mapping or a channel gets it back at once when the rest fails.
-spec got({ok, T} | {error, term()}, [term()]) -> T.
got({ok, Thing}, _Undo) ->
    Thing;
got({error, Errno}, Undo) ->
    lists:foreach(fun straw_backend:give_back/1, Undo),
    case Errno of
        host_down -> exit({pore_failed, host_down});
        _ when Errno =:= enospc; Errno =:= enomem; Errno =:= emfile; Errno =:= enfile -> error(no_memory);
        _ -> error(badarg)
    end.

%% {the 8 grant references, our port}.
-spec info(pore:pore()) -> {[non_neg_integer()], non_neg_integer()}.
info(Pore) ->
    case pore_nif:info(Pore) of
        {straw, _, _, Refs, [Port], _} -> {Refs, Port};
        _ -> error(badarg)
    end.

%% {bytes to read, room to write}.
-spec avail(pore:pore()) -> {non_neg_integer(), non_neg_integer()}.
avail(Pore) ->
    case pore_nif:avail(Pore) of
        {error, Reason} -> failed(Reason, {0, 0});
        Avail -> Avail
    end.

%% All there is; <<>> when there is nothing.
-spec read(pore:pore()) -> binary().
read(Pore) ->
    case pore_nif:read(Pore, ?RING) of
        {error, Reason} -> failed(Reason, <<>>);
        Data -> Data
    end.

%% badarg: more than avail/1 has said.
-spec write(pore:pore(), iodata()) -> ok.
write(Pore, Data) when is_list(Data); is_binary(Data) ->
    case iolist_size(Data) of
        Size when Size < ?RING ->
            case pore_nif:write_all(Pore, iolist_to_binary(Data)) of
                ok -> ok;
                {error, _} when Size =:= 0 -> ok;
                {error, Reason} -> error(failed(Reason, badarg))
            end;
        _ ->
            error(badarg)
    end;
write(_Pore, _Data) ->
    error(badarg).

%% A peer that has gone: what LING would say.
-spec failed(pore:reason(), T) -> T.
failed(closed, _) -> error(badarg);
failed(Reason, _) when Reason =:= corrupt; Reason =:= host_down -> exit({pore_failed, Reason});
failed(_Reason, Result) -> Result.
