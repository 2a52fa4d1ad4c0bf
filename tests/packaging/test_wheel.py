"""What a user gets: the wheel, built from the sdist, installed where nothing else is, used from an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What is built from: not this tree's own build products, which would leak into a wheel.
SOURCES = ("LICENSE", "MANIFEST.in", "README.md", "csrc", "node", "pores", "pyproject.toml", "setup.py")
IGNORED = shutil.ignore_patterns("*.so", "*.o", "__pycache__", "*.egg-info")


def run(*command: object, cwd: Path) -> str:
    """Output of a command that must succeed, with nothing of this Python in its environment."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON") and k != "VIRTUAL_ENV"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=env, check=False, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was built from it."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=IGNORED)
        else:
            shutil.copy2(path, source / name)
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=source)
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("strawbridge-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a virtual environment with the wheel in it and nothing else."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True, system_site_packages=False)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-index", "--no-deps", wheel, cwd=folder)
    return folder / "bin"


def test_the_wheel_has_our_packages_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} <= {"node", "pores"}
    kinds = (".py", ".pyi", ".so", "py.typed", ".beam", ".app")
    assert [name for name in names if ".dist-info/" not in name and not name.endswith(kinds)] == []
    assert {"node/py.typed", "pores/py.typed"} <= set(names)
    assert "node/__init__.py" in names
    extensions = [name for name in names if name.endswith(".so")]
    assert sorted(name.split(".")[0] for name in extensions) == ["node/_etf", "pores/_pore"]
    for stem in {name.split(".")[0] for name in extensions}:
        assert f"{stem}.pyi" in names, "every extension has a stub beside it"
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_every_module_of_the_tree_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for package in ("node", "pores"):
        for path in (ROOT / package).rglob("*.py*"):
            if path.suffix in (".py", ".pyi"):
                assert path.relative_to(ROOT).as_posix() in names


def test_the_sdist_builds_alone(built: Path) -> None:
    """The wheel was made from it; it also brings the licence and all of the C."""
    (sdist,) = built.glob("strawbridge-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert "LICENSE" in names
    for path in [*ROOT.glob("csrc/*/*.[ch]"), *ROOT.glob("csrc/ffi/*.py")]:
        assert path.relative_to(ROOT).as_posix() in names


def test_import_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    out = run(installed / "python", "-c", "import node; print(node.__file__); node.Atom('a')", cwd=tmp_path)
    assert str(installed.parent) in out


def test_every_name_of_the_public_face_is_there(installed: Path, tmp_path: Path) -> None:
    run(installed / "python", "-c", "import node; [getattr(node, name) for name in node.__all__]", cwd=tmp_path)


def test_importing_starts_nothing(installed: Path, tmp_path: Path) -> None:
    code = "import threading, sys, node; assert threading.active_count() == 1; assert 'pores' not in sys.modules"
    run(installed / "python", "-c", code, cwd=tmp_path)


def test_the_command_line(installed: Path, tmp_path: Path) -> None:
    assert "strawbridge" in run(installed / "strawbridge", "--help", cwd=tmp_path)
    assert "strawbridge" in run(installed / "python", "-m", "node", "--help", cwd=tmp_path)


def test_types_are_seen_by_a_type_checker(installed: Path, tmp_path: Path) -> None:
    """mypy in our environment looks at the installed wheel, as a user's would: py.typed and stubs are in it."""
    program = tmp_path / "program.py"
    program.write_text((ROOT / "tests" / "typing" / "listing.py").read_text())
    run(
        sys.executable, "-m", "mypy", "--strict", "--python-executable", installed / "python",
        "--cache-dir", tmp_path / "cache", program, cwd=tmp_path,
    )  # fmt: skip
