"""A node without a name of its own, named by the BEAM that it connects to."""

from __future__ import annotations

import asyncio

import pytest
from beamkit.beam import Beam

from node import Atom, Node

pytestmark = pytest.mark.usefixtures("python_only")


def test_named_by_a_beam(beam: Beam, cookie: str) -> None:
    async def main() -> None:
        options = {"listen": None, "named_by": beam.name, "epmd_port": beam.epmd_port}
        async with Node("127.0.0.1", cookie, **options) as one, Node("127.0.0.1", cookie, **options) as other:  # type: ignore[arg-type]
            assert one.name != other.name and one.name.endswith("@127.0.0.1")
            seen = await one.rpc(beam.name, "erlang", "nodes", [Atom("hidden")])
            assert {Atom(one.name), Atom(other.name)} <= set(seen)
            async with one.process() as me:
                await one.rpc(beam.name, "erlang", "send", [me.pid, [1, 2]])
                assert await me.receive(timeout=20) == [1, 2]

    asyncio.run(main())
