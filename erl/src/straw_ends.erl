%% Ends of processes that the peer was told of: it is told of their ends too, each after all that the process has sent.
%%
%% What it has sent may lie in the mailbox of a proxy still, while 'DOWN' comes to the straw directly. So each proxy is
%% asked to answer when it has come so far; whoever has ended before that round began is told of after it. Rounds take at
%% most a tenth of the time: with many proxies the peer hears later, and of many at once.
-module(straw_ends).
-export([new/0, add/3, passed/3, go_on/2]).
-export_type([ends/0, ended/0]).

%% So many times as long as a round took nobody is asked again.
-define(REST, 9).

-record(ends, {new = [] :: [ended()],               % the last first
               asked = [] :: [ended()],             % of the round under way
               proxies = #{} :: #{pid() => []},     % that have not answered
               since = 0 :: integer(),              % when it began
               next :: integer(),                   % when the next one may begin; native time
               waits = false :: boolean()}).        % go_on/2 will be called

-opaque ends() :: #ends{}.
-type ended() :: {Monitor :: reference(), pid(), Reason :: term()}.

-spec new() -> ends().
new() -> #ends{next = erlang:monotonic_time()}.

%% A process has ended. What is told of now comes back, in order.
-spec add(ended(), straw_ids:ids(), ends()) -> {[ended()], ends()}.
add(Ended, Ids, #ends{new = New} = Ends) -> start(Ids, Ends#ends{new = [Ended | New]}).

%% This proxy has answered, or has ended.
-spec passed(pid(), straw_ids:ids(), ends()) -> {[ended()], ends()}.
passed(Proxy, Ids, #ends{proxies = Proxies, asked = Asked, since = Since} = Ends) when is_map_key(Proxy, Proxies) ->
    case maps:remove(Proxy, Proxies) of
        Left when map_size(Left) =:= 0 ->
            Now = erlang:monotonic_time(),
            {More, After} = start(Ids, Ends#ends{asked = [], proxies = #{}, next = Now + ?REST * (Now - Since)}),
            {lists:reverse(Asked, More), After};
        Left -> {[], Ends#ends{proxies = Left}}
    end;
passed(_, _, Ends) -> {[], Ends}.

%% The process that has this got the message `ask_proxies`.
-spec go_on(straw_ids:ids(), ends()) -> {[ended()], ends()}.
go_on(Ids, Ends) -> start(Ids, Ends#ends{waits = false}).

start(_Ids, #ends{new = New, asked = Asked, waits = Waits} = Ends) when New =:= []; Asked =/= []; Waits -> {[], Ends};
start(Ids, #ends{new = New, next = Next} = Ends) ->
    Now = erlang:monotonic_time(),
    case Now < Next of
        true ->
            Rest = erlang:convert_time_unit(Next - Now, native, millisecond) + 1,
            _ = erlang:send_after(Rest, self(), ask_proxies),
            {[], Ends#ends{waits = true}};
        false ->
            case straw_ids:ask_proxies(Ids) of
                None when map_size(None) =:= 0 -> {lists:reverse(New), Ends#ends{new = []}};
                Proxies -> {[], Ends#ends{new = [], asked = New, proxies = Proxies, since = Now}}
            end
    end.
