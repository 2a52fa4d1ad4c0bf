"""The tables of pids against a model: two domains that tell each other of processes that live and die."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.errors import DecodeError, EncodeError
from node.etf import decode, encode
from node.strawman.tables import IdsExhausted, Limits, PidTables
from node.terms import Atom, ImproperList, LingPid, Pid, Reference

ALIAS = Atom("alias")
LIMITS = Limits(pids=6, proxies=8, refs=5, nodes=3, ids=60, ref_time=10.0)
DIALECTS = st.sampled_from(["otp", "ling"])


class Side:
    """One domain: its processes, those of the other that it knows, and its tables. (tables.Keeper)"""

    def __init__(self, ours: int, peer: int) -> None:
        self.name = Atom(f"n{ours}@h")
        self.time = 0.0
        self.alive: set[Pid] = set()
        self.made = 0
        self.watched: dict[Pid, int] = {}
        self.proxies: dict[Pid, int] = {}
        self.tables = PidTables(ours, peer, self, name=self.name, creation=ours, limits=LIMITS)

    def process(self) -> Pid:
        self.made += 1
        pid = Pid(self.name, self.made, 0, 9)
        self.alive.add(pid)
        return pid

    def die(self, pid: Pid) -> None:
        self.alive.discard(pid)
        if self.watched.pop(pid, None) is not None:
            self.tables.ended(pid)

    def watch(self, pid: Pid) -> Pid:
        assert pid not in self.watched
        self.watched[pid] = 1
        if pid not in self.alive and pid not in self.proxies:
            del self.watched[pid]
            self.tables.ended(pid)
        return pid

    def unwatch(self, watch: Pid) -> None:
        del self.watched[watch]

    def adopt(self, id: int) -> Pid:
        pid = self.process()
        self.alive.discard(pid)
        self.proxies[pid] = id
        return pid

    def make_room(self) -> None:
        pass

    def wake(self, seconds: float) -> None:
        pass

    def now(self) -> float:
        return self.time


class TwoDomains(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.sides = Side(5, 6), Side(6, 5)
        self.pids: list[tuple[Side, Pid]] = []
        #: what a proxy stands for
        self.meant: dict[Pid, Pid] = {}
        #: calls under way: (caller's side, caller, tag, the tag as the other side has it)
        self.calls: list[tuple[int, Pid, Any, Any]] = []
        self.refs = 0

    @rule(side=st.integers(0, 1))
    def is_born(self, side: int) -> None:
        self.pids.append((self.sides[side], self.sides[side].process()))

    @precondition(lambda self: self.pids)
    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        side, pid = data.draw(st.sampled_from(self.pids))
        side.die(pid)

    @precondition(lambda self: self.pids)
    @rule(data=st.data(), dialect=DIALECTS, fails=st.booleans())
    def are_told(self, data: st.DataObject, dialect: Any, fails: bool) -> None:
        """Some pids, of processes and proxies, go over: what arrives is what was meant."""
        which = data.draw(st.integers(0, 1))
        here, there = self.sides[which], self.sides[1 - which]
        known = [pid for side, pid in self.pids if side is here] + list(here.proxies)
        pids = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=4)) if known else []
        before = here.tables.count
        try:
            frame = encode(pids, dialect=dialect, crossing=here.tables.crossing)
        except EncodeError:
            assert here.tables.count == before
            full = len(here.watched) + len(set(pids)) > LIMITS.pids
            assert full or here.tables.crossing.spent + len(set(pids)) > LIMITS.ids
            return
        if fails:
            here.tables.retract()
            assert here.tables.count == before
            return
        here.tables.sent()
        ids = dict(zip((id for id in self.ids_in(frame)), pids, strict=True))
        try:
            arrived = decode(frame, crossing=there.tables.crossing)
        except DecodeError:
            assert len(there.proxies) == LIMITS.proxies
            return
        finally:
            self.note(there, ids)
        for sent, got in zip(pids, arrived, strict=True):
            if sent in here.proxies:
                meant = self.meant[sent]
                assert got == meant if meant in there.alive else got not in there.alive
            else:
                assert got in there.proxies
                assert self.meant.setdefault(got, sent) == sent

    @staticmethod
    def ids_in(frame: bytes) -> list[int]:
        """The ids of a frame that is a list of pids."""
        return [pid.id for pid in decode(frame, dialect="ling")]

    def note(self, there: Side, ids: dict[int, Pid]) -> None:
        for pid, id in there.proxies.items():
            if id in ids:
                self.meant.setdefault(pid, ids[id])

    @precondition(lambda self: self.pids)
    @rule(data=st.data(), dialect=DIALECTS, words=st.sampled_from([3, 5]))
    def calls_somebody(self, data: st.DataObject, dialect: Any, words: int) -> None:
        which = data.draw(st.integers(0, 1))
        here, there = self.sides[which], self.sides[1 - which]
        callers = [pid for side, pid in self.pids if side is here and pid in here.alive]
        if not callers:
            return
        caller = data.draw(st.sampled_from(callers))
        self.refs += 1
        tag = ImproperList((ALIAS,), Reference(here.name, 7, (1, self.refs, 3, 4, 5)[:words]))
        try:
            frame = encode((caller, tag), dialect=dialect, crossing=here.tables.crossing)
        except EncodeError:
            return
        here.tables.sent()
        id = decode(frame, dialect="ling")[0].id
        try:
            pid, there_tag = decode(frame, crossing=there.tables.crossing)
        except DecodeError:
            return
        self.note(there, {id: caller})
        assert type(there_tag) is Reference and len(there_tag.ids) == 3 and there_tag.ids[0] < 1 << 18
        self.calls.append((which, caller, tag, (pid, there_tag)))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), dialect=DIALECTS)
    def is_answered(self, data: st.DataObject, dialect: Any) -> None:
        which, caller, tag, (pid, there_tag) = data.draw(st.sampled_from(self.calls))
        here, there = self.sides[which], self.sides[1 - which]
        frame = encode((pid, (there_tag, 1)), dialect=dialect, crossing=there.tables.crossing)
        waits = (tag.tail, True) in here.tables._words
        addr, reply = decode(frame, crossing=here.tables.crossing)
        if caller not in here.alive:
            assert not here.tables.is_ours(addr) and not waits
            return
        assert addr == caller
        if waits:
            assert reply == (tag, 1)
            assert here.tables.reply(addr, reply) == tag.tail
        assert here.tables.reply(addr, decode(frame, crossing=here.tables.crossing)[1]) is False, "the second one"

    @rule(side=st.integers(0, 1), seconds=st.floats(0, 12))
    def time_passes(self, side: int, seconds: float) -> None:
        here = self.sides[side]
        here.time += seconds
        here.tables.expire()
        assert all(entry.until > here.time for entry in here.tables._waiting.values())

    @rule(
        side=st.integers(0, 1),
        domid=st.sampled_from([5, 6, 7]),
        id=st.integers(0, 2**32 - 1),
        boxid=st.sampled_from([0, 1]),
    )
    def is_lied_to(self, side: int, domid: int, id: int, boxid: int) -> None:
        here = self.sides[side]
        crossing = here.tables.crossing
        before = here.tables.count
        if domid == crossing.ours and (id - crossing.start) & 0x7FFFFFF < crossing.spent:
            return
        if domid == crossing.peer and id < 1 << 27 and boxid == 0:
            return
        crossing.forged = 0
        try:
            decode(encode([LingPid(boxid, domid, id)], dialect="ling"), crossing=crossing)
            raise AssertionError("it was taken")
        except DecodeError:
            assert crossing.forged == 1 and here.tables.count == before

    @invariant()
    def the_tables_agree(self) -> None:
        for side in self.sides:
            tables, crossing = side.tables, side.tables.crossing
            pids, refs, proxies = tables.count
            assert pids <= LIMITS.pids and refs <= LIMITS.refs and proxies <= LIMITS.proxies
            assert set(crossing.given.values()) == set(side.watched) == set(tables._watches)
            assert all(pid in side.alive for pid in crossing.given.values())
            assert len(crossing.out) == pids + proxies
            assert crossing.proxies == {id: pid for pid, id in side.proxies.items()}
            assert set(crossing.refs) == set(tables._waiting) == set(tables._words.values())
            owned = {word for words in tables._owned.values() for word in words}
            assert owned <= set(tables._waiting) and all(tables._owned.values())
            assert len(crossing.nodes) <= LIMITS.nodes

    def teardown(self) -> None:
        for side in self.sides:
            side.tables.clear()
            assert side.tables.count == (0, 0, 0) and not side.watched and not side.tables.crossing.out
            assert not side.tables._owned and not side.tables._words


TestTwoDomains = TwoDomains.TestCase
TestTwoDomains.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.binary(max_size=60), st.integers(0, 40))
def test_any_bytes(data: bytes, at: int) -> None:
    """Bytes that begin as a frame and go on as they like: an error or a term, and the tables as they were or larger."""
    side = Side(5, 6)
    pid = side.process()
    frame = encode(
        [pid, [ImproperList((ALIAS,), Reference(side.name, 1, (1, 2, 3))), 5]], crossing=side.tables.crossing
    )
    for broken in (frame[:at] + data, frame[:at] + data + frame[at + len(data) :]):
        try:
            decode(broken, crossing=side.tables.crossing)
        except DecodeError:
            pass
    assert side.tables.count[:2] == (1, 1)


def test_ids_are_given_once() -> None:
    side = Side(5, 6)
    seen = set()
    for _ in range(LIMITS.ids):
        pid = side.process()
        frame = encode(pid, dialect="ling", crossing=side.tables.crossing)
        seen.add(frame)
        side.die(pid)
    assert len(seen) == LIMITS.ids
    try:
        encode(side.process(), crossing=side.tables.crossing)
        raise AssertionError("one more than there are")
    except IdsExhausted:
        pass
