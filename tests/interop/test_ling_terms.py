"""LING's terms by two writers and readers, made apart: tests/lingkit/ext.py and csrc/etf. One reads the other's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from lingkit import ext
from lingkit.terms import Atom as A
from lingkit.terms import LongPid, Pid, Port, Ref, from_json, to_json

from node import Atom, BitString, ImproperList, Reference, etf
from node.errors import DecodeError, EncodeError


@pytest.fixture(autouse=True)
def _deep() -> Iterator[None]:
    with ext.deep_terms():
        yield


INTEGERS = [0, 255, 256, -1, (1 << 27) - 1, 1 << 27, -(1 << 27), -(1 << 27) - 1, (1 << 31) - 1, -(1 << 31), 1 << 31]
INTEGERS += [1 << 32, -(1 << 63), 1 << 64, (1 << 2040) - 1, 1 << 2040, -(1 << 3000)]


def some(dice: random.Random, depth: int = 0) -> Any:
    """A term, now and then one that a LING can't have."""
    kind = dice.randrange(14 if depth < 6 else 9)
    if kind == 0:
        return dice.choice(INTEGERS)
    if kind == 1:
        return dice.randrange(-(1 << dice.randrange(1, 80)), 1 << dice.randrange(1, 80))
    if kind == 2:
        return dice.choice([0.0, -2.5, 1e300, float(dice.random())])
    if kind == 3:
        return Atom(dice.choice(["a", "", "h\xe9", "x" * 255, "$gen_call"]))
    if kind == 4:
        return dice.randbytes(dice.choice([0, 1, 100, 70_000 if dice.random() < 0.02 else 3]))
    if kind == 5:
        return BitString(bytes([dice.randrange(32) << 3]), 5)
    if kind == 6:
        return [dice.randrange(256) for _ in range(dice.randrange(6))]
    if kind == 7:
        return dice.choice([Atom("\u20ac"), {Atom("k"): 1}, float("inf")]) if dice.random() < 0.03 else Atom("fine")
    if kind == 8:
        words = (dice.randrange(1 << 18), dice.randrange(1 << 32), dice.randrange(1, 1 << 32))
        return Reference(Atom("local"), dice.randrange(4), words)
    if kind < 11:
        return tuple(
            some(dice, depth + 1) for _ in range(dice.choice([0, 1, 2, 3, 300 if dice.random() < 0.03 else 4]))
        )
    if kind == 11:
        return ImproperList((some(dice, depth + 1),), dice.choice([Atom("t"), 5, b"tail"]))
    return [some(dice, depth + 1) for _ in range(dice.randrange(5))]


@pytest.mark.parametrize("seed", range(4))
def test_what_we_write_a_ling_reads_and_writes_back(seed: int) -> None:
    dice = random.Random(seed)
    said = 0
    for _ in range(1500):
        term = some(dice)
        try:
            data = etf.encode(term, dialect="ling")
        except EncodeError:
            continue
        said += 1
        theirs = ext.decode(data, 5)
        assert ext.decode(ext.encode(theirs, 5), 5) == theirs
        assert etf.decode(ext.encode(theirs, 5), dialect="ling") == term
        assert from_json(to_json(theirs)) == theirs
    assert said > 1000


def nested(levels: int, leaf: Any, tuples: bool) -> Any:
    for _ in range(levels):
        leaf = (leaf,) if tuples else [leaf]
    return leaf


@pytest.mark.parametrize("tuples", [False, True])
@pytest.mark.parametrize("leaf", [0, Atom("a"), b"", [], ()])
def test_the_deepest_that_a_ling_reads(leaf: Any, tuples: bool) -> None:
    """It counts 1000 levels, the innermost term too."""
    levels = 1000 if leaf == 0 and not tuples else 999  # [0] is a string, and so itself the innermost
    deepest = etf.encode(nested(levels, leaf, tuples), dialect="ling")
    ext.decode(ext.encode(ext.decode(deepest, 5), 5), 5)
    with pytest.raises(EncodeError):
        etf.encode(nested(levels + 1, leaf, tuples), dialect="ling")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_terms(seed: int) -> None:
    """Whatever LING's reader takes, ours takes as well (and both take no more than there is)."""
    dice = random.Random(seed)
    terms = [(A("envelope"), LongPid(0, 6, 7), [Pid(3), 1, b"xyz", 2.5]), [Ref(A("local"), 0, (0, 0, 9)), 1 << 40]]
    terms.append((Port(A("local"), 5, 0), [A("a"), (A("b"), [300, -5])], []))
    for _ in range(4000):
        data = bytearray(ext.encode(dice.choice(terms), 5))
        for _ in range(dice.randrange(1, 4)):
            where = dice.randrange(1, len(data))
            if dice.random() < 0.8:
                data[where] = dice.choice([dice.randrange(256), 97, 104, 106, 107, 108, 109, 110, 114, 115, 160])
            else:
                del data[where:]
                break
        try:
            term = ext.decode(bytes(data), 5)
        except (ext.Undecodable, TypeError):
            continue
        try:
            ours = etf.decode(bytes(data), dialect="ling")
        except DecodeError as error:
            # LING does not look at what follows a term, nor at the bits behind a bitstring's end.
            assert "after the term" in str(error) or "trailing" in str(error) or "bit" in str(error), (error, term)
            continue
        assert ours is not None or term is not None
