"""python -m pores.host: the host service in the foreground (strawbridge host does the same)."""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import signal
import sys
from collections.abc import Callable

from ..errors import PoreError
from .allow import read_allow
from .server import Host

__all__ = ["main", "serve"]


async def serve(
    rundir: str | None,
    idle_exit: float | None,
    ready: Callable[[Host], None] | None = None,
    *,
    allow: str | None = None,
) -> None:
    """Run a host until SIGINT or SIGTERM, or until no domain was there for idle_exit seconds.

    allow: the file that says who may be which domain (allow.py). ValueError says what is wrong with it.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each grant and each channel that waits is one
    host = Host(rundir, allow=None if allow is None else read_allow(allow))
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await host.start()
    try:
        if ready is not None:
            ready(host)
        waits = [loop.create_task(stopped.wait())]
        if idle_exit is not None:
            waits.append(loop.create_task(host.wait_idle(idle_exit)))  # type: ignore[arg-type]
        _, rest = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
    finally:
        await host.close()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pores.host", description="Play the hypervisor for this host.")
    parser.add_argument("--rundir", help="its folder (default: STRAWBRIDGE_HOST, or one of this user)")
    parser.add_argument("--allow", metavar="FILE", help="who may be which domain, when several users share the host")
    parser.add_argument("--idle-exit", type=float, metavar="SECONDS", help="end when there was no domain for so long")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        asyncio.run(serve(options.rundir, options.idle_exit, allow=options.allow))
    except (PoreError, ValueError) as error:
        print(f"host: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
