"""Driving one handshake over one transport: the asyncio side of wire.handshake.

For: moving the bytes, keeping the deadline, closing so that the peer still gets to read our last word. Not for:
deciding anything; the questions of the handshake go to the function given in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..errors import HandshakeRefused
from ..wire.handshake import Handshake
from ..wire.handshake_states import Event, HandshakeDone
from .transport import Transport

__all__ = ["LINGER_TIME", "farewell", "greet"]

#: Seconds that a closed connection still waits for the peer to close its side.
LINGER_TIME = 1.0
#: Bytes received at once; what is behind the handshake stays small.
_CHUNK = 4096


async def greet(
    handshake: Handshake, transport: Transport, decide: Callable[[Handshake, Event], None]
) -> HandshakeDone:
    """Carry the handshake through. HandshakeRefused, RemoteProtocolError or OSError when it fails.

    decide: called with each question (PeerNamed, AliveAsked); it answers by handshake.accept() or answer_alive().
    After HandshakeDone nothing is awaited any more, so that no one else runs before the connection is installed.
    """
    loop = asyncio.get_running_loop()
    buffer = bytearray(_CHUNK)
    try:
        async with asyncio.timeout_at(handshake.get_timer()):
            while True:
                out = handshake.data_to_send()
                while (event := handshake.next_event()) is not None:
                    if isinstance(event, HandshakeDone):
                        await _write(transport, out, loop)
                        return event
                    decide(handshake, event)
                    out += handshake.data_to_send()
                await _write(transport, out, loop)
                if handshake.our_refusal is not None:
                    raise handshake.our_refusal
                n = await _read(transport, buffer, loop)
                if n == 0:
                    handshake.receive_eof()
                handshake.receive_data(memoryview(buffer)[:n], loop.time())
    except TimeoutError:
        handshake.handle_timer(max(loop.time(), handshake.get_timer() or 0.0))
        raise HandshakeRefused("timeout", "the handshake took too long", handshake.peer_name) from None
    except ConnectionError:
        handshake.receive_eof()
        raise


async def farewell(transport: Transport, last: bytes = b"") -> None:
    """Write a last word, end our side, wait a little for the other side to end its own, close.

    Closing while bytes of the peer wait unread makes the kernel reset the connection, and the peer may never see what
    we said last; so they are read and thrown away first.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LINGER_TIME):
            await _write(transport, last, loop)
            transport.end_writing()
            buffer = bytearray(1 << 16)
            while await _read(transport, buffer, loop):
                pass
    except (OSError, TimeoutError):
        pass
    finally:
        transport.close()


async def _write(transport: Transport, data: bytes, loop: asyncio.AbstractEventLoop) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[transport.sendmsg([view]) :]
        except (BlockingIOError, InterruptedError):
            await _ready(transport.on_writable, loop)


async def _read(transport: Transport, buffer: bytearray, loop: asyncio.AbstractEventLoop) -> int:
    while True:
        try:
            return transport.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            await _ready(transport.on_readable, loop)


async def _ready(subscribe: Callable[[Callable[[], None] | None], None], loop: asyncio.AbstractEventLoop) -> None:
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    subscribe(wake)
    try:
        await ready
    finally:
        subscribe(None)
