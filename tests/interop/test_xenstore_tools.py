"""Xen's own programs and PyPI's pyxs, unchanged, as clients of our store (XENSTORED_PATH says where it is)."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beamkit.runtimes import need
from waiting import LONG

from pores.xenstore.server import StoreServer

XEN = Path("/usr/lib/xen-4.17/bin")
TEST_XENSTORE = XEN / "test-xenstore"
CONTROL = XEN / "xenstore-control"  # the one in /usr/bin asks for a hypervisor first


class Store:
    """A store in a thread of its own; `path` is domain 0's socket, `five` domain 5's."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "socket"
        self.five = folder / "five"
        self.server = StoreServer()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.do(self._start)

    async def _start(self) -> None:
        await self.server.start(self.path)
        self.server.introduce(5)
        self.server.introduce(7)
        await self.server.listen(self.five, 5)

    def do(self, work: Callable[[], Any]) -> Any:
        """Runs a coroutine function in the store's thread."""
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(LONG)

    def close(self) -> None:
        self.do(self.server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LONG)
        self._loop.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


class Shell:
    """Runs xenstore-* as a domain."""

    def __init__(self, path: Path) -> None:
        self.env = {**os.environ, "XENSTORED_PATH": str(path), "LC_ALL": "C"}

    def run(self, command: str, *args: str) -> tuple[int, str]:
        program = need(f"xenstore-{command}", "xenstore-utils")
        done = subprocess.run(
            [program, *args], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LONG, text=True
        )
        return done.returncode, done.stdout

    def __call__(self, command: str, *args: str) -> str:
        """The output of a command that must succeed."""
        code, output = self.run(command, *args)
        assert code == 0, output
        return output

    def fails(self, command: str, *args: str) -> bool:
        return self.run(command, *args)[0] != 0


@pytest.fixture
def zero(store: Store) -> Shell:
    return Shell(store.path)


@pytest.fixture
def five(store: Store) -> Shell:
    return Shell(store.five)


