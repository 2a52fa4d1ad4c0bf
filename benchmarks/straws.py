"""A BEAM talks to a BEAM and to our node, over TCP distribution on loopback and over a straw: the same rows, one run.

    python benchmarks/straws.py [--quick] [--rounds N] [--pin free,apart,same] [--client otp28] [--realtime]

Over a straw the client calls a process that stands for the other domain's name ({proxy, DomId, Name}), so its program
is the same. Without the 1 MB casts: nobody holds them back, and what a straw can't take is dropped by rule.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from dist import PEER_ROWS, PINS, Results, Row  # noqa: E402
from procs import ROOT, Bench, Failed, Missing, Proc, bench, find_erlang  # noqa: E402
from report import cpu_table, machine, results_table  # noqa: E402

ROWS = tuple(row for row in PEER_ROWS if row.name not in ("reconnect", "sink1m"))
EBIN = ROOT / "erl" / "ebin"
CLIENT, BEAM, PYTHON = 1, 2, 3


@dataclass(frozen=True)
class Way:
    """How the client gets to a peer: over the node `node`, or by processes of its own that stand for the peer's."""

    label: str
    proc: Proc
    node: str
    prefix: str = ""

    def text(self, row: Row, count: int) -> str:
        return row.text(self.node, self.prefix + row.target, count)


def beam(place: Bench, label: str, erlang: str, module: str, domid: int, cpus: list[int] | None) -> Proc:
    args = ["-pa", str(EBIN), "-straw", "host", f'"{place.folder}/host"', "domid", str(domid), "backend", "local"]
    return place.beam(find_erlang(erlang), label, module, cpus=cpus, args=args)


@contextlib.contextmanager
def everybody(place: Bench, erlang: str, pin: str, realtime: bool) -> Iterator[tuple[Proc, list[Way]]]:
    """A host service, the client, and all ways from it. realtime: all that is measured comes before other work."""
    mine, theirs = PINS[pin]
    with contextlib.ExitStack() as stop:

        def start(proc: Proc) -> Proc:
            stop.callback(place.stop, proc)
            return proc

        folder = f"{place.folder}/host"
        start(place.start([sys.executable, "-u", "-m", "node", "host", "--rundir", folder], folder, "host"))
        client = start(beam(place, "client", erlang, "bench_client", CLIENT, mine))
        peer = start(beam(place, "peer", erlang, "bench_straw", BEAM, theirs))
        argv = [sys.executable, "-m", "node", "run", f"{HERE / 'app.py'}:app", "--name", place.name("py")]
        argv += ["--host", folder, "--domid", str(PYTHON)]
        python = start(place.start(argv, "is up", "py", theirs))
        for prefix, domid in (("beam", BEAM), ("py", PYTHON)):
            client.ask(f"{{apply, bench_straw, join, [{prefix}, {domid}, [echo, calc, sink]]}}.")
        for proc in (client, peer, python) if realtime else ():
            subprocess.run(["chrt", "-a", "-f", "-p", "10", str(proc.process.pid)], check=True)
        here = place.name("client")
        yield (
            client,
            [
                Way("beam, TCP", peer, place.name("peer")),
                Way("beam, straw", peer, here, "beam_"),
                Way("python, TCP", python, place.name("py")),
                Way("python, straw", python, here, "py_"),
            ],
        )


def measure(results: Results, pin: str, erlang: str, rounds: int, scale: float, realtime: bool) -> None:
    with bench() as place, everybody(place, erlang, pin, realtime) as (client, ways):
        for number in range(rounds):
            print(f"{pin}, round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for way in ways:
                for row in ROWS[:5]:
                    client.ask(way.text(row, 300))
            for row in ROWS:
                # Row by row: what is compared was measured within seconds.
                for way in ways:
                    count = max(50, int(row.count * scale))
                    before = way.proc.cpu()
                    try:
                        found = client.ask(way.text(row, count))
                    except Failed as error:
                        print(f"{way.label} {row.name} failed: {error}", file=sys.stderr, flush=True)
                        continue
                    found["cpu"] = (way.proc.cpu() - before) / count * 1e6
                    by_row = results.setdefault(pin, {}).setdefault(way.label, {}).setdefault(erlang, {})
                    by_row.setdefault(row.name, []).append(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the messages, one round unless told")
    parser.add_argument("--rounds", type=int, help="how often each is measured (medians; 3)")
    parser.add_argument("--pin", default="free,apart,same")
    parser.add_argument("--client", default="otp28", help="the release of both BEAMs")
    parser.add_argument("--realtime", action="store_true", help="measure as on an idle machine (root; chrt)")
    given = parser.parse_args()
    built = subprocess.run(["make", "-s", "-C", str(ROOT / "erl")], stdout=sys.stderr)
    results: Results = {}
    print(f"# Straws beside TCP distribution\n\n{machine()}\n", flush=True)
    try:
        if built.returncode != 0:
            raise Missing("erl/ does not build")
        for pin in given.pin.split(","):
            rounds = given.rounds or (1 if given.quick else 3)
            measure(results, pin, given.client, rounds, 0.2 if given.quick else 1.0, given.realtime)
    except Missing as error:
        print(f"Straws were not measured: {error}")
        return 1
    for pin in results:
        print(f"## {pin}\n\n{results_table(results, ROWS, pin, 'peer', 'client', 'beam, TCP')}\n")
        print(f"CPU time of the peer, µs a message:\n\n{cpu_table(results, ROWS, pin, 'peer', 'client')}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
