"""Where a host service is, and how it is started: by hand, by itself, once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from hostkit import Client, run
from waiting import until

from pores.errors import BackendUnavailable
from pores.host import rundir, spawn
from pores.host.rundir import RunDir
from pores.host.server import Host
from pores.host.spawn import answers, embed_host, ensure_host


def test_folders_that_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    for mode in (0o777, 0o755, 0o750, 0o720):
        folder.chmod(mode)
        with pytest.raises(BackendUnavailable, match="others could get in"):
            RunDir(folder).make()
    folder.chmod(0o711)  # others may come in, but neither look nor write: so is a shared one
    RunDir(folder).check()
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendUnavailable, match="is not a folder"):
        RunDir(tmp_path / "file").make()
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(BackendUnavailable, match="is not a folder"):
        RunDir(tmp_path / "link").make()
    with pytest.raises(BackendUnavailable, match="STRAWBRIDGE_HOST"):
        RunDir(tmp_path / "file" / "below").make()


def test_the_folder_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRAWBRIDGE_HOST", "/given")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/runtime")
    assert rundir.default_rundir() == Path("/given")
    monkeypatch.setenv("STRAWBRIDGE_HOST", "")
    assert rundir.default_rundir() == Path("/runtime/strawbridge")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    mine = f"strawbridge-{os.getuid()}"
    assert rundir.default_rundir() in (Path("/run", mine), Path("/tmp", mine))
    run, tmp = tmp_path / "run", tmp_path / "tmp"
    assert rundir._own_rundir(run, tmp) == tmp / mine  # no such folder
    (run / mine).mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert rundir._own_rundir(run, tmp) == run / mine  # somebody has made it for us
    (run / mine).rmdir()
    assert rundir._own_rundir(run, tmp) == tmp / mine
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    assert rundir._own_rundir(run, tmp) == run / mine  # we can make it


def test_one_host_per_folder(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        with pytest.raises(BackendUnavailable, match="runs in"):
            await Host(host.rundir.path).start()
        assert await embed_host(host.rundir.path) is None

    run(tmp_path, test)


def count_spawned(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    spawned: list[Any] = []
    start = spawn._spawn

    def counted(place: RunDir) -> Any:
        spawned.append(start(place))
        return spawned[-1]

    monkeypatch.setattr(spawn, "_spawn", counted)
    return spawned


def test_a_host_starts_by_itself_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spawned = count_spawned(monkeypatch)

    async def main() -> None:
        found = await asyncio.gather(*(ensure_host(tmp_path / "auto") for _ in range(3)))
        (process,) = spawned
        listens = answers(found[0])
        assert listens is not None and listens.pid == process.pid
        assert await embed_host(tmp_path / "auto") is None
        client = Client(found[0].socket)
        assert await client.hello() == 1
        process.terminate()
        with pytest.raises(ConnectionResetError):
            await client.event()
        client.close()
        await until(lambda: process.returncode is not None)  # nobody has to wait for it: it leaves no zombie

    asyncio.run(main())


def test_a_host_that_was_started_by_hand_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is not left behind, to become the host when the other one ends."""
    spawned = count_spawned(monkeypatch)

    async def main() -> None:
        by_hand = Host(tmp_path / "auto")
        starting = asyncio.ensure_future(ensure_host(tmp_path / "auto"))
        while not spawned:
            await asyncio.sleep(0)
        await by_hand.start()
        await starting
        (process,) = spawned
        await until(lambda: process.returncode is not None)
        assert process.returncode
        await by_hand.close()

    asyncio.run(main())


def test_a_host_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn.sys, "executable", "/bin/false")
    monkeypatch.setattr(spawn, "_OTHER_TIME", 0.05)
    with pytest.raises(BackendUnavailable, match="host.log"):
        asyncio.run(ensure_host(tmp_path / "auto"))


def test_only_one_starts_a_host_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spawned = count_spawned(monkeypatch)
    monkeypatch.setattr(spawn, "_START_TIME", 0.05)

    async def main() -> None:
        place = RunDir(tmp_path / "auto")
        place.make()
        async with spawn._starting(place):
            for start in (ensure_host, embed_host):
                with pytest.raises(BackendUnavailable, match="another process is starting"):
                    await start(place.path)  # type: ignore[operator]
        host = await embed_host(place.path)
        assert host is not None and not spawned
        await host.close()

    asyncio.run(main())
