%% Node names that a peer's references bear, as atoms: the only atoms that are made of what a peer sends. As no atom is
%% ever forgotten, this VM makes so many and no more, whatever straws come and go.
-module(straw_atoms).
-export([node_name/2]).

%% Of all straws, while this VM lives.
-define(MAX_MADE, 4096).

%% Is this node's name (UTF-8) an atom? If not it is made, if it may be and there is room.
-spec node_name(binary(), boolean()) -> existing | made | refused.
node_name(Name, May_make) ->
    try binary_to_existing_atom(Name, utf8) of
        _ -> existing
    catch
        error:_ when May_make -> make(Name, made());
        error:_ -> refused
    end.

-spec make(binary(), counters:counters_ref()) -> made | refused.
make(Name, Made) ->
    case counters:get(Made, 1) < ?MAX_MADE of
        true ->
            counters:add(Made, 1, 1),
            _ = binary_to_atom(Name, utf8),
            made;
        false -> refused
    end.

-spec made() -> counters:counters_ref().
made() ->
    case persistent_term:get(?MODULE, undefined) of
        undefined ->
            persistent_term:put(?MODULE, counters:new(1, [])),
            persistent_term:get(?MODULE);
        Made -> Made
    end.
