"""EpmdClient, EpmdServer and the keeper with each other, over loopback. Real peers: interop/test_epmd_live.py."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from pathlib import Path

import pytest
from waiting import run, until

import node.wire.epmd as wire
import node.wire.epmd_server as wire_server
from node.errors import EpmdError, LocalProtocolError
from node.net import epmd as net
from node.net import epmd_client, epmd_server
from node.net.epmd import EpmdClient, EpmdServer, EpmdUnreachable, NameTaken, ensure_epmd, probe
from node.wire.epmd import HIDDEN, VISIBLE, Kill, Stop, encode_request


def at_once() -> float:
    return 0.0


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for two seconds here, and nothing of this machine's environment is looked at."""
    monkeypatch.setattr(epmd_client, "RECONNECT_TIME", 0.02)
    monkeypatch.delenv("ERL_EPMD_PORT", raising=False)
    monkeypatch.delenv("ERL_EPMD_ADDRESS", raising=False)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


async def ask_raw(port: int, data: bytes, host: str = "127.0.0.1") -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def test_register_look_up_and_close() -> None:
    async def test() -> None:
        server = EpmdServer()
        await server.start(port=0)
        async with server:
            client = EpmdClient(port=server.port)
            assert await client.names() == []
            assert await client.lookup("a") is None
            registration = await client.register("a", 1234, hidden=True, highest=6, lowest=5, extra=b"more")
            assert registration.registered
            assert registration.creation > 0
            info = await client.lookup("a")
            assert info == net.PortInfo("a", 1234, HIDDEN, 0, 6, 5, b"more")
            assert info is not None and info.hidden
            visible = await client.register("b", 5, hidden=False)
            assert (await client.lookup("b") or info).node_type == VISIBLE
            assert await client.names() == [("b", 5), ("a", 1234)]
            with pytest.raises(NameTaken):
                await client.register("a", 99)
            await registration.close()
            await registration.close()
            assert not registration.registered
            await until(lambda: server.table.lookup("a") is None)
            again = await client.register("a", 99)
            await again.close()
            await visible.close()

    run(test)


def test_ipv6() -> None:
    async def test() -> None:
        server = EpmdServer()
        await server.start(port=0)
        async with server:
            if "::1" not in server.addresses:
                pytest.skip("this host has no IPv6 loopback")
            client = EpmdClient("::1", server.port)
            registration = await client.register("six", 6)
            assert await client.lookup("six", "127.0.0.1") == await client.lookup("six", "::1") == registration.info
            await registration.close()

    run(test)


def test_kill_and_stop_are_refused() -> None:
    async def test() -> None:
        server = EpmdServer()
        await server.start(port=0)
        async with server:
            client = EpmdClient(port=server.port)
            registration = await client.register("a", 1)
            assert await ask_raw(server.port, encode_request(Kill())) == b"NO"
            assert await ask_raw(server.port, encode_request(Stop("a"))) == b""
            assert await client.names() == [("a", 1)]
            await registration.close()

    run(test)


def test_a_peer_that_ends_its_side_first_still_gets_the_answer() -> None:
    async def test() -> None:
        server = EpmdServer()
        await server.start(port=0)
        async with server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"\0\1n")
            writer.write_eof()
            assert await reader.read() == server.port.to_bytes(4, "big")
            writer.close()
            await writer.wait_closed()

    run(test)


def test_silent_and_hostile_connections_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.wire.epmd_server.IDLE_TIMEOUT", 0.05)

    async def test() -> None:
        server = EpmdServer()
        await server.start(port=0)
        async with server:
            registration = await EpmdClient(port=server.port).register("kept", 1)
            assert await ask_raw(server.port, b"") == b""  # returns when the server closes
            assert await ask_raw(server.port, b"\0\5z") == b""
            assert await ask_raw(server.port, b"GET / HTTP/1.1\r\n\r\n") == b""
            assert registration.registered
            assert len(server._connections) == 1
            await registration.close()

    run(test)


def test_connections_over_the_limit_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epmd_server, "MAX_CONNECTIONS", 2)

    async def test() -> None:
        server = EpmdServer()
        await server.start(port=0)
        async with server:
            client = EpmdClient(port=server.port)
            kept = [await client.register(name, 1) for name in "ab"]
            with pytest.raises(EpmdUnreachable):
                await client.register("c", 1)
            await kept[0].close()
            await until(lambda: len(server._connections) == 1)
            kept.append(await client.register("c", 1))
            for registration in kept:
                await registration.close()

    run(test)


def test_registered_again_when_epmd_comes_back(free_port: int) -> None:
    async def test() -> None:
        server = EpmdServer()
        await server.start(port=free_port)
        client = EpmdClient(port=free_port)
        registrations = [await client.register(name, 1) for name in "ab"]
        for _ in range(3):
            await server.close()
            await server.close()
            await until(lambda: not any(r.registered for r in registrations))
            server = EpmdServer()
            await server.start(port=free_port)
            for registration in registrations:
                await registration.wait_registered()
            assert sorted(await client.names()) == [("a", 1), ("b", 1)]
        for registration in registrations:
            await registration.close()
        await server.close()

    run(test)


