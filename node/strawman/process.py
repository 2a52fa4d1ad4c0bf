"""StrawProcess: one straw as a process of the cluster.

It takes ``{envelope, Addr, Msg}`` from anybody and puts it on the straw, and hands over what comes from there. It can
be linked to and monitored, and ends when the straw does, with the straw's reason; killing it closes the straw. It has
no task: a message is put on the straw in the turn in which it came. Opening straws, and finding the one to a domain,
is manager.py; what pids become is gateway.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import DecodeError, EncodeError, NoConnection, PeerBusy
from ..etf import Crossing
from ..otp.gen import GEN_CALL, is_from, reply
from ..runtime.peers import Peer
from ..runtime.process import Process
from ..terms import Atom, Pid, Reference
from .errors import StrawError
from .exports import SERVICES, SIGNALS, is_forged
from .formats import (
    MAX_FRAME,
    Dialect,
    decode_envelope,
    decode_terms,
    encode_envelope,
    encode_pieces,
    encode_terms,
)
from .seam import Straw
from .tables import IdsExhausted, TableFull

if TYPE_CHECKING:
    from .manager import Strawman

__all__ = ["MAX_OWNERS", "StrawProcess"]

#: Processes that one straw tells of what went wrong.
MAX_OWNERS = 64
#: Bytes of the frame that tells why a process has ended; a longer reason becomes noproc.
MAX_ENDED = 1 << 16

_OK = Atom("ok")
_ERROR = Atom("error")
_ENVELOPE = Atom("envelope")
_STRAW = Atom("straw")
_BUSY = Atom("straw_busy")
_FAILED = Atom("straw_error")
_BADARG = Atom("badarg")
_UNKNOWN_REQUEST = Atom("unknown_request")
_ENDED = Atom("$ended")
_NOPROC = Atom("noproc")


class StrawProcess(Process):
    """One straw. `straw` is the connection, `manager` the node's Strawman, `owners` who opened or split it, `gateway`
    has the processes of the other domain."""

    __slots__ = (
        "_crossing",
        "_dialect",
        "_none",
        "_pausers",
        "_tables",
        "_telling",
        "_told_busy",
        "_untold",
        "_waits",
        "gateway",
        "manager",
        "owners",
        "straw",
    )

    def __init__(self, manager: Strawman, straw: Straw) -> None:
        super().__init__(manager.router, f"straw {straw.domid}")
        self.trap_exit = True  # who links to a straw shared by all must not close it by dying
        self.manager = manager
        self.straw = straw
        self.owners: list[Pid] = []
        self.gateway = manager.gateway(straw.domid, straw.format)
        self.gateway.straws.append(self)
        self._tables = self.gateway.tables
        self._crossing = self._tables.crossing if straw.format == "erlang" else None
        self._dialect: Dialect = straw.dialect
        self._none = Atom(self.node.none)
        self._told_busy = False
        self._pausers: set[Any] = set()
        self._waits: dict[Peer, asyncio.Task[None]] = {}
        self._untold: deque[bytes] = deque()
        self._telling: asyncio.Task[None] | None = None
        self.on_exit.append(self._ended)
        straw.on_closed(self._closed)

    def add_owner(self, pid: Pid | None) -> None:
        """This process will be told of drops and errors on this straw."""
        if pid is not None and pid not in self.owners:
            self.owners = [*self.owners, pid][-MAX_OWNERS:]

    # From the cluster to the straw.

    def encode(self, addr: Any, message: Any, *, from_process: bool) -> bytes:
        """An envelope as this straw's peer reads it. EncodeError."""
        if self._crossing is None and from_process:
            message = self.router.local_copy(message)  # JSON tells Python's values from a process's terms
        return encode_envelope(
            addr,
            message,
            format=self.straw.format,
            dialect=self._dialect,
            none=self._none,
            ling_maps=self.manager.ling_maps,
            from_process=from_process,
            crossing=self._crossing,
        )

    async def send_envelope(self, addr: Any, message: Any) -> None:
        """An envelope of Python's own, when there is room. EncodeError, StrawError."""
        try:
            frame = self.encode(addr, message, from_process=False)
        except IdsExhausted as error:
            self._exhausted(error)
        except EncodeError:
            self._tables.retract()
            raise
        self._tables.sent()
        await self.straw.send(frame)
        self.manager.counts.sent += 1

    def _exhausted(self, error: IdsExhausted) -> NoReturn:
        self.gateway.exhausted()
        raise StrawError("ids_exhausted", self.straw.domid) from error

    def deliver(self, message: Any) -> None:
        """A message came from a process of the cluster: an envelope, a call with one, or nothing for us."""
        if type(message) is not tuple or len(message) != 3:
            return
        tag, second, third = message
        if tag is _ENVELOPE:
            self.forward(second, third)
        elif tag is GEN_CALL and is_from(second):
            if type(third) is tuple and len(third) == 3 and third[0] is _ENVELOPE:
                reply(self, second, self.forward(third[1], third[2]))
            else:
                reply(self, second, (_ERROR, _UNKNOWN_REQUEST))

    def forward(self, addr: Any, message: Any) -> Any:
        """put() for who wants an answer: ok, or {error, Reason}."""
        try:
            self.put(addr, message)
        except EncodeError as error:
            return (_ERROR, (_BADARG, str(error).encode()))
        except StrawError as error:
            return (_ERROR, Atom(error.reason))
        except PeerBusy:
            return (_ERROR, _BUSY)
        return _OK

    def put(self, addr: Any, message: Any, *, known: bool = False) -> None:
        """An envelope of a process that can't wait; what can't be sent is counted, and the owners are told.

        known: the address needs no check. EncodeError, PeerBusy, StrawError.
        """
        manager, straw, tables = self.manager, self.straw, self._tables
        counts = manager.counts
        try:
            if not (self._told_busy and straw.busy):
                frame: bytes | list[bytes]
                if known and self._crossing is not None:
                    frame = encode_pieces(addr, message, self._none, self._dialect, manager.ling_maps, self._crossing)
                else:
                    frame = self.encode(addr, message, from_process=True)
                if straw.send_nowait(frame):
                    if tables.fresh:
                        tables.sent()
                    self._told_busy = False
                    counts.sent += 1
                    return
            tables.retract()
        except IdsExhausted as error:
            self._exhausted(error)
        except EncodeError as error:
            counts.unsayable += 1
            self.manager.warn("unsayable", "an envelope for domain %d is dropped: %s", straw.domid, error)
            self._tell(_FAILED, straw.domid, (_BADARG, str(error).encode()))
            self._tables.retract()
            raise
        counts.dropped_busy += 1
        if not self._told_busy:
            self._told_busy = True
            self._tell(_BUSY, straw.domid)
        raise PeerBusy(f"domain {straw.domid}", MAX_FRAME)

    def _tell(self, *message: Any) -> None:
        for owner in self.owners:
            try:
                self.router.send(self.pid, owner, message)
            except PeerBusy:
                pass  # it has enough to read

    def say_ended(self, pid: Pid, reason: Any) -> None:
        """Tell a peer of our own kind that a process which it knows has ended, after all that this one has sent."""
        if self._dialect != "otp":
            return
        frame = self._encode_ended(pid, reason)
        try:
            if not self._untold and self.straw.send_nowait(frame):
                return
        except StrawError:
            return  # all its proxies over there end now
        self._untold.append(frame)
        if self._telling is None:
            self._telling = self.router.turn.loop.create_task(self._tell_ended())

    def _encode_ended(self, pid: Pid, reason: Any) -> bytes:
        for said in (reason, _NOPROC):
            try:
                frame = encode_terms(_ENDED, (pid, said), self._none, self._dialect, False, self._crossing)
            except EncodeError:
                self._tables.retract()
                continue
            if len(frame) <= MAX_ENDED:
                break
            self._tables.retract()
        self._tables.sent()
        return frame

    async def _tell_ended(self) -> None:
        """It must be told, however much else waits: who monitors the process would wait for ever."""
        with contextlib.suppress(StrawError):
            while self._untold:
                await self.straw.send(self._untold[0])
                self._untold.popleft()
        self._telling = None

    # From the straw to the cluster.

    def attach(self) -> None:
        """Let in what the peer sends."""
        self.straw.on_frames(self._frames)

    def _frames(self, frames: list[bytes | memoryview]) -> None:
        """Whatever the peer wrote: it is delivered, or counted and reported. The straw lives on."""
        router = self.router
        turn = router.turn
        turn.begin()
        router.reading = self
        try:
            if self._crossing is None:
                for frame in frames:
                    try:
                        addr, message = decode_envelope(frame, self.straw.format)
                    except DecodeError as error:
                        self._unread(error)
                    else:
                        self._arrived(addr, message)
            else:
                self._terms(frames, self._crossing)
        finally:
            router.reading = None
            turn.finish()

    def _terms(self, frames: list[bytes | memoryview], crossing: Crossing) -> None:
        """Envelopes in the format erlang. Inside the loop is what goes to a name of ours that is open to all."""
        exported, named = self.manager.exports.find, self.router.registry.get
        counts = self.manager.counts
        for frame in frames:
            try:
                _, addr, message = decode_terms(frame, crossing)
            except DecodeError as error:
                self._unread(error)
                continue
            if type(addr) is Atom:
                export = exported(addr)
                process = named(export.to) if export is not None and export.is_plain else None
                if process is not None and len(process.names) == 1:  # of more one may be a service
                    head = message[0] if type(message) is tuple and message else None
                    if type(head) is not Atom or head not in SIGNALS or not self._is_forged(addr, message):
                        counts.received += 1
                        process.deliver(message)
                    continue
            self._arrived(addr, message)

    def _unread(self, error: DecodeError) -> None:
        """A frame that can't be read, or names processes that are not its sender's to name."""
        counts, crossing, kind = self.manager.counts, self._crossing, "malformed"
        if isinstance(error, TableFull):
            kind = "crowded"
            counts.crowded += 1
        elif crossing is not None and crossing.forged:
            kind, crossing.forged = "forged", 0
            counts.forged += 1
        else:
            counts.malformed += 1
        self.manager.warn(kind, "a frame of domain %d is dropped: %s", self.straw.domid, error)

    def _arrived(self, addr: Any, message: Any) -> None:
        counts, domid = self.manager.counts, self.straw.domid
        if type(addr) is Pid:
            self._arrived_for(addr, message)
            return
        if addr is _ENDED and self._ended_there(message):
            return
        if type(addr) is tuple and type(addr[0]) is int and addr[0] == self.manager.domid:
            addr = addr[1]  # {OurDomId, Name}
        export = self.manager.exports.find(addr)
        if export is None:
            counts.unknown += 1
            self.manager.warn("unknown", "domain %d sends to %.100r, which is not exported to straws", domid, addr)
            return
        if export.domains is not None and domid not in export.domains:
            counts.refused += 1
            self.manager.warn("refused", "domain %d may not send to %.100r", domid, addr)
            return
        if type(message) is not tuple or not self._is_forged(addr, message):
            self._deliver(export.to, (_STRAW, domid, message) if export.sender else message)

    def _arrived_for(self, pid: Pid, message: Any) -> None:
        """An envelope for a process that the other domain knows by its pid."""
        counts, domid, tables = self.manager.counts, self.straw.domid, self._tables
        if tables.is_theirs(pid):
            counts.unknown += 1
            self.manager.warn("unknown", "domain %d sends to a process of its own", domid)
            return
        if not tables.is_ours(pid):
            counts.undelivered += 1  # it has ended
            return
        if self._is_forged(pid, message):
            return
        to = tables.reply(pid, message)
        if to is False:
            counts.late += 1
        elif type(to) is not Reference:
            self._deliver(pid, message)
        elif to.node is self.router.name:
            counts.received += 1
            self.router.alias_arrived(to, message)
        else:
            self._send(to, message)

    def _ended_there(self, message: Any) -> bool:
        """A process of the other domain has ended: ``{Pid, Reason}``."""
        if type(message) is not tuple or len(message) != 2 or type(message[0]) is not Pid:
            return False
        pid, reason = message
        if not self._tables.is_theirs(pid):
            return False
        self.gateway.ended(pid, reason)
        return True

    def _is_forged(self, addr: Any, message: Any) -> bool:
        if not is_forged(message, self._tables.knows):
            return False
        self.manager.counts.refused += 1
        self.manager.warn(
            "refused", "domain %d sends %.100r a message that only the system sends", self.straw.domid, addr
        )
        return True

    def _deliver(self, to: Any, message: Any) -> None:
        """To a local process, or on to the node that has it."""
        counts, router = self.manager.counts, self.router
        kind = type(to)
        if kind is Atom or (to[1] if kind is tuple else to.node) is router.name:
            process = router.registry.get(to) if kind is Atom else router.find(to[0] if kind is tuple else to)
            if process is None or not SERVICES.isdisjoint(process.names):
                counts.undelivered += 1
                self.manager.warn("undelivered", "an envelope for %.100r: there is no such process", to)
                return
            counts.received += 1
            process.deliver(message)
        else:
            self._send(to, message)

    def _send(self, to: Any, message: Any) -> None:
        counts = self.manager.counts
        try:
            peer = self.router.send(self.pid, to, message)
        except (EncodeError, PeerBusy, ValueError) as error:
            counts.undelivered += 1
            self.manager.warn("undelivered", "an envelope for %.100r is dropped: %s", to, error)
            return
        counts.received += 1
        if peer is not None and peer.busy:
            self._wait_for(peer)

    def _wait_for(self, peer: Peer) -> None:
        """A peer takes less than this straw brings: the straw is not read until it has caught up."""
        if peer in self._waits:
            return

        async def wait() -> None:
            try:
                peer.flush()
                await peer.drain()
            except NoConnection:
                pass  # reported where the connection ended
            finally:
                del self._waits[peer]
                self.resume_reading(peer)

        self.pause_reading(peer)
        self._waits[peer] = self.router.turn.loop.create_task(wait())

    # As the router sees a source of messages: whose mailbox is too full stops us, as it stops a peer.

    def pause_reading(self, owner: Any) -> None:
        """Take nothing out of the ring until each owner that paused has resumed."""
        self._pausers.add(owner)
        self.straw.pause()

    def resume_reading(self, owner: Any) -> None:
        """Take this owner's pause back."""
        self._pausers.discard(owner)
        if not self._pausers and self.alive:
            self.straw.resume()

    # The end.

    def _closed(self, reason: str) -> None:
        """The straw has ended: whoever is linked or monitors learns why."""
        self.end(Atom(reason))

    def _ended(self, process: Process, reason: Any) -> None:
        """The process has ended, by the straw or by an exit signal."""
        for task in (*self._waits.values(), *((self._telling,) if self._telling else ())):
            task.cancel()
        self.manager.forget(self)
        self.gateway.detach(self)
        self.straw.close(reason.name if type(reason) is Atom else "closed")
