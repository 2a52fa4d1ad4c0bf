"""A domain stops while others are about to open a straw to it: a LING neither crashes nor waits for ever."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # membranekit; there is no __init__.py below tests/

from membranekit.ling import Ling
from membranekit.world import World

from pores.work import Closed, Refused


@pytest.mark.parametrize("steps", range(60))
def test_a_ling_opens_while_we_stop(steps: int) -> None:
    """At every step. A LING that has made its directory is waited for, let in and sent away."""
    for seed in range(5):
        world = World(seed)
        we = world.add(6)
        we.start()
        ling = Ling(world, 5)
        world.settle()
        ling.open(6)
        world.steps(steps)
        we.stop()
        world.settle(20)
        assert we.machine.state == "stopped"
        assert ling.running is None, f"it waits for {ling.waiting}"
        assert not ling.straws
        world.nothing_left()


@pytest.mark.parametrize("steps", range(0, 60, 3))
def test_our_own_kind_opens_while_we_stop(steps: int) -> None:
    """It is told at once, and has nothing left."""
    for seed in range(5):
        world = World(seed)
        we, other = world.add(6), world.add(7)
        we.start()
        other.start()
        world.settle()
        other.open(6)
        world.steps(steps)
        we.stop()
        world.settle(20)
        assert we.machine.state == "stopped"
        assert other.of(Refused) or other.of(Closed)
        other.stop()
        world.settle(20)
        world.nothing_left()


def test_one_that_never_knocks_is_not_waited_for() -> None:
    """It has made its directory, and then nothing comes: half a second."""
    world = World()
    we = world.add(6)
    we.start()
    Ling(world, 5)
    world.settle()
    world.tree.open(5).mkdir("/local/domain/6/data/straw/5")
    world.settle()
    began = world.now
    we.stop()
    world.settle(20, until=lambda: we.machine.state == "stopped")
    assert world.now - began <= we.machine.limits.shut_time + 0.01
    world.nothing_left()


def test_nobody_knocks_anew_when_we_have_stopped() -> None:
    world = World()
    we = world.add(6)
    we.start()
    ling = Ling(world, 5)
    world.settle()
    with_mkdir = world.tree.open(5)
    we.stop()
    world.settle(until=lambda: we.machine.state == "stopped")
    ling.open(6)
    world.settle()
    assert ling.opened[6] == "not_found" and ling.running is None
    with_mkdir.close()
