"""A straw: frames both ways between two domains, of any size, in order; and its driver.

What a frame means is not known here. Opening and closing are the membrane's (aio.py); this is one open straw.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ._native import straw_pages
from .active import ActivePore
from .driver import Holding
from .errors import PoreClosed, PoreCorrupt, PoreError, PoreTooBig
from .framing import HEADER, MAX_FRAME, FrameReader, Outbox, Oversized
from .keys import Terms
from .kinds import STRAW_KIND
from .pore import ACTIVE, PASSIVE, READ_MAX, Pore
from .work import Key, Offer

if TYPE_CHECKING:
    from .aio import Membrane

__all__ = ["INBOX_LIMIT", "UNSENT_LIMIT", "Straw", "StrawDriver"]

#: Bytes that may wait to be sent: beyond it `send` waits, `send_nowait` says False.
UNSENT_LIMIT: Final = 16 << 20
#: Bytes that may wait to be received: beyond it the ring stays full, and the peer waits.
INBOX_LIMIT: Final = 16 << 20
_READ: Final = 65536
#: A frame that the ring does not hold is read into its place when it is no longer than this: that much is reserved.
_IN_PLACE: Final = 4 << 20
#: Bytes that a straw keeps for such frames, when its callback takes views.
_KEPT: Final = 2 << 20
#: Bytes gathered before they are written without waiting for the loop's next turn.
_GATHER: Final = 65536
#: Bytes of a piece of a frame that wait for the next piece before the peer is told.
_BEGINNING: Final = 1024
#: Seconds in which answers may be waited for at once before the others on the loop get their turn.
_AT_ONCE: Final = 1e-4

FramesCallback = Callable[[list[Any]], None]  # of bytes; of memoryviews too, if it said that it takes them
TakeFrames = Callable[[], list[bytes]]


class StrawDriver:
    """LING's straw, and the wide one between our own."""

    kind = STRAW_KIND

    async def offer(self, holding: Holding, terms: Terms) -> Offer:
        grant = await holding.grant(straw_pages(terms.ring_bytes))
        channel = await holding.alloc_channel()
        offer = Offer(grant.refs, (channel.port,))
        if self.kind.publish(offer, terms) is None:
            raise PoreTooBig(len(grant.refs), 0, "list of refs")
        self._open(holding, grant.fd, channel.fd, ACTIVE, terms)
        return offer

    async def attach(self, holding: Holding, offer: Offer, terms: Terms) -> None:
        mapping = await holding.map(offer.refs)
        (port,) = offer.ports
        channel = await holding.bind_channel(port)
        self._open(holding, mapping.fd, channel.fd, PASSIVE, terms, mapping.page_index)

    def _open(
        self,
        holding: Holding,
        memory: int,
        channel: int,
        role: int,
        terms: Terms,
        page_index: tuple[int, ...] | None = None,
    ) -> None:
        holding.took(
            Pore.straw(
                memory,
                channel,
                role=role,
                ring_bytes=terms.ring_bytes,
                suppress=terms.suppress,
                page_index=page_index,
                ports=holding.ports,
                table=holding.table,
            )
        )


