"""What straws and tubes have to do between domains: one list, run on a booted Xen and on the local host alike.

A scenario is a coroutine that takes a platform (control.py) and asserts. It may start the agents of the domains it uses
and stops them; the next one finds them as it did. `only`: a platform that alone has what the scenario needs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from control import Domain, Platform

__all__ = ["SCENARIOS", "Scenario"]

WIDE = -1
LING = 0


@dataclass(frozen=True)
class Scenario:
    name: str
    run: Callable[[Platform], Awaitable[None]]
    only: str = ""
    beam: bool = False
    """Needs Erlang, and the application in erl/."""


SCENARIOS: list[Scenario] = []


def scenario(
    only: str = "",
    beam: bool = False,
) -> Callable[[Callable[[Platform], Awaitable[None]]], Callable[[Platform], Awaitable[None]]]:
    def add(run: Callable[[Platform], Awaitable[None]]) -> Callable[[Platform], Awaitable[None]]:
        SCENARIOS.append(Scenario(run.__name__, run, only, beam))
        return run

    return add


# ── what scenarios are made of ──


@contextlib.asynccontextmanager
async def started(*domains: Domain, ring: int = WIDE, tubes: bool = False) -> AsyncIterator[None]:
    """The domains' membranes; at the end nothing is left of their pores."""
    for domain in domains:
        await domain.do("start", ring_bytes=ring, tubes=tubes)
    try:
        yield
    except BaseException:
        for domain in domains:
            with contextlib.suppress(Exception):
                await domain.do("stop")
        raise
    for domain in domains:
        held = await domain.do("stop")
        assert set(held.values()) == {0}, held
        status = await domain.do("status")
        assert status["mapped"] == 0 and not status["keys"], status


async def transfer(source: Domain, sink: Domain, seed: int, count: int, limit: int, kind: str = "straw") -> None:
    """So many frames from one to the other: what arrives is what was sent."""
    what: dict[str, Any] = {"seed": seed, "count": count, "limit": limit, "kind": kind}
    receiving = await sink.ask("receive", peer=source.domid, **what)
    sent = await source.do("send", peer=sink.domid, **what)
    received = await sink.answer(receiving)
    assert sent == received and "error" not in sent, (sent, received)


async def both_ways(one: Domain, other: Domain, seed: int, count: int, limit: int, kind: str = "straw") -> None:
    """Frames in both directions at once."""
    await asyncio.gather(
        transfer(one, other, seed, count, limit, kind), transfer(other, one, seed + 1, count, limit, kind)
    )


async def opened(opener: Domain, acceptor: Domain, kind: str = "straw") -> Any:
    """A pore from one to the other; what they agreed upon."""
    result = await opener.do("open", peer=acceptor.domid, kind=kind)
    assert "error" not in result, result
    return result


async def closed(closer: Domain, other: Domain, kind: str = "straw") -> None:
    assert await closer.do("close", peer=other.domid, kind=kind) == "closed"
    assert await other.do("ended", peer=closer.domid) == "peer_closed"


# ── both are well ──


@scenario()
async def opened_from_outside(on: Platform) -> None:
    """A program in dom0 opens to a domU, both talk, dom0 closes."""
    outside, inside = await on.outside(), await on.inside("one")
    async with started(outside, inside):
        assert (await opened(outside, inside))["ring"] > 0
        await both_ways(outside, inside, 1, 60, 20_000)
        await closed(outside, inside)


@scenario()
async def opened_from_inside(on: Platform) -> None:
    """A domU opens to a program in dom0, both talk, the domU closes."""
    outside, inside = await on.outside(), await on.inside("one")
    async with started(outside, inside):
        await opened(inside, outside)
        await both_ways(outside, inside, 3, 60, 20_000)
        await closed(inside, outside)


@scenario()
async def closed_by_the_other(on: Platform) -> None:
    """Who was knocked upon closes; both directions of opening, one after the other."""
    outside, inside = await on.outside(), await on.inside("one")
    async with started(outside, inside):
        for opener, acceptor in ((outside, inside), (inside, outside)):
            await opened(opener, acceptor)
            await transfer(opener, acceptor, 5, 5, 1000)
            await closed(acceptor, opener)


