"""strawman on a BEAM that has no distribution: with a Python node, with another BEAM, with strangers; on both OTPs."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from beamkit.beam import Beam, BeamError, Erl, unique
from membranekit.local import raw_domain
from membranekit.processes import HostProcess
from waiting import LONG, run, until

from node import Atom, GenServer, Node, Process, StrawError, etf
from pores.backends.local import LocalBackend
from pores.errors import XenstoreError
from pores.keys import Terms
from pores.straw import Straw
from pores.xenstore.client import XenStore

pytestmark = pytest.mark.usefixtures("python_only")

ROOT = Path(__file__).parents[2]
OTPS = pytest.mark.parametrize("otp", ["otp25", "otp28"])
ENVELOPE, INBOX, JSON, DOUBLE = Atom("envelope"), Atom("inbox"), Atom("json"), Atom("double")
BIG = 1 << 20

Starter = Callable[..., Beam]


@pytest.fixture
def domain(start_beam: Starter, app: Path, rundir: str) -> Callable[..., Beam]:
    """domain(otp, domid) starts a BEAM without a name that is a domain with strawman."""

    def start(otp: str, domid: int, more: str = "[]") -> Beam:
        beam = start_beam(otp, name=None, paths=[app])
        assert beam.eval(f'strawman_probe:start("{rundir}", {domid}, {more})') == str(domid)
        return beam

    return start


class Server(GenServer):
    """strawman_probe's in Python."""

    async def handle_call(self, request: Any, caller: Any) -> Any:
        match request:
            case (Atom("double"), int(number)):
                return 2 * number
            case Atom("pid"):
                return self.pid
            case (Atom("ask"), to, question):
                return await self.process.call(to, question)


