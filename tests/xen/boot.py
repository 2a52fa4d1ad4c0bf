"""Boots Xen under qemu, reads the serial console until the end, and ends qemu. No KVM is used, and none is needed.

python boot.py WORK [SCENARIO,...]: builds what is missing, boots, prints a line for each scenario.
"""

from __future__ import annotations

import os
import re
import resource
import selectors
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import images
from images import Missing

__all__ = ["Boot", "Missing", "boot", "need"]

QEMU = "qemu-system-x86_64"
#: Seconds for the whole of it: well above what a slow machine takes.
LIMIT = int(os.environ.get("XEN_TEST_LIMIT", "900"))
#: Megabytes: of the machine, of dom0, of a guest.
MEMORY, DOM0, GUEST = 1600, 800, 288


@dataclass
class Boot:
    """What has come of it so far. results: (verdict, seconds) of scenarios. over: the machine is off."""

    results: dict[str, tuple[str, float]] = field(default_factory=dict)
    errors: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0
    megabytes: float = 0
    ended: bool = False
    over: bool = False
    stop: bool = False
    """To be set by who wants it to end now."""
    log: Path = Path()


def need() -> str:
    """What is missing to boot at all; "" when nothing is."""
    if shutil.which(QEMU) is None:
        return f"no {QEMU} (tools/debian.sh xen)"
    return ""


def boot(work: Path, scenarios: str = "all", quiet: bool = True, found: Boot | None = None) -> Boot:
    """Boots with the images in `work` and runs the scenarios; `found` tells at any time how far that is.

    The whole console is in work/console.log.
    """
    found = found or Boot()
    found.log = work / "console.log"
    smp = min(2, os.cpu_count() or 1)
    xen = f"console=com1 com1=115200,8n1 dom0_mem={DOM0}M,max:{DOM0}M noreboot=1 conring_size=512k"
    if smp > 1:
        xen += " dom0_max_vcpus=1 dom0_vcpus_pin"  # a processor for dom0, one for the guests
    # qemu's -initrd takes "kernel arguments,initrd": Xen's modules. A comma in arguments is written twice.
    wanted = scenarios.replace(",", ",,")
    linux = f"{work}/vmlinux console=hvc0 rdinit=/init loglevel=4 guest_memory={GUEST} scenarios={wanted}"
    command = [
        QEMU,
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "qemu64",
        "-smp",
        str(smp),
        "-m",
        str(MEMORY),
        "-nic",
        "none",
    ]
    command += ["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot", "-kernel", f"{work}/xen"]
    command += ["-append", xen, "-initrd", f"{linux},{work}/dom0.img"]
    start = time.monotonic()
    dies_with_us = ["setpriv", "--pdeathsig", "KILL"]  # however we end
    process = subprocess.Popen(
        dies_with_us + command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        with found.log.open("w") as log, selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            rest = b""
            ending = start + LIMIT
            while (left := ending - time.monotonic()) > 0 and not found.stop:
                if not selector.select(min(left, 1)):
                    continue
                data = os.read(process.stdout.fileno(), 65536)
                *lines, rest = (rest + data).split(b"\n")
                for raw in lines:
                    line = raw.decode("utf-8", "replace").rstrip("\r")
                    log.write(f"{time.monotonic() - start:7.2f} {line}\n")
                    log.flush()
                    _take(found, line)
                    if not quiet and ("SCENARIO" in line or line.startswith("E ")):
                        print(line, flush=True)
                if not data:
                    break
                if found.ended:
                    ending = min(ending, time.monotonic() + 10)  # what it takes to power off
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
        found.over = True
    found.seconds = time.monotonic() - start
    found.megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return found


def _take(found: Boot, line: str) -> None:
    if match := re.search(r"SCENARIO (\w+) (PASSED|FAILED) ([0-9.]+)", line):
        found.results[match[1]] = (match[2], float(match[3]))
    elif match := re.match(r"E (\w+): (.*)", line):
        found.errors.setdefault(match[1], []).append(match[2])
    elif line.endswith("THE END"):
        found.ended = True


def main(arguments: list[str]) -> int:
    work = Path(arguments[0]).resolve()
    if why := need():
        print(why)
        return 1
    begin = time.monotonic()
    images.build(work)
    print(f"images: {time.monotonic() - begin:.1f} s")
    found = boot(work, arguments[1] if len(arguments) > 1 else "all", quiet=False)
    bad = [name for name, (verdict, _) in found.results.items() if verdict != "PASSED"]
    print(f"{len(found.results) - len(bad)} passed, {len(bad)} failed, {found.seconds:.0f} s, {found.megabytes:.0f} MB")
    return 0 if found.ended and found.results and not bad else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
