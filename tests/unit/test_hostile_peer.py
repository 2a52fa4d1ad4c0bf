"""A peer that has the cookie and means harm: it loses its connection with a line in the log, and nobody else notices.

The attacker is a raw socket behind a genuine handshake. After each attack a well-behaved node is still served over the
connection that it had, and of the attacker nothing is left: no process, link, monitor, task, timer or descriptor.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from waiting import until

from node import Atom, GenServer, Node, Pid, Process, Reference, encode
from node.net.epmd import EpmdServer
from node.net.options import NetOptions
from node.wire import control as c
from node.wire.flags import our_flags
from node.wire.handshake import Handshake, HandshakeDone

COOKIE = "secret"
NAME = "evil@127.0.0.1"
EVIL = Atom(NAME)


class Echo(GenServer):
    async def handle_call(self, request: Any, caller: Any) -> Any:
        return request


async def collect(me: Process) -> None:
    while True:
        await me.receive()


class Evil:
    """A connection that has passed the handshake; what follows is up to the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, victim: str) -> None:
        self.reader, self.writer = reader, writer
        self.victim = Atom(victim)
        self.me = Pid(EVIL, 7, 0, 9)

    def ref(self, number: int) -> Reference:
        return Reference(EVIL, 9, (number, 1, 2))

    def frame(self, control: Any, *payload: Any) -> bytes:
        body = b"p" + encode(control) + b"".join(map(encode, payload))
        return struct.pack(">I", len(body)) + body

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def dropped(self) -> None:
        """Until the victim has closed the connection."""
        with suppress(ConnectionError):
            while await self.reader.read(1 << 16):
                pass

    async def close(self) -> None:
        self.writer.transport.abort()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


async def enter(node: Node, name: str = NAME) -> Evil:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # little waits in the kernel
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", node.port))
    reader, writer = await asyncio.open_connection(sock=sock)
    handshake = Handshake(
        name, peer_name=node.name, flags=our_flags(), creation=9, cookie=lambda peer: COOKIE, challenge=1, now=0.0
    )
    while True:
        writer.write(handshake.data_to_send())
        while (event := handshake.next_event()) is not None:
            if isinstance(event, HandshakeDone):
                writer.write(handshake.data_to_send())
                return Evil(reader, writer, node.name)
        data = await reader.read(4096)
        assert data
        handshake.receive_data(data, 0.0)


class Arena:
    """The node under attack and a good one that is connected to it."""

    def __init__(self, node: Node, good: Node) -> None:
        self.node, self.good = node, good

    async def fine(self) -> None:
        """The good node is served, over the connection that it had before."""
        assert await self.good.call(("echo", self.node.name), 42, timeout=30.0) == 42
        assert self.good.peer(self.node.name).connection_id == 1

    async def clean(self) -> None:
        """Of the attacker nothing is left."""
        router = self.node.router
        await until(lambda: self.node.nodes() == [self.good.name])
        await until(lambda: len(router.processes) == self.processes)
        assert EVIL not in router.ties
        assert not router.calls and not router._shut
        await until(lambda: len(asyncio.all_tasks()) <= self.tasks)
        await until(lambda: len(os.listdir("/proc/self/fd")) <= self.fds)


@asynccontextmanager
async def arena(**net: Any) -> AsyncIterator[Arena]:
    epmd = EpmdServer()
    port = await epmd.start(port=0)
    node = Node("victim@127.0.0.1", COOKIE, epmd_port=port, net=NetOptions(**net))
    node.register("echo", Echo, restart="permanent")
    node.register("collect", collect)
    good = Node("good@127.0.0.1", COOKIE, listen=None, epmd_port=port)
    async with node, good:
        both = Arena(node, good)
        await both.fine()
        both.processes, both.tasks, both.fds = (
            len(node.router.processes), len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")),
        )  # fmt: skip
        yield both
    await epmd.close()


