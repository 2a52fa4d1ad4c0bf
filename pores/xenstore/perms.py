"""Permissions of XenStore's nodes: their text form, and who may do what.

The first entry names the owner and what everybody else may do; the others are exceptions by domain, the first that
fits counts. Domain 0 and the owner may do everything. Spec: docs/misc/xenstore.txt, SET_PERMS; xenstored 4.17.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

from ..errors import XenstoreError

__all__ = ["ALL", "OWN", "READ", "WRITE", "Perm", "Perms", "access_of", "format_perms", "parse_perms", "perms_for"]

READ: Final = 1
WRITE: Final = 2
OWN: Final = 4
ALL: Final = READ | WRITE | OWN

_LETTERS: Final = {"n": 0, "r": READ, "w": WRITE, "b": READ | WRITE}
_NAMES: Final = {access: letter for letter, access in _LETTERS.items()}
_TEXT: Final = re.compile(r"([nrwb])(0|[1-9][0-9]{0,4})")


class Perm(NamedTuple):
    """One entry. dead: its domain does not exist (any more); it is shown and inherited, but gives nothing."""

    access: int
    domid: int
    dead: bool = False


Perms: TypeAlias = tuple[Perm, ...]


def access_of(domid: int, perms: Perms) -> int:
    """What a domain may do with a node: bits READ, WRITE, OWN."""
    owner = perms[0]
    if domid == 0 or owner.domid == domid:
        return ALL
    for entry in perms[1:]:
        if entry.domid == domid and not entry.dead:
            return entry.access
    return owner.access


def parse_perms(texts: Iterable[str]) -> Perms:
    """["n0", "r5"] as entries; XenstoreError EINVAL."""
    perms = []
    for text in texts:
        match = _TEXT.fullmatch(text)
        if match is None:
            raise XenstoreError("EINVAL", detail=f"no permission: {text[:16]!r}")
        perms.append(Perm(_LETTERS[match[1]], int(match[2])))
    if not perms:
        raise XenstoreError("EINVAL", detail="no permissions")
    return tuple(perms)


def format_perms(perms: Perms) -> list[str]:
    return [f"{_NAMES[entry.access]}{entry.domid}" for entry in perms]


def perms_for(text: str) -> Perms:
    """ "n0 r5" as entries, for the code that lays out trees."""
    return parse_perms(text.split())
