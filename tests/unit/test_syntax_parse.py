"""node.syntax.parse: every kind of term, and the place and words of its errors."""

import pytest

from node.syntax import TermSyntaxError, parse
from node.syntax.parse import MAX_NESTING
from node.terms import Atom, BitString, Export, ImproperList, Map, Pid, Port, Reference

a, b = Atom("a"), Atom("b")


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("1", 1),
        ("-5", -5),
        ("+ 5", 5),
        ("16#ff", 255),
        ("36#Zz", 35 * 36 + 35),
        ("2#1010_1010", 170),
        ("1_000_000", 1000000),
        ("$a", 97),
        ("$ ", 32),
        (r"$\n", 10),
        (r"$\s", 32),
        ("$é", 233),
        ("-$a", -97),
        ("1.5", 1.5),
        ("1.0e3", 1000.0),
        ("1.0E+3", 1000.0),
        ("-2.5e-3", -0.0025),
        ("1_0.2_5", 10.25),
        ("abc", Atom("abc")),
        ("aB_1@x", Atom("aB_1@x")),
        ("été", Atom("été")),
        ("'A b'", Atom("A b")),
        ("''", Atom("")),
        (r"'it\'s'", Atom("it's")),
        ("'\u20ac'", Atom("\u20ac")),
        ("'end'", Atom("end")),
        ("maybe", Atom("maybe")),
        ("true", True),
        ("'false'", False),
        ("undefined", Atom("undefined")),
        ('""', []),
        ('"abc"', [97, 98, 99]),
        ('"a" "b"\n"c"', [97, 98, 99]),
        ('"\u20ac"', [0x20AC]),
        (r'"\x41\x{20ac}\101\0\^a\e\d\q"', [0x41, 0x20AC, 0o101, 0, 1, 27, 127, 113]),
        ("[]", []),
        ("[1, a , []]", [1, a, []]),
        ("[a|b]", ImproperList((a,), b)),
        ("[a, 1|b]", ImproperList((a, 1), b)),
        ("[1|[2|[]]]", [1, 2]),
        ("[1|[2|b]]", ImproperList((1, 2), b)),
        ('[1|"a"]', [1, 97]),
        ("{}", ()),
        ("{a, {1}}", (a, (1,))),
        ("#{}", {}),
        ("#{a => 1, b => #{}}", {a: 1, b: {}}),
        ("#{1 => a, 1 => b}", {1: b}),
        ("<<>>", b""),
        ("<<1, 2, 255, 256, -1>>", b"\x01\x02\xff\x00\xff"),
        ('<<"abc">>', b"abc"),
        ('<<"a" "b", 99>>', b"abc"),
        ('<<"é">>', b"\xe9"),
        ('<<"é"/utf8>>', "é".encode()),
        ('<<"a€"/utf16>>', "a€".encode("utf-16-be")),
        ('<<"a€"/utf16-little>>', "a€".encode("utf-16-le")),
        ('<<"a"/utf32>>', b"\0\0\0a"),
        ("<<8364/utf8>>", "€".encode()),
        ('<<"ab":16>>', b"\0a\0b"),
        ("<<5:3>>", BitString(b"\xa0", 3)),
        ("<<1, 2:3>>", BitString(b"\x01\x40", 3)),
        ("<<1:4, 2:4>>", b"\x12"),
        ("<<1:16/little>>", b"\x01\x00"),
        ("<<291:12/little>>", BitString(b"\x23\x10", 4)),
        ("<<1:2/unit:8>>", b"\x00\x01"),
        ("<<1:$\\b>>", b"\x01"),
        ("<<1:16/signed-little-integer-unit:2>>", b"\x01\x00\x00\x00"),
        ("<<1.5/float>>", b"\x3f\xf8\0\0\0\0\0\0"),
        ("<<1:32/float>>", b"\x3f\x80\0\0"),
        ("<< <<1, 2>>/binary, 3 >>", b"\x01\x02\x03"),
        ("<<(<<1, 2, 3>>):2/binary>>", b"\x01\x02"),
        ("<< <<5:3>>/bits, 0:5 >>", b"\xa0"),
        ('~"é"', "é".encode()),
        ("fun lists:map/2", Export(Atom("lists"), Atom("map"), 2)),
        ("fun 'M':'end'/0", Export(Atom("M"), Atom("end"), 0)),
        ("<'a@127.0.0.1'.85.1>", Pid(Atom("a@127.0.0.1"), 85, 1, 0)),
        ("#Port<a@b.5>", Port(Atom("a@b"), 5, 0)),
        ("#Ref<'a@b'.1.2.3>", Reference(Atom("a@b"), 0, (3, 2, 1))),
        ("(a)", a),
        ("{a, 1}.", (a, 1)),
        ("  % a comment\n {a, % another\n 1} . ", (a, 1)),
    ],
)
def test_term(text, term):
    parsed = parse(text)
    assert type(parsed) is type(term)
    assert parsed == term


def test_keys_that_python_confuses_or_cannot_hash():
    assert parse("#{1 => a, 1.0 => b}") == Map(((1, a), (1.0, b)))
    assert parse("#{[1] => a}") == Map((([1], a),))
    assert parse("#{{1} => a, {true} => b}") == Map((((1,), a), ((True,), b)))


