"""Straws for other threads, and for scripts: plain functions that wait. `node.blocking.strawman`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from .terms import Atom, Pid

if TYPE_CHECKING:
    from .node import Node
    from .runtime.process import Process

__all__ = ["BlockingStraws", "Inbox"]

_STRAW = Atom("straw")

#: Runs a coroutine on the node's loop, and waits for its result.
Run = Callable[[Coroutine[Any, Any, Any]], Any]


class BlockingStraws:
    """Each method does what the method of Strawman with the same name does, and raises the same."""

    def __init__(self, node: Node, run: Run) -> None:
        self._node = node
        self._run = run

    @property
    def domid(self) -> int:
        """Our domain id; 0 while there is none."""
        return self._node.strawman.domid

    @property
    def domains(self) -> list[int]:
        """The domains that we have a straw to."""
        domains: list[int] = self._do(lambda: self._node.strawman.domains)
        return domains

    def open(self, domid: int, *, format: Literal["erlang", "json"] = "erlang") -> Pid:
        pid: Pid = self._run(self._node.strawman.open(domid, format=format))
        return pid

    def send(self, domid: int, to: Any, message: Any) -> None:
        self._run(self._node.strawman.send(domid, to, message))

    def flush(self, domid: int) -> None:
        self._run(self._node.strawman.flush(domid))

    def close(self, domid: int) -> bool:
        closed: bool = self._run(self._node.strawman.close(domid))
        return closed

    def export(self, name: Any, *, to: Any = None, domains: Iterable[int] | None = None, sender: bool = False) -> None:
        self._do(lambda: self._node.strawman.export(name, to=to, domains=domains, sender=sender))

    def unexport(self, name: Any) -> None:
        self._do(lambda: self._node.strawman.unexport(name))

    def listen(self, name: str, *, domains: Iterable[int] | None = None) -> Inbox:
        """An Inbox for the envelopes that other domains send to this name, which is exported to `domains` (None: all).

        ValueError when the name is taken.
        """
        return Inbox(self._node, self._run, name, domains)

    def _do(self, function: Callable[[], Any]) -> Any:
        async def work() -> Any:
            return function()

        return self._run(work())


class Inbox:
    """Envelopes to one name, for one thread to take: a context manager, and an iterator over (domain id, message).

    What nobody takes waits, and holds the straws that bring more. Messages that are no envelopes are dropped.
    """

    def __init__(self, node: Node, run: Run, name: str, domains: Iterable[int] | None) -> None:
        self._node = node
        self._run = run
        self._name = name
        self._place = node.process(name)
        self._me: Process = run(self._open(domains))
        self._open_still = True

    async def _open(self, domains: Iterable[int] | None) -> Process:
        me = await self._place.__aenter__()
        self._node.strawman.export(self._name, domains=domains, sender=True)
        return me

    def receive(self, timeout: float | None = None) -> tuple[int, Any]:
        """The next (domain id, message). TimeoutError after so many seconds; ProcessExit when the node has closed."""
        envelope: tuple[int, Any] = self._run(self._receive(timeout))
        return envelope

    async def _receive(self, timeout: float | None) -> tuple[int, Any]:
        async with asyncio.timeout(timeout):
            while True:
                match await self._me.receive():
                    case (tag, domid, message) if tag is _STRAW:
                        return domid, message

    def close(self) -> None:
        """Take the export and the name back. May be called twice."""
        if self._open_still:
            self._open_still = False
            self._run(self._close())

    async def _close(self) -> None:
        self._node.strawman.unexport(self._name)
        await self._place.__aexit__(None, None, None)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[int, Any]:
        return self.receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
