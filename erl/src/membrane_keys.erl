%% What the two sides of a pore write into XenStore: paths, values, and what of it is believed.
%%
%% Pure functions on strings; whatever a stranger wrote comes in as it is and leaves as a checked value or undefined. The
%% keys are LING's (strawman.erl, tube_server.erl), but for dialect, ring-bytes, suppress and ring-refs: those are ours, and a
%% LING peer never looks at them. The same as Python's pores/keys.py; kinds.py is membrane_straw and membrane_tube.
-module(membrane_keys).

-export([number/1, numbers/2, domid_of/1, owned_by/3]).
-export([peer/1, active_top/2, passive_top/2, dirs/4, knocker/3, about/3]).
-export([wishes/0, wishes/1, wish_keys/0, terms_of/1, terms_keys/1, agree/2, narrow/1, own_kind/1]).
-export([offer/2, pack_refs/1, unpack_refs/2]).
-export_type([offer/0, values/0, who/0]).

-include("membrane.hrl").

%% Domain ids end here (DOMID_FIRST_RESERVED).
-define(LIMIT_DOMID, 16#7FF0).
%% Bytes of a ring of a wide straw (csrc/include/pore.h), and what we like: four messages of 64 KiB.
-define(WIDE_MIN, 4096).
-define(WIDE_MAX, (1 bsl 20)).
-define(DEFAULT_RING, (1 bsl 18)).
%% A value with its node has to fit the store's quota for one node (2048 bytes, permissions and all).
-define(REFS_MAX, 1800).

-type offer() :: {Refs :: [non_neg_integer()], Ports :: [non_neg_integer()]}.
%% Whom a pore is to, from one of the two sides: a domain, with a number when there may be many.
-type who() :: Peer :: integer() | {Peer :: integer(), Number :: non_neg_integer()}.
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

%% Those of several keys, if they are there and all different.
-spec numbers([string()], values()) -> [non_neg_integer()] | undefined.
numbers(Names, Values) ->
    Numbers = [number(maps:get(Name, Values, undefined)) || Name <- Names],
    case lists:member(undefined, Numbers) orelse length(lists:usort(Numbers)) =/= length(Names) of
        true -> undefined;
        false -> Numbers
    end.

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

-spec peer(who()) -> integer().
peer({Peer, _Number}) -> Peer;
peer(Peer) -> Peer.

-spec active_top(#layout{}, integer()) -> string().
active_top(#layout{active_top = Top}, Me) -> home(Me) ++ "/" ++ Top.

-spec passive_top(#layout{}, integer()) -> string().
passive_top(#layout{passive_top = Top}, Me) -> home(Me) ++ "/" ++ Top.

%% Ours and the peer's. The active directory is in the tree of the one who is knocked upon.
-spec dirs(#layout{}, passive | active, integer(), who()) -> {string(), string()}.
dirs(Layout, passive, Me, Who) ->
    {passive_top(Layout, Me) ++ below(Who), active_top(Layout, peer(Who)) ++ below(from(Me, Who))};
dirs(Layout, active, Me, Who) ->
    {active_top(Layout, Me) ++ below(Who), passive_top(Layout, peer(Who)) ++ below(from(Me, Who))}.

%% The same pore as the other side calls it.
from(Me, {_Peer, Number}) -> {Me, Number};
from(Me, _Peer) -> Me.

below({Peer, Number}) -> below(Peer) ++ "/" ++ integer_to_list(Number);
below(Peer) -> "/" ++ integer_to_list(Peer).

home(Domid) -> "/local/domain/" ++ integer_to_list(Domid).

%% Whose knock a changed path tells of; undefined for any other path. Only the exact path counts, with canonical numbers.
-spec knocker(#layout{}, integer(), string()) -> who() | undefined.
knocker(#layout{knock = Knock, many = Many} = Layout, Me, Path) ->
    case string:prefix(Path, active_top(Layout, Me) ++ "/") of
        nomatch ->
            undefined;
        Rest ->
            case who(Many, string:split(Rest, "/", all)) of
                {Who, [Knock]} -> not_us(Me, Who);
                _ -> undefined
            end
    end.

not_us(Me, Who) ->
    case peer(Who) of
        Me -> undefined;
        _ -> Who
    end.

%% Of names below a top directory.
who(false, [Name | Rest]) ->
    case domid_of(Name) of
        undefined -> undefined;
        Peer -> {Peer, Rest}
    end;
who(true, [Name, Number | Rest]) ->
    case {domid_of(Name), domid_of(Number)} of
        {Peer, N} when is_integer(Peer), is_integer(N) -> {{Peer, N}, Rest};
        _ -> undefined
    end;
who(_, _) ->
    undefined.

%% What a changed path is about: something in our own active tree, or the peer's directory of one of our pores.
-spec about(#layout{}, integer(), string()) -> knock | {passive | active, who()} | undefined.
about(#layout{active_top = Active, passive_top = Passive, many = Many}, Me, Path) ->
    Ours = integer_to_list(Me),
    case string:split(Path, "/", all) of
        ["", "local", "domain", Name, Data, Tree | Rest] ->
            case {Data ++ "/" ++ Tree, Name, Rest} of
                {Active, Ours, _} -> knock;
                {Active, _, [Ours | Below]} -> about(passive, who(Many, [Name | Below]));
                {Passive, _, [Ours | Below]} -> about(active, who(Many, [Name | Below]));
                _ -> undefined
            end;
        _ ->
            undefined
    end.

about(_Role, undefined) -> undefined;
about(Role, {Who, _Below}) -> {Role, Who}.

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

%% What the peer offers, if it is one: undefined as soon as a part is.
-spec offer([non_neg_integer()] | undefined, [non_neg_integer()] | undefined) -> offer() | undefined.
offer(undefined, _Ports) -> undefined;
offer(_Refs, undefined) -> undefined;
offer(Refs, Ports) -> {Refs, Ports}.

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
