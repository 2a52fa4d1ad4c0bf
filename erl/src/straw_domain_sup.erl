%% What makes this node a domain, all of it or nothing: straw_domain starts it again when it has ended.
-module(straw_domain_sup).
-behaviour(supervisor).

-export([start_link/0]).
-export([init/1]).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link(?MODULE, []).

-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    Backend = #{host => env(host, undefined), domid => env(domid, 0), backend => env(backend, auto)},
    %% Whoever hears of straws that others open; nobody: LING's own strawman does it, over xenstore and pore_straw.
    Controllers =
        case {env(start_strawman, true), env(controller, undefined)} of
            {true, _} -> [strawman];
            {false, undefined} -> [];
            {false, Controller} -> [Controller]
        end,
    %% Bytes of a ring each way between our own; 0: LING's layout.
    Wishes =
        case env(ring_bytes, undefined) of
            undefined -> #{};
            Bytes -> #{wishes => membrane_keys:wishes(Bytes)}
        end,
    Children =
        [
            #{id => straw_backend, start => {straw_backend, start_link, [Backend]}},
            #{id => xenstore, start => {xenstore, start_link, []}}
        ] ++
            [
                #{id => membrane, start => {membrane, start_link, [Wishes#{controller => Controller}]}, shutdown => 7000}
             || Controller <- Controllers
            ],
    {ok, {#{strategy => one_for_all, intensity => 0}, Children}}.

env(Key, Default) -> application:get_env(straw, Key, Default).
