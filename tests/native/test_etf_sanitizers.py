"""The unit, property and leak-path tests of the codec once more, on a build with AddressSanitizer and UBSan."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = ["-g", "-O1", "-std=c11", "-fno-omit-frame-pointer", "-fno-wrapv"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
TESTS = ["tests/unit/test_etf.py", "tests/unit/test_etf_maps.py", "tests/unit/test_etf_frames.py"]
TESTS += ["tests/unit/test_etf_ling.py", "tests/unit/test_etf_golden.py", "tests/unit/test_terms.py"]
TESTS += ["tests/unit/test_strawman_tables.py", "tests/property/test_etf_roundtrip.py"]
TESTS += ["tests/property/test_straw_tables.py"]


def library(gcc: str, name: str) -> str:
    path = subprocess.run([gcc, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
    return os.path.realpath(path) if os.path.isabs(path) else ""


def test_codec_under_sanitizers(tmp_path: pathlib.Path) -> None:
    gcc = shutil.which("gcc")
    asan = library(gcc, "libasan.so") if gcc else ""
    if gcc is None or not asan:
        pytest.skip("gcc with libasan is not installed (Debian: gcc, libgcc-12-dev)")
    # a copy of the package whose extension is the instrumented one
    shutil.copytree(ROOT / "node", tmp_path / "node", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for folder in ("unit", "property", "golden"):
        shutil.copytree(
            ROOT / "tests" / folder, tmp_path / "tests" / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    target = tmp_path / "node" / f"_etf{sysconfig.get_config_var('EXT_SUFFIX')}"
    sources = sorted(map(str, (ROOT / "csrc" / "etf").glob("*.c")))
    include = [f"-I{sysconfig.get_paths()['include']}", f"-I{ROOT / 'csrc' / 'etf'}"]
    build = [gcc, "-shared", "-fPIC", "-fvisibility=hidden", *FLAGS, *SANITIZE, *include, *sources, "-o", str(target)]
    subprocess.run(build, check=True, timeout=300)
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "LD_PRELOAD": asan,
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    check = (
        "import node._etf as e; maps = open('/proc/self/maps').read();"
        f"assert e.__file__ == {str(target)!r}, e.__file__; assert 'libasan' in maps, 'not instrumented';"
        "import ctypes; assert ctypes.CDLL(None).__asan_init, 'no asan'; print('instrumented')"
    )
    shown = subprocess.run(
        [sys.executable, "-c", check], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert shown.stdout.strip() == "instrumented", shown.stderr[-3000:]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-6000:]
    assert "AddressSanitizer" not in run.stderr
    assert "runtime error" not in run.stderr
