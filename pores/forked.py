"""fork() without exec: what the child has of the parent's pores, domains and hosts, and must give up.

Both would use one ring; and what the child keeps open hides the parent's death from its peers. So in the child, before
anything else of it runs, all of that is closed, without a word to anybody; using it raises PoreClosed("forked").
Objects that own such things add themselves here.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

__all__ = ["Inherited", "give_up_in_child", "replace"]


class Inherited(Protocol):
    """Something that a child must not have."""

    def forked(self) -> None:
        """Called in the child, the only thread of it. Locks may be held by threads that are not here."""
        ...


_things: WeakSet[Inherited] = WeakSet()


def give_up_in_child(thing: Inherited) -> None:
    """As long as it lives."""
    _things.add(thing)


def replace(*fds: int) -> None:
    """Closes descriptors in the child; the numbers stay taken, for their objects will close them once more."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in fds:
        os.dup2(null, fd, inheritable=False)
    os.close(null)


def _in_child() -> None:
    for thing in list(_things):
        thing.forked()


os.register_at_fork(after_in_child=_in_child)
