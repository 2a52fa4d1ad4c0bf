"""Rings against a model: both ends do anything in any order; bytes, counts and, for LING, all of the memory must agree.

The model of LING's straw is written from the layout in LING's header, not from our C: header int32 in_prod, in_cons,
out_cons, out_prod, then two rings of 16376 bytes; indexes wrapped, one byte unused.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pores._native import straw_pages
from pores.errors import PoreClosed, PoreTooBig
from pores.pore import ACTIVE, PASSIVE, Pore

SIZE = 16376


class LingStraw:
    """The shared memory of one straw, byte by byte, as two honest sides leave it."""

    def __init__(self) -> None:
        self.memory = bytearray(8 * 4096)

    # where: (offset of prod, offset of cons, offset of data)
    def where(self, writer: int) -> tuple[int, int, int]:
        return (12, 8, 16 + SIZE) if writer == ACTIVE else (0, 4, 16)

    def indexes(self, writer: int) -> tuple[int, int]:
        prod, cons, _ = self.where(writer)
        return struct.unpack_from("<i", self.memory, prod)[0], struct.unpack_from("<i", self.memory, cons)[0]

    def unread(self, writer: int) -> int:
        prod, cons = self.indexes(writer)
        return (prod - cons) % SIZE

    def write(self, writer: int, data: bytes) -> int:
        done, (at, _, start) = 0, self.where(writer)
        for byte in data[: SIZE - 1 - self.unread(writer)]:
            prod, _cons = self.indexes(writer)
            self.memory[start + prod] = byte
            struct.pack_into("<i", self.memory, at, (prod + 1) % SIZE)
            done += 1
        return done

    def read(self, writer: int, most: int) -> bytes:
        taken, (_, at, start) = bytearray(), self.where(writer)
        while len(taken) < most and self.unread(writer):
            _prod, cons = self.indexes(writer)
            taken.append(self.memory[start + cons])
            struct.pack_into("<i", self.memory, at, (cons + 1) % SIZE)
        return bytes(taken)


class Rings(RuleBasedStateMachine):
    """Two ends, a queue of bytes each way."""

    ring = 0
    capacity = SIZE - 1
    kind = "straw"

    @initialize()
    def open(self) -> None:
        self.fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, self.pages() * 4096)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        left, right = socket.socketpair()
        make = Pore.straw if self.kind == "straw" else Pore.xenstore
        options = {"ring_bytes": self.ring} if self.ring else {}
        self.ends = {
            ACTIVE: make(self.fd, left.detach(), role=ACTIVE, **options),  # type: ignore[operator]
            PASSIVE: make(self.fd, right.detach(), role=PASSIVE, **options),  # type: ignore[operator]
        }
        self.queue = {ACTIVE: b"", PASSIVE: b""}  # by who wrote
        self.shared = mmap.mmap(self.fd, self.pages() * 4096, prot=mmap.PROT_READ)
        self.counter = 0
        self.wish = {ACTIVE: 0, PASSIVE: 0}

    def pages(self) -> int:
        return straw_pages(self.ring) if self.kind == "straw" else 1

    def some(self, size: int) -> bytes:
        self.counter += 1
        return bytes((self.counter * 7 + i) & 0xFF for i in range(size))

    sides = st.sampled_from([ACTIVE, PASSIVE])
    sizes = st.one_of(st.integers(0, 100), st.integers(0, 20000), st.sampled_from([SIZE - 1, SIZE, 4096, 8188, 1024]))

    @rule(side=sides, size=sizes, poke=st.booleans())
    def write(self, side: int, size: int, poke: bool) -> None:
        data = self.some(size)
        room = self.capacity - len(self.queue[side])
        done = self.ends[side].write(data, poke)
        assert done == min(room, size)
        self.wrote(side, data[:done])

    @rule(side=sides, size=sizes, poke=st.booleans())
    def write_frame(self, side: int, size: int, poke: bool) -> None:
        data = self.some(size)
        frame = struct.pack(">I", size) + data
        if len(frame) > self.capacity:
            with pytest.raises(PoreTooBig):
                self.ends[side].write_frame(data, poke)
            return
        fits = len(frame) <= self.capacity - len(self.queue[side])
        assert self.ends[side].write_frame(data, poke) is fits
        if fits:
            self.wrote(side, frame)

    @rule(side=sides, size=sizes, poke=st.booleans())
    def read(self, side: int, size: int, poke: bool) -> None:
        peer = ACTIVE + PASSIVE - side
        expected = self.queue[peer][:size]
        assert self.ends[side].read(size, poke) == expected
        self.took(peer, len(expected))

    @rule(side=sides, size=sizes)
    def readinto(self, side: int, size: int) -> None:
        peer = ACTIVE + PASSIVE - side
        room = bytearray(size + 2)
        expected = self.queue[peer][:size]
        assert self.ends[side].readinto(memoryview(room)[1 : size + 1]) == len(expected)
        assert room == b"\0" + expected + bytes(size - len(expected)) + b"\0"
        self.took(peer, len(expected))

    @rule(side=sides)
    def avail(self, side: int) -> None:
        peer = ACTIVE + PASSIVE - side
        assert self.ends[side].avail() == (len(self.queue[peer]), self.capacity - len(self.queue[side]))

    @rule(side=sides, size=st.integers(1, 20000))
    def notify_when(self, side: int, size: int) -> None:
        if size <= self.capacity:
            assert self.ends[side].notify_when(size) is (size <= self.capacity - len(self.queue[side]))

    @rule(side=sides)
    def ask(self, side: int) -> None:
        peer = ACTIVE + PASSIVE - side
        assert self.ends[side].slots == self.capacity - len(self.queue[side])
        assert self.ends[side].wait_read(0) is bool(self.queue[peer])
        assert self.ends[side].wait_write(1, 0) is (len(self.queue[side]) < self.capacity)
        self.ends[side].poke()

    def wrote(self, side: int, data: bytes) -> None:
        self.queue[side] += data

    def took(self, writer: int, count: int) -> None:
        self.queue[writer] = self.queue[writer][count:]

    def teardown(self) -> None:
        if not hasattr(self, "ends"):
            return
        # Whatever is in the rings comes out before the end is seen.
        self.ends[ACTIVE].close()
        taken = b""
        with pytest.raises(PoreClosed):
            while True:
                taken += self.ends[PASSIVE].read()
                self.ends[PASSIVE].wait_read(0)
        assert taken == self.queue[ACTIVE]
        self.ends[PASSIVE].close()
        self.shared.close()
        os.close(self.fd)


class LingRings(Rings):
    @initialize()
    def lay_out(self) -> None:
        self.model = LingStraw()

    def wrote(self, side: int, data: bytes) -> None:
        super().wrote(side, data)
        assert self.model.write(side, data) == len(data)

    def took(self, writer: int, count: int) -> None:
        taken = self.queue[writer][:count]
        super().took(writer, count)
        assert self.model.read(writer, count) == taken

    @invariant()
    def memory_is_lings(self) -> None:
        if hasattr(self, "model"):
            assert self.shared[:] == bytes(self.model.memory)


class WideRings(Rings):
    ring = 8192
    capacity = 8192


class XenstoreRings(Rings):
    kind = "xenstore"
    capacity = 1024

    @invariant()
    def indexes_are_xens(self) -> None:
        """Free-running u32: req_cons, req_prod, rsp_cons, rsp_prod; the domain (passive) produces requests."""
        if hasattr(self, "ends"):
            req_cons, req_prod, rsp_cons, rsp_prod = struct.unpack_from("<4I", self.shared, 2048)
            assert req_prod - req_cons == len(self.queue[PASSIVE])
            assert rsp_prod - rsp_cons == len(self.queue[ACTIVE])


for machine, examples in ((LingRings, 60), (WideRings, 100), (XenstoreRings, 100)):
    machine.TestCase.settings = settings(
        max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )

TestLing = LingRings.TestCase
TestWide = WideRings.TestCase
TestXenstore = XenstoreRings.TestCase
