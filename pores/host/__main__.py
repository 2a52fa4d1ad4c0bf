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
from .server import Host

__all__ = ["main", "serve"]


async def serve(rundir: str | None, idle_exit: float | None, ready: Callable[[Host], None] | None = None) -> None:
    """Run a host until SIGINT or SIGTERM, or until no domain was there for idle_exit seconds."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each grant and each channel that waits is one
    host = Host(rundir)
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
    parser.add_argument("--idle-exit", type=float, metavar="SECONDS", help="end when there was no domain for so long")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        asyncio.run(serve(options.rundir, options.idle_exit))
    except PoreError as error:
        print(f"host: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
