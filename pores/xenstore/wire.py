"""XenStore's messages, and both ends of a connection as machines without sockets.

A message is op, request id, transaction id and length (u32, little-endian each), then at most 4096 bytes. Requests
are answered by one reply with the same ids; events come in between. Spec: Xen's io/xs_wire.h, docs/misc/xenstore.txt.

Both machines: `receive_data`, `next_event`, `data_to_send`; there are no timers. Whatever bytes come in, nothing but
XenstoreError EPROTO comes out, at the same message whether they come whole or one by one, and always from then on.
A length is checked as soon as the header is there.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from ..errors import XenstoreError

__all__ = [
    "ERROR_NAMES",
    "MAX_PAYLOAD",
    "ClientConnection",
    "ClientEvent",
    "Message",
    "MessageReader",
    "Op",
    "Refused",
    "Replied",
    "ServerConnection",
    "WatchFired",
    "encode",
    "one_string",
    "strings",
]

MAX_PAYLOAD: Final = 4096
"""Bytes after a header (XENSTORE_PAYLOAD_MAX): a client or server that announces more is cut off."""

HEADER: Final = struct.Struct("<4I")

ERROR_NAMES: Final = frozenset(
    {"EINVAL", "EACCES", "EEXIST", "EISDIR", "ENOENT", "ENOMEM", "ENOSPC", "EIO"}
    | {"ENOTEMPTY", "ENOSYS", "EROFS", "EBUSY", "EAGAIN", "EISCONN", "E2BIG", "EPERM"}
)
"""What a reply of op ERROR may say."""

_ERROR: Final = re.compile(rb"(E[A-Z0-9]{1,30})\0")
_MAX_RID: Final = 0xFFFF_FFFF


class Op(IntEnum):
    """Kinds of messages (enum xsd_sockmsg_type)."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22


class Message(NamedTuple):
    """A request, a reply or a watch event: struct xsd_sockmsg of Xen's io/xs_wire.h, and what follows it."""

    op: int
    rid: int  # the request's own number, given back by its reply; 0: an event
    tid: int  # of a transaction; 0: none
    payload: bytes


def encode(message: Message) -> bytes:
    """A whole message; XenstoreError E2BIG when its payload is too long."""
    size = len(message.payload)
    if size > MAX_PAYLOAD:
        raise XenstoreError("E2BIG", detail=f"{size} bytes")
    return HEADER.pack(message.op, message.rid, message.tid, size) + message.payload


def strings(payload: bytes) -> list[bytes]:
    """Its NUL-terminated strings; what follows the last NUL is no string."""
    return payload.split(b"\0")[:-1]


def one_string(payload: bytes) -> bytes:
    """The one NUL-terminated string that it must be; XenstoreError EINVAL."""
    if payload.count(b"\0") != 1 or payload[-1]:
        raise XenstoreError("EINVAL", detail="not one string")
    return payload[:-1]


