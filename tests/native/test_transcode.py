"""The transcoder of erl/ (terms as bytes, no Erlang): golden cases, limits, random and mutated terms, under ASan+UBSan.

erl/test/c/test_transcode.c prints what failed and exits with 1; a run that hangs is ended by its alarm. What comes out
is read by two strict readers: of what a LING takes, and of what may be handed to binary_to_term.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CC = os.environ.get("CC", "gcc")
SOURCE = ROOT / "erl" / "c_src" / "transcode.c"
TEST = ROOT / "erl" / "test" / "c" / "test_transcode.c"
FLAGS = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-fno-omit-frame-pointer"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def compile_test(target: Path, *flags: str) -> None:
    try:
        subprocess.run([CC, "--version"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip(f"{CC} is missing: apt-get install gcc")
    empty = "int main(void) { return 0; }"
    able = subprocess.run([CC, *flags, "-x", "c", "-", "-o", "/dev/null"], input=empty, text=True, capture_output=True)
    if able.returncode != 0:
        pytest.skip(f"{CC} has no {' '.join(flags)}")
    made = subprocess.run(
        [CC, *FLAGS, *flags, str(TEST), str(SOURCE), "-lm", "-o", str(target)], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize("seed", [1, 2])
def test_with_sanitizers(tmp_path: Path, seed: int) -> None:
    compile_test(tmp_path / "test", *SANITIZE)
    done = subprocess.run([tmp_path / "test", str(seed), "50000"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert done.stdout == "ok\n"


def test_it_is_plain_c(tmp_path: Path) -> None:
    """No Erlang, no state of its own, no asserts, and C11 without extensions."""
    strict = ["-std=c11", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-O2", "-c"]
    done = subprocess.run([CC, *strict, str(SOURCE), "-o", str(tmp_path / "o")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = re.sub(r'/\*.*?\*/|"(\\.|[^"\\])*"', " ", SOURCE.read_text(), flags=re.DOTALL)
    assert re.findall(r"\b(assert|abort|exit|printf|fprintf|enif_\w+)\s*\(", text) == []
    symbols = subprocess.run(["nm", str(tmp_path / "o")], capture_output=True, text=True, check=True).stdout
    assert not re.search(r" [BbDdCc] ", symbols), symbols
