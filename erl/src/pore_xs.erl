%% LING's pore_xs: the way to the store, as a ring of 1024 bytes each way. Here it is a stream: of the host service's store, or
%% /dev/xen/xenbus. The process that opens it owns it and gets `{irq, Xs}`; `pore:poke/1` and `pore:close/1` take it too.
%% When the store has hung up and all was read, avail/1 exits with `host_down`.
-module(pore_xs).

-export([open/0, open/1, avail/1, read/1, write/2]).
-export_type([xs/0]).

-type xs() :: pore_nif:xs().

-spec open() -> xs().
open() -> open(straw_backend).

%% As a domain that is not this node's (tests), or at a path: a socket or a device.
-spec open(straw_backend:server() | {path, binary()}) -> xs().
open(Where) ->
    Opened =
        case Where of
            {path, Path} -> pore_nif:store_open(Path);
            Backend -> straw_backend:store(Backend)
        end,
    case Opened of
        {ok, Channel} ->
            case pore_nif:xs_open(Channel) of
                {ok, Xs} -> Xs;
                {error, _} -> error(no_memory)
            end;
        {error, host_down} ->
            exit(host_down);
        {error, Errno} when Errno =:= enomem; Errno =:= emfile; Errno =:= enfile; Errno =:= enospc ->
            error(no_memory);
        {error, Errno} ->
            exit({no_store, Errno})
    end.

%% {room for requests, bytes of responses}.
-spec avail(xs()) -> {non_neg_integer(), non_neg_integer()}.
avail(Xs) ->
    case pore_nif:xs_avail(Xs) of
        {error, host_down} -> exit(host_down);
        Avail -> Avail
    end.

-spec read(xs()) -> binary().
read(Xs) -> pore_nif:xs_read(Xs).

%% badarg: more than there is room for.
-spec write(xs(), iodata()) -> ok.
write(Xs, Data) when is_binary(Data); is_list(Data) ->
    case iolist_size(Data) =< 1024 of
        true -> pore_nif:xs_write(Xs, iolist_to_binary(Data));
        false -> error(badarg)
    end;
write(_Xs, _Data) ->
    error(badarg).
