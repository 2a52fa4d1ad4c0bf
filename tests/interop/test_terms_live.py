"""Whatever term a BEAM sends comes back as the same term: erl/term_gen.erl's random terms, and the limits."""

from __future__ import annotations

import os
import random

import pytest
from beamkit.beam import Beam

COUNT = 12000

pytestmark = pytest.mark.skipif(
    os.environ.get("INTEROP_ORACLE") == "otp25",
    reason="OTP 25 itself makes 0.0 and -0.0 one key, and can't be the oracle",
)
KINDS = {
    "atom", "big", "big_map", "binary", "bits", "closure", "export", "float", "fun_", "improper", "int", "key_clash",
    "list",
    "long", "map", "nil", "pid", "port", "ref", "string", "tuple",
}  # fmt: skip


def test_random_terms(beam: Beam, subject, record_property) -> None:
    """At least 10,000 terms; the seed is printed, and a failing term is shrunk."""
    seed = random.randrange(1 << 32)
    record_property("seed", seed)
    print(f"term_gen:run('{subject.name}', {COUNT}, {seed})")
    found = beam.eval("term_gen:run(Py, Count, Seed)", Py=subject.name, Count=COUNT, Seed=seed, timeout=80)
    assert found.startswith(f"{{ok,{COUNT},"), found[:4000]
    for kind in KINDS:
        assert f"{{{kind}," in found, f"no {kind} among the terms of seed {seed}"


EDGES = [
    "binary:decode_unsigned(binary:copy(<<255>>, 524280))",
    "-binary:decode_unsigned(binary:copy(<<255>>, 524280))", "1 bsl 2039", "1 bsl 2040", "-(1 bsl 2040)",
    "lists:seq(1, 100000)", "list_to_tuple(lists:seq(1, 70000))", "maps:from_list([{N, N} || N <- lists:seq(1, 5000)])",
    "lists:duplicate(65535, 7)", "lists:duplicate(65536, 7)",
    "lists:foldl(fun(_, T) -> [T] end, [], lists:seq(1, 5000))",
    "lists:foldl(fun(_, T) -> {T, T} end, a, lists:seq(1, 12))", "lists:duplicate(300, binary:copy(<<0>>, 65536))",
    "list_to_atom(lists:duplicate(255, 16#1f600))", "<<0:(8 * 1048576 + 3)>>",
    "#{0.0 => a, -0.0 => b, 0 => c, false => d}",
    "#{1 => a, 1.0 => b, true => c, [1] => d, {1} => e, {1.0} => f, {true} => g}",
    "#{#{1 => 2} => #{1.0 => 2}, [a | b] => #{}, #{} => []}", "fun() -> {Py, [1, 2, 3]} end", "fun erlang:apply/3",
    "[<<5:3>>, <<1:1>>, <<255:9>>, <<>>]", "[self() | make_ref()]", "{Py, '', \"\", <<\"\">>, #{}, {}, [[]]}",
    "binary_to_term(<<131, 90, 1:16, 119, 9, \"other@x.y\", 7:32, 99:32>>)",
    "element(2, file:open(\"/dev/null\", [read]))", "hd(erlang:ports())", "[P || P <- processes()]",
    "erlang:system_info(build_type)",
]  # fmt: skip


@pytest.mark.parametrize("term", EDGES)
def test_edges(beam: Beam, subject, term: str) -> None:
    assert beam.eval(f"term_gen:echoes(Py, {term})", Py=subject.name) == "true"


def test_a_large_integer_of_otp_25(beam: Beam, subject, python_only: None) -> None:
    """Integers that OTP 28 has not. Decoding takes them; sending them back is refused before a byte is queued,
    because OTP 28 would drop the connection. The node lives on."""
    if beam.release != "25":
        pytest.skip("only OTP 25 can make such an integer")
    text = """
        Large = 1 bsl (8 * 600000),
        {echo, Py} ! {self(), make_ref(), Large},
        gen_server:cast({calc, Py}, Large),
        3 = gen_server:call({calc, Py}, {add, 1, 2}),
        lists:member(Py, nodes(connected))
        """
    assert beam.eval(text, Py=subject.name) == "true"
