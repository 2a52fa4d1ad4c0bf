"""One connection after the handshake, sans-IO: frames in, frames out, ticks both ways.

For: joining the codec's FrameReader and Outbox with the check of control messages and with the liveness rule
(net_ticktime). Not for: sockets, queues of an unconnected peer, or what the messages mean.

The rule (kernel's net_kernel and dist_util): time is cut into quarters of net_ticktime. In a quarter in which nothing
was written, an empty frame is sent; after four quarters in which no byte came the peer is down, so between 1 and 1.25
times net_ticktime after its last byte (OTP promises 0.75 to 1.25). Any byte counts, also half a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ..errors import DecodeError, RemoteProtocolError
from ..etf import NO_PAYLOAD, FrameReader, Outbox
from ..terms import Atom
from .control import check, check_batch

__all__ = ["SILENT_QUARTERS", "Channel"]

#: Quarters of net_ticktime without a byte after which the peer is down.
SILENT_QUARTERS: Final = 4


class Channel:
    """The protocol of one established connection.

    peer, ours: node names. outbox: where frames for this peer are queued, maybe not empty. ticktime: net_ticktime in
    seconds. now: seconds of any monotonic clock, read at handle_timer() only: the data path needs no clock.
    """

    def __init__(
        self, peer: Atom, ours: Atom, reader: FrameReader, outbox: Outbox, *, ticktime: float, now: float
    ) -> None:
        self.peer = peer
        self.ours = ours
        self.reader = reader
        self.outbox = outbox
        self.error: RemoteProtocolError | None = None
        self.get_buffer = reader.get_buffer
        self.data_to_send = outbox.buffers
        self._received = reader.received
        self._sent = outbox.sent
        self._heard = False
        self._wrote = False
        self._silent = 0
        self._quarter = ticktime / SILENT_QUARTERS
        self._next = now + self._quarter

    # get_buffer(hint): a writable buffer to receive into (FrameReader.get_buffer).
    # data_to_send(limit): buffers for sendmsg (Outbox.buffers).

    def received(self, n: int) -> list[tuple[Any, object]]:
        """n bytes were put into the last buffer of get_buffer(): all whole frames, in order, checked.

        Never raises for what the peer sent: when the stream is broken, the frames before the fault are returned and
        `error` is set. After that the connection is to be closed; nothing more comes out.
        """
        self._heard = True
        if self.error is not None:
            return []
        try:
            batch = self._received(n)
        except DecodeError as error:
            self._broken(error)
            return []
        if batch:
            try:
                check_batch(batch, self.peer, self.ours)
            except RemoteProtocolError as error:
                self.error = error
                return self._good(batch)
        if self.reader.error is not None:
            self._broken(self.reader.error)
        return batch

    def feed(self, data: bytes) -> list[tuple[Any, object]]:
        """received() for bytes that are elsewhere: what came behind the handshake."""
        at, batch = 0, []
        while at < len(data):
            buffer = self.get_buffer(len(data) - at)
            n = min(len(buffer), len(data) - at)
            buffer[:n] = data[at : at + n]
            del buffer
            batch += self.received(n)
            at += n
        return batch

    def _broken(self, cause: Exception) -> None:
        self.error = RemoteProtocolError(f"{self.peer}: broken stream of frames: {cause}")
        self.error.__cause__ = cause

    def _good(self, batch: list[tuple[Any, object]]) -> list[tuple[Any, object]]:
        for index, (control, payload) in enumerate(batch):
            try:
                check(control, payload, self.peer, self.ours)
            except RemoteProtocolError:
                return batch[:index]
        return batch

    def heard(self) -> None:
        """There are bytes of the peer that were not received yet (while reading is paused): it is alive."""
        self._heard = True

    def send(self, control: Sequence[Any], payload: object = NO_PAYLOAD) -> int:
        """Queue one frame; the bytes waiting after it. EncodeError leaves everything as it was."""
        return self.outbox.send(tuple(control), payload)

    def sent(self, n: int) -> None:
        """n bytes of data_to_send() were written."""
        self._wrote = True
        self._sent(n)

    def get_timer(self) -> float:
        """When to call handle_timer()."""
        return self._next

    def handle_timer(self, now: float) -> bool:
        """The end of a quarter: queue a tick when one is due. False when the peer is down (net_tick_timeout).

        A caller that comes late counts one quarter only: silence is not held against a peer while we were asleep.
        """
        if now < self._next:
            return True
        self._next = now + self._quarter
        heard, wrote = self._heard, self._wrote
        self._heard = self._wrote = False
        self._silent = 0 if heard else self._silent + 1
        if self._silent >= SILENT_QUARTERS:
            return False
        # Towards a silent peer a tick goes out also when we wrote: some answer ticks only. Behind bytes that the peer
        # does not take a tick would say nothing.
        if not self.outbox.size and not (heard and wrote):
            self.outbox.tick()
        return True
