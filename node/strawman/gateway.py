"""Processes of another domain as processes here: the gateway of one domain, and the proxies behind it.

A proxy stands for a process of the other domain, or for one of its names. It has an ordinary pid of our node, so Python
and every BEAM of the cluster can send to it, link to it and monitor it; what it gets goes to the other domain as an
envelope. It ends with its process when the other domain tells of that, which a LING does not, and else, with
noconnection, when the domain's last straw does. The gateway itself monitors the processes that the other domain knows
of, wherever they are, and tells of their ends. Bytes and tables are csrc/etf/crossing.c and tables.py.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from ..errors import EncodeError, PeerBusy
from ..otp.gen import GEN_CALL, is_from
from ..runtime.process import Process
from ..runtime.signals import NOCONNECTION
from ..runtime.timers import Deadline
from ..terms import Atom, Pid, Reference
from .errors import StrawError
from .tables import Counted, PidTables, is_alias, reply_tag

if TYPE_CHECKING:
    from .manager import Strawman
    from .process import StrawProcess

__all__ = ["Gateway", "Proxy"]

#: Seconds between looks for proxies that make room.
SWEEP_TIME = 2.0

_STRAW_ERROR = Atom("straw_error")
_STRAW_BUSY = Atom("straw_busy")
_BADARG = Atom("badarg")


class Gateway(Process):
    """One other domain, as long as there is a straw to it.

    straws: those of one format; named: the proxies of its names.
    """

    __slots__ = ("_swept", "_timer", "domid", "manager", "named", "straws", "tables")

    def __init__(self, manager: Strawman, domid: int) -> None:
        router = manager.router
        super().__init__(router, f"gateway {domid}")
        self.manager = manager
        self.domid = domid
        self.straws: list[StrawProcess] = []
        self.named: dict[Atom, Proxy] = {}
        self._timer: Deadline | None = None
        self._swept = monotonic()
        self.tables = PidTables(
            manager.domid, domid, self, name=router.name, creation=router.creation, limits=manager.limits
        )

    def on_exit_signal(self, sender: Pid, reason: Any, *, linked: bool) -> None:
        """It ends with the straws only."""

    # Straws.

    def straw(self) -> StrawProcess:
        """The one to send on. StrawError when the last one is just ending."""
        if not self.straws:
            raise StrawError("closed", self.domid)
        return self.manager.preferred(self.straws)

    def detach(self, straw: StrawProcess) -> None:
        """A straw has ended: with the last one all that came and went over it."""
        self.straws.remove(straw)
        if self.straws or not self.alive:
            return
        if self._timer is not None:
            self._timer.cancel()
        proxies = [self.router.find(pid) for pid in self.tables.crossing.proxies.values()]
        names = list(self.named.values())
        self.tables.clear()
        self.named.clear()
        for proxy in (*proxies, *names):
            if proxy is not None:
                proxy.end(NOCONNECTION)
        self.end(NOCONNECTION)

    def exhausted(self) -> None:
        """No ids are left: the straws close, and what is sent next opens one with ids of its own."""
        for straw in list(self.straws):
            straw.end(Atom("ids_exhausted"))

    def name(self, name: Atom) -> Proxy:
        """The proxy of a name over there. StrawError too_many."""
        proxy = self.named.get(name)
        if proxy is None:
            if len(self.named) >= self.tables.limits.names:
                raise StrawError("too_many", self.domid, "names with a pid")
            proxy = self.named[name] = Proxy(self, name)
        return proxy

    @property
    def counted(self) -> Counted:
        return Counted(*self.tables.count, len(self.named))

    # What the tables need (tables.Keeper).

    def watch(self, pid: Pid) -> Reference:
        try:
            return self.monitor(pid)
        except (PeerBusy, ValueError) as error:
            raise EncodeError(f"{pid!r} can't be monitored: {error}") from error

    def unwatch(self, watch: Any) -> None:
        if self.alive:
            self.router.demonitor(self, watch)

    def on_down(self, ref: Reference, target: Any, reason: Any) -> None:
        if self.tables.fresh:  # the message that names it is being made: its end comes after
            self.router.turn.loop.call_soon(self._down, target, reason)
        else:
            self._down(target, reason)

    def _down(self, target: Any, reason: Any) -> None:
        if self.straws and self.tables.is_ours(target):
            self.straw().say_ended(target, reason)
        self.tables.ended(target)

    def ended(self, pid: Pid, reason: Any) -> None:
        """The other domain says that this process of its has ended."""
        proxy = self.router.find(pid)
        self.tables.forget(pid)
        if proxy is not None:
            proxy.end(reason)

    def adopt(self, id: int) -> Pid:
        return Proxy(self, id).pid

    def make_room(self) -> None:
        now = monotonic()
        if now - self._swept < SWEEP_TIME:
            return
        self._swept = now
        since = now - self.tables.limits.idle_time
        for pid in list(self.tables.crossing.proxies.values()):
            proxy = self.router.find(pid)
            if isinstance(proxy, Proxy) and proxy.used <= since and not proxy.is_held():
                self.tables.forget(pid)
                proxy.end(NOCONNECTION)

    def wake(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self.router.deadlines.after(seconds, self._expire)

    def _expire(self) -> None:
        self._timer = None
        rest = self.tables.expire()
        if rest and self.alive:
            self.wake(rest)

    def now(self) -> float:
        return self.router.turn.loop.time()


class Proxy(Process):
    """A process (place: its id) or a name (place: an Atom) of another domain."""

    __slots__ = ("address", "gateway", "place", "used")
    keeps = False

    def __init__(self, gateway: Gateway, place: int | Atom) -> None:
        super().__init__(gateway.router, "proxy")
        self.gateway = gateway
        self.place = place
        self.address = self.pid if type(place) is int else place
        self.used = monotonic()
        self.mailbox = gateway.mailbox  # nothing stays here; a hundred thousand need not have one each

    def __repr__(self) -> str:
        place = self.place if type(self.place) is int else str(self.place)
        return f"<Process {place} of domain {self.gateway.domid} {self.pid.id}{'' if self.alive else ' ended'}>"

    def is_held(self) -> bool:
        """Whether somebody would notice its end."""
        return bool(self.watchers or len(self.links) or self.names)

    def on_exit_signal(self, sender: Pid, reason: Any, *, linked: bool) -> None:
        """No signal crosses a straw: who links to it and ends, or would end it, changes nothing over there."""

    def deliver(self, message: Any) -> None:
        """A message for the other side. A sender in Python gets EncodeError or PeerBusy; a call from elsewhere ends."""
        self.used = monotonic()
        straws = self.gateway.straws
        try:
            (straws[0] if len(straws) == 1 else self.gateway.straw()).put(self.address, message, known=True)
        except StrawError:
            pass  # it is closing: whoever watches hears of it
        except (EncodeError, PeerBusy) as error:
            if isinstance(error, EncodeError):
                self.router.local_copy(message)  # what is no term at all is the sender's fault, whoever it is
            # The answer of a server to a call: that it can't be said must not end the server.
            if self.router.reading is None and reply_tag(message) is None:
                raise
            self._fail_call(message, error)

    def _fail_call(self, message: Any, error: EncodeError | PeerBusy) -> None:
        """Whoever calls and monitors this with one reference, as gen:call does, learns at once that no answer comes."""
        if type(message) is not tuple or len(message) != 3 or message[0] is not GEN_CALL or not is_from(message[1]):
            return
        tag = message[1][1]
        ref = tag.tail if is_alias(tag) else tag
        watcher = self.watchers.pop(ref, None) if type(ref) is Reference else None
        if watcher is not None:
            domid = self.gateway.domid
            busy = isinstance(error, PeerBusy)
            reason = (_STRAW_BUSY, domid) if busy else (_STRAW_ERROR, domid, (_BADARG, str(error).encode()))
            self.router._report_down(ref, *watcher, reason)
