"""One other node: its state, the queue of signals for it, the attempts to reach it.

For: what the runtime holds on to for as long as it knows a node name. A Peer outlives its connections; each of them is
a new incarnation with its own connection_id, peer_up and peer_down. Not for: accepting connections and the list of all
peers (table.py), the bytes of a connection (connection.py).

States: idle (nothing there, nothing tried), pending (an attempt of ours or of the peer's is under way; signals queue),
up. Which of two simultaneous attempts survives is decided as in OTP (net_kernel, accept_pending): the greater node
name's attempt is kept, the other is answered with nok and waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from ..errors import HandshakeRefused, NoConnection, NodeDown, NodeError, PeerBusy, RemoteProtocolError
from ..etf import NO_PAYLOAD, FrameReader, Outbox
from ..terms import Atom
from ..wire.channel import Channel
from ..wire.flags import Flag
from ..wire.handshake import Handshake
from ..wire.handshake_states import AliveAsked, Event, HandshakeDone
from .connection import Connection
from .greeting import farewell, greet
from .tcp import connect
from .transport import Transport

if TYPE_CHECKING:
    from .table import PeerTable

__all__ = ["Peer"]

log = logging.getLogger("strawbridge.net")

#: Seconds for which an attempt of ours stands back while the peer's own handshake is under way. An honest one takes
#: milliseconds; somebody who only claims the name must not keep us from it for longer.
STAND_BACK = 1.0


class Peer:
    """A node by name. All methods on the loop's thread.

    node: its name. state: 'idle', 'pending' or 'up'. creation, flags (what both can do): 0 unless up. hidden: not both
    of us are visible. connection_id: of the present or last connection, 0 before the first. busy: more than
    busy_limit bytes are queued, until fewer than half of it.
    """

    def __init__(self, node: Atom, table: PeerTable) -> None:
        self.node = node
        self.state = "idle"
        self.creation = 0
        self.flags = 0
        self.hidden = True
        self.connection_id = 0
        self.busy = False
        self._table = table
        self._turn = table.turn
        self._signals = table.handler.peer_signals
        self._busy_limit = table.options.busy_limit
        self._hard_limit = table.options.hard_limit
        self._beyond = 0  # bytes queued past the hard limit, by signals that are never refused
        self._outbox = Outbox(none=table.options.none)
        self._dirty = False
        self._connection: Connection | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._named_by: asyncio.Task[None] | None = None  # the attempt whose name the peer has
        self._waiting: asyncio.TimerHandle | None = None
        self._failure: NoConnection | None = None
        self.cause: BaseException | None = None  # of the last peer_down: a HandshakeRefused, OSError, …
        self._connecting: list[asyncio.Future[None]] = []
        self._draining: list[asyncio.Future[None]] = []
        self._pausers: set[Hashable] = set()

    def __repr__(self) -> str:
        return f"<Peer {self.node} {self.state}, {self.queued} bytes queued>"

    # ---- sending --------------------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Bytes waiting to be written."""
        return self._outbox.size

    def signal(self, control: tuple[Any, ...], payload: object = NO_PAYLOAD) -> None:
        """Queue one signal, connect if need be, write at the end of this turn of the loop.

        EncodeError, or PeerBusy for a message past the hard limit: nothing was queued. Signals without a payload
        (exits, monitors, acknowledgements) are always taken: they are small, and losing one would break a promise.
        But a peer can ask for them by the million and read none, so a queue with as many bytes of them again as the
        hard limit ends the connection, which tells the same to all whom they concern.
        """
        outbox = self._outbox
        before = outbox.size
        if before > self._hard_limit and payload is not NO_PAYLOAD:
            raise PeerBusy(str(self.node), before)
        size = outbox.send(control, payload)
        if size > self._busy_limit:
            self.busy = True
            if before > self._hard_limit:
                self._went_beyond(size - before)
        if not self._dirty:
            self._touch()

    def _went_beyond(self, size: int) -> None:
        within = self._beyond <= self._hard_limit
        self._beyond += size
        if within and self._beyond > self._hard_limit:
            # Not from here: whoever signals is in the middle of something.
            self._table.loop.call_soon(self._drop_overfull)

    def _drop_overfull(self) -> None:
        if self._beyond > self._hard_limit:
            reason = f"it does not take what is sent to it: {self.queued} bytes wait"
            log.error("dropping the connection: %s: %s", self.node, reason)
            self.disconnect(reason)

    def signal_encoded(self, pieces: list[bytes]) -> None:
        """signal() for a frame that encode_frame made in another thread, which has asked check_room() for it."""
        if self._outbox.append(pieces) > self._busy_limit:
            self.busy = True
        if not self._dirty:
            self._touch()

    def check_room(self, more: int = 0) -> None:
        """PeerBusy when a message would be refused now, or with `more` bytes queued. May be called from any thread."""
        size = self._outbox.size + more
        if size > self._hard_limit:
            raise PeerBusy(str(self.node), size)

    def _touch(self) -> None:
        self._dirty = True
        if self.state == "up":
            self._turn.add(self)
        elif self.state == "idle":
            self._start()

    def flush(self) -> None:
        """Write now what is queued, as far as the peer takes it."""
        if self._connection is not None:
            self._dirty = False
            if self._outbox.size:
                self._connection.flush()

    async def drain(self) -> None:
        """Wait until not busy. NodeDown when the peer goes down meanwhile."""
        while self.busy:
            future = asyncio.get_running_loop().create_future()
            self._draining.append(future)
            await future

    # ---- connecting -----------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Be connected. NoConnection when it can't be had; its __cause__ is the HandshakeRefused, if it was one."""
        if self.state == "up":
            return
        future = asyncio.get_running_loop().create_future()
        self._connecting.append(future)
        if self.state == "idle":
            self._start()
        await future

    def _start(self) -> None:
        table = self._table
        self.state = "pending"
        table.activate(self)
        if table.closing:
            self._failure = NoConnection(str(self.node), "this node is closing")
            table.loop.call_soon(self.settle)
        elif str(self.node) == table.local.name:
            self._failure = NoConnection(str(self.node), "that is this node itself")
            table.loop.call_soon(self.settle)
        else:
            self._attempt = table.spawn(self._try())

    async def _try(self) -> None:
        """One attempt of ours, from a name to an installed connection."""
        error: Exception
        try:
            await self._reach()
            return
        except HandshakeRefused as refused:
            error, reason = refused, refused.detail
        except TimeoutError as late:
            error, reason = late, f"no answer within {self._table.options.setup_time:g} s"
        except NoConnection as none:
            error, reason = none, none.reason
        except (NodeError, OSError) as other:
            error, reason = other, str(other) or type(other).__name__
        except Exception as bug:
            log.exception("connecting to %s failed in an unforeseen way", self.node)
            error, reason = bug, repr(bug)
        if self._attempt is not asyncio.current_task():
            return  # something else came in between
        self._attempt = None
        if isinstance(error, HandshakeRefused):
            if error.reason == "nok":  # the peer's own attempt is on its way to us, it says
                self._waiting = self._table.loop.call_later(self._table.options.setup_time, self._waited)
            else:
                text = "connection refused: %s (%s)"
                self._table.log.write(logging.WARNING, f"our {error.reason}", text, error, error.reason)
        self._failure = NoConnection(str(self.node), reason)
        self._failure.__cause__ = error
        self.settle()

    async def _reach(self) -> None:
        table, name = self._table, str(self.node)
        async with asyncio.timeout(table.options.setup_time):
            address = await table.resolve(name)
            if address is None:
                raise NoConnection(name, "its address is not known")
            transport: Transport = await connect(*address, table.loop)
        handshake = None
        try:
            await self._stand_back()
            # From here to the name on the wire nothing is awaited: a peer whose name comes in between would get "ok".
            handshake = Handshake(
                table.local.name,
                peer_name=name,
                flags=table.local.flags,
                creation=table.local.creation,
                cookie=table.local.cookie,
                challenge=secrets.randbits(32),
                now=table.loop.time(),
                setup_time=table.options.setup_time,
                header=transport.header,
            )
            self._named_by = asyncio.current_task()
            done = await greet(handshake, transport, self._decide)
        except BaseException:
            if handshake is None:
                transport.close()
            else:
                table.linger(farewell(transport, handshake.data_to_send()))
            raise
        finally:
            if self._named_by is asyncio.current_task():
                self._named_by = None
        table.installed(self, transport, done, handshake.take_leftover())

    async def _stand_back(self) -> None:
        # Once the peer's own attempt has our "ok", our name must not reach it: a BEAM with a smaller name would drop
        # that attempt for ours, though it is all but up on this side.
        for _ in range(int(STAND_BACK / 0.005)):
            if not self._table.incoming(str(self.node)):
                return
            await asyncio.sleep(0.005)

    def _decide(self, handshake: Handshake, event: Event) -> None:
        if isinstance(event, AliveAsked):
            handshake.answer_alive(self.state == "pending")

    def answer(self) -> str:
        """The handshake status for an attempt of the peer's that came in now."""
        if self.state == "up":
            return "alive"
        if self._named_by is not None:
            return "nok" if self._table.local.name > str(self.node) else "ok_simultaneous"
        return "ok"

    def _waited(self) -> None:
        self._waiting = None
        self.settle()

    def settle(self) -> None:
        """An attempt ended, ours or theirs: if it was the last one, the peer is down."""
        if self.state != "pending" or self._attempt is not None or self._waiting is not None:
            return
        if self._table.incoming(str(self.node)):
            return
        failure = self._failure or NoConnection(str(self.node))
        self._down(failure, failure.reason)

    def up(self, transport: Transport, done: HandshakeDone, leftover: bytes) -> None:
        """A handshake is done: this connection is the one, whatever there was before."""
        table = self._table
        if self._connection is not None:
            self.disconnect("replaced by a new connection of that node")
        if self._attempt is not None and self._attempt is not asyncio.current_task():
            self._attempt.cancel()
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        self._attempt = None
        self._failure = None
        self.state = "up"
        table.activate(self)
        self.creation = done.peer_creation
        self.flags = done.flags
        self.hidden = not done.flags & Flag.PUBLISHED
        self.connection_id = table.next_connection_id()
        options = table.options
        channel = Channel(
            self.node,
            Atom(table.local.name),
            FrameReader(max_frame=options.max_frame),
            self._outbox,
            ticktime=options.net_ticktime,
            now=table.loop.time(),
        )
        connection = self._connection = Connection(self, transport, channel, self._turn, table.loop)
        if self._pausers:
            connection.pause()
        with self._turn:
            self._tell(table.handler.peer_up, self)
            waiters, self._connecting = self._connecting, []
            for future in waiters:
                if not future.done():
                    future.set_result(None)
            if self._connection is connection:
                self.flush()
        if self._connection is connection:
            connection.start(leftover)

    # ---- from the connection --------------------------------------------------------------------------------------

    def deliver(self, batch: list[tuple[Any, object]]) -> None:
        """Frames came."""
        try:
            self._signals(self, batch)
        except RemoteProtocolError as error:  # a fault that only the handler can see
            if self._connection is not None:
                self._connection.fault(error)
        except Exception:
            log.exception("the handler failed on signals of %s", self.node)

    def wrote(self) -> None:
        """Bytes were written while the peer was busy."""
        if self._outbox.size * 2 <= self._busy_limit:
            self.busy = False
            self._beyond = 0
            waiters, self._draining = self._draining, []
            for future in waiters:
                if not future.done():
                    future.set_result(None)
            self._tell(self._table.handler.peer_drained, self)

    def lost(self, connection: Connection, reason: str) -> None:
        """The connection is gone."""
        if connection is self._connection:
            self._down(NodeDown(str(self.node), reason), reason)

    # ---- the end of a connection ----------------------------------------------------------------------------------

    def disconnect(self, reason: str = "disconnected") -> None:
        """End the connection or the attempt now. What the kernel takes at once is still written."""
        connection = self._connection
        if connection is not None:
            connection.flush()
            if connection.closed:  # that write found it dead
                return
            self._table.linger(farewell(connection.detach()))
        elif self.state == "idle":
            return
        if self._attempt is not None and self._attempt is not asyncio.current_task():
            self._attempt.cancel()
        self._attempt = None
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        self._down(NodeDown(str(self.node), reason), reason)

    def _down(self, error: NoConnection, reason: str) -> None:
        undelivered = self._outbox.frames
        self._connection = None
        self._table.release(self)
        self._outbox = Outbox(none=self._table.options.none)
        self._dirty = self.busy = False
        self._beyond = 0
        self.state = "idle"
        self.creation = self.flags = 0
        self.hidden = True
        self._failure = None
        self.cause = error.__cause__
        waiters = self._connecting + self._draining
        self._connecting, self._draining = [], []
        for future in waiters:
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever waited may be gone; that is no reason for a warning
        self._tell(self._table.handler.peer_down, self, reason, undelivered)

    def _tell(self, what: Callable[..., None], *about: Any) -> None:
        # A handler that fails must not leave the connection half made or half gone.
        try:
            what(*about)
        except Exception:
            log.exception("the handler failed in %s for %s", getattr(what, "__name__", what), self.node)

    # ---- receiving, held back -------------------------------------------------------------------------------------

    def pause_reading(self, owner: Hashable) -> None:
        """Receive nothing from this peer until each owner that paused has resumed.

        Ticks go on both ways. Meant to be shorter than net_ticktime; while it lasts, one receive is done in every
        three quarters of it, see connection.py.
        """
        self._pausers.add(owner)
        if self._connection is not None:
            self._connection.pause()

    def resume_reading(self, owner: Hashable) -> None:
        """Take this owner's pause back."""
        self._pausers.discard(owner)
        if not self._pausers and self._connection is not None:
            self._connection.resume()
