"""Quotas of the host service: what one domain may hold, so that none can take everything from the others."""

from __future__ import annotations

from typing import Final

#: Domain ids, as Xen has them (DOMID_FIRST_RESERVED is 0x7FF0).
FIRST_DOMID: Final = 1
LAST_DOMID: Final = 0x7FEF
#: Pages (4 KiB) in one grant: 4 MiB, two rings of 1 MiB and room.
MAX_PAGES: Final = 1024
#: Pages that one domain may have granted at a time: 256 MiB.
PAGES_PER_DOMAIN: Final = 65536
#: Grants, mappings and channel ends of one domain.
GRANTS_PER_DOMAIN: Final = 1024
MAPS_PER_DOMAIN: Final = 1024
CHANNELS_PER_DOMAIN: Final = 2048
#: Control connections in all, and of one user: others find room when one takes all that it gets.
MAX_CONNECTIONS: Final = 512
CONNECTIONS_PER_UID: Final = 256
#: Those of all users together who may be no domain: they get no more than an answer.
STRANGERS: Final = 16
#: Packets that wait for a domain that does not read: more, and it is cut off.
MAX_BACKLOG: Final = 4096
