"""Straws of BEAMs without distribution: to Python, from Python, to each other; on both OTPs. Frames here, as they are:
what strawman makes of them is test_beam_strawman.py.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beamkit.strawpeer import BeamPeer, PythonPeer
from membranekit.exchange import close, connect, exchange, kill_while_busy, kill_while_opening, open_at_once
from membranekit.processes import HostProcess
from waiting import becomes, soon

pytestmark = pytest.mark.usefixtures("python_only")

#: opener, acceptor
PAIRS = [("beam", "python"), ("python", "beam"), ("beam", "beam")]

Starter = Callable[..., Any]


@pytest.fixture
def start(start_beam: Starter, app: Path, beams: Path, rundir: str) -> Iterator[Starter]:
    """start("beam" or "python", ring_bytes, otp=...) makes a domain that ends with the test."""
    with contextlib.ExitStack() as stack:

        def make(kind: str, ring_bytes: int = 1 << 18, otp: str = "otp25", domid: int = 0) -> Any:
            if kind == "python":
                return stack.enter_context(PythonPeer(rundir, ring_bytes))
            return BeamPeer(start_beam(otp, name=None, paths=[app]), rundir, ring_bytes, domid)

        yield make


def settled(peer: Any) -> Any:
    """Its status when no pore is left; a BEAM's descriptors are closed a little later, when it polls no more."""
    status = peer.quiet()
    return {key: value for key, value in status.items() if key not in ("watches", "down")}


def quiet(idle: dict[Any, Any], *peers: Any) -> None:
    for peer in peers:
        becomes(lambda peer=peer: settled(peer), idle[peer])


@pytest.mark.parametrize("otp", ["otp25", "otp28"])
@pytest.mark.parametrize("ring", [0, 1 << 18])
@pytest.mark.parametrize(("opener", "acceptor"), PAIRS)
def test_data_both_ways_and_ends_from_either_side(
    start: Starter, host: HostProcess, opener: str, acceptor: str, ring: int, otp: str
) -> None:
    """Frames up to 1 MB each way at once, in LING's ring and a wide one."""
    one, other = start(opener, ring, otp), start(acceptor, ring, otp)
    idle = {peer: settled(peer) for peer in (one, other)}
    for closer in (one, other):
        connect(one, other)
        assert one.do("open", peer=other.domid) == {"error": "exists"}
        assert exchange(one, other) > 1 << 20
        close(closer, other if closer is one else one)
        quiet(idle, one, other)
    for peer in (one, other):
        peer.do("stop")


@pytest.mark.parametrize("otp", ["otp25", "otp28"])
@pytest.mark.parametrize(("first", "second"), PAIRS[1:])
def test_both_open_at_once(start: Starter, host: HostProcess, first: str, second: str, otp: str) -> None:
    one, other = start(first, otp=otp), start(second, otp=otp)
    idle = {peer: settled(peer) for peer in (one, other)}
    for _ in range(10):
        open_at_once(one, other)
        exchange(one, other, count=20, limit=10_000)
        close(one, other)
        quiet(idle, one, other)


@pytest.mark.parametrize("ring", [0, 1 << 18])
@pytest.mark.parametrize(("living_kind", "victim_kind"), PAIRS)
def test_a_peer_killed_at_any_moment(
    start: Starter, host: HostProcess, living_kind: str, victim_kind: str, ring: int
) -> None:
    source = random.Random(ring)
    living = start(living_kind, ring, "otp28")
    idle = {living: settled(living)}
    for turn in range(6):
        victim = start(victim_kind, ring, "otp25")
        opener, acceptor = (living, victim) if turn % 2 else (victim, living)
        moment = source.random() * 0.05
        if turn < 4:
            kill_while_opening(living, victim, opener, moment)
        else:
            connect(opener, acceptor)
            kill_while_busy(living, victim, turn + 1, moment)
        living.do("forget", peer=victim.domid)
        quiet(idle, living)


@pytest.mark.parametrize(("one_kind", "other_kind"), PAIRS[:1] + PAIRS[2:])
def test_a_host_killed_while_straws_are_busy(start: Starter, rundir: str, one_kind: str, other_kind: str) -> None:
    """Both sides say host_down, nothing is left, and a BEAM is a domain of the next host by itself."""
    with HostProcess(Path(rundir)) as host:
        one, other = start(one_kind, otp="otp28"), start(other_kind)
        connect(one, other)
        work = {"seed": 3, "count": 100_000, "limit": 100_000}
        numbers = [one.start("send", peer=other.domid, **work), other.start("receive", peer=one.domid, **work)]
        time.sleep(0.05)
        host.kill()
        for peer, away in ((one, other), (other, one)):
            assert peer.do("ended", peer=away.domid)["reason"] == "host_down"
        assert {one.result(numbers[0])["error"], other.result(numbers[1])["error"]} <= {"host_down", "closed"}
    with HostProcess(Path(rundir)):
        one.domid = one.eval("straw_peer:do({up, 2})")
        again = start("python")
        connect(one, again)
        work = {"seed": 4, "count": 20, "limit": 100_000}
        receiving = again.start("receive", peer=one.domid, **work)
        assert one.do("send", peer=again.domid, **work) == again.result(receiving)
        status = one.do("status")
        assert sum(status["held"].values()) == 2 and status["mapped"] == 1, status
        assert one.do("stop")


def test_a_host_killed_while_a_straw_is_opened(start: Starter, rundir: str) -> None:
    one, other = None, None
    for turn in range(4):
        with HostProcess(Path(rundir)) as host:
            if one is None:
                one, other = start("beam"), start("beam", otp="otp28")
            else:
                one.domid, other.domid = (p.eval(f"straw_peer:do({{up, {turn + 1}}})") for p in (one, other))
            number = one.start("open", peer=other.domid)
            time.sleep(0.004 * turn)
            host.kill()
            answer = one.result(number)
            assert answer == {} or answer["error"] in ("host_down", "stopped"), answer


def test_many_opens_and_closes_leave_nothing(start: Starter, host: HostProcess) -> None:
    one, other = start("beam", otp="otp28"), start("beam")
    idle = {peer: settled(peer) for peer in (one, other)}
    memory = "erlang:memory(processes_used) + erlang:memory(binary) + erlang:memory(ets)"
    for turn in range(150):
        opener, acceptor = (one, other) if turn % 2 else (other, one)
        connect(opener, acceptor)
        closer, seen = (opener, acceptor) if turn % 4 < 2 else (acceptor, opener)
        close(closer, seen)
        if turn == 20:  # from here on nothing grows
            quiet(idle, one, other)
            before = {peer: (peer.eval("length(processes())"), peer.eval(memory)) for peer in (one, other)}
    quiet(idle, one, other)
    for peer in (one, other):
        soon(lambda peer=peer: peer.eval("length(processes())") <= before[peer][0])
        soon(lambda peer=peer: peer.eval(memory) < before[peer][1] + (1 << 20))
