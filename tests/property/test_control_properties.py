"""The fast check and the table agree on everything, and nothing but RemoteProtocolError comes out."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from node.errors import DecodeError, RemoteProtocolError
from node.terms import NO_PAYLOAD, Atom, Pid, Reference
from node.wire import control
from node.wire.control import TABLE, Kind, check, check_batch

PEER, OURS = Atom("peer@h"), Atom("us@h")
nodes = st.sampled_from([PEER, OURS, Atom("other@h")])
pids = st.builds(Pid, nodes, st.integers(0, 5), st.just(0), st.integers(4, 6))
references = st.builds(Reference, nodes, st.integers(4, 6), st.tuples(st.integers(0, 9)))
atoms = st.sampled_from([Atom(""), Atom("name"), True, False])
fields = st.one_of(
    pids,
    references,
    atoms,
    st.integers(-1, 40),
    st.sampled_from([0, 4, 5, 8, 16, 1 << 64, 1 << 70, 4.0, b"", (), []]),
    st.tuples(atoms, atoms, st.integers(-1, 3)),
    st.lists(atoms, max_size=2),
)
controls = st.tuples(st.one_of(st.sampled_from(sorted(TABLE)), st.integers(-1, 40), fields)).flatmap(
    lambda op: st.lists(fields, max_size=7).map(lambda rest: (*op, *rest))
)
payloads = st.sampled_from([NO_PAYLOAD, b"", DecodeError("unreadable")])


def verdict(call: Any) -> str:
    try:
        call()
    except RemoteProtocolError as error:
        return str(error)
    return "good"


@given(message=controls, payload=payloads)
def test_fast_and_slow_agree(message: tuple[Any, ...], payload: object) -> None:
    slow = verdict(lambda: check(message, payload, PEER, OURS))
    assert verdict(lambda: check_batch([(message, payload)], PEER, OURS)) == slow
    assert len(slow) < 600


def pid_of(node: Atom) -> st.SearchStrategy[Pid]:
    return st.builds(Pid, st.just(node), st.integers(0, 5), st.just(0), st.integers(4, 6))


GOOD: dict[Kind, st.SearchStrategy[Any]] = {
    control.any_term: fields,
    control.pid: pids,
    control.peer_pid: pid_of(PEER),
    control.our_pid: pid_of(OURS),
    control.atom: atoms,
    control.reference: references,
    control.our_process: st.one_of(pid_of(OURS), atoms),
    control.process: st.one_of(pid_of(PEER), atoms),
    control.unlink_id: st.integers(1, control.MAX_UNLINK_ID),
    control.bits: st.integers(0, 1 << 70),
    control.mfa: st.tuples(atoms, atoms, st.integers(0, 255)),
    control.proper_list: st.lists(atoms, max_size=2),
}
messages = st.sampled_from(sorted(TABLE)).flatmap(
    lambda op: st.tuples(st.just(op), *(GOOD[kind] for kind in TABLE[op].fields))
)


@given(messages)
def test_what_fits_the_table_is_taken_by_both(message: tuple[Any, ...]) -> None:
    payload = b"" if TABLE[message[0]].payload else NO_PAYLOAD
    slow = verdict(lambda: check(message, payload, PEER, OURS))
    assert verdict(lambda: check_batch([(message, payload)], PEER, OURS)) == slow
    assert slow == "good" or "contradicts its flags" in slow or "not from there" in slow


@given(messages, st.integers(1, 6), fields)
def test_one_field_changed(message: tuple[Any, ...], at: int, value: Any) -> None:
    changed = (*message[:at], value, *message[at + 1 :])
    for payload in (b"", NO_PAYLOAD):
        slow = verdict(lambda payload=payload: check(changed, payload, PEER, OURS))
        assert verdict(lambda payload=payload: check_batch([(changed, payload)], PEER, OURS)) == slow