@scenario()
async def between_two_guests(on: Platform) -> None:
    """Two domUs, without dom0."""
    one, two = await on.inside("one"), await on.inside("two")
    async with started(one, two):
        for opener, acceptor in ((one, two), (two, one)):
            await opened(opener, acceptor)
            await both_ways(one, two, 7, 40, 20_000)
            await closed(opener, acceptor)


@scenario()
async def larger_than_the_ring(on: Platform) -> None:
    """Frames of up to 700 KB through 256 KiB each way."""
    outside, inside = await on.outside(), await on.inside("one")
    async with started(outside, inside):
        await opened(outside, inside)
        await both_ways(outside, inside, 9, 8, 700_000)
        await closed(outside, inside)


@scenario()
async def as_lings_do(on: Platform) -> None:
    """LING's eight pages, frames larger than its ring, both directions of opening."""
    outside, inside = await on.outside(), await on.inside("one")
    async with started(outside, inside, ring=LING):
        for opener, acceptor in ((outside, inside), (inside, outside)):
            assert (await opened(opener, acceptor))["ring"] == 0
            await both_ways(outside, inside, 11, 10, 60_000)
            await closed(opener, acceptor)


@scenario()
async def many_open_and_close(on: Platform) -> None:
    """Six straws one after the other: nothing is used up."""
    outside, inside = await on.outside(), await on.inside("one")
    async with started(outside, inside):
        counts = []
        for turn in range(6):
            await opened(*((outside, inside) if turn % 2 else (inside, outside)))
            await closed(outside, inside)
            quiet = [await domain.do("quiet") for domain in (outside, inside)]
            counts.append([(status["fds"], status["watches"], status["mapped"]) for status in quiet])
        assert counts[-1] == counts[1], counts


@scenario()
async def a_tube(on: Platform) -> None:
    """Packets of up to 4096 bytes, an event channel each way."""
    outside, inside = await on.outside(), await on.inside("one")
    async with started(outside, inside, tubes=True):
        await opened(outside, inside, "tube")
        await both_ways(outside, inside, 13, 60, 4096, "tube")
        await closed(outside, inside, "tube")


@scenario()
async def a_busy_straw_and_an_idle_one(on: Platform) -> None:
    """Three domains, two straws each: the one does not hold up the other."""
    outside, one, two = await on.outside(), await on.inside("one"), await on.inside("two")
    async with started(outside, one, two):
        await opened(outside, one)
        await opened(two, outside)
        await opened(one, two)
        await asyncio.gather(both_ways(outside, one, 15, 30, 100_000), transfer(two, outside, 17, 20, 100))
        await transfer(one, two, 18, 20, 5000)


@scenario()
async def never_to_itself(on: Platform) -> None:
    """No domain grants anything to itself."""
    outside, inside = await on.outside(), await on.inside("one")
    async with started(outside, inside):
        for domain in (outside, inside):
            assert await domain.do("open", peer=domain.domid) == {"error": "self"}
            assert "error" in await domain.do("grant_to", peer=domain.domid)
            assert await domain.do("grant_to", peer=(inside if domain is outside else outside).domid) == {}


# ── one of them is not ──


async def cut(on: Platform, source: Domain, sink: Domain, harm: Callable[[Domain], Awaitable[None]]) -> None:
    """The sink is harmed while much is under way to it; the source finds out, and has nothing left of it."""
    what: dict[str, Any] = {"seed": 19, "count": 100_000, "limit": 30_000}
    sending = await source.ask("send", peer=sink.domid, **what)
    await sink.ask("receive", peer=source.domid, **what)
    status = await source.do("status")
    assert status["pores"] == 1, status
    await harm(sink)
    sent = await source.answer(sending)
    assert sent.get("error") in ("peer_gone", "peer_closed"), sent
    assert await source.do("ended", peer=sink.domid) == sent["error"]
    quiet = await source.do("quiet")
    assert set(quiet["held"].values()) == {0} and not quiet["mapped"], quiet


@scenario()
async def the_acceptors_program_dies(on: Platform) -> None:
    """SIGKILL of who granted the memory, in mid-transfer; its successor gets a new straw."""
    outside, inside = await on.outside(), await on.inside("one")
    async with started(outside):
        await inside.do("start")
        await opened(outside, inside)
        await cut(on, outside, inside, on.crash)
        inside = await on.inside("one")
        async with started(inside):
            await opened(outside, inside)
            await both_ways(outside, inside, 21, 10, 5000)
            await closed(outside, inside)


