%% What one straw knows of processes and references: who was given out to the peer's domain and under which number,
%% which processes of the peer have a proxy here, and which references stand for one of ours. A value, held by the
%% straw's process and by nobody else; the processes that it monitors and the proxies belong to the caller.
%%
%% A pid crosses as (domid, id). An entry ends when its process ends (the straw's process gets 'DOWN' and calls down/2),
%% when the reply has passed or after the TTL (references), and with the straw (stop/1). Full tables refuse; nothing
%% that lives is thrown out.
%%
%% It is not the codec: straw_codec turns terms into frames with the help of this module.
-module(straw_ids).
-export([new/1, down/2, expire/2, stop/1, counts/1, proxy/2, current/1]).
%% The ends of processes, as the two sides tell each other:
-export([is_given/2, ended/3, ask_proxies/1, is_passed/2]).
%% For straw_codec:
-export([dialect/1, domid/1, known/1, give/2, take/3, take_own/2, refer/4, restore/2, replied/2, owner/1,
         count_late/1, forget_refs/2]).
-export_type([ids/0, reason/0, wire_ref/0, entry/0]).

%% Processes given out at a time: each is monitored.
-define(MAX_PIDS, 65536).
%% References that wait for a reply at a time.
-define(MAX_REFS, 65536).
%% Processes of the peer that have a proxy; a proxy is a process of some 3 kB, 1 kB when idle.
-define(MAX_PROXIES, 16384).
%% Nodes (with their creations) that references may be of, each way. A LING never forgets an atom, and neither do we.
-define(MAX_NODES, 64).
%% A proxy that nobody has used, linked to or monitored for so long makes room when there is none; ms. And how often such
%% ones are looked for.
-define(IDLE, 60000).
-define(SWEEP, 1000).
%% How long a reference waits for its reply, in ms (straw-rules 7).
-define(REF_TTL, 60000).
%% LING keeps 27 bits of a pid's id, and 18 of a reference's first word.
-define(ID_BITS, 27).
-define(IDS, (1 bsl ?ID_BITS)).
-define(REF_WORD, (1 bsl 18)).
%% The creation of references of our table; a LING's own have 0.
-define(TABLE, 1).
%% The creation of references of a VM without a name: 'nonode@nohost' would be the receiver's own.
-define(NAMELESS, 2).

-record(entry, {what :: {alias | ref, reference()},
                key :: pos_integer(),
                owner :: pid() | undefined,     % who waits for the reply
                until :: integer()}).           % monotonic ms
-record(ids, {ours :: non_neg_integer(),
              peer :: non_neg_integer(),
              dialect :: ling | otp,
              straw :: pid(),
              limits :: #{pids | refs | proxies | ids => pos_integer()},
              ttl :: pos_integer(),
              idle :: non_neg_integer(),
              our_node :: binary(),             % that references of our table are of, on the wire
              peer_node :: atom(),              % that the peer's own references are of, here
              secret :: reference(),            % of the straw and its proxies
              start :: non_neg_integer(),       % the first id
              spent = 0 :: non_neg_integer(),   % ids given out, ever
              ids = #{} :: #{pid() => non_neg_integer()},
              given = #{} :: #{non_neg_integer() => pid()},
              proxies = #{} :: #{place() => {pid(), integer()}},   % and when it was last seen in a frame, monotonic ms
              proxied = #{} :: #{pid() => {place(), Monitor :: reference()}},
              swept :: integer(),               % when idle proxies were last looked for
              monitors = #{} :: #{reference() => pid()},
              serial :: pos_integer(),          % of references
              refs = #{} :: #{pos_integer() => #entry{}},
              keys = #{} :: #{{alias | ref, reference()} => pos_integer()},
              owned = #{} :: #{pid() => #{pos_integer() => []}},
              nodes_out = #{} :: #{{binary(), non_neg_integer()} => []},
              nodes_in = #{} :: #{binary() => []},
              late = 0 :: non_neg_integer(),
              known = undefined :: straw_codec:known() | undefined,   % a copy for the codec's NIF
              name = undefined :: {node(), integer()} | undefined}).   % of this VM, as the copy has it

%% Of the peer: a process's id, or a name.
-type place() :: non_neg_integer() | {name, atom()}.
-opaque ids() :: #ids{}.
-opaque entry() :: #entry{}.
%% {limit, What}: a table is full: the message is refused, the straw lives on. ids_exhausted: 2^27 ids are spent: the
%% straw must close.
-type reason() :: {limit, pids | refs | proxies | nodes} | ids_exhausted.
%% A reference as the wire has it: its node in UTF-8, creation, words.
-type wire_ref() :: {binary(), non_neg_integer(), [non_neg_integer()]}.

%% domid: ours. peer: the other domain. dialect: ling unless given. straw: the process that sends envelopes to the peer
%% (`{envelope, Addr, Msg}` as a message), self() unless given. limits: instead of the defaults. ref_ttl, idle: milliseconds.
%% known: whether the codec gets a copy of what does not change while a process lives, by which it does most messages in
%% one step. Then the result of every call is to be taken, never an older value.
-spec new(#{domid := non_neg_integer(), peer := non_neg_integer(), dialect => ling | otp, straw => pid(),
            limits => #{pids | refs | proxies | ids => pos_integer()}, ref_ttl => pos_integer(),
            idle => non_neg_integer(), known => boolean()}) -> ids().
