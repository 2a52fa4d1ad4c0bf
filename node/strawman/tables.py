"""What pids and references of two domains are to each other: the tables behind the codec's Crossing. No processes here.

A process that we tell the other domain of gets an id, one per domain and never used again; a process of theirs gets a
proxy with a pid of ours, made when it is first seen. A reference that the other side can't hold, and the tag
`[alias|Ref]` of a call, crosses as a reference of ours. Every entry ends: with its process, its reply, its time, or the
tables. They are bounded, and what does not fit is an error to the sender; nothing that lives is thrown out.
docs/strawman.md ("Pids across straws") is the story; csrc/etf/crossing.c reads and writes the bytes.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ..errors import DecodeError, EncodeError
from ..etf import Crossing
from ..terms import Atom, ImproperList, Pid, Reference

__all__ = ["Counted", "IdsExhausted", "Keeper", "Limits", "PidTables", "TableFull", "is_alias", "reply_tag"]

ID_MASK = 0x7FFFFFF
_WORD = 0xFFFFFFFF
_ALIAS = Atom("alias")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one other domain may cost us.

    pids: processes that it knows of. proxies: processes of its own that we know of. names: names of its own that
    have a pid here. refs: references that wait for their reply. nodes: names of nodes that a LING is told with
    references. ids: pids given out in the life of a straw. ref_time: seconds until a reply is too late. idle_time: a
    proxy that nobody has used, linked or monitored for so many seconds makes room when there is none.
    """

    pids: int = 1 << 18
    proxies: int = 1 << 16
    names: int = 4096
    refs: int = 1 << 17
    nodes: int = 1000
    ids: int = 1 << 27
    ref_time: float = 60.0
    idle_time: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= self.ids <= ID_MASK + 1:
            raise ValueError("ids is 1 to 2^27")


class Counted(NamedTuple):
    """Entries of one domain's tables. See Limits."""

    pids: int
    refs: int
    proxies: int
    names: int


class IdsExhausted(EncodeError):
    """All ids of this straw have been given out: it must close, and the next one begins anew."""


class TableFull(DecodeError):
    """The other domain has shown us more processes than it may have here."""


class Keeper(Protocol):
    """Who has the processes (gateway.Gateway)."""

    def watch(self, pid: Pid, /) -> Any:
        """Call tables.ended(pid) when this process ends, perhaps at once. What unwatch() takes. EncodeError."""
        ...

    def unwatch(self, watch: Any, /) -> None: ...
    def adopt(self, id: int, /) -> Pid:
        """A pid for a process of the other domain."""
        ...

    def make_room(self) -> None:
        """Let go of proxies that nobody uses, by tables.forget()."""
        ...

    def wake(self, seconds: float, /) -> None:
        """Call tables.expire() after so long, and again as it says. May be called while that is to come."""
        ...

    def now(self) -> float: ...


@dataclass(slots=True)
class _Waiting:
    """A reference in the table. key: the reference, and whether it is an alias; owner: whose call it is."""

    key: tuple[Reference, bool]
    owner: Pid | None
    until: float


