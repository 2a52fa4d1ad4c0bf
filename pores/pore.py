"""One pore: shared memory and event channels, read, written and waited for.

Opening one between two domains is the membrane's.

Nothing here blocks but `wait_read` and `wait_write`, and nothing is copied but from and into the ring.
"""

from __future__ import annotations

import errno
import time
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _native
from ._native import ACTIVE, PASSIVE, REASONS, SPIN_DEFAULT, error, ffi, lib
from .errors import PoreError, PoreTooBig
from .registry import PoreTable

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["ACTIVE", "PASSIVE", "SPIN_DEFAULT", "Pore", "PoreInfo"]

# The most that one read() without a limit takes.
READ_MAX = 131072
# The most frames that one read_frames() takes.
FRAMES_MAX = 256

_POKE, _QUIET = lib.PORE_POKE, lib.PORE_QUIET
_KINDS = {lib.PORE_STRAW: "straw", lib.PORE_TUBE: "tube", lib.PORE_XENSTORE: "xenstore"}

# Bound once: these are called once a message.
_read, _write, _unpack = lib.pore_read, lib.pore_write, ffi.unpack
_write_frame, _put_frame, _put_frames = lib.pore_write_frame, lib.pore_put_frame, lib.pore_put_frames
_list_frames, _list_drained = lib.pore_list_frames, lib.pore_list_drained
_list_lingered, _list_waited = lib.pore_list_lingered, lib.pore_list_waited


class PoreInfo(NamedTuple):
    """What a pore says of itself; sizes in bytes, of a tube in packets."""

    kind: str  # "straw", "tube", "xenstore"
    role: int  # ACTIVE or PASSIVE
    reason: str  # "" while open
    channels: int
    owner: int
    in_size: int
    out_size: int
    packet_max: int  # 0: a stream
    pages: int
    suppress: bool
    in_total: int
    out_total: int
    pokes: int
    pokes_spared: int
    irqs: int
    spins: int
    spin_hits: int
    sleeps: int


