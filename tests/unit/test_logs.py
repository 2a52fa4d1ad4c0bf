"""Log lines that strangers can cause are bounded; the names of the loggers are those in the docs."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from node.logs import LINES, PERIOD, SparingLog

ROOT = Path(__file__).parents[2]


def test_lines_of_one_kind_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    sparing = SparingLog(logging.getLogger("strawbridge.test"), lambda: now)
    with caplog.at_level(logging.INFO):
        for number in range(1000):
            sparing.write(logging.WARNING, "cookie", "refused %d", number)
        sparing.write(logging.WARNING, "flags", "another kind")
        assert len(caplog.records) == LINES + 2
        assert caplog.records[LINES].getMessage().startswith("more lines like this are left out")
        assert caplog.records[LINES].getMessage().endswith(f"refused {LINES}")
        caplog.clear()
        now = PERIOD
        sparing.write(logging.WARNING, "cookie", "refused again")
        sparing.write(logging.DEBUG, "cookie", "below the level: costs and counts nothing")
        assert [record.getMessage() for record in caplog.records] == [
            f"{1000 - LINES} more lines like the next one were left out",
            "refused again",
        ]


def test_one_family_of_loggers_and_the_docs_name_them_all() -> None:
    names = set()
    for file in [*(ROOT / "node").rglob("*.py"), *(ROOT / "pores").rglob("*.py")]:
        for call in re.findall(r"getLogger\(([^)]*)\)", file.read_text()):
            assert re.fullmatch(r'"strawbridge\.[a-z_]+"', call), f"{file}: {call}"
            names.add(call.strip('"'))
    page = (ROOT / "docs" / "operations.md").read_text()
    assert set(re.findall(r"^\| `(strawbridge\.[a-z_]+)`", page, re.MULTILINE)) == names
