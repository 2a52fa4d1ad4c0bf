"""The table that pores live in: their ids, and the end of all pores of an owner. One per membrane, none is global."""

from __future__ import annotations

from types import TracebackType

from ._native import ffi, lib


class PoreTable:
    """At most `capacity` pores (1..65536) at a time; usable from several threads. MemoryError, ValueError."""

    def __init__(self, capacity: int = 256) -> None:
        if not 1 <= capacity <= 65536:
            raise ValueError(f"capacity is 1 to 65536, not {capacity}")
        table = lib.pore_table_new(capacity)
        if table == ffi.NULL:
            raise MemoryError("no memory for a table of pores")
        self.capacity = capacity
        self.cdata = ffi.gc(table, lib.pore_table_free)

    def __len__(self) -> int:
        """Pores that are open or failed, but not closed."""
        return lib.pore_table_count(self.cdata)

    def __bool__(self) -> bool:
        return True

    def close_owned(self, owner: int) -> int:
        """Closes all pores with this owner tag; how many. Their users get PoreClosed."""
        return lib.pore_close_owned(self.cdata, owner)

    def __enter__(self) -> PoreTable:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes every pore in it. May be called twice, and the table used again."""
        lib.pore_close_all(self.cdata)
