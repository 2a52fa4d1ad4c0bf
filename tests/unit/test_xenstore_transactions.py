"""Transactions of the store: what they see, when they conflict, what the commit tells."""

from __future__ import annotations

import pytest
from storekit import refused

from pores.errors import XenstoreError
from pores.xenstore.tree import Session, Tree
from pores.xenstore.watches import Event


@pytest.fixture
def zero(tree: Tree) -> Session:
    zero = tree.open(0)
    for path in ("/a", "/a/b", "/c"):
        zero.write(path, b"0")
    return zero


@pytest.fixture
def five(tree: Tree) -> Session:
    return tree.open(5)


def test_what_it_sees(zero: Session) -> None:
    tid = zero.start_transaction()
    zero.write("/a", b"mine", tid)
    zero.mkdir("/new/node", tid)
    zero.remove("/a/b", tid)
    assert zero.read("/a", tid) == b"mine"
    assert zero.directory("/new", tid)[0] == ["node"]
    with refused("ENOENT"):
        zero.read("/a/b", tid)
    # Nobody else does.
    assert (zero.read("/a"), zero.read("/a/b")) == (b"0", b"0")
    with refused("ENOENT"):
        zero.read("/new")
    # It does not see others, either.
    zero.write("/c", b"theirs")
    assert zero.read("/c", tid) == b"0"
    zero.end_transaction(tid, False)
    assert (zero.read("/a"), zero.read("/c")) == (b"0", b"theirs")


def test_commit(zero: Session) -> None:
    tid = zero.start_transaction()
    zero.write("/a", b"1", tid)
    zero.remove("/a/b", tid)
    zero.set_perms("/c", ["r0", "b5"], tid)
    zero.mkdir("/d/e", tid)
    zero.end_transaction(tid, True)
    assert zero.read("/a") == b"1"
    assert zero.directory("/a")[0] == []
    assert zero.get_perms("/c") == ["r0", "b5"]
    assert zero.read("/d/e") == b""
    with refused("ENOENT"):
        zero.read("/a", tid)
    with refused("ENOENT"):
        zero.end_transaction(tid, True)


def test_numbers(zero: Session, five: Session) -> None:
    tid = zero.start_transaction()
    assert tid == 1
    assert five.start_transaction() == 1  # each session counts for itself
    with refused("ENOENT"):
        zero.end_transaction(0, True)
    with refused("EBUSY"):
        zero.start_transaction(tid)
    with refused("ENOENT"):
        zero.start_transaction(99)
    zero._next_tid = 0xFFFF_FFFF
    assert [zero.start_transaction() for _ in range(2)] == [0xFFFF_FFFF, 2]  # never 0, never one in use


