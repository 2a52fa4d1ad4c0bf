"""The codec without its knowledge of how CPython lays out big integers (csrc/etf/long.h): other builds' fallback."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def test_integers_through_the_public_calls(tmp_path: pathlib.Path) -> None:
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("gcc is not installed (Debian: gcc)")
    for folder in ("node", "tests/unit"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    target = tmp_path / "node" / f"_etf{sysconfig.get_config_var('EXT_SUFFIX')}"
    sources = sorted(map(str, (ROOT / "csrc" / "etf").glob("*.c")))
    include = [f"-I{sysconfig.get_paths()['include']}", f"-I{ROOT / 'csrc' / 'etf'}"]
    flags = ["-O1", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-DETF_PUBLIC_LONG"]
    subprocess.run([gcc, "-shared", "-fPIC", *flags, *include, *sources, "-o", str(target)], check=True, timeout=300)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/test_etf.py"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
