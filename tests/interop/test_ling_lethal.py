"""What kills a LING, or makes it wait for ever, does not come from us (tests/lingkit dies where a LING dies).

Terms that it can't read or can't send on, memory that is taken from under it, knocks that are taken back, keys of a
run that ended badly, and a LING that is busy with something else for longer than anybody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beamkit.beam import Beam
from beamkit.commandline import CommandLine
from lingkit.driver import LingDied, LingProcess
from lingkit.stage import RawDomain, Stage, stage
from lingkit.terms import Atom as A
from membranekit.processes import Peer
from waiting import soon

from node import Atom
from pores.aio import Membrane
from pores.errors import MembraneError

pytestmark = pytest.mark.usefixtures("python_only")

OK, ENVELOPE, BUDDY = Atom("ok"), Atom("envelope"), Atom("buddy")


@pytest.fixture
def on(epmd_port: int, cookie: str, tmp_path: Path) -> Iterator[Stage]:
    with stage(CommandLine(epmd_port, cookie, tmp_path)) as it:
        yield it


@contextlib.contextmanager
def busy(ling: LingProcess) -> Iterator[None]:
    """The LING does nothing at all: its VM is stopped."""
    os.kill(ling.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(ling.pid, signal.SIGCONT)


def deep(levels: int) -> Any:
    term: Any = []
    for _ in range(levels):
        term = [term, 0]
    return term


def lings(on: Stage) -> LingProcess:
    ling = on.ling(5)
    ling.spawn("inbox", "buddy")
    return ling


# The stand-in is worth something only if it dies where a LING does.


def envelope(body: bytes) -> bytes:
    return b"\x83h\x03s\x08envelopes\x05buddy" + body


@pytest.mark.parametrize(
    "frame",
    [
        envelope(b"w\x01a"),  # SMALL_ATOM_UTF8_EXT
        envelope(b"v\x00\x01a"),
        envelope(b"Xs\x01a" + bytes(12)),  # NEW_PID_EXT
        envelope(b"Z\x00\x03s\x01a" + bytes(16)),  # NEWER_REFERENCE_EXT
        envelope(b"r\x00\x03s\x01a\x00" + b"\xff" * 12),
        envelope(b"r\x00\x05s\x01a\x00" + bytes(20)),
        envelope(b"gs\x01a" + bytes(9)),  # a pid of another node
        envelope(b"n\x01\x00\x05"),
        envelope(b"F\x7f\xf0" + bytes(6)),
        envelope(b"l\x00\x00\x00\x01" * 1001 + b"j" * 1002),
        b"\x83P" + bytes(20),
        b"\x83h\x02s\x01aa\x05",
    ],
    ids=lambda frame: frame[-16:].hex(),
)
def test_the_stand_in_dies_of_what_a_ling_cannot_read(on: Stage, frame: bytes) -> None:
    raw = on.raw(6)
    ling = LingProcess(on.rundir, 5)
    try:
        raw.send(raw.open(5), frame)
        with pytest.raises(LingDied, match="a message that it can't read from domain 6"):
            soon(lambda: ling.do("status") is None)
    finally:
        ling.kill()


def test_the_stand_in_dies_of_a_map_that_it_sends_on(on: Stage) -> None:
    raw = on.raw(6)
    ling = LingProcess(on.rundir, 5)
    try:
        raw.send(raw.open(5), envelope(b"t\x00\x00\x00\x00"))
        assert ling.do("spawn", kind="inbox", name="buddy")
        with pytest.raises(LingDied, match="it encodes a map"):
            ling.send((6, A("inbox")), {})
            soon(lambda: ling.do("status") is None)
    finally:
        ling.kill()


def test_the_stand_in_dies_of_withdrawn_knocks_empty_values_and_dead_refs(on: Stage) -> None:
    other = on.ling(6)
    theirs, ours = "/local/domain/5/data/straw/6", "/local/domain/6/data/warts/5"

    def dies(why: str, *keys: tuple[str, str], withdraw: bool = False, opens: bool = False) -> None:
        ling = LingProcess(on.rundir, 5)
        try:

            async def write(store: Any) -> None:
                if withdraw:
                    os.kill(ling.pid, signal.SIGSTOP)
                for path, value in keys:
                    await store.write(path, value)
                if withdraw:
                    await store.delete(keys[-1][0])
                    os.kill(ling.pid, signal.SIGCONT)

            if opens:
                ling.start("open", domid=6)
                soon(lambda: any(key.endswith("/straw/5/warts") for key in on.keys(6)))
            on.store(write)
            with pytest.raises(LingDied, match=why):
                soon(lambda: ling.do("status") is None)
        finally:
            ling.kill()
            soon(lambda: not (on.rundir / "dom" / "5").exists())

    dies("a knock was withdrawn", (f"{theirs}/warts", ours), withdraw=True)
    dies("an empty value", (f"{ours}/state", ""), (f"{theirs}/warts", ours))
    refs = [(f"/local/domain/6/data/straw/5/ring-ref-{n}", str(100 + n)) for n in range(1, 9)]
    port = ("/local/domain/6/data/straw/5/event-channel", "1000")
    with busy(other):
        dies("dead (refs|port)", *refs, port, ("/local/domain/6/data/straw/5/state", "3"), opens=True)
        other.kill()  # it would wait for ever, for a knock that nobody took back


# Terms.


@pytest.mark.parametrize("opener", ["ling", "python"])
def test_terms_that_a_ling_cannot_have_are_errors_to_the_sender(on: Stage, opener: str) -> None:
    ling, node = lings(on), on.node(6)
    assert (ling.open(6) if opener == "ling" else node.strawman((Atom("open"), 5))) in ("", OK)
    lethal: list[Any] = [
        {},
        [{Atom("in"): [{}]}],
        Atom("\u20ac"),
        (1, Atom("h\u0151")),
        deep(999),
    ]
    for n, term in enumerate(lethal):
        answer = node.strawman((ENVELOPE, (5, BUDDY), term))
        assert answer[0] is Atom("error") and answer[1][0] is Atom("badarg"), (term, answer)
        assert node.send(5, "buddy", term)[0] is Atom("error"), term
        assert node.send(5, "buddy", n) is OK
        assert ling.next("buddy") == n
    # As deep as it can be: the envelope itself is the first level.
    assert node.strawman((ENVELOPE, (5, BUDDY), deep(998))) is OK
    levels, term = 0, ling.next("buddy")
    while term:
        levels, term = levels + 1, term[0]
    assert levels == 998
    status = ling.status()
    assert (status["frames"][0], status["maps"], status["notes"]) == (len(lethal) + 1, 0, [])


def test_terms_of_a_beam_that_a_ling_cannot_have(on: Stage, beam: Beam) -> None:
    """Whatever a BEAM says to it: it is said in LING's dialect, or not at all, and the BEAM is told."""
    ling, node = lings(on), on.node(6)
    assert node.strawman((Atom("open"), 5)) is OK
    told = """
        {ok, Straw} = gen_server:call({strawman, Node}, {split, 5}),
        Deep = fun F(0) -> []; F(N) -> [F(N - 1), 0] end,
        [begin
            Straw ! {envelope, buddy, Term},
            receive {straw_error, 5, {badarg, _}} -> told after 30000 -> {no, Term} end
         end || Term <- [#{}, [#{a => 1}], '\\x{20ac}', fun() -> ok end, Deep(999)]]
        """
    assert beam.eval(told, Node=node.name) == "[told,told,told,told,told]"
    said = """
        {strawman, Node} ! {envelope, {5, buddy},
            {'h\\x{e9}', [1 bsl 70, -1.5, <<"b">>, <<5:3>>, fun lists:map/2], "str", [x | y],
            1 bsl 27, -(1 bsl 27) - 1}}, ok
        """
    assert beam.eval(said, Node=node.name) == "ok"
    got = ling.next("buddy")
    assert got[0] == A("h\xe9") and got[1][0] == 1 << 70 and got[-2:] == (1 << 27, -(1 << 27) - 1)
    status = ling.status()
    assert (status["maps"], status["notes"]) == (0, [])


