"""Frames on a stream, and buffers that are chipped from the front without copying what stays.

A frame is its length as u32 big-endian, then that many bytes, as on LING's straws. No input or output here: bytes are
handed in and taken out.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Final, NamedTuple

__all__ = ["HEADER", "MAX_FRAME", "SMALL", "ChipBuffer", "FrameReader", "Outbox", "Oversized", "Received"]

HEADER: Final = struct.Struct(">I")
#: Bytes of a frame that are taken unless told otherwise: as much as may wait on the other side to be sent.
MAX_FRAME: Final = 16 << 20

_unpack_from = HEADER.unpack_from
_pack = HEADER.pack
#: Frames up to here are gathered with others; larger ones go alone and stay what the caller gave.
SMALL: Final = 8192
#: Bytes that are gathered.
_BATCH: Final = 32768


class ChipBuffer:
    """Bytes that come at the end and go at the front. Nothing is moved: pieces stay what they were given as."""

    __slots__ = ("_offset", "_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._offset = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, data: bytes) -> None:
        if data:
            self._pieces.append(data)
            self._size += len(data)

    def front(self) -> memoryview:
        """The first piece, as far as it is there; to be used before the next `drop`. Empty when there is nothing."""
        return memoryview(self._pieces[0])[self._offset :] if self._pieces else memoryview(b"")

    def drop(self, n: int) -> None:
        """Lets the first n bytes go. ValueError when there are not so many."""
        if not 0 <= n <= self._size:
            raise ValueError(f"{n} of {self._size} bytes")
        self._size -= n
        n += self._offset
        pieces = self._pieces
        while pieces and n >= len(pieces[0]):
            n -= len(pieces.popleft())
        self._offset = n

    def chip(self, n: int) -> bytes:
        """Takes the first n bytes; a piece asked for whole is not copied. ValueError when there are not so many."""
        if not 0 <= n <= self._size:
            raise ValueError(f"{n} of {self._size} bytes")
        if not n:
            return b""
        first, start = self._pieces[0], self._offset
        if len(first) - start >= n:
            data = first if n == len(first) else first[start : start + n]
            self.drop(n)
            return data
        parts: list[bytes | memoryview] = []
        left = n
        for piece in self._pieces:
            part = memoryview(piece)[start : start + left]
            parts.append(part)
            left -= len(part)
            start = 0
            if not left:
                break
        data = b"".join(parts)
        self.drop(n)
        return data

    def clear(self) -> None:
        self._pieces.clear()
        self._offset = self._size = 0


class Oversized(NamedTuple):
    """In place of a frame beyond the limit: its bytes were passed over, the stream goes on."""

    length: int


Received = bytes | Oversized


class FrameReader:
    """Cuts what is read from a stream into frames, whole in one read or over many.

    limit: bytes of a frame; a longer one is passed over without being kept. Memory grows with what came, never with
    what was announced.
    """

    __slots__ = ("_buffer", "_skip", "_wanted", "limit")

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self.limit = limit
        self._buffer = ChipBuffer()
        self._wanted: int | None = None
        self._skip = 0

    @property
    def pending(self) -> int:
        """Bytes held of a frame that is not whole."""
        return len(self._buffer)

    @property
    def truncated(self) -> bool:
        """Whether the stream would end in the middle of a frame if it ended now."""
        return bool(len(self._buffer) or self._wanted is not None or self._skip)

    def receive(self, data: bytes) -> list[Received]:
        """All frames that are whole with these bytes, in their order."""
        out: list[Received] = []
        start = 0
        if self._wanted is not None or self._skip or len(self._buffer):
            start = self._go_on(data, out)
        # The fast way: frames that lie in this piece as a whole.
        end, limit = len(data), self.limit
        append = out.append
        while end - start >= 4:
            (length,) = _unpack_from(data, start)
            if length > limit:
                append(Oversized(length))
                start += 4
                passed = min(length, end - start)
                start += passed
                self._skip = length - passed
                continue
            stop = start + 4 + length
            if stop > end:
                self._wanted = length
                start += 4
                break
            append(data[start + 4 : stop])
            start = stop
        if start < end:
            self._buffer.append(data[start:] if start else data)
        return out

    def _go_on(self, data: bytes, out: list[Received]) -> int:
        """Brings what was begun to an end as far as `data` reaches; how much of it was used."""
        used = 0
        if self._skip:
            used = min(self._skip, len(data))
            self._skip -= used
            return used
        buffer = self._buffer
        if self._wanted is None:
            used = min(4 - len(buffer), len(data))
            buffer.append(data[:used])
            if len(buffer) < 4:
                return used
            length: int = HEADER.unpack(buffer.chip(4))[0]
            if length > self.limit:
                out.append(Oversized(length))
                passed = min(length, len(data) - used)
                self._skip = length - passed
                return used + passed
            self._wanted = length
        part = min(self._wanted - len(buffer), len(data) - used)
        buffer.append(data[used : used + part])
        if len(buffer) == self._wanted:
            out.append(buffer.chip(self._wanted))
            self._wanted = None
        return used + part


class _Pieces(list[bytes]):
    """One frame, with its length in front."""


class Outbox:
    """Frames that wait for room. Small ones are gathered, so that many leave in one write.

    Whoever can write whole frames takes them by `batch`, whoever writes bytes by `front`; in any mixture. room: bytes
    that can be written at once; what is longer with its length is never among others.
    """

    __slots__ = ("_batches", "_buffer", "_open", "_open_size", "size", "small")

    def __init__(self, room: int = SMALL) -> None:
        self.small = min(SMALL, room)
        """Bytes of a frame with its length up to which it is gathered."""
        self._buffer = ChipBuffer()  # what was begun: before all batches
        self._batches: deque[list[bytes]] = deque()
        self._open: list[bytes] = []
        self._open_size = 0
        self.size = 0
        """Bytes waiting, with the lengths in front of the frames. To be read only."""

    def put(self, frame: bytes) -> int:
        """Takes a frame; the size after it."""
        size = len(frame) + 4
        if size > self.small:
            self._close()
            self._batches.append([frame])
        else:
            self._open.append(frame)
            self._open_size += size
            if self._open_size >= _BATCH:
                self._close()
        self.size += size
        return self.size

    def put_all(self, frames: list[bytes], size: int) -> None:
        """Takes a list of frames over that leave together, `size` bytes with their lengths; each is within `room`."""
        self._close()
        self._batches.append(frames)
        self.size += size

    def put_pieces(self, pieces: list[bytes], size: int) -> None:
        """Takes one frame that lies in pieces, `size` bytes with its length."""
        self._close()
        self._batches.append(_Pieces((_pack(size - 4) + pieces[0], *pieces[1:])))
        self.size += size

    def _close(self) -> None:
        if self._open:
            self._batches.append(self._open)
            self._open = []
            self._open_size = 0

    def batch(self) -> list[bytes]:
        """The next frames, large ones alone: to be written whole, as many as there is room for, and told by `wrote`.

        None when there are none, or one was begun.
        """
        if len(self._buffer):
            return []
        if not self._batches:
            self._close()
        if not self._batches:
            return []
        first = self._batches[0]
        if type(first) is _Pieces:
            self._batches.popleft()
            for piece in first:
                self._buffer.append(piece)
            return []
        return first

    def wrote(self, n: int) -> None:
        """The first n frames of `batch` were written."""
        frames = self._batches[0]
        if n < len(frames):
            self._batches[0] = frames[n:]
            frames = frames[:n]
        else:
            self._batches.popleft()
        self.size -= sum(map(len, frames)) + 4 * n

    def _cut(self, frames: list[bytes]) -> None:
        """Into bytes; a large frame stays what the caller gave."""
        parts = [part for frame in frames for part in (_pack(len(frame)), frame)]
        if len(frames) == 1 and len(frames[0]) > SMALL:
            self._buffer.append(parts[0])
            self._buffer.append(parts[1])
        else:
            self._buffer.append(b"".join(parts))

    def front(self) -> memoryview:
        """The next bytes to write; empty when there are none."""
        if not len(self._buffer):
            frames = self.batch()
            if frames:
                self._batches.popleft()
                self._cut(frames)
        return self._buffer.front()

    def sent(self, n: int) -> None:
        """So many of `front` were written."""
        self._buffer.drop(n)
        self.size -= n

    def clear(self) -> None:
        self._buffer.clear()
        self._batches.clear()
        self._open = []
        self._open_size = self.size = 0
