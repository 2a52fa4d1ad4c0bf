"""The command line against real BEAMs and against itself, as processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from beamkit.beam import Beam, unique
from beamkit.commandline import PATIENCE, ROOT, CommandLine
from beamkit.runtimes import find_runtime

APP = f"{ROOT}/tests/interop/beamkit/pyapp.py:app"

pytestmark = pytest.mark.usefixtures("python_only")


@pytest.fixture
def cli(epmd_port: int, cookie: str, tmp_path: Path) -> CommandLine:
    return CommandLine(epmd_port, cookie, tmp_path)


@pytest.fixture(scope="module")
def py(epmd_port: int, cookie: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a Python node that `run` has started."""
    name = unique("cli")
    cli = CommandLine(epmd_port, cookie, tmp_path_factory.mktemp("home"))
    with cli.app(APP, name):
        yield name


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


# -- to a BEAM


def test_ping(cli: CommandLine, beam: Beam) -> None:
    assert cli.run("ping", beam.name) == (0, "pong\n", "")


def test_call(cli: CommandLine, beam: Beam) -> None:
    server = "fun Serve() -> receive {'$gen_call', From, X} -> gen_server:reply(From, {got, X}), Serve() end end"
    beam.eval(f"register(cli_server, spawn({server})), ok")
    try:
        asked = '#{k => [1, "ab", <<"č"/utf8>>, \'A b\', 1.0e10, <<5:3>>, [a|b]]}'
        code, out, err = cli.run("call", "cli_server", beam.name, asked)
        assert (code, out, err) == (0, '{got,#{k => [1,"ab",<<"č"/utf8>>,\'A b\',1.0e10,<<5:3>>,[a|b]]}}\n', "")
    finally:
        beam.eval("exit(whereis(cli_server), kill)")


def test_call_errors(cli: CommandLine, beam: Beam) -> None:
    code, out, err = cli.run("call", "nobody", beam.name, "x")
    assert (code, out) == (4, "")
    assert "no process" in err
    beam.eval('register(cli_crash, spawn(fun() -> receive _ -> exit({bad, <<"luck">>}) end end)), ok')
    code, out, err = cli.run("call", "cli_crash", beam.name, "x")
    assert (code, out) == (4, "")
    assert '{bad,<<"luck">>}' in err
    beam.eval("register(cli_mute, spawn(fun() -> receive stop -> ok end end)), ok")
    code, out, err = cli.run("call", "cli_mute", beam.name, "x", "--timeout", "0.2")
    assert (code, out) == (4, "")
    assert "no reply within 0.2 s" in err
    beam.eval("cli_mute ! stop")


def test_send(cli: CommandLine, beam: Beam) -> None:
    future = beam.submit("register(cli_inbox, self()), receive X -> X end")
    while beam.eval("whereis(cli_inbox)") == "undefined":
        pass
    assert cli.run("send", "cli_inbox", beam.name, '{hello, <<"you">>}') == (0, "ok\n", "")
    assert future.result(PATIENCE) == b'{hello,<<"you">>}'


def test_rpc(cli: CommandLine, beam: Beam) -> None:
    assert cli.run("rpc", beam.name, "erlang", "node") == (0, f"'{beam.name}'\n", "")
    assert cli.run("rpc", beam.name, "lists", "seq", "1", "5") == (0, "[1,2,3,4,5]\n", "")
    assert cli.run("rpc", beam.name, "erlang", "abs", "--", "-5") == (0, "5\n", "")


@pytest.mark.parametrize(
    ("function", "words"), [("error", "error: oops"), ("exit", "exit: oops"), ("throw", "throw: oops")]
)
def test_rpc_errors(cli: CommandLine, beam: Beam, function: str, words: str) -> None:
    code, out, err = cli.run("rpc", beam.name, "erlang", function, "oops")
    assert (code, out) == (4, "")
    assert words in err


def test_rpc_of_a_function_that_is_not_there(cli: CommandLine, beam: Beam) -> None:
    code, _, err = cli.run("rpc", beam.name, "nomodule", "f", "1")
    assert code == 4
    assert "error: undef in nomodule:f/1" in err


# -- what does not work


def test_no_such_node(cli: CommandLine) -> None:
    code, out, err = cli.run("ping", "nobody_here@127.0.0.1")
    assert (code, out) == (1, "pang\n")
    assert "nobody_here" in err
    for argv in (["call", "x", "nobody_here@127.0.0.1", "a"], ["rpc", "nobody_here@127.0.0.1", "m", "f"],
                 ["send", "x", "nobody_here@127.0.0.1", "a"]):  # fmt: skip
        code, out, err = cli.run(*argv)
        assert (code, out) == (3, "")
        assert err.startswith("strawbridge: can't connect to nobody_here@127.0.0.1")
        assert "Traceback" not in err


