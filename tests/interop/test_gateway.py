"""The gateway of pids with real BEAMs on both releases, real shared memory, and both dialects.

The node `gate` is in the BEAMs' cluster and is domain 6; `far` is domain 5 and in no cluster at all: it speaks OTP's
dialect, or says nothing of one, as a LING, and is then spoken to as one. Kills have domains in processes of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from beamkit.beam import Beam, BeamError, unique
from beamkit.commandline import ROOT, CommandLine
from membranekit.local import raw_domain
from samples import erlang, listing
from waiting import LONG, until

from node import Atom, CallExit, CallTimeout, GenServer, Node, NodeDown, NoProc, NoReply, Pid, Process, Reference, etf
from node.strawman import manager
from node.strawman.pores import PoreCarrier, connect
from node.strawman.tables import Counted
from node.terms import LingPid
from pores.keys import Terms
from pores.straw import Straw

pytestmark = pytest.mark.usefixtures("python_only")

OK, ENVELOPE, DOUBLE, LATER = Atom("ok"), Atom("envelope"), Atom("double"), Atom("later")
DIALECTS = ("otp", "ling")
NOTHING = Counted(0, 0, 0, 0)
CALLS = 10_000
#: How a link, a monitor and a gen_server:call of a BEAM end with the straw.
ENDS = "[noconnection,noconnection,{{nodedown,'{}'}}]"


async def like_a_ling(host: str | None, domid: int) -> PoreCarrier:
    """A domain that says nothing of a dialect."""
    carrier = await connect(host, domid)
    carrier._membrane.machine.wishes = Terms()
    return carrier


class Server(GenServer):
    """gateway_server.erl in Python."""

    def init(self, *args: Any, **kwargs: Any) -> None:
        self.late: list[Any] = []

    async def handle_call(self, request: Any, caller: Any) -> Any:
        match request:
            case (Atom("double"), int(number)):
                return (DOUBLE, 2 * number)
            case Atom("self"):
                return self.pid
            case Atom("later"):
                self.late.append(caller)
                return NoReply()
            case Atom("answer"):
                late, self.late = self.late, []
                for waiting in late:
                    self.reply(waiting, Atom("late"))
                return len(late)
            case (Atom("echo"), term):
                return term
            case (Atom("ask"), to, question):
                return await self.process.call(to, question)

    async def handle_info(self, message: Any) -> None:
        pass


class Pair:
    """The gateway, the domain behind it, and what waits until they are so."""

    def __init__(self, gate: Node, far: Node) -> None:
        self.gate, self.far = gate, far

    @property
    def tables(self) -> Counted:
        return self.gate.strawman.tables(5)

    async def proxy(self) -> Pid:
        return await self.gate.strawman.proxy(5, "server")


@contextlib.asynccontextmanager
async def pair(cookie: str, rundir: str, dialect: str, epmd_port: int) -> AsyncIterator[Pair]:
    far = Node(unique("far"), "none of theirs", listen=None, pores=rundir, domid=5)
    gate = Node(unique("gate"), cookie, pores=rundir, domid=6, epmd_port=epmd_port)
    if dialect == "ling":
        far.strawman._make = like_a_ling
    far.register("server", Server, straw=True)
    async with asyncio.timeout(LONG), far, gate:
        yield Pair(gate, far)


Use = Callable[[Callable[[Pair], Any]], None]


@pytest.fixture
def use(cookie: str, rundir: str, dialect: str, epmd_env: int) -> Use:
    """use(test): test(pair) with a gateway and a far domain."""

    def run(test: Callable[[Pair], Any]) -> None:
        async def main() -> None:
            async with pair(cookie, rundir, dialect, epmd_env) as both:
                await test(both)

        asyncio.run(main())

    return run


both_dialects = pytest.mark.parametrize("dialect", DIALECTS)


async def calls_beyond(both: Pair, beam: Beam, processes: int, calls: int) -> None:
    """A BEAM calls a process of the far domain, through a proxy of the gateway."""
    to = await both.gate.call(await both.proxy(), Atom("self"))
    text = "gateway_server:calls(To, P, C)"
    assert await beam.ask(text.replace("To", term(to)), P=processes, C=calls) == str(processes * calls)
    await until(lambda: both.tables.pids == 1)
    assert both.tables == Counted(1, 0, 1, 1), "the caller without a process; the server; its name"


def term(pid: Pid) -> str:
    """A pid as Erlang source."""
    return f"binary_to_term(<<{','.join(map(str, etf.encode(pid)))}>>)"


@both_dialects
def test_a_beam_calls_beyond_the_gateway(use: Use, beam: Beam) -> None:
    async def test(both: Pair) -> None:
        name = term(await both.proxy())
        assert await beam.ask(f"gen_server:call({name}, {{double, 21}})") == "{double,42}"
        assert await beam.ask(f"is_pid(gen_server:call({name}, self))") == "true"
        first = "{ok, P} = gen_server:call({strawman, G}, {proxy, 5, server}), gen_server:call(P, {double, 1 bsl 100})"
        assert await beam.ask(first, G=both.gate.name) == f"{{double,{2 << 100}}}"
        assert await beam.ask("gen_server:call({strawman, G}, {proxy, 99, server})", G=both.gate.name) == (
            "{error,not_found}"
        )
        await calls_beyond(both, beam, 20, 20)
        # What goes there is the same when it comes back: pids, references and aliases of this BEAM and its kin.
        echo = """
            Alias = alias(), Ref = monitor(process, whereis(init)),
            T = {self(), [make_ref(), Alias, Ref, [alias | Alias]], <<5:3>>, 'h\\x{e9}', 1.5, [a | self()]},
            {echo, T} = {echo, gen_server:call(To, {echo, T})}, same
            """
        assert await beam.ask(echo.replace("To", name)) == "same"
        await until(lambda: both.tables.pids == 1)

    use(test)


@both_dialects
def test_beyond_calls_a_beam(use: Use, beam: Beam, dialect: str) -> None:
    async def test(both: Pair) -> None:
        server = unique("s").split("@")[0]
        await beam.ask("is_pid(gateway_server:start(N))", N=server)
        both.gate.strawman.export("beam", to=(server, beam.name))
        far = both.far
        name = await far.strawman.proxy(6, "beam")
        assert await far.call(name, (DOUBLE, 21)) == (DOUBLE, 42)
        assert await far.call(name, Atom("node")) is Atom(beam.name)
        # Its own pid, over the straw: it may be called, and calls back.
        pid = await far.call(name, Atom("self"))
        assert far.strawman.place(pid) is not None
        assert both.tables.pids == 1
        async with far.process() as me:
            ours = far.register("ours", Server)
            assert ours is not None
            assert await me.call(pid, (Atom("ask"), ours.pid, (DOUBLE, 4))) == (DOUBLE, 8)
            me.send(pid, (Atom("$gen_cast"), (Atom("tell"), me.pid, Atom("told"))))
            assert await me.receive(timeout=20) is Atom("told")
            echo = [me.pid, far.router.new_ref(), pid, {} if dialect == "otp" else ()]
            assert await me.call(name, (Atom("echo"), echo)) == echo
            with pytest.raises(CallTimeout):
                await me.call(pid, LATER, timeout=0.05)
            assert await me.call(pid, Atom("answer")) == 1
            assert await me.call(pid, Atom("stop")) is OK
        await until(lambda: both.tables.pids == 0)
        with pytest.raises(NoProc if dialect == "otp" else CallTimeout):  # a LING is not told
            await far.call(pid, (DOUBLE, 1), timeout=20 if dialect == "otp" else 0.2)
        assert both.gate.strawman.counts.undelivered == (dialect == "ling")

    use(test)


@both_dialects
def test_ten_thousand_calls_leave_the_tables_empty(use: Use, beam: Beam, dialect: str) -> None:
    async def test(both: Pair) -> None:
        # One way: callers on the BEAM, four hundred processes of 25 calls each, and one of all the rest.
        await calls_beyond(both, beam, 200, CALLS // 400)
        await calls_beyond(both, beam, 1, CALLS // 2)
        # The other way: callers in the far domain.
        server = unique("s").split("@")[0]
        await beam.ask("is_pid(gateway_server:start(N))", N=server)
        both.gate.strawman.export("beam", to=(server, beam.name))
        to = await both.far.call(await both.far.strawman.proxy(6, "beam"), Atom("self"))

        async def caller(me: Process, number: int, done: asyncio.Future[Any]) -> None:
            for n in range(CALLS // 100):
                assert await me.call(to, (DOUBLE, number + n), timeout=30) == (DOUBLE, 2 * (number + n))
            done.set_result(None)

        done = [asyncio.get_running_loop().create_future() for _ in range(100)]
        for number, future in enumerate(done):
            both.far.spawn(caller, number, future)
        await asyncio.gather(*done)
        far = both.far.strawman
        # What lives is left: two servers, and on each side the process that calls for coroutines. That callers over
        # there have ended a LING does not say: their proxies wait for room to be needed, or for the end of the straw.
        ended = 1 if dialect == "ling" else 0
        await until(lambda: far.tables(6) == Counted(2, 0, (200 + 1) * ended + 2, 1))
        await until(lambda: both.tables == Counted(2, 0, 100 * ended + 2, 1))
        for counts in (far.counts, both.gate.strawman.counts):
            assert (counts.late, counts.forged, counts.crowded, counts.malformed, counts.unsayable) == (0,) * 5
        await both.far.strawman.close(6)
        await until(lambda: both.tables == far.tables(6) == NOTHING)

    use(test)


@both_dialects
def test_a_straw_that_closes_is_noconnection_to_beams(use: Use, beam: Beam) -> None:
    async def test(both: Pair) -> None:
        for by_pid in (False, True):
            to = await both.proxy()
            if by_pid:
                to = await both.gate.call(to, Atom("self"))
            await beam.ask(f"register(holder, gateway_server:hold({term(to)}))")
            await until(lambda: both.tables.refs == 1)
            assert await both.far.strawman.close(6)
            assert await beam.ask("gateway_server:ends(holder)") == ENDS.format(both.gate.name)
            await until(lambda: both.tables == NOTHING)
        assert not both.gate.strawman._gateways

    use(test)


@both_dialects
def test_a_beam_process_and_a_beam_node_that_die(use: Use, own_beam: Beam, dialect: str) -> None:
    async def test(both: Pair) -> None:
        beam, far = own_beam, both.far.strawman
        await beam.ask("is_pid(gateway_server:start(one)), is_pid(gateway_server:start(two))")
        for name in ("one", "two"):
            both.gate.strawman.export(name, to=(name, beam.name))
        one, two = [await both.far.call(await far.proxy(6, name), Atom("self")) for name in ("one", "two")]
        assert both.tables.pids == 2
        async with both.far.process() as me:
            later = asyncio.create_task(me.call(one, LATER, timeout=None))
            await until(lambda: far.tables(6).refs == 1)
            await beam.ask("exit(whereis(one), kill)")
            await until(lambda: both.tables.pids == 1)
            if dialect == "otp":
                with pytest.raises(CallExit, match="killed"):
                    await later
            else:
                assert not later.done(), "that a process over there has ended a LING is not told"
                later.cancel()
            # A caller on the BEAM that is killed while it waits, with its reference.
            server = await both.gate.call(await both.proxy(), Atom("self"))
            calling = f"spawn(fun() -> register(caller, self()), gen_server:call({term(server)}, later, infinity) end)"
            await beam.ask(calling)
            await until(lambda: both.tables == Counted(3, 1, both.tables.proxies, 1))
            await beam.ask("exit(whereis(caller), kill)")
            await until(lambda: both.tables.pids == 2)
            assert both.tables.refs == 0
            # The node, with all that it had told.
            await beam.ask(calling)
            await until(lambda: both.tables.refs == 1)
            beam.kill()
            await until(lambda: both.tables.pids == 1)
            assert both.tables.refs == 0
            with pytest.raises(NoProc if dialect == "otp" else CallTimeout):
                await me.call(two, 1, timeout=20 if dialect == "otp" else 0.2)
            assert await both.far.call(server_of(both), Atom("answer")) == 2
        assert both.gate.strawman.counts.forged == 0

    use(test)


def server_of(both: Pair) -> Pid:
    process = both.far.whereis("server")
    assert process is not None
    return process


@both_dialects
def test_a_beam_hears_what_cannot_be_said(use: Use, beam: Beam, dialect: str) -> None:
    async def test(both: Pair) -> None:
        name = term(await both.proxy())
        assert await both.gate.call("strawman", (Atom("split"), 5)) is not None
        ask = f"catch gen_server:call({name}, {{echo, \\#{{a => 1}}}})".replace("\\", "")
        if dialect == "otp":
            assert await beam.ask(ask) == "#{a => 1}"
            return
        assert "{'EXIT',{{straw_error,5,{badarg,<<\"a map would end a LING" in await beam.ask(ask)
        both.gate.strawman.ling_maps = True
        # The far server may say no maps itself: the caller waits.
        with pytest.raises(BeamError, match="timeout"):
            await beam.ask(f"gen_server:call({name}, {{echo, #{{a => 1}}}}, 100)")
        both.far.strawman.ling_maps = True
        assert await beam.ask(ask) == "#{a => 1}"

    use(test)


@both_dialects
def test_from_one_otp_to_the_other_through_a_chain(
    use: Use, start_beam: Callable[..., Beam], rundir: str, cookie: str, epmd_env: int, dialect: str
) -> None:
    """OTP 25 - gate (6) - far (5) - third (7) - OTP 28: a call, its answer, the pid in it, and a call back by it."""

    async def test(both: Pair) -> None:
        one, two = start_beam("otp25"), start_beam("otp28")
        third = Node(unique("third"), cookie, epmd_port=epmd_env, pores=rundir, domid=7)
        async with third:
            await two.ask("is_pid(gateway_server:start(server))")
            third.strawman.export("server", to=("server", two.name))
            both.far.strawman.export("chain", to=await both.far.strawman.proxy(7, "server"), domains=[6])
            name = term(await both.gate.strawman.proxy(5, "chain"))
            assert await one.ask(f"gen_server:call({name}, node)") == f"'{two.name}'"
            there = """
                P = gen_server:call(Name, self), Mine = gateway_server:start(mine),
                {gateway_server:calls(P, 5, 20), gen_server:call(P, {ask, Mine, {double, 8}}),
                 gen_server:call(Name, {echo, [P, Mine, self()]}) =:= [P, Mine, self()],
                 lists:member(Two, nodes(connected))}
                """
            assert await one.ask(there.replace("Name", name), Two=two.name) == "{100,{double,16},true,false}"
            hold = f"register(holder, gateway_server:hold(gen_server:call({name}, self)))"
            await one.ask(hold)
            await until(lambda: both.tables.refs == 1)
            await both.far.strawman.close(6)
            assert await one.ask("gateway_server:ends(holder)") == ENDS.format(both.gate.name)
        await until(lambda: both.tables == NOTHING)

    use(test)


# ---- domains in processes of their own -------------------------------------------------------------------------


@pytest.fixture
def cli(epmd_port: int, cookie: str, tmp_path: Any) -> CommandLine:
    return CommandLine(epmd_port, cookie, tmp_path)


def test_a_domain_that_is_killed_while_it_is_called(cli: CommandLine, cookie: str, rundir: str, beam: Beam) -> None:
    app = f"{ROOT}/tests/interop/beamkit/gatewayapp.py:app"

    async def main() -> None:
        gate = Node(unique("gate"), cookie, pores=rundir, domid=6, epmd_port=int(cli.env["ERL_EPMD_PORT"]))
        with cli.started("run", app, "--name", unique("dom"), "--host", rundir, "--domid", "5") as process:
            async with asyncio.timeout(LONG), gate:
                pid = await gate.call(await gate.strawman.proxy(5, "server"), Atom("self"))
                await beam.ask(f"register(holder, gateway_server:hold({term(pid)}))")
                async with gate.process() as me:
                    call = asyncio.create_task(me.call(pid, LATER, timeout=None))
                    await until(lambda: gate.strawman.tables(5).refs == 2)
                    os.kill(process.pid, signal.SIGKILL)
                    with pytest.raises(NodeDown):
                        await call
                assert await beam.ask("gateway_server:ends(holder)") == ENDS.format(gate.name)
                await until(lambda: gate.strawman.tables(5) == NOTHING)

    asyncio.run(main())


# ---- a peer that writes what it likes --------------------------------------------------------------------------


def ling(term: Any) -> bytes:
    return etf.encode(term, dialect="ling", ling_maps=True)


def test_what_a_ling_reads(cookie: str, rundir: str, epmd_env: int, beam: Beam) -> None:
    """A call from a BEAM, byte for byte as a LING gets it, and answered as a LING answers."""

    async def main() -> None:
        gate = Node(unique("gate"), cookie, pores=rundir, domid=6, epmd_port=epmd_env)
        async with asyncio.timeout(LONG), gate, raw_domain(rundir, 9, Terms()) as peer:
            straw: Straw = await peer.open(6)
            name = term(await gate.strawman.proxy(9, "buddy"))
            asking = beam.submit(f"gen_server:call({name}, {{hello, self(), make_ref()}}, 20000)")
            frame = await straw.receive()
            head = b"\x83h\x03s\x08envelopes\x05buddyh\x03s\x09$gen_callh\x02\xa0" + struct.pack(">QI", 0, 6)
            assert frame.startswith(head)
            [id] = struct.unpack_from(">I", frame, len(head))
            assert id < 1 << 27
            body = frame[len(head) + 4 :]
            assert body.startswith(b"r\x00\x03s\x0ddomain6@straw\x01")
            tag, rest = body[:31], body[31:]
            assert struct.unpack_from(">I", tag, 19)[0] < 1 << 18 and tag[-4:] != bytes(4)
            pid = b"\xa0" + struct.pack(">QII", 0, 6, id)
            assert rest.startswith(b"h\x03s\x05hello" + pid + b"r\x00\x03s")
            ref = rest[len(b"h\x03s\x05hello" + pid) :]
            node = ref[5 : 5 + ref[4]].decode()
            creation, _, place = node.partition(":")
            assert place == beam.name and int(creation) >= 4 and ref[5 + ref[4]] == 0
            # LING leaves out words that are 0; its own pid and reference come along.
            own_ref = b"r\x00\x02s\x05local\x00" + struct.pack(">II", 5, 6)
            own_pid = b"\xa0" + struct.pack(">QII", 0, 9, 44)
            straw.send_nowait(b"\x83h\x03s\x08envelope" + pid + b"h\x02" + tag + b"h\x03" + own_pid + own_ref + ref)
            answer = (await asyncio.wrap_future(asking)).decode()
            assert answer.startswith("{<") and answer.count("#Ref<") == 2
            back = f"{term(next(iter(gate.strawman._gateways.values())).tables.crossing.proxies[44])}"
            await beam.ask(f"{back} ! {{again, R}}".replace("R", ref_term(9)))
            assert await straw.receive() == b"\x83h\x03s\x08envelope" + own_pid + b"h\x02s\x05again" + own_ref
            assert gate.strawman.tables(9) == Counted(0, 0, 1, 1)
            # Too late, or to somebody who has ended.
            straw.send_nowait(b"\x83h\x03s\x08envelope" + pid + b"h\x02" + tag + b"a\x01")
            await until(lambda: gate.strawman.counts.undelivered == 1)
            assert gate.strawman.counts.forged == 0

    asyncio.run(main())


def ref_term(domid: int) -> str:
    ref = Reference(Atom(f"domain{domid}@straw"), 0, (5, 6))
    return f"binary_to_term(<<{','.join(map(str, etf.encode(ref)))}>>)"


def test_a_call_over_a_busy_straw_ends_at_once(cookie: str, rundir: str, epmd_env: int, beam: Beam) -> None:
    async def main() -> None:
        gate = Node(unique("gate"), cookie, pores=rundir, domid=6, epmd_port=epmd_env)
        async with asyncio.timeout(LONG), gate, raw_domain(rundir, 9, Terms()) as slow:
            straw: Straw = await slow.open(6)
            straw.pause()
            name = term(await gate.strawman.proxy(9, "buddy"))
            flood = """
                Big = binary:copy(<<"x">>, 1 bsl 20),
                [@ ! {N, Big} || N <- lists:seq(1, 40)],
                catch gen_server:call(@, hello, infinity)
                """
            assert (await beam.ask(flood.replace("@", name))).startswith("{'EXIT',{{straw_busy,9},{gen_server,call,")
            assert gate.strawman.tables(9) == Counted(0, 0, 0, 1), "what was not sent left nothing"
            straw.resume()
            assert etf.decode(await straw.receive(), dialect="ling")[2][0] == 1

    asyncio.run(main())


def test_a_hostile_domain(cookie: str, rundir: str, epmd_env: int, beam: Beam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "WARN_LINES", 1)

    async def main() -> None:
        gate = Node(unique("gate"), cookie, pores=rundir, domid=6, epmd_port=epmd_env)
        gate.strawman.limits = replace(gate.strawman.limits, proxies=1000)
        async with (
            asyncio.timeout(LONG),
            gate,
            raw_domain(rundir, 8, Terms()) as friend,
            raw_domain(rundir, 9, Terms()) as enemy,
        ):
            server = unique("s").split("@")[0]
            pid = await beam.ask_term("gateway_server:start(N)", N=server)
            gate.strawman.export("beam", to=(server, beam.name))
            known: Straw = await friend.open(6)
            straw: Straw = await enemy.open(6)
            me = LingPid(0, 8, 1)
            known.send_nowait(ling((ENVELOPE, Atom("beam"), (Atom("$gen_call"), (me, 1), Atom("self")))))
            _, _, (_, told) = etf.decode(await known.receive(), dialect="ling")
            assert (told.domid, gate.strawman.tables(8)) == (6, Counted(1, 0, 1, 0))
            for n in (told.id, told.id + 1, 0, (1 << 27) - 1, 1 << 27):
                for boxid, domid in ((0, 6), (0, 8), (1, 6), (0, 7)):
                    forged = LingPid(boxid, domid, n)
                    straw.send_nowait(ling((ENVELOPE, forged, 1)))
                    straw.send_nowait(ling((ENVELOPE, Atom("beam"), [forged])))
            await until(lambda: gate.strawman.counts.forged == 40)
            for forged in (pid, gate.router.caller.pid):
                straw.send_nowait(etf.encode((ENVELOPE, Atom("beam"), (Atom("$gen_call"), (forged, 1), Atom("self")))))
            await until(lambda: gate.strawman.counts.malformed == 2)
            for n in range(0, 5000, 50):
                await straw.send(ling((ENVELOPE, Atom("beam"), [LingPid(0, 9, n + k) for k in range(50)])))
            await until(lambda: gate.strawman.counts.crowded == 80)
            assert gate.strawman.tables(9) == Counted(0, 0, 1000, 0)
            # The friend is served as before.
            known.send_nowait(ling((ENVELOPE, told, (Atom("$gen_call"), (me, 2), (DOUBLE, 4)))))
            assert etf.decode(await known.receive(), dialect="ling")[2] == (2, (DOUBLE, 8))
            assert straw.closed == known.closed == ""
        assert not gate.strawman._gateways

    asyncio.run(main())


@pytest.mark.parametrize("dialect", ["otp"])
def test_the_session_in_the_guide(use: Use, beam: Beam) -> None:
    async def clerk(me: Process) -> None:
        found.set_result(await me.receive())

    async def shop(me: Process) -> None:
        _, (pid, tag), request = await me.receive()
        assert request is Atom("clerk")
        me.send(pid, (tag, me.spawn(clerk).pid))

    async def test(both: Pair) -> None:
        nonlocal found
        found = asyncio.get_running_loop().create_future()
        both.far.register("shop", shop, straw=True)
        text = erlang(listing("docs/strawman.md", "erlang", "{ok, Shop}"), b=both.gate.name)
        assert await beam.ask(text + ", node(Clerk) =:= G", G=both.gate.name) == "true"
        here_i_am, pid = await found  # of who has ended meanwhile
        assert here_i_am is Atom("here_i_am") and pid.node is Atom(both.far.name)

    found: asyncio.Future[Any]
    use(test)
