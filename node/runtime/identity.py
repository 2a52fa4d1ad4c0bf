"""New pids and references of one incarnation of a node."""

from __future__ import annotations

import secrets
from collections.abc import Container

from ..terms import Atom, Pid, Reference

__all__ = ["Identity"]


class Identity:
    """The counters behind pids and references. name, creation: the node's."""

    __slots__ = ("_creation", "_name", "_next_id", "_next_serial", "_ref_high", "_ref_low")

    def __init__(self, name: Atom, creation: int) -> None:
        self._name = name
        self._creation = creation
        self._next_id = 1
        self._next_serial = 0
        self._ref_low = secrets.randbits(32)
        self._ref_high = (secrets.randbits(32), secrets.randbits(18))

    def new_pid(self, taken: Container[int]) -> Pid:
        """A pid that no process of this incarnation of the node has had (2^28 ids, then the serial counts up).

        taken: the ids of live processes.
        """
        while self._next_id in taken:
            self._next_id += 1
        pid = Pid(self._name, self._next_id, self._next_serial, self._creation)
        self._next_id += 1
        if self._next_id >= 1 << 28:
            self._next_id = 1
            self._next_serial = (self._next_serial + 1) & 0x1FFF
        return pid

    def new_ref(self) -> Reference:
        """A reference unique to this incarnation of the node: 18 + 32 + 32 bits, as OTP's."""
        low = (self._ref_low + 1) & 0xFFFFFFFF
        self._ref_low = low
        if low == 0:
            self._ref_high = ((self._ref_high[0] + 1) & 0xFFFFFFFF, self._ref_high[1])
        return Reference(self._name, self._creation, (self._ref_high[1], low, self._ref_high[0]))
