"""Every program in examples/, run as its docstring says, beside a real BEAM."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from beamkit.beam import Beam, Erl, unique
from beamkit.commandline import PATIENCE, ROOT, CommandLine
from beamkit.runtimes import compile_modules, need

EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.usefixtures("python_only")


@pytest.fixture
def cli(epmd_port: int, cookie: str, tmp_path: Path) -> CommandLine:
    return CommandLine(epmd_port, cookie, tmp_path)


@pytest.fixture(scope="module")
def erlang(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Erlang examples, compiled."""
    return compile_modules(sorted(EXAMPLES.glob("*.erl")), tmp_path_factory.mktemp("examples"))


def test_every_example_is_tested_here() -> None:
    tests = Path(__file__).read_text()
    for example in EXAMPLES.iterdir():
        if example.is_file():
            assert f" {example.name}" in tests or f'"{example.name}' in tests, example.name


def test_echo_calc(cli: CommandLine, beam: Beam) -> None:
    """echo_calc.py"""
    name = unique("echo_calc")
    with cli.app(f"{EXAMPLES}/echo_calc.py:app", name):
        assert beam.eval("net_adm:ping(Py)", Py=name) == "pong"
        assert beam.eval("gen_server:call({calc, Py}, {add, 2, 3})", Py=name) == "5"
        assert beam.eval("gen_server:call({calc, Py}, {add, 2, 0.5})", Py=name) == "2.5"
        echoed = "{echo, Py} ! {self(), 1, hello}, receive {1, hello} -> ok after 30000 -> timeout end"
        assert beam.eval(echoed, Py=name) == "ok"
        assert beam.eval("rpc:call(Py, math, sqrt, [2.0])", Py=name) == "1.4142135623730951"
        crash = "try gen_server:call({calc, Py}, {divide, 1, 0}) catch exit:{{{python, E, _}, _}, _} -> E end"
        assert beam.eval(crash, Py=name) == "'ZeroDivisionError'"
        again = """
            (fun Again(0) -> gone; Again(N) ->
                try gen_server:call({calc, Py}, {add, 1, 1}) catch exit:{noproc, _} -> timer:sleep(20), Again(N - 1) end
            end)(500)
            """
        assert beam.eval(again, Py=name) == "2"


def test_client(cli: CommandLine, beam: Beam, erlang: Path) -> None:
    """client.py with counter.erl"""
    beam.eval("true = code:add_path(Path), {ok, _} = counter:start(), ok", Path=Erl(f'"{erlang}"'))
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "client.py"), beam.name],
        capture_output=True, text=True, timeout=PATIENCE, env=cli.env, cwd=cli.home, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "the counter is at 42",
        "the counter ended: badarith",
        f"it runs on {beam.name}",
    ]


def test_elixir_client(cli: CommandLine, cookie: str) -> None:
    """client.exs"""
    elixir = need("elixir", "elixir")
    name = unique("elixir_py")
    flags = "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
    with cli.app(f"{EXAMPLES}/echo_calc.py:app", name):
        done = subprocess.run(
            [elixir, "--name", unique("ex"), "--cookie", cookie, "--erl", flags, str(EXAMPLES / "client.exs"), name],
            capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=cli.home,
            env=cli.env | {"LC_ALL": "C.UTF-8"},
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        "2 + 3 = 5",
        'echo: %{:list => [1, 2.5], "text" => "žluťoučký kůň"}',
        "sqrt(2) = 1.4142135623730951",
        "ZeroDivisionError: division by zero",
    ]


def test_model_server(cli: CommandLine, beam: Beam) -> None:
    """model_server.py"""
    name = unique("model")
    with cli.app(f"{EXAMPLES}/model_server.py:app", name):
        predicted = beam.eval("gen_server:call({model, Py}, {predict, [[0.1, 0.2], [9.0, 8.5]]})", Py=name)
        assert predicted == '[<<"small">>,<<"large">>]'
        assert beam.eval("gen_server:call({model, Py}, served)", Py=name) == "2"
        assert beam.eval("gen_server:call({model, Py}, dance)", Py=name) == "{error,unknown_request}"


