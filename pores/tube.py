"""A tube: packets of up to 4096 bytes between two domains, 31 each way, an event channel each way; and its driver.

LING's tube (core/include/tube.h, tube_server.erl; straw-rules part 8). A packet for which there is no slot is not sent:
`send_nowait` says so, `send` waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ._native import TUBE_PAGES, tube_refs
from .active import ActivePore, Condition, any_of
from .driver import Holding
from .errors import PoreClosed, PoreCorrupt, PoreError
from .keys import Terms
from .kinds import TUBE_KIND
from .pore import ACTIVE, PASSIVE, Pore
from .work import Key, Offer

if TYPE_CHECKING:
    from .aio import Membrane

__all__ = ["Tube", "TubeDriver"]


class TubeDriver:
    """The acceptor grants the page and all 64 buffers; the page names them."""

    kind = TUBE_KIND

    async def offer(self, holding: Holding, terms: Terms) -> Offer:
        grant = await holding.grant(TUBE_PAGES)
        tx, rx = await holding.alloc_channel(), await holding.alloc_channel()
        holding.took(
            Pore.tube(
                grant.fd,
                tx.fd,
                rx.fd,
                role=ACTIVE,
                refs=grant.refs[1:],
                ports=holding.ports,
                table=holding.table,
            )
        )
        return Offer(grant.refs, (tx.port, rx.port))

    async def attach(self, holding: Holding, offer: Offer, terms: Terms) -> None:
        page = await holding.map(offer.refs)
        refs = tube_refs(page.fd, page.page_index[0], page.xen)
        await holding.unmap(page)
        mapping = await holding.map((*offer.refs, *refs))
        tx, rx = [await holding.bind_channel(port) for port in offer.ports]
        holding.took(
            Pore.tube(
                mapping.fd,
                tx.fd,
                rx.fd,
                role=PASSIVE,
                refs=refs,
                page_index=mapping.page_index,
                ports=holding.ports,
                table=holding.table,
            )
        )


class Tube(ActivePore):
    """One open tube. Made by a Membrane with a TubeDriver."""

    def __init__(self, membrane: Membrane, key: Key, terms: Terms, pore: Pore) -> None:
        super().__init__(pore, membrane._peer_lost)
        self.key = key
        self.peer, self.tid = key.peer, key.tid
        self.terms = terms
        self.closed = ""
        self._membrane = membrane
        self._left: list[bytes] = []
        self._on_closed: list[Callable[[str], None]] = []
        self.listen(self._look)

    def send_nowait(self, packet: bytes) -> bool:
        """False: no slot is free, nothing was done. PoreClosed, PoreTooBig beyond 4096 bytes; ValueError when empty."""
        if not packet:
            raise ValueError("a packet has at least one byte")
        self._check()
        try:
            return self.pore.write(packet) > 0
        except (PoreClosed, PoreCorrupt) as error:
            self.found_end(error)
            self._check()
            return False

    async def send(self, packet: bytes) -> None:
        while not self.send_nowait(packet):
            await any_of(self.has_room(1))

    async def receive(self) -> bytes:
        """The next packet; PoreClosed after the last one."""
        while True:
            if self._left:
                return self._left.pop(0)
            if self.closed:
                raise PoreClosed(self.closed)
            try:
                if not self.ended and not self.pore.closed and (packet := self.pore.read()):
                    return packet
            except (PoreClosed, PoreCorrupt) as error:
                self.found_end(error)  # the membrane will say why
            await any_of(Condition(self, self._news))

    def on_closed(self, callback: Callable[[str], None]) -> None:
        """Is called once with the reason."""
        if self.closed:
            self._loop.call_soon(callback, self.closed)
        else:
            self._on_closed.append(callback)

    async def close(self, reason: str = "closed") -> None:  # type: ignore[override]
        """Closes it and waits until it is."""
        self._membrane._close(self.key, reason)
        await any_of(Condition(self, lambda: bool(self.closed)))

    def _news(self) -> bool:
        """A packet, or the membrane's word that it is over."""
        if self.closed or self._left:
            return True
        try:
            return not self.ended and not self.pore.closed and self.pore.avail()[0] > 0
        except (PoreClosed, PoreCorrupt) as error:
            self.found_end(error)
            return False

    def _look(self) -> None:
        if self.ended and not self.closed:
            self._membrane._ended(self)

    def _last_look(self) -> None:
        if not self.pore.closed:
            try:
                while len(self._left) < 32 and (packet := self.pore.read()):
                    self._left.append(packet)
            except PoreError:
                pass
        self.unlisten(self._look)
        self.end(self.ended or "closed")
        self.pore.close(self.ended)

    def _close_with(self, reason: str) -> None:
        if self.closed:
            return
        self._last_look()
        self.closed = reason
        self._tell()
        callbacks, self._on_closed = self._on_closed, []
        for callback in callbacks:
            callback(reason)
