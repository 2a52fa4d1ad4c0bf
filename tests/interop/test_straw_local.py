"""Straws between processes on a local host: data both ways, ends from either side, deaths at random moments, leaks."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from membranekit.exchange import SOON, close, connect, exchange, kill_while_busy, kill_while_opening, open_at_once
from membranekit.processes import HostProcess, Peer
from waiting import becomes, soon

#: Descriptors that a domain loses with its host: the control connection, and that to the store.
GONE_WITH_HOST = 2


@pytest.fixture
def rundir(tmp_path: Path) -> Path:
    return tmp_path / "host"


@pytest.fixture
def host(rundir: Path) -> Iterator[HostProcess]:
    with HostProcess(rundir) as process:
        yield process


@pytest.mark.parametrize("ring", [0, 4096, 1 << 18, 1 << 20])
def test_data_both_ways_and_ends_from_either_side(host: HostProcess, rundir: Path, ring: int) -> None:
    with Peer(rundir, ring) as one, Peer(rundir, ring) as other:
        idle = one.do("status"), other.do("status")
        for opener, acceptor, closer in (
            (one, other, one),
            (one, other, other),
            (other, one, one),
            (other, one, other),
        ):
            connect(opener, acceptor)
            assert exchange(one, other) > 1 << 20
            close(closer, other if closer is one else one)
            becomes(one.quiet, idle[0])
            becomes(other.quiet, idle[1])
        assert set(one.do("stop")["held"].values()) == {0}


def test_both_open_at_once(host: HostProcess, rundir: Path) -> None:
    with Peer(rundir) as one, Peer(rundir) as other:
        idle = one.do("status"), other.do("status")
        for _ in range(10):
            open_at_once(one, other)
            exchange(one, other, count=20, limit=10_000)
            close(one, other)
            becomes(one.quiet, idle[0])
            becomes(other.quiet, idle[1])


@pytest.mark.parametrize("ring", [0, 1 << 18])
def test_a_peer_killed_at_any_moment(host: HostProcess, rundir: Path, ring: int) -> None:
    source = random.Random(ring)
    with Peer(rundir, ring) as living:
        idle, host_idle = living.do("status"), host.fds
        for turn in range(12):
            with Peer(rundir, ring) as victim:
                opener, acceptor = (living, victim) if turn % 2 else (victim, living)
                moment = source.random() * 0.05
                if turn < 4:
                    kill_while_opening(living, victim, opener, moment)
                else:
                    connect(opener, acceptor)
                    kill_while_busy(living, victim, turn, moment)
            living.do("forget", peer=victim.domid)
            becomes(living.quiet, idle)
            becomes(lambda: host.fds, host_idle)


def test_a_host_killed_while_straws_are_busy(rundir: Path) -> None:
    for turn in range(3):
        with HostProcess(rundir) as host, Peer(rundir) as one, Peer(rundir) as other:
            idle = [peer.do("status")["fds"] for peer in (one, other)]
            connect(one, other)
            work = {"seed": turn, "count": 100_000, "limit": 100_000}
            numbers = [one.start("send", peer=other.domid, **work), other.start("receive", peer=one.domid, **work)]
            time.sleep(0.05 * turn)
            host.kill()
            began = time.monotonic()
            for peer, away in ((one, other), (other, one)):
                assert peer.do("ended", peer=away.domid)["reason"] == "host_down"
            assert time.monotonic() - began < SOON
            assert {one.result(numbers[0])["error"], other.result(numbers[1])["error"]} == {"host_down"}
            for peer, fds in zip((one, other), idle, strict=True):
                status = peer.do("status")
                assert status["mapped"] == 0 and status["watches"] == 0 and set(status["held"].values()) == {0}
                assert status["fds"] == fds - GONE_WITH_HOST


def test_a_host_killed_while_a_straw_is_opened(rundir: Path) -> None:
    for turn in range(6):
        with HostProcess(rundir) as host, Peer(rundir) as one, Peer(rundir) as other:
            idle = [peer.do("status")["fds"] for peer in (one, other)]
            number = one.start("open", peer=other.domid)
            time.sleep(0.004 * turn)
            host.kill()
            answer = one.result(number)
            assert answer == {} or answer["error"] == "host_down"
            for peer, fds in zip((one, other), idle, strict=True):
                peer.do("quiet")
                status = soon(lambda peer=peer: (now := peer.do("status"))["down"] and now)
                assert status["mapped"] == 0 and set(status["held"].values()) == {0}
                assert status["fds"] == fds - GONE_WITH_HOST


def test_many_opens_and_closes_leave_nothing(host: HostProcess, rundir: Path) -> None:
    with Peer(rundir) as one, Peer(rundir) as other:
        idle = one.do("status"), other.do("status")
        for turn in range(60):
            opener, acceptor = (one, other) if turn % 2 else (other, one)
            connect(opener, acceptor)
            closer, seen = (opener, acceptor) if turn % 4 < 2 else (acceptor, opener)
            close(closer, seen)
            one.quiet()
            other.quiet()
        becomes(one.quiet, idle[0])
        becomes(other.quiet, idle[1])
