"""The guides' apps and command lines, run as they are printed; only the names of the nodes are ours."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from beamkit.beam import Beam, unique
from beamkit.commandline import CommandLine
from samples import listing, listings

pytestmark = pytest.mark.usefixtures("python_only")


@pytest.fixture
def cli(epmd_port: int, cookie: str, tmp_path: Path) -> CommandLine:
    return CommandLine(epmd_port, cookie, tmp_path)


def app_of(guide: str) -> str:
    return listing(f"docs/{guide}", "python", "# app.py")


def commands_of(guide: str) -> list[tuple[list[str], str]]:
    """(arguments, output) for each `$ strawbridge ...` that shows its output."""
    sessions = "\n".join(listings(f"docs/{guide}", "console"))
    found = re.findall(r"^\$ strawbridge (.*)\n((?:[^$\n].*\n)+)", sessions, re.MULTILINE)
    return [(shlex.split(line), output) for line, output in found if not line.startswith("run ")]


@pytest.mark.parametrize("guide", ["guide-python.md", "guide-erlang.md", "cli.md"])
def test_app(cli: CommandLine, beam: Beam, tmp_path: Path, guide: str) -> None:
    (tmp_path / "app.py").write_text(app_of(guide))
    name = unique("docs")
    with cli.app("app.py:app", name):
        assert beam.eval("net_adm:ping(Py)", Py=name) == "pong"
        if guide != "cli.md":
            assert beam.eval("gen_server:call({calc, Py}, {add, 2, 3})", Py=name) == "5"
            crash = "try gen_server:call({calc, Py}, dance) catch exit:_ -> crashed end"
            assert beam.eval(crash, Py=name) == "crashed"
        if guide != "guide-erlang.md":
            echoed = "{echo, Py} ! {self(), 1, hello}, receive {1, hello} -> ok after 30000 -> timeout end"
            assert beam.eval(echoed, Py=name) == "ok"


def test_command_lines(cli: CommandLine, beam: Beam, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(app_of("guide-python.md"))
    name = unique("docs")
    names = {"py@127.0.0.1": name, "a@127.0.0.1": beam.name}
    shown = commands_of("cli.md") + commands_of("guide-python.md")
    assert len(shown) >= 5
    with cli.app("app.py:app", name):
        for argv, output in shown:
            if not any("Elixir." in arg for arg in argv):  # this BEAM has no Elixir
                assert cli.run(*(names.get(arg, arg) for arg in argv)) == (0, output, ""), argv
