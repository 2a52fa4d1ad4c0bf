"""Pids and calls between a LING (tests/lingkit) and BEAMs on both releases, through a Python node's gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lingkit.driver
import pytest
from beamkit.beam import Beam, Erl
from beamkit.commandline import CommandLine
from beamkit.runtimes import compile_modules
from lingkit.driver import LingProcess
from lingkit.stage import PythonNode, Stage, stage
from lingkit.terms import Atom as A
from lingkit.terms import LongPid, Ref
from waiting import soon

from node import Atom

pytestmark = pytest.mark.usefixtures("python_only")

CALLS = 10_000
#: Seconds that 10,000 calls one after the other may take on a machine that is busy with other things.
PATIENCE = 55


@pytest.fixture
def on(epmd_port: int, cookie: str, tmp_path: Path) -> Iterator[Stage]:
    with stage(CommandLine(epmd_port, cookie, tmp_path)) as it:
        yield it


@pytest.fixture(scope="session")
def ling_server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(lingkit.driver.__file__).with_name("ling_server.erl")
    return compile_modules([source], tmp_path_factory.mktemp("ling_server"))


@pytest.fixture
def served(beam: Beam, ling_server: Path) -> Iterator[Beam]:
    """The BEAM with a gen_server `ling_server`."""
    beam.eval("code:add_patha(Dir), ling_server:start()", Dir=Erl(f'"{ling_server}"'))
    yield beam
    beam.eval("ling_server:stop()")


def cast(on: Stage, beam: Beam | None = None) -> tuple[LingProcess, PythonNode]:
    """A LING 5 with a gen_server and an inbox; a node 6 that exports the BEAM's server as `front`."""
    ling, node = on.ling(5), on.node(6)
    ling.spawn("server", "server")
    ling.spawn("inbox", "buddy")
    if beam is not None:
        assert node.rpc("export", Atom("front"), (Atom("ling_server"), Atom(beam.name))) is Atom("ok")
    return ling, node


def tables(node: PythonNode, domid: int = 5) -> dict[str, int]:
    return dict(zip(("pids", "refs", "proxies", "names"), node.rpc("tables", domid), strict=True))


FRONT = (6, A("front"))
PROXY = "{ok, There} = gen_server:call({strawman, Node}, {proxy, 5, server}), "


def test_a_ling_calls_a_gen_server_on_a_beam(on: Stage, served: Beam) -> None:
    ling, node = cast(on, served)
    for term in (1, [A("x"), (2.5, b"bin")], b"x" * 100_000, -(1 << 40)):
        assert ling.call(FRONT, (A("echo"), term)) == term
    pid = ling.call(FRONT, A("whoami"))
    assert isinstance(pid, LongPid) and (pid.box, pid.domid) == (0, 6)
    assert ling.call(pid, (A("double"), 21)) == (A("double"), 42), "by its pid"
    assert ling.call(FRONT, (A("echo"), pid)) == pid, "it is told of one process by one id"
    with pytest.raises(TimeoutError):
        ling.call(pid, A("silence"), seconds=0.3)
    assert ling.call(pid, (A("double"), 4)) == (A("double"), 8)
    assert tables(node)["pids"] == 1


def test_a_beam_calls_a_gen_server_on_a_ling(on: Stage, served: Beam) -> None:
    _, node = cast(on, served)
    code = (
        PROXY
        + """
        Terms = [1, {x, [2.5, <<"bin">>]}, binary:copy(<<7>>, 100000), -(1 bsl 40), 1 bsl 27],
        [T = gen_server:call(There, {echo, T}) || T <- Terms],
        Pid = gen_server:call(There, whoami),
        Pid = gen_server:call(Pid, whoami),
        5 = gen_server:call(Pid, {add, 2, 3}),
        Pid = gen_server:call(Pid, {echo, Pid}),
        Me = self(),
        Me = gen_server:call(Pid, {echo, Me}),
        [Ref, Short] = [make_ref(), binary_to_term(<<131,90,3:16,100,5:16,"x@a.b",9:32,7:32,5:32,0:32>>)],
        [Ref, Short] = gen_server:call(Pid, {echo, [Ref, Short]}),
        {'EXIT', {timeout, _}} = (catch gen_server:call(Pid, silence, 300)),
        {node(Pid), is_process_alive(self())}
        """
    )
    assert served.eval(code, Node=node.name) == f"{{'{node.name}',true}}"


def test_what_a_ling_gets_of_pids_and_references(on: Stage, served: Beam) -> None:
    """Pids are 160 of our domain, references have three words that a LING can hold; both come back as they were."""
    ling, node = cast(on, served)
    code = (
        PROXY
        + """
        gen_server:call({strawman, Node}, {envelope, {5, buddy}, {self(), make_ref(), erlang:alias()}})
        """
    )
    assert served.eval(code, Node=node.name) == "ok"
    pid, ref, alias = ling.next("buddy")
    assert isinstance(pid, LongPid) and (pid.box, pid.domid) == (0, 6)
    for it in (ref, alias):
        assert isinstance(it, Ref) and it.words[0] < 1 << 18 and it.creation < 4
    status = ling.status()
    assert status["notes"] == []