@scenario()
async def the_openers_program_dies(on: Platform) -> None:
    """SIGKILL of who had mapped the memory, in mid-transfer; its successor gets a new straw."""
    outside, inside = await on.outside(), await on.inside("one")
    async with started(outside):
        await inside.do("start")
        await opened(inside, outside)
        await cut(on, outside, inside, on.crash)
        inside = await on.inside("one")
        async with started(inside):
            await opened(inside, outside)
            await both_ways(outside, inside, 23, 10, 5000)
            await closed(outside, inside)


@scenario()
async def a_program_dies_on_lings_pages(on: Platform) -> None:
    """LING's layout has no byte that could say so: at the latest the successor's start does."""
    outside = await on.outside()
    async with started(outside, ring=LING):
        for inside_opens in (True, False):
            inside = await on.inside("one")
            await inside.do("start", ring_bytes=LING)
            await opened(*((inside, outside) if inside_opens else (outside, inside)))
            await on.crash(inside)
            successor = await on.inside("one")
            async with started(successor, ring=LING):
                assert await outside.do("ended", peer=inside.domid) in ("peer_gone", "peer_closed")
                assert set((await outside.do("quiet"))["held"].values()) == {0}
                await opened(successor, outside)
                await both_ways(outside, successor, 33, 5, 5000)
                await closed(outside, successor)


@scenario()
async def the_guest_is_paused(on: Platform) -> None:
    """Nothing is lost by a pause in mid-transfer."""
    outside, inside = await on.outside(), await on.inside("one")
    async with started(outside, inside):
        await opened(outside, inside)
        what: dict[str, Any] = {"seed": 25, "count": 300, "limit": 20_000}
        receiving = await inside.ask("receive", peer=outside.domid, **what)
        sending = await outside.ask("send", peer=inside.domid, **what)
        await on.pause(inside)
        status = await outside.do("status")  # who waits for it is not stopped itself
        assert status["pores"] == 1
        await on.resume(inside)
        sent, received = await outside.answer(sending), await inside.answer(receiving)
        assert sent == received and "error" not in sent, (sent, received)
        await closed(inside, outside)


@scenario()
async def noise_in_the_ring(on: Platform) -> None:
    """A guest scribbles over the memory it shares with us: that straw ends as corrupt, and nothing else does."""
    outside, one, two = await on.outside(), await on.inside("one"), await on.inside("two")
    async with started(outside, one, two):
        await opened(outside, two)
        for seed in range(2):
            for ring in (outside, one):
                await opened(ring, one if ring is outside else outside)
                areas = await one.do("scribble", peer=outside.domid, seed=seed)
                assert areas == 1, areas
                reason = await outside.do("ended", peer=one.domid)
                assert reason in ("corrupt", "peer_closed", "peer_gone"), reason
                await one.do("ended", peer=outside.domid)
                await one.do("quiet")
        await both_ways(outside, two, 27, 20, 5000)
        await closed(outside, two)


@scenario()
async def noise_in_the_store(on: Platform) -> None:
    """A guest writes nonsense where the handshake is: it is not believed, nobody dies, an honest knock is heard."""
    outside, one = await on.outside(), await on.inside("one")
    async with started(outside, one):
        theirs = f"/local/domain/{outside.domid}/data/straw/{one.domid}"
        own = f"data/straw/{outside.domid}"
        for path, value in (
            (f"{own}/warts", "/local/domain/0/../1"),
            (f"{own}/state", "99999999999999999999"),
            (f"{own}/ring-ref-1", "x"),
            ("data/straw/0x1/warts", "?"),
            ("data/straw/32751/warts", "/local/domain/32751/data/warts/1"),
            (f"data/warts/{outside.domid}/state", "6"),
            (f"data/warts/{outside.domid}/straw", theirs),
        ):
            await one.do("write", path=path, value=value)
        for path, value in ((f"{theirs}/warts", "nonsense"), (f"{theirs}/state", "3")):
            await one.do("write", path=path, value=value)
        await one.do("delete", path=theirs)
        for path in (own, "data/straw/0x1", "data/straw/32751", f"data/warts/{outside.domid}"):
            await one.do("delete", path=path)
        await outside.do("quiet")
        await opened(outside, one)
        await both_ways(outside, one, 29, 10, 5000)
        # And while it is up: the states of both, from the one side.
        await one.do("write", path=f"{own}/state", value="1")
        assert await outside.do("ended", peer=one.domid) in ("peer_closed", "peer_gone")


