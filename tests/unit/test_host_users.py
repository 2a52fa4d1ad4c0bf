"""A host that several users share: the file that says who may be which domain, and processes of other users."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pores.backends.local import LocalBackend
from pores.errors import BackendUnavailable, PoreError
from pores.host.allow import AllowList, read_allow
from pores.host.server import Host

ROOT = Path(__file__).parents[2]
ALICE, BOB, EVE = 54321, 54322, 54323
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that any user can get to."""
    with tempfile.TemporaryDirectory(prefix="straw-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder) / "host"


class User:
    """A process of another user that is a domain: connected in the parent's place, told by lines of JSON."""

    CODE = """
import asyncio, json, os, sys
async def main():
    from pores.backends.local import LocalBackend
    from pores.errors import PoreError
    from node.strawman.host import StrawError, look
    for line in sys.stdin:
        what = json.loads(line)
        try:
            match what["do"]:
                case "connect":
                    backend = await LocalBackend.connect(what["host"], what["domid"], start=what["start"])
                    answer = {"domid": backend.domid}
                case "map":
                    mapping = await backend.map(what["peer"], what["refs"])
                    answer = {"read": os.pread(mapping.fd, 5, 0).decode()}
                case "store":
                    store = await backend.store()
                    answer = {"domid": await store.read_integer("domid")}
                    await store.close()
                case "look":
                    answer = {"look": str(await look(what["host"]))}
        except (PoreError, OSError) as error:
            answer = {"error": str(error), "errno": error.errno}
        except StrawError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)
import node.strawman.host, pores.backends.local, encodings.idna
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
asyncio.run(main())
"""

    def __init__(self, uid: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, str(uid)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip

    async def do(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(await asyncio.to_thread(self.process.stdout.readline))
        return answer

    async def connect(self, host: Path, domid: int = 0, *, start: bool = False) -> dict[str, Any]:
        return await self.do("connect", host=str(host), domid=domid, start=start)

    def __enter__(self) -> User:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def run(test: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(main())


@needs_root
def test_users_get_the_ids_of_the_file_and_strangers_none(place: Path) -> None:
    async def test() -> None:
        allow = AllowList({ALICE: frozenset([5, 1]), BOB: None})
        host = Host(place, allow=allow)
        await host.start()
        with User(ALICE) as alice, User(ALICE) as again, User(ALICE) as third, User(BOB) as bob, User(EVE) as eve:
            backend = await LocalBackend.connect(place, start=False)
            assert backend.domid == 2  # 1 is alice's
            assert await alice.connect(place) == {"domid": 1}
            refused = await again.connect(place, 6)
            assert refused["errno"] == errno.EPERM and f"uid {ALICE} to be domain 6 (its --allow" in refused["error"]
            assert await again.connect(place) == {"domid": 5}
            assert (await third.connect(place))["errno"] == errno.ENOSPC
            assert await bob.connect(place, 77, start=True) == {"domid": 77}
            for domid in (0, 9):
                refused = await eve.connect(place, domid, start=True)
                assert refused["errno"] == errno.EPERM and f"does not allow uid {EVE}" in refused["error"]

            # What is granted to one of them is another user's process's, and nobody else's.
            grant = await backend.grant(77, 1)
            os.pwrite(grant.fd, b"hello", 0)
            assert await bob.do("map", peer=2, refs=grant.refs) == {"read": "hello"}
            assert (await alice.do("map", peer=2, refs=grant.refs))["errno"] == errno.ENOENT
            assert await bob.do("store") == {"domid": 77}
            assert "only its own user may look" in (await bob.do("look", host=str(place)))["error"]
            await backend.close()
        await host.close()

    run(test)


@needs_root
def test_other_users_are_kept_out_of_a_host_that_is_not_shared(place: Path) -> None:
    async def test() -> None:
        host = Host(place)
        await host.start()
        with User(EVE) as eve:
            assert "Permission denied" in (await eve.connect(place))["error"]
            await host.close()
            # After a shared host the folder is closed again, and only its owner starts one there.
            shared = Host(place, allow=AllowList({}))
            await shared.start()
            assert place.stat().st_mode & 0o777 == 0o711
            await shared.close()
            assert "only its owner, uid 0, can start one there" in (await eve.connect(place, start=True))["error"]
            again = Host(place)
            await again.start()
            assert place.stat().st_mode & 0o777 == 0o700
            await again.close()

    run(test)


@needs_root
def test_a_host_of_somebody_else_is_not_trusted(place: Path) -> None:
    async def test() -> None:
        host = Host(place, allow=AllowList({}))
        await host.start()
        os.chown(place, EVE, EVE)
        with pytest.raises(BackendUnavailable, match=f"belongs to uid {EVE}"):
            await LocalBackend.connect(place)
        # Nor one that listens in the folder of somebody trusted.
        os.chown(place, BOB, BOB)
        with User(BOB) as bob:
            assert (await bob.connect(place))["errno"] == errno.EPERM  # root's host
        await host.close()

    run(test)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "allow.toml", '[allow]\nroot = "1"\n54321 = "5-9, 12"\n54322 = "any"\n54323 = 7\n')
    allow = read_allow(path)
    assert allow.domids(54321) == {5, 6, 7, 8, 9, 12} and allow.domids(54322) is None
    assert allow.domids(54323) == {7} and allow.domids(54324) == frozenset()
    assert allow.domids(0) == {1}  # named, so no more than that
    assert allow.reserved == {1, 5, 6, 7, 8, 9, 12}
    none = AllowList({})
    assert none.domids(os.getuid()) is None and none.domids(0) is None and none.domids(54321) == frozenset()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[allow", r"allow.toml: Expected"),
        ("alice = 5\n", r"one table, \[allow\]"),
        ("[allow]\n[deny]\n", r"one table, \[allow\]"),
        ("[allow]\nnobody-of-that-name = 5\n", r"no user 'nobody-of-that-name' \(a uid will do"),
        ('[allow]\n1001 = "0"\n', r"domain ids of 1 to 32751"),
        ('[allow]\n1001 = "5-4"\n', r"domain ids of 1 to 32751"),
        ('[allow]\n1001 = "32752"\n', r"domain ids of 1 to 32751"),
        ('[allow]\n1001 = "5;6"\n', r'as in "5-9, 12", or "any"'),
        ('[allow]\n1001 = ""\n', r'as in "5-9, 12", or "any"'),
        ("[allow]\n1001 = [5, 6]\n", r'as in "5-9, 12", or "any"'),
        ("[allow]\n1001 = true\n", r'as in "5-9, 12", or "any"'),
        ("\xff", r"allow.toml"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "allow.toml"
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(ValueError, match=problem) as caught:
        read_allow(path)
    assert str(path) in str(caught.value)


def test_a_file_that_others_can_write(tmp_path: Path) -> None:
    path = write(tmp_path / "allow.toml", "[allow]\n")
    path.chmod(0o620)
    with pytest.raises(ValueError, match="chmod go-w"):
        read_allow(path)
    with pytest.raises(ValueError, match="No such file"):
        read_allow(tmp_path / "missing")


@needs_root
def test_a_file_of_somebody_else(tmp_path: Path) -> None:
    path = write(tmp_path / "allow.toml", "[allow]\n")
    os.chown(path, EVE, EVE)
    with pytest.raises(ValueError, match=f"belongs to uid {EVE}"):
        read_allow(path)


def test_a_client_is_told_why_it_is_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pores.host import limits

    async def test() -> None:
        host = Host(tmp_path / "h")
        await host.start()
        monkeypatch.setattr(limits, "CONNECTIONS_PER_UID", 1)
        backend = await LocalBackend.connect(tmp_path / "h", start=False)
        with pytest.raises(BackendUnavailable, match="or uid .* has 1$|or uid .* has 1:"):
            await LocalBackend.connect(tmp_path / "h", start=False)
        with pytest.raises(PoreError):
            await backend.grant(99, 1)
        await backend.close()
        await host.close()

    run(test)
