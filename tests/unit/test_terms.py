"""Atom, Pid, Port, Reference and the dataclasses of node.terms."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from node import _etf
from node.etf import decode, encode
from node.terms import (
    NO_PAYLOAD,
    Atom,
    BitString,
    Export,
    Fun,
    ImproperList,
    LingPid,
    LocalTerm,
    Pid,
    Port,
    Record,
    Reference,
)

NODE = Atom("a@b")


def test_atoms_are_interned_and_no_strings() -> None:
    assert Atom("x") is Atom("x")
    assert Atom("x") != Atom("y")
    text: Any = "x"
    assert Atom("x") != text
    assert str(Atom("x")) == Atom("x").name == "x"
    assert repr(Atom("a'b")) == 'Atom("a\'b")'
    assert hash(Atom("x")) == hash(Atom("x"))
    truth: Any = Atom("true")
    assert truth is not True
    assert {Atom("x"): 1, "x": 2, b"x": 3} == {b"x": 3, "x": 2, Atom("x"): 1}
    match Atom("add"):
        case Atom("sub"):
            raise AssertionError
        case Atom("add"):
            pass
        case _:
            raise AssertionError


def test_atom_limits() -> None:
    assert Atom("\U0001f680" * 255).name == "\U0001f680" * 255
    assert Atom("").name == ""
    assert Atom("a\0b").name == "a\0b"
    for name in ("x" * 256, "\ud800"):
        with pytest.raises(ValueError):
            Atom(name)
    with pytest.raises(TypeError):
        Atom(b"x")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        type("Sub", (Atom,), {})
    with pytest.raises((AttributeError, TypeError)):
        Atom("x").name = "y"  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        Atom("x").other = "y"  # type: ignore[attr-defined]


def test_atoms_that_nobody_holds_leave_the_table() -> None:
    gc.collect()
    before = _etf.atom_count()
    for i in range(10_000):
        Atom(f"fleeting {i}")
    assert _etf.atom_count() == before
    held = [Atom(f"held {i}") for i in range(10_000)]
    assert _etf.atom_count() == before + 10_000
    assert Atom("held 77") is held[77]
    held.clear()
    assert _etf.atom_count() == before


def test_atoms_from_the_wire_do_not_grow_the_table() -> None:
    for i in range(50_000):
        decode(b"\x83w\x0c" + b"%012d" % i)
    assert _etf.atom_count() < 2 * _etf.RECENT_ATOMS
    long = [decode(b"\x83w\xc8" + b"%0200d" % i) for i in range(3000)]
    count = _etf.atom_count()
    assert decode(encode(long[7])) is long[7]
    long.clear()
    assert _etf.atom_count() == count - 3000
    _etf.forget_atoms()
    assert decode(b"\x83w\x04true") is True


def test_atoms_can_be_referred_to_weakly() -> None:
    gone: list[object] = []
    atom = Atom("a weak one")
    ref = weakref.ref(atom, lambda _: gone.append(Atom("a weak one")))
    assert ref() is atom
    del atom
    assert ref() is None
    assert gone == [Atom("a weak one")]


VALUES: list[Any] = [
    Atom("x"),
    Pid(NODE, 1, 2, 3),
    Port(NODE, 2**64 - 1, 3),
    Reference(NODE, 1, (1, 2, 2**32 - 1)),
    Export(NODE, Atom("f"), 2),
    Fun(1, b"u" * 16, 2, (1, (2,)), NODE, 3, 4, Pid(NODE, 1, 2, 3)),
    BitString(b"\xe0", 3),
    ImproperList((1, 2), 3),
    Record(NODE, Atom("r"), True, (Atom("f"),), (1,)),
    LocalTerm(b"x"),
    LingPid(0, 1, 2),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_values(value: Any) -> None:
    again = pickle.loads(pickle.dumps(value))
    assert again == value
    assert hash(again) == hash(value)
    assert copy.copy(value) == copy.deepcopy(value) == value
    assert eval(repr(value)) == value
    assert value != 1
    assert not (value == "x")
    for name in type(value).__match_args__:
        getattr(value, name)
        with pytest.raises((AttributeError, TypeError)):
            setattr(value, name, 1)
    with pytest.raises(TypeError):
        value < value  # noqa: B015


def test_identifiers_compare_by_every_field() -> None:
    other = Atom("c@d")
    pids = [Pid(*f) for f in ((NODE, 1, 2, 3), (other, 1, 2, 3), (NODE, 9, 2, 3), (NODE, 1, 9, 3), (NODE, 1, 2, 9))]
    ports = [Port(*f) for f in ((NODE, 1, 3), (other, 1, 3), (NODE, 9, 3), (NODE, 1, 9))]
    refs = [Reference(NODE, 1, i) for i in ((1,), (1, 0), (1, 2), (2, 1), (1, 2, 3, 4, 5), (1, 2, 3, 4, 6))]
    refs += [Reference(NODE, 2, (1,)), Reference(other, 1, (1,))]
    for family in (pids, ports, refs):
        assert len(set(family)) == len(family)
        assert len({hash(value) for value in family}) == len(family)
    port: Any = Port(NODE, 1, 3)
    assert Pid(NODE, 1, 2, 3) != port
    match refs[4]:
        case Reference(node, creation, (1, *rest)):
            assert (node, creation, rest) == (NODE, 1, [2, 3, 4, 5])
        case _:
            raise AssertionError


def test_what_constructors_refuse() -> None:
    wrong: list[Callable[[], Any]] = [
        lambda: Pid("a@b", 1, 2, 3),  # type: ignore[arg-type]
        lambda: Pid(NODE, "1", 2, 3),  # type: ignore[arg-type]
        lambda: Reference(NODE, 1, [1]),  # type: ignore[arg-type]
    ]
    for call in wrong:
        with pytest.raises(TypeError):
            call()
    wrong = [
        lambda: Pid(NODE, 2**32, 2, 3),
        lambda: Pid(NODE, -1, 2, 3),
        lambda: Pid(NODE, 1, 2, 2**32),
        lambda: Port(NODE, 2**64, 1),
        lambda: Reference(NODE, 1, ()),
        lambda: Reference(NODE, 1, (1,) * 6),
        lambda: Reference(NODE, 1, (2**32,)),
        lambda: Export("m", NODE, 1),  # type: ignore[arg-type]
        lambda: Export(NODE, NODE, 256),
        lambda: BitString(b"a", 8),
        lambda: BitString(b"", 1),
        lambda: ImproperList((), 1),
        lambda: ImproperList((1,), [2]),
        lambda: Record(NODE, NODE, True, (NODE,), ()),
    ]
    for call in wrong:
        with pytest.raises(ValueError):
            call()
    assert BitString(b"\xff", 3) == BitString(b"\xe0", 3)


def test_no_payload() -> None:
    assert repr(NO_PAYLOAD) == "NO_PAYLOAD"
    assert pickle.loads(pickle.dumps(NO_PAYLOAD)) is NO_PAYLOAD
