"""Names of local processes, one process per name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..terms import Atom

if TYPE_CHECKING:
    from .process import Process

__all__ = ["Registry"]

_UNDEFINED = Atom("undefined")


class Registry:
    """register/2, unregister/1 and whereis/1 of the erlang module."""

    __slots__ = ("_names", "get")

    def __init__(self) -> None:
        self._names: dict[Atom, Process] = {}
        #: get(name): the process with this name, or None
        self.get: Callable[[Atom], Process | None] = self._names.get

    def register(self, name: str | Atom, process: Process) -> Atom:
        """Give a live process a name. ValueError: the name is taken or not allowed, or the process has ended."""
        atom = Atom(name) if isinstance(name, str) else name
        if atom is _UNDEFINED:
            raise ValueError("a process can't be called undefined")
        if not process.alive:
            raise ValueError(f"the process has ended: {process!r}")
        if atom in self._names:
            raise ValueError(f"the name {atom.name!r} is taken by {self._names[atom]!r}")
        self._names[atom] = process
        process.names.append(atom)
        return atom

    def unregister(self, name: str | Atom) -> None:
        """Take a name back. ValueError: nobody has it."""
        atom = Atom(name) if isinstance(name, str) else name
        process = self._names.pop(atom, None)
        if process is None:
            raise ValueError(f"no process is called {atom.name!r}")
        process.names.remove(atom)

    def drop(self, process: Process) -> None:
        """A process ended: all its names are free."""
        for name in process.names:
            self._names.pop(name, None)

    def names(self) -> list[Atom]:
        return list(self._names)
