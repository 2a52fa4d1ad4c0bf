"""A Python node in an operating system process of its own, which a test may kill, stop and start again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from beamkit.beam import PATIENCE
from beamkit.runtimes import HERE, clean_env

APP = str(HERE / "beamkit" / "pyapp.py") + ":app"


class PythonProcess:
    """`strawbridge run APP --name NAME`, started and up."""

    def __init__(self, name: str, cookie: str, epmd_port: int, folder: Path, app: str = APP) -> None:
        self.name = name
        self._app = app
        self._env = clean_env(
            STRAWBRIDGE_COOKIE=cookie, ERL_EPMD_PORT=str(epmd_port), ERL_EPMD_ADDRESS="127.0.0.1", HOME=str(folder),
            PYTHONPATH=os.pathsep.join([str(HERE.parent.parent), str(HERE)]),
        )  # fmt: skip
        self._folder = folder
        self.start()

    def start(self) -> None:
        """Start it (again) and wait until it says that it is up."""
        self.log = self._folder / f"{self.name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "node", "run", self._app, "--name", self.name],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=self._env, cwd=self._folder,
            )  # fmt: skip
        up = threading.Event()
        threading.Thread(target=self._read, args=(self.process, up), daemon=True).start()
        if not up.wait(PATIENCE) or self.process.poll() is not None:
            self.process.kill()
            raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text()}")

    @staticmethod
    def _read(process: subprocess.Popen[bytes], up: threading.Event) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.rstrip().endswith(b" is up"):
                up.set()
        up.set()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
