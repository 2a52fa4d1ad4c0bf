"""Watches of the store: forms of paths, which change tells whom what, in which order; special events."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from storekit import refused

from pores.xenstore.tree import Session, Tree
from pores.xenstore.watches import Event


class Client:
    """A session with the events that it got: (path, token) as text."""

    def __init__(self, tree: Tree, domid: int) -> None:
        self.events: list[tuple[str, str]] = []
        self.session: Session = tree.open(domid, self._take)

    def _take(self, event: Event) -> None:
        self.events.append((event.path, event.token.decode()))

    def watch(self, path: str, token: str = "t", depth: int | None = None) -> None:
        self.session.first_event(self.session.watch(path, token.encode(), depth))

    def take(self) -> list[tuple[str, str]]:
        events, self.events = self.events, []
        return events

    def paths(self) -> list[str]:
        return [path for path, _ in self.take()]


Open = Callable[[int], Client]


@pytest.fixture
def client(tree: Tree) -> Open:
    return lambda domid: Client(tree, domid)


def test_the_first_event_comes_always(client: Open) -> None:
    five = client(5)
    five.watch("data/straw", "a")
    five.watch("/local/domain/7/secret/not/there", "b")
    five.watch("@releaseDomain", "c")
    expected = [("data/straw", "a"), ("/local/domain/7/secret/not/there", "b"), ("@releaseDomain", "c")]
    assert five.take() == expected


def test_events_have_the_form_of_the_watch(client: Open) -> None:
    five = client(5)
    five.watch("data", "relative")
    five.watch("/local/domain/5/data", "absolute")
    five.watch("/", "root")
    five.take()
    five.session.write("data/x/y", b"")
    path = "/local/domain/5/data/x/y"
    assert five.take() == [("data/x/y", "relative"), (path, "absolute"), (path, "root")]


def test_a_change_tells_watches_on_it_and_above(client: Open) -> None:
    zero = client(0)
    for path in ("/", "/a", "/a/b", "/a/b/c", "/a/bc"):
        zero.watch(path, path)
    zero.take()
    zero.session.write("/a/b", b"1")
    assert zero.take() == [("/a/b", "/"), ("/a/b", "/a"), ("/a/b", "/a/b")]
    zero.session.write("/x/y/z", b"1")  # those made on the way are not told of
    assert zero.take() == [("/x/y/z", "/")]
    zero.session.mkdir("/a/b")  # changes nothing
    zero.session.remove("/nothing")
    assert zero.take() == []
    zero.session.mkdir("/a/b/c")
    assert zero.paths() == ["/a/b/c"] * 4
    zero.session.set_perms("/a/b", ["r0"])
    assert zero.paths() == ["/a/b"] * 3


def test_depth(client: Open) -> None:
    zero = client(0)
    for depth in (0, 1, 2):
        zero.watch("/a", str(depth), depth)
    zero.take()
    zero.session.write("/a", b"")
    assert zero.take() == [("/a", "0"), ("/a", "1"), ("/a", "2")]
    zero.session.write("/a/b", b"")
    assert zero.take() == [("/a/b", "1"), ("/a/b", "2")]
    zero.session.write("/a/b/c", b"")
    assert zero.take() == [("/a/b/c", "2")]
    zero.session.write("/a/b/c/d", b"")
    assert zero.take() == []


def test_remove_tells_the_root_above_and_each_node_exactly_there(client: Open) -> None:
    zero = client(0)
    for path in ("/a/b/c/d", "/a/b/e"):
        zero.session.write(path, b"")
    for path in ("/", "/a", "/a/b", "/a/b/c", "/a/b/c/d", "/a/b/c/d/e"):
        zero.watch(path, path)
    zero.take()
    zero.session.remove("/a/b")
    assert zero.take() == [
        ("/a/b/c/d", "/a/b/c/d"),
        ("/a/b/c", "/a/b/c"),
        ("/a/b", "/"),
        ("/a/b", "/a"),
        ("/a/b", "/a/b"),
    ]


def test_a_watch_on_what_is_not_there_hears_of_nothing_above(client: Open) -> None:
    zero = client(0)
    zero.session.mkdir("/a")
    zero.watch("/a/b/c")
    zero.take()
    zero.session.remove("/a")
    assert zero.take() == []


def test_only_readers_of_the_node_or_its_parent_hear(client: Open) -> None:
    five, seven, zero = client(5), client(7), client(0)
    five.session.mkdir("data/x")
    seven.watch("/local/domain/5/data")
    zero.watch("/local/domain/5/data")
    seven.take(), zero.take()
    five.session.write("data/x", b"secret")
    assert seven.paths() == []
    assert zero.paths() == ["/local/domain/5/data/x"]
    # A right to read the node.
    five.session.set_perms("data/x", ["n5", "r7"])
    assert seven.paths() == ["/local/domain/5/data/x"]
    five.session.write("data/x", b"1")
    assert seven.paths() == ["/local/domain/5/data/x"]
    # Its loss is the last that is heard: the old permissions count.
    five.session.set_perms("data/x", ["n5"])
    assert seven.paths() == ["/local/domain/5/data/x"]
    five.session.write("data/x", b"2")
    assert seven.paths() == []
    # A right to read the parent, though not the node.
    five.session.set_perms("data", ["n5", "r7"])
    assert seven.paths() == ["/local/domain/5/data"]
    five.session.write("data/x", b"3")
    five.session.write("data/x/deeper", b"")
    assert seven.paths() == ["/local/domain/5/data/x"]
    five.session.remove("data/x")
    assert seven.paths() == ["/local/domain/5/data/x"]


def test_duplicates_by_the_canonical_path(client: Open) -> None:
    five = client(5)
    five.watch("data", "t")
    for path in ("data", "/local/domain/5/data"):
        with refused("EEXIST"):
            five.session.watch(path, b"t")
    five.watch("data", "u")
    client(5).watch("data", "t")  # another connection
    five.session.unwatch("/local/domain/5/data", b"t")
    with refused("ENOENT"):
        five.session.unwatch("data", b"t")
    five.take()
    five.session.write("data", b"")
    assert five.take() == [("data", "u")]


def test_bad_paths(client: Open) -> None:
    five = client(5)
    for path in ("", "/a/", "a//b", "@" + "x" * 2048, "/a b"):
        with refused("EINVAL"):
            five.session.watch(path, b"t")
    five.watch("@anything", "t")


def test_a_closed_session_hears_nothing(client: Open, tree: Tree) -> None:
    five = client(5)
    five.watch("data")
    five.session.close()
    five.session.close()
    five.take()
    client(5).session.write("data", b"")
    assert five.take() == []
    assert tree.domains[5].watches == 0
    assert tree.watches._by_path == {}


class TestSpecial:
    def test_domain_0_hears_of_domains(self, client: Open, tree: Tree) -> None:
        zero = client(0)
        zero.watch("@introduceDomain", "i")
        zero.watch("@releaseDomain", "r")
        zero.watch("@releaseDomain/11", "one")
        zero.watch("@releaseDomain", "which", 1)
        zero.take()
        tree.introduce(11)
        tree.introduce(12)
        assert zero.take() == [("@introduceDomain", "i")] * 2
        tree.release(12)
        assert zero.take() == [("@releaseDomain", "r"), ("@releaseDomain/12", "which")]
        tree.release(11)
        assert zero.take() == [
            ("@releaseDomain", "r"),
            ("@releaseDomain/11", "which"),
            ("@releaseDomain/11", "one"),
        ]

    def test_others_when_they_are_let(self, client: Open, tree: Tree) -> None:
        zero, five = client(0), client(5)
        five.watch("@releaseDomain")
        five.take()
        tree.release(7)
        assert five.take() == []
        with refused("EACCES"):
            five.session.set_perms("@releaseDomain", ["n0", "r5"])
        with refused("EINVAL"):
            zero.session.set_perms("@anything", ["n0"])
        zero.session.set_perms("@releaseDomain", ["n0", "r5"])
        tree.release(9)
        assert five.take() == [("@releaseDomain", "t")]
        tree.release(5)
        tree.introduce(5)
        again = client(5)
        again.watch("@releaseDomain")
        again.take()
        tree.introduce(7)
        tree.release(7)
        assert again.take() == []

    def test_the_peers_of_a_dead_domain_hear_of_its_nodes_first(self, client: Open, tree: Tree) -> None:
        zero, five, seven = client(0), client(5), client(7)
        five.session.mkdir("data/straw")
        five.session.set_perms("data/straw", ["b5"])
        seven.session.write("/local/domain/5/data/straw/7/warts", b"x")
        seven.session.write("data/warts/5/state", b"4")
        seven.session.set_perms("data/warts/5/state", ["r7"])
        five.watch("data/straw")
        five.watch("/local/domain/7/data/warts/5/state", "state")
        zero.watch("@releaseDomain")
        zero.watch("/local/domain/5")
        five.take(), zero.take()
        tree.release(7)
        assert five.take() == [
            ("data/straw/7", "t"),
            ("/local/domain/7/data/warts/5/state", "state"),
        ]
        assert zero.paths() == ["/local/domain/5/data/straw/7", "@releaseDomain"]
