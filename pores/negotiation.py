"""One pore from its knock to its end: what both roles have in common. The roles are opener.py and acceptor.py.

No clock, no store, no memory of its own: `now` is passed in, work goes out through the machine (membrane.py), which
also decides what concerns more than one pore (glare, limits, start and stop).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from . import membrane_table as table
from .keys import EXTENSIONS, Terms
from .membrane_table import BUSY, EXTERNAL, GONE, PASSIVE, START, TABLE
from .work import Closed, Key, Offer, Opened, PoreResult, PoreWork, Refused, Step, StoreResult, StoreWork

if TYPE_CHECKING:
    from .membrane import Machine

__all__ = ["Negotiation"]

INITIALISING, INIT_WAIT, INITIALISED, CONNECTED, CLOSING, CLOSED = "123456"
PEER_STATES: Final = frozenset([b"1", b"2", b"3", b"4", b"5", b"6"])
WISHES: Final = ("format", *EXTENSIONS)
_WHY: Final = {
    "late": "timeout",
    "close": "closed",
    "gone": "peer_gone",
    "p1": "peer_closed",
    "p2": "peer_closed",
    "p3": "peer_closed",
    "p5": "peer_closed",
    "p6": "peer_closed",
    "no": "refused",
}
#: Actions that begin an end: the input that leads to one is the reason.
_ENDS: Final = frozenset(
    [
        "fail",
        "fail_delete",
        "fail_finish",
        "fail_limit",
        "unknock",
        "delete",
        "detach",
        "withdraw",
        "remove",
        "say_closed",
        "say_closing",
    ]
)


class Negotiation:
    """The state of one pore. `feed` brings an input in, `store_result` and `pore_result` what work has given."""

    def __init__(self, machine: Machine, key: Key, *, asked: bool = False) -> None:
        self.machine = machine
        self.key = key
        self.number = next(machine.numbers)
        self.role, self.peer, self.tid = key
        self.state = START
        self.asked = asked
        """An `open` of ours waits for this one."""
        self.late_at: float | None = None
        self.look_at: float | None = None
        self.until: float | None = None
        """When the state's own timer fires."""
        self.why = ""
        """The first reason for its end."""
        self.wishes = machine.wishes
        self.terms = Terms()
        self.offer = Offer((), ())
        self.opened = False
        self.watching = False
        self.again = False
        """A knock came while this one is closing: to be looked at afterwards."""
        self.peer_kind = False
        """The peer is our own kind, so far as it has said."""
        self._peer_left = False
        self._peer_dead = False
        self._looking = False
        self._looked_enough = False
        self._dirty = False
        self._waiting: list[tuple[str, str]] = []
        self._since: float | None = None
        self._confirmed_at = 0.0
        me, layout = machine.me, machine.kind.layout
        passive = self.role == PASSIVE
        acceptor, opener = (self.peer, me) if passive else (me, self.peer)
        self.active_dir = layout.active_dir(acceptor, opener, self.tid)
        self.passive_dir = layout.passive_dir(opener, acceptor, self.tid)
        self.our_dir, self.peer_dir = (
            (self.passive_dir, self.active_dir) if passive else (self.active_dir, self.passive_dir)
        )

    # ── the table ──

    @property
    def busy(self) -> bool:
        return self.state in BUSY[self.role]

    def feed(self, what: str, now: float, why: str = "") -> None:
        """One input. Those from outside wait while work is under way."""
        if self.state == GONE:
            return
        if what in EXTERNAL and self.busy:
            if what[0] == "p" and len(what) == 2:
                self._dirty = True  # it may be old when we come to it: look again
            elif what == "gone":
                self._dirty = self._peer_left = True
            elif what != "timer" and all(what != waiting for waiting, _ in self._waiting):
                self._waiting.append((what, why))
            return
        row = TABLE[self.role].get((self.state, what))
        if what == "gone":
            self._peer_left = True
        if row is None:
            return
        if what == "p6" and self.why == "peer_gone":
            self.why = "peer_closed"  # its end of the channel closed first, now its word has come
        if not self.why and (what == "close" or row.action in _ENDS):
            self.why = why or _WHY.get(what, "peer_gone")
        self.state = row.state
        self.until = None
        if row.action != "-":
            getattr(self, "_do_" + row.action)(now)
        self.settle(now)

    def settle(self, now: float) -> None:
        """Brings in what had to wait, now that nothing is under way."""
        while self._waiting and not self.busy and self.state != GONE:
            what, why = self._waiting.pop(0)
            self.feed(what, now, why)
        if self.busy or self.state == GONE:
            return
        if self.machine.state == "stopping" and self._may_leave():
            self.feed("close", now, "stopped")
            return
        if self._peer_dead and (self.state, "gone") in TABLE[self.role]:
            self.feed("gone", now)
        elif self._dirty and self.watching:
            self.look()
        self.plan(now)

    def _may_leave(self) -> bool:
        """It was let in while we stop, and is so far that it can be sent away again."""
        return False

    # ── from outside ──

    def changed(self) -> None:
        """Something below the peer's directory has changed."""
        self._dirty = True
        if not self.busy and self.watching:
            self.look()

    def peer_died(self, now: float) -> None:
        """The whole domain is gone."""
        self._peer_dead = True
        self._peer_left = True
        self.settle(now)

    def timer(self, now: float) -> None:
        if self.late_at is not None and now >= self.late_at:
            self.late_at = None
            if self.asked:
                self._answer("timeout")
                if self.role == PASSIVE:
                    self.feed("late", now)
        if self.until is not None and now >= self.until and not self.busy:
            self.until = None
            self.feed("timer", now)
        if self.look_at is not None and now >= self.look_at:
            self.look_at = None
            self.changed()
        self.plan(now)

    def plan(self, now: float) -> None:
        """Looks by itself now and then, as long as it waits for its peer: an event may be lost."""
        if not self.watching or self.state == GONE or self.busy:
            self.look_at = None
        elif self.look_at is None:
            limits = self.machine.limits
            self.look_at = now + (limits.look_connected if self.state == table.CONNECTED else limits.look_time)

    def host_down(self) -> None:
        """Everything is gone at once: host, store and peer."""
        if self.why in ("", "peer_gone"):  # the peer has lost its host as well, and maybe saw it first
            self.why = "host_down"
        self._answer("host_down")
        self._closed()
        self.state = GONE

    # ── looking at the peer ──

    def look(self) -> None:
        if self._looking or self._looked_enough or self._peer_dead:
            return
        self._dirty = False
        self._looking = True
        self._store("look", *self._look_steps())

    def _look_steps(self) -> tuple[Step, ...]:
        raise NotImplementedError

    def _looked(self, result: StoreResult, now: float) -> None:
        self._looking = False
        what = self._seen(result)
        if self._dirty and not self.busy:
            self.look()  # once more, after this one
        if what:
            self.feed(what, now)

    def _seen(self, result: StoreResult) -> str:
        """The input that the peer's directory makes; "" for nothing new."""
        if result.error:
            return "gone" if result.error in ("EACCES", "ENOENT") else ""
        state = self._state_of(result)
        return f"p{state.decode()}" if state in PEER_STATES else "gone" if state is None else ""

    def _state_of(self, result: StoreResult) -> bytes | None:
        """The peer's state by a look; None: it is gone, b"": nothing that counts."""
        raise NotImplementedError

    # ── results ──

    def store_result(self, tag: str, result: StoreResult, now: float) -> None:
        if tag == "look":
            if self.state != GONE:
                self._looked(result, now)
            return
        if result.error == "ENOTCONN" and self.why in ("", "peer_gone"):
            self.why = "host_down"
        judge = getattr(self, "_judge_" + tag, None)
        what = judge(result, now) if judge is not None else ("no" if result.error else "ok")
        if what == "no" and not self.why:
            self.why = {"E2BIG": "limit", "ENOSPC": "limit"}.get(result.error, "")
        self.feed(what, now)

    def pore_result(self, verb: str, result: PoreResult, now: float) -> None:
        if verb in ("detach", "withdraw"):
            self._closed()
        if verb == "grant" and not result.error:
            self.offer = result.offer
        if result.busy or (verb == "withdraw" and result.error):
            if self._since is None:
                self._since = now
            elif now - self._since >= self.machine.limits.report_time:
                self._since = now
                self._report("still_mapped")
            self.feed("busy", now)
            return
        if result.error and verb == "grant" and self.terms.ring_bytes:
            self.terms = self.terms.narrow()
            self.feed("narrow", now)
            return
        if result.error and not self.why:
            self.why = result.error
        if verb == "detach" and result.error:
            self._report("not_unmapped", result.error)
        self.feed("no" if result.error else "ok", now)

    # ── actions of both ──

    def _store(self, tag: str, *steps: Step) -> None:
        self.machine.put(StoreWork(self.key, tag, steps, self.number))

    def _pore(self, verb: str) -> None:
        self.machine.put(PoreWork(self.key, verb, self.terms, self.offer, self.number))

    def _report(self, what: str, detail: str = "") -> None:
        self.machine.report(what, self.peer, detail)

    def _answer(self, reason: str) -> None:
        """Tells an `open` of ours that it failed."""
        if self.asked:
            self.asked = False
            self.late_at = None
            self.machine.tell(Refused(self.peer, self.tid, reason))

    def _closed(self) -> None:
        if self.opened:
            self.opened = False
            self.machine.tell(Closed(self.key, self.why or "closed"))

    def _unwatch(self) -> tuple[Step, ...]:
        watched, self.watching = self.watching, False
        return (("unwatch", self.peer_dir),) if watched else ()

    def _do_opened(self, now: float) -> None:
        asked, self.asked, self.late_at = self.asked, False, None
        self.opened = True
        self.machine.tell(Opened(self.key, self.terms, asked))

    def _judge_gone(self, result: StoreResult, now: float) -> str:
        if result.error == "EACCES":
            self._report("not_removed", self.our_dir)  # its owner has forbidden it to us: never by our own kind
            return "ok"
        return "no" if result.error else "ok"

    def _do_bye(self, now: float) -> None:
        self._answer(self.why or "refused")
        self.machine.gone(self, now)

    def _do_fail(self, now: float) -> None:
        self._answer(self.why or "refused")
        if self.state == GONE:
            self.machine.gone(self, now)
        else:  # it may still be opened again, or end otherwise
            self.why = ""
