"""LING's own strawman (ling/strawman.erl, the seed document's source) on BEAMs, over erl/'s xenstore and pore_straw.

It runs as it is: with itself, with the Python strawman and with erl/'s, opening and being opened, on OTP 25 and 28.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from beamkit.beam import Beam, BeamError
from beamkit.runtimes import RELEASES, need
from beamkit.strawbeam import PythonDomain
from beamkit.strawpeer import ROOT
from membranekit.processes import HostProcess

from node import Atom, StrawError

pytestmark = pytest.mark.usefixtures("python_only")

HERE = Path(__file__).parent
OTPS = pytest.mark.parametrize("otp", RELEASES)
LING, PYTHON = 7, 5
BIG = 100_000  # bytes: several times the ring
JSON = Atom("json")

Starter = Callable[..., Beam]


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LING's strawman, compiled with nothing but the include file that erl/ offers."""
    return compiled(sorted((HERE / "ling").glob("*.erl")), tmp_path_factory.mktemp("ling"))


def compiled(files: list[Path], into: Path) -> Path:
    erlc = need("erlc", "erlang-base")
    done = subprocess.run(
        [erlc, "-I", str(ROOT / "erl" / "include"), "-o", str(into), *map(str, files)],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return into


@pytest.fixture
def ling(start_beam: Starter, app: Path, sources: Path, rundir: str, host: HostProcess) -> Callable[..., Beam]:
    """ling(otp, domid): a BEAM that is a domain with LING's strawman."""

    def start(otp: str, domid: int = LING) -> Beam:
        beam = start_beam(otp, name=None, paths=[app, ROOT / "erl" / "shims" / "ebin", sources])
        assert beam.eval(f'ling_probe:start("{rundir}", {domid})') == str(domid)
        assert str(sources) in beam.eval("code:which(strawman)")
        return beam

    return start


def quiet(beam: Beam) -> None:
    """Nothing is open, nothing has died, nothing is held."""
    beam.eval_until("ling_probe:straws()", "[]")
    beam.eval_until("lists:sort(maps:to_list(straw_backend:held()))", "[{channels,0},{grants,0},{mappings,0}]")
    assert beam.eval("is_pid(whereis(strawman)) and is_pid(whereis(xenstore))") == "true"
    output = beam.output()
    assert "CRASH REPORT" not in output and "strawman: info" not in output, output


# ---- with itself ----


@pytest.mark.parametrize(("one", "two"), [("otp25", "otp25"), ("otp25", "otp28"), ("otp28", "otp25")])
def test_with_itself(ling: Callable[..., Beam], one: str, two: str) -> None:
    """Both roles: one opens, both write, also more than the ring holds, both at once."""
    a, b = ling(one, 7), ling(two, 8)
    assert a.eval("strawman:open(8)") == "ok"
    assert a.eval("strawman:open(8)") == "{error,exists}"
    assert a.eval("strawman:open(77)") == "{error,not_found}"
    assert a.eval("strawman:split(77)") == "{error,not_found}"
    a.eval('ling_probe:send(8, {hello, [1, 2.5, <<3>>, "four"]})')
    assert b.eval("ling_probe:next()") == '{hello,[1,2.5,<<3>>,"four"]}'
    b.eval_until("element(1, strawman:split(7))", "ok")
    b.eval("ling_probe:send(7, back)")
    assert a.eval("ling_probe:next()") == "back"
    for beam, other in ((a, 8), (b, 7)):
        beam.eval(f"[ling_probe:send({other}, {{N, binary:copy(<<N:16>>, {BIG} div 2)}}) || N <- lists:seq(1, 20)], ok")
    for beam in (b, a):
        every = f"[{{N, binary:copy(<<N:16>>, {BIG} div 2)}} || N <- lists:seq(1, 20)]"
        assert beam.eval(f"[ling_probe:next() || _ <- lists:seq(1, 20)] =:= {every}") == "true"


@OTPS
def test_with_itself_as_json(ling: Callable[..., Beam], otp: str) -> None:
    """Whoever is knocked upon may have said json before."""
    a, b = ling(otp, 7), ling(otp, 8)
    assert b.eval('{xenstore:mkdir("data/straw/7"), xenstore:write("data/straw/7/format", "json")}') == "{ok,ok}"
    a.eval('ling_probe:send(8, [{<<"k">>, [1, 2.5, null, true, <<"text">>]}, {<<"empty">>, [{}]}])')
    assert b.eval("ling_probe:next()") == '{json,[{<<"k">>,[1,2.5,null,true,<<"text">>]},{<<"empty">>,[{}]}]}'
    b.eval_until("element(1, strawman:split(7))", "ok")
    b.eval('ling_probe:send(7, [<<"back">>])')
    assert a.eval("ling_probe:next()") == '{json,[<<"back">>]}'


@OTPS
@pytest.mark.parametrize("dies", ["opener", "opened"])
def test_one_dies(ling: Callable[..., Beam], otp: str, dies: str) -> None:
    """The other one sees it in the store, lets go of everything, and talks to the next one with this id."""
    a, b = ling(otp, 7), ling(otp, 8)
    a.eval("ling_probe:send(8, hello)")
    assert b.eval("ling_probe:next()") == "hello"
    b.eval_until("element(1, strawman:split(7))", "ok")
    (gone, left), (mine, theirs) = ((a, b), (8, 7)) if dies == "opener" else ((b, a), (7, 8))
    gone.kill()
    left.eval_until(f"strawman:split({theirs})", "{error,not_found}")
    quiet(left)
    anew = ling(otp, theirs)
    anew.eval(f"ling_probe:send({mine}, again)")
    assert left.eval("ling_probe:next()") == "again"


# ---- with the Python strawman ----


async def ask(beam: Beam, text: str) -> str:
    """Not on the loop: the Python domain runs there."""
    return await asyncio.to_thread(beam.eval, text)


async def both_open(beam: Beam) -> None:
    await beam.ask_until(f"element(1, strawman:split({PYTHON}))", "ok")


@OTPS
@pytest.mark.parametrize("opener", ["ling", "python"])
def test_with_python(ling: Callable[..., Beam], python: Any, otp: str, opener: str) -> None:
    beam = ling(otp)
    big = random.Random(1).randbytes(BIG)

    async def test(there: PythonDomain) -> None:
        if opener == "ling":
            await ask(beam, f"ling_probe:send({PYTHON}, {{hello, [1, 2.5]}})")
            assert await there.next() == (Atom("hello"), [1, 2.5])
        await there.send((Atom("first"), [1, b"x"]))
        assert await ask(beam, "ling_probe:next()") == '{first,[1,<<"x">>]}'
        await both_open(beam)
        await ask(beam, f"ling_probe:echo(), ling_probe:send({PYTHON}, back)")
        assert await there.next() == Atom("back")
        for n in range(10):
            await there.node.strawman.send(LING, "echo", (PYTHON, (n, big)))
        for n in range(10):
            assert await there.next() == (n, big)

    python(test, LING)


@OTPS
def test_with_python_as_json(ling: Callable[..., Beam], python: Any, otp: str) -> None:
    """LING itself never asks for json: Python opens."""
    beam = ling(otp)

    async def test(there: PythonDomain) -> None:
        assert await there.strawman((Atom("open"), LING, JSON)) is Atom("ok")
        await there.send({"k": [1, None, "text"]})
        assert await ask(beam, "ling_probe:next()") == '{json,[{<<"k">>,[1,null,<<"text">>]}]}'
        await both_open(beam)
        await ask(beam, f'ling_probe:send({PYTHON}, [<<"back">>])')
        assert await there.next() == (JSON, [b"back"])

    python(test, LING)


@OTPS
@pytest.mark.parametrize("opener", ["ling", "python"])
def test_python_closes(ling: Callable[..., Beam], python: Any, otp: str, opener: str) -> None:
    """In the order that lets a LING live; then the straw can be opened anew."""
    beam = ling(otp)

    async def test(there: PythonDomain) -> None:
        for message in ("one", "two", "three"):
            if opener == "ling":
                await ask(beam, f"ling_probe:send({PYTHON}, {message})")
                assert await there.next() == Atom(message)
            else:
                await there.send(Atom(message))
                assert await ask(beam, "ling_probe:next()") == message
            await both_open(beam)
            assert await there.strawman((Atom("close"), LING)) is Atom("ok")
            await asyncio.to_thread(quiet, beam)

    python(test, LING)


@OTPS
@pytest.mark.parametrize("opener", ["ling", "python"])
def test_ling_ends(ling: Callable[..., Beam], python: Any, otp: str, opener: str) -> None:
    beam = ling(otp)

    async def test(there: PythonDomain) -> None:
        if opener == "ling":
            await ask(beam, f"ling_probe:send({PYTHON}, hello)")
            assert await there.next() == Atom("hello")
        else:
            await there.send(Atom("hello"))
        assert there.node.strawman.domains == [LING]
        await asyncio.to_thread(beam.kill)
        while there.node.strawman.domains:
            await asyncio.sleep(0.02)
        with pytest.raises(StrawError):
            await there.send(Atom("nobody"))

    python(test, LING)


# ---- with erl/'s own strawman ----


@OTPS
@pytest.mark.parametrize("opener", ["ling", "ours"])
def test_with_ours(
    ling: Callable[..., Beam], start_beam: Starter, app: Path, beams: Path, rundir: str, otp: str, opener: str
) -> None:
    beam = ling(otp)
    ours = start_beam(otp, name=None, paths=[app])
    assert ours.eval(f'strawman_probe:start("{rundir}", 6)') == "6"
    if opener == "ling":
        beam.eval("ling_probe:send(6, hello)")
        assert ours.eval("strawman_probe:next()") == "hello"
    assert ours.eval("strawman:send({7, inbox}, {first, <<0:800000>>})") == "ok"
    assert beam.eval("ling_probe:next() =:= {first, <<0:800000>>}") == "true"
    beam.eval_until("element(1, strawman:split(6))", "ok")
    beam.eval("ling_probe:send(6, again)")
    assert ours.eval("strawman_probe:next()") == "again"


# ---- LING's xenstore too ----


@OTPS
def test_lings_xenstore(
    start_beam: Starter, app: Path, sources: Path, rundir: str, host: HostProcess, tmp_path: Path, otp: str
) -> None:
    """Over our pore_xs, with only crypto:rand_bytes/1 supplied. Its source is not in this repository."""
    checkout = os.environ.get("LING_SOURCES")
    if not checkout:
        pytest.skip("LING_SOURCES does not name a checkout of LING's sources (branch strawman)")
    text = (Path(checkout) / "apps" / "kernel" / "src" / "xenstore.erl").read_text()
    (tmp_path / "xenstore.erl").write_text(text.replace("crypto:rand_bytes", "rand:bytes"))
    own = compiled([tmp_path / "xenstore.erl"], tmp_path)

    def start(domid: int) -> Beam:
        beam = start_beam(otp, name=None, paths=[app, ROOT / "erl" / "shims" / "ebin", sources, own])
        options = "[{xenstore, fun() -> xenstore:start_link() end}]"
        try:
            assert beam.eval(f'ling_probe:start("{rundir}", {domid}, {options})') == str(domid)
        except BeamError as error:
            raise AssertionError(f"{error}\n{beam.output()}") from error
        assert str(own) in beam.eval("code:which(xenstore)")
        return beam

    a, b = start(7), start(8)
    a.eval("ling_probe:send(8, {hello, <<0:800000>>})")
    assert b.eval("ling_probe:next() =:= {hello, <<0:800000>>}") == "true"
    b.eval_until("element(1, strawman:split(7))", "ok")
    b.eval("ling_probe:send(7, back)")
    assert a.eval("ling_probe:next()") == "back"
    a.kill()
    b.eval_until("strawman:split(7)", "{error,not_found}")
