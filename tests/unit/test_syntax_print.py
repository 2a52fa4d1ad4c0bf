"""node.syntax.format: what each kind of term looks like; beside OTP's printer in tests/interop/test_syntax_beam.py."""

import math

import pytest

from node.syntax import format
from node.terms import Atom, BitString, Export, ImproperList, LocalTerm, Map, Pid, Port, Record, Reference

a, b = Atom("a"), Atom("b")


@pytest.mark.parametrize(
    ("term", "text"),
    [
        (0, "0"),
        (-12, "-12"),
        (True, "true"),
        (False, "false"),
        (None, "undefined"),
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (0.1, "0.1"),
        (1e10, "1.0e10"),
        (100000.0, "1.0e5"),
        (123456.0, "123456.0"),
        (0.0001, "0.0001"),
        (0.00001, "1.0e-5"),
        (2.0**53, "9.007199254740992e15"),
        (2.0**53 - 1, "9007199254740991.0"),
        (5e-324, "5.0e-324"),
        (-1.5, "-1.5"),
        (a, "a"),
        (Atom("aB@1"), "aB@1"),
        (Atom("Ab"), "'Ab'"),
        (Atom(""), "''"),
        (Atom("a b"), "'a b'"),
        (Atom("it's \\"), r"'it\'s \\'"),
        (Atom("é"), "é"),
        (Atom("€"), "'€'"),
        (Atom("a\n\x00\x9f"), r"'a\n\000\237'"),
        (Atom("end"), "'end'"),
        (Atom("else"), "'else'"),
        ([], "[]"),
        ([1, 2], "[1,2]"),
        ([97, 98], '"ab"'),
        ([97, True], "[97,true]"),
        ([97, 98.0], "[97,98.0]"),
        ([10, 13, 9, 11, 8, 12, 27, 34, 92], r'"\n\r\t\v\b\f\e\"\\"'),
        ([233], '"é"'),
        ([0x20AC], "[8364]"),
        ([127], "[127]"),
        ([97, -1], "[97,-1]"),
        ([97, 2**70], "[97,1180591620717411303424]"),
        (ImproperList((a, 1), b), "[a,1|b]"),
        ((), "{}"),
        ((a, [b"x"]), '{a,[<<"x">>]}'),
        ({}, "#{}"),
        ({a: 1, b"k": {}}, '#{a => 1,<<"k">> => #{}}'),
        (Map(((1, a), (1.0, b))), "#{1 => a,1.0 => b}"),
        (b"", "<<>>"),
        (b"abc", '<<"abc">>'),
        (bytearray(b"abc"), '<<"abc">>'),
        ("abc", '<<"abc">>'),
        ("é", '<<"é"/utf8>>'),
        (b"\xe9", '<<"é">>'),
        ("€", "<<226,130,172>>"),
        (b"\x00\xff", "<<0,255>>"),
        (BitString(b"\xa0", 3), "<<5:3>>"),
        (BitString(b"\x61\xa0", 3), "<<97,5:3>>"),
        (Export(Atom("lists"), Atom("map"), 2), "fun lists:map/2"),
        (Export(Atom("M"), Atom("end"), 2), "fun 'M':'end'/2"),
        (Pid(Atom("a@127.0.0.1"), 85, 1, 7), "<'a@127.0.0.1'.85.1>"),
        (Pid(Atom("a@b"), 85, 1, 7), "<a@b.85.1>"),
        (Port(Atom("a@b"), 5, 7), "#Port<a@b.5>"),
        (Reference(Atom("a@b"), 7, (3, 2, 1)), "#Ref<a@b.1.2.3>"),
        (Record(a, b, True, (a, Atom("X")), (1, [2])), "#a:b{a = 1,'X' = [2]}"),
        (LocalTerm(b"12345"), "#LocalTerm<5 bytes>"),
    ],
)
def test_term(term, text):
    assert format(term) == text


def test_printable_unicode():
    assert format([0x20AC], printable="unicode") == '"€"'
    assert format("€", printable="unicode") == '<<"€"/utf8>>'
    assert format(b"\xe9", printable="unicode") == '<<"é">>'
    assert format([0xFFFE], printable="unicode") == "[65534]"
    assert format([0xD800], printable="unicode") == "[55296]"
    with pytest.raises(ValueError, match="printable"):
        format(1, printable="ascii")


def test_none_is_the_atom_asked_for():
    assert format([None], none="nil") == "[nil]"


def test_integers_of_any_size():
    assert format(10**10000) == "1" + "0" * 10000
    assert format(1 - 10**10000) == "-" + "9" * 10000


def test_any_depth():
    term = a
    for _ in range(100_000):
        term = [term]
    assert format(term) == "[" * 100_000 + "a" + "]" * 100_000


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_float_that_is_no_term(value):
    with pytest.raises(ValueError, match="not a term"):
        format([value])


def test_no_term():
    with pytest.raises(TypeError, match="not a term: object"):
        format([object()])
