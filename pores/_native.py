"""The C core as Python sees it: the only importer of the cffi module, errno into errors, the host's client.

csrc/include/pore.h says what the functions do. `lib` and `ffi` are for pore.py and registry.py only, which call a
function per message and can't afford a wrapper each.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

from ._pore import ffi, lib
from .errors import PoreClosed, PoreCorrupt, PoreError

__all__ = [
    "ACTIVE",
    "PACKET_MAX",
    "PASSIVE",
    "REASONS",
    "RING_MAX",
    "RING_MIN",
    "SPIN_DEFAULT",
    "TUBE_BUFFERS",
    "TUBE_PAGES",
    "HostConnection",
    "HostMessage",
    "error",
    "ffi",
    "lib",
    "straw_pages",
    "tube_refs",
    "xen_alloc_channel",
    "xen_bind_channel",
    "xen_grant",
    "xen_lock",
    "xen_map",
    "xen_still_mapped",
]

ACTIVE: int = lib.PORE_ACTIVE
PASSIVE: int = lib.PORE_PASSIVE
RING_MIN: int = lib.PORE_RING_MIN
RING_MAX: int = lib.PORE_RING_MAX
PACKET_MAX: int = lib.PORE_PACKET_MAX
TUBE_PAGES: int = lib.PORE_TUBE_PAGES
TUBE_BUFFERS: int = lib.PORE_TUBE_BUFFERS
SPIN_DEFAULT: int = lib.PORE_SPIN_DEFAULT

REASONS: dict[int, str] = {
    lib.PORE_PEER_GONE: "peer_gone",
    lib.PORE_CORRUPT: "corrupt",
    lib.PORE_HOST_DOWN: "host_down",
    lib.PORE_REFUSED: "refused",
}


def error(result: int, reason: str = "closed") -> PoreError:
    """The error that a negative result of the C core means."""
    number = -result
    if number == errno.EBADF:
        return PoreClosed(reason, number)
    if number == errno.EPIPE:
        return PoreClosed(reason, number)
    if number == errno.EBADMSG:
        return PoreCorrupt()
    return PoreError(number)


def straw_pages(ring_bytes: int = 0) -> int:
    """Pages of a straw: 8 for LING's layout (ring_bytes 0), else of a wide one. ValueError: no such size."""
    pages = lib.pore_straw_pages(ring_bytes) if 0 <= ring_bytes <= RING_MAX else 0
    if not pages:
        raise ValueError(f"ring_bytes is 0 or a power of two from {RING_MIN} to {RING_MAX}, not {ring_bytes}")
    return pages


def memory(fd: int, pages: int, page_index: Sequence[int] | None, xen: bool = False) -> tuple[Any, Any]:
    """A struct pore_memory, and what has to stay alive as long as it. xen: of gntalloc or gntdev."""
    if page_index is not None and len(page_index) != pages:
        raise ValueError(f"{pages} pages are needed, not {len(page_index)}")
    index = ffi.NULL if page_index is None else ffi.new("uint32_t[]", list(page_index))
    platform = lib.PORE_XEN if xen else lib.PORE_LOCAL
    fields = {"fd": fd, "pages": pages, "page_index": index, "platform": platform}
    return ffi.new("struct pore_memory *", fields), index


def tube_refs(memory_fd: int, page: int = 0, xen: bool = False) -> list[int]:
    """The 64 grant references that a tube's page names, tx buffers first. PoreError when the memory is not sealed."""
    refs = ffi.new("uint32_t[]", TUBE_BUFFERS)
    struct, _alive = memory(memory_fd, 1, None if xen else [page], xen)
    result = lib.pore_tube_refs(struct, refs)
    if result < 0:
        raise error(result)
    return list(refs)


# ---- Xen's devices: each of these returns a descriptor, for the caller to close ----


def xen_grant(own: int, peer: int, pages: int) -> tuple[int, tuple[int, ...]]:
    """(descriptor, refs) of pages granted to a domain. PoreError ENOSPC: the kernel's limit; EINVAL: our own domain."""
    refs = ffi.new("uint32_t[]", pages)
    fd = _descriptor(lib.xen_grant(own, peer, pages, refs), "gntalloc")
    return fd, tuple(refs)


