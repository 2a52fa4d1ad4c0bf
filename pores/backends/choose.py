"""Which backend: what the machine offers decides, unless somebody says it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ..errors import BackendUnavailable
from . import xen
from .base import Backend
from .local import LocalBackend

__all__ = ["ENVIRONMENT", "Choice", "choose", "connect"]

ENVIRONMENT = "STRAWBRIDGE_BACKEND"


class Choice(NamedTuple):
    """name: "xen" or "local". why: for people."""

    name: str
    why: str


def choose(host: Path | str | None = None, backend: str = "") -> Choice:
    """backend: "xen", "local", or "" for STRAWBRIDGE_BACKEND, and without it for what there is.

    Whoever names a host's folder (`host`, STRAWBRIDGE_HOST) wants that host; else a Xen domain whose devices are ours
    to open uses them. ValueError: no such backend.
    """
    asked = backend or os.environ.get(ENVIRONMENT, "")
    if asked not in ("", "auto", "local", "xen"):
        raise ValueError(f"no such backend: {asked!r} (auto, local, xen)")
    if asked in ("local", "xen"):
        return Choice(asked, "asked for" if backend else f"{ENVIRONMENT} says so")
    missing = xen.missing()
    if missing:
        return Choice("local", f"xen: {missing}")
    if host is not None or os.environ.get("STRAWBRIDGE_HOST"):
        return Choice("local", "xen: its devices are there; a host's folder is given")
    return Choice("xen", "its devices are there")


async def connect(host: Path | str | None = None, domid: int = 0, backend: str = "", *, start: bool = True) -> Backend:
    """A domain on the backend that `choose` names. What the backends' own `connect` raise; ValueError as `choose`."""
    name, _ = choose(host, backend)
    if name == "local":
        return await LocalBackend.connect(host, domid, start=start)
    if host is not None:
        raise BackendUnavailable([("xen", "a Xen domain has no host's folder")])
    return await xen.XenBackend.connect(domid)
