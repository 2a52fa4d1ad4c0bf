"""The scenarios' platform without Xen: a local host in this process, each domain a program of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from control import Domain

from pores.host.server import Host
from pores.xenstore.client import XenStore

__all__ = ["Local"]

AGENT = Path(__file__).parent / "agent.py"


class Local:
    """`control.Platform` on the local host. There is no dom0: "outside" is one more domain."""

    name = "local"

    def __init__(self, rundir: Path) -> None:
        self.rundir = rundir
        self.host = Host(rundir)
        self.store: XenStore
        self._domains: dict[str, tuple[Domain, asyncio.subprocess.Process]] = {}
        self._next = 1

    async def start(self) -> None:
        await self.host.start()
        self.store = await XenStore.connect(str(self.host.rundir.store))

    async def outside(self) -> Domain:
        return await self.inside("outside")

    async def inside(self, name: str) -> Domain:
        if name not in self._domains:
            await self._create(name)
        domain, _ = self._domains[name]
        await domain.ready()
        return domain

    async def _create(self, name: str) -> None:
        domid = self._next
        self._next += 1
        environment = {
            **os.environ,
            "STRAWBRIDGE_HOST": str(self.rundir),
            "AGENT_DOMID": str(domid),
            "AGENT_EBIN": str(AGENT.parents[2] / "erl/ebin"),
            "PYTHONPATH": str(AGENT.parents[2]),
        }
        process = await asyncio.create_subprocess_exec(sys.executable, str(AGENT), env=environment)
        self._domains[name] = Domain(self.store, domid), process

    async def crash(self, domain: Domain) -> None:
        """A local domain is its program."""
        await self.destroy(domain)

    async def destroy(self, domain: Domain) -> None:
        (name,) = (name for name, (known, _) in self._domains.items() if known.domid == domain.domid)
        _, process = self._domains.pop(name)
        process.kill()
        await process.wait()

    async def pause(self, domain: Domain) -> None:
        self._process(domain).send_signal(signal.SIGSTOP)

    async def resume(self, domain: Domain) -> None:
        self._process(domain).send_signal(signal.SIGCONT)

    def _process(self, domain: Domain) -> asyncio.subprocess.Process:
        return next(process for known, process in self._domains.values() if known.domid == domain.domid)

    async def leaks(self) -> list[str]:
        return []

    async def close(self) -> None:
        for _, process in self._domains.values():
            process.kill()
            await process.wait()
        await self.store.close()
        await self.host.close()
