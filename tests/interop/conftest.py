"""Fixtures of the interop tests: real, unmodified BEAMs beside a Python node.

Everything is on loopback, with names, ports, an epmd and cookies of its own, and ends by process id. With
INTEROP_ORACLE=otp25 or otp28 in the environment the tests of the `subject` fixture run against a BEAM with
erl/ref_node.erl in place of the Python node: what they expect is then shown to be OTP's own behaviour.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from beamkit.beam import Beam, unique
from beamkit.pyproc import PythonProcess
from beamkit.runtimes import ERL_SOURCES, RELEASES, Runtime, clean_env, compile_modules, find_runtime, need
from beamkit.strawbeam import PythonDomain
from beamkit.strawpeer import build_app
from beamkit.subject import BeamSubject, PythonSubject
from membranekit.processes import HostProcess, end_hosts
from waiting import LONG

from node import Node

COOKIE = "interop-cookie"
ORACLE = os.environ.get("INTEROP_ORACLE") or None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than a few seconds by its nature")


#: Seconds after which a test is taken to hang. None should need a tenth of it.
TEST_LIMIT = 120


@pytest.fixture(autouse=True)
def _limit() -> Iterator[None]:
    """A test that hangs fails by itself, with the stack of where it waits."""

    def give_up(number: int, frame: Any) -> None:
        raise TimeoutError(f"the test hangs: more than {TEST_LIMIT} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, TEST_LIMIT, 5)  # again and again: what cleans up may hang too
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def cookie() -> str:
    return COOKIE


@pytest.fixture(scope="session")
def beams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the test modules, compiled once with OTP 25."""
    return compile_modules(sorted(ERL_SOURCES.glob("*.erl")), tmp_path_factory.mktemp("ebin"))


@pytest.fixture(scope="session")
def local_beams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Modules that the node under test and the oracle do not have."""
    return compile_modules(sorted((ERL_SOURCES / "local").glob("*.erl")), tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="session")
def epmd_port() -> Iterator[int]:
    """The port of an epmd that belongs to this test session."""
    program = need("epmd", "erlang-base")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [program, "-port", str(port), "-address", "127.0.0.1"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_env(),
    )  # fmt: skip
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


def wait_for_port(port: int, process: subprocess.Popen[Any]) -> None:
    """Until something listens there."""
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


@pytest.fixture
def epmd_env(epmd_port: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """This process uses the session's epmd, as a node started here would."""
    monkeypatch.setenv("ERL_EPMD_PORT", str(epmd_port))
    monkeypatch.setenv("ERL_EPMD_ADDRESS", "127.0.0.1")
    return epmd_port


StartBeam = Callable[..., Beam]


@pytest.fixture(scope="session")
def _starter(beams: Path, local_beams: Path, epmd_port: int, tmp_path_factory: pytest.TempPathFactory) -> StartBeam:
    def start(runtime: Runtime | str, name: str | None = "", **options: Any) -> Beam:
        if isinstance(runtime, str):
            runtime = find_runtime(runtime)
        settings: dict[str, Any] = {"cookie": COOKIE, "epmd_port": epmd_port}
        settings.update(options)
        settings["paths"] = settings.get("paths", [local_beams]) + [beams]
        name = unique(f"b{runtime.label[3:]}_") if name == "" else name
        return Beam(runtime, name=name, folder=tmp_path_factory.mktemp("beam"), **settings)

    return start


