"""The table that pores live in: their ids, and the end of all pores of an owner. One per membrane, none is global."""

from __future__ import annotations

from types import TracebackType

from ._native import ffi, lib
from .forked import give_up_in_child


class PoreTable:
    """At most `capacity` pores (1..65536) at a time; usable from several threads. MemoryError, ValueError."""

    def __init__(self, capacity: int = 256) -> None:
        if not 1 <= capacity <= 65536:
            raise ValueError(f"capacity is 1 to 65536, not {capacity}")
        self.capacity = capacity
        # Python's own memory: it goes after everything that refers to it, also when a cycle of garbage has a pore and
        # its table, whose finalizers run in any order.
        self._memory = ffi.new("uint64_t[]", lib.pore_table_size(capacity) // 8 + 1)
        self.cdata = lib.pore_table_init(self._memory, capacity)
        #: why a pore of it that is not there is not there
        self.reason = "closed"
        give_up_in_child(self)

    def __len__(self) -> int:
        """Pores that are open or failed, but not closed."""
        return lib.pore_table_count(self.cdata)

    def __bool__(self) -> bool:
        return True

    def forked(self) -> None:
        """We are a child: these pores are the parent's."""
        self.reason = "forked"
        lib.pore_table_forked(self.cdata)

    def close_owned(self, owner: int) -> int:
        """Closes all pores with this owner tag; how many. Their users get PoreClosed."""
        return lib.pore_close_owned(self.cdata, owner)

    def __enter__(self) -> PoreTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "cdata"):
            self.close()

    def close(self) -> None:
        """Closes every pore in it. May be called twice, and the table used again."""
        lib.pore_close_all(self.cdata)