# Time.


@pytest.mark.parametrize("opener", ["ling", "python"])
def test_a_busy_ling_keeps_its_memory(on: Stage, opener: str) -> None:
    """While it does not move, its peer closes: nothing is taken from it, and the straw ends when it moves again."""
    ling, raw = lings(on), on.raw(6)
    if opener == "ling":
        assert ling.open(6) == ""
        straw = raw.straw()
    else:
        straw = raw.open(5)
    soon(lambda: ling.status()["straws"])
    with busy(ling):
        closing = asyncio.run_coroutine_threadsafe(straw.close(), raw.stage._loop.loop)
        soon(lambda: straw.closed)
        raw.stage.do(asyncio.sleep(0.3))
        assert any("state" in key for key in on.keys(6))
    closing.result(30)
    soon(lambda: not ling.status()["straws"] and on.keys(5) == on.keys(6) == [])
    assert set(raw.backend.held.values()) == {0}


@pytest.mark.slow
def test_a_knock_that_nobody_answers_in_time(on: Stage) -> None:
    """The caller hears `timeout`; the knock stays. When the LING comes to it, it is opened and closed again."""
    ling, raw = lings(on), on.raw(6)
    with busy(ling):
        with pytest.raises(MembraneError, match="timeout"):
            raw.open(5)
        assert any(key.endswith("/warts/5/state") for key in on.keys(6))
    soon(lambda: on.keys(5) == on.keys(6) == [] and not ling.status()["straws"])
    assert set(raw.backend.held.values()) == {0}
    straw = raw.open(5)
    raw.send(straw, envelope(b"a\x07"))
    assert ling.next("buddy") == 7


