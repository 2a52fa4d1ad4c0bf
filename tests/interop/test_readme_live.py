"""The README's quick start, run as it is printed; only the names of the nodes are ours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from beamkit.beam import Beam, unique
from beamkit.commandline import ROOT, CommandLine
from samples import listing

README = (ROOT / "README.md").read_text()

pytestmark = pytest.mark.usefixtures("python_only")


def test_quick_start(epmd_port: int, cookie: str, beam: Beam, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(listing("README.md", "python", "# app.py"))
    name = unique("readme")
    session = re.findall(r"^\d+> (.*)\.\n(.*)\n", listing("README.md", "erlang"), re.MULTILINE)
    assert len(session) == 4
    with CommandLine(epmd_port, cookie, tmp_path).app("app.py:app", name):
        for text, answer in session:
            assert beam.eval(text.replace("py@127.0.0.1", name)) == answer


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", README)
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
