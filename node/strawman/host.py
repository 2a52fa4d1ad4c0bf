"""The host service and its domains, for the command line, which may not import `pores` itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pores.errors import PoreError, XenstoreError
from pores.host.__main__ import serve
from pores.host.rundir import RunDir
from pores.host.spawn import answers
from pores.xenstore.client import XenStore

from .errors import StrawError

__all__ = ["DomainInfo", "HostInfo", "look", "run_host"]

#: What a Xen domain has; without them straws are between domains of the local host service.
_XEN_DEVICES = ("/dev/xen/evtchn", "/dev/xen/gntalloc", "/dev/xen/gntdev", "/dev/xen/xenbus")
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
    place = RunDir(rundir)
    why = f"{_no_xen()}; local: {_whence(rundir)} {place.path}"
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


async def _domains(store: XenStore) -> tuple[DomainInfo, ...]:
    found = []
    for name in await _list(store, "/local/domain"):
        if name != "0":
            top = f"/local/domain/{name}/data/straw"
            straws = [(int(peer), await _state(store, f"{top}/{peer}/state")) for peer in await _list(store, top)]
            found.append(DomainInfo(int(name), tuple(sorted(straws))))
    return tuple(sorted(found, key=lambda domain: domain.domid))


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


def _no_xen() -> str:
    missing = [path for path in _XEN_DEVICES if not Path(path).exists()]
    return f"xen: no {missing[0]}" if missing else "xen: not supported yet"


def _whence(rundir: str | None) -> str:
    if rundir is not None:
        return "the given folder"
    return "STRAWBRIDGE_HOST is" if os.environ.get("STRAWBRIDGE_HOST") else "this user's folder"
