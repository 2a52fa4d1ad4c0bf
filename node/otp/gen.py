"""The call protocol of gen.erl: ``{'$gen_call', {Pid, Tag}, Request}`` and its reply ``{Tag, Reply}``.

The caller's side is a Call, which ends with the reply, the callee's end, the node's end or a timeout, whichever comes
first; nothing of it is left in a mailbox or a table afterwards. A process that calls is named in the request by its
own pid and gets the reply by an alias; a coroutine without a process borrows the node's caller process.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ..errors import CallExit, CallTimeout, NoConnection, NodeDown, NoProc, PeerBusy
from ..etf import NO_PAYLOAD
from ..runtime.peers import Peer, address, can_monitor
from ..runtime.process import Process
from ..runtime.router import Router
from ..runtime.signals import NOCONNECTION, NOPROC
from ..runtime.timers import Deadline
from ..runtime.waiter import Waiter
from ..terms import Atom, ImproperList, Pid, Reference
from ..wire import control as c
from ..wire.flags import Flag

__all__ = [
    "GEN_CALL",
    "GEN_CAST",
    "Call",
    "Caller",
    "CallerProcess",
    "call",
    "cast",
    "is_from",
    "reply",
    "reply_aside",
    "send_aside",
]

log = logging.getLogger("strawbridge.process")

GEN_CALL = Atom("$gen_call")
GEN_CAST = Atom("$gen_cast")
_EMPTY = Atom("")
_ALIAS = Atom("alias")
_ALIASES = int(Flag.ALIAS | Flag.ALTACT_SIG)

#: Who called: the second element of ``$gen_call``, to be given to reply() unchanged.
Caller = tuple[Pid, Any]


def is_from(value: Any) -> bool:
    """Whether this is a ``{Pid, Tag}``."""
    return type(value) is tuple and len(value) == 2 and type(value[0]) is Pid


def reply(process: Process, caller: Caller, value: Any) -> None:
    """Answer a call as gen:reply/2 does: to the alias when the tag holds one, else to the pid."""
    process.send(_reply_to(caller), (caller[1], value))


def reply_aside(process: Process, caller: Caller, value: Any) -> None:
    """reply() by send_aside()."""
    send_aside(process, _reply_to(caller), (caller[1], value))


def send_aside(process: Process, to: Any, message: Any) -> None:
    """Send for a server of the system: a peer that reads slowly must not hold it up for all others.

    As net_kernel's answers go out with `nosuspend`. A peer that takes nothing at all gets nothing.
    """
    try:
        process.router.send(process.pid, to, message)
    except PeerBusy as busy:
        log.debug("no room for an answer: %s", busy)


def _reply_to(caller: Caller) -> Any:
    to, tag = caller
    target: Any = to
    if type(tag) is ImproperList:
        head = tag.items[0]
        if head is _ALIAS and type(tag.tail) is Reference:
            target = tag.tail
    elif type(tag) is list and tag and type(tag[0]) is ImproperList:
        head = tag[0]
        if head.items[0] is _ALIAS and type(head.tail) is Reference:
            target = head.tail
    return target


class CallerProcess(Process):
    """The process that stands for all coroutines without one: replies find their call here, the rest is dropped."""

    __slots__ = ()

    def deliver(self, message: Any) -> None:
        if type(message) is tuple and len(message) == 2 and type(message[0]) is Reference:
            pending = self.router.calls.get(message[0])
            if pending is not None:
                del self.router.calls[message[0]]
                pending.on_reply(message[1])
                return
        self.router.dropped += 1

    def on_exit_signal(self, sender: Pid, reason: Any, *, linked: bool) -> None:
        """Its pid is in every request, so anybody may link to it or try to end it: calls of others go on."""


class Call(Waiter):
    """One call under way; await it for the reply. Its reference is the monitor's and the tag's."""

    __slots__ = ("_deadline", "_limit", "_router", "_target", "_watcher", "ref")

    def __init__(self, router: Router, watcher: Pid, target: Any) -> None:
        super().__init__(router.turn)
        self._router = router
        self._watcher = watcher
        self._target = target
        self.ref = router.new_ref()
        self._deadline: Deadline | None = None

    def expire_after(self, timeout: float) -> None:
        self._limit = timeout
        self._deadline = self._router.deadlines.after(timeout, self._expired)

    def _expired(self) -> None:
        self._router.calls.pop(self.ref, None)
        self.fail(CallTimeout(self._limit))

    on_reply = Waiter.wake

    def on_down(self, reason: Any) -> None:
        if isinstance(reason, NoConnection):
            self.fail(reason)
        elif reason is NOPROC:
            self.fail(NoProc(self._target))
        elif reason is NOCONNECTION:
            node = _node_of(self._target)  # ours: what ended there stood for a process beyond a straw
            why = "the straw has closed" if node is self._router.name else "no connection"
            self.fail(NodeDown(node.name, why))
        else:
            self.fail(CallExit(reason))

    def on_spawned(self, result: Any) -> None:
        """Not for calls."""

    def close(self) -> None:
        """Drop whatever the call still has somewhere. May be called twice."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._router.calls.pop(self.ref, None)
        self._router.drop_monitor(self._watcher, self._target, self.ref)


