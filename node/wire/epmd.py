"""The protocol of epmd, the port mapper of Erlang: its messages, and the client's side of one connection.

Sans-IO. One TCP connection carries one request: epmd answers and closes, except that an accepted registration
lasts as long as its connection. Requests have a 2-byte length in front; replies have none and are told apart by
their first byte or, for the two texts, end with the connection. Spec: OTP's "Distribution Protocol", section
"EPMD Protocol". The server's side is `epmd_server.py`; sockets are in `node.net`.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

from ..errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "ALIVE2_REQ",
    "ALIVE2_RESP",
    "ALIVE2_X_RESP",
    "CLIENT_TABLE",
    "DEFAULT_PORT",
    "DUMP_REQ",
    "EMBEDDED_MARK",
    "HIDDEN",
    "KILL_REQ",
    "MAX_EXTRA",
    "MAX_NAME",
    "MAX_REQUEST",
    "MAX_TEXT",
    "NAMES_REQ",
    "PORT2_RESP",
    "PORT_PLEASE2_REQ",
    "STOP_REQ",
    "VISIBLE",
    "Accepted",
    "Alive",
    "ClientConnection",
    "ClientEvent",
    "Dump",
    "Dumped",
    "Found",
    "Kill",
    "Lost",
    "Named",
    "Names",
    "PortInfo",
    "PortPlease",
    "Refused",
    "Request",
    "Stop",
    "TimedOut",
    "encode_alive_reply",
    "encode_port_reply",
    "encode_request",
    "parse_request",
]

DEFAULT_PORT: Final = 4369

ALIVE2_REQ: Final = 120
PORT_PLEASE2_REQ: Final = 122
NAMES_REQ: Final = 110
DUMP_REQ: Final = 100
KILL_REQ: Final = 107
STOP_REQ: Final = 115
ALIVE2_RESP: Final = 121
ALIVE2_X_RESP: Final = 118
PORT2_RESP: Final = 119

VISIBLE: Final = 77
"""NodeType of an ordinary node ('M')."""
HIDDEN: Final = 72
"""NodeType of a hidden node ('H'), as C nodes are."""

MAX_NAME: Final = 255
"""Characters in a node's name, as in an atom (up to four times as many bytes)."""
MAX_EXTRA: Final = 4 * MAX_NAME
"""Bytes in the extra field: real epmd keeps as many."""
MAX_REQUEST: Final = 3 * 4 * MAX_NAME
"""Bytes in a request after its length: the size of real epmd's buffer; the largest registration fits."""
MAX_TEXT: Final = 4 << 20
"""Bytes in a text reply (names, dump): room for 4,000 of the longest names, and a bound on what we hold."""

X_VERSION: Final = 6
"""From this highest version on a registration is answered with a 32-bit creation."""

EMBEDDED_MARK: Final = b"embedded in strawbridge"
"""Begins the first line of the dump of our own server: nodes tell by it that it will end with its node."""


@dataclass(frozen=True, slots=True)
class PortInfo:
    """What epmd knows of one name. port: where it listens; lowest..highest: its distribution versions."""

    name: str
    port: int
    node_type: int = VISIBLE
    protocol: int = 0
    highest: int = 6
    lowest: int = 5
    extra: bytes = b""

    @property
    def hidden(self) -> bool:
        """True for a node that registered as hidden."""
        return self.node_type == HIDDEN


@dataclass(frozen=True, slots=True)
class Alive:
    """ALIVE2_REQ: register this name for as long as the connection lasts."""

    info: PortInfo


@dataclass(frozen=True, slots=True)
class PortPlease:
    """PORT_PLEASE2_REQ: on which port is this name?"""

    name: str


@dataclass(frozen=True, slots=True)
class Names:
    """NAMES_REQ: all names and ports, as text."""


@dataclass(frozen=True, slots=True)
class Dump:
    """DUMP_REQ: all that epmd holds, as text for people."""


@dataclass(frozen=True, slots=True)
class Kill:
    """KILL_REQ: end epmd."""


@dataclass(frozen=True, slots=True)
class Stop:
    """STOP_REQ: forget a name. Real epmd does so only with -relaxed_command_check."""

    name: str


Request: TypeAlias = Alive | PortPlease | Names | Dump | Kill | Stop


@dataclass(frozen=True, slots=True)
class Accepted:
    """We are registered. creation: what epmd handed out; OTP and we choose our own and ignore it."""

    creation: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The registration was refused: result 1 stands for a name that is taken."""

    result: int


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a look-up; info is None for a name that epmd does not know."""

    info: PortInfo | None


@dataclass(frozen=True, slots=True)
class Named:
    """The answer to Names. port: the one epmd itself listens on; names: (name, port) in epmd's order."""

    port: int
    names: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Dumped:
    """The answer to Dump. port: the one epmd itself listens on; text: undecoded, lines end in newline and often NUL."""

    port: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """epmd closed the connection of our registration: the name is free now."""


@dataclass(frozen=True, slots=True)
class TimedOut:
    """No whole answer came in time."""


ClientEvent: TypeAlias = Accepted | Refused | Found | Named | Dumped | Lost | TimedOut


