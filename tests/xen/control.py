"""The control program's side of `agent.py`: domains, by what is asked of them, on any platform."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from typing import Any, Protocol

from pores.errors import XenstoreError
from pores.xenstore.client import XenStore

__all__ = ["LIMIT", "Domain", "Platform"]

#: Seconds until something that should happen at once is taken not to happen. An emulated machine is slow.
LIMIT = 60.0


class Domain:
    """A domain with an agent in it."""

    _numbers = itertools.count(1)

    def __init__(self, store: XenStore, domid: int) -> None:
        self.store = store
        self.domid = domid
        self._top = f"/local/domain/{domid}/data/agent"

    async def ready(self, other_than: bytes = b"") -> None:
        """Waits until the agent serves, or the successor of that one."""
        async with asyncio.timeout(LIMIT):
            await self.store.wait(f"{self._top}/ready", lambda value: value.isdigit() and value != other_than)

    async def agent(self) -> bytes:
        """Which one serves: its process id."""
        return await self.store.read(f"{self._top}/ready")

    async def forget(self) -> None:
        """The agent that was there serves no more: the next one is to be waited for."""
        with contextlib.suppress(XenstoreError):
            await self.store.delete(self._top)

    async def ask(self, do: str, **arguments: Any) -> int:
        """Asks for something; `answer` has what came of it."""
        number = next(self._numbers)
        await self.store.write(f"{self._top}/do/{number}", json.dumps({"do": do, **arguments}))
        return number

    async def answer(self, number: int, limit: float = LIMIT) -> Any:
        path = f"{self._top}/reply/{number}"
        async with asyncio.timeout(limit):
            found = json.loads(await self.store.wait(path, lambda value: value.endswith(b"}")))
        await self.store.delete(path)
        await self.store.delete(f"{self._top}/do/{number}")
        if "failed" in found:
            raise AssertionError(f"domain {self.domid}: {found['failed']}")
        return found["result"]

    async def do(self, do: str, **arguments: Any) -> Any:
        return await self.answer(await self.ask(do, **arguments))


class Platform(Protocol):
    """Where the scenarios run. The domains it gives are there, their agents serve and have not been started."""

    name: str
    """"xen" or "local"."""
    store: XenStore
    """As domain 0."""

    async def outside(self) -> Domain:
        """A program in dom0; where there is none, one more domain."""
        ...

    async def inside(self, name: str) -> Domain:
        """A domU, "one" or "two"."""
        ...

    async def crash(self, domain: Domain) -> None:
        """Its program dies by SIGKILL; the domain lives on, where the two are not one, and its program comes again."""
        ...

    async def destroy(self, domain: Domain) -> None:
        """The whole domain dies at once. A later `inside` makes a new one."""
        ...

    async def pause(self, domain: Domain) -> None:
        """It does not run any more, and does not know it."""
        ...

    async def resume(self, domain: Domain) -> None: ...

    async def leaks(self) -> list[str]:
        """What the platform itself still has of pores that are closed: nothing."""
        ...