class Pore:
    """An open pore; a context manager. Made by `straw`, `tube` and `xenstore`.

    `memory` is a sealed memfd: it stays the caller's, and may be closed afterwards. Channels are descriptors of
    socketpair ends: the pore's when a maker returns, the caller's still when it raises. On Xen (`ports`: ours, one of
    each channel) memory and channels are what the Xen backend has. `role` is ACTIVE for the side
    that granted the memory (and lays it out: make its pore before the peer knows of it), PASSIVE for the other. `owner`
    is any number, for `PoreTable.close_owned`. Makers raise PoreError: EPERM (unsealed), EINVAL (too small, a wrong
    option), EMFILE (the table is full); PoreCorrupt: not laid out as agreed.
    """

    __slots__ = ("__weakref__", "_at", "_buffer", "_ends", "_id", "_inbox", "_reason", "_t", "_two", "id", "table")

    def __init__(self, table: PoreTable, id: int) -> None:
        self.table = table
        self.id = id
        self._t = table.cdata
        self._id = id
        self._reason = ""
        self._two = ffi.new("uint32_t[2]")
        self._buffer: Any = None
        self._ends: Any = None
        self._inbox: Any = None
        self._at = 0

    # ---- makers ----

    @classmethod
    def straw(
        cls,
        memory: int,
        channel: int,
        *,
        role: int,
        ring_bytes: int = 0,
        suppress: bool | None = None,
        spin_us: int = SPIN_DEFAULT,
        owner: int = 0,
        page_index: Sequence[int] | None = None,
        ports: Sequence[int] = (),
        table: PoreTable | None = None,
    ) -> Pore:
        """A straw: LING's 8 pages, or a wide one of `ring_bytes` a direction (pages: `straw_pages`).

        suppress: the sides announce that they wait and are poked only then; by default as soon as the straw is wide.
        Both sides must agree on ring_bytes and suppress. spin_us: how long a wait may spin; 0 never; by default as far
        as it pays.
        """
        pages = _native.straw_pages(ring_bytes)
        suppress = bool(ring_bytes) if suppress is None else suppress
        options = _options(role, owner, spin_us, ports, ring_bytes, suppress)
        return cls._open(lib.pore_open_straw, table, memory, pages, page_index, (channel,), options)

    @classmethod
    def xenstore(
        cls,
        memory: int,
        channel: int,
        *,
        role: int = PASSIVE,
        spin_us: int = SPIN_DEFAULT,
        owner: int = 0,
        page_index: Sequence[int] | None = None,
        ports: Sequence[int] = (),
        table: PoreTable | None = None,
    ) -> Pore:
        """XenStore's ring page; PASSIVE is the domain, ACTIVE the store."""
        options = _options(role, owner, spin_us, ports)
        return cls._open(lib.pore_open_xenstore, table, memory, 1, page_index, (channel,), options)

    @classmethod
    def tube(
        cls,
        memory: int,
        channel_tx: int,
        channel_rx: int,
        *,
        role: int,
        refs: Sequence[int] | None = None,
        spin_us: int = SPIN_DEFAULT,
        owner: int = 0,
        page_index: Sequence[int] | None = None,
        ports: Sequence[int] = (),
        table: PoreTable | None = None,
    ) -> Pore:
        """A tube: packets of 1 to 4096 bytes, 31 each way. tx is from opener (PASSIVE) to acceptor (ACTIVE).

        65 pages: the page, 32 buffers of tx, 32 of rx. refs: the buffers' 64 grant references.
        """
        options = _options(role, owner, spin_us, ports)
        if refs is not None and len(refs) != _native.TUBE_BUFFERS:
            raise ValueError(f"{_native.TUBE_BUFFERS} refs are needed, not {len(refs)}")
        array = ffi.NULL if refs is None else ffi.new("uint32_t[]", list(refs))
        channels = (channel_tx, channel_rx, array)
        return cls._open(lib.pore_open_tube, table, memory, _native.TUBE_PAGES, page_index, channels, options)

    @classmethod
    def _open(
        cls,
        maker: Any,
        table: PoreTable | None,
        memory: int,
        pages: int,
        page_index: Sequence[int] | None,
        channels: tuple[Any, ...],
        options: Any,
    ) -> Pore:
        table = table or PoreTable(1)
        xen = options.ports[0] != 0
        struct, _alive = _native.memory(memory, pages, None if xen else page_index, xen)
        id = ffi.new("pore_id *")
        result = maker(table.cdata, struct, *channels, options, id)
        if result < 0:
            raise error(result)
        return cls(table, id[0])

    # ---- data ----

    def read(self, limit: int = READ_MAX, poke: bool = True) -> bytes:
        """Up to `limit` bytes (at most READ_MAX), of a tube one packet; b"" when nothing is there now.

        Then the descriptor becomes readable when something is. The peer is told that there is room again, unless `poke`
        is False: then poke() does, once for many. PoreClosed after the last byte, PoreCorrupt.
        """
        buffer = self._buffer
        if buffer is None:
            buffer = self._buffer = ffi.new("char[]", READ_MAX)
        n = _read(self._t, self._id, buffer, limit if limit < READ_MAX else READ_MAX, poke)
        if n > 0:
            data: bytes = _unpack(buffer, n)
            return data
        if n < 0:
            raise self._error(n)
        return b""

    def readinto(self, buffer: Buffer, poke: bool = True) -> int:
        """As `read`, into a writable buffer; how many bytes."""
        into = ffi.from_buffer(buffer, require_writable=True)
        n = _read(self._t, self._id, into, len(into), poke)
        if n < 0:
            raise self._error(n)
        return n

    def write(self, data: Buffer, poke: bool = True) -> int:
        """As many bytes as there is room for; of a tube one packet or nothing. Returns how many.

        Less than all: the descriptor becomes readable when there is room again. The peer is told, unless `poke` is
        False. PoreClosed, PoreCorrupt, PoreTooBig (a packet).
        """
        if type(data) is not bytes:
            data = ffi.from_buffer(data)
        n = _write(self._t, self._id, data, len(data), poke)  # type: ignore[arg-type]
        if n < 0:
            raise self._error(n, len(data))  # type: ignore[arg-type]
        return n

    def write_frame(self, data: Buffer, poke: bool = True) -> bool:
        """The length of `data` as u32 big-endian, then data, in one piece: False when there is no room for all of it.

        Then the descriptor becomes readable when there is. PoreTooBig when there will never be: write it in parts.
        """
        if poke and type(data) is bytes:
            n = _put_frame(self._at or self._new_inbox(), id(data))
        else:
            data = ffi.from_buffer(data)
            n = _write_frame(self._t, self._id, data, len(data), poke)  # type: ignore[arg-type]
        if n < 0:
            raise self._error(n, len(data))  # type: ignore[arg-type]
        return n > 0

    def write_frames(self, messages: Sequence[bytes], poke: bool = True, announce: bool = True) -> int:
        """As write_frame, for many at once: how many of them, from the first on, were written whole.

        announce=False: the descriptor becomes readable only by what notify_when says afterwards.
        """
        frames = messages if type(messages) is list else list(messages)
        n = _put_frames(self._at or self._new_inbox(), id(frames), poke if announce else poke | _QUIET)
        if n < 0:
            raise self._error(n, len(frames[0]))
        return n

    def read_frames(self, poke: bool = True) -> list[bytes]:
        """The frames that are there whole, at most FRAMES_MAX of at most READ_MAX bytes, without their lengths.

        None: the descriptor becomes readable when there is more (wait_read(more=True) waits for it). PoreTooBig: the
        next one does not fit into READ_MAX or the ring; `size` is its length; read it with readinto, in pieces.
        """
        frames: list[bytes] = []
        at = self._at or self._new_inbox()
        if not poke:
            self._inbox.flags = 0
        n = _list_frames(at, id(frames))
        if not poke:
            self._inbox.flags = _POKE
        if n < 0:
            raise self._frames_error(n)
        return frames

    def drain_frames(self) -> list[bytes]:
        """As read_frames, when the descriptor is readable: takes the pokes, as `avail` does.

        Room that is waited for is announced anew by `avail` and `notify_when` only.
        """
        frames: list[bytes] = []
        n = _list_drained(self._at or self._new_inbox(), id(frames))
        if n < 0:
            raise self._frames_error(n)
        return frames

    def linger_frames(self) -> list[bytes]:
        """As read_frames, but waits for a frame as `spin` does, as far as that has paid. Releases the GIL."""
        frames: list[bytes] = []
        n = _list_lingered(self._at or self._new_inbox(), id(frames))
        if n < 0:
            raise self._frames_error(n)
        return frames

    def wait_frames(self, timeout: float | None = None) -> list[bytes]:
        """As read_frames, but blocks until there is a frame; none when `timeout` seconds have passed.

        Releases the GIL. Cheaper than read_frames and wait_read in turn.
        """
        frames: list[bytes] = []
        at = self._at or self._new_inbox()
        if timeout is None:
            while (n := _list_waited(at, id(frames))) <= 0:
                if n and n != -errno.EINTR:  # Python's handlers of signals have run when we come here
                    raise self._frames_error(n)
            return frames
        deadline = time.monotonic() + timeout
        try:
            while True:
                self._inbox.timeout_us = left = max(0, int((deadline - time.monotonic()) * 1e6))
                n = _list_waited(at, id(frames))
                if n > 0 or (n == 0 and not left):
                    return frames
                if n and n != -errno.EINTR:
                    raise self._frames_error(n)
        finally:
            self._inbox.timeout_us = -1

    def fill(self, frame: bytes | memoryview, start: int, poke: bool = True) -> int:
        """As readinto, from `start` on; also into bytes of the caller's own making, which nobody else has seen yet."""
        n = _read(self._t, self._id, ffi.from_buffer(frame) + start, len(frame) - start, poke)
        if n < 0:
            raise self._error(n)
        return n

    def _new_inbox(self) -> int:
        """Where the inbox is: a number is the cheapest argument. What it holds lives as long as this pore."""
        self._ends = ffi.new("uint32_t[]", FRAMES_MAX)
        fields = (self._t, self._id, ffi.NULL, READ_MAX, self._ends, FRAMES_MAX, _POKE, -1, 0)
        self._inbox = ffi.new("struct pore_inbox *", fields)
        self._at = int(ffi.cast("uintptr_t", self._inbox))
        return self._at

    def _frames_error(self, n: int) -> PoreError:
        if n == -errno.EMSGSIZE:
            return PoreTooBig(self._ends[0], READ_MAX, "frame")
        return self._error(n)

    def poke(self) -> bool:
        """Tells the peer of what was read and written with poke=False, if it wants to know; whether it was told."""
        return self._checked(lib.pore_poke(self._t, self._id)) > 0

    # ---- events ----

    def avail(self) -> tuple[int, int]:
        """(to be read, room to write), in bytes, of a tube in packets. To be called when the descriptor is readable.

        Takes the pokes, so that it is not readable any more, and announces anew what is waited for. PoreClosed when the
        peer is gone and all is read, PoreCorrupt.
        """
        two = self._two
        self._checked(lib.pore_avail(self._t, self._id, two, two + 1))
        return two[0], two[1]

    @property
    def fd(self) -> int:
        """The descriptor to poll for reading, for events of both directions; the same while the pore is open."""
        return self._checked(lib.pore_fd(self._t, self._id))

    def fileno(self) -> int:
        return self.fd

    @property
    def slots(self) -> int:
        """Free room for output: bytes, of a tube packets. Announces nothing."""
        return self._checked(lib.pore_slots(self._t, self._id))

    def notify_when(self, slots: int) -> bool:
        """True: so many are free now. False: the descriptor becomes readable when they are; ask `avail` then."""
        return self._checked(lib.pore_notify_when(self._t, self._id, slots)) > 0

    def spin(self, slots: int = 0) -> bool:
        """Spins as far as that has paid before, for something to read (slots 0) or so much room: is it there now?"""
        return self._checked(lib.pore_spin(self._t, self._id, lib.PORE_OUT if slots else lib.PORE_IN, slots)) > 0

    def wait_read(self, timeout: float | None = None, more: bool = False) -> bool:
        """Blocks until there is something to read; False when `timeout` seconds have passed. Releases the GIL.

        more: something that the last call has not seen, as after read_frames() found no whole frame.
        """
        return self._wait(lib.PORE_MORE if more else lib.PORE_IN, 0, timeout)

    def wait_write(self, slots: int = 1, timeout: float | None = None) -> bool:
        """Blocks until so much room is free; False when `timeout` seconds have passed. Releases the GIL."""
        return self._wait(lib.PORE_OUT, slots, timeout)

    def _wait(self, what: int, slots: int, timeout: float | None) -> bool:
        if timeout is None:
            while True:
                result = lib.pore_wait(self._t, self._id, what, slots, -1)
                if result != -errno.EINTR:  # Python's handlers of signals have run when we come here
                    return self._checked(result) > 0
        deadline = time.monotonic() + timeout
        while True:
            left = max(0, int((deadline - time.monotonic()) * 1e6))
            result = lib.pore_wait(self._t, self._id, what, slots, left)
            if result != -errno.EINTR:
                return self._checked(result) > 0

    # ---- the end ----

    @property
    def closed(self) -> bool:
        """By us. A pore whose peer is gone is not closed yet: see `reason`."""
        return not self._id

    @property
    def reason(self) -> str:
        """Why nothing can be written any more: "", "peer_gone", "corrupt", "host_down", "refused"; "closed" by us.

        "forked" in a child of fork(): its pores are the parent's.
        """
        if not self._id:
            return self._reason or "closed"
        result = lib.pore_error(self._t, self._id)
        return self.table.reason if result < 0 else REASONS.get(result, "")

    def fail(self, reason: str) -> None:
        """Ends it from our side, not yet closed: what arrived can be read, then PoreClosed(reason). The first stays."""
        number = next((number for number, name in REASONS.items() if name == reason), lib.PORE_REFUSED)
        self._checked(lib.pore_fail(self._t, self._id, number))

    def info(self) -> PoreInfo:
        info = ffi.new("struct pore_info *")
        self._checked(lib.pore_info(self._t, self._id, info))
        fields = {name: getattr(info, name) for name in PoreInfo._fields}
        kind, reason = _KINDS[info.kind], REASONS.get(info.reason, "")
        return PoreInfo(**{**fields, "kind": kind, "reason": reason, "suppress": bool(info.suppress)})

    def close(self, reason: str = "closed") -> None:
        """Unmaps the memory and closes the channels, all done when it returns; sleeping threads get PoreClosed.

        May be called twice; the first reason stays.
        """
        if self._id:
            id, self._id = self._id, 0
            if self._inbox is not None:
                self._inbox.id = 0
            self._reason = reason
            lib.pore_close(self._t, id)

    def __enter__(self) -> Pore:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if self._id and lib.pore_error(self._t, self._id) >= 0:
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            finally:  # a warning may be an exception
                self.close()

    def __repr__(self) -> str:
        return f"<Pore {self.id:#x} {self.reason or 'open'}>"

    def _checked(self, result: int) -> int:
        if result < 0:
            raise self._error(result)
        return result

    def _error(self, result: int, size: int = 0) -> PoreError:
        if result == -errno.EMSGSIZE and size:
            info = self.info()
            return PoreTooBig(size, info.packet_max or info.out_size - 4, "packet" if info.packet_max else "frame")
        return error(result, self.reason)


def _options(
    role: int, owner: int, spin_us: int, ports: Sequence[int], ring_bytes: int = 0, suppress: bool = False
) -> Any:
    return ffi.new(
        "struct pore_options *",
        {
            "role": role,
            "owner": owner,
            "spin_us": spin_us,
            "ring_bytes": ring_bytes,
            "suppress": suppress,
            "ports": list(ports),
        },
    )
