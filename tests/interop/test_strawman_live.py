"""Straws between nodes in processes of their own, on a host service of their own, with real BEAMs behind them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from beamkit.beam import Beam, unique
from beamkit.commandline import ROOT, CommandLine
from membranekit.local import damaged, raw_domain
from samples import erlang, listing
from waiting import LONG

from node import Atom, Node, etf
from node.terms import LingPid
from pores.keys import Terms
from pores.straw import Straw

pytestmark = pytest.mark.usefixtures("python_only")

APP = f"{ROOT}/tests/interop/beamkit/strawapp.py:app"
OK, ERROR, INBOX, ENVELOPE = Atom("ok"), Atom("error"), Atom("inbox"), Atom("envelope")


@pytest.fixture
def cli(epmd_port: int, cookie: str, tmp_path: Path) -> CommandLine:
    return CommandLine(epmd_port, cookie, tmp_path)


def host_pid(rundir: str) -> int | None:
    """The process that listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(f"{rundir}/host.sock")
        except OSError:
            return None
        pid: int = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        return pid


class Domain:
    """A node with strawapp, in a process of its own; driven over distribution."""

    def __init__(self, name: str, domid: int, pid: int, driver: Node) -> None:
        self.name, self.domid, self.pid, self._driver = name, domid, pid, driver

    async def rpc(self, function: str, *args: Any) -> Any:
        return await self._driver.rpc(self.name, "app", function, args, timeout=30)

    async def send(self, to: Domain | int, name: Any, message: Any) -> Any:
        name = Atom(name) if isinstance(name, str) else name
        return await self.rpc("send", to if isinstance(to, int) else to.domid, name, message)

    async def next(self) -> Any:
        return await self.rpc("next")

    async def strawman(self, request: Any) -> Any:
        return await self._driver.call(("strawman", self.name), request, timeout=30)

    async def counts(self, name: str, least: int) -> int:
        """Waits until so many are counted."""
        while True:
            count: int = (await self.rpc("counts"))[Atom(name)]
            if count >= least:
                return count
            await asyncio.sleep(0.02)


Start = Callable[..., Domain]