class TestTools:
    def test_read_and_write(self, zero: Shell, five: Shell) -> None:
        zero("write", "/a/b", "value", "/a/c", "other")
        assert zero("read", "/a/b") == "value\n"
        assert zero("read", "-p", "/a/b", "/a/c") == "/a/b: value\n/a/c: other\n"
        assert zero("read", "domid") == "0\n"
        assert five("read", "domid") == "5\n"
        five("write", "data/x", "mine")
        assert zero("read", "/local/domain/5/data/x") == "mine\n"
        zero("write", "/escapes", "a\\001\\n\\xffb")
        assert zero("read", "/escapes") == "a\\001\\n\\xffb\n"
        for path in ("/nothing", "/a b", "/a/", "//"):
            assert zero.fails("read", path)
        assert five.fails("read", "/a/b")
        assert five.fails("write", "domid", "6")

    def test_exists_list_and_rm(self, zero: Shell) -> None:
        zero("write", "/a/b/c", "1", "/a/b/d", "2")
        assert zero("list", "/a/b") == "c\nd\n"
        assert zero("list", "-p", "/a/b") == "/a/b/c\n/a/b/d\n"
        zero("exists", "/a/b/c")
        zero("rm", "/a/b/c")
        assert zero.fails("exists", "/a/b/c")
        zero("rm", "-t", "/a/b/d")  # and what is empty above
        assert zero.fails("exists", "/a")
        assert zero.fails("rm", "/nothing/at/all")

    def test_a_long_list_comes_in_parts(self, zero: Shell) -> None:
        names = [f"a-child-with-a-rather-long-name-{i:04}" for i in range(500)]
        for start in range(0, 500, 100):
            zero("write", *(word for name in names[start : start + 100] for word in (f"/big/{name}", "v")))
        assert zero("list", "/big").split() == names
        zero("rm", "/big")

    def test_ls(self, zero: Shell) -> None:
        zero("write", "/a/b", "value")
        listing = zero("ls", "-fp")
        assert re.search(r'^/a/b = "value" +\(n0\)$', listing, re.MULTILINE)
        assert re.search(r'^/local/domain/5/domid = "5" +\(n0,r5\)$', listing, re.MULTILINE)
        assert re.search(r'^/local/domain/5/data = "" +\(n5\)$', listing, re.MULTILINE)
        assert zero("ls", "/a") == 'b = "value"\n'

    def test_chmod(self, zero: Shell, five: Shell) -> None:
        zero("write", "/a/b/c", "1")
        zero("chmod", "/a/b", "n0", "r5")
        assert re.search(r'b = "".* \(n0,r5\)', zero("ls", "-p", "/a"))
        assert five("list", "/a/b") == "c\n"
        assert five.fails("read", "/a/b/c")
        zero("chmod", "-r", "/a", "b0")
        assert five("read", "/a/b/c") == "1\n"
        five("write", "/a/b/mine", "x")
        assert re.search(r'mine = "x".* \(b5\)', zero("ls", "-p", "/a/b"))
        assert five.fails("chmod", "/a/b/c", "b5")
        assert five.fails("chmod", "/a/b/mine", "b7")
        assert zero.fails("chmod", "/a", "n99")  # there is no such owner

    def test_watch(self, store: Store, zero: Shell, five: Shell) -> None:
        program = need("xenstore-watch", "xenstore-utils")
        watcher = subprocess.Popen(
            [program, "-n", "5", "data", "/shared"], env=five.env, stdout=subprocess.PIPE, text=True
        )
        try:
            assert watcher.stdout is not None
            assert [watcher.stdout.readline() for _ in range(2)] == ["data\n", "/shared\n"]
            zero("write", "/local/domain/5/data/x/y", "1")
            zero("write", "/shared", "secret")  # not ours to read
            zero("chmod", "/shared", "n0", "r5")
            zero("rm", "/local/domain/5/data/x")
            output, _ = watcher.communicate(timeout=LONG)
            assert output == "data/x/y\n/shared\ndata/x\n"
            assert watcher.returncode == 0
        finally:
            watcher.kill()
            watcher.wait()

    def test_special_watches(self, store: Store, zero: Shell) -> None:
        program = need("xenstore-watch", "xenstore-utils")
        watcher = subprocess.Popen(
            [program, "-n", "4", "@introduceDomain", "@releaseDomain"],
            env=zero.env, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert watcher.stdout is not None
            assert [watcher.stdout.readline() for _ in range(2)] == ["@introduceDomain\n", "@releaseDomain\n"]

            async def come_and_go() -> None:
                store.server.introduce(11)
                store.server.release(11)

            store.do(come_and_go)
            assert watcher.communicate(timeout=LONG)[0] == "@introduceDomain\n@releaseDomain\n"
        finally:
            watcher.kill()
            watcher.wait()

    def test_the_one_program_with_all_commands(self, store: Store, zero: Shell) -> None:
        program = need("xenstore", "xenstore-utils")
        assert subprocess.check_output([program, "read", "domid"], env=zero.env, timeout=LONG) == b"0\n"

    def test_control_says_what_it_can(self, zero: Shell) -> None:
        if not CONTROL.exists():
            pytest.skip(f"no {CONTROL.name} (package xen-utils-4.17)")

        def control(*args: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run([CONTROL, *args], env=zero.env, capture_output=True, timeout=LONG, text=True)

        done = control("help")
        assert (done.returncode, "print" in done.stdout) == (0, True), done
        assert control("quota").returncode != 0

    @pytest.mark.parametrize("args", [["-i", "20"], ["-r", "1"]], ids=["each", "random"])
    def test_xens_own_test(self, zero: Shell, args: list[str]) -> None:
        if not TEST_XENSTORE.exists():
            pytest.skip(f"no {TEST_XENSTORE.name} (package xen-utils-4.17)")
        done = subprocess.run(
            [TEST_XENSTORE, *args],
            env=zero.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LONG,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        assert "failed" not in done.stdout
        assert zero.fails("exists", "xenstore-test")


@pytest.fixture
def pyxs() -> Any:
    try:
        return importlib.import_module("pyxs")
    except ModuleNotFoundError:
        pytest.skip("no pyxs (from PyPI)")


@pytest.fixture
def client(pyxs: Any, store: Store) -> Iterator[Any]:
    with pyxs.Client(unix_socket_path=str(store.path)) as client:
        yield client


class TestPyxs:
    def test_nodes(self, pyxs: Any, client: Any) -> None:
        client.write(b"/a/b", b"value")
        client[b"/a/c"] = b"other"
        assert client.read(b"/a/b") == b"value"
        assert client.list(b"/a") == [b"b", b"c"]
        assert list(client.walk(b"/a")) == [
            (b"/a", b"", [b"b", b"c"]),
            (b"/a/b", b"value", []),
            (b"/a/c", b"other", []),
        ]
        client.mkdir(b"/a/b/d")
        assert client.exists(b"/a/b/d")
        client.delete(b"/a/b")
        assert not client.exists(b"/a/b")
        assert client.read(b"/a/b", b"default") == b"default"
        with pytest.raises(pyxs.PyXSError) as error:
            client.read(b"/a/b")
        assert error.value.args[0] == 2

    def test_perms_and_domains(self, client: Any) -> None:
        client.mkdir(b"/a")
        client.set_perms(b"/a", [b"n0", b"r5"])
        assert client.get_perms(b"/a") == [b"n0", b"r5"]
        assert client.get_domain_path(5) == b"/local/domain/5"
        assert client.is_domain_introduced(5)
        assert not client.is_domain_introduced(6)
        client.introduce_domain(6, 1, 1)
        assert client.is_domain_introduced(6)

    def test_transactions(self, client: Any) -> None:
        client.write(b"/a", b"0")
        client.transaction()
        client.write(b"/a", b"1")
        assert client.commit()
        assert client.read(b"/a") == b"1"
        client.transaction()
        client.write(b"/a", b"2")
        client.rollback()
        assert client.read(b"/a") == b"1"

    def test_a_conflict(self, pyxs: Any, client: Any, store: Store) -> None:
        client.write(b"/a", b"0")
        with pyxs.Client(unix_socket_path=str(store.path)) as other:
            client.transaction()
            client.read(b"/a")
            client.write(b"/b", b"1")
            other.write(b"/a", b"1")
            assert not client.commit()
            assert not other.exists(b"/b")

    def test_router_and_monitor(self, pyxs: Any, store: Store) -> None:
        router = pyxs.Router(pyxs.connection.UnixSocketConnection(str(store.five)))
        with pyxs.Client(router=router) as client, client.monitor() as monitor:
            monitor.watch(b"data", b"token")
            monitor.watch(b"/local/domain/5/data/straw", b"other")
            events = monitor.wait()
            assert next(events) == (b"data", b"token")
            assert next(events) == (b"/local/domain/5/data/straw", b"other")
            client.write(b"data/straw/7/warts", b"x")
            assert sorted([next(events), next(events)]) == [
                (b"/local/domain/5/data/straw/7/warts", b"other"),
                (b"data/straw/7/warts", b"token"),
            ]
            monitor.unwatch(b"data", b"token")
            client.delete(b"data/straw/7")
            assert next(events) == (b"/local/domain/5/data/straw/7", b"other")

    def test_many_threads_on_one_router(self, pyxs: Any, store: Store) -> None:
        with pyxs.Client(unix_socket_path=str(store.path)) as client:

            def work(number: int) -> None:
                for i in range(50):
                    client.write(b"/n/%d" % number, b"%d" % i)
                    assert client.read(b"/n/%d" % number) == b"%d" % i

            threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LONG)
            assert [client.read(b"/n/%d" % number) for number in range(4)] == [b"49"] * 4
