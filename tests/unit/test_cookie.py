"""The cookie file's rules, each with its error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.errors import CookieError
from node.net.cookie import check_cookie, cookie_paths, find_cookie, make_cookie, read_cookie


def write(path: Path, data: bytes, mode: int = 0o400) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_home_comes_before_xdg(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    write(tmp_path / "xdg/erlang/.erlang.cookie", b"FROMXDG")
    assert find_cookie(env) == "FROMXDG"
    write(tmp_path / "home/.erlang.cookie", b"FROMHOME")
    assert find_cookie(env) == "FROMHOME"
    assert find_cookie(env, home=tmp_path / "nothing") == "FROMXDG"


def test_xdg_default_is_below_home(tmp_path: Path) -> None:
    assert cookie_paths({"HOME": "/h"}) == [Path("/h/.erlang.cookie"), Path("/h/.config/erlang/.erlang.cookie")]
    assert cookie_paths({}) == []
    with pytest.raises(CookieError, match="HOME"):
        find_cookie({})


def test_created_when_missing_and_then_kept(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path)}
    cookie = find_cookie(env)
    path = tmp_path / ".erlang.cookie"
    assert len(cookie) == 20 and cookie.isascii() and cookie.isupper()
    assert path.stat().st_mode & 0o777 == 0o400
    assert find_cookie(env) == cookie
    assert os.listdir(tmp_path) == [".erlang.cookie"]
    assert make_cookie(path) == cookie  # somebody was faster
    other = tmp_path / "other"
    other.mkdir()
    assert find_cookie({"HOME": str(other)}) != cookie


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o444, 0o644, 0o410, 0o401, 0o777])
def test_open_to_others(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "c", b"SECRET", mode)
    with pytest.raises(CookieError, match=f"{mode:04o}") as error:
        read_cookie(path)
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_owner_only(tmp_path: Path, mode: int) -> None:
    assert read_cookie(write(tmp_path / "c", b"SECRET", mode)) == "SECRET"


@pytest.mark.parametrize(
    ("data", "cookie"),
    [
        (b"abc", "abc"),
        (b"abc\n", "abc"),
        (b"abc\r\n\n", "abc"),
        (b"a b~!", "a b~!"),
        (b"abc \n", "abc "),  # as OTP: blanks before the line end belong to it
        (b"abc\n  \n", "abc"),
    ],
)
def test_contents(tmp_path: Path, data: bytes, cookie: str) -> None:
    assert read_cookie(write(tmp_path / "c", data)) == cookie


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"abc\ndef", b"abc\tdef", b"ab\xe9", b"\0abc", b"x" * 256, b"x" * 100_000, b"\nabc"]
)
def test_contents_that_are_no_cookie(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CookieError, match="cookie file"):
        read_cookie(write(tmp_path / "c", data))


def test_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(CookieError, match="no cookie file"):
        read_cookie(tmp_path / "missing")
    directory = tmp_path / "directory"
    directory.mkdir(mode=0o700)
    with pytest.raises(CookieError):
        read_cookie(directory)
    os.mkfifo(tmp_path / "fifo", 0o400)
    with pytest.raises(CookieError, match="regular"):
        read_cookie(tmp_path / "fifo")
    with pytest.raises(CookieError, match="can't create"):
        make_cookie(tmp_path / "missing" / "c")


def test_cookies_given_by_hand() -> None:
    assert check_cookie("é") == "é"
    assert check_cookie("x" * 255) == "x" * 255
    for bad in ("", "x" * 256, "ж"):
        with pytest.raises(CookieError):
            check_cookie(bad)