def test_watch(cli: CommandLine, beam: Beam, start_beam) -> None:
    """watch.py"""
    name = unique("watch")
    report = """
        Ask = fun() -> {watcher, Py} ! {report, self()}, receive Seen -> Seen after 30000 -> timeout end end,
        (fun Wait(0) -> Ask(); Wait(N) ->
            case Ask() of Seen when length(Seen) >= Count -> Seen; _ -> timer:sleep(20), Wait(N - 1) end
        end)(250)
        """
    with cli.app(f"{EXAMPLES}/watch.py:app", name):
        # Once the report is there, the watcher's monitor or link has arrived as well.
        mortal = """
            P = spawn(fun() -> receive R -> exit(R) end end),
            {watcher, Py} ! {Verb, P}, {watcher, Py} ! {report, self()}, receive Seen -> P ! Reason, length(Seen) end
            """
        beam.eval(mortal, Py=name, Verb="watch", Reason="tired")
        assert beam.eval(report, Py=name, Count=1) == "[{down,tired}]"
        beam.eval(mortal, Py=name, Verb="join", Reason="sad")
        beam.eval(mortal, Py=name, Verb="watch", Reason="normal")
        seen = beam.eval(report, Py=name, Count=3)
        assert sorted(seen.strip("[]").replace("},{", "} {").split()) == ["{down,normal}", "{down,tired}", "{exit,sad}"]
        other = start_beam(beam.runtime)
        other.eval("P = spawn(fun() -> receive R -> exit(R) end end), {watcher, Py} ! {watch, P}, ok", Py=name)
        # What the other BEAM sent has arrived when its own question is answered.
        assert other.eval(report, Py=name, Count=3) == seen
        other.kill()
        assert beam.eval(report, Py=name, Count=4) == seen[:-1] + ",{down,noconnection}]"


def test_worker(cli: CommandLine, beam: Beam, erlang: Path) -> None:
    """worker.py with guard.erl"""
    name = unique("worker")
    wait = """
        (fun Wait(0) -> gen_server:call(guard, status); Wait(N) ->
            case gen_server:call(guard, status) of
                {Pid, Reasons} when is_pid(Pid), length(Reasons) >= Count ->
                    {worker, Py} ! {self(), 7},
                    Answer = receive {quotient, Q} -> Q after 30000 -> none end,
                    {Answer, [case R of {{python, E, _}, _} -> E; _ -> R end || R <- Reasons]};
                _ -> timer:sleep(20), Wait(N - 1)
            end
        end)(500)
        """
    beam.eval("true = code:add_path(Path), {ok, _} = guard:start(Py), ok", Path=Erl(f'"{erlang}"'), Py=name)
    try:
        with cli.app(f"{EXAMPLES}/worker.py:app", name):  # the guard had to wait for it
            assert beam.eval(wait, Py=name, Count=0) == "{14,[]}"
            beam.eval("{worker, Py} ! {self(), 0}, ok", Py=name)
            assert beam.eval(wait, Py=name, Count=1) == "{14,['ZeroDivisionError']}"
        with cli.app(f"{EXAMPLES}/worker.py:app", name):  # and finds the next one
            assert beam.eval(wait, Py=name, Count=2) == "{14,[shutdown,'ZeroDivisionError']}"
    finally:
        beam.eval("gen_server:stop(guard)")


def test_straw_buddy(cli: CommandLine, tmp_path: Path) -> None:
    """straw_buddy.py with straw_ask.py"""
    with tempfile.TemporaryDirectory(prefix="straw-") as rundir:  # short: it holds unix sockets
        cli.env["STRAWBRIDGE_HOST"] = rundir
        with (
            cli.started("host"),
            cli.started("run", f"{EXAMPLES}/straw_buddy.py:app", "--name", unique("buddy"), "--domid", "5") as buddy,
        ):
            done = subprocess.run(
                [sys.executable, str(EXAMPLES / "straw_ask.py"), "5", "2", "3"],
                capture_output=True, text=True, timeout=PATIENCE, env=cli.env, cwd=cli.home, check=False,
            )  # fmt: skip
            assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")
            sent = cli.run("straw", "send", "5", "buddy", '{hello, <<"world">>}', "--from", "9")
            assert sent == (0, "ok\n", "")
            assert buddy.stdout is not None
            assert buddy.stdout.readline() == "domain 9 says (Atom('hello'), b'world')\n"
