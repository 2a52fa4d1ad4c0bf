%% Envelopes as frames of a straw, both ways, in the two formats. A frame goes without its length.
%%
%% erlang: the external term of {envelope, Addr, Msg} in the peer's dialect. The bytes are walked by the NIF
%% (c_src/transcode.c), which checks them whole, so that nothing hostile reaches binary_to_term, and leaves holes for
%% pids and references; those are filled here from the straw's tables (straw_ids). json: an object with addr and msg.
%%
%% Atoms are never made of what a peer sends (but for node names of references, a bounded number).
-module(straw_codec).
-export([encode/3, encode/4, decode/2, way/2, transcode/2]).
%% For straw_ids.
-export([known_new/3, known_node/2, known_add/4, known_drop/2, known_seen/2]).
-export_type([options/0, address/0, way/0, known/0, encode_reason/0, decode_reason/0]).
-on_load(load/0).
-nifs([transcode/2, known_new/3, known_node/2, known_add/4, known_drop/2, known_ref/4, known_seen/2, known_write/3,
       known_read/2]).

%% Bytes of one frame, in and out (straw-rules 3).
-define(MAX_FRAME, (16 bsl 20)).
%% Copying a binary of so many bytes takes longer than to pass it on.
-define(LARGE, 4096).
%% Parts that the NIF takes.
-define(MAX_PARTS, 256).

%% format: erlang unless given. dialect: what the peer reads; that of the ids unless given, or else ling. ling_maps: maps
%% may go to a LING, which may die of them. ids: the straw's; undefined or absent on json straws.
-type options() :: #{format => erlang | json, dialect => ling | otp, ling_maps => boolean(),
                     ids => straw_ids:ids() | undefined, _ => _}.

%% Where an envelope goes. Out: a name, a proxy's pid, or (otp) {Name, Node} or {DomId, Name}. In: a name, a process of
%% ours that was given out on this straw, {Name, Node}, {DomId, Name}, or, for a reply to a call with an alias, that
%% alias: `Addr ! Msg` takes it like a pid and drops the reply when the caller has given up.
-type address() :: atom() | pid() | reference() | {atom(), node()} | {non_neg_integer(), atom()}.

%% badarg: it can't be said on this straw, why is text. Others: straw_ids.
-type encode_reason() :: {badarg, binary()} | straw_ids:reason().

%% malformed: no envelope, or not as it must be, why is text. unknown_atom: well-formed, but with an atom (or a fun, or
%% a name as address) that this node does not have. unknown_pid: a process of ours that is not (or no more) given out, or
%% of a third domain. stale_ref: a reply that comes after its caller has given up; counted as late.
-type decode_reason() :: {malformed, binary()} | unknown_atom | unknown_pid | stale_ref | straw_ids:reason().

-type piece() :: binary() | tuple().
-type way() :: to_otp | to_ling | to_ling_maps.
-type transcoded() :: {ok, boolean(), [piece()]} | {error, binary() | emsgsize | enomem, non_neg_integer()}.
%% What a straw knows of processes and references, as the NIF has it. `unknown` when there was no memory.
-type known() :: reference() | unknown.

%% At most 16 MiB. Ids comes back also on errors: take it, a process may be monitored already. Without ids in the
%% options, undefined comes back.
-spec encode(address(), term(), options()) ->
          {ok, iodata(), straw_ids:ids() | undefined} | {error, encode_reason(), straw_ids:ids() | undefined}.
