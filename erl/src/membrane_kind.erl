%% A kind of pores that a membrane negotiates (membrane_straw, membrane_tube): where it has its keys, what an offer is, and
%% what such a pore is made of. Only callbacks.
%%
%% The first ones are pure, for the machine. The others act: the membrane calls them in processes of their own, where they may
%% wait; what they have got of straw_backend becomes the membrane's, or is given back when such a process fails.
-module(membrane_kind).

-export_type([things/0, options/0]).

-include("membrane.hrl").

%% What a pore is made of: a grant or mapping, and its channels in the order of the offer's ports.
-type things() :: {straw_backend:grant() | straw_backend:mapping(), [straw_backend:event_channel()]}.
-type options() :: #{membrane := pid(), key := membrane_machine:key(), terms := #terms{}}.

-callback layout() -> #layout{}.
%% What is told to a peer unless an owner wants something else.
-callback wishes() -> #terms{}.
%% All that an offer may consist of.
-callback offer_keys() -> [string()].
%% The keys of an offer; undefined when it can't be said.
-callback publish(membrane_keys:offer(), #terms{}) -> [{string(), string()}] | undefined.
%% The offer that the keys make; undefined when they make none.
-callback parse(membrane_keys:values(), #terms{}) -> membrane_keys:offer() | undefined.

%% The side that is knocked upon: grants and allocates.
-callback offer(Peer :: integer(), #terms{}) -> {ok, things(), membrane_keys:offer()} | {error, straw_platform:errno()}.
%% The side that opens: maps and binds what was offered.
-callback attach(Peer :: integer(), membrane_keys:offer(), #terms{}) -> {ok, things()} | {error, straw_platform:errno()}.
%% The process that has the pore: of the module process/0, which has last_look/1 and finished/2, as straw.
-callback start(options(), things()) -> {ok, pid()} | {error, term()}.
-callback process() -> module().
