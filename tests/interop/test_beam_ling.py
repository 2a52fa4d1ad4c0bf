"""A LING (tests/lingkit) and strawman on a BEAM: what test_ling_straws.py asks of a Python node, asked of erl/.

The BEAM has no distribution. A LING that would have died has died here: every test fails with why.
"""

from __future__ import annotations

import base64
import contextlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beamkit.beam import Beam
from beamkit.commandline import CommandLine
from beamkit.runtimes import RELEASES
from beamkit.strawpeer import build_app
from lingkit.stage import Stage
from lingkit.terms import Atom as A
from test_ling_straws import (  # noqa: F401 (they are collected here once more, with this file's `on`)
    connect,
    test_a_ling_that_is_killed,
    test_a_node_that_is_killed,
    test_a_node_that_stops_while_a_ling_has_things_mapped,
    test_both_open_at_once,
    test_closing_from_either_end,
    test_json,
    test_many_large_messages_both_ways_at_once,
    test_messages_both_ways,
    test_the_first_message_opens,
    test_thousands_of_small_messages,
)
from waiting import soon

from node import Atom, etf

pytestmark = pytest.mark.usefixtures("python_only")


class BeamNode:
    """As lingkit's PythonNode, but a BEAM."""

    def __init__(self, beam: Beam, domid: int) -> None:
        self.beam, self.domid, self.pid = beam, domid, beam.pid

    def _value(self, text: str) -> Any:
        return etf.decode(self.beam.submit(text, "b").result(30))

    def rpc(self, function: str, *args: Any) -> Any:
        match function, args:
            case "domains", ():
                return self._value("strawman:domains()")
            case "close", (domid,):
                return self._value(f"strawman:close({domid}) =:= ok")
        raise ValueError(function)

    def send(self, domid: int, to: str, message: Any) -> Any:
        return self._value(f"strawman:send({{{domid}, {to}}}, {term(message)})")

    def next(self) -> Any:
        return self._value("strawman_probe:next()")

    def strawman(self, request: Any) -> Any:
        return self._value(f"gen_server:call(strawman, {term(request)})")

    def counted(self, name: str, least: int) -> None:
        soon(lambda: self._value(f"maps:get({name}, strawman:counts()) >= {least}"))


def term(value: Any) -> str:
    """A value as Erlang source."""
    return f'binary_to_term(base64:decode("{base64.b64encode(etf.encode(value)).decode()}"))'


class BeamStage(Stage):
    """Whose nodes are BEAMs."""

    start: Callable[[], Beam]

    def node(self, domid: int, *options: str) -> Any:
        beam = self.start()
        assert beam.eval(f'strawman_probe:start("{self.rundir}", {domid})') == str(domid)
        return BeamNode(beam, domid)


@pytest.fixture(scope="session")
def app() -> Path:
    return build_app()


@pytest.fixture
def on(
    request: pytest.FixtureRequest,
    epmd_port: int,
    cookie: str,
    tmp_path: Path,
    app: Path,
    start_beam: Callable[..., Beam],
) -> Iterator[Stage]:
    otp = RELEASES[zlib.crc32(request.node.name.encode()) % len(RELEASES)]  # half of the tests on each
    with contextlib.ExitStack() as stack:
        stage = BeamStage(CommandLine(epmd_port, cookie, tmp_path), stack)
        stage.start = lambda: start_beam(otp, name=None, paths=[app])
        yield stage


def test_calls_both_ways(on: Stage) -> None:
    """gen_server:call from a LING to a process of the BEAM, whose pid it was sent, and back; no table grows."""
    ling, node = on.ling(5), on.node(6)
    ling.spawn("inbox", "buddy")
    ling.spawn("server", "server")
    beam = node.beam
    beam.eval("strawman:send({5, buddy}, whereis(double))")
    pid = ling.next("buddy")
    assert ling.call(pid, (A("double"), 21)) == 42
    assert ling.call(pid, A("later")) == A("now")
    text = """
        {ok, P} = strawman:proxy(5, server),
        [{echo, N} = gen_server:call(P, {echo, {echo, N}}) || N <- lists:seq(1, 200)], ok
        """
    assert beam.eval(text.replace("{echo, N} = ", "_ = ")) == "ok"
    counts = "{ok, S} = strawman:split(5), #{refs := R} = gen_server:call(S, counts), R"
    soon(lambda: beam.eval(counts) == "0")
    ling.alive()


def test_what_kills_a_ling_is_not_said(on: Stage) -> None:
    ling, node = on.ling(5), on.node(6)
    ling.spawn("inbox", "buddy")
    connect(ling, node, "python")
    for value in ({1: 2}, [{}], Atom("\u20ac"), (Atom("a"), ({},))):
        answer = node.send(5, "buddy", value)
        assert answer[0] is Atom("error"), answer
    for text in ("fun() -> ok end", "{ok, #{}}", "list_to_atom(lists:duplicate(255, 16#100))"):
        assert node.beam.eval(f"element(1, strawman:send({{5, buddy}}, {text}))") == "error"
    assert node.beam.eval("strawman:send({5, buddy}, [make_ref(), self(), alias(), [alias | alias()]])") == "ok"
    assert len(ling.next("buddy")) == 4
    assert node.send(5, "buddy", 1) is Atom("ok")
    assert ling.next("buddy") == 1
    assert ling.status()["notes"] == []


def test_two_straws_know_the_same_processes(on: Stage) -> None:
    """Both have opened; calls go over either straw, and answers come on either."""
    for domid in (3, 7):  # the straw to send on is ours, then the LING's
        ling, node = on.ling(5 if domid == 3 else 6), on.node(domid)
        ling.spawn("inbox", "buddy")
        ling.spawn("server", "server")
        beam = node.beam
        # Both knocks are out before the BEAM sees either.
        beam.eval("sys:suspend(membrane)")
        opening = ling.start("open", domid=domid)
        waiting = "element(2, process_info(whereis(membrane), message_queue_len))"
        soon(lambda: beam.eval(waiting) != "0")  # noqa: B023 (called at once)
        ours = beam.submit("strawman:open(D)", D=ling.domid)
        soon(lambda: beam.eval("element(2, process_info(whereis(membrane), messages))").count("open") > 0)  # noqa: B023
        beam.eval("sys:resume(membrane)")
        assert ling.result(opening) == {} and ours.result(30) == b"ok"
        soon(lambda: beam.eval("length(membrane:straws())") == "2")  # noqa: B023
        beam.eval("strawman:send({D, buddy}, whereis(double))", D=ling.domid)
        pid = ling.next("buddy")
        for n in range(5):
            assert ling.call(pid, (A("double"), n)) == 2 * n
            beam.eval("gen_server:call(element(2, strawman:proxy(D, server)), {echo, N})", D=ling.domid, N=n)
        assert beam.eval("strawman:close(D)", D=ling.domid) == "ok"
        soon(lambda: not ling.status()["straws"])  # noqa: B023
