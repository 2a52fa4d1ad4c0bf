"""Python clients that call a BEAM: the same rows as erl/bench_client.erl, for the direction Python to BEAM.

    client.py strawbridge NAME | client.py erldistpy NAME | client.py blocking NAME

Reads "row NODE N [SIZE or PROCESSES]" lines from standard input and prints "result key value ..." lines, times in
microseconds. `blocking` is our node used from a plain thread (node.blocking).
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def latencies(times: list[float]) -> dict[str, float]:
    """p50 and p99 in microseconds of seconds."""
    times = sorted(times)
    return {"p50": times[len(times) // 2] * 1e6, "p99": times[min(int(len(times) * 0.99), len(times) - 1)] * 1e6}


def show(result: dict[str, float]) -> None:
    print("result", *(f"{key} {value}" for key, value in result.items()), flush=True)


class Blocking:
    """Rows for a client whose call() blocks."""

    def __init__(self, call: Callable[[str, Any], Any], rpc: Callable[[str], Any] | None) -> None:
        self._call, self._rpc = call, rpc

    def timed(self, count: int, work: Callable[[], Any]) -> dict[str, float]:
        times, clock = [], time.perf_counter
        begin = clock()
        for _ in range(count):
            start = clock()
            work()
            times.append(clock() - start)
        return {"rate": count / (clock() - begin)} | latencies(times)

    def call(self, node: str, count: int, request: Any) -> dict[str, float]:
        return self.timed(count, lambda: self._call(node, request))

    def callecho(self, node: str, count: int, size: int, tag: Any) -> dict[str, float]:
        request = (tag, b"x" * size)
        assert len(self._call(node, request)) == size
        return {"mbs": self.timed(count, lambda: self._call(node, request))["rate"] * size / 1e6}

    def rpc(self, node: str, count: int) -> dict[str, float]:
        if self._rpc is None:
            return {}
        rpc = self._rpc
        return self.timed(count, lambda: rpc(node))


def run_blocking(
    rows: Blocking, atom: Callable[[str], Any], connect: Callable[[str], None], close: Callable[[str], None]
) -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        row, node, *numbers = line.split()
        count, size = (*map(int, numbers), 0, 0)[:2]
        if row == "call":
            show(rows.call(node, count, (atom("add"), 1, 2)))
        elif row == "callecho":
            show(rows.callecho(node, count, size, atom("echo")))
        elif row == "rpc":
            show(rows.rpc(node, count))
        elif row == "reconnect":
            times = []
            for _ in range(count):
                close(node)
                time.sleep(0.05)  # the BEAM takes a new connection only when it has seen the end of the last
                start = time.perf_counter()
                connect(node)
                times.append(time.perf_counter() - start)
            show(latencies(times))
        else:
            show({})


def erldistpy_client(name: str) -> None:
    import erldistpy
    import erldistpy.node

    # It has no setting for epmd's port.
    port = int(os.environ["ERL_EPMD_PORT"])
    erldistpy.node.lookup = functools.partial(erldistpy.lookup, port=port)
    nodes: dict[str, erldistpy.Node] = {}

    def close(node: str) -> None:
        if node in nodes:
            nodes.pop(node).close()

    def connect(node: str) -> None:
        alive, _, host = node.partition("@")
        nodes[node] = erldistpy.Node(
            our_name=name, peer_name=alive, cookie=os.environ["STRAWBRIDGE_COOKIE"], peer_host=host
        )
        nodes[node].call("calc", (erldistpy.Atom("add"), 1, 2))

    def call(node: str, request: Any) -> Any:
        if node not in nodes:
            connect(node)
        return nodes[node].call("calc", request)

    run_blocking(Blocking(call, None), erldistpy.Atom, connect, close)


def blocking_client(name: str) -> None:
    import threading

    from node import Atom, Node

    started = threading.Event()
    made: list[Any] = []
    us_loop: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        async with Node(name, cookie=os.environ["STRAWBRIDGE_COOKIE"]) as node:
            made.append(node)
            us_loop.append(asyncio.get_running_loop())
            started.set()
            await node.wait_closed()

    threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
    started.wait()
    us = made[0].blocking

    def call(node: str, request: Any) -> Any:
        return us.call(("calc", node), request)

    rows = Blocking(call, lambda node: us.rpc(node, "erlang", "node", []))
    loop = us_loop[0]
    run_blocking(
        rows,
        Atom,
        lambda node: call(node, (Atom("add"), 1, 2)),
        lambda node: loop.call_soon_threadsafe(made[0].disconnect, node),
    )


async def strawbridge_client(name: str) -> None:
    from node import Atom, Node

    clock = time.perf_counter
    add, echo = Atom("add"), Atom("echo")
    loop = asyncio.get_running_loop()
    async with Node(name, cookie=os.environ["STRAWBRIDGE_COOKIE"]) as us:

        async def timed(count: int, work: Callable[[], Any]) -> dict[str, float]:
            times = []
            begin = clock()
            for _ in range(count):
                start = clock()
                await work()
                times.append(clock() - start)
            return {"rate": count / (clock() - begin)} | latencies(times)

        async def do(row: str, node: str, count: int, size: int) -> dict[str, float]:
            to = ("calc", node)
            if row == "call":
                return await timed(count, lambda: us.call(to, (add, 1, 2)))
            if row == "rpc":
                return await timed(count, lambda: us.rpc(node, "erlang", "node", []))
            if row == "callecho":
                payload = (echo, b"x" * size)
                assert len(await us.call(to, payload)) == size
                return {"mbs": (await timed(count, lambda: us.call(to, payload)))["rate"] * size / 1e6}
            if row == "calls":

                async def worker() -> None:
                    for _ in range(count // size):
                        await us.call(to, (add, 1, 2))

                begin = clock()
                await asyncio.gather(*(worker() for _ in range(size)))
                return {"rate": count // size * size / (clock() - begin)}
            if row == "reconnect":
                times = []
                for _ in range(count):
                    us.disconnect(node)
                    while node in us.nodes():
                        await asyncio.sleep(0.001)
                    start = clock()
                    await us.call(to, (add, 1, 2))
                    times.append(clock() - start)
                return latencies(times)
            if row == "bye":
                us.disconnect(node)
            return {}

        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            row, node, *numbers = line.split()
            count, size = (*map(int, numbers), 0, 0)[:2]
            show(await do(row, node, count, size))


if __name__ == "__main__":
    kind, own = sys.argv[1:]
    if kind == "erldistpy":
        erldistpy_client(own)
    elif kind == "blocking":
        blocking_client(own)
    else:
        asyncio.run(strawbridge_client(own))
