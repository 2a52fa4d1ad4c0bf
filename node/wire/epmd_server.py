"""The server's side of the epmd protocol: the table of names, and one connection to it.

Sans-IO: no sockets, no clock, no random numbers; `node.net.epmd_server` brings them. What the real epmd does is
done here too, except that KILL and STOP are always refused: this server ends with the node that embeds it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..errors import RemoteProtocolError
from .epmd import (
    EMBEDDED_MARK,
    MAX_REQUEST,
    X_VERSION,
    Alive,
    Dump,
    Kill,
    Names,
    PortInfo,
    PortPlease,
    Request,
    Stop,
    encode_alive_reply,
    encode_port_reply,
    parse_request,
)

__all__ = ["FAILED_CREATION", "IDLE_TIMEOUT", "MAX_NAMES", "SERVER_TABLE", "NameTable", "ServerConnection"]

IDLE_TIMEOUT: Final = 30.0
"""Seconds in which a connection must have sent its request (real epmd: 60). Registrations may stay for ever."""
MAX_NAMES: Final = 1000
"""Names in one table: more than a host runs nodes, and a bound on what a local program can make us hold."""
FAILED_CREATION: Final = 99
"""What real epmd puts in the creation field of a refusal."""


class NameTable:
    """Who is registered. new_creation: gives a random number from 1 to 2**32 - 1, another at each call."""

    def __init__(self, new_creation: Callable[[], int], max_names: int = MAX_NAMES) -> None:
        self._new_creation = new_creation
        self._max_names = max_names
        self._names: dict[str, PortInfo] = {}

    def register(self, info: PortInfo) -> int | None:
        """The creation for a name that was free; None when it is taken, or the table is full."""
        if info.name in self._names or len(self._names) >= self._max_names:
            return None
        self._names[info.name] = info
        creation = self._new_creation()
        # Before version 6 a creation had two bits, and 0 is reserved.
        return creation if info.highest >= X_VERSION else creation % 3 + 1

    def release(self, name: str) -> None:
        """The connection that registered this name is gone."""
        del self._names[name]

    def lookup(self, name: str) -> PortInfo | None:
        """What was registered under this name."""
        return self._names.get(name)

    def names(self) -> list[PortInfo]:
        """All, the newest first, as real epmd lists them."""
        return list(reversed(self._names.values()))


SERVER_TABLE: Final = {
    # (state, request): (what is done, next state). Requests in any other state can't come: nothing is read then.
    ("reading", Alive): ("register", "registered"),  # or 'closing', when the name is taken
    ("reading", PortPlease): ("lookup", "closing"),
    ("reading", Names): ("names", "closing"),
    ("reading", Dump): ("dump", "closing"),
    ("reading", Kill): ("kill", "closing"),
    ("reading", Stop): ("stop", "closing"),
}

LOCAL_ONLY: Final = (Alive, Dump, Kill, Stop)
"""Requests which real epmd takes from its own host only."""


class ServerConnection:
    """One connection to our epmd.

    table: shared by all connections; port: the one we listen on, for the texts; local: does the peer run on this
    host; now: seconds. State: 'reading' a request, 'registered' (the name lives as long as the connection) or
    'closing': write data_to_send, then close. Call `closed` exactly when the connection is gone, whoever ended it.
    """

    def __init__(self, table: NameTable, *, port: int, local: bool, now: float, about: str = "") -> None:
        self.state = "reading"
        self.registered: PortInfo | None = None
        self._table = table
        self._port = port
        self._local = local
        self._about = about
        self._deadline = now + IDLE_TIMEOUT
        self._in = bytearray()
        self._out = bytearray()
        self._events: list[Request] = []

    def receive_data(self, data: bytes) -> None:
        """Bytes that came; b'' says that the peer closed. RemoteProtocolError: not a request; close the connection."""
        if not data:
            self.closed()
        elif self.state == "reading":
            try:
                self._read(data)
            except RemoteProtocolError:
                self.state = "closing"
                raise
        elif self.state == "registered":
            self.state = "closing"
            raise RemoteProtocolError("bytes after a registration")

    def next_event(self) -> Request | None:
        """The request that was just answered, for logs and tests; None when there was none."""
        return self._events.pop(0) if self._events else None

    def data_to_send(self) -> bytes:
        """What is to be written now; b'' when nothing is."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def get_timer(self) -> float | None:
        """When handle_timer wants to be called; None for never (a registration has no time limit)."""
        return None if self.state == "registered" else self._deadline

    def handle_timer(self, now: float) -> None:
        """A connection that sends no request, or does not read its answer, is to be dropped: state is 'closing'."""
        timer = self.get_timer()
        if timer is not None and now >= timer:
            self.state = "closing"

    def closed(self) -> None:
        """The connection is gone: its name is free again. May be called twice."""
        self.state = "closing"
        if self.registered is not None:
            self._table.release(self.registered.name)
            self.registered = None

    def _read(self, data: bytes) -> None:
        self._in += data
        if len(self._in) < 2:
            return
        size = int.from_bytes(self._in[:2], "big")
        if not 1 <= size <= MAX_REQUEST:
            raise RemoteProtocolError(f"a request of {size} bytes")
        if len(self._in) < 2 + size:
            return
        if len(self._in) > 2 + size:
            raise RemoteProtocolError("more than one request on a connection")
        request = parse_request(bytes(self._in[2:]))
        self._in.clear()
        if not self._local and isinstance(request, LOCAL_ONLY):
            raise RemoteProtocolError(f"{type(request).__name__} from another host")
        action, self.state = SERVER_TABLE[self.state, type(request)]
        self._events.append(request)
        self._act(action, request)

    def _act(self, action: str, request: Request) -> None:
        match request:
            case Alive(info):
                self._register(info)
            case PortPlease(name):
                self._out += encode_port_reply(self._table.lookup(name))
            case Names():
                self._out += self._port.to_bytes(4, "big")
                for info in self._table.names():
                    self._out += f"name {info.name} at port {info.port}\n".encode()
            case Dump():
                # Real epmd writes the file descriptor here; ours would tell nobody anything. Lines end in NUL there.
                self._out += self._port.to_bytes(4, "big") + EMBEDDED_MARK + f"{self._about}\n\0".encode()
                for info in self._table.names():
                    self._out += f"active name     <{info.name}> at port {info.port}, fd = 0\n\0".encode()
            case Kill():
                self._out += b"NO"
            case Stop():
                pass  # real epmd without -relaxed_command_check says nothing and closes

    def _register(self, info: PortInfo) -> None:
        creation = self._table.register(info)
        if creation is None:
            self.state = "closing"
            self._out += encode_alive_reply(1, FAILED_CREATION, info.highest)
        else:
            self.registered = info
            self._out += encode_alive_reply(0, creation, info.highest)
