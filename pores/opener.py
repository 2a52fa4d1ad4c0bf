"""The one who opens (LING's passive side): it knocks, maps what is offered, and unmaps before it says so."""

from __future__ import annotations

from collections.abc import Mapping

from .keys import agree, number, owned_by, terms_keys, terms_of
from .membrane_table import PASSIVE, TABLE
from .negotiation import CLOSED, CONNECTED, INIT_WAIT, WISHES, Negotiation
from .work import Offer, Step, StoreResult
from .xenstore.paths import domain_path

__all__ = ["Opener"]


class Opener(Negotiation):
    """The actions of the table's passive rows. `_judge_x` makes an input of what the store said to x."""

    def _look_steps(self) -> tuple[Step, ...]:
        state = f"{self.peer_dir}/state"
        return ("read", f"{self.peer_dir}/{self.machine.kind.layout.knock}"), ("read", state), ("get_perms", state)

    def _state_of(self, result: StoreResult) -> bytes | None:
        knock, state, perms = result.values
        if knock != self.passive_dir.encode():
            return None
        if state is not None and not owned_by(perms, self.peer, self.machine.me):
            self._report("not_its_own")
            return b""
        return state or b""

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

    def _judge_delete(self, result: StoreResult, now: float) -> str:
        return self._judge_gone(result, now)

    def _do_read_offer(self, now: float) -> None:
        names = (*WISHES, *self.machine.kind.offer_keys)
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
        names = (*WISHES, *self.machine.kind.offer_keys)
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


# Every action of the table is here.
assert all(row.action == "-" or hasattr(Opener, "_do_" + row.action) for row in TABLE[PASSIVE].values())
