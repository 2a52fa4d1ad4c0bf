%% What beamkit/pyapp.py exports under the module name `py`, for the oracle. It is loaded on the oracle's BEAM only.
-module(py).
-export([add/2, ident/1, nothing/0, raise/1, sleep/2, record/1, recorded/0, exit_with/1, throw_it/1]).

add(A, B) -> A + B.
ident(Term) -> Term.
nothing() -> undefined.
raise(Text) -> erlang:error({python, 'ValueError', iolist_to_binary(Text)}).
sleep(Ms, Value) -> timer:sleep(Ms), Value.
exit_with(Reason) -> exit(Reason).
throw_it(Term) -> throw(Term).
record(Term) -> persistent_term:put({py_record, erlang:unique_integer([monotonic])}, Term), ok.
recorded() -> [Term || {_, Term} <- lists:reverse(lists:sort([{K, T} || {{py_record, K}, T} <- persistent_term:get()]))].
