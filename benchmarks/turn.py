"""What one turn costs: our node's own code from "bytes arrived" to "answer handed to the kernel", without a kernel.

    python benchmarks/turn.py [--profile NAME]

A connection gets a transport whose recv_into and sendmsg only copy or count. Each NAME is a packet of one or more
signals; the figure is the least of seven runs, microseconds per message. --profile shows cProfile's table for one.
What asyncio's loop and the kernel add is the difference to dist.py's round trip.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import logging
import pstats
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import app  # noqa: E402

from node import Atom, Node, Pid, Reference  # noqa: E402
from node.etf import NO_PAYLOAD, encode_frame  # noqa: E402
from node.terms import ImproperList  # noqa: E402
from node.wire import control as c  # noqa: E402
from node.wire.flags import OUR_FLAGS  # noqa: E402
from node.wire.handshake_states import HandshakeDone  # noqa: E402


class Transport:
    """Hands out `data` at every receive and swallows what is sent."""

    header = 4
    remote = "nowhere"

    def __init__(self) -> None:
        self.data = b""
        self.readable: Callable[[], None] | None = None

    def recv_into(self, buffer: memoryview) -> int:
        size = len(self.data)
        buffer[:size] = self.data
        return size

    def sendmsg(self, buffers: Sequence[Any], /) -> int:
        return sum(map(len, buffers))

    def on_readable(self, callback: Callable[[], None] | None) -> None:
        self.readable = callback

    def on_writable(self, callback: Callable[[], None] | None) -> None:
        pass

    def waiting(self) -> bool:
        return False

    def end_writing(self) -> None:
        pass

    def close(self) -> None:
        pass


def packets() -> dict[str, tuple[bytes, int]]:
    """name -> (bytes of one read, messages in it)"""
    them = Atom("a@127.0.0.1")
    pid, ref = Pid(them, 100, 0, 5), Reference(them, 5, (1, 2, 3))
    add = (Atom("add"), 1, 2)
    tag = ImproperList((Atom("alias"),), ref)

    def frame(control: tuple[Any, ...], payload: Any = NO_PAYLOAD) -> bytes:
        return b"".join(encode_frame(control, payload))

    def send(name: str, message: Any) -> bytes:
        return frame((c.REG_SEND, pid, Atom(""), Atom(name)), message)

    def call(name: str) -> bytes:
        monitor, demonitor = (frame((op, pid, Atom(name), ref)) for op in (c.MONITOR_P, c.DEMONITOR_P))
        return monitor + send(name, (Atom("$gen_call"), (pid, tag), add)) + demonitor

    made = {}
    for suffix in ("", "_inline"):
        echo = send("echo" + suffix, (pid, ref, add))
        cast = send("sink" + suffix, (Atom("$gen_cast"), add))
        for name, data in (("echo", echo), ("call", call("calc" + suffix)), ("cast", cast)):
            for count in (1, 50):
                made[f"{name}{suffix} x{count}"] = (data * count, count)
    return made


def measure(read: Callable[[], None], count: int) -> float:
    best = float("inf")
    for _ in range(7):
        turns = 3000 // count
        start = time.perf_counter()
        for _ in range(turns):
            read()
        best = min(best, (time.perf_counter() - start) / turns / count)
    return best * 1e6


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", metavar="NAME", help="cProfile's table for one, e.g. 'call x1'")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    node = Node("py@127.0.0.1", cookie="none", listen=None)
    app.app(node)
    async with node:
        peer = node.peer("a@127.0.0.1")
        transport = Transport()
        peer.up(transport, HandshakeDone("a@127.0.0.1", 5, OUR_FLAGS, node.name, node.creation, False), b"")
        await asyncio.sleep(0.01)
        assert transport.readable is not None
        read = transport.readable
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def run() -> None:  # as a callback of the loop: no task is running
            for name, (transport.data, count) in packets().items():
                if given.profile in (None, name):
                    print(f"{name:18} {measure(read, count):6.2f} µs")
                if given.profile == name:
                    with cProfile.Profile() as profile:
                        for _ in range(5000):
                            read()
                    pstats.Stats(profile).sort_stats("tottime").print_stats(30)
            done.set_result(None)

        loop.call_soon(run)
        await done


asyncio.run(main())
