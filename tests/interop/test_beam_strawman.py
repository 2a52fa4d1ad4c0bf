"""strawman on a BEAM that has no distribution, with a Python node and with a LING; on both OTPs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from beamkit.beam import Beam
from beamkit.strawbeam import BIG, OTPS, PythonDomain, counted, envelope, next_of
from membranekit.local import raw_domain
from membranekit.processes import HostProcess
from samples import erlang, listing
from waiting import LONG, run, until

from node import Atom, StrawError
from pores.keys import Terms
from pores.straw import Straw

pytestmark = pytest.mark.usefixtures("python_only")

ROOT = Path(__file__).parents[2]
INBOX, JSON, DOUBLE = Atom("inbox"), Atom("json"), Atom("double")


Test = Callable[[PythonDomain], Awaitable[None]]


@OTPS
def test_both_formats_both_ways(domain: Callable[..., Beam], python: Callable[[Test], None], otp: str) -> None:
    """Opened by either side, on first use and by name; messages beyond the ring; closed from either end."""

    async def test(far: PythonDomain) -> None:
        beam = domain(otp, 6)
        node = far.node
        # The first envelope opens, the answer comes back on the same straw.
        assert (
            await beam.ask('strawman:send({5, inbox}, {1, [<<"x">>, 2.5, #{k => 1 bsl 99}], "text", <<5:3>>})') == "ok"
        )
        first = await far.next()
        assert first[:2] == (1, [b"x", 2.5, {Atom("k"): 1 << 99}])
        await far.send((Atom("next"), [first[3], [1, 2]]))
        assert await beam.ask("strawman_probe:next()") == "{next,[<<5:3>>,[1,2]]}"
        assert await beam.ask("strawman:domains()") == "[5]" and node.strawman.domains == [6]
        for domid, reason in ((5, "exists"), (6, "self"), (77, "not_found"), (1 << 31, "not_found")):
            assert await beam.ask(f"strawman:open({domid})") == f"{{error,{reason}}}"
        with pytest.raises(StrawError, match="exists"):
            await node.strawman.open(6)
        assert await beam.ask("strawman:send({77, inbox}, 1)") == "ok", "that it came to nothing nobody says"
        await counted(beam, "unopened", 1)

        # A megabyte each way at once, and order.
        sending = beam.ask(
            "[ok = strawman:send({5, inbox}, {N, binary:copy(<<N>>, Big)}) || N <- lists:seq(1, 8)], ok".replace(
                "Big", str(BIG)
            )
        )
        task = asyncio.create_task(sending)
        for n in range(1, 9):
            await far.send((n, bytes([n]) * BIG))
        for n in range(1, 9):
            assert await far.next() == (n, bytes([n]) * BIG)
            assert await next_of(beam) == (n, bytes([n]) * BIG)
        assert await task == "ok"

        assert await beam.ask("strawman:close(5)") == "ok"
        await until(lambda: not node.strawman.domains)
        assert await beam.ask("strawman:close(5)") == "{error,not_found}"

        # json, opened by the BEAM; closed by Python; then opened by Python, closed by the BEAM.
        assert await beam.ask("gen_server:call(strawman, {open, 5, json})") == "ok"
        text = """
            {ok, Straw} = strawman:split(5),
            Straw ! {envelope, inbox, #{<<"k">> => [1, 2.5, null, true, <<"text">>], <<"o">> => [{<<"p">>, 1}]}}, ok
            """
        assert await beam.ask(text) == "ok"
        assert await far.next() == (
            JSON,
            {b"k": [1, 2.5, Atom("null"), True, b"text"], b"o": {b"p": 1}},
        )
        await far.send({"k": ["\u20ac", None, False, -1.5, {}]})
        assert await beam.ask("strawman_probe:next()") == ('{json,#{<<"k">> => [<<226,130,172>>,null,false,-1.5,#{}]}}')
        for wrong in ("{1, 2}", "self()", "<<255>>", "atom"):
            assert (await beam.ask(f"strawman:send({{5, inbox}}, {wrong})")).startswith("{error,{badarg,<<")
        assert (await beam.ask("{ok, S} = strawman:split(5), gen_server:call(S, {envelope, self(), 1})")).startswith(
            "{error,{badarg,"
        )
        await far.send("x" * BIG)
        assert await next_of(beam) == (JSON, b"x" * BIG)
        assert await beam.ask(f"strawman:send({{5, inbox}}, binary:copy(<<$y>>, {BIG}))") == "ok"
        assert await far.next() == (JSON, b"y" * BIG)
        assert await node.strawman.close(6)
        await beam.ask_until("strawman:domains()", "[]")
        await node.strawman.open(6, format="json")
        await far.send([1])
        assert await next_of(beam) == (JSON, [1])
        assert await beam.ask("strawman:close(5)") == "ok"
        assert await beam.ask("application:stop(straw)") == "ok"

    python(test)


@OTPS
def test_calls_both_ways(domain: Callable[..., Beam], python: Callable[[Test], None], otp: str) -> None:
    """gen_server:call over the straw, by name and by pid, from either side; no table grows."""

    async def test(far: PythonDomain) -> None:
        beam = domain(otp, 6)
        calls = """
            {ok, P} = strawman:proxy(5, double), {ok, P} = gen_server:call(strawman, {proxy, 5, double}),
            Q = gen_server:call(P, pid),
            Me = self(),
            Workers = [spawn_monitor(fun() ->
                [begin N = gen_server:call(P, {double, N}) div 2, N = gen_server:call(Q, {double, N}) div 2 end
                 || N <- lists:seq(1, 100)]
            end) || _ <- lists:seq(1, 10)],
            [receive {'DOWN', M, _, _, Why} -> Why end || {_, M} <- Workers]
            """
        assert await beam.ask(calls) == "[" + ",".join(["normal"] * 10) + "]"
        # A process of the BEAM is called by its pid, by Python, which was called by the BEAM.
        ask = "{ok, P} = strawman:proxy(5, double), gen_server:call(P, {ask, whereis(double), {double, 1 bsl 70}})"
        assert await beam.ask(ask) == str(1 << 71)
        name = await far.node.strawman.proxy(6, "double")
        for n in range(300):
            assert await far.node.call(name, (DOUBLE, n)) == 2 * n
        pid = await far.node.call(name, Atom("pid"))
        assert await far.node.call(pid, (DOUBLE, 4)) == 8
        assert await far.node.call(name, Atom("later")) is Atom("now")
        # What the tables still know: processes that live.
        counts = "{ok, S} = strawman:split(5), #{pids := P, refs := R} = gen_server:call(S, counts), {P, R}"
        await beam.ask_until(counts, "{1,0}")
        assert (await beam.ask("catch gen_server:call(element(2, strawman:proxy(5, nobody)), hello, 300)")).startswith(
            "{'EXIT',{timeout,"
        )

    python(test)


@OTPS
def test_both_at_once(domain: Callable[..., Beam], python: Callable[[Test], None], otp: str) -> None:
    """First envelopes from both sides at the same time: each arrives once, in order, and one straw stays."""

    async def test(far: PythonDomain) -> None:
        beam = domain(otp, 6)
        for n in range(15):
            both = asyncio.create_task(
                beam.ask(f"[strawman ! {{envelope, {{5, inbox}}, {{{n}, M}}}} || M <- [1, 2, 3]], ok")
            )
            if n % 2:
                await asyncio.sleep(0)
            for m in (1, 2, 3):
                await far.send((n, m))
            assert await both == "ok"
            for m in (1, 2, 3):
                assert await far.next() == (n, m)
                assert await next_of(beam) == (n, m)
            assert await beam.ask("strawman:domains()") == "[5]"
            if n % 3:
                await far.node.strawman.close(6)
            else:
                assert await beam.ask("strawman:close(5)") == "ok"
            await beam.ask_until("strawman:domains()", "[]")
            await until(lambda: not far.node.strawman.domains)

    python(test)


@OTPS
def test_a_peer_that_speaks_lings_dialect(
    domain: Callable[..., Beam], host: HostProcess, rundir: str, otp: str
) -> None:
    async def test() -> None:
        beam = domain(otp, 6)
        async with raw_domain(rundir, 9, Terms()) as ling:  # says nothing but what a LING says
            straw: Straw = await ling.open(6)
            assert (straw.format, straw.dialect) == ("erlang", "")
            straw.send_nowait(envelope("inbox", (Atom("hello"), [1, 2]), dialect="ling"))
            assert await beam.ask("strawman_probe:next()") == "{hello,[1,2]}"
            assert await beam.ask("strawman:send({9, buddy}, {hello, 'h\\x{e9}'})") == "ok"
            assert await straw.receive() == b"\x83h\x03s\x08envelopes\x05buddyh\x02s\x05hellos\x02h\xe9"
            told = """
                {ok, Straw} = strawman:split(9),
                [begin
                    Straw ! {envelope, buddy, M},
                    receive {straw_error, 9, {badarg, _}} -> told after 30000 -> no end
                 end || M <- [#{}, '\\x{20ac}', fun() -> ok end]]
                """
            assert await beam.ask(told) == "[told,told,told]"
            # A pid of ours goes out as a LING's pid of our domain, and comes back as the process.
            ask = """
                strawman ! {envelope, {9, buddy}, {ask, self()}},
                receive {answer, Pid} -> Pid =:= self() after 30000 -> timeout end
                """
            asking = asyncio.create_task(beam.ask(ask))
            frame = await straw.receive()
            head, pid = b"\x83h\x03s\x08envelopes\x05buddyh\x02s\x03ask", frame[-17:]
            assert frame[:-17] == head and pid[:13] == b"\xa0" + bytes(8) + (6).to_bytes(4, "big")
            straw.send_nowait(b"\x83h\x03d\x00\x08envelope" + pid + b"h\x02d\x00\x06answer" + pid)
            assert await asking == "true"

    run(test)


def test_the_sessions_in_the_readme(domain: Callable[..., Beam], host: HostProcess) -> None:
    """What erl/README.md shows is what happens."""
    one, other = domain("otp28", 6), domain("otp25", 5)
    page, beginnings = "erl/README.md", ("ok = strawman:send", "ok = strawman:export", "{ok, Straw} = straw:open")
    sending, exporting, frames = (erlang(listing(page, "erlang", beginning)) for beginning in beginnings)
    buddy = """
        Counter = whereis(double),
        spawn(fun() ->
            register(buddy, self()),
            receive {hello, Pid} -> Pid ! {welcome, self()} end,
            receive hello -> inbox ! got_hello end,
            receive thanks -> inbox ! got_thanks end,
            receive hello -> inbox ! got_hello end
        end),
        [ok, ok] = [strawman:export(buddy), strawman:export(counter, #{to => double})], {welcome, thanks, Counter}
        """
    other.eval(buddy)
    one.eval("{welcome, thanks, double}")
    assert one.eval(sending).startswith("#Ref<")
    assert {other.eval("strawman_probe:next()") for _ in range(3)} == {"got_hello", "got_thanks"}
    one.eval("register(shop, spawn(fun() -> receive stop -> ok end end)), ok")
    assert one.eval(exporting) == "ok"
    assert one.eval("lists:sort(strawman:exports())") == "[desk,door,double,front,inbox]"
    assert one.eval("strawman:close(5)") == "ok"
    # Frames: the other side's strawman takes them for envelopes, and says nothing.
    ending = "exit(whereis(membrane), kill)"
    reading = frames.replace("ok = straw:active", "inbox ! opened, ok = straw:active", 1)
    told = one.submit(reading)
    assert one.eval("strawman_probe:next()") == "opened"
    other.eval(ending)
    assert told.result(LONG) == b"peer_gone"