def _node_of(target: Any) -> Atom:
    node: Atom = target.node if type(target) is Pid else target[1]
    return node


async def call(
    router: Router, caller: Process, to: Any, request: Any, timeout: float | None, label: Atom = GEN_CALL
) -> Any:
    """gen:call/4. Raises CallTimeout, NoProc, CallExit, NodeDown, and what sending raises."""
    target = address(to)
    if type(target) is Atom:
        target = (target, router.name)
    elif type(target) is Reference:
        raise TypeError("an alias can't be called")
    node: Atom
    known_as: Pid | Atom
    if type(target) is Pid:
        node, known_as = target.node, target
    else:
        known_as, node = target
    if node is router.name:
        pending = Call(router, caller.pid, target)
        ref = pending.ref
        process = router.find(known_as)
        if process is None:
            raise NoProc(to)
        if process is caller:
            raise CallExit(Atom("calling_self"))
        message: Any = (label, (caller.pid, _tag(caller, ref)), request)
        if process.keeps:
            message = router.local_copy(message)
        process.watchers[ref] = (caller.pid, known_as)
        router.calls[ref] = pending
        try:
            process.deliver(message)
            if timeout is not None:
                pending.expire_after(timeout)
            return await pending
        finally:
            pending.close()
    peer: Peer = router.peers.get(node)
    if not peer.flags:
        await _connected(peer, timeout)  # what it can do is not known before
    if not peer.flags & _ALIASES:
        caller = router.caller
    pid = caller.pid
    pending = Call(router, pid, target)
    ref = pending.ref
    tag = ref if caller is router.caller else _tag(caller, ref)
    control = (c.SEND, _EMPTY, known_as) if type(known_as) is Pid else (c.REG_SEND, pid, _EMPTY, known_as)
    lone = not router.calls and not router.turn.crowded
    router.watch_call(pending, node, ref)
    try:
        if can_monitor(peer):
            peer.signal((c.MONITOR_P, pid, known_as, ref), NO_PAYLOAD)
        peer.signal(control, (label, (pid, tag), request))
        if lone:
            peer.flush()  # a lone caller does not wait for the end of the turn; many share one write
        if timeout is not None:
            pending.expire_after(timeout)
        return await pending
    finally:
        pending.close()


async def _connected(peer: Peer, timeout: float | None) -> None:
    try:
        async with asyncio.timeout(timeout):
            await peer.connect()
    except TimeoutError:
        raise CallTimeout(timeout or 0.0) from None


def _tag(caller: Process, ref: Reference) -> Any:
    """The tag of a call: a process of its own gets its reply by an alias, which a late reply can't outlive."""
    return ref if type(caller) is CallerProcess else ImproperList((_ALIAS,), ref)


def cast(sender: Process, to: Any, request: Any) -> None:
    """gen_server:cast/2."""
    sender.send(to, (GEN_CAST, request))
