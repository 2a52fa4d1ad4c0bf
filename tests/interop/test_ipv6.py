"""A cluster on IPv6 loopback: BEAMs with -proto_dist inet6_tcp, the embedded epmd, two Python nodes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
from beamkit.beam import Beam, unique
from beamkit.runtimes import Runtime

from node import Atom, Node

pytestmark = pytest.mark.usefixtures("python_only")


@pytest.fixture
def ipv6() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError as error:
        pytest.skip(f"no IPv6 loopback on this machine: {error}")


def name6(prefix: str) -> str:
    return unique(prefix).partition("@")[0] + "@::1"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def test_beam_and_python(ipv6: None, runtime: Runtime, _starter: Callable[..., Beam], cookie: str) -> None:  # noqa: PT019
    async def main() -> None:
        port = free_port()
        name = name6("py6_")
        async with Node(name, cookie, listen="::1", epmd_port=port) as node:
            node.register("double", lambda number: number * 2, inline=True)
            beam = await asyncio.to_thread(
                _starter,
                runtime,
                name6("b6_"),
                epmd_port=port,
                args=["-proto_dist", "inet6_tcp"],
                interface="{0,0,0,0,0,0,0,1}",
                env={"ERL_EPMD_ADDRESS": "::1"},
            )
            try:
                assert await beam.ask(f"net_adm:ping('{name}')") == "pong"
                assert await beam.ask(f"gen_server:call({{double, '{name}'}}, 21)") == "42"
                assert node.nodes() == [beam.name]
                assert await node.rpc(beam.name, "erlang", "node") is Atom(beam.name)
                node.disconnect(beam.name)
                assert await node.ping(beam.name)
            finally:
                await asyncio.to_thread(beam.close)

    asyncio.run(main())


def test_two_python_nodes(ipv6: None, cookie: str) -> None:
    async def main() -> None:
        port = free_port()
        one, two = (Node(name6("py6_"), cookie, listen="::1", epmd_port=port) for _ in range(2))
        async with one, two:
            assert await one.ping(two.name)
            assert two.nodes() == [one.name]

    asyncio.run(main())
