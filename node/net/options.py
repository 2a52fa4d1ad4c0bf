"""What the network edge is told by the node above it: limits, our identity, and whom it reports to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..wire.flags import our_flags

if TYPE_CHECKING:
    from .peer import Peer

__all__ = ["Address", "LocalNode", "NetOptions", "PeerHandler", "Resolve"]

#: Where a node listens: host (a name or a numeric address) and port.
Address = tuple[str, int]

#: node name -> its address. Raises (EpmdError, OSError, NoConnection) or gives None when it can't be had.
Resolve = Callable[[str], Awaitable[Address | None]]


@dataclass(frozen=True)
class NetOptions:
    """Limits of one node's connections. Times in seconds, sizes in bytes.

    net_ticktime: as in OTP; give all nodes of a cluster the same. setup_time: for finding and reaching a node, and
    again for its handshake. max_frame: the largest frame that a peer may send (a message and its control part); the
    buffer for it grows with what arrived only. busy_limit: queued bytes above which a peer counts as busy, until below
    half of it (OTP's +zdbbl). hard_limit: queued bytes above which a further message raises PeerBusy; a message is
    taken while the queue is at or below it, however large, so the queue holds hard_limit and one message at most
    (and the signals that are never refused, see Peer.signal).
    max_handshakes: accepted connections not yet authenticated, as when all nodes of a cluster start at once; past it
    the oldest gives way. close_time: for writing out what is queued when the node closes.
    none: the atom that None is sent as.
    """

    net_ticktime: float = 60.0
    setup_time: float = 7.0
    max_frame: int = 1 << 30
    busy_limit: int = 1 << 20
    hard_limit: int = 64 << 20
    max_handshakes: int = 512
    close_time: float = 5.0
    none: str = "undefined"


@dataclass
class LocalNode:
    """Who we are. Any object with these attributes will do.

    name: ``name@host``; a host alone means that the first peer we connect to gives us a name (`named` is called then).
    cookie: peer name -> its cookie. allowed: peer name, or the host of a peer that has no name -> may it connect here.
    """

    name: str
    creation: int
    cookie: Callable[[str], str]
    flags: int = field(default_factory=our_flags)
    allowed: Callable[[str], bool] = lambda name: True

    def named(self, name: str, creation: int) -> None:
        """A peer gave us this name and creation."""
        self.name, self.creation = name, creation


class PeerHandler(Protocol):
    """Who hears of peers and their signals. All calls come on the loop's thread and should not raise."""

    def peer_up(self, peer: Peer) -> None:
        """A connection is there; the signals of it follow."""

    def peer_signals(self, peer: Peer, batch: list[tuple[Any, object]]) -> None:
        """All whole frames of one read: (control, payload), shape-checked, in order.

        May raise RemoteProtocolError: the connection is dropped.
        """

    def peer_down(self, peer: Peer, reason: str, undelivered: int) -> None:
        """The connection is gone, or could not be made. undelivered: frames that were queued and are dropped."""

    def peer_drained(self, peer: Peer) -> None:
        """The peer was busy and is no longer."""
