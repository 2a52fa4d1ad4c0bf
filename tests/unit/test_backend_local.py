"""The asyncio client of the host: what it hands out, who closes it, and what happens when the host goes."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from membranekit.local import run, settled

from pores.backends.base import Backend, BackendListener
from pores.backends.local import LocalBackend
from pores.errors import BackendUnavailable, PoreError
from pores.host.server import Host


async def started(path: Path, count: int = 2) -> tuple[Host, list[LocalBackend]]:
    host = Host(path)
    await host.start()
    return host, [await LocalBackend.connect(path, start=False) for _ in range(count)]


def test_grants_mappings_and_channels(tmp_path: Path) -> None:
    async def test() -> None:
        host, (one, two) = await started(tmp_path / "h")
        backend: Backend = one
        unmapped: list[tuple[int, ...]] = []
        one.listen(BackendListener(unmapped=unmapped.append))
        assert (backend.domid, two.domid, await one.domains()) == (1, 2, [1, 2])
        grant = await one.grant(2, 3)
        mapping = await two.map(1, grant.refs)
        assert mapping.page_index == (0, 1, 2)
        os.pwrite(grant.fd, b"here", 8192)
        assert os.pread(mapping.fd, 4, 8192) == b"here"
        assert not await one.end_access(grant)  # still mapped
        await two.unmap(mapping)
        await two.unmap(mapping)
        await settled(lambda: unmapped == [grant.refs])
        assert await one.end_access(grant) and await one.end_access(grant)
        ours = await one.alloc_channel(2)
        theirs = await two.bind_channel(1, ours.port)
        os.write(ours.fd, b"\1")
        assert os.read(theirs.fd, 9) == b"\1"
        for backend_, channel in ((one, ours), (two, theirs)):
            await backend_.close_channel(channel)
            await backend_.close_channel(channel)
        assert one.held == two.held == {"grants": 0, "mappings": 0, "channels": 0}
        for refused, awaitable in (
            (errno.ENOENT, one.grant(9, 1)),
            (errno.EINVAL, one.grant(2, 0)),
            (errno.ENOENT, two.map(1, grant.refs)),
            (errno.ENOENT, two.bind_channel(1, ours.port)),
            (errno.EBUSY, LocalBackend.connect(tmp_path / "h", 2, start=False)),
        ):
            with pytest.raises(PoreError) as caught:
                await awaitable
            assert caught.value.errno == refused
        await one.close()
        await one.close()
        await two.close()
        await host.close()

    run(test)


def test_many_requests_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        host, (one, two) = await started(tmp_path / "h")
        grants = await asyncio.gather(*(one.grant(2, 1) for _ in range(500)))
        assert len({grant.refs for grant in grants}) == 500 and one.held["grants"] == 500
        assert all(await asyncio.gather(*(one.end_access(grant) for grant in grants)))
        await one.close()
        await two.close()
        await host.close()

    run(test)


def test_a_cancelled_request_leaves_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        host, (one, two) = await started(tmp_path / "h")
        ours = await one.grant(2, 1)
        channel = await one.alloc_channel(2)
        for make in (
            lambda: one.grant(2, 5),
            lambda: one.alloc_channel(2),
            lambda: two.map(1, ours.refs),
            lambda: two.bind_channel(1, channel.port),
            one.store,
        ):
            task = asyncio.ensure_future(make())  # type: ignore[operator]
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            await one.domains()
            await two.domains()
        domains = host._hypervisor.domains
        await settled(lambda: len(domains[1].grants) == 1 and not domains[2].mappings and not domains[2].channels)
        await settled(lambda: len(domains[1].channels) == 1)
        assert one.held == {"grants": 1, "mappings": 0, "channels": 1}
        await one.close()
        await two.close()
        await host.close()

    run(test)


def test_a_domain_that_dies_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        host, (one, two) = await started(tmp_path / "h")
        gone: list[int] = []
        two.listen(BackendListener(domain_gone=gone.append))
        await one.grant(2, 1)
        await one.close()
        await settled(lambda: gone == [1])
        await two.close()
        await host.close()

    run(test)


def test_a_host_that_dies(tmp_path: Path) -> None:
    async def test() -> None:
        host, (one, two) = await started(tmp_path / "h")
        down: list[str] = []
        listener = BackendListener(host_down=down.append)
        one.listen(listener)
        grant = await one.grant(2, 1)
        asking = asyncio.ensure_future(one.domains())
        await host.close()
        await settled(lambda: down)
        with pytest.raises(BackendUnavailable):
            await asking
        with pytest.raises(BackendUnavailable, match="host_down"):
            await one.grant(2, 1)
        assert await one.end_access(grant) and one.closed and set(one.held.values()) == {0}
        one.unlisten(listener)
        await two.close()
        with pytest.raises(BackendUnavailable):
            await LocalBackend.connect(tmp_path / "h", start=False)
        with pytest.raises(BackendUnavailable):
            await LocalBackend.connect(tmp_path / "nothing", start=False)

    run(test)


def test_the_lock_is_one_per_domain(tmp_path: Path) -> None:
    async def test() -> None:
        host, (one, two) = await started(tmp_path / "h")
        assert one.take_lock("straw") and not one.take_lock("straw")
        assert one.take_lock("tube") and two.take_lock("straw")
        one.drop_lock("straw")
        assert one.take_lock("straw")
        await one.close()
        await two.close()
        await host.close()

    run(test)
