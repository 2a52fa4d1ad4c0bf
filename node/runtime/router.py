"""Where signals go: to local processes, or to the peer that has the process.

One Router per node. It owns the table of processes, the names, the pending calls and, for each peer, who is linked
to or monitors whom across the connection; so the end of a connection costs as much as there were links and monitors
over it, whatever else the node has. It knows peers only as the Peer protocol below.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import DecodeError, NoConnection, NodeDown
from ..etf import NO_PAYLOAD, decode, encode, encode_frame
from ..logs import SparingLog
from ..terms import Atom, Pid, Reference
from ..wire import control as c
from ..wire.flags import Flag
from .mailbox import Mailbox
from .process import Handler, Process
from .reasons import encodable
from .registry import Registry
from .signals import NOCONNECTION, NOPROC
from .timers import Deadlines
from .waiter import Turn

if TYPE_CHECKING:
    from ..node import Node  # for the annotation of Router.node only

__all__ = ["Peer", "Peers", "PendingCall", "Router", "Source", "address", "can_monitor"]

log = logging.getLogger("strawbridge.router")

#: Messages in one mailbox above which its senders' connections are not read from.
MAILBOX_LIMIT = 100_000

_EMPTY = Atom("")
#: As a plain int: arithmetic with the members of an enum costs a microsecond.
_ALTACT_SIG = int(Flag.ALTACT_SIG)
_USER = Atom("user")
_MONITORS = int(Flag.DIST_MONITOR | Flag.DIST_MONITOR_NAME)
#: Types whose values are the same on both sides of the codec: a local send may pass them as they are.
_PLAIN = frozenset({int, float, bytes, bool, Atom, Pid, Reference})


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


class _Across:
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


def _alias_send(peer: Peer, sender: Pid, alias: Reference) -> tuple[Any, ...]:
    """The control message that this peer takes for a send to an alias (33 goes with OTP 30)."""
    if peer.flags & _ALTACT_SIG:
        return (c.ALTACT_SIG_SEND, c.ALTACT_ALIAS, sender, alias)
    return (c.ALIAS_SEND, sender, alias)


class Router:
    """The processes of one node and the way to all others."""

    def __init__(self, name: Atom, creation: int, turn: Turn, deadlines: Deadlines, node: Node) -> None:
        self.name = name
        self.creation = creation
        self.turn = turn
        self.deadlines = deadlines
        #: the other nodes; set before anything is sent
        self.peers: Peers
        self.node = node
        self.registry = Registry()
        self.processes: dict[int, Process] = {}
        self.calls: dict[Reference, PendingCall] = {}
        #: signals that found nobody: no such process, name or alias (as on a BEAM they are dropped)
        self.dropped = 0
        #: messages that came but could not be decoded
        self.undecodable = 0
        #: runs what peers ask us to spawn (otp.rpc.Spawner)
        self.spawn_requests: SpawnRequests
        #: stands for every coroutine that is no process of its own
        self.caller: Process
        self.thread = get_ident()
        #: what other threads send, until the loop takes it, and how many bytes of it go to peers
        self._from_threads: deque[tuple[Any, Any, int]] = deque()
        self._thread_bytes = 0
        self._thread_lock = Lock()
        self.node_watchers: list[Callable[[bool, Atom, str], None]] = []
        self.mailbox_limit = MAILBOX_LIMIT
        self._broken_links: deque[tuple[Pid, Pid, Any]] = deque()
        self._breaking = False
        self._across: dict[Atom, _Across] = {}
        self._up: set[Atom] = set()
        self._log = SparingLog(log)
        self._reading: Source | None = None  # whose batch is being delivered
        self._shut: dict[Mailbox, set[Source]] = {}
        self._next_id = 1
        self._next_serial = 0
        self._ref_low = secrets.randbits(32)
        self._ref_high = (secrets.randbits(32), secrets.randbits(18))
        self._handlers: dict[int, Callable[[Any, tuple[Any, ...], Any], None]] = {
            c.LINK: self._on_link,
            c.SEND: self._on_send,
            c.SEND_TT: self._on_send,
            c.SEND_SENDER: self._on_send,
            c.SEND_SENDER_TT: self._on_send,
            c.REG_SEND: self._on_reg_send,
            c.REG_SEND_TT: self._on_reg_send,
            c.ALIAS_SEND: self._on_alias_send,
            c.ALIAS_SEND_TT: self._on_alias_send,
            c.ALTACT_SIG_SEND: self._on_altact,
            c.EXIT: lambda peer, m, payload: self._on_exit(peer, m[1], m[2], m[3]),
            c.EXIT_TT: lambda peer, m, payload: self._on_exit(peer, m[1], m[2], m[4]),
            c.PAYLOAD_EXIT: lambda peer, m, payload: self._on_exit(peer, m[1], m[2], payload),
            c.PAYLOAD_EXIT_TT: lambda peer, m, payload: self._on_exit(peer, m[1], m[2], payload),
            c.EXIT2: lambda peer, m, payload: self._on_exit2(m[1], m[2], m[3]),
            c.EXIT2_TT: lambda peer, m, payload: self._on_exit2(m[1], m[2], m[4]),
            c.PAYLOAD_EXIT2: lambda peer, m, payload: self._on_exit2(m[1], m[2], payload),
            c.PAYLOAD_EXIT2_TT: lambda peer, m, payload: self._on_exit2(m[1], m[2], payload),
            c.UNLINK_ID: self._on_unlink,
            c.UNLINK_ID_ACK: self._on_unlink_ack,
            c.MONITOR_P: self._on_monitor,
            c.DEMONITOR_P: self._on_demonitor,
            c.MONITOR_P_EXIT: lambda peer, m, payload: self._on_monitor_exit(m[1], m[3], m[4], peer),
            c.PAYLOAD_MONITOR_P_EXIT: lambda peer, m, payload: self._on_monitor_exit(m[1], m[3], payload, peer),
            c.GROUP_LEADER: self._on_group_leader,
            c.SPAWN_REQUEST: self._on_spawn_request,
            c.SPAWN_REQUEST_TT: self._on_spawn_request,
            c.SPAWN_REPLY: self._on_spawn_reply,
            c.SPAWN_REPLY_TT: self._on_spawn_reply,
        }

    # Identity.

    def new_pid(self) -> Pid:
        """A pid that no process of this incarnation of the node has had (2^28 ids, then the serial counts up)."""
        while self._next_id in self.processes:
            self._next_id += 1
        pid = Pid(self.name, self._next_id, self._next_serial, self.creation)
        self._next_id += 1
        if self._next_id >= 1 << 28:
            self._next_id = 1
            self._next_serial = (self._next_serial + 1) & 0x1FFF
        return pid

    def new_ref(self) -> Reference:
        """A reference unique to this incarnation of the node: 18 + 32 + 32 bits, as OTP's."""
        low = (self._ref_low + 1) & 0xFFFFFFFF
        self._ref_low = low
        if low == 0:
            self._ref_high = ((self._ref_high[0] + 1) & 0xFFFFFFFF, self._ref_high[1])
        return Reference(self.name, self.creation, (self._ref_high[1], low, self._ref_high[0]))

    def is_ours(self, to: Pid | Reference) -> bool:
        return to.node is self.name and to.creation == self.creation

    # Processes.

    def add(self, process: Process) -> None:
        self.processes[process.pid.id] = process

    def find(self, to: Any) -> Process | None:
        """The live local process with this pid or name."""
        if type(to) is Pid:
            process = self.processes.get(to.id)
            return process if process is not None and process.pid == to else None
        return self.registry.get(to)

    def spawn(self, handler: Handler, *args: Any, name: str | Atom | None = None, label: str = "") -> Process:
        """Start a process that runs handler(process, *args). ValueError when the name is taken."""
        process = Process(self, label or getattr(handler, "__name__", "process"))
        if name is not None:
            try:
                self.registry.register(name, process)
            except ValueError:
                process.end(NOPROC)
                raise
        process.start(handler, *args)
        return process

    def ended(self, process: Process, reason: Any) -> None:
        """A process has ended: free its names, tell the linked and the watching, drop its own monitors."""
        del self.processes[process.pid.id]
        self.registry.drop(process)
        pid = process.pid
        links = process.links.active()
        if process.watchers or links:
            reason = self.local_copy(encodable(reason))
        for other in links:
            if other.node is self.name:
                self._broken_links.append((pid, other, reason))
            else:
                across = self._across.get(other.node)
                if across is not None and across.links.pop((other, pid), None) is not None:
                    self.peers.get(other.node).signal((c.EXIT, pid, other, reason))
        watchers, process.watchers = process.watchers, {}
        for ref, (watcher, known_as) in watchers.items():
            self._report_down(ref, watcher, known_as, reason)
        for ref in list(process.monitors):
            self.demonitor(process, ref)
        self._break_links()

    def _break_links(self) -> None:
        """Local exit signals, one after the other: a chain of links must not become a chain of calls."""
        if not self._breaking:
            self._breaking = True
            try:
                while self._broken_links:
                    self._link_broken(*self._broken_links.popleft())
            finally:
                self._breaking = False

    def _link_broken(self, sender: Pid, to: Pid, reason: Any) -> None:
        other = self.find(to)
        if other is not None and other.links.on_exit(sender):
            other.on_exit_signal(sender, reason, linked=True)

    def _report_down(self, ref: Reference, watcher: Pid, known_as: Any, reason: Any) -> None:
        if watcher.node is self.name:
            call = self.calls.pop(ref, None)
            if call is not None:
                call.on_down(reason)
                return
            process = self.find(watcher)
            if process is not None:
                self._local_down(process, ref, reason)
        else:
            across = self._across.get(watcher.node)
            if across is not None and across.monitors_in.pop(ref, None) is not None:
                self.peers.get(watcher.node).signal((c.MONITOR_P_EXIT, known_as, watcher, ref, reason))

    def _local_down(self, process: Process, ref: Reference, reason: Any) -> None:
        target = process.monitors.pop(ref, None)
        if target is not None:
            process.on_down(ref, target, reason)

    @property
    def leader(self) -> Pid:
        """The group leader of what we call elsewhere: the process `user`, or whoever is left."""
        user = self.registry.get(_USER)
        return (user or self.caller).pid

    # Sending.

    def local_copy(self, message: Any) -> Any:
        """The message as it would arrive from another node: the receiver owns it, and its types are the same."""
        return message if type(message) in _PLAIN else decode(encode(message, none=self.node.none))

    def send(self, sender: Pid, to: Any, message: Any) -> Peer | None:
        """Deliver a message or queue it to its peer, which is returned. EncodeError, PeerBusy, TypeError.

        May be called from any thread.
        """
        kind = type(to)
        if kind is not Pid and kind is not Reference:
            to = address(to)
            kind = type(to)
        if get_ident() != self.thread:
            return self._send_from_thread(sender, to, message)
        peer: Peer
        if kind is Pid:
            if to.node is not self.name:
                peer = self.peers.get(to.node)
                peer.signal((c.SEND, _EMPTY, to), message)
                return peer
            process = self.find(to)
        elif kind is Reference:
            if to.node is not self.name:
                peer = self.peers.get(to.node)
                peer.signal(_alias_send(peer, sender, to), message)
                return peer
            self._alias_arrived(to, self.local_copy(message))
            return None
        elif kind is Atom:
            process = self.registry.get(to)
        else:
            name, node = to
            if node is not self.name:
                peer = self.peers.get(node)
                peer.signal((c.REG_SEND, sender, _EMPTY, name), message)
                return peer
            process = self.registry.get(name)
        message = self.local_copy(message)
        if process is None:
            self.dropped += 1
        else:
            process.deliver(message)
        return None

    def _send_from_thread(self, sender: Pid, to: Any, message: Any) -> Peer | None:
        """send() in another thread: encode here, where an error can be raised, and queue on the loop."""
        kind = type(to)
        node = to.node if kind is Pid or kind is Reference else to[1] if kind is tuple else self.name
        if node is self.name:
            self._queue_from_thread(to, self.local_copy(message))
            return None
        peer: Peer = self.peers.get(node)
        if kind is Pid:
            control: tuple[Any, ...] = (c.SEND, _EMPTY, to)
        elif kind is tuple:
            control = (c.REG_SEND, sender, _EMPTY, to[0])
        else:
            control = _alias_send(peer, sender, to)
        peer.check_room(self._thread_bytes)
        frame = encode_frame(control, message, none=self.node.none)
        self._queue_from_thread(peer, frame, sum(map(len, frame)))
        return peer

    def _queue_from_thread(self, to: Any, what: Any, size: int = 0) -> None:
        with self._thread_lock:
            self._thread_bytes += size
        self._from_threads.append((to, what, size))
        # Each append is followed by a call: the loop may find the queue empty, never a message waiting.
        self.turn.loop.call_soon_threadsafe(self._take_from_threads)

    def _take_from_threads(self) -> None:
        queue = self._from_threads
        while queue:
            to, what, size = queue.popleft()
            if size:
                with self._thread_lock:
                    self._thread_bytes -= size
            kind = type(to)
            if kind is Pid or kind is Atom or kind is tuple:
                process = self.find(to[0] if kind is tuple else to)
                if process is None:
                    self.dropped += 1
                else:
                    process.deliver(what)
            elif kind is Reference:
                self._alias_arrived(to, what)
            else:
                to.signal_encoded(what)

    def _alias_arrived(self, alias: Reference, message: Any) -> None:
        """A message to an alias of ours: only calls make aliases, so it is a reply or too late."""
        call = self.calls.get(alias)
        if call is not None and type(message) is tuple and len(message) == 2:
            del self.calls[alias]
            call.on_reply(message[1])
        else:
            self.dropped += 1

    # Links and monitors, our side.

    def across(self, node: Atom) -> _Across:
        table = self._across.get(node)
        if table is None:
            table = self._across[node] = _Across()
        return table

    def link(self, process: Process, pid: Pid) -> None:
        if pid == process.pid or not process.links.link(pid):
            return
        if pid.node is self.name:
            other = self.find(pid)
            if other is None:
                process.links.on_exit(pid)
                process.on_exit_signal(pid, NOPROC, linked=True)
            else:
                other.links.on_link(process.pid)
        else:
            self.across(pid.node).links[pid, process.pid] = process
            self.peers.get(pid.node).signal((c.LINK, process.pid, pid))

    def unlink(self, process: Process, pid: Pid) -> None:
        unlink_id = process.links.unlink(pid)
        if unlink_id is None:
            return
        if pid.node is self.name:
            other = self.find(pid)
            if other is not None:
                other.links.on_unlink(process.pid)
            process.links.on_unlink_ack(pid, unlink_id)
        else:
            self.peers.get(pid.node).signal((c.UNLINK_ID, unlink_id, process.pid, pid))

    def monitor(self, process: Process, target: Any) -> Reference:
        target = address(target)
        ref = self.new_ref()
        if type(target) is Atom:
            target = (target, self.name)
        elif type(target) is Reference:
            raise TypeError("an alias can't be monitored")
        process.monitors[ref] = target
        node = target.node if type(target) is Pid else target[1]
        known_as = target if type(target) is Pid else target[0]
        if node is self.name:
            other = self.find(known_as)
            if other is None:
                self._local_down(process, ref, NOPROC)
            else:
                other.watchers[ref] = (process.pid, known_as)
        else:
            self.across(node).monitors_out[ref] = process
            peer = self.peers.get(node)
            if can_monitor(peer):
                peer.signal((c.MONITOR_P, process.pid, known_as, ref))
        return ref

    def demonitor(self, process: Process, ref: Reference) -> None:
        target = process.monitors.pop(ref, None)
        if target is not None:
            self.drop_monitor(process.pid, target, ref)

    def drop_monitor(self, watcher: Pid, target: Any, ref: Reference) -> None:
        """Take a monitor of ours back, wherever its target is."""
        node = target.node if type(target) is Pid else target[1]
        known_as = target if type(target) is Pid else target[0]
        if node is self.name:
            other = self.find(known_as)
            if other is not None:
                other.watchers.pop(ref, None)
        else:
            across = self._across.get(node)
            if across is not None and across.monitors_out.pop(ref, None) is not None:
                peer = self.peers.get(node)
                if can_monitor(peer):
                    peer.signal((c.DEMONITOR_P, watcher, known_as, ref))

    def exit2(self, sender: Pid, pid: Pid, reason: Any) -> None:
        """exit/2."""
        if pid.node is self.name:
            process = self.find(pid)
            if process is not None:
                process.on_exit_signal(sender, self.local_copy(reason), linked=False)
        else:
            self.peers.get(pid.node).signal((c.EXIT2, sender, pid, reason))

    # What peers send: net.table calls these four.

    def peer_up(self, peer: Peer) -> None:
        self._up.add(peer.node)
        self._tell_node_watchers(True, peer.node, "")

    def peer_drained(self, peer: Peer) -> None:
        """Senders await peer.drain() themselves; nothing to do here."""

    def peer_signals(self, peer: Peer, batch: list[tuple[tuple[Any, ...], Any]]) -> None:
        """All signals of one read. Waiting tasks run at its end; what they send leaves at the end of the turn."""
        turn = self.turn
        handlers = self._handlers
        turn.begin()
        self._reading = peer
        try:
            for message, payload in batch:
                if payload.__class__ is DecodeError:
                    self._undecodable(peer, message, payload)
                else:
                    handlers[message[0]](peer, message, payload)
        finally:
            self._reading = None
            turn.finish()

    @contextmanager
    def delivering(self, source: Source) -> Iterator[None]:
        """Around deliveries of what came another way than from a peer: whose mailbox is too full pauses the source."""
        self.turn.begin()
        self._reading = source
        try:
            yield
        finally:
            self._reading = None
            self.turn.finish()

    def shut(self, mailbox: Mailbox) -> None:
        """A mailbox is too full: stop reading from the peer that fills it (local senders are not held)."""
        peer = self._reading
        if peer is not None:
            peers = self._shut.setdefault(mailbox, set())
            if peer not in peers:
                peers.add(peer)
                peer.pause_reading(mailbox)

    def reopen(self, mailbox: Mailbox) -> None:
        """There is room again."""
        for peer in self._shut.pop(mailbox, ()):
            peer.resume_reading(mailbox)

    def peer_down(self, peer: Peer, reason: str, undelivered: int) -> None:
        """The connection ended or never was: every link and monitor across it fires with noconnection."""
        node = peer.node
        was_up = node in self._up
        self._up.discard(node)
        across = self._across.pop(node, None)
        if across is not None:
            for remote, local in list(across.links):
                process = self.find(local)
                if process is not None and process.links.on_exit(remote):
                    process.on_exit_signal(remote, NOCONNECTION, linked=True)
            for ref, process in across.monitors_in.items():
                process.watchers.pop(ref, None)
            for ref, watcher in list(across.monitors_out.items()):
                if isinstance(watcher, Process):
                    self._local_down(watcher, ref, NOCONNECTION)
                else:
                    self.calls.pop(ref, None)
                    error = (NodeDown if was_up else NoConnection)(node.name, reason)
                    error.__cause__ = peer.cause
                    watcher.on_down(error)
        if undelivered:
            self.node.count_undelivered(node, reason, undelivered)
        if was_up:  # not after an attempt that failed, as net_kernel:monitor_nodes/1
            self._tell_node_watchers(False, node, reason)

    def _tell_node_watchers(self, up: bool, node: Atom, reason: str) -> None:
        for watcher in list(self.node_watchers):
            try:
                watcher(up, node, reason)
            except Exception:  # a user's callback; the others hear of it all the same
                log.exception("a watcher of nodes failed on %s", node)

    def _undecodable(self, peer: Peer, message: tuple[Any, ...], error: DecodeError) -> None:
        self.undecodable += 1
        text = "a message from %s for %r is lost: %s"
        self._log.write(logging.WARNING, "undecodable", text, peer.node, message[-1], error)

    def _on_send(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        to = message[2]
        process = self.processes.get(to.id)
        if process is not None and process.pid == to:
            process.deliver(payload)
        else:
            self.dropped += 1

    def _on_reg_send(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        process = self.registry.get(message[3])
        if process is None:
            self.dropped += 1
            log.debug("no process is called %s (message from %s)", message[3], peer.node)
        else:
            process.deliver(payload)

    def _on_alias_send(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        self._alias_arrived(message[2], payload)

    def _on_altact(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        bits, sender, to = message[1], message[2], message[3]
        if bits & c.ALTACT_EXIT:
            self._on_exit2(sender, to, payload)
        elif bits & c.ALTACT_ALIAS:
            self._alias_arrived(to, payload)
        else:
            process = self.find(to)
            if process is None:
                self.dropped += 1
            else:
                process.deliver(payload)

    def _on_link(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        _, remote, local = message
        process = self.find(local)
        if process is None:
            peer.signal((c.EXIT, local, remote, NOPROC))
        elif process.links.on_link(remote):
            self.across(peer.node).links[remote, local] = process

    def _on_unlink(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        _, unlink_id, remote, local = message
        # The acknowledgement precedes any other signal to that process, also for a pid that is gone.
        peer.signal((c.UNLINK_ID_ACK, unlink_id, local, remote))
        process = self.find(local)
        if process is not None:
            process.links.on_unlink(remote)
            if not process.links.knows(remote):
                self.across(peer.node).links.pop((remote, local), None)

    def _on_unlink_ack(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        _, unlink_id, remote, local = message
        process = self.find(local)
        if process is not None:
            process.links.on_unlink_ack(remote, unlink_id)
        if process is None or not process.links.knows(remote):
            self.across(peer.node).links.pop((remote, local), None)

    def _on_exit(self, peer: Peer, remote: Pid, local: Pid, reason: Any) -> None:
        self.turn.settle()
        across = self._across.get(peer.node)
        if across is not None:
            across.links.pop((remote, local), None)
        self._link_broken(remote, local, reason)

    def _on_exit2(self, remote: Pid, local: Any, reason: Any) -> None:
        self.turn.settle()
        process = self.find(local)
        if process is not None:
            process.on_exit_signal(remote, reason, linked=False)

    def _on_monitor(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        _, remote, target, ref = message
        process = self.registry.get(target) if type(target) is Atom else self.find(target)
        if process is None:
            peer.signal((c.MONITOR_P_EXIT, target, remote, ref, NOPROC))
        else:
            process.watchers[ref] = (remote, target)
            (self._across.get(peer.node) or self.across(peer.node)).monitors_in[ref] = process

    def _on_demonitor(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        across = self._across.get(peer.node)
        process = across.monitors_in.pop(message[3], None) if across is not None else None
        if process is not None:
            process.watchers.pop(message[3], None)

    def _on_monitor_exit(self, remote: Any, ref: Reference, reason: Any, peer: Peer) -> None:
        across = self._across.get(peer.node)
        watcher = across.monitors_out.pop(ref, None) if across is not None else None
        if isinstance(watcher, Process):
            self._local_down(watcher, ref, reason)
        elif watcher is not None:
            self.calls.pop(ref, None)
            watcher.on_down(reason)

    def _on_group_leader(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        process = self.find(message[2])
        if process is not None:
            process.group_leader = message[1]

    def _on_spawn_request(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        _, request_id, sender, leader, mfa, options = message[:6]
        self.spawn_requests.on_request(peer, request_id, sender, leader, mfa, options, payload)

    def _on_spawn_reply(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        call = self.calls.get(message[1])
        if call is not None:
            call.on_spawned(message[4])

    # Calls (otp.gen, otp.rpc).

    def watch_call(self, call: PendingCall, node: Atom, ref: Reference) -> None:
        """The end of a remote monitor `ref` is the end of this call."""
        self.calls[ref] = call
        self.across(node).monitors_out[ref] = call

    def forget_call(self, node: Atom, ref: Reference) -> bool:
        """A call is over; whether its remote monitor still stood."""
        self.calls.pop(ref, None)
        across = self._across.get(node)
        return across is not None and across.monitors_out.pop(ref, None) is not None
