"""Domains with tubes, as processes that a test drives alike: Python's (this file, run as a program: tubepeer.py RUNDIR)
and a BEAM's (erl/tube_peer.erl). A tube is named by (peer, number, whether we have opened it).
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
for folder in (ROOT, ROOT / "tests", ROOT / "tests" / "interop"):  # a program's path is not that of the tests
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from beamkit.strawpeer import _plain  # noqa: E402
from membranekit.child import serve  # noqa: E402
from membranekit.processes import LIMIT, Peer  # noqa: E402

from node import etf  # noqa: E402
from pores.aio import Membrane  # noqa: E402
from pores.backends.local import LocalBackend  # noqa: E402
from pores.errors import MembraneError, PoreClosed  # noqa: E402
from pores.tube import Tube, TubeDriver  # noqa: E402

__all__ = ["BeamTubes", "PythonTubes", "packets"]

Key = tuple[int, int, bool]


def packets(seed: int, count: int) -> Iterator[bytes]:
    """The same as tube_peer:next/1."""
    x = seed
    for _ in range(count):
        x = (1103515245 * x + 12345) & 0x7FFFFFFF
        size = (1, 4096, (x >> 12) % 4096 + 1)[(x >> 8) % 3]
        yield (struct.pack(">I", x) * (size // 4 + 1))[:size]


class BeamTubes:
    """A BEAM. beam: one that has erl/ebin and the tests' modules on its path."""

    def __init__(self, beam: Any, rundir: str) -> None:
        self.beam = beam
        self.domid: int = self.eval(f'tube_peer:start("{rundir}")')

    def start(self, do: str, *arguments: Any) -> Any:
        """Asks for something; `result` has the answer."""
        if do == "stop":
            return self.beam.submit("tube_peer:stop()", "b")
        words = ", ".join([f"'{do}'", *map(_erlang, arguments)])
        return self.beam.submit(f"tube_peer:do({{{words}}})" if arguments else f"tube_peer:do({words})", "b")

    def result(self, number: Any) -> Any:
        return _plain(etf.decode(number.result(LIMIT)))

    def do(self, do: str, *arguments: Any) -> Any:
        return self.result(self.start(do, *arguments))

    def eval(self, text: str) -> Any:
        return _plain(etf.decode(self.beam.submit(text, "b").result(LIMIT)))

    def kill(self) -> None:
        self.beam.kill()


def _erlang(value: Any) -> str:
    if isinstance(value, tuple):
        return "{" + ", ".join(map(_erlang, value)) + "}"
    return str(value).lower()


class PythonTubes(Peer):
    """A Python domain."""

    program = Path(__file__)

    def start(self, do: str, *arguments: Any) -> int:  # type: ignore[override]
        return super().start(do, arguments=arguments)

    def result(self, number: int, limit: float = LIMIT) -> dict[str, Any]:
        answer = super().result(number, limit)
        if "got" in answer:
            answer["got"] = [bytes.fromhex(packet) for packet in answer["got"]]
        return answer

    def do(self, do: str, *arguments: Any) -> Any:  # type: ignore[override]
        return self.result(self.start(do, *arguments))


# ── Python's, in a process of its own ──


class Child:
    def __init__(self, backend: LocalBackend, store: Any, membrane: Membrane) -> None:
        self.backend, self.store, self.membrane = backend, store, membrane
        self.tubes: dict[Key, Tube] = {}
        membrane.on_straw = self.came

    def came(self, tube: Tube) -> None:
        self.tubes[tube.peer, int(tube.tid), tube.key.role == "passive"] = tube

    async def do(self, do: str, *arguments: Any) -> dict[str, Any]:
        if do == "open":
            peer, number = arguments
            try:
                self.came(await self.membrane.open(peer, str(number)))
            except MembraneError as error:
                return {"error": error.reason}
            return {}
        if do == "quiet":
            while self.membrane.machine.pores:
                await asyncio.sleep(0.002)
            return await self.status()
        if do == "status":
            return await self.status()
        if do == "stop":
            await self.membrane.close()
            await self.store.close()
            await self.backend.close()
            return {}
        key, *rest = arguments
        return await getattr(self, do)(tuple(key), *rest)  # type: ignore[no-any-return]

    async def wait(self, key: Key) -> dict[str, Any]:
        while key not in self.tubes:
            await asyncio.sleep(0.002)
        return {}

    async def send(self, key: Key, seed: int, count: int) -> dict[str, Any]:
        sent = 0
        try:
            for packet in packets(seed, count):
                await self.tubes[key].send(packet)
                sent += 1
        except PoreClosed as error:
            return {"error": error.reason, "sent": sent}
        return {"sent": sent}

    async def recv(self, key: Key, count: int) -> dict[str, Any]:
        got: list[str] = []
        try:
            for _ in range(count):
                got.append((await self.tubes[key].receive()).hex())
        except PoreClosed as error:
            return {"got": got, "error": error.reason}
        return {"got": got}

    messages = recv

    async def fill(self, key: Key, count: int) -> dict[str, Any]:
        sent = [self.tubes[key].send_nowait(bytes([n + 1])) for n in range(count)]
        return {"sent": sent, "slots": self.tubes[key].pore.slots}

    async def close(self, key: Key) -> dict[str, Any]:
        await self.tubes[key].close()
        return {}

    async def ended(self, key: Key) -> dict[str, Any]:
        tube = self.tubes[key]
        while not tube.closed:
            await asyncio.sleep(0.002)
        del self.tubes[key]
        left = []
        try:
            while True:
                left.append((await tube.receive()).hex())
        except PoreClosed as error:
            return {"reason": error.reason, "got": left}

    async def status(self) -> dict[str, Any]:
        keys = []
        for top in ("data/tip", "data/nock"):
            for peer in await self.store.list(top):
                keys += [f"{top}/{peer}/{number}" for number in await self.store.list(f"{top}/{peer}")]
        return {
            "keys": keys,
            "fds": len(os.listdir("/proc/self/fd")),
            "held": self.backend.held,
            "pores": len(self.membrane.machine.pores),
            "counts": self.membrane.counts,
            "watches": self.store.watches,
        }


async def main() -> None:
    backend = await LocalBackend.connect(sys.argv[1], start=False)
    store = await backend.store()
    membrane = Membrane(backend, store, driver=TubeDriver(), make=Tube)
    await membrane.start()
    child = Child(backend, store, membrane)
    await serve(backend.domid, lambda what: child.do(what["do"], *what["arguments"]))


if __name__ == "__main__":
    asyncio.run(main())
