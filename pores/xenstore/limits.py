"""How much of the store a domain may use: xenstored 4.17's quotas, by name. Domain 0 has none of them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What an unprivileged domain may have. Beyond a limit it gets the error named beside it."""

    nodes: int = 1000
    """Nodes that it owns (ENOSPC)."""
    node_size: int = 2047
    """Bytes of one node: 24, and 8 a permission, and the value, and every child's name and one (ENOSPC)."""
    permissions: int = 5
    """Entries in a node's permissions (ENOSPC)."""
    watches: int = 129
    """Watches of all its connections (E2BIG). xenstored's quota is 128, and it lets one more in."""
    transactions: int = 11
    """Open transactions of all its connections (ENOSPC). xenstored's quota is 10, and it lets one more in."""
    transaction_nodes: int = 1024
    """Nodes named in one transaction (ENOSPC; the transaction can't be committed any more)."""
    transaction_bytes: int = 2_621_440
    """Paths, values and permissions that its open transactions hold (ENOMEM; likewise). xenstored's memory quota."""
