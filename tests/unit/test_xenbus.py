"""The store over Linux's xenbus device: never two requests at a time, whatever the client is asked for at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from pores.errors import XenstoreError
from pores.xenstore.client import XenStore
from pores.xenstore.transport import XenbusTransport
from pores.xenstore.wire import HEADER, Message, Op, encode


class Device:
    """The kernel's side: answers each request late, and counts how many it has at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.most = 0
        self.seen: list[Op] = []

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        data = b""
        while True:
            more = await loop.sock_recv(self.sock, 65536)
            if not more:
                return
            data += more
            await asyncio.sleep(0)  # what else is written comes now
            with contextlib.suppress(BlockingIOError):
                data += self.sock.recv(65536)
            waiting = []
            while len(data) >= HEADER.size:
                op, rid, tid, size = HEADER.unpack_from(data)
                waiting.append((Op(op), rid, tid, data[HEADER.size : HEADER.size + size]))
                data = data[HEADER.size + size :]
            self.most = max(self.most, len(waiting))
            for op, rid, tid, payload in waiting:
                self.seen.append(op)
                await self._answer(op, rid, tid, payload)

    async def _answer(self, op: Op, rid: int, tid: int, payload: bytes) -> None:
        if op == Op.WATCH:
            # The device's events have anything as their numbers, and come before the reply too.
            path, token, _ = payload.split(b"\0")
            event = bytearray(encode(Message(Op.WATCH_EVENT, 0, 0, path + b"\0" + token + b"\0")))
            event[4:12] = b"garbage!"
            await self._send(bytes(event[:10]))
            await self._send(bytes(event[10:]))
        what = {Op.READ: payload.rstrip(b"\0")}.get(op, b"OK\0")
        if payload.startswith(b"missing"):
            await self._send(encode(Message(Op.ERROR, rid, tid, b"ENOENT\0")))
        else:
            await self._send(encode(Message(op, rid, tid, what)))

    async def _send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)
        await asyncio.sleep(0)


def test_one_request_at_a_time() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        device = Device(theirs)
        serving = asyncio.create_task(device.serve())
        store = XenStore(XenbusTransport(ours.detach()))
        reads = [store.read(f"key{n}") for n in range(30)]
        found = await asyncio.gather(*reads, store.read("missing"), store.watch("a"), return_exceptions=True)
        assert found[:30] == [b"key%d" % n for n in range(30)]
        assert isinstance(found[30], XenstoreError) and found[30].name == "ENOENT"
        assert await found[31].next() == "a"  # type: ignore[union-attr]
        assert await store.read("after") == b"after"
        assert device.most == 1 and device.seen.count(Op.READ) == 32
        await store.close()
        serving.cancel()
        theirs.close()

    asyncio.run(main())
