"""Kinds of pores that are negotiated: the keys with which an acceptor offers one, and what an opener takes of them.

Pure: text in, numbers out. How such a pore is made is a driver's (driver.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from .keys import STRAW, TUBE, Layout, Terms, number, pack_refs, unpack_refs
from .work import Offer

__all__ = ["STRAW_KIND", "TUBE_KIND", "Kind", "StrawKind", "TubeKind"]

#: LING's straw has 8 pages.
STRAW_REFS: Final = 8
PAGE: Final = 4096
#: Bytes of a ring each way between our own: four messages of 64 KiB, half a megabyte a straw.
DEFAULT_RING: Final = 1 << 18


class Kind(Protocol):
    """What the membrane's machine has to know of a kind."""

    @property
    def layout(self) -> Layout: ...

    @property
    def wishes(self) -> Terms:
        """What is told to a peer unless an owner wants something else."""
        ...

    @property
    def offer_keys(self) -> tuple[str, ...]:
        """All that an offer may consist of."""
        ...

    def publish(self, offer: Offer, terms: Terms) -> dict[str, str] | None:
        """The keys of an offer; None when it can't be said (more refs than a node holds)."""
        ...

    def parse(self, values: Mapping[str, bytes | None], terms: Terms) -> Offer | None:
        """The offer that the keys make; None when they make none."""
        ...


class StrawKind:
    """LING's straw: ring-ref-1 … ring-ref-8 and event-channel. A wide one has all refs in `ring-refs`."""

    layout = STRAW
    wishes = Terms(dialect="otp", ring_bytes=DEFAULT_RING, suppress=True)
    offer_keys = (*(f"ring-ref-{n}" for n in range(1, STRAW_REFS + 1)), "ring-refs", "event-channel")

    def pages(self, terms: Terms) -> int:
        return 1 + 2 * terms.ring_bytes // PAGE if terms.ring_bytes else STRAW_REFS

    def publish(self, offer: Offer, terms: Terms) -> dict[str, str] | None:
        keys = {"event-channel": str(offer.ports[0])}
        if terms.ring_bytes:
            refs = pack_refs(offer.refs)
            if refs is None:
                return None
            keys["ring-refs"] = refs
        else:
            keys.update({f"ring-ref-{n}": str(ref) for n, ref in enumerate(offer.refs, 1)})
        return keys

    def parse(self, values: Mapping[str, bytes | None], terms: Terms) -> Offer | None:
        refs: tuple[int | None, ...] | None
        if terms.ring_bytes:
            refs = unpack_refs(values.get("ring-refs"), self.pages(terms))
        else:
            refs = tuple(number(values.get(f"ring-ref-{n}")) for n in range(1, STRAW_REFS + 1))
        return _offer(refs, (number(values.get("event-channel")),))


class TubeKind:
    """LING's tube: one page that names 64 buffers, and a channel each way."""

    layout = TUBE
    wishes = Terms(dialect="otp")
    offer_keys = ("ring-ref", "event-channel-tx", "event-channel-rx")

    def publish(self, offer: Offer, terms: Terms) -> dict[str, str] | None:
        tx, rx = offer.ports
        return {"ring-ref": str(offer.refs[0]), "event-channel-tx": str(tx), "event-channel-rx": str(rx)}

    def parse(self, values: Mapping[str, bytes | None], terms: Terms) -> Offer | None:
        ports = (number(values.get("event-channel-tx")), number(values.get("event-channel-rx")))
        return _offer((number(values.get("ring-ref")),), ports)


def _offer(refs: tuple[int | None, ...] | None, ports: tuple[int | None, ...]) -> Offer | None:
    known = tuple(ref for ref in refs or () if ref is not None)
    open_ports = tuple(port for port in ports if port is not None)
    if refs is None or len(set(known)) != len(refs) or len(set(open_ports)) != len(ports):
        return None
    return Offer(known, open_ports)


STRAW_KIND: Final = StrawKind()
TUBE_KIND: Final = TubeKind()
