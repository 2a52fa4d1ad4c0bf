"""The tables of one other domain, and the bytes that they make: no processes, no straws."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from node.errors import DecodeError, EncodeError
from node.etf import Crossing, decode, encode
from node.strawman import tables as module
from node.strawman.tables import IdsExhausted, Limits, PidTables, TableFull
from node.terms import Atom, BitString, Fun, ImproperList, LingPid, Map, Pid, Port, Reference

ALIAS, FAR, OK, CALL = Atom("alias"), Atom("x@y"), Atom("ok"), Atom("$gen_call")
P1, P2, P3 = (Pid(FAR, n, 0, 7) for n in (1, 2, 3))
REF5 = Reference(FAR, 70000, (1, 2, 3, 4, 5))
TAG = ImproperList((ALIAS,), REF5)


class Keeper:
    """Watches nobody, and adopts with pids that count."""

    def __init__(self) -> None:
        self.time = 0.0
        self.adopted = 0
        self.watched: dict[Pid, int] = {}
        self.dead: set[Pid] = set()
        self.alarm = -1.0
        self.room: Callable[[], None] = lambda: None
        self.tables: PidTables

    def watch(self, pid: Pid) -> Pid:
        self.watched[pid] = self.watched.get(pid, 0) + 1
        if pid in self.dead:
            del self.watched[pid]
            self.tables.ended(pid)
        return pid

    def unwatch(self, watch: Pid) -> None:
        del self.watched[watch]

    def adopt(self, id: int) -> Pid:
        self.adopted += 1
        return Pid(Atom("here@h"), self.adopted, 1, 5)

    def make_room(self) -> None:
        self.room()

    def wake(self, seconds: float) -> None:
        self.alarm = self.time + seconds

    def now(self) -> float:
        return self.time


def made(ours: int = 6, peer: int = 5, **limits: Any) -> PidTables:
    keeper = Keeper()
    keeper.tables = PidTables(ours, peer, keeper, name=Atom("here@h"), creation=5, limits=replace(Limits(), **limits))
    keeper.tables.keeper = keeper  # type: ignore[attr-defined]
    return keeper.tables


def keeper_of(tables: PidTables) -> Keeper:
    keeper: Keeper = tables._keeper  # type: ignore[assignment]
    return keeper


@pytest.fixture
def certain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.secrets, "randbits", lambda bits: {18: 0x12345, 27: 0x7FFFFFE, 32: 0x89ABCDEF}[bits])


TABLE = (0x12345, 0x89ABCDEF, 1)
OURS = b"domain6@straw"


def pid(id: int, domid: int = 6) -> bytes:
    """A pid on a straw."""
    return b"\xa0" + bytes(8) + struct.pack(">II", domid, id)


def otp(node: bytes, creation: int, *words: int) -> bytes:
    """A reference to OTP: NEWER_REFERENCE_EXT, an atom in UTF-8."""
    return (
        b"Z"
        + struct.pack(">HcB", len(words), b"w", len(node))
        + node
        + struct.pack(f">I{len(words)}I", creation, *words)
    )


def ling(node: bytes, creation: int, *words: int) -> bytes:
    """A reference to a LING: NEW_REFERENCE_EXT, an atom in latin-1, a creation of one byte."""
    return (
        b"r"
        + struct.pack(">HcB", len(words), b"s", len(node))
        + node
        + struct.pack(f">B{len(words)}I", creation, *words)
    )


@pytest.mark.parametrize(
    ("term", "to_otp", "to_ling"),
    [
        # A pid: LING's tag, no machine, our domain, an id of 27 bits that wraps.
        (P1, pid(0x7FFFFFE), pid(0x7FFFFFE)),
        ((P1, P2, P3, P1), b"h\4" + pid(0x7FFFFFE) + pid(0x7FFFFFF) + pid(0) + pid(0x7FFFFFE), ...),
        # An alias is a reference of ours, whoever reads it; the word that counts comes last.
        (TAG, otp(OURS, 1, *TABLE), ling(OURS, 1, *TABLE)),
        # Other references stand as they are to OTP; to a LING those of three words within its bounds, by their node.
        (Reference(FAR, 70000, (1, 2, 3)), otp(b"x@y", 70000, 1, 2, 3), ling(b"70000:x@y", 0, 1, 2, 3)),
        (Reference(FAR, 0, (1, 0, 0)), otp(b"x@y", 0, 1, 0, 0), ling(b"0:x@y", 0, 1, 0, 0)),
        (REF5, otp(b"x@y", 70000, 1, 2, 3, 4, 5), ling(OURS, 1, *TABLE)),
        (Reference(FAR, 1, (1 << 18, 2, 3)), otp(b"x@y", 1, 1 << 18, 2, 3), ling(OURS, 1, *TABLE)),
        # What came from a LING as its own goes back as its own, and to others as any reference.
        (Reference(Atom("domain5@straw"), 0, (1, 2)), otp(b"domain5@straw", 0, 1, 2), ling(b"local", 0, 1, 2)),
    ],
)
def test_golden(certain: None, term: Any, to_otp: bytes, to_ling: Any) -> None:
    for dialect, expected in (("otp", to_otp), ("ling", to_otp if to_ling is ... else to_ling)):
        tables = made()
        data = encode(term, dialect=dialect, crossing=tables.crossing)  # type: ignore[arg-type]
        assert data == b"\x83" + expected, dialect
        assert decode(data, crossing=tables.crossing) == term


def test_golden_from_the_other_side(certain: None) -> None:
    tables = made()
    crossing = tables.crossing
    theirs = b"\x83" + pid(0x21, 5)
    far = decode(theirs, crossing=crossing)
    assert (far, crossing.proxies) == (Pid(Atom("here@h"), 1, 1, 5), {0x21: far})
    assert tables.is_theirs(far) and not tables.is_ours(far)
    assert decode(theirs, crossing=crossing) is far
    assert encode(far, crossing=crossing) == encode(far, dialect="ling", crossing=crossing) == theirs
    for data, ref in (
        (ling(b"local", 0, 1), Reference(Atom("domain5@straw"), 0, (1,))),
        (b"es\5local\0\0\0\7\0", Reference(Atom("domain5@straw"), 0, (7,))),
        # a LING leaves out the words at the end that are 0
        (ling(b"70000:x@y", 0, 1), Reference(FAR, 70000, (1, 0, 0))),
        (ling(b"4294967295:x@y", 0, 1, 1, 1), Reference(FAR, 2**32 - 1, (1, 1, 1))),
        # what is not quite that is nothing special
        *(
            (ling(node, creation, 1), Reference(Atom(node.decode()), creation, (1,)))
            for node, creation in (
                *((b"4294967296:x@y", 0), (b"07:@y", 0), (b":@y", 0), (b"1@y", 0), (b"1:@y", 1), (b"local", 1)),
                (b"99999999999:x@y", 0),
            )
        ),
        (otp(b"local", 0, 1), Reference(Atom("local"), 0, (1,))),
        (otp(b"7:x@y", 0, 1), Reference(Atom("7:x@y"), 0, (1,))),
    ):
        assert decode(b"\x83" + data, crossing=crossing) == ref, data


def test_what_is_refused(certain: None) -> None:
    tables = made()
    crossing = tables.crossing
    encode(P1, crossing=crossing)
    for boxid, domid, id in (
        (0, 6, 0x7FFFFFF),
        (0, 6, 0x7FFFFFD),
        (1, 6, 0x7FFFFFE),
        (0, 7, 0x7FFFFFE),
        (0, 5, 1 << 27),
    ):
        for wrapped in (lambda pid: pid, lambda pid: [1, {Atom("k"): (pid,)}], lambda pid: [LingPid(0, 5, 3), pid]):
            crossing.forged = 0
            data = encode(wrapped(LingPid(boxid, domid, id)), dialect="ling", ling_maps=True)
            with pytest.raises(DecodeError):
                decode(data, crossing=crossing)
            assert crossing.forged == 1
    assert crossing.proxies == {}, "of a frame that is refused nothing is kept"
    for pid in (P1, Pid(Atom("here@h"), 1, 0, 5)):
        with pytest.raises(DecodeError, match="of a domain only"):
            decode(encode([pid]), crossing=crossing)
    for cut in range(1, 17):
        with pytest.raises(DecodeError):
            decode(b"\x83\xa0" + bytes(17 - cut - 1), crossing=crossing)
    with pytest.raises(DecodeError, match="after"):
        decode(encode(LingPid(0, 5, 9), dialect="ling") + b"x", crossing=crossing)
    assert crossing.proxies == {}
    with pytest.raises(EncodeError, match="LingPid"):
        encode([LingPid(0, 5, 9)], dialect="ling", crossing=crossing)


def test_everything_else_is_as_ever() -> None:
    tables = made()
    fun = Fun(1, b"u" * 16, 2, ([P1], {2: 3}), FAR, 3, 4, P2)
    term = [
        fun,
        {P1: [P2]},
        Map(((P1, 1), ([P1], TAG), (1, 2), (1.0, 3))),
        BitString(b"\xe0", 3),
        Port(FAR, 1, 2),
        2**70,
    ]
    data = encode(term, crossing=tables.crossing)
    assert decode(data, crossing=tables.crossing) == term
    assert tables.count == (2, 1, 0)
    assert encode(P2)[1:] in data, "who made a fun stands in it as ever"
    # Read elsewhere the fun may name its maker either way.
    [size] = struct.unpack_from(">I", data, 7)
    shorter = data[:7] + struct.pack(">I", size - 1) + data[11:]
    other = made(5, 6).crossing
    back = decode(shorter.replace(encode(P2)[1:], b"\xa0" + struct.pack(">QII", 0, 6, 9)), crossing=other)
    assert back[0].pid is other.proxies[9]


def test_keys_of_maps_stay_apart() -> None:
    """Many new processes of theirs as keys of one map."""
    data = encode({LingPid(0, 5, n): n for n in range(100)}, dialect="ling", ling_maps=True)
    tables = made()
    got = decode(data, crossing=tables.crossing)
    assert got == {tables.crossing.proxies[n]: n for n in range(100)}


def test_a_table_reference_as_a_tail() -> None:
    """Nobody honest writes `[1 | Tag]` so; it must not become a list whose tail is a list."""
    tables = made()
    data = encode(TAG, crossing=tables.crossing)
    back = decode(b"\x83l\0\0\0\1a\1" + data[1:], crossing=tables.crossing)
    assert back.items == (1,) and type(back.tail) is Reference


def test_whose_call_it_is() -> None:
    tables = made()
    for term, owner in (
        ((P1, TAG), P1), ([(P1, TAG)], P1), ((CALL, (P1, TAG), 1), P1), ((P1, [TAG, 2]), P1),
        ((P1, ImproperList((TAG,), 2)), P1), (TAG, None), ((TAG, P1), None), ((P1, 1, TAG), None), ([P1, TAG], None),
        ((P1, [1, TAG]), None), ((1, TAG), None), ((P1, (TAG,)), None), ({P1: TAG}, None),
    ):  # fmt: skip
        encode(term, crossing=tables.crossing)
        [entry] = tables._waiting.values()
        assert entry.owner == owner, term
        assert (P1 in tables._owned) == (owner is not None)
        tables.retract()
        assert tables.count == (0, 0, 0) and not tables._owned and not tables._words and not tables._watches


def test_replies() -> None:
    tables = made()

    def say(term: Any) -> Any:
        return decode(encode(term, crossing=tables.crossing), crossing=tables.crossing)

    say([(P1, TAG), P2])
    assert tables.reply(P1, 1) is tables.reply(P1, (1, 2)) is tables.reply(P1, (TAG,)) is True
    assert tables.reply(P2, (TAG, 1)) is True, "another process may hear of it, the call goes on"
    assert tables.count[1] == 1
    assert tables.reply(P1, (TAG, 1)) == REF5
    assert tables.count[1] == 0
    assert tables.reply(P1, (TAG, 1)) is True, "an alias that did not come out of the table is a message"
    for nested in ([TAG, 1], ImproperList((TAG,), 1)):
        say((P1, nested))
        assert tables.knows(TAG)
        assert tables.reply(P1, (nested, 1)) == REF5
        assert not tables.knows(TAG)
    # A reference of our table that nobody waits for any more.
    data = encode((P1, TAG), crossing=tables.crossing)
    tables.ended(P1)
    assert tables.count[1] == 0
    late = decode(data, crossing=tables.crossing)
    assert type(late[1]) is Reference and tables.reply(P1, (late[1], 1)) is False
    assert tables.reply(P1, (late[1], 1, 2)) is tables.reply(P1, (Reference(FAR, 1, (1, 2, 3)), 1)) is True
    # To a LING a plain reference of five words waits for its reply just so.
    encode((P1, REF5), dialect="ling", crossing=tables.crossing)
    assert tables.count[1] == 1
    assert tables.reply(P1, (REF5, 1)) is True and tables.count[1] == 0


def test_time() -> None:
    tables = made(ref_time=10.0)
    keeper = keeper_of(tables)
    tags = [ImproperList((ALIAS,), Reference(FAR, 1, (n, 0, 0))) for n in range(3)]
    encode(tags[0], crossing=tables.crossing)
    assert keeper.alarm == 10.0
    keeper.time = 4.0
    encode(tags[1:], crossing=tables.crossing)
    assert keeper.alarm == 10.0
    keeper.time = 6.0
    encode(tags[0], crossing=tables.crossing)  # said again: it has its time again
    assert tables.expire() == 8.0
    keeper.time = 14.0
    assert tables.expire() == 2.0 and tables.count[1] == 1
    keeper.time = 20.0
    assert tables.expire() == 0.0 and tables.count[1] == 0 and tables.crossing.refs == {}


def test_limits() -> None:
    for ids in (0, (1 << 27) + 1):
        with pytest.raises(ValueError, match="2\\^27"):
            Limits(ids=ids)
    tables = made(pids=2, refs=2, proxies=2, ids=4)
    crossing, keeper = tables.crossing, keeper_of(tables)
    with pytest.raises(EncodeError, match="2 processes"):
        encode([P1, P2, P3], crossing=crossing)
    assert (tables.count, crossing.spent, keeper.watched) == ((0, 0, 0), 2, {})
    encode([P1, P2], crossing=crossing)
    tables.sent()
    with pytest.raises(IdsExhausted):
        tables.ended(P1)
        encode([P3], crossing=crossing)
    tables.ended(P2)
    assert tables.count == (0, 0, 0)
    with pytest.raises(TableFull):
        decode(encode([LingPid(0, 5, n) for n in range(3)], dialect="ling"), crossing=crossing)
    assert tables.count == (0, 0, 2), "two were taken"

    def room() -> None:
        for pid in list(crossing.proxies.values()):
            tables.forget(pid)

    keeper.room = room
    assert len(decode(encode([LingPid(0, 5, n) for n in (7, 8)], dialect="ling"), crossing=crossing)) == 2
    assert sorted(crossing.proxies) == [7, 8]


def test_nodes_that_a_ling_is_told_are_bounded() -> None:
    tables = made(nodes=3)
    refs = [Reference(Atom(f"n@{n}"), 5, (1, 2, 3)) for n in range(5)]
    refs += [
        Reference(Atom("\u20ac@x"), 5, (1, 2, 3)),
        Reference(Atom("x" * 254), 5, (1, 2, 3)),
        Reference(FAR, 5, (1, 2)),
    ]
    data = encode(refs, dialect="ling", crossing=tables.crossing)
    assert decode(data, crossing=tables.crossing) == refs
    assert len(tables.crossing.nodes) == 3
    assert tables.count[1] == 2 + 3
    assert decode(encode(refs[0], dialect="ling", crossing=tables.crossing), crossing=made().crossing) == refs[0]


def test_the_dead() -> None:
    tables = made()
    keeper = keeper_of(tables)
    keeper.dead.add(P1)
    data = encode([P1, P2], crossing=tables.crossing)
    assert tables.count == (1, 0, 0) and keeper.watched == {P2: 1}
    dead, alive = decode(data, crossing=tables.crossing)
    assert alive is P2
    assert (dead.node, dead.serial, dead.creation) == (Atom("here@h"), 0x1FFF, 5)
    assert not tables.is_ours(dead) and not tables.is_theirs(dead)
    tables.clear()
    assert tables.count == (0, 0, 0) and keeper.watched == {}


def test_errors_of_the_callables() -> None:
    def crossing(give: Any, take: Any) -> Crossing:
        own = Reference(FAR, 1, (1, 2, 0))
        return Crossing(6, 5, 0, own, P1, FAR, give, take, 10)

    def fails(what: Any) -> Any:
        raise KeyError("no")

    for give in (fails, lambda wanted: None, lambda wanted: [], lambda wanted: [1, 2], lambda wanted: ["1"], 5):
        with pytest.raises((KeyError, TypeError)):
            encode([P1], crossing=crossing(give, fails))
    for number in (-1, 1 << 32, 1 << 80):
        with pytest.raises(TypeError):
            encode([P1], crossing=crossing(lambda wanted, number=number: [number], fails))  # type: ignore[misc]
    theirs = encode([LingPid(0, 5, 1)], dialect="ling")
    with pytest.raises(KeyError):
        decode(theirs, crossing=crossing(fails, fails))
    with pytest.raises(DecodeError, match="room"):
        decode(theirs, crossing=crossing(fails, lambda ids: None))
    for wrong in (5, "x"):
        with pytest.raises(TypeError):
            encode(1, crossing=wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            decode(b"\x83j", crossing=wrong)  # type: ignore[arg-type]
    for arguments in (
        (-1, 5, 0, Reference(FAR, 1, (1, 2, 0))), (1 << 32, 5, 0, Reference(FAR, 1, (1, 2, 0))),
        (6, 5, 0, Reference(FAR, 1, (1, 2))), (6, 5, 0, Reference(FAR, 4, (1, 2, 0))), (6, 5, 0, P1),
        (6, 5, 0, Reference(FAR, 1, (1 << 18, 2, 0))), (6, 5, 0, Reference(Atom("\u20ac"), 1, (1, 2, 0))),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError)):
            Crossing(*arguments, P1, FAR, fails, fails, 10)  # type: ignore[arg-type]


def test_a_message_without_pids_asks_nothing() -> None:
    def never(what: Any) -> Any:
        raise AssertionError(what)

    crossing = Crossing(6, 5, 0, Reference(FAR, 1, (1, 2, 0)), P1, FAR, never, never, 10)
    term = [OK, {1: [b"x", 2.5]}, Reference(FAR, 7, (1, 2, 3))]
    assert decode(encode(term, crossing=crossing), crossing=crossing) == term


def test_arguments_of_the_short_calls() -> None:
    crossing = made().crossing
    encode: Any = crossing.encode
    decode: Any = crossing.decode
    term = (Atom("a"), None, {1: [b"x"]})
    frame = encode(term, "none", "otp", False)
    arguments: tuple[Any, ...]
    assert decode(frame, 10, 10) == (Atom("a"), Atom("none"), {1: [b"x"]})
    for arguments in (
        (),
        (term,),
        (term, "none", "otp", False, 1, 1),
        (term, 5, "otp", False),
        (term, 5, "otp", False, True),
    ):
        with pytest.raises(TypeError):
            encode(*arguments)
    with pytest.raises(ValueError):
        encode(term, "none", "elf", False)
    for arguments in ((), (frame, 10), (frame, 10, 10, 10), ("text", 10, 10)):
        with pytest.raises(TypeError):
            decode(*arguments)
    for arguments in ((frame, -1, 10), (frame, 10, b"")):
        with pytest.raises(ValueError):
            decode(*arguments)
    with pytest.raises(DecodeError):
        decode(frame, 1, 10)


@pytest.mark.parametrize("dialect", ["otp", "ling"])
def test_big_binaries_stand_beside_what_is_written(dialect: Any) -> None:
    """New pids and references around them get their numbers in the right places."""
    tables = made()
    big, other = bytes(70_000), b"x" * 65536
    terms: list[Any] = [
        (P1, TAG, big, P2),
        (P1, [(P3, TAG), big, {Atom("k"): (other, P3)} if dialect == "otp" else other], P2, b"small"),
        big,
        (P2, P1, b"y" * 65535),
    ]
    for term in terms:
        pieces = tables.crossing.encode(term, "undefined", dialect, False, True)
        whole = tables.crossing.encode(term, "undefined", dialect, False)
        assert isinstance(pieces, list) == (term != terms[-1])
        if isinstance(pieces, list):
            assert any(piece is big for piece in pieces) and b"".join(pieces) == whole
        else:
            assert pieces == whole
    assert set(tables.crossing.given.values()) == {P1, P2, P3}
    with pytest.raises(EncodeError):
        made(pids=1).crossing.encode((P1, big, P2), "undefined", dialect, False, True)
    with pytest.raises(TypeError):
        tables.crossing.encode(1, "undefined", dialect, False, True, 1)  # type: ignore[call-overload]
