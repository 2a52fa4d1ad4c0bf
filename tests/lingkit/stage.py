"""A host service, LINGs and Python nodes on it, for tests that are plain functions.

Every peer is a process of its own and ends by its pid. A test that ends well has no dead LING.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from beamkit.beam import unique
from beamkit.commandline import ROOT, CommandLine
from membranekit.processes import HostProcess
from waiting import soon

from node import Atom, Node
from pores.aio import Membrane
from pores.backends.local import LocalBackend
from pores.errors import XenstoreError
from pores.keys import Terms
from pores.straw import Straw

from .driver import LIMIT, LingProcess
from .ext import deep_terms

__all__ = ["PythonNode", "RawDomain", "Stage", "stage"]

APP = f"{ROOT}/tests/interop/beamkit/strawapp.py:app"


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(LIMIT)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(LIMIT)
        self.loop.close()


class PythonNode:
    """A node with strawapp in a process of its own, a domain of the host; driven over distribution."""

    def __init__(self, stage: Stage, name: str, domid: int, pid: int) -> None:
        self.stage, self.name, self.domid, self.pid = stage, name, domid, pid

    def rpc(self, function: str, *args: Any) -> Any:
        return self.stage.do(self.stage.driver.rpc(self.name, "app", function, args, timeout=LIMIT))

    def send(self, domid: int, to: Any, message: Any) -> Any:
        return self.rpc("send", domid, Atom(to) if isinstance(to, str) else to, message)

    def next(self) -> Any:
        return self.rpc("next")

    def strawman(self, request: Any) -> Any:
        return self.stage.do(self.stage.driver.call(("strawman", self.name), request, timeout=LIMIT))

    def call(self, name: str, request: Any) -> Any:
        return self.stage.do(self.stage.driver.call((name, self.name), request, timeout=LIMIT))

    def count(self, name: str) -> int:
        count: int = self.rpc("counts")[Atom(name)]
        return count

    def counted(self, name: str, least: int) -> None:
        soon(lambda: self.count(name) >= least)


class RawDomain:
    """A domain with a membrane and no node, in this process: what comes and goes are frames."""

    def __init__(self, stage: Stage, domid: int, wishes: Terms | None) -> None:
        self.stage = stage
        self.came: asyncio.Queue[Straw] = asyncio.Queue()
        self.domid = stage.do(self._start(domid, wishes))

    async def _start(self, domid: int, wishes: Terms | None) -> int:
        self.backend = await LocalBackend.connect(self.stage.rundir, domid, start=False)
        self.store = await self.backend.store()
        self.membrane = Membrane(self.backend, self.store, wishes=wishes)
        self.membrane.on_straw = self.came.put_nowait
        await self.membrane.start()
        return self.backend.domid

    def open(self, domid: int) -> Straw:
        """MembraneError as of `Membrane.open`."""
        straw: Straw = self.stage.do(self.membrane.open(domid))
        return straw

    def straw(self) -> Straw:
        """The next one that was opened to us."""
        straw: Straw = self.stage.do(self.came.get())
        return straw

    def send(self, straw: Straw, frame: bytes) -> None:
        self.stage.do(straw.send(frame))

    def receive(self, straw: Straw) -> bytes:
        return bytes(self.stage.do(straw.receive()))

    def close_straw(self, straw: Straw) -> None:
        self.stage.do(straw.close())

    def close(self) -> None:
        async def end() -> None:
            await self.membrane.close()
            await self.store.close()
            await self.backend.close()

        self.stage.do(end())


class Stage:
    """What a test has: `rundir`, `host`, and makers of peers, all of which end with it."""

    def __init__(self, cli: CommandLine, stack: contextlib.ExitStack) -> None:
        self.cli, self.stack = cli, stack
        self.rundir = Path(tempfile.mkdtemp(prefix="ling-"))  # short: it holds unix sockets
        self.rundir.chmod(0o700)
        stack.callback(shutil.rmtree, self.rundir, ignore_errors=True)
        self.host: HostProcess = stack.enter_context(HostProcess(self.rundir))
        self._loop: _Loop | None = None
        self._driver: Node | None = None

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of a coroutine, which runs in a thread."""
        if self._loop is None:
            self._loop = _Loop()
            self.stack.callback(self._loop.close)
        return self._loop.run(work)

    @property
    def driver(self) -> Node:
        if self._driver is None:
            node = Node(
                unique("driver"), self.cli.env["STRAWBRIDGE_COOKIE"], listen=None,
                epmd_port=int(self.cli.env["ERL_EPMD_PORT"]),
            )  # fmt: skip
            self.do(node.__aenter__())
            self.stack.callback(lambda: self.do(node.__aexit__(None, None, None)))
            self._driver = node
        return self._driver

    def ling(self, domid: int = 0, *options: str) -> LingProcess:
        return self.stack.enter_context(LingProcess(self.rundir, domid, *options))

    def node(self, domid: int, *options: str) -> PythonNode:
        name = unique("ln")
        arguments = ["run", APP, "--name", name, "--host", str(self.rundir), "--domid", str(domid), *options]
        process = self.stack.enter_context(self.cli.started(*arguments))
        return PythonNode(self, name, domid, process.pid)

    def raw(self, domid: int = 0, wishes: Terms | None = None) -> RawDomain:
        domain = RawDomain(self, domid, wishes)
        self.stack.callback(domain.close)
        return domain

    def store(self, do: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        """Something done to the store as domain 0: do(store)."""
        from pores.xenstore.client import XenStore

        async def work() -> Any:
            store = await XenStore.connect(str(self.rundir / "xenstored" / "socket"))
            try:
                return await do(store)
            finally:
                await store.close()

        return self.do(work())

    def keys(self, domid: int) -> list[str]:
        """What is below a domain's two trees."""

        async def walk(store: Any, path: str) -> list[str]:
            found: list[str] = []
            try:
                names = await store.list(path)
            except XenstoreError:  # gone meanwhile
                return found
            for name in names:
                found += [f"{path}/{name}", *await walk(store, f"{path}/{name}")]
            return found

        async def both(store: Any) -> list[str]:
            top = f"/local/domain/{domid}/data"
            return [*await walk(store, f"{top}/straw"), *await walk(store, f"{top}/warts")]

        found: list[str] = self.store(both)
        return found


@contextlib.contextmanager
def stage(cli: CommandLine) -> Iterator[Stage]:
    with deep_terms(), contextlib.ExitStack() as stack:
        yield Stage(cli, stack)