class Python:
    """A Python node that is domain 5, in no cluster, with what has come to its `inbox`."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._got: asyncio.Queue[Any] = asyncio.Queue()
        node.register("inbox", self._inbox, straw=True)
        node.register("double", Server, straw=True)

    async def _inbox(self, me: Process) -> None:
        while True:
            self._got.put_nowait(await me.receive())

    async def next(self) -> Any:
        return await self._got.get()

    async def send(self, message: Any, to: Any = "inbox", domid: int = 6) -> None:
        await self.node.strawman.send(domid, to, message)


Test = Callable[..., Any]


@pytest.fixture
def python(rundir: str, host: HostProcess) -> Callable[[Test], None]:
    """python(test): test(python) with a Python domain."""

    def run(test: Test) -> None:
        async def main() -> None:
            node = Node(unique("far"), "none of theirs", listen=None, pores=rundir, domid=5)
            python = Python(node)
            async with asyncio.timeout(LONG), node:
                await test(python)

        asyncio.run(main())

    return run


async def next_of(beam: Beam, name: str = "inbox") -> Any:
    return await beam.ask_term(f"strawman_probe:next({name})")


async def becomes(beam: Beam, text: str, value: str) -> None:
    """Waits until the text has this value."""

    async def is_so() -> bool:
        return await beam.ask(text) == value

    await until(is_so)


async def counted(beam: Beam, name: str, least: int) -> None:
    await becomes(beam, f"maps:get({name}, strawman:counts()) >= {least}", "true")


def envelope(to: Any, message: Any, **options: Any) -> bytes:
    return etf.encode((ENVELOPE, Atom(to) if isinstance(to, str) else to, message), **options)


@OTPS
def test_both_formats_both_ways(domain: Callable[..., Beam], python: Callable[[Test], None], otp: str) -> None:
    """Opened by either side, on first use and by name; messages beyond the ring; closed from either end."""

    async def test(far: Python) -> None:
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
        while node.strawman.domains:
            await asyncio.sleep(0.01)
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
        await becomes(beam, "strawman:domains()", "[]")
        await node.strawman.open(6, format="json")
        await far.send([1])
        assert await next_of(beam) == (JSON, [1])
        assert await beam.ask("strawman:close(5)") == "ok"
        assert await beam.ask("application:stop(straw)") == "ok"

    python(test)


@OTPS
def test_calls_both_ways(domain: Callable[..., Beam], python: Callable[[Test], None], otp: str) -> None:
    """gen_server:call over the straw, by name and by pid, from either side; no table grows."""

    async def test(far: Python) -> None:
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
        await becomes(beam, counts, "{1,0}")
        assert (await beam.ask("catch gen_server:call(element(2, strawman:proxy(5, nobody)), hello, 300)")).startswith(
            "{'EXIT',{timeout,"
        )

    python(test)


@pytest.mark.parametrize(("one_otp", "other_otp"), [("otp25", "otp28"), ("otp28", "otp25")])
def test_two_beams(domain: Callable[..., Beam], host: HostProcess, one_otp: str, other_otp: str) -> None:
    """Neither has distribution; what goes there and comes back is the same term, and processes can be watched."""
    one, other = domain(one_otp, 6), domain(other_otp, 7)
    assert other.eval("strawman_probe:echo(), strawman:export(echo)") == "ok"
    echo = """
        {ok, Echo} = strawman:proxy(7, echo),
        Alias = alias(), Ref = make_ref(),
        Term = {self(), [Ref, Alias, [alias | Alias]], <<5:3>>, 'h\\x{e9}', 1.5, #{self() => [a | self()]},
                fun lists:map/2, binary:copy(<<7>>, 1 bsl 20), "text", 1 bsl 200, -5},
        Echo ! {self(), Term},
        receive {Back, Term} -> {node(Back) =:= node(), is_process_alive(Back)} after 9000 -> timeout end
        """
    assert one.eval(echo) == "{true,true}"
    # The echo's own pid: it can be sent to, monitored and linked to; it goes when the straw does.
    watch = """
        {ok, Echo} = strawman:proxy(7, echo), {ok, Straw} = strawman:split(7),
        Echo ! {self(), hello}, Pid = receive {P, hello} -> P end,
        Pid ! {self(), again}, receive {Pid, again} -> ok end,
        process_flag(trap_exit, true), link(Straw),
        [erlang:monitor(process, X) || X <- [Pid, Echo, Straw]],
        put(watched, {Pid, Echo, Straw}),
        register(watcher, self()),
        receive {tell, To} -> ok end,
        Down = fun(X) -> receive {'DOWN', _, process, X, Why} -> Why end end,
        To ! {Down(Pid), Down(Echo), Down(Straw), receive {'EXIT', Straw, Why} -> Why end}
        """
    ends = "watcher ! {tell, self()}, receive Ends -> Ends after 9000 -> timeout end"
    for how, reason in (
        ("strawman:close(6)", "peer_closed"),
        ("{ok, S} = strawman:split(6), exit(S, kill)", "peer_gone"),
        ("application:stop(straw)", "peer_closed"),
    ):
        watching = one.submit(watch)
        wait = "case whereis(watcher) of undefined -> no; P -> process_info(P, status) end"
        while one.eval(wait) != "{status,waiting}":
            pass
        other.eval(how)
        assert one.eval(ends) == f"{{noconnection,noconnection,{reason},{reason}}}"
        watching.result(10)
    assert one.eval("strawman:domains()") == "[]"
    assert one.eval("element(2, process_info(whereis(strawman), messages))") == "[]"
    # And as an answer to a kill.
    other.eval("application:start(straw)")
    domid = other.eval("strawman:domid()")
    assert other.eval("strawman:export(echo), strawman:send({6, inbox}, up)") == "ok"
    assert one.eval("strawman_probe:next()") == "up"
    watching = one.submit(watch.replace("7", domid))
    while one.eval(wait) != "{status,waiting}":
        pass
    other.kill()
    assert one.eval(ends) == "{noconnection,noconnection,peer_gone,peer_gone}"
    watching.result(10)


@OTPS
def test_both_at_once(domain: Callable[..., Beam], python: Callable[[Test], None], otp: str) -> None:
    """First envelopes from both sides at the same time: each arrives once, in order, and one straw stays."""

    async def test(far: Python) -> None:
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
            await becomes(beam, "strawman:domains()", "[]")
            while far.node.strawman.domains:
                await asyncio.sleep(0.005)

    python(test)


@OTPS
def test_nobody_is_reached_until_exported(
    domain: Callable[..., Beam], host: HostProcess, rundir: str, otp: str
) -> None:
    async def test() -> None:
        beam = domain(otp, 6)
        for name in ("rex", "strawman", "init", "membrane", "{user, node()}", "whereis(init)"):
            assert await beam.ask(f"strawman:export({name})") == "{error,service}"
        assert await beam.ask("strawman:export(fine, #{to => code_server})") == "{error,service}"
        assert await beam.ask("[strawman:export(X, O) || {X, O} <- [{5, #{}}, {a, #{b => c}}, {a, b}]]") == (
            "[{error,badarg},{error,badarg},{error,badarg}]"
        )
        assert await beam.ask("strawman:export(told, #{to => inbox, domains => [9], sender => true})") == "ok"
        assert await beam.ask("strawman:export(other, #{to => inbox, domains => [8]})") == "ok"
        async with raw_domain(rundir, 9) as enemy:
            straw: Straw = await enemy.open(6)
            for name in ("rex", "private", "init", "strawman", (Atom("inbox"), Atom("nonode@nohost"))):
                await straw.send(envelope(name, 1))
            await counted(beam, "unknown", 5)
            for message in (
                (Atom("$gen_call"), (1, 2), Atom("count")),
                (Atom("$gen_call"), Atom("x"), Atom("count")),
                (Atom("EXIT"), 1, Atom("kill")),
                (Atom("system"), (1, 2), Atom("get_state")),
                (Atom("DOWN"), 1, Atom("process"), 2, Atom("normal")),
            ):
                await straw.send(envelope("inbox", message))
            await straw.send(envelope("other", Atom("no")))
            await counted(beam, "refused", 6)
            await straw.send(envelope("told", Atom("yes")))
            assert await beam.ask("strawman_probe:next()") == "{straw,9,yes}"
            await straw.send(envelope((6, Atom("inbox")), Atom("here")))
            assert await beam.ask("strawman_probe:next()") == "here"
            assert await beam.ask("strawman:unexport(told)") == "ok"
            await straw.send(envelope("told", Atom("yes")))
            await counted(beam, "unknown", 6)
            await beam.ask("exit(whereis(private), kill), strawman:export(private)")
            await straw.send(envelope("private", Atom("yes")))
            await counted(beam, "undelivered", 1)

            # Whatever it writes: no atom is made, and the straw lives on.
            before = int(await beam.ask("erlang:system_info(atom_count)"))
            dice = random.Random(5)
            honest = envelope("inbox", {Atom("k"): [1, b"x" * 40, 2.5]})
            for n in range(3000):
                await straw.send(envelope("inbox", Atom(f"strange{n}")))
                await straw.send(envelope(f"stranger{n}", 1))
                frame = bytearray(honest if dice.random() < 0.7 else dice.randbytes(dice.randrange(60)))
                for _ in range(dice.randrange(1, 4)):
                    if frame:
                        frame[dice.randrange(min(30, len(frame)))] = dice.randrange(256)
                await straw.send(bytes(frame))
            await straw.send(b"\x83" + b"l\x00\x00\x00\x01" * 100_000)
            await straw.send(bytes((16 << 20) + 1))
            await straw.send(envelope("inbox", Atom("last")))
            while await next_of(beam) is not Atom("last"):
                pass
            await counted(beam, "malformed", 500)
            await counted(beam, "oversized", 1)
            await counted(beam, "unknown", 6000)
            assert int(await beam.ask("erlang:system_info(atom_count)")) - before < 500
            assert straw.closed == ""

    run(test)


@OTPS
def test_a_slow_peer(domain: Callable[..., Beam], host: HostProcess, rundir: str, otp: str) -> None:
    """What is unsent is bounded; the rest is dropped, counted and told; what the peer sends is read all the same."""

    async def test() -> None:
        beam = domain(otp, 6)
        async with raw_domain(rundir, 9) as slow:
            straw: Straw = await slow.open(6)
            straw.pause()
            flood = """
                {ok, Straw} = strawman:split(9),
                Big = binary:copy(<<"x">>, 1 bsl 20),
                [Straw ! {envelope, buddy, {N, Big}} || N <- lists:seq(1, 40)],
                Told = receive {straw_busy, 9} -> told after 20000 -> no end,
                {Told, strawman:send({9, buddy}, 1), receive {straw_busy, 9} -> twice after 0 -> once end}
                """
            assert await beam.ask(flood) == "{told,{error,straw_busy},once}"
            await straw.send(envelope("inbox", Atom("still")))
            assert await beam.ask("strawman_probe:next()") == "still"
            dropped = int(await beam.ask("maps:get(dropped_busy, strawman:counts())"))
            straw.resume()
            for n in range(1, 41 - (dropped - 1)):
                _, _, (number, big) = etf.decode(await straw.receive())
                assert (number, len(big)) == (n, BIG)
            assert await beam.ask("strawman:send({9, buddy}, after_all)") == "ok"
            assert etf.decode(await straw.receive()) == (ENVELOPE, Atom("buddy"), Atom("after_all"))

    run(test)


@OTPS
def test_a_slow_receiver(domain: Callable[..., Beam], host: HostProcess, rundir: str, otp: str) -> None:
    """A process that does not read its mailbox stops the straw that fills it; all of it arrives in the end."""

    async def test() -> None:
        beam = domain(otp, 6)
        slow = """
            register(slow, spawn(fun() ->
                receive go -> ok end,
                (fun Loop(N) -> receive {N, _} -> Loop(N + 1); {tell, P} -> P ! {count, N}, Loop(N) end end)(0)
            end)), strawman:export(slow)
            """
        assert await beam.ask(slow) == "ok"
        async with raw_domain(rundir, 9) as flooder:
            straw: Straw = await flooder.open(6)
            count = 100_000
            sent = 0
            while sent < count and straw.send_nowait(envelope("slow", (sent, bytes(300)))):
                sent += 1
                if sent % 100 == 0:
                    await asyncio.sleep(0)
            waiting = "element(2, process_info(whereis(slow), message_queue_len))"
            assert sent < count and int(await beam.ask(waiting)) < 25_000, "the rest is in the ring and with its sender"
            assert await beam.ask("slow ! go, ok") == "ok"
            while sent < count:
                await straw.send(envelope("slow", (sent, bytes(300))))
                sent += 1
            await becomes(beam, "slow ! {tell, self()}, receive {count, N} -> N end", str(count))

    run(test)


@OTPS
def test_the_host_dies_and_another_one_comes(domain: Callable[..., Beam], rundir: str, otp: str) -> None:
    with HostProcess(Path(rundir)) as host:
        one, other = domain("otp28", 5), domain(otp, 6)
        assert one.eval("strawman:send({6, inbox}, hello)") == "ok"
        assert other.eval("strawman_probe:next()") == "hello"
        watch = """
            {ok, P} = strawman:split(D), M = monitor(process, P), register(watching, self()),
            receive {'DOWN', M, process, P, Why} -> Why after 20000 -> timeout end
            """
        watching = [one.submit(watch, D=6), other.submit(watch, D=5)]
        for beam in (one, other):
            while beam.eval("whereis(watching)") == "undefined":
                pass
        host.kill()
        assert [future.result(30) for future in watching] == [b"host_down", b"host_down"]
        for beam in (one, other):
            while beam.eval("strawman:domid()") != "0":
                pass
            assert beam.eval(
                "{strawman:send({6, inbox}, 1), strawman:open(5), strawman:split(5), strawman:domains()}"
            ) == ("{{error,host_down},{error,host_down},{error,not_found},[]}")
    with HostProcess(Path(rundir)):
        for beam in (one, other):
            while beam.eval("strawman:domid()") == "0":
                pass
        domid = other.eval("strawman:domid()")
        assert one.eval("strawman:send({D, inbox}, again)", D=Erl(domid)) == "ok"
        assert other.eval("strawman_probe:next()") == "again"
        assert one.eval("application:stop(straw)") == "ok"


@OTPS
def test_strawman_ends_and_its_straws_live_on(domain: Callable[..., Beam], host: HostProcess, otp: str) -> None:
    one, other = domain("otp28", 5), domain(otp, 6)
    assert one.eval("strawman:send({6, inbox}, hello)") == "ok"
    assert other.eval("strawman_probe:next()") == "hello"
    straw = "{ok, P} = strawman:split(5), P"
    before = other.eval(straw)
    assert other.eval("exit(whereis(strawman), kill)") == "true"
    while other.eval("catch strawman:domains()") != "[5]":
        pass
    assert other.eval(straw) == before
    assert other.eval("strawman:send({5, inbox}, still)") == "ok"
    assert one.eval("strawman_probe:next()") == "still"
    # The membrane is another matter: this node is a new domain then, and its peers see an end.
    assert other.eval("exit(whereis(membrane), kill)") == "true"
    while one.eval("strawman:domains()") != "[]":
        pass
    while other.eval("catch strawman:domid()") in ("0", "6") and other.eval("catch strawman:open(5)") != "ok":
        pass
    assert other.eval("strawman:send({5, inbox}, anew)") == "ok"
    assert one.eval("strawman_probe:next()") == "anew"


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
                    receive {straw_error, 9, {badarg, _}} -> told after 9000 -> no end
                 end || M <- [#{}, '\\x{20ac}', fun() -> ok end]]
                """
            assert await beam.ask(told) == "[told,told,told]"
            # A pid of ours goes out as a LING's pid of our domain, and comes back as the process.
            ask = """
                strawman ! {envelope, {9, buddy}, {ask, self()}},
                receive {answer, Pid} -> Pid =:= self() after 9000 -> timeout end
                """
            asking = asyncio.create_task(beam.ask(ask))
            frame = await straw.receive()
            head, pid = b"\x83h\x03s\x08envelopes\x05buddyh\x02s\x03ask", frame[-17:]
            assert frame[:-17] == head and pid[:13] == b"\xa0" + bytes(8) + (6).to_bytes(4, "big")
            straw.send_nowait(b"\x83h\x03d\x00\x08envelope" + pid + b"h\x02d\x00\x06answer" + pid)
            assert await asking == "true"

    run(test)


