"""The tree and the listing that users write against pass mypy --strict and pyright, and what is wrong does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LISTING = Path(__file__).with_name("listing.py")

# Each line put at the end of the listing is an error that a user should be told about.
MISTAKES = [
    'Node("py@127.0.0.1", cookies="secret")',
    "Atom(1)",
    'Process.receive(timeout="soon")',
    "Node.no_such_method",
]


def mypy(folder: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    """What mypy says of these, or of all that pyproject.toml names."""
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"), *map(str, paths)]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def pyright(*paths: Path) -> subprocess.CompletedProcess[str]:
    """What pyright says of these, or of all that pyproject.toml names."""
    program = Path(sys.executable).with_name("basedpyright")
    found = str(program) if program.exists() else shutil.which("basedpyright")
    assert found, "basedpyright is missing: pip install basedpyright (extra 'test')"
    command = [found, "--pythonpath", sys.executable, "--project", str(ROOT / "pyproject.toml"), "--level", "error"]
    return subprocess.run(
        [*command, *map(str, paths)], cwd=ROOT, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("typing")


def test_the_listing_passes_mypy(folder: Path) -> None:
    done = mypy(folder, LISTING)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_listing_passes_pyright() -> None:
    done = pyright(LISTING)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mistakes_are_found(folder: Path) -> None:
    """One run of each checker: every line that is wrong is reported, and no other."""
    text = LISTING.read_text()
    first = text.count("\n") + 1
    program = folder / "mistakes.py"
    program.write_text(text + "".join(f"{line}\n" for line in MISTAKES))
    for done in (mypy(folder, program), pyright(program)):
        assert done.returncode == 1, done.stdout + done.stderr
        for number, line in enumerate(MISTAKES, first):
            assert f"mistakes.py:{number}:" in done.stdout, line


def test_the_tree_passes_mypy(folder: Path) -> None:
    done = mypy(folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tree_passes_pyright() -> None:
    done = pyright()
    assert done.returncode == 0, done.stdout + done.stderr