@scenario()
async def the_guest_is_destroyed(on: Platform) -> None:
    """The whole domain goes in mid-transfer, whether it granted the memory or had mapped it."""
    outside = await on.outside()
    async with started(outside):
        for opens in (True, False):
            guest = await on.inside("two")
            await guest.do("start")
            await opened(*((guest, outside) if opens else (outside, guest)))
            await cut(on, outside, guest, on.destroy)


@scenario()
async def a_guest_loses_its_guest(on: Platform) -> None:
    """A domU sees that another one was destroyed, in mid-transfer."""
    one = await on.inside("one")
    async with started(one):
        two = await on.inside("two")
        await two.do("start")
        await opened(one, two)
        await cut(on, one, two, on.destroy)


# ── nodes and BEAMs ──

PYTHON_TALK = ("PYTHON", "TALK.py")
BEAM_TALK = ("escript", "TALK.escript", "EBIN")


@contextlib.asynccontextmanager
async def program(domain: Domain, *command: str, uid: int = -1, patience: float = 0) -> AsyncIterator[None]:
    """A program in a domain, beside its agent. patience: it is to end by itself, and gets so many seconds."""
    await domain.do("begin", name=command[1], command=command, uid=uid)
    try:
        yield
    except BaseException as error:
        error.add_note(f"{command}: {await domain.do('finish', name=command[1])}")
        raise
    ended = await domain.do("finish", name=command[1], patience=patience)
    assert not patience or ended["status"] == 0, ended


async def said(domain: Domain, command: tuple[str, ...], pattern: str) -> str:
    found: str = await domain.do("said", name=command[1], pattern=pattern)
    return found


async def ask(domain: Domain, command: tuple[str, ...], peer: str) -> None:
    """A program asks a domain's `echo`, and has all its answers."""
    async with program(domain, *command, "ask", peer, patience=30):
        assert await said(domain, command, r"^answered (\d+)$") == "6"


@scenario()
async def nodes_talk(on: Platform) -> None:
    """Envelopes between processes of Python nodes, opened from either."""
    outside, inside = await on.outside(), await on.inside("one")
    for server, asker in ((outside, inside), (inside, outside)):
        async with program(server, *PYTHON_TALK, "serve"):
            await ask(asker, PYTHON_TALK, await said(server, PYTHON_TALK, r"^domain (\d+)$"))


@scenario(beam=True)
async def a_node_and_a_beam(on: Platform) -> None:
    """A Python node outside, a BEAM without distribution in the guest; either opens."""
    outside, inside = await on.outside(), await on.inside("one")
    async with program(outside, *PYTHON_TALK, "serve"):
        await ask(inside, BEAM_TALK, await said(outside, PYTHON_TALK, r"^domain (\d+)$"))
    async with program(inside, *BEAM_TALK, "serve"):
        domid = await said(inside, BEAM_TALK, r"^domain (\d+)$")
        await said(inside, BEAM_TALK, "^serving$")
        await ask(outside, PYTHON_TALK, domid)


@scenario(beam=True)
async def a_beam_behind_the_gateway(on: Platform) -> None:
    """From a guest to a process on a BEAM outside: through the Python node there, which is in the BEAM's cluster."""
    outside, inside = await on.outside(), await on.inside("one")
    beam = ("env", "ERL_FLAGS=-name behind@127.0.0.1 -setcookie scenarios", *BEAM_TALK[:2], "-", "beam")
    async with program(outside, *beam):
        await said(outside, beam, "^node behind@127.0.0.1$")
        async with program(outside, *PYTHON_TALK, "gate", "behind@127.0.0.1"):
            domid = await said(outside, PYTHON_TALK, r"^domain (\d+)$")
            await said(outside, PYTHON_TALK, "^connected$")
            await ask(inside, PYTHON_TALK, domid)