class MessageReader:
    """Cuts a stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._start = 0
        self._error: XenstoreError | None = None

    @property
    def pending(self) -> int:
        """Bytes held that are not yet taken as messages."""
        return len(self._buffer) - self._start

    def feed(self, data: bytes) -> None:
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def next(self) -> Message | None:
        """The next whole message, None until there is one; XenstoreError EPROTO."""
        if self._error is not None:
            raise self._error
        start = self._start
        if len(self._buffer) - start < HEADER.size:
            return None
        op, rid, tid, size = HEADER.unpack_from(self._buffer, start)
        if size > MAX_PAYLOAD:
            raise self.broken(f"a message of {size} bytes")
        end = start + HEADER.size + size
        if len(self._buffer) < end:
            return None
        self._start = end
        return Message(op, rid, tid, bytes(self._buffer[start + HEADER.size : end]))

    def broken(self, why: str) -> XenstoreError:
        """Ends the stream: nothing more is read from it. Returns the error to raise."""
        self._error = XenstoreError("EPROTO", detail=why)
        self._buffer.clear()
        self._start = 0
        return self._error


class ServerConnection:
    """The store's end of one connection.

    An event that is waiting unsent just as it is, with no reply queued after it, is not queued again: a client that
    reads slowly is told once (xenstored does likewise).
    """

    def __init__(self) -> None:
        self._reader = MessageReader()
        self._out: list[bytes] = []
        self._waiting: set[bytes] = set()
        self.unsent = 0
        """Bytes waiting to be taken by `data_to_send`."""

    @property
    def pending(self) -> int:
        return self._reader.pending

    def receive_data(self, data: bytes) -> None:
        self._reader.feed(data)

    def next_event(self) -> Message | None:
        """The next request; any op may be in it. XenstoreError EPROTO."""
        return self._reader.next()

    def reply(self, request: Message, payload: bytes = b"OK\0") -> None:
        if len(payload) > MAX_PAYLOAD:
            self.refuse(request, "E2BIG")
        else:
            self._waiting.clear()
            self._queue(encode(Message(request.op, request.rid, request.tid, payload)))

    def refuse(self, request: Message, name: str) -> None:
        """name: the errno's; one that XenStore does not know is told as EINVAL."""
        self._waiting.clear()
        name = name if name in ERROR_NAMES else "EINVAL"
        self._queue(encode(Message(Op.ERROR, request.rid, request.tid, name.encode() + b"\0")))

    def event(self, path: bytes, token: bytes) -> None:
        payload = b"%b\0%b\0" % (path, token)
        # Too long ones can't be sent at all; nor does xenstored.
        if payload not in self._waiting and len(payload) <= MAX_PAYLOAD:
            if path[:1] != b"@":
                self._waiting.add(payload)
            self._queue(encode(Message(Op.WATCH_EVENT, 0, 0, payload)))

    def _queue(self, data: bytes) -> None:
        self._out.append(data)
        self.unsent += len(data)

    def data_to_send(self) -> bytes:
        """All that waits; it counts as sent from now on."""
        data = b"".join(self._out)
        self._out.clear()
        self._waiting.clear()
        self.unsent = 0
        return data


@dataclass(frozen=True, slots=True)
class Replied:
    """The request `rid` was carried out."""

    rid: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The request `rid` was not carried out; name: why, the errno's name."""

    rid: int
    name: str


@dataclass(frozen=True, slots=True)
class WatchFired:
    """A watch of ours told something; path: as the watch was given."""

    path: str
    token: bytes


ClientEvent: TypeAlias = Replied | Refused | WatchFired


class ClientConnection:
    """A client's end of one connection. Requests may be sent without waiting for replies."""

    def __init__(self) -> None:
        self._reader = MessageReader()
        self._out: list[bytes] = []
        self._asked: dict[int, tuple[int, int]] = {}
        self._last_rid = 0

    def request(self, op: Op, payload: bytes, tid: int = 0) -> int:
        """Queues a request; returns the rid that its reply will have. E2BIG when it is too long: nothing is queued."""
        rid = self._last_rid
        while True:
            rid = rid % _MAX_RID + 1
            if rid not in self._asked:
                break
        self._out.append(encode(Message(op, rid, tid, payload)))
        self._last_rid = rid
        self._asked[rid] = (op, tid)
        return rid

    def data_to_send(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def receive_data(self, data: bytes) -> None:
        self._reader.feed(data)

    def next_event(self) -> ClientEvent | None:
        """What came next, None until more has come; XenstoreError EPROTO for what no store sends."""
        message = self._reader.next()
        if message is None:
            return None
        if message.op == Op.WATCH_EVENT:
            parts = strings(message.payload)
            if len(parts) < 2:
                raise self._reader.broken("an event without path and token")
            return WatchFired(parts[0].decode("latin-1"), parts[1])
        asked = self._asked.pop(message.rid, None)
        if asked is None:
            raise self._reader.broken(f"a reply to nothing asked, {message.rid}")
        op, tid = asked
        if message.tid != tid:
            raise self._reader.broken(f"a reply with another transaction, {message.tid} for {tid}")
        if message.op == Op.ERROR:
            match = _ERROR.fullmatch(message.payload)
            if match is None:
                raise self._reader.broken("an error without a name")
            return Refused(message.rid, match[1].decode())
        if message.op != op:
            raise self._reader.broken(f"a reply of kind {message.op} to a request of kind {op}")
        return Replied(message.rid, message.payload)
