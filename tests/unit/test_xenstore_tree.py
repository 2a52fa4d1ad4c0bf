"""Nodes, permissions, limits and domains of the store: straw-rules part 5 and xenstored 4.17, rule by rule."""

from __future__ import annotations

import itertools

import pytest
from storekit import refused

from pores.errors import XenstoreError
from pores.xenstore.limits import Limits
from pores.xenstore.tree import Session, Tree


@pytest.fixture
def zero(tree: Tree) -> Session:
    return tree.open(0)


@pytest.fixture
def five(tree: Tree) -> Session:
    return tree.open(5)


@pytest.fixture
def seven(tree: Tree) -> Session:
    return tree.open(7)


class TestNodes:
    def test_values_are_any_bytes(self, zero: Session) -> None:
        for value in (b"", b"x", b"\0\1\xff", bytes(range(256)) * 15):
            zero.write("/a/b", value)
            assert zero.read("/a/b") == value

    def test_write_makes_what_is_missing_above(self, zero: Session) -> None:
        zero.write("/a/b/c", b"v")
        assert [zero.read(path) for path in ("/a", "/a/b", "/a/b/c")] == [b"", b"", b"v"]

    def test_mkdir_of_what_exists_changes_nothing(self, zero: Session) -> None:
        zero.write("/a", b"v")
        zero.write("/a/b", b"w")
        before = zero.directory("/a")
        zero.mkdir("/a")
        assert zero.read("/a") == b"v"
        assert zero.directory("/a") == before == (["b"], before[1])

    def test_remove_takes_all_below(self, zero: Session) -> None:
        zero.write("/a/b/c", b"v")
        zero.write("/a/d", b"v")
        zero.remove("/a")
        for path in ("/a", "/a/b", "/a/b/c", "/a/d"):
            with refused("ENOENT"):
                zero.read(path)

    def test_remove_of_nothing(self, zero: Session) -> None:
        zero.remove("/nothing")  # its parent exists
        with refused("ENOENT"):
            zero.remove("/nothing/at/all")
        with refused("EINVAL"):
            zero.remove("/")

    def test_children_keep_the_order_in_which_they_came(self, zero: Session) -> None:
        for name in "cab":
            zero.mkdir(f"/x/{name}")
        zero.remove("/x/a")
        zero.mkdir("/x/a")
        assert zero.directory("/x")[0] == ["c", "b", "a"]

    def test_the_generation_tells_of_every_change(self, zero: Session) -> None:
        zero.mkdir("/x")
        seen = {zero.directory("/x")[1]}
        zero.mkdir("/x/a")
        seen.add(zero.directory("/x")[1])
        zero.write("/x", b"v")
        seen.add(zero.directory("/x")[1])
        zero.set_perms("/x", ["r0"])
        seen.add(zero.directory("/x")[1])
        zero.remove("/x/a")
        seen.add(zero.directory("/x")[1])
        assert len(seen) == 5
        zero.write("/x/b/c", b"")
        before = zero.directory("/x")
        zero.write("/x/b/c", b"deeper down")
        assert zero.directory("/x") == before

    def test_relative_paths_are_the_domains_own(self, tree: Tree, zero: Session, five: Session) -> None:
        five.write("data/x", b"mine")
        assert zero.read("/local/domain/5/data/x") == b"mine"
        zero.write("x", b"zero's")
        assert zero.read("/local/domain/0/x") == b"zero's"
        with refused("EINVAL"):
            five.read("")
        with refused("EINVAL"):
            five.read("@releaseDomain")

    def test_a_deep_tree(self, zero: Session) -> None:
        path = "/a" * 1024
        zero.write(path, b"v")
        assert zero.read(path) == b"v"
        zero.remove("/a")
        assert zero.directory("/")[0] == ["tool", "vm", "local"]


