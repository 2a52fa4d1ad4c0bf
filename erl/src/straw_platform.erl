%% What a platform does for straw_backend: the requests of a domain, answered at once or later. Not for anyone else.
-module(straw_platform).

-export_type([request/0, tag/0, result/0, news/0, errno/0]).

-type errno() :: atom() | integer().
-type tag() :: term().
-type request() ::
    {hello, Wanted :: non_neg_integer()}
    | {grant, Peer :: non_neg_integer(), Pages :: pos_integer()}
    | {end_access, Refs :: [non_neg_integer()], pore_nif:memory()}
    | {map, Peer :: non_neg_integer(), Refs :: [non_neg_integer()]}
    | {unmap, Id :: term(), pore_nif:memory()}
    | {alloc_channel, Peer :: non_neg_integer()}
    | {bind_channel, Peer :: non_neg_integer(), Port :: non_neg_integer()}
    | {close_channel, Port :: non_neg_integer()}
    | store
    | domains.
%% hello: the domid; grant: {Refs, Memory}; map: {Id, Memory}; the channels: {Port, Channel}; store: Channel; domains: their
%% ids; the others: ok.
-type result() :: {ok, term()} | {error, errno()}.
-type news() ::
    {reply, tag(), result()} | {event, {unmapped, [non_neg_integer()]} | {domain_gone, non_neg_integer()}}.

-callback open(Options :: map()) -> {ok, State :: term()} | {error, term()}.
%% The answer comes as news, perhaps at once.
-callback request(request(), tag(), State :: term()) -> {[news()], State :: term()} | {down, term()}.
%% A message that straw_backend got and did not understand.
-callback handle(Message :: term(), State :: term()) -> {[news()], State :: term()} | unknown | {down, term()}.
%% One program of the domain has a lock; unlock is also said for what was never locked.
-callback lock(Name :: atom(), State :: term()) -> {ok, State :: term()} | {error, taken}.
-callback unlock(Name :: atom(), State :: term()) -> State :: term().
-callback describe(State :: term()) -> #{backend := atom(), host := term()}.
-callback close(State :: term()) -> ok.
