"""node.syntax beside OTP's own printer and parser: io_lib:format("~0tp") and erl_parse:parse_term/1.

Terms and texts travel by the control socket of beamkit, not by distribution.
"""

from __future__ import annotations

import asyncio
import random
import re
from typing import Any

import pytest
from beamkit.beam import Beam

from node.etf import encode
from node.syntax import TermSyntaxError, format, parse
from node.terms import Atom, BitString, Export, ImproperList

COUNT = 2000

PRINT = """
    [{unicode:characters_to_binary(io_lib:format("~0tp", [T])), T} || T <- binary_to_term(Terms)]
    """
# true where OTP's answer is ours ({ok, Term} or error), else OTP's.
PARSE = """
    Parse = fun(Text) ->
        try
            {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(Text) ++ "\\n."),
            {ok, Term} = erl_parse:parse_term(Tokens),
            {ok, Term}
        catch _:_ -> error
        end
    end,
    [case Parse(Text) of Ours -> true; Theirs -> Theirs end || {Text, Ours} <- binary_to_term(Pairs)]
    """
REFUSED = object()


@pytest.fixture(params=["latin1", "unicode"])
def printing_beam(runtime: Any, start_beam: Any, request: pytest.FixtureRequest) -> tuple[Beam, str]:
    """A BEAM with each setting of +pc."""
    return start_beam(runtime, name=None, args=["+pc", request.param]), request.param


SAME = f"lists:map(fun({{{{ok, T}}, T}}) -> true; (Other) -> Other end, begin {PARSE} end)"


def ask(beam: Beam, text: str, **bindings: Any) -> Any:
    return asyncio.run(beam.ask_term(text, **bindings))


def test_printed_as_otp_does(printing_beam: tuple[Beam, str]) -> None:
    beam, printable = printing_beam
    terms = [*map(parse, HARD), *(some_term(random.Random(seed), 3) for seed in range(COUNT))]
    # The terms come back in the BEAM's own order of keys, in which it has printed them.
    for theirs, term in ask(beam, PRINT, Terms=encode(terms)):
        if re.search(r"\b(maybe|else)\b|fun 'A':end", theirs.decode()):
            continue  # reserved since OTP 27, and quoted by us for every OTP; see also NAMES
        assert format(term, printable=printable) == theirs.decode()


def test_floats_printed_as_otp_does(beam: Beam) -> None:
    numbers = random.Random(7)
    floats = [numbers.choice((-1, 1)) * numbers.random() * 10.0 ** numbers.randint(-320, 300) for _ in range(COUNT)]
    floats += [float(f"{numbers.randint(1, 9999)}e{numbers.randint(-8, 24)}") for _ in range(COUNT)]
    floats += [2.0**power + more for power in range(-10, 70) for more in (-1, 0, 1)]
    for theirs, term in ask(beam, PRINT, Terms=encode(floats)):
        assert format(term) == theirs.decode()


def test_atoms_printed_as_otp_does(beam: Beam) -> None:
    single = [Atom(chr(code) + more) for code in range(0x180) for more in ("", "a")]
    after = [Atom("a" + chr(code)) for code in range(0x180)]
    for theirs, term in ask(beam, PRINT, Terms=encode(single + after)):
        assert format(term) == theirs.decode()


def test_identifiers_and_funs_printed_as_otp_does(beam: Beam) -> None:
    """A BEAM shows its own node as 0; we show the name."""
    text = """
        Terms = [self(), make_ref(), hd(erlang:ports()), fun(X) -> X end, fun lists:map/2, fun shell:start/0],
        {atom_to_binary(node()), [{iolist_to_binary(io_lib:format("~0tp", [T])), T} || T <- Terms]}
        """
    name, pairs = ask(beam, text)
    shown = name.decode() if name == b"nonode" else f"'{name.decode()}'"
    for theirs, term in pairs:
        assert format(term).replace(f"<{shown}.", "<0.") == theirs.decode()


