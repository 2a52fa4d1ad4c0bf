"""A domain as a process of its own: does what lines of JSON on its input say, answers by lines of JSON.

python child.py RUNDIR [RING_BYTES]
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import sys
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from pores.aio import Membrane
from pores.backends.local import LocalBackend
from pores.errors import MembraneError, PoreClosed
from pores.keys import Terms
from pores.straw import Straw


def frames(seed: int, count: int, limit: int) -> Any:
    """The same frames on both sides: mostly small, some large."""
    source = random.Random(seed)
    for _ in range(count):
        size = source.choice([0, 1, source.randrange(100), source.randrange(5000), source.randrange(limit)])
        yield source.randbytes(size)


def pooled(seed: int, total: int, limit: int) -> Any:
    """The same on both sides, until they are `total` bytes: of 0 to `limit` bytes, cut out of one pool, so that making
    them costs little.
    """
    source = random.Random(seed)
    pool = source.randbytes(limit + (1 << 16))
    while total > 0:
        size = source.choice([0, limit, source.randrange(100), source.randrange(5000), source.randrange(limit)])
        at = source.randrange(len(pool) - size)
        total -= size
        yield pool[at : at + size]


def work(what: dict[str, Any]) -> Any:
    if "total" in what:
        return pooled(what["seed"], what["total"], what["limit"])
    return frames(what["seed"], what["count"], what["limit"])


class Child:
    def __init__(self, backend: LocalBackend, store: Any, membrane: Membrane) -> None:
        self.backend, self.store, self.membrane = backend, store, membrane
        self.closed: list[tuple[int, str, bool]] = []
        self.opened = 0
        self.last: dict[int, Straw] = {}
        membrane.on_straw = self.came

    def came(self, straw: Straw) -> None:
        self.opened += 1
        self.last[straw.peer] = straw
        straw.on_closed(lambda reason: self.closed.append((straw.peer, reason, straw.truncated)))

    async def do(self, what: dict[str, Any]) -> dict[str, Any]:
        peer = what.get("peer", 0)
        match what["do"]:
            case "open":
                try:
                    self.came(await self.membrane.open(peer))
                except MembraneError as error:
                    return {"error": error.reason}
                return {}
            case "wait":
                while peer not in self.last:
                    await asyncio.sleep(0.002)
                return {}
            case "send":
                return await self.send(peer, what)
            case "receive":
                return await self.receive(peer, what)
            case "close":
                await self.last.pop(peer).close()
                return {}
            case "forget":
                self.last.pop(peer, None)
                return {}
            case "ended":
                while not any(entry[0] == peer for entry in self.closed):
                    await asyncio.sleep(0.002)
                entry = next(entry for entry in self.closed if entry[0] == peer)
                self.closed.remove(entry)
                self.last.pop(peer, None)
                return {"reason": entry[1], "truncated": entry[2]}
            case "quiet":
                while self.membrane.machine.pores and not self.backend.closed:
                    await asyncio.sleep(0.002)
                return {}
            case "status":
                with open("/proc/self/maps") as maps:
                    mapped = sum("memfd:strawbridge" in line for line in maps)
                keys: list[str] = []
                if not self.store.closed:
                    keys = [*await self.store.list("data/straw"), *await self.store.list("data/warts")]
                return {
                    "keys": keys,
                    "down": self.backend.closed and self.store.closed,
                    "fds": len(os.listdir("/proc/self/fd")),
                    "mapped": mapped,
                    "held": self.backend.held,
                    "watches": self.store.watches,
                    "pores": len(self.membrane.machine.pores),
                }
            case "cost":
                used = resource.getrusage(resource.RUSAGE_SELF)
                return {
                    "kilobytes": peak_memory(),
                    "seconds": used.ru_utime + used.ru_stime,
                    "ring": self.last[peer].pore.info().in_size,
                }
            case "stop":
                await self.membrane.close()
                await self.store.close()
                await self.backend.close()
                return {"held": self.backend.held}
        return {"error": "what?"}

    async def send(self, peer: int, what: dict[str, Any]) -> dict[str, Any]:
        straw = self.last[peer]
        total = sum_ = count = 0
        try:
            for frame in work(what):
                await straw.send(frame)
                count += 1
                total += len(frame)
                sum_ = zlib.crc32(frame, sum_)
            await straw.drain()
        except PoreClosed as error:
            return {"error": error.reason, "bytes": total}
        return {"bytes": total, "sum": sum_, "count": count}

    async def receive(self, peer: int, what: dict[str, Any]) -> dict[str, Any]:
        straw = self.last[peer]
        total = sum_ = count = 0
        try:
            for wanted in work(what):
                frame = await straw.receive()
                if frame != wanted:
                    return {"error": f"frame {count} differs"}
                count += 1
                total += len(frame)
                sum_ = zlib.crc32(frame, sum_)
        except PoreClosed as error:
            return {"error": error.reason, "count": count}
        return {"bytes": total, "sum": sum_, "count": count}


def peak_memory() -> int:
    """Kilobytes at the most since this program began (ru_maxrss begins with what its parent had before the exec)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


async def serve(domid: int, do: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> None:
    """Says who we are, then does what each line asks for, several at a time; until one says stop."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps({"domid": domid, "pid": os.getpid()}), flush=True)
    tasks = set()

    async def answer(what: dict[str, Any]) -> None:
        result = await do(what)
        print(json.dumps({"id": what["id"], **result}), flush=True)

    while line := await reader.readline():
        task = loop.create_task(answer(json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if json.loads(line)["do"] == "stop":
            await task
            return


async def main() -> None:
    backend = await LocalBackend.connect(sys.argv[1], start=False)
    store = await backend.store()
    ring = int(sys.argv[2]) if len(sys.argv) > 2 else 1 << 18
    wishes = Terms(dialect="otp", ring_bytes=ring, suppress=True) if ring else Terms()
    membrane = Membrane(backend, store, wishes=wishes)
    await membrane.start()
    await serve(backend.domid, Child(backend, store, membrane).do)


if __name__ == "__main__":
    asyncio.run(main())