def test_integers_of_any_size():
    digits = "1234567890" * 1000
    number = parse(digits)
    assert number % 10**20 == int("1234567890" * 2)
    assert parse(f"-{digits}") == -number
    assert parse(f"10#{digits}") == number
    assert parse("16#" + "f" * 5000) == 16**5000 - 1
    assert parse("7#" + "6" * 5000) == 7**5000 - 1


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("", 1, 1, "missing"),
        ("   ", 1, 4, "missing"),
        ("{a, b", 1, 6, "too early"),
        ("{a,, b}", 1, 4, "term"),
        ("{a b}", 1, 4, "expected ,"),
        ("[1 | 2, 3]", 1, 7, "expected ]"),
        ("[|a]", 1, 2, "term"),
        ("foo bar", 1, 5, "after the term"),
        ("a. b", 1, 2, "after the term"),
        ("Xyz", 1, 1, "variable"),
        ("_", 1, 1, "variable"),
        ("{ok,\n end}", 2, 2, "reserved"),
        ("py@127.0.0.1", 1, 7, "quotes"),
        ("<0.85.0>", 1, 1, "only on the node"),
        ("#Ref<0.1.2.3>", 1, 1, "only on the node"),
        ("#Fun<a.1.2>", 1, 1, "fun module:function/arity"),
        ("<'a@b'.1>", 1, 1, "not a pid"),
        ("<'a@b'.1.4294967296>", 1, 1, "too large"),
        ("<a@127.0.0.1.1.2>", 1, 1, "quotes"),
        ("<x", 1, 1, "not a pid"),
        ("fun (x)", 1, 5, "fun module:function/arity"),
        ("fun a:b/256", 1, 1, "255"),
        ("#rec{a=1}", 1, 1, "records are tuples"),
        ("#{a}", 1, 4, "=>"),
        ("{a,, B}", 1, 4, "term"),
        ("#{a := 1}", 1, 5, "=>"),
        ("'abc", 1, 1, "closing '"),
        ('"abc', 1, 1, 'closing "'),
        ('"abc\\', 1, 5, "backslash"),
        (r'"\xZZ"', 1, 2, "not a character"),
        (r'"\x{d800}"', 1, 2, "not a character"),
        (r'"\x{1111111111111}"', 1, 2, "not a character"),
        (r'"\^1"', 1, 2, "control"),
        ('"""abc"""', 1, 1, "triple"),
        ("~s(a)", 1, 1, "sigils"),
        ("$", 1, 1, "after $"),
        ("1e5", 1, 1, "fraction"),
        ("1.0e999", 1, 1, "too large"),
        ("37#1", 1, 1, "base"),
        ("2#12", 1, 1, "base 2"),
        ("16#", 1, 4, "missing"),
        ("--5", 1, 2, "number"),
        ("-a", 1, 2, "number"),
        ("1 + 2", 1, 3, "after the term"),
        ("'" + "a" * 256 + "'", 1, 1, "255"),
        ("a" * 256, 1, 1, "255"),
        ('<<"€">>', 1, 3, "utf8"),
        ("<<a>>", 1, 3, "expected a number"),
        ("<<1:1:1>>", 1, 6, "expected ,"),
        ("<<1/foo>>", 1, 5, "not a type"),
        ("<<1:9999999999999>>", 1, 3, "bits"),
        ("<<1:9/float-unit:3>>", 1, 3, "16, 32 or 64"),
        ("<<1/unit:3>>", 1, 3, "needs a size"),
        ("<<1.5>>", 1, 3, "segment"),
        ("<< <<1>> >>", 1, 4, "/binary"),
        ("<< <<1>>:2/binary >>", 1, 4, "shorter"),
        ("<< <<1:1>>/binary >>", 1, 4, "bitstring"),
        ("<<16#d800/utf8>>", 1, 3, "not a character"),
        ("<<1:8/utf8>>", 1, 3, "no size"),
        ("<<1/unit:0>>", 1, 5, "unit"),
        ("(a", 1, 3, "expected )"),
        ("a;b", 1, 2, "unexpected character"),
        ("'\udcff'", 1, 2, "not a character"),
    ],
)
def test_error(text, line, column, words):
    with pytest.raises(TermSyntaxError) as caught:
        parse(text)
    error = caught.value
    assert isinstance(error, ValueError)
    assert (error.line, error.column) == (line, column)
    assert words in error.reason


def test_an_error_points_at_its_place():
    with pytest.raises(TermSyntaxError) as caught:
        parse("{ok,\n  [1, 2; 3]}")
    assert str(caught.value).splitlines()[1:] == ["    [1, 2; 3]}", "         ^"]
    with pytest.raises(TermSyntaxError) as caught:
        parse("{" + "a," * 500 + ";}")
    shown, caret = str(caught.value).splitlines()[1:]
    assert shown[len(caret) - 1] == ";"


def test_nesting_is_bounded_on_both_sides():
    assert parse("[" * MAX_NESTING + "]" * MAX_NESTING)
    for opening in ("[", "{", "(", "#{", "<<", "[a|", "#{a=>"):
        with pytest.raises(TermSyntaxError, match="nested deeper"):
            parse(opening * 100_000)
