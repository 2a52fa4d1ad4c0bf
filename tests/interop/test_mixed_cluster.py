"""The whole picture (docs/cluster.md): all that should reach each other do, by name and by pid, in both formats.

    the cluster: OTP 25, OTP 28, Elixir, and the Python nodes `east` (domain 1) and `west` (domain 2)
    straws only: `lone` (domain 3, Python in no cluster) and `bare` (domain 4, a BEAM without distribution)

Each member is a gen_server `member` that is told whom to reach and does so in its own language.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from beamkit.beam import Beam, unique
from beamkit.runtimes import HERE, find_runtime, need
from beamkit.strawpeer import build_app

from node import Atom, GenServer, Node, NoReply, Process

pytestmark = pytest.mark.usefixtures("python_only")

COOKIE = "interop-cookie"
DOMIDS = {"east": 1, "west": 2, "lone": 3, "bare": 4}
CLUSTER = ["otp25", "otp28", "elixir", "east", "west"]
EVERYBODY = [*CLUSTER, "lone", "bare"]
WHO, PID, NOTE, NOTED, REACH, TELL, TOLD, JSON = map(
    Atom, ["who", "pid", "note", "noted", "reach", "tell", "told", "json"]
)
STRAW, PROXY, STRAWMAN, ENVELOPE, MEMBER, NODE = map(Atom, ["straw", "proxy", "strawman", "envelope", "member", "node"])


class Member(GenServer):
    """mixed_member.erl in Python."""

    def init(self, label: bytes) -> None:
        self._label = label
        self._told: list[Any] = []

    async def handle_call(self, request: Any, caller: Any) -> Any:
        match request:
            case Atom("who"):
                return self._label
            case Atom("pid"):
                return self.pid
            case Atom("told"):
                told, self._told = self._told, []
                return told
            case (Atom("tell"), (Atom("straw"), gateway, domid, name), message):
                self.send(_strawman(gateway), (ENVELOPE, (domid, Atom(name.decode())), message))
                return Atom("ok")
            case (Atom("reach"), route):
                self.node.spawn(self._reach, route, caller)
                return NoReply()
        raise ValueError(request)

    async def handle_info(self, message: Any) -> None:
        match message:
            case (Atom("note"), pid, ref):
                self.send(pid, (NOTED, self._label, ref))
            case _:
                self._told.append(message)

    async def _reach(self, me: Process, route: Any, caller: Any) -> None:
        name: Any
        if route[0] is NODE:
            name = (MEMBER, Atom(route[1].decode()))
        else:
            _, gateway, domid, text = route
            ok, name = await me.call(_strawman(gateway), (PROXY, domid, Atom(text.decode())))
            assert ok is Atom("ok"), name
        pid = await me.call(name, PID)
        me.send(pid, (NOTE, me.pid, 5))
        noted = await me.receive(lambda message: type(message) is tuple and message[0] is NOTED, timeout=30)
        assert noted[2] == 5
        self.reply(caller, [await me.call(name, WHO), await me.call(pid, WHO), noted[1]])


def _strawman(gateway: bytes) -> Any:
    return (STRAWMAN, Atom(gateway.decode())) if gateway else STRAWMAN


class Picture:
    """All seven, up and told about each other."""

    def __init__(self, nodes: dict[str, Node], beams: dict[str, Beam]) -> None:
        self.nodes = nodes
        self.names = {who: beam.name for who, beam in beams.items()} | {who: nodes[who].name for who in nodes}

    def route(self, who: str, whom: str, gateway: str = "east") -> Any:
        """How one addresses the other: by node in the cluster, else over a straw, of a gateway's if it has none."""
        if who in CLUSTER and whom in CLUSTER:
            return (NODE, self.names[whom].encode())
        if who in CLUSTER:
            own = who in DOMIDS
            return (STRAW, b"" if own else self.names[gateway].encode(), DOMIDS[whom], b"member")
        if whom in DOMIDS:
            return (STRAW, b"", DOMIDS[whom], b"member")
        return (STRAW, b"", DOMIDS[gateway], f"member_{whom}".encode())

    async def of(self, who: str) -> Any:
        """The member's address, for us at `east`."""
        if who in CLUSTER:
            return (MEMBER, Atom(self.names[who]))
        return await self.nodes["east"].strawman.proxy(DOMIDS[who], "member")

    async def ask(self, who: str, request: Any) -> Any:
        return await self.nodes["east"].call(await self.of(who), request, timeout=30)


