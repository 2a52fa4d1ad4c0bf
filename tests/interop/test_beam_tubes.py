"""Tubes of BEAMs: to Python, from Python, to each other; on both OTPs. What is full, who closes, who dies, and what
strangers write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beamkit.tubepeer import BeamTubes, Key, PythonTubes, packets
from membranekit.processes import HostProcess
from waiting import becomes

from pores.backends.local import LocalBackend

pytestmark = pytest.mark.usefixtures("python_only")

#: opener, acceptor
PAIRS = [("beam", "python"), ("python", "beam"), ("beam", "beam")]
RELEASES = ["otp25", "otp28"]

Starter = Callable[..., Any]


@pytest.fixture
def start(start_beam: Starter, app: Path, beams: Path, rundir: str) -> Iterator[Starter]:
    """start("beam" or "python", otp) makes a domain that ends with the test."""
    pythons: list[PythonTubes] = []

    def make(kind: str, otp: str = "otp25") -> Any:
        if kind == "python":
            pythons.append(PythonTubes(rundir))
            return pythons[-1]
        return BeamTubes(start_beam(otp, name=None, paths=[app]), rundir)

    yield make
    for python in pythons:
        python.kill()


def connect(opener: Any, acceptor: Any, number: int) -> tuple[Key, Key]:
    """Both sides' names of a tube that is open now."""
    assert opener.do("open", acceptor.domid, number) == {}
    keys = (acceptor.domid, number, True), (opener.domid, number, False)
    acceptor.do("wait", keys[1])
    return keys


def ends(peer: Any, key: Key, *reasons: str) -> list[bytes]:
    """It has ended so; what came that had not been asked for."""
    answer = peer.do("ended", key)
    assert answer["reason"] in reasons, answer
    return only_packets(answer["got"])


def only_packets(got: list[Any]) -> list[bytes]:
    """Without {tube_passive, Tube}."""
    return [packet for packet in got if packet != "passive"]


def settled(peer: Any) -> Any:
    """Its status when no pore is left; a BEAM's descriptors are closed a little later, when it polls no more."""
    status = peer.do("quiet")
    return {
        key: value for key, value in status.items() if key in ("keys", "fds", "held", "pores", "watches", "processes")
    }


def quiet(idle: dict[Any, Any], *peers: Any) -> None:
    for peer in peers:
        becomes(lambda peer=peer: settled(peer), idle[peer])


@pytest.mark.parametrize("otp", RELEASES)
@pytest.mark.parametrize(("opener", "acceptor"), PAIRS)
def test_packets_both_ways_and_ends_from_either_side(
    start: Starter, host: HostProcess, opener: str, acceptor: str, otp: str
) -> None:
    """Several tubes at once, packets of all sizes; by recv and as messages; what is left comes before the end."""
    one, other = start(opener, otp), start(acceptor, otp)
    idle = {peer: settled(peer) for peer in (one, other)}
    for closer in (0, 1):
        tubes = [connect(one, other, number) for number in (1, 7)]
        assert one.do("open", other.domid, 7) == {"error": "exists"}
        for number, keys in enumerate(tubes):
            both = [(one, keys[0]), (other, keys[1])]
            for (a, mine), (b, its), ask in ((both[0], both[1], "messages"), (both[1], both[0], "recv")):
                sending = a.start("send", mine, number + 3, 100)
                got = b.do(ask, its, 100)["got"]
                assert only_packets(got) == list(packets(number + 3, 100))
                assert a.result(sending) == {"sent": 100}
        for keys in tubes:
            both = [(one, keys[0]), (other, keys[1])]
            (a, mine), (b, its) = both[closer], both[1 - closer]
            assert a.do("send", mine, 9, 5) == {"sent": 5}
            a.do("close", mine)
            assert ends(b, its, "peer_closed") == list(packets(9, 5))
            assert ends(a, mine, "closed") == []
        quiet(idle, one, other)
    for peer in (one, other):
        peer.do("stop")


