"""The rules of exit signals and links, without processes or a network.

Sources: "Processes" in the Erlang reference manual; "Link Protocol" in the distribution protocol chapter (UNLINK_ID).
"""

from __future__ import annotations

from typing import Any

from ..terms import Atom, Pid

__all__ = [
    "DOWN",
    "EXIT",
    "EXIT_RULES",
    "KILL",
    "KILLED",
    "NOCONNECTION",
    "NOPROC",
    "NORMAL",
    "PROCESS",
    "SHUTDOWN",
    "Links",
    "is_quiet",
    "on_exit_signal",
]

NORMAL = Atom("normal")
SHUTDOWN = Atom("shutdown")
KILL = Atom("kill")
KILLED = Atom("killed")
NOPROC = Atom("noproc")
NOCONNECTION = Atom("noconnection")
EXIT = Atom("EXIT")
DOWN = Atom("DOWN")
PROCESS = Atom("process")

IGNORE, MESSAGE, END = "ignore", "message", "end"

#: (kind of reason, by a link, trapping, from itself) -> what happens. Kind: 'normal', 'kill' or 'other'.
EXIT_RULES: dict[tuple[str, bool, bool, bool], str] = {
    (kind, linked, trapping, own): (
        END
        if kind == "kill" and not linked  # exit(Pid, kill) can't be trapped; a link that carries kill can
        else MESSAGE
        if trapping
        else IGNORE
        if kind == "normal" and not (own and not linked)  # exit(self(), normal) ends
        else END
    )
    for kind in ("normal", "kill", "other")
    for linked in (False, True)
    for trapping in (False, True)
    for own in (False, True)
}

#: The largest unlink id (Link Protocol: 1 .. 2^64 - 1).
MAX_UNLINK_ID = (1 << 64) - 1


def on_exit_signal(reason: Any, *, linked: bool, trapping: bool, own: bool) -> tuple[str, Any]:
    """What an exit signal does to a process: ('ignore' | 'message' | 'end', the reason to use)."""
    kind = "normal" if reason is NORMAL else "kill" if reason is KILL else "other"
    action = EXIT_RULES[kind, linked, trapping, own]
    if action == END and kind == "kill" and not linked:
        return END, KILLED
    return action, reason


def is_quiet(reason: Any) -> bool:
    """Whether an exit with this reason is an ordinary end, not worth a log line (as OTP's supervisor judges)."""
    return (
        reason is NORMAL
        or reason is SHUTDOWN
        or (isinstance(reason, tuple) and len(reason) == 2 and reason[0] is SHUTDOWN)
    )


class Links:
    """The links of one process: for each other pid None (active) or the id of an unlink that is not acknowledged."""

    __slots__ = ("_last_id", "_table")

    def __init__(self) -> None:
        self._table: dict[Pid, int | None] = {}
        self._last_id = 0

    def active(self) -> list[Pid]:
        """The pids actively linked."""
        return [pid for pid, unlinking in self._table.items() if unlinking is None]

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, pid: Pid) -> bool:
        return self._table.get(pid, 0) is None

    def knows(self, pid: Pid) -> bool:
        """Whether anything is left of a link to it: it is active, or its unlink is not acknowledged."""
        return pid in self._table

    def link(self, pid: Pid) -> bool:
        """Our process links; whether a LINK signal must be sent."""
        if pid in self:
            return False
        self._table[pid] = None
        return True

    def unlink(self, pid: Pid) -> int | None:
        """Our process unlinks; the id of the UNLINK_ID signal to send, or None when there is no link."""
        if pid not in self:
            return None
        self._last_id = self._last_id % MAX_UNLINK_ID + 1
        self._table[pid] = self._last_id
        return self._last_id

    def on_link(self, pid: Pid) -> bool:
        """A LINK arrived; whether it made a new link."""
        if pid in self._table:
            return False
        self._table[pid] = None
        return True

    def on_unlink(self, pid: Pid) -> None:
        """An UNLINK_ID arrived (the acknowledgement goes out in any case)."""
        if pid in self:
            del self._table[pid]

    def on_unlink_ack(self, pid: Pid, unlink_id: int) -> None:
        """An UNLINK_ID_ACK arrived; one for an older unlink changes nothing."""
        if self._table.get(pid, None) == unlink_id:
            del self._table[pid]

    def on_exit(self, pid: Pid) -> bool:
        """An exit signal arrived over a link, or the link's connection is gone; whether the link was active, so that
        the signal counts."""
        return self._table.pop(pid, 0) is None