@pytest.fixture(scope="module", params=RELEASES)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Each installed OTP in turn."""
    return find_runtime(request.param)


@pytest.fixture(scope="module")
def beam(runtime: Runtime, _starter: StartBeam) -> Iterator[Beam]:
    """A BEAM that the tests of a module share."""
    running = _starter(runtime)
    yield running
    running.close()


@pytest.fixture
def start_beam(_starter: StartBeam) -> Iterator[StartBeam]:
    """A function that starts BEAMs for one test: start_beam(runtime, name=..., args=[...])."""
    started: list[Beam] = []

    def start(*args: Any, **kwargs: Any) -> Beam:
        started.append(_starter(*args, **kwargs))
        return started[-1]

    yield start
    for running in started:
        running.close()


@pytest.fixture
def own_beam(runtime: Runtime, start_beam: StartBeam) -> Beam:
    """A BEAM for one test only: it may be killed."""
    return start_beam(runtime)


@pytest.fixture(scope="session")
def _oracle(_starter: StartBeam, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beam | None]:
    if ORACLE is None:
        yield None
        return
    ref = compile_modules(sorted((ERL_SOURCES / "ref").glob("*.erl")), tmp_path_factory.mktemp("ref"))
    running = _starter(ORACLE, name=unique("oracle"), paths=[ref], args=["-hidden"])
    yield running
    running.close()


@pytest.fixture
def subject(_oracle: Beam | None, epmd_env: int) -> Iterator[PythonSubject | BeamSubject]:
    """The node under test with the standard application (beamkit/pyapp.py), in a thread of its own."""
    made: PythonSubject | BeamSubject
    made = BeamSubject(_oracle) if _oracle is not None else PythonSubject(unique("py"), COOKIE)
    yield made
    made.close()


@pytest.fixture
def python_only() -> None:
    """For tests of what only the Python node has."""
    if ORACLE is not None:
        pytest.skip("about the Python node, and the oracle is asked for (INTEROP_ORACLE)")


@pytest.fixture
def start_python(epmd_port: int, tmp_path: Path) -> Iterator[Callable[..., PythonProcess]]:
    """A function that starts Python nodes in processes of their own: start_python(name)."""
    started: list[PythonProcess] = []

    def start(name: str | None = None, **options: Any) -> PythonProcess:
        options = {"cookie": COOKIE, "epmd_port": epmd_port, "folder": tmp_path, **options}
        started.append(PythonProcess(name or unique("pyproc"), **options))
        return started[-1]

    yield start
    for process in started:
        process.close()


@pytest.fixture
def start_node(epmd_env: int) -> Iterator[Callable[..., PythonSubject]]:
    """A function that starts nodes in threads of this process: start_node(name=..., app=..., **Node's options)."""
    started: list[PythonSubject] = []

    def start(name: str | None = None, cookie: str = COOKIE, **options: Any) -> PythonSubject:
        started.append(PythonSubject(name or unique("py"), cookie, **options))
        return started[-1]

    yield start
    for node in started:
        node.close()


@pytest.fixture
def free_port() -> int:
    """A loopback port that nobody had a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def rundir() -> Iterator[str]:
    """A folder for a host service; whatever host runs there at the end is ended."""
    folder = tempfile.mkdtemp(prefix="sb-")  # short: it holds unix sockets
    yield f"{folder}/host"
    end_hosts(f"{folder}/host")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def host(rundir: str) -> Iterator[HostProcess]:
    """The host service of that folder."""
    with HostProcess(Path(rundir)) as process:
        yield process


@pytest.fixture(scope="session")
def app() -> Path:
    """The application straw, for a BEAM's path."""
    return build_app()


@pytest.fixture
def domain(start_beam: StartBeam, app: Path, rundir: str) -> StartBeam:
    """domain(otp, domid) starts a BEAM without a name that is a domain with strawman (strawman_probe.erl)."""

    def start(otp: str, domid: int) -> Beam:
        beam = start_beam(otp, name=None, paths=[app])
        assert beam.eval(f'strawman_probe:start("{rundir}", {domid})') == str(domid)
        return beam

    return start


@pytest.fixture
def python(rundir: str, host: HostProcess) -> Callable[..., None]:
    """python(test, peer=6): test(domain) with a Python domain, number 5."""

    def run(test: Callable[[PythonDomain], Awaitable[None]], peer: int = 6) -> None:
        async def main() -> None:
            node = Node(unique("far"), "none of theirs", listen=None, pores=rundir, domid=5)
            domain = PythonDomain(node, peer)
            async with asyncio.timeout(LONG), node:
                await test(domain)

        asyncio.run(main())

    return run
