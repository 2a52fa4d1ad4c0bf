"""LING's hypercalls, by the host service's documented protocol (docs/host-protocol.md): every one waits for its answer.

Nothing of pores/ is used: what is tested must not test itself. Refusals are dealt with as LING does: its VM dies.
"""

from __future__ import annotations

import array
import contextlib
import errno
import mmap
import os
import socket
import struct
import sys

from .vm import die

__all__ = ["Channel", "Hyper", "Refused"]

HELLO, GRANT, END_ACCESS, MAP, UNMAP, EVTCHN_ALLOC, EVTCHN_BIND, EVTCHN_CLOSE, XENSTORE, DOMAINS = range(1, 11)
HEADER = struct.Struct("<HhI")
PAGE = 4096


class Refused(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(errno.errorcode.get(code, str(code)))
        self.code = code


class Channel:
    """A port. LING never closes one, so its end stays open to the end of the VM."""

    def __init__(self, port: int, fd: int) -> None:
        self.port, self.fd = port, fd
        self.socket = socket.socket(fileno=fd)
        self.socket.setblocking(False)
        self.pokes = 0

    def kick(self) -> None:
        self.pokes += 1
        # Full: it is pending already. Broken: the other end is unbound, and Xen drops it silently.
        with contextlib.suppress(OSError):
            self.socket.send(b"\1", socket.MSG_NOSIGNAL)

    def take(self) -> bool | None:
        """Whether there was an event; None at the end of the stream, of which a LING would hear nothing."""
        try:
            return bool(self.socket.recv(4096)) or None
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return None


class Hyper:
    """The control connection. domid: ours."""

    def __init__(self, rundir: str, domid: int = 0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(f"{rundir}/host.sock")
        self.sequence = 0
        self.granted = self.mapped = 0
        self.domid = self.call(HELLO, 1, domid)[0][0]

    def fileno(self) -> int:
        return self.socket.fileno()

    def call(self, op: int, *args: int) -> tuple[tuple[int, ...], int]:
        """(results, descriptor or -1). Refused."""
        self.sequence += 1
        self.socket.send(HEADER.pack(op, 0, self.sequence) + struct.pack(f"<{len(args)}I", *args))
        while True:
            got = self._packet(0)
            assert got is not None
            kind, status, sequence, results, fd = got
            if kind & 0x8000:
                assert (kind, sequence) == (op | 0x8000, self.sequence)
                if status:
                    raise Refused(-status)
                return results, fd

    def _packet(self, flags: int) -> tuple[int, int, int, tuple[int, ...], int] | None:
        try:
            data, rights, _, _ = self.socket.recvmsg(4096, 256, flags | socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except OSError:
            data, rights = b"", []
        if not data:
            print("LING: the machine is off (the host is gone)", file=sys.stderr, flush=True)
            os._exit(0)
        fds = array.array("i")
        for _, _, raw in rights:
            fds.frombytes(raw)
        kind, status, sequence = HEADER.unpack_from(data)
        return kind, status, sequence, struct.unpack_from(f"<{len(data) // 4 - 2}I", data, 8), fds[0] if fds else -1

    def events(self) -> None:
        """The host tells of unmapped grants and dead domains; Xen tells a LING nothing of that."""
        while self._packet(socket.MSG_DONTWAIT) is not None:
            pass

    # What LING's VM asks. Where it has an assertion or a fatal_error, it dies.

    def grant(self, peer: int, pages: int) -> tuple[list[int], mmap.mmap]:
        try:
            refs, fd = self.call(GRANT, peer, pages)
        except Refused as error:
            die(f"it can't grant to domain {peer}: {error}")
        self.granted += 1
        memory = mmap.mmap(fd, pages * PAGE)
        os.close(fd)
        return list(refs), memory

    def end_access(self, refs: list[int]) -> None:
        try:
            self.call(END_ACCESS, len(refs), *refs)
        except Refused as error:
            die(f"it ends access to pages that are still in use ({error})")
        self.granted -= 1

    def map(self, peer: int, refs: list[int]) -> tuple[int, mmap.mmap]:
        try:
            (number, *pages), fd = self.call(MAP, peer, len(refs), *refs)
        except Refused as error:
            die(f"it maps dead refs of domain {peer}: {refs} ({error})")
        if pages != list(range(len(refs))):
            die(f"refs in a strange order: pages {pages}")
        self.mapped += 1
        memory = mmap.mmap(fd, len(refs) * PAGE)
        os.close(fd)
        return number, memory

    def unmap(self, number: int, memory: mmap.mmap) -> None:
        memory.close()
        try:
            self.call(UNMAP, number)
        except Refused as error:
            die(f"it can't unmap ({error})")
        self.mapped -= 1

    def alloc_unbound(self, peer: int) -> Channel:
        try:
            (port,), fd = self.call(EVTCHN_ALLOC, peer)
        except Refused as error:
            die(f"no event channel for domain {peer} ({error})")
        return Channel(port, fd)

    def bind_interdomain(self, peer: int, port: int) -> Channel:
        try:
            (ours,), fd = self.call(EVTCHN_BIND, peer, port)
        except Refused as error:
            die(f"it binds a dead port of domain {peer}: {port} ({error})")
        return Channel(ours, fd)

    def store(self) -> socket.socket:
        _, fd = self.call(XENSTORE)
        return socket.socket(fileno=fd)