@scenario(beam=True)
async def two_beams_in_guests(on: Platform) -> None:
    one, two = await on.inside("one"), await on.inside("two")
    async with program(one, *BEAM_TALK, "serve"):
        domid = await said(one, BEAM_TALK, r"^domain (\d+)$")
        await said(one, BEAM_TALK, "^serving$")
        await ask(two, BEAM_TALK, domid)


# ── what only a real Xen has ──


@scenario(only="xen", beam=True)
async def a_beam_by_distribution(on: Platform) -> None:
    """From a guest with a network interface to a BEAM outside: without a straw, over TCP."""
    outside, inside = await on.outside(), await on.inside("one")
    beam = ("env", "ERL_FLAGS=-name behind@10.9.0.1 -setcookie scenarios", *BEAM_TALK[:2], "-", "beam")
    asking = (*PYTHON_TALK, "dist", "behind@10.9.0.1")
    async with program(outside, *beam):
        await said(outside, beam, "^node behind@10.9.0.1$")
        async with program(inside, *asking):
            assert await said(inside, asking, r"^answered (\d+)$") == "6"


@scenario(only="xen")
async def one_strawman_a_domain(on: Platform) -> None:
    """A second program of a domain gets no straws, as long as the first one lives."""
    outside, inside = await on.outside(), await on.inside("one")
    async with started(inside):
        refused = await inside.do("run", command=["python3", "/tests/xen/talk.py", "serve"])
        assert refused["status"] and "straw_taken" in refused["said"], refused
    async with program(inside, *PYTHON_TALK, "serve"):
        await ask(outside, PYTHON_TALK, await said(inside, PYTHON_TALK, r"^domain (\d+)$"))


@scenario(only="xen")
async def the_kernels_limit_of_pages(on: Platform) -> None:
    """More pages than gntalloc gives: eight have to do."""
    outside, inside = await on.outside(), await on.inside("one")
    limit = "/sys/module/xen_gntalloc/parameters/limit"
    async with started(outside, inside):
        before = await outside.do("run", command=["cat", limit])
        await outside.do("run", command=["sh", "-c", f"echo 60 > {limit}"])
        try:
            assert (await opened(inside, outside))["ring"] == 0
            await both_ways(outside, inside, 31, 10, 30_000)
            await closed(inside, outside)
        finally:
            await outside.do("run", command=["sh", "-c", f"echo {before['said'].strip()} > {limit}"])


@scenario(only="xen")
async def as_an_ordinary_user(on: Platform) -> None:
    """uid 1000 in the guest and outside, once the devices are open to it."""
    outside, inside = await on.outside(), await on.inside("one")
    devices = [f"/dev/xen/{name}" for name in ("evtchn", "gntalloc", "gntdev", "xenbus")]
    for server, asker in ((outside, inside), (inside, outside)):
        await server.do("run", command=["chmod", "666", *devices])
        try:
            async with program(server, *PYTHON_TALK, "serve", uid=1000):
                await ask(asker, PYTHON_TALK, await said(server, PYTHON_TALK, r"^domain (\d+)$"))
        finally:
            await server.do("run", command=["chmod", "600", *devices])


@scenario(only="xen")
async def the_command_line(on: Platform) -> None:
    """`strawbridge domains` says that it is Xen, and which domains there are."""
    outside, inside = await on.outside(), await on.inside("one")
    async with program(inside, *PYTHON_TALK, "serve"):
        await said(inside, PYTHON_TALK, r"^domain (\d+)$")
        for domain in (outside, inside):
            answer = await domain.do("run", command=["python3", "-m", "node", "domains"])
            assert answer["status"] == 0 and "backend xen" in answer["said"], answer
            assert f"{{{inside.domid}," in answer["said"], answer


@scenario(only="xen")
async def nothing_is_left(on: Platform) -> None:
    """After all of this: no grant, no key of ours, and all of the kernel's pages are to be had.

    Programs that were ended by a signal leave their keys to the next one.
    """
    outside, inside = await on.outside(), await on.inside("one")
    async with started(outside, inside):
        pass
    for domain, peer in ((outside, inside), (inside, outside)):
        status = await domain.do("status")
        assert status["mapped"] == 0 and not status["keys"], status
        assert await domain.do("grant_to", peer=peer.domid, pages=1024) == {}  # gntalloc's default limit
    leaks = await on.leaks()
    assert leaks == [], leaks
