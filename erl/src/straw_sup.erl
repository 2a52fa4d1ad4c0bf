%% The top of the application: exports, strawman (unless LING's own is to run), and what makes this node a domain.
-module(straw_sup).
-behaviour(supervisor).

-export([start_link/0]).
-export([init/1]).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    Exports = application:get_env(straw, exports, []),
    Strawman = [
        #{id => strawman, start => {strawman, start_link, []}}
     || application:get_env(straw, start_strawman, true)
    ],
    Children =
        [#{id => strawman_exports, start => {strawman_exports, start_link, [Exports]}}] ++ Strawman ++
            [#{id => straw_domain, start => {straw_domain, start_link, []}, shutdown => 20000}],
    {ok, {#{strategy => one_for_one, intensity => 5, period => 10}, Children}}.