class TestPermissions:
    def test_what_the_host_makes(self, tree: Tree, zero: Session, five: Session, seven: Session) -> None:
        assert five.read("domid") == b"5"
        assert five.read("name") == b"domain-5"
        assert zero.read(five.read("vm").decode() + "/name") == b"domain-5"
        assert zero.get_perms("/local/domain/5") == ["n0", "r5"]
        assert zero.get_perms("/local/domain/5/domid") == ["n0", "r5"]
        assert zero.get_perms("/local/domain/5/data") == ["n5"]
        with refused("EACCES"):
            five.write("mine", b"")
        with refused("EACCES"):
            five.write("domid", b"9")
        with refused("EACCES"):
            seven.read("/local/domain/5/domid")
        assert zero.read("domid") == b"0"

    def test_who_may_what(self, zero: Session, five: Session, seven: Session) -> None:
        five.write("data/x", b"v")
        path = "/local/domain/5/data/x"
        for perms, may_read, may_write in [
            (["n5"], False, False),
            (["r5"], True, False),
            (["w5"], False, True),
            (["b5"], True, True),
            (["n5", "r7"], True, False),
            (["b5", "n7"], False, False),
            (["n5", "r9"], False, False),
        ]:
            five.set_perms("data/x", perms)
            assert five.get_perms("data/x") == perms
            five.write("data/x", b"v")  # the owner always may
            assert zero.read(path) == b"v"
            for may, attempt in (
                (may_read, lambda: seven.read(path)),
                (may_read, lambda: seven.directory(path)),
                (may_read, lambda: seven.get_perms(path)),
                (may_write, lambda: seven.write(path, b"v")),
                (may_write, lambda: seven.mkdir(path)),
            ):
                if may:
                    attempt()
                else:
                    with refused("EACCES"):
                        attempt()
            with refused("EACCES"):
                seven.set_perms(path, ["b7"])

    def test_rights_below_need_none_above(self, five: Session, seven: Session) -> None:
        five.write("data/secret/open", b"v")
        five.set_perms("data/secret/open", ["n5", "r7"])
        assert seven.read("/local/domain/5/data/secret/open") == b"v"
        with refused("EACCES"):
            seven.read("/local/domain/5/data/secret")

    def test_what_is_not_there_is_told_to_those_who_may_know(self, five: Session, seven: Session) -> None:
        five.mkdir("data/open")
        five.set_perms("data/open", ["r5"])
        with refused("ENOENT"):
            seven.read("/local/domain/5/data/open/x/y")
        with refused("EACCES"):
            seven.write("/local/domain/5/data/open/x", b"")
        with refused("EACCES"):
            seven.read("/local/domain/5/data/x")
        with refused("EACCES"):
            seven.mkdir("/local/domain/6/data/straw/7")

    def test_a_new_node_inherits_and_belongs_to_its_maker(self, zero: Session, five: Session, seven: Session) -> None:
        five.mkdir("data/straw")
        five.set_perms("data/straw", ["b5", "r9"])
        seven.write("/local/domain/5/data/straw/7/warts", b"x")
        assert zero.get_perms("/local/domain/5/data/straw/7") == ["b7", "r9"]
        assert zero.get_perms("/local/domain/5/data/straw/7/warts") == ["b7", "r9"]
        zero.mkdir("/local/domain/5/data/straw/0")  # domain 0 leaves the owner
        assert zero.get_perms("/local/domain/5/data/straw/0") == ["b5", "r9"]

    def test_only_domain_0_gives_a_node_away(self, zero: Session, five: Session) -> None:
        five.mkdir("data/x")
        with refused("EPERM"):
            five.set_perms("data/x", ["n7"])
        zero.set_perms("/local/domain/5/data/x", ["n7"])
        with refused("EACCES"):
            five.read("data/x")
        with refused("EACCES"):
            five.set_perms("data/x", ["n5"])

    def test_a_right_to_write_is_none_to_set_permissions(self, five: Session, seven: Session) -> None:
        five.mkdir("data/x")
        five.set_perms("data/x", ["b5"])
        with refused("EACCES"):
            seven.set_perms("/local/domain/5/data/x", ["b5", "b7"])

    def test_remove_needs_the_right_to_write_the_node_only(self, five: Session, seven: Session) -> None:
        five.write("data/x/y", b"")
        five.set_perms("data/x", ["w5"])
        five.set_perms("data/x/y", ["n5"])
        seven.remove("/local/domain/5/data/x")
        with refused("ENOENT"):
            five.read("data/x/y")
        with refused("EACCES"):
            seven.remove("/local/domain/5/data/x")

    def test_domains_that_do_not_exist(self, tree: Tree, zero: Session) -> None:
        zero.mkdir("/x")
        with refused("ENOENT"):
            zero.set_perms("/x", ["n11"])
        zero.set_perms("/x", ["n0", "r11"])
        assert zero.get_perms("/x") == ["n0", "r11"]
        tree.introduce(11)
        eleven = tree.open(11)
        with refused("EACCES"):
            eleven.read("/x")  # the permission was not for this domain
        zero.set_perms("/x", ["n0", "r11"])
        assert eleven.read("/x") == b""

    def test_bad_arguments(self, zero: Session) -> None:
        for perms in ([], ["x0"], ["n"], ["n0", ""]):
            with refused("EINVAL"):
                zero.set_perms("/tool", perms)
        with refused("ENOENT"):
            zero.set_perms("/nothing", ["n0"])


