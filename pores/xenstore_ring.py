"""XenStore over its ring page: the driver of LING's third pore, and a transport for the client over it.

The page and the port appear without a negotiation (on Xen a domain starts with them). The store's half is for tests and
for stores of our own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .active import ActivePore
from .driver import Holding
from .errors import PoreClosed, PoreCorrupt, PoreError
from .framing import ChipBuffer
from .keys import Terms
from .pore import ACTIVE, PASSIVE, Pore
from .work import Offer

__all__ = ["PAGES", "RingTransport", "XenstoreDriver"]

PAGES: Final = 1


class XenstoreDriver:
    """One page, one channel; nothing to agree on."""

    async def offer(self, holding: Holding, terms: Terms) -> Offer:
        """The store's side."""
        grant = await holding.grant(PAGES)
        channel = await holding.alloc_channel()
        holding.took(Pore.xenstore(grant.fd, channel.fd, role=ACTIVE, ports=holding.ports, table=holding.table))
        return Offer(grant.refs, (channel.port,))

    async def attach(self, holding: Holding, offer: Offer, terms: Terms) -> None:
        """The domain's side."""
        mapping = await holding.map(offer.refs)
        (port,) = offer.ports
        channel = await holding.bind_channel(port)
        holding.took(
            Pore.xenstore(
                mapping.fd,
                channel.fd,
                role=PASSIVE,
                page_index=mapping.page_index,
                ports=holding.ports,
                table=holding.table,
            )
        )


def _no_data(data: bytes) -> None: ...


def _not_lost(error: OSError | None) -> None: ...


class RingTransport:
    """Bytes over a pore, as xenstore/transport.py wants them: `XenStore(RingTransport(pore))`. Owns the pore."""

    def __init__(self, pore: Pore) -> None:
        self.on_data: Callable[[bytes], None] = _no_data
        self.on_lost: Callable[[OSError | None], None] = _not_lost
        self._active = ActivePore(pore)
        self._out = ChipBuffer()
        self._lost = False

    def start(self) -> None:
        self._active.listen(self._look)
        self._look()

    def write(self, data: bytes) -> None:
        if not self._lost:
            self._out.append(data)
            self._flush()

    def close(self) -> None:
        self._lost = True
        self._active.unlisten(self._look)
        self._active.close()

    def _flush(self) -> None:
        pore = self._active.pore
        try:
            while len(self._out):
                n = pore.write(self._out.front())
                self._out.drop(n)
                if not n:
                    return
        except (PoreClosed, PoreCorrupt) as error:
            self._active.end(error.reason)

    def _look(self) -> None:
        if not self._lost:
            self._flush()
        try:
            while not self._lost and (data := self._active.pore.read()):
                self.on_data(data)
        except PoreError:
            self._active.end("peer_gone")
        if self._active.ended and not self._lost:
            self.close()
            self.on_lost(None)
