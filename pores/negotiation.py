"""One pore from its knock to its end: the actions behind the rows of membrane_table.py, for either role.

No clock, no store, no memory of its own: `now` is passed in, work goes out through the machine (membrane.py), which
also decides what concerns more than one pore (glare, limits, start and stop).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from . import membrane_table as table
from .keys import EXTENSIONS, Terms, agree, number, owned_by, terms_keys, terms_of
from .membrane_table import ACTIVE, BUSY, EXTERNAL, GONE, PASSIVE, START, TABLE
from .work import Closed, Key, Offer, Opened, PoreResult, PoreWork, Refused, Step, StoreResult, StoreWork
from .xenstore.paths import domain_path

if TYPE_CHECKING:
    from .membrane import Machine

__all__ = ["Negotiation"]

INITIALISING, INIT_WAIT, INITIALISED, CONNECTED, CLOSING, CLOSED = "123456"

_WISHES: Final = ("format", *EXTENSIONS)
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
        if self._peer_dead and (self.state, "gone") in TABLE[self.role]:
            self.feed("gone", now)
        elif self._dirty and self.watching:
            self.look()
        self.plan(now)

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
        if self.role == PASSIVE:
            knock = f"{self.peer_dir}/{self.machine.kind.layout.knock}"
            state = f"{self.peer_dir}/state"
            self._store("look", ("read", knock), ("read", state), ("get_perms", state))
        else:
            self._store("look", ("read", f"{self.peer_dir}/state"))

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
        if self.role == ACTIVE:
            (state,) = result.values
            if state is None:
                return "gone"
        else:
            knock, state, perms = result.values
            if knock != self.passive_dir.encode():
                return "gone"
            if state is None:
                return ""
            if not owned_by(perms, self.peer, self.machine.me):
                self._report("not_its_own")
                return ""
        return f"p{state.decode()}" if state in (b"1", b"2", b"3", b"4", b"5", b"6") else ""

    # ── results ──

    def store_result(self, tag: str, result: StoreResult, now: float) -> None:
        if tag == "look":
            if self.state != GONE:
                self._looked(result, now)
            return
        judge = getattr(self, "_judge_" + tag, None)
        what = judge(result, now) if judge is not None else ("no" if result.error else "ok")
        if what == "no" and not self.why:
            self.why = {"ENOTCONN": "host_down", "E2BIG": "limit", "ENOSPC": "limit"}.get(result.error, "")
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
        self.machine.put(StoreWork(self.key, tag, steps))

    def _pore(self, verb: str) -> None:
        self.machine.put(PoreWork(self.key, verb, self.terms, self.offer))

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

    def _do_bye(self, now: float) -> None:
        self._answer(self.why or "refused")
        self.machine.gone(self, now)

    def _do_fail(self, now: float) -> None:
        self._answer(self.why or "refused")
        if self.state == GONE:
            self.machine.gone(self, now)
        else:  # it may still be opened again, or end otherwise
            self.why = ""

    # ── the opener's actions ──

    def _do_look(self, now: float) -> None:
        if self._since is None:
            self._since = now
        top = f"{domain_path(self.peer)}/{self.machine.kind.layout.active_top}"
        self._store("old", ("read", top), ("read", self.active_dir))

    def _judge_old(self, result: StoreResult, now: float) -> str:
        if not result.values or result.values[0] is None:
            # No such domain, or no strawman in it; the store hides which.
            if result.error in ("", "EACCES", "ENOENT"):
                self.why = self.why or "not_found"
            return "no"
        if result.error not in ("", "EACCES"):
            return "no"
        if not result.error and result.values[1] is None:
            return "clear"
        assert self._since is not None
        return "overdue" if now - self._since >= self.machine.limits.old_time else "occupied"

    def _do_pause(self, now: float) -> None:
        self.until = now + self.machine.limits.poll_time

    def _do_clear_old(self, now: float) -> None:
        self._store("clear_old", ("delete", self.active_dir))

    def _judge_clear_old(self, result: StoreResult, now: float) -> str:
        if result.error:
            self.why = self.why or "occupied"
            return "no"
        return "ok"

    def _do_prepare(self, now: float) -> None:
        """In one transaction: before it no stranger has written there, after it none can."""
        perms = (f"r{self.machine.me}", f"b{self.peer}")
        say: list[Step] = [("delete", self.active_dir)]
        if self.machine.kind.layout.many:
            # The level above is ours too.
            upper = self.active_dir.rsplit("/", 1)[0]
            say += [("mkdir", upper), ("set_perms", upper, *perms)]
        say += [("mkdir", self.active_dir), ("set_perms", self.active_dir, *perms)]
        self._store("prepare", ("atomic", tuple(say)))

    _judge_prepare = _judge_clear_old

    def _do_knock(self, now: float) -> None:
        layout, ours = self.machine.kind.layout, self.passive_dir
        wishes = terms_keys(self.wishes)
        say: list[Step] = [("mkdir", ours), ("write", f"{ours}/{layout.back}", self.active_dir)]
        say += [("write", f"{ours}/{name}", value) for name, value in wishes.items()]
        say += [
            ("write", f"{ours}/state", INIT_WAIT),
            ("write", f"{self.active_dir}/{layout.knock}", ours),  # last: this wakes the peer
        ]
        self.watching = True
        self._store("knock", ("watch", self.peer_dir), ("atomic", tuple(say)))

    def _do_unknock(self, now: float) -> None:
        """Nobody was woken: nothing of it has to stay."""
        self._answer(self.why or "refused")
        self._store("delete", *self._unwatch(), ("delete", self.our_dir), ("delete", self.active_dir))

    def _do_fail_delete(self, now: float) -> None:
        self._answer(self.why or "refused")
        self._do_delete(now)

    def _do_delete(self, now: float) -> None:
        self._store("delete", *self._unwatch(), ("delete", self.our_dir))

    def _do_read_offer(self, now: float) -> None:
        names = (*_WISHES, *self.machine.kind.offer_keys)
        paths = [f"{self.peer_dir}/{name}" for name in names]
        self._store("read_offer", *(("read", path) for path in paths), *(("get_perms", path) for path in paths))

    def _judge_read_offer(self, result: StoreResult, now: float) -> str:
        offer = None if result.error else self._offered(result)
        if offer is None:
            self.why = self.why or "bad_offer"
            self._report("bad_offer")
            return "no"
        self.offer = offer
        return "ok"

    def _offered(self, result: StoreResult) -> Offer | None:
        names = (*_WISHES, *self.machine.kind.offer_keys)
        values: Mapping[str, bytes | None] = dict(zip(names, result.values, strict=False))
        all_perms = result.values[len(names) :]
        for name, perms in zip(names, all_perms, strict=True):
            if values[name] is not None and not owned_by(perms, self.peer, self.machine.me):
                return None
        told = terms_of(values)
        self.terms = agree(self.wishes, told)
        self.peer_kind = told.own_kind
        wide = number(values["ring-bytes"]) if self.terms.own_kind else None
        if wide is not None and (wide != told.ring_bytes or wide > self.wishes.ring_bytes):
            return None  # larger than we asked for, or no such size
        return self.machine.kind.parse(values, self.terms)

    def _do_attach(self, now: float) -> None:
        self._pore("attach")

    def _do_connect(self, now: float) -> None:
        self._store("connect", ("write", f"{self.our_dir}/state", CONNECTED))

    def _do_fail_limit(self, now: float) -> None:
        self._answer(self.why or "closed")
        self.until = now + self.machine.limits.finish_time

    def _do_finish(self, now: float) -> None:
        """Lets a peer that waits for our 4 go on; our own kind understands a 6 as well."""
        state = CLOSED if self.peer_kind else CONNECTED
        watch: tuple[Step, ...] = () if self.watching else (("watch", self.peer_dir),)
        self.watching = True
        self._store("finish", *watch, ("write", f"{self.our_dir}/state", state))

    def _do_fail_finish(self, now: float) -> None:
        self._answer(self.why or "refused")
        self._do_finish(now)

    def _do_limit(self, now: float) -> None:
        self.until = now + self.machine.limits.finish_time
        self._dirty = True

    def _do_detach(self, now: float) -> None:
        self._answer(self.why or "refused")
        self._pore("detach")

    def _do_say_closed(self, now: float) -> None:
        self._store("say_closed", ("write", f"{self.our_dir}/state", CLOSED))

    def _do_linger(self, now: float) -> None:
        """A LING that has deleted its directory may be waiting to read our 6: it gets the whole time."""
        self._answer(self.why or "refused")
        own = self.peer_kind
        self.until = now + (0.0 if self._peer_dead or (self._peer_left and own) else self.machine.limits.linger_time)
        self._looked_enough = self._peer_left
        self._dirty = not self._peer_left

    # ── the acceptor's actions ──

    def _do_verify(self, now: float) -> None:
        knock, back = self.machine.kind.layout.knock, self.machine.kind.layout.back
        self._store(
            "verify",
            ("read", f"{self.our_dir}/{knock}"),
            ("get_perms", self.our_dir),
            ("read", f"{self.our_dir}/state"),
            ("read", f"{self.peer_dir}/{back}"),
            ("read", f"{self.peer_dir}/state"),
            ("read", f"{self.peer_dir}/dialect"),
        )

    def _judge_verify(self, result: StoreResult, now: float) -> str:
        what = self._verified(result, now)
        return "left" if what in ("no", "forged") and self.watching else what

    def _verified(self, result: StoreResult, now: float) -> str:
        if result.error:
            self.why = "unreadable"
            return "no"
        knock, perms, state, back, peer_state, dialect = result.values
        if knock is None:
            self.why = "withdrawn"
            return "no"
        named = knock == self.passive_dir.encode()
        if not (named and back == self.active_dir.encode() and owned_by(perms, self.peer, self.machine.me)):
            self.why = "withdrawn" if named and back is None else "forged"
            return "forged" if state is None else "stale"
        if state is not None and peer_state != INIT_WAIT.encode():
            return "stale"
        self.peer_kind = dialect == b"otp"
        return self.machine.glare(self, now)

    def _do_report(self, now: float) -> None:
        self._report(self.why or "withdrawn")
        self.machine.gone(self, now)

    def _do_forget(self, now: float) -> None:
        self._report(self.why or "withdrawn")
        self._store("remove", *self._unwatch())

    def _do_hold(self, now: float) -> None:
        self.watching = True
        self._store("hold", ("watch", self.peer_dir))

    def _do_greet(self, now: float) -> None:
        watch: tuple[Step, ...] = () if self.watching else (("watch", self.peer_dir),)
        self.watching = True
        self._dirty = True
        self._store("greet", ("write", f"{self.our_dir}/state", INITIALISING), *watch)

    def _do_wait_opener(self, now: float) -> None:
        self.until = now + self.machine.limits.opener_time

    def _do_read_wishes(self, now: float) -> None:
        self._store("read_wishes", *(("read", f"{self.peer_dir}/{name}") for name in _WISHES))

    def _judge_read_wishes(self, result: StoreResult, now: float) -> str:
        if result.error:
            return "no"
        told = terms_of(dict(zip(_WISHES, result.values, strict=True)))
        self.peer_kind = told.own_kind
        self.terms = agree(self.wishes, told)
        return "ok"

    def _do_grant(self, now: float) -> None:
        self._pore("grant")

    def _do_offer(self, now: float) -> None:
        ours = self.our_dir
        keys = self.machine.kind.publish(self.offer, self.terms)
        assert keys is not None  # the driver has seen to it
        told = Terms(self.wishes.format, self.terms.dialect, self.terms.ring_bytes, self.terms.suppress)
        say: list[Step] = [("write", f"{ours}/{name}", value) for name, value in {**keys, **terms_keys(told)}.items()]
        say.append(("write", f"{ours}/state", INITIALISED))
        self._store("offer", ("atomic", tuple(say)))

    def _do_keep(self, now: float) -> None:
        """A LING that has not read our 4 yet would wait for it for ever."""
        self._answer(self.why or "refused")
        self.until = now if self.peer_kind else max(now, self._confirmed_at + self.machine.limits.linger_time)

    def _do_confirm(self, now: float) -> None:
        self._confirmed_at = now
        self._store("confirm", ("write", f"{self.our_dir}/state", CONNECTED))

    def _do_say_closing(self, now: float) -> None:
        self._answer(self.why or "refused")
        self._store("say_closing", ("write", f"{self.our_dir}/state", CLOSING))

    def _do_closing_limit(self, now: float) -> None:
        self.until = now + self.machine.limits.close_time
        self._dirty = True

    def _do_withdraw(self, now: float) -> None:
        self._answer(self.why or "refused")
        self._pore("withdraw")

    def _do_retry_later(self, now: float) -> None:
        self.until = now + self.machine.limits.retry_time

    def _do_remove(self, now: float) -> None:
        self._answer(self.why or "refused")
        say: list[Step] = [("write", f"{self.our_dir}/state", CLOSED)] if self.peer_kind else []
        say.append(("delete", self.our_dir))
        if self._peer_left or self._confirmed_at:
            # The peer may be knocking anew already, in the old directory: a LING does not remove it first.
            say = [("atomic", (("unless", f"{self.peer_dir}/state", INIT_WAIT), *say))]
        self._store("remove", *self._unwatch(), *say)


# Every action of the table is here.
assert {row.action for rows in table.TABLE.values() for row in rows.values()} - {"-"} <= {
    name.removeprefix("_do_") for name in vars(Negotiation) if name.startswith("_do_")
}
