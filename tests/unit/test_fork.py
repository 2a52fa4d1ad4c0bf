"""fork() without exec in the middle of everything: the child has nothing of it, and the parent does not notice."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import os
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from membranekit.local import nodes, run, settled

from pores.backends.local import LocalBackend
from pores.errors import BackendUnavailable, PoreClosed
from pores.host.rundir import RunDir
from pores.host.server import Host
from pores.host.spawn import answers
from pores.pore import ACTIVE, PASSIVE, Pore


class Child:
    """A forked process that runs `work`, then waits to be let go; `result` is "" when all of it held."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._said, said = os.pipe()
        told, self._tell = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # there are other threads: that is the test
            self.pid = os.fork()
        if self.pid:
            os.close(said)
            os.close(told)
            return
        problem = ""
        try:
            work()
            gc.collect()
        except BaseException:
            problem = traceback.format_exc()
        os.write(said, problem.encode() or b"ok")
        os.close(self._tell)
        os.read(told, 1)
        os._exit(0)

    def result(self) -> str:
        said = os.read(self._said, 65536).decode()
        return "" if said == "ok" else said

    def end(self) -> None:
        os.close(self._said)
        os.close(self._tell)
        os.waitpid(self.pid, 0)


def memory(pages: int) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, pages * 4096)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def pair(kind: str) -> tuple[Pore, Pore, set[str]]:
    """Both ends, and their channels as /proc/self/fd names them."""
    fd = memory(65)
    channels = [socket.socketpair() for _ in range(2 if kind == "tube" else 1)]
    names = {os.readlink(f"/proc/self/fd/{end.fileno()}") for both in channels for end in both}
    make = getattr(Pore, kind)
    active, passive = (
        make(fd, *(both[side].detach() for both in channels), role=role) for side, role in ((0, ACTIVE), (1, PASSIVE))
    )
    os.close(fd)
    return active, passive, names


def descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return found


def mapped() -> int:
    with open("/proc/self/maps") as maps:
        return sum("memfd:" in line for line in maps)


@pytest.mark.parametrize("kind", ["straw", "tube"])
def test_pores_are_the_parents(kind: str) -> None:
    before = mapped()
    ours, theirs, channels = pair(kind)
    waiting = threading.Thread(target=theirs.wait_read)
    waiting.start()
    while not theirs.info().sleeps:
        time.sleep(0.001)

    def work() -> None:
        nonlocal theirs
        for pore in (ours, theirs):
            uses: list[Callable[[], object]] = [pore.read, pore.avail, pore.info, pore.wait_read, pore.poke]
            for use in [*uses, lambda pore=pore: pore.write(b"x")]:
                with pytest.raises(PoreClosed, match="forked"):
                    use()
            assert pore.reason == "forked"
        assert mapped() == before and channels.isdisjoint(descriptors())
        ours.close()
        del theirs  # its finalizer must neither wait for the thread that is not here nor tell the peer

    child = Child(work)
    assert child.result() == ""
    assert waiting.is_alive()
    assert ours.write(b"hello") == 5
    waiting.join()
    assert theirs.read() == b"hello" and theirs.write(b"back") == 4
    # The child lives, and yet the peer sees the end.
    ours.close()
    with pytest.raises(PoreClosed, match="peer_gone"):
        while True:
            theirs.avail()
    theirs.close()
    child.end()


def test_a_child_can_have_pores_of_its_own() -> None:
    fd = memory(8)
    one, other = (end.detach() for end in socket.socketpair())
    with Pore.straw(fd, one, role=ACTIVE) as pore:

        def work() -> None:
            a, b = (end.detach() for end in socket.socketpair())
            with (
                Pore.straw(fd, a, role=ACTIVE, table=pore.table) as mine,
                Pore.straw(fd, b, role=PASSIVE) as yours,
            ):
                assert mine.id != pore.id
                mine.write(b"x")
                assert yours.read() == b"x"
                with pytest.raises(PoreClosed, match="forked"):
                    pore.read()

        child = Child(work)
        assert child.result() == ""
        child.end()
        assert not pore.reason
    os.close(other)
    os.close(fd)


def test_domains_and_a_host_are_the_parents(tmp_path: Path) -> None:
    """What a child keeps open would keep a dead domain alive, and a dead host answering."""

    async def test() -> None:
        host = Host(tmp_path / "h")
        await host.start()
        one, other = [await LocalBackend.connect(tmp_path / "h", start=False) for _ in range(2)]
        channel = await one.alloc_channel(other.domid)
        held = os.readlink(f"/proc/self/fd/{channel.fd}")

        def work() -> None:
            assert one.closed
            assert held not in descriptors()
            with pytest.raises(BackendUnavailable, match="forked"):
                one.domains().send(None)

        child = Child(work)
        assert child.result() == ""
        assert await one.domains() == [1, 2]
        await one.close()
        while await other.domains() != [2]:
            await asyncio.sleep(0.001)
        await host.close()
        assert not answers(RunDir(tmp_path / "h"))
        await settled(lambda: other.closed)
        again = Host(tmp_path / "h")  # its lock is free
        await again.start()
        await again.close()
        child.end()

    run(test)


def test_straws_go_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h") as (_, one, other):
            ours, theirs = await one.open(other)

            def work() -> None:
                with pytest.raises(PoreClosed):
                    ours.pore.read()

            child = Child(work)
            assert child.result() == ""
            await ours.send(b"after the fork")
            assert await theirs.receive() == b"after the fork"
            await ours.close()
            await settled(lambda: theirs.closed)
            assert theirs.closed == "peer_closed"
            child.end()

    run(test)
