"""The one who is knocked upon (LING's active side): checks who knocks, grants, and ends access after the unmapping."""

from __future__ import annotations

from .keys import Terms, agree, owned_by, terms_keys, terms_of
from .membrane_table import ACTIVE, TABLE
from .negotiation import CLOSED, CLOSING, CONNECTED, INIT_WAIT, INITIALISED, INITIALISING, WISHES, Negotiation
from .work import Step, StoreResult

__all__ = ["Acceptor"]


class Acceptor(Negotiation):
    """The actions of the table's active rows. `_judge_x` makes an input of what the store said to x."""

    def _may_leave(self) -> bool:
        return self.state == "INITIALISED" or (self.state == "INITIALISING" and self.peer_kind)

    def _look_steps(self) -> tuple[Step, ...]:
        return (("read", f"{self.peer_dir}/state"),)

    def _state_of(self, result: StoreResult) -> bytes | None:
        (state,) = result.values
        return None if state is None else bytes(state)

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
        owned = owned_by(perms, self.peer, self.machine.me)
        if knock == self.passive_dir.encode() and owned and back is None:
            self.why = "withdrawn"
            self._peer_left = True
            return "stale"
        if not (knock == self.passive_dir.encode() and owned and back == self.active_dir.encode()):
            self.why = "forged"
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
        self._store("read_wishes", *(("read", f"{self.peer_dir}/{name}") for name in WISHES))

    def _judge_read_wishes(self, result: StoreResult, now: float) -> str:
        if result.error:
            return "no"
        told = terms_of(dict(zip(WISHES, result.values, strict=True)))
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

    def _judge_remove(self, result: StoreResult, now: float) -> str:
        return self._judge_gone(result, now)

    def _do_remove(self, now: float) -> None:
        self._answer(self.why or "refused")
        say: list[Step] = [("write", f"{self.our_dir}/state", CLOSED)] if self.peer_kind else []
        say.append(("delete", self.our_dir))
        if self._peer_left or self._confirmed_at:
            # The peer may be knocking anew already, in the old directory: a LING does not remove it first.
            say = [("atomic", (("unless", f"{self.peer_dir}/state", INIT_WAIT), *say))]
        self._store("remove", *self._unwatch(), *say)


# Every action of the table is here.
assert all(row.action == "-" or hasattr(Acceptor, "_do_" + row.action) for row in TABLE[ACTIVE].values())