# ---- requests -------------------------------------------------------------------------------------------------


def encode_request(request: Request) -> bytes:
    """The bytes of a request, its 2-byte length in front. LocalProtocolError for a name or port that can't be sent."""
    match request:
        case Alive(info):
            name = _name_out(info.name)
            if not 0 <= info.port <= 0xFFFF:
                raise LocalProtocolError(f"port {info.port} is not in 0..65535")
            if len(info.extra) > MAX_EXTRA:
                raise LocalProtocolError(f"the extra field has {len(info.extra)} bytes, {MAX_EXTRA} are the most")
            body = (
                struct.pack(
                    ">BHBBHHH",
                    ALIVE2_REQ,
                    info.port,
                    info.node_type,
                    info.protocol,
                    info.highest,
                    info.lowest,
                    len(name),
                )
                + name
                + struct.pack(">H", len(info.extra))
                + info.extra
            )
        case PortPlease(name=wanted):
            body = bytes([PORT_PLEASE2_REQ]) + _name_out(wanted)
        case Names():
            body = bytes([NAMES_REQ])
        case Dump():
            body = bytes([DUMP_REQ])
        case Kill():
            body = bytes([KILL_REQ])
        case Stop(name=wanted):
            body = bytes([STOP_REQ]) + _name_out(wanted)
    return struct.pack(">H", len(body)) + body


def parse_request(body: bytes) -> Request:
    """One request without its length. RemoteProtocolError for anything else.

    As real epmd: bytes after the extra field are ignored, and so is a NUL after a name that is looked up.
    """
    if not body:
        raise RemoteProtocolError("an empty request")
    tag, rest = body[0], body[1:]
    if tag == ALIVE2_REQ:
        return Alive(_info_in(rest))
    if tag == PORT_PLEASE2_REQ:
        return PortPlease(_name_in(rest.removesuffix(b"\0")))
    if tag == STOP_REQ:
        return Stop(_name_in(rest.removesuffix(b"\0")))
    if tag == NAMES_REQ:
        return Names()
    if tag == DUMP_REQ:
        return Dump()
    if tag == KILL_REQ:
        return Kill()
    raise RemoteProtocolError(f"unknown epmd request {tag}")


def _info_in(rest: bytes) -> PortInfo:
    """The fields after the tag of ALIVE2_REQ and after the result of PORT2_RESP: they are the same."""
    info, _used = _take_info(rest)
    if info is None:
        raise RemoteProtocolError("a registration that ends early")
    return info


def _take_info(data: bytes) -> tuple[PortInfo | None, int]:
    """(info, bytes used), or (None, 0) while data is too short. RemoteProtocolError when it can't become one."""
    if len(data) < 10:
        return None, 0
    port, node_type, protocol, highest, lowest, name_size = struct.unpack_from(">HBBHHH", data)
    if not 1 <= name_size <= 4 * MAX_NAME:
        raise RemoteProtocolError(f"a name of {name_size} bytes")
    end = 10 + name_size
    if len(data) < end + 2:
        return None, 0
    name = _name_in(data[10:end])
    (extra_size,) = struct.unpack_from(">H", data, end)
    if extra_size > MAX_EXTRA:
        raise RemoteProtocolError(f"an extra field of {extra_size} bytes")
    end += 2
    if len(data) < end + extra_size:
        return None, 0
    extra = data[end : end + extra_size]
    return PortInfo(name, port, node_type, protocol, highest, lowest, extra), end + extra_size


def _name_out(name: str) -> bytes:
    if not 1 <= len(name) <= MAX_NAME:
        raise LocalProtocolError(f"a name has 1 to {MAX_NAME} characters, not {len(name)}")
    if not _name_is_clean(name):
        raise LocalProtocolError(f"{name!r} has a space or a control character in it")
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise LocalProtocolError(f"{name!r} has a lone surrogate in it") from None


