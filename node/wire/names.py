"""Node names as the handshake sees them: what is one, and whom an allow-list means. Not their addresses."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["MAX_NAME", "is_allowed", "shown", "split_node", "valid_host", "valid_node_name"]

#: Characters in a node name: it is an atom.
MAX_NAME = 255


def valid_host(host: str) -> bool:
    """A host part: not empty, no '@', printable without blanks (so that it can be logged as it is)."""
    return 0 < len(host) <= MAX_NAME and "@" not in host and host.isprintable() and not any(map(str.isspace, host))


def valid_node_name(name: str) -> bool:
    """``name@host`` with exactly one '@' and something on both sides of it."""
    alive, at, host = name.partition("@")
    return bool(at) and len(name) <= MAX_NAME and valid_host(alive) and valid_host(host)


def split_node(name: str) -> tuple[str, str]:
    """``a@b`` -> ('a', 'b'); a host alone -> ('', host)."""
    alive, _, host = name.rpartition("@")
    return alive, host


def is_allowed(name: str, entries: Iterable[str]) -> bool:
    """Whether a node (or, for a dynamic name, a host alone) is meant by an allow-list, as net_kernel:allow/1 reads it.

    An entry is a node ``a@b``, a host ``b`` or a name with its at sign ``a@``. An empty list means nobody.
    """
    alive, host = split_node(name)
    for entry in entries:
        entry_alive, entry_host = split_node(entry)
        if entry_alive and entry_alive != alive:
            continue
        if entry_host and entry_host != host:
            continue
        if entry_alive or entry_host:
            return True
    return False


def shown(wire_name: bytes) -> str:
    """A name that may be anything, for a message: bounded, without control characters."""
    return ascii(wire_name[:80].decode("latin-1"))
