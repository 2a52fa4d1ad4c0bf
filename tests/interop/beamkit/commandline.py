"""The command line as a user runs it: `python -m node ...` as a process of its own."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from beamkit.runtimes import clean_env

ROOT = Path(__file__).resolve().parents[3]

#: Seconds that no command should need; only so that a hang is a failure.
PATIENCE = 60.0


class CommandLine:
    """Runs commands with the session's epmd and cookie."""

    def __init__(self, epmd_port: int, cookie: str | None, home: Path) -> None:
        self.home = home
        self.env = clean_env(ERL_EPMD_PORT=str(epmd_port), ERL_EPMD_ADDRESS="127.0.0.1", HOME=str(home))
        self.env.pop("XDG_CONFIG_HOME", None)
        self.env.pop("STRAWBRIDGE_COOKIE", None)
        self.env["PYTHONPATH"] = str(ROOT)
        self.env["PYTHONUNBUFFERED"] = "1"
        if cookie is not None:
            self.env["STRAWBRIDGE_COOKIE"] = cookie

    def run(self, *argv: str, **env: str) -> tuple[int, str, str]:
        """One command to its end: exit code, stdout, stderr."""
        done = subprocess.run(
            [sys.executable, "-m", "node", *argv],
            capture_output=True, text=True, timeout=PATIENCE, env=self.env | env, cwd=self.home, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    @contextlib.contextmanager
    def started(self, *argv: str, ready: str = "is up", stderr: int | None = None) -> Iterator[subprocess.Popen[str]]:
        """A command that goes on, once it printed a line with `ready`; ended by its pid afterwards if it still runs."""
        process = subprocess.Popen(
            [sys.executable, "-m", "node", *argv],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True, env=self.env, cwd=self.home,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert ready in line, f"{argv}: {line!r}, exit code {process.poll()}"
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    @contextlib.contextmanager
    def app(self, app: str, name: str, *argv: str) -> Iterator[subprocess.Popen[str]]:
        """`run APP --name NAME`, ended by SIGTERM; its exit code has to be 0 then."""
        with self.started("run", app, "--name", name, *argv) as process:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
