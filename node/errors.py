"""Every exception that node raises on purpose.

Errors carry data and never log; the edge that swallows one logs it once. Two kinds of protocol error are told
apart: *local* (the caller's fault) and *remote* (the peer's fault). On hostile input nothing but EtfError and
RemoteProtocolError comes out.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "CallError",
    "CallExit",
    "CallTimeout",
    "CookieError",
    "DecodeError",
    "EncodeError",
    "EpmdError",
    "EtfError",
    "HandshakeRefused",
    "LocalProtocolError",
    "NoConnection",
    "NoProc",
    "NodeDown",
    "NodeError",
    "PeerBusy",
    "ProcessExit",
    "ProtocolError",
    "RemoteError",
    "RemoteExit",
    "RemoteProtocolError",
    "RemoteThrow",
]


class NodeError(Exception):
    """Base of everything in this module."""


class EtfError(NodeError):
    """The external term format could not be read or written."""


class EncodeError(EtfError):
    """A Python value has no term, or none that the peer can take.

    path: where in the value, as Python would write it from the root, e.g. ``[3][1]['key']``; '' is the root.
    """

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(f"{reason} (at {path})" if path else reason)
        self.reason = reason
        self.path = path


class DecodeError(EtfError):
    """The bytes are not a term. offset: index of the first byte that could not be used."""

    def __init__(self, reason: str, offset: int = 0) -> None:
        super().__init__(f"{reason} (at byte {offset})")
        self.reason = reason
        self.offset = offset


class ProtocolError(NodeError):
    """A rule of the distribution protocol or of epmd was broken."""


class LocalProtocolError(ProtocolError):
    """The caller asked for something that the protocol does not allow in this state."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol does not allow."""


class HandshakeRefused(ProtocolError):
    """No connection was made, and why.

    reason: 'flags', 'cookie', 'name', 'not_allowed', 'nok', 'alive', 'timeout', 'closed' or 'version'.
    """

    def __init__(self, reason: str, detail: str, peer: str = "") -> None:
        super().__init__(f"{peer}: {detail}" if peer else detail)
        self.reason = reason
        self.detail = detail
        self.peer = peer


class CookieError(NodeError):
    """The cookie file is missing, unreadable, open to others or empty."""


class EpmdError(NodeError):
    """epmd could not be reached, or said no (a name that is taken, an unknown name)."""


class NoConnection(NodeError):
    """There is no connection to a node, and none could be made.

    node: its name; reason: what was tried and how it ended, in words.
    """

    def __init__(self, node: str, reason: str = "no connection") -> None:
        super().__init__(f"{node}: {reason}")
        self.node = node
        self.reason = reason


class NodeDown(NoConnection):
    """The connection to a node was there and ended while something was waiting on it."""


class PeerBusy(NodeError):
    """The hard limit of bytes queued to one peer is reached; nothing was queued."""

    def __init__(self, node: str, queued: int) -> None:
        super().__init__(f"{node}: {queued} bytes are waiting to be sent")
        self.node = node
        self.queued = queued


class CallError(NodeError):
    """A call to a process did not end with a reply."""


class CallTimeout(CallError, TimeoutError):
    """No reply within the time given, in seconds."""

    def __init__(self, timeout: float) -> None:
        super().__init__(f"no reply within {timeout:g} s")
        self.timeout = timeout


class NoProc(CallError):
    """There is no process with that pid or name."""

    def __init__(self, target: Any) -> None:
        super().__init__(f"no process {target!r}")
        self.target = target


class CallExit(CallError):
    """The process called ended before it replied. reason: its exit reason, a term."""

    def __init__(self, reason: Any) -> None:
        super().__init__(f"the process exited: {reason!r}")
        self.reason = reason


class ProcessExit(NodeError):
    """Raised by Process.exit(), and into a handler that an exit signal ends. reason: a term."""

    def __init__(self, reason: Any) -> None:
        super().__init__(repr(reason))
        self.reason = reason


class RemoteError(NodeError):
    """A function called by rpc raised an error. reason: a term; stack: its stack trace, a term."""

    def __init__(self, reason: Any, stack: Any = None) -> None:
        super().__init__(repr(reason))
        self.reason = reason
        self.stack = stack


class RemoteExit(NodeError):
    """A function called by rpc called exit/1, or its process was ended. reason: a term."""

    def __init__(self, reason: Any) -> None:
        super().__init__(repr(reason))
        self.reason = reason


class RemoteThrow(NodeError):
    """A function called by rpc threw. value: the term thrown."""

    def __init__(self, value: Any) -> None:
        super().__init__(repr(value))
        self.value = value
