"""Where signals of our processes go: to local processes, or to the peer that has the process.

One Router per node. It owns the table of processes, the names, the pending calls and, for each peer, who is linked
to or monitors whom across the connection; so the end of a connection costs as much as there were links and monitors
over it, whatever else the node has. What peers send is in incoming.py, sending from other threads in outside.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any

from ..etf import decode, encode
from ..terms import Atom, Pid, Reference
from ..wire import control as c
from .identity import Identity
from .mailbox import Mailbox
from .outside import Outside
from .peers import Across, Peer, Peers, PendingCall, Source, SpawnRequests, address, alias_send, can_monitor
from .process import Handler, Process
from .reasons import encodable
from .registry import Registry
from .signals import NOPROC
from .timers import Deadlines
from .waiter import Turn

if TYPE_CHECKING:
    from ..node import Node  # for the annotation of Router.node only

__all__ = ["Router"]

#: Messages in one mailbox above which its senders' connections are not read from.
MAILBOX_LIMIT = 100_000

_EMPTY = Atom("")
_USER = Atom("user")
#: Types whose values are the same on both sides of the codec: a local send may pass them as they are.
_PLAIN = frozenset({int, float, bytes, bool, Atom, Pid, Reference})


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
        #: what other threads send
        self.outside = Outside(self)
        self.node_watchers: list[Callable[[bool, Atom, str], None]] = []
        self.mailbox_limit = MAILBOX_LIMIT
        self._broken_links: deque[tuple[Pid, Pid, Any]] = deque()
        self._breaking = False
        self.ties: dict[Atom, Across] = {}
        self.reading: Source | None = None  #: whose batch is being delivered
        self._shut: dict[Mailbox, set[Source]] = {}
        identity = Identity(name, creation)
        self._identity = identity
        self.new_ref = identity.new_ref

    # Processes.

    def new_pid(self) -> Pid:
        """The pid of a new process."""
        return self._identity.new_pid(self.processes)

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
                across = self.ties.get(other.node)
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
                    self.link_broken(*self._broken_links.popleft())
            finally:
                self._breaking = False

    def link_broken(self, sender: Pid, to: Pid, reason: Any) -> None:
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
                self.local_down(process, ref, reason)
        else:
            across = self.ties.get(watcher.node)
            if across is not None and across.monitors_in.pop(ref, None) is not None:
                self.peers.get(watcher.node).signal((c.MONITOR_P_EXIT, known_as, watcher, ref, reason))

    def local_down(self, process: Process, ref: Reference, reason: Any) -> None:
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
            return self.outside.send(sender, to, message)
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
                peer.signal(alias_send(peer, sender, to), message)
                return peer
            self.alias_arrived(to, self.local_copy(message))
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
        if process is None:
            self.local_copy(message)  # that it is no term is an error all the same
            self.dropped += 1
        else:
            process.deliver(self.local_copy(message) if process.keeps else message)
        return None

    def alias_arrived(self, alias: Reference, message: Any) -> None:
        """A message to an alias of ours: only calls make aliases, so it is a reply or too late."""
        call = self.calls.get(alias)
        if call is not None and type(message) is tuple and len(message) == 2:
            del self.calls[alias]
            call.on_reply(message[1])
        else:
            self.dropped += 1

    # Links and monitors, our side.

    def across(self, node: Atom) -> Across:
        """Who is tied to whom across the connection to a node."""
        table = self.ties.get(node)
        if table is None:
            table = self.ties[node] = Across()
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
                self.local_down(process, ref, NOPROC)
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
            across = self.ties.get(node)
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

    # Full mailboxes (mailbox.Gate).

    def shut(self, mailbox: Mailbox) -> None:
        """A mailbox is too full: stop reading from the peer that fills it (local senders are not held)."""
        peer = self.reading
        if peer is not None:
            peers = self._shut.setdefault(mailbox, set())
            if peer not in peers:
                peers.add(peer)
                peer.pause_reading(mailbox)

    def reopen(self, mailbox: Mailbox) -> None:
        """There is room again."""
        for peer in self._shut.pop(mailbox, ()):
            peer.resume_reading(mailbox)

    # Calls (otp.gen, otp.rpc).

    def watch_call(self, call: PendingCall, node: Atom, ref: Reference) -> None:
        """The end of a remote monitor `ref` is the end of this call."""
        self.calls[ref] = call
        self.across(node).monitors_out[ref] = call

    def forget_call(self, node: Atom, ref: Reference) -> bool:
        """A call is over; whether its remote monitor still stood."""
        self.calls.pop(ref, None)
        across = self.ties.get(node)
        return across is not None and across.monitors_out.pop(ref, None) is not None
