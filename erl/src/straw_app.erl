%% The application `straw`: this node becomes a domain when it starts, and gives the domain back when it stops.
%%
%% {error, {no_host, Folder, Errno}}: no host service runs there. {error, straw_taken}: the domain has a strawman.
-module(straw_app).
-behaviour(application).

-export([start/2, stop/1]).

-spec start(application:start_type(), term()) -> {ok, pid()} | {error, term()}.
start(_Type, _Arguments) ->
    case straw_sup:start_link() of
        {ok, Supervisor} -> {ok, Supervisor};
        {error, {shutdown, {failed_to_start_child, straw_domain, {shutdown, Reason}}}} -> {error, Reason};
        {error, Reason} -> {error, Reason}
    end.

-spec stop(term()) -> ok.
stop(_State) -> ok.
