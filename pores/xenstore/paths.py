"""Names in XenStore: which paths are valid, what a relative one means, and the well-known ones.

Pure functions on text. Paths are `str` and hold only the characters that xenstored takes, so they are ASCII.
Spec: Xen's docs/misc/xenstore.txt, io/xs_wire.h, and what xenstored 4.17 does.
"""

from __future__ import annotations

import re
from typing import Final

from ..errors import XenstoreError

__all__ = [
    "DOMAIN_ROOT",
    "INTRODUCE_DOMAIN",
    "MAX_PATH",
    "RELEASE_DOMAIN",
    "canonical",
    "check_path",
    "domain_path",
    "is_below",
    "join",
    "names_of",
    "parent_of",
    "shown_as",
]

DOMAIN_ROOT: Final = "/local/domain"
INTRODUCE_DOMAIN: Final = "@introduceDomain"
RELEASE_DOMAIN: Final = "@releaseDomain"

MAX_PATH: Final = 2048
"""Characters in a path, not counting a leading /local/domain/N/ (XENSTORE_REL_PATH_MAX)."""

_VALID: Final = re.compile(r"/|(?:/[A-Za-z0-9_@-]+)+")
_HOME: Final = re.compile(r"/local/domain/[0-9]{1,5}/")


def domain_path(domid: int) -> str:
    """Where a domain lives: what its relative paths begin at."""
    return f"{DOMAIN_ROOT}/{domid}"


def canonical(path: str, home: str) -> str:
    """The absolute form of a path given by a domain that lives at `home`; special names stay."""
    return path if path[:1] in ("/", "@") else f"{home}/{path}"


def check_path(path: str) -> str:
    """The path itself when it can name a node; XenstoreError EINVAL otherwise."""
    if len(path) > MAX_PATH:
        home = _HOME.match(path)
        if len(path) > MAX_PATH + (home.end() if home else 0):
            raise XenstoreError("EINVAL", path[:64] + "…", "path too long")
    # fullmatch: a `$` would take a newline at the end.
    if not _VALID.fullmatch(path):
        raise XenstoreError("EINVAL", path, "no valid path")
    return path


def names_of(path: str) -> list[str]:
    """The names on the way from the root to a canonical path; none for "/"."""
    return path[1:].split("/") if len(path) > 1 else []


def join(names: list[str]) -> str:
    return "/" + "/".join(names)


def parent_of(path: str) -> str:
    return path[: path.rindex("/")] or "/"


def is_below(path: str, top: str) -> bool:
    """Whether `path` is `top` or below it."""
    return top == "/" or path == top or path.startswith(top + "/")


def shown_as(path: str, home: str | None) -> str:
    """A canonical path as an event tells it: below `home` for a watch that was set by a relative path."""
    return path if home is None else path[len(home) + 1 :]
