"""A C node (ei) and the node under test: it asks, and it is asked."""

from __future__ import annotations

import glob
import subprocess
from pathlib import Path

import pytest
from beamkit.beam import unique
from beamkit.foreign import serving
from beamkit.runtimes import HERE, clean_env, need


@pytest.fixture(scope="module")
def cnode(tmp_path_factory: pytest.TempPathFactory) -> str:
    """c/cnode.c, compiled."""
    gcc = need("gcc", "gcc libc6-dev")
    found = sorted(glob.glob("/usr/lib/erlang/lib/erl_interface-*/lib/libei.a"))
    if not found:
        pytest.skip("libei.a is missing: apt-get install erlang-dev")
    root = Path(found[-1]).parent.parent
    program = tmp_path_factory.mktemp("cnode") / "cnode"
    done = subprocess.run(
        [gcc, "-O1", "-Wall", "-Werror", "-D_GNU_SOURCE", "-D_REENTRANT", f"-I{root}/include",
         str(HERE / "c" / "cnode.c"), f"-L{root}/lib", "-lei",
         "-lpthread", "-o", str(program)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return str(program)


@pytest.fixture
def environment(epmd_port: int, tmp_path: Path) -> dict[str, str]:
    return clean_env(ERL_EPMD_PORT=str(epmd_port), ERL_EPMD_ADDRESS="127.0.0.1", HOME=str(tmp_path))


def test_it_asks(cnode: str, subject, environment: dict[str, str], cookie: str) -> None:
    """rpc through rex, a message to a name, gen_server calls by name and by pid, a megabyte there and back."""
    done = subprocess.run(
        [cnode, "ask", unique("cnode"), cookie, subject.name],
        capture_output=True, text=True, timeout=30, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done
    assert done.stdout.splitlines() == ["connected", "rpc 4.0", "rpc badrpc", f"echo {1 << 20}", "call 3"]


def test_wrong_cookie(cnode: str, subject, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [cnode, "ask", unique("cnode"), "wrong", subject.name],
        capture_output=True, text=True, timeout=30, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "ei_connect failed" in done.stderr


def test_it_is_asked(cnode: str, start_node, environment: dict[str, str], cookie: str, python_only: None) -> None:
    """Python connects to the C node's port: ping, call, messages there and back."""
    from node import Atom

    name = unique("cnode")
    with serving([cnode, "serve", name, cookie], environment) as ended:
        subject = start_node()

        async def test(node) -> None:
            assert await node.ping(name) is True
            assert await node.call(("any_name", name), (Atom("give"), b"back"), 20.0) == (Atom("give"), b"back")
            async with node.process() as me:
                payload = [1.5, {"key": [None]}, b"x" * (1 << 20)]
                me.send(("other", name), (me.pid, 17, payload))
                number, back = await me.receive(timeout=20.0)
                assert number == 17
                assert back == [1.5, {b"key": [Atom("undefined")]}, b"x" * (1 << 20)]
            node.send(("any_name", name), (Atom("stop"),))

        subject.do(test)
        lines = ended()
        assert lines[0] == f"accepted {subject.name}"
        assert lines[-1] == "stopped"