def test_no_such_host(cli: CommandLine) -> None:
    code, out, err = cli.run("ping", "a@no-such-host.invalid")
    assert (code, out) == (1, "pang\n")
    assert "no-such-host.invalid" in err
    code, out, err = cli.run("call", "x", "a@no-such-host.invalid", "y")
    assert (code, out) == (3, "")
    assert "no-such-host.invalid" in err
    assert cli.run("names", "no-such-host.invalid")[:2] == (3, "")


def test_wrong_cookie(epmd_port: int, tmp_path: Path, beam: Beam) -> None:
    cli = CommandLine(epmd_port, "not_the_cookie", tmp_path)
    code, out, err = cli.run("ping", beam.name)
    assert (code, out) == (1, "pang\n")
    assert "cookie" in err
    code, out, err = cli.run("rpc", beam.name, "erlang", "node")
    assert (code, out) == (3, "")
    assert "cookie" in err
    assert "Traceback" not in err


def test_cookie_by_file_and_by_argument(epmd_port: int, cookie: str, tmp_path: Path, beam: Beam) -> None:
    cli = CommandLine(epmd_port, None, tmp_path)
    (tmp_path / "secret").write_text(cookie)
    (tmp_path / "secret").chmod(0o400)
    assert cli.run("ping", beam.name, "--cookie-file", "secret") == (0, "pong\n", "")
    code, out, err = cli.run("ping", beam.name, "--cookie", cookie)
    assert (code, out) == (0, "pong\n")
    assert "warning" in err
    (tmp_path / "secret").chmod(0o644)
    code, out, err = cli.run("ping", beam.name, "--cookie-file", "secret")
    assert (code, out) == (2, "")
    assert "secret" in err


def test_no_epmd(cookie: str, tmp_path: Path, free_port: int) -> None:
    cli = CommandLine(free_port, cookie, tmp_path)
    code, out, err = cli.run("names")
    assert (code, out) == (3, "")
    assert "epmd" in err
    code, out, err = cli.run("call", "x", "a@127.0.0.1", "y")
    assert (code, out) == (3, "")
    assert "epmd" in err
    assert "Traceback" not in err


# -- epmd and names


def test_epmd_and_names(cookie: str, tmp_path: Path, free_port: int) -> None:
    cli = CommandLine(free_port, cookie, tmp_path)
    name = unique("named")
    with cli.started("epmd", ready=str(free_port)) as epmd:
        assert cli.run("names") == (0, "", "")
        with cli.app(APP, name):
            code, out, _ = cli.run("names", "127.0.0.1")
            assert code == 0
            assert out.startswith('{"' + name.partition("@")[0] + '",')
        code, _, err = cli.run("epmd")
        assert code == 3
        assert str(free_port) in err
        epmd.send_signal(signal.SIGTERM)
        assert epmd.wait(PATIENCE) == 0


# -- run


def test_run_and_talk(cli: CommandLine, py: str, beam: Beam) -> None:
    assert cli.run("ping", py) == (0, "pong\n", "")
    assert cli.run("call", "calc", py, "{add, 2, 3}") == (0, "5\n", "")
    assert cli.run("rpc", py, "math", "sqrt", "16.0") == (0, "4.0\n", "")
    code, _, err = cli.run("rpc", py, "os", "system", '"true"')
    assert (code, "undef" in err) == (4, True)
    code, _, err = cli.run("call", "calc", py, '{raise, <<"no good">>}')
    assert code == 4
    assert "{python,'ValueError',<<\"no good\">>}" in err
    assert beam.eval(f"gen_server:call({{calc, '{py}'}}, {{add, 2, 3}})") == "5"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(cli: CommandLine, beam: Beam, number: signal.Signals) -> None:
    name = unique("signalled")
    with cli.started("run", APP, "--name", name) as process:
        # The monitor has arrived when the call behind it is answered.
        watch = "monitor(process, {echo, Py}), 5 = gen_server:call({calc, Py}, {add, 2, 3})"
        waiting = beam.submit(f"{watch}, register(cli_waits, self()), receive {{'DOWN', _, _, _, R}} -> R end", Py=name)
        while beam.eval("whereis(cli_waits)") == "undefined":
            pass
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
    assert waiting.result(PATIENCE) == b"shutdown"
    assert name.partition("@")[0] not in cli.run("names")[1]


def test_a_name_that_is_taken(cli: CommandLine, py: str) -> None:
    code, out, err = cli.run("run", APP, "--name", py)
    assert (code, out) == (3, "")
    assert "Traceback" not in err
    assert py.partition("@")[0] in err


