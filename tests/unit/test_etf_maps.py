"""Maps: when a dict will do, when it must be a Map, and that nothing is lost either way."""

from __future__ import annotations

import copy
import pickle
import struct

import pytest

from node import _etf
from node.etf import MAX_DEPTH, DecodeError, decode, encode
from node.terms import Atom, BitString, Export, ImproperList, Map, Pid, Reference

NODE = Atom("a@b")


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def raw_map(*parts: object) -> bytes:
    return b"\x83t" + u32(len(parts) // 2) + b"".join(encode(part)[1:] for part in parts)


def test_keys_that_python_keeps_apart_make_a_dict() -> None:
    keys = [
        1,
        2.5,
        -0.0,
        True,
        b"a",
        Atom("a"),
        (1, (Atom("x"), b"y")),
        (),
        Pid(NODE, 1, 2, 3),
        Reference(NODE, 1, (1,)),
        Export(NODE, NODE, 1),
        BitString(b"\xe0", 3),
    ]
    for key in keys:
        assert decode(raw_map(key, 5)) == {key: 5}
        assert type(decode(raw_map(key, 5))) is dict
    keys.remove(True)
    data = raw_map(*[part for key in keys for part in (key, [key])])
    assert decode(data) == {key: [key] for key in keys}
    assert encode(decode(data)) == data


COLLIDING = [
    (1, 1.0),
    (1, True),
    (0, False),
    (1.0, True),
    (0.0, -0.0),
    ((1,), (1.0,)),
    ((1, (b"x", 0)), (1, (b"x", False))),
    ((0.0,), (-0.0,)),
    (Export(NODE, NODE, 1), Export(NODE, NODE, 2), 1, 1.0),
]


@pytest.mark.parametrize("keys", COLLIDING, ids=repr)
def test_keys_that_python_cannot_keep_apart_make_a_map(keys: tuple[object, ...]) -> None:
    for order in (keys, keys[::-1]):
        data = raw_map(b"first", 0, *[part for key in order for part in (key, repr(key))], b"last", 9)
        got = decode(data)
        assert type(got) is Map
        assert encode(got) == data
        assert len(got) == len(keys) + 2
        for key in keys:
            assert got[key] == repr(key).encode()
            assert key in got
        assert got.get(17) is None
        assert got.get(17, 3) == 3
        with pytest.raises(KeyError):
            got[17]


@pytest.mark.parametrize("key", [[1], {}, {1: 2}, ([],), (1, ({},)), ImproperList((1,), 2), Map((([1], 2),))], ids=repr)
def test_keys_that_python_cannot_hash_make_a_map(key: object) -> None:
    data = raw_map(1, 2, key, 3)
    got = decode(data)
    assert type(got) is Map
    assert got[key] == 3
    assert got[1] == 2
    assert encode(got) == data
    assert encode(decode(encode([{5: got}]))) == encode([{5: got}])


def test_deep_keys_are_left_to_the_map() -> None:
    key: object = ()
    for _ in range(_etf.MAX_KEY_DEPTH - 1):
        key = (key,)
    assert type(decode(raw_map(key, 1))) is dict
    data = raw_map((key,), 1)
    assert type(decode(data)) is Map
    assert encode(decode(data)) == data
    for _ in range(5000):
        key = (key,)
    data = raw_map(key, 1)
    assert encode(decode(data)) == data


@pytest.mark.parametrize("order", [0, 1])
def test_maps_nested_in_keys(order: int) -> None:
    # as deep as terms may be, in an order that has to be sorted and in one that has not
    depth = MAX_DEPTH - 1
    head = b"t" + u32(2) + (b"ja\x07" if order else b"")
    tail = b"a\x01" + (b"" if order else b"ja\x02")
    data = b"\x83" + head * depth + b"t" + u32(0) + tail * depth
    got = decode(data)
    assert type(got) is Map
    assert encode(got) == data
    assert got.get([]) == (7 if order else 2)
    with pytest.raises(DecodeError, match="too deep"):
        decode(b"\x83" + head * 2 + data[1:] + tail * 2)
    # a duplicate at the innermost level is found
    twice = b"t" + u32(2) + b"ja\x01ja\x02"
    with pytest.raises(DecodeError, match="same key twice"):
        decode(b"\x83" + head * 100 + twice + tail * 100)


@pytest.mark.parametrize("key", [1, 1.5, -0.0, True, b"a", Atom("a"), (1, 2.0), [1], {1: 2}, (True, [])], ids=repr)
def test_duplicates_on_the_wire(key: object) -> None:
    for other in ((), (1.5, 0), ([5], 0)):
        if other and other[0] == key:
            continue
        parts = [key, 1, *other, key, 2]
        with pytest.raises(DecodeError, match="same key twice"):
            decode(raw_map(*parts))


def test_duplicates_in_another_order() -> None:
    one = raw_map(b"a", 1, b"b", 2)[1:]
    two = raw_map(b"b", 2, b"a", 1)[1:]
    with pytest.raises(DecodeError, match="same key twice"):
        decode(b"\x83t" + u32(2) + one + b"j" + two + b"j")


def test_map_values() -> None:
    one = Map(((1, b"int"), (1.0, b"float"), ([1], b"list")))
    two = Map((([1], b"list"), (1.0, b"float"), (1, b"int")))
    other = Map(((1, b"float"), (1.0, b"int"), ([1], b"list")))
    assert one == two
    assert hash(one) == hash(two)
    assert one != other
    assert one != {}
    assert len(one) == 3
    assert list(one) == one.keys() == [1, 1.0, [1]]
    assert one.values() == [b"int", b"float", b"list"]
    assert dict(enumerate(one.items())) == dict(enumerate(one.pairs))
    assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
    assert repr(one) == "Map(((1, b'int'), (1.0, b'float'), ([1], b'list')))"
    with pytest.raises(AttributeError):
        one.pairs = ()
    with pytest.raises(ValueError):
        Map(((1, 2, 3),))  # type: ignore[arg-type]
    assert Map(((object, 1),)) != Map(((int, 1),))


def test_canonical_bytes_are_equal_exactly_for_equal_terms() -> None:
    assert _etf.canonical({1: 2, 3: 4}) == _etf.canonical({3: 4, 1: 2})
    assert _etf.canonical([{1: {5: 6, 7: 8}}]) == _etf.canonical([{1: {7: 8, 5: 6}}])
    assert _etf.canonical("a") == _etf.canonical(b"a")
    different = [1, 1.0, True, 0, 0.0, -0.0, b"", [], (), {}, Atom(""), [1], (1,), {1: 1}, Map(((1, 1), ([], 2)))]
    assert len({_etf.canonical(term) for term in different}) == len(different)


def test_a_changing_dict() -> None:
    mapping = {i: i for i in range(100)}
    data = encode(mapping)
    mapping.pop(50)
    mapping[200] = 5
    assert decode(encode(mapping)) == mapping
    assert decode(data)[50] == 50