new(#{domid := Ours, peer := Peer} = Options) ->
    Defaults = #{pids => ?MAX_PIDS, refs => ?MAX_REFS, proxies => ?MAX_PROXIES, ids => ?IDS},
    current(#ids{known = case Options of
                             #{known := true} -> straw_codec:known_new(Ours, Peer, rand:uniform(1 bsl 64) - 1);
                             _ -> undefined
                         end,
         ours = Ours, peer = Peer,
         dialect = maps:get(dialect, Options, ling),
         straw = maps:get(straw, Options, self()),
         limits = maps:merge(Defaults, maps:get(limits, Options, #{})),
         ttl = maps:get(ref_ttl, Options, ?REF_TTL),
         idle = maps:get(idle, Options, ?IDLE),
         our_node = atom_to_binary(domain_node(Ours), utf8),
         peer_node = domain_node(Peer),
         secret = make_ref(),
         start = rand:uniform(?IDS) - 1,
         swept = erlang:monotonic_time(millisecond) - ?SWEEP,
         serial = rand:uniform(1 bsl 80)}).

%% To be called now and then: this VM may have got another name, and its pids with it.
-spec current(ids()) -> ids().
current(#ids{known = undefined} = Ids) -> Ids;
current(#ids{known = Known, name = Name} = Ids) ->
    case {node(), erlang:system_info(creation)} of
        Name -> Ids;
        Now ->
            _ = straw_codec:known_node(Known, term_to_binary(self())),
            Ids#ids{name = Now}
    end.

%% A 'DOWN' message came: its monitor reference, or the pid. Whatever was known by it is forgotten; other references are
%% ignored, so that any 'DOWN' may be passed on.
-spec down(reference() | pid(), ids()) -> ids().
down(Monitor, #ids{monitors = Monitors} = Ids) when is_reference(Monitor) ->
    case maps:take(Monitor, Monitors) of
        {Pid, Left} -> gone(Pid, Ids#ids{monitors = Left});
        error -> Ids
    end;
down(Pid, #ids{monitors = Monitors} = Ids) ->
    Found = [Monitor || {Monitor, P} <- maps:to_list(Monitors), P =:= Pid],
    lists:foreach(fun(Monitor) -> demonitor(Monitor, [flush]) end, Found),
    gone(Pid, Ids#ids{monitors = maps:without(Found, Monitors)}).

-spec gone(pid(), ids()) -> ids().
gone(Pid, #ids{ids = Known, given = Given, proxied = Proxied, proxies = Proxies} = Ids0) ->
    forget(Pid, Ids0),
    Ids1 = case maps:take(Pid, Known) of
               {Id, Left} -> Ids0#ids{ids = Left, given = maps:remove(Id, Given)};
               error -> Ids0
           end,
    Ids2 = case maps:take(Pid, Proxied) of
               {{Place, _}, Others} -> Ids1#ids{proxied = Others, proxies = maps:remove(Place, Proxies)};
               error -> Ids1
           end,
    lists:foldl(fun drop_ref/2, Ids2, maps:keys(maps:get(Pid, Ids2#ids.owned, #{}))).

%% Forget references older than their TTL. Now: erlang:monotonic_time(millisecond). Call it now and then, say every 10 s.
-spec expire(integer(), ids()) -> ids().
expire(Now, #ids{refs = Refs} = Ids) ->
    lists:foldl(fun drop_ref/2, Ids, [Key || {Key, #entry{until = Until}} <- maps:to_list(Refs), Until =< Now]).

%% The straw ends: no process is monitored any more, the proxies end with noconnection.
-spec stop(ids()) -> ok.
stop(#ids{monitors = Monitors, proxied = Proxied, straw = Straw}) ->
    lists:foreach(fun(Monitor) -> demonitor(Monitor, [flush]) end, maps:keys(Monitors)),
    %% If the straw's process is another one, they end when it does.
    [straw_proxy:stop(Proxy, Straw) || Straw =:= self(), Proxy <- maps:keys(Proxied)],
    ok.

%% Entries of now, and `late`: how many replies came for references that nobody waits for any more.
-spec counts(ids()) -> #{pids := non_neg_integer(), refs := non_neg_integer(), proxies := non_neg_integer(),
                         late := non_neg_integer()}.
counts(#ids{ids = Pids, refs = Refs, proxies = Proxies, late = Late}) ->
    #{pids => maps:size(Pids), refs => maps:size(Refs), proxies => maps:size(Proxies), late => Late}.

%% The process that stands for a registered name of the peer's domain: messages to it become {envelope, Name, Msg}. One
%% per name.
-spec proxy(atom(), ids()) -> {ok, pid(), ids()} | {error, reason(), ids()}.
proxy(Name, Ids) when is_atom(Name) -> proxy_for({name, Name}, Ids).

-spec proxy_for(place(), ids()) -> {ok, pid(), ids()} | {error, reason(), ids()}.
proxy_for(Place, #ids{proxies = Proxies, limits = #{proxies := Limit}} = Ids) ->
    Now = erlang:monotonic_time(millisecond),
    case Proxies of
        #{Place := {Pid, Seen}} when Now - Seen < ?IDLE div 4 -> {ok, Pid, Ids};
        #{Place := {Pid, _}} -> {ok, Pid, Ids#ids{proxies = Proxies#{Place := {Pid, Now}}}};
        #{} when map_size(Proxies) < Limit -> new_proxy(Place, Now, Ids);
        #{} ->
            case make_room(Now, Ids) of
                #ids{proxies = Left} = More when map_size(Left) < Limit -> new_proxy(Place, Now, More);
                More -> {error, {limit, proxies}, More}
            end
    end.

-spec new_proxy(place(), integer(), ids()) -> {ok, pid(), ids()}.
new_proxy(Place, Now, #ids{proxies = Proxies, proxied = Proxied, monitors = Monitors, straw = Straw, peer = Peer} = Ids) ->
    {Pid, Monitor} = straw_proxy:start(Straw, if is_integer(Place) -> self; true -> Place end, Ids#ids.secret),
    [learn(Pid, Peer, Place, Ids) || is_integer(Place)],
    {ok, Pid, Ids#ids{proxies = Proxies#{Place => {Pid, Now}}, proxied = Proxied#{Pid => {Place, Monitor}},
                      monitors = Monitors#{Monitor => Pid}}}.

%% The proxies of processes that nobody has used for long, and nobody holds by link or monitor. They end as if the other
%% domain had; the pid of the same process is a new one when it comes again.
-spec make_room(integer(), ids()) -> ids().
make_room(Now, #ids{swept = Swept} = Ids) when Now - Swept < ?SWEEP -> Ids;
make_room(Now, #ids{straw = Straw, idle = Time} = Ids) ->
    Proxies = seen(Now, Ids),
    Idle = [Pid || {Id, {Pid, Seen}} <- maps:to_list(Proxies), is_integer(Id), Now - Seen >= Time,
                   straw_proxy:is_idle(Pid, Time)],
    lists:foldl(fun(Pid, Acc) -> straw_proxy:stop(Pid, Straw), forget_proxy(Pid, Acc) end,
                Ids#ids{swept = Now, proxies = Proxies}, Idle).

%% Those that the codec has met by itself since the last time were seen now.
-spec seen(integer(), ids()) -> #{place() => {pid(), integer()}}.
seen(_Now, #ids{known = undefined, proxies = Proxies}) -> Proxies;
seen(Now, #ids{known = Known, proxies = Proxies}) ->
    maps:map(fun(Id, {Pid, _} = Last) ->
                     case is_integer(Id) andalso straw_codec:known_seen(Known, Id) of
                         true -> {Pid, Now};
                         false -> Last
                     end
             end, Proxies).

%% For the codec's copy.
-spec learn(pid(), non_neg_integer(), non_neg_integer(), ids()) -> term().
learn(_Pid, _Domid, _Id, #ids{known = undefined}) -> ok;
learn(Pid, Domid, Id, #ids{known = Known}) -> straw_codec:known_add(Known, term_to_binary(Pid), Domid, Id).

-spec forget(pid(), ids()) -> term().
forget(_Pid, #ids{known = undefined}) -> ok;
forget(Pid, #ids{known = Known}) -> straw_codec:known_drop(Known, term_to_binary(Pid)).

%% It ends, but we need not be told.
-spec forget_proxy(pid(), ids()) -> ids().
forget_proxy(Pid, #ids{proxied = Proxied, monitors = Monitors} = Ids) ->
    #{Pid := {_, Monitor}} = Proxied,
    demonitor(Monitor, [flush]),
    gone(Pid, Ids#ids{monitors = maps:remove(Monitor, Monitors)}).

%% Whether the peer knows this process as one of ours.
-spec is_given(pid(), ids()) -> boolean().
is_given(Pid, #ids{ids = Known}) -> is_map_key(Pid, Known).

%% The peer says that a process of its has ended: its proxy ends likewise. error: it is none of the peer's.
-spec ended(pid(), term(), ids()) -> {ok, ids()} | error.
ended(Proxy, Reason, #ids{proxied = Proxied, secret = Secret} = Ids) ->
    case Proxied of
        #{Proxy := {Id, _}} when is_integer(Id) ->
            straw_proxy:ended(Proxy, Secret, Reason),
            {ok, forget_proxy(Proxy, Ids)};
        #{} -> error
    end.

%% Each proxy will answer when all that it has been sent until now is with the straw: a message that is_passed/2 knows.
-spec ask_proxies(ids()) -> #{pid() => []}.
ask_proxies(#ids{proxied = Proxied, secret = Secret}) ->
    maps:map(fun(Proxy, _) -> straw_proxy:ask(Proxy, Secret), [] end, Proxied).

-spec is_passed(reference(), ids()) -> boolean().
is_passed(Secret, #ids{secret = Secret}) -> true;
is_passed(_, _) -> false.

%% ---- for straw_codec ----

-spec dialect(ids()) -> ling | otp.
dialect(#ids{dialect = Dialect}) -> Dialect.

-spec domid(ids()) -> non_neg_integer().
domid(#ids{ours = Ours}) -> Ours.

-spec known(ids()) -> straw_codec:known() | undefined.
known(#ids{known = Known}) -> Known.

%% A pid goes out: whose it is and under which id.
-spec give(pid(), ids()) -> {ok, ours | peers, non_neg_integer(), non_neg_integer(), ids()} | {error, reason(), ids()}.
give(Pid, #ids{ids = Known, ours = Ours, proxied = Proxied, peer = Peer} = Ids) ->
    case Known of
        #{Pid := Id} -> {ok, ours, Ours, Id, Ids};
        #{} ->
            case Proxied of
                #{Pid := {Id, _}} when is_integer(Id) -> {ok, peers, Peer, Id, Ids};
                #{} -> give_new(Pid, Ids)
            end
    end.

-spec give_new(pid(), ids()) ->
          {ok, ours, non_neg_integer(), non_neg_integer(), ids()} | {error, reason(), ids()}.
give_new(_Pid, #ids{spent = Spent, limits = #{ids := Limit}} = Ids) when Spent >= Limit -> {error, ids_exhausted, Ids};
give_new(_Pid, #ids{ids = Known, limits = #{pids := Limit}} = Ids) when map_size(Known) >= Limit ->
    {error, {limit, pids}, Ids};
give_new(Pid, #ids{ids = Known, given = Given, monitors = Monitors, start = Start, spent = Spent, ours = Ours} = Ids) ->
    Monitor = monitor(process, Pid),
    Id = (Start + Spent) rem ?IDS,
    learn(Pid, Ours, Id, Ids),
    {ok, ours, Ours, Id, Ids#ids{ids = Known#{Pid => Id}, given = Given#{Id => Pid}, spent = Spent + 1,
                                 monitors = Monitors#{Monitor => Pid}}}.

%% (Domid, Id) came in: a process of ours that was given out on this straw, or the proxy of one of the peer's. dead: it
%% was given out and has ended since; a pid that nobody has stands for it. unknown: of a third domain, or never given out
%% here.
-spec take(non_neg_integer(), non_neg_integer(), ids()) ->
          {ok, ours | peers | dead, pid(), ids()} | {error, unknown | reason(), ids()}.
take(Ours, Id, #ids{ours = Ours, given = Given, start = Start, spent = Spent} = Ids) ->
    case Given of
        #{Id := Pid} -> {ok, ours, Pid, Ids};
        #{} when Id < ?IDS, (Id - Start + ?IDS) rem ?IDS < Spent -> {ok, dead, dead(Id), Ids};
        #{} -> {error, unknown, Ids}
    end;
take(Peer, Id, #ids{peer = Peer} = Ids) when Id < ?IDS ->
    case proxy_for(Id, Ids) of
        {ok, Pid, More} -> {ok, peers, Pid, More};
        {error, _, _} = Error -> Error
    end;
take(_Domid, _Id, Ids) -> {error, unknown, Ids}.

%% A local pid of the last serial, which is 13 bits on OTP 25; its number is 15.
-spec dead(non_neg_integer()) -> pid().
dead(Id) ->
    Own = term_to_binary(self()),
    Head = byte_size(Own) - 12,
    <<Node:Head/binary, _:64, Creation:32>> = Own,
    binary_to_term(<<Node/binary, (Id band 16#7FFF):32, 16#1FFF:32, Creation:32>>).

%% As take/3, of the peer's own domain.
-spec take_own(non_neg_integer(), ids()) -> {ok, ours | peers | dead, pid(), ids()} | {error, unknown | reason(), ids()}.
take_own(Id, #ids{peer = Peer} = Ids) -> take(Peer, Id, Ids).

%% A reference goes out. {own, Words}: the peer's own comes back to it (a LING's). {foreign, Node, Words}: as a reference
%% of that node with creation 0, which tells it all. {table, ...}: one of ours stands for it until the reply has passed,
%% with creation 1. {here, ...}: one of this VM, which has no name: with creation 2.
-spec refer({alias | ref, reference()}, wire_ref() | undefined, pid() | undefined, ids()) ->
          {own, [non_neg_integer()], ids()} |
          {foreign | here | table, binary(), [non_neg_integer()], ids()} |
          {error, reason(), ids()}.
refer({ref, _}, {<<"nonode@nohost">>, 0, [First | More] = Words}, _Owner, #ids{dialect = Dialect, our_node = Node} = Ids)
  when Dialect =:= otp; First < ?REF_WORD, length(More) < 3 ->
    {here, Node, Words, Ids};
refer({ref, _} = What, {Node, Creation, [First | More] = Words}, Owner, #ids{peer_node = Peer} = Ids)
  when First < ?REF_WORD, length(More) < 3 ->
    case Creation =:= 0 andalso Node =:= atom_to_binary(Peer, utf8) of
        true -> {own, Words, Ids};
        false -> refer_foreign(What, Node, Creation, Words, Owner, Ids)
    end;
refer(What, _Wire, Owner, Ids) -> refer_table(What, Owner, Ids).

-spec refer_foreign({ref, reference()}, binary(), non_neg_integer(), [non_neg_integer()], pid() | undefined, ids()) ->
          {foreign | table, binary(), [non_neg_integer()], ids()} | {error, reason(), ids()}.
refer_foreign(What, Node, Creation, Words, Owner, #ids{nodes_out = Nodes} = Ids) ->
    Key = {Node, Creation},
    Name = <<(integer_to_binary(Creation))/binary, $:, Node/binary>>,
    case Nodes of
        #{Key := _} -> {foreign, Name, Words, Ids};
        #{} ->
            case map_size(Nodes) < ?MAX_NODES andalso fits_latin1(Name) of
                true -> {foreign, Name, Words, Ids#ids{nodes_out = Nodes#{Key => []}}};
                false -> refer_table(What, Owner, Ids)
            end
    end.

-spec fits_latin1(binary()) -> boolean().
fits_latin1(Name) ->
    case unicode:characters_to_binary(Name, utf8, latin1) of
        Latin1 when is_binary(Latin1) -> byte_size(Latin1) =< 255;
        _ -> false
    end.

-spec refer_table({alias | ref, reference()}, pid() | undefined, ids()) ->
          {table, binary(), [non_neg_integer()], ids()} | {error, reason(), ids()}.
refer_table(What, Owner, #ids{keys = Keys, refs = Refs, ttl = Ttl, our_node = Node, limits = #{refs := Limit}} = Ids) ->
    Until = erlang:monotonic_time(millisecond) + Ttl,
    case Keys of
        #{What := Key} ->
            #{Key := Entry} = Refs,
            {table, Node, words(Key), own(Entry#entry{until = Until}, Owner, Ids)};
        #{} when map_size(Refs) >= Limit -> {error, {limit, refs}, Ids};
        #{} ->
            {Key, Serial} = next_key(Ids#ids.serial),
            Entry = #entry{what = What, key = Key, owner = undefined, until = Until},
            {table, Node, words(Key), own(Entry, Owner, Ids#ids{serial = Serial, keys = Keys#{What => Key}})}
    end.

%% The entry, with the owner if it had none.
-spec own(entry(), pid() | undefined, ids()) -> ids().
own(#entry{owner = undefined, key = Key} = Entry, Owner, #ids{owned = Owned, refs = Refs} = Ids) when is_pid(Owner) ->
    Of = maps:get(Owner, Owned, #{}),
    Ids#ids{refs = Refs#{Key => Entry#entry{owner = Owner}}, owned = Owned#{Owner => Of#{Key => []}}};
own(#entry{key = Key} = Entry, _Owner, #ids{refs = Refs} = Ids) ->
    Ids#ids{refs = Refs#{Key => Entry}}.

%% Counted from below 2^80, so that the first of three words keeps to 18 bits; the last is never 0: a LING drops zeros
%% at the end.
-spec next_key(pos_integer()) -> {pos_integer(), pos_integer()}.
next_key(Serial) ->
    case Serial band 16#FFFFFFFF of
        0 -> next_key(Serial + 1);
        _ -> {Serial, Serial + 1}
    end.

-spec words(pos_integer()) -> [non_neg_integer()].
words(Key) -> [Key bsr 64, (Key bsr 32) band 16#FFFFFFFF, Key band 16#FFFFFFFF].

%% A reference came in: one of our table's, or one of a node, as this VM names it. late: one of our table's whose entry
%% has gone; it stands for nothing any more.
-spec restore(wire_ref(), ids()) ->
          {entry, {alias | ref, reference()}, entry(), ids()} | {late | ref, wire_ref(), ids()} | {error, reason(), ids()}.
restore({<<"local">>, 0, Words}, #ids{peer_node = Peer} = Ids) ->
    {ref, {atom_to_binary(Peer, utf8), 0, Words}, Ids};
restore({Node, 0, Words} = Ref, Ids) ->
    case binary:split(Node, <<":">>) of
        [Number, Real] -> restore_ours(told(Number, Real, Words, Ref), Ids);
        _ -> known_node(Ref, Ids)
    end;
restore(Ref, Ids) -> restore_ours(Ref, Ids).

-spec restore_ours(wire_ref(), ids()) ->
          {entry, {alias | ref, reference()}, entry(), ids()} | {late | ref, wire_ref(), ids()} | {error, reason(), ids()}.
restore_ours({Node, ?TABLE, [A, B, C]} = Ref, #ids{our_node = Node, refs = Refs} = Ids) ->
    Key = (A bsl 64) bor (B bsl 32) bor C,
    case Refs of
        #{Key := #entry{what = What} = Entry} -> {entry, What, Entry, Ids};
        #{} -> {late, Ref, Ids}
    end;
restore_ours({Node, ?NAMELESS, Words}, #ids{our_node = Node} = Ids) -> {ref, {<<"nonode@nohost">>, 0, pad(Words)}, Ids};
restore_ours(Ref, Ids) -> known_node(Ref, Ids).

%% The node and creation that refer/4 told a LING in a node's name.
-spec told(binary(), binary(), [non_neg_integer()], wire_ref()) -> wire_ref().
told(Number, Real, Words, Ref) ->
    try binary_to_integer(Number) of
        Creation when Creation >= 0, Creation < 1 bsl 32 ->
            case integer_to_binary(Creation) of
                Number -> {Real, Creation, pad(Words)};
                _ -> Ref
            end;
        _ -> Ref
    catch
        error:badarg -> Ref
    end.

%% What a LING dropped from the end.
-spec pad([non_neg_integer()]) -> [non_neg_integer()].
pad([A]) -> [A, 0, 0];
pad([A, B]) -> [A, B, 0];
pad(Words) -> Words.

%% binary_to_term makes no atoms, of a node neither: a bounded number is made for the peer's nodes.
-spec known_node(wire_ref(), ids()) -> {ref, wire_ref(), ids()} | {error, reason(), ids()}.
known_node({Node, _, _} = Ref, #ids{nodes_in = Nodes} = Ids) when is_map_key(Node, Nodes) -> {ref, Ref, Ids};
known_node({Node, _, _} = Ref, #ids{nodes_in = Nodes} = Ids) ->
    case straw_atoms:node_name(Node, map_size(Nodes) < ?MAX_NODES) of
        existing -> {ref, Ref, Ids};
        made -> {ref, Ref, Ids#ids{nodes_in = Nodes#{Node => []}}};
        refused -> {error, {limit, nodes}, Ids}
    end.

%% Who waits for the reply; undefined when the message did not tell.
-spec owner(entry()) -> pid() | undefined.
owner(#entry{owner = Owner}) -> Owner.

%% A reply was late.
-spec count_late(ids()) -> ids().
count_late(#ids{late = Late} = Ids) -> Ids#ids{late = Late + 1}.

%% The reply for this entry has come.
-spec replied(entry(), ids()) -> ids().
replied(#entry{key = Key}, Ids) -> drop_ref(Key, Ids).

%% A frame that has not gone out after all leaves no references: those of After that Before has not are forgotten.
-spec forget_refs(ids(), ids()) -> ids().
forget_refs(#ids{serial = Serial}, #ids{serial = Serial} = After) -> After;
forget_refs(#ids{serial = Serial}, #ids{refs = Refs} = After) ->
    lists:foldl(fun drop_ref/2, After, [Key || Key <- maps:keys(Refs), Key >= Serial]).

-spec drop_ref(pos_integer(), ids()) -> ids().
drop_ref(Key, #ids{refs = Refs, keys = Keys, owned = Owned} = Ids) ->
    case maps:take(Key, Refs) of
        {#entry{what = What, owner = Owner}, Left} ->
            Ids#ids{refs = Left, keys = maps:remove(What, Keys), owned = disown(Owner, Key, Owned)};
        error -> Ids
    end.

-spec disown(pid() | undefined, pos_integer(), #{pid() => #{pos_integer() => []}}) ->
          #{pid() => #{pos_integer() => []}}.
disown(Owner, Key, Owned) ->
    case Owned of
        #{Owner := Of} when map_size(Of) =:= 1, is_map_key(Key, Of) -> maps:remove(Owner, Owned);
        #{Owner := Of} -> Owned#{Owner := maps:remove(Key, Of)};
        #{} -> Owned
    end.

%% One atom a domain: there are few.
-spec domain_node(non_neg_integer()) -> node().
domain_node(Domid) -> binary_to_atom(<<"domain", (integer_to_binary(Domid))/binary, "@straw">>, utf8).
