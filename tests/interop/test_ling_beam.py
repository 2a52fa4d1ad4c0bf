"""A LING (tests/lingkit: as strict as one) and a BEAM without distribution on a straw: the application `straw` on both
OTPs, both roles, both formats, every way to end, and calls both ways. A LING that would have died has died here.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lingkit.driver
import pytest
from beamkit.beam import Beam, Erl
from beamkit.commandline import CommandLine
from beamkit.runtimes import RELEASES, compile_modules
from beamkit.strawpeer import build_app
from lingkit.driver import LingProcess
from lingkit.stage import Stage, stage
from lingkit.terms import Atom as A
from lingkit.terms import LongPid, Ref
from waiting import soon

pytestmark = pytest.mark.usefixtures("python_only")

#: More than twice the 16,376 bytes of a LING's ring.
LARGE = 100_000
CALLS = 10_000
PATIENCE = 55

openers = pytest.mark.parametrize("opener", ["ling", "beam"])
releases = pytest.mark.parametrize("otp", RELEASES)


@pytest.fixture
def on(epmd_port: int, cookie: str, tmp_path: Path) -> Iterator[Stage]:
    with stage(CommandLine(epmd_port, cookie, tmp_path)) as it:
        yield it


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    source = Path(lingkit.driver.__file__).with_name("ling_server.erl")
    return [build_app(), compile_modules([source], tmp_path_factory.mktemp("ling_server"))]


class Domain:
    """A BEAM that is a domain. Its process `main` evaluates nothing but `inbox`: what was sent there, in order."""

    def __init__(self, beam: Beam, on: Stage, domid: int) -> None:
        self.beam, self.domid = beam, domid
        self.eval(
            """
            ok = application:load(straw),
            [ok = application:set_env(straw, Key, Value) || {Key, Value} <- [{host, Host}, {domid, Domid}]],
            {ok, _} = application:ensure_all_started(straw),
            ok = ling_server:start(),
            register(inbox, spawn(fun() ->
                (fun Loop() -> receive {next, To} -> receive {msg, M} -> To ! {got, M} end, Loop() end end)() end)),
            register(inbox_in, spawn(fun() -> (fun Loop() -> receive M -> inbox ! {msg, M}, Loop() end end)() end)),
            ok = strawman:export(inbox, #{to => inbox_in}),
            ok = strawman:export(front, #{to => ling_server})
            """,
            Host=Erl(f'"{on.rundir}"'),
            Domid=domid,
        )

    def eval(self, text: str, **bindings: Any) -> str:
        return self.beam.eval(text, **bindings)

    def next(self) -> str:
        return self.eval("inbox ! {next, self()}, receive {got, M} -> M after 20000 -> timeout end")

    @property
    def domains(self) -> str:
        return self.eval("strawman:domains()")


Make = Callable[[int], Domain]


@pytest.fixture
def make(on: Stage, otp: str, start_beam: Callable[..., Beam], paths: list[Path]) -> Make:
    """make(domid): one more BEAM."""
    return lambda domid: Domain(start_beam(otp, name=None, paths=paths), on, domid)


def lings(on: Stage) -> LingProcess:
    ling = on.ling(5)
    ling.spawn("inbox", "buddy")
    ling.spawn("server", "server")
    return ling


def connect(ling: LingProcess, far: Domain, opener: str) -> None:
    if opener == "ling":
        assert ling.open(far.domid) == ""
    else:
        assert far.eval("strawman:open(5)") == "ok"
    wanted = ["passive" if opener == "ling" else "active", far.domid, "erlang"]
    soon(lambda: ling.status()["straws"] == [wanted] and far.domains == "[5]")


def parted(on: Stage, ling: LingProcess, *others: int) -> None:
    """Nothing of a straw is left with the LING, nor in the store."""
    soon(lambda: not ling.status()["straws"])
    status = ling.status()
    assert (status["granted"], status["mapped"], status["pores"], status["watches"]) == (0, 0, 0, 1), status
    for domid in (5, *others):
        soon(lambda domid=domid: on.keys(domid) == [])


@releases
@openers
def test_messages_both_ways_and_closing(on: Stage, make: Make, opener: str) -> None:
    ling, far = lings(on), make(6)
    for again in (opener, "ling", "beam"):
        connect(ling, far, again)
        for text, term in (
            ("0", 0),
            ("-134217729", -134217729),
            ("1267650600228229401496703205376", 1 << 100),
            ("{a,[2.5,<<\"b\">>,\"str\"]}", (A("a"), [2.5, b"b", list(b"str")])),
            ("h\xe9", A("h\xe9")),
            ("[]", []),
        ):  # fmt: skip
            assert far.eval(f"strawman:send({{5, buddy}}, {text})") == "ok"
            got = ling.next("buddy")
            assert (got, type(got)) == (term, type(term))
            assert ling.send((6, A("inbox")), term) == ""
            assert far.next() == text
        for _ in range(10):
            assert far.eval(f"strawman:send({{5, buddy}}, binary:copy(<<7>>, {LARGE}))") == "ok"
            assert ling.send((6, A("inbox")), b"\7" * LARGE) == ""
        for _ in range(10):
            assert ling.next("buddy") == b"\7" * LARGE
            assert far.eval(
                f"inbox ! {{next, self()}}, receive {{got, M}} -> M =:= binary:copy(<<7>>, {LARGE}) end"
            ) == "true"  # fmt: skip
        assert far.eval("strawman:close(5)") == "ok"
        parted(on, ling, 6)
    assert ling.status()["notes"] == ["connection to domain 6 lost"] * 3


@releases
@openers
def test_ends(on: Stage, make: Make, opener: str) -> None:
    """The BEAM stops, or is killed; the LING stops, or is killed. Afterwards others meet."""
    ling, far = lings(on), make(6)
    connect(ling, far, opener)
    assert far.eval("application:stop(straw)") == "ok"
    parted(on, ling)

    far = make(7)
    connect(ling, far, opener)
    ling.send((7, A("inbox")), b"x" * LARGE)
    far.beam.kill()
    parted(on, ling)

    far = make(8)
    connect(ling, far, opener)
    assert ling.stop() == "stopped"
    soon(lambda: far.domains == "[]" and on.keys(8) == [])

    ling = on.ling(19)
    ling.spawn("inbox", "buddy")
    assert (ling.open(8) if opener == "ling" else far.eval("strawman:open(19)")) in ("", "ok")
    soon(lambda: far.domains == "[19]")
    ling.kill()
    soon(lambda: far.domains == "[]" and on.keys(8) == [])


@releases
def test_both_open_at_once(on: Stage, make: Make) -> None:
    ling, far = lings(on), make(6)
    for turn in range(3):
        opening = ling.start("open", domid=6)
        assert far.eval("strawman:open(5)") in ("ok", "{error,exists}")
        assert ling.result(opening) in ({}, {"error": "exists"})
        assert far.eval(f"strawman:send({{5, buddy}}, {turn})") == "ok"
        assert ling.next("buddy") == turn
        assert ling.send((6, A("inbox")), turn) == ""
        assert far.next() == str(turn)
        while far.domains != "[]":
            far.eval("strawman:close(5)")
        parted(on, ling, 6)


@releases
def test_json(on: Stage, make: Make) -> None:
    ling, far = lings(on), make(6)
    assert far.eval("strawman:open(5, json)") == "ok"
    soon(lambda: ling.status()["straws"] == [["active", 6, "json"]])
    assert far.eval('strawman:send({5, buddy}, #{<<"k">> => [1, 2.5, null, <<"text">>]})') == "ok"
    seen = [(b"k", [1, 2.5, A("null"), b"text"])]
    assert ling.next("buddy") == (A("json"), seen)
    assert ling.send((6, A("inbox")), seen) == ""
    assert far.next() == '{json,#{<<"k">> => [1,2.5,null,<<"text">>]}}'
    assert far.eval("element(1, strawman:send({5, buddy}, {1, 2}))") == "error"
    assert ling.status()["notes"] == []


@releases
@openers
def test_terms_that_a_ling_cannot_have(on: Stage, make: Make, opener: str) -> None:
    ling, far = lings(on), make(6)
    connect(ling, far, opener)
    answers = far.eval(
        """
        Deep = fun F(0) -> []; F(N) -> [F(N - 1), 0] end,
        [begin {error, {badarg, _}} = gen_server:call(strawman, {envelope, {5, buddy}, Term}), told end
         || Term <- [#{}, [#{a => 1}], '\\x{20ac}', fun() -> ok end, Deep(999)]]
        """
    )
    assert answers == "[told,told,told,told,told]"
    said = "strawman:send({5, buddy}, {'h\\x{e9}', [1 bsl 70, <<5:3>>, fun lists:map/2], self(), make_ref(), alias()})"
    assert far.eval(said) == "ok"
    got = ling.next("buddy")
    assert got[0] == A("h\xe9") and isinstance(got[2], LongPid) and got[2].domid == 6
    assert all(isinstance(ref, Ref) and ref.creation < 4 for ref in got[3:])
    status = ling.status()
    assert (status["maps"], status["notes"]) == (0, [])


@releases
@openers
def test_calls_both_ways(on: Stage, make: Make, opener: str) -> None:
    ling, far = lings(on), make(6)
    connect(ling, far, opener)
    pid = ling.call((6, A("front")), A("whoami"))
    assert isinstance(pid, LongPid) and (pid.box, pid.domid) == (0, 6)
    assert ling.call(pid, (A("double"), 21)) == (A("double"), 42)
    assert ling.call(pid, (A("echo"), b"x" * LARGE)) == b"x" * LARGE
    mine = ling.spawn("server")
    assert ling.call(pid, (A("ask"), mine, (A("add"), 1, 2))) == 3
    assert ling.call(pid, (A("ask"), mine, A("whoami"))) == mine
    code = """
        {ok, There} = strawman:proxy(5, server),
        Pid = gen_server:call(There, whoami), Pid = gen_server:call(Pid, whoami),
        5 = gen_server:call(Pid, {add, 2, 3}),
        Short = binary_to_term(<<131,90,3:16,100,5:16,"x@a.b",9:32,7:32,5:32,0:32>>),
        Terms = [self(), Pid, make_ref(), Short, 1 bsl 27, binary:copy(<<7>>, 100000)],
        [T = gen_server:call(Pid, {echo, T}) || T <- Terms],
        {'EXIT', {timeout, _}} = (catch gen_server:call(Pid, silence, 300)),
        gen_server:call(There, {echo, done})
        """
    assert far.eval(code) == "done"


@releases
@openers
@pytest.mark.slow
def test_ten_thousand_calls_leave_nothing(on: Stage, make: Make, opener: str) -> None:
    ling, far = lings(on), make(6)
    connect(ling, far, opener)
    assert ling.calls((6, A("front")), CALLS, limit=PATIENCE) == CALLS
    assert ling.calls((6, A("front")), CALLS // 10, fresh=True, limit=PATIENCE) == CALLS // 10
    calling = far.beam.submit(f"{{ok, There}} = strawman:proxy(5, server), ling_server:calls(There, {CALLS})")
    assert calling.result(PATIENCE) == str(CALLS).encode()
    soon(lambda: far.eval(TABLES).startswith("[{0,0"))


#: (pids, refs) of the straws' tables.
TABLES = """
    [{maps:get(pids, Counts), maps:get(refs, Counts)}
     || D <- strawman:domains(), {ok, P} <- [strawman:split(D)], Counts <- [gen_server:call(P, counts)]]
    """


@releases
def test_a_process_of_a_ling_is_watched(on: Stage, make: Make) -> None:
    ling, far = lings(on), make(6)
    watching = far.beam.submit(
        """
        {ok, There} = strawman:proxy(5, server), Pid = gen_server:call(There, whoami),
        [M, N] = [erlang:monitor(process, P) || P <- [Pid, There]], strawman:send({5, buddy}, watching),
        [receive {'DOWN', R, process, _, Why} -> Why after 30000 -> timeout end || R <- [M, N]]
        """
    )
    assert ling.next("buddy") == A("watching")
    ling.kill()
    assert watching.result(30) == b"[noconnection,noconnection]"


@releases
@openers
def test_a_busy_ling_keeps_its_memory(on: Stage, make: Make, opener: str) -> None:
    ling, far = lings(on), make(6)
    connect(ling, far, opener)
    os.kill(ling.pid, signal.SIGSTOP)
    closing = far.beam.submit("strawman:close(5)")
    with contextlib.suppress(TimeoutError):
        closing.result(0.5)
    os.kill(ling.pid, signal.SIGCONT)
    assert closing.result(30) == b"ok"
    parted(on, ling, 6)
