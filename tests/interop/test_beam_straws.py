"""Straws of BEAMs without distribution: to Python, from Python, to each other; on both OTPs. Frames here, as they are:
what strawman makes of them is test_beam_strawman.py.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beamkit.strawpeer import BeamPeer, PythonPeer
from membranekit.processes import HostProcess

pytestmark = pytest.mark.usefixtures("python_only")

#: What "within a second" is in a test: a machine that is busy with other tests is no failure.
SOON = 10
#: opener, acceptor
PAIRS = [("beam", "python"), ("python", "beam"), ("beam", "beam")]

Starter = Callable[..., Any]


@pytest.fixture
def rundir() -> Iterator[Path]:
    folder = tempfile.mkdtemp(prefix="bs-")  # short: it holds unix sockets
    yield Path(folder) / "host"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def host(rundir: Path) -> Iterator[HostProcess]:
    with HostProcess(rundir) as process:
        yield process


@pytest.fixture
def start(start_beam: Starter, app: Path, beams: Path, rundir: Path) -> Iterator[Starter]:
    """start("beam" or "python", ring_bytes, otp=...) makes a domain that ends with the test."""
    with contextlib.ExitStack() as stack:

        def make(kind: str, ring_bytes: int = 1 << 18, otp: str = "otp25", domid: int = 0) -> Any:
            if kind == "python":
                return stack.enter_context(PythonPeer(rundir, ring_bytes))
            return BeamPeer(start_beam(otp, name=None, paths=[app]), rundir, ring_bytes, domid)

        yield make


def same(before: Any, after: Any) -> None:
    assert before == after, json.dumps([before, after])


def connect(opener: Any, acceptor: Any) -> None:
    assert opener.do("open", peer=acceptor.domid) == {}
    acceptor.do("wait", peer=opener.domid)


def settled(peer: Any) -> Any:
    """Its status when no pore is left; a BEAM's descriptors are closed a little later, when it polls no more."""
    status = peer.quiet()
    return {key: value for key, value in status.items() if key not in ("watches", "down")}


def quiet(idle: dict[Any, Any], *peers: Any) -> None:
    began = time.monotonic()
    for peer in peers:
        while (status := settled(peer)) != idle[peer]:
            assert time.monotonic() - began < SOON, json.dumps([idle[peer], status])
            time.sleep(0.01)


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
        work = {"count": 60, "limit": 1 << 20}
        both = [
            (
                a.start("send", peer=b.domid, seed=a.domid, **work),
                b.start("receive", peer=a.domid, seed=a.domid, **work),
            )
            for a, b in ((one, other), (other, one))
        ]
        for n, (a, b) in enumerate(((one, other), (other, one))):
            sent, received = a.result(both[n][0]), b.result(both[n][1])
            assert sent == received and sent["bytes"] > 1 << 20
        seen = other if closer is one else one
        closer.do("close", peer=seen.domid)
        assert seen.do("ended", peer=closer.domid) == {"reason": "peer_closed", "truncated": False}
        assert closer.do("ended", peer=seen.domid)["reason"] == "closed"
        quiet(idle, one, other)
    for peer in (one, other):
        peer.do("stop")


