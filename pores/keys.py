"""What the two sides of a pore write into XenStore: paths, values, and what of it is believed.

Pure functions on text; whatever a stranger wrote comes in as it is and leaves as a checked value or None. The keys are
LING's (strawman.erl, tube_server.erl), those of `EXTENSIONS` are ours, and a LING peer never looks at them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from .xenstore.paths import domain_path

__all__ = [
    "EXTENSIONS",
    "LIMIT_DOMID",
    "STRAW",
    "TUBE",
    "WIDE_MAX",
    "WIDE_MIN",
    "Layout",
    "Terms",
    "agree",
    "domid_of",
    "number",
    "owned_by",
    "pack_refs",
    "terms_keys",
    "terms_of",
    "unpack_refs",
]

#: Domain ids end here (DOMID_FIRST_RESERVED).
LIMIT_DOMID: Final = 0x7FF0
#: Bytes of a ring of a wide straw (csrc/include/pore.h).
WIDE_MIN: Final = 4096
WIDE_MAX: Final = 1 << 20
#: A value with its node has to fit the store's quota for one node (2048 bytes, permissions and all).
REFS_MAX: Final = 1800
#: Keys, in both directories, that only our own kind writes and reads. A LING peer has none of them.
EXTENSIONS: Final = ("dialect", "ring-bytes", "suppress")

_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,9}")


def number(value: bytes | None) -> int | None:
    """A canonical decimal u32, or None."""
    if value is None or len(value) > 10:
        return None
    text = value.decode("latin-1")
    if not _NUMBER.fullmatch(text):
        return None
    n = int(text)
    return n if n <= 0xFFFF_FFFF else None


def domid_of(name: str) -> int | None:
    """A canonical domain id, or None."""
    n = number(name.encode("latin-1", "replace"))
    return n if n is not None and n < LIMIT_DOMID else None


def owned_by(perms: Sequence[str] | None, peer: int, me: int) -> bool:
    """Whether the first entry names the peer. What domain 0 makes in our tree is ours, so for 0 either will do."""
    if not perms:
        return False
    owner = domid_of(perms[0][1:])
    return owner == peer or (peer == 0 and owner == me)


@dataclass(frozen=True)
class Layout:
    """Where a kind of pore is negotiated: each side has a directory for it in its own tree's `data`."""

    kind: str
    active_top: str
    passive_top: str
    knock: str
    """The key in the active directory that tells of a knock; its value is the passive directory."""
    back: str
    """The key in the passive directory that names the active one."""
    many: bool = False
    """Several per pair: the directories have one level more, the number of the pore."""

    def active_dir(self, acceptor: int, opener: int, tid: str = "") -> str:
        """Where the one who is knocked upon keeps the pore of an opener."""
        return f"{domain_path(acceptor)}/{self.active_top}/{opener}" + (f"/{tid}" if self.many else "")

    def passive_dir(self, opener: int, acceptor: int, tid: str = "") -> str:
        """Where the opener keeps it."""
        return f"{domain_path(opener)}/{self.passive_top}/{acceptor}" + (f"/{tid}" if self.many else "")

    def knocker(self, me: int, path: str) -> tuple[int, str] | None:
        """(domain, number) of a knock when that is what a changed path tells of; None for any other path.

        Only the exact path counts, and only with canonical numbers.
        """
        top = f"{domain_path(me)}/{self.active_top}/"
        names = path.removeprefix(top).split("/")
        if not path.startswith(top) or len(names) != 2 + self.many or names[-1] != self.knock:
            return None
        domid = domid_of(names[0])
        tid = names[1] if self.many else ""
        if domid is None or domid == me or (self.many and domid_of(tid) is None):
            return None
        return domid, tid


STRAW: Final = Layout("straw", "data/straw", "data/warts", "warts", "straw")
TUBE: Final = Layout("tube", "data/tip", "data/nock", "nock", "tip", many=True)


@dataclass(frozen=True)
class Terms:
    """How two sides talk, or one side's wishes for it. The default is LING's: erlang, its dialect, its 8 pages."""

    format: str = "erlang"
    """"erlang" or "json"."""
    dialect: str = ""
    """"otp" between our own; "" with a LING."""
    ring_bytes: int = 0
    """Bytes of a ring of a wide straw; 0: LING's layout."""
    suppress: bool = False
    """Wide only: a side is poked only when it waits."""

    @property
    def own_kind(self) -> bool:
        """Whether the peer is one of ours; any other is taken for a LING."""
        return self.dialect == "otp"

    def narrow(self) -> Terms:
        """The same with LING's ring."""
        return replace(self, ring_bytes=0, suppress=False)


def terms_of(values: Mapping[str, bytes | None]) -> Terms:
    """What a side's directory says; anything that is not understood is as if it were not there."""
    told = values.get("format")
    ring = number(values.get("ring-bytes")) or 0
    if not WIDE_MIN <= ring <= WIDE_MAX or ring & (ring - 1):
        ring = 0
    otp = values.get("dialect") == b"otp"
    return Terms(
        "erlang" if told is None or told == b"erlang" else "json",
        "otp" if otp else "",
        ring if otp else 0,
        bool(otp and ring) and values.get("suppress") == b"1",
    )


def terms_keys(terms: Terms) -> dict[str, str]:
    """The keys that say so. None is ever empty: LING's xenstore process dies of an empty value."""
    keys = {"format": terms.format}
    if terms.own_kind:
        keys["dialect"] = terms.dialect
        if terms.ring_bytes:
            keys["ring-bytes"] = str(terms.ring_bytes)
            keys["suppress"] = "1" if terms.suppress else "0"
    return keys


def agree(ours: Terms, theirs: Terms) -> Terms:
    """What both can: the same on either side. Both must say erlang, both must say otp; the smaller ring."""
    own = ours.own_kind and theirs.own_kind
    ring = min(ours.ring_bytes, theirs.ring_bytes) if own else 0
    return Terms(
        "erlang" if ours.format == theirs.format == "erlang" else "json",
        "otp" if own else "",
        ring,
        bool(ring) and ours.suppress and theirs.suppress,
    )


def pack_refs(refs: Sequence[int]) -> str | None:
    """Many refs in one value, "17-145,200"; None when it would be too long for one node."""
    runs: list[list[int]] = []
    for ref in refs:
        if runs and ref == runs[-1][1] + 1:
            runs[-1][1] = ref
        else:
            runs.append([ref, ref])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return text if len(text) <= REFS_MAX else None


def unpack_refs(value: bytes | None, count: int) -> tuple[int, ...] | None:
    """The refs of `pack_refs` if they are `count` distinct ones, else None."""
    if value is None or not 0 < len(value) <= REFS_MAX:
        return None
    refs: list[int] = []
    for run in value.split(b","):
        first, dash, last = run.partition(b"-")
        a = number(first)
        b = number(last) if dash else a
        if a is None or b is None or b < a or b - a >= count - len(refs):
            return None
        refs.extend(range(a, b + 1))
    return tuple(refs) if len(refs) == count == len(set(refs)) else None
