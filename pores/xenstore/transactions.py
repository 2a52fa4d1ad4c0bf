"""Transactions: a private view of the tree, what it has read, and what it will do.

A transaction reads a snapshot of the store with its own changes in it. At its end, what it has read must still be
so, and then its changes are carried out again, in order, on the store as it is now: a commit is as if everything
had been done at that moment. So two transactions that make different nodes under one parent do not meet, as they do
in xenstored: LING never tries a commit again (straw-rules, part 2).

"Still so" is by generation and by part: a value, a node's permissions or its list of children that was changed and
changed back has changed; a new child of a node of which only the value was read has not. What a transaction has
written itself is not asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from ..errors import XenstoreError
from .nodes import Change, Node, View
from .paths import parent_of
from .perms import Perms

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CHILDREN", "PERMS", "VALUE", "Transaction", "carry_out", "merged"]

VALUE: Final = 0
PERMS: Final = 1
CHILDREN: Final = 2

Step: TypeAlias = "tuple[str, str, bytes | Perms]"


def carry_out(view: View, who: int, verb: str, path: str, argument: bytes | Perms = b"") -> None:
    """One change, by name: "write" (a value), "mkdir", "remove" or "set_perms" (permissions)."""
    if verb == "mkdir":
        view.mkdir(who, path)
    elif verb == "remove":
        view.remove(who, path)
    elif isinstance(argument, bytes):
        view.write(who, path, argument)
    else:
        view.set_perms(who, path, argument)


def _stamp(node: Node | None, part: int) -> int:
    """When a part of a node last changed; 0 for a node that is not there."""
    if node is None:
        return 0
    return (node.value_gen, node.perms_gen, node.children_gen)[part]


class Transaction:
    """One open transaction. view: what it sees. failed: a limit was passed, it can only be thrown away."""

    def __init__(self, store: View) -> None:
        self.view = store.fork()
        self._before = View(self.view.root, store.clock, store.limits, {})
        self._read: dict[tuple[str, int], int] = {}
        self._steps: list[Step] = []
        self.named: dict[str, int] = {}
        self.bytes = 0
        self.failed = False

    def name(self, path: str) -> None:
        """Notes that a node is named in this transaction; the order is that of the events at its end."""
        self.named.setdefault(path, len(self.named))

    def note_read(self, path: str, part: int) -> None:
        """Notes that the client was told a part of a node, or that the node is not there."""
        before = self._before.find(path)
        ours = self.view.find(path)
        # A list of children to which we only added is still told in part by the store; a value of ours is not.
        if part == CHILDREN and before is not None and ours is not None and ours.made == before.made:
            self._read.setdefault((path, part), before.children_gen)
        elif _stamp(ours, part) == _stamp(before, part):
            self._read.setdefault((path, part), _stamp(before, part))

    def note_step(self, verb: str, path: str, argument: bytes | Perms = b"") -> int:
        """Notes a change that was made in the view. Returns the bytes that this keeps."""
        if verb == "write" and self._steps and self._steps[-1][:2] == (verb, path):
            self.bytes -= self._cost(self._steps.pop())
        step = (verb, path, argument)
        self._steps.append(step)
        cost = self._cost(step)
        self.bytes += cost
        return cost

    @staticmethod
    def _cost(step: Step) -> int:
        return len(step[1]) + 16 * len(step[2]) if step[0] == "set_perms" else len(step[1]) + len(step[2])

    def commit(self, store: View, who: int, perms_now: Callable[[Perms], Perms]) -> View:
        """The store as it is after this transaction: a fork of `store`, whose `changes` are ours, one a node.

        EAGAIN when something that was read has changed or a change can't be made any more; ENOSPC when there is no
        room. `store` is not changed; it is returned itself when there is nothing to do.
        """
        for (path, part), stamp in self._read.items():
            if _stamp(store.find(path), part) != stamp:
                raise XenstoreError("EAGAIN", path)
        if not self._steps:
            return store
        after = store.fork()
        for verb, path, argument in self._steps:
            try:
                if isinstance(argument, tuple):
                    argument = perms_now(argument)
                carry_out(after, who, verb, path, argument)
            except XenstoreError as error:
                raise XenstoreError("ENOSPC" if error.name == "ENOSPC" else "EAGAIN", path) from error
        after.changes = merged(after.changes, self.named, store, after)
        return after


def merged(changes: list[Change], order: dict[str, int], before: View, after: View) -> list[Change]:
    """One change a node, in the order in which the nodes were named; none for a node that came and went.

    Who may know is as with xenstored, which carries the nodes over in this order and tells of each at once: readers
    of the node as it was, and, when it is still there, readers of it as it is or of its parent as it then is.
    """
    exact: dict[str, bool] = {}
    for change in changes:
        exact[change.path] = change.exact and exact.get(change.path, True)
    last = len(order)
    kept = []
    for path in sorted(exact, key=lambda path: order.get(path, last)):
        old, new = before.find(path), after.find(path)
        seen_by = [] if old is None else [old.perms]
        if new is not None:
            seen_by.append(new.perms)
            above = parent_of(path)
            is_later = order.get(above, last) > order.get(path, last)
            parent = (before if is_later else after).find(above)
            if parent is not None:
                seen_by.append(parent.perms)
        if seen_by:
            kept.append(Change(path, exact[path], tuple(seen_by)))
    return kept