class TestDomains:
    def test_a_domain_once(self, tree: Tree) -> None:
        assert tree.is_introduced(5) and not tree.is_introduced(6)
        with refused("EEXIST"):
            tree.introduce(5)
        for domid in (0, -1, 0x7FF0):
            with refused("EINVAL"):
                tree.introduce(domid)
        for domid in (0, 6):
            with refused("ENOENT"):
                tree.release(domid)
        with refused("ENOENT"):
            tree.open(6)

    def test_a_released_domain_leaves_nothing(self, tree: Tree, zero: Session, five: Session, seven: Session) -> None:
        five.mkdir("data/straw")
        five.set_perms("data/straw", ["b5"])
        seven.write("/local/domain/5/data/straw/7/warts", b"x")
        five.write("/local/domain/5/data/straw/7/state", b"1")
        five.write("data/x", b"")
        five.set_perms("data/x", ["n5", "r7"])
        seven.write("data/y", b"")
        tree.release(7)
        assert five.directory("data/straw")[0] == []
        assert seven.closed
        for path in ("/local/domain/7", "/vm/00000000-0000-0000-0000-000000000007"):
            with refused("ENOENT"):
                zero.read(path)
        assert five.get_perms("data/x") == ["n5", "r7"]
        tree.introduce(7)
        with refused("EACCES"):  # another domain with the same number
            tree.open(7).read("/local/domain/5/data/x")

    def test_counts_are_right_after_everything(self, tree: Tree, five: Session, seven: Session, zero: Session) -> None:
        start = dict(tree._nodes.owned)
        five.write("data/a/b/c", b"")
        assert tree._nodes.owned[5] == start[5] + 3
        zero.set_perms("/local/domain/5/data/a/b", ["n7"])
        assert (tree._nodes.owned[5], tree._nodes.owned[7]) == (start[5] + 2, start[7] + 1)
        five.remove("data/a")
        assert tree._nodes.owned == start
        tree.release(7)
        assert 7 not in tree._nodes.owned

    def test_the_root_given_away_comes_back(self, tree: Tree, zero: Session, five: Session) -> None:
        zero.set_perms("/", ["r5"])
        five.mkdir("/mine")
        tree.release(5)
        assert zero.get_perms("/") == ["r0"]
        assert "mine" not in zero.directory("/")[0]


