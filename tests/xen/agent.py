"""One domain of the scenarios: does what the control program asks for, on whatever platform it runs.

What is asked for and what came of it are JSON in the domain's own part of the store, `data/agent`: so it is the same in
a domU, in dom0 and on a local host, and has nothing to do with straws. As a program it serves until it is told to exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import json
import os
import random
import re
import signal
import sys
from pathlib import Path
from typing import Any

from pores.aio import Membrane
from pores.backends.base import Backend
from pores.backends.choose import connect
from pores.errors import MembraneError, PoreClosed, PoreError, XenstoreError
from pores.keys import Terms
from pores.straw import Straw
from pores.tube import Tube, TubeDriver
from pores.work import Limits
from pores.xenstore.client import XenStore

HERE = Path(__file__).parent
TOP = "data/agent"
#: An emulated machine takes long for what is a matter of milliseconds.
LIMITS = Limits(open_time=40, opener_time=60, old_time=10)


def frames(seed: int, count: int, limit: int) -> Any:
    """The same on both sides: mostly small, some large."""
    source = random.Random(seed)
    for _ in range(count):
        sizes = [0, 1, limit, source.randrange(100), source.randrange(5000), source.randrange(limit + 1)]
        yield source.randbytes(min(source.choice(sizes), limit))


class Agent:
    """The verbs: each method `do_x`. Arguments are those of the request, the result is JSON."""

    def __init__(self, backend: Backend, store: XenStore) -> None:
        self.backend = backend
        self.store = store
        self.membranes: dict[str, Membrane] = {}
        self.pores: dict[str, Any] = {}
        self.ended: list[tuple[int, str]] = []
        self.programs: dict[str, asyncio.subprocess.Process] = {}
        self.said: dict[str, str] = {}

    # ── a domain's life ──

    async def do_start(self, ring_bytes: int = -1, tubes: bool = False) -> Any:
        """The membranes. ring_bytes: -1 our own, 0 as a LING."""
        wishes = {-1: None, 0: Terms()}.get(ring_bytes, Terms(dialect="otp", ring_bytes=ring_bytes, suppress=True))
        membrane = self.membranes["straw"] = Membrane(self.backend, self.store, wishes=wishes, limits=LIMITS)
        membrane.on_straw = self._came
        await membrane.start()
        if tubes:
            membrane = Membrane(self.backend, self.store, driver=TubeDriver(), make=Tube, limits=LIMITS)
            self.membranes["tube"] = membrane
            membrane.on_straw = self._came
            await membrane.start()
        return {"domid": self.backend.domid}

    async def do_stop(self) -> Any:
        for membrane in self.membranes.values():
            await membrane.close()
        self.membranes.clear()
        self.pores.clear()
        self.ended.clear()
        return self.backend.held

    async def do_die(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    async def do_status(self) -> Any:
        """What is held, and what is in the store: nothing of both when no pore is open."""
        keys = []
        for top in ("straw", "warts", "tip", "nock"):
            with contextlib.suppress(XenstoreError):
                keys += [f"{top}/{name}" for name in await self.store.list(f"data/{top}")]
        with open("/proc/self/maps") as maps:
            mapped = sum(any(name in line for name in _MEMORY) for line in maps)
        return {
            "keys": keys,
            "fds": len(os.listdir("/proc/self/fd")),
            "mapped": mapped,
            "held": self.backend.held,
            "watches": self.store.watches,
            "pores": sum(len(membrane.machine.pores) for membrane in self.membranes.values()),
            "counts": {kind: dict(membrane.counts) for kind, membrane in self.membranes.items()},
        }

    async def do_quiet(self) -> Any:
        """Waits until no pore is left, of those that are open or closing."""
        while any(membrane.machine.pores for membrane in self.membranes.values()):
            await asyncio.sleep(0.01)
        self.pores.clear()
        return await self.do_status()

    # ── pores ──

    def _came(self, pore: Any) -> None:
        name = f"{'tube' if isinstance(pore, Tube) else 'straw'} {pore.peer}"
        self.pores[name] = pore
        pore.on_closed(lambda reason: self.ended.append((pore.peer, reason)))

    async def do_open(self, peer: int, kind: str = "straw") -> Any:
        """{} or {"error": reason}; what was agreed upon."""
        try:
            pore = await self.membranes[kind].open(peer, *(("1",) if kind == "tube" else ()))
        except MembraneError as error:
            return {"error": error.reason}
        self._came(pore)
        return {"ring": pore.terms.ring_bytes}

    async def _pore(self, peer: int, kind: str = "straw") -> Any:
        while f"{kind} {peer}" not in self.pores:
            await asyncio.sleep(0.005)
        return self.pores[f"{kind} {peer}"]

    async def do_ended(self, peer: int) -> Any:
        """The reason for the end of the pore with a peer; waits for it."""
        while not any(entry[0] == peer for entry in self.ended):
            await asyncio.sleep(0.005)
        entry = next(entry for entry in self.ended if entry[0] == peer)
        self.ended.remove(entry)
        for kind in ("straw", "tube"):
            self.pores.pop(f"{kind} {peer}", None)
        return entry[1]

    async def do_close(self, peer: int, kind: str = "straw") -> Any:
        await (await self._pore(peer, kind)).close()
        return await self.do_ended(peer)

    async def do_send(self, peer: int, seed: int, count: int, limit: int, kind: str = "straw") -> Any:
        """{"sum": …} of what was sent, or {"error": reason, "count": …}."""
        pore: Straw | Tube = await self._pore(peer, kind)
        digest, n = hashlib.blake2b(digest_size=16), 0
        try:
            for frame in frames(seed, count, limit):
                if kind == "tube" and not frame:
                    continue
                await pore.send(frame)
                digest.update(b"%d " % len(frame) + frame)
                n += 1
            if isinstance(pore, Straw):
                await pore.drain()
        except PoreClosed as error:
            return {"error": error.reason, "count": n}
        return {"sum": digest.hexdigest(), "count": n}

    async def do_receive(self, peer: int, seed: int, count: int, limit: int, kind: str = "straw") -> Any:
        """As `send`, of what was received; an error too when it is not what was sent."""
        pore: Straw | Tube = await self._pore(peer, kind)
        digest, n = hashlib.blake2b(digest_size=16), 0
        try:
            for wanted in frames(seed, count, limit):
                if kind == "tube" and not wanted:
                    continue
                frame = await pore.receive()
                if frame != wanted:
                    return {"error": f"frame {n} is not what was sent"}
                digest.update(b"%d " % len(frame) + frame)
                n += 1
        except PoreClosed as error:
            return {"error": error.reason, "count": n}
        return {"sum": digest.hexdigest(), "count": n}

    async def do_echo(self, peer: int) -> Any:
        """Sends everything back, until the pore ends."""
        pore = await self._pore(peer)
        n = 0
        with contextlib.suppress(PoreClosed):
            while True:
                await pore.send(await pore.receive())
                n += 1
        return n

    # ── harm ──

    async def do_scribble(self, peer: int, seed: int) -> Any:
        """Writes noise all over the memory that is shared with a peer."""
        await self._pore(peer)
        source = random.Random(seed)
        areas = 0
        with open("/proc/self/maps") as maps:
            for line in maps:
                if any(name in line for name in _MEMORY):
                    first, last = (int(number, 16) for number in line.split()[0].split("-"))
                    noise = source.randbytes(last - first)
                    ctypes.memmove(first, noise, len(noise))
                    areas += 1
        self.pores[f"straw {peer}"].pore.write(b"look")
        return areas

    async def do_write(self, path: str, value: str) -> Any:
        return await self._store_word(self.store.write(path, value))

    async def do_delete(self, path: str) -> Any:
        return await self._store_word(self.store.delete(path))

    async def do_read(self, path: str) -> Any:
        try:
            return (await self.store.read(path)).decode("latin-1")
        except XenstoreError as error:
            return {"error": error.name}

    async def _store_word(self, work: Any) -> Any:
        try:
            await work
        except XenstoreError as error:
            return {"error": error.name}
        return {}

    async def do_grant_to(self, peer: int, pages: int = 1) -> Any:
        """Whether so many pages can be granted, all at once."""
        try:
            grant = await self.backend.grant(peer, pages)
            await self.backend.end_access(grant)
        except PoreError as error:
            return {"error": error.name}
        return {}

    # ── other programs ──

    async def do_run(self, command: list[str], limit: float = 120) -> Any:
        """Runs a program to its end: its status and the end of what it said."""
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        try:
            async with asyncio.timeout(limit):
                said, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            said, _ = await process.communicate()
        return {"status": process.returncode, "said": said.decode("utf-8", "replace")[-1500:]}

    async def do_begin(self, name: str, command: list[str], uid: int = -1) -> Any:
        """Starts a program that goes on, as that user; `said` reads what it says, `finish` ends it.

        PYTHON, TALK and EBIN are replaced by what they are here.
        """
        here = {
            "PYTHON": sys.executable,
            "TALK": str(HERE / "talk"),
            "EBIN": os.environ.get("AGENT_EBIN", "/erl/straw/ebin"),
        }
        words = [re.sub("^(PYTHON|TALK|EBIN)", lambda match: here[match[1]], word) for word in command]
        environment = {key: value for key, value in os.environ.items() if key != "AGENT_DOMID"}
        self.programs[name] = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            **({"user": uid, "group": uid, "extra_groups": []} if uid >= 0 else {}),
        )
        self.said[name] = ""
        return {}

    async def do_said(self, name: str, pattern: str) -> Any:
        """Waits until a program has said something that matches; the first group, or all of it."""
        output = self.programs[name].stdout
        assert output is not None
        while not (match := re.search(pattern, self.said[name], re.MULTILINE)):
            data = await output.read(4096)
            if not data:
                raise AssertionError(f"{name} has ended: {self.said[name][-1200:]}")
            self.said[name] += data.decode("utf-8", "replace")
        return match[match.lastindex or 0]

    async def do_finish(self, name: str, patience: float = 0) -> Any:
        """Ends a program, if it does not end by itself in so many seconds."""
        process = self.programs.pop(name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await process.wait()
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        return {"status": process.returncode, "said": self.said.pop(name)[-1000:]}


_MEMORY = ("memfd:strawbridge", "/dev/xen/gntdev", "/dev/xen/gntalloc")


async def serve() -> None:
    """Until `exit` is asked for."""
    backend = await connect(domid=int(os.environ.get("AGENT_DOMID", "0")), start=False)
    store = await backend.store()
    agent = Agent(backend, await backend.store())
    with contextlib.suppress(XenstoreError):
        await store.delete(TOP)
    await store.mkdir(f"{TOP}/reply")
    news = asyncio.Event()
    await store.watch(f"{TOP}/do", lambda path: news.set())
    await store.write(f"{TOP}/ready", os.getpid())
    tasks: set[asyncio.Task[None]] = set()
    leave = asyncio.Event()

    async def answer(number: str, request: dict[str, Any]) -> None:
        try:
            result = {"result": await getattr(agent, f"do_{request.pop('do')}")(**request)}
        except Exception as error:
            result = {"failed": f"{type(error).__name__}: {error}"}
        await store.write(f"{TOP}/reply/{number}", json.dumps(result)[:1900])

    done: set[str] = set()
    while not leave.is_set():
        await news.wait()
        news.clear()
        try:
            numbers = [number for number in await store.list(f"{TOP}/do") if number not in done]
        except XenstoreError:
            continue
        for number in sorted(numbers, key=int):
            request = json.loads(await store.read(f"{TOP}/do/{number}"))
            done.add(number)
            if request["do"] == "exit":
                leave.set()
                await agent.do_stop()
                continue
            task = asyncio.get_running_loop().create_task(answer(number, request))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    await store.delete(TOP)
    for one in (store, agent.store, backend):
        await one.close()


if __name__ == "__main__":
    asyncio.run(serve())
    sys.exit(0)
