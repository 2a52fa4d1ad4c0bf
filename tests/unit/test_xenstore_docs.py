"""What docs/xenstore.md says of limits and calls is so."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from pathlib import Path

import pytest
from samples import execute, listing
from waiting import run, until

from pores.xenstore import server
from pores.xenstore.client import XenStore
from pores.xenstore.limits import Limits
from pores.xenstore.paths import MAX_PATH
from pores.xenstore.wire import MAX_PAYLOAD

PAGE = "docs/xenstore.md"
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


def test_the_store_and_its_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All three listings together: the store that is made is the one that is used."""
    path = str(tmp_path / "socket")
    monkeypatch.setenv("XENSTORED_PATH", path)
    before, after = listing(PAGE, "python", "from pores.xenstore.server").replace(
        "/run/user/1000/strawbridge/xenstored/socket", path
    ).split("server.release(5)")  # fmt: skip

    async def test() -> None:
        names = await execute(before, {})
        await execute(listing(PAGE, "python", "from pores.xenstore.client"), {})
        async with await XenStore.connect() as store:
            watching = asyncio.create_task(execute(listing(PAGE, "python", "async with store.owner"), {"store": store}))
            await until(lambda: store.watches == 2)
            await store.write("data/straw", "x")
            watching.cancel()
            await asyncio.wait([watching])
        names["sock"].close()
        await execute("server.release(5)" + after, names)

    run(test)
    assert capsys.readouterr().out.startswith("b'hello'\nchanged:")
