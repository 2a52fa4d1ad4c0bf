"""The membrane on asyncio: carries out what its machine asks for, and hands open pores to their owners.

async with Membrane(backend, store) as membrane:
    membrane.on_straw = lambda straw: ...      # those that others open
    straw = await membrane.open(5)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final

from . import membrane_table as table
from .active import ActivePore
from .backends.base import Backend, BackendListener
from .driver import Holding, Negotiated, word
from .errors import MembraneError, PoreError, XenstoreError
from .keys import Terms
from .membrane import Machine
from .pore import Pore
from .registry import PoreTable
from .straw import Straw, StrawDriver
from .work import (
    Closed,
    Event,
    Key,
    Limits,
    Opened,
    PoreResult,
    PoreWork,
    Refused,
    Reported,
    Started,
    Step,
    Stopped,
    StoreResult,
    StoreWork,
)
from .xenstore.client import Transaction, XenStore
from .xenstore.subscriptions import Subscription

__all__ = ["Membrane"]

log = logging.getLogger("strawbridge.membrane")

#: Seconds between two log lines of one kind: strangers can't fill a disk.
_LOG_EVERY: Final = 1.0
_MISSING: Final = frozenset(["ENOENT"])

Maker = Callable[["Membrane", Key, Terms, Pore], Any]


class Membrane:
    """All pores of one kind (straws, unless a driver says otherwise) of one domain.

    store: a connection of this domain, not closed by the membrane. wishes: what peers are told we like. make: makes the
    owner's object of an opened pore. on_straw: called with those that others have opened.
    Raises MembraneError with a short `reason`: exists, self, not_found, timeout, straw_taken, host_down, limit, …
    """

    def __init__(
        self,
        backend: Backend,
        store: XenStore,
        *,
        wishes: Terms | None = None,
        limits: Limits | None = None,
        driver: Negotiated | None = None,
        make: Maker = Straw,
        pores: PoreTable | None = None,
    ) -> None:
        self.backend = backend
        self.store = store
        self.driver: Negotiated = driver or StrawDriver()
        self.machine = Machine(backend.domid, self.driver.kind, wishes, limits)
        self.on_straw: Callable[[Any], None] | None = None
        self.on_down: Callable[[str], None] | None = None
        """Called once when the membrane has ended by itself (the host or the store is gone)."""
        self._make = make
        self._table = pores or PoreTable(1024)
        self._loop = asyncio.get_running_loop()
        self._holdings: dict[Key, Holding] = {}
        self._straws: dict[Key, Any] = {}
        self._opening: dict[tuple[int, str], asyncio.Future[Any]] = {}
        self._watches: dict[tuple[Key | None, str], Subscription] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._pumping = False
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._stopped = asyncio.Event()
        self._locked = False
        self._stopping = False
        self._logged: dict[str, float] = {}
        self._listener = BackendListener(
            domain_gone=self._domain_gone, host_down=lambda why: self._down(), unmapped=lambda refs: None
        )

    # ── life ──

    async def start(self) -> None:
        """Takes the domain's lock, removes what an earlier run left, listens. MembraneError straw_taken."""
        kind = self.driver.kind.layout.kind
        if not self.backend.take_lock(kind):
            raise MembraneError(f"{kind}_taken")
        self._locked = True
        self.backend.listen(self._listener)
        self.store.on_lost(lambda error: self._down())
        self.machine.start(self._loop.time())
        self._pump()
        await self._started

    async def close(self) -> None:
        """Closes all its pores and removes both its trees. May be called twice."""
        self._stopping = True
        if self._locked:
            self.machine.stop(self._loop.time())
            self._pump()
            await self._stopped.wait()
        await self._clean()

    async def _clean(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for key in list(self._straws):
            self._straws.pop(key)._close_with("stopped")
        for holding in list(self._holdings.values()):
            holding.close_pore()
            with contextlib.suppress(PoreError):
                await holding.release()
        self._holdings.clear()
        for subscription in list(self._watches.values()):
            with contextlib.suppress(XenstoreError):
                await subscription.unwatch()
        self._watches.clear()
        self.backend.unlisten(self._listener)
        if self._locked:
            self._locked = False
            self.backend.drop_lock(self.driver.kind.layout.kind)

    async def __aenter__(self) -> Membrane:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ── pores ──

    async def open(self, peer: int, tid: str = "", *, wishes: Terms | None = None) -> Any:
        """Opens a straw to a domain: it is up when this returns. MembraneError, within 4.5 s.

        wishes: in place of the membrane's, for this one only.
        """
        if (peer, tid) in self._opening:
            raise MembraneError("exists")
        future = self._opening[peer, tid] = self._loop.create_future()
        self.machine.open(peer, self._loop.time(), tid, wishes)
        self._pump()
        try:
            return await future
        finally:
            self._opening.pop((peer, tid), None)
            if future.cancelled():
                self.machine.give_up(peer, self._loop.time(), tid)
                self._pump()

    def straw(self, peer: int, tid: str = "") -> Any | None:
        """The open straw to send to a domain by; None when there is none.

        Of two, the one that the lower domain has opened: both sides choose the same.
        """
        first, second = (table.PASSIVE, table.ACTIVE) if self.backend.domid < peer else (table.ACTIVE, table.PASSIVE)
        straw = self._straws.get(Key(first, peer, tid))
        return straw if straw is not None else self._straws.get(Key(second, peer, tid))

    @property
    def straws(self) -> list[Any]:
        """All that are open."""
        return list(self._straws.values())

    @property
    def counts(self) -> dict[str, int]:
        """What was refused, ignored or given up."""
        return dict(self.machine.counts)

    @property
    def watches(self) -> int:
        return len(self._watches)

    # ── for the straws ──

    def _close(self, key: Key, reason: str) -> None:
        self.machine.close(key, self._loop.time(), reason)
        self._pump()

    def _ended(self, straw: Any) -> None:
        if not straw.closed and self._straws.get(straw.key, straw) is straw:
            self.machine.ended(straw.key, self._loop.time(), straw.ended)
            self._pump()

    def _peer_lost(self, pore: ActivePore) -> None:
        """A channel has ended: the peer's death, or that of the host, which the peer may have seen before us."""
        self._spawn(self._who_died(pore))

    async def _who_died(self, pore: ActivePore) -> None:
        # A dead host answers nothing that is asked after it took our peer with it.
        pore.end("peer_gone" if await self.backend.answers() else "host_down")

    def _report(self, what: str, peer: int, detail: str) -> None:
        self.machine.report(what, peer, detail)
        self._pump()

    # ── news ──

    def _domain_gone(self, domid: int) -> None:
        self.machine.domain_gone(domid, self._loop.time())
        self._pump()

    def _down(self) -> None:
        if not self._stopped.is_set():
            self.machine.host_down(self._loop.time())
            self._pump()

    # ── the machine's outputs ──

    def _pump(self) -> None:
        """Carries on until the machine wants nothing more now. Not to be entered twice: it is its own queue."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while True:
                work = self.machine.data_to_send()
                for item in work:
                    do = self._store_work(item) if isinstance(item, StoreWork) else self._pore_work(item)
                    self._spawn(do)
                event = self.machine.next_event()
                if event is not None:
                    self._event(event)
                elif not work:
                    break
        finally:
            self._pumping = False
        when = self.machine.get_timer()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when is not None:
            self._timer = self._loop.call_at(when, self._time)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _time(self) -> None:
        self._timer = None
        self.machine.handle_timer(self._loop.time())
        self._pump()

    def _event(self, event: Event) -> None:
        match event:
            case Started():
                if not self._started.done():
                    self._started.set_result(None)
            case Stopped():
                self._ended_all()
            case Opened(key, terms, asked):
                self._opened(key, terms, asked)
            case Refused(peer, tid, reason):
                future = self._opening.get((peer, tid))
                if future is not None and not future.done():
                    future.set_exception(MembraneError(reason))
            case Closed(key, reason):
                straw = self._straws.pop(key, None)
                if straw is not None:
                    straw._close_with(reason)
            case Reported(what, peer, detail):
                self._log(what, peer, detail)

    def _ended_all(self) -> None:
        self._stopped.set()
        if not self._started.done():
            self._started.set_exception(MembraneError("host_down"))
            self._started.exception()
        for future in self._opening.values():
            if not future.done():
                future.set_exception(MembraneError("stopped" if self._stopping else "host_down"))
        if not self._stopping:
            for key in list(self._straws):
                self._straws.pop(key)._close_with("host_down")
            for holding in self._holdings.values():
                holding.close_pore("host_down")
            if self.on_down is not None:
                self._loop.call_soon(self.on_down, "host_down")

    def _opened(self, key: Key, terms: Terms, asked: bool) -> None:
        pore = self._holdings[key].pore
        assert pore is not None
        straw = self._straws[key] = self._make(self, key, terms, pore)
        future = self._opening.get((key.peer, key.tid))
        if asked and future is not None and not future.done():
            future.set_result(straw)
        elif self.on_straw is not None:
            try:
                self.on_straw(straw)
            except Exception as error:
                self._loop.call_exception_handler({"message": "on_straw failed", "exception": error})

    def _log(self, what: str, peer: int, detail: str) -> None:
        now = self._loop.time()
        if now - self._logged.get(what, -_LOG_EVERY) >= _LOG_EVERY:
            self._logged[what] = now
            level = logging.DEBUG if what == "withdrawn" else logging.WARNING
            log.log(level, "domain %d: %s %s (%d in all)", peer, what, detail, self.machine.counts[what])

    # ── work on the store ──

    async def _store_work(self, work: StoreWork) -> None:
        values: list[Any] = []
        error = ""
        try:
            await self._steps(work, work.steps, values)
        except XenstoreError as refused:
            error = refused.name or "EIO"
        self.machine.store_result(work, StoreResult(tuple(values), error), self._loop.time())
        self._pump()

    async def _steps(self, work: StoreWork, steps: tuple[Step, ...], values: list[Any]) -> None:
        n = 0
        while n < len(steps):
            # Reads that follow each other are asked together.
            ahead = n
            while ahead < len(steps) and steps[ahead][0] in ("read", "list", "get_perms"):
                ahead += 1
            if ahead > n:
                await self._reads(steps[n:ahead], values)
                n = ahead
            else:
                values.append(await self._step(work, steps[n]))
                n += 1

    async def _reads(self, steps: tuple[Step, ...], values: list[Any]) -> None:
        verbs = {"read": self.store.read, "list": self.store.list, "get_perms": self.store.get_perms}
        found = await asyncio.gather(*(verbs[verb](path) for verb, path in steps), return_exceptions=True)
        for value in found:
            if isinstance(value, XenstoreError) and value.name in _MISSING:
                values.append(None)
            elif isinstance(value, BaseException):
                raise value
            else:
                values.append(value)

    async def _step(self, work: StoreWork, step: Step) -> Any:
        match step:
            case ("atomic", steps):

                async def all_of_it(transaction: Transaction) -> None:
                    for one in steps:
                        if one[0] != "unless":
                            await self._write(transaction, one)
                        elif await self._is(transaction, one[1], one[2]):
                            return

                await self.store.transaction(all_of_it)
            case ("watch", path):
                await self._watch(work.key, path)
            case ("unwatch", path):
                subscription = self._watches.pop((work.key, path), None)
                if subscription is not None:
                    await subscription.unwatch()
            case _:
                await self._write(self.store, step)
        return None

    async def _is(self, on: Transaction, path: str, value: str) -> bool:
        try:
            return await on.read(path) == value.encode()
        except XenstoreError as error:
            if error.name in ("ENOENT", "EACCES"):
                return False
            raise

    async def _write(self, on: XenStore | Transaction, step: Step) -> None:
        verb, path, *arguments = step
        if verb == "mkdir":
            await on.mkdir(path)
        elif verb == "write":
            await on.write(path, arguments[0])
        elif verb == "set_perms":
            await on.set_perms(path, arguments)
        else:
            assert verb == "delete", verb
            try:
                await on.delete(path)
            except XenstoreError as error:
                if error.name not in _MISSING and error.name not in arguments:
                    raise

    async def _watch(self, key: Key | None, path: str) -> None:
        if (key, path) in self._watches:
            return

        def fired(changed: str) -> None:
            if key is None:
                self.machine.knocked(changed, self._loop.time())
            else:
                self.machine.changed(key, self._loop.time())
            self._pump()

        self._watches[key, path] = await self.store.watch(path, fired)

    # ── work on pores ──

    async def _pore_work(self, work: PoreWork) -> None:
        try:
            result = await self._pore_result(work)
        except Exception as error:
            if not isinstance(error, PoreError | ValueError | OSError):
                log.exception("domain %d: %s", work.key.peer, work.verb)
            else:
                self._log(f"{work.verb} failed", work.key.peer, str(error))
            result = PoreResult(error=word(error))
        self.machine.pore_result(work, result, self._loop.time())
        self._pump()

    async def _pore_result(self, work: PoreWork) -> PoreResult:
        key = work.key
        if work.verb in ("grant", "attach"):
            holding = Holding(self.backend, key.peer, self._table)
            try:
                if work.verb == "grant":
                    offer = await self.driver.offer(holding, work.terms)
                else:
                    await self.driver.attach(holding, work.offer, work.terms)
                    offer = work.offer
            except BaseException:
                await holding.release()
                raise
            self._holdings[key] = holding
            return PoreResult(offer=offer)
        straw = self._straws.get(key)
        if straw is not None:
            straw._last_look()
        held = self._holdings.get(key)
        if held is not None:
            if not await held.release():
                return PoreResult(busy=True)
            self._holdings.pop(key, None)
        return PoreResult()
