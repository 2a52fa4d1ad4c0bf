"""Length framing of the handshake: 2 bytes big-endian over TCP, 4 bytes where the transport is TLS.

Only for the handshake. Once it is done the stream goes on in 4-byte frames, which the codec's FrameReader splits; the
bytes that came behind the last handshake frame are its `leftover` and are fed to that reader first.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import LocalProtocolError, RemoteProtocolError

__all__ = ["MAX_HANDSHAKE_FRAME", "Fields", "Framing", "frame"]

#: A handshake frame holds at most a name (255 characters, 1020 bytes in UTF-8) and a fixed part of 21 bytes; "extra
#: data after the name must be accepted and ignored", within reason.
MAX_HANDSHAKE_FRAME = 4096


def frame(body: bytes, header: int = 2) -> bytes:
    """One frame: the length in `header` bytes, then the body. LocalProtocolError when it is too long for that."""
    if len(body) > MAX_HANDSHAKE_FRAME:
        raise LocalProtocolError(f"a handshake frame of {len(body)} bytes")
    return len(body).to_bytes(header, "big") + body


class Framing:
    """Splits the peer's bytes into frame bodies, one at a time.

    One at a time matters: which frame is the last of the handshake is known only after it was understood, and all
    that follows has another framing.
    """

    def __init__(self, header: int = 2) -> None:
        if header not in (2, 4):
            raise LocalProtocolError(f"frames with a header of {header} bytes")
        self.header = header
        self._held = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes as they came."""
        self._held += data

    def next_frame(self) -> bytes | None:
        """The next whole frame's body, or None. RemoteProtocolError when the announced length is out of bounds."""
        held, header = self._held, self.header
        if len(held) < header:
            return None
        size = int.from_bytes(held[:header], "big")
        if size > MAX_HANDSHAKE_FRAME:
            raise RemoteProtocolError(f"a handshake frame of {size} bytes (at most {MAX_HANDSHAKE_FRAME})")
        if len(held) < header + size:
            return None
        body = bytes(held[header : header + size])
        del held[: header + size]
        return body

    def frames(self) -> Iterator[bytes]:
        """All whole frames held."""
        while (body := self.next_frame()) is not None:
            yield body

    def take_rest(self) -> bytes:
        """What is left behind the last frame taken, and forget it: the switch to the next framing."""
        rest = bytes(self._held)
        self._held.clear()
        return rest


class Fields:
    """Reads big-endian fields off a frame; a frame that is too short is the peer's fault. Extra bytes are ignored."""

    def __init__(self, body: bytes, at: int) -> None:
        self._body = body
        self._at = at

    def octets(self, size: int) -> bytes:
        at = self._at
        if at + size > len(self._body):
            raise RemoteProtocolError(f"a handshake frame {self._body[:1]!r} of {len(self._body)} bytes is too short")
        self._at = at + size
        return self._body[at : at + size]

    def number(self, size: int) -> int:
        return int.from_bytes(self.octets(size), "big")

    def rest(self) -> bytes:
        return self._body[self._at :]
