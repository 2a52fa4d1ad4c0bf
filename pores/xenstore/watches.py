"""Watches: which there are, and which of them a change concerns.

Found by path, not by looking at all of them: a change looks up its own path and those above it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .paths import shown_as

if TYPE_CHECKING:
    from .tree import Session

__all__ = ["Event", "Watch", "WatchIndex"]


class Event(NamedTuple):
    """What a watch tells: the path in the form in which the watch was set, and the watch's token."""

    path: str
    token: bytes


class Watch:
    """One watch of one session. path: canonical. home: what its path was relative to, None for an absolute one.

    depth: how many levels below `path` concern it; None for all.
    """

    __slots__ = ("depth", "home", "number", "path", "session", "token")

    def __init__(self, session: Session, path: str, token: bytes, home: str | None, depth: int | None) -> None:
        self.session = session
        self.path = path
        self.token = token
        self.home = home
        self.depth = depth
        self.number = 0

    def event(self, path: str) -> Event:
        return Event(shown_as(path, self.home), self.token)


class WatchIndex:
    """All watches of a store, by path."""

    def __init__(self) -> None:
        self._by_path: dict[str, dict[Watch, None]] = {}
        self._count = 0

    def add(self, watch: Watch) -> None:
        self._count += 1
        watch.number = self._count
        self._by_path.setdefault(watch.path, {})[watch] = None

    def discard(self, watch: Watch) -> None:
        here = self._by_path.get(watch.path)
        if here is not None:
            here.pop(watch, None)
            if not here:
                del self._by_path[watch.path]

    def at(self, path: str) -> list[Watch]:
        """Those on exactly this path, the oldest first."""
        return list(self._by_path.get(path, ()))

    def concerned(self, path: str) -> list[Watch]:
        """Those on this path or above it that reach as deep, the oldest first."""
        found = [
            watch
            for above, levels in _upwards(path)
            for watch in self._by_path.get(above, ())
            if watch.depth is None or levels <= watch.depth
        ]
        found.sort(key=lambda watch: watch.number)
        return found


def _upwards(path: str) -> Iterator[tuple[str, int]]:
    """A path and those above it, with the number of levels between."""
    levels = 0
    while path != "/":
        yield path, levels
        path = path[: path.rindex("/")] or "/"
        levels += 1
    yield "/", levels
