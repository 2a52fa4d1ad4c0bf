"""How a client's bytes reach a store: a stream socket, or a device such as /dev/xen/xenbus. The seam of `client.py`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from .wire import HEADER, Op

__all__ = ["DeviceTransport", "SocketTransport", "StoreTransport", "XenbusTransport", "default_path", "open_transport"]

READ_SIZE: Final = 65_536
DEFAULT_SOCKET: Final = "/var/run/xenstored/socket"
DEVICES: Final = ("/dev/xen/xenbus", "/proc/xen/xenbus")


class StoreTransport(Protocol):
    """Moves bytes. `on_data` and `on_lost` are set by the client before `start` and are called on the loop."""

    on_data: Callable[[bytes], None]
    on_lost: Callable[[OSError | None], None]

    def start(self) -> None:
        """Bytes come from now on."""
        ...

    def write(self, data: bytes) -> None:
        """Takes one whole message; never blocks."""
        ...

    def close(self) -> None:
        """Ends it, without `on_lost`. May be called twice."""
        ...


def _no_data(data: bytes) -> None: ...


def _not_lost(error: OSError | None) -> None: ...


class DeviceTransport:
    """Any descriptor that the loop can wait for; it is set non-blocking and belongs to the transport.

    Messages are written one by one, each in a write of its own.
    """

    def __init__(self, fd: int) -> None:
        self.on_data: Callable[[bytes], None] = _no_data
        self.on_lost: Callable[[OSError | None], None] = _not_lost
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._out: deque[bytes] = deque()
        self._writing = False
        os.set_blocking(fd, False)

    def start(self) -> None:
        self._loop.add_reader(self._fd, self._readable)

    def write(self, data: bytes) -> None:
        if self._fd >= 0:
            self._out.append(data)
            if not self._writing:
                self._flush()

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)
            self._release(fd)

    def _release(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            os.close(fd)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error)
            return
        if data:
            self._arrived(data)
        else:
            self._lost(None)

    def _arrived(self, data: bytes) -> None:
        self.on_data(data)

    def _may_write(self) -> bool:
        """Whether the next message may be written now; when it may again somebody calls _flush."""
        return True

    def _flush(self) -> None:
        try:
            while self._out and self._may_write():
                data = self._out[0]
                written = os.write(self._fd, data)
                if written < len(data):
                    self._out[0] = data[written:]
                else:
                    self._out.popleft()
                    self._written()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            # Told from the loop: whoever writes is in the midst of something.
            self._out.clear()
            self._loop.call_soon(self._lost, error)
            return
        blocked = bool(self._out) and self._may_write()
        if blocked != self._writing:
            self._writing = blocked
            if self._writing:
                self._loop.add_writer(self._fd, self._flush)
            else:
                self._loop.remove_writer(self._fd)

    def _written(self) -> None:
        """A whole message is written."""

    def _lost(self, error: OSError | None) -> None:
        if self._fd >= 0:
            self.close()
            self.on_lost(error)


class XenbusTransport(DeviceTransport):
    """Linux's /dev/xen/xenbus: one request at a time.

    The device keeps one buffer per open file, and what it sends later is what is in it then: a request that is written
    before the last one was answered takes its place (drivers/xen/xenbus/xenbus_dev_frontend.c, xenbus_xs.c:
    xenbus_dev_request_and_reply). Worse, a WATCH that is written while an answer is under way waits for the thread
    that waits for it, and the whole domain has no store any more. And it forgets what follows a message in one write.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._asked = False
        self._part = b""
        """The beginning of a message that has not come whole."""

    def _may_write(self) -> bool:
        return not self._asked

    def _written(self) -> None:
        self._asked = True

    def _arrived(self, data: bytes) -> None:
        part = self._part + data
        while len(part) >= HEADER.size:
            op, _, _, size = HEADER.unpack_from(part)
            if len(part) < HEADER.size + size:
                break
            if op != Op.WATCH_EVENT:
                self._asked = False
            part = part[HEADER.size + size :]
        self._part = part
        self.on_data(data)
        if self._fd >= 0:
            self._flush()


class SocketTransport(DeviceTransport):
    """A connected stream socket, which belongs to the transport."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        super().__init__(sock.fileno())

    def _release(self, fd: int) -> None:
        self._sock.close()


def default_path() -> str:
    """Where a store is when nobody says: as Xen's own tools look for it (XENSTORED_PATH, XENSTORED_RUNDIR, …)."""
    if path := os.environ.get("XENSTORED_PATH"):
        return path
    if rundir := os.environ.get("XENSTORED_RUNDIR"):
        return os.path.join(rundir, "socket")
    return next((path for path in (DEFAULT_SOCKET, *DEVICES) if os.path.exists(path)), DEFAULT_SOCKET)


async def open_transport(target: str | os.PathLike[str] | socket.socket | None) -> StoreTransport:
    """A transport to a path (a socket or a device), to a connected socket, or to the default place. OSError."""
    if isinstance(target, socket.socket):
        return SocketTransport(target)
    path = os.fspath(default_path() if target is None else target)
    mode = os.stat(path).st_mode
    if stat.S_ISCHR(mode):
        return XenbusTransport(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.ENOTSOCK, "neither a socket nor a device", path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await asyncio.get_running_loop().sock_connect(sock, path)
    except BaseException:
        sock.close()
        raise
    return SocketTransport(sock)
