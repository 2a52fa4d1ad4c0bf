"""Starting a host service when none runs: a process that outlives the node which asked, or in the node itself."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

from ..errors import BackendUnavailable
from .rundir import Peer, RunDir, peer_of
from .server import Host

__all__ = ["IDLE_EXIT", "answers", "embed_host", "ensure_host"]

#: Seconds without a domain after which a host that was started by itself ends.
IDLE_EXIT = 60.0
#: Seconds that a new host gets to listen, and that one which another process starts is waited for.
_START_TIME = 10.0
#: Seconds that a host gets to listen whose start made ours end.
_OTHER_TIME = 1.0
_POLL = 0.02


def answers(rundir: RunDir) -> Peer | None:
    """The process of the host service that listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        try:
            client.connect(str(rundir.socket))
        except OSError:
            return None
        return peer_of(client)


async def ensure_host(path: Path | str | None = None) -> RunDir:
    """The folder of the host service that runs, or of the one started now. BackendUnavailable says what went wrong."""
    rundir = RunDir(path)
    if not _runs(rundir):
        rundir.make()
        async with _starting(rundir):
            if not _runs(rundir):
                await _start(rundir)
    return rundir


async def embed_host(path: Path | str | None = None) -> Host | None:
    """A host service in this process, the caller's to close; None when another one runs there. BackendUnavailable."""
    rundir = RunDir(path)
    if _runs(rundir):
        return None
    rundir.make()
    async with _starting(rundir):
        if _runs(rundir):
            return None
        host = Host(rundir.path)
        try:
            await host.start()
        except BaseException:
            await host.close()
            raise
        return host


def _runs(rundir: RunDir) -> bool:
    if not os.path.lexists(rundir.path):
        return False
    rundir.check()
    return answers(rundir) is not None


@contextlib.asynccontextmanager
async def _starting(rundir: RunDir) -> AsyncIterator[None]:
    """One at a time starts a host: whoever comes in next finds it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _START_TIME
    lock = os.open(rundir.start_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if loop.time() > deadline:
                    raise _no_host(rundir, "another process is starting a host service, and does not end") from None
            await asyncio.sleep(_POLL)
        yield
    finally:
        os.close(lock)


async def _start(rundir: RunDir) -> None:
    """Returns when it listens."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _START_TIME
    process = _spawn(rundir)
    try:
        while (peer := answers(rundir)) is None:
            if process.poll() is not None:
                # One that somebody has started by hand was faster, or it can't run at all.
                deadline = min(deadline, loop.time() + _OTHER_TIME)
            if loop.time() > deadline:
                process.kill()
                raise _no_host(rundir, f"the host service did not start, see {rundir.log}")
            await asyncio.sleep(_POLL)
        if peer.pid != process.pid:
            process.terminate()
    finally:
        if process.poll() is None:
            # It goes on without us; should it end before us, then not as a zombie.
            threading.Thread(target=process.wait, name="host service", daemon=True).start()


def _spawn(rundir: RunDir) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pores.host", "--rundir", str(rundir.path), "--idle-exit", str(IDLE_EXIT)]
    log = os.open(rundir.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True
        )
    finally:
        os.close(log)


def _no_host(rundir: RunDir, why: str) -> BackendUnavailable:
    return BackendUnavailable([("local", f"{rundir.path}: {why}")])
