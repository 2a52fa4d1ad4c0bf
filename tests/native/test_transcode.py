"""The transcoder of erl/ (terms as bytes, no Erlang): golden cases, limits, random and mutated terms, under ASan+UBSan.

erl/test/c/test_transcode*.c print what failed and exit with 1; a run that hangs is ended by its alarm. What comes out
of the first is read by two strict readers: of what a LING takes, and of what may be handed to binary_to_term. The
second fills holes, against a plain table.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CC = os.environ.get("CC", "gcc")
SOURCES = [ROOT / "erl" / "c_src" / name for name in ("transcode.c", "transcode_fill.c")]
TESTS = ROOT / "erl" / "test" / "c"
FLAGS = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-fno-omit-frame-pointer"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def compile_test(name: str, target: Path, *flags: str) -> None:
    try:
        subprocess.run([CC, "--version"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip(f"{CC} is missing: apt-get install gcc")
    empty = "int main(void) { return 0; }"
    able = subprocess.run([CC, *flags, "-x", "c", "-", "-o", "/dev/null"], input=empty, text=True, capture_output=True)
    if able.returncode != 0:
        pytest.skip(f"{CC} has no {' '.join(flags)}")
    sources = [str(TESTS / name), *map(str, SOURCES)]
    made = subprocess.run([CC, *FLAGS, *flags, *sources, "-lm", "-o", str(target)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ["test_transcode.c", "test_transcode_fill.c"])
def test_with_sanitizers(tmp_path: Path, name: str, seed: int) -> None:
    compile_test(name, tmp_path / "test", *SANITIZE)
    done = subprocess.run([tmp_path / "test", str(seed), "50000"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert done.stdout == "ok\n"


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_it_is_plain_c(tmp_path: Path, source: Path) -> None:
    """No Erlang, no state of its own, no asserts, and C11 without extensions."""
    strict = ["-std=c11", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-O2", "-c"]
    done = subprocess.run([CC, *strict, str(source), "-o", str(tmp_path / "o")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = re.sub(r'/\*.*?\*/|"(\\.|[^"\\])*"', " ", source.read_text(), flags=re.DOTALL)
    assert re.findall(r"\b(assert|abort|exit|printf|fprintf|enif_\w+)\s*\(", text) == []
    symbols = subprocess.run(["nm", str(tmp_path / "o")], capture_output=True, text=True, check=True).stdout
    assert not re.search(r" [BbDdCc] ", symbols), symbols
