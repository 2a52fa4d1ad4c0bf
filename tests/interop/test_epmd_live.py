"""epmd with real peers: our server under BEAMs and Debian's epmd program, our client under Debian's epmd."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import waiting
from beamkit.beam import Beam, unique
from beamkit.runtimes import Runtime, clean_env, need
from waiting import run

from node.net import epmd_client
from node.net.epmd import HIDDEN, VISIBLE, EpmdClient, EpmdServer, EpmdUnreachable, NameTaken, ensure_epmd, probe

StartBeam = Callable[..., Beam]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """An epmd that is not there yet, or not any more, is no failure."""

    async def is_so() -> bool:
        with contextlib.suppress(EpmdUnreachable):
            return await condition()
        return False

    await waiting.until(is_so)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epmd_client, "RECONNECT_TIME", 0.1)
    monkeypatch.delenv("ERL_EPMD_PORT", raising=False)
    monkeypatch.delenv("ERL_EPMD_ADDRESS", raising=False)


class RealEpmd:
    """Debian's epmd on a port of its own, ended by its process."""

    def __init__(self, port: int) -> None:
        self.program = need("epmd", "erlang-base")
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.process = subprocess.Popen(
            [self.program, "-port", str(self.port), "-address", "127.0.0.1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_env(),
        )  # fmt: skip
        client = EpmdClient(port=self.port)

        async def answers() -> bool:
            assert self.process is not None and self.process.poll() is None
            return await probe(client) == "other"

        await until(answers)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def real(free_port: int) -> Iterator[RealEpmd]:
    epmd = RealEpmd(free_port)
    yield epmd
    epmd.kill()


async def epmd_says(port: int, *args: str) -> str:
    """What Debian's `epmd` prints as a client of the epmd on that port."""
    program = need("epmd", "erlang-base")
    process = await asyncio.create_subprocess_exec(
        program, "-port", str(port), *args, env=clean_env(),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return out.decode()


async def beam_at(start_beam: StartBeam, *args: Any, **options: Any) -> Beam:
    """Start a BEAM in a thread: the epmd it registers with runs on this loop."""
    return await asyncio.to_thread(start_beam, *args, **options)


# ---- our server -----------------------------------------------------------------------------------------------


def test_a_beam_registers_with_our_server(runtime: Runtime, start_beam: StartBeam, tmp_path: Path) -> None:
    async def test() -> None:
        server = EpmdServer()
        port = await server.start(port=0)
        client = EpmdClient(port=port)
        ours = await client.register("ours", 4242)
        beam = await beam_at(start_beam, runtime, epmd_port=port)
        short = beam.name.split("@")[0]

        info = await client.lookup(short)
        assert info is not None
        assert (info.node_type, info.protocol, info.highest) == (VISIBLE, 0, 6)
        assert sorted(await client.names()) == sorted([("ours", 4242), (short, info.port)])
        socket.create_connection(("127.0.0.1", info.port)).close()  # it does listen there

        names = await beam.ask('{ok, Names} = net_adm:names("127.0.0.1"), lists:sort(Names)')
        assert re.sub(r"\s", "", names) == f'[{{"{short}",{info.port}}},{{"ours",4242}}]'
        assert await beam.ask('erl_epmd:port_please("ours", {127,0,0,1})') == "{port,4242,6}"
        assert await beam.ask('erl_epmd:port_please("nobody", {127,0,0,1})') == "noport"

        hidden = await beam_at(start_beam, runtime, epmd_port=port, args=["-hidden"])
        info = await client.lookup(hidden.name.split("@")[0])
        assert info is not None  # OTP's -hidden is about the handshake: epmd is told 'M' all the same
        assert info.node_type == VISIBLE

        # a name is free as soon as its BEAM is gone, and another may have it
        beam.kill()

        async def gone() -> bool:
            return await client.lookup(short) is None

        await until(gone)
        await asyncio.to_thread(beam.start)
        assert await client.lookup(short) is not None
        await ours.close()
        await server.close()

    run(test)


def test_a_second_beam_of_the_same_name_is_refused(runtime: Runtime, start_beam: StartBeam, tmp_path: Path) -> None:
    async def test() -> None:
        server = EpmdServer()
        port = await server.start(port=0)
        name = unique("twice")
        registration = await EpmdClient(port=port).register(name.split("@")[0], 4242)
        process = await asyncio.create_subprocess_exec(
            runtime.erl, "-noshell", "-noinput", "-name", name, "-setcookie", "c", "-start_epmd", "false",
            "-eval", "halt(0)",
            env=clean_env(**runtime.env, HOME=str(tmp_path), ERL_EPMD_PORT=str(port), ERL_CRASH_DUMP_SECONDS="0"),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path,
        )  # fmt: skip
        out, _ = await process.communicate()
        assert process.returncode != 0
        assert "seems to be in use by another Erlang node" in out.decode()
        await registration.close()
        await server.close()

    run(test)


def test_a_beam_registers_again_with_a_server_that_came_back(runtime: Runtime, start_beam: StartBeam) -> None:
    async def test() -> None:
        server = EpmdServer()
        port = await server.start(port=0)
        beam = await beam_at(start_beam, runtime, epmd_port=port)
        short = beam.name.split("@")[0]
        await server.close()
        again = EpmdServer()
        await again.start(port=port)
        client = EpmdClient(port=port)

        async def there() -> bool:
            return await client.lookup(short) is not None

        await until(there)
        await again.close()

    run(test)


def test_the_epmd_program_as_a_client() -> None:
    async def test() -> None:
        server = EpmdServer()
        port = await server.start(port=0)
        one = await EpmdClient(port=port).register("one", 4242)
        two = await EpmdClient(port=port).register("bücher", 65535)
        assert await epmd_says(port, "-names") == (
            f"epmd: up and running on port {port} with data:\nname bücher at port 65535\nname one at port 4242\n"
        )
        assert "Killing not allowed" in await epmd_says(port, "-kill")
        await epmd_says(port, "-stop", "one")
        assert [name for name, _ in await EpmdClient(port=port).names()] == ["bücher", "one"]
        assert one.registered and two.registered
        await one.close()
        await two.close()
        await server.close()

    run(test)


# ---- our client -----------------------------------------------------------------------------------------------


def test_our_client_with_real_epmd(real: RealEpmd) -> None:
    async def test() -> None:
        await real.start()
        client = EpmdClient(port=real.port)
        registration = await client.register("py", 4242, hidden=True, lowest=5, extra=b"more")
        info = await client.lookup("py")
        assert info == registration.info
        assert info is not None and info.node_type == HIDDEN
        assert registration.creation > 0
        assert await client.lookup("nobody") is None
        assert await client.names() == [("py", 4242)]
        assert not await client.is_embedded()
        assert "name py at port 4242" in await epmd_says(real.port, "-names")
        with pytest.raises(NameTaken, match="py"):
            await client.register("py", 1)
        other = await client.register("\U0001f40dö", 1, hidden=False)
        assert await client.lookup("\U0001f40dö") == other.info
        keeper = await ensure_epmd(client)
        assert keeper.server is None
        await registration.close()

        async def gone() -> bool:
            return await client.lookup("py") is None

        await until(gone)
        await other.close()
        await keeper.close()

    run(test)


def test_registered_again_when_real_epmd_comes_back(real: RealEpmd) -> None:
    async def test() -> None:
        await real.start()
        client = EpmdClient(port=real.port)
        keeper = await ensure_epmd(client, delay=lambda: 0.0)
        registration = await client.register("py", 4242)
        for _ in range(2):
            real.kill()
            while registration.registered:
                await asyncio.sleep(0.01)
            assert keeper.server is None  # the port is for whoever runs the real one
            await real.start()
            await registration.wait_registered()
            assert await client.names() == [("py", 4242)]
        assert keeper.server is None
        await registration.close()
        await keeper.close()

    run(test)


def test_a_beam_finds_a_name_after_a_take_over(runtime: Runtime, start_beam: StartBeam, free_port: int) -> None:
    """The node whose epmd it was ends: another takes the port, and the BEAM and we are all there again."""

    async def test() -> None:
        first, second = EpmdClient(port=free_port), EpmdClient(port=free_port)
        keepers = [await ensure_epmd(client, delay=lambda: 0.0) for client in (first, second)]
        ones = await first.register("one", 1111)
        twos = await second.register("two", 2222)
        beam = await beam_at(start_beam, runtime, epmd_port=free_port)
        short = beam.name.split("@")[0]
        assert keepers[0].server is not None
        await ones.close()
        await keepers[0].close()

        async def all_there() -> bool:
            return {name for name, _ in await second.names()} == {"two", short}

        await until(all_there)
        assert keepers[1].server is not None
        assert await beam.ask('erl_epmd:port_please("two", {127,0,0,1})') == "{port,2222,6}"
        await twos.close()
        await keepers[1].close()

    run(test)
