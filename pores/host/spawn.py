"""Starting a host service when none runs: a process of its own that outlives the node which asked."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

from ..errors import BackendUnavailable
from .rundir import RunDir

__all__ = ["IDLE_EXIT", "answers", "ensure_host"]

#: Seconds without a domain after which a host that was started by itself ends.
IDLE_EXIT = 60.0
#: Seconds that a new host gets to listen.
_START_TIME = 10.0
_POLL = 0.02


def answers(rundir: RunDir) -> bool:
    """Whether a host service listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        try:
            client.connect(str(rundir.socket))
        except OSError:
            return False
    return True


async def ensure_host(path: Path | str | None = None) -> RunDir:
    """The folder of the host service that runs, or of the one started now. BackendUnavailable says what went wrong."""
    rundir = RunDir(path)
    rundir.make()
    if answers(rundir):
        return rundir
    command = [sys.executable, "-m", "pores.host", "--rundir", str(rundir.path), "--idle-exit", str(IDLE_EXIT)]
    with rundir.log.open("ab") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - starting takes no time, and it outlives us
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True
        )
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _START_TIME
    while not answers(rundir):
        # One that lost the race for the lock ends at once; then the winner will listen soon.
        if loop.time() > deadline:
            process.poll()
            raise BackendUnavailable(
                [("local", f"the host service did not start within {_START_TIME:g} s, see {rundir.log}")]
            )
        await asyncio.sleep(_POLL)
    return rundir