def test_what_stops_it_from_being_a_domain(
    domain: Callable[..., Beam], start_beam: Starter, app: Path, host: HostProcess, rundir: str
) -> None:
    beam = start_beam("otp25", name=None, paths=[app])
    assert beam.eval("application:load(straw), application:set_env(straw, host, H)", H=Erl(f'"{rundir}x"')) == "ok"
    assert "no_host" in beam.eval("application:start(straw)")
    domain("otp28", 5)
    assert beam.eval("application:set_env(straw, host, H)", H=Erl(f'"{rundir}"')) == "ok"
    assert "ebusy" in beam.eval("application:set_env(straw, domid, 5), application:start(straw)")
    assert beam.eval("application:set_env(straw, exports, [rex]), application:start(straw)").count("service") == 1
    assert (
        beam.eval("application:set_env(straw, exports, [{a, #{to => b}}]), application:set_env(straw, domid, 0)")
        == "ok"
    )
    assert beam.eval("application:start(straw)") == "ok"
    assert beam.eval("strawman:exports()") == "[a]"
    with pytest.raises(BeamError, match="noproc"):
        beam.eval("application:stop(straw), strawman:domid()")


@OTPS
def test_strangers_in_the_store(domain: Callable[..., Beam], host: HostProcess, rundir: str, otp: str) -> None:
    """Knocks in another's name, refs that nobody granted, states that nobody has: counted, and straws work on."""

    async def test() -> None:
        beam = domain(otp, 6)
        store = await XenStore.connect(f"{rundir}/xenstored/socket")
        backend = await LocalBackend.connect(rundir, 9)
        mine = await backend.store()
        try:
            await mine.mkdir("data/warts/6")
            await mine.write("data/warts/6/straw", "/local/domain/6/data/straw/8")
            await mine.write("data/warts/6/state", "2")
            ours = "/local/domain/6/data/straw"
            for n, (name, value) in enumerate(
                [
                    ("8", "/local/domain/8/data/warts/6"),  # not its domain
                    ("08", "/local/domain/9/data/warts/6"),
                    ("6", "/local/domain/6/data/warts/6"),
                    ("9", "/local/domain/9/data/warts/7"),
                    ("10", "x" * 1000),
                ]
            ):
                await mine.mkdir(f"{ours}/{name}")
                await mine.write(f"{ours}/{name}/warts", value)
                await becomes(beam, "lists:sum([0 | maps:values(membrane:counts())]) > N".replace("N", str(n)), "true")
            assert await beam.ask("{membrane:pores(), straw_backend:held()}") == (
                "{#{},#{channels => 0,grants => 0,mappings => 0}}"
            )
        finally:
            await mine.close()
            await backend.close()
        async with raw_domain(rundir, 10) as honest:
            for name in ("8", "08", "6", "10"):
                with contextlib.suppress(Exception):
                    await store.delete(f"/local/domain/6/data/straw/{name}")
            straw: Straw = await honest.open(6)
            await straw.send(envelope("inbox", Atom("yes")))
            assert await beam.ask("strawman_probe:next()") == "yes"
        assert await beam.ask("application:stop(straw)") == "ok"
        await store.close()

    run(test)


