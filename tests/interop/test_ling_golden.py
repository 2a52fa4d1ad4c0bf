"""The conversations of tests/golden/ling_straws.json happen again, byte for byte; their bytes are read by two."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # lingkit, golden; there is no __init__.py below tests/

from golden import ling_record
from lingkit import ext

from node import etf

GOLDEN: dict[str, dict[str, Any]] = json.loads(ling_record.FILE.read_text())
FRAMES = [
    pytest.param(direction, bytes.fromhex(frame), id=f"{name}-{direction}-{n}")
    for name, parts in GOLDEN.items()
    if name != "json"
    for direction in ("to ling", "to node")
    for n, frame in enumerate(parts[direction])
]


@pytest.mark.parametrize("name", GOLDEN)
def test_it_happens_again(name: str) -> None:
    again = ling_record.record(name)
    assert json.loads(json.dumps(again)) == GOLDEN[name]


def test_none_is_missing() -> None:
    assert list(GOLDEN) == list(ling_record.CONVERSATIONS)


@pytest.mark.parametrize(("direction", "frame"), FRAMES)
def test_frames_are_read_by_both(direction: str, frame: bytes) -> None:
    """LING's reader takes every one, and what a LING wrote it would write again; ours reads both."""
    term = ext.decode(frame, ling_record.LING)
    if direction == "to node":
        assert ext.encode(term, ling_record.LING) == frame
    ours = etf.decode(frame, dialect="ling")
    assert etf.encode(ours, dialect="ling") == frame or direction == "to node"


@pytest.mark.parametrize("name", GOLDEN)
def test_what_would_kill_a_ling_is_not_in_them(name: str) -> None:
    """An empty value, a second event on the knock, a word in the straw directory after it, a directory of its own."""
    changes = GOLDEN[name]["node changes"]
    for change in changes:
        assert change[0] != "write" or len(change) == 3, change
    opened = f"/local/domain/{ling_record.LING}/data/straw/{ling_record.NODE}"
    about = [change for change in changes if len(change) > 1 and change[1].startswith(opened)]
    knocks = [n for n, change in enumerate(about) if change[:2] == ["write", f"{opened}/warts"]]
    assert [change[0] for change in about] == ["rm", "mkdir", "set_perms", "write"] * len(knocks)