@contextlib.asynccontextmanager
async def everybody(start_beam: Callable[..., Beam], rundir: str) -> AsyncIterator[Picture]:
    beams = {
        "otp25": start_beam("otp25"),
        "otp28": start_beam("otp28"),
        "elixir": start_beam(find_runtime("otp25"), unique("ex"), elixir=need("elixir", "elixir")),
        "bare": start_beam("otp28", name=None, paths=[build_app()]),
    }
    for who in ("otp25", "otp28"):
        assert beams[who].eval(f'mixed_member:start(<<"{who}">>)') == "ok"
    beams["elixir"].elixir(f'Code.require_file("{HERE}/elixir/member.exs"); MixedMember.start("elixir")')
    assert beams["bare"].eval(f'mixed_member:domain("{rundir}", 4, <<"bare">>)') == "4"
    # A BEAM makes no atom of what a straw brings: the names it will be told are known before.
    beams["bare"].eval("[" + ",".join(f"member_{who}" for who in CLUSTER) + "]")
    options: dict[str, Any] = {"pores": rundir}
    nodes = {
        "east": Node(unique("east"), COOKIE, domid=1, **options),
        "west": Node(unique("west"), COOKIE, domid=2, **options),
        "lone": Node(unique("lone"), "of no cluster", listen=None, domid=3, **options),
    }
    for who, node in nodes.items():
        node.register("member", Member, who.encode(), straw=True)
        if who != "lone":
            for other in ("otp25", "otp28", "elixir"):
                node.strawman.export(f"member_{other}", to=("member", beams[other].name))
    async with asyncio.timeout(55), nodes["east"], nodes["west"], nodes["lone"]:
        yield Picture(nodes, {who: beam for who, beam in beams.items() if who != "bare"})


@pytest.mark.usefixtures("epmd_env", "host")
def test_everybody_reaches_everybody(start_beam: Callable[..., Beam], rundir: str) -> None:
    """Forty-two ordered pairs, each its own way; those behind a gateway also through the other one."""

    async def test() -> None:
        async with everybody(start_beam, rundir) as picture:
            for who in EVERYBODY:
                for whom in EVERYBODY:
                    if who == whom:
                        continue
                    routes = {picture.route(who, whom, gateway) for gateway in ("east", "west")}
                    for route in routes:
                        answer = await picture.ask(who, (REACH, route))
                        assert answer == [whom.encode()] * 3, f"{who} to {whom} by {route}"
            # Nobody's tables keep what is over.
            for who in ("east", "west", "lone"):
                strawman = picture.nodes[who].strawman
                for domid in strawman.domains:
                    assert strawman.tables(domid).refs == 0

    asyncio.run(test())


@pytest.mark.usefixtures("epmd_env", "host")
def test_in_json_too(start_beam: Callable[..., Beam], rundir: str) -> None:
    """By registered name, which is all that JSON can address: between domains, and those behind a gateway."""

    async def test() -> None:
        async with everybody(start_beam, rundir) as picture:
            lone = picture.nodes["lone"].strawman
            await lone.open(DOMIDS["east"], format="json")
            await lone.open(DOMIDS["west"], format="json")
            await lone.open(DOMIDS["bare"], format="json")
            await picture.nodes["east"].strawman.open(DOMIDS["bare"], format="json")
            west = picture.nodes["west"]  # its straw to `bare` is not: by that one the test asks

            async def ask(who: str, request: Any) -> Any:
                if who == "lone":
                    return await picture.nodes["lone"].call("member", request)
                to = await west.strawman.proxy(DOMIDS[who], "member") if who == "bare" else await picture.of(who)
                return await west.call(to, request, timeout=30)

            pairs = 0
            for who in EVERYBODY:
                for whom in EVERYBODY:
                    pair = {who, whom}
                    if who == whom or not ("lone" in pair or ("bare" in pair and "west" not in pair)):
                        continue  # no json straw between them
                    message = [who.encode(), 1]
                    assert await ask(who, (TELL, picture.route(who, whom), message)) is Atom("ok")
                    told: list[Any] = []
                    while not told:
                        told = await ask(whom, TOLD)
                    assert told == [(JSON, message)], f"{who} to {whom}"
                    pairs += 1
            assert pairs == 12 + 8

    asyncio.run(test())