CONFLICTS = [
    # read in the transaction, changed outside
    (lambda s, t: s.read("/a", t), lambda s: s.write("/a", b"1"), True),
    (lambda s, t: s.read("/a", t), lambda s: s.write("/a", b"0"), True),  # also when it looks the same
    (lambda s, t: s.read("/a/b", t), lambda s: s.remove("/a"), True),
    (lambda s, t: s.directory("/a", t), lambda s: s.mkdir("/a/x"), True),
    (lambda s, t: s.directory("/a", t), lambda s: s.remove("/a/b"), True),
    (lambda s, t: s.get_perms("/a", t), lambda s: s.set_perms("/a", ["r0"]), True),
    # only what was read
    (lambda s, t: s.read("/a", t), lambda s: s.write("/c", b"1"), False),
    (lambda s, t: s.read("/a", t), lambda s: s.write("/a/b", b"1"), False),
    (lambda s, t: s.read("/a", t), lambda s: s.mkdir("/a/x"), False),
    (lambda s, t: s.read("/a", t), lambda s: s.set_perms("/a", ["r0"]), False),
    (lambda s, t: s.directory("/a", t), lambda s: s.write("/a", b"1"), False),
    (lambda s, t: s.directory("/a", t), lambda s: s.mkdir("/a/b/x"), False),
    (lambda s, t: s.get_perms("/a", t), lambda s: s.write("/a", b"1"), False),
    # what is written needs no reading
    (lambda s, t: s.write("/a", b"2", t), lambda s: s.write("/a", b"1"), False),
    (lambda s, t: s.write("/x", b"2", t), lambda s: s.write("/x", b"1"), False),
    (lambda s, t: s.mkdir("/x/5", t), lambda s: s.mkdir("/x/7"), False),
    (lambda s, t: s.mkdir("/a/5", t), lambda s: s.remove("/a"), False),
    (lambda s, t: s.remove("/a", t), lambda s: s.write("/a/x", b"1"), False),
    (lambda s, t: s.remove("/a", t), lambda s: s.remove("/a"), False),
    # what can't be done any more
    (lambda s, t: s.set_perms("/a", ["r0"], t), lambda s: s.remove("/a"), True),
    # own writes, read back
    (lambda s, t: (s.write("/a", b"2", t), s.read("/a", t)), lambda s: s.write("/a", b"1"), False),
    (lambda s, t: (s.mkdir("/x/y", t), s.directory("/x", t)), lambda s: s.mkdir("/x/z"), False),
    (lambda s, t: (s.mkdir("/a/y", t), s.directory("/a", t)), lambda s: s.mkdir("/a/z"), True),
    (lambda s, t: (s.set_perms("/a", ["r0"], t), s.read("/a", t)), lambda s: s.write("/a", b"1"), True),
    (lambda s, t: (s.remove("/a", t), s.mkdir("/a", t), s.directory("/a", t)), lambda s: s.mkdir("/a/z"), False),
]


@pytest.mark.parametrize(("inside", "outside", "conflict"), CONFLICTS)
def test_conflicts(zero: Session, inside, outside, conflict: bool) -> None:  # type: ignore[no-untyped-def]
    tid = zero.start_transaction()
    inside(zero, tid)
    outside(zero)
    zero.write("/done", b"1", tid)
    if conflict:
        with refused("EAGAIN"):
            zero.end_transaction(tid, True)
        assert "done" not in zero.directory("/")[0]
        with refused("ENOENT"):
            zero.end_transaction(tid, True)  # it is over all the same
    else:
        zero.end_transaction(tid, True)
        assert zero.read("/done") == b"1"


def test_what_was_not_there_and_now_is(zero: Session) -> None:
    tid = zero.start_transaction()
    with refused("ENOENT"):
        zero.read("/x", tid)
    zero.mkdir("/y", tid)
    zero.mkdir("/x")
    with refused("EAGAIN"):
        zero.end_transaction(tid, True)


def test_two_openers_under_one_parent_do_not_meet(tree: Tree, zero: Session, five: Session) -> None:
    """LING's opener never tries again, and anybody may knock at the same time."""
    seven = tree.open(7)
    zero.mkdir("/straw")
    zero.set_perms("/straw", ["b0"])
    tids = five.start_transaction(), seven.start_transaction()
    for session, tid in ((five, tids[0]), (seven, tids[1])):
        session.mkdir(f"data/warts/{session.domid}", tid)
        session.write(f"data/warts/{session.domid}/state", b"2", tid)
        session.mkdir(f"/straw/{session.domid}", tid)
        session.write(f"/straw/{session.domid}/warts", b"x", tid)
    five.end_transaction(tids[0], True)
    seven.end_transaction(tids[1], True)
    assert zero.directory("/straw")[0] == ["5", "7"]


def test_rights_that_were_lost_meanwhile(zero: Session, five: Session) -> None:
    zero.set_perms("/a", ["b0"])
    tid = five.start_transaction()
    five.write("/a", b"five", tid)
    zero.set_perms("/a", ["n0"])
    with refused("EAGAIN"):
        five.end_transaction(tid, True)
    assert zero.read("/a") == b"0"


def test_a_commit_is_all_or_nothing(zero: Session) -> None:
    tid = zero.start_transaction()
    zero.write("/first", b"", tid)
    zero.set_perms("/c", ["r0"], tid)
    zero.write("/last", b"", tid)
    zero.remove("/c")
    owned = dict(zero.tree._nodes.owned)
    with refused("EAGAIN"):
        zero.end_transaction(tid, True)
    assert zero.tree._nodes.owned == owned
    assert zero.directory("/")[0] == ["tool", "vm", "local", "a"]


