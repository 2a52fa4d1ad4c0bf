%% A module that only the test's BEAM has: funs of it can't be run by the node under test, nor by the oracle.
-module(interop_local).
-export([fun0/0, fun1/1]).

fun0() -> fun() -> ran end.
fun1(X) -> fun(Y) -> {X, Y} end.
