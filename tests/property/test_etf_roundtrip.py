"""Any value of the mapping survives, whole and through frames; any bytes give a term or a DecodeError."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node import _etf
from node.etf import DecodeError, EncodeError, FrameReader, Outbox, decode, decode_prefix, encode, encode_pieces
from node.terms import Atom, BitString, Export, Fun, ImproperList, Map, Pid, Port, Record, Reference

word = st.integers(0, 2**32 - 1)
text = st.text(st.characters(codec="utf-8"), max_size=20)
atoms = st.one_of(st.sampled_from(["ok", "undefined", "nil", "a@b", ""]), text).filter(
    lambda name: name not in ("true", "false")
)
atom = atoms.map(Atom)
pid = st.builds(Pid, atom, word, word, word)
port = st.builds(Port, atom, st.integers(0, 2**64 - 1), word)
reference = st.builds(Reference, atom, word, st.lists(word, min_size=1, max_size=5).map(tuple))
export = st.builds(Export, atom, atom, st.integers(0, 255))
bits = st.builds(BitString, st.binary(min_size=1, max_size=8), st.integers(1, 7))
number = st.one_of(
    st.integers(-300, 300),
    st.integers(-(2**70), 2**70),
    st.integers(-(2**2100), 2**2100),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1, 1.0, True, False, 0]),
)
leaf = st.one_of(number, st.booleans(), atom, st.binary(max_size=30), pid, port, reference, export, bits)


def record(parts: list[tuple[Atom, Any]]) -> Record:
    return Record(Atom("m"), Atom("r"), True, tuple(p[0] for p in parts), tuple(p[1] for p in parts))


def make_map(pairs: list[tuple[Any, Any]]) -> Any:
    """What decode would make of these pairs."""
    distinct = {_etf.canonical(key): (key, value) for key, value in pairs}
    return decode(encode(Map(tuple(distinct.values()))))


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=6),
        st.lists(st.integers(0, 255), max_size=20),
        st.lists(inner, max_size=6).map(tuple),
        st.lists(st.tuples(inner, inner), max_size=5).map(make_map),
        st.builds(
            lambda items, tail: ImproperList(tuple(items), tail),
            st.lists(inner, min_size=1, max_size=4),
            inner.filter(lambda t: not isinstance(t, (list, ImproperList))),
        ),
        st.builds(
            lambda free, p: Fun(1, b"u" * 16, 3, tuple(free), Atom("m"), 5, -6, p), st.lists(inner, max_size=3), pid
        ),
        st.lists(st.tuples(atom, inner), max_size=3).map(record),
    )


term = st.recursive(leaf, containers, max_leaves=25)
quick = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(term)
def test_a_term_survives(value: Any) -> None:
    data = encode(value)
    again = decode(data)
    assert encode(again) == data
    assert _etf.canonical(again) == _etf.canonical(value)
    assert type(again) is type(value)
    assert b"".join(encode_pieces(value)) == data
    assert decode_prefix(data + b"more")[1] == len(data)


@quick
@given(st.lists(term, max_size=6), st.lists(st.integers(1, 400), min_size=1))
def test_frames_survive(values: list[Any], steps: list[int]) -> None:
    outbox, reader = Outbox(), FrameReader()
    for value in values:
        outbox.send((2, Atom(""), 1), value)
    data = b"".join(outbox.buffers())
    outbox.sent(len(data))
    assert outbox.size == 0
    got, at, turn = [], 0, 0
    while at < len(data):
        step = steps[turn % len(steps)]
        got += reader.feed(data[at : at + step])
        at += step
        turn += 1
    assert [encode(payload) for _, payload in got] == [encode(value) for value in values]


@quick
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for prefix in (b"", b"\x83"):
        try:
            value = decode(prefix + data)
        except DecodeError as error:
            assert 0 <= error.offset <= len(data) + 1
        else:
            encode(value)


INTERESTING = [0, 1, 2, 4, 0x7F, 0x80, 0xFF, *b"CFMPRXYZabcdefghijklmnopqrstvwxy"]


def mutate(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if len(out) < 2:
            break
        at = rng.randrange(1, len(out))
        match rng.randrange(6):
            case 0:
                out[at] = rng.choice(INTERESTING)
            case 1:
                out[at] ^= 1 << rng.randrange(8)
            case 2:
                del out[at : at + rng.randrange(1, 5)]
            case 3:
                out[at:at] = bytes(rng.choice(INTERESTING) for _ in range(rng.randrange(1, 5)))
            case 4:
                out = out[:at] or out
            case _:
                out[at:at] = out[at : at + rng.randrange(1, 30)]
    return bytes(out)


@quick
@given(term, st.integers(0, 2**32))
def test_damaged_bytes(value: Any, seed: int) -> None:
    rng = random.Random(seed)
    data = encode(value)
    for _ in range(20):
        bad = mutate(rng, data)
        for dialect in ("otp", "ling"):
            try:
                again = decode(bad, dialect=dialect)
            except DecodeError as error:
                assert 0 <= error.offset <= len(bad)
                continue
            try:
                good = encode(again)
            except EncodeError as error:
                assert "LingPid" in error.reason or "LocalTerm" in error.reason or "integer" in error.reason
                continue
            assert encode(decode(good)) == good


@quick
@given(st.lists(term, min_size=1, max_size=4), st.integers(0, 2**32))
def test_damaged_streams(values: list[Any], seed: int) -> None:
    rng = random.Random(seed)
    outbox = Outbox()
    for value in values:
        outbox.send((2, Atom(""), Atom("x")), value)
        outbox.tick()
    data = mutate(rng, b"".join(outbox.buffers()))
    reader, at = FrameReader(max_frame=100_000), 0
    try:
        while at < len(data):
            step = rng.randrange(1, 100)
            for control, _payload in reader.feed(data[at : at + step]):
                assert type(control) is tuple
            at += step
    except DecodeError:
        assert reader.error is not None


@pytest.mark.parametrize("seed", range(4))
def test_tags_at_random(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(20_000):
        data = b"\x83" + bytes(
            rng.choice(INTERESTING) if rng.random() < 0.9 else rng.randrange(256) for _ in range(rng.randrange(40))
        )
        try:
            value = decode(data)
        except DecodeError:
            continue
        encode(value)
