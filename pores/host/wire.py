"""The host's protocol: packets on a SOCK_SEQPACKET socket, little-endian, no socket in here.

request = op u16, 0 u16, seq u32, args u32…; reply = op|0x8000 u16, status i16 (0 or -errno), seq u32, results u32…;
event = op|0x4000 u16, 0 u16, 0 u32, args u32…. See docs/host-protocol.md.
"""

from __future__ import annotations

import errno
import struct
from typing import Final

__all__ = [
    "DOMAINS",
    "DOMAIN_GONE",
    "END_ACCESS",
    "EVTCHN_ALLOC",
    "EVTCHN_BIND",
    "EVTCHN_CLOSE",
    "GRANT",
    "HELLO",
    "MAP",
    "MAX_ARGS",
    "MAX_PACKET",
    "UNMAP",
    "UNMAPPED",
    "VERSION",
    "XENSTORE",
    "Refused",
    "event",
    "parse_request",
    "reply",
]

VERSION: Final = 1
#: Bytes of a packet.
MAX_PACKET: Final = 4096
_HEADER = struct.Struct("<HHI")
_REPLY = struct.Struct("<HhI")
#: u32 arguments that fit behind a header.
MAX_ARGS: Final = (MAX_PACKET - _HEADER.size) // 4

HELLO, GRANT, END_ACCESS, MAP, UNMAP, EVTCHN_ALLOC, EVTCHN_BIND, EVTCHN_CLOSE, XENSTORE, DOMAINS = range(1, 11)
UNMAPPED, DOMAIN_GONE = 0x4001, 0x4002


class Refused(Exception):
    """A request that is answered with -errno."""

    def __init__(self, code: int) -> None:
        super().__init__(errno.errorcode.get(code, str(code)))
        self.code = code


def parse_request(packet: bytes) -> tuple[int, int, tuple[int, ...]]:
    """(op, seq, args). Refused(EINVAL) with no more to say when it is no request at all."""
    if len(packet) < _HEADER.size or len(packet) > MAX_PACKET or len(packet) % 4:
        raise Refused(errno.EINVAL)
    op, zero, seq = _HEADER.unpack_from(packet)
    if zero:
        raise Refused(errno.EINVAL)
    return op, seq, struct.unpack_from(f"<{(len(packet) - _HEADER.size) // 4}I", packet, _HEADER.size)


def reply(op: int, seq: int, results: tuple[int, ...] = (), code: int = 0) -> bytes:
    """A reply; code: errno, 0 for success."""
    return _REPLY.pack(op | 0x8000, -code, seq) + struct.pack(f"<{len(results)}I", *results)


def event(number: int, args: tuple[int, ...]) -> bytes:
    """An event (UNMAPPED, DOMAIN_GONE)."""
    return _HEADER.pack(number, 0, 0) + struct.pack(f"<{len(args)}I", *args)
