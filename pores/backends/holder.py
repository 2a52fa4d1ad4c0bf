"""What every backend is beside its platform: who hears of its news, what it holds, and its one end.

A platform's own requests are in its module; `base` says what they mean.
"""

from __future__ import annotations

from typing import ClassVar, Final, TypeVar

from ..errors import BackendUnavailable
from ..forked import give_up_in_child, replace
from .base import BackendListener, Channel, Grant, Held, Mapping

__all__ = ["Holder"]

_KINDS: Final[dict[str, type[Held]]] = {"grants": Grant, "mappings": Mapping, "channels": Channel}

T = TypeVar("T", bound=Held)


class Holder:
    """The half of `base.Backend` that asks the platform nothing. `platform` is the backend's name in errors."""

    platform: ClassVar[str]

    def __init__(self) -> None:
        self._listeners: list[BackendListener] = []
        self._holding: set[Held] = set()
        self._closed = False
        self._why = ""
        give_up_in_child(self)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def held(self) -> dict[str, int]:
        return {name: sum(isinstance(thing, kind) for thing in self._holding) for name, kind in _KINDS.items()}

    def listen(self, listener: BackendListener) -> None:
        self._listeners.append(listener)

    def unlisten(self, listener: BackendListener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)

    def forked(self) -> None:
        """We are a child: the domain, and all that it holds, is the parent's."""
        self._closed = True
        self._why = "forked"
        replace(*(fd for thing in self._holding for fd in thing.fds()))

    def _hold(self, thing: T) -> T:
        self._holding.add(thing)
        return thing

    def _drop(self, thing: Held) -> None:
        """It has been given back. May be called twice."""
        thing.end()
        self._holding.discard(thing)

    def _check(self) -> None:
        if self._closed:
            raise self._down()

    def _down(self) -> BackendUnavailable:
        return BackendUnavailable([(self.platform, self._why)])

    def _end(self, why: str) -> None:
        """Nothing works any more: what is held ends, and the listeners hear of it, once."""
        if self._closed:
            return
        self._closed = True
        self._why = why
        self._let_go()
        for thing in self._holding:
            thing.end()
        self._holding.clear()
        for listener in list(self._listeners):
            listener.host_down(why)

    def _let_go(self) -> None:
        """What the platform has open beside what is held."""
        raise NotImplementedError
