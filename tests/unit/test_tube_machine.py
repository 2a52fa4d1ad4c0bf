"""The membrane's machine with tubes: several of two domains, by number; restarts, deaths and strangers.

The Erlang machine replays these as well (tests/interop/test_beam_membrane.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # membranekit; there is no __init__.py below tests/

from membranekit.world import Domain, World

from pores.kinds import STRAW_KIND, TUBE_KIND, Kind
from pores.membrane_table import ACTIVE, PASSIVE
from pores.work import Closed, Key, Limits, Opened, Refused, Reported, Stopped


def two(seed: int = 0, limits: Limits | None = None) -> tuple[World, Domain, Domain]:
    world = World(seed)
    one, other = (world.add(domid, kind=TUBE_KIND, limits=limits) for domid in (1, 2))
    one.start()
    other.start()
    world.settle()
    return world, one, other


def opened(world: World, opener: Domain, peer: int, tid: str) -> None:
    opener.open(peer, tid)
    world.settle()
    assert Key(PASSIVE, peer, tid) in opener.connected(peer)


def stopped(world: World, *domains: Domain) -> None:
    for domain in domains:
        domain.stop()
    world.settle(10)
    assert all(domain.of(Stopped) for domain in domains)
    world.nothing_left()


@pytest.mark.parametrize("seed", range(20))
def test_each_side_has_its_own_numbers(seed: int) -> None:
    """The same number of either side is another tube: also when both open it at once."""
    world, one, other = two(seed)
    one.open(2, "1")
    world.steps(seed * 2)
    other.open(1, "1")
    world.settle()
    both = [Key(ACTIVE, 2, "1"), Key(PASSIVE, 2, "1")]
    assert sorted(one.connected(2)) == both
    one.close(both[0])
    world.settle(20)
    assert one.connected(2) == [both[1]] and other.connected(1) == [Key(ACTIVE, 1, "1")]
    assert other.of(Closed) == [Closed(Key(PASSIVE, 1, "1"), "peer_closed")]
    stopped(world, one, other)


@pytest.mark.parametrize("seed", range(10))
def test_a_number_may_be_used_again_at_once(seed: int) -> None:
    world, one, other = two(seed)
    opened(world, one, 2, "7")
    one.open(2, "7")
    assert one.of(Refused)[-1].reason == "exists"
    opened(world, one, 2, "0")
    for closer, key in ((one, Key(PASSIVE, 2, "7")), (other, Key(ACTIVE, 1, "7"))):
        closer.close(key)
        world.steps(seed)
        one.open(2, "7")
        world.settle(20)
        assert not one.asked
        if Key(PASSIVE, 2, "7") not in one.connected(2):  # its end had not come there yet: exists
            opened(world, one, 2, "7")
    assert len(one.connected(2)) == len(other.connected(1)) == 2
    stopped(world, one, other)


@pytest.mark.parametrize("tid", ["", "-1", "01", "32752", "x", "1/2"])
def test_what_is_no_number(tid: str) -> None:
    world, one, _ = two()
    one.open(2, tid)
    assert one.of(Refused)[-1].reason == "not_found"
    world.settle()


def test_so_many_of_one_peer_and_no_more() -> None:
    world, one, other = two(limits=Limits(per_peer=3))
    third = world.add(3, kind=TUBE_KIND)
    third.start()
    world.settle()
    for tid in ("1", "2", "3"):
        opened(world, one, 2, tid)
    one.open(2, "4")
    assert one.of(Refused)[-1].reason == "limit"
    opened(world, one, 3, "1")
    other.open(1, "1")
    assert other.of(Refused)[-1].reason == "limit"
    # A peer that asks for more waits until there is room for it.
    third.open(2, "1")
    world.settle()
    one.close(Key(PASSIVE, 2, "2"))
    world.settle(20)
    opened(world, one, 2, "4")
    stopped(world, one, other, third)


@pytest.mark.parametrize("seed", range(20))
def test_a_restart_under_the_same_id(seed: int) -> None:
    """What an earlier run left goes, on either side, and numbers are free again."""
    for victim in (1, 2):
        world, one, other = two(seed)
        opened(world, one, 2, "1")
        one.open(2, "2")
        world.steps(seed * 3)
        world.hypervisor.died(victim)
        (one if victim == 1 else other).session.close()
        again = world.add(victim, kind=TUBE_KIND)
        again.start()
        world.settle(80)
        living = other if victim == 1 else one
        opener = again if victim == 1 else one
        assert all(key.tid == "2" for key in living.connected(victim))
        for tid in ("1", "3"):
            opened(world, opener, 3 - opener.domid, tid)
        stopped(world, again, living)


@pytest.mark.parametrize("seed", range(20))
def test_a_peer_dies(seed: int) -> None:
    for victim in (1, 2):
        world, one, other = two(seed)
        opened(world, one, 2, "1")
        one.open(2, "2")
        world.steps(seed * 2)
        dying, living = (one, other) if victim == 1 else (other, one)
        dying.die()
        world.settle(20)
        assert not living.machine.pores and not living.asked
        assert [event.reason for event in living.of(Closed)] == ["peer_gone"] * len(living.of(Opened))
        stopped(world, living)


def test_knocks_from_before_the_watch_are_found() -> None:
    """An event that was lost: the first look at the whole tree finds the knock."""
    world, one, other = two()
    other.watch_events.clear()
    one.open(2, "5")
    for _ in range(1000):
        if not one.work:
            break
        world.act()
        other.watch_events.clear()
    other.fire_one(None, "/local/domain/2/data/tip")
    world.settle(5)
    assert other.connected(1) == [Key(ACTIVE, 1, "5")]
    stopped(world, one, other)


def forge(world: World, domid: int, x: str, nock: str) -> None:
    """Domain `domid` writes a knock in the name of x (domain/number) to domain 2."""
    world.tree.open(domid).write(f"/local/domain/2/data/tip/{x}/nock", nock.encode())


@pytest.mark.parametrize(
    ("name", "nock"),
    [
        ("4/1", "/local/domain/4/data/nock/2/1"),  # in the name of 4, but 3 owns the directory
        ("3/1", "/local/domain/4/data/nock/2/1"),
        ("3/1", "/local/domain/3/data/nock/2/2"),
        ("3/1", "/local/domain/3/data/nock/2/1/"),
        ("3/1", "/local/domain/3/data/nock/2"),
        ("3/1", "/local/domain/3/data/warts/2"),
        ("3/1", "/"),
        ("3/01", "/local/domain/3/data/nock/2/01"),
        ("03/1", "/local/domain/3/data/nock/2/1"),
        ("3", "/local/domain/3/data/nock/2"),
        ("3/1/2", "/local/domain/3/data/nock/2/1/2"),
        ("2/1", "/local/domain/2/data/nock/2/1"),
        ("3/32752", "/local/domain/3/data/nock/2/32752"),
        ("3/x", "/local/domain/3/data/nock/2/x"),
        ("3/1", "/local/domain/3/data/nock/2/1"),  # all right, but its own directory does not say so
    ],
)
def test_forged_knocks_get_nothing(name: str, nock: str) -> None:
    world, one, other = two()
    world.tree.introduce(3)
    forge(world, 3, name, nock)
    world.settle(30)
    assert not world.hypervisor.grants and not other.machine.pores
    assert sum(other.machine.counts.values()) == 1 and other.of(Reported)
    opened(world, one, 2, "1")
    assert other.connected(1)
    # Afterwards a third domain can change nothing of it.
    session = world.tree.open(3)
    for path in ("1/1/state", "1/1/ring-ref", "1/1/nock", "1/1", "1/2", "1"):
        with pytest.raises(Exception, match="EACCES"):
            session.write(f"/local/domain/2/data/tip/{path}", b"6")
        with pytest.raises(Exception, match=r"EACCES|ENOENT"):
            session.remove(f"/local/domain/2/data/tip/{path}")
    stopped(world, one, other)


@pytest.mark.parametrize("kind", [STRAW_KIND, TUBE_KIND])
def test_a_stranger_that_forbids_its_directory_does_not_keep_us_from_starting(kind: Kind) -> None:
    world = World()
    one, other = world.add(1, kind=kind), world.add(2, kind=kind)
    one.start()
    other.start()
    world.settle()
    world.tree.introduce(3)
    session = world.tree.open(3)
    squat = f"/local/domain/2/{kind.layout.active_top}/3"
    session.write(f"{squat}/1/state", b"4")
    session.write(f"{squat}/state", b"4")
    session.set_perms(squat, ["n3"])
    other.session.close()
    again = world.add(2, kind=kind)
    again.start()
    world.settle(10)
    tid = "1" if kind.layout.many else ""
    opened(world, one, 2, tid)
    assert again.connected(1) == [Key(ACTIVE, 1, tid)]
    stopped(world, one, again)