def test_parsed_as_otp_does(beam: Beam) -> None:
    compare(
        beam, {text: parse(text) for text in [*HARD, *(some_text(random.Random(seed), 3) for seed in range(COUNT))]}
    )


def test_refused_as_otp_does(beam: Beam) -> None:
    for text in BAD:
        with pytest.raises(TermSyntaxError):
            parse(text)
    compare(beam, dict.fromkeys(BAD, REFUSED))


def test_broken_texts_as_otp_does(beam: Beam) -> None:
    """Terms with up to three characters changed: the same term on both sides, or an error on both."""
    ours: dict[str, Any] = {}
    for text in (broken(random.Random(seed)) for seed in range(3 * COUNT)):
        if not re.search(EXTRAS, text):
            try:
                ours[text] = parse(text)
            except TermSyntaxError:
                ours[text] = REFUSED
    refused = sum(term is REFUSED for term in ours.values())
    assert refused > COUNT / 4
    assert len(ours) - refused > COUNT / 4
    compare(beam, ours)


def compare(beam: Beam, ours: dict[str, Any]) -> None:
    """Fails for the first text that OTP reads as another term, or refuses where we do not, or the other way."""
    pairs = [(text.encode(), Atom("error") if term is REFUSED else (Atom("ok"), term)) for text, term in ours.items()]
    for text, answer in zip(ours, ask(beam, PARSE, Pairs=encode(pairs)), strict=True):
        assert answer is True, text


# Where we differ from one OTP or the other: control characters (28), sigils (27 on), words reserved since 27, strings
# without a space between them (25), based floats (28), characters cut in binaries, a dot at the end.
EXTRAS = r"""\\\^[^@-Za-z]|~|maybe|else|""|#\.|[€日😀].*>>|\.\s*$|\.\s*%|[$\\^]\s*$"""

HARD = [
    "1", "-0", "16#FF", "36#zZ", "1_000_000", "10#99", "$a", r"$\n", r"$\s", "$ ", r"$\\", "$é", "$€", r"$\x{20ac}",
    r"$\^a", r"$\101", "-$a", "1.0", "1.5e-7", "1.5E+7", "-0.0", "- 1", "+1", "123456789" * 50,
    "a", "été", "'a b'", "''", r"'\''", r"'\x{20ac}'", "'€'",
    "'end'", "'after'", "ok@host", "aB_", "'1'", "'_'", "'µ'",
    '""', '"a" "b"', r'"\t\d\e\0"', '"é"', '"€"', '"日本"', r'"\xe9\x{e9}\351"', '[$a|$b]',
    "[]", "[1,2|3]", "[[]|[]]", "[a|[b|c]]", "{}", "{{}}", "#{}", "#{a=>#{b=>[]}}", '#{"k"=><<"v">>}', "#{1=>a,1=>b}",
    "#{[1]=>a}", "#{{1}=>a,{1.0}=>b,{true}=>c}", "<<>>", "<<1,2,3>>", '<<"abc">>', '<<"é">>', '<<"é"/utf8>>',
    '<<"€"/utf8,1>>', "<<5:3>>", "<<1,2:3>>", "<<0:1>>", "<<255:7,1:1>>", "<<300>>", "<<-1>>",
    "<<1:16/little>>", "<<291:12/little>>", "<<-2:20/signed-little>>", "<<1:3/unit:5>>", "<<1.5/float>>",
    "<<1.5:32/float-little>>", "<<2/float>>", '<<"ab":4>>', '<<"ab"/float>>', '<<"a€"/utf16-little>>', "<<8364/utf32>>",
    "<< <<1,2>>/binary>>", "<<(<<1,2,3>>):2/binary>>", "<< <<5:3>>/bitstring,1:1>>", "<<$a,$b>>", "<<0:0>>",
    "fun a:b/0", "fun 'A':'end'/255", "(a)", "{(1),[(b)]}", "% c\n a", "true", "'false'", "undefined", "nil",
]  # fmt: skip

