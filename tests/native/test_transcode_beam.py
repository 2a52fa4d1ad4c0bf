"""The codec of erl/ on BEAMs: its EUnit tests, and the same frames as node/strawman writes and reads, on OTP 25 and 28.

Frames of both dialects must be the same bytes, or (old BEAMs write atoms in an older form) say the same; JSON must be
taken or refused alike. What is compiled here is the codec only: the rest of erl/ has tests of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # lingkit; there is no __init__.py below tests/

import lingkit.ext

from node.errors import DecodeError, EncodeError
from node.etf import decode, encode
from node.strawman.formats import Envelope, decode_envelope, encode_envelope
from node.terms import Atom, BitString, Export, ImproperList, Map
from tests.interop.beamkit.runtimes import RELEASES, Runtime, clean_env, find_runtime, need

ROOT = Path(__file__).resolve().parents[2]
ERL = ROOT / "erl"
MODULES = ["straw_ids", "straw_codec", "straw_proxy", "straw_json", "straw_jsx", "straw_atoms"]
TESTS = ["straw_codec_tests", "straw_json_tests", "straw_codec_pipe", "straw_renamed"]
CC = os.environ.get("CC", "gcc")


@pytest.fixture(scope="module")
def ebin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The codec, compiled by the oldest OTP for all."""
    erlc, cc = need("erlc", "erlang-base"), need(CC, "gcc")
    top = tmp_path_factory.mktemp("codec")
    for folder in ("ebin", "priv"):
        (top / folder).mkdir()
    sources = [ERL / "src" / f"{name}.erl" for name in MODULES] + [ERL / "test" / f"{name}.erl" for name in TESTS]
    made = subprocess.run(
        [erlc, "-Werror", "-o", str(top / "ebin"), *map(str, sources)], capture_output=True, text=True, timeout=120
    )
    assert made.returncode == 0, made.stdout + made.stderr
    where = 'io:format("~ts/erts-~ts/include", [code:root_dir(), erlang:system_info(version)]), halt().'
    include = subprocess.run(["erl", "-noshell", "-eval", where], capture_output=True, text=True, check=True).stdout
    c = [str(ERL / "c_src" / name) for name in ("transcode.c", "transcode_fill.c", "straw_codec_nif.c")]
    flags = ["-std=gnu11", "-O2", "-g", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", f"-I{include}"]
    made = subprocess.run([cc, *flags, *c, "-o", str(top / "priv" / "straw_codec.so")], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return top / "ebin"


@pytest.fixture(params=RELEASES)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    return find_runtime(request.param)


def eunit_folder() -> str:
    found = sorted(Path("/usr/lib/erlang/lib").glob("eunit-*/ebin"))
    if not found:
        pytest.skip("eunit is missing: apt-get install erlang-eunit")
    return str(found[-1])


@pytest.mark.parametrize("module", ["straw_codec_tests", "straw_json_tests"])
def test_eunit(runtime: Runtime, ebin: Path, module: str) -> None:
    run = f"case eunit:test({module}, []) of ok -> halt(0); _ -> halt(1) end."
    done = subprocess.run(
        [runtime.erl, "-noshell", "-pa", str(ebin), eunit_folder(), "-eval", run],
        env=clean_env(ERL_CRASH_DUMP="/dev/null", **runtime.env), capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


class Pipe:
    """A BEAM that answers straw_codec_pipe's commands."""

    def __init__(self, runtime: Runtime, ebin: Path) -> None:
        self.process = subprocess.Popen(
            [runtime.erl, "-noshell", "-pa", str(ebin), "-eval", "straw_codec_pipe:main()."],
            env=clean_env(ERL_CRASH_DUMP="/dev/null", **runtime.env),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, command: str, data: bytes) -> bytes | str:
        """The answer, or why there is none."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{command} {data.hex()}\n")
        self.process.stdin.flush()
        kind, _, rest = self.process.stdout.readline().rstrip("\n").partition(" ")
        assert kind in ("ok", "error"), (kind, rest)
        return bytes.fromhex(rest) if kind == "ok" else rest

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


@pytest.fixture
def pipe(runtime: Runtime, ebin: Path) -> Iterator[Pipe]:
    pipe = Pipe(runtime, ebin)
    yield pipe
    pipe.close()


VALUES: list[Any] = [
    *(0, 255, 256, -1, 2**31 - 1, -(2**31), 2**31, -(2**31) - 1, 2**59, 2**64, -(2**64), 2**2040, 2**4096, -(2**4096)),
    *(0.0, -0.0, 1.5, -1e300, 5e-324, 1e22),
    *(Atom("hello"), Atom(""), Atom("local"), True, False, Atom("undefined")),
    *(b"", b"abc", b"x" * 300, b"y" * 70000, BitString(b"\xa0", 3), BitString(b"\xff\x80", 1)),
    *([], [1, 2, 3], [1, 2, 300], [[[]]], list(range(1000)), [b"a", 1.5], ImproperList((1, 2), 3)),
    *((), (1,), (1, (2, (3,))), tuple(range(300)), Export(Atom("lists"), Atom("map"), 2)),
]
#: What only OTP takes.
OTP_VALUES: list[Any] = [{}, {b"x": 1}, {Atom("x"): {Atom("y"): [1]}}, Map((([1], 2), ({}, 3)))]


@pytest.mark.parametrize("dialect", ["otp", "ling"])
def test_the_same_frames(pipe: Pipe, runtime: Runtime, dialect: Any) -> None:
    for value in VALUES + (OTP_VALUES if dialect == "otp" else []):
        frame = encode_envelope("buddy", value, dialect=dialect)
        again = pipe.ask(f"again {dialect}", frame)
        assert isinstance(again, bytes), (value, again)
        if dialect == "ling" or (runtime.label != "otp25" and not isinstance(value, (dict, Map))):
            assert again == frame, value
        assert decode_envelope(again) == decode_envelope(frame)


@pytest.mark.parametrize("addr", ["buddy", (Atom("shop"), Atom("b@127.0.0.1")), (9, Atom("shop"))])
def test_the_same_addresses(pipe: Pipe, addr: Any) -> None:
    again = pipe.ask("again otp", encode_envelope(addr, 1))
    assert isinstance(again, bytes)
    assert decode_envelope(again) == Envelope(Atom(addr) if isinstance(addr, str) else addr, 1)


def test_what_goes_through_a_ling_comes_back(pipe: Pipe) -> None:
    """Pids, references and all: read and written again by a LING (tests/lingkit)."""
    for seed in range(400):
        frame = pipe.ask("send ling", seed.to_bytes(4, "big"))
        assert isinstance(frame, bytes), frame
        assert pipe.ask("back ling", lingkit.ext.encode(lingkit.ext.decode(frame, 5), 5)) == b"same", seed
        assert isinstance(pipe.ask("send otp", seed.to_bytes(4, "big")), bytes)


JSON_MESSAGES: list[Any] = [
    *(
        0,
        -1,
        2**70,
        10**4299,
        -(10**4299),
        None,
        True,
        False,
        "",
        "text",
        "é\u20ac\U0001f680",
        '"\\/\b\f\n\r\t\x00\x1f\x7f\u2028',
    ),
    *(
        0.0,
        -0.0,
        1.0,
        1.5,
        0.1,
        1e15,
        1e16,
        123456789012345680.0,
        1e22,
        1.5e300,
        1e-4,
        1e-5,
        1.234e-7,
        5e-324,
        1.7976931348623157e308,
    ),
    *([], {}, [[]], [{}], [1, "a", None, [True]], {"": {"k": [1.25, {"l": "m"}]}}),
]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_json_is_written_alike(pipe: Pipe) -> None:
    for message in [*JSON_MESSAGES, nested(200)]:
        # as a process sends it: text as binaries
        term = decode(encode(message, none="null"))
        ours = encode_envelope("buddy", term, format="json", from_process=True)
        assert pipe.ask("write json", encode(message, none="null")) == ours


def test_json_is_refused_alike(pipe: Pipe) -> None:
    refused: list[Any] = [
        Atom("x"),
        (1, 2),
        (),
        [(1, 2)],
        [(b"a", 1), (b"a", 2)],
        [()],
        [(), ()],
        {1: 2},
        {Atom("x"): 1},
    ]
    refused += [b"\xff", [b"\xed\xa0\x80"], {b"\xff": 1}, 10**4300, -(10**4300), 2**20000, nested(201)]
    refused += [ImproperList((1,), 2), BitString(b"\xa0", 3), Export(Atom("lists"), Atom("map"), 2), [(b"a", 1), 2]]
    for message in refused:
        term = decode(encode(message))
        empty = term == [()]  # jsx's empty object
        answer = pipe.ask("write json", encode(message))
        try:
            ours = encode_envelope("buddy", term, format="json", from_process=True)
        except EncodeError:
            assert isinstance(answer, str) and not empty, message
        else:
            assert answer == ours and empty, message


JSON_TEXTS = [
    *(
        "1",
        "-0",
        "-0.0",
        "1.0",
        "1e5",
        "1E+5",
        "1e-5",
        "1.5e300",
        "1e308",
        "1e309",
        "-1e309",
        "1e-400",
        "0.1e1",
        "123456789012345678901234567890",
    ),
    *(
        "01",
        "-",
        "+1",
        ".5",
        "1.",
        "1.e5",
        "1e",
        "1e+",
        "0x10",
        "NaN",
        "Infinity",
        "-Infinity",
        "nan",
        "1 2",
        "",
        "tru",
        "nulll",
        "True",
    ),
    *(
        '""',
        '"a\\u0041\\u00e9\\u20ac"',
        '"\\ud83d\\ude80"',
        '"\\ud83d"',
        '"\\ude80"',
        '"\\ud83d\\u0041"',
        '"\\ud83dx"',
        '"\\uD83D\\uDE80"',
    ),
    *(
        '"\\"\\\\\\/\\b\\f\\n\\r\\t"',
        '"\\x"',
        '"\\u12"',
        '"\\u12g4"',
        '"\\u+123"',
        '"\t"',
        '"\n"',
        '"\x00"',
        '"\x7f"',
        '"',
        '"a',
        "'a'",
    ),
    *(
        "[]",
        "[ ]",
        "[1,2]",
        "[1,]",
        "[,1]",
        "[1",
        "[1 2]",
        "]",
        "{}",
        "{ }",
        '{"a":1}',
        '{"a":1,}',
        '{"a"}',
        '{"a":}',
        "{a:1}",
        "{1:2}",
    ),
    *(
        '{"a":1,"a":2}',
        '{"a":{"a":null}}',
        ' [ 1 , { "a" : [ ] } ] ',
        "\t1\n",
        "\x0b1",
        "\u00a01",
        "[1]x",
        "/* */1",
        "1//",
    ),
    *(
        "9" * 4300,
        "9" * 4301,
        "-" + "9" * 4300,
        "-" + "9" * 4301,
        "1" * 5000 + ".5",
        "1e" + "9" * 30,
        "0." + "0" * 5000 + "1",
    ),
    *("[" * 200 + "]" * 200, "[" * 201 + "]" * 201, '{"a":' * 200 + "1" + "}" * 200, '{"a":' * 201 + "1" + "}" * 201),
    *("\u00e9", '"\u00e9\u20ac\U0001f680"', '{"\u00e9":"\u20ac"}', "[" * 5000, "\ufeff1"),
]
JSON_FRAMES = [f'{{"addr":"buddy","msg":{text}}}'.encode() for text in JSON_TEXTS] + [
    *(b"", b"{}", b"[]", b"1", b'{"addr":"buddy"}', b'{"msg":1}', b'{"addr":1,"msg":1}', b'{"addr":null,"msg":1}'),
    *(
        b'{"msg":1,"addr":"buddy"}',
        b' {"addr" : "buddy" , "msg" : 1, "more": [2] } ',
        b'{"addr":"x","addr":"buddy","msg":1}',
    ),
    *(
        b'{"addr":"buddy","msg":"\xff"}',
        b'{"addr":"buddy","msg":"\xed\xa0\x80"}',
        b'{"addr":"buddy","msg":"\xc0\x80"}',
        b"\xff",
    ),
    *(
        b'{"addr":"buddy","msg":1}x',
        b'{"addr":"buddy","msg":1}{}',
        b'{"addr":"buddy","msg":1}\x00',
        b'\xef\xbb\xbf{"addr":"buddy","msg":1}',
    ),
    b'{"addr":"buddy","msg":"\xf0\x9f\x9a\x80\xf4\x8f\xbf\xbf\xef\xbf\xbf"}',
]


@pytest.mark.parametrize("parser", ["json", "own"])
def test_json_is_read_alike(pipe: Pipe, parser: str) -> None:
    for frame in JSON_FRAMES:
        answer = pipe.ask(f"read {parser}", frame)
        try:
            ours = decode_envelope(frame, format="json")
        except DecodeError:
            assert isinstance(answer, str), (frame[:200], answer)
        else:
            assert isinstance(answer, bytes), (frame[:200], answer)
            name, message = decode(answer)
            assert name == ours.addr.name.encode()
            theirs = encode(message)
            assert theirs == encode(decode(encode(ours.message[1]))), frame[:200]
            assert repr(message) == repr(decode(theirs))
