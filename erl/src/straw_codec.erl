%% Envelopes as frames of a straw, both ways, in the two formats. A frame goes without its length.
%%
%% erlang: the external term of {envelope, Addr, Msg} in the peer's dialect. The bytes are walked by the NIF
%% (c_src/transcode.c), which checks them whole, so that nothing hostile reaches binary_to_term, and leaves holes for
%% pids and references; those are filled here from the straw's tables (straw_ids). json: an object with addr and msg.
%%
%% Atoms are never made of what a peer sends (but for node names of references, a bounded number).
-module(straw_codec).
-export([encode/3, decode/2]).
-export_type([options/0, address/0, encode_reason/0, decode_reason/0]).

%% format: erlang unless given. dialect: ling unless given, what the peer reads. ling_maps: maps may go to a LING, which
%% may die of it. ids: the straw's; undefined or absent on json straws.
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

%% At most 16 MiB. Ids comes back also on errors: take it, a process may be monitored already. Without ids in the
%% options, undefined comes back.
-spec encode(address(), term(), options()) ->
          {ok, iodata(), straw_ids:ids() | undefined} | {error, encode_reason(), straw_ids:ids() | undefined}.
encode(_Addr, _Msg, Options) -> {error, {badarg, <<"not yet">>}, maps:get(ids, Options, undefined)}.

%% Whatever a peer wrote, in whichever dialect. A json frame comes as {json, Msg}.
-spec decode(binary(), options()) ->
          {ok, address(), term(), straw_ids:ids() | undefined} | {error, decode_reason(), straw_ids:ids() | undefined}.
decode(_Frame, Options) -> {error, {malformed, <<"not yet">>}, maps:get(ids, Options, undefined)}.