@pytest.mark.parametrize(("opener", "acceptor"), PAIRS)
def test_31_packets_fit_and_the_next_waits_for_a_slot(
    start: Starter, host: HostProcess, opener: str, acceptor: str
) -> None:
    one, other = start(opener, "otp28"), start(acceptor)
    key, seen = connect(one, other, 3)
    for (a, mine), (b, its) in (((one, key), (other, seen)), ((other, seen), (one, key))):
        filled = a.do("fill", mine, 33)
        assert [word in (True, "ok") for word in filled["sent"]] == [True] * 31 + [False] * 2
        assert filled["slots"] == 0
        waiting = a.start("send", mine, 1, 40)
        assert b.do("recv", its, 71)["got"] == [bytes([n + 1]) for n in range(31)] + list(packets(1, 40))
        assert a.result(waiting) == {"sent": 40}
        if isinstance(a, BeamTubes):
            becomes(lambda a=a, mine=mine: a.do("can_send", mine, 31), {"now": True})  # its poke is on its way
            a.do("fill", mine, 20)
            assert a.do("can_send", mine, 11) == {"now": True}
            assert a.do("can_send", mine, 25) == {"now": False}
            b.do("recv", its, 20)
            assert a.do("told", mine)["slots"] >= 25


@pytest.mark.parametrize(("living_kind", "victim_kind"), PAIRS)
def test_a_peer_is_killed(start: Starter, host: HostProcess, living_kind: str, victim_kind: str) -> None:
    living = start(living_kind, "otp28")
    idle = {living: settled(living)}
    for turn in range(4):
        victim = start(victim_kind)
        opener, acceptor = (living, victim) if turn % 2 else (victim, living)
        keys = connect(opener, acceptor, 1)
        mine, its = keys if opener is living else keys[::-1]
        number = living.start("send", mine, 1, 100_000)
        if turn < 2:  # it takes some, leaves some and dies
            victim.do("send", its, 2, 10)
            victim.do("recv", its, 50)
        victim.kill()
        left = ends(living, mine, "peer_gone")
        assert left == (list(packets(2, 10)) if turn < 2 else [])
        assert living.result(number)["error"] in ("peer_gone", "closed")
        quiet(idle, living)
        if turn == 1:  # and another one, before it could open anything
            early = start(victim_kind)
            number = living.start("open", early.domid, 5)
            early.kill()
            answer = living.result(number)
            if answer == {}:
                ends(living, (early.domid, 5, True), "peer_gone")
            else:
                assert answer["error"] in ("peer_gone", "not_found", "refused", "timeout", "bad_offer", "occupied")
            quiet(idle, living)


def test_a_host_is_killed(start: Starter, rundir: str) -> None:
    """Both say so, and the BEAM has tubes again in the next one, as another domain."""
    with HostProcess(Path(rundir)) as host:
        one, other = start("beam", "otp28"), start("python")
        key, seen = connect(one, other, 1)
        number = one.start("send", key, 1, 100_000)
        host.kill()
        left = ends(other, seen, "host_down")
        assert left == list(packets(1, len(left))) and ends(one, key, "host_down") == []
        assert one.result(number)["error"] in ("host_down", "closed")
    with HostProcess(Path(rundir)):
        one.domid = one.do("up", 2)
        again = start("python")
        for opener, acceptor in ((one, again), (again, one)):
            key, seen = connect(opener, acceptor, 1)
            opener.do("send", key, 5, 10)
            assert acceptor.do("recv", seen, 10)["got"] == list(packets(5, 10))


