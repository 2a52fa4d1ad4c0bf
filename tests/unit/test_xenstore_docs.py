"""What docs/xenstore.md says of limits and calls is so."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from pores.xenstore import server
from pores.xenstore.client import XenStore
from pores.xenstore.limits import Limits
from pores.xenstore.paths import MAX_PATH
from pores.xenstore.wire import MAX_PAYLOAD

GUIDE = (Path(__file__).parents[2] / "docs" / "xenstore.md").read_text()


def test_the_table_of_limits() -> None:
    table = GUIDE.split("<!-- table: limits -->")[1].split("<!-- end -->")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", table, re.MULTILINE))
    assert {name: int(value) for name, value in rows.items()} == dataclasses.asdict(Limits())


def test_other_numbers() -> None:
    text = " ".join(GUIDE.split())
    assert f"{MAX_PATH} characters" in text
    assert f"{MAX_PAYLOAD} bytes after its header" in text
    assert f"{server.REQUESTS_A_TURN} requests of each" in text
    assert f"{server.UNREAD_LIMIT >> 20} MiB of unread events" in text
    assert f"{server.CONNECTIONS} connections" in text


def test_the_calls_exist() -> None:
    table = GUIDE.split("| call |")[1].split("\n\n")[0]
    calls = re.findall(r"`(\w+)\(", "\n".join(line.split("|")[1] for line in table.splitlines() if "`" in line))
    assert len(calls) > 15
    for call in calls:
        assert callable(getattr(XenStore, call)), call
