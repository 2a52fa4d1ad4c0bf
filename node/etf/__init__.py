"""Erlang's external term format: terms to bytes and back, and the frames of a connection.

The face of the C codec (csrc/etf; signatures in node/_etf.pyi). How values map:

=====================================  ===================================================================
Python                                 Erlang
=====================================  ===================================================================
int, float                             integer, float (finite only)
True, False                            the atoms true, false
None                                   written as the atom of the option ``none`` (default undefined), never read
Atom                                   atom; undefined and nil are read as Atoms
bytes (also bytearray, memoryview)     binary; read as bytes
str                                    written as a UTF-8 binary, never read
list                                   list; a "string" is read as a list of ints
tuple                                  tuple
dict                                   map; read as Map when Python can't keep its keys apart or hash them
Pid, Port, Reference                   pid, port, reference
Export, Fun, BitString, ImproperList,  what node.terms says
Map, Record, LocalTerm, LingPid
=====================================  ===================================================================

A term that is read and written again is the same term (``=:=``). Subclasses of the types on the left are written as
their base. Everything else is an EncodeError with the path to it; bytes that are no term are a DecodeError with the
offset. Between domains (a straw) a Crossing says what pids and references become; a LingPid stands for such a pid only
where a frame is read or written without one. Not here: connections, the meaning of control messages.
"""

from __future__ import annotations

from .._etf import (
    BIG_BINARY,
    MAX_DEPTH,
    MAX_FRAME,
    MAX_INFLATED,
    Crossing,
    FrameReader,
    Outbox,
    decode,
    decode_prefix,
    encode,
    encode_frame,
    encode_pieces,
)
from ..errors import DecodeError, EncodeError
from ..terms import NO_PAYLOAD

__all__ = [
    "BIG_BINARY",
    "MAX_DEPTH",
    "MAX_FRAME",
    "MAX_INFLATED",
    "NO_PAYLOAD",
    "Crossing",
    "DecodeError",
    "EncodeError",
    "FrameReader",
    "Outbox",
    "decode",
    "decode_prefix",
    "encode",
    "encode_frame",
    "encode_pieces",
]