def xen_still_mapped(grant: int, pages: int) -> bool:
    """Whether the peer says that it has it mapped; one that does not say has not."""
    result = lib.xen_still_mapped(grant, pages)
    if result < 0:
        raise error(result)
    return bool(result)


def xen_map(peer: int, refs: Sequence[int]) -> int:
    return _descriptor(lib.xen_map(peer, ffi.new("uint32_t[]", list(refs)), len(refs)), "gntdev")


def xen_alloc_channel(peer: int) -> tuple[int, int]:
    """(descriptor, port)"""
    port = ffi.new("uint32_t *")
    return _descriptor(lib.xen_alloc_channel(peer, port), "evtchn"), port[0]


def xen_bind_channel(peer: int, peer_port: int) -> tuple[int, int]:
    """(descriptor, our port)"""
    port = ffi.new("uint32_t *")
    return _descriptor(lib.xen_bind_channel(peer, peer_port, port), "evtchn"), port[0]


def xen_lock(kind: str) -> int:
    """The lock of the domain's one strawman ("straw") or its like for tubes ("tube"); PoreError EBUSY."""
    return _descriptor(lib.xen_lock(lib.XEN_LOCK_TUBE if kind == "tube" else lib.XEN_LOCK_STRAW), "gntalloc")


def _descriptor(result: int, device: str) -> int:
    if result < 0:
        raise PoreError(-result, f"/dev/xen/{device}")
    return result


class HostMessage(NamedTuple):
    """A reply or an event of the host. `fd` is the receiver's to close; -1: none."""

    event: bool
    op: int
    status: int  # 0 or -errno
    sequence: int
    args: tuple[int, ...]
    fd: int


class HostConnection:
    """A domain's control connection to the host (docs/host-protocol.md): messages, never blocking.

    Descriptors that come with a message are checked before it is seen: memory is sealed and large enough, channels are
    sockets.
    """

    def __init__(self, host: Any) -> None:
        self._host = ffi.gc(host, lib.host_close)
        self._message = ffi.new("struct host_message *")

    @classmethod
    def connect(cls, path: str) -> HostConnection:
        """PoreError with ENOENT or ECONNREFUSED when nobody listens there, EAGAIN when its queue is full."""
        host = ffi.new("struct host **")
        result = lib.host_connect(path.encode(), host)
        if result < 0:
            raise error(result)
        return cls(host[0])

    @classmethod
    def from_fd(cls, fd: int) -> HostConnection:
        """Takes a connected AF_UNIX SOCK_SEQPACKET socket over; the caller's still when it raises PoreError."""
        host = ffi.new("struct host **")
        result = lib.host_from_fd(fd, host)
        if result < 0:
            raise error(result)
        return cls(host[0])

    def fileno(self) -> int:
        """To be polled; PoreClosed("host_down") when the host is gone or close() was called."""
        return self._checked(lib.host_fd(self._host) if self._host is not None else -errno.EPIPE)

    def send(self, op: int, args: Sequence[int] = ()) -> int | None:
        """The sequence number that the reply will have; None: the socket is full. PoreClosed when the host is gone."""
        if self._host is None:
            raise PoreClosed("host_down")
        result = lib.host_send(self._host, op, ffi.new("uint32_t[]", list(args)), len(args))
        return None if result == -errno.EAGAIN else self._checked(result)

    def receive(self) -> HostMessage | None:
        """The next message, None when there is none now.

        PoreClosed("host_down") when the host is gone, PoreError(EPROTO) when it broke the protocol: then the connection
        is closed.
        """
        if self._host is None:
            raise PoreClosed("host_down")
        message = self._message
        if not self._checked(lib.host_receive(self._host, message)):
            return None
        args = tuple(ffi.unpack(message.args, message.count))
        event = message.kind == lib.HOST_EVENT
        return HostMessage(event, message.op, message.status, message.sequence, args, message.fd)

    def close(self) -> None:
        if self._host is not None:
            host, self._host = self._host, None
            ffi.gc(host, None)
            lib.host_close(host)

    def __enter__(self) -> HostConnection:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            raise error(result, "host_down")
        return result
