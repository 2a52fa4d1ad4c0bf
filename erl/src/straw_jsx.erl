%% encode/1 and decode/1 as code written for jsx 2 (LING's strawman) calls them: objects are proplists, `[{}]` is the
%% empty one, strings are binaries. Not all of jsx: no options, no streams.
-module(straw_jsx).
-export([encode/1, decode/1]).

%% badarg when it is no JSON. Maps are taken too, other atoms than null, true and false are text.
-spec encode(term()) -> binary().
encode(Term) ->
    case straw_json:encode(Term, jsx) of
        {ok, Text} -> Text;
        {error, _} -> error(badarg, [Term])
    end.

%% badarg when it does not parse.
-spec decode(binary()) -> term().
decode(Text) ->
    case is_binary(Text) andalso straw_json:decode(Text, proplists) of
        {ok, Term} -> Term;
        _ -> error(badarg, [Text])
    end.
