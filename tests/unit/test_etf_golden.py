"""Bytes that OTP 25 and OTP 28 wrote (tests/golden/etf_golden.erl): read, and written again as OTP 28 writes them."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import pytest

from node.etf import decode, encode
from node.terms import Atom, BitString, Export, Fun, ImproperList, Map, Pid, Port, Reference

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def load(release: str) -> dict[str, bytes]:
    lines = (GOLDEN / f"etf_otp{release}.txt").read_text().splitlines()
    return {name: bytes.fromhex(data) for name, data in (line.split() for line in lines)}


OTP25, OTP28 = load("25"), load("28")
NODE = Atom("a@b.com")
PID = Pid(NODE, 77, 3, 12345678)

VALUES: dict[str, Any] = {
    "int_over_small": 2**59,
    "int_min64": -(2**63),
    "int_big_256": 2 ** (8 * 255),
    "int_big_negative": -(2**3000) - 17,
    "float_minus_0": -0.0,
    "float_small": 5e-324,
    "atom_empty": Atom(""),
    "atom_true": True,
    "atom_undefined": Atom("undefined"),
    "atom_latin1": Atom("\u00e9\u00ff"),
    "atom_utf8": Atom("\u20ac\U0001f680"),
    "atom_255_wide": Atom("\U0001f680" * 255),
    "tuple_256": tuple(range(1, 257)),
    "string": list(b"hello"),
    "list_256": [1, 2, 256],
    "improper_bytes": ImproperList((1, 2), b"x"),
    "improper_deep": ImproperList((ImproperList((1,), 2),), (Atom("x"),)),
    "binary": b"abc",
    "bits_12": BitString(b"\xab\xc0", 4),
    "map_1_and_1_0": Map(((1, Atom("a")), (1.0, Atom("b")))),
    "map_list_key": Map((([1, Atom("x")], Atom("a")),)),
    "map_40": {i: i * i for i in range(1, 41)},
    "pid": PID,
    "port_64_bits": Port(NODE, 0xFEDCBA9876543210, 9),
    "ref_5": Reference(NODE, 9, (1, 2, 3, 4, 5)),
    "old_pid": Pid(NODE, 77, 3, 2),
    "old_port": Port(NODE, 77, 2),
    "old_ref": Reference(NODE, 2, (77,)),
    "old_new_ref": Reference(NODE, 2, (7, 8, 9)),
    "old_float": 1.5,
    "export": Export(Atom("lists"), Atom("map"), 2),
    "gen_call": (
        Atom("$gen_call"),
        (PID, ImproperList((Atom("alias"),), Reference(NODE, 9, (1, 2, 3, 4, 5)))),
        (Atom("add"), 1, 2),
    ),
}


def test_both_files_have_the_same_terms() -> None:
    assert OTP25.keys() == OTP28.keys()
    assert VALUES.keys() <= OTP28.keys()


@pytest.mark.parametrize("name", OTP28)
def test_otp28(name: str) -> None:
    value = decode(OTP28[name])
    assert encode(value) == OTP28[name]
    if name in VALUES:
        assert value == VALUES[name]
        assert repr(value) == repr(VALUES[name]) or isinstance(value, dict)


@pytest.mark.parametrize("name", OTP25)
def test_otp25_reads_as_the_same_terms(name: str) -> None:
    value = decode(OTP25[name])
    same = decode(OTP28[name])
    if isinstance(value, Fun):  # OTP 28 does not keep the pid of another node's fun
        value = dataclasses.replace(value, pid=same.pid)
    assert value == same
    assert repr(value) == repr(same) or isinstance(value, (dict, Map))