class Straw(ActivePore):
    """One open straw. Made by a Membrane.

    Frames come by `receive` (or `async for`), or to a callback set with `on_frames`, all that one look brought at once.
    `send` takes bytes of any length up to the peer's limit. After `closed` is set nothing more comes.
    """

    def __init__(
        self,
        membrane: Membrane,
        key: Key,
        terms: Terms,
        pore: Pore,
        *,
        max_frame: int = MAX_FRAME,
        unsent_limit: int = UNSENT_LIMIT,
    ) -> None:
        super().__init__(pore, membrane._peer_lost)
        self.key = key
        self.peer = key.peer
        self.terms = terms
        self.format = terms.format
        self.dialect = terms.dialect
        self.we_opened = key.role == "passive"
        self.closed = ""
        """Why it is closed; "" while it is open."""
        self.truncated = False
        """It ended in the middle of a frame."""
        self.oversized = 0
        """Frames beyond max_frame that were passed over."""
        self.max_frame = max_frame
        self.unsent_limit = unsent_limit
        self.frames_in = self.frames_out = 0
        self._membrane = membrane
        self._reader = FrameReader(max_frame)
        room = pore.info().out_size
        self._whole = room - HEADER.size  # the longest frame that the ring holds
        self._outbox = Outbox(room)
        self._posted: list[bytes] = []  # in this turn of the loop
        self._most = min(_GATHER, room)  # bytes that may be posted before somebody looks: each frame fits the ring
        self._credit = 0  # what is left of them; 0: nothing goes the short way
        self._wide = terms.ring_bytes > 0
        self._full = False
        self._wanted = 0
        self._turn = False
        self._large: bytes | memoryview | None = None  # a frame that is read in place, as far as `_filled`
        self._filled = 0
        self._kept = bytearray()
        self._views = False
        self._in_pieces = False  # the reader holds the beginning of a frame
        self._inbox: deque[bytes] = deque()
        self._inbox_size = 0
        self._on_frames: FramesCallback | None = None
        self._on_closed: list[Callable[[str], None]] = []
        self._paused = False
        self._reading_on = self._lingering = self._answered = False
        self._at_once = 0.0
        self._woken: dict[asyncio.Future[None], None] = {}
        self.listen(self._news)
        self._loop.call_soon(self._news)

    # ── sending ──

    @property
    def unsent(self) -> int:
        """Bytes that wait for room in the ring."""
        return self._outbox.size + self._posted_size

    @property
    def busy(self) -> bool:
        """More waits than should: `send` would wait, `send_nowait` refuse."""
        return self.unsent > self.unsent_limit

    def send_nowait(self, frame: bytes | list[bytes]) -> bool:
        """Sends a frame; False when the straw is busy: nothing was done. PoreClosed, PoreTooBig (beyond u32).

        A list is one frame in pieces, which are not copied before they are in the ring.
        """
        size = len(frame) + 4
        if size < self._credit and type(frame) is bytes:
            self._credit -= size
            self._posted.append(frame)
            return True
        if self.ended or self.closed:
            raise PoreClosed(self.closed or self.ended)
        self._gather()
        outbox = self._outbox
        if outbox.size > self.unsent_limit:
            return False
        if isinstance(frame, list):
            size = sum(map(len, frame)) + 4
        elif type(frame) is not bytes:
            frame = bytes(frame)
        if size > 0xFFFF_FFFF:
            raise PoreTooBig(size - 4, 0xFFFF_FFFF, "frame")
        self.frames_out += 1
        if isinstance(frame, list):
            outbox.put_pieces(frame, size)
            if not self._full:
                self._write()
        elif outbox.size or size > self._whole or not self._write_first(frame):
            outbox.put(frame)
            if not self._full:  # else the ring will tell when it has room
                self._write()
        # The first left at once; what else this turn of the loop sends leaves together. A LING is told of every frame.
        if not self._turn and self._wide:
            self._turn = True
            self._loop.call_soon(self._turn_ends)
        if self._turn and not self.ended and outbox.size <= self.unsent_limit:
            self._credit = self._most
        return True

    def _write_first(self, frame: bytes) -> bool:
        """Nothing is before it."""
        try:
            return not self.pore.closed and self.pore.write_frame(frame)
        except (PoreClosed, PoreCorrupt) as error:
            self._fail(error)
            return False

    async def send(self, frame: bytes) -> None:
        """Sends a frame, when the straw is not busy any more. PoreClosed with the reason of `closed`, PoreTooBig."""
        size = len(frame) + 4
        if size < self._credit and type(frame) is bytes:  # send_nowait, without its call
            self._credit -= size
            self._posted.append(frame)
            return
        while not self.ended and not self.closed:
            if self.send_nowait(frame):
                return
            await self._wake()
        await self._raise_closed()

    async def drain(self) -> None:
        """Waits until all is in the ring. PoreClosed when it can't be any more."""
        self._write()
        while self._outbox.size and not self.ended and not self.closed:
            await self._wake()
        if self.ended or self.closed:
            await self._raise_closed()

    @property
    def _posted_size(self) -> int:
        if not self._posted:
            return 0
        return self._most - self._credit if self._credit else sum(map(len, self._posted)) + 4 * len(self._posted)

    def _gather(self) -> None:
        """What was posted goes to the outbox, and what comes next does not go the short way."""
        if self._posted:
            self._outbox.put_all(self._posted, self._posted_size)
            self.frames_out += len(self._posted)
            self._posted = []
        self._credit = 0

    def _turn_ends(self) -> None:
        self._turn = False
        self._leave()

    def _leave(self) -> None:
        """What was posted leaves together."""
        posted = self._posted
        if not posted or self._outbox.size or self._full or self.pore.closed or self.ended:
            self._write()
            return
        size = self._posted_size
        self._posted = []
        self._credit = 0
        self.frames_out += len(posted)
        try:
            if len(posted) == 1:
                n = int(self.pore.write_frame(posted[0]))
            else:
                n = self.pore.write_frames(posted, announce=False)
        except (PoreClosed, PoreCorrupt) as error:
            self._fail(error)
            return
        if n < len(posted):
            self._outbox.put_all(posted, size)
            if n:
                self._outbox.wrote(n)
            self._fills(len(posted[n]) + HEADER.size)

    def _write(self) -> None:
        outbox, pore = self._outbox, self.pore
        self._gather()
        if not outbox.size or pore.closed or self.ended:
            return
        self._full = False
        before = outbox.size
        try:
            while outbox.size and not self._full:
                batch = outbox.batch()
                if batch and len(batch[0]) <= self._whole:
                    n = pore.write_frames(batch, announce=False)
                    outbox.wrote(n)
                    if n < len(batch):
                        self._fills(len(batch[n]) + HEADER.size)
                else:
                    front = outbox.front()
                    # The beginning of a long frame is nothing to wake the peer for: the rest is on its heels.
                    n = pore.write(front, len(front) > _BEGINNING or outbox.size == len(front))
                    outbox.sent(n)
                    if n < len(front):
                        pore.poke()
                        self._fills(1)
        except (PoreClosed, PoreCorrupt) as error:
            self._fail(error)
            return
        if outbox.size < before and outbox.size <= self.unsent_limit // 2:
            self._wake_all()

    def _fills(self, least: int) -> None:
        """No room: we are told when there is enough that a wake-up pays."""
        self._wanted = max(least, min(self._outbox.size, self._whole // 2))
        self._full = not self.pore.notify_when(self._wanted)
        if self._full:
            self._soon()

    # ── receiving ──

    def on_frames(self, callback: FramesCallback | None, *, views: bool = False) -> None:
        """Frames go there from now on, and those that wait at once; None: they wait for `receive` again.

        views: a frame that the ring does not hold may come as a memoryview, which is good until the callback returns.
        """
        self._on_frames = callback
        self._views = views
        if callback is not None and self._inbox:
            frames, self._inbox, self._inbox_size = list(self._inbox), deque(), 0
            callback(frames)
            self._read_on()

    def on_closed(self, callback: Callable[[str], None]) -> None:
        """Is called once with the reason, after the last frame."""
        if self.closed:
            self._loop.call_soon(callback, self.closed)
        else:
            self._on_closed.append(callback)

    def pause(self) -> None:
        """Reads no more until `resume`: the ring fills, and the peer waits."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._read_on()

    async def receive(self) -> bytes:
        """The next frame; PoreClosed after the last one."""
        if not self._inbox:
            await self._frames_come()
        frame = self._inbox.popleft()
        full = self._inbox_size > INBOX_LIMIT
        self._inbox_size -= len(frame) + 64
        if full and self._inbox_size <= INBOX_LIMIT:
            self._read_on()
        return frame

    async def receive_all(self) -> list[bytes]:
        """All frames that are there, at least one; PoreClosed after the last one."""
        if not self._inbox:
            await self._frames_come()
        frames = list(self._inbox)
        self._inbox.clear()
        full = self._inbox_size > INBOX_LIMIT
        self._inbox_size = 0
        if full:
            self._read_on()
        return frames

    async def _frames_come(self) -> None:
        """Who waits has said what it had to say. An answer may be here sooner than the loop comes round."""
        self._leave()
        while not self._inbox:
            if self.closed:
                raise PoreClosed(self.closed)
            if self._loop.time() < self._at_once and self._look_once():
                continue
            await self._wake()

    def _look_once(self) -> bool:
        """One look of who waits, as far as that has paid; whether something came. The loop looks for more."""
        if self._paused or self._outbox.size or self.ended or self.pore.closed:
            return False
        try:
            came = self._take(self.pore.linger_frames)
        except (PoreClosed, PoreCorrupt) as error:
            self._fail(error)
            return False
        if came:
            self._read_on()
        return came

    def __aiter__(self) -> Straw:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self.receive()
        except PoreClosed:
            raise StopAsyncIteration from None

    def _readable(self) -> None:
        """The peer has poked."""
        waits = self._outbox.size or self._paused or self._inbox_size > INBOX_LIMIT or len(self._listeners) > 1
        if waits or self._large is not None or self._in_pieces or self.pore.closed:
            super()._readable()
            return
        self._at_once = self._loop.time() + _AT_ONCE
        self._read(self.pore.drain_frames)
        if self.ended:
            self._membrane._ended(self)

    def _news(self) -> None:
        """The loop comes round: something may have changed."""
        self._at_once = self._loop.time() + _AT_ONCE
        self._look()

    def _look(self) -> None:
        if self.closed or self.pore.closed:
            return
        if self._outbox.size and not self.ended:
            self._write()
        if not self._paused and self._inbox_size <= INBOX_LIMIT:
            self._read()
        if self.ended:
            self._membrane._ended(self)

    def _read_on(self) -> None:
        if not self._reading_on:
            self._reading_on = True
            self._loop.call_soon(self._read_again)

    def _read_again(self) -> None:
        self._reading_on = False
        self._news()

    def _read(self, take: TakeFrames | None = None) -> None:
        """What is there, but only so much before others on the loop get their turn.

        A peer that has its answer has perhaps said the next thing already: that takes neither a poke nor a turn.
        """
        pore = self.pore
        came = self._answered = False
        try:
            while self._take(take or pore.read_frames):
                came = True
                if self._paused or self._inbox_size > INBOX_LIMIT or self.closed or pore.closed:
                    return
                if self._loop.time() > self._at_once:
                    self._read_on()
                    return
                take = pore.linger_frames if self._answered else pore.read_frames
        except (PoreClosed, PoreCorrupt) as error:
            self._fail(error)
            return
        if came and not self._answered:
            self._soon()

    def _take(self, take: TakeFrames) -> bool:
        """Takes what one read brings: frames, or some bytes of a large one; whether there was something."""
        if self._large is None and not self._in_pieces:
            try:
                frames = take()
            except PoreTooBig as error:
                self._begin(error.size)
            else:
                if not frames:
                    return False
                if self.max_frame >= READ_MAX:
                    self._hand_out(frames)
                else:
                    self._deliver(frames)
                return True
        return self._take_part()

    def _begin(self, size: int) -> None:
        """A frame that does not fit the ring: it comes in parts."""
        if size <= min(self.max_frame, _IN_PLACE):
            self.pore.read(HEADER.size, poke=False)
            self._filled = 0
            if self._views:
                if len(self._kept) < size:
                    self._kept = bytearray(size)
                self._large = memoryview(self._kept)[:size]
            else:
                self._large = bytes(size)
        else:
            self._in_pieces = True

    def _take_part(self) -> bool:
        large = self._large
        if large is None:
            data = self.pore.read(_READ)
            if data:
                frames = self._reader.receive(data)
                self._in_pieces = self._reader.truncated
                self._deliver(frames)
            return bool(data)
        n = self.pore.fill(large, self._filled)
        self._filled += n
        if self._filled == len(large):
            self._large = None
            self._hand_out([large if type(large) is bytes or (self._views and self._on_frames) else bytes(large)])
            if len(self._kept) > _KEPT:
                self._kept = bytearray()
        return n > 0

    def _soon(self) -> None:
        if not self._lingering:
            self._lingering = True
            self._loop.call_soon(self._later)

    def _later(self) -> None:
        self._lingering = False
        self._at_once = self._loop.time() + _AT_ONCE
        self._linger(self._full)

    def _linger(self, room: bool = False) -> bool:
        """A peer that has sent something is likely to send more soon, and to make room if it reads.

        Waits as long as that has paid; whether it came.
        """
        if self._paused or self.closed or self.ended or self.pore.closed:
            return False
        try:
            came = self.pore.spin(self._wanted if room else 0)
        except (PoreClosed, PoreCorrupt) as error:
            self._fail(error)
            return False
        if came:
            self._look()
        return came

    def _deliver(self, received: Sequence[bytes | Oversized]) -> None:
        limit = self.max_frame
        frames = [frame for frame in received if type(frame) is bytes and len(frame) <= limit]
        if len(frames) != len(received):
            self.oversized += len(received) - len(frames)
            for frame in received:
                length = frame.length if isinstance(frame, Oversized) else len(frame)
                if length > limit:
                    self._membrane._report("oversized", self.peer, f"a frame of {length} bytes")
        if frames:
            self._hand_out(frames)

    def _hand_out(self, frames: list[Any]) -> None:
        self.frames_in += len(frames)
        if self._on_frames is not None:
            if self._wide and not self._credit and not self._outbox.size and not self.ended and not self.closed:
                self._credit = self._most  # the answers leave together
            sent = self.frames_out
            try:
                self._on_frames(frames)
            except Exception as error:
                self._loop.call_exception_handler({"message": f"the callback of {self!r} failed", "exception": error})
            if self._posted:
                self._leave()
            self._credit = 0
            self._answered = self.frames_out != sent
            return
        self._inbox.extend(frames)
        self._inbox_size += sum(map(len, frames)) + 64 * len(frames)
        self._wake_all()

    # ── the end ──

    async def close(self, reason: str = "closed", *, flush: float = 1.0) -> None:  # type: ignore[override]
        """Closes it and waits until it is; first gives what is unsent `flush` seconds to leave."""
        self._write()
        if self._outbox.size and not self.ended and flush > 0:
            try:
                async with asyncio.timeout(flush):
                    await self.drain()
            except (TimeoutError, PoreClosed):
                pass
        self._membrane._close(self.key, reason)
        while not self.closed:
            await self._wake()

    def end(self, why: str) -> None:
        self._credit = 0
        super().end(why)

    def _fail(self, error: PoreClosed | PoreCorrupt) -> None:
        """The pore has found its end."""
        if not self.ended:
            self.found_end(error)
        else:
            self._membrane._ended(self)

    def _last_look(self) -> None:
        """Takes what is left in the ring, at most one ring full, and closes the pore. Called before memory goes."""
        if not self.pore.closed and not self.closed:
            try:
                info = self.pore.info()
                end = info.in_total + info.in_size
                while self.pore.info().in_total < end and self._take_part():
                    pass
            except PoreError:
                pass
        self.truncated = self._reader.truncated or self._large is not None
        self.unlisten(self._news)
        ActivePore.close(self, self.ended or "closed")

    def _close_with(self, reason: str) -> None:
        """The membrane says that it is over."""
        if self.closed:
            return
        self._last_look()
        self.closed = reason
        self._posted.clear()
        self._credit = 0
        self._outbox.clear()
        self._wake_all()
        callbacks, self._on_closed = self._on_closed, []
        for callback in callbacks:
            callback(reason)

    async def _raise_closed(self) -> None:
        """The end was found: its reason is known when the membrane has closed it."""
        while not self.closed:
            await self._wake()
        raise PoreClosed(self.closed)

    async def _wake(self) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        self._woken[future] = None
        try:
            await future
        finally:
            self._woken.pop(future, None)

    def _wake_all(self) -> None:
        for future in list(self._woken):
            if not future.done():
                future.set_result(None)

    def __repr__(self) -> str:
        return f"<Straw {'to' if self.we_opened else 'from'} {self.peer} {self.closed or 'open'}>"