def test_asking_again_joins_the_knock_that_is_out(on: Stage) -> None:
    ling, raw = lings(on), on.raw(6)
    with busy(ling):
        with pytest.raises(MembraneError, match="timeout"):
            raw.open(5)
        again = asyncio.run_coroutine_threadsafe(raw.membrane.open(5), raw.stage._loop.loop)
        raw.stage.do(asyncio.sleep(0.1))
    straw = again.result(30)
    raw.send(straw, envelope(b"a\x07"))
    assert ling.next("buddy") == 7
    assert len(ling.status()["straws"]) == 1


def test_a_ling_that_gives_up_waiting_never_hangs_us(on: Stage) -> None:
    """It is killed inside the handshake, in either role: our side is as before."""
    ling, raw = lings(on), on.raw(6)
    with busy(ling):
        opening = asyncio.run_coroutine_threadsafe(raw.membrane.open(5), raw.stage._loop.loop)
        soon(lambda: any(key.endswith("/warts/5/state") for key in on.keys(6)))
        ling.kill()
    with pytest.raises(MembraneError, match="peer_gone|not_found"):
        opening.result(30)
    soon(lambda: on.keys(6) == [] and set(raw.backend.held.values()) == {0})


# Keys of an earlier run.


def crashed(raw: RawDomain) -> None:
    """Its strawman is dead and its memory given back; its keys lie there, and then it starts anew (as on Xen)."""

    async def again() -> None:
        await raw.store.close()  # first: nothing more is said
        await raw.membrane.close()
        raw.store = await raw.backend.store()
        raw.membrane = Membrane(raw.backend, raw.store)
        raw.membrane.on_straw = raw.came.put_nowait
        await raw.membrane.start()

    raw.stage.do(again())


@pytest.mark.parametrize("before", ["ling", "python"])
@pytest.mark.parametrize("after", ["ling", "python"])
def test_stale_keys(on: Stage, before: str, after: str) -> None:
    """A strawman that crashed and started again takes its keys away: so the LING learns of it, and they meet anew."""
    ling, raw = lings(on), on.raw(6)

    def connect(opener: str) -> Any:
        if opener == "ling":
            assert ling.open(6) == ""
            return raw.straw()
        return raw.open(5)

    connect(before)
    soon(lambda: ling.status()["straws"])
    crashed(raw)
    soon(lambda: not ling.status()["straws"] and on.keys(5) == on.keys(6) == [])
    straw = connect(after)
    raw.send(straw, envelope(b"a\x07"))
    assert ling.next("buddy") == 7
    ling.send((6, A("x")), 8)
    assert raw.receive(straw) == b"\x83h\x03s\x08envelopes\x01xa\x08"


# A LING that is busy with one peer.


@pytest.mark.slow
def test_a_ling_that_waits_for_one_is_late_for_others(on: Stage) -> None:
    """Its strawman does one thing at a time: while it waits for a peer that does not move, another one's knock waits,
    is given up by the caller, and ends well when the LING comes to it.
    """
    ling, other = lings(on), on.raw(7)
    child = on.stack.enter_context(Peer(on.rundir))
    with busy(ling):
        opening = child.start("open", peer=5)
        soon(lambda: any(key.endswith("/straw") for key in on.keys(child.domid)))
        os.kill(child.process.pid, signal.SIGSTOP)
    try:
        soon(lambda: any(key.endswith("/event-channel") for key in on.keys(5)))
        with pytest.raises(MembraneError, match="timeout"):
            other.open(5)
    finally:
        os.kill(child.process.pid, signal.SIGCONT)
    assert child.result(opening) == {"error": "timeout"}
    soon(lambda: ling.status()["straws"] == [] and on.keys(5) == on.keys(7) == on.keys(child.domid) == [])
    assert set(other.backend.held.values()) == {0}
    assert child.do("open", peer=5) == {}
    other.send(other.open(5), envelope(b"a\x07"))
    assert ling.next("buddy") == 7


@pytest.mark.slow
def test_a_slow_ling(on: Stage) -> None:
    """It does not read: what is sent waits, up to 16 MiB; then senders in Python wait, and envelopes of processes are
    refused. It reads again, and all that was taken arrives.
    """
    ling, node = lings(on), on.node(6)
    assert node.strawman((Atom("open"), 5)) is OK
    taken = 0
    with busy(ling):
        while node.strawman((ENVELOPE, (5, BUDDY), (taken, b"x" * 500_000))) is OK:
            taken += 1
        assert 30 <= taken <= 40
        assert node.rpc("domains") == [5], "the node goes on"
    for n in range(taken):
        assert ling.next("buddy") == (n, b"x" * 500_000)
    assert node.send(5, "buddy", Atom("again")) is OK
    assert ling.next("buddy") == A("again")
