"""A host service in this process, and raw clients of its protocol."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import LONG

from pores.host import wire
from pores.host.server import Host


class Client:
    """A raw client of the protocol: what csrc/pore/local.c speaks, written again for the test."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.socket.connect(str(path))
        self.seq = 0
        self.events: list[tuple[int, tuple[int, ...]]] = []

    async def packet(self) -> tuple[int, int, int, tuple[int, ...], list[int]]:
        while True:
            try:
                data, rights, flags, _ = self.socket.recvmsg(8192, socket.CMSG_LEN(16))
                break
            except BlockingIOError:
                await asyncio.sleep(0.001)
        if not data:
            raise ConnectionResetError
        assert not flags & socket.MSG_CTRUNC
        fds = [fd for _, _, raw in rights for (fd,) in struct.iter_unpack("i", raw)]
        op, status, seq = struct.unpack_from("<HhI", data)
        return op, status, seq, struct.unpack_from(f"<{(len(data) - 8) // 4}I", data, 8), fds

    async def ask(self, op: int, *args: int) -> tuple[tuple[int, ...], list[int]]:
        self.seq += 1
        self.socket.send(struct.pack("<HHI", op, 0, self.seq) + struct.pack(f"<{len(args)}I", *args))
        while True:
            got, status, seq, results, fds = await self.packet()
            if got & 0x4000:
                self.events.append((got, results))
                continue
            assert got == op | 0x8000 and seq == self.seq
            if status:
                raise OSError(-status, os.strerror(-status))
            return results, fds

    async def event(self) -> tuple[int, tuple[int, ...]]:
        if not self.events:
            op, _, _, args, _ = await self.packet()
            self.events.append((op, args))
        return self.events.pop(0)

    async def hello(self, wanted: int = 0) -> int:
        (domid,), _ = await self.ask(wire.HELLO, wire.VERSION, wanted)
        return domid

    def close(self) -> None:
        self.socket.close()


def run(path: Path, test: Callable[[Host], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        host = Host(path / "host", **options)
        await host.start()
        try:
            async with asyncio.timeout(LONG):
                await test(host)
        finally:
            await host.close()
            await host.close()

    before = _fds()
    asyncio.run(main())
    assert _fds() == before


def _fds() -> int:
    return len(os.listdir("/proc/self/fd"))


async def refused(code: int, awaitable: Awaitable[Any]) -> None:
    with pytest.raises(OSError) as caught:
        await awaitable
    assert caught.value.errno == code