def test_a_registration_closed_while_epmd_is_away_stays_closed(free_port: int) -> None:
    async def test() -> None:
        server = EpmdServer()
        await server.start(port=free_port)
        registration = await EpmdClient(port=free_port).register("a", 1)
        await server.close()
        await until(lambda: not registration.registered)
        await registration.close()
        await server.start(port=free_port)
        await asyncio.sleep(0.1)
        assert server.table.names() == []
        await server.close()

    run(test)


def test_a_name_taken_while_epmd_was_away_is_waited_for(free_port: int, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        server = EpmdServer()
        await server.start(port=free_port)
        client = EpmdClient(port=free_port)
        ours = await client.register("a", 1)
        await server.close()
        server.table.register(net.PortInfo("a", 2))  # somebody was faster
        await server.start(port=free_port)
        await until(lambda: "is taken" in caplog.text)
        assert not ours.registered
        server.table.release("a")
        await ours.wait_registered()
        assert await client.names() == [("a", 1)]
        await ours.close()
        await server.close()

    with caplog.at_level(logging.INFO):
        run(test)


def test_errors_say_where_and_what(free_port: int) -> None:
    async def test() -> None:
        client = EpmdClient(port=free_port, timeout=30)
        for question in (client.lookup("a"), client.names(), client.register("a", 1), client.is_embedded()):
            with pytest.raises(EpmdUnreachable, match=f"127.0.0.1:{free_port}"):
                await question
        with pytest.raises(EpmdUnreachable):
            await client.names("host.invalid")
        with pytest.raises(LocalProtocolError):
            await client.register("a b", 1)
        with pytest.raises(LocalProtocolError):
            await client.lookup("")

    run(test)


def test_what_is_no_epmd(free_port: int) -> None:
    async def test() -> None:
        async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(web, "127.0.0.1", free_port)
        client = EpmdClient("127.0.0.1", free_port)
        for question in (client.lookup("a"), client.names(), client.register("a", 1)):
            with pytest.raises(EpmdUnreachable, match="is none"):
                await question
        assert await probe(client) == "none"
        with pytest.raises(EpmdError, match="can't listen"):
            await ensure_epmd(client)
        server.close()

    run(test)


def test_an_epmd_that_does_not_answer_in_time(free_port: int) -> None:
    async def test() -> None:
        ended = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            ended.set()

        server = await asyncio.start_server(silent, "127.0.0.1", free_port)
        with pytest.raises(EpmdUnreachable, match="did not answer within"):
            await EpmdClient("127.0.0.1", free_port, timeout=0.05).names()
        await ended.wait()
        server.close()

    run(test)


@pytest.mark.parametrize("text", ["0", "65536", "-1", "abc", "4369 ", "٣"])
def test_the_port_variable(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ERL_EPMD_PORT", text)
    with pytest.raises(EpmdError, match="ERL_EPMD_PORT"):
        EpmdClient()
    monkeypatch.setenv("ERL_EPMD_PORT", "12345")
    assert EpmdClient().port == 12345
    monkeypatch.setenv("ERL_EPMD_PORT", "")
    assert EpmdClient().port == 4369


def test_the_address_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERL_EPMD_ADDRESS", "127.0.0.2, ::1,")
    assert net.epmd_addresses() == ("127.0.0.2", "::1")


def test_more_addresses(free_port: int) -> None:
    async def test() -> None:
        server = EpmdServer()
        await server.start("127.0.0.7", free_port)
        async with server:
            assert await EpmdClient("127.0.0.7", free_port).names() == []
            assert await EpmdClient("127.0.0.1", free_port).names() == []
            with pytest.raises(EpmdError, match="runs already"):
                await server.start()
        with pytest.raises(EpmdError, match=r"192\.0\.2\.1"):
            await server.start("192.0.2.1", free_port)  # documentation addresses: no host has them
        assert server.addresses == ()
        await server.start(port=free_port)  # nothing was left open
        await server.close()

    run(test)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ((), ("127.0.0.1", "::1")),
        (("127.0.0.1", "10.0.0.1", "10.0.0.1"), ("127.0.0.1", "::1", "10.0.0.1")),
        (("0.0.0.0", "10.0.0.1"), ("::1", "0.0.0.0")),
        (("::",), ("127.0.0.1", "::")),
        (("0.0.0.0", "::"), ("0.0.0.0", "::")),
    ],
)
def test_where_the_server_listens(more: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert epmd_server.listen_addresses(more) == expected


def test_names_are_no_addresses() -> None:
    with pytest.raises(EpmdError, match="not an IP address"):
        asyncio.run(EpmdServer().start("localhost", 0))


def test_wildcards() -> None:
    async def test() -> None:
        server = EpmdServer()
        await server.start(["0.0.0.0", "::"], 0)
        async with server:
            assert await EpmdClient("127.0.0.1", server.port).names() == []
            assert await EpmdClient("127.0.0.2", server.port).names() == []

    run(test)


def test_ensure_embeds_where_none_runs(free_port: int) -> None:
    async def test() -> None:
        client = EpmdClient(port=free_port)
        assert await probe(client) == "none"
        keeper = await ensure_epmd(client)
        assert keeper.server is not None and keeper.server.port == free_port
        assert await probe(client) == "embedded"
        assert await client.is_embedded()
        other = await ensure_epmd(EpmdClient(port=free_port))
        assert other.server is None
        for each in (other, keeper, keeper):
            await each.close()
        assert await probe(client) == "none"

    run(test)


def test_ensure_may_be_told_not_to(free_port: int) -> None:
    async def test() -> None:
        client = EpmdClient(port=free_port)
        with pytest.raises(EpmdUnreachable, match="epmd -daemon"):
            await ensure_epmd(client, embed=False)
        with pytest.raises(EpmdUnreachable, match="on loopback"):
            await ensure_epmd(client, "192.0.2.1")
        with pytest.raises(EpmdUnreachable):
            await ensure_epmd(EpmdClient("127.0.0.9", free_port))
        assert await probe(client) == "none"

    run(test)


def test_ensure_listens_where_it_is_told(free_port: int, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        client = EpmdClient(port=free_port)
        keeper = await ensure_epmd(client, "192.0.2.1", addresses=["127.0.0.3"])
        assert "epmd -daemon" in caplog.text
        assert await EpmdClient("127.0.0.3", free_port).names() == []
        await keeper.close()
        keeper = await ensure_epmd(client, "127.0.1.1")  # what Debian calls a host without an address
        assert await client.names("127.0.1.1") == []
        await keeper.close()

    run(test)


def test_nodes_that_start_at_once_agree_on_one(free_port: int) -> None:
    async def test() -> None:
        clients = [EpmdClient(port=free_port) for _ in range(8)]
        keepers = await asyncio.gather(*(ensure_epmd(client) for client in clients))
        assert sum(keeper.server is not None for keeper in keepers) == 1
        for keeper in keepers:
            await keeper.close()

    run(test)


def test_another_takes_over(free_port: int) -> None:
    """Each in turn ends; those left elect one of them, and all their names are there again."""

    async def test() -> None:
        clients = [EpmdClient(port=free_port) for _ in range(4)]
        keepers = [await ensure_epmd(client, delay=at_once) for client in clients]
        registrations = [await client.register(f"n{i}", i + 1) for i, client in enumerate(clients)]
        while keepers:
            owner = next(i for i, keeper in enumerate(keepers) if keeper.server is not None)
            await registrations.pop(owner).close()
            await keepers.pop(owner).close()
            left = sorted((r.info.name, r.info.port) for r in registrations)
            while keepers:
                try:
                    if sorted(await EpmdClient(port=free_port).names()) == left:
                        break
                except EpmdUnreachable:
                    pass
                await asyncio.sleep(0.01)
            assert sum(keeper.server is not None for keeper in keepers) == (1 if keepers else 0)

    run(test)


def test_the_place_of_another_epmd_is_not_taken(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs a real epmd wants its port back."""

    async def test() -> None:
        monkeypatch.setattr("node.wire.epmd_server.EMBEDDED_MARK", b"active name")
        real = EpmdServer()
        await real.start(port=free_port)
        client = EpmdClient(port=free_port)
        keeper = await ensure_epmd(client, delay=at_once)
        registration = await client.register("a", 1)
        await real.close()
        await until(lambda: not registration.registered)
        for _ in range(5):
            assert client.revive is not None
            await client.revive()
        assert await probe(client) == "none"
        await real.start(port=free_port)
        await registration.wait_registered()
        await registration.close()
        await keeper.close()
        await real.close()

    run(test)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", ("127.0.0.1",)), ("127.0.1.1", ("127.0.1.1",)), ("192.0.2.1", None), ("a.invalid", None)],
)
def test_which_hosts_are_loopback(host: str, expected: tuple[str, ...] | None) -> None:
    assert asyncio.run(net.loopback_addresses(host)) == expected


def test_the_limits_in_the_docs() -> None:
    text = " ".join((Path(__file__).parents[2] / "docs" / "epmd.md").read_text().split())
    limits = (epmd_server.MAX_CONNECTIONS, wire_server.MAX_NAMES, wire.MAX_NAME, wire_server.IDLE_TIMEOUT)
    assert "Limits: {:,} connections, {:,} names, {} characters in a name".format(*limits) in text
    assert f"{limits[3]:g} s for a request to come" in text
    assert "{} to {} s; all register again".format(*net.TAKE_OVER_DELAY) in text