@pytest.mark.parametrize("otp", ["otp25", "otp28"])
@pytest.mark.parametrize(("first", "second"), PAIRS[1:])
def test_both_open_at_once(start: Starter, host: HostProcess, first: str, second: str, otp: str) -> None:
    one, other = start(first, otp=otp), start(second, otp=otp)
    idle = {peer: settled(peer) for peer in (one, other)}
    for _ in range(10):
        numbers = one.start("open", peer=other.domid), other.start("open", peer=one.domid)
        answers = one.result(numbers[0]), other.result(numbers[1])
        # Both have it, or one came so much earlier that the other's is there already.
        assert {} in answers and all(answer in ({}, {"error": "exists"}) for answer in answers), answers
        one.do("wait", peer=other.domid)
        other.do("wait", peer=one.domid)
        work = {"seed": 7, "count": 20, "limit": 10_000}
        for a, b in ((one, other), (other, one)):
            receiving = b.start("receive", peer=a.domid, **work)
            assert a.do("send", peer=b.domid, **work) == b.result(receiving)
        one.do("close", peer=other.domid)
        for a, b in ((one, other), (other, one)):
            a.do("ended", peer=b.domid)
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
        work = {"seed": turn + 1, "count": 100_000, "limit": 100_000}
        opener, acceptor = (living, victim) if turn % 2 else (victim, living)
        moment = source.random() * 0.05
        if turn < 4:  # while it is being opened
            number = opener.start("open", peer=acceptor.domid)
            time.sleep(moment)
            victim.kill()
            if opener is living:
                answer = living.result(number)
                # bad_offer: its keys went while they were read
                reasons = ("peer_gone", "not_found", "refused", "timeout", "bad_offer", "occupied")
                assert answer == {} or answer["error"] in reasons, answer
        else:
            connect(opener, acceptor)
            sending = living.start("send", peer=victim.domid, **work)
            receiving = living.start("receive", peer=victim.domid, **work)
            victim.start("send", peer=living.domid, **work)
            time.sleep(moment)
            victim.kill()
            assert living.do("ended", peer=victim.domid)["reason"] == "peer_gone"
            assert living.result(sending)["error"] in ("peer_gone", "closed")
            assert "error" in living.result(receiving)
        living.do("forget", peer=victim.domid)
        quiet(idle, living)


@pytest.mark.parametrize(("one_kind", "other_kind"), PAIRS[:1] + PAIRS[2:])
def test_a_host_killed_while_straws_are_busy(start: Starter, rundir: Path, one_kind: str, other_kind: str) -> None:
    """Both sides say host_down, nothing is left, and a BEAM is a domain of the next host by itself."""
    with HostProcess(rundir) as host:
        one, other = start(one_kind, otp="otp28"), start(other_kind)
        connect(one, other)
        work = {"seed": 3, "count": 100_000, "limit": 100_000}
        numbers = [one.start("send", peer=other.domid, **work), other.start("receive", peer=one.domid, **work)]
        time.sleep(0.05)
        host.kill()
        for peer, away in ((one, other), (other, one)):
            assert peer.do("ended", peer=away.domid)["reason"] == "host_down"
        assert {one.result(numbers[0])["error"], other.result(numbers[1])["error"]} <= {"host_down", "closed"}
    with HostProcess(rundir):
        one.domid = one.eval("straw_peer:do({up, 2})")
        again = start("python")
        connect(one, again)
        work = {"seed": 4, "count": 20, "limit": 100_000}
        receiving = again.start("receive", peer=one.domid, **work)
        assert one.do("send", peer=again.domid, **work) == again.result(receiving)
        status = one.do("status")
        assert sum(status["held"].values()) == 2 and status["mapped"] == 1, status
        assert one.do("stop")


def test_a_host_killed_while_a_straw_is_opened(start: Starter, rundir: Path) -> None:
    one, other = None, None
    for turn in range(4):
        with HostProcess(rundir) as host:
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
    idle: dict[Any, Any] = {}
    memory = "erlang:memory(processes_used) + erlang:memory(binary) + erlang:memory(ets)"
    for turn in range(150):
        opener, acceptor = (one, other) if turn % 2 else (other, one)
        connect(opener, acceptor)
        closer, seen = (opener, acceptor) if turn % 4 < 2 else (acceptor, opener)
        closer.do("close", peer=seen.domid)
        seen.do("ended", peer=closer.domid)
        closer.do("ended", peer=seen.domid)
        if turn == 20:  # from here on nothing grows
            idle = {peer: settled(peer) for peer in (one, other)}
            before = {peer: (peer.eval("length(processes())"), peer.eval(memory)) for peer in (one, other)}
    quiet(idle, one, other)
    for peer in (one, other):
        assert peer.eval("length(processes())") == before[peer][0]
        assert peer.eval(memory) < before[peer][1] + (1 << 20)
