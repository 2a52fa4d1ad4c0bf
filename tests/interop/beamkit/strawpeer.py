"""Domains with bare straws, as processes that a test drives alike: Python's (membranekit/child.py) and a BEAM's
(erl/straw_peer.erl). Both make the same frames of a seed.

Run as a program this is Python's: strawpeer.py RUNDIR RING_BYTES.
"""

from __future__ import annotations

import asyncio
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
for folder in (ROOT, ROOT / "tests", ROOT / "tests" / "interop"):  # there is no __init__.py below tests/
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from membranekit import child  # noqa: E402
from membranekit.processes import LIMIT, Peer  # noqa: E402

__all__ = ["BeamPeer", "PythonPeer", "build_app", "frames"]


def frames(seed: int, count: int, limit: int) -> Iterator[bytes]:
    """The same as straw_peer:frames/3: mostly small, some large."""
    x = seed
    for _ in range(count):
        x = (1103515245 * x + 12345) & 0x7FFFFFFF
        size = (0, 1, (x >> 12) % 100, (x >> 12) % 5000, (x >> 4) % limit)[(x >> 8) % 5]
        yield (struct.pack(">I", x) * (size // 4 + 1))[:size]


def build_app() -> Path:
    """The application `straw`, built; its modules."""
    done = subprocess.run(["make", "-s", "-C", str(ROOT / "erl")], capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"make -C erl failed:\n{done.stdout}{done.stderr}")
    return ROOT / "erl" / "ebin"


class PythonPeer(Peer):
    """A domain in Python that makes the frames of a BEAM: this file as a program."""

    program = Path(__file__)


class BeamPeer:
    """A domain on a BEAM, driven as a Peer is. beam: one that has erl/ebin and the tests' modules on its path."""

    def __init__(self, beam: Any, rundir: Path | str, ring_bytes: int = 1 << 18, domid: int = 0) -> None:
        self.beam = beam
        self.domid: int = self._wait(self._submit(f'straw_peer:start("{rundir}", {domid}, {ring_bytes})'))

    @property
    def process(self) -> subprocess.Popen[bytes]:
        found: subprocess.Popen[bytes] = self.beam.process
        return found

    def _submit(self, text: str) -> Future[bytes]:
        found: Future[bytes] = self.beam.submit(text, "b")
        return found

    def _wait(self, future: Future[bytes], limit: float = LIMIT) -> Any:
        from node import etf

        return _plain(etf.decode(future.result(limit)))

    def start(self, do: str, **arguments: Any) -> Future[bytes]:
        """Asks for something; `result` has the answer."""
        if do == "stop":
            return self._submit("straw_peer:stop()")
        values = [str(arguments[name]) for name in ("peer", "seed", "count", "limit") if name in arguments]
        what = "{" + ",".join([f"'{do}'", *values]) + "}" if values else f"'{do}'"
        return self._submit(f"straw_peer:do({what})")

    def result(self, number: Future[bytes], limit: float = LIMIT) -> Any:
        return self._wait(number, limit)

    def do(self, do: str, **arguments: Any) -> Any:
        return self.result(self.start(do, **arguments))

    def eval(self, text: str) -> Any:
        """Erlang's value as Python's, atoms as str."""
        return self._wait(self._submit(text))

    def quiet(self) -> Any:
        """Its status when no pore of it is left."""
        return self.do("quiet")

    def kill(self) -> None:
        self.beam.kill()

    def __enter__(self) -> BeamPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.beam.close()


def _plain(value: Any) -> Any:
    from node import Atom

    if isinstance(value, Atom):
        return {"true": True, "false": False}.get(value.name, value.name)
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return value


if __name__ == "__main__":
    child.frames = frames
    asyncio.run(child.main())