def fight(attack: Callable[[Arena], Coroutine[Any, Any, None]], **net: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), arena(**net) as both:
            await attack(both)
            await both.fine()
            await both.clean()

    asyncio.run(main())


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and r.name.startswith("strawbridge")]


OURS = Pid(Atom("victim@127.0.0.1"), 1, 0, 1)
THEIRS = Pid(EVIL, 1, 0, 9)
OTHERS = Pid(Atom("good@127.0.0.1"), 1, 0, 9)
REF = Reference(EVIL, 9, (1, 2, 3))
X = Atom("x")
NONE = Atom("")

#: Control messages that no node sends. (Which fields each must have is tests/unit/test_control.py's.)
MALFORMED: list[tuple[Any, ...]] = [
    ((),),
    (X,),
    (5,),
    ([1, 2, 3],),
    ((1.0, THEIRS, OURS),),
    ((True, THEIRS, OURS),),
    ((0,),),
    ((4, THEIRS, OURS),),
    ((99, THEIRS, OURS),),
    ((1 << 70, THEIRS, OURS),),
    ((-1,),),
    ((c.SEND, NONE, OURS),),
    ((c.SEND, NONE, X), X),
    ((c.SEND, NONE), X),
    ((c.REG_SEND, THEIRS, NONE, b"echo"), X),
    ((c.REG_SEND, THEIRS, NONE, OURS), X),
    ((c.LINK, OTHERS, OURS),),
    ((c.LINK, THEIRS, THEIRS),),
    ((c.LINK, THEIRS, OURS), X),
    ((c.EXIT, OTHERS, OURS, X),),
    ((c.EXIT2, OTHERS, OURS, Atom("kill")),),
    ((c.EXIT2, THEIRS, X, Atom("kill")),),
    ((c.MONITOR_P, OTHERS, OURS, REF),),
    ((c.MONITOR_P, THEIRS, [X], REF),),
    ((c.MONITOR_P, THEIRS, OURS, 1),),
    ((c.DEMONITOR_P, THEIRS, OURS),),
    ((c.MONITOR_P_EXIT, THEIRS, OTHERS, REF, X),),
    ((c.UNLINK_ID, 0, THEIRS, OURS),),
    ((c.UNLINK_ID, 1 << 64, THEIRS, OURS),),
    ((c.UNLINK_ID, 1, OTHERS, OURS),),
    ((c.SPAWN_REQUEST, REF, OTHERS, THEIRS, (X, X, 0), []), []),
    ((c.SPAWN_REQUEST, REF, THEIRS, THEIRS, (X, X), []), []),
    ((c.SPAWN_REQUEST, REF, THEIRS, THEIRS, (X, X, -1), []), []),
    ((c.SPAWN_REQUEST, REF, THEIRS, THEIRS, (X, X, 0), X), []),
    ((c.SPAWN_REQUEST, REF, THEIRS, THEIRS, (X, X, 0), []),),
    ((c.SPAWN_REPLY, REF, OTHERS, 0, X),),
    ((c.ALIAS_SEND, THEIRS, X), X),
    ((c.ALTACT_SIG_SEND, -1, THEIRS, OURS), X),
    ((c.ALTACT_SIG_SEND, c.ALTACT_ALIAS, THEIRS, OURS), X),
    ((c.ALTACT_SIG_SEND, c.ALTACT_NAME, THEIRS, OURS), X),
    ((c.ALTACT_SIG_SEND, c.ALTACT_EXIT, OTHERS, OURS), X),
    ((c.ALTACT_SIG_SEND, c.ALTACT_TOKEN, THEIRS, OURS), X),
]


def test_malformed_control_messages(caplog: pytest.LogCaptureFixture) -> None:
    async def attack(both: Arena) -> None:
        for message in MALFORMED:
            before = len(complaints(caplog))
            evil = await enter(both.node)
            evil.send(evil.frame(*message))
            await evil.dropped()
            await evil.close()
            lines = complaints(caplog)[before:]
            assert len(lines) == 1, (message, lines)
            assert NAME in lines[0] and "drop" in lines[0], lines

    fight(attack)


