"""What peers send: one handler for each control message, called for all signals of a read.

The shapes have been checked (wire.control); here is what the signals mean to local processes. What our processes send
is in router.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..errors import DecodeError, NoConnection, NodeDown
from ..logs import SparingLog
from ..terms import Atom, Pid, Reference
from ..wire import control as c
from .peers import Peer
from .process import Process
from .router import Router
from .signals import NOCONNECTION, NOPROC

__all__ = ["Incoming"]

log = logging.getLogger("strawbridge.router")


class Incoming:
    """The receiving side of one node's router (net.options.PeerHandler)."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._processes = router.processes
        self._registry = router.registry
        self._up: set[Atom] = set()
        self._log = SparingLog(log)
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

    def peer_up(self, peer: Peer) -> None:
        self._up.add(peer.node)
        self._tell_node_watchers(True, peer.node, "")

    def peer_drained(self, peer: Peer) -> None:
        """Senders await peer.drain() themselves; nothing to do here."""

    def peer_signals(self, peer: Peer, batch: list[tuple[tuple[Any, ...], Any]]) -> None:
        """All signals of one read. Waiting tasks run at its end; what they send leaves at the end of the turn."""
        turn = self._router.turn
        handlers = self._handlers
        turn.begin()
        self._router.reading = peer
        try:
            for message, payload in batch:
                try:
                    if payload.__class__ is DecodeError:
                        self._undecodable(peer, message, payload)
                    else:
                        handlers[message[0]](peer, message, payload)
                except Exception:  # a fault of ours must not cost the other messages of the batch
                    log.exception("signal %.500r of %s failed", message, peer.node)
        finally:
            self._router.reading = None
            turn.finish()

    def peer_down(self, peer: Peer, reason: str, undelivered: int) -> None:
        """The connection ended or never was: every link and monitor across it fires with noconnection."""
        node = peer.node
        was_up = node in self._up
        self._up.discard(node)
        across = self._router.ties.pop(node, None)
        if across is not None:
            for remote, local in list(across.links):
                process = self._router.find(local)
                if process is not None and process.links.on_exit(remote):
                    process.on_exit_signal(remote, NOCONNECTION, linked=True)
            for ref, process in across.monitors_in.items():
                process.watchers.pop(ref, None)
            for ref, watcher in list(across.monitors_out.items()):
                if isinstance(watcher, Process):
                    self._router.local_down(watcher, ref, NOCONNECTION)
                else:
                    self._router.calls.pop(ref, None)
                    error = (NodeDown if was_up else NoConnection)(node.name, reason)
                    error.__cause__ = peer.cause
                    watcher.on_down(error)
        if undelivered:
            self._router.node.count_undelivered(node, reason, undelivered)
        if was_up:  # not after an attempt that failed, as net_kernel:monitor_nodes/1
            self._tell_node_watchers(False, node, reason)

    def _tell_node_watchers(self, up: bool, node: Atom, reason: str) -> None:
        for watcher in list(self._router.node_watchers):
            try:
                watcher(up, node, reason)
            except Exception:  # a user's callback; the others hear of it all the same
                log.exception("a watcher of nodes failed on %s", node)

    def _undecodable(self, peer: Peer, message: tuple[Any, ...], error: DecodeError) -> None:
        self._router.undecodable += 1
        text = "a message from %s for %r is lost: %s"
        self._log.write(logging.WARNING, "undecodable", text, peer.node, message[-1], error)

    def _on_send(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        to = message[2]
        process = self._processes.get(to.id)
        if process is not None and process.pid == to:
            process.deliver(payload)
        else:
            self._router.dropped += 1

    def _on_reg_send(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        process = self._registry.get(message[3])
        if process is None:
            self._router.dropped += 1
            log.debug("no process is called %s (message from %s)", message[3], peer.node)
        else:
            process.deliver(payload)

    def _on_alias_send(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        self._router.alias_arrived(message[2], payload)

    def _on_altact(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        bits, sender, to = message[1], message[2], message[3]
        if bits & c.ALTACT_EXIT:
            self._on_exit2(sender, to, payload)
        elif bits & c.ALTACT_ALIAS:
            self._router.alias_arrived(to, payload)
        else:
            process = self._router.find(to)
            if process is None:
                self._router.dropped += 1
            else:
                process.deliver(payload)

    def _on_link(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        _, remote, local = message
        process = self._router.find(local)
        if process is None:
            peer.signal((c.EXIT, local, remote, NOPROC))
        elif process.links.on_link(remote):
            self._router.across(peer.node).links[remote, local] = process

    def _on_unlink(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        _, unlink_id, remote, local = message
        # The acknowledgement precedes any other signal to that process, also for a pid that is gone.
        peer.signal((c.UNLINK_ID_ACK, unlink_id, local, remote))
        process = self._router.find(local)
        if process is not None:
            process.links.on_unlink(remote)
            if not process.links.knows(remote):
                self._router.across(peer.node).links.pop((remote, local), None)

    def _on_unlink_ack(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        _, unlink_id, remote, local = message
        process = self._router.find(local)
        if process is not None:
            process.links.on_unlink_ack(remote, unlink_id)
        if process is None or not process.links.knows(remote):
            self._router.across(peer.node).links.pop((remote, local), None)

    def _on_exit(self, peer: Peer, remote: Pid, local: Pid, reason: Any) -> None:
        self._router.turn.settle()
        across = self._router.ties.get(peer.node)
        if across is not None:
            across.links.pop((remote, local), None)
        self._router.link_broken(remote, local, reason)

    def _on_exit2(self, remote: Pid, local: Any, reason: Any) -> None:
        self._router.turn.settle()
        process = self._router.find(local)
        if process is not None:
            process.on_exit_signal(remote, reason, linked=False)

    def _on_monitor(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        _, remote, target, ref = message
        process = self._router.registry.get(target) if type(target) is Atom else self._router.find(target)
        if process is None:
            peer.signal((c.MONITOR_P_EXIT, target, remote, ref, NOPROC))
        else:
            process.watchers[ref] = (remote, target)
            (self._router.ties.get(peer.node) or self._router.across(peer.node)).monitors_in[ref] = process

    def _on_demonitor(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        across = self._router.ties.get(peer.node)
        process = across.monitors_in.pop(message[3], None) if across is not None else None
        if process is not None:
            process.watchers.pop(message[3], None)

    def _on_monitor_exit(self, remote: Any, ref: Reference, reason: Any, peer: Peer) -> None:
        across = self._router.ties.get(peer.node)
        watcher = across.monitors_out.pop(ref, None) if across is not None else None
        if isinstance(watcher, Process):
            self._router.local_down(watcher, ref, reason)
        elif watcher is not None:
            self._router.calls.pop(ref, None)
            watcher.on_down(reason)

    def _on_group_leader(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        process = self._router.find(message[2])
        if process is not None:
            process.group_leader = message[1]

    def _on_spawn_request(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        _, request_id, sender, leader, mfa, options = message[:6]
        self._router.spawn_requests.on_request(peer, request_id, sender, leader, mfa, options, payload)

    def _on_spawn_reply(self, peer: Peer, message: tuple[Any, ...], payload: Any) -> None:
        call = self._router.calls.get(message[1])
        if call is not None:
            call.on_spawned(message[4])
