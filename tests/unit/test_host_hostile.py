"""The host service and those who would hurt it: bad greetings, hostile requests, too many of them, quotas."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostkit import Client, refused, run
from waiting import until

from pores.host import limits, server, wire
from pores.host.allow import AllowList
from pores.host.domains import Hypervisor
from pores.host.rundir import Peer
from pores.host.server import Host


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
