"""All peers of one node: listening, accepting, one connection for each node name.

For: joining transports, handshakes and peers. Not for: how a single connection is reached or lost (peer.py), names in
epmd (epmd.py), or anything about processes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections import Counter
from collections.abc import Coroutine
from typing import Any
from weakref import WeakValueDictionary

from ..errors import HandshakeRefused, NoConnection, NodeError, RemoteProtocolError
from ..logs import SparingLog
from ..terms import Atom
from ..wire.handshake import Handshake
from ..wire.handshake_states import Event, HandshakeDone, PeerNamed
from .greeting import farewell, greet
from .options import LocalNode, NetOptions, PeerHandler, Resolve
from .peer import Peer
from .tcp import Listener, TcpTransport
from .transport import Transport
from .turn import Turn

__all__ = ["PeerTable"]

log = logging.getLogger("strawbridge.net")

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class PeerTable:
    """The network side of one node. All methods but get() on the loop's thread.

    local: who we are. handler: who hears of peers and signals. resolve: node name -> address. loop: the running one.
    """

    def __init__(
        self,
        local: LocalNode,
        handler: PeerHandler,
        *,
        resolve: Resolve,
        options: NetOptions | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.local = local
        self.handler = handler
        self.resolve = resolve
        self.options = options or NetOptions()
        self.loop = loop or asyncio.get_running_loop()
        self.turn = Turn(self.loop)
        #: for lines that whoever reaches our port can cause
        self.log = SparingLog(log)
        self.closing = False
        self._active: dict[Atom, Peer] = {}  # pending and up
        self._idle: WeakValueDictionary[Atom, Peer] = WeakValueDictionary()
        self._lock = threading.Lock()  # of _idle
        self._listeners: list[Listener] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._accepting: dict[asyncio.Task[None], None] = {}  # in the order of their coming
        self._named: Counter[str] = Counter()
        self._connection_id = 0

    async def listen(self, address: str = "127.0.0.1", port: int = 0) -> int:
        """Accept connections there; the port. OSError. May be called for several addresses."""
        listener = Listener(address, port, self._connection_came, self.loop)
        self._listeners.append(listener)
        return listener.port

    def get(self, node: Atom) -> Peer:
        """The one Peer of that node name; idle when it is new. This one may be called from any thread.

        Two calls give the same object as long as it is not idle or somebody holds on to it: of short-lived clients
        with a name of their own nothing is left.
        """
        peer = self._active.get(node)
        if peer is None:
            with self._lock:
                peer = self._idle.get(node)
                if peer is None:
                    peer = self._idle[node] = Peer(node, self)
        return peer

    def peers(self) -> list[Peer]:
        """Those that are up."""
        return [peer for peer in self._active.values() if peer.state == "up"]

    async def close(self) -> None:
        """Stop listening, write out what is queued (within close_time), close everything. May be called twice."""
        self.closing = True
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for task in list(self._accepting):
            task.cancel()
        deadline = self.loop.time() + self.options.close_time
        while any(peer.queued for peer in self.peers()) and self.loop.time() < deadline:
            for peer in self.peers():
                peer.flush()
            await asyncio.sleep(0.005)
        for peer in list(self._active.values()):
            peer.disconnect("this node closed")
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    # ---- accepting ------------------------------------------------------------------------------------------------

    def _connection_came(self, transport: TcpTransport) -> None:
        if "@" not in self.local.name:  # nobody can mean us yet
            transport.close()
            return
        if len(self._accepting) >= self.options.max_handshakes:
            # Better than the newest: whoever opens connections and says nothing must not lock the others out.
            next(iter(self._accepting)).cancel()
        task = self.spawn(self._accept(transport))
        self._accepting[task] = None
        task.add_done_callback(lambda done: self._accepting.pop(done, None))

    async def _accept(self, transport: Transport) -> None:
        handshake = Handshake(
            self.local.name,
            flags=self.local.flags,
            creation=self.local.creation,
            cookie=self.local.cookie,
            allowed=self.local.allowed,
            challenge=secrets.randbits(32),
            now=self.loop.time(),
            setup_time=self.options.setup_time,
            header=transport.header,
        )
        claimed: list[str] = []

        def decide(handshake: Handshake, event: Event) -> None:
            if isinstance(event, PeerNamed):
                self._answer(handshake, event)
                claimed.append(handshake.peer_name)
                self._named[handshake.peer_name] += 1

        try:
            done = await greet(handshake, transport, decide)
        except BaseException as error:
            self.linger(farewell(transport, handshake.data_to_send()))
            self._log_refused(error, transport)
            if not isinstance(error, (NodeError, OSError)):
                raise
        else:
            try:
                self.installed(self.get(Atom(done.peer_name)), transport, done, handshake.take_leftover())
            except NoConnection as error:
                log.info("gave up a connection from %s: %s", transport.remote, error)
        finally:
            for name in claimed:
                self._named[name] -= 1
                if not self._named[name]:
                    del self._named[name]
                if (peer := self._active.get(Atom(name))) is not None:
                    peer.settle()

    def _answer(self, handshake: Handshake, event: PeerNamed) -> None:
        if self.closing:
            handshake.accept("not_allowed")
        elif event.dynamic:
            name = f"{_base36(secrets.randbits(64))}@{event.name}"
            handshake.accept("named", name=name, creation=4 + secrets.randbelow((1 << 32) - 4))
        else:
            # An unknown name gets no Peer before it has proved that it knows the cookie.
            peer = self._active.get(Atom(event.name))
            handshake.accept(peer.answer() if peer is not None else "ok")

    def _log_refused(self, error: BaseException, transport: Transport) -> None:
        if isinstance(error, HandshakeRefused):
            quiet = error.reason in ("closed", "nok", "alive")
            level = logging.INFO if quiet else logging.WARNING
            text = "refused a connection from %s: %s (%s)"
            self.log.write(level, error.reason, text, transport.remote, error, error.reason)
        elif isinstance(error, (RemoteProtocolError, NodeError)):
            self.log.write(logging.WARNING, "protocol", "refused a connection from %s: %s", transport.remote, error)

    # ---- for the peers --------------------------------------------------------------------------------------------

    def incoming(self, name: str) -> int:
        """How many handshakes under way claim that name."""
        return self._named.get(name, 0)

    def installed(self, peer: Peer, transport: Transport, done: HandshakeDone, leftover: bytes) -> None:
        """A handshake is done; the transport now belongs to the peer's new connection."""
        if done.our_name != self.local.name:
            if "@" in self.local.name:
                self.linger(farewell(transport))
                raise NoConnection(str(peer.node), f"it named us {done.our_name}, we are {self.local.name} already")
            self.local.named(done.our_name, done.our_creation)
        if self.closing:
            self.linger(farewell(transport))
            raise NoConnection(str(peer.node), "this node is closing")
        peer.up(transport, done, leftover)

    def activate(self, peer: Peer) -> None:
        """It is pending or up: the table keeps it."""
        self._active[peer.node] = peer

    def release(self, peer: Peer) -> None:
        """It is idle: whoever wants it keeps it."""
        with self._lock:
            self._idle[peer.node] = peer
        self._active.pop(peer.node, None)

    def next_connection_id(self) -> int:
        """1, 2, 3, …: one for each connection this node ever had."""
        self._connection_id += 1
        return self._connection_id

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that close() waits for."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def linger(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """spawn() for the orderly end of a transport."""
        self.spawn(coroutine)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a connection attempt failed in an unforeseen way", exc_info=error)


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"
