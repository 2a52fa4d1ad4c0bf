%% The membrane's work on XenStore, by processes that may wait: one for each piece of work, and one that watches.
%%
%% `xenstore` is LING's: its calls block, and its {watch, Path} messages go to the process that has called watch/1.
-module(membrane_store).

-export([start_watcher/1, perform/2]).

%% Conflicts of one transaction before the work fails.
-define(ATTEMPTS, 100).

%% Its messages to the membrane: {changed, Path}. Linked.
-spec start_watcher(pid()) -> pid().
start_watcher(Membrane) ->
    spawn_link(fun() -> watcher(Membrane) end).

watcher(Membrane) ->
    receive
        {watch, From, Ref, What, Path} ->
            From ! {Ref, catch_exit(fun() -> xenstore:What(Path) end)},
            watcher(Membrane);
        {watch, Path} ->
            Membrane ! {changed, Path},
            watcher(Membrane);
        _ ->
            watcher(Membrane)
    end.

%% The steps of a piece of work, in order: {Values of those done, '' | the errno that ended them}.
-spec perform([tuple()], pid()) -> {[term()], atom()}.
perform(Steps, Watcher) ->
    perform(Steps, Watcher, []).

perform([], _Watcher, Values) ->
    {lists:reverse(Values), ''};
perform([Step | Steps], Watcher, Values) ->
    case step(Step, Watcher) of
        {ok, Value} -> perform(Steps, Watcher, [Value | Values]);
        {error, Errno} -> {lists:reverse(Values), Errno}
    end.

step({atomic, Steps}, _Watcher) ->
    atomic(Steps, ?ATTEMPTS);
step({watch, Path}, Watcher) ->
    done(ask(Watcher, watch, Path), [eexist]);
step({unwatch, Path}, Watcher) ->
    done(ask(Watcher, unwatch, Path), [enoent]);
step({read, Path}, _) ->
    found(catch_exit(fun() -> xenstore:read(Path) end));
step({list, Path}, _) ->
    found(catch_exit(fun() -> xenstore:list(Path) end));
step({get_perms, Path}, _) ->
    case found(catch_exit(fun() -> xenstore:get_perms(Path) end)) of
        {ok, [C | _] = Perm} when is_integer(C) -> {ok, [Perm]};
        Other -> Other
    end;
step({mkdir, Path}, _) ->
    done(catch_exit(fun() -> xenstore:mkdir(Path) end), []);
step({write, Path, Value}, _) ->
    done(catch_exit(fun() -> xenstore:write(Path, Value) end), []);
step({delete, Path}, Watcher) ->
    step({delete, Path, enoent}, Watcher);
step({delete, Path, Harmless}, _) ->
    done(catch_exit(fun() -> xenstore:delete(Path) end), [enoent, Harmless]);
step({set_perms, Path, Perms}, _) ->
    done(catch_exit(fun() -> xenstore:set_perms(Path, Perms) end), []).

found({ok, Value}) -> {ok, Value};
found({error, enoent}) -> {ok, undefined};
found({error, Errno}) -> {error, Errno}.

done(ok, _) -> {ok, undefined};
done({ok, _}, _) -> {ok, undefined};
done({error, Errno}, Harmless) ->
    case lists:member(Errno, Harmless) of
        true -> {ok, undefined};
        false -> {error, Errno}
    end.

%% One transaction, once more when another one came between.
atomic(_Steps, 0) ->
    {error, eagain};
atomic(Steps, Attempts) ->
    case catch_exit(fun xenstore:transaction/0) of
        {ok, Tid} ->
            case inside(Steps, Tid) of
                ok ->
                    case catch_exit(fun() -> xenstore:commit(Tid) end) of
                        ok -> {ok, undefined};
                        {error, eagain} -> atomic(Steps, Attempts - 1);
                        {error, Errno} -> {error, Errno}
                    end;
                {error, Errno} ->
                    catch_exit(fun() -> xenstore:rollback(Tid) end),
                    {error, Errno}
            end;
        {error, Errno} ->
            {error, Errno}
    end.

inside([], _Tid) ->
    ok;
inside([{unless, Path, Value} | Steps], Tid) ->
    case catch_exit(fun() -> xenstore:read(Path, Tid) end) of
        {ok, Value} -> ok;
        {ok, _} -> inside(Steps, Tid);
        {error, Errno} when Errno =:= enoent; Errno =:= eacces -> inside(Steps, Tid);
        {error, Errno} -> {error, Errno}
    end;
inside([Step | Steps], Tid) ->
    Write = fun() ->
        case Step of
            {mkdir, Path} -> xenstore:mkdir(Path, Tid);
            {write, Path, Value} -> xenstore:write(Path, Value, Tid);
            {delete, Path} -> xenstore:delete(Path, Tid);
            {set_perms, Path, Perms} -> xenstore:set_perms(Path, Perms, Tid)
        end
    end,
    case {element(1, Step), catch_exit(Write)} of
        {_, ok} -> inside(Steps, Tid);
        {delete, {error, enoent}} -> inside(Steps, Tid);
        {_, {error, Errno}} -> {error, Errno}
    end.

ask(Watcher, What, Path) ->
    Ref = monitor(process, Watcher),
    Watcher ! {watch, self(), Ref, What, Path},
    receive
        {Ref, Result} ->
            demonitor(Ref, [flush]),
            Result;
        {'DOWN', Ref, process, _, _} ->
            {error, enotconn}
    end.

%% A store that is gone is an errno as any other.
catch_exit(Fun) ->
    try Fun() of
        {error, not_started} -> {error, enotconn};
        Result -> Result
    catch
        exit:_ -> {error, enotconn}
    end.
