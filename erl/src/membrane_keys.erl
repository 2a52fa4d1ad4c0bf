%% What the two sides of a straw write into XenStore: paths, values, and what of it is believed.
%%
%% Pure functions on strings; whatever a stranger wrote comes in as it is and leaves as a checked value or undefined. The
%% keys are LING's (strawman.erl), but for dialect, ring-bytes, suppress and ring-refs: those are ours, and a LING peer
%% never looks at them. The same as Python's pores/keys.py and kinds.py.
-module(membrane_keys).

-export([number/1, domid_of/1, owned_by/3]).
-export([active_top/1, passive_top/1, active_dir/2, passive_dir/2, knocker/2, about/2]).
-export([wishes/0, wishes/1, wish_keys/0, offer_keys/0, terms_of/1, terms_keys/1, agree/2, narrow/1, own_kind/1]).
-export([pages/1, publish/2, parse/2, pack_refs/1, unpack_refs/2]).
-export_type([offer/0, values/0]).

-include("membrane.hrl").

%% Domain ids end here (DOMID_FIRST_RESERVED).
-define(LIMIT_DOMID, 16#7FF0).
%% Bytes of a ring of a wide straw (csrc/include/pore.h), and what we like: four messages of 64 KiB.
-define(WIDE_MIN, 4096).
-define(WIDE_MAX, (1 bsl 20)).
-define(DEFAULT_RING, (1 bsl 18)).
%% A value with its node has to fit the store's quota for one node (2048 bytes, permissions and all).
-define(REFS_MAX, 1800).
-define(STRAW_REFS, 8).
-define(PAGE, 4096).

-type offer() :: {Refs :: [non_neg_integer()], Port :: non_neg_integer()}.
%% What was read, by the last name of its path; undefined: it is not there.
-type values() :: #{string() => string() | undefined}.

%% A canonical decimal u32, or undefined.
-spec number(string() | undefined) -> non_neg_integer() | undefined.
number("0") ->
    0;
number([First | Rest] = Text) when First >= $1, First =< $9, length(Rest) =< 9 ->
    case lists:all(fun(C) -> C >= $0 andalso C =< $9 end, Rest) of
        true ->
            case list_to_integer(Text) of
                N when N =< 16#FFFFFFFF -> N;
                _ -> undefined
            end;
        false ->
            undefined
    end;
number(_) ->
    undefined.

%% A canonical domain id, or undefined.
-spec domid_of(string() | undefined) -> non_neg_integer() | undefined.
domid_of(Name) ->
    case number(Name) of
        N when is_integer(N), N < ?LIMIT_DOMID -> N;
        _ -> undefined
    end.

%% Whether the first entry names the peer. What domain 0 makes in our tree is ours, so for 0 either will do.
-spec owned_by([string()] | undefined, non_neg_integer(), non_neg_integer()) -> boolean().
owned_by([[_ | First] | _], Peer, Me) ->
    Owner = domid_of(First),
    Owner =:= Peer orelse (Peer =:= 0 andalso Owner =:= Me);
owned_by(_, _, _) ->
    false.

%% ── paths ──

-spec active_top(integer()) -> string().
active_top(Me) -> home(Me) ++ "/data/straw".

-spec passive_top(integer()) -> string().
passive_top(Me) -> home(Me) ++ "/data/warts".

%% The straw directory, in the tree of the one who is knocked upon.
-spec active_dir(integer(), integer()) -> string().
active_dir(Acceptor, Opener) -> active_top(Acceptor) ++ "/" ++ integer_to_list(Opener).

%% The warts directory, in the tree of the one who opens.
-spec passive_dir(integer(), integer()) -> string().
passive_dir(Opener, Acceptor) -> passive_top(Opener) ++ "/" ++ integer_to_list(Acceptor).

home(Domid) -> "/local/domain/" ++ integer_to_list(Domid).

%% Whose knock a changed path tells of; undefined for any other path. Only the exact path counts, with a canonical number.
-spec knocker(integer(), string()) -> non_neg_integer() | undefined.
knocker(Me, Path) ->
    case string:prefix(Path, active_top(Me) ++ "/") of
        nomatch ->
            undefined;
        Rest ->
            case string:split(Rest, "/", all) of
                [Name, "warts"] ->
                    case domid_of(Name) of
                        Me -> undefined;
                        Domid -> Domid
                    end;
                _ ->
                    undefined
            end
    end.

%% What a changed path is about: something in our own straw tree, or the peer's directory of one of our straws.
-spec about(integer(), string()) -> knock | {passive | active, integer()} | undefined.
about(Me, Path) ->
    Ours = integer_to_list(Me),
    case string:split(Path, "/", all) of
        ["", "local", "domain", Ours, "data", "straw" | _] -> knock;
        ["", "local", "domain", Name, "data", Tree, Ours | _] ->
            case {domid_of(Name), Tree} of
                {undefined, _} -> undefined;
                {Peer, "straw"} -> {passive, Peer};
                {Peer, "warts"} -> {active, Peer};
                _ -> undefined
            end;
        _ -> undefined
    end.

%% ── terms ──

%% What is told to a peer unless an owner wants something else.
-spec wishes() -> #terms{}.
wishes() ->
    wishes(?DEFAULT_RING).

%% With a ring of so many bytes each way, a power of two; 0: LING's layout.
-spec wishes(non_neg_integer()) -> #terms{}.
wishes(0) ->
    #terms{dialect = otp};
wishes(Bytes) when Bytes >= ?WIDE_MIN, Bytes =< ?WIDE_MAX, Bytes band (Bytes - 1) =:= 0 ->
    #terms{dialect = otp, ring_bytes = Bytes, suppress = true}.

-spec wish_keys() -> [string()].
wish_keys() -> ["format", "dialect", "ring-bytes", "suppress"].

-spec own_kind(#terms{}) -> boolean().
own_kind(#terms{dialect = Dialect}) -> Dialect =:= otp.

%% The same with LING's ring.
-spec narrow(#terms{}) -> #terms{}.
narrow(Terms) -> Terms#terms{ring_bytes = 0, suppress = false}.

%% What a side's directory says; anything that is not understood is as if it were not there.
-spec terms_of(values()) -> #terms{}.
terms_of(Values) ->
    Told = maps:get("format", Values, undefined),
    Otp = maps:get("dialect", Values, undefined) =:= "otp",
    Ring =
        case number(maps:get("ring-bytes", Values, undefined)) of
            N when Otp, is_integer(N), N >= ?WIDE_MIN, N =< ?WIDE_MAX, N band (N - 1) =:= 0 -> N;
            _ -> 0
        end,
    #terms{
        format =
            case Told of
                undefined -> erlang;
                "erlang" -> erlang;
                _ -> json
            end,
        dialect =
            case Otp of
                true -> otp;
                false -> ling
            end,
        ring_bytes = Ring,
        suppress = Ring > 0 andalso maps:get("suppress", Values, undefined) =:= "1"
    }.

%% The keys that say so. None is ever empty: LING's xenstore process dies of an empty value.
-spec terms_keys(#terms{}) -> [{string(), string()}].
terms_keys(#terms{format = Format, dialect = ling}) ->
    [{"format", atom_to_list(Format)}];
terms_keys(#terms{format = Format, ring_bytes = 0}) ->
    [{"format", atom_to_list(Format)}, {"dialect", "otp"}];
terms_keys(#terms{format = Format, ring_bytes = Ring, suppress = Suppress}) ->
    [
        {"format", atom_to_list(Format)},
        {"dialect", "otp"},
        {"ring-bytes", integer_to_list(Ring)},
        {"suppress",
            case Suppress of
                true -> "1";
                false -> "0"
            end}
    ].

%% What both can: the same on either side. Both must say erlang, both must say otp; the smaller ring.
-spec agree(#terms{}, #terms{}) -> #terms{}.
agree(Ours, Theirs) ->
    Own = own_kind(Ours) andalso own_kind(Theirs),
    Ring =
        case Own of
            true -> min(Ours#terms.ring_bytes, Theirs#terms.ring_bytes);
            false -> 0
        end,
    #terms{
        format =
            case {Ours#terms.format, Theirs#terms.format} of
                {erlang, erlang} -> erlang;
                _ -> json
            end,
        dialect =
            case Own of
                true -> otp;
                false -> ling
            end,
        ring_bytes = Ring,
        suppress = Ring > 0 andalso Ours#terms.suppress andalso Theirs#terms.suppress
    }.

%% ── offers ──

-spec pages(#terms{}) -> pos_integer().
pages(#terms{ring_bytes = 0}) -> ?STRAW_REFS;
pages(#terms{ring_bytes = Ring}) -> 1 + 2 * Ring div ?PAGE.

%% All that an offer may consist of.
-spec offer_keys() -> [string()].
offer_keys() ->
    ["ring-ref-" ++ integer_to_list(N) || N <- lists:seq(1, ?STRAW_REFS)] ++ ["ring-refs", "event-channel"].

%% The keys of an offer; undefined when it can't be said (more refs than a node holds).
-spec publish(offer(), #terms{}) -> [{string(), string()}] | undefined.
publish({Refs, Port}, #terms{ring_bytes = 0}) ->
    [{"event-channel", integer_to_list(Port)}] ++
        [
            {"ring-ref-" ++ integer_to_list(N), integer_to_list(Ref)}
         || {N, Ref} <- lists:zip(lists:seq(1, length(Refs)), Refs)
        ];
publish({Refs, Port}, _Terms) ->
    case pack_refs(Refs) of
        undefined -> undefined;
        Text -> [{"event-channel", integer_to_list(Port)}, {"ring-refs", Text}]
    end.

%% The offer that the keys make; undefined when they make none.
-spec parse(values(), #terms{}) -> offer() | undefined.
parse(Values, #terms{ring_bytes = Ring} = Terms) ->
    Refs =
        case Ring of
            0 ->
                Names = lists:sublist(offer_keys(), ?STRAW_REFS),
                Numbers = [number(maps:get(Name, Values, undefined)) || Name <- Names],
                case lists:member(undefined, Numbers) orelse length(lists:usort(Numbers)) =/= ?STRAW_REFS of
                    true -> undefined;
                    false -> Numbers
                end;
            _ ->
                unpack_refs(maps:get("ring-refs", Values, undefined), pages(Terms))
        end,
    case {Refs, number(maps:get("event-channel", Values, undefined))} of
        {undefined, _} -> undefined;
        {_, undefined} -> undefined;
        {_, Port} -> {Refs, Port}
    end.

%% Many refs in one value, "17-145,200"; undefined when it would be too long for one node.
-spec pack_refs([non_neg_integer()]) -> string() | undefined.
pack_refs(Refs) ->
    Text = lists:append(lists:join(",", [run(A, B) || {A, B} <- runs(Refs)])),
    case length(Text) =< ?REFS_MAX of
        true -> Text;
        false -> undefined
    end.

run(A, A) -> integer_to_list(A);
run(A, B) -> integer_to_list(A) ++ "-" ++ integer_to_list(B).

runs([]) -> [];
runs([Ref | Refs]) -> runs(Refs, Ref, Ref).

runs([Ref | Refs], First, Last) when Ref =:= Last + 1 -> runs(Refs, First, Ref);
runs([Ref | Refs], First, Last) -> [{First, Last} | runs(Refs, Ref, Ref)];
runs([], First, Last) -> [{First, Last}].

%% The refs of pack_refs/1 if they are so many distinct ones, else undefined.
-spec unpack_refs(string() | undefined, pos_integer()) -> [non_neg_integer()] | undefined.
unpack_refs([_ | _] = Text, Count) when length(Text) =< ?REFS_MAX ->
    unpack_runs(string:split(Text, ",", all), Count, []);
unpack_refs(_, _) ->
    undefined.

unpack_runs([Run | Runs], Left, Refs) ->
    {First, Last} =
        case string:split(Run, "-") of
            [A] -> {number(A), number(A)};
            [A, B] -> {number(A), number(B)}
        end,
    case is_integer(First) andalso is_integer(Last) andalso Last >= First andalso Last - First < Left of
        true -> unpack_runs(Runs, Left - (Last - First + 1), [lists:seq(First, Last) | Refs]);
        false -> undefined
    end;
unpack_runs([], 0, Runs) ->
    Refs = lists:append(lists:reverse(Runs)),
    case length(lists:usort(Refs)) =:= length(Refs) of
        true -> Refs;
        false -> undefined
    end;
unpack_runs([], _, _) ->
    undefined.
