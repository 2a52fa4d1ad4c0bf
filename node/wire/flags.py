"""Capability flags of the distribution handshake: their bits, which we set, which we insist on.

Bits as in OTP's dist.hrl (25) and dist.h (28, 29); the published protocol chapter gives MANDATORY_25_DIGEST as
``1 bsl 36``, which is wrong (bit 36 is internal to the emulator): it is bit 26. What the peer may send is the AND of
both sides' flags, taken after the digest flag was expanded (erl_dist_protocol, Distribution Flags).

Nothing here knows about bytes or states: that is handshake.py.
"""

from __future__ import annotations

from enum import IntFlag

__all__ = [
    "INTERNAL",
    "MANDATORY",
    "MANDATORY_25",
    "MANDATORY_26",
    "OUR_FLAGS",
    "Flag",
    "expand",
    "missing",
    "negotiate",
    "our_flags",
]


class Flag(IntFlag):
    """One bit each, by OTP's name without its DFLAG_ prefix."""

    PUBLISHED = 0x1
    ATOM_CACHE = 0x2
    EXTENDED_REFERENCES = 0x4
    DIST_MONITOR = 0x8
    FUN_TAGS = 0x10
    DIST_MONITOR_NAME = 0x20
    HIDDEN_ATOM_CACHE = 0x40
    NEW_FUN_TAGS = 0x80
    EXTENDED_PIDS_PORTS = 0x100
    EXPORT_PTR_TAG = 0x200
    BIT_BINARIES = 0x400
    NEW_FLOATS = 0x800
    UNICODE_IO = 0x1000
    DIST_HDR_ATOM_CACHE = 0x2000
    SMALL_ATOM_TAGS = 0x4000
    UTF8_ATOMS = 0x10000
    MAP_TAG = 0x20000
    BIG_CREATION = 0x40000
    SEND_SENDER = 0x80000
    BIG_SEQTRACE_LABELS = 0x100000
    EXIT_PAYLOAD = 0x400000
    FRAGMENTS = 0x800000
    HANDSHAKE_23 = 0x1000000
    UNLINK_ID = 0x2000000
    MANDATORY_25_DIGEST = 0x4000000
    SPAWN = 1 << 32
    NAME_ME = 1 << 33
    V4_NC = 1 << 34
    ALIAS = 1 << 35
    ALTACT_SIG = 1 << 37
    NATIVE_RECORDS = 1 << 38


#: Bits that never go on the wire: ETS_COMPRESSED, PENDING_CONNECT and LOCAL_EXT are the emulator's own, 0xf8000000 is
#: reserved for changes of the handshake.
INTERNAL = 0x8000 | 0x200000 | (1 << 36) | 0xF8000000

#: What every node since OTP 25 insists on.
MANDATORY_25 = int(
    Flag.EXTENDED_REFERENCES
    | Flag.FUN_TAGS
    | Flag.EXTENDED_PIDS_PORTS
    | Flag.NEW_FUN_TAGS
    | Flag.EXPORT_PTR_TAG
    | Flag.BIT_BINARIES
    | Flag.NEW_FLOATS
    | Flag.UTF8_ATOMS
    | Flag.MAP_TAG
    | Flag.BIG_CREATION
    | Flag.HANDSHAKE_23
)

#: What OTP 26 added to that.
MANDATORY_26 = int(Flag.UNLINK_ID | Flag.V4_NC)

#: What a peer must have to be let in here: as OTP 26 to 29. OTP 24 and 25 have it all.
MANDATORY = MANDATORY_25 | MANDATORY_26

#: What this node says it can do, without PUBLISHED (visible nodes only) and NAME_ME (a request, not a capability).
#: DIST_MONITOR and DIST_MONITOR_NAME go together: with one of them a BEAM degrades monitors silently.
OUR_FLAGS = MANDATORY | int(
    Flag.DIST_MONITOR
    | Flag.DIST_MONITOR_NAME
    | Flag.UNICODE_IO
    | Flag.SMALL_ATOM_TAGS
    | Flag.SEND_SENDER
    | Flag.EXIT_PAYLOAD
    | Flag.SPAWN
    | Flag.ALIAS
    | Flag.ALTACT_SIG
    | Flag.MANDATORY_25_DIGEST
)


def our_flags(*, visible: bool = False, extra: int = 0) -> int:
    """The flags to announce. extra: further bits of Flag; internal bits and NAME_ME are taken out."""
    flags = OUR_FLAGS | extra
    if visible:
        flags |= Flag.PUBLISHED
    return int(flags & ~INTERNAL & ~Flag.NAME_ME)


def expand(flags: int) -> int:
    """Replace the digest flag by what it stands for (and keep it)."""
    return int(flags | MANDATORY_25) if flags & Flag.MANDATORY_25_DIGEST else int(flags)


def missing(peer_flags: int, mandatory: int = MANDATORY) -> list[str]:
    """The names of the mandatory flags that the peer lacks, lowest bit first; [] when it may come in."""
    lacking = mandatory & ~expand(peer_flags)
    return [_name(1 << bit) for bit in range(lacking.bit_length()) if lacking >> bit & 1]


def negotiate(ours: int, peers: int) -> int:
    """What both can do. NAME_ME was a request of one side and is left out."""
    return int(expand(ours) & expand(peers) & ~Flag.NAME_ME)


def _name(bit: int) -> str:
    try:
        return Flag(bit).name or hex(bit)
    except ValueError:
        return hex(bit)