class PidTables:
    """One other domain's tables. crossing: what the codec needs."""

    def __init__(self, ours: int, peer: int, keeper: Keeper, *, name: Atom, creation: int, limits: Limits) -> None:
        self.limits = limits
        self._keeper = keeper
        own = Reference(Atom(f"domain{ours}@straw"), 1, (secrets.randbits(18), secrets.randbits(32), 0))
        dead = Pid(name, 0, 0x1FFF, creation)  # no process has this serial before 2^41 have been made
        self.crossing = Crossing(
            ours=ours,
            peer=peer,
            start=secrets.randbits(27),
            own=own,
            dead=dead,
            peer_node=Atom(f"domain{peer}@straw"),
            give=self._give,
            take=self._take,
            max_nodes=limits.nodes,
        )
        self._high = ours << 32
        self._watches: dict[Pid, Any] = {}
        self._waiting: dict[int, _Waiting] = {}  # in the order of their ends
        self._words: dict[tuple[Reference, bool], int] = {}
        self._owned: dict[Pid, set[int]] = {}
        self._last_word = 0
        self.fresh = False  #: entries were made for a message that is not on its way yet
        self._fresh_pids: list[Pid] = []
        self._fresh_words: list[int] = []

    # What we give out (the codec calls, after it has walked through a message).

    def _give(self, wanted: list[tuple[Any, Pid | None]]) -> list[int]:
        self.fresh = True
        self._fresh_pids = []
        self._fresh_words = []
        try:
            return [self._pid(what) if type(what) is Pid else self._ref(what, owner) for what, owner in wanted]
        except BaseException:
            self.retract()
            raise

    def _pid(self, pid: Pid) -> int:
        crossing = self.crossing
        known = crossing.out.get(pid)
        if known is not None:
            return known & _WORD
        if len(crossing.given) >= self.limits.pids:
            raise EncodeError(f"domain {crossing.peer} knows {self.limits.pids} processes already")
        if crossing.spent >= self.limits.ids:
            raise IdsExhausted("all ids of this straw are spent")
        id = (crossing.start + crossing.spent) & ID_MASK
        crossing.spent += 1
        crossing.given[id] = pid
        crossing.out[pid] = self._high | id
        self._fresh_pids.append(pid)
        watch = self._keeper.watch(pid)
        if pid in crossing.out:
            self._watches[pid] = watch
        return id

    def _ref(self, what: Any, owner: Pid | None) -> int:
        key = (what, False) if type(what) is Reference else (what.tail, True)
        word = self._words.get(key)
        until = self._keeper.now() + self.limits.ref_time
        if word is not None:
            entry = self._waiting.pop(word)
            entry.until = until
            self._waiting[word] = entry  # the last to end
            return word
        if len(self._waiting) >= self.limits.refs:
            raise EncodeError(f"{self.limits.refs} calls to domain {self.crossing.peer} wait for their replies already")
        word = self._last_word
        while True:
            word = word + 1 if word < _WORD else 1
            if word not in self._waiting:
                break
        self._last_word = word
        self.crossing.refs[word] = what
        self._words[key] = word
        self._waiting[word] = _Waiting(key, owner, until)
        if owner is not None:
            self._owned.setdefault(owner, set()).add(word)
        self._fresh_words.append(word)
        if len(self._waiting) == 1:
            self._keeper.wake(self.limits.ref_time)
        return word

    def sent(self) -> None:
        """The message for which entries were made is on its way."""
        self.fresh = False
        self._fresh_pids = []
        self._fresh_words = []

    def retract(self) -> None:
        """The message for which entries were made last was not sent."""
        pids, words = self._fresh_pids, self._fresh_words
        self.sent()
        for pid in pids:
            self._drop(pid)
        for word in words:
            self._answered(word)

    # What they give out.

    def _take(self, ids: list[int]) -> None:
        crossing = self.crossing
        for id in ids:
            if id in crossing.proxies:
                continue
            if len(crossing.proxies) >= self.limits.proxies:
                self._keeper.make_room()
                if len(crossing.proxies) >= self.limits.proxies:
                    raise TableFull(f"domain {crossing.peer} has {self.limits.proxies} processes here already")
            pid = self._keeper.adopt(id)
            crossing.proxies[id] = pid
            crossing.out[pid] = crossing.peer << 32 | id

    def forget(self, pid: Pid) -> None:
        """A proxy has ended."""
        address = self.crossing.out.pop(pid, None)
        if address is not None:
            self.crossing.proxies.pop(address & _WORD, None)

    def is_theirs(self, pid: Pid) -> bool:
        """Whether it is a process of the other domain."""
        address = self.crossing.out.get(pid)
        return address is not None and address >> 32 == self.crossing.peer

    # What comes back.

    def is_ours(self, pid: Pid) -> bool:
        """Whether it is a process that the other domain got from us, and that lives as far as we know."""
        address = self.crossing.out.get(pid)
        return address is not None and address >> 32 == self.crossing.ours

    def knows(self, alias: Any) -> bool:
        """Whether this ``[alias|Ref]`` came out of the table, not from the other side."""
        return (alias.tail, True) in self._words

    def reply(self, pid: Pid, message: Any) -> Reference | bool:
        """Where a message to a process of ours goes: an alias that it answers; True: the pid, as any other message;
        False: nowhere, for it is a reply that comes too late.
        """
        key = reply_tag(message)
        if key is None:
            return True
        ref, alias = key
        word = self._words.get(key)
        if word is None:
            own = self.crossing.own
            return alias or ref.node is not own.node or ref.creation != own.creation
        if self._waiting[word].owner != pid:
            return True
        self._answered(word)
        return ref if alias else True

    def _answered(self, word: int) -> None:
        entry = self._waiting.pop(word, None)
        if entry is None:
            return
        del self._words[entry.key]
        del self.crossing.refs[word]
        if entry.owner is not None:
            owned = self._owned[entry.owner]
            owned.discard(word)
            if not owned:
                del self._owned[entry.owner]

    # Ends.

    def ended(self, pid: Pid) -> None:
        """A process that we gave out has ended, or its node is gone; its calls are over too."""
        self._watches.pop(pid, None)
        self._drop(pid)

    def _drop(self, pid: Pid) -> None:
        watch = self._watches.pop(pid, None)
        if watch is not None:
            self._keeper.unwatch(watch)
        address = self.crossing.out.pop(pid, None)
        if address is not None:
            self.crossing.given.pop(address & _WORD, None)
        for word in list(self._owned.get(pid, ())):
            self._answered(word)

    def expire(self) -> float:
        """Drop the references whose time is over; seconds until the next one's is, 0 when none waits."""
        now = self._keeper.now()
        while self._waiting:
            word, entry = next(iter(self._waiting.items()))
            if entry.until > now:
                return entry.until - now
            self._answered(word)
        return 0.0

    def clear(self) -> None:
        """The last straw is gone, and all entries with it."""
        for watch in self._watches.values():
            self._keeper.unwatch(watch)
        crossing = self.crossing
        for table in (self._watches, self._waiting, self._words, self._owned, crossing.given, crossing.proxies):
            table.clear()
        for table in (crossing.out, crossing.refs):
            table.clear()
        crossing.nodes.clear()

    @property
    def count(self) -> tuple[int, int, int]:
        """How many pids, references and proxies there are."""
        return len(self.crossing.given), len(self._waiting), len(self.crossing.proxies)


def is_alias(term: Any) -> bool:
    """Whether this is ``[alias|Ref]``."""
    return type(term) is ImproperList and term.items == (_ALIAS,) and type(term.tail) is Reference


def reply_tag(message: Any) -> tuple[Reference, bool] | None:
    """The reference of the call that a message answers as gen:reply does, and whether it is an alias; None: no reply.

    ``{Tag, Reply}``, where Tag, or the head of a list that is Tag, is ``Ref`` or ``[alias|Ref]``.
    """
    if type(message) is not tuple or len(message) != 2:
        return None
    head = message[0]
    tag: Any = head
    if type(head) is list and head:
        tag = head[0]
    elif type(head) is ImproperList and type(head.items[0]) is ImproperList:
        tag = head.items[0]
    if type(tag) is Reference:
        return tag, False
    return (tag.tail, True) if is_alias(tag) else None
