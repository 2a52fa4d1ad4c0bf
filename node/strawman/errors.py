"""What can go wrong with straws, in one exception with a reason that is also an atom to Erlang."""

from __future__ import annotations

from ..errors import NodeError

__all__ = ["StrawError"]


class StrawError(NodeError):
    """A straw could not be opened or used.

    reason: a short word, as in ``{error, Reason}``: exists, self, not_found, timeout, straw_taken, busy, host_down,
    peer_gone, closed, corrupt, no_pores, … . domid: the other domain, 0 when it is about none.
    """

    def __init__(self, reason: str, domid: int = 0, detail: str = "") -> None:
        about = f"domain {domid}: " if domid else ""
        super().__init__(f"{about}{reason}{': ' + detail if detail else ''}")
        self.reason = reason
        self.domid = domid
        self.detail = detail
