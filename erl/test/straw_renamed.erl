%% A BEAM that gets a name, loses it, and goes on with the pids and references that have crossed a straw: for
%% straw_codec_tests, which runs main/0 in one of its own. It is that BEAM's epmd too, which it does not need.
-module(straw_renamed).
-export([main/0]).
-export([start_link/0, register_node/2, register_node/3, port_please/2, port_please/3, listen_port_please/2, address_please/3, names/1]).

main() ->
    Ends = {ids(1, 2), ids(2, 1)},
    Nameless = there_and_back(there_and_back(Ends)),
    {ok, _} = net_kernel:start(['renamed@127.0.0.1', longnames]),
    Named = there_and_back(there_and_back(current(Nameless))),
    ok = net_kernel:stop(),
    _ = there_and_back(there_and_back(current(Named))),
    io:put_chars("all came back"),
    halt().

ids(Ours, Peer) -> straw_ids:new(#{domid => Ours, peer => Peer, dialect => otp, known => true}).

current({Ours, Theirs}) -> {straw_ids:current(Ours), straw_ids:current(Theirs)}.

%% To a name, and back to the process that the message has told of.
there_and_back({Ours, Theirs}) ->
    Ref = make_ref(),
    {buddy, {Proxy, There}, Ours1, Theirs1} = pass(buddy, {self(), Ref}, Ours, Theirs),
    {Self, {Self, Ref}, Theirs2, Ours2} = pass(Proxy, {Proxy, There}, Theirs1, Ours1),
    Self = self(),
    true = node(Proxy) =:= node(),
    {Ours2, Theirs2}.

pass(Addr, Msg, From, To) ->
    {ok, Frame, From1} = straw_codec:encode(Addr, Msg, #{ids => From}),
    {ok, Found, Got, To1} = straw_codec:decode(iolist_to_binary(Frame), #{ids => To}),
    {Found, Got, From1, To1}.

start_link() -> ignore.
register_node(_, _) -> {ok, 5}.
register_node(_, _, _) -> {ok, 5}.
port_please(_, _) -> noport.
port_please(_, _, _) -> noport.
listen_port_please(_, _) -> {ok, 0}.
address_please(_, _, _) -> {error, nxdomain}.
names(_) -> {error, address}.
