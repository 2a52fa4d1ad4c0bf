"""A world in memory for the membrane's machine: a real store tree, a model of the hypervisor, and an order of events
that the test chooses. Nothing here waits: time is a number that jumps when nothing else can happen.

Every rule whose breach kills a LING or loses memory is checked while it runs (`Broken`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from pores.errors import XenstoreError
from pores.keys import Terms
from pores.kinds import STRAW_KIND, Kind
from pores.membrane import Machine
from pores.work import Closed, Event, Key, Limits, Offer, Opened, PoreResult, PoreWork, Refused, StoreResult, StoreWork
from pores.xenstore.tree import Tree

__all__ = ["Broken", "Domain", "Hypervisor", "World"]

Action = Callable[[], None]


class Broken(AssertionError):
    """A rule was broken that must never be."""


class Hypervisor:
    """Grants and channels, as numbers: who granted what to whom, and who has it mapped."""

    def __init__(self) -> None:
        self.next = 8
        self.grants: dict[tuple[int, tuple[int, ...]], int] = {}
        self.mapped: dict[tuple[int, tuple[int, ...]], int] = {}
        self.ports: dict[tuple[int, int], int] = {}
        self.refuse: set[str] = set()

    def grant(self, domid: int, peer: int, pages: int, channels: int = 1) -> Offer:
        refs = tuple(range(self.next, self.next + pages))
        ports = tuple(range(self.next + pages, self.next + pages + channels))
        self.next += pages + channels
        self.grants[domid, refs] = peer
        self.ports.update({(domid, port): peer for port in ports})
        return Offer(refs, ports)

    def map(self, domid: int, granter: int, offer: Offer) -> bool:
        if self.grants.get((granter, offer.refs)) != domid:
            return False
        if any(self.ports.get((granter, port)) != domid for port in offer.ports):
            return False
        self.mapped[granter, offer.refs] = domid
        return True

    def unmap(self, granter: int, offer: Offer) -> None:
        self.mapped.pop((granter, offer.refs), None)

    def end_access(self, domid: int, offer: Offer) -> bool:
        if (domid, offer.refs) in self.mapped:
            return False
        self.grants.pop((domid, offer.refs), None)
        for port in offer.ports:
            self.ports.pop((domid, port), None)
        return True

    def died(self, domid: int) -> None:
        for owner, refs in list(self.grants):
            if owner == domid:
                del self.grants[owner, refs]
        self.mapped = {what: mapper for what, mapper in self.mapped.items() if mapper != domid}


class Domain:
    """One machine, its connection to the store, and the work it has under way."""

    def __init__(self, world: World, domid: int, kind: Kind, wishes: Terms | None, limits: Limits | None) -> None:
        self.world = world
        self.domid = domid
        self.machine = Machine(domid, kind, wishes, limits)
        self.events: list[Event] = []
        self.watch_events: deque[tuple[Key | None, str]] = deque()
        self.watches: dict[tuple[Key | None, str], bytes] = {}
        self.tokens: dict[bytes, tuple[Key | None, str]] = {}
        self.work: list[Iterator[Action | None]] = []
        self.attached: dict[Key, Offer] = {}
        self.granted: dict[Key, Offer] = {}
        self.asked: dict[int, float] = {}
        self.alive = True
        self.session = world.tree.open(domid, self._deliver)
        self._token = 0

    # wishes

    def start(self) -> None:
        self.machine.start(self.world.now)
        self.pump()

    def open(self, peer: int, tid: str = "") -> None:
        self.asked.setdefault(peer, self.world.now)
        self.machine.open(peer, self.world.now, tid)
        self.pump()

    def close(self, key: Key) -> None:
        self.machine.close(key, self.world.now)
        self.pump()

    def stop(self) -> None:
        self.machine.stop(self.world.now)
        self.pump()

    def ended(self, key: Key) -> None:
        self.machine.ended(key, self.world.now, "peer_gone")
        self.pump()

    def connected(self, peer: int) -> list[Key]:
        return [key for key, pore in self.machine.pores.items() if key.peer == peer and pore.state == "CONNECTED"]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def die(self) -> None:
        """As by SIGKILL: the host takes all back, and tells."""
        self.alive = False
        self.work.clear()
        self.watch_events.clear()
        self.world.hypervisor.died(self.domid)
        self.world.tree.release(self.domid)
        for other in self.world.domains.values():
            if other.alive:
                other.machine.domain_gone(self.domid, self.world.now)
                other.pump()

    # the edge

    def pump(self) -> None:
        while True:
            work = self.machine.data_to_send()
            for item in work:
                do = self._store_work(item) if isinstance(item, StoreWork) else self._pore_work(item)
                self.work.append(do)
            event = self.machine.next_event()
            if event is not None:
                self._check_event(event)
                self.events.append(event)
            elif not work:
                return

    def _check_event(self, event: Event) -> None:
        if isinstance(event, Opened):
            if event.key not in self.attached and event.key not in self.granted:
                raise Broken(f"opened without a pore: {event}")
            if event.asked:
                self._answered(event.key.peer)
        elif isinstance(event, Refused):
            self._answered(event.peer)
        elif isinstance(event, Closed):
            opened = sum(e.key == event.key for e in self.of(Opened))
            if opened <= sum(e.key == event.key for e in self.of(Closed)):
                raise Broken(f"closed twice: {event}")

    def _answered(self, peer: int) -> None:
        since = self.asked.pop(peer, None)
        if since is None:
            raise Broken(f"domain {self.domid}: an answer to nothing asked of {peer}")
        if self.world.now - since > self.machine.limits.open_time + 0.01:
            raise Broken(f"domain {self.domid}: an answer after {self.world.now - since} s")

    def _deliver(self, event: Any) -> None:
        token = event.token
        if token in self.tokens:
            self.watch_events.append((self.tokens[token][0], event.path))

    def fire(self) -> None:
        key, path = self.watch_events.popleft()
        self.fire_one(key, path)

    def fire_one(self, key: Key | None, path: str) -> None:
        if key is None:
            self.machine.knocked(path, self.world.now)
        else:
            self.machine.changed(key, self.world.now)
        self.pump()

    def _store_work(self, work: StoreWork) -> Iterator[Action | None]:
        values: list[Any] = []
        error = ""
        try:
            for step in work.steps:
                yield None
                values.append(self._step(work.key, step))
        except XenstoreError as refused:
            error = refused.name
        yield None
        self.machine.store_result(work, StoreResult(tuple(values), error), self.world.now)
        self.pump()

    def _step(self, key: Key | None, step: tuple[Any, ...]) -> Any:
        verb, *rest = step
        session = self.session
        faulty = key is not None and verb in ("watch", "atomic", "write")
        if faulty and self.world.random.random() < self.world.fault:
            raise XenstoreError("ENOSPC")
        if verb in ("read", "list", "get_perms"):
            try:
                if verb == "list":
                    return session.directory(rest[0])[0]
                return session.read(rest[0]) if verb == "read" else session.get_perms(rest[0])
            except XenstoreError as error:
                if error.name == "ENOENT":
                    return None
                raise
        if verb == "watch":
            if (key, rest[0]) not in self.watches:
                self._token += 1
                token = b"%d" % self._token
                self.watches[key, rest[0]] = token
                self.tokens[token] = (key, rest[0])
                try:
                    session.first_event(session.watch(rest[0], token))
                except XenstoreError:
                    del self.watches[key, rest[0]]
                    raise
        elif verb == "unwatch":
            token = self.watches.pop((key, rest[0]), b"")
            if token:
                del self.tokens[token]
                session.unwatch(rest[0], token)
        elif verb == "atomic":
            for one in rest[0]:
                self._check(key, one)
            self._atomic(rest[0])
        else:
            self._check(key, step)
            self._write(step, 0)
        return None

    def _atomic(self, steps: tuple[Any, ...]) -> None:
        tid = self.session.start_transaction()
        try:
            for one in steps:
                if one[0] == "unless":
                    try:
                        if self.session.read(one[1], tid).decode() == one[2]:
                            break
                    except XenstoreError:
                        pass
                else:
                    self._write(one, tid)
        except BaseException:
            self.session.end_transaction(tid, False)
            raise
        self.session.end_transaction(tid, True)

    def _write(self, step: tuple[Any, ...], tid: int) -> None:
        verb, path, *rest = step
        if verb == "write":
            if not rest[0]:
                raise Broken("an empty value kills LING's xenstore")
            self.session.write(path, rest[0].encode(), tid)
        elif verb == "mkdir":
            self.session.mkdir(path, tid)
        elif verb == "set_perms":
            if "/straw/" in path and path.endswith("/warts"):
                raise Broken("a second event on <straw>/warts")
            self.session.set_perms(path, rest, tid)
        else:
            assert verb == "delete"
            try:
                self.session.remove(path, tid)
            except XenstoreError as error:
                if error.name != "ENOENT" and error.name not in rest:
                    raise

    def _check(self, key: Key | None, step: tuple[Any, ...]) -> None:
        if key is None:
            return
        if step[0] == "delete" and (key in self.attached or key in self.granted):
            raise Broken(f"domain {self.domid} deletes {step[1]} before its mappings are gone")

    def _pore_work(self, work: PoreWork) -> Iterator[Action | None]:
        yield None
        result = self._pore_result(work)
        yield None
        self.machine.pore_result(work, result, self.world.now)
        self.pump()

    def _pore_result(self, work: PoreWork) -> PoreResult:
        world, key = self.world.hypervisor, work.key
        if work.verb in world.refuse or (work.verb == "grant" and work.terms.ring_bytes and "wide" in world.refuse):
            return PoreResult(error="limit")
        if work.verb == "grant":
            straw = self.machine.kind is STRAW_KIND
            pages = STRAW_KIND.pages(work.terms) if straw else 1
            self.granted[key] = world.grant(self.domid, key.peer, pages, 1 if straw else 2)
            return PoreResult(offer=self.granted[key])
        if work.verb == "attach":
            if not world.map(self.domid, key.peer, work.offer):
                return PoreResult(error="bad_offer")
            self.attached[key] = work.offer
        elif work.verb == "detach":
            offer = self.attached.pop(key, None)
            if offer is not None:
                world.unmap(key.peer, offer)
        elif work.verb == "withdraw":
            offer = self.granted.get(key)
            if offer is not None:
                if not world.end_access(self.domid, offer):
                    return PoreResult(busy=True)
                del self.granted[key]
        return PoreResult()


class World:
    """All domains, and who of them does something next."""

    def __init__(self, seed: int = 0) -> None:
        self.tree = Tree()
        self.hypervisor = Hypervisor()
        self.now = 100.0
        self.random = Random(seed)
        self.domains: dict[int, Domain] = {}
        self.actors: list[Any] = []
        """Others that act, such as a Ling: `step()` says whether it did something."""
        self.fault = 0.0
        """How often the store refuses to take something of a pore's."""
        self.lose = self.repeat = 0.0
        """How often a watch event is lost or told twice (never that of the top directory: knocks are told once)."""

    def add(
        self, domid: int, kind: Kind = STRAW_KIND, wishes: Terms | None = None, limits: Limits | None = None
    ) -> Domain:
        if not self.tree.is_introduced(domid):
            self.tree.introduce(domid)
        domain = self.domains[domid] = Domain(self, domid, kind, wishes, limits)
        return domain

    def act(self) -> bool:
        """One thing that can happen now, if there is any."""
        can: list[Callable[[], object]] = []
        for domain in self.domains.values():
            if domain.alive:
                can += [lambda d=domain, n=n: self._work(d, n) for n in range(len(domain.work))]  # type: ignore[misc]
                if domain.watch_events:
                    can.append(lambda d=domain: self._fire(d))  # type: ignore[misc]
        can += [actor.step for actor in self.actors if actor.ready()]
        if not can:
            return False
        self.random.choice(can)()
        return True

    def _work(self, domain: Domain, n: int) -> None:
        work = domain.work[n]
        try:
            next(work)
        except StopIteration:
            if work in domain.work:
                domain.work.remove(work)

    def _fire(self, domain: Domain) -> None:
        key, path = domain.watch_events.popleft()
        if key is not None and self.random.random() < self.lose:
            return
        domain.fire_one(key, path)
        if self.random.random() < self.repeat:
            domain.fire_one(key, path)

    def settle(self, seconds: float = 0.0, until: Callable[[], object] = lambda: False) -> None:
        """Everything that can happen; timers up to `seconds` from now. until: stop as soon as this is true."""
        end = self.now + seconds
        for _ in range(200_000):
            if until():
                return
            if self.act():
                continue
            times = [d.machine.get_timer() for d in self.domains.values() if d.alive]
            times += [actor.wakes() for actor in self.actors]
            due = min((time for time in times if time is not None), default=None)
            if due is None or due > end:
                self.now = max(self.now, end)
                return
            self.now = max(self.now, due)
            for domain in self.domains.values():
                if domain.alive:
                    domain.machine.handle_timer(self.now)
                    domain.pump()
        raise Broken("it never comes to rest")

    def steps(self, count: int) -> None:
        for _ in range(count):
            if not self.act():
                return

    def keys(self, domid: int) -> list[str]:
        """What is below a domain's two trees."""
        session = self.tree.open(0)
        found: list[str] = []

        def walk(path: str) -> None:
            for name in session.directory(path)[0]:
                found.append(f"{path}/{name}")
                walk(f"{path}/{name}")

        if domid in self.domains and self.tree.is_introduced(domid):
            walk(f"/local/domain/{domid}/data")
        session.close()
        return [path for path in found if path.count("/") > 5]

    def nothing_left(self) -> None:
        """After all have stopped: no key, grant, mapping or watch."""
        if self.hypervisor.grants or self.hypervisor.mapped:
            raise Broken(f"left: {self.hypervisor.grants} {self.hypervisor.mapped}")
        for domain in self.domains.values():
            if domain.alive:
                if domain.watches:
                    raise Broken(f"watches left: {domain.watches}")
                if self.keys(domain.domid):
                    raise Broken(f"keys left: {self.keys(domain.domid)}")
                if domain.asked:
                    raise Broken(f"never answered: {domain.asked}")
