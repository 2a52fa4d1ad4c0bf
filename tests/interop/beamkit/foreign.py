"""Nodes that are neither BEAMs nor ours (C, Java), as programs that print "ready" and end when they are told to."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Sequence

from waiting import LONG

__all__ = ["serving"]


@contextlib.contextmanager
def serving(command: Sequence[str], env: dict[str, str]) -> Iterator[Callable[[], list[str]]]:
    """Runs it; what is given waits for its orderly end and returns the lines that it has printed since."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=env)
    assert process.stdout is not None

    def ended() -> list[str]:
        assert process.stdout is not None
        lines = process.stdout.read().decode().splitlines()
        assert process.wait(LONG) == 0
        return lines

    try:
        assert process.stdout.readline() == b"ready\n"
        yield ended
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