def test_an_address_that_is_not_ours(cli: CommandLine) -> None:
    code, out, err = cli.run("run", APP, "--name", unique("far"), "--listen", "192.0.2.1")
    assert (code, out) == (3, "")
    assert "can't listen on 192.0.2.1" in err


def test_too_many_restarts(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "hopeless.py").write_text(
        "async def hopeless(me):\n"
        "    raise ValueError('again')\n"
        "def app(node):\n"
        "    node.register('hopeless', hopeless, restart='permanent')\n"
    )
    code, _, err = cli.run("run", "hopeless.py:app", "--name", unique("hopeless"))
    assert code == 1
    assert "gave up: hopeless ended" in err


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_an_app_that_fails(cli: CommandLine, tmp_path: Path, kind: str) -> None:
    (tmp_path / "failing.py").write_text(f"{kind} app(node):\n    node.whereis('x')\n    raise ValueError('no way')\n")
    code, out, err = cli.run("run", "failing.py:app", "--name", unique("failing"))
    assert (code, out) == (1, "")
    assert 'failing.py", line 3' in err
    assert "ValueError: no way" in err
    assert "node/cli" not in err


def test_a_signal_while_the_app_starts(cli: CommandLine, tmp_path: Path) -> None:
    """An async app that does not return; it can clean up."""
    (tmp_path / "endless.py").write_text(
        "import asyncio\n"
        "async def app(node):\n"
        "    print('begun', flush=True)\n"
        "    try:\n"
        "        await asyncio.sleep(1000)\n"
        "    finally:\n"
        "        print('cleaned up', flush=True)\n"
    )
    with cli.started("run", "endless.py:app", "--name", unique("endless"), ready="begun") as process:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out) == (0, "cleaned up\n")


def test_an_app_that_closes_its_node(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "short.py").write_text(
        "import asyncio\n"
        "async def short(me, node):\n"
        "    asyncio.create_task(node.close())\n"
        "def app(node):\n"
        "    node.register('short', short, node)\n"
    )
    assert cli.run("run", "short.py:app", "--name", unique("short"))[0] == 0


def test_run_makes_its_own_epmd(cookie: str, tmp_path: Path, free_port: int) -> None:
    cli = CommandLine(free_port, cookie, tmp_path)
    name = unique("alone")
    with cli.app(APP, name):
        assert cli.run("ping", name) == (0, "pong\n", "")
        assert cli.run("names")[0] == 0


def test_short_names(cli: CommandLine) -> None:
    with cli.started("run", APP, "--sname", "cli_short@localhost"):
        assert cli.run("ping", "cli_short@localhost") == (0, "pong\n", "")
        assert cli.run("ping", "cli_short@127.0.0.1")[0] == 1  # a long name: not its own


# -- demo


@pytest.mark.parametrize("release", ["otp25", "otp28"])
def test_demo(cli: CommandLine, release: str) -> None:
    runtime = find_runtime(release)
    code, out, err = cli.run("demo", *(["--erl", runtime.erl] if release == "otp25" else []))
    assert (code, err) == (0, ""), out + err
    assert f"Erlang/OTP {release[3:]}" in out
    steps = [line for line in out.splitlines() if " -> " in line]
    assert len(steps) >= 12
    assert f"all {len(steps)} steps were observed" in out


def test_demo_names_the_step_that_fails(cli: CommandLine, tmp_path: Path) -> None:
    """Not an Erlang: it says one line and ends."""
    fake = tmp_path / "erl"
    fake.write_text("#!/bin/sh\necho otp '\"99\"'\necho ping pang\necho why >&2\n")
    fake.chmod(0o755)
    code, out, err = cli.run("demo", "--erl", str(fake))
    assert code == 1
    assert "step 1 failed: BEAM: net_adm:ping(" in err
    assert "got pang" in err
    assert "observed" not in out


def test_demo_leaves_no_beam_behind(cli: CommandLine, tmp_path: Path) -> None:
    """Stopped in the middle: a BEAM that never says anything is ended with it."""
    fake = tmp_path / "erl"
    fake.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\necho otp '\"99\"'\nexec sleep 1000\n")
    fake.chmod(0o755)
    with cli.started("demo", "--erl", str(fake), ready="Act 1", stderr=subprocess.DEVNULL) as demo:
        beam = int((tmp_path / "pid").read_text())
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(PATIENCE) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(beam, 0)


def test_a_signal_ends_a_handler_that_blocks_for_ever(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "blocked.py").write_text(
        "import time\n"
        "def blocks(message):\n"
        "    print('blocked', flush=True)\n"
        "    time.sleep(100_000)\n"
        "def app(node):\n"
        "    node.register('blocks', blocks)\n"
        "    node.send('blocks', 1)\n"
    )
    with cli.started("run", "blocked.py:app", "--name", unique("blocked"), ready="blocked") as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