def test_nested_calls(on: Stage, served: Beam) -> None:
    """The LING asks the BEAM, which asks the LING, by a name and by a pid."""
    ling, _ = cast(on, served)
    pid = ling.spawn("server")
    assert ling.call(FRONT, (A("ask"), pid, (A("add"), 1, 2))) == 3
    assert ling.call(FRONT, (A("ask"), pid, A("whoami"))) == pid


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [False, True], ids=["one caller", "many callers"])
def test_ten_thousand_calls_to_a_beam_leave_nothing(on: Stage, served: Beam, fresh: bool) -> None:
    ling, node = cast(on, served)
    assert ling.calls(FRONT, CALLS, fresh, PATIENCE) == CALLS
    soon(lambda: tables(node)["pids"] == tables(node)["refs"] == 0)
    status = ling.status()
    assert (status["notes"], status["mail"]) == ([], {})
    assert tables(node)["proxies"] <= (CALLS if fresh else 1)


@pytest.mark.slow
def test_ten_thousand_calls_from_a_beam_leave_nothing(on: Stage, served: Beam) -> None:
    _, node = cast(on, served)
    served.eval(PROXY + "register(there, spawn(fun() -> receive stop -> ok end end)), ok", Node=node.name)
    done = served.eval(PROXY + f"ling_server:calls(There, {CALLS})", Node=node.name)
    served.eval("there ! stop, ok")
    assert done == str(CALLS)
    soon(lambda: tables(node)["refs"] == 0)
    soon(lambda: tables(node)["pids"] == 0)  # the callers are dead
    assert tables(node)["names"] == 1


def test_callers_in_python(on: Stage) -> None:
    ling, node = cast(on)
    assert node.rpc("call", 5, Atom("server"), (Atom("add"), 1, 2), 300) == 3
    assert ling.call((6, A("server")), (A("echo"), b"x")) == b"x"
    pid = ling.call((6, A("server")), A("whoami"))
    assert ling.calls(pid, 300) == 300
    soon(lambda: tables(node)["refs"] == 0)


def test_a_process_of_a_ling_is_watched(on: Stage, own_beam: Beam) -> None:
    """It ends for a BEAM when the straw does: noconnection."""
    ling, node = cast(on)
    watch = (
        PROXY
        + """
        Pid = gen_server:call(There, whoami),
        M = erlang:monitor(process, Pid), {strawman, Node} ! {envelope, {5, buddy}, watching},
        receive {'DOWN', M, process, Pid, Why} -> Why after 30000 -> timeout end
        """
    )
    watching = own_beam.submit(watch, Node=node.name)
    assert ling.next("buddy") == A("watching")
    ling.kill()
    assert watching.result(30) == b"noconnection"
    soon(lambda: tables(node) == {"pids": 0, "refs": 0, "proxies": 0, "names": 0})


def test_two_lings_that_know_each_other_through_a_node(on: Stage) -> None:
    """A pid of one, told to the other by a node between them, is the node's process to it: and it reaches its like."""
    ling, node = cast(on)
    other = on.ling(7)
    other.spawn("server", "server")
    mine = ling.spawn("server")
    assert node.rpc("call", 7, Atom("server"), Atom("whoami"), 1) is not None
    assert ling.send((6, A("inbox")), mine) == ""
    pid = node.next()
    other.spawn("inbox", "buddy")
    assert node.send(7, "buddy", pid) is Atom("ok")
    seen = other.next("buddy")
    assert isinstance(seen, LongPid) and seen.domid == 6
    assert other.call(seen, (A("add"), 20, 22)) == 42
    assert other.call(seen, A("whoami")) == seen, "its own pid, as it is known there"
    assert ling.status()["straws"] == [["passive", 6, "erlang"]], "there is no straw between the two"


def test_late_answers_and_dead_callers(on: Stage, served: Beam) -> None:
    """An answer that comes when nobody waits any more hurts nobody, on either side."""
    ling, node = cast(on, served)
    with pytest.raises(TimeoutError):
        ling.call(FRONT, A("late"), seconds=0.2)
    assert ling.call(FRONT, A("now")) == 1
    code = (
        PROXY
        + """
        [begin {P, M} = spawn_monitor(fun() -> gen_server:call(There, silence, infinity) end),
               timer:sleep(20), exit(P, kill), receive {'DOWN', M, _, _, killed} -> ok end end || _ <- lists:seq(1, 5)],
        ok
        """
    )
    assert served.eval(code, Node=node.name) == "ok"
    soon(lambda: tables(node)["pids"] == tables(node)["refs"] == 0)
    assert ling.call(FRONT, (A("echo"), 1)) == 1


@pytest.mark.parametrize("opener", ["ling", "python"])
def test_many_at_once(on: Stage, served: Beam, opener: str) -> None:
    """Calls in both directions at the same time, with large terms between them."""
    ling, node = cast(on, served)
    assert (ling.open(6) if opener == "ling" else node.strawman((Atom("open"), 5))) in ("", Atom("ok"))
    calling = served.submit(PROXY + "ling_server:calls(There, 500)", Node=node.name)
    numbers = [ling.start("calls", to=_json(FRONT), count=200, fresh=n % 2) for n in range(4)]
    big = [ling.start("call", to=_json(FRONT), request=_json((A("echo"), b"z" * 200_000))) for _ in range(5)]
    for number in numbers:
        assert ling.result(number, PATIENCE) == {"good": 200}
    for number in big:
        assert len(ling.result(number)["reply"]["b"]) == 200_000
    assert calling.result(PATIENCE) == b"500"
    soon(lambda: tables(node)["pids"] == tables(node)["refs"] == 0)


def _json(term: Any) -> Any:
    from lingkit.terms import to_json

    return to_json(term)
