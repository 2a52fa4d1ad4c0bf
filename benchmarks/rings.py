"""Pores beside unix sockets, pipes, mp.Pipe and pyzmq, in C and from Python: one command, tables, ratios and targets.

    python benchmarks/rings.py [--quick] [--only c|python] [--rounds 3]

Each figure is the median of rounds in which all transports take turns: what else the machine does hits all alike.
Both sides block; `apart`: each pinned to a cpu of its own, `same`: both to one. tp: payload MB/s one way, frames of u32
length and payload. pp: microseconds to and fro. Absolute figures are for scale, ratios are what counts.

From Python: `pore` writes and reads bytes as the others do (0: LING's ring); `send`, `post` and `all` are those of
pores.messages: one by one, gathered, lists of 256; `py-pipe-all` is what a pipe gains by such lists (the others of the
targets send one by one); `aio-unix` is asyncio's streams, `aio-straw` a Straw.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import mmap
import multiprocessing
import os
import platform
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

RING = 262144  # the wide straw that is compared; --ring
HEAD = 4
READ = 65536

# ---- Python's transports: (sender, receive) of one side, made after the fork ----

Send = Callable[[bytes, bytes], Callable[[], object]]  # payload, frame: what sends them
Receive = Callable[[], int]  # how many messages came; blocks until there is one


class Parser:
    """Frames out of pieces, each payload a bytes object."""

    def __init__(self) -> None:
        self.rest = b""
        self.parts: list[bytes] = []
        self.missing = 0

    def feed(self, chunk: bytes) -> int:
        if self.missing > len(chunk):  # a large frame: no copies until it is complete
            self.parts.append(chunk)
            self.missing -= len(chunk)
            return 0
        data = b"".join((self.rest, *self.parts, chunk))
        self.parts.clear()
        at, end, count, from_bytes = 0, len(data), 0, int.from_bytes
        self.missing = 0
        while at + HEAD <= end:
            size = from_bytes(data[at : at + HEAD], "big")
            if at + HEAD + size > end:
                self.missing = at + HEAD + size - end
                break
            data[at + HEAD : at + HEAD + size]
            at += HEAD + size
            count += 1
        self.rest = data[at:]
        return count


def by_unix(sides: Any, index: int) -> tuple[Send, Receive]:
    end, parser = sides[index], Parser()
    return (lambda payload, frame: partial(end.sendall, frame)), (lambda: parser.feed(end.recv(READ)))


def by_pipe(sides: Any, index: int) -> tuple[Send, Receive]:
    (read0, write0), (read1, write1) = sides
    read, write, parser = (read0, write1, Parser()) if index == 0 else (read1, write0, Parser())

    def sender(payload: bytes, frame: bytes) -> Callable[[], None]:
        def send(write: int = write, frame: bytes = frame, size: int = len(frame)) -> None:
            done = os.write(write, frame)
            while done < size:
                done += os.write(write, memoryview(frame)[done:])

        return send

    return sender, (lambda: parser.feed(os.read(read, READ)))


def by_pipe_many(sides: Any, index: int) -> tuple[Send, Receive]:
    """What a pipe gains by the same: MANY frames in one write."""
    sender, receive = by_pipe(sides, index)
    return (lambda payload, frame: sender(payload, frame * (MANY if len(payload) > 1 else 1))), receive


def by_mp(sides: Any, index: int) -> tuple[Send, Receive]:
    end = sides[index]
    return (lambda payload, frame: partial(end.send_bytes, payload)), (lambda: end.recv_bytes() is not None)


def by_zmq(path: str, index: int) -> tuple[Send, Receive]:
    import zmq

    socket = zmq.Context().socket(zmq.PAIR)
    (socket.bind if index == 0 else socket.connect)(f"ipc://{path}")
    return (lambda payload, frame: partial(socket.send, payload)), (lambda: socket.recv() is not None)


def open_pore(sides: Any, index: int, ring: int) -> Any:
    from pores.pore import ACTIVE, PASSIVE, Pore

    memory, ends = sides
    if index == 0:
        return Pore.straw(memory, ends[0].detach(), role=ACTIVE, ring_bytes=ring)
    os.read(ends[1].fileno(), 1)  # the active side has laid it out
    return Pore.straw(memory, ends[1].detach(), role=PASSIVE, ring_bytes=ring)


def by_pore(sides: Any, index: int, ring: int) -> tuple[Send, Receive]:
    pore, parser = open_pore(sides, index, ring), Parser()
    if index == 0:
        wake(pore)
    write, read, wait_read, wait_write = pore.write, pore.read, pore.wait_read, pore.wait_write
    half = (ring or 16376) // 2

    def sender(payload: bytes, frame: bytes) -> Callable[[], None]:
        def send() -> None:
            done = write(frame)
            while done < len(frame):
                wait_write(min(half, len(frame) - done))
                done += write(memoryview(frame)[done:])

        return send

    def receive() -> int:
        wait_read()
        return parser.feed(read())

    return sender, receive


MANY = 256
MANIES = ("all:", "py-pipe-all")


def by_messages(sides: Any, index: int, ring: int, how: str) -> tuple[Send, Receive]:
    """As a user of messages does: send one by one, post and flush, or send_all of many at a time."""
    from pores.messages import Messages

    messages = Messages(open_pore(sides, index, ring))
    CURRENT.append(messages)
    if index == 0:
        wake(messages.pore)
    receive = messages.receive_all

    def sender(payload: bytes, frame: bytes) -> Callable[[], None]:
        if how == "all":
            return partial(messages.send_all, [payload] * (MANY if len(payload) > 1 else 1))
        return partial(messages.post if how == "post" else messages.send, payload)

    return sender, (lambda: len(receive()))


CURRENT: list[Any] = []  # the Messages of this measurement: not to be forgotten


def wake(pore: Any) -> None:
    os.write(pore.fd, b"!")


def prepare(transport: str, folder: str) -> Any:
    name, _, size = transport.partition(":")
    if name == "py-unix":
        return socket.socketpair()
    if name.startswith("py-pipe"):
        return os.pipe(), os.pipe()
    if name == "py-mp.Pipe":
        return multiprocessing.Pipe()
    if name == "py-zmq":
        return f"{folder}/zmq"
    import pores.messages
    import pores.straw  # noqa: F401
    from pores._native import straw_pages

    memory = os.memfd_create("bench", os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, straw_pages(int(size or 0)) * 4096)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return memory, socket.socketpair()


MAKERS: dict[str, Callable[[Any, int], tuple[Send, Receive]]] = {
    "py-unix": by_unix,
    "py-pipe": by_pipe,
    "py-pipe-all": by_pipe_many,
    "py-mp.Pipe": by_mp,
    "py-zmq": by_zmq,
}


def maker(transport: str) -> Callable[[Any, int], tuple[Send, Receive]]:
    name, _, size = transport.partition(":")
    if name == "pore":
        return lambda sides, index: by_pore(sides, index, int(size or 0))
    return MAKERS.get(name) or (lambda sides, index: by_messages(sides, index, int(size or 0), name))


def one(transport: str, what: str, size: int, messages: int, where: str) -> float:
    """One measurement, in this process and a fork of it."""
    if transport.startswith("aio-"):
        return asyncio_one(transport, what, size, messages, where)
    payload = bytes(size)
    frame = size.to_bytes(HEAD, "big") + payload
    if transport.startswith(MANIES):
        messages -= messages % MANY
    with tempfile.TemporaryDirectory() as folder:
        sides = prepare(transport, folder)
        child = os.fork()
        os.sched_setaffinity(0, {1 if child == 0 and where == "apart" else 0})
        send, receive = maker(transport)(sides, 1 if child == 0 else 0)
        if child == 0:
            try:
                mark(1)
                other_side(send, receive, what, payload, frame, messages)
            finally:
                os._exit(0)
        go = send(payload, frame)
        mark(0)
        start = time.perf_counter()
        if what == "tp":
            for _ in range(messages // MANY if transport.startswith(MANIES) else messages):
                go()
            while not receive():
                pass
        else:
            for _ in range(messages):
                go()
                while not receive():
                    pass
        spent = time.perf_counter() - start
        mark(0, end=True)
        os.waitpid(child, 0)
    CPU.append(used() / messages * 1e6)
    return size * messages / spent / 1e6 if what == "tp" else spent / messages * 1e6


CPU: list[float] = []  # microseconds of both sides per message
SHARED = mmap.mmap(-1, 32)  # of both processes: their processor times at the start and at the end


def mark(index: int, end: bool = False) -> None:
    struct.pack_into("d", SHARED, 16 * index + 8 * end, time.process_time())


def used() -> float:
    """Seconds of cpu that both sides have used between their marks."""
    start0, end0, start1, end1 = struct.unpack("dddd", SHARED)
    return end0 - start0 + end1 - start1


def other_side(send: Send, receive: Receive, what: str, payload: bytes, frame: bytes, messages: int) -> None:
    if what == "tp":
        left = messages
        while left:
            left -= receive()
        send(b"!", (1).to_bytes(HEAD, "big") + b"!")()
        for sender in CURRENT:
            sender.flush()
        mark(1, end=True)
        time.sleep(0.05)  # zmq sends from a thread of its own
        return
    go = send(payload, frame)
    for _ in range(messages):
        while not receive():
            pass
        go()
    mark(1, end=True)
    time.sleep(0.05)


# ---- asyncio: streams over a unix socket, and a pore whose descriptor the loop polls ----


def open_straw(pore: Any, ring: int) -> Any:
    """A straw as a membrane makes it, without one."""
    from types import SimpleNamespace

    from pores.keys import Terms
    from pores.straw import Straw
    from pores.work import Key

    membrane: Any = SimpleNamespace(_peer_lost=lambda straw: straw.end("peer_gone"), _ended=lambda straw: None)
    return Straw(membrane, Key("active", 1), Terms(dialect="otp", ring_bytes=ring, suppress=bool(ring)), pore)


class StrawStream:
    def __init__(self, pore: Any, ring: int) -> None:
        self.straw = open_straw(pore, ring)

    async def send(self, payload: bytes, frame: bytes) -> None:
        await self.straw.send(payload)

    async def messages(self) -> int:
        return len(await self.straw.receive_all())


class UnixStream:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.parser = reader, writer, Parser()

    async def send(self, payload: bytes, frame: bytes) -> None:
        self.writer.write(frame)
        await self.writer.drain()

    async def messages(self) -> int:
        return self.parser.feed(await self.reader.read(READ))


def asyncio_one(transport: str, what: str, size: int, messages: int, where: str) -> float:
    name, _, ring = transport.partition(":")
    sides = prepare("py-unix" if name == "aio-unix" else f"pore:{ring}", "")
    child = os.fork()
    os.sched_setaffinity(0, {1 if child == 0 and where == "apart" else 0})
    index = 1 if child == 0 else 0
    payload = bytes(size)
    frame = size.to_bytes(HEAD, "big") + payload

    async def main() -> float:
        stream: Any
        if name == "aio-unix":
            stream = UnixStream(*await asyncio.open_unix_connection(sock=sides[index]))
        else:
            pore = open_pore(sides, index, int(ring or 0))
            if index == 0:
                wake(pore)
            stream = StrawStream(pore, int(ring or 0))

        async def messages_in(count: int) -> None:
            while count:
                count -= await stream.messages()

        mark(index)
        start = time.perf_counter()
        if what == "tp" and index == 0:
            for _ in range(messages):
                await stream.send(payload, frame)
            await messages_in(1)
        elif what == "tp":
            await messages_in(messages)
            await stream.send(b"!", (1).to_bytes(HEAD, "big") + b"!")
        for _ in range(messages if what == "pp" else 0):
            if index == 0:
                await stream.send(payload, frame)
            await messages_in(1)
            if index == 1:
                await stream.send(payload, frame)
        spent = time.perf_counter() - start
        mark(index, end=True)
        if index == 1:
            await asyncio.sleep(0.05)
        return spent

    spent = asyncio.run(main())
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    CPU.append(used() / messages * 1e6)
    return size * messages / spent / 1e6 if what == "tp" else spent / messages * 1e6


# ---- running all, by turns ----

C_SIZES = {64: 400_000, 1024: 200_000, 16384: 20_000, 1_000_000: 500}
PY_SIZES = {64: 100_000, 1024: 60_000, 16384: 10_000}
PP_SIZES = {64: 10_000, 16384: 3_000}
Figures = dict[tuple[str, str, int, str], list[float]]  # transport, what, size, where


def build(folder: str) -> str:
    program = f"{folder}/ring"
    sources = [HERE / "ring" / "ring.c", *sorted((ROOT / "csrc" / "pore").glob("*.c"))]
    subprocess.run(
        [os.environ.get("CC", "gcc"), "-O3", "-std=gnu11", "-o", program, *map(str, sources), "-pthread"], check=True
    )
    return program


def plan(transports: list[str], sizes: dict[int, int], scale: float) -> Iterator[tuple[str, str, int, int, str]]:
    for where in ("apart", "same"):
        for what, counts in (("tp", sizes), ("pp", PP_SIZES)):
            for size, count in counts.items():
                for transport in transports:
                    if what == "pp" and transport.startswith(("post", *MANIES)):
                        continue
                    yield transport, what, size, max(20, int(count * scale)), where


# Ours before all other work on the machine, as if there were none; the pauses keep the kernel from ending that.
REALTIME = ["chrt", "-f", "10"]


def measure(command: list[str], transports: list[str], sizes: dict[int, int], rounds: int, scale: float) -> Figures:
    figures: Figures = {}
    pause = 0.1 if command[0] == REALTIME[0] else 0
    for turn in range(rounds):
        print(f"{command[-1]}: round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
        for transport, what, size, count, where in plan(transports, sizes, scale):
            if transport == "memcpy" and (what == "pp" or where == "same"):
                continue
            arguments = [transport, what, str(size), str(count), where]
            time.sleep(pause)
            done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)
            if done.returncode:
                print(f"{transport} {what} {size} {where}: {done.stderr.strip()[-200:]}", file=sys.stderr)
                continue
            values = [float(value) for value in done.stdout.split()]
            figures.setdefault((transport, what, size, where), []).append(values[0])
            if len(values) > 1:
                figures.setdefault((transport, f"{what} cpu", size, where), []).append(values[1])
    return figures


def median(figures: Figures, *key: Any) -> float | None:
    found = figures.get(key)
    return statistics.median(found) if found else None


def show(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(title: str, figures: Figures, transports: list[str], sizes: dict[int, int], kind: str = "") -> None:
    columns = [("tp", size) for size in sizes] + [("pp", size) for size in PP_SIZES]
    print(f"\n## {title}: apart / same\n")
    print("| | " + " | ".join(f"{what} {size}" for what, size in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for transport in transports:
        cells = [
            " / ".join(show(median(figures, transport, what + kind, size, where)) for where in ("apart", "same"))
            for what, size in columns
        ]
        print(f"| {transport} | " + " | ".join(cells) + " |")


class Targets:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def ratio(self, text: str, ours: float | None, theirs: float | None, least: float, faster: bool = True) -> None:
        """faster: more is better (ours / theirs); else less is (theirs / ours)."""
        if not ours or not theirs:
            self.lines.append(f"| {text} | - | ≥ {least:g} x | not measured |")
            return
        ratio = ours / theirs if faster else theirs / ours
        self.lines.append(f"| {text} | {ratio:.2f} x | ≥ {least:g} x | {'met' if ratio >= least else 'MISSED'} |")

    def value(self, text: str, ours: float | None, limit: float, most: bool, unit: str) -> None:
        if ours is None:
            self.lines.append(f"| {text} | - | | not measured |")
            return
        met = ours <= limit if most else ours >= limit
        sign = "≤" if most else "≥"
        self.lines.append(f"| {text} | {ours:.3g} {unit} | {sign} {limit:g} {unit} | {'met' if met else 'MISSED'} |")

    def show(self) -> None:
        print("\n## Targets\n\n| what | measured | target | |\n|---|---|---|---|")
        print("\n".join(self.lines))


def best(figures: Figures, transports: list[str], what: str, size: int, where: str) -> float | None:
    found = [value for name in transports if (value := median(figures, name, what, size, where)) is not None]
    return (max(found) if what == "tp" else min(found)) if found else None


def c_part(before: list[str], rounds: int, scale: float, ring: int, targets: Targets) -> None:
    ours = f"wide:{ring}"
    transports = ["memcpy", "unix", "pipe", "bytes", "ling", ours]
    with tempfile.TemporaryDirectory() as folder:
        figures = measure([*before, build(folder)], transports, C_SIZES, rounds, scale)
    table("C", figures, transports, C_SIZES)
    for where in ("apart", "same"):
        for size in C_SIZES:
            pair = (median(figures, ours, "tp", size, where), median(figures, "unix", "tp", size, where))
            targets.ratio(f"C {where} tp {size}: ring / unix socket", *pair, least=2 if where == "apart" else 1)
        for size in PP_SIZES:
            pair = (median(figures, ours, "pp", size, where), median(figures, "unix", "pp", size, where))
            targets.ratio(f"C {where} pp {size}: unix socket / ring", *pair, least=1, faster=False)
        for size in C_SIZES:
            pair = (median(figures, "ling", "tp", size, where), median(figures, "bytes", "tp", size, where))
            targets.ratio(f"C {where} tp {size}: LING's ring / loop over bytes", *pair, least=2)
    targets.value("C apart tp 16384", median(figures, ours, "tp", 16384, "apart"), 5000, False, "MB/s")
    targets.value("C apart pp 64", median(figures, ours, "pp", 64, "apart"), 1, True, "µs")


def python_part(before: list[str], rounds: int, scale: float, ring: int, targets: Targets) -> None:
    others = ["py-unix", "py-pipe", "py-mp.Pipe"]
    try:
        import zmq

        print(f"pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}")
        others.append("py-zmq")
    except ImportError:
        print("pyzmq is not installed: pip install pyzmq")
    send, post, many, straw = (f"{name}:{ring}" for name in ("send", "post", "all", "aio-straw"))
    transports = [*others, "py-pipe-all", "pore:0", f"pore:{ring}", send, post, many, "aio-unix", straw]
    figures = measure([*before, sys.executable, __file__, "--one"], transports, PY_SIZES, rounds, scale)
    table("Python", figures, transports, PY_SIZES)
    table("Python, µs of cpu per message, both sides together", figures, transports, PY_SIZES, " cpu")
    for where in ("apart", "same"):
        for size, least in ((64, 3), (1024, 3), (16384, 2)):
            for ours in (send, post, many) if size < 16384 else (send,):
                pair = (median(figures, ours, "tp", size, where), best(figures, others, "tp", size, where))
                name = ours.partition(":")[0]
                targets.ratio(f"Python {where} tp {size}: {name} / best of the others", *pair, least=least)
            pair = (median(figures, straw, "tp", size, where), median(figures, "aio-unix", "tp", size, where))
            targets.ratio(f"asyncio {where} tp {size}: straw / streams", *pair, least=least)
        for size in PP_SIZES:
            pair = (median(figures, send, "pp", size, where), best(figures, others, "pp", size, where))
            targets.ratio(f"Python {where} pp {size}: best of the others / send", *pair, least=2, faster=False)
            pair = (median(figures, straw, "pp", size, where), median(figures, "aio-unix", "pp", size, where))
            targets.ratio(f"asyncio {where} pp {size}: streams / straw", *pair, least=2, faster=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages, one round")
    parser.add_argument("--only", choices=("c", "python"))
    parser.add_argument("--rounds", type=int, default=None, help="how often each is measured (medians; 3)")
    parser.add_argument("--ring", type=int, default=RING, help="bytes of the wide ring, each direction")
    parser.add_argument("--realtime", action="store_true", help="measure as on an idle machine (root; chrt)")
    parser.add_argument("--one", nargs=5, metavar=("TRANSPORT", "WHAT", "SIZE", "MESSAGES", "WHERE"), help="one figure")
    given = parser.parse_args()
    if given.one:
        transport, what, size, messages, where = given.one
        print(one(transport, what, int(size), int(messages), where), CPU[-1])
        return 0
    rounds, scale = given.rounds or (1 if given.quick else 3), 0.1 if given.quick else 1.0
    print(f"# Pores\n\n{platform.platform()}, {os.cpu_count()} cpus, load {os.getloadavg()[0]:.1f}, Python "
          f"{platform.python_version()}, {rounds} rounds, wide rings of {given.ring} bytes")  # fmt: skip
    before = REALTIME if given.realtime else []
    targets = Targets()
    with contextlib.suppress(KeyboardInterrupt):
        if given.only != "python":
            c_part(before, rounds, scale, given.ring, targets)
        if given.only != "c":
            python_part(before, rounds, scale, given.ring, targets)
    targets.show()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
