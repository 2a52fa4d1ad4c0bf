%% The membrane's state machine as data: what either role does in every state with every input.
%%
%% The rows are in priv/membrane.table, the same as Python's (pores/membrane_table.py makes the file). Nothing acts here:
%% membrane_pore.erl, membrane_opener.erl and membrane_acceptor.erl do.
-module(membrane_table).

-export([load/0, load/1, row/4, is_busy/3, is_external/1, actions/2, states/2]).
-export_type([table/0, role/0]).

-type role() :: passive | active.
-type table() :: #{rows := #{{role(), atom(), atom()} => {atom(), atom()}}, busy := #{{role(), atom()} => true}}.

%% Inputs that may come at any time; the others are results of work.
-define(EXTERNAL, [p1, p2, p3, p4, p5, p6, gone, ended, close, late, yield, timer, open, free]).

-spec load() -> table().
load() ->
    load(filename:join(priv_dir(), "membrane.table")).

-spec load(file:name_all()) -> table().
load(File) ->
    {ok, Terms} = file:consult(File),
    Rows = maps:from_list([{{Role, State, Input}, {Action, Next}} || {Role, State, Input, Action, Next} <- Terms]),
    %% A state is busy while work of its own is under way: it is the one that a result of work brings further.
    Busy = [{Role, State} || {Role, State, Input} <- maps:keys(Rows), not is_external(Input), State =/= 'START'],
    #{rows => Rows, busy => maps:from_list([{Name, true} || Name <- Busy])}.

%% What to do (`none`: nothing) and the state afterwards; undefined: such an input is ignored.
-spec row(role(), atom(), atom(), table()) -> {atom(), atom()} | undefined.
row(Role, State, Input, #{rows := Rows}) ->
    maps:get({Role, State, Input}, Rows, undefined).

-spec is_busy(role(), atom(), table()) -> boolean().
is_busy(Role, State, #{busy := Busy}) ->
    is_map_key({Role, State}, Busy).

-spec is_external(atom()) -> boolean().
is_external(Input) ->
    lists:member(Input, ?EXTERNAL).

%% All actions and all states of a role, sorted: for tests.
-spec actions(role(), table()) -> [atom()].
actions(Role, #{rows := Rows}) ->
    lists:usort([Action || {{R, _, _}, {Action, _}} <- maps:to_list(Rows), R =:= Role, Action =/= none]).

-spec states(role(), table()) -> [atom()].
states(Role, #{rows := Rows}) ->
    lists:usort(lists:append([[State, Next] || {{R, State, _}, {_, Next}} <- maps:to_list(Rows), R =:= Role])).

%% Also when the application is not a release's, or not loaded at all.
priv_dir() ->
    case code:priv_dir(straw) of
        {error, bad_name} -> filename:join(filename:dirname(filename:dirname(code:which(?MODULE))), "priv");
        Dir -> Dir
    end.
