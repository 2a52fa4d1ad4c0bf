"""Much through a straw between two processes: every frame compared, checksums, order, memory that does not grow.

Normally 1 GB by a wide straw and 256 MB by one with LING's 8 pages. STRAWBRIDGE_SOAK_GB=10 makes it 10 GB each.
`pytest -s` shows the figures.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from membranekit.exchange import close, connect
from membranekit.processes import HostProcess, Peer
from waiting import becomes

GB = 10**9
#: Messages are of 0 bytes to 1 MB.
LONGEST = 1 << 20
#: Slower than this (bytes a second) is taken for a hang.
SLOWEST = 10_000_000
#: Kilobytes: Python, what may be unsent (16 MiB) and what may wait to be received (16 MiB), with room.
MEMORY = 100_000

_asked = os.environ.get("STRAWBRIDGE_SOAK_GB")
SIZES = {1 << 20: int(float(_asked or 1) * GB), 0: int(float(_asked or 0.256) * GB)}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    with HostProcess(tmp_path / "host"):
        yield tmp_path / "host"


@pytest.mark.parametrize("ring", [1 << 20, 0], ids=["wide", "ling"])
def test_soak(host: Path, ring: int) -> None:
    total = SIZES[ring]
    limit = 60 + total / SLOWEST
    signal.setitimer(signal.ITIMER_REAL, limit + 60)  # the limit of conftest.py is for small tests
    with Peer(host, ring) as one, Peer(host, ring) as other:
        idle = one.do("status"), other.do("status")
        connect(one, other)
        work = {"seed": 41, "total": total, "limit": LONGEST}
        began = time.monotonic()
        receiving = other.start("receive", peer=one.domid, **work)
        sending = one.start("send", peer=other.domid, **work)
        sent, received = one.result(sending, limit), other.result(receiving, limit)
        took = time.monotonic() - began
        assert sent == received  # bytes, count, checksum over all in order
        assert sent["bytes"] >= total
        costs = one.do("cost", peer=other.domid), other.do("cost", peer=one.domid)
        print(f"\nring {costs[0]['ring']}: {sent['bytes']} bytes, {sent['count']} frames, crc32 {sent['sum']:08x}, "
              f"{took:.1f} s, {sent['bytes'] / took / 1e6:.0f} MB/s; "
              f"cpu {costs[0]['seconds']:.1f} + {costs[1]['seconds']:.1f} s, memory {costs[0]['kilobytes']} and "
              f"{costs[1]['kilobytes']} kB")  # fmt: skip
        assert all(cost["kilobytes"] < MEMORY for cost in costs)
        assert all(cost["ring"] == (ring or 16375) for cost in costs)
        close(one, other)
        becomes(lambda: (one.quiet(), other.quiet()), idle)
