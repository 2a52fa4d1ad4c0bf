"""A BEAM in the cluster and one without distribution, a domain of its own; the gateway between them is Python's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from beamkit.beam import Beam, unique
from waiting import LONG, until

from node import Atom, Node, etf
from node.strawman import Counted

pytestmark = pytest.mark.usefixtures("python_only", "host")


@pytest.mark.parametrize(("inner", "outer"), [("otp25", "otp28"), ("otp28", "otp25")])
def test_calls_by_name_and_by_pid(
    start_beam: Callable[..., Beam],
    app: Path,
    local_beams: Path,
    rundir: str,
    cookie: str,
    epmd_env: int,
    inner: str,
    outer: str,
) -> None:
    async def main() -> None:
        beam, far = start_beam(inner), start_beam(outer, name=None, paths=[app, local_beams])
        gate = Node(unique("gate"), cookie, pores=rundir, domid=6, epmd_port=epmd_env)
        async with asyncio.timeout(LONG), gate:
            assert await far.ask(f'strawman_probe:start("{rundir}", 7, [])') == "7"
            assert await far.ask("gateway_server:start(server), strawman:export(server)") == "ok"
            await beam.ask("is_pid(gateway_server:start(server))")
            gate.strawman.export("server", to=("server", beam.name))
            # From the cluster to the domain.
            name = await gate.strawman.proxy(7, "server")
            source = f"binary_to_term(<<{','.join(map(str, etf.encode(name)))}>>)"
            there = """
                Name = @, Q = gen_server:call(Name, self), Mine = whereis(server),
                [{double, _} = gen_server:call(P, {double, N}) || P <- [Name, Q], N <- lists:seq(1, 200)],
                {gen_server:call(Name, {ask, Mine, {double, 8}}), node(Q)}
                """.replace("@", source)
            assert await beam.ask(there) == f"{{{{double,16}},'{gate.name}'}}"
            # From the domain to the cluster; what goes there comes back as it was.
            back = """
                {ok, P} = strawman:proxy(6, server), S = gen_server:call(P, self),
                T = {self(), S, [make_ref(), <<5:3>>, 1.5], #{whereis(server) => x}},
                T = gen_server:call(S, {echo, T}),
                [{double, _} = gen_server:call(S, {double, N}) || N <- lists:seq(1, 200)],
                gen_server:call(P, {ask, whereis(server), {double, 21}})
                """
            assert await far.ask(back) == "{double,42}"
            await until(lambda: gate.strawman.tables(7).refs == 0 and gate.strawman.tables(7).pids == 1)
            # It is killed: who links, monitors or calls learns of it.
            await beam.ask(f"register(holder, gateway_server:hold(gen_server:call({source}, self)))")
            far.kill()
            assert await beam.ask("gateway_server:ends(holder)") == (
                f"[noconnection,noconnection,{{nodedown,'{gate.name}'}}]"
            )
            await until(lambda: gate.strawman.tables(7) == Counted(0, 0, 0, 0))
            assert (gate.strawman.counts.forged, gate.strawman.counts.malformed) == (0, 0)
        assert Atom("server") in gate.strawman.exports.names()

    asyncio.run(main())
