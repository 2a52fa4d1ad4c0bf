"""Strawman: the straws of one node, as Python sees them, and what the process `strawman` works with.

It opens straws, finds the one to a domain, opens on first use, keeps the node's domain and gets a new one when the host
service has died. One straw is process.py, the bytes are formats.py, who may be reached is exports.py, and shared memory
is behind the seam.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import EncodeError
from ..etf import encode
from ..runtime.signals import SHUTDOWN
from ..terms import Atom, Pid
from .errors import StrawError
from .exports import StrawExports
from .formats import MAX_FRAME, Format
from .gateway import Gateway, Proxy
from .process import StrawProcess
from .seam import Carrier, CarrierFactory, Straw
from .tables import Counted, Limits

if TYPE_CHECKING:
    from ..node import Node  # for annotations only
    from ..runtime.router import Router

__all__ = ["CLOSE_TIME", "Counts", "Strawman"]

log = logging.getLogger("strawbridge.strawman")

#: Lines that one kind of trouble may log within WARN_PERIOD seconds; the rest are counted.
WARN_LINES = 5
WARN_PERIOD = 10.0
#: Bytes of envelopes that wait for one straw to be opened.
OPENING_LIMIT = MAX_FRAME
#: Seconds between attempts to find a host again, at random up to this.
RETRY_TIME = 0.5
#: Seconds that a straw of the other side may take to come after ours gave way to it, and how often that is looked at.
YIELD_TIME = 3.0
YIELD_POLL = 0.02
#: Domain ids end here (DOMID_FIRST_RESERVED is the next).
LAST_DOMID = 0x7FEF
#: Seconds that unsent frames of a straw get when it is closed.
CLOSE_TIME = 2.0


@dataclass(slots=True)
class Counts:
    """What became of envelopes, since the node started."""

    sent: int = 0
    received: int = 0
    #: frames that were no envelope
    malformed: int = 0
    #: for an address that is not exported
    unknown: int = 0
    #: from a domain that the export does not name, or in the shape of a signal
    refused: int = 0
    #: with pids that the other domain can't have: never given to it, or of a third one
    forged: int = 0
    #: with more processes of the other domain than it may have here
    crowded: int = 0
    #: replies to calls that are over
    late: int = 0
    #: exported, but there is no such process, or its node can't take the message
    undelivered: int = 0
    #: dropped because the straw held too much
    dropped_busy: int = 0
    #: dropped because the format or the dialect has no words for it
    unsayable: int = 0
    #: dropped because no straw could be opened
    unopened: int = 0


@dataclass(slots=True)
class _Opening:
    """A straw that is being opened on first use, and what waits for it."""

    task: asyncio.Task[StrawProcess]
    waiting: deque[tuple[Any, Any]] = field(default_factory=deque)
    size: int = 0


class Strawman:
    """The straws of one node: `node.strawman`. Use it on the loop's thread.

    host: the folder of the host service, None for this user's; it runs in this process if embed_host. counts: what
    became of envelopes. ling_maps: say maps to LING domains too; a LING that sends a map on dies of it. limits: what
    other domains may cost us in pids and references, for straws that are opened from now on.
    """

    def __init__(
        self,
        node: Node,
        pores: bool | str | os.PathLike[str] | None = None,
        domid: int = 0,
        carrier: CarrierFactory | None = None,
        *,
        embed_host: bool = False,
    ) -> None:
        self._node = node
        #: whether this node is a domain at all
        self.enabled = pores is not None and pores is not False
        self.host = None if isinstance(pores, bool) or pores is None else os.fspath(pores)
        self._wanted = domid
        self._embed_host = embed_host
        self._make = carrier or self._real_carrier
        self._held = True  # what others send waits until the app is ready
        self._carrier: Carrier | None = None
        self._straws: dict[int, list[StrawProcess]] = {}
        self._gateways: dict[tuple[int, Format], Gateway] = {}
        self._opening: dict[int, _Opening] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._warned: dict[str, tuple[float, int]] = {}
        self._closing = False
        self.exports = StrawExports()
        self.counts = Counts()
        self.ling_maps = False
        self.limits = Limits()

    # Life: the node calls these.

    @property
    def router(self) -> Router:
        return self._node.router

    @property
    def domid(self) -> int:
        """Our domain id; 0 while there is none."""
        return 0 if self._carrier is None else self._carrier.domid

    async def start(self) -> None:
        """Become a domain. StrawError: no_host, straw_taken, domid_taken, …"""
        carrier = await self._make(self.host, self._wanted)
        self._carrier = carrier
        carrier.listen(self._adopt, self._lost)
        log.info("%s is domain %d", self._node.name, carrier.domid)

    async def _real_carrier(self, host: str | None, domid: int) -> Carrier:
        from .pores import connect  # not before: a node without straws needs nothing of pores

        return await connect(host, domid, embed_host=self._embed_host)

    def release(self) -> None:
        """Names and exports are there: let in what others send."""
        self._held = False
        for straws in self._straws.values():
            for straw in straws:
                if not straw.straw.opened_by_us:
                    straw.attach()

    async def stop(self) -> None:
        """Send what is unsent, as far as peers take it, close all straws and give the domain back. May be repeated."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        straws = [straw for several in self._straws.values() for straw in several]
        await asyncio.gather(*(self._close(straw, SHUTDOWN) for straw in straws))
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            await carrier.close()

    def _lost(self, reason: str) -> None:
        """The host service is gone, and all straws with it: look for the next one, as another domain."""
        if self._carrier is None or self._closing:
            return
        log.warning("%s is no domain any more: %s", self._node.name, reason)
        carrier, self._carrier = self._carrier, None
        self.spawn(self._again(carrier))

    async def _again(self, carrier: Carrier) -> None:
        await carrier.close()
        for straws in list(self._straws.values()):
            for straw in list(straws):
                straw.end(Atom("host_down"))
        while True:
            # At random: of several nodes that lost a host one starts the next, the others find it.
            await asyncio.sleep(random.uniform(0.1, 1.0) * RETRY_TIME)
            try:
                await self.start()
            except StrawError as error:
                self.warn("no_host", "still no domain: %s", error)
            else:
                return

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """A task of ours; it is cancelled when the strawman closes."""
        task: asyncio.Task[Any] = self.router.turn.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # For Python.

    def export(self, name: Any, *, to: Any = None, domains: Iterable[int] | None = None, sender: bool = False) -> None:
        """Let envelopes from other domains reach a process; nothing else can be reached.

        name: what they are addressed to: a registered name or (name, node). to: where they go, on any node of the
        cluster: a name, a Pid or (name, node); the same unless given. domains: whose envelopes are let through; None:
        everybody's. sender: the message arrives as ``{straw, DomId, Msg}`` instead of Msg. Works before the node has
        started.
        ValueError for a service of the node itself.
        """
        self.exports.add(name, to, domains, sender)

    def unexport(self, name: Any) -> None:
        """Take an export back. May be called twice."""
        self.exports.remove(name)

    async def open(self, domid: int, *, format: Format = "erlang") -> Pid:
        """Open a straw to a domain; its StrawPid. format: what we offer, json makes it a json straw.

        StrawError: exists (in either direction), self, not_found, timeout, host_down, …
        """
        return (await self.open_process(domid, format)).pid

    async def open_process(self, domid: int, format: Format = "erlang") -> StrawProcess:
        """open(), and the process itself."""
        self._ready(domid)
        if domid in self._straws or domid in self._opening:
            raise StrawError("exists", domid)
        return await asyncio.shield(self._start_opening(domid, format).task)

    def split(self, domid: int) -> Pid | None:
        """The StrawPid of the straw to a domain, if there is one."""
        process = self.process(domid)
        return None if process is None else process.pid

    async def send(self, domid: int, to: Any, message: Any) -> None:
        """Send an envelope to a process of another domain; the first one opens the straw.

        to: a registered name there, the Pid of one of its processes, or (name, node). Waits while 16 MiB are unsent.
        EncodeError when the straw's format or the peer's dialect has no words for it; StrawError when there is no straw
        to be had, or it closes while this waits. That the other side has taken it nobody says, as with any message.
        """
        process = self.process(domid) or await self._first(domid)
        await process.send_envelope(to, message)

    async def proxy(self, domid: int, name: str | Atom) -> Pid:
        """A pid that stands for a registered name of another domain; opens a straw if there is none.

        What is sent to it, by whom in the cluster ever, goes there; it can be called, linked to and monitored, and ends
        with noconnection when the straw does. The same pid for the same name. StrawError: as of open(), too_many.
        """
        process = self.process(domid) or await self._first(domid)
        return process.gateway.name(Atom(name) if isinstance(name, str) else name).pid

    def place(self, pid: Pid) -> tuple[int, int | Atom] | None:
        """What a pid of ours stands for: a domain, and the id or name of a process there. None: it is no such pid."""
        process = self.router.find(pid)
        return (process.gateway.domid, process.place) if isinstance(process, Proxy) else None

    def tables(self, domid: int) -> Counted:
        """How many entries there are for a domain: processes of ours that it knows, references that wait for a reply,
        processes and names of its own that have a pid here."""
        found = [gateway.counted for (other, _), gateway in self._gateways.items() if other == domid]
        return Counted(*map(sum, zip(*found, strict=True))) if found else Counted(0, 0, 0, 0)

    async def flush(self, domid: int) -> None:
        """Wait until everything sent to a domain is in shared memory. StrawError when the straw closes first."""
        process = self.process(domid)
        if process is not None:
            await process.straw.drain()

    async def close(self, domid: int) -> bool:
        """Close every straw to a domain; whether there was one. What is unsent gets CLOSE_TIME seconds."""
        straws = list(self._straws.get(domid, ()))
        await asyncio.gather(*(self._close(straw, Atom("closed")) for straw in straws))
        return bool(straws)

    async def _close(self, process: StrawProcess, reason: Atom) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIME):
                await process.straw.drain()
        except (TimeoutError, StrawError):
            pass
        process.end(reason)

    @property
    def domains(self) -> list[int]:
        """The domains that we have a straw to."""
        return sorted(self._straws)

    # For the process `strawman`, and for straws.

    def process(self, domid: int) -> StrawProcess | None:
        """The straw to send on: of two, each opened by one side, that of the lower domain (straw-rules 2)."""
        straws = self._straws.get(domid)
        return self.preferred(straws) if straws else None

    def preferred(self, straws: list[StrawProcess]) -> StrawProcess:
        """Of two straws to one domain the one that the lower domain opened: both sides send on it."""
        return straws[0] if len(straws) == 1 else min(straws, key=self._opener)

    def gateway(self, domid: int, format: Format) -> Gateway:
        """The one for a straw that opens: that of a straw that is open already, of two to one domain, or a new one.

        A LING with two straws to us answers on either, so they share their pids.
        """
        gateway = self._gateways.get((domid, format))
        if gateway is None or not gateway.alive:
            gateway = self._gateways[domid, format] = Gateway(self, domid)
            gateway.on_exit.append(lambda process, reason: self._gateways.pop((domid, format), None))
        return gateway

    def _opener(self, process: StrawProcess) -> int:
        return self.domid if process.straw.opened_by_us else process.straw.domid

    def forward(self, domid: int, addr: Any, message: Any) -> Any:
        """An envelope of a process that can't wait, for a straw that may have to be opened: ok or {error, Reason}."""
        process = self.process(domid)
        if process is not None:
            return process.forward(addr, message)
        try:
            self._ready(domid)
            size = len(encode(message, none=self._node.none))
        except (StrawError, EncodeError) as error:
            self.counts.unopened += 1
            self.warn("unopened", "an envelope for domain %d is dropped: %s", domid, error)
            return (Atom("error"), Atom(error.reason if isinstance(error, StrawError) else "badarg"))
        opening = self._start_opening(domid)
        if opening.size + size > OPENING_LIMIT:
            self.counts.dropped_busy += 1
            return (Atom("error"), Atom("straw_busy"))
        opening.size += size
        opening.waiting.append((addr, message))
        return Atom("ok")

    async def _first(self, domid: int) -> StrawProcess:
        self._ready(domid)
        return await asyncio.shield(self._start_opening(domid).task)

    def _start_opening(self, domid: int, format: Format = "erlang") -> _Opening:
        """The one opening of a straw to that domain."""
        opening = self._opening.get(domid)
        if opening is None:
            opening = self._opening[domid] = _Opening(self.spawn(self._open(domid, format)))
            opening.task.add_done_callback(lambda task: self._opened(domid, task))
        return opening

    async def _open(self, domid: int, format: Format) -> StrawProcess:
        try:
            return self._adopt(await self._ready(domid).open(domid, format))
        except StrawError as error:
            if error.reason != "exists":
                raise
        # Both sides opened at once and ours gave way, or a knock is being answered: then that straw comes.
        until = self.router.turn.loop.time() + YIELD_TIME
        while self.router.turn.loop.time() < until:
            process = self.process(domid)
            if process is not None:
                return process
            await asyncio.sleep(YIELD_POLL)
        raise StrawError("exists", domid)

    def _opened(self, domid: int, task: asyncio.Task[StrawProcess]) -> None:
        opening = self._opening.pop(domid)
        error = StrawError("closed", domid) if task.cancelled() else task.exception()
        if opening.waiting:  # else _adopt() has taken them
            self.counts.unopened += len(opening.waiting)
            self.warn("unopened", "%d envelopes for domain %d are dropped: %s", len(opening.waiting), domid, error)

    def _ready(self, domid: int) -> Carrier:
        if not self.enabled:
            raise StrawError("no_pores", domid, "this node was made without pores")
        if self._carrier is None or self._closing:
            raise StrawError("closed" if self._closing else "host_down", domid)
        if not 0 <= domid <= LAST_DOMID:
            raise StrawError("not_found", domid, "no domain has such a number")
        if domid == self._carrier.domid:
            raise StrawError("self", domid)
        return self._carrier

    def _adopt(self, straw: Straw) -> StrawProcess:
        """A straw is open: it gets its process."""
        process = StrawProcess(self, straw)
        domid = straw.domid
        self._straws.setdefault(domid, []).append(process)
        by = "us" if straw.opened_by_us else "it"
        log.info("straw to domain %d: %s, %s, opened by %s", domid, straw.format, straw.dialect, by)
        if straw.opened_by_us or not self._held:
            process.attach()
        if self._closing:
            process.end(SHUTDOWN)
        opening = self._opening.get(domid)
        if opening is not None:
            # Here, not when the opening ends: what is sent from now on goes to the straw at once, and comes after.
            waiting, opening.waiting = opening.waiting, deque()
            for addr, message in waiting:
                process.forward(addr, message)
        return process

    def forget(self, process: StrawProcess) -> None:
        """A straw's process has ended."""
        domid = process.straw.domid
        rest = [other for other in self._straws.get(domid, ()) if other is not process]
        if rest:
            self._straws[domid] = rest
        else:
            self._straws.pop(domid, None)
        log.info("the straw to domain %d is closed: %r", domid, process.exit_reason)

    def warn(self, kind: str, text: str, *args: Any) -> None:
        """Log a trouble that strangers can cause at will: a few lines of each kind in a period."""
        now = self.router.turn.loop.time()
        since, lines = self._warned.get(kind, (now, 0))
        if now - since >= WARN_PERIOD:
            if lines > WARN_LINES:
                log.warning("%d more of these were not logged: %s", lines - WARN_LINES, kind)
            since, lines = now, 0
        self._warned[kind] = (since, lines + 1)
        if lines < WARN_LINES:
            log.warning(text, *args)
