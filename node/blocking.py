"""The node's calls for other threads: plain functions that wait.

Made for code that is not asynchronous: worker threads, web frameworks, notebooks. On the loop's own thread they
would wait for ever, so there they raise.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import LocalProtocolError

if TYPE_CHECKING:
    from .node import Node
    from .terms import Atom

__all__ = ["Blocking"]

T = TypeVar("T")


class Blocking:
    """Each method does what the method of Node with the same name does, and raises the same."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
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
        return self._run(self._node.ping(node, timeout))

    def connect(self, node: str | Atom) -> None:
        self._run(self._node.connect(node))

    def send(self, to: Any, message: Any) -> None:
        self._node.send(to, message)

    def deliver(self, to: Any, message: Any) -> None:
        self._run(self._node.deliver(to, message))

    def call(self, to: Any, request: Any, timeout: float | None = 5.0) -> Any:
        return self._run(self._node.call(to, request, timeout))

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
        return self._run(self._node.rpc(node, module, function, args, timeout))

    def monitor(self, target: Any) -> Any:
        """Wait for the end of a process and return its exit reason."""

        async def wait() -> Any:
            monitor = self._node.monitor(target)
            try:
                return await monitor
            finally:
                monitor.close()

        return self._run(wait())

    def link(self, pid: Any) -> Any:
        """Wait, linked to a process, for its end and return its exit reason."""

        async def wait() -> Any:
            link = self._node.link(pid)
            try:
                return await link
            finally:
                link.close()

        return self._run(wait())
