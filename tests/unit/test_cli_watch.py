"""``strawbridge names --watch``: on a terminal until q, elsewhere until a signal."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from node.net.epmd import EpmdClient, EpmdServer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def epmd_port() -> Iterator[int]:
    """An epmd that knows one node, in a thread."""
    ready, port = Event(), 0
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        nonlocal port
        server = EpmdServer()
        port = await server.start(port=0)
        registration = await EpmdClient(port=port).register("watched", 4242)
        ready.set()
        await stop.wait()
        await registration.close()
        await server.close()

    thread = Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(30)
    yield port
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)
    loop.close()


def command(port: int) -> tuple[list[str], dict[str, str]]:
    env = {**os.environ, "ERL_EPMD_PORT": str(port), "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    env.pop("ERL_EPMD_ADDRESS", None)
    return [sys.executable, "-m", "node", "names", "--watch"], env


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_without_a_terminal_each_look_up_is_a_line(epmd_port: int, number: int) -> None:
    argv, env = command(epmd_port)
    with subprocess.Popen(
        argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ['[{"watched",4242}]\n'] * 2
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")


@pytest.mark.skipif(importlib.util.find_spec("term") is None, reason="the extra cli is not installed")
def test_on_a_terminal_q_ends_it(epmd_port: int) -> None:
    argv, env = command(epmd_port)
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(argv, env=env, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE) as process:
            seen = b""
            while b"q ends" not in seen:
                seen += os.read(ours, 4096)
            assert b'{"watched",4242}' in seen
            os.write(ours, b"x")  # any other key does nothing
            os.write(ours, b"q")
            _, err = process.communicate(timeout=30)
            assert (process.returncode, err) == (0, b"")
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_terminal_without_the_extra_is_told_which(epmd_port: int, tmp_path: Path) -> None:
    (tmp_path / "term.py").write_text("raise ImportError('not here')\n")
    argv, env = command(epmd_port)
    env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{ROOT}"
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(argv, env=env, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, timeout=30)
        assert done.returncode == 2
        assert b"pip install 'strawbridge[cli]'" in done.stderr
    finally:
        os.close(ours)
        os.close(theirs)
