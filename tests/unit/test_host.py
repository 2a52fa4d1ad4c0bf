"""The host service over its own socket: ids, grants, channels, the store, and what a domain's death takes with it."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

import pytest
from hostkit import Client, refused, run
from waiting import until

from pores.host import wire
from pores.host.domains import Hypervisor
from pores.host.server import Host


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
