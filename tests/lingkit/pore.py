"""LING's straw pore: 8 pages, wrapped indexes, no look at what the other side has written there.

Where LING would use a wild index (and read or write elsewhere) the stand-in dies, as it does at LING's own assertions.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

from .hyper import PAGE, Channel, Hyper
from .vm import Machine, die

__all__ = ["RING", "StrawPore"]

REFS = 8
RING = REFS // 2 * PAGE - 8
IN_PROD, IN_CONS, OUT_CONS, OUT_PROD = range(4)
INPUT, OUTPUT = 16, 16 + RING


class StrawPore:
    """irq: called on every event of its channel. Active made it (`grant`), passive maps it."""

    def __init__(self, hyper: Hyper, machine: Machine, peer: int) -> None:
        self.hyper, self.machine, self.peer = hyper, machine, peer
        self.refs: list[int] = []
        self.number = 0
        self.open = True
        self.active = False
        self.memory: mmap.mmap
        self.channel: Channel
        self.bytes_in = self.bytes_out = 0

    @classmethod
    def grant(cls, hyper: Hyper, machine: Machine, peer: int, irq: Callable[[], None]) -> StrawPore:
        pore = cls(hyper, machine, peer)
        pore.active = True
        pore.channel = hyper.alloc_unbound(peer)
        pore.refs, pore.memory = hyper.grant(peer, REFS)
        pore._start(irq)
        return pore

    @classmethod
    def map(
        cls, hyper: Hyper, machine: Machine, peer: int, refs: list[int], port: int, irq: Callable[[], None]
    ) -> StrawPore:
        pore = cls(hyper, machine, peer)
        pore.refs = refs
        pore.channel = hyper.bind_interdomain(peer, port)
        pore.number, pore.memory = hyper.map(peer, refs)
        pore._start(irq)
        return pore

    def _start(self, irq: Callable[[], None]) -> None:
        self.words = memoryview(self.memory).cast("B")[:16].cast("i")
        if self.active:
            self.my_prod, self.my_cons, self.his_prod, self.his_cons = OUT_PROD, IN_CONS, IN_PROD, OUT_CONS
            self.writes, self.reads = OUTPUT, INPUT
        else:
            self.my_prod, self.my_cons, self.his_prod, self.his_cons = IN_PROD, OUT_CONS, OUT_PROD, IN_CONS
            self.writes, self.reads = INPUT, OUTPUT
        self.seen_prod = self._index(self.his_prod)
        self.seen_cons = self._index(self.his_cons)

        def ready() -> None:
            got = self.channel.take()
            if got is None:
                self.machine.ignore(self.channel.fd)
            elif got and self.open:
                irq()

        self.machine.listen(self.channel.fd, ready)

    def destroy(self) -> None:
        """The end of its owner. The channel stays, unheard."""
        if self.open:
            self.open = False
            self.words.release()
            if self.active:
                self.memory.close()
                self.hyper.end_access(self.refs)
            else:
                self.hyper.unmap(self.number, self.memory)

    def _index(self, word: int) -> int:
        value = self.words[word]
        if not 0 <= value < RING:
            die(f"domain {self.peer} published an index that LING would use unchecked: {value}")
        return value

    def _his_prod(self) -> int:
        """The other side's producer index, which only goes forward, and never over what we have not read."""
        value, mine = self._index(self.his_prod), self.words[self.my_cons]
        if (value - self.seen_prod) % RING > RING - 1 - (self.seen_prod - mine) % RING:
            die(f"domain {self.peer} moved its producer index from {self.seen_prod} to {value}, we read at {mine}")
        self.seen_prod = value
        return value

    def _his_cons(self) -> int:
        value, mine = self._index(self.his_cons), self.words[self.my_prod]
        if (value - self.seen_cons) % RING > (mine - self.seen_cons) % RING:
            die(f"domain {self.peer} moved its consumer index from {self.seen_cons} to {value}, we wrote to {mine}")
        self.seen_cons = value
        return value

    def avail(self) -> tuple[int, int]:
        """(to read, room to write)."""
        readable = (self._his_prod() - self.words[self.my_cons]) % RING
        return readable, RING - 1 - (self.words[self.my_prod] - self._his_cons()) % RING

    def write(self, data: bytes) -> None:
        prod, cons = self.words[self.my_prod], self._his_cons()
        if len(data) > RING - 1 - (prod - cons) % RING:
            die("its write meets the consumer index")
        first = min(len(data), RING - prod)
        self.memory[self.writes + prod : self.writes + prod + first] = data[:first]
        self.memory[self.writes : self.writes + len(data) - first] = data[first:]
        self.words[self.my_prod] = (prod + len(data)) % RING
        self.bytes_out += len(data)

    def read(self) -> bytes:
        cons = self.words[self.my_cons]
        count = (self._his_prod() - cons) % RING
        if not count:
            die("it reads with nothing there")
        first = min(count, RING - cons)
        data = self.memory[self.reads + cons : self.reads + cons + first]
        data += self.memory[self.reads : self.reads + count - first]
        self.words[self.my_cons] = (cons + count) % RING
        self.bytes_in += count
        return data

    def poke(self) -> None:
        self.channel.kick()
