"""Where the time of a row goes inside our node.

    python benchmarks/hotspots.py ROW [--variant py|py-inline] [--client] [--seconds 5] [--tool py-spy|perf] …

ROW is one of dist.py's (sink, calls, pipe, rtt, call, rpc, …). Runs it over and over with an OTP 28 at the other end
and samples our process: py-spy (pip install py-spy) shows Python functions, with --native the C functions below them
too; perf shows the shares of all symbols, the kernel's included. With --client our node is the one that calls. Prints
self time by function.
"""

from __future__ import annotations

import argparse
import collections
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from dist import CLIENT_ROWS, PEER_ROWS, Dist, Subject  # noqa: E402
from procs import Proc, bench, find_erlang  # noqa: E402


def load(client: Subject, server: Subject, row_name: str, stop: threading.Event) -> None:
    row = next(row for row in (CLIENT_ROWS if client.plain else PEER_ROWS) if row.name == row_name)
    while not stop.is_set():
        Dist._ask(client, server, row, row.count)


def py_spy(proc: Proc, seconds: float, out: Path, native: bool) -> list[tuple[str, int]]:
    tool = shutil.which("py-spy") or str(Path(sys.executable).with_name("py-spy"))
    argv = [tool, "record", "-r", "400", "-d", str(int(seconds)), "-f", "raw", "-o", str(out), "-p",
            str(proc.process.pid), "--nonblocking"]  # fmt: skip
    subprocess.run([*argv, *(["--native"] if native else [])], check=True, capture_output=True)
    shares: collections.Counter[str] = collections.Counter()
    for line in out.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        shares[stack.split(";")[-1]] += int(count)
    return shares.most_common()


def perf(proc: Proc, seconds: float, out: Path) -> str:
    argv = ["perf", "record", "-q", "-F", "997", "-g", "-o", str(out), "-p", str(proc.process.pid), "--"]
    subprocess.run([*argv, "sleep", str(seconds)], check=True, capture_output=True)
    argv = ["perf", "report", "-i", str(out), "--no-children", "-g", "none", "--percent-limit", "0.7", "--stdio"]
    return subprocess.run(argv, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row")
    parser.add_argument("--variant", default="py")
    parser.add_argument("--client", action="store_true")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--top", type=int, default=25)
    parser.add_argument("--tool", default="py-spy")
    parser.add_argument("--native", action="store_true", help="py-spy: C functions too")
    given = parser.parse_args()
    with bench() as place:
        beam = place.beam(find_erlang("otp28"), "beam", "bench_peer" if given.client else "bench_client")
        if given.client:
            ours = place.start(
                [sys.executable, str(HERE / "client.py"), "strawbridge", place.name("py")], "ready", "py"
            )
            server, client = Subject("beam28", beam, place.name("beam")), Subject("py", ours, "", plain=True)
        else:
            ours = place.node("py")
            names = {n: n + "_inline" for n in ("echo", "calc", "sink")} if given.variant == "py-inline" else {}
            server, client = Subject("py", ours, place.name("py"), names), Subject("otp28", beam, "")
        stop = threading.Event()
        thread = threading.Thread(target=load, args=(client, server, given.row, stop))
        thread.start()
        time.sleep(1)
        used = ours.cpu()
        if given.tool == "perf":
            print(perf(ours, given.seconds, place.folder / "perf.data"))
        else:
            found = py_spy(ours, given.seconds, place.folder / "spy.txt", given.native)
            total = sum(count for _, count in found)
            for name, count in found[: given.top]:
                print(f"{count / total * 100:5.1f} %  {name}")
        print(f"{given.row} {given.variant}: {(ours.cpu() - used) / given.seconds:.0%} of a cpu")
        stop.set()
        thread.join()


if __name__ == "__main__":
    main()
