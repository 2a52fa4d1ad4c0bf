"""The C core's own tests: plain, under ASan+UBSan and TSan; the fuzz programs; nothing of it calls what it must not.

csrc/Makefile builds the programs, csrc/test has them. A program prints what failed and exits with 1; one that hangs is
ended by its alarm.
"""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CC = os.environ.get("CC", "gcc")
SANITIZERS = {"plain": [], "asan": ["-fsanitize=address,undefined"], "tsan": ["-fsanitize=thread"]}


@cache
def missing(sanitizer: str) -> str:
    """Why this compiler can't make, or this machine can't run, such programs."""
    command = [CC, *SANITIZERS[sanitizer], "-x", "c", "-", "-o", "/dev/null"]
    try:
        done = subprocess.run(
            command, input="int main(void) { return 0; }", text=True, capture_output=True, check=False
        )
    except FileNotFoundError:
        return f"{CC} is missing: apt-get install gcc"
    return "" if done.returncode == 0 else f"{CC} has no {' '.join(SANITIZERS[sanitizer])}"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("csrc")


def run(build: Path, sanitizer: str, program: str, *arguments: object) -> None:
    if missing(sanitizer):
        pytest.skip(missing(sanitizer))
    path = build / sanitizer / program
    made = subprocess.run(
        ["make", "-s", "-C", str(ROOT / "csrc"), f"BUILD={build}", f"CC={CC}", str(path)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    done = subprocess.run([path, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert done.stdout == "ok\n"


@pytest.mark.parametrize("sanitizer", ["plain", "asan"])
@pytest.mark.parametrize("program", ["test_pore", "test_host", "test_xen"])
def test_units(build: Path, sanitizer: str, program: str) -> None:
    run(build, sanitizer, program)


@pytest.mark.parametrize(("sanitizer", "size"), [("plain", 10_000_000), ("asan", 2_000_000), ("tsan", 2_000_000)])
def test_threads(build: Path, sanitizer: str, size: int) -> None:
    run(build, sanitizer, "test_threads", size)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("program", "rounds"), [("fuzz_pore", 3000), ("fuzz_host", 20000)])
def test_fuzz(build: Path, program: str, rounds: int, seed: int) -> None:
    run(build, "asan", program, seed, rounds)


def c_sources() -> list[Path]:
    return sorted((ROOT / "csrc" / "pore").glob("*.[ch]"))


def code(path: Path) -> str:
    """Without comments and texts."""
    return re.sub(r'/\*.*?\*/|"(\\.|[^"\\])*"', " ", path.read_text(), flags=re.DOTALL)


def test_atomics_are_in_ring_h_only() -> None:
    users = {path.name for path in c_sources() if re.search(r"\batomic_\w+|\b_Atomic\b|__sync_|__atomic_", code(path))}
    assert users == {"ring.h"}


def test_each_atomic_operation_names_its_order() -> None:
    text = (ROOT / "csrc" / "pore" / "ring.h").read_text()
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if not re.search(r"\batomic_\w+\(", line):
            continue
        assert re.search(r"memory_order_\w+", line), line
        above = "\n".join(lines[max(0, number - 6) : number + 1])
        assert re.search(r"Acquire|Release|Relaxed|Sequentially", above), line


def test_nothing_asserts_prints_or_aborts() -> None:
    for path in c_sources():
        found = re.findall(r"\b(?<!_)(assert|abort|exit|printf|fprintf|puts|perror)\s*\(", code(path))
        assert found == [], path


def test_the_data_path_neither_allocates_nor_calls_the_system() -> None:
    """pore.c and ring.h: reading and writing. What they call of others are locks, memcpy and the backend's poke."""
    forbidden = r"\b(malloc|calloc|realloc|free|mmap|munmap|send|recv|read|write|p?poll|close|clock_gettime)\s*\("
    for name in ("pore.c", "ring.h"):
        assert re.findall(forbidden, code(ROOT / "csrc" / "pore" / name)) == [], name


def test_the_core_knows_neither_python_nor_erlang() -> None:
    for path in [*c_sources(), *(ROOT / "csrc" / "include").glob("*.h")]:
        assert not re.search(r"#include\s*[<\"](Python|erl_nif|ei)\.h", path.read_text()), path
