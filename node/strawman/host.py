"""The host service and its domains, for the command line, which may not import `pores` itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from pores.backends.choose import choose
from pores.backends.xen import store_path
from pores.errors import PoreError, XenstoreError
from pores.host.__main__ import serve
from pores.host.rundir import RunDir
from pores.host.spawn import answers
from pores.xenstore.client import XenStore

from .errors import StrawError

__all__ = ["DomainInfo", "HostInfo", "look", "run_host"]

_STATES = {"1": "initialising", "2": "init_wait", "3": "initialised", "4": "connected", "5": "closing", "6": "closed"}


@dataclass(frozen=True, slots=True)
class DomainInfo:
    """One domain: its id, and the straws that others opened to it, as (opener, state)."""

    domid: int
    straws: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class HostInfo:
    """What is there: backend and why it, and no other; the domains, None when no host service runs."""

    backend: str
    why: str
    domains: tuple[DomainInfo, ...] | None


async def run_host(
    rundir: str | None, idle_exit: float | None, allow: str | None, ready: Callable[[str], None]
) -> None:
    """Serve until SIGINT or SIGTERM, or until there was no domain for idle_exit seconds. StrawError: it can't.

    allow: the file that lets other users in, and says who may be which domain.
    """
    try:
        await serve(rundir, idle_exit, lambda host: ready(str(host.rundir.path)), allow=allow)
    except (PoreError, OSError, ValueError) as error:
        raise StrawError("no_host", 0, str(error)) from error


async def look(rundir: str | None) -> HostInfo:
    """The backend that a node here would use, and the domains on it. StrawError: the folder can't be trusted."""
    try:
        choice = choose(rundir)
    except ValueError as error:
        raise StrawError("no_host", 0, str(error)) from error
    if choice.name == "xen":
        return HostInfo("xen", choice.why, await _domains_of_xen())
    place = RunDir(rundir)
    why = f"{choice.why}; local: {_whence(rundir)} {place.path}"
    if not place.path.exists():
        return HostInfo("local", f"{why}: no host service has run there yet", None)
    try:
        place.check()
        if not answers(place):
            return HostInfo("local", f"{why}: no host service answers", None)
        if not os.access(place.store, os.W_OK):
            raise StrawError("not_allowed", 0, f"only its own user may look into the host service in {place.path}")
        store = await XenStore.connect(str(place.store))
        try:
            return HostInfo("local", f"{why}: the host service answers", await _domains(store))
        finally:
            await store.close()
    except (PoreError, OSError) as error:
        raise StrawError("no_host", 0, str(error)) from error


async def _domains_of_xen() -> tuple[DomainInfo, ...] | None:
    """Outside of domain 0 a domain sees itself only, so far as it may read."""
    try:
        store = await XenStore.connect(store_path())
    except XenstoreError as error:
        raise StrawError("no_host", 0, str(error)) from error
    try:
        found = await _domains(store, zero=True)
        return found or (await _domain(store, await store.domid()),)
    finally:
        await store.close()


async def _domains(store: XenStore, zero: bool = False) -> tuple[DomainInfo, ...]:
    found = []
    for name in await _list(store, "/local/domain"):
        if zero or name != "0":
            found.append(await _domain(store, int(name)))
    return tuple(sorted(found, key=lambda domain: domain.domid))


async def _domain(store: XenStore, domid: int) -> DomainInfo:
    top = f"/local/domain/{domid}/data/straw"
    straws = [(int(peer), await _state(store, f"{top}/{peer}/state")) for peer in await _list(store, top)]
    return DomainInfo(domid, tuple(sorted(straws)))


async def _list(store: XenStore, path: str) -> list[str]:
    try:
        return [name for name in await store.list(path) if name.isdecimal()]
    except XenstoreError:
        return []


async def _state(store: XenStore, path: str) -> str:
    try:
        return _STATES.get((await store.read(path)).decode("latin-1"), "unknown")
    except XenstoreError:
        return "knocking"


def _whence(rundir: str | None) -> str:
    if rundir is not None:
        return "the given folder"
    return "STRAWBRIDGE_HOST is" if os.environ.get("STRAWBRIDGE_HOST") else "this user's folder"
