"""The node under test: a Python node in a thread of this process, or a BEAM in its place (the oracle)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from beamkit.beam import PATIENCE, Beam


class BeamSubject:
    """A BEAM with ref_node's application; shared by all tests, the application is new in each."""

    def __init__(self, beam: Beam) -> None:
        self._beam = beam
        self.name = beam.name
        beam.eval("ref_node:start()")

    def close(self) -> None:
        self._beam.eval("ref_node:stop()")


class PythonSubject:
    """A Node with pyapp's application whose event loop runs in a thread, so that a test may block."""

    def __init__(self, name: str, cookie: str, app: Callable[[Any], Any] | None = None, **options: Any) -> None:
        from beamkit import pyapp

        self.name = name
        self._app = app or pyapp.app
        self._options = {"cookie": cookie, **options}
        self._ready = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        if not self._ready.wait(PATIENCE):
            raise RuntimeError("the node did not start")
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._failed = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        from node import Node

        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with Node(self.name, **self._options) as node:
            self.node = node
            done = self._app(node)
            if asyncio.iscoroutine(done):
                await done
            self._ready.set()
            await self._stop.wait()

    def do(self, function: Callable[[Any], Awaitable[Any]]) -> Any:
        """The result of `await function(node)`, run on the node's loop."""

        async def run() -> Any:
            return await function(self.node)

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE)

    def close(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise RuntimeError(f"{self.name} did not close")
        if self._failed is not None:
            raise self._failed
