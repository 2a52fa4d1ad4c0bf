"""Registered handlers and their restarts: the node's own supervisor, with OTP's three kinds of children.

A permanent child is always started again, a transient one after an abnormal end, a temporary one never. Too many
restarts in a short time mean that starting again does not help: the node gives up.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import NodeError
from ..runtime.process import Process
from ..runtime.router import Router
from ..runtime.signals import is_quiet
from . import gen_server
from .function import FunctionProcess
from .gen_server import GenServer

__all__ = ["MAX_RESTARTS", "RESTART_PERIOD", "ChildSpec", "Restart", "Supervisor", "TooManyRestarts", "start_process"]

log = logging.getLogger("strawbridge.supervisor")

Restart = Literal["permanent", "transient", "temporary"]

#: More restarts than this within RESTART_PERIOD seconds stop the node (Elixir's defaults).
MAX_RESTARTS = 3
RESTART_PERIOD = 5.0


class TooManyRestarts(NodeError):
    """A registered handler kept ending. name: which; reason: its last exit reason."""

    def __init__(self, name: str, reason: Any) -> None:
        super().__init__(f"{name} ended {MAX_RESTARTS + 1} times within {RESTART_PERIOD:g} s, last with {reason!r}")
        self.name = name
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to start one registered handler."""

    name: str
    handler: Any
    args: tuple[Any, ...]
    restart: Restart
    inline: bool

    def __post_init__(self) -> None:
        if self.restart not in ("permanent", "transient", "temporary"):
            raise ValueError(f"restart is permanent, transient or temporary, not {self.restart!r}")
        if not callable(self.handler) and not isinstance(self.handler, GenServer):
            raise TypeError(f"a handler is a function, a coroutine function or a GenServer, not {self.handler!r}")


def _is_coroutine_function(handler: Any) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


def start_process(
    router: Router, handler: Any, args: tuple[Any, ...], *, name: str | None = None, inline: bool = False
) -> Process:
    """Start a handler of any kind as a process. ValueError when the name is taken."""
    if isinstance(handler, GenServer) or (isinstance(handler, type) and issubclass(handler, GenServer)):
        make: Callable[[], GenServer] = handler if isinstance(handler, type) else lambda: handler
        label = getattr(handler, "__name__", type(handler).__name__)
        return router.spawn(gen_server.run, make, inline, args, name=name, label=label)
    if _is_coroutine_function(handler):
        return router.spawn(handler, *args, name=name)
    if args:
        raise TypeError("a plain function gets messages only; use functools.partial for further arguments")
    process = FunctionProcess(router, handler, inline)
    if name is not None:
        try:
            router.registry.register(name, process)
        except ValueError:
            process.kill()
            raise
    return process


class Supervisor:
    """Starts the registered handlers of one node and starts them again."""

    def __init__(self, router: Router, give_up: Callable[[NodeError], None]) -> None:
        self._router = router
        self._give_up = give_up
        self._restarts: deque[float] = deque()
        self._closing = False

    def start(self, spec: ChildSpec) -> Process:
        process = start_process(self._router, spec.handler, spec.args, name=spec.name, inline=spec.inline)
        process.on_exit.append(lambda ended, reason: self._ended(spec, reason))
        return process

    def _ended(self, spec: ChildSpec, reason: Any) -> None:
        if self._closing or spec.restart == "temporary" or (spec.restart == "transient" and is_quiet(reason)):
            return
        loop = self._router.turn.loop
        now = loop.time()
        self._restarts.append(now)
        while self._restarts[0] < now - RESTART_PERIOD:
            self._restarts.popleft()
        if len(self._restarts) > MAX_RESTARTS:
            self._closing = True
            self._give_up(TooManyRestarts(spec.name, reason))
        else:
            log.warning("%s is started again", spec.name)
            loop.call_soon(self._restart, spec)

    def _restart(self, spec: ChildSpec) -> None:
        if not self._closing:
            try:
                self.start(spec)
            except ValueError as error:  # somebody took the name meanwhile
                self._closing = True
                self._give_up(NodeError(f"{spec.name} can't be started again: {error}"))

    def close(self) -> None:
        """No more restarts."""
        self._closing = True
