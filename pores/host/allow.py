"""Which user may be which domain of a host that several users share: a file of the host's owner.

    [allow]
    alice = "5-9, 12"       # a name or a uid; these domain ids
    1001 = "any"

The host's own user and root may be any domain unless they are named, everybody else none. An id that is named here is
given to nobody who asks for just any. docs/host-protocol.md, "Trust".
"""

from __future__ import annotations

import os
import pwd
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path

from . import limits

__all__ = ["AllowList", "read_allow"]

_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)


class AllowList:
    """users: uid -> the domain ids that it may have, None for any."""

    def __init__(self, users: Mapping[int, frozenset[int] | None]) -> None:
        self._users: dict[int, frozenset[int] | None] = {0: None, os.getuid(): None, **users}
        #: named for somebody
        self.reserved = frozenset[int]().union(*(domids for domids in users.values() if domids is not None))

    def domids(self, uid: int) -> frozenset[int] | None:
        """What a user may be; None: any domain."""
        return self._users.get(uid, frozenset())


def read_allow(path: Path | str) -> AllowList:
    """The file's AllowList. ValueError says what is wrong with it, and what to write."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            text = file.read()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    if found.st_uid not in (0, os.getuid()):
        raise ValueError(f"{path} belongs to uid {found.st_uid}: it must be yours or root's")
    if found.st_mode & 0o022:
        raise ValueError(f"{path} has mode {stat.S_IMODE(found.st_mode):o}: others could write there (chmod go-w it)")
    try:
        told = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    users = told.pop("allow", None)
    if told or not isinstance(users, dict):
        raise ValueError(f'{path}: it has one table, [allow], with lines like alice = "5-9, 12"')
    try:
        return AllowList({_uid(user): _domids(user, domids) for user, domids in users.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _uid(user: str) -> int:
    if user.isascii() and user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ValueError(f"this machine has no user {user!r} (a uid will do as well)") from None


def _domids(user: str, text: object) -> frozenset[int] | None:
    if text == "any":
        return None
    domids: set[int] = set()
    for part in str(text).split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not limits.FIRST_DOMID <= first <= last <= limits.LAST_DOMID:
            ids = f"{limits.FIRST_DOMID} to {limits.LAST_DOMID}"
            raise ValueError(f'{user} = {text!r}: write domain ids of {ids}, as in "5-9, 12", or "any"')
        domids.update(range(first, last + 1))
    return frozenset(domids)
