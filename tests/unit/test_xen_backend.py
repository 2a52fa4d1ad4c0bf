"""The Xen backend without Xen: what it holds and gives back, who dies, and when it is chosen. The rest is tests/xen."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pores import _native
from pores.backends import xen
from pores.backends.base import BackendListener
from pores.backends.choose import ENVIRONMENT, choose, connect
from pores.errors import BackendUnavailable, PoreError
from pores.xenstore.client import XenStore
from pores.xenstore.server import StoreServer


def descriptor() -> int:
    return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)


class Kernel:
    """What the C would do."""

    def __init__(self) -> None:
        self.mapped = False
        self.locked: set[str] = set()

    def grant(self, own: int, peer: int, pages: int) -> tuple[int, tuple[int, ...]]:
        if own == peer:
            raise PoreError(errno.EINVAL)
        return descriptor(), tuple(range(pages))

    def lock(self, kind: str) -> int:
        if kind in self.locked:
            raise PoreError(errno.EBUSY)
        self.locked.add(kind)
        return descriptor()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    fake = Kernel()
    monkeypatch.setattr(_native, "xen_grant", fake.grant)
    monkeypatch.setattr(_native, "xen_still_mapped", lambda fd, pages: fake.mapped)
    monkeypatch.setattr(_native, "xen_map", lambda peer, refs: descriptor())
    monkeypatch.setattr(_native, "xen_alloc_channel", lambda peer: (descriptor(), 7))
    monkeypatch.setattr(_native, "xen_bind_channel", lambda peer, port: (descriptor(), 8))
    monkeypatch.setattr(_native, "xen_lock", fake.lock)
    monkeypatch.setattr(xen, "missing", lambda: "")
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.delenv("STRAWBRIDGE_HOST", raising=False)
    before = len(os.listdir("/proc/self/fd"))
    yield fake
    assert len(os.listdir("/proc/self/fd")) == before


def in_domain_0(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, test: Any) -> None:
    """Runs test(backend, server), with domains 3 and 4 beside domain 0."""

    async def main() -> None:
        server = StoreServer()
        await server.start(str(tmp_path / "store"))
        monkeypatch.setenv("XENSTORED_PATH", str(tmp_path / "store"))
        store = await XenStore.connect()
        await store.write("/local/domain/0/domid", "0")
        await store.close()
        for domid in (3, 4):
            server.introduce(domid)
        backend = await xen.XenBackend.connect()
        try:
            await test(backend, server)
        finally:
            await backend.close()
            await backend.close()
            await server.close()

    asyncio.run(main())


def test_all_is_given_back(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def test(backend: xen.XenBackend, server: StoreServer) -> None:
        assert backend.domid == 0 and await backend.answers() and await backend.domains() == [0, 3, 4]
        grant, mapping = await backend.grant(3, 8), await backend.map(3, (5, 6))
        channel, bound = await backend.alloc_channel(3), await backend.bind_channel(3, 9)
        assert all(thing.xen for thing in (grant, mapping, channel, bound))
        assert (channel.port, bound.port, mapping.page_index) == (7, 8, (0, 1))
        assert backend.held == {"grants": 1, "mappings": 1, "channels": 2}
        with pytest.raises(PoreError):
            await backend.grant(0, 8)
        kernel.mapped = True
        assert not await backend.end_access(grant)
        assert not await backend.end_access(grant)
        kernel.mapped = False
        assert await backend.end_access(grant) and await backend.end_access(grant)
        for _ in range(2):
            await backend.unmap(mapping)
            await backend.close_channel(channel)
            await backend.close_channel(bound)
        assert backend.held == {"grants": 0, "mappings": 0, "channels": 0}
        assert backend.take_lock("straw") and not backend.take_lock("straw") and backend.take_lock("tube")
        backend.drop_lock("straw")
        backend.drop_lock("straw")
        assert not backend.take_lock("straw")  # somebody else's now
        await backend.grant(3, 8)  # what is held at the end goes with the rest
        await backend.map(3, (5,))

    in_domain_0(monkeypatch, tmp_path, test)


def test_the_dead_have_nothing_mapped(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def test(backend: xen.XenBackend, server: StoreServer) -> None:
        gone: asyncio.Queue[int] = asyncio.Queue()
        listener = BackendListener(domain_gone=gone.put_nowait)
        backend.listen(listener)
        dead, alive = await backend.grant(3, 8), await backend.grant(4, 8)
        kernel.mapped = True
        server.release(3)
        async with asyncio.timeout(10):
            assert await gone.get() == 3
        assert await backend.end_access(dead) and not await backend.end_access(alive)
        assert gone.empty()
        backend.unlisten(listener)
        kernel.mapped = False

    in_domain_0(monkeypatch, tmp_path, test)


def test_without_its_store_it_ends(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def test(backend: xen.XenBackend, server: StoreServer) -> None:
        down: asyncio.Queue[str] = asyncio.Queue()
        backend.listen(BackendListener(host_down=down.put_nowait))
        grant = await backend.grant(3, 8)
        await server.close()
        async with asyncio.timeout(10):
            await down.get()
        assert backend.closed and not await backend.answers() and grant.ended
        for work in (backend.grant(3, 8), backend.map(3, (1,)), backend.alloc_channel(3), backend.store()):
            with pytest.raises(BackendUnavailable):
                await work

    in_domain_0(monkeypatch, tmp_path, test)


def test_it_is_the_domain_that_it_runs_in(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def test(backend: xen.XenBackend, server: StoreServer) -> None:
        with pytest.raises(PoreError) as caught:
            await xen.XenBackend.connect(5)
        assert caught.value.errno == errno.EINVAL
        await (await connect()).close()

    in_domain_0(monkeypatch, tmp_path, test)


def test_who_is_chosen(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose().name == "xen"
    assert choose("/some/folder").name == "local"
    assert choose("/some/folder", "xen").name == choose(backend="xen").name == "xen"
    assert choose(backend="local").name == "local"
    monkeypatch.setenv("STRAWBRIDGE_HOST", "/some/folder")
    assert choose().name == "local"
    monkeypatch.setenv(ENVIRONMENT, "xen")
    assert choose().name == "xen" and choose(backend="local").name == "local"
    monkeypatch.setenv(ENVIRONMENT, "auto")
    assert choose().name == "local"
    monkeypatch.setenv(ENVIRONMENT, "vmware")
    with pytest.raises(ValueError, match="vmware"):
        choose()
    monkeypatch.undo()


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    devices = [tmp_path / name for name in ("evtchn", "gntalloc", "gntdev")]
    monkeypatch.setattr(xen, "DEVICES", tuple(map(str, devices)))
    monkeypatch.setenv("XENSTORED_PATH", str(tmp_path / "store"))
    for device in devices:
        assert xen.missing() == f"no {device}"
        device.touch()
    assert xen.missing() == f"no {tmp_path / 'store'}"
    (tmp_path / "store").touch()
    # All of it is there; but this is no Xen.
    assert "/dev/xen/evtchn" in xen.missing()
    if os.getuid():
        devices[1].chmod(0)
        assert xen.missing() == f"{devices[1]} is not ours to open"


def test_no_xen_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xen, "missing", lambda: "no /dev/xen/evtchn")

    async def main() -> None:
        with pytest.raises(BackendUnavailable) as caught:
            await connect(backend="xen")
        assert caught.value.attempts == (("xen", "no /dev/xen/evtchn"),)
        with pytest.raises(BackendUnavailable):
            await connect("/some/folder", backend="xen")

    asyncio.run(main())