def run(cli: CommandLine, rundir: str, cookie: str, test: Callable[[Start], Any]) -> None:
    """test(start): start(domid) makes one more domain."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            driver = await stack.enter_async_context(
                Node(unique("driver"), cookie, listen=None, epmd_port=int(cli.env["ERL_EPMD_PORT"]))
            )

            def start(domid: int) -> Domain:
                name = unique("dom")
                process = stack.enter_context(
                    cli.started("run", APP, "--name", name, "--host", rundir, "--domid", str(domid))
                )
                return Domain(name, domid, process.pid, driver)

            async with asyncio.timeout(LONG):
                await test(start)

    asyncio.run(main())


def test_both_formats_and_first_use(cli: CommandLine, rundir: str, cookie: str) -> None:
    async def test(start: Start) -> None:
        a, b = start(5), start(6)
        assert await a.rpc("domid") == 5
        assert await a.send(b, "inbox", (1, [b"x", 2.5, {Atom("k"): None}])) is OK
        assert await b.next() == (1, [b"x", 2.5, {Atom("k"): Atom("undefined")}])
        assert await b.send(a, "inbox", b"back, on the same straw") is OK
        assert await a.next() == b"back, on the same straw"
        assert (await a.rpc("domains"), await b.rpc("domains")) == ([6], [5])
        assert await a.strawman((Atom("open"), 6)) == (ERROR, Atom("exists"))
        assert await b.strawman((Atom("open"), 5)) == (ERROR, Atom("exists"))
        assert await a.strawman((Atom("open"), 5)) == (ERROR, Atom("self"))
        assert await a.strawman((Atom("open"), 77)) == (ERROR, Atom("not_found"))
        assert await a.send(77, "inbox", 1) == (ERROR, Atom("not_found"))

        assert await a.strawman((Atom("close"), 6)) is OK
        while await b.rpc("domains"):
            await asyncio.sleep(0.02)
        assert await a.strawman((Atom("open"), 6, Atom("json"))) is OK
        assert await a.strawman((ENVELOPE, (6, INBOX), {b"k": [1, Atom("null"), b"text"]})) is OK
        assert await b.next() == (Atom("json"), {b"k": [1, Atom("null"), b"text"]})
        answer = await a.strawman((ENVELOPE, (6, INBOX), (1, 2)))
        assert answer == (ERROR, (Atom("badarg"), b"JSON has no tuple (at msg)"))

        for n in range(20):
            await a.strawman((ENVELOPE, (6, Atom("private")), n))
        assert await b.counts("unknown", 20) == 20

    run(cli, rundir, cookie, test)


def test_an_envelope_reaches_a_beam_and_the_answer_comes_back(
    cli: CommandLine, rundir: str, cookie: str, beam: Beam
) -> None:
    async def test(start: Start) -> None:
        a, b = start(5), start(6)
        beam.eval(
            """
            spawn(fun() ->
                register(straw_double, self()),
                (fun Loop() -> receive
                    {straw, DomId, {double, Name, N}} ->
                        {strawman, B} ! {envelope, {DomId, Name}, {answer, 2 * N, node()}},
                        Loop();
                    stop -> ok
                end end)()
            end), ok
            """,
            B=b.name,
        )
        try:
            there = (Atom("straw_double"), Atom(beam.name))
            assert await b.rpc("export", Atom("double"), there, Atom("all"), True) is OK
            for n in (1, 10**30, 2.5):
                assert await a.send(b, "double", (Atom("double"), INBOX, n)) is OK
                assert await a.next() == (Atom("answer"), 2 * n, Atom(beam.name))
            # Not exported: neither the pair itself nor the BEAM's services.
            for addr in ("straw_double", there, (Atom("rex"), Atom(beam.name)), "rex"):
                await a.send(b, addr, (Atom("double"), INBOX, 1))
            assert await b.counts("unknown", 4) == 4
        finally:
            beam.eval("straw_double ! stop, ok")

    run(cli, rundir, cookie, test)


def test_from_one_otp_to_the_other(cli: CommandLine, rundir: str, cookie: str, start_beam: Callable[..., Beam]) -> None:
    """Two BEAMs, not connected to each other: what goes by straw is the same term on the other side, and back."""

    async def test(start: Start) -> None:
        a, b = start(5), start(6)
        one, two = start_beam("otp25"), start_beam("otp28")
        assert await a.rpc("export", Atom("reply"), (Atom("straw_reply"), Atom(one.name)), Atom("all"), False) is OK
        assert await b.rpc("export", Atom("ask"), (Atom("straw_ask"), Atom(two.name)), [5], True) is OK
        two.eval(
            """
            spawn(fun() ->
                register(straw_ask, self()),
                (fun Loop() -> receive
                    {straw, DomId, {ask, Name, Term}} ->
                        {strawman, B} ! {envelope, {DomId, Name}, {answer, Term, node()}},
                        Loop()
                end end)()
            end), ok
            """,
            B=b.name,
        )
        answer = """
            register(straw_reply, self()),
            Term = {[1, -1, 1 bsl 100, 2.5, <<"bin">>, <<5:3>>, 'h\\x{e9}\\x{20ac}', []], #{k => {self(), make_ref()}},
                    fun lists:map/2, [a | b], "text", binary:copy(<<7>>, 1000000)},
            {strawman, A} ! {envelope, {6, ask}, {ask, reply, Term}},
            receive {answer, Same, Node} -> {Same =:= Term, Node, lists:member(Node, nodes(connected))}
            after 20000 -> timeout end
            """
        assert await asyncio.to_thread(one.eval, answer, A=a.name) == f"{{true,'{two.name}',false}}"

    run(cli, rundir, cookie, test)


def test_a_beam_opens_and_watches_straws(cli: CommandLine, rundir: str, cookie: str, beam: Beam) -> None:
    async def test(start: Start) -> None:
        a, b = start(5), start(6)
        call = "gen_server:call({strawman, B}, "
        assert beam.eval(call + "{open, 5})", B=b.name) == "ok"
        assert beam.eval(call + "{open, 5})", B=b.name) == "{error,exists}"
        assert beam.eval(call + "{open, 99})", B=b.name) == "{error,not_found}"
        assert beam.eval(call + "{split, 99})", B=b.name) == "{error,not_found}"
        assert beam.eval(call + "nonsense)", B=b.name) == "{error,unknown_request}"
        watch = """
            {ok, Pid} = gen_server:call({strawman, B}, {split, 5}),
            Me = self(), Ref = make_ref(),
            spawn(fun() ->
                register(straw_watch, self()),
                process_flag(trap_exit, true), link(Pid), M = erlang:monitor(process, Pid),
                Pid ! {envelope, inbox, {from, node()}}, Me ! Ref,
                receive {'DOWN', M, process, Pid, Why} -> ok end,
                receive {'EXIT', Pid, Why2} -> ok end,
                receive {tell, To} -> To ! {ends, Why, Why2} end
            end),
            receive Ref -> ok end
            """
        ends = "straw_watch ! {tell, self()}, receive {ends, _, _} = E -> E after 20000 -> timeout end"
        assert beam.eval(watch, B=b.name) == "ok"
        assert await a.next() == (Atom("from"), Atom(beam.name))
        assert await a.rpc("close", 6) is True
        assert await asyncio.to_thread(beam.eval, ends) == "{ends,peer_closed,peer_closed}"

        # Killed, the other domain is gone as well.
        assert beam.eval(call + "{open, 5})", B=b.name) == "ok"
        assert beam.eval(watch, B=b.name) == "ok"
        assert await a.next() == (Atom("from"), Atom(beam.name))
        os.kill(a.pid, signal.SIGKILL)
        assert await asyncio.to_thread(beam.eval, ends) == "{ends,peer_gone,peer_gone}"

    run(cli, rundir, cookie, test)


def test_the_host_dies_and_another_one_comes(cli: CommandLine, rundir: str, cookie: str, own_beam: Beam) -> None:
    async def test(start: Start) -> None:
        with cli.started("host", "--rundir", rundir) as host:
            a, b = start(5), start(6)
            assert await a.send(b, "inbox", 1) is OK
            assert await b.next() == 1
            watching = own_beam.submit(
                """
                {ok, Pid} = gen_server:call({strawman, B}, {split, 5}), M = erlang:monitor(process, Pid),
                Pid ! {envelope, inbox, watching},
                receive {'DOWN', M, process, Pid, Why} -> Why after 20000 -> timeout end
                """,
                B=b.name,
            )
            assert await a.next() is Atom("watching")
            host.kill()
            host.wait()
            assert await asyncio.wrap_future(watching) == b"host_down"
        # They start the next host by themselves.
        for domain in (a, b):
            while not await domain.rpc("domid"):
                await asyncio.sleep(0.05)
        assert host_pid(rundir) is not None
        assert await a.send(await b.rpc("domid"), "inbox", b"again") is OK
        assert await b.next() == b"again"

    run(cli, rundir, cookie, test)


def test_a_peer_that_speaks_lings_dialect(cli: CommandLine, rundir: str, cookie: str, beam: Beam) -> None:
    async def test(start: Start) -> None:
        b = start(6)
        async with raw_domain(rundir, 9, Terms()) as ling:  # says nothing but what a LING says
            straw: Straw = await ling.open(6)
            assert (straw.format, straw.dialect) == ("erlang", "")
            ours = LingPid(0, 9, 77)
            straw.send_nowait(etf.encode((ENVELOPE, INBOX, (Atom("hello"), [1, 2])), dialect="ling"))
            assert await b.next() == (Atom("hello"), [1, 2])
            beam.eval("{strawman, B} ! {envelope, {9, buddy}, {hello, 'h\\x{e9}'}}, ok", B=b.name)
            assert await straw.receive() == b"\x83h\x03s\x08envelopes\x05buddyh\x02s\x05hellos\x02h\xe9"
            told = """
                {ok, Pid} = gen_server:call({strawman, B}, {split, 9}),
                [begin
                    Pid ! {envelope, buddy, M},
                    receive {straw_error, 9, {badarg, _}} -> told after 30000 -> no end
                 end || M <- [fun() -> ok end, #{}, {self(), #{}}, '\\x{20ac}']]
                """
            assert beam.eval(told, B=b.name) == "[told,told,told,told]"
            # A pid of LING's own is one of b's to a BEAM, and what it sends there goes back as LING's own.
            beam.eval(
                """
                spawn(fun() -> register(straw_pong, self()),
                    receive {ping, Pid} -> Pid ! {pong, Pid, node(Pid)} end end), ok
                """
            )
            await b.rpc("export", Atom("far"), (Atom("straw_pong"), Atom(beam.name)), Atom("all"), False)
            straw.send_nowait(etf.encode((ENVELOPE, Atom("far"), (Atom("ping"), ours)), dialect="ling"))
            answer = etf.decode(await straw.receive(), dialect="ling")
            assert answer == (ENVELOPE, ours, (Atom("pong"), ours, Atom(b.name)))

    run(cli, rundir, cookie, test)


def test_a_hostile_peer(cli: CommandLine, rundir: str, cookie: str) -> None:
    """Random frames, damaged envelopes, deep and forged ones: all are dropped, and the straw lives."""

    async def test(start: Start) -> None:
        b = start(6)
        dice = random.Random(3)
        honest = etf.encode((ENVELOPE, INBOX, {Atom("k"): [1, b"x" * 40, 2.5]}))
        async with raw_domain(rundir, 9) as enemy:
            straw: Straw = await enemy.open(6)
            for _ in range(2000):
                await straw.send(damaged(honest, dice))
            await straw.send(b"\x83" + b"l\x00\x00\x00\x01" * 100_000)
            await straw.send(b"[" * 1_000_000)
            for name in ("rex", "net_kernel", "strawman", "user", "private"):
                await straw.send(etf.encode((ENVELOPE, Atom(name), (Atom("open"), 1))))
            await straw.send(etf.encode((ENVELOPE, INBOX, Atom("last"))))
            while await b.next() is not Atom("last"):
                pass
            assert straw.closed == ""
        assert await b.counts("malformed", 500) > 500

    run(cli, rundir, cookie, test)


def test_a_slow_straw_does_not_stop_a_beam(cli: CommandLine, rundir: str, cookie: str, beam: Beam) -> None:
    async def test(start: Start) -> None:
        b = start(6)
        async with raw_domain(rundir, 9) as slow:
            straw: Straw = await slow.open(6)
            straw.pause()
            flood = """
                {ok, Pid} = gen_server:call({strawman, B}, {split, 9}),
                Big = binary:copy(<<"x">>, 1 bsl 20),
                [Pid ! {envelope, buddy, {N, Big}} || N <- lists:seq(1, 40)],
                Busy = receive {straw_busy, 9} -> told after 20000 -> no end,
                {Busy, gen_server:call(Pid, {envelope, buddy, 1}), net_adm:ping(B)}
                """
            answer = await asyncio.to_thread(beam.eval, flood, B=b.name)
            assert answer == "{told,{error,straw_busy},pong}"
            dropped = await b.counts("dropped_busy", 1)
            straw.resume()
            for n in range(1, 41 - (dropped - 1)):
                _, _, (number, big) = etf.decode(await straw.receive())
                assert (number, len(big)) == (n, 1 << 20)

    run(cli, rundir, cookie, test)


def test_the_command_line(cli: CommandLine, rundir: str) -> None:
    here = ("--host", rundir)
    code, out, err = cli.run("domains", "--rundir", rundir)
    assert (code, out) == (3, "")
    assert "xen: no /dev/xen" in err
    with cli.started("host", "--rundir", rundir):
        assert cli.run("host", "--rundir", rundir)[0] == 3, "one host in a folder"
        assert cli.run("domains", "--rundir", rundir)[:2] == (0, "")
        assert cli.run("straw", "open", "5", *here)[:2] == (1, "{error,not_found}\n")
        with cli.started(
            "straw", "listen", "buddy", "--domid", "5", "--count", "2", *here, ready="domain 5"
        ) as listener:
            assert cli.run("domains", "--rundir", rundir)[:2] == (0, "{5,[]}\n")
            assert cli.run("straw", "listen", "x", "--domid", "5", *here)[0] == 3, "a domain has one owner"
            assert cli.run("straw", "open", "5", *here)[:2] == (0, "ok\n")
            assert cli.run("straw", "send", "5", "other", "1", *here)[:2] == (0, "ok\n"), "nobody says that it is lost"
            assert cli.run("straw", "send", "5", "buddy", '{hi, <<"x">>}', "--from", "8", *here)[:2] == (0, "ok\n")
            sent = cli.run("straw", "send", "5", "buddy", '{"k": [null, 1]}', "--json", "--from", "9", *here)
            assert sent[:2] == (0, "ok\n")
            assert listener.wait(30) == 0
            assert listener.stdout is not None
            assert listener.stdout.read() == '{8,{hi,<<"x">>}}\n{9,{json,#{<<"k">> => [null,1]}}}\n'
        assert cli.run("straw", "send", "5", "buddy", "{", *here)[0] == 2
        assert cli.run("straw", "send", "5", "buddy", "{", "--json", *here)[0] == 2
        assert cli.run("straw", "send", "5", "buddy", "1", *here)[0] == 3


def test_a_host_that_lets_others_in_by_a_file(cli: CommandLine, rundir: str, tmp_path: Path) -> None:
    allow = tmp_path / "allow.toml"
    allow.write_text(f'[allow]\n{os.getuid()} = "5"\n')
    allow.chmod(0o666)
    code, _, err = cli.run("host", "--rundir", rundir, "--allow", str(allow))
    assert code == 3 and "chmod go-w" in err
    allow.chmod(0o644)
    with cli.started("host", "--rundir", rundir, "--allow", str(allow)):
        code, _, err = cli.run("straw", "open", "7", "--host", rundir, "--from", "6")
        assert code == 3 and "to be domain 6 (its --allow FILE says who may)" in err
        with cli.started("straw", "listen", "buddy", "--host", rundir, ready="domain 5"):
            pass


def test_a_node_with_the_host_in_it(cli: CommandLine, rundir: str) -> None:
    with cli.started("run", APP, "--name", unique("dom"), "--host", rundir, "--embed-host") as process:
        assert host_pid(rundir) == process.pid
        assert cli.run("domains", "--rundir", rundir)[:2] == (0, "{1,[]}\n")
        process.terminate()
        assert process.wait(30) == 0
    assert host_pid(rundir) is None and not os.path.exists(f"{rundir}/host.sock")


def test_a_beam_that_stops_reading_holds_the_straw(cli: CommandLine, rundir: str, cookie: str, own_beam: Beam) -> None:
    """What other domains send it waits in shared memory and with the sender; when it reads again all of it arrives."""

    async def test(start: Start) -> None:
        b = start(6)
        own_beam.eval(
            """
            spawn(fun() ->
                register(straw_count, self()),
                (fun Loop(N) -> receive {N, _} -> Loop(N + 1); {tell, P} -> P ! {count, N}, Loop(N) end end)(0)
            end), ok
            """
        )
        assert own_beam.eval("net_adm:ping(B)", B=b.name) == "pong"
        there = (Atom("straw_count"), Atom(own_beam.name))
        assert await b.rpc("export", Atom("count"), there, Atom("all"), False) is OK
        async with raw_domain(rundir, 9) as flooder:
            straw: Straw = await flooder.open(6)
            with own_beam.stopped():
                n = 0
                while straw.send_nowait(etf.encode((ENVELOPE, Atom("count"), (n, bytes(100_000))))):
                    n += 1
                    await asyncio.sleep(0)
                assert await b.counts("received", 1) < n, "some wait with the sender"
                assert await b.strawman(Atom("domains")) == [9], "the node goes on"
            assert await straw.send(etf.encode((ENVELOPE, Atom("count"), (n, b"")))) is None
            count = "straw_count ! {tell, self()}, receive {count, C} -> C end"
            while await asyncio.to_thread(own_beam.eval, count) != str(n + 1):
                await asyncio.sleep(0.05)

    run(cli, rundir, cookie, test)


def test_the_session_in_the_guide(cli: CommandLine, rundir: str, cookie: str, beam: Beam) -> None:
    async def test(start: Start) -> None:
        a, b = start(5), start(6)
        assert await a.rpc("export", Atom("buddy"), INBOX, Atom("all"), False) is OK
        beam.eval(erlang(listing("docs/strawman.md", "erlang", "ok = "), b=b.name))
        assert {await a.next(), await a.next()} == {(Atom("hello"), 1), Atom("hello")}

    run(cli, rundir, cookie, test)
