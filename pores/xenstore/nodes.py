"""The tree of nodes: one version of it, and the operations that read and change it with somebody's rights.

A `View` is a version of the whole tree. `fork` makes another in no time: from then on both views copy a node before
they change it (every node carries the epoch of the view that may change it in place), so a snapshot costs only what
is changed after it. Nothing here knows of watches, transactions or connections: every operation appends what it
changed to `changes`, and the owner of the view tells whom it concerns.

Errors are XenstoreError by the rules of xenstored 4.17; an operation that fails has changed nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..errors import XenstoreError
from .limits import Limits
from .paths import join, names_of
from .perms import OWN, READ, WRITE, Perm, Perms, access_of

__all__ = ["Change", "Clock", "Node", "View"]

_HEADER = 24
_PERM = 8


class Change(NamedTuple):
    """A node was made, written, given other permissions or removed.

    exact: concerns only watches on this very path (a node that went with one above it).
    seen_by: permissions of the node, before and after, and of its parent: who may read by one of them may know.
    """

    path: str
    exact: bool
    seen_by: tuple[Perms, ...]


class Clock:
    """Numbers that never come twice: epochs of views and generations of nodes."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0

    def tick(self) -> int:
        self.now += 1
        return self.now


class Node:
    """One node. `made`, `value_gen`, `perms_gen`, `children_gen`: when it was made and each part last changed."""

    __slots__ = (
        "children",
        "children_gen",
        "epoch",
        "listing",
        "made",
        "names_size",
        "perms",
        "perms_gen",
        "value",
        "value_gen",
    )

    def __init__(self, value: bytes, perms: Perms, now: int, epoch: int) -> None:
        self.value = value
        self.perms = perms
        self.children: dict[str, Node] = {}
        self.names_size = 0
        self.listing: bytes | None = b""
        self.made = self.value_gen = self.perms_gen = self.children_gen = now
        self.epoch = epoch

    def copy(self, epoch: int) -> Node:
        new = Node.__new__(Node)
        new.value, new.perms, new.epoch = self.value, self.perms, epoch
        new.children, new.names_size, new.listing = self.children.copy(), self.names_size, self.listing
        new.made, new.value_gen = self.made, self.value_gen
        new.perms_gen, new.children_gen = self.perms_gen, self.children_gen
        return new

    def names(self) -> bytes:
        """The names of the children, each with its NUL; made once for all who ask."""
        if self.listing is None:
            self.listing = "".join(f"{name}\0" for name in self.children).encode()
        return self.listing

    @property
    def size(self) -> int:
        return _HEADER + _PERM * len(self.perms) + len(self.value) + self.names_size


