"""Messages on one pore, for threads that may block: frames of any size both ways, small ones gathered.

What a frame means, and how a pore is opened, is not known here; on asyncio straw.py does this.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final

from .errors import PoreClosed, PoreTooBig
from .framing import HEADER, MAX_FRAME, SMALL, Outbox
from .pore import READ_MAX, Pore

__all__ = ["Messages"]

#: `post` gathers frames up to so many bytes,
_GATHER: Final = 1024
#: and at most so many of them.
_GATHER_FRAMES: Final = 256
#: Bytes that are made one piece before they are written.
_COPY: Final = 65536


class Messages:
    """Frames both ways on an open pore, which stays the caller's: a straw, or any other that is a stream of bytes.

        messages.send(b"now")           # leaves now
        messages.post(b"one of many")   # leaves with others: when enough are gathered, with send, receive or flush
        messages.send_all(frames)       # for those who have many at hand
        messages.receive()              # the next one, when it is there

    post costs a third of send: it is for those who send many. What was posted leaves at the latest when this side waits
    for something itself and at the end of a `with`; who goes on to do something else for long says `flush` before.

    One thread may receive while others send. All block until there is what they want: room, or a frame. `timeout` is
    in seconds; TimeoutError when it has passed, and what has not left then leaves with the next call. PoreClosed when
    the pore is closed, by whomever (`receive`: after the last frame), PoreCorrupt when the peer writes what no honest
    peer writes. PoreTooBig: a frame beyond max_frame; nothing was sent, or `receive` has passed it over.
    """

    def __init__(self, pore: Pore, *, max_frame: int = MAX_FRAME) -> None:
        info = pore.info()
        if info.packet_max:
            raise ValueError("a tube has packets, it is no stream")
        self.pore = pore
        self.max_frame = max_frame
        self._whole = info.out_size - HEADER.size  # the longest frame that the ring holds
        self._posted: list[bytes] = []  # always the same list: others append to it at any time
        self._append = self._posted.append
        self._outbox = Outbox(info.out_size)  # what did not fit
        self._inbox: deque[bytes] = deque()
        self._large: _Large | None = None  # being received
        self._sending = threading.Lock()
        self._write_frame, self._wait_write, self._wait_frames = pore.write_frame, pore.wait_write, pore.wait_frames

    # ---- sending ----

    def post(self, frame: bytes) -> None:
        """Sends a frame when enough are gathered, or it is large."""
        if len(frame) > _GATHER:
            self.send(frame)
            return
        self._append(frame)
        if len(self._posted) >= _GATHER_FRAMES:
            self.flush()

    def send(self, frame: bytes, timeout: float | None = None) -> None:
        """Sends a frame, after what was posted. It is in the ring when this returns."""
        if len(frame) > self.max_frame:
            raise PoreTooBig(len(frame), self.max_frame, "frame")
        if not self._posted and not self._outbox.size and len(frame) <= self._whole and not self._sending.locked():
            # Nothing is before it, here or in another thread's hands: then the pore takes it as it is.
            if self._write_frame(frame):
                return
            if self._wait_write(max(len(frame) + HEADER.size, self._whole // 2), timeout) and self._write_frame(frame):
                return
        self._append(frame)
        self.flush(timeout)

    def send_all(self, frames: Sequence[bytes], timeout: float | None = None) -> None:
        """Sends frames, after what was posted: the cheapest way for many. They are in the ring when this returns."""
        longest = max(map(len, frames), default=0)
        if longest > self.max_frame:
            raise PoreTooBig(longest, self.max_frame, "frame")
        deadline = _deadline(timeout)
        if longest > SMALL:
            for frame in frames:
                self.send(frame, _left(deadline))
            return
        for start in range(0, len(frames), _GATHER_FRAMES):
            self._posted += frames[start : start + _GATHER_FRAMES]
            self.flush(_left(deadline))

    def flush(self, timeout: float | None = None) -> None:
        """Sends what was posted. It is in the ring when this returns."""
        with self._sending:
            self._drain(timeout)

    def __enter__(self) -> Messages:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.flush()

    @property
    def unsent(self) -> int:
        """Frames that are posted, and bytes that did not fit into the ring: 0 when all have left."""
        return len(self._posted) + self._outbox.size

    def _drain(self, timeout: float | None) -> None:
        deadline = _deadline(timeout)
        while not self._push():
            # To be woken for less than half a ring costs more than it brings.
            if not self._wait_write(self._whole // 2, _left(deadline)):
                raise TimeoutError

    def _push(self) -> bool:
        """Puts into the ring what fits; whether that was all."""
        pore, outbox = self.pore, self._outbox
        posted = self._posted[:]
        del self._posted[: len(posted)]
        if posted:
            step = _COPY // (len(posted[0]) + 64) + 1
            for start in range(0, len(posted), step):
                self._put(posted[start : start + step])
        while outbox.size:
            batch = outbox.batch()
            if batch and len(batch[0]) <= self._whole:
                n = pore.write_frames(batch)
                outbox.wrote(n)
                if n < len(batch):
                    return False
            else:
                front = outbox.front()
                n = pore.write(front)
                outbox.sent(n)
                if n < len(front):
                    return False
        return True

    def _put(self, frames: list[bytes]) -> None:
        """What does not fit now goes to the outbox."""
        if not self._outbox.size:
            with contextlib.suppress(PoreTooBig):
                done = self.pore.write_frames(frames)
                if done == len(frames):
                    return
                del frames[:done]
        if max(map(len, frames)) + HEADER.size <= self._outbox.small:
            self._outbox.put_all(frames, sum(map(len, frames)) + HEADER.size * len(frames))
        else:
            for frame in frames:
                self._outbox.put(frame)

    # ---- receiving ----

    def receive(self, timeout: float | None = None) -> bytes:
        """The next frame."""
        inbox = self._inbox
        if not inbox:
            frames = self._receive(timeout)
            if len(frames) == 1:
                return frames[0]
            inbox.extend(frames)
        return inbox.popleft()

    def receive_all(self, timeout: float | None = None) -> list[bytes]:
        """All frames that are there, at least one."""
        if not self._inbox:
            return self._receive(timeout)
        frames = list(self._inbox)
        self._inbox.clear()
        return frames

    def __iter__(self) -> Iterator[bytes]:
        """Frames until the pore is closed."""
        with contextlib.suppress(PoreClosed):
            while True:
                yield self.receive()

    def _receive(self, timeout: float | None) -> list[bytes]:
        if not self._posted and not self._outbox.size and self._large is None:
            try:
                if frames := self._wait_frames(timeout):
                    return frames
                raise TimeoutError
            except PoreTooBig as error:
                self._large = _Large(error.size, self.max_frame)
        deadline = _deadline(timeout)
        if frames := self._exchange(deadline):
            return frames
        while not (frames := self._look()):
            if not self.pore.wait_read(_left(deadline), more=True):
                raise TimeoutError
        return frames

    def _exchange(self, deadline: float | None) -> list[bytes]:
        """Sends what is to be sent; returns early with what comes meanwhile.

        Two sides that send and receive by turns never wait for each other for ever.
        """
        if not self._sending.acquire(blocking=False):
            return []  # another thread is at it
        try:
            poll = None
            while not self._push():
                if frames := self._look():
                    return frames
                if poll is None:
                    poll = select.poll()
                    poll.register(self.pore.fd, select.POLLIN)
                left = _left(deadline)
                if not poll.poll(None if left is None else left * 1000):
                    raise TimeoutError
                self.pore.avail()
        finally:
            self._sending.release()
        return []

    def _look(self) -> list[bytes]:
        """The frames that are there, or more of a large one, which is never whole in the ring."""
        if self._large is None:
            try:
                return self.pore.read_frames()
            except PoreTooBig as error:
                self._large = _Large(error.size, self.max_frame)
        large = self._large
        while large.left:
            part = self.pore.read(min(large.left, READ_MAX))
            if not part:
                return []
            large.add(part)
        self._large = None
        if large.size > self.max_frame:
            raise PoreTooBig(large.size, self.max_frame, "frame")
        return [b"".join(large.parts)[HEADER.size :]]


class _Large:
    """Parts of a large frame, as far as they came; beyond the limit they are not kept."""

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.left = HEADER.size + size
        self.keep = size <= limit
        self.parts: list[bytes] = []

    def add(self, part: bytes) -> None:
        self.left -= len(part)
        if self.keep:
            self.parts.append(part)


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
