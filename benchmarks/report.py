"""Markdown tables of what the benchmarks measured, and the verdicts on the targets. Measures nothing."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist import CLIENT_ROWS, PEER_ROWS, Dist, Results, Row, median, ratio


@dataclass(frozen=True)
class Target:
    """A wish: the ratio of a value to a reference. faster: the ratio must be at least `limit`, else at most.

    pins: where it counts. client: it is about our node as the one that calls.
    """

    what: str
    row: str
    key: str
    limit: float
    faster: bool = True
    client: bool = False
    pins: tuple[str, ...] = ("free", "apart", "same")

    def verdict(self, found: float) -> str:
        """met; even: short of it by less than this machine's noise; short."""
        short = self.limit / found if self.faster else found / self.limit
        return "met" if short <= 1 else "even" if short < NOISE else "short"


#: Ratios nearer to 1 than this say nothing (the machine's speed wanders by as much within a run).
NOISE = 1.3

#: Against the BEAM peer (or, for clients, the BEAM client) of the same release as the one at the other end.
TARGETS = (
    Target("echo, 500 outstanding", "pipe", "rate", 1.0),
    Target("casts into a sink", "sink", "rate", 1.0),
    Target("50 concurrent calls", "calls", "rate", 1.0),
    Target("round trip", "rtt", "p50", 1.1, faster=False, pins=("free", "apart")),
    Target("round trip, both on one cpu", "rtt", "p50", 2.0, faster=False, pins=("same",)),
    Target("1 MB echo, one outstanding", "echo1m1", "mbs", 1.0),
    Target("1 MB echo, four outstanding", "echo1m4", "mbs", 1.0),
    Target("1 MB sink", "sink1m", "mbs", 1.0),
    Target("Python to BEAM, one call at a time", "call", "rate", 1.0, client=True),
    Target("Python to BEAM, 50 concurrent calls", "calls", "rate", 1.0, client=True),
)


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "-"
    if value >= 1e6:
        return f"{value / 1e6:.2f}M"
    if value >= 10_000:
        return f"{value / 1e3:.0f}k"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _columns(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    return [(row.name, key, column) for row in rows for key, column in row.values.items()]


def results_table(results: Results, rows: Sequence[Row], pin: str, first: str, second: str, reference: str) -> str:
    """All measured values, then the ratios to the reference with each other side."""
    columns = _columns(rows)
    subjects = results.get(pin, {})
    others = list(dict.fromkeys(other for by_other in subjects.values() for other in by_other))
    lines = []
    for label, by_other in subjects.items():
        for other in others:
            samples = by_other.get(other, {})
            lines.append([label, other, *(number(median(samples.get(n, []), key)) for n, key, _ in columns)])
    for label, by_other in subjects.items():
        for other in others:
            theirs = subjects.get(reference_of(reference, other), {}).get(other, {})
            if label == reference_of(reference, other) or not theirs:
                continue
            samples = by_other.get(other, {})
            cells = [ratio(samples.get(n, []), theirs.get(n, []), key) for n, key, _ in columns]
            name = f"{label} / {reference_of(reference, other)}"
            lines.append([name, other, *("-" if c is None else f"x{c:.2g}" for c in cells)])
    return table([first, second, *(column for _, _, column in columns)], lines)


def reference_of(reference: str, other: str) -> str:
    """'beam28' for all, or 'otp' for the BEAM client of the same release as the server."""
    return "otp" + other[-2:] if reference == "otp" else reference


def cpu_table(results: Results, rows: Sequence[Row], pin: str, first: str, second: str) -> str:
    rows = [row for row in rows if row.cpu]
    lines = [
        [label, other, *(number(median(samples.get(row.name, []), "cpu")) for row in rows)]
        for label, by_other in results.get(pin, {}).items()
        for other, samples in by_other.items()
    ]
    return table([first, second, *(row.name for row in rows)], lines)


def verdicts(dist: Dist) -> str:
    """Each target, with the ratio for each other side and placement, and whether it is met."""
    pins = dist.options.pins
    lines = []
    for target in TARGETS:
        results = dist.client_results if target.client else dist.peer_results
        ours = ("strawbridge",) if target.client else ("py", "py-inline")
        for label in ours:
            others = dict.fromkeys(other for pin in pins for other in results.get(pin, {}).get(label, {}))
            for other in others:
                against = reference_of("otp" if target.client else "beam28", other)
                cells = [_cell(target, results, pin, label, other, against) for pin in pins]
                if any(cells):
                    wish = f"{'≥' if target.faster else '≤'} {target.limit:g}"
                    lines.append([target.what, label, other, against, wish, *cells])
    return table(["target", "ours", "with", "against", "wanted", *pins], lines)


def _cell(target: Target, results: Results, pin: str, label: str, other: str, against: str) -> str:
    subjects = results.get(pin, {})
    ours = subjects.get(label, {}).get(other, {}).get(target.row, [])
    theirs = subjects.get(against, {}).get(other, {}).get(target.row, [])
    found = ratio(ours, theirs, target.key)
    return "" if found is None or pin not in target.pins else f"{found:.2f} {target.verdict(found)}"


def machine() -> str:
    """One paragraph: where, when and with what this was measured."""
    model = "unknown cpu"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"{today}, {model}, {cores} cores, Linux {platform.release()}, load {load:.1f} before the run, "
        f"CPython {platform.python_version()}, strawbridge {commit or 'of no commit'}"
    )


def distribution(dist: Dist) -> str:
    """The whole report of a run."""
    parts = ["## Targets\n", verdicts(dist), ""]
    for pin in dist.options.pins:
        parts += [
            f"## BEAM clients, each peer ({pin})\n",
            results_table(dist.peer_results, PEER_ROWS, pin, "peer", "client", "beam28"),
            "\nCPU time of the peer, µs a message (user and system; a BEAM's schedulers wait in it too):\n",
            cpu_table(dist.peer_results, PEER_ROWS, pin, "peer", "client"),
            f"\n## Each client, a BEAM as server ({pin})\n",
            results_table(dist.client_results, CLIENT_ROWS, pin, "client", "server", "otp"),
            "\nCPU time of the client, µs a call:\n",
            cpu_table(dist.client_results, CLIENT_ROWS, pin, "client", "server"),
            "",
        ]
    if dist.missing:
        parts.append("Not measured: " + "; ".join(f"{label}: {why}" for label, why in dist.missing.items()) + "\n")
    return "\n".join(parts)
