"""A LING (tests/lingkit: as strict as one) and a Python node on a straw: both roles, both formats, every way to end.

A LING that would have died has died here: every test fails with why.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beamkit.commandline import CommandLine
from lingkit.driver import LingProcess
from lingkit.stage import PythonNode, Stage, stage
from lingkit.terms import Atom as A
from waiting import soon

from node import Atom
from pores.keys import Terms

pytestmark = pytest.mark.usefixtures("python_only")

#: More than twice the 16,376 bytes of a LING's ring.
LARGE = 100_000


@pytest.fixture
def on(epmd_port: int, cookie: str, tmp_path: Path) -> Iterator[Stage]:
    with stage(CommandLine(epmd_port, cookie, tmp_path)) as it:
        yield it


def both(on: Stage, opener: str) -> tuple[LingProcess, PythonNode]:
    """A LING of domain 5 with an inbox `buddy`, a node of domain 6, and a straw that one of them has opened."""
    ling, node = on.ling(5), on.node(6)
    ling.spawn("inbox", "buddy")
    connect(ling, node, opener)
    return ling, node


def connect(ling: LingProcess, node: PythonNode, opener: str) -> None:
    if opener == "ling":
        assert ling.open(node.domid) == ""
    else:
        assert node.strawman((Atom("open"), ling.domid)) is Atom("ok")
    wanted = ["passive" if opener == "ling" else "active", node.domid, "erlang"]
    soon(lambda: ling.status()["straws"] == [wanted] and node.rpc("domains") == [ling.domid])


def parted(on: Stage, ling: LingProcess, *others: int) -> None:
    """Nothing of a straw is left with the LING, nor in the store."""
    soon(lambda: not ling.status()["straws"])
    status = ling.status()
    assert (status["granted"], status["mapped"], status["pores"], status["watches"]) == (0, 0, 0, 1), status
    for domid in (ling.domid, *others):
        soon(lambda domid=domid: on.keys(domid) == [])


openers = pytest.mark.parametrize("opener", ["ling", "python"])
closers = pytest.mark.parametrize("closer", ["ling", "python"])


@openers
def test_messages_both_ways(on: Stage, opener: str) -> None:
    ling, node = both(on, opener)
    terms: list[tuple[Any, Any]] = [
        (0, 0),
        (-(2**27), -(2**27)),
        (2**27, 2**27),
        (2**31, 2**31),
        (-(10**40), -(10**40)),
        (2.5, 2.5),
        (Atom("h\xe9"), A("h\xe9")),
        (b"", b""),
        (b"x" * LARGE, b"x" * LARGE),
        ([1, 2, 3], [1, 2, 3]),
        ([256, Atom("a"), [b"deep", ()]], [256, A("a"), [b"deep", ()]]),
        ((Atom("t"),) * 300, (A("t"),) * 300),
    ]
    for ours, theirs in terms:
        assert node.send(5, "buddy", ours) is Atom("ok")
        got = ling.next("buddy")
        assert (got, type(got)) == (theirs, type(theirs))
        assert ling.send((6, A("inbox")), theirs) == ""
        got = node.next()
        assert (got, type(got)) == (ours, type(ours))
    assert ling.status()["notes"] == []


@openers
def test_many_large_messages_both_ways_at_once(on: Stage, opener: str) -> None:
    """Far more than the rings hold, in both directions: neither side waits for the other to read first."""
    ling, node = both(on, opener)
    sending = ling.start("send", to={"t": [6, {"a": "inbox"}]}, msgs=[{"b": "y" * LARGE}], times=30)
    for n in range(30):
        assert node.send(5, "buddy", (n, b"z" * LARGE)) is Atom("ok")
    assert ling.result(sending) == {}
    for n in range(30):
        assert ling.next("buddy") == (n, b"z" * LARGE)
        assert node.next() == b"y" * LARGE


@openers
def test_thousands_of_small_messages(on: Stage, opener: str) -> None:
    ling, node = both(on, opener)
    ling.send((6, A("inbox")), (A("small"), 1), times=3000)
    for _ in range(3000):
        assert node.next() == (Atom("small"), 1)


@pytest.mark.parametrize("first", ["ling", "python"])
def test_the_first_message_opens(on: Stage, first: str) -> None:
    ling, node = on.ling(5), on.node(6)
    ling.spawn("inbox", "buddy")
    if first == "ling":
        assert ling.send((6, A("inbox")), 1) == ""
        assert node.next() == 1
        assert node.send(5, "buddy", 2) is Atom("ok")
        assert ling.next("buddy") == 2
    else:
        assert node.send(5, "buddy", 1) is Atom("ok")
        assert ling.next("buddy") == 1
        assert ling.send((6, A("inbox")), 2) == ""
        assert node.next() == 2
    assert len(ling.status()["straws"]) == 1
    assert ling.send((77, A("nobody")), 1) == "bad_container: not_found"


@openers
@closers
def test_closing_from_either_end(on: Stage, opener: str, closer: str) -> None:
    """A LING closes only by stopping. Python closes, and it can be opened again, by either."""
    ling, node = both(on, opener)
    assert node.send(5, "buddy", b"x" * LARGE) is Atom("ok")
    if closer == "ling":
        assert ling.next("buddy") == b"x" * LARGE
        assert ling.stop() == "stopped"
        soon(lambda: node.rpc("domains") == [])
        soon(lambda: on.keys(6) == [])
        return
    for again in ("ling", "python", opener):
        assert node.rpc("close", 5) is True
        parted(on, ling, 6)
        connect(ling, node, again)
        assert node.send(5, "buddy", again.encode()) is Atom("ok")
        while (got := ling.next("buddy")) != again.encode():
            assert got == b"x" * LARGE, "what was sent before the end is not lost"
    assert ling.send((6, A("inbox")), 1) == ""
    assert node.next() == 1


@openers
def test_a_node_that_stops_while_a_ling_has_things_mapped(on: Stage, opener: str) -> None:
    ling, node = both(on, opener)
    assert node.send(5, "buddy", 1) is Atom("ok")
    os.kill(node.pid, signal.SIGTERM)
    parted(on, ling)
    assert ling.next("buddy") == 1
    again = on.node(7)  # the LING never gives its channels with 6 back
    connect(ling, again, opener)
    assert again.send(5, "buddy", 2) is Atom("ok")
    assert ling.next("buddy") == 2


@openers
def test_a_node_that_is_killed(on: Stage, opener: str) -> None:
    ling, node = both(on, opener)
    assert ling.send((6, A("inbox")), b"x" * LARGE) == ""
    os.kill(node.pid, signal.SIGKILL)
    parted(on, ling)
    again = on.node(7)
    connect(ling, again, opener)
    assert again.send(5, "buddy", 2) is Atom("ok")
    assert ling.next("buddy") == 2


@openers
def test_a_ling_that_is_killed(on: Stage, opener: str) -> None:
    ling, node = both(on, opener)
    ling.kill()
    soon(lambda: node.rpc("domains") == [])
    soon(lambda: on.keys(6) == [])
    again = on.ling(8)
    again.spawn("inbox", "buddy")
    connect(again, node, opener)
    assert node.send(8, "buddy", 2) is Atom("ok")
    assert again.next("buddy") == 2


def test_both_open_at_once(on: Stage) -> None:
    """Two LINGs that do this wait for ever. A LING and a node have two straws, or one; and either hears the other."""
    ling, node = on.ling(5), on.node(6)
    ling.spawn("inbox", "buddy")
    for turn in range(8):
        opening = ling.start("open", domid=6)
        answer = node.strawman((Atom("open"), 5))
        assert ling.result(opening) in ({}, {"error": "exists"})
        assert answer in (Atom("ok"), (Atom("error"), Atom("exists")))
        assert node.send(5, "buddy", turn) is Atom("ok")
        assert ling.next("buddy") == turn
        assert ling.send((6, A("inbox")), turn) == ""
        assert node.next() == turn
        while node.rpc("domains"):
            node.rpc("close", 5)
        parted(on, ling, 6)


def test_json(on: Stage) -> None:
    """A LING asks for nothing; a node that wants json has it."""
    ling, node = on.ling(5), on.node(6)
    ling.spawn("inbox", "buddy")
    assert node.strawman((Atom("open"), 5, Atom("json"))) is Atom("ok")
    soon(lambda: ling.status()["straws"] == [["active", 6, "json"]])
    for value, seen in (
        ({b"k": [1, 2.5, Atom("null"), b"h\xc3\xa9"]}, [(b"k", [1, 2.5, A("null"), b"h\xc3\xa9"])]),
        ({}, [()]),
        ([True, []], [A("true"), []]),
        (b"x" * LARGE, b"x" * LARGE),
        (10**30, 10**30),
    ):
        assert node.strawman((Atom("envelope"), (5, Atom("buddy")), value)) is Atom("ok")
        assert ling.next("buddy") == (A("json"), seen)
        assert ling.send((6, A("inbox")), seen) == ""
        assert node.next() == (Atom("json"), value)
    # What JSON can't say is an error to the sender, and nothing is sent.
    for value in ((1, 2), b"\xff", Atom("other")):
        answer = node.strawman((Atom("envelope"), (5, Atom("buddy")), value))
        assert answer[0] is Atom("error"), answer
    assert ling.status()["notes"] == []


def test_json_when_the_ling_opens(on: Stage) -> None:
    """The one that is knocked upon says json in the transaction that offers the pages: both use it."""
    ling, raw = on.ling(5), on.raw(6, Terms(format="json"))
    ling.spawn("inbox", "buddy")
    assert ling.open(6) == ""
    straw = raw.straw()
    assert straw.format == "json"
    assert ling.status()["straws"] == [["passive", 6, "json"]]
    raw.send(straw, b'{"addr": "buddy", "msg": {"k": [1, null]}}')
    assert ling.next("buddy") == (A("json"), [(b"k", [1, A("null")])])
    ling.send((6, A("inbox")), [(b"k", [1, A("null")])])
    assert raw.receive(straw) == b'{"addr":"inbox","msg":{"k":[1,null]}}'
    raw.close_straw(straw)
    parted(on, ling, 6)