@pytest.mark.parametrize("otp", RELEASES)
def test_refusals_and_owners(start: Starter, host: HostProcess, otp: str) -> None:
    one, other = start("beam", otp), start("python")
    idle = {peer: settled(peer) for peer in (one, other)}
    assert one.do("open", one.domid, 1) == {"error": "self"}
    assert one.do("open", 99, 1) == {"error": "not_found"}
    assert one.do("open", other.domid, 32752) == {"error": "not_found"}
    # The first number that is free; so many of one peer and no more.
    taken = [connect(one, other, 2)[0]]
    for number in (1, *range(3, 17)):
        assert one.do("open", other.domid, "any") == {}
        taken.append((other.domid, number, True))
        one.do("wait", taken[-1])
    assert one.do("open", other.domid, "any") == {"error": "limit"}
    # Who owns it closes it by its death; nobody else may receive, accept or give it away.
    one.do("close", taken[0])
    ends(other, (one.domid, 2, False), "peer_closed")
    assert ends(one, taken.pop(0), "closed") == []
    becomes(lambda: one.do("status")["pores"], 15)
    tube = f"{{ok, T}} = tube:open({other.domid}), "
    asked = one.eval(
        tube + "Me = self(), spawn(fun() -> Me ! {said, [tube:recv(T), tube:accept(T), tube:can_send(T, 1), "
        "tube:controlling_process(T, self())]} end), receive {said, Said} -> [Why || {error, Why} <- Said] end"
    )
    assert asked == ["not_owner", "taken", "not_owner", "not_owner"]
    ends(other, (one.domid, 2, False), "peer_closed")  # what evaluates has ended
    becomes(lambda: one.do("status")["pores"], 15)
    assert one.eval(tube + "[catch tube:send(T, P) || P <- [[], <<0:(4097 * 8)>>]], tube:recv(T, 10)") == (
        "error",
        "timeout",
    )
    ends(other, (one.domid, 2, False), "peer_closed")
    other.do("close", (one.domid, 1, False))
    ends(one, (other.domid, 1, True), "peer_closed")
    # Whoever stops closes the others.
    assert one.do("stop") == "undefined"
    for number in range(3, 17):
        ends(other, (one.domid, number, False), "peer_closed")
    quiet({other: idle[other]}, other)


def test_many_opens_and_closes_leave_nothing(start: Starter, host: HostProcess) -> None:
    one, other = start("beam", "otp28"), start("beam")
    idle = {peer: settled(peer) for peer in (one, other)}
    for turn in range(60):
        opener, acceptor = (one, other) if turn % 2 else (other, one)
        key, seen = connect(opener, acceptor, turn % 3)
        both = [(opener, key), (acceptor, seen)]
        (a, mine), (b, its) = both if turn % 4 < 2 else both[::-1]
        a.do("close", mine)
        ends(b, its, "peer_closed")
        ends(a, mine, "closed")
    quiet(idle, one, other)


FORGED = [
    ("4/1", "/local/domain/4/data/nock/{me}/1"),  # in the name of 4
    ("{it}/1", "/local/domain/4/data/nock/{me}/1"),
    ("{it}/1", "/local/domain/{it}/data/nock/{me}/2"),
    ("{it}/2", "/local/domain/{it}/data/nock/{me}/2"),  # all right, but its own directory does not say so
    ("{it}/3", "x" * 1500),
    ("{it}/4", "/local/domain/{it}/data/warts/{me}"),
    ("{it}/01", "/local/domain/{it}/data/nock/{me}/01"),
    ("0{it}/1", "/local/domain/{it}/data/nock/{me}/1"),
    ("{me}/1", "/local/domain/{me}/data/nock/{me}/1"),
    ("{it}/99999", "/local/domain/{it}/data/nock/{me}/99999"),
    ("{it}/nock", "/"),
]


@pytest.mark.parametrize("otp", RELEASES)
def test_forged_knocks_get_nothing(start: Starter, host: HostProcess, rundir: str, otp: str) -> None:
    one, other = start("beam", otp), start("python")

    async def forge() -> None:
        backend = await LocalBackend.connect(rundir, start=False)
        store = await backend.store()
        for name, nock in FORGED:
            path = f"/local/domain/{one.domid}/data/tip/{name}/nock".format(it=backend.domid, me=one.domid)
            await store.write(path, nock.format(it=backend.domid, me=one.domid).encode())
        await store.close()
        await backend.close()

    asyncio.run(forge())
    becomes(lambda: sum(one.do("status")["counts"].values()), len(FORGED))
    status = one.do("status")
    assert sum(status["held"].values()) == status["pores"] == 0, status
    key, seen = connect(other, one, 1)
    other.do("send", key, 1, 3)
    assert one.do("recv", seen, 3)["got"] == list(packets(1, 3))
    one.do("stop")
