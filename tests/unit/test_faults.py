"""What goes wrong in one place stays there: predicates and callbacks that raise, peers that can't be reached."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from node import Atom, CallTimeout, HandshakeRefused, NoConnection, Node, NodeDown, Pid, Process
from node.runtime.signals import Links
from node.wire import control as c

LOST = "lost@127.0.0.1"


def run(test: Callable[..., Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with Node("faults@127.0.0.1", "secret", **{"listen": None, **options}) as node:
            async with asyncio.timeout(30):
                await test(node)

    asyncio.run(main())


def dead_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def incoming(node: Node) -> Any:
    """What the table of peers reports to."""
    assert node._table is not None
    return node._table.handler


class FakePeer:
    """What the router sees of a peer."""

    def __init__(self, node: str = "peer@127.0.0.1") -> None:
        self.node = Atom(node)
        self.flags = 0
        self.busy = False
        self.cause: BaseException | None = None
        self.sent: list[tuple[Any, ...]] = []

    def signal(self, control: tuple[Any, ...], payload: Any = None) -> None:
        self.sent.append(control)


def test_a_predicate_that_raises_fails_its_own_receive_only() -> None:
    async def test(node: Node) -> None:
        async def picky(me: Process) -> None:
            with pytest.raises(TypeError):
                await me.receive(match=lambda message: message[0] == 1)
            seen.append(await me.receive())  # the message is still there

        async def other(me: Process) -> None:
            seen.append(await me.receive())

        seen: list[Any] = []
        first, second = node.spawn(picky), node.spawn(other)
        await asyncio.sleep(0)
        peer = FakePeer()
        batch = [((c.SEND, Atom(""), process.pid), 7) for process in (first, second)]
        incoming(node).peer_signals(peer, batch)
        while len(seen) < 2:
            await asyncio.sleep(0)
        assert seen == [7, 7]

    run(test)


def test_callbacks_that_raise_do_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[bool, str]] = []

    def fails(*about: Any) -> None:
        raise LookupError("callback")

    async def test(node: Node) -> None:
        node.on_nodes(fails)
        node.on_nodes(lambda up, name, reason: seen.append((up, name)))
        peer = FakePeer()
        incoming(node).peer_up(peer)
        incoming(node).peer_down(peer, "gone", 3)
        assert node.undelivered == 3

    run(test, on_undelivered=fails)
    assert seen == [(True, "peer@127.0.0.1"), (False, "peer@127.0.0.1")]
    assert "on_undelivered failed" in caplog.text and "a watcher of nodes failed" in caplog.text


def test_nodedown_is_for_nodes_that_were_up() -> None:
    async def test(node: Node) -> None:
        async with node.process() as me:
            me.monitor_nodes()
            assert not await node.ping(LOST)
            with pytest.raises(TimeoutError):
                await me.receive(timeout=0)

    run(test, routes={LOST: ("127.0.0.1", dead_port())})


def test_a_call_to_a_node_that_can_not_be_reached_says_why() -> None:
    async def test(node: Node) -> None:
        for wait in (node.call(("x", LOST), 1), node.rpc(LOST, "m", "f")):
            with pytest.raises(NoConnection) as caught:
                await wait
            assert not isinstance(caught.value, NodeDown)  # it never was up
            assert isinstance(caught.value.__cause__, OSError)

    run(test, routes={LOST: ("127.0.0.1", dead_port())})


def test_a_call_that_is_refused_has_the_refusal_as_its_cause() -> None:
    async def test(node: Node) -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(b"\x00\x0csnot_allowed")
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        node._routes[LOST] = server.sockets[0].getsockname()
        with pytest.raises(NoConnection) as caught:
            await node.call(("x", LOST), 1)
        assert isinstance(caught.value.__cause__, HandshakeRefused)
        assert caught.value.__cause__.reason == "not_allowed"
        server.close()

    run(test)


def test_timeouts_hold_while_there_is_no_connection_yet() -> None:
    async def test(node: Node) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            node._routes[LOST] = silent.getsockname()
            with pytest.raises(CallTimeout):
                await node.rpc(LOST, "m", "f", timeout=0.01)
            with pytest.raises(CallTimeout):
                await node.call(("x", LOST), 1, timeout=0.01)
            assert not await node.ping(LOST, timeout=0.01)
            node.disconnect(LOST)

    run(test)


def test_an_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def test(node: Node) -> None:
        for _ in range(50):
            node.send(("x", LOST), 1)
            with pytest.raises(NoConnection):
                await node.connect(LOST)
        assert node.undelivered == 50
        incoming(node).peer_up(FakePeer(LOST))
        incoming(node).peer_down(FakePeer(LOST), "again", 1)

    run(test, routes={LOST: ("127.0.0.1", dead_port())})
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len([line for line in lines if "could not be delivered" in line]) == 2


def test_user_lives_when_nobody_reads_our_output(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> None:
            raise BrokenPipeError

    async def test(node: Node) -> None:
        user = node.whereis("user")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", Closed())
            async with node.process() as me:
                for number in range(10):
                    request = (Atom("put_chars"), Atom("unicode"), b"hello")
                    me.send("user", (Atom("io_request"), me.pid, number, request))
                    reply = await me.receive(timeout=20)
                    assert reply == (Atom("io_reply"), number, (Atom("error"), Atom("terminated")))
        assert node.whereis("user") == user

    run(test)


def test_an_acknowledgement_for_a_process_that_has_ended_leaves_nothing() -> None:
    async def test(node: Node) -> None:
        peer = FakePeer()
        remote = Pid(peer.node, 1, 0, 1)
        node.router.peers = type("Peers", (), {"get": lambda self, name: peer})()
        process = Process(node.router, "linked")
        process.link(remote)
        process.unlink(remote)
        process.end(Atom("normal"))
        links = node.router.across(peer.node).links
        assert len(links) == 1
        unlink = next(signal for signal in peer.sent if signal[0] == c.UNLINK_ID)
        batch = [((c.UNLINK_ID_ACK, unlink[1], remote, process.pid), None)]
        incoming(node).peer_signals(peer, batch)
        assert not links
        incoming(node).peer_down(peer, "gone", 0)

    run(test)


def test_crossing_unlinks_are_forgotten_with_the_connection() -> None:
    """Both unlink at once and the connection goes before the acknowledgement: a new link is a new link."""

    async def test(node: Node) -> None:
        peer = FakePeer()
        remote = Pid(peer.node, 1, 0, 1)
        node.router.peers = type("Peers", (), {"get": lambda self, name: peer})()
        process = Process(node.router, "linked")
        process.link(remote)
        process.unlink(remote)
        incoming(node).peer_signals(peer, [((c.UNLINK_ID, 5, remote, process.pid), None)])
        assert process.links.knows(remote)
        incoming(node).peer_down(peer, "gone", 0)
        assert not process.links.knows(remote)
        incoming(node).peer_signals(peer, [((c.LINK, remote, process.pid), None)])
        assert remote in process.links
        incoming(node).peer_down(peer, "gone", 0)
        process.kill()

    run(test)


def test_links_know_what_is_left() -> None:
    links, pid = Links(), Pid(Atom("a@b"), 1, 0, 1)
    assert not links.knows(pid)
    links.link(pid)
    number = links.unlink(pid)
    assert number is not None and links.knows(pid) and pid not in links
    links.on_unlink_ack(pid, number)
    assert not links.knows(pid)
