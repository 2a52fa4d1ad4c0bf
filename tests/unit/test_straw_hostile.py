"""A domain that writes anything into the shared memory and the keys of a straw, over a real host.

Whoever is at the other end sees the straw end, holds nothing afterwards and goes on with others.
"""

from __future__ import annotations

import asyncio
import os
import random
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # membranekit; there is no __init__.py below tests/

from membranekit.local import Node, make_node, nodes, run, settled

from pores.errors import PoreClosed, XenstoreError
from pores.keys import Terms
from pores.straw import MAX_FRAME, Straw

WIDE = Terms(dialect="otp", ring_bytes=1 << 16, suppress=True)
KEYS = ("state", "warts", "straw", "format", "dialect", "ring-bytes", "ring-refs", "ring-ref-1", "event-channel", "x")
VALUES = (*map(str, range(8)), "", "04", "-1", "json", "4096", "1-16", "9" * 500, "/local/domain/1/data/warts/2")
WORDS = (0, 1, 16375, 16376, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 4096, 65536)


def memory_of(host: Any, domid: int) -> list[int]:
    """The descriptors of all that it granted or was granted."""
    grants = [grant for domain in host._hypervisor.domains.values() for grant in domain.grants.values()]
    return sorted({grant.fd for grant in grants if domid in (grant.granter, grant.peer)})


def scribble(source: random.Random, fds: list[int]) -> None:
    """Indexes mostly; sometimes lengths and contents."""
    if not fds:
        return
    fd = source.choice(fds)
    size = os.fstat(fd).st_size
    if source.random() < 0.6:
        word = source.choice([*WORDS, source.getrandbits(32)])
        os.pwrite(fd, struct.pack("<I", word), 4 * source.choice([0, 1, 2, 3, source.randrange(144)]))
    else:
        data = source.choice([b"\xff\xff\xff\xff", b"\0" * 100, source.randbytes(1000)])
        os.pwrite(fd, data, source.randrange(size - len(data)))


async def lie(source: random.Random, enemy: Node, victim: Node) -> None:
    """One key, where it may write."""
    where = source.choice(
        [
            f"/local/domain/{victim.domid}/data/straw/{enemy.domid}",
            f"/local/domain/{enemy.domid}/data/warts/{victim.domid}",
            f"/local/domain/{enemy.domid}/data/straw/{victim.domid}",
        ]
    )
    try:
        if source.random() < 0.1:
            await enemy.store.delete(where)
        else:
            await enemy.store.write(f"{where}/{source.choice(KEYS)}", source.choice(VALUES))
    except XenstoreError:
        pass


async def talk(straw: Straw) -> None:
    try:
        while True:
            await straw.send(b"x" * 3000)
            await asyncio.sleep(0)
    except PoreClosed:
        pass


async def listen(straw: Straw) -> None:
    async for frame in straw:
        assert len(frame) <= MAX_FRAME


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("terms", [Terms(), WIDE], ids=["ling", "wide"])
def test_scribbling_into_all_of_a_straw(tmp_path: Path, terms: Terms, seed: int) -> None:
    source = random.Random(seed)

    async def test() -> None:
        async with nodes(tmp_path / "h", 2, wishes=terms) as (host, victim, friend):
            watches = victim.store.watches
            kept, theirs = await victim.open(friend)
            held = dict(victim.backend.held)
            for turn in range(5):
                enemy = await make_node(tmp_path / "h", wishes=terms)
                opener, acceptor = (victim, enemy) if turn % 2 else (enemy, victim)
                ends = await opener.open(acceptor)
                straw = ends[0] if opener is victim else ends[1]
                busy = [asyncio.create_task(job(end)) for end in ends for job in (talk, listen)]
                assert memory_of(host, enemy.domid)
                for _ in range(source.randrange(1, 60)):
                    scribble(source, memory_of(host, enemy.domid))  # nothing, when it is over
                    if turn > 1:
                        await lie(source, enemy, victim)
                    await asyncio.sleep(0)
                await enemy.close()  # as its process would: the host cleans up
                while not straw.closed:
                    await asyncio.sleep(0.002)
                await asyncio.gather(*busy)
                await settled(lambda: len(victim.membrane.machine.pores) == 1)
                assert victim.backend.held == held, (victim.backend.held, held)
                assert victim.store.watches == watches + 1, turn
                await kept.send(b"still here")
                assert await theirs.receive() == b"still here"

    run(test)
