"""Where the cookie comes from: OTP's rules for the cookie file (kernel's auth.erl).

``$HOME/.erlang.cookie``, then ``$XDG_CONFIG_HOME/erlang/.erlang.cookie`` (default ``~/.config``); when neither is there
the first is created. Only its owner may be able to read the file. Not here: which cookie belongs to which peer.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from ..errors import CookieError

__all__ = ["COOKIE_FILE", "MAX_COOKIE", "check_cookie", "cookie_paths", "find_cookie", "make_cookie", "read_cookie"]

COOKIE_FILE = ".erlang.cookie"

#: A cookie is an atom in Erlang.
MAX_COOKIE = 255

#: Letters of a cookie that we make, as OTP's are made of; 20 of them are 94 bits.
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LENGTH = 20

#: Bytes of a cookie file that are looked at. A file that is longer can't hold a cookie.
_MAX_FILE = 4096


def find_cookie(env: Mapping[str, str] | None = None, home: str | os.PathLike[str] | None = None) -> str:
    """The cookie of this user; the file is created when there is none. CookieError says which file and what is wrong.

    env: instead of os.environ (HOME, XDG_CONFIG_HOME). home: instead of env's HOME.
    """
    paths = cookie_paths(env, home)
    if not paths:
        raise CookieError("no HOME and no XDG_CONFIG_HOME, so no place for a cookie file; give a cookie")
    for path in paths:
        cookie = _read(path)
        if cookie is not None:
            return cookie
    return make_cookie(paths[0])


def cookie_paths(env: Mapping[str, str] | None = None, home: str | os.PathLike[str] | None = None) -> list[Path]:
    """The files that are looked at, in order."""
    env = os.environ if env is None else env
    home = home if home is not None else env.get("HOME")
    paths = [Path(home) / COOKIE_FILE] if home else []
    config = env.get("XDG_CONFIG_HOME")
    if config:
        paths.append(Path(config) / "erlang" / COOKIE_FILE)
    elif home:
        paths.append(Path(home) / ".config" / "erlang" / COOKIE_FILE)
    return paths


def read_cookie(path: str | os.PathLike[str]) -> str:
    """The cookie in that file, under the same rules. CookieError, also when there is no such file."""
    cookie = _read(Path(path))
    if cookie is None:
        raise CookieError(f"there is no cookie file {path}")
    return cookie


def _read(path: Path) -> str | None:
    try:
        # Opened first and looked at then, so that what is checked is what is read. O_NONBLOCK: not to hang on a fifo.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CookieError(f"can't read cookie file {path}: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise CookieError(f"cookie file {path} is not a regular file")
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise CookieError(
                f"cookie file {path} must be accessible by its owner only, but has mode {mode:04o}: chmod 400 {path}"
            )
        data = b""
        while len(data) <= _MAX_FILE and (more := os.read(fd, _MAX_FILE)):
            data += more
    except OSError as error:
        raise CookieError(f"can't read cookie file {path}: {error.strerror}") from error
    finally:
        os.close(fd)
    try:
        return _parse(data)
    except CookieError as error:
        raise CookieError(f"cookie file {path}: {error}") from None


def _parse(data: bytes) -> str:
    """Printable ASCII from space to tilde; after it only line ends and blanks, as check_cookie in auth.erl."""
    if len(data) > _MAX_FILE:
        raise CookieError("too long for a cookie")
    end = 0
    while end < len(data) and 0x20 <= data[end] <= 0x7E:
        end += 1
    if data[end:].strip(b"\r\n "):
        raise CookieError("characters that a cookie can't have")
    return check_cookie(data[:end].decode("ascii"))


def check_cookie(cookie: str) -> str:
    """A cookie given by hand: 1 to 255 latin-1 characters; returned as it is. CookieError."""
    if not cookie:
        raise CookieError("it is empty")
    if len(cookie) > MAX_COOKIE:
        raise CookieError(f"{len(cookie)} characters, a cookie has at most {MAX_COOKIE}")
    try:
        cookie.encode("latin-1")
    except UnicodeEncodeError:
        raise CookieError("a cookie has latin-1 characters only") from None
    return cookie


def make_cookie(path: str | os.PathLike[str]) -> str:
    """Create that file with a cookie from a CSPRNG, mode 0400. When somebody else was faster, theirs. CookieError."""
    path = Path(path)
    cookie = "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
    # Written beside and linked into place: nobody ever sees the file empty, half or with another mode.
    beside = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(cookie.encode("ascii"))
            os.link(beside, path)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(beside)
    except FileExistsError:
        return read_cookie(path)
    except OSError as error:
        raise CookieError(f"can't create cookie file {path}: {error.strerror}") from error
    return cookie
