"""The membrane's machine in memory: opening, closing, glare, timeouts, stale keys, strangers; itself and LING."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # membranekit; there is no __init__.py below tests/

from membranekit.ling import Ling
from membranekit.world import Domain, World

from pores.keys import Terms
from pores.kinds import TUBE_KIND
from pores.membrane_table import ACTIVE, PASSIVE
from pores.work import Closed, Key, Limits, Opened, Refused, Reported, Stopped

SEEDS = range(40)


def two(seed: int = 0, **options: object) -> tuple[World, Domain, Domain]:
    world = World(seed)
    one, other = world.add(1, **options), world.add(2, **options)  # type: ignore[arg-type]
    one.start()
    other.start()
    world.settle()
    return world, one, other


def stopped(world: World, *domains: Domain) -> None:
    for domain in domains:
        domain.stop()
    world.settle(10)
    assert all(domain.of(Stopped) for domain in domains)
    world.nothing_left()


@pytest.mark.parametrize("seed", SEEDS)
def test_open_and_close_by_the_opener(seed: int) -> None:
    world, one, other = two(seed)
    one.open(2)
    world.settle()
    (opened,) = one.of(Opened)
    (seen,) = other.of(Opened)
    assert opened.asked and not seen.asked and opened.terms == seen.terms
    assert opened.terms == Terms("erlang", "otp", 1 << 18, True)
    one.close(opened.key)
    world.settle(20)
    assert one.of(Closed) == [Closed(opened.key, "closed")]
    assert other.of(Closed) == [Closed(seen.key, "peer_closed")]
    assert not one.machine.pores and not other.machine.pores
    stopped(world, one, other)


@pytest.mark.parametrize("seed", SEEDS)
def test_close_by_the_acceptor(seed: int) -> None:
    world, one, other = two(seed)
    one.open(2)
    world.settle()
    other.close(other.of(Opened)[0].key)
    world.settle(20)
    assert one.of(Closed) == [Closed(Key(PASSIVE, 2), "peer_closed")]
    assert other.of(Closed) == [Closed(Key(ACTIVE, 1), "closed")]
    one.open(2)
    world.settle(20)
    assert len(one.of(Opened)) == 2
    stopped(world, one, other)


@pytest.mark.parametrize("seed", SEEDS)
def test_glare_leaves_one_straw_the_lower_domain_s(seed: int) -> None:
    world, one, other = two(seed)
    one.open(2)
    world.steps(seed)
    other.open(1)
    world.settle(30)
    assert not one.asked and not other.asked
    straws = [one.connected(2), other.connected(1)]
    if seed < 12:  # surely at once: neither had seen the other's knock
        assert straws == [[Key(PASSIVE, 2)], [Key(ACTIVE, 1)]]
        assert one.of(Opened)[0].asked and other.of(Opened)[0].asked
    assert len(straws[0]) == len(straws[1]) >= 1
    stopped(world, one, other)


@pytest.mark.parametrize("seed", SEEDS)
def test_glare_whoever_is_first(seed: int) -> None:
    world, one, other = two(seed)
    other.open(1)
    world.steps(seed)
    one.open(2)
    world.settle(30)
    assert not one.asked and not other.asked
    assert len(one.connected(2)) == len(other.connected(1)) >= 1
    stopped(world, one, other)


def test_refusals() -> None:
    world, one, other = two()
    for peer, reason in ((1, "self"), (7, "not_found"), (99999, "not_found"), (-1, "not_found")):
        one.open(peer)
        world.settle()
        assert one.of(Refused)[-1].reason == reason
    one.open(2)
    one.asked.pop(2)
    one.asked[2] = world.now
    world.settle()
    one.open(2)
    assert one.of(Refused)[-1].reason == "exists"
    other.open(1)
    assert other.of(Refused)[-1].reason == "exists"  # it has opened to us
    stopped(world, one, other)


def test_a_domain_that_never_started_is_not_found() -> None:
    world = World()
    one = world.add(1)
    world.tree.introduce(2)
    one.start()
    world.settle()
    one.open(2)
    world.settle(10)
    assert one.of(Refused)[-1].reason == "not_found"
    stopped(world, one)


def test_a_peer_that_does_not_answer() -> None:
    world, one, other = two()
    other.watch_events.clear()
    other.alive = False  # it is there, and does nothing
    one.open(2)
    world.settle(4.4)
    assert not one.of(Refused)
    world.settle(0.2)
    assert one.of(Refused) == [Refused(2, "", "timeout")]
    assert world.tree.open(0).read("/local/domain/1/data/warts/2/state") == b"2"  # it can't be withdrawn
    other.alive = True
    world.settle(30)
    # When it comes at last, the handshake is finished and the straw closed.
    assert not one.of(Opened) and not one.machine.pores and not other.machine.pores
    stopped(world, one, other)


def test_asking_again_after_a_timeout_joins_the_knock_that_is_out() -> None:
    world, one, other = two()
    other.alive = False
    one.open(2)
    world.settle(6)
    assert one.of(Refused) == [Refused(2, "", "timeout")]
    one.open(2)
    other.alive = True
    world.settle()
    assert one.of(Opened)[0].asked
    stopped(world, one, other)


@pytest.mark.parametrize("steps", range(60))
def test_an_opener_that_gives_up_at_every_step(steps: int) -> None:
    world, one, other = two(steps)
    one.open(2)
    world.steps(steps)
    one.machine.give_up(2, world.now)
    one.asked.clear()
    one.pump()
    world.settle(100)
    assert len(one.connected(2)) == len(other.connected(1))
    stopped(world, one, other)


@pytest.mark.parametrize("steps", range(60))
@pytest.mark.parametrize("who", [1, 2])
def test_a_side_that_stalls_at_every_step(steps: int, who: int) -> None:
    world, one, other = two(steps)
    one.open(2)
    world.steps(steps)
    stalled, living = (one, other) if who == 1 else (other, one)
    stalled.alive = False
    world.settle(10)
    assert not living.asked, "the caller has its answer in time"
    living.open(stalled.domid)
    world.settle(1)
    if living.connected(stalled.domid):
        living.close(living.connected(stalled.domid)[0])
    world.settle(30)
    stalled.asked.clear()
    stalled.alive = True
    living.asked.clear()
    stalled.machine.handle_timer(world.now)
    while (event := stalled.machine.next_event()) is not None:
        stalled.events.append(event)
    world.settle(200)
    assert len(one.connected(2)) == len(other.connected(1))
    assert all(pore.state == "CONNECTED" for d in (one, other) for pore in d.machine.pores.values())
    stopped(world, one, other)


@pytest.mark.parametrize("steps", range(60))
@pytest.mark.parametrize("who", [1, 2])
def test_death_at_every_step(steps: int, who: int) -> None:
    world, one, other = two(steps)
    one.open(2)
    world.steps(steps)
    dead, living = (one, other) if who == 1 else (other, one)
    dead.die()
    world.settle(100)
    assert not living.machine.pores
    assert len(living.of(Opened)) == len(living.of(Closed))
    assert not living.asked
    stopped(world, living)


@pytest.mark.parametrize("steps", range(0, 60, 2))
def test_a_host_that_dies_at_every_step(steps: int) -> None:
    world, one, other = two(steps)
    one.open(2)
    world.steps(steps)
    for domain in (one, other):
        domain.work.clear()
        domain.machine.host_down(world.now)
        domain.pump()
        assert domain.of(Stopped) and not domain.machine.pores and not domain.asked
        assert all(closed.reason == "host_down" for closed in domain.of(Closed))
        assert domain.machine.get_timer() is None


@pytest.mark.parametrize("steps", range(60))
def test_stop_at_every_step(steps: int) -> None:
    world, one, other = two(steps)
    one.open(2)
    world.steps(steps)
    one.stop()
    world.settle(100)
    assert one.of(Stopped) and not other.machine.pores
    stopped(world, other)
    world.nothing_left()


def test_formats_and_extensions_are_what_both_can() -> None:
    for ours, theirs, agreed in (
        (Terms("json"), Terms(), Terms("json")),
        (Terms(), Terms("json"), Terms("json")),
        (Terms(), Terms(dialect="otp", ring_bytes=8192), Terms()),
        (Terms(dialect="otp"), Terms(dialect="otp", ring_bytes=8192, suppress=True), Terms(dialect="otp")),
        (
            Terms(dialect="otp", ring_bytes=1 << 20, suppress=True),
            Terms(dialect="otp", ring_bytes=8192),
            Terms(dialect="otp", ring_bytes=8192),
        ),
    ):
        world = World()
        one, other = world.add(1, wishes=ours), world.add(2, wishes=theirs)
        one.start()
        other.start()
        world.settle()
        one.open(2)
        world.settle()
        assert one.of(Opened)[0].terms == other.of(Opened)[0].terms == agreed
        stopped(world, one, other)


def test_memory_for_a_wide_ring_is_refused_then_it_is_ling_s() -> None:
    world, one, other = two()
    world.hypervisor.refuse = {"wide"}
    one.open(2)
    world.settle()
    assert one.of(Opened)[0].terms == other.of(Opened)[0].terms == Terms("erlang", "otp")
    stopped(world, one, other)


@pytest.mark.parametrize("verb", ["grant", "attach"])
def test_no_memory_at_all(verb: str) -> None:
    world, one, other = two()
    world.hypervisor.refuse = {verb}
    one.open(2)
    world.settle(100)
    assert one.of(Refused) and not one.of(Opened)
    assert not one.machine.pores and not other.machine.pores
    world.hypervisor.refuse = set()
    stopped(world, one, other)


# ── what an earlier run left ──


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restart_under_the_same_id(seed: int) -> None:
    world, one, other = two(seed)
    one.open(2)
    world.steps(seed * 3)
    # It dies without the host's notice: keys stay, mappings go with the process.
    world.hypervisor.died(1)
    one.session.close()
    again = world.add(1)
    again.start()
    world.settle(20)
    assert not other.connected(1)
    again.open(2)
    world.settle(30)
    assert len(again.connected(2)) == len(other.connected(1)) == 1
    stopped(world, again, other)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restart_of_the_acceptor_under_the_same_id(seed: int) -> None:
    world, one, other = two(seed)
    one.open(2)
    world.steps(seed * 3)
    world.hypervisor.died(2)
    other.session.close()
    again = world.add(2)
    again.start()
    world.settle(80)
    if one.connected(2):
        assert again.connected(1)
    else:
        one.open(2)
        world.settle(30)
        assert one.connected(2) == [Key(PASSIVE, 2)] and again.connected(1) == [Key(ACTIVE, 1)]
    stopped(world, one, again)


def test_a_knock_from_before_the_start_is_answered() -> None:
    world, one, other = two()
    other.stop()
    world.settle(10)
    dom0 = world.tree.open(0)
    dom0.mkdir("/local/domain/2/data/straw")
    dom0.set_perms("/local/domain/2/data/straw", ["b2"])
    one.open(2)
    world.settle(1)
    again = world.add(2)
    again.start()
    world.settle()
    assert one.of(Opened) and again.of(Opened)
    stopped(world, one, again)


# ── strangers ──


def forge(world: World, domid: int, x: int | str, warts: str) -> None:
    """Domain `domid` writes a knock in the name of x to domain 2."""
    session = world.tree.open(domid)
    session.write(f"/local/domain/2/data/straw/{x}/warts", warts.encode())


@pytest.mark.parametrize(
    ("name", "warts"),
    [
        ("1", "/local/domain/1/data/warts/2"),  # in the name of 1, but 3 owns the directory
        ("3", "/local/domain/1/data/warts/2"),
        ("3", "/local/domain/3/data/warts/2/"),
        ("3", "/local/domain/3/data/warts/02"),
        ("3", "/local/domain/3/data/warts/../2"),
        ("3", "/local/domain/2/data/warts/3"),
        ("3", "/"),
        ("3", "x" * 1500),
        ("03", "/local/domain/3/data/warts/2"),
        ("2", "/local/domain/2/data/warts/2"),
        ("32752", "/local/domain/3/data/warts/2"),
        ("x", "/local/domain/3/data/warts/2"),
        ("-3", "/local/domain/3/data/warts/2"),
        ("3", "/local/domain/3/data/warts/2"),  # all right, but its own directory does not say so
    ],
)
def test_forged_knocks_get_nothing(name: str, warts: str) -> None:
    world, one, other = two()
    world.tree.introduce(3)
    forge(world, 3, name, warts)
    world.settle(30)
    assert not world.hypervisor.grants and not other.machine.pores
    assert sum(other.machine.counts.values()) == 1 and other.of(Reported)
    # The one in whose name it was forged can still open.
    one.open(2)
    world.settle(10)
    assert one.connected(2) and other.connected(1)
    stopped(world, one, other)


def test_a_stranger_that_was_there_first_is_swept_away_by_the_real_one() -> None:
    world, one, other = two()
    world.tree.introduce(3)
    forge(world, 3, 1, "/local/domain/1/data/warts/2")
    world.settle(1)
    one.open(2)
    world.settle(10)
    assert one.connected(2)
    # And afterwards a third domain can neither read refs' owner away nor change a key of it.
    session = world.tree.open(3)
    for key in ("state", "ring-refs", "warts", "x"):
        with pytest.raises(Exception, match="EACCES"):
            session.write(f"/local/domain/2/data/straw/1/{key}", b"6")
    with pytest.raises(Exception, match="EACCES"):
        session.remove("/local/domain/2/data/straw/1")
    stopped(world, one, other)


def test_a_flood_of_knocks_costs_a_bounded_amount() -> None:
    limits = Limits(knocks_per_second=10, knocks_waiting=20)
    world, one, other = two(limits=limits)
    world.tree.introduce(3)
    session = world.tree.open(3)
    for x in range(100, 200):
        session.write(f"/local/domain/2/data/straw/{x}/warts", b"/")
    for _ in range(1000):
        if not other.watch_events:
            break
        other.fire()
    assert other.machine.counts["flooded"] >= 60
    assert len(other.work) <= 11
    world.settle(10)
    one.open(2)
    world.settle(10)
    assert one.connected(2)
    stopped(world, one, other)


def test_refs_of_others_are_not_believed() -> None:
    world, one, other = two()
    one.open(2)
    world.settle(until=lambda: one.machine.pores and one.machine.pores[Key(PASSIVE, 2)].state == "READING")
    dom0 = world.tree.open(0)
    dom0.set_perms("/local/domain/2/data/straw/1/event-channel", ["r0"])  # as if somebody else had made it
    world.settle(100)
    assert one.of(Refused)[0].reason == "bad_offer" and one.machine.counts["bad_offer"] == 1
    assert not one.machine.pores and not other.machine.pores
    stopped(world, one, other)


def test_limits_of_pores() -> None:
    world = World()
    one = world.add(1, limits=Limits(pores=2))
    others = [world.add(n) for n in (2, 3, 4)]
    for domain in (one, *others):
        domain.start()
    world.settle()
    for peer in (2, 3, 4):
        one.open(peer)
    world.settle(10)
    assert [refused.reason for refused in one.of(Refused)] == ["limit"]
    stopped(world, one, *others)


# ── LING ──


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("closer", ["we", "ling"])
def test_ling_opens(seed: int, closer: str) -> None:
    world = World(seed)
    we, ling = world.add(1), Ling(world, 5)
    we.start()
    world.settle()
    ling.open(1)
    world.settle(5)
    assert ling.opened == {1: "erlang"}
    assert we.of(Opened)[0].terms == Terms()
    if closer == "we":
        we.close(Key(ACTIVE, 5))
    else:
        ling.shut("passive", 1)  # it unmaps and says nothing: its end of the channel is all we see
        world.settle(0.1)
        we.ended(Key(ACTIVE, 5))
    world.settle(30)
    assert len(we.of(Closed)) == 1
    if closer == "we":
        assert not ling.straws and not we.machine.pores and not world.hypervisor.grants
    stopped(world, we)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("closer", ["we", "ling"])
def test_we_open_to_ling(seed: int, closer: str) -> None:
    world = World(seed)
    we, ling = world.add(1), Ling(world, 5)
    we.start()
    world.settle()
    we.open(5)
    world.settle(5)
    assert we.of(Opened)[0].terms == Terms() and ("active", 1) in ling.straws
    if closer == "we":
        we.close(Key(PASSIVE, 5))
    else:
        ling.shut("active", 1)
    world.settle(30)
    assert len(we.of(Closed)) == 1
    assert not ling.straws and ling.running is None and not we.machine.pores
    assert not world.hypervisor.grants and not world.hypervisor.mapped
    # And once more.
    if closer == "we":
        we.open(5)
        world.settle(5)
        assert ("active", 1) in ling.straws
        we.close(Key(PASSIVE, 5))
        world.settle(30)
    stopped(world, we)


def test_a_ling_that_dies_while_its_straw_is_kept_for_it() -> None:
    world = World()
    we, ling = world.add(1), Ling(world, 5)
    we.start()
    world.settle()
    ling.open(1)
    world.settle(0.1)
    we.close(Key(ACTIVE, 5))
    world.settle(0.1)
    assert we.machine.pores[Key(ACTIVE, 5)].state == "KEEPING"
    we.ended(Key(ACTIVE, 5))
    assert we.machine.pores[Key(ACTIVE, 5)].state == "SAYING"
    world.settle(30)
    assert not we.machine.pores
    stopped(world, we)


@pytest.mark.parametrize("seed", SEEDS)
def test_glare_with_ling_leaves_both(seed: int) -> None:
    world = World(seed)
    we, ling = world.add(1), Ling(world, 5)
    we.start()
    world.settle()
    ling.open(1)
    we.open(5)
    world.settle(5)
    assert sorted(we.connected(5)) == [Key(ACTIVE, 5), Key(PASSIVE, 5)]
    assert sorted(ling.straws) == [("active", 1), ("passive", 1)]
    stopped(world, we)
    world.settle(30)
    assert not ling.straws


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ling_that_is_busy_for_long(seed: int) -> None:
    world = World(seed)
    we, ling = world.add(1), Ling(world, 5)
    we.start()
    world.settle()
    ling.mute = True
    we.open(5)
    world.settle(6)
    assert we.of(Refused) == [Refused(5, "", "timeout")]
    ling.mute = False
    world.settle(30)
    assert not ling.straws and ling.running is None and not we.machine.pores
    we.open(5)
    world.settle(5)
    assert we.connected(5)
    stopped(world, we)
    world.settle(30)
    assert not ling.straws and ling.running is None


@pytest.mark.parametrize("seed", SEEDS)
def test_our_restart_frees_a_ling(seed: int) -> None:
    world = World(seed)
    we, _ = world.add(1), Ling(world, 5)
    we.start()
    world.settle()
    we.open(5)
    world.steps(seed * 2)
    world.hypervisor.died(1)
    we.session.close()
    del world.domains[1]
    world.settle()  # LING goes as far as it can
    again = world.add(1)
    again.start()
    world.settle(80)
    again.open(5)
    world.settle(30)
    assert again.connected(5) or again.of(Refused)
    stopped(world, again)


# ── tubes ──


@pytest.mark.parametrize("seed", range(10))
def test_tubes_have_numbers_and_the_same_table(seed: int) -> None:
    world, one, other = two(seed, kind=TUBE_KIND)
    for tid in ("1", "2"):
        one.asked[2] = world.now
        one.open(2, tid)
        world.settle()
    assert sorted(one.connected(2)) == [Key(PASSIVE, 2, "1"), Key(PASSIVE, 2, "2")]
    assert sorted(other.connected(1)) == [Key(ACTIVE, 1, "1"), Key(ACTIVE, 1, "2")]
    one.close(Key(PASSIVE, 2, "1"))
    world.settle(20)
    assert one.connected(2) == [Key(PASSIVE, 2, "2")]
    stopped(world, one, other)
