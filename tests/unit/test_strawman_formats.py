"""Envelopes as bytes: both formats, both dialects, limits, and frames that no honest peer writes."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import DecodeError, EncodeError
from node.etf import encode
from node.strawman import formats
from node.strawman.formats import Envelope, decode_envelope, encode_envelope
from node.terms import Atom, LingPid, Map, Pid, Reference

BUDDY = Atom("buddy")
PID = Pid(Atom("a@b"), 1, 2, 3)
OURS = LingPid(0, 5, 77)
JSON = Atom("json")


# ---- erlang ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("addr", [BUDDY, PID, (BUDDY, Atom("a@b")), (5, BUDDY)])
def test_erlang_addresses(addr: Any) -> None:
    frame = encode_envelope(addr, (1, b"x"))
    assert decode_envelope(frame) == Envelope(addr, (1, b"x"))


def test_a_str_is_a_name() -> None:
    assert decode_envelope(encode_envelope("buddy", 1)).addr is BUDDY
    with pytest.raises(EncodeError):
        encode_envelope("x" * 256, 1)


@pytest.mark.parametrize("addr", [5, (BUDDY, 5), (-1, BUDDY), (BUDDY,), [BUDDY, BUDDY], b"buddy", (True, BUDDY)])
def test_what_is_no_address(addr: Any) -> None:
    with pytest.raises(EncodeError, match="addr"):
        encode_envelope(addr, 1)
    with pytest.raises(DecodeError, match="address"):
        decode_envelope(encode((Atom("envelope"), addr, 1)))


@pytest.mark.parametrize(
    "term", [BUDDY, (Atom("envelope"), BUDDY), (Atom("letter"), BUDDY, 1), [Atom("envelope"), BUDDY, 1], b"", {1: 2}]
)
def test_what_is_no_envelope(term: Any) -> None:
    with pytest.raises(DecodeError):
        decode_envelope(encode(term))


def test_lings_dialect() -> None:
    frame = encode_envelope(BUDDY, (Atom("ok"), None), dialect="ling")
    assert frame == b"\x83h\x03s\x08envelopes\x05buddyh\x02s\x02oks\x09undefined"
    # Every tag is read whatever the peer said it is.
    assert decode_envelope(encode((Atom("envelope"), BUDDY, OURS), dialect="ling")).message == OURS
    assert decode_envelope(encode((Atom("envelope"), BUDDY, {1: PID}))).message == {1: PID}


@pytest.mark.parametrize("message", [PID, [(PID,)], {1: 2}, Atom("\u20ac"), Reference(Atom("a@b"), 5, (1, 2, 3, 4, 5))])
def test_what_a_ling_cannot_be_told(message: Any) -> None:
    with pytest.raises(EncodeError) as caught:
        encode_envelope(BUDDY, message, dialect="ling")
    assert caught.value.path.startswith("msg")


@pytest.mark.parametrize("addr", [PID, OURS, (BUDDY, Atom("a@b"))])
def test_whom_a_ling_cannot_address(addr: Any) -> None:
    with pytest.raises(EncodeError, match="LING|address"):
        encode_envelope(addr, 1, dialect="ling")


def test_maps_to_a_ling_on_request() -> None:
    assert decode_envelope(encode_envelope(BUDDY, {1: 2}, dialect="ling", ling_maps=True)).message == {1: 2}


def test_a_pid_of_a_ling_goes_to_lings_only() -> None:
    with pytest.raises(EncodeError):
        encode_envelope(BUDDY, OURS)


def test_the_path_to_what_cannot_be_said() -> None:
    with pytest.raises(EncodeError) as caught:
        encode_envelope(BUDDY, [1, {Atom("k"): math.nan}])
    assert caught.value.path == "msg[1][Atom('k')]"


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_nesting() -> None:
    inside = formats.MAX_DEPTH
    assert encode(decode_envelope(encode((Atom("envelope"), BUDDY, nested(inside)))).message) == encode(nested(inside))
    with pytest.raises(DecodeError):
        decode_envelope(encode((Atom("envelope"), BUDDY, nested(inside + 1))))
    inside = formats.MAX_JSON_DEPTH
    frame = encode_envelope(BUDDY, nested(inside), format="json")
    assert decode_envelope(frame, format="json").message == (JSON, nested(inside))
    with pytest.raises(EncodeError, match="nested"):
        encode_envelope(BUDDY, nested(inside + 1), format="json")
    for depth in (inside + 1, 100_000):
        with pytest.raises(DecodeError):
            decode_envelope(b'{"addr":"buddy","msg":' + b"[" * depth + b"]" * depth + b"}", format="json")


def test_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_FRAME", 100)
    room = 100 - len(encode_envelope(BUDDY, b""))
    frame = encode_envelope(BUDDY, bytes(room))
    assert len(frame) == 100
    assert decode_envelope(frame).message == bytes(room)
    with pytest.raises(EncodeError, match="beyond the limit"):
        encode_envelope(BUDDY, bytes(room + 1))
    with pytest.raises(DecodeError, match="beyond the limit"):
        decode_envelope(frame + b"x")


# ---- json ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (None, "null"),
        (Atom("null"), "null"),
        (True, "true"),
        (Atom("false"), "false"),
        (1 << 80, str(1 << 80)),
        (2.5, "2.5"),
        ("h\u00e9\n\u20ac", '"h\u00e9\\n\u20ac"'),
        ([1, [], {}], "[1,[],{}]"),
        ({"k": [None]}, '{"k":[null]}'),
    ],
)
def test_json(message: Any, text: str) -> None:
    frame = encode_envelope("buddy", message, format="json")
    assert frame == b'{"addr":"buddy","msg":' + text.encode() + b"}"


@pytest.mark.parametrize(
    "message",
    [math.nan, -math.inf, b"bytes", {1: 2}, {b"k": 2}, {None: 1}, Atom("ok"), PID, OURS, (1, 2), {1, 2}, "\ud800", 1j]
    + [{"\udfff": 1}, Map(((1, 2),))],
    ids=repr,
)
def test_what_json_cannot_say(message: Any) -> None:
    for value, path in ((message, "msg"), ([1, {"k": message}], "msg[1]['k']")):
        with pytest.raises(EncodeError) as caught:
            encode_envelope("buddy", value, format="json")
        assert caught.value.path.startswith(path[:3])


def test_integers_too_long_for_json() -> None:
    with pytest.raises(EncodeError):
        encode_envelope("buddy", 10**5000, format="json")


@pytest.mark.parametrize("addr", [PID, OURS, (BUDDY, Atom("a@b")), (5, BUDDY)])
def test_json_goes_to_names_only(addr: Any) -> None:
    with pytest.raises(EncodeError, match="registered names"):
        encode_envelope(addr, 1, format="json")


def test_terms_of_processes_as_json() -> None:
    """What a BEAM sends has no str: its binaries are text, and its proplists objects, as jsx has it."""

    def body(message: Any) -> Any:
        return json.loads(encode_envelope(BUDDY, message, format="json", from_process=True))["msg"]

    assert body({b"k": [b"v", "h\u00e9".encode(), Atom("null")]}) == {"k": ["v", "h\u00e9", None]}
    assert body([(b"a", 1), (b"b", [()])]) == {"a": 1, "b": {}}
    assert body([]) == []
    for wrong in (b"\xff", [(b"a", 1), (b"a", 2)], [(Atom("a"), 1)], {Atom("a"): 1}, [(1,)], [(b"a", 1), 2], (b"a", 1)):
        with pytest.raises(EncodeError):
            body(wrong)


def test_json_delivers_terms() -> None:
    frame = b' {"x": 1, "msg": {"k": [null, true, 1, 1.5, "\\u20ac", []]}, "addr": "buddy"} '
    message = {b"k": [Atom("null"), True, 1, 1.5, "\u20ac".encode(), []]}
    assert decode_envelope(frame, format="json") == Envelope(BUDDY, (JSON, message))


@pytest.mark.parametrize(
    "frame",
    [b"", b"null", b"[]", b"{}", b'{"addr":"x"}', b'{"msg":1}', b'{"addr":1,"msg":1}', b'{"addr":null,"msg":1}']
    + [
        b'{"addr":"x","msg":NaN}',
        b'{"addr":"x","msg":-Infinity}',
        b'{"addr":"x","msg":1e999}',
        b'{"addr":"x","msg":1}}',
    ]
    + [b'{"addr":"x","msg":"\\ud800"}', b'{"addr":"x","msg":{"\\udfff":1}}', b'{"addr":"x","msg":"\xff"}', b"\x83h\x00"]
    + [
        b'{"addr":"' + b"x" * 256 + b'","msg":1}',
        b'{"addr":"\\ud800","msg":1}',
        b'{"addr":"x","msg":' + b"9" * 5000 + b"}",
    ]
    + [b"[" * 200_000, b'{"a":' * 200_000],
    ids=lambda frame: frame[:30],
)
def test_malformed_json(frame: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_envelope(frame, format="json")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def as_term(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list):
        return [as_term(item) for item in value]
    if isinstance(value, dict):
        return {key.encode(): as_term(item) for key, item in value.items()}
    return Atom("null") if value is None else value


@given(values)
def test_json_there_and_back(value: Any) -> None:
    frame = encode_envelope("buddy", value, format="json")
    assert json.loads(frame) == {"addr": "buddy", "msg": value}
    assert decode_envelope(frame, format="json") == (BUDDY, (JSON, as_term(value)))
    # what arrives may be sent on by a process
    assert json.loads(encode_envelope(BUDDY, as_term(value), format="json", from_process=True)) == json.loads(frame)


@given(st.binary(max_size=80), st.sampled_from(["erlang", "json"]))
def test_any_bytes(frame: bytes, format: Any) -> None:
    try:
        decode_envelope(frame, format=format)
    except DecodeError:
        pass


@given(st.data())
def test_damaged_envelopes(data: st.DataObject) -> None:
    format: Any = data.draw(st.sampled_from(["erlang", "json"]))
    frame = bytearray(encode_envelope("buddy", data.draw(values), format=format))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    for broken in (bytes(frame), bytes(frame[:cut])):
        try:
            decode_envelope(broken, format=format)
        except DecodeError:
            pass
