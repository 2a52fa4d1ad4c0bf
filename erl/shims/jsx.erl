%% For a path that has no jsx: straw_jsx under the name that LING's code calls. It lies in a folder of its own, so that it
%% never hides a real one.
-module(jsx).
-export([encode/1, decode/1]).

-spec encode(term()) -> binary().
encode(Term) -> straw_jsx:encode(Term).

-spec decode(binary()) -> term().
decode(Text) -> straw_jsx:decode(Text).