def test_the_sessions_in_the_readme(domain: Callable[..., Beam], host: HostProcess) -> None:
    """What erl/README.md shows is what happens."""
    one, other = domain("otp28", 6), domain("otp25", 5)
    blocks = re.findall(r"```erlang\n(.*?)```", (ROOT / "erl" / "README.md").read_text(), re.DOTALL)
    _, sending, exporting, frames = ("\n".join(line.partition("%")[0] for line in text.splitlines()) for text in blocks)
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
    assert one.eval(sending.strip().removesuffix(".")).startswith("#Ref<")
    assert {other.eval("strawman_probe:next()") for _ in range(3)} == {"got_hello", "got_thanks"}
    one.eval("register(shop, spawn(fun() -> receive stop -> ok end end)), ok")
    assert one.eval(exporting.strip().removesuffix(".")) == "ok"
    assert one.eval("lists:sort(strawman:exports())") == "[desk,door,double,front,inbox]"
    assert one.eval("strawman:close(5)") == "ok"
    # Frames: the other side's strawman takes them for envelopes, and says nothing.
    ending = "exit(whereis(membrane), kill)"
    reading = frames.strip().removesuffix(".")
    told = one.submit(
        reading.replace("straw:active", "inbox ! opened, ok = straw:active", 1).replace("ok = inbox", "inbox")
    )
    assert one.eval("strawman_probe:next()") == "opened"
    other.eval(ending)
    assert told.result(20) == b"peer_gone"


