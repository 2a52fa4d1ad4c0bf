"""The host service over its own socket: ids, grants, channels, the store, and what a domain's death takes with it."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import LONG, until

from pores.errors import BackendUnavailable
from pores.host import limits, rundir, server, spawn, wire
from pores.host.allow import AllowList
from pores.host.domains import Hypervisor
from pores.host.rundir import Peer, RunDir
from pores.host.server import Host
from pores.host.spawn import answers, embed_host, ensure_host


class Client:
    """A raw client of the protocol: what csrc/pore/local.c speaks, written again for the test."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.socket.connect(str(path))
        self.seq = 0
        self.events: list[tuple[int, tuple[int, ...]]] = []

    async def packet(self) -> tuple[int, int, int, tuple[int, ...], list[int]]:
        while True:
            try:
                data, rights, flags, _ = self.socket.recvmsg(8192, socket.CMSG_LEN(16))
                break
            except BlockingIOError:
                await asyncio.sleep(0.001)
        if not data:
            raise ConnectionResetError
        assert not flags & socket.MSG_CTRUNC
        fds = [fd for _, _, raw in rights for (fd,) in struct.iter_unpack("i", raw)]
        op, status, seq = struct.unpack_from("<HhI", data)
        return op, status, seq, struct.unpack_from(f"<{(len(data) - 8) // 4}I", data, 8), fds

    async def ask(self, op: int, *args: int) -> tuple[tuple[int, ...], list[int]]:
        self.seq += 1
        self.socket.send(struct.pack("<HHI", op, 0, self.seq) + struct.pack(f"<{len(args)}I", *args))
        while True:
            got, status, seq, results, fds = await self.packet()
            if got & 0x4000:
                self.events.append((got, results))
                continue
            assert got == op | 0x8000 and seq == self.seq
            if status:
                raise OSError(-status, os.strerror(-status))
            return results, fds

    async def event(self) -> tuple[int, tuple[int, ...]]:
        if not self.events:
            op, _, _, args, _ = await self.packet()
            self.events.append((op, args))
        return self.events.pop(0)

    async def hello(self, wanted: int = 0) -> int:
        (domid,), _ = await self.ask(wire.HELLO, wire.VERSION, wanted)
        return domid

    def close(self) -> None:
        self.socket.close()


