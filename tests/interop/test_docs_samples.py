"""What the guides show of the API, run as it is printed; only nodes, cookies and folders are ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from beamkit.beam import Beam, unique
from beamkit.subject import PythonSubject
from membranekit.local import raw_domain
from membranekit.processes import HostProcess
from samples import erlang, execute, listing, renamed
from waiting import run, until

from node import Atom, GenServer, Node
from pores.straw import Straw

pytestmark = pytest.mark.usefixtures("python_only")


@pytest.fixture
def domains(host: HostProcess, rundir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for no certain host gets that of this test; who gives no cookie finds one of its own."""
    monkeypatch.setenv("STRAWBRIDGE_HOST", rundir)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("page", ["README.md", "docs/guide-python.md"])
def test_a_node_that_asks_a_beam(beam: Beam, epmd_env: int, cookie: str, page: str) -> None:
    beam.eval("interop_peer:start()")
    text = renamed(listing(page, "python", 'async with Node("py@'), py=unique("docs"), a=beam.name)
    names: dict[str, Any] = {"Node": Node, "Atom": Atom}
    run(lambda: execute(text.replace('"secret"', repr(cookie)), names))
    if page == "README.md":
        assert (names["total"], names["where"]) == (6, Atom(beam.name))


def test_a_script(start_node: Callable[..., PythonSubject], cookie: str) -> None:
    class Calc(GenServer):
        def handle_call(self, request: Any, caller: Any) -> Any:
            return str(request)

    subject = start_node(app=lambda node: node.register("calc", Calc))
    text = listing("docs/guide-python.md", "python", "with Node(")
    text = renamed(text.replace('"secret"', repr(cookie)), script=unique("script"), py=subject.name)
    names: dict[str, Any] = {"Node": Node, "Atom": Atom}
    exec(text, names)
    assert names["total"] == b"total"


class Buddy(GenServer):
    """Domain 5's, under every name that the listings have."""

    def init(self, got: list[Any]) -> None:
        self.got = got

    def handle_call(self, request: Any, caller: Any) -> Any:
        return request

    def handle_info(self, message: Any) -> None:
        self.got.append(message)


@pytest.mark.parametrize(
    ("page", "beginning", "told"),
    [
        ("README.md", 'async with Node("shop@', (Atom("hello"), 1)),
        ("docs/strawman.md", 'node = Node("b@', b"a message"),
        ("docs/xen.md", 'node = Node("b@', b"hello"),
    ],
)
def test_a_node_with_straws(domains: None, beam: Beam, epmd_env: int, page: str, beginning: str, told: Any) -> None:
    async def test() -> None:
        far = Node(unique("far"), "none of theirs", listen=None, pores=True, domid=3 if page == "docs/xen.md" else 5)
        got: list[Any] = []
        for name in ("buddy", "shop"):
            far.register(name, Buddy, got, straw=True)
        text = renamed(listing(page, "python", beginning), b=unique("b"), shop=unique("shop"), a=beam.name)
        names: dict[str, Any] = {"Node": Node, "Atom": Atom, "buddy": got.append, "msg": "a message", "request": 7}
        async with far:
            await execute(text, names)
            await until(lambda: told in got)
        if page == "README.md":
            assert names["answer"] is Atom("how_are_you")

    run(test)


def test_straws_without_a_node(domains: None, rundir: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        async with raw_domain(rundir, 5) as far:
            came: asyncio.Queue[Straw] = asyncio.Queue()
            far.on_straw = came.put_nowait
            ours = asyncio.create_task(execute(listing("docs/straws.md", "python", "from pores.aio"), {}))
            straw = await came.get()
            assert await straw.receive() == b"hello"
            await straw.close()
            names = await ours
            await names["store"].close()
            await names["backend"].close()

    run(test)
    assert capsys.readouterr().out == "peer_closed\n"


def test_both_and_any(domains: None, rundir: str) -> None:
    text = listing("docs/straws.md", "python", "from pores.active")

    async def test() -> None:
        async with raw_domain(rundir, 5) as one, raw_domain(rundir, 6) as two:
            came: list[Straw] = []
            two.on_straw = came.append
            a = await one.open(6)
            await until(lambda: came)
            b = came[0]
            for straw in (a, b):
                await straw.send(b"x" * 10)
            await execute(text, {"a": a, "b": b})

    run(test)


def test_epmd(epmd_env: int, beam: Beam) -> None:
    text = renamed(listing("docs/epmd.md", "python"), a=beam.name).replace('"a"', repr(beam.name.partition("@")[0]))

    async def test() -> None:
        names = await execute(text.replace('"py"', repr(unique("py").partition("@")[0])), {})
        await names["registration"].close()
        assert (beam.name.partition("@")[0], names["info"].port) in names["names"]

    run(test)


def test_erlang_is_what_is_evaluated() -> None:
    assert erlang("f(X), % why\ng('b@127.0.0.1').\n", b="c@d") == "f(X), \ng('c@d')"
