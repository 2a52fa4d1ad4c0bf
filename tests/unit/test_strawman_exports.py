"""Who may be reached from other domains: nobody but the exported."""

from __future__ import annotations

from typing import Any

import pytest

from node.strawman.exports import SERVICES, StrawExports, is_forged
from node.terms import Atom, ImproperList, Pid, Reference

PID = Pid(Atom("a@b"), 1, 2, 3)
BUDDY, NODE = Atom("buddy"), Atom("a@b")


def test_denied_by_default() -> None:
    exports = StrawExports()
    for addr in (BUDDY, PID, (BUDDY, NODE), (5, BUDDY), Atom("rex")):
        assert exports.find(addr) is None


def test_exports() -> None:
    exports = StrawExports()
    exports.add("buddy")
    exports.add("other", to=("real", "a@b"), domains=[1, 2], sender=True)
    exports.add("pid", to=PID)
    found = exports.find(BUDDY)
    assert found is not None and found.to is BUDDY and found.domains is None and not found.sender
    other = exports.find(Atom("other"))
    assert other is not None and other.to == (Atom("real"), NODE) and other.domains == {1, 2} and other.sender
    exports.add("some", domains=[])
    exports.add("telling", sender=True)
    plain = {name: exports.find(Atom(name)) for name in ("buddy", "other", "pid", "some", "telling")}
    assert [name for name, export in plain.items() if export is not None and export.is_plain] == ["buddy"]
    assert exports.find(PID) is None
    assert exports.find((BUDDY, NODE)) is None, "a pair is exported as a pair only"
    exports.add((BUDDY, "a@b"))
    assert exports.find((BUDDY, NODE)) is not None
    exports.remove("buddy")
    exports.remove("buddy")
    assert exports.find(BUDDY) is None


@pytest.mark.parametrize("name", ["rex", "net_kernel", "user", "strawman", "init"])
def test_services_are_never_exported(name: str) -> None:
    exports = StrawExports()
    for arguments in ((name,), (Atom(name),), ((name, "a@b"),), ("x", name), ("x", (name, "a@b"))):
        with pytest.raises(ValueError, match="service"):
            exports.add(*arguments)
    assert Atom(name) in SERVICES


@pytest.mark.parametrize(
    "name", [5, (5, "buddy"), ("a",), ("a", "b", "c"), b"buddy", None, Reference(NODE, 1, (1,)), PID]
)
def test_what_is_no_address(name: Any) -> None:
    with pytest.raises(TypeError):
        StrawExports().add(name)
    if name is not None and name is not PID:
        with pytest.raises(TypeError):
            StrawExports().add("x", to=name)


def test_forged_messages() -> None:
    ref = Reference(NODE, 1, (1, 2, 3))
    alias = ImproperList((Atom("alias"),), ref)
    aliases: list[Any] = [alias, [alias], [alias, 1], ImproperList((alias,), 1)]
    for forged in (
        (Atom("EXIT"), PID, Atom("kill")),
        (Atom("DOWN"), ref, Atom("process"), PID, Atom("x")),
        (Atom("system"), (PID, ref), (Atom("terminate"), Atom("x"))),
        (Atom("$gen_call"), Atom("stop"), 1),
        (Atom("$gen_call"), (PID,), 1),
        (Atom("$gen_call"), (ref, PID), 1),
        *((Atom("$gen_call"), (PID, tag), 1) for tag in aliases),
    ):
        assert is_forged(forged)
    for tag in aliases:
        assert not is_forged((Atom("$gen_call"), (PID, tag), 1), lambda known: known == alias)
    for honest in (
        (),
        1,
        Atom("EXIT"),
        (Atom("EXIT"), 1),
        (Atom("DOWN"),),
        (Atom("$gen_cast"), 1),
        (Atom("$gen_call"), (PID, ref), Atom("stop")),
        (Atom("$gen_call"), (PID, []), Atom("stop")),
        [Atom("EXIT"), 1, 2],
    ):
        assert not is_forged(honest)
