"""A BEAM as a test sees it: start, evaluate, stop, kill.

The control channel is interop_ctl.erl's TCP socket, never distributed Erlang. Not here: which BEAMs exist
(runtimes.py) and the fixtures (conftest.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from beamkit.runtimes import Runtime, clean_env
from waiting import LONG, becomes

#: Seconds that nothing here should ever need; only so that a hang is a failure.
PATIENCE = 30.0

_numbers = itertools.count(1)


def unique(prefix: str) -> str:
    """A node name no other test of this session uses."""
    return f"{prefix}{next(_numbers)}@127.0.0.1"


class BeamError(Exception):
    """The evaluated text raised; the message is the printed {Class, Reason, Stack}."""


class BeamGone(Exception):
    """The BEAM ended while something was being evaluated."""


class Erl(str):
    """Text to be put into Erlang source as it is (a plain str becomes a quoted atom)."""


def erl(value: Any) -> str:
    """A Python value as Erlang source: str an atom, bytes a binary, Erl itself."""
    match value:
        case Erl():
            return value
        case bool():
            return "true" if value else "false"
        case str():
            return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
        case bytes():
            return "<<" + ",".join(map(str, value)) + ">>"
        case int() | float():
            return repr(value)
        case list():
            return "[" + ",".join(map(erl, value)) + "]"
        case tuple():
            return "{" + ",".join(map(erl, value)) + "}"
    raise TypeError(value)


class Beam:
    """One running BEAM with a name. Every verb may be called from any thread; `ask` belongs to asyncio."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        name: str | None,
        cookie: str,
        epmd_port: int,
        folder: Path,
        paths: Sequence[Path] = (),
        args: Sequence[str] = (),
        elixir: str | None = None,
        env: dict[str, str] | None = None,
        short: bool = False,
        interface: str = "{127,0,0,1}",
    ) -> None:
        self.runtime = runtime
        self.cookie = cookie
        self.epmd_port = epmd_port
        self.folder = folder
        self.short = short
        self.interface = interface
        self.name = name or ""
        self._paths = paths
        self._args = list(args)
        self._elixir = elixir
        self._env = env or {}
        self._waiting: dict[int, Future[bytes]] = {}
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self.start()

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it (again, under the same name, after kill or stop) and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._waiting = {}
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(PATIENCE)
            self.log = open(self.folder / f"{self.name or 'nonode'}.log", "ab")  # noqa: SIM115
            self.process = subprocess.Popen(
                self._command(listener.getsockname()[1]),
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=clean_env(
                    **self.runtime.env,
                    HOME=str(self.folder),
                    ERL_EPMD_PORT=str(self.epmd_port),
                    ERL_CRASH_DUMP_SECONDS="0",
                    **{"ERL_EPMD_ADDRESS": "127.0.0.1"} | self._env,
                ),
            )
            self._socket = self._accept(listener)
        self._reader = threading.Thread(target=self._read, args=(self._socket,), daemon=True)
        self._reader.start()

    def _accept(self, listener: socket.socket) -> socket.socket:
        listener.settimeout(0.5)
        for _ in range(int(PATIENCE / 0.5)):
            with contextlib.suppress(TimeoutError):
                found, _ = listener.accept()
                found.settimeout(None)
                hello = self._frame(found)
                assert hello is not None
                release, node = hello[5:].decode().split()
                self.release, self.name = release, node
                return found
            if self.process.poll() is not None:
                break
        self.process.kill()
        raise RuntimeError(f"the BEAM did not start:\n{self.output()}")

    def _command(self, port: int) -> list[str]:
        common = ["-start_epmd", "false", "-kernel", "inet_dist_use_interface", self.interface]
        common += ["+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"]
        named = ["-sname" if self.short else "-name", self.name, "-setcookie", self.cookie] if self.name else []
        paths = [arg for path in self._paths for arg in ("-pa", str(path))]
        if self._elixir is None:
            return [
                self.runtime.erl, "-noshell", "-noinput", *named, *common, *self._args, *paths,
                "-run", "interop_ctl", "start", str(port),
            ]  # fmt: skip
        flags = [flag for path in self._paths for flag in ("-pa", str(path))]
        named = ["--name", self.name, "--cookie", self.cookie]
        return [
            self._elixir, *named, "--erl", " ".join([*common, *self._args]), *flags, "--no-halt",
            "-e", f":interop_ctl.start([{port}])",
        ]  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        """What the BEAM printed so far."""
        self.log.flush()
        return Path(self.log.name).read_text(errors="replace")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        self.process.kill()
        self._ended()

    def halt(self) -> None:
        """An orderly end (init:stop())."""
        with contextlib.suppress(BeamGone):
            self.eval("init:stop()")
        self._ended()

    def close(self) -> None:
        """Whatever state it is in: gone."""
        if self.process.poll() is None:
            self.process.kill()
        self._ended()
        self.log.close()

    def _ended(self) -> None:
        try:
            self.process.wait(PATIENCE)
        finally:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._reader.join(PATIENCE)

    # -- evaluation ------------------------------------------------------------------------------

    def submit(self, text: str, mode: str = "p", **bindings: Any) -> Future[bytes]:
        """Start evaluating; the future has the answer's bytes."""
        if bindings and mode != "x":
            text = ", ".join(f"{name} = {erl(value)}" for name, value in bindings.items()) + ",\n" + text
        number = next(self._ids)
        future: Future[bytes] = Future()
        with self._lock:
            self._waiting[number] = future
            body = struct.pack(">IB", number, ord(mode)) + text.encode()
            try:
                self._socket.sendall(struct.pack(">I", len(body)) + body)
            except OSError:
                self._waiting.pop(number, None)
                future.set_exception(BeamGone(text))
        return future

    def eval(self, text: str, *, timeout: float = PATIENCE, **bindings: Any) -> str:
        """The printed value of Erlang text (a sequence of expressions without the last dot)."""
        return self.submit(text, **bindings).result(timeout).decode()

    async def ask(self, text: str, *, timeout: float = PATIENCE, **bindings: Any) -> str:
        """`eval` for coroutines."""
        answer = await asyncio.wait_for(asyncio.wrap_future(self.submit(text, **bindings)), timeout)
        return answer.decode()

    async def ask_term(self, text: str, *, timeout: float = PATIENCE, **bindings: Any) -> Any:
        """The value itself, decoded by the codec."""
        from node import etf

        return etf.decode(await asyncio.wait_for(asyncio.wrap_future(self.submit(text, "b", **bindings)), timeout))

    def eval_until(self, text: str, value: str, **bindings: Any) -> None:
        """Evaluates it again and again until it has this value; what it was instead is in the error."""
        becomes(lambda: self.eval(text, **bindings), value)

    async def ask_until(self, text: str, value: str, **bindings: Any) -> None:
        """`eval_until` for coroutines."""
        end = time.monotonic() + LONG
        while (found := await self.ask(text, **bindings)) != value:
            assert time.monotonic() < end, f"{text} stays {found}, is not {value}"
            await asyncio.sleep(0.01)

    def elixir(self, text: str, *, timeout: float = PATIENCE) -> str:
        """The inspected value of Elixir text."""
        return self.submit(text, "x").result(timeout).decode()

    def stopped(self) -> contextlib.AbstractContextManager[None]:
        """`with beam.stopped():` the operating system does not run it (SIGSTOP ... SIGCONT)."""

        @contextlib.contextmanager
        def stop() -> Any:
            self.signal(signal.SIGSTOP)
            try:
                yield
            finally:
                self.signal(signal.SIGCONT)

        return stop()

    # -- the control socket ----------------------------------------------------------------------

    def _read(self, sock: socket.socket) -> None:
        while (frame := self._frame(sock)) is not None:
            number, status = struct.unpack(">IB", frame[:5])
            with self._lock:
                future = self._waiting.pop(number, None)
            if future is None or not future.set_running_or_notify_cancel():
                continue
            if status == ord("o"):
                future.set_result(frame[5:])
            else:
                future.set_exception(BeamError(frame[5:].decode()))
        with self._lock:
            lost, self._waiting = self._waiting, {}
        for future in lost.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(BeamGone(f"{self.name} ended"))

    @staticmethod
    def _frame(sock: socket.socket) -> bytes | None:
        head = Beam._exactly(sock, 4)
        return Beam._exactly(sock, struct.unpack(">I", head)[0]) if head else None

    @staticmethod
    def _exactly(sock: socket.socket, count: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < count:
            try:
                piece = sock.recv(min(count - len(parts), 1 << 20))
            except OSError:
                return None
            if not piece:
                return None
            parts += piece
        return bytes(parts)
