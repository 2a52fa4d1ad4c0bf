"""The conversations of tests/golden/ling_straws.json happen again, byte for byte; their bytes are read by two."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beamkit.beam import Beam
from beamkit.runtimes import RELEASES
from beamkit.strawpeer import ROOT, build_app
from golden import ling_record
from golden.ling_record import LING, NODE, Conversation
from lingkit import ext
from test_ling_sources import HERE, compiled

from node import Atom, etf

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
    term = ext.decode(frame, LING)
    if direction == "to node":
        assert ext.encode(term, LING) == frame
    ours = etf.decode(frame, dialect="ling")
    assert etf.encode(ours, dialect="ling") == frame or direction == "to node"


@pytest.mark.parametrize("name", GOLDEN)
def test_what_would_kill_a_ling_is_not_in_them(name: str) -> None:
    """An empty value, a second event on the knock, a word in the straw directory after it, a directory of its own."""
    changes = GOLDEN[name]["node changes"]
    for change in changes:
        assert change[0] != "write" or len(change) == 3, change
    opened = f"/local/domain/{LING}/data/straw/{NODE}"
    about = [change for change in changes if len(change) > 1 and change[1].startswith(opened)]
    knocks = [n for n, change in enumerate(about) if change[:2] == ["write", f"{opened}/warts"]]
    assert [change[0] for change in about] == ["rm", "mkdir", "set_perms", "write"] * len(knocks)


# LING's own strawman, on a BEAM: is the stand-in like it?


@pytest.fixture
def conversation() -> Iterator[Conversation]:
    folder = tempfile.mkdtemp(prefix="ling-")  # short: it holds unix sockets
    it = Conversation(Path(folder))
    with it.hosted():
        yield it
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(sorted((HERE / "ling").glob("*.erl")), tmp_path_factory.mktemp("ling"))


@pytest.mark.parametrize("otp", RELEASES)
@pytest.mark.parametrize("opener", ["node", "ling"])
def test_lings_own_strawman_says_the_same(
    conversation: Conversation, start_beam: Callable[..., Beam], sources: Path, opener: str, otp: str
) -> None:
    """Key for key what the golden conversations have of the stand-in, and the node answers it in the same way."""
    it = conversation
    beam = start_beam(otp, name=None, paths=[build_app(), ROOT / "erl" / "shims" / "ebin", sources])
    assert beam.eval(f'ling_probe:start("{it.rundir}", {LING})') == str(LING)
    with it.with_node():
        if opener == "node":
            assert it.run(it.node.call("strawman", (Atom("open"), LING))) is Atom("ok")
        else:
            assert beam.eval(f"strawman:open({NODE})") == "ok"
        it.soon(lambda: beam.eval("ling_probe:straws()") != "[]")
        it.run(it.node.strawman.close(LING))
        it.soon(lambda: beam.eval("ling_probe:straws()") == "[]")
        it.quiet()
    name = "node opens and closes" if opener == "node" else "ling opens, node closes"
    heard = json.loads(json.dumps({"ling": it.changes[LING], "node": it.changes[NODE], "states": it.states}))
    golden = GOLDEN[name]
    assert heard == {"ling": golden["ling changes"], "node": golden["node changes"], "states": golden["states"]}
