"""Domains and hosts as processes, for tests that kill them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["HostProcess", "Peer", "end_hosts"]

ROOT = Path(__file__).parents[2]
#: Seconds until something that should happen at once is taken not to happen.
LIMIT = 30


def end_hosts(rundir: str) -> None:
    """Ends every host that was started for this folder: two nodes may have started one each, and one waits its turn."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if rundir.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)


class _Process:
    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def kill(self) -> None:
        """SIGKILL, and no zombie."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(LIMIT)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()


class HostProcess(_Process):
    """A host service."""

    def __init__(self, rundir: Path) -> None:
        super().__init__("-m", "pores.host", "--rundir", str(rundir))
        deadline = time.monotonic() + LIMIT
        while not (rundir / "host.sock").exists() or not _answers(rundir):
            assert time.monotonic() < deadline and self.process.poll() is None
            time.sleep(0.01)

    @property
    def fds(self) -> int:
        """How many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def _answers(rundir: Path) -> bool:
    from pores.host.rundir import RunDir
    from pores.host.spawn import answers

    return answers(RunDir(rundir))


class Peer(_Process):
    """A domain: child.py. ring_bytes 0: it says only what a LING says."""

    program = Path(__file__).parent / "child.py"

    def __init__(self, rundir: Path | str, ring_bytes: int = 1 << 18) -> None:
        super().__init__(str(self.program), str(rundir), str(ring_bytes))
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self._answers: dict[int, dict[str, Any]] = {}
        self._next = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self.domid: int = self._lines.get(timeout=LIMIT)["domid"]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(json.loads(line))

    def start(self, do: str, **arguments: Any) -> int:
        """Asks for something; `result` has the answer."""
        self._next += 1
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"id": self._next, "do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        return self._next

    def result(self, number: int, limit: float = LIMIT) -> dict[str, Any]:
        while number not in self._answers:
            answer = self._lines.get(timeout=limit)
            self._answers[answer.pop("id")] = answer
        return self._answers.pop(number)

    def do(self, do: str, **arguments: Any) -> dict[str, Any]:
        return self.result(self.start(do, **arguments))

    def quiet(self) -> dict[str, Any]:
        """Its status when no pore of it is left."""
        self.do("quiet")
        return self.do("status")

    def kill(self) -> None:
        super().kill()
        self._thread.join(LIMIT)
