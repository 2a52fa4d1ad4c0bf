"""One established connection: a transport, a channel and the loop's callbacks between them.

This is the hot path. One readiness event receives into the codec's buffer, hands all whole frames to the handler in
one call and writes what that produced, for every peer, in the same turn. No task, future or timer per message.

Not here: when to connect, what to do after a loss (peer.py), what a signal means (the handler).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from ..wire.channel import SILENT_QUARTERS, Channel
from .transport import Transport

if TYPE_CHECKING:
    from .peer import Peer
    from .turn import Turn

__all__ = ["MAX_RECEIVE", "MIN_RECEIVE", "Connection"]

log = logging.getLogger("strawbridge.net")

#: Bytes asked for in one receive: the least, and the most it grows to for a peer that fills them with large frames.
MIN_RECEIVE: Final = 64 << 10
MAX_RECEIVE: Final = 1 << 20
#: Receives of one readiness event, and frames of one receive after which no other follows in the same event: other
#: connections and timers get their turn after some milliseconds. For small frames more would gain nothing.
READS_PER_EVENT: Final = 4
MANY_FRAMES: Final = 256
#: Writes of one flush, for the same reason.
WRITES_PER_FLUSH: Final = 16
#: Pieces of one sendmsg; Linux takes 1024 (IOV_MAX).
PIECES: Final = 64
#: Receives that used less than an eighth of the buffer, or got many small frames, before it shrinks.
SMALL_RECEIVES: Final = 64


class Connection:
    """The link to one peer from peer_up to peer_down."""

    def __init__(
        self, peer: Peer, transport: Transport, channel: Channel, turn: Turn, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._peer = peer
        self._transport = transport
        self._channel = channel
        self._outbox = channel.outbox
        self._turn = turn
        self._loop = loop
        self._recv_into = transport.recv_into
        self._sendmsg = transport.sendmsg
        self._hint = MIN_RECEIVE
        self._small = 0
        self._blocked = False
        self._paused = False
        self._paused_quarters = 0
        self.closed = False
        self._timer = loop.call_at(channel.get_timer(), self._tick)

    def start(self, leftover: bytes) -> None:
        """Begin to receive. leftover: bytes that came behind the handshake."""
        if leftover:
            with self._turn:
                self._deliver(self._channel.feed(leftover))
        if not self.closed and not self._paused:
            self._transport.on_readable(self._readable)

    # ---- receiving ------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        with self._turn:
            for _ in range(READS_PER_EVENT):
                if not self._receive() or self.closed or self._paused:
                    return

    def _receive(self) -> bool:
        """One receive and all that follows from it. True when there is probably more."""
        channel, hint = self._channel, self._hint
        buffer = channel.get_buffer(hint)
        size = len(buffer)
        if size > 2 * hint and not channel.reader.pending:  # grown for a large frame that has passed
            buffer, size = buffer[:hint], hint
        try:
            n = self._recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._lose(f"connection lost: {error.strerror or error}")
            return False
        finally:
            del buffer
        if n == 0:
            self._lose("connection closed")
            return False
        batch = channel.received(n)
        if batch or channel.error is not None:
            self._deliver(batch)
        if n == size:
            self._small = 0
            if len(batch) >= MANY_FRAMES:
                return False
            if hint < MAX_RECEIVE:
                self._hint = hint * 4
            return True
        if hint > MIN_RECEIVE and (n < size >> 3 or len(batch) >= MANY_FRAMES):
            self._small += 1
            if self._small >= SMALL_RECEIVES:
                self._small = 0
                self._hint = hint >> 2
        return False

    def _deliver(self, batch: list[tuple[object, object]]) -> None:
        if batch:
            self._peer.deliver(batch)
            self._turn.flush()
        if self._channel.error is not None:
            self.fault(self._channel.error)

    def fault(self, error: Exception) -> None:
        """The peer broke the protocol: drop the connection."""
        if not self.closed:
            log.error("dropping the connection: %s", error)
            self._lose(str(error))

    def pause(self) -> None:
        """Stop receiving. Ticks go on both ways; see _tick for what a long pause does."""
        if not self._paused:
            self._paused = True
            self._paused_quarters = 0
            if not self.closed:
                self._transport.on_readable(None)

    def resume(self) -> None:
        """Receive again."""
        if self._paused:
            self._paused = False
            if not self.closed:
                self._transport.on_readable(self._readable)

    # ---- sending --------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what is queued, as far as the peer takes it now."""
        if not self._blocked and not self.closed:
            self._write()

    def _write(self) -> None:
        outbox, channel = self._outbox, self._channel
        try:
            for _ in range(WRITES_PER_FLUSH):
                channel.sent(self._sendmsg(channel.data_to_send(PIECES)))
                if not outbox.size:
                    self._unblock()
                    break
            else:
                self._block()
        except (BlockingIOError, InterruptedError):
            self._block()
        except OSError as error:
            self._lose(f"connection lost: {error.strerror or error}")
            return
        peer = self._peer
        if peer.busy:
            peer.wrote()

    def _block(self) -> None:
        if not self._blocked:
            self._blocked = True
            self._transport.on_writable(self._writable)

    def _unblock(self) -> None:
        if self._blocked:
            self._blocked = False
            self._transport.on_writable(None)

    def _writable(self) -> None:
        with self._turn:
            self._write()

    # ---- liveness -------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """The end of a quarter of net_ticktime."""
        with self._turn:
            if self._transport.waiting():
                # Bytes that we did not get to read, because we pause or because the loop was held up: it is alive.
                self._channel.heard()
            if self._paused:
                # What waits in the kernel may be all that ever comes, so a pause must not last: once in three
                # quarters of net_ticktime one receive is done anyway, which also finds the end of the stream.
                self._paused_quarters += 1
                if self._paused_quarters % (SILENT_QUARTERS - 1) == 0:
                    self._receive()
                    if self.closed:
                        return
            if not self._channel.handle_timer(self._loop.time()):
                log.error("%s does not respond, dropping the connection", self._peer.node)
                self._lose("net_tick_timeout")
                return
            self._timer = self._loop.call_at(self._channel.get_timer(), self._tick)
            if self._outbox.size:
                self.flush()

    # ---- the end --------------------------------------------------------------------------------------------------

    def _lose(self, reason: str) -> None:
        if not self.closed:
            self.close()
            self._peer.lost(self, reason)

    def detach(self) -> Transport:
        """Stop using the transport and give it back, open."""
        self.closed = True
        self._timer.cancel()
        self._transport.on_readable(None)
        self._transport.on_writable(None)
        return self._transport

    def close(self) -> None:
        """Close at once. May be called twice."""
        self.detach().close()
