"""The seam between the distribution protocol and what carries its bytes: TCP now, TLS and pores later.

A transport is a connected, non-blocking stream of bytes with readiness callbacks. Not here: framing, handshakes,
addresses of nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

__all__ = ["Buffer", "Transport"]

Buffer = bytes | bytearray | memoryview


class Transport(Protocol):
    """A connected stream. recv_into and sendmsg never block: BlockingIOError means "wait for the callback"."""

    #: Bytes of the length field of handshake frames: 2, or 4 (TLS).
    header: int
    #: Who is at the other end, for log lines.
    remote: str

    def recv_into(self, buffer: memoryview | bytearray, /) -> int:
        """Bytes received, 0 at the end of the stream. BlockingIOError, OSError."""
        ...

    def sendmsg(self, buffers: Sequence[Buffer], /) -> int:
        """Bytes taken, maybe fewer than given. BlockingIOError, OSError."""
        ...

    def waiting(self) -> bool:
        """Whether bytes (or the end, or an error) wait to be received."""
        ...

    def on_readable(self, callback: Callable[[], None] | None, /) -> None:
        """Call it whenever there is something to receive; None: no longer."""
        ...

    def on_writable(self, callback: Callable[[], None] | None, /) -> None:
        """Call it whenever there is room to send; None: no longer."""
        ...

    def end_writing(self) -> None:
        """Nothing more will be sent; the other side sees the end after all that was sent."""
        ...

    def close(self) -> None:
        """Give everything back. May be called twice."""
        ...
