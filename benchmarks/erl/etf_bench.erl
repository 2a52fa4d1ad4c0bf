%% Times binary_to_term and term_to_binary on files of encoded terms, for benchmarks/etf.py.
%%   erl -noshell -pa DIR -s etf_bench run FILE... -s init stop      prints "name decode_ns encode_ns" per file
-module(etf_bench).
-export([run/1]).

run(Files) ->
    [one(atom_to_list(File)) || File <- Files].

one(File) ->
    {ok, Bin} = file:read_file(File),
    Term = binary_to_term(Bin),
    Decode = best(fun() -> binary_to_term(Bin) end),
    Encode = best(fun() -> term_to_binary(Term) end),
    io:format("~s ~w ~w~n", [filename:basename(File), Decode, Encode]).

%% The median of 5 samples, ns per call; each sample in a process of its own, whose garbage is collected as it comes.
best(Fun) ->
    {_, Once} = sample(Fun, 20),
    N = max(5, min(200000, 20000000 div max(1, Once))),
    Samples = lists:sort([element(2, sample(Fun, N)) || _ <- lists:seq(1, 5)]),
    lists:nth(3, Samples).

sample(Fun, N) ->
    Me = self(),
    Ref = make_ref(),
    spawn_opt(fun() ->
        erlang:garbage_collect(),
        Start = erlang:monotonic_time(nanosecond),
        Kept = loop(Fun, N, none),
        Stop = erlang:monotonic_time(nanosecond),
        Me ! {Ref, Kept =:= none, (Stop - Start) div N}
    end, [{min_heap_size, 100000}]),
    receive {Ref, Same, Ns} -> {Same, Ns} end.

%% the value is kept: an unused term_to_binary is dropped by the compiler
loop(_, 0, Kept) -> Kept;
loop(Fun, N, _) -> loop(Fun, N - 1, Fun()).