def raw(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


BROKEN = {
    "another type of frame": raw(b"q" + encode((c.LINK, THEIRS, OURS))),
    "the atom cache, which we did not offer": raw(b"\x83D\x01\x00\x00"),
    "a fragment, which we did not offer": raw(b"\x83E" + bytes(16)),
    "a term without its version": raw(b"p" + encode((c.LINK, THEIRS, OURS))[1:]),
    "half a control message": raw(b"p" + encode((c.LINK, THEIRS, OURS))[:-3]),
    "a frame over the limit": struct.pack(">I", (1 << 20) + 1),
    "the largest frame there is": struct.pack(">I", 0xFFFFFFFF) + b"p",
    "a tuple of 4 billion": raw(b"p\x83i\xff\xff\xff\xff"),
    "a list of 4 billion": raw(b"p\x83l\xff\xff\xff\xff"),
    "a binary of 4 GiB": raw(b"p\x83m\xff\xff\xff\xff"),
    "a map of 4 billion": raw(b"p\x83t\xff\xff\xff\xff"),
    "an integer of 4 GiB": raw(b"p\x83o\xff\xff\xff\xff\x00"),
    "a deep control message": raw(b"p\x83" + b"h\x01" * 500_000 + b"a\x01"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_stream(what: str, caplog: pytest.LogCaptureFixture) -> None:
    async def attack(both: Arena) -> None:
        evil = await enter(both.node)
        evil.send(BROKEN[what])
        await evil.dropped()
        await evil.close()
        lines = complaints(caplog)
        assert len(lines) == 1 and NAME in lines[0] and "dropping the connection" in lines[0], lines

    fight(attack, max_frame=1 << 20)


def test_random_bytes(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever comes: either it was taken as frames, or the connection is dropped."""

    async def attack(both: Arena) -> None:
        source = random.Random(1)
        for number in range(60):
            evil = await enter(both.node)
            noise = source.randbytes(source.choice((1, 4, 5, 100, 5000)))
            evil.send(noise if number % 2 else raw(b"p" + noise))
            evil.writer.write_eof()
            await evil.dropped()
            await evil.close()

    fight(attack, max_frame=1 << 20)
    assert not [line for line in complaints(caplog) if "failed" in line or "unforeseen" in line]


def test_messages_that_can_not_be_decoded_are_lost_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def attack(both: Arena) -> None:
        evil = await enter(both.node)
        head = encode((c.REG_SEND, THEIRS, NONE, Atom("collect")))
        bombs = [b"\x83" + b"l\x00\x00\x00\x01" * 300_000, b"\x83h\x02a\x01", b"\x83\xffx", b"\x83m\xff\xff\xff\xff"]
        for bomb in bombs:
            evil.send(raw(b"p" + head + bomb))
        evil.send(evil.frame((c.REG_SEND, THEIRS, NONE, Atom("echo")), (Atom("$gen_call"), (THEIRS, REF), 1)))
        assert b"\x83h\x02" in await evil.reader.read(4096)  # the connection lives
        assert both.node.router.undecodable == len(bombs)
        await evil.close()

    fight(attack)


def test_a_large_frame_that_trickles_takes_what_has_come_only() -> None:
    """Announced is 1 GB; a thousand bytes of it hold no megabyte, and the good node is served meanwhile."""

    async def attack(both: Arena) -> None:
        evil = await enter(both.node)
        evil.send(struct.pack(">I", 1 << 30) + b"p" + encode((c.REG_SEND, THEIRS, NONE, Atom("collect"))))
        evil.send(b"\x83m\x3f\x00\x00\x00")
        for _ in range(1000):
            evil.send(b"x")
            await asyncio.sleep(0)
        await both.fine()
        connection = both.node.peer(NAME)._connection
        assert connection is not None
        await until(lambda: connection._channel.reader.pending > 1000)
        assert connection._channel.reader.pending < 1 << 16
        await evil.close()

    fight(attack)


async def flooded(both: Arena, evil: Evil, flood: Callable[[int], bytes], frames: int) -> None:
    """Send without ever reading an answer, until all is sent, the connection dropped, or reading from us paused."""
    evil.writer.transport.pause_reading()  # type: ignore[attr-defined]
    peer = both.node.peer(NAME)
    for start in range(0, frames, 1000):
        evil.send(b"".join(flood(number) for number in range(start, start + 1000)))
        sent = asyncio.ensure_future(evil.writer.drain())
        while not sent.done() and not peer._pausers and peer.state == "up":
            await asyncio.wait((sent,), timeout=0.01)
        if not sent.done() or sent.exception() is not None or peer.state != "up":
            sent.cancel()
            break
        if start % 10_000 == 0:
            await both.fine()


FLOODS: dict[str, Callable[[Evil, int], bytes]] = {
    "monitors": lambda evil, n: evil.frame((c.MONITOR_P, evil.me, Atom("nobody"), evil.ref(n))),
    "links": lambda evil, n: evil.frame((c.LINK, evil.me, Pid(evil.victim, n + 1000, 0, 1))),
    "unlinks": lambda evil, n: evil.frame((c.UNLINK_ID, n + 1, evil.me, Pid(evil.victim, n + 1000, 0, 1))),
    "spawn requests": lambda evil, n: evil.frame(
        (c.SPAWN_REQUEST, evil.ref(n), evil.me, evil.me, (X, X, 0), [Atom("monitor")]), []
    ),
    "calls": lambda evil, n: evil.frame(
        (c.REG_SEND, evil.me, NONE, Atom("echo")), (Atom("$gen_call"), (evil.me, evil.ref(n)), n)
    ),
}


@pytest.mark.parametrize("what", FLOODS)
def test_floods_that_are_answered(what: str) -> None:
    """All answers come when the flood is over."""

    async def attack(both: Arena) -> None:
        evil = await enter(both.node)
        got = bytearray()

        async def read() -> None:
            while data := await evil.reader.read(1 << 16):
                got.extend(data)

        reading = asyncio.ensure_future(read())
        for start in range(0, 5_000, 1000):
            evil.send(b"".join(FLOODS[what](evil, number) for number in range(start, start + 1000)))
            await evil.writer.drain()
        await both.fine()
        await until(lambda: got.count(b"\x83h") >= 5_000)
        evil.writer.write_eof()
        await reading
        await evil.close()

    fight(attack)


@pytest.mark.parametrize("what", FLOODS)
def test_floods_whose_answers_nobody_reads(what: str) -> None:
    """What is queued for a peer that reads nothing is bounded, and the others are served all the time."""
    limit = 1 << 18
    most = 0

    async def attack(both: Arena) -> None:
        nonlocal most
        evil = await enter(both.node)
        peer = both.node.peer(NAME)

        def flood(number: int) -> bytes:
            nonlocal most
            most = max(most, peer.queued)
            if what == "calls":
                request = (Atom("$gen_call"), (evil.me, evil.ref(number)), number)
                return evil.frame((c.REG_SEND, evil.me, NONE, Atom("other")), request)
            return FLOODS[what](evil, number)

        if what == "calls":  # not the server of the good node: as on a BEAM, it is held until its client reads
            other = both.node.spawn(Echo, name="other")
        await flooded(both, evil, flood, 100_000)
        await evil.close()
        if what == "calls":
            other.kill()

    fight(attack, busy_limit=1 << 14, hard_limit=limit)
    assert most < 3 * limit


def test_pings_whose_answers_nobody_reads_do_not_stop_the_pings_of_others() -> None:
    async def attack(both: Arena) -> None:
        evil = await enter(both.node)

        def ping(number: int) -> bytes:
            request = (Atom("$gen_call"), (evil.me, evil.ref(number)), (Atom("is_auth"), EVIL))
            return evil.frame((c.REG_SEND, evil.me, NONE, Atom("net_kernel")), request)

        await flooded(both, evil, ping, 50_000)
        assert await both.good.ping(both.node.name, timeout=30.0)
        await evil.close()

    fight(attack, busy_limit=1 << 14, hard_limit=1 << 16)


def test_rpcs_whose_answers_nobody_reads_do_not_stop_those_of_others() -> None:
    async def attack(both: Arena) -> None:
        both.node.export("m", "f", lambda: bytes(1000), inline=True)
        evil = await enter(both.node)

        def call(number: int) -> bytes:
            request = (
                Atom("$gen_call"),
                (evil.me, evil.ref(number)),
                (Atom("call"), Atom("m"), Atom("f"), [], evil.me),
            )
            return evil.frame((c.REG_SEND, evil.me, NONE, Atom("rex")), request)

        await flooded(both, evil, call, 20_000)
        request = (Atom("call"), Atom("m"), Atom("f"), [], both.good.router.leader)
        assert await both.good.call(("rex", both.node.name), request, timeout=30.0) == bytes(1000)
        await evil.close()

    fight(attack, busy_limit=1 << 14, hard_limit=1 << 16)


def test_a_mailbox_that_nobody_empties_stops_its_sender_only() -> None:
    async def attack(both: Arena) -> None:
        both.node.router.mailbox_limit = 1000

        async def sleeps(me: Process) -> None:
            await asyncio.get_running_loop().create_future()

        victim = both.node.spawn(sleeps, name="sleeps")
        evil = await enter(both.node)
        frame = evil.frame((c.REG_SEND, evil.me, NONE, Atom("sleeps")), bytes(1000))
        for _ in range(100):
            evil.send(frame * 500)
        await both.fine()
        await until(lambda: victim.mailbox.full)
        held = len(victim.mailbox.queue)
        await both.fine()
        assert len(victim.mailbox.queue) == held < 50_000
        await evil.close()
        victim.kill()  # opens the gate: what was sent before the end is read, and the end found

    fight(attack)


def test_exits_and_monitors_end_with_the_connection() -> None:
    """Links and monitors by the thousand across a connection that is cut."""

    async def attack(both: Arena) -> None:
        async def traps(me: Process) -> None:
            me.trap_exit = True
            while True:
                await me.receive()

        target = both.node.spawn(traps)
        evil = await enter(both.node)
        for n in range(2000):
            evil.send(evil.frame((c.LINK, Pid(EVIL, n, 0, 9), target.pid)))
            evil.send(evil.frame((c.MONITOR_P, Pid(EVIL, n, 0, 9), target.pid, evil.ref(n))))
        await until(lambda: len(target.links) == 2000 and len(target.watchers) == 2000)
        await evil.close()
        await until(lambda: len(target.links) == 0 and not target.watchers)
        target.kill()

    fight(attack)


def test_many_connections_that_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Half-open and slow ones: the good node can still be reached by a new one."""

    async def attack(both: Arena) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", both.node.port) for _ in range(200)]
        for _, writer in idle[::2]:
            writer.write(b"\x00")
        evil = await enter(both.node)  # an honest handshake among them
        evil.send(evil.frame((c.REG_SEND, evil.me, NONE, Atom("collect")), 1))
        await evil.close()
        for _, writer in idle:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    fight(attack, setup_time=5.0, max_handshakes=64)
    assert len(complaints(caplog)) < 20


def test_a_name_that_is_connected_can_not_be_taken_without_the_cookie() -> None:
    async def attack(both: Arena) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", both.node.port)
        handshake = Handshake(
            both.good.name, peer_name=both.node.name, flags=our_flags(), creation=9, cookie=lambda peer: "guess",
            challenge=1, now=0.0,
        )  # fmt: skip
        with suppress(Exception):
            while True:
                writer.write(handshake.data_to_send())
                while (event := handshake.next_event()) is not None:
                    if type(event).__name__ == "AliveAsked":
                        handshake.answer_alive(True)
                        writer.write(handshake.data_to_send())
                if not (data := await reader.read(4096)):
                    break
                handshake.receive_data(data, 0.0)
        writer.close()

    fight(attack)
