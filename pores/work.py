"""What the membrane's machine asks for and tells: plain values between it and whoever carries them out.

Whoever does hands every piece of work back with one result, in any order, and calls nothing from within.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from .keys import Terms

__all__ = [
    "Closed",
    "Event",
    "Key",
    "Limits",
    "Offer",
    "Opened",
    "PoreResult",
    "PoreWork",
    "Refused",
    "Reported",
    "Started",
    "Step",
    "Stopped",
    "StoreResult",
    "StoreWork",
]


class Key(NamedTuple):
    """One pore being negotiated, open or closing: our role ("passive": we opened it), the peer, its number if many."""

    role: str
    peer: int
    tid: str = ""


#: (verb, path, arguments…): read, list, get_perms, mkdir, write, delete, set_perms, watch, unwatch; ("atomic", steps).
#: ("delete", path, "EACCES") does nothing when that is the answer.
Step = tuple[Any, ...]


@dataclass(frozen=True)
class StoreWork:
    """Steps to be done in order. What is not there reads as None; any other refusal ends it.

    atomic steps are one transaction, done again when it gives EAGAIN; in it, ("unless", path, value) ends the steps
    when the value is that. A watch tells `Machine.changed(key)`, that of the
    top directory `Machine.knocked(path)`.
    """

    key: Key | None
    tag: str
    steps: tuple[Step, ...]
    pore: int = 0
    """Which of the pores that have had this key: a result that comes late is nothing to its successor."""


@dataclass(frozen=True)
class StoreResult:
    """values: of the steps that were done. error: the name of the errno that ended it, "" when all was done."""

    values: tuple[Any, ...] = ()
    error: str = ""


class Offer(NamedTuple):
    """What the knocked side hands out: grant references and ports."""

    refs: tuple[int, ...]
    ports: tuple[int, ...]


NO_OFFER: Final = Offer((), ())


@dataclass(frozen=True)
class PoreWork:
    """verb: "grant" (result: offer), "attach" (to `offer`), "detach", "withdraw" (result may be busy).

    detach and withdraw first deliver what is left in the ring, then close the pore, then give everything back.
    """

    key: Key
    verb: str
    terms: Terms = field(default_factory=Terms)
    offer: Offer = NO_OFFER
    pore: int = 0


@dataclass(frozen=True)
class PoreResult:
    """error: "" when it was done, else a short word for the owner. busy: the peer still has it mapped."""

    error: str = ""
    offer: Offer = NO_OFFER
    busy: bool = False


@dataclass(frozen=True)
class Started:
    """Knocks are heard from now on."""


@dataclass(frozen=True)
class Opened:
    """The pore is up. asked: an `open` of ours waits for it."""

    key: Key
    terms: Terms
    asked: bool


@dataclass(frozen=True)
class Refused:
    """An `open` of ours has failed: exists, self, not_found, timeout, peer_gone, refused, limit, stopped, …"""

    peer: int
    tid: str
    reason: str


@dataclass(frozen=True)
class Closed:
    """An opened pore is closed; nothing more comes of it."""

    key: Key
    reason: str


@dataclass(frozen=True)
class Reported:
    """Something to be logged, at a limited rate: "forged", "still_mapped", …"""

    what: str
    peer: int
    detail: str = ""


@dataclass(frozen=True)
class Stopped:
    """Everything is closed and both trees are gone."""


Event = Started | Opened | Refused | Closed | Reported | Stopped


@dataclass(frozen=True)
class Limits:
    """What peers and strangers may cost us, and how long things take. Times in seconds."""

    knocks_per_second: float = 50.0
    """Knocks looked at; those beyond wait their turn."""
    knocks_waiting: int = 1024
    """Knocks that wait; those beyond are counted and forgotten."""
    pending: int = 64
    """Handshakes under way."""
    pores: int = 96
    """In all. Each needs a watch, and a real store gives a domain about a hundred."""
    per_peer: int = 16
    """Of one peer, for kinds that have many (a straw has one each way)."""
    open_time: float = 4.5
    """Until an `open` has its answer: below gen_server:call's 5 s."""
    look_time: float = 1.0
    """How often a peer is looked at without an event, while it is waited for."""
    look_connected: float = 15.0
    """And when its pore is up: then the channel tells more, and sooner."""
    old_time: float = 2.0
    """What a peer gets to remove an old directory of ours."""
    poll_time: float = 0.1
    opener_time: float = 10.0
    """What an opener gets to say that it waits, before anything was granted."""
    finish_time: float = 60.0
    """What a peer gets to say 4 when nobody waits for it any more: it may be busy with an open of its own."""
    linger_time: float = 1.0
    """How long our 6 stays to be read."""
    close_time: float = 5.0
    """What a peer gets to unmap before we try to end its access."""
    retry_time: float = 0.25
    report_time: float = 10.0
    """When pages that a peer does not unmap are reported."""
    stop_time: float = 2.0
    shut_time: float = 0.5
    """What one gets to knock, who has made its directory when we stop."""

    def __post_init__(self) -> None:
        numbers: Mapping[str, float] = self.__dict__
        if any(value <= 0 for value in numbers.values()):
            raise ValueError("limits are above 0")
