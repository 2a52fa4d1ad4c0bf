%% LING's xenstore: keys and values are strings (lists), results `ok`, `{ok, Value}` or `{error, enoent}` and the like.
%%
%% Wrong arguments are `{error, badarg}` (no exception), without a server `{error, not_started}`. Events of a watch come as
%% `{watch, Path}` to the process that called watch/1, with the path in the form in which the watch was set. read/2, list/2 and
%% get_perms/2 (inside a transaction) are ours. The protocol is xenstore_server's.
-module(xenstore).

-export([start_link/0]).
-export([read/1, read/2, read_integer/1, write/2, write/3, mkdir/1, mkdir/2, delete/1, delete/2, list/1, list/2]).
-export([get_perms/1, get_perms/2, set_perms/2, set_perms/3, watch/1, unwatch/1]).
-export([transaction/0, commit/1, rollback/1, domid/0, wait/2]).
-export_type([path/0, tid/0, error/0]).

-include("xenstore.hrl").

-type path() :: string().
-type tid() :: 0..16#FFFFFFFF.
%% Errno of the store in small letters, or not_started, badarg.
-type error() :: {error, atom()}.

-define(SERVER, ?MODULE).

%% Over the store of straw_backend.
-spec start_link() -> gen_server:start_ret().
start_link() -> xenstore_server:start_link({local, ?SERVER}, straw_backend).

-spec read(path()) -> {ok, string()} | error().
read(Path) -> read(Path, 0).
-spec read(path(), tid()) -> {ok, string()} | error().
read(Path, Tid) when is_list(Path) -> call(?XS_READ, [Path], Tid);
read(_Path, _Tid) -> {error, badarg}.

-spec read_integer(path()) -> {ok, integer()} | {error, not_integer} | error().
read_integer(Path) ->
    case read(Path) of
        {ok, Value} ->
            try
                {ok, list_to_integer(Value)}
            catch
                error:badarg -> {error, not_integer}
            end;
        Error ->
            Error
    end.

-spec write(path(), string() | integer()) -> ok | error().
write(Path, Value) -> write(Path, Value, 0).
-spec write(path(), string() | integer(), tid()) -> ok | error().
write(Path, Value, Tid) when is_integer(Value) -> write(Path, integer_to_list(Value), Tid);
write(Path, Value, Tid) when is_list(Path), is_list(Value) -> call(?XS_WRITE, [Path, Value], Tid);
write(_Path, _Value, _Tid) -> {error, badarg}.

-spec mkdir(path()) -> ok | error().
mkdir(Path) -> mkdir(Path, 0).
-spec mkdir(path(), tid()) -> ok | error().
mkdir(Path, Tid) when is_list(Path) -> call(?XS_MKDIR, [Path], Tid);
mkdir(_Path, _Tid) -> {error, badarg}.

-spec delete(path()) -> ok | error().
delete(Path) -> delete(Path, 0).
-spec delete(path(), tid()) -> ok | error().
delete(Path, Tid) when is_list(Path) -> call(?XS_RM, [Path], Tid);
delete(_Path, _Tid) -> {error, badarg}.

-spec list(path()) -> {ok, [string()]} | error().
list(Path) -> list(Path, 0).
-spec list(path(), tid()) -> {ok, [string()]} | error().
list(Path, Tid) when is_list(Path) ->
    case call(?XS_DIRECTORY, [Path], Tid) of
        {error, e2big} -> list_parts(Path, Tid, <<>>, <<>>);
        Result -> Result
    end;
list(_Path, _Tid) -> {error, badarg}.

%% More names than one answer holds (4096 bytes), which LING can't read. Begins again when the node changes meanwhile.
-spec list_parts(path(), tid(), binary(), binary()) -> {ok, [string()]} | error().
list_parts(Path, Tid, Generation, Got) ->
    case call(?XS_DIRECTORY_PART, [Path, integer_to_list(byte_size(Got))], Tid) of
        {ok, Answer} ->
            [Now, Part] = binary:split(Answer, <<0>>),
            All = <<Got/binary, Part/binary>>,
            case binary:longest_common_suffix([Part, <<0, 0>>]) of
                _ when Got =/= <<>>, Now =/= Generation -> list_parts(Path, Tid, <<>>, <<>>);
                Zeros when Zeros =:= 2; Zeros =:= byte_size(Part) -> {ok, names(All)};
                _ -> list_parts(Path, Tid, Now, All)
            end;
        Error ->
            Error
    end.

-spec names(binary()) -> [string()].
names(Names) -> [binary_to_list(Name) || Name <- binary:split(Names, <<0>>, [global]), Name =/= <<>>].

%% One entry is a string of its own, more are a list of strings.
-spec get_perms(path()) -> {ok, string() | [string()]} | error().
get_perms(Path) -> get_perms(Path, 0).
-spec get_perms(path(), tid()) -> {ok, string() | [string()]} | error().
get_perms(Path, Tid) when is_list(Path) -> call(?XS_GET_PERMS, [Path], Tid);
get_perms(_Path, _Tid) -> {error, badarg}.

-spec set_perms(path(), [string()]) -> ok | error().
set_perms(Path, Perms) -> set_perms(Path, Perms, 0).
-spec set_perms(path(), [string()], tid()) -> ok | error().
set_perms(Path, [First | _] = Perms, Tid) when is_list(Path), is_list(First) -> call(?XS_SET_PERMS, [Path | Perms], Tid);
set_perms(_Path, _Perms, _Tid) -> {error, badarg}.

%% A first {watch, Path} comes at once, whether the node exists or not.
-spec watch(path()) -> ok | error().
watch(Path) when is_list(Path) -> call(?XS_WATCH, [Path], 0);
watch(_Path) -> {error, badarg}.

%% Ends the caller's watches of this path. What has come of them stays in the mailbox.
-spec unwatch(path()) -> ok | error().
unwatch(Path) when is_list(Path) -> call(?XS_UNWATCH, [Path], 0);
unwatch(_Path) -> {error, badarg}.

-spec transaction() -> {ok, tid()} | error().
transaction() -> call(?XS_TRANSACTION_START, [""], 0).

%% {error, eagain}: somebody else has changed what it has read; to be done again from the start.
-spec commit(tid()) -> ok | error().
commit(Tid) when is_integer(Tid) -> call(?XS_TRANSACTION_END, ["T"], Tid);
commit(_Tid) -> {error, badarg}.

-spec rollback(tid()) -> ok | error().
rollback(Tid) when is_integer(Tid) -> call(?XS_TRANSACTION_END, ["F"], Tid);
rollback(_Tid) -> {error, badarg}.

-spec domid() -> non_neg_integer().
domid() ->
    {ok, Value} = read("domid"),
    list_to_integer(Value).

%% Waits until the node has this value; the caller watches it already. A node that is not there is waited for; any other error
%% is the result. There is no timeout.
-spec wait(path(), string()) -> ok | error().
wait(Path, Target) ->
    receive
        {watch, Path} ->
            case read(Path) of
                {ok, Target} -> ok;
                {ok, _} -> wait(Path, Target);
                {error, enoent} -> wait(Path, Target);
                {error, _} = Error -> Error
            end
    end.

-spec call(non_neg_integer(), [string()], tid()) -> term().
call(Op, Parts, Tid) when is_integer(Tid), Tid >= 0, Tid =< 16#FFFFFFFF -> xenstore_server:call(?SERVER, Op, Parts, Tid);
call(_Op, _Parts, _Tid) -> {error, badarg}.
