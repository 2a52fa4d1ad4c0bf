"""What the hypervisor knows: domains, grants, mappings and event channels, and who may do what with them.

No sockets to clients and no event loop: its methods take a domain and arguments, make memory and channel
ends, and return numbers and file descriptors; events for other domains go to a callback. The caller closes the
descriptors that it is handed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from . import limits
from .wire import DOMAIN_GONE, MAX_ARGS, UNMAPPED, Refused

__all__ = ["Domain", "Hypervisor"]

PAGE = 4096
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(eq=False)
class Grant:
    """One memfd, granted to one peer. A grant whose access ended takes no new mappings."""

    granter: int
    peer: int
    refs: tuple[int, ...]
    fd: int
    ended: bool = False
    mappings: int = 0


@dataclass(eq=False)
class Channel:
    """One end of an event channel: whose, with whom, and the other end while nobody has bound it."""

    owner: int
    remote: int
    waiting: socket.socket | None = None


@dataclass(eq=False)
class Domain:
    """One domain: what it has."""

    domid: int
    uid: int
    granted: int = 0  # memfds
    pages: int = 0
    next_number: int = 1  # refs, ports and mapping ids: never used twice
    grants: dict[int, Grant] = field(default_factory=dict)  # by each ref
    mappings: dict[int, Grant] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)

    def number(self, count: int = 1) -> int:
        """The first of so many numbers (refs, ports, ids) that this domain never had. Refused(ENOSPC): none is left."""
        first = self.next_number
        if first + count > 0xFFFFFFFF:
            raise Refused(errno.ENOSPC)
        self.next_number += count
        return first


class Hypervisor:
    """All domains of one host."""

    def __init__(
        self,
        send_event: Callable[[int, int, tuple[int, ...]], None],
        last_domid: int = 0,
        reserved: frozenset[int] = frozenset(),
    ) -> None:
        self._send_event = send_event
        self._last = last_domid
        self._reserved = reserved  # ids that nobody gets who asks for just any
        self.domains: dict[int, Domain] = {}

    # Domains.

    def add(self, wanted: int, uid: int, allowed: frozenset[int] | None = None) -> Domain:
        """A new domain; wanted: its id, or 0 for the next one; allowed: the ids that it may have, None for any.

        Refused: EBUSY when it is taken or still in use, EPERM when it is not allowed.
        """
        if wanted:
            if not limits.FIRST_DOMID <= wanted <= limits.LAST_DOMID:
                raise Refused(errno.EINVAL)
            if allowed is not None and wanted not in allowed:
                raise Refused(errno.EPERM)
            if not self._is_free(wanted):
                raise Refused(errno.EBUSY)
            domid = wanted
        elif allowed is None:
            domid = self._next_free()
        else:
            domid = self._first_free(allowed)
        self._last = max(self._last, domid)
        domain = self.domains[domid] = Domain(domid, uid)
        return domain

    @property
    def last_domid(self) -> int:
        """The highest id ever given out: a next host starts behind it."""
        return self._last

    def _next_free(self) -> int:
        """The lowest id never used; when all were used, the lowest that is free again."""
        for domid in range(max(self._last + 1, limits.FIRST_DOMID), limits.LAST_DOMID + 1):
            if domid not in self._reserved:
                return domid
        return self._first_free(frozenset(range(limits.FIRST_DOMID, limits.LAST_DOMID + 1)) - self._reserved)

    def _first_free(self, among: frozenset[int]) -> int:
        for domid in sorted(among):
            if self._is_free(domid):
                return domid
        raise Refused(errno.ENOSPC if among else errno.EPERM)

    def _is_free(self, domid: int) -> bool:
        """Not in use, and no peer holds a mapping or a channel of an earlier domain with this id."""
        return domid not in self.domains and not any(
            any(grant.granter == domid for grant in other.mappings.values())
            or any(channel.remote == domid for channel in other.channels.values())
            for other in self.domains.values()
        )

    def remove(self, domain: Domain) -> None:
        """A domain is dead: its grants end, its waiting channel ends close, those who dealt with it are told."""
        del self.domains[domain.domid]
        related: set[int] = set()
        for grant in set(domain.grants.values()):
            related.add(grant.peer)
            grant.ended = True
            os.close(grant.fd)
        for channel in domain.channels.values():
            related.add(channel.remote)
            if channel.waiting is not None:
                channel.waiting.close()
        for grant in domain.mappings.values():
            related.add(grant.granter)
            self._unmapped(grant)
        for domid in sorted(related):
            if domid in self.domains:
                self._send_event(domid, DOMAIN_GONE, (domain.domid,))

    # Grants.

    def grant(self, domain: Domain, peer: int, pages: int) -> tuple[tuple[int, ...], int]:
        """Make sealed memory for a peer: its refs and its descriptor (the host keeps it; don't close)."""
        if not 1 <= pages <= limits.MAX_PAGES or pages > MAX_ARGS or peer == domain.domid:
            raise Refused(errno.EINVAL)
        if peer not in self.domains:
            raise Refused(errno.ENOENT)
        if domain.pages + pages > limits.PAGES_PER_DOMAIN or domain.granted >= limits.GRANTS_PER_DOMAIN:
            raise Refused(errno.ENOSPC)
        first = domain.number(pages)
        fd = os.memfd_create(f"strawbridge-{domain.domid}-{peer}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, pages * PAGE)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except OSError as error:
            os.close(fd)
            raise Refused(error.errno or errno.EIO) from error
        refs = tuple(range(first, first + pages))
        grant = Grant(domain.domid, peer, refs, fd)
        domain.grants.update(dict.fromkeys(refs, grant))
        domain.granted += 1
        domain.pages += pages
        return refs, fd

    def end_access(self, domain: Domain, refs: tuple[int, ...]) -> None:
        """No new mappings; Refused(EBUSY) while the peer still has one, else the grants of these refs are gone."""
        if not refs or any(ref not in domain.grants for ref in refs):
            raise Refused(errno.ENOENT)
        grants = {domain.grants[ref] for ref in refs}
        for grant in grants:
            grant.ended = True
        if any(grant.mappings for grant in grants):
            raise Refused(errno.EBUSY)
        for grant in grants:
            for ref in grant.refs:
                del domain.grants[ref]
            domain.granted -= 1
            domain.pages -= len(grant.refs)
            os.close(grant.fd)

    def map(self, domain: Domain, granter: int, refs: tuple[int, ...]) -> tuple[int, tuple[int, ...], int]:
        """(mapping id, the page of each ref, descriptor) of one grant made to this domain."""
        owner = self.domains.get(granter)
        if owner is None or not refs or len(set(refs)) != len(refs):
            raise Refused(errno.ENOENT)
        grant = owner.grants.get(refs[0])
        # A ref that is not for this domain looks like one that does not exist.
        if grant is None or grant.peer != domain.domid or grant.ended:
            raise Refused(errno.ENOENT)
        first = grant.refs[0]
        if any(owner.grants.get(ref) is not grant for ref in refs):
            raise Refused(errno.EINVAL)
        if len(domain.mappings) >= limits.MAPS_PER_DOMAIN:
            raise Refused(errno.ENOSPC)
        number = domain.number()
        domain.mappings[number] = grant
        grant.mappings += 1
        return number, tuple(ref - first for ref in refs), grant.fd

    def unmap(self, domain: Domain, number: int) -> None:
        """The domain says that it has unmapped; the granter is told."""
        grant = domain.mappings.pop(number, None)
        if grant is None:
            raise Refused(errno.ENOENT)
        self._unmapped(grant)

    def _unmapped(self, grant: Grant) -> None:
        grant.mappings -= 1
        if not grant.mappings and grant.granter in self.domains:
            self._send_event(grant.granter, UNMAPPED, grant.refs)

    # Event channels.

    def alloc_channel(self, domain: Domain, remote: int) -> tuple[int, socket.socket]:
        """A port for `remote` to bind, and our end (close it when it is handed over)."""
        if remote == domain.domid:
            raise Refused(errno.EINVAL)
        if remote not in self.domains:
            raise Refused(errno.ENOENT)
        port = self._port(domain)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        domain.channels[port] = Channel(domain.domid, remote, theirs)
        return port, ours

    def bind_channel(self, domain: Domain, remote: int, remote_port: int) -> tuple[int, socket.socket]:
        """The other end of a port that was allocated for this domain, once."""
        owner = self.domains.get(remote)
        channel = None if owner is None else owner.channels.get(remote_port)
        if channel is None or channel.remote != domain.domid or channel.waiting is None:
            raise Refused(errno.ENOENT)
        port = self._port(domain)
        end, channel.waiting = channel.waiting, None
        domain.channels[port] = Channel(domain.domid, remote)
        return port, end

    def _port(self, domain: Domain) -> int:
        if len(domain.channels) >= limits.CHANNELS_PER_DOMAIN:
            raise Refused(errno.ENOSPC)
        return domain.number()

    def close_channel(self, domain: Domain, port: int) -> None:
        """One end is closed; a peer that has not bound the other can't any more."""
        channel = domain.channels.pop(port, None)
        if channel is None:
            raise Refused(errno.ENOENT)
        if channel.waiting is not None:
            channel.waiting.close()

    def close(self) -> None:
        """Give everything back. May be called twice."""
        for domain in list(self.domains.values()):
            self.remove(domain)
