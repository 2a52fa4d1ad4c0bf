"""What the runtime knows of other nodes: the protocol of a connection, addresses, and who is tied to whom across one.

No connection is made or used in here: net.peer implements Peer, the router uses it.
"""

from __future__ import annotations

from typing import Any, Protocol

from ..etf import NO_PAYLOAD
from ..terms import Atom, Pid, Reference
from ..wire import control as c
from ..wire.flags import Flag
from .process import Process

__all__ = ["Across", "Peer", "Peers", "PendingCall", "Source", "SpawnRequests", "address", "alias_send", "can_monitor"]

#: As plain ints: arithmetic with the members of an enum costs a microsecond.
_ALTACT_SIG = int(Flag.ALTACT_SIG)
_MONITORS = int(Flag.DIST_MONITOR | Flag.DIST_MONITOR_NAME)


class Source(Protocol):
    """Where messages come from, and what can be told to wait: a connection, or a straw."""

    def pause_reading(self, owner: Any, /) -> None: ...
    def resume_reading(self, owner: Any, /) -> None: ...


class Peer(Source, Protocol):
    """What the router needs of a connection (net.table.Peer)."""

    @property
    def node(self) -> Atom: ...
    @property
    def flags(self) -> int: ...
    @property
    def busy(self) -> bool: ...
    @property
    def cause(self) -> BaseException | None: ...
    def signal(self, control: tuple[Any, ...], payload: Any = NO_PAYLOAD, /) -> None: ...
    def signal_encoded(self, pieces: list[bytes], /) -> None: ...
    def check_room(self, more: int = 0, /) -> None: ...
    def flush(self) -> None: ...
    async def connect(self) -> None: ...
    async def drain(self) -> None: ...


class Peers(Protocol):
    """What the router needs of the table of peers (net.table.PeerTable)."""

    def get(self, node: Atom, /) -> Any: ...


class SpawnRequests(Protocol):
    """What answers a SPAWN_REQUEST."""

    def on_request(
        self, peer: Any, request_id: Reference, sender: Pid, leader: Pid, mfa: Any, options: Any, args: Any, /
    ) -> None: ...


class PendingCall(Protocol):
    """Something that waits for a reply or for the end of what it waits on (otp.gen, otp.rpc)."""

    def on_reply(self, value: Any) -> None: ...
    def on_down(self, reason: Any) -> None: ...
    def on_spawned(self, result: Any) -> None: ...


class Across:
    """Who is linked to or monitors whom across one connection."""

    __slots__ = ("links", "monitors_in", "monitors_out")

    def __init__(self) -> None:
        self.links: dict[tuple[Pid, Pid], Process] = {}  # (remote, local)
        self.monitors_in: dict[Reference, Process] = {}  # remote watchers of ours
        self.monitors_out: dict[Reference, Process | PendingCall] = {}  # our watchers of theirs


def address(to: Any) -> Any:
    """A destination in its plain form: Pid, Reference, Atom, or (Atom, Atom). TypeError for anything else."""
    kind = type(to)
    if kind is Pid or kind is Atom or kind is Reference:
        return to
    if isinstance(to, str):
        return Atom(to)
    if kind is tuple and len(to) == 2 and isinstance(to[0], (str, Atom)) and isinstance(to[1], (str, Atom)):
        name, node = to
        return (Atom(name) if isinstance(name, str) else name, Atom(node) if isinstance(node, str) else node)
    if isinstance(to, Process):
        return to.pid
    raise TypeError(f"not a Pid, a name, (name, node) or an alias: {to!r}")


def can_monitor(peer: Peer) -> bool:
    """Whether the peer takes MONITOR_P; C and Java nodes don't, and an ei program may end when it gets one.

    As on a BEAM a monitor there is one of the connection only. A peer that is not connected yet is hoped to take it.
    """
    return peer.flags & _MONITORS == _MONITORS or not peer.flags


def alias_send(peer: Peer, sender: Pid, alias: Reference) -> tuple[Any, ...]:
    """The control message that this peer takes for a send to an alias (33 goes with OTP 30)."""
    if peer.flags & _ALTACT_SIG:
        return (c.ALTACT_SIG_SEND, c.ALTACT_ALIAS, sender, alias)
    return (c.ALIAS_SEND, sender, alias)
