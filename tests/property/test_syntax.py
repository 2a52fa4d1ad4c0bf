"""node.syntax: what is printed reads back as the same term, and no text does anything but parse or TermSyntaxError."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from node.etf import encode
from node.syntax import TermSyntaxError, format, parse
from node.terms import Atom, BitString, Export, ImproperList, Pid, Port, Reference

characters = st.characters(exclude_categories=["Cs"])
atoms = st.text(characters, max_size=20).filter(lambda name: name not in ("true", "false")).map(Atom)
words = st.integers(0, 2**32 - 1)
leaves = st.one_of(
    st.integers(),
    st.integers(-(2**300), 2**300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    atoms,
    st.binary(max_size=20),
    st.text(characters, max_size=20).map(str.encode),
    st.text(characters, max_size=20).map(lambda text: [ord(c) for c in text]),
    st.builds(
        lambda data, bits, byte: BitString(data + bytes([byte << 8 - bits & 255]), bits),
        st.binary(max_size=5),
        st.integers(1, 7),
        st.integers(0, 127),
    ),
    st.builds(Export, atoms, atoms, st.integers(0, 255)),
    st.builds(Pid, atoms, words, words, st.just(0)),
    st.builds(Port, atoms, st.integers(0, 2**64 - 1), st.just(0)),
    st.builds(Reference, atoms, st.just(0), st.lists(words, min_size=1, max_size=5).map(tuple)),
)
keys = st.one_of(atoms, st.binary(max_size=5), st.text(max_size=5).map(str.encode))


def wider(terms):
    return st.one_of(
        st.lists(terms, max_size=5),
        st.lists(terms, max_size=5).map(tuple),
        st.dictionaries(keys, terms, max_size=5),
        st.builds(ImproperList, st.lists(terms, min_size=1, max_size=3).map(tuple), atoms),
    )


terms = st.recursive(leaves, wider, max_leaves=20)


@given(terms, st.sampled_from(["latin1", "unicode"]))
def test_printed_and_read_back(term, printable):
    assert encode(parse(format(term, printable=printable))) == encode(term)


@given(terms, st.sampled_from([" ", "\n", " % comment\n", "\t"]))
def test_space_between_tokens_does_not_matter(term, space):
    text = format(term)
    assert encode(parse(f"{space}{text}{space}.{space}")) == encode(term)


@given(st.one_of(st.text(max_size=40), st.text("{}[]()<>#|,.:/'\"\\$~%=-+ aAfun019_e@\nRefPort", max_size=40)))
@settings(max_examples=500)
def test_any_text_is_a_term_or_a_syntax_error(text):
    try:
        term = parse(text)
    except TermSyntaxError as error:
        place = error
    else:
        assert encode(parse(format(term))) == encode(term)
        return
    assert 1 <= place.line <= text.count("\n") + 1
    assert 0 <= place.position <= len(text)


@given(terms, st.data())
def test_a_printed_term_with_a_hole_is_a_term_or_a_syntax_error(term, data):
    text = format(term)
    at = data.draw(st.integers(0, len(text)))
    for cut in (text[:at], text[:at] + text[at + 1 :]):
        with contextlib.suppress(TermSyntaxError):
            parse(cut)
