"""A Jinterface node and the node under test: it asks, and it is asked."""

from __future__ import annotations

import glob
import subprocess
from pathlib import Path

import pytest
from beamkit.beam import unique
from beamkit.foreign import serving
from beamkit.runtimes import HERE, clean_env, need


@pytest.fixture(scope="module")
def jnode(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs java/JNode.java."""
    java = need("java", "default-jre-headless")
    javac = need("javac", "default-jdk-headless")
    jars = sorted(glob.glob("/usr/lib/erlang/lib/jinterface-*/priv/OtpErlang.jar"))
    if not jars:
        pytest.skip("OtpErlang.jar is missing: apt-get install erlang-jinterface")
    into = tmp_path_factory.mktemp("java")
    done = subprocess.run(
        [javac, "-cp", jars[-1], "-d", str(into), str(HERE / "java" / "JNode.java")],
        capture_output=True, text=True, timeout=80, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [java, "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", f"{into}:{jars[-1]}", "JNode"]


@pytest.fixture
def environment(epmd_port: int, tmp_path: Path) -> dict[str, str]:
    return clean_env(ERL_EPMD_PORT=str(epmd_port), ERL_EPMD_ADDRESS="127.0.0.1", HOME=str(tmp_path))


def test_it_asks(jnode: list[str], subject, environment: dict[str, str], cookie: str) -> None:
    """Ping, rpc, gen_server call, terms of all its types there and back, a link."""
    done = subprocess.run(
        [*jnode, "ask", unique("jnode"), cookie, subject.name],
        capture_output=True, text=True, timeout=50, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done
    assert done.stdout.splitlines() == ["ping true", "rpc 4.0", "call 3", "echo 14", "exit bye true"]


def test_it_is_asked(jnode: list[str], start_node, environment: dict[str, str], cookie: str, python_only: None) -> None:
    """Python pings it, calls it, sends to it, links to its mailbox."""
    from node import Atom

    name = unique("jnode")
    with serving([*jnode, "serve", name, cookie], environment) as ended:
        subject = start_node()

        async def test(node) -> None:
            assert await node.ping(name) is True
            assert await node.call(("jserver", name), (Atom("give"), b"back"), 20.0) == (Atom("give"), b"back")
            async with node.process() as me:
                payload = [1.5, {Atom("key"): [2]}, b"x" * (1 << 20)]
                me.send(("jserver", name), (me.pid, 17, payload))
                assert await me.receive(timeout=20.0) == (17, payload)
            node.send(("jserver", name), Atom("stop"))

        subject.do(test)
        assert ended()[-1] == "stopped"