def test_a_crowd_of_forged_knocks(domain: Callable[..., Beam], host: HostProcess, rundir: str) -> None:
    """A stranger fills our tree as far as the store lets it: nothing comes of it, and a start removes it all."""

    async def test() -> None:
        beam = domain("otp25", 6)
        backend = await LocalBackend.connect(rundir, 8)
        store = await backend.store()
        made = 0
        with contextlib.suppress(XenstoreError):
            for n in range(10_000, 12_000):
                path = f"/local/domain/6/data/straw/{n}"
                await store.mkdir(path)
                await store.write(f"{path}/warts", f"/local/domain/{n}/data/warts/6")
                made += 1
        assert made > 100
        await counted_by_membrane(beam, "unreadable", 100)
        await becomes(beam, "membrane:pores()", "#{}")  # one may be looked at just now
        # Killed and started again, as the same domain of the same host.
        await beam.ask("exit(whereis(membrane), kill)")
        await becomes(beam, "catch strawman:domid()", "0")
        await becomes(beam, "catch strawman:domid()", "6")
        assert await store.list("/local/domain/6/data/straw") == []
        await store.close()
        await backend.close()
        async with raw_domain(rundir, 9) as honest:
            straw: Straw = await honest.open(6)
            await straw.send(envelope("inbox", Atom("yes")))
            assert await beam.ask("strawman_probe:next()") == "yes"

    run(test)


async def counted_by_membrane(beam: Beam, name: str, least: int) -> None:
    await becomes(beam, f"maps:get({name}, membrane:counts(), 0) >= {least}", "true")
