"""The membrane's machine: all pores of one kind of one domain, from the first knock to the last key.

Sans-IO. Inputs: wishes (`start`, `open`, `close`, `stop`), changes of the store (`changed`, `knocked`), results of
work, ends (`ended`, `domain_gone`, `host_down`), time (`get_timer`, `handle_timer`; `now` is passed in). Outputs: work
to do (`data_to_send`) and events (`next_event`). What is done when is in membrane_table.py; one pore in negotiation.py.
Rules: docs/straws.md.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from itertools import count

from .acceptor import Acceptor
from .keys import LIMIT_DOMID, Terms, domid_of
from .kinds import STRAW_KIND, Kind
from .membrane_table import ACTIVE, CONNECTED, GONE, PASSIVE
from .negotiation import Negotiation
from .opener import Opener
from .work import (
    Event,
    Key,
    Limits,
    Opened,
    PoreResult,
    PoreWork,
    Refused,
    Reported,
    Started,
    Stopped,
    StoreResult,
    StoreWork,
)
from .xenstore.paths import domain_path

__all__ = ["Machine"]

# The opener's straw may still be given up in favour of the peer's.
_MAY_YIELD = frozenset(["START", "LOOKING", "OLD_WAIT", "CLEARING", "PREPARING", "KNOCKING", "INIT_WAIT", "LATE_WAIT"])
# It is on its way out: a new one waits until it is gone.
_LEAVING = frozenset(["LATE_ATTACHED", "FINISHING", "FINISHED", "DETACHING", "SAYING", "LEAVING", "DELETING"])
_PENDING = frozenset(["START", "VERIFYING", "GREETING", "INITIALISING", "READING", "GRANTING", "OFFERING"])


class Machine:
    """All pores of `kind` of the domain `me`.

    wishes: what we can and like, told to every peer; a peer gets what both can.
    """

    def __init__(self, me: int, kind: Kind = STRAW_KIND, wishes: Terms | None = None, limits: Limits | None = None):
        self.me = me
        self.kind = kind
        self.wishes = wishes or kind.wishes
        self.limits = limits or Limits()
        self.pores: dict[Key, Negotiation] = {}
        self.numbers = count(1)
        self.counts: Counter[str] = Counter()
        """What was refused, ignored or given up, by a short word."""
        home = domain_path(me)
        self.active_top = f"{home}/{kind.layout.active_top}"
        self.passive_top = f"{home}/{kind.layout.passive_top}"
        self.state = "new"
        """new, starting, running, stopping, stopped."""
        self._work: deque[StoreWork | PoreWork] = deque()
        self._events: deque[Event] = deque()
        self._knocks: dict[tuple[int, str], None] = {}
        self._tokens = self.limits.knocks_per_second
        self._tokens_at = 0.0
        self._opens: dict[tuple[int, str], tuple[float, Terms | None]] = {}
        self._stop_at: float | None = None
        self._shutting = False
        self._coming: dict[int, float] = {}
        """Who has made its directory and not knocked yet, when we stop: until when it is waited for."""
        self._down = False
        self._now = 0.0

    # ── the five verbs ──

    def data_to_send(self) -> list[StoreWork | PoreWork]:
        """Work to be started; each has one result, by `store_result` or `pore_result`."""
        work, self._work = list(self._work), deque()
        return work

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def get_timer(self) -> float | None:
        """When `handle_timer` wants to be called."""
        times = [
            time
            for pore in self.pores.values()
            for time in (pore.until, pore.late_at, pore.look_at)
            if time is not None
        ]
        times.extend(late_at for late_at, _ in self._opens.values())
        if self._stop_at is not None and self.state == "stopping":
            times.append(self._stop_at)
        times.extend(self._coming.values())
        if self._knocks and self._serves:
            times.append(self._tokens_at + self.limits.poll_time)
        return min(times, default=None)

    def handle_timer(self, now: float) -> None:
        self._now = now
        for pore in list(self.pores.values()):
            pore.timer(now)
        for name, (late_at, _) in list(self._opens.items()):
            if now >= late_at:
                del self._opens[name]
                self.tell(Refused(*name, "timeout"))
        self._look_at_knocks(now)
        for peer, until in list(self._coming.items()):
            if now >= until:
                del self._coming[peer]
                self._check_stopped()
        if self._stop_at is not None and now >= self._stop_at and self.state == "stopping":
            self._remove_trees()

    def changed(self, key: Key, now: float) -> None:
        """The watch of this pore has fired."""
        self._now = now
        pore = self.pores.get(key)
        if pore is not None:
            pore.changed()

    def knocked(self, path: str, now: float) -> None:
        """The watch of our own top directory has fired, with this absolute path."""
        self._now = now
        if not self._serves:
            return
        if path == self.active_top:  # the watch's first event, or the whole tree: whoever is there
            if self.state == "running":
                self.put(StoreWork(None, "scan", self._scan_steps()))
            return
        knocker = self.kind.layout.knocker(self.me, path)
        if knocker is None:
            if path.endswith("/" + self.kind.layout.knock):
                self.report("forged", -1, path[-80:])
            return
        self._knock(*knocker, now)

    def store_result(self, work: StoreWork, result: StoreResult, now: float) -> None:
        self._now = now
        if work.key is None:
            getattr(self, "_" + work.tag)(work, result, now)
            return
        pore = self.pores.get(work.key)
        if pore is not None and pore.number == work.pore:
            pore.store_result(work.tag, result, now)

    def pore_result(self, work: PoreWork, result: PoreResult, now: float) -> None:
        self._now = now
        pore = self.pores.get(work.key)
        if pore is not None and pore.number == work.pore:
            pore.pore_result(work.verb, result, now)

    # ── wishes ──

    def start(self, now: float) -> None:
        """Removes what an earlier run left, then listens."""
        self._now = now
        self.state = "starting"
        self.put(StoreWork(None, "found", (("list", self.active_top), ("list", self.passive_top))))

    def open(self, peer: int, now: float, tid: str = "", wishes: Terms | None = None) -> None:
        """Ends in Opened(asked=True) or Refused, within `open_time` if `handle_timer` is called.

        wishes: other ones than the machine's, for this pore.
        """
        self._now = now
        late_at = now + self.limits.open_time
        if self.state not in ("starting", "running"):
            self.tell(Refused(peer, tid, "host_down" if self._down else "stopped"))
        elif peer == self.me:
            self.tell(Refused(peer, tid, "self"))
        elif not 0 <= peer < LIMIT_DOMID or (domid_of(tid) is None if self.kind.layout.many else tid != ""):
            self.tell(Refused(peer, tid, "not_found"))
        elif (peer, tid) in self._opens:
            self.tell(Refused(peer, tid, "exists"))
        elif self.state == "starting":
            self._opens[peer, tid] = late_at, wishes
        else:
            self._open(peer, tid, now, late_at, wishes)

    def _open(self, peer: int, tid: str, now: float, late_at: float, wishes: Terms | None) -> None:
        ours, theirs = self.pores.get(Key(PASSIVE, peer, tid)), self.pores.get(Key(ACTIVE, peer, tid))
        if theirs is not None and theirs.state == CONNECTED and not self.kind.layout.many:
            self.tell(Refused(peer, tid, "exists"))
        elif theirs is not None and self._is_first(theirs) and ours is None:
            # Its knock came first, and it would be the one in a glare: ours becomes the same straw.
            if theirs.asked:
                self.tell(Refused(peer, tid, "exists"))
            else:
                theirs.asked, theirs.late_at = True, late_at
        elif ours is not None and ours.state == "LATE_WAIT":
            ours.asked, ours.late_at = True, late_at
            ours.feed("open", now)
        elif ours is not None and ours.state in _LEAVING:
            self._opens[peer, tid] = late_at, wishes
        elif ours is not None:
            self.tell(Refused(peer, tid, "exists"))
        elif self._full(peer):
            self.tell(Refused(peer, tid, "limit"))
        else:
            pore = self._add(Key(PASSIVE, peer, tid), asked=True)
            pore.late_at = late_at
            pore.wishes = wishes or self.wishes
            pore.feed("open", now)

    def close(self, key: Key, now: float, why: str = "closed") -> None:
        """Ends in Closed, when it was opened."""
        self._now = now
        pore = self.pores.get(key)
        if pore is not None:
            pore.feed("close", now, why)

    def give_up(self, peer: int, now: float, tid: str = "") -> None:
        """Nobody waits for an open of ours any more."""
        self._now = now
        self._opens.pop((peer, tid), None)
        for role in (PASSIVE, ACTIVE):
            pore = self.pores.get(Key(role, peer, tid))
            if pore is not None and pore.asked:
                pore.asked, pore.late_at = False, None
                if role == PASSIVE:
                    pore.feed("late", now)

    def stop(self, now: float) -> None:
        """Closes all, having let in who knocks: a LING would wait for ever, or crash. Ends in Stopped."""
        self._now = now
        if self.state == "new":
            self.state = "stopped"
            self.tell(Stopped())
        if self.state in ("stopping", "stopped"):
            return
        starting, self.state = self.state == "starting", "stopping"
        self._stop_at = now + self.limits.stop_time
        for name in list(self._opens):
            del self._opens[name]
            self.tell(Refused(*name, "stopped"))
        for pore in list(self.pores.values()):
            if pore.peer_kind or pore.role == PASSIVE or pore.state not in _PENDING:
                pore.feed("close", now, "stopped")
        if not starting:
            self._shut_door()

    # ── ends ──

    def ended(self, key: Key, now: float, why: str) -> None:
        """The pore itself found that its peer is gone ("peer_gone") or hostile ("corrupt")."""
        self._now = now
        pore = self.pores.get(key)
        if pore is not None:
            pore.feed("ended", now, why)

    def domain_gone(self, peer: int, now: float) -> None:
        """A domain has died, by the backend's word."""
        self._now = now
        for pore in list(self.pores.values()):
            if pore.peer == peer:
                pore.peer_died(now)

    def host_down(self, now: float) -> None:
        """No host and no store any more: everything ends at once, nothing can be told to anybody."""
        self._now = now
        self._down = True
        for name in list(self._opens):
            del self._opens[name]
            self.tell(Refused(*name, "host_down"))
        for pore in list(self.pores.values()):
            pore.host_down()
        self.pores.clear()
        self._work.clear()
        self._knocks.clear()
        self._coming.clear()
        if self.state != "stopped":
            self.state = "stopped"
            self.tell(Stopped())

    # ── what its pores use ──

    def put(self, work: StoreWork | PoreWork) -> None:
        self._work.append(work)

    def tell(self, event: Event) -> None:
        self._events.append(event)
        if isinstance(event, Opened) and event.key.role == PASSIVE:
            self._free(event.key)

    def report(self, what: str, peer: int, detail: str = "") -> None:
        self.counts[what] += 1
        self.tell(Reported(what, peer, detail))

    def gone(self, pore: Negotiation, now: float) -> None:
        """A pore has come to its end."""
        del self.pores[pore.key]
        role, peer, tid = pore.key
        if role == ACTIVE and pore.again:
            self._knock(peer, tid, now)
        if role == PASSIVE:
            waiting = self._opens.pop((peer, tid), None)
            if waiting is not None:
                self._open(peer, tid, now, *waiting)
            self._free(pore.key)
        if self._knocks:
            self._look_at_knocks(now)
        if self.state == "stopping":
            self._check_stopped()

    def glare(self, theirs: Negotiation, now: float) -> str:
        """Their knock is genuine: does it stand behind one of ours? Only between our own kind; a LING gets both."""
        ours = self.pores.get(Key(PASSIVE, theirs.peer, theirs.tid))
        if ours is None or not self._own(theirs) or ours.state not in _MAY_YIELD:
            return "genuine"
        if self.me < theirs.peer and ours.state != "LATE_WAIT":
            return "glare"
        theirs.asked, theirs.late_at = ours.asked, ours.late_at
        ours.asked, ours.late_at = False, None
        ours.feed("yield", now)
        return "genuine"

    # ── inside ──

    def _own(self, theirs: Negotiation) -> bool:
        return theirs.peer_kind and self.wishes.own_kind and not self.kind.layout.many

    def _is_first(self, theirs: Negotiation) -> bool:
        pending = theirs.state in _PENDING or theirs.state in ("INITIALISED", "CONFIRMING")
        return pending and self.me > theirs.peer and self._own(theirs)

    def _free(self, key: Key) -> None:
        held = self.pores.get(key._replace(role=ACTIVE))
        if held is not None:
            held.feed("free", self._now)

    def _add(self, key: Key, *, asked: bool = False) -> Negotiation:
        make = Opener if key.role == PASSIVE else Acceptor
        pore = self.pores[key] = make(self, key, asked=asked)
        return pore

    def _full(self, peer: int) -> bool:
        many = self.kind.layout.many and sum(key.peer == peer for key in self.pores) >= self.limits.per_peer
        return many or len(self.pores) >= self.limits.pores

    @property
    def _serves(self) -> bool:  # knocks: also when we stop, until the trees are removed
        return self.state == "running" or (self.state == "stopping" and self._stop_at is not None)

    def _knock(self, peer: int, tid: str, now: float) -> None:
        if not self._serves:
            return
        self._coming.pop(peer, None)
        pore = self.pores.get(Key(ACTIVE, peer, tid))
        if pore is not None:
            pore.again = True
        elif (peer, tid) not in self._knocks and len(self._knocks) >= self.limits.knocks_waiting:
            self.report("flooded", peer)
        else:
            self._knocks[peer, tid] = None
            self._look_at_knocks(now)

    def _look_at_knocks(self, now: float) -> None:
        """As many as may be looked at now: a flood of them costs us no more than this."""
        limits = self.limits
        self._tokens = min(
            limits.knocks_per_second, self._tokens + max(0.0, now - self._tokens_at) * limits.knocks_per_second
        )
        self._tokens_at = now
        pending = sum(key.role == ACTIVE and pore.state in _PENDING for key, pore in self.pores.items())
        for peer, tid in list(self._knocks):
            if self._tokens < 1 or pending >= limits.pending or self._full(peer):
                return
            self._tokens -= 1
            pending += 1
            del self._knocks[peer, tid]
            self._add(Key(ACTIVE, peer, tid)).feed("open", now)

    # ── start and stop: work without a pore ──

    def _scan_steps(self, top: str = "") -> tuple[tuple[str, str], ...]:
        return (("list", top or self.active_top),)

    def _pairs(self, names: list[str] | None) -> Iterator[int]:
        for name in names or ():
            domid = domid_of(name)
            if domid is not None and domid != self.me:
                yield domid

    def _scan(self, work: StoreWork, result: StoreResult, now: float) -> None:
        """Knocks that were there before the watch."""
        peers = [] if result.error else list(self._pairs(result.values[0]))
        if not self.kind.layout.many:
            for peer in peers:
                if Key(ACTIVE, peer, "") not in self.pores:
                    self._knock(peer, "", now)
        elif peers:
            steps = tuple(("list", f"{self.active_top}/{peer}") for peer in peers)
            self.put(StoreWork(None, "scan_many", steps))

    def _scan_many(self, work: StoreWork, result: StoreResult, now: float) -> None:
        for step, names in zip(work.steps, result.values, strict=False):
            for tid in names or ():
                peer = int(step[1].rsplit("/", 1)[1])
                if domid_of(tid) is not None and Key(ACTIVE, peer, tid) not in self.pores:
                    self._knock(peer, tid, now)

    def _found(self, work: StoreWork, result: StoreResult, now: float) -> None:
        """What an earlier run left. Knocks that it has not answered are not its own: they are for us."""
        if result.error:
            self.host_down(now)
            return
        layout, me = self.kind.layout, self.me
        steps: list[tuple[str, str]] = []
        for name in result.values[0] or ():
            domid = domid_of(name)
            there = -1 if domid is None or layout.many else domid  # of many: all of it goes
            steps.append(("read", f"{self.active_top}/{name}/state"))
            steps.append(("read", f"{layout.passive_dir(there, me)}/state" if there >= 0 else steps[-1][1]))
        for name in result.values[1] or ():
            domid = domid_of(name)
            steps.append(("read", f"{self.passive_top}/{name}/state"))
            there = -1 if domid is None or layout.many else domid
            steps.append(("read", f"{layout.active_dir(there, me)}/state" if there >= 0 else steps[-1][1]))
        self.put(StoreWork(None, "judged", tuple(steps)))

    def _judged(self, work: StoreWork, result: StoreResult, now: float) -> None:
        """Removes it, but for passive directories whose LING waits for our 4."""
        steps: list[tuple[str, ...]] = []
        waiting: list[int] = []
        values = result.values
        for n in range(0, len(work.steps) - 1, 2):
            path = work.steps[n][1].removesuffix("/state")
            ours, theirs = (values[n], values[n + 1]) if n + 1 < len(values) else (b"?", None)
            peer = domid_of(path.rsplit("/", 1)[1])
            if path.startswith(self.active_top + "/"):
                if ours is not None or theirs != b"2" or self.kind.layout.many:
                    steps.append(("delete", path, "EACCES"))  # a stranger may have forbidden it to us
            elif theirs == b"3" and peer is not None and not self.kind.layout.many:
                waiting.append(peer)
            else:
                steps.append(("delete", path))
        for top, perms in ((self.active_top, f"b{self.me}"), (self.passive_top, f"r{self.me}")):
            steps += [("mkdir", top), ("set_perms", top, perms)]
        steps.append(("watch", self.active_top))
        for peer in waiting:
            self._add(Key(PASSIVE, peer)).feed("finish", now)
        self.put(StoreWork(None, "listening", tuple(steps)))

    def _listening(self, work: StoreWork, result: StoreResult, now: float) -> None:
        if result.error:
            self.report("no_store", -1, result.error)
            self.host_down(now)
            return
        if self.state != "starting":
            self._shut_door()
            return
        self.state = "running"
        self.tell(Started())
        self.knocked(self.active_top, now)
        opens = list(self._opens.items())
        self._opens.clear()
        for (peer, tid), waiting in opens:
            self._open(peer, tid, now, *waiting)

    def _shut_door(self) -> None:
        """From now on a peer's MKDIR is refused, which it takes for `not_found`."""
        self._shutting = True
        shut = ("set_perms", self.active_top, f"r{self.me}")
        self.put(StoreWork(None, "shut", (shut, *self._scan_steps())))

    def _shut(self, work: StoreWork, result: StoreResult, now: float) -> None:
        self._shutting = False
        if self._stop_at is None:
            return
        if not result.error and not self.kind.layout.many:
            for peer in self._pairs(result.values[1]):
                if Key(ACTIVE, peer, "") not in self.pores and (peer, "") not in self._knocks:
                    self._coming[peer] = now + self.limits.shut_time
        self._check_stopped()

    def _check_stopped(self) -> None:
        if self._stop_at is None or self._shutting or self._knocks or self._coming:
            return
        if all(pore.state == GONE for pore in self.pores.values()):
            self._remove_trees()

    def _remove_trees(self) -> None:
        self._stop_at = None
        self._knocks.clear()
        self._coming.clear()
        steps = (("unwatch", self.active_top), ("delete", self.passive_top), ("delete", self.active_top))
        self.put(StoreWork(None, "removed", steps))

    def _removed(self, work: StoreWork, result: StoreResult, now: float) -> None:
        self.pores.clear()
        self.state = "stopped"
        self.tell(Stopped())