encode(Addr, Msg, #{format := json} = Options) ->
    Ids = maps:get(ids, Options, undefined),
    case is_atom(Addr) andalso straw_json:encode_envelope(Addr, Msg) of
        {ok, Frame} when byte_size(Frame) =< ?MAX_FRAME -> {ok, Frame, Ids};
        {ok, _} -> {error, {badarg, <<"an envelope beyond 16 MiB">>}, Ids};
        {error, Text} -> {error, {badarg, Text}, Ids};
        false -> {error, {badarg, <<"a json straw takes registered names only">>}, Ids}
    end;
encode(Addr, Msg, #{ids := Ids} = Options) ->
    encode(Addr, Msg, way(maps:get(dialect, Options, straw_ids:dialect(Ids)), Options), Ids).

%% The same for an erlang straw. Way: of way/2.
-spec encode(address(), term(), way(), straw_ids:ids()) ->
          {ok, iodata(), straw_ids:ids()} | {error, encode_reason(), straw_ids:ids()}.
encode(Addr, Msg, Way, Ids) ->
    case sayable(Addr, Way) of
        ok ->
            Envelope = {envelope, Addr, Msg},
            case is_large(Msg, 3) of
                false -> encode_small(term_to_binary(Envelope), Msg, Way, Ids);
                true -> fill_out(transcode_large(erlang:term_to_iovec(Envelope), Way), Way, Ids)
            end;
        Text -> {error, {badarg, Text}, Ids}
    end.

%% At once, if all is known. A call's alias never is.
-spec encode_small(binary(), term(), way(), straw_ids:ids()) ->
          {ok, iodata(), straw_ids:ids()} | {error, encode_reason(), straw_ids:ids()}.
encode_small(Bytes, {'$gen_call', {_, [alias | _]}, _}, Way, Ids) -> fill_out(transcode(Bytes, Way), Way, Ids);
encode_small(Bytes, _Msg, Way, Ids) ->
    case known_write(straw_ids:known(Ids), Bytes, Way) of
        unknown -> fill_out(transcode(Bytes, Way), Way, Ids);
        Frame -> {ok, Frame, Ids}
    end.

%% Large binaries are passed on, not copied.
-spec transcode_large([binary(), ...], way()) -> transcoded().
transcode_large(Parts, Way) ->
    case length(Parts) =< ?MAX_PARTS andalso transcode(Parts, Way) of
        {ok, _, _} = Found -> Found;
        %% not in the parts that we know how to take, or wrong as a whole too
        _ -> transcode(iolist_to_binary(Parts), Way)
    end.

%% Is there a large binary among the first that one comes upon?
-spec is_large(term(), non_neg_integer()) -> boolean().
is_large(Term, _) when is_bitstring(Term) -> byte_size(Term) >= ?LARGE;
is_large(_, 0) -> false;
is_large({A, B}, Depth) -> is_large(B, Depth - 1) orelse is_large(A, Depth - 1);
is_large({A, B, C}, Depth) -> is_large(C, Depth - 1) orelse is_large(B, Depth - 1) orelse is_large(A, Depth - 1);
is_large(Term, Depth) when is_tuple(Term), tuple_size(Term) =< 8 ->
    lists:any(fun(Item) -> is_large(Item, Depth - 1) end, tuple_to_list(Term));
is_large([Item | _], Depth) -> is_large(Item, Depth - 1);
is_large(Term, Depth) when is_map(Term), map_size(Term) =< 8 ->
    lists:any(fun(Item) -> is_large(Item, Depth - 1) end, maps:values(Term));
is_large(_, _) -> false.

-spec sayable(term(), way()) -> ok | binary().
sayable(Addr, _) when is_atom(Addr); is_pid(Addr) -> ok;
sayable({Name, Node}, to_otp) when is_atom(Name), is_atom(Node) -> ok;
sayable({Domid, Name}, to_otp) when is_integer(Domid), Domid >= 0, is_atom(Name) -> ok;
sayable(_, to_otp) -> <<"not an address: a name, a pid or {Name, Node}">>;
sayable(_, _) -> <<"a LING has names and pids of its own only">>.

%% How a peer of that dialect is written to.
-spec way(ling | otp, #{ling_maps => boolean(), _ => _}) -> way().
way(otp, _) -> to_otp;
way(ling, #{ling_maps := true}) -> to_ling_maps;
way(ling, _) -> to_ling.

-spec fill_out(transcoded(), way(), straw_ids:ids()) ->
          {ok, iodata(), straw_ids:ids()} | {error, encode_reason(), straw_ids:ids()}.
fill_out({ok, false, [Frame]}, _, Ids) when is_binary(Frame) -> {ok, Frame, Ids};
fill_out({ok, true, [Head, {pid, Pid} | Pieces]}, Way, Ids) ->
    case straw_ids:give(Pid, Ids) of
        {ok, peers, Domid, Id, More} ->
            finish_out([Head, pid_bytes(Domid, Id)], Pieces, dialect(Way), Ids, More);
        {ok, ours, _, _, More} -> {error, {badarg, <<"an address that is no process of that domain">>}, More};
        {error, Reason, More} -> {error, Reason, More}
    end;
fill_out({ok, _, Pieces}, Way, Ids) -> finish_out([], Pieces, dialect(Way), Ids, Ids);
fill_out({error, emsgsize, _}, _, Ids) -> {error, {badarg, <<"an envelope beyond 16 MiB">>}, Ids};
fill_out({error, enomem, _}, _, _) -> error(system_limit);
fill_out({error, Text, _}, _, Ids) -> {error, {badarg, Text}, Ids}.

-spec dialect(way()) -> ling | otp.
dialect(to_otp) -> otp;
dialect(_) -> ling.

-spec finish_out(iodata(), [piece()], ling | otp, straw_ids:ids(), straw_ids:ids()) ->
          {ok, iodata(), straw_ids:ids()} | {error, encode_reason(), straw_ids:ids()}.
finish_out(Head, Pieces, Dialect, Before, Ids) ->
    case fill_out(Pieces, Dialect, undefined, Head, Ids) of
        {ok, Frame, After} ->
            case iolist_size(Frame) =< ?MAX_FRAME of
                true -> {ok, Frame, After};
                false -> {error, {badarg, <<"an envelope beyond 16 MiB">>}, straw_ids:forget_refs(Before, After)}
            end;
        {error, Reason, After} -> {error, Reason, straw_ids:forget_refs(Before, After)}
    end.

%% Last: the pid of the latest hole, which a From's reference belongs to. Done: what is filled, as an iolist that grows
%% at its end.
-spec fill_out([piece()], ling | otp, pid() | undefined, iodata(), straw_ids:ids()) ->
          {ok, iodata(), straw_ids:ids()} | {error, encode_reason(), straw_ids:ids()}.
fill_out([], _Dialect, _Last, Done, Ids) -> {ok, Done, Ids};
fill_out([Bytes | Pieces], Dialect, Last, Done, Ids) when is_binary(Bytes) ->
    fill_out(Pieces, Dialect, Last, [Done, Bytes], Ids);
fill_out([{pid, Pid} | Pieces], Dialect, _Last, Done, Ids) ->
    case straw_ids:give(Pid, Ids) of
        {ok, _, Domid, Id, More} -> fill_out(Pieces, Dialect, Pid, [Done, pid_bytes(Domid, Id)], More);
        {error, Reason, More} -> {error, Reason, More}
    end;
fill_out([{alias, From, Ref} | Pieces], Dialect, Last, Done, Ids) ->
    fill_ref({alias, Ref}, undefined, From, Pieces, Dialect, Last, Done, Ids);
fill_out([{ref, From, Ref, Node, Creation, Words} | Pieces], Dialect, Last, Done, Ids) ->
    fill_ref({ref, Ref}, {Node, Creation, Words}, From, Pieces, Dialect, Last, Done, Ids).

-spec fill_ref({alias | ref, reference()}, straw_ids:wire_ref() | undefined, boolean(), [piece()], ling | otp,
               pid() | undefined, iodata(), straw_ids:ids()) ->
          {ok, iodata(), straw_ids:ids()} | {error, encode_reason(), straw_ids:ids()}.
fill_ref(What, Wire, From, Pieces, Dialect, Last, Done, Ids) ->
    case straw_ids:refer(What, Wire, if From -> Last; true -> undefined end, Ids) of
        {own, Words, More} ->
            fill_out(Pieces, Dialect, Last, [Done, ref_bytes(Dialect, <<"local">>, 0, Words)], More);
        {foreign, Node, Words, More} ->
            learn_ref(Dialect, What, Node, 0, Words, More),
            fill_out(Pieces, Dialect, Last, [Done, ref_bytes(Dialect, Node, 0, Words)], More);
        {table, Node, Words, More} ->
            fill_out(Pieces, Dialect, Last, [Done, ref_bytes(Dialect, Node, 1, Words)], More);
        {here, Node, Words, More} ->
            learn_ref(Dialect, What, Node, 2, Words, More),
            fill_out(Pieces, Dialect, Last, [Done, ref_bytes(Dialect, Node, 2, Words)], More);
        {error, Reason, More} -> {error, Reason, More}
    end.

%% The next reference of that node needs nobody but the NIF.
-spec learn_ref(ling | otp, {alias | ref, reference()}, binary(), 0..2, [non_neg_integer()], straw_ids:ids()) -> term().
learn_ref(otp, {ref, Ref}, Node, Creation, [_, _, _] = Words, Ids) ->
    <<131, Bytes/binary>> = term_to_binary(Ref),
    known_ref(straw_ids:known(Ids), to_otp, ref_node(Bytes), ref_node(newer_ref(Node, Creation, Words)));
learn_ref(_, _, _, _, _, _) -> false.

%% Node and creation.
-spec ref_node(binary()) -> binary().
ref_node(<<90, 3:16, Rest/binary>>) -> binary:part(Rest, 0, byte_size(Rest) - 12).

%% Tag 160: box, domain, process.
-spec pid_bytes(non_neg_integer(), non_neg_integer()) -> binary().
pid_bytes(Domid, Id) -> <<160, 0:64, Domid:32, Id:32>>.

%% A LING takes NEW_REFERENCE_EXT and latin-1.
-spec ref_bytes(ling | otp, binary(), 0..2, [non_neg_integer()]) -> binary().
ref_bytes(ling, Node, Creation, Words) ->
    Latin1 = unicode:characters_to_binary(Node, utf8, latin1),
    <<114, (length(Words)):16, 115, (byte_size(Latin1)), Latin1/binary, Creation, << <<Word:32>> || Word <- Words >>/binary>>;
ref_bytes(otp, Node, Creation, Words) -> newer_ref(Node, Creation, Words).

-spec newer_ref(binary(), non_neg_integer(), [non_neg_integer()]) -> binary().
newer_ref(Node, Creation, Words) ->
    Name = if byte_size(Node) < 256 -> <<119, (byte_size(Node)), Node/binary>>;
              true -> <<118, (byte_size(Node)):16, Node/binary>>
           end,
    <<90, (length(Words)):16, Name/binary, Creation:32, << <<Word:32>> || Word <- Words >>/binary>>.

%% Whatever a peer wrote, in whichever dialect. A json frame comes as {json, Msg}.
-spec decode(binary(), options()) ->
          {ok, address(), term(), straw_ids:ids() | undefined} | {error, decode_reason(), straw_ids:ids() | undefined}.
decode(Frame, #{format := json} = Options) ->
    Ids = maps:get(ids, Options, undefined),
    case byte_size(Frame) =< ?MAX_FRAME andalso straw_json:decode_envelope(Frame) of
        {ok, Name, Msg} ->
            try binary_to_existing_atom(Name, utf8) of
                Addr -> {ok, Addr, {json, Msg}, Ids}
            catch
                error:_ -> {error, unknown_atom, Ids}
            end;
        {error, Text} -> {error, {malformed, Text}, Ids};
        false -> {error, {malformed, <<"a frame beyond 16 MiB">>}, Ids}
    end;
decode(Frame, #{ids := Ids}) ->
    case known_read(straw_ids:known(Ids), Frame) of
        unknown -> decode_pieces(Frame, Ids);
        Envelope -> allowed(Envelope, [], Ids)
    end.

-spec decode_pieces(binary(), straw_ids:ids()) ->
          {ok, address(), term(), straw_ids:ids()} | {error, decode_reason(), straw_ids:ids()}.
decode_pieces(Frame, Ids) ->
    case transcode(Frame, from) of
        {ok, false, [Term]} when is_binary(Term) -> read(Term, [], Ids);
        {ok, Address_hole, Pieces} -> fill_in(Address_hole, Pieces, [], [], Ids);
        {error, emsgsize, _} -> {error, {malformed, <<"a frame beyond 16 MiB">>}, Ids};
        {error, enomem, _} -> error(system_limit);
        {error, Text, At} -> {error, {malformed, <<Text/binary, " at byte ", (integer_to_binary(At))/binary>>}, Ids}
    end.

%% Entries: of our references that are in it.
-spec fill_in(boolean(), [piece()], iodata(), [{term(), reference() | undefined, straw_ids:entry() | late}],
              straw_ids:ids()) ->
          {ok, address(), term(), straw_ids:ids()} | {error, decode_reason(), straw_ids:ids()}.
fill_in(_, [], Done, Entries, Ids) -> read(iolist_to_binary(Done), Entries, Ids);
fill_in(Address, [Bytes | Pieces], Done, Entries, Ids) when is_binary(Bytes) ->
    fill_in(Address, Pieces, [Done, Bytes], Entries, Ids);
fill_in(Address, [{ref, Node, Creation, Words} | Pieces], Done, Entries, Ids) when not Address ->
    case straw_ids:restore({Node, Creation, Words}, Ids) of
        {entry, {alias, Ref}, Entry, More} ->
            Tag = [alias | Ref],
            fill_in(false, Pieces, [Done, bytes(Tag)], [{Tag, Ref, Entry} | Entries], More);
        {entry, {ref, Ref}, Entry, More} ->
            fill_in(false, Pieces, [Done, bytes(Ref)], [{Ref, undefined, Entry} | Entries], More);
        {ref, {Real, Created, Numbers}, More} ->
            [known_ref(straw_ids:known(More), from, ref_node(newer_ref(Node, Creation, Words)),
                       ref_node(newer_ref(Real, Created, Numbers))) || length(Words) =:= 3, Numbers =:= Words],
            fill_in(false, Pieces, [Done, newer_ref(Real, Created, Numbers)], Entries, More);
        {late, {Real, Created, Numbers}, More} ->
            Bytes = newer_ref(Real, Created, Numbers),
            fill_in(false, Pieces, [Done, Bytes], [{binary_to_term(<<131, Bytes/binary>>), undefined, late} | Entries], More);
        {error, Reason, More} -> {error, Reason, More}
    end;
fill_in(Address, [Hole | Pieces], Done, Entries, Ids) ->
    case take(Hole, Ids) of
        {ok, peers, _, More} when Address -> {error, {malformed, <<"an address in the sender's own domain">>}, More};
        {ok, dead, _, More} when Address -> {error, unknown_pid, More};
        {ok, _, Pid, More} -> fill_in(false, Pieces, [Done, bytes(Pid)], Entries, More);
        {error, unknown, More} -> {error, unknown_pid, More};
        {error, Reason, More} -> {error, Reason, More}
    end.

-spec take(tuple(), straw_ids:ids()) ->
          {ok, ours | peers | dead, pid(), straw_ids:ids()} | {error, unknown | straw_ids:reason(), straw_ids:ids()}.
take({ling, 0, Domid, Id}, Ids) -> straw_ids:take(Domid, Id, Ids);
take({pid, <<"local">>, Id, Serial, 0}, Ids) ->
    straw_ids:take_own((Serial bsl 15) bor Id, Ids);   % a LING of old says its own so
take(_, Ids) -> {error, unknown, Ids}.

-spec bytes(term()) -> binary().
bytes(Term) ->
    <<131, Bytes/binary>> = term_to_binary(Term),
    Bytes.

%% The bytes are sound. What may be missing is atoms and exports, and keys of a map may be the same.
-spec read(binary(), [{term(), reference() | undefined, straw_ids:entry() | late}], straw_ids:ids()) ->
          {ok, address(), term(), straw_ids:ids()} | {error, decode_reason(), straw_ids:ids()}.
read(Bytes, Entries, Ids) ->
    try binary_to_term(Bytes, [safe]) of
        Envelope -> allowed(Envelope, Entries, Ids)
    catch
        error:_ -> {error, unknown_atom, Ids}
    end.

%% A reply to an alias would go to it, not to the caller: it must be one that came back to us.
-spec allowed(term(), [{term(), reference() | undefined, straw_ids:entry() | late}], straw_ids:ids()) ->
          {ok, address(), term(), straw_ids:ids()} | {error, decode_reason(), straw_ids:ids()}.
allowed({envelope, _, {'$gen_call', {_, Tag}, _}} = Envelope, Entries, Ids) ->
    Alias = alias_of(Tag),
    case Alias =:= none orelse lists:keymember(Alias, 1, Entries) of
        true -> arrived(Envelope, Entries, Ids);
        false -> {error, {malformed, <<"a call with an alias that never crossed">>}, Ids}
    end;
allowed(Envelope, Entries, Ids) -> arrived(Envelope, Entries, Ids).

%% As gen:reply/2 looks at a tag.
-spec alias_of(term()) -> term() | none.
alias_of([alias | Ref] = Tag) when is_reference(Ref) -> Tag;
alias_of([[alias | Ref] = Tag | _]) when is_reference(Ref) -> Tag;
alias_of(_) -> none.

-spec arrived(term(), [{term(), reference() | undefined, straw_ids:entry() | late}], straw_ids:ids()) ->
          {ok, address(), term(), straw_ids:ids()} | {error, decode_reason(), straw_ids:ids()}.
arrived(Envelope, Entries, Ids) ->
    case Envelope of
        {envelope, Addr, Msg} when is_atom(Addr); is_pid(Addr) -> delivered(Addr, Msg, Entries, Ids);
        {envelope, {Name, Node} = Addr, Msg} when is_atom(Name), is_atom(Node) -> {ok, Addr, Msg, Ids};
        {envelope, {Domid, Name} = Addr, Msg} when is_integer(Domid), Domid >= 0, is_atom(Name) ->
            case straw_ids:domid(Ids) of
                Domid -> {ok, Name, Msg, Ids};
                _ -> {ok, Addr, Msg, Ids}
            end;
        _ -> {error, {malformed, <<"not an address">>}, Ids}
    end.

%% A reply to one of our references ends its entry, and goes to the alias if it was one: who has given up gets nothing.
-spec delivered(atom() | pid(), term(), [{term(), reference() | undefined, straw_ids:entry() | late}], straw_ids:ids()) ->
          {ok, address(), term(), straw_ids:ids()} | {error, decode_reason(), straw_ids:ids()}.
delivered(Pid, {Tag, _} = Msg, [_ | _] = Entries, Ids) when is_pid(Pid) ->
    case entry_of(Tag, Entries) of
        none -> {ok, Pid, Msg, Ids};
        {_, _, late} -> {error, stale_ref, straw_ids:count_late(Ids)};
        {_, Ref, Entry} ->
            case straw_ids:owner(Entry) of
                Owner when Owner =/= Pid, Owner =/= undefined -> {ok, Pid, Msg, Ids};
                _ when Ref =:= undefined -> {ok, Pid, Msg, straw_ids:replied(Entry, Ids)};
                _ -> {ok, Ref, Msg, straw_ids:replied(Entry, Ids)}
            end
    end;
delivered(Addr, Msg, _Entries, Ids) -> {ok, Addr, Msg, Ids}.

-spec entry_of(term(), [{term(), reference() | undefined, straw_ids:entry() | late}]) ->
          {term(), reference() | undefined, straw_ids:entry() | late} | none.
entry_of(Tag, Entries) ->
    case {lists:keyfind(Tag, 1, Entries), Tag} of
        {false, [Inner | _]} when is_list(Inner); is_reference(Inner) -> entry_of(Inner, Entries);   % with a label
        {false, _} -> none;
        {Found, _} -> Found
    end.

%% ---- the NIF ----

%% The bytes of a term, as the other side needs them: binaries and holes. true: the first hole is the address. Holes
%% going out: {pid, Pid}, {alias, From, Ref}, {ref, From, Ref, Node, Creation, Words}; From: it belongs to the pid
%% before. Parts: what term_to_iovec makes, at most 256. Coming in: {ling, Boxid, Domid, Id}, {pid, Node, Id, Serial, Creation}, {ref, Node, Creation, Words}.
-spec transcode(binary() | [binary(), ...], way() | from) -> transcoded().
transcode(_Bytes, _Way) -> erlang:nif_error(not_loaded).

%% Both domains; a random number.
-spec known_new(non_neg_integer(), non_neg_integer(), non_neg_integer()) -> known().
known_new(_Ours, _Peer, _Seed) -> erlang:nif_error(not_loaded).

%% The external term of any pid of this VM, which may have a new name.
-spec known_node(known(), binary()) -> boolean().
known_node(_Known, _Pid) -> erlang:nif_error(not_loaded).

%% A process of this VM (its external term), and which one it is on the wire. false: it is of another node.
-spec known_add(known(), binary(), non_neg_integer(), non_neg_integer()) -> boolean().
known_add(_Known, _Pid, _Domid, _Id) -> erlang:nif_error(not_loaded).

-spec known_drop(known(), binary()) -> boolean().
known_drop(_Known, _Pid) -> erlang:nif_error(not_loaded).

%% The peer's process Id was met since this was last asked.
-spec known_seen(known(), non_neg_integer()) -> boolean().
known_seen(_Known, _Id) -> erlang:nif_error(not_loaded).

%% References of such a node and creation are written with that one, out or in (the bytes of NEWER_REFERENCE_EXT).
-spec known_ref(known() | undefined, to_otp | from, binary(), binary()) -> boolean().
known_ref(_Known, _Way, _From, _To) -> erlang:nif_error(not_loaded).

%% The frame for the external term of an envelope; a frame as an envelope (without new atoms). unknown: it is large, not
%% sound, or not all in it is known.
-spec known_write(known() | undefined, binary(), way()) -> binary() | unknown.
known_write(_Known, _Envelope, _Way) -> erlang:nif_error(not_loaded).

-spec known_read(known() | undefined, binary()) -> term() | unknown.
known_read(_Known, _Frame) -> erlang:nif_error(not_loaded).

%% `{straw, [{nif_folder, Folder}]}`: another build of the library (ASan's).
-spec load() -> ok | {error, term()}.
load() ->
    Folder = case application:get_env(straw, nif_folder) of
                 {ok, Other} -> Other;
                 undefined -> filename:join(filename:dirname(filename:dirname(code:which(?MODULE))), "priv")
             end,
    erlang:load_nif(filename:join(Folder, "straw_codec"), none).