BAD = [
    "", "{", "}", "[", "{a", "[a|", "[a|b,c]", "[|a]", "{a,}", "[a,]", "a b", "a,b", "X", "_", "end", "after", "1 + 2",
    "--1", "-a", '"abc', "'abc", r'"\xZ"', r'"\x{d800}"', r'"\x{110000}"', "1e5", "1.0e999", "37#1", "1#1", "2#2",
    "16#",
    "#{a}", "#{a:=1}", "#{a=>}", "#{=>1}", "#r{a=1}", "<<a>>", "<<1:>>", "<<1/>>", "<<1/foo>>", "<<1:a>>", "<<", "<<1",
    "<<1.5>>", '<<"a":8/utf8>>', "<< <<1>> >>", "fun a/1", "fun a:b", "fun(X) -> X end", "a:b", "a.b", ".", "..", "()",
    "(a", "a)", "a;b", "~", "<0.1.2>", "'" + "a" * 256 + "'",
]  # fmt: skip

CHARACTERS = "abzAZ09_@ '\"\\{}\n\t\x00\x1b\x7f\x80\x9f\xa0é÷ÿĀ€日\U0001f600"
WORDS = ["a", "ok", "end", "after", "of", "Elixir.Foo", "xor", "receive", "maybe", "else", "true", "a b", "x1@Y_"]

# In funs OTP prints atoms by rules of its own: fun a:end/0, which can't be read again, and fun m:'x@y'/0.
NAMES = ["lists", "Elixir.Foo", "a b", "", "x1_Y", "1"]


def some_string(choose: random.Random) -> str:
    alphabet = CHARACTERS[: choose.choice((11, 20, 28))]
    return "".join(choose.choice(alphabet) for _ in range(choose.randint(0, 8)))


def some_term(choose: random.Random, depth: int) -> Any:
    """Any kind of term; pids and the like are tested by themselves."""
    kind = choose.randrange(9 if depth == 0 else 14)
    match kind:
        case 0:
            return choose.choice((0, 1, -1, 255, 2**31, -(2**64), choose.getrandbits(200)))
        case 1:
            return choose.choice((0.0, 1.0, -1.5, 1e22, choose.random(), choose.random() * 1e20))
        case 2:
            return Atom(name) if (name := choose.choice(WORDS)) != "true" else True
        case 3:
            return Atom(some_string(choose))
        case 4:
            return some_string(choose).encode()
        case 5:
            return bytes(choose.getrandbits(8) for _ in range(choose.randint(0, 4)))
        case 6:
            return [ord(c) for c in some_string(choose)]
        case 7:
            bits = choose.randint(1, 7)
            return BitString(bytes([choose.getrandbits(8), choose.getrandbits(bits) << 8 - bits]), bits)
        case 8:
            return Export(Atom(choose.choice(NAMES)), Atom(choose.choice(NAMES)), choose.randint(0, 9))
    items = [some_term(choose, depth - 1) for _ in range(choose.randint(0, 4))]
    match kind:
        case 9 | 10:
            return items
        case 11:
            return tuple(items)
        case 12:
            return ImproperList((1, *items), Atom("tail"))
    return {Atom(some_string(choose) + str(number)): item for number, item in enumerate(items)}


AROUND = [("", ""), ("(", ")"), (" ", "\t"), ("[ ", " | [] ]"), ("% comment\n", ""), ("{\n\t", " ,\n\r -$a, 1_0#9 }")]


def some_text(choose: random.Random, depth: int) -> str:
    """A term as a person may write it: with spaces and comments where they may be."""
    before, after = choose.choice(AROUND)
    return before + format(some_term(choose, depth), printable=choose.choice(("latin1", "unicode"))) + after


def broken(choose: random.Random) -> str:
    text = list(choose.choice(HARD) if choose.random() < 0.5 else some_text(choose, 2))
    for _ in range(choose.randint(1, 3)):
        at = choose.randint(0, len(text))
        text[at : at + choose.randint(0, 1)] = choose.choice(["", *"{}[]()<>#|,.:/'\"\\$%=-+ aAfun019_e@\nx;é"])
    return "".join(text)
