"""The node's calls for other threads: plain functions that wait.

Made for code that is not asynchronous: worker threads, web frameworks, notebooks, scripts. On the loop's own thread
they would wait for ever, so there they raise. Straws are blocking_straws.py.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from .blocking_straws import BlockingStraws
from .errors import LocalProtocolError

if TYPE_CHECKING:
    from .node import Node
    from .terms import Atom

__all__ = ["Blocking"]

T = TypeVar("T")


class Blocking:
    """Each method does what the method of Node with the same name does, and raises the same.

    A program without an event loop gets one by ``with Node(...).blocking as node:``, in a thread of its own: the node
    is started, and closed at the end of the block.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.strawman = BlockingStraws(node, self.run)
        self._thread: threading.Thread
        self._leave: Future[None]

    def __enter__(self) -> Self:
        self._leave = Future()
        started: Future[None] = Future()
        work = (self._live(started),)
        self._thread = threading.Thread(target=asyncio.run, args=work, name=f"{self._node.name} loop", daemon=True)
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._leave.set_result(None)
        self._thread.join()

    async def _live(self, started: Future[None]) -> None:
        leave = asyncio.ensure_future(asyncio.wrap_future(self._leave))
        starting = asyncio.ensure_future(self._node.start())
        try:
            await asyncio.wait((starting, leave), return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
            await starting
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        await leave
        with suppress(Exception):  # why a node gave up was logged
            await self._node.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What a coroutine of the node's loop returns, or raises."""
        try:
            router = self._node.router
            if threading.get_ident() == router.thread:
                raise LocalProtocolError("node.blocking would block the event loop: await the method of node instead")
            future = asyncio.run_coroutine_threadsafe(coroutine, router.turn.loop)
        except BaseException:
            coroutine.close()
            raise
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def ping(self, node: str | Atom, timeout: float | None = 7.0) -> bool:
        return self.run(self._node.ping(node, timeout))

    def connect(self, node: str | Atom) -> None:
        self.run(self._node.connect(node))

    def send(self, to: Any, message: Any) -> None:
        self._node.send(to, message)

    def deliver(self, to: Any, message: Any) -> None:
        self.run(self._node.deliver(to, message))

    def call(self, to: Any, request: Any, timeout: float | None = 5.0) -> Any:
        return self.run(self._node.call(to, request, timeout))

    def cast(self, to: Any, request: Any) -> None:
        self._node.cast(to, request)

    def rpc(
        self,
        node: str | Atom,
        module: str | Atom,
        function: str | Atom,
        args: Iterable[Any] = (),
        timeout: float | None = 5.0,
    ) -> Any:
        return self.run(self._node.rpc(node, module, function, args, timeout))

    def monitor(self, target: Any) -> Any:
        """Wait for the end of a process and return its exit reason."""

        async def wait() -> Any:
            monitor = self._node.monitor(target)
            try:
                return await monitor
            finally:
                monitor.close()

        return self.run(wait())

    def link(self, pid: Any) -> Any:
        """Wait, linked to a process, for its end and return its exit reason."""

        async def wait() -> Any:
            link = self._node.link(pid)
            try:
                return await link
            finally:
                link.close()

        return self.run(wait())