def _name_in(raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError("a name that is not UTF-8") from None
    if not 1 <= len(name) <= MAX_NAME:
        raise RemoteProtocolError(f"a name of {len(name)} characters")
    if not _name_is_clean(name):
        raise RemoteProtocolError("a name with a space or a control character in it")
    return name


def _name_is_clean(name: str) -> bool:
    """No white space or control characters: they would forge lines in the answer to Names."""
    return not any(char.isspace() or char < " " or "\x7f" <= char <= "\x9f" for char in name)


# ---- replies --------------------------------------------------------------------------------------------------


def encode_alive_reply(result: int, creation: int, highest: int) -> bytes:
    """ALIVE2_X_RESP for peers of version 6 on, else ALIVE2_RESP, whose creation has 16 bits."""
    if highest >= X_VERSION:
        return struct.pack(">BBI", ALIVE2_X_RESP, result, creation)
    return struct.pack(">BBH", ALIVE2_RESP, result, creation)


def encode_port_reply(info: PortInfo | None) -> bytes:
    """PORT2_RESP; None says that the name is not known."""
    if info is None:
        return bytes([PORT2_RESP, 1])
    name = info.name.encode()
    head = struct.pack(
        ">BBHBBHHH", PORT2_RESP, 0, info.port, info.node_type, info.protocol, info.highest, info.lowest, len(name)
    )
    return head + name + struct.pack(">H", len(info.extra)) + info.extra


# ---- the client's side of one connection ----------------------------------------------------------------------

CLIENT_TABLE: Final = {
    # (state, input): next state. Anything not listed is the peer's mistake (data) or changes nothing (timer).
    ("asking", "accepted"): "registered",
    ("asking", "answered"): "done",
    ("asking", "timer"): "done",
    ("registered", "closed"): "done",
    ("done", "closed"): "done",
    ("done", "timer"): "done",
    ("registered", "timer"): "registered",
}

_LINE: Final = re.compile(rb"name ([^ ]+) at port ([0-9]{1,5})\Z")


class ClientConnection:
    """One request to epmd, from its bytes to its event.

    now, timeout: seconds; an answer that is not whole by now + timeout is TimedOut. A registration has no
    time limit once it was accepted. State: 'asking', 'registered' or 'done' (see CLIENT_TABLE).
    """

    def __init__(self, request: Request, now: float = 0.0, timeout: float | None = None) -> None:
        self.request = request
        self.state = "asking"
        self._out = encode_request(request)
        self._in = bytearray()
        self._events: list[ClientEvent] = []
        self._deadline = None if timeout is None else now + timeout

    def data_to_send(self) -> bytes:
        """What is to be written now; b'' when nothing is."""
        out, self._out = self._out, b""
        return out

    def receive_data(self, data: bytes) -> None:
        """Bytes that came; b'' says that epmd closed. RemoteProtocolError: they are no answer to our request."""
        if self.state != "asking":
            if not data:
                self._closed()
                return
            self.state = "done"
            raise RemoteProtocolError("epmd sent more than its answer")
        try:
            if data:
                self._in += data
                self._read()
            else:
                self._closed()
        except RemoteProtocolError:
            self.state = "done"
            raise

    def next_event(self) -> ClientEvent | None:
        """The oldest event that was not handed out yet, or None."""
        return self._events.pop(0) if self._events else None

    def get_timer(self) -> float | None:
        """When handle_timer wants to be called, in the caller's seconds; None for never."""
        return self._deadline if self.state == "asking" else None

    def handle_timer(self, now: float) -> None:
        """Give up when the deadline has passed."""
        timer = self.get_timer()
        if timer is not None and now >= timer:
            self._step("timer", TimedOut())

    def _step(self, what: str, event: ClientEvent) -> None:
        self.state = CLIENT_TABLE[self.state, what]
        self._events.append(event)

    def _read(self) -> None:
        match self.request:
            case Alive():
                self._read_alive()
            case PortPlease():
                self._read_port()
            case _:
                # texts end with the connection
                if len(self._in) > MAX_TEXT:
                    raise RemoteProtocolError(f"more than {MAX_TEXT} bytes of text from epmd")

    def _read_alive(self) -> None:
        data = self._in
        size = {ALIVE2_RESP: 4, ALIVE2_X_RESP: 6}.get(data[0])
        if size is None:
            raise RemoteProtocolError(f"epmd answered a registration with {data[0]}")
        if len(data) > size:
            raise RemoteProtocolError("epmd sent more than its answer")
        if len(data) == size:
            creation = int.from_bytes(data[2:], "big")
            if data[1] == 0:
                self._step("accepted", Accepted(creation))
            else:
                self._step("answered", Refused(data[1]))

    def _read_port(self) -> None:
        data = self._in
        if data[0] != PORT2_RESP:
            raise RemoteProtocolError(f"epmd answered a look-up with {data[0]}")
        if len(data) < 2:
            return
        if data[1] != 0:
            info, used = None, 0
        else:
            info, used = _take_info(bytes(data[2:]))
            if info is None:
                return
        if len(data) > 2 + used:
            raise RemoteProtocolError("epmd sent more than its answer")
        self._step("answered", Found(info))

    def _closed(self) -> None:
        if self.state == "registered":
            self._step("closed", Lost())
        elif self.state == "asking":
            match self.request:
                case Names():
                    self._step("answered", _parse_names(bytes(self._in)))
                case Dump():
                    data = bytes(self._in)
                    self._step("answered", Dumped(_own_port(data), data[4:]))
                case _:
                    raise RemoteProtocolError("epmd closed the connection without a whole answer")


def _own_port(data: bytes) -> int:
    if len(data) < 4:
        raise RemoteProtocolError("epmd closed the connection without a whole answer")
    port = int.from_bytes(data[:4], "big")
    if port > 0xFFFF:
        raise RemoteProtocolError(f"epmd says that it listens on port {port}")
    return port


def _parse_names(data: bytes) -> Named:
    port = _own_port(data)
    text = data[4:]
    if text and not text.endswith(b"\n"):
        raise RemoteProtocolError("the list of names ends within a line")
    names = []
    for line in text.split(b"\n")[:-1]:
        found = _LINE.match(line)
        if found is None or int(found[2]) > 0xFFFF:
            raise RemoteProtocolError("a line in the list of names that is none")
        names.append((_name_in(found[1]), int(found[2])))
    return Named(port, tuple(names))