def test_room_is_counted_at_the_commit(tree: Tree, five: Session) -> None:
    tid = five.start_transaction()
    left = tree.limits.nodes - tree._nodes.owned[5]
    for i in range(3):
        five.mkdir(f"data/t/{i}", tid)
    for j in range(left // 100):
        for i in range(99):
            five.mkdir(f"data/{j}/{i}")
    while True:
        try:
            five.mkdir(f"data/x/{i}")
        except XenstoreError:
            break
        i += 1
    with refused("ENOSPC"):
        five.end_transaction(tid, True)


def test_many_generations(zero: Session) -> None:
    """Snapshots that are open side by side, each with its own state."""
    tids = []
    for i in range(20):
        zero.write("/a", b"%d" % i)
        zero.mkdir(f"/n/{i}")
        tids.append(zero.start_transaction())
    for i, tid in enumerate(tids):
        assert zero.read("/a", tid) == b"%d" % i
        assert len(zero.directory("/n", tid)[0]) == i + 1
        zero.write("/a", b"mine", tid)
        assert zero.read("/a") == b"19"


class TestEvents:
    @pytest.fixture
    def heard(self, tree: Tree, zero: Session) -> list[Event]:
        events: list[Event] = []
        listener = tree.open(0, events.append)
        listener.watch("/", b"root")
        listener.watch("/a/b", b"b")
        return events

    def test_none_before_the_commit(self, zero: Session, heard: list[Event]) -> None:
        tid = zero.start_transaction()
        zero.write("/a", b"1", tid)
        assert heard == []
        zero.end_transaction(tid, False)
        assert heard == []

    def test_one_a_node_in_the_order_in_which_they_were_named(self, zero: Session, heard: list[Event]) -> None:
        tid = zero.start_transaction()
        zero.read("/c", tid)
        zero.write("/x", b"1", tid)
        for i in range(3):
            zero.write("/a", b"%d" % i, tid)
        zero.set_perms("/a", ["r0"], tid)
        zero.write("/c", b"1", tid)
        zero.end_transaction(tid, True)
        assert [event.path for event in heard] == ["/c", "/x", "/a"]

    def test_no_event_without_a_change(self, zero: Session, heard: list[Event]) -> None:
        tid = zero.start_transaction()
        zero.mkdir("/a", tid)
        zero.read("/c", tid)
        zero.mkdir("/came", tid)
        zero.remove("/came", tid)
        zero.end_transaction(tid, True)
        assert heard == []

    def test_removed_trees(self, zero: Session, heard: list[Event]) -> None:
        tid = zero.start_transaction()
        zero.remove("/a", tid)
        zero.end_transaction(tid, True)
        assert heard == [Event("/a", b"root"), Event("/a/b", b"b")]

    def test_removed_and_made_again(self, zero: Session, heard: list[Event]) -> None:
        tid = zero.start_transaction()
        zero.remove("/a", tid)
        zero.write("/a/b", b"new", tid)
        zero.end_transaction(tid, True)
        assert heard == [Event("/a", b"root"), Event("/a/b", b"root"), Event("/a/b", b"b")]

    def test_none_when_it_conflicts(self, zero: Session, heard: list[Event]) -> None:
        tid = zero.start_transaction()
        zero.read("/a", tid)
        zero.write("/x", b"1", tid)
        zero.write("/a", b"1")
        del heard[:]
        with refused("EAGAIN"):
            zero.end_transaction(tid, True)
        assert heard == []

    def test_permissions_before_and_after_count(self, tree: Tree, zero: Session) -> None:
        events: list[Event] = []
        tree.open(5, events.append).watch("/a", b"t")
        for perms, hears in ((["n0", "r5"], True), (["n0"], True), (["n0"], False)):
            tid = zero.start_transaction()
            zero.set_perms("/a", perms, tid)
            zero.end_transaction(tid, True)
            assert bool(events) == hears
            del events[:]
