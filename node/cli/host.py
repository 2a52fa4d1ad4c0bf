"""``strawbridge host`` and ``strawbridge domains``: who plays the hypervisor on this machine, and for whom."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

from ..strawman.host import look, run_host
from ..terms import Atom
from .failure import CANNOT_CONNECT, OK, Failure, as_failure, shown

__all__ = ["domains", "host"]


def host(arguments: argparse.Namespace) -> int:
    """The host service in the foreground."""
    logging.basicConfig(level=arguments.log.upper(), format="%(levelname)s %(name)s: %(message)s")
    with as_failure():
        asyncio.run(run_host(arguments.rundir, arguments.idle_exit, arguments.allow, _up))
    return OK


def _up(path: str) -> None:
    print(f"the host in {path} is up", flush=True)


def domains(arguments: argparse.Namespace) -> int:
    """{DomId, [{OpenedBy, State}]} a line; on stderr, which backend and why."""
    with as_failure():
        found = asyncio.run(look(arguments.rundir))
    print(f"backend {found.backend} ({found.why})", file=sys.stderr)
    if found.domains is None:
        raise Failure(CANNOT_CONNECT, "no host service runs (strawbridge host; run --host starts one by itself)")
    for domain in found.domains:
        print(shown((domain.domid, [(opener, Atom(state)) for opener, state in domain.straws])))
    return OK
