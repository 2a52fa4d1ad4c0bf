"""What rpc may call: a table of functions, and running one of them with Erlang's three kinds of ending.

Nothing that is not in the table can be reached from the wire, by whatever name; a call to it ends as on a BEAM that
has no such module: with undef.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import ProcessExit, RemoteThrow
from ..runtime.reasons import exception_reason, stack_of
from ..runtime.router import Router
from ..terms import Atom, Export
from .threads import in_thread

__all__ = ["Exports", "Outcome"]

_UNDEF = Atom("undef")
_ERLANG = Atom("erlang")
_APPLY = Atom("apply")

#: ('return', value) | ('throw', value) | ('exit', reason) | ('error', reason, stack)
Outcome = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Exported:
    function: Callable[..., Any]
    signature: inspect.Signature | None
    on_loop: bool

    def takes(self, count: int) -> bool:
        """Whether it can be called with that many positional arguments."""
        if self.signature is None:
            return True  # a builtin that does not say: its TypeError is an error of the function
        try:
            self.signature.bind(*[None] * count)
        except TypeError:
            return False
        return True


class Exports:
    """The exported functions of one node, by module and function name."""

    def __init__(self) -> None:
        self._table: dict[tuple[Atom, Atom], _Exported] = {}

    def add(self, module: str, name: str, function: Callable[..., Any], *, inline: bool = False) -> None:
        """Let rpc call `function` as module:name. inline: it never blocks, so it may run on the loop."""
        if not callable(function):
            raise TypeError(f"not a function: {function!r}")
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            signature = None
        on_loop = inline or inspect.iscoroutinefunction(function)
        self._table[Atom(module), Atom(name)] = _Exported(function, signature, on_loop)

    def find(self, module: Any, name: Any, args: Any) -> _Exported | None:
        if type(module) is not Atom or type(name) is not Atom or type(args) is not list:
            return None
        exported = self._table.get((module, name))
        return exported if exported is not None and exported.takes(len(args)) else None

    async def run(self, router: Router, module: Any, name: Any, args: Any) -> Outcome:
        """Call an exported function; never raises an Exception."""
        if module is _ERLANG and name is _APPLY and type(args) is list and len(args) == 2:
            # spawn/2 and erpc:call/2 send a fun: only fun M:F/A of an export is taken.
            fun, args = args
            if type(fun) is not Export or type(args) is not list or fun.arity != len(args):
                return ("error", _UNDEF, [(_ERLANG, _APPLY, [fun, args], [])])
            module, name = fun.module, fun.function
        exported = self.find(module, name, args)
        if exported is None:
            return ("error", _UNDEF, [(module, name, args, [])])
        try:
            if exported.on_loop:
                value = exported.function(*args)
                if inspect.isawaitable(value):
                    value = await value
            else:
                value = await in_thread(router, exported.function, *args)
        except RemoteThrow as thrown:
            return ("throw", thrown.value)
        except ProcessExit as end:
            return ("exit", end.reason)
        except Exception as error:
            stack = [*stack_of(error.__traceback__), (module, name, len(args), [])]
            return ("error", exception_reason(error), stack)
        return ("return", value)