class View:
    """One version of the tree. owned: how many nodes each domain owns in it. changes: what its operations changed."""

    __slots__ = ("changes", "clock", "epoch", "limits", "owned", "root")

    def __init__(self, root: Node, clock: Clock, limits: Limits, owned: dict[int, int]) -> None:
        self.root = root
        self.clock = clock
        self.limits = limits
        self.owned = owned
        self.epoch = clock.tick()
        self.changes: list[Change] = []

    @classmethod
    def new(cls, clock: Clock, limits: Limits) -> View:
        """A tree with a root only: n0."""
        return cls(Node(b"", (Perm(0, 0),), clock.tick(), 0), clock, limits, {0: 1})

    def fork(self) -> View:
        """Another view of the same tree. Neither sees what is changed in the other."""
        self.epoch = self.clock.tick()
        return View(self.root, self.clock, self.limits, self.owned.copy())

    # ── finding ──

    def find(self, path: str) -> Node | None:
        trail = self._trail(names_of(path))
        return trail[-1] if trail[-1] is not None else None

    def _trail(self, names: list[str]) -> list[Node | None]:
        """The nodes from the root as far as there are any, then None once if the last does not exist."""
        node = self.root
        trail: list[Node | None] = [node]
        for name in names:
            child = node.children.get(name)
            if child is None:
                trail.append(None)
                break
            trail.append(child)
            node = child
        return trail

    def get(self, who: int, path: str, need: int) -> Node:
        """The node, if `who` has the rights. ENOENT only if the nearest node above gives one of them, else EACCES."""
        trail = self._trail(names_of(path))
        node = trail[-1]
        if node is not None:
            if access_of(who, node.perms) & need != need:
                raise XenstoreError("EACCES", path)
            return node
        above = trail[-2]
        assert above is not None
        raise XenstoreError("ENOENT" if access_of(who, above.perms) & need else "EACCES", path)

    def subtree(self, path: str) -> Iterator[str]:
        """The paths of a node and all below it, each before those below it; nothing when it is not there."""
        node = self.find(path)
        stack = [] if node is None else [(path, node)]
        while stack:
            path, node = stack.pop()
            yield path
            top = "" if path == "/" else path
            stack.extend((f"{top}/{name}", child) for name, child in reversed(node.children.items()))

    def _thaw(self, names: list[str]) -> list[Node]:
        """The nodes to a path that exists, each one ours to change."""
        epoch = self.epoch
        node = self.root
        if node.epoch != epoch:
            node = self.root = node.copy(epoch)
        trail = [node]
        for name in names:
            child = node.children[name]
            if child.epoch != epoch:
                child = node.children[name] = child.copy(epoch)
            trail.append(child)
            node = child
        return trail

    # ── reading ──

    def read(self, who: int, path: str) -> bytes:
        return self.get(who, path, READ).value

    def directory(self, who: int, path: str) -> Node:
        return self.get(who, path, READ)

    def get_perms(self, who: int, path: str) -> Perms:
        return self.get(who, path, READ).perms

    # ── changing ──

    def write(self, who: int, path: str, value: bytes) -> None:
        """Sets a node's value; makes it, and what is missing above it."""
        if self._exists(who, path):
            names = names_of(path)
            node = self._trail(names)[-1]
            assert node is not None
            if who and node.size - len(node.value) + len(value) > self.limits.node_size:
                raise XenstoreError("ENOSPC", path, "node too big")
            trail = self._thaw(names)
            node = trail[-1]
            node.value = value
            node.value_gen = self.clock.tick()
            self._changed(path, (node.perms,), trail[-2] if names else node)
        else:
            self._make(who, path, value)

    def mkdir(self, who: int, path: str) -> None:
        """Makes a node without a value, unless it exists: then nothing is changed."""
        if not self._exists(who, path):
            self._make(who, path, b"")

    def _exists(self, who: int, path: str) -> bool:
        try:
            self.get(who, path, WRITE)
        except XenstoreError as error:
            if error.name != "ENOENT":
                raise
            return False
        return True

    def _make(self, who: int, path: str, value: bytes) -> None:
        names = names_of(path)
        found = len(self._trail(names)) - 1
        above = self._trail(names)[found - 1]
        assert above is not None
        new = names[found - 1 :]
        perms = above.perms
        if who:
            perms = (perms[0]._replace(domid=who, dead=False), *perms[1:])
            self._check_room(who, path, above, new, perms, value)
        trail = self._thaw(names[: found - 1])
        node = trail[-1]
        for name in new:
            now = self.clock.tick()
            child = Node(b"", perms, now, self.epoch)
            node.children[name] = child
            node.names_size += len(name) + 1
            node.children_gen = now
            node.listing = None
            trail.append(child)
            node = child
        node.value = value
        owner = perms[0].domid
        self.owned[owner] = self.owned.get(owner, 0) + len(new)
        self._changed(path, (perms,), trail[-2])

    def _check_room(self, who: int, path: str, above: Node, new: list[str], perms: Perms, value: bytes) -> None:
        limits = self.limits
        if self.owned.get(who, 0) + len(new) > limits.nodes:
            raise XenstoreError("ENOSPC", path, "too many nodes")
        empty = _HEADER + _PERM * len(perms)
        sizes = [above.size + len(new[0]) + 1, *(empty + len(name) + 1 for name in new[1:]), empty + len(value)]
        if max(sizes) > limits.node_size:
            raise XenstoreError("ENOSPC", path, "node too big")

    def remove(self, who: int, path: str) -> None:
        """Removes a node with all below it. A node that is not there is no error when its parent is."""
        names = names_of(path)
        try:
            node = self.get(who, path, WRITE)
        except XenstoreError as error:
            if error.name == "ENOENT" and len(self._trail(names)) == len(names) + 1:
                return
            raise
        if not names:
            raise XenstoreError("EINVAL", path, "the root stays")
        parent = self._thaw(names[:-1])[-1]
        del parent.children[names[-1]]
        parent.names_size -= len(names[-1]) + 1
        parent.children_gen = self.clock.tick()
        parent.listing = None
        self._removed(names, node, parent)

    def _removed(self, names: list[str], top: Node, above: Node) -> None:
        """Counts and tells of a subtree that is gone, from the leaves up; without recursion, it may be deep."""
        stack: list[tuple[str, Node, Node, bool]] = [(join(names), top, above, False)]
        while stack:
            path, node, parent, children_done = stack.pop()
            if not children_done and node.children:
                stack.append((path, node, parent, True))
                stack.extend((f"{path}/{name}", child, node, False) for name, child in reversed(node.children.items()))
                continue
            self._disowned(node.perms[0].domid)
            self._changed(path, (node.perms,), parent, exact=node is not top)

    def _disowned(self, domid: int) -> None:
        left = self.owned.get(domid, 0) - 1
        if left > 0:
            self.owned[domid] = left
        else:
            self.owned.pop(domid, None)

    def set_perms(self, who: int, path: str, perms: Perms) -> None:
        """Replaces a node's permissions: its owner's right. Only domain 0 gives a node to another owner."""
        node = self.get(who, path, WRITE | OWN)
        old = node.perms
        if who and perms[0].domid != old[0].domid:
            raise XenstoreError("EPERM", path)
        if who and node.size + _PERM * (len(perms) - len(old)) > self.limits.node_size:
            raise XenstoreError("ENOSPC", path, "node too big")
        trail = self._thaw(names_of(path))
        node = trail[-1]
        self._repermit(node, perms)
        self._changed(path, (old, perms), trail[-2] if len(trail) > 1 else node)

    def _repermit(self, node: Node, perms: Perms) -> None:
        self._disowned(node.perms[0].domid)
        self.owned[perms[0].domid] = self.owned.get(perms[0].domid, 0) + 1
        node.perms = perms
        node.perms_gen = self.clock.tick()

    def _changed(self, path: str, perms: tuple[Perms, ...], parent: Node, *, exact: bool = False) -> None:
        self.changes.append(Change(path, exact, (*perms, parent.perms)))

    # ── when a domain is gone ──

    def forget_domain(self, domid: int) -> None:
        """Removes every node that a domain owns, with all below it, and makes its rights on others dead."""
        doomed: list[str] = []
        marked: list[str] = []
        stack: list[tuple[str, Node]] = [("", self.root)]
        while stack:
            path, node = stack.pop()
            if node.perms[0].domid == domid and path:
                doomed.append(path)
                continue
            if any(entry.domid == domid for entry in node.perms):
                marked.append(path or "/")
            stack.extend((f"{path}/{name}", child) for name, child in reversed(node.children.items()))
        for path in doomed:
            self.remove(0, path)
        for path in marked:
            node = self._thaw(names_of(path))[-1]
            first, *others = node.perms
            if first.domid == domid:  # the root
                first = first._replace(domid=0)
            self._repermit(node, (first, *(e._replace(dead=True) if e.domid == domid else e for e in others)))