class TestLimits:
    @pytest.fixture
    def small(self) -> tuple[Tree, Session]:
        tree = Tree(Limits(nodes=10, watches=3, transactions=2, permissions=2, transaction_nodes=6))
        tree.introduce(5)
        return tree, tree.open(5)

    def test_nodes(self, small: tuple[Tree, Session]) -> None:
        tree, five = small
        owned = tree._nodes.owned[5]
        for i in range(10 - owned):
            five.mkdir(f"data/{i}")
        with refused("ENOSPC"):
            five.mkdir("data/more")
        with refused("ENOSPC"):
            five.write("data/0/more", b"")
        five.write("data/0", b"still")
        five.remove("data/0")
        five.mkdir("data/more")
        five.remove("data/more")
        with refused("ENOSPC"):
            five.mkdir("data/a/b")
        assert tree._nodes.owned[5] == 9  # all of it or nothing
        tree.open(0).mkdir("/local/domain/5/data/a/b")

    def test_size_of_a_node(self, five: Session, zero: Session) -> None:
        room = Limits().node_size - 24 - 8
        five.write("data/x", b"v" * room)
        for value in (b"v" * (room + 1), b"v" * 4000):
            with refused("ENOSPC"):
                five.write("data/x", value)
            with refused("ENOSPC"):
                five.write("data/new", value)
        with refused("ENOSPC"):
            five.set_perms("data/x", ["n5", "r7"])
        with refused("ENOSPC"):
            five.mkdir("data/x/y")
        five.write("data/x", b"v" * (room - 2))
        five.mkdir("data/x/y")
        with refused("ENOSPC"):
            five.mkdir("data/x/z")
        zero.write("/local/domain/5/data/x", b"v" * 4000)
        five.remove("data/x/y")  # what makes it smaller always goes
        assert five.directory("data")[0] == ["x"]

    def test_permissions(self, small: tuple[Tree, Session]) -> None:
        tree, five = small
        five.mkdir("data/x")
        five.set_perms("data/x", ["n5", "r0"])
        with refused("ENOSPC"):
            five.set_perms("data/x", ["n5", "r0", "r5"])
        tree.open(0).set_perms("/local/domain/5/data/x", ["n5", "r0", "r5"])

    def test_watches_of_all_sessions_together(self, small: tuple[Tree, Session]) -> None:
        tree, five = small
        other = tree.open(5)
        five.watch("data/a", b"1")
        five.watch("data/a", b"2")
        other.watch("data/a", b"1")
        with refused("E2BIG"):
            other.watch("data/b", b"1")
        five.unwatch("data/a", b"1")
        other.watch("data/b", b"1")
        with refused("E2BIG"):
            five.watch("data/b", b"1")
        other.close()
        five.watch("data/b", b"1")
        zero = tree.open(0)
        for i in range(10):
            zero.watch("/x", b"%d" % i)

    def test_transactions(self, small: tuple[Tree, Session]) -> None:
        tree, five = small
        tids = [five.start_transaction(), five.start_transaction()]
        with refused("ENOSPC"):
            tree.open(5).start_transaction()
        five.end_transaction(tids[0], False)
        five.start_transaction()
        five.reset_watches()
        assert tree.domains[5].transactions == 0
        five.start_transaction()

    def test_nodes_in_a_transaction(self, small: tuple[Tree, Session]) -> None:
        _, five = small
        tid = five.start_transaction()
        for i in range(5):  # and data, which was looked at to tell that they are not there
            with refused("ENOENT"):
                five.read(f"data/{i}", tid)
        with refused("ENOENT"):
            five.read("data/0", tid)
        with refused("ENOSPC"):
            five.read("data/6", tid)
        with refused("ENOMEM"):
            five.end_transaction(tid, True)
        with refused("ENOENT"):
            five.end_transaction(tid, True)

    def test_bytes_in_transactions(self) -> None:
        tree = Tree(Limits(transaction_bytes=10_000))
        tree.introduce(5)
        five = tree.open(5)
        tid = five.start_transaction()
        for _ in range(100):
            five.write("data/x", b"v" * 1000, tid)  # again and again is kept once
        for i in itertools.count():
            try:
                five.write(f"data/{i}", b"v" * 1000, tid)
            except XenstoreError as error:
                assert error.name == "ENOMEM"
                break
        assert 5 < i < 10
        with refused("ENOMEM"):
            five.end_transaction(tid, True)
        assert tree.domains[5].transaction_bytes == 0
        assert five.directory("data")[0] == []

    def test_domain_0_has_none(self) -> None:
        tree = Tree(Limits(nodes=1, watches=1, transactions=1, permissions=1, transaction_nodes=1, node_size=100))
        zero = tree.open(0)
        for i in range(5):
            tid = zero.start_transaction()
            zero.write(f"/a/{i}", b"v" * 1000, tid)
            zero.write(f"/b/{i}", b"v" * 1000, tid)
            zero.set_perms("/a", ["n0", "r0", "w0"], tid)
            zero.watch("/a", b"%d" % i)
            zero.end_transaction(tid, True)
            zero.start_transaction()