def run(path: Path, test: Callable[[Host], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        host = Host(path / "host", **options)
        await host.start()
        try:
            async with asyncio.timeout(LONG):
                await test(host)
        finally:
            await host.close()
            await host.close()

    before = _fds()
    asyncio.run(main())
    assert _fds() == before


def _fds() -> int:
    return len(os.listdir("/proc/self/fd"))


async def refused(code: int, awaitable: Awaitable[Any]) -> None:
    with pytest.raises(OSError) as caught:
        await awaitable
    assert caught.value.errno == code


def test_domain_ids(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        clients = [Client(host.rundir.socket) for _ in range(4)]
        assert [await clients[0].hello(), await clients[1].hello(7)] == [1, 7]
        await refused(errno.EBUSY, clients[2].hello(7))
        assert await clients[3].hello() == 8
        assert (await clients[3].ask(wire.DOMAINS))[0] == (3, 1, 7, 8)
        for client in clients:
            client.close()
        await until(lambda: not host.domids)
        again = Client(host.rundir.socket)
        assert await again.hello() == 9  # never one that was used
        again.close()

    run(tmp_path, test)


def test_the_last_id_is_kept_for_the_next_host(tmp_path: Path) -> None:
    async def one(host: Host) -> None:
        client = Client(host.rundir.socket)
        assert await client.hello() == 1
        client.close()

    async def two(host: Host) -> None:
        client = Client(host.rundir.socket)
        assert await client.hello() == 2
        client.close()

    run(tmp_path, one)
    run(tmp_path, two)


def test_a_grant_is_sealed_memory_for_one_domain(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        granter, peer, third = (Client(host.rundir.socket) for _ in range(3))
        a, b, _ = await granter.hello(), await peer.hello(), await third.hello()
        refs, (ours,) = await granter.ask(wire.GRANT, b, 8)
        assert len(set(refs)) == 8
        assert os.fstat(ours).st_size == 8 * 4096
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        assert fcntl.fcntl(ours, fcntl.F_GET_SEALS) == seals
        await refused(errno.ENOENT, third.ask(wire.MAP, a, 8, *refs))
        await refused(errno.ENOENT, peer.ask(wire.MAP, a, 1, max(refs) + 1))
        await refused(errno.EINVAL, peer.ask(wire.MAP, a, 9, *refs))
        await refused(errno.EINVAL, granter.ask(wire.GRANT, a, 1))
        await refused(errno.ENOENT, granter.ask(wire.GRANT, 999, 1))
        await refused(errno.EINVAL, granter.ask(wire.GRANT, b, 0))
        await refused(errno.EINVAL, granter.ask(wire.GRANT, b, 1 << 20))
        (number, *pages), (theirs,) = await peer.ask(wire.MAP, a, 8, *reversed(refs))
        assert pages == [7, 6, 5, 4, 3, 2, 1, 0]
        os.pwrite(ours, b"hello", 100)
        assert os.pread(theirs, 5, 100) == b"hello"
        await refused(errno.EBUSY, granter.ask(wire.END_ACCESS, 8, *refs))
        await refused(errno.ENOENT, peer.ask(wire.MAP, a, 8, *refs))  # ended: nothing new
        await peer.ask(wire.UNMAP, number)
        await refused(errno.ENOENT, peer.ask(wire.UNMAP, number))
        assert await granter.event() == (wire.UNMAPPED, refs)
        await granter.ask(wire.END_ACCESS, 8, *refs)
        await refused(errno.ENOENT, granter.ask(wire.END_ACCESS, 8, *refs))
        for fd in (ours, theirs):
            os.close(fd)
        for client in (granter, peer, third):
            client.close()

    run(tmp_path, test)


def test_channels_are_bound_once_by_the_domain_they_are_for(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        one, two, three = (Client(host.rundir.socket) for _ in range(3))
        a, b, _ = await one.hello(), await two.hello(), await three.hello()
        (port,), (ours,) = await one.ask(wire.EVTCHN_ALLOC, b)
        await refused(errno.ENOENT, three.ask(wire.EVTCHN_BIND, a, port))
        (_,), (theirs,) = await two.ask(wire.EVTCHN_BIND, a, port)
        await refused(errno.ENOENT, two.ask(wire.EVTCHN_BIND, a, port))
        os.write(ours, b"\1")
        assert os.read(theirs, 10) == b"\1"
        os.close(theirs)
        assert os.read(ours, 10) == b""  # the end of the peer, host or not
        os.close(ours)
        await one.ask(wire.EVTCHN_CLOSE, port)
        await refused(errno.ENOENT, one.ask(wire.EVTCHN_CLOSE, port))
        (_,), (waiting,) = await one.ask(wire.EVTCHN_ALLOC, b)
        for client in (one, two, three):
            client.close()
        await until(lambda: not host.domids)
        assert os.read(waiting, 1) == b""
        os.close(waiting)

    run(tmp_path, test)


def test_a_dead_domain_is_seen_by_those_who_dealt_with_it(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        one, two = Client(host.rundir.socket), Client(host.rundir.socket)
        a, b = await one.hello(), await two.hello()
        refs, (fd,) = await one.ask(wire.GRANT, b, 1)
        (number, _), (mapped,) = await two.ask(wire.MAP, a, 1, *refs)
        os.close(fd)
        one.close()
        assert await two.event() == (wire.DOMAIN_GONE, (a,))
        wanted = Client(host.rundir.socket)
        await refused(errno.EBUSY, wanted.hello(a))  # two still holds a mapping of it
        wanted.close()
        os.close(mapped)
        await two.ask(wire.UNMAP, number)
        wanted = Client(host.rundir.socket)
        assert await wanted.hello(a) == a
        wanted.close()
        two.close()

    run(tmp_path, test)


def test_each_domain_has_its_store(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        client = Client(host.rundir.socket)
        domid = await client.hello()
        _, (fd,) = await client.ask(wire.XENSTORE)
        with socket.socket(fileno=fd) as store:
            store.setblocking(True)
            path = b"domid\0"
            store.sendall(struct.pack("<4I", 2, 1, 0, len(path)) + path)  # XS_READ, relative
            answer = await asyncio.to_thread(store.recv, 100)
            assert answer[16:] == str(domid).encode()
        assert host.rundir.domain_store(domid).is_socket()
        client.close()
        await until(lambda: not host.domids)
        assert not host.rundir.domain_store(domid).exists()

    run(tmp_path, test)


@pytest.mark.parametrize(
    "packet",
    [b"x", b"\1\0\0\0", b"\1\0\1\0\0\0\0\0", b"\2\0\0\0\0\0\0\0", struct.pack("<HHIII", 1, 0, 1, 99, 0), b"\0" * 5000],
)
def test_bad_greetings_are_refused_and_cut_off(tmp_path: Path, packet: bytes) -> None:
    async def test(host: Host) -> None:
        client = Client(host.rundir.socket)
        client.socket.send(packet)
        _, status, _, _, _ = await client.packet()
        assert status < 0
        with pytest.raises(ConnectionResetError):
            await client.packet()
        client.close()
        assert not host.domids

    run(tmp_path, test)


def test_hostile_requests_are_answered_and_the_host_lives(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        client = Client(host.rundir.socket)
        await client.hello()
        for op in (0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 0x3FFF):
            for args in ((), (1,), (0xFFFFFFFF,) * 4, tuple(range(100))):
                with pytest.raises(OSError):
                    await client.ask(op, *args)
        assert (await client.ask(wire.DOMAINS))[0][0] == 1
        client.close()

    run(tmp_path, test)


def test_a_refused_greeting_leaves_nothing(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        first = Client(host.rundir.socket)
        await first.hello(7)
        for _ in range(20):
            second = Client(host.rundir.socket)
            await refused(errno.EBUSY, second.hello(7))
            second.close()
        assert len(host._clients) == 1
        first.close()
        await until(lambda: not host._clients)

    run(tmp_path, test)


def test_connections_of_a_user_and_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_PER_UID", 4)
    monkeypatch.setattr(limits, "MAX_CONNECTIONS", 6)
    uid = os.getuid()
    monkeypatch.setattr(server, "peer_of", lambda client: Peer(1, uid, 0))

    async def test(host: Host) -> None:
        nonlocal uid
        clients = []

        async def join(user: int) -> None:
            nonlocal uid
            uid = user
            client = Client(host.rundir.socket)
            try:
                await client.hello()
            except (ConnectionError, BrokenPipeError):
                client.close()
                raise
            clients.append(client)

        for _ in range(4):
            await join(os.getuid())
        for _ in range(3):
            with pytest.raises(OSError):
                await join(os.getuid())
        for _ in range(2):  # another user has room still, until all is taken
            await join(0xABC)
        with pytest.raises(OSError):
            await join(0xABC)
        for _ in range(2):
            clients.pop().close()
        clients.pop(0).close()
        await until(lambda: len(host._clients) <= 3)
        await join(os.getuid())
        with pytest.raises(OSError):
            await join(os.getuid())
        for client in clients:
            client.close()

    run(tmp_path, test, allow=AllowList({0xABC: None}))
    assert [record.args[0] for record in caplog.records] == [os.getuid()]  # type: ignore[index]


def test_strangers_do_not_take_the_room_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STRANGERS", 3)
    uid = 0xBAD
    monkeypatch.setattr(server, "peer_of", lambda client: Peer(1, uid, 0))

    async def test(host: Host) -> None:
        nonlocal uid
        silent = []
        for _ in range(3):
            silent.append(Client(host.rundir.socket))
            uid += 1  # together, not each
            await until(lambda: len(host._clients) == len(silent))
        late = Client(host.rundir.socket)
        with pytest.raises(ConnectionResetError):
            await late.packet()
        silent.pop().close()
        await until(lambda: len(host._clients) <= 2)
        asks = Client(host.rundir.socket)
        for op in (wire.DOMAINS, wire.HELLO):  # they are not told who is there, either
            with pytest.raises((PermissionError, ConnectionError)):
                await asks.ask(op)
        uid = os.getuid()
        welcome = Client(host.rundir.socket)
        assert await welcome.hello() == 1
        for client in (*silent, late, asks, welcome):
            client.close()

    run(tmp_path, test)


def test_a_host_that_ends_tells_nobody_that_others_are_gone(tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        clients = [Client(host.rundir.socket) for _ in range(4)]
        domids = [await client.hello() for client in clients]
        for client in clients:
            for domid in domids:
                if domid != domids[clients.index(client)]:
                    _, (fd,) = await client.ask(wire.GRANT, domid, 1)
                    os.close(fd)
        await host.close()
        for client in clients:
            with pytest.raises(ConnectionResetError):
                await client.event()
            client.close()
        assert not list((host.rundir.path / "dom").iterdir())

    run(tmp_path, test)


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


def test_an_id_is_not_given_again_while_a_peer_holds_something_of_its_last_owner() -> None:
    hypervisor = Hypervisor(lambda *event: None)
    two = hypervisor.add(2, 0)
    for hold in ("mapping", "channel"):
        one = hypervisor.add(1, 0)
        if hold == "mapping":
            number, _, _ = hypervisor.map(two, 1, hypervisor.grant(one, 2, 1)[0])
        else:
            port, end = hypervisor.alloc_channel(one, 2)
            number, other = hypervisor.bind_channel(two, 1, port)
            end.close()
            other.close()
        hypervisor.remove(one)
        with pytest.raises(wire.Refused) as caught:
            hypervisor.add(1, 0)
        assert caught.value.code == errno.EBUSY
        (hypervisor.unmap if hold == "mapping" else hypervisor.close_channel)(two, number)
    hypervisor.add(1, 0)
    hypervisor.close()


def test_quotas_of_a_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GRANTS_PER_DOMAIN", 4)
    monkeypatch.setattr(limits, "PAGES_PER_DOMAIN", 2000)
    monkeypatch.setattr(limits, "MAPS_PER_DOMAIN", 3)
    monkeypatch.setattr(limits, "CHANNELS_PER_DOMAIN", 5)
    hypervisor = Hypervisor(lambda *event: None)
    one, two, three = (hypervisor.add(0, 0) for _ in range(3))

    def full(ask: Callable[..., Any], *args: Any) -> None:
        with pytest.raises(wire.Refused) as caught:
            ask(*args)
        assert caught.value.code == errno.ENOSPC

    large = hypervisor.grant(one, two.domid, 1000)[0]
    full(hypervisor.grant, one, two.domid, 1001)
    others = [hypervisor.grant(one, two.domid, 1)[0] for _ in range(3)]
    full(hypervisor.grant, one, two.domid, 1)
    hypervisor.grant(three, two.domid, 1)  # each has its own
    mappings = [hypervisor.map(two, one.domid, refs)[0] for refs in others]
    full(hypervisor.map, two, one.domid, large)
    for mapping in mappings:
        hypervisor.unmap(two, mapping)
    for refs in [large, *others]:
        hypervisor.end_access(one, refs)
    assert (one.granted, one.pages, one.grants) == (0, 0, {})
    ports = []
    for _ in range(5):
        port, end = hypervisor.alloc_channel(one, two.domid)
        end.close()
        ports.append(port)
    full(hypervisor.alloc_channel, one, two.domid)
    for port in ports:
        hypervisor.close_channel(one, port)
    hypervisor.close()


def test_a_host_without_descriptors_waits_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(host: Host) -> None:
        assert host._listener is not None
        listener, tries = host._listener, 0

        class Poor:
            """The listening socket of a process that has no descriptors left for a while."""

            def fileno(self) -> int:
                return listener.fileno()

            def close(self) -> None:
                listener.close()

            def accept(self) -> Any:
                nonlocal tries
                tries += 1
                if tries <= 3:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                return listener.accept()

        host._listener = Poor()  # type: ignore[assignment]
        client = Client(host.rundir.socket)
        await client.hello()
        assert tries < 10
        client.close()

    monkeypatch.setattr(server, "_ACCEPT_PAUSE", 0.05)
    run(tmp_path, test)
    assert len(caplog.records) == 3


def test_numbers_are_never_used_twice() -> None:
    hypervisor = Hypervisor(lambda *event: None)
    one, two = hypervisor.add(0, 0), hypervisor.add(0, 0)
    seen: set[int] = set()
    for _ in range(50):
        refs, _ = hypervisor.grant(one, two.domid, 3)
        assert not seen & set(refs)
        seen |= set(refs)
        hypervisor.end_access(one, refs)
    assert one.pages == 0 and not one.grants
    hypervisor.close()
