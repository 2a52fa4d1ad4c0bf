%%! +S 1:1 +A 1
%% A BEAM in a domain: talk.py in Erlang.
%%
%% escript talk.escript EBIN serve       exports `echo`
%% escript talk.escript EBIN ask DOMID   asks there
%% escript talk.escript - beam           is a node, with `echo` for a gateway and for other nodes: no domain itself

-define(SIZES, [0, 1, 100, 5000, 20000, 300000]).
-define(TRIES, 20).

main(["-", "beam" | _]) ->
    register(echo, self()),
    say("node ~s", [node()]),
    beam();
main([Ebin | What]) ->
    true = code:add_patha(Ebin),
    {ok, _} = application:ensure_all_started(straw),
    say("domain ~b", [strawman:domid()]),
    talk(What).

talk(["serve"]) ->
    register(echo, self()),
    ok = strawman:export(echo, #{sender => true}),
    say("serving", []),
    serve();
talk(["ask", Peer]) ->
    Domid = list_to_integer(Peer),
    register(answers, self()),
    ok = strawman:export(answers),
    opened(Domid, ?TRIES),
    lists:foreach(fun(Size) -> ask(Domid, rand:bytes(Size)) end, ?SIZES),
    say("answered ~b", [length(?SIZES)]),
    ok = strawman:close(Domid),
    ok = application:stop(straw).

%% An emulated machine that is busy may take longer than an open may.
opened(Domid, Tries) when Tries > 0 ->
    case gen_server:call(strawman, {open, Domid}, infinity) of
        ok -> ok;
        {error, exists} -> ok;
        {error, Reason} ->
            say("open: ~p", [Reason]),
            timer:sleep(1000),
            opened(Domid, Tries - 1)
    end.

ask(Domid, Payload) ->
    ok = strawman:send({Domid, echo}, {answers, Payload}),
    receive
        {echoed, Payload} -> ok
    after 60000 -> error({nothing, byte_size(Payload)})
    end.

serve() ->
    receive
        {straw, Domid, {Name, Payload}} ->
            ok = strawman:send({Domid, Name}, {echoed, Payload}),
            serve()
    end.

%% {straw, DomId, Msg} comes from the gateway; the answer goes out through the strawman of its node.
beam() ->
    receive
        {straw, Domid, {Name, Payload}} ->
            {strawman, 'talk@127.0.0.1'} ! {envelope, {Domid, Name}, {echoed, Payload}},
            beam();
        {Pid, Payload} ->
            Pid ! {echoed, Payload},
            beam()
    end.

say(Format, Arguments) -> io:format(Format ++ "~n", Arguments).
