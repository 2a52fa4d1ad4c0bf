"""The set-up: what make and tools/debian.sh say and install, without installing anything."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT, check=False, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **env}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def old_python(folder: Path) -> Path:
    """A program that is Python 3.9 as far as make can see."""
    program = folder / "python3"
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && { echo Python 3.9.2; exit 0; }\nexit 1\n')
    program.chmod(0o755)
    return program


def test_an_old_python_is_named(tmp_path: Path) -> None:
    done = run("make", "build", f"VENV={tmp_path / 'venv'}", f"PYTHON={old_python(tmp_path)}")
    assert done.returncode != 0
    assert "is Python 3.9.2; Python 3.11 or newer is needed" in done.stdout
    assert not (tmp_path / "venv").exists()


def test_when_there_is_only_an_old_python(tmp_path: Path) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    old_python(bin_folder)
    for name in ("make", "sh", "mkdir", "touch"):
        (bin_folder / name).symlink_to(shutil.which(name) or "")
    done = run("make", "build", f"VENV={tmp_path / 'venv'}", PATH=str(bin_folder))
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed; found: Python 3.9.2" in done.stdout


def test_help_names_every_target() -> None:
    targets = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    out = run("make", "help").stdout
    assert [name for name in targets[1].split() if name != "help" and f"make {name}" not in out] == []


def test_the_packages_that_tests_ask_for_are_installed_by_the_set_up() -> None:
    """A skip says what to install; on a bare machine make has done so before."""
    script = (ROOT / "tools" / "debian.sh").read_text()
    wanted = set()
    for path in [*ROOT.glob("tests/**/*.py"), *ROOT.glob("node/cli/*.py")]:
        text = path.read_text()
        asked = re.findall(r'\bneed\("[^"]+", "([^"]+)"\)', text)
        for names in [*asked, *re.findall(r"apt-get install ((?:[a-z][a-z0-9.+-]+ ?)+)", text)]:
            wanted |= set(names.split())
    assert "erlang-base" in wanted
    assert sorted(name for name in wanted if not re.search(rf"\b{re.escape(name)}\b", script)) == []


@pytest.mark.parametrize(("shell", "script"), [("sh", "tools/debian.sh"), ("bash", ".ci/run")])
def test_scripts_are_programs(shell: str, script: str) -> None:
    assert (ROOT / script).stat().st_mode & 0o111
    done = run(shell, "-n", ROOT / script)
    assert done.returncode == 0, done.stdout


def test_the_debian_script_without_an_argument() -> None:
    done = run("tools/debian.sh")
    assert done.returncode == 2
    assert "usage" in done.stdout
