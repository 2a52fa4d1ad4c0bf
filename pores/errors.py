"""The errors of pores: what they carry. They log nothing; the edge that swallows one logs it.

"Nothing to read", "no room" and "not yet" are values, never errors.
"""

from __future__ import annotations

import errno as _errno
import os
from collections.abc import Sequence


class PoreError(Exception):
    """Anything that goes wrong with a pore; `errno` is a number of the errno module, 0 when none fits."""

    def __init__(self, errno: int = 0, detail: str = "") -> None:
        super().__init__(errno, detail)
        self.errno = errno
        self.detail = detail

    @property
    def name(self) -> str:
        """The errno by name, "EINVAL"; empty when there is none."""
        return _errno.errorcode.get(self.errno, "")

    def __str__(self) -> str:
        text = os.strerror(self.errno) if self.errno else ""
        return ": ".join(part for part in (self.detail, text) if part) or type(self).__name__


class PoreClosed(PoreError):
    """The pore is closed, or its peer is gone and everything it had sent was read; `reason` says why.

    Reasons: "closed" (by us), "peer_gone", "host_down", and whatever a layer above has given.
    """

    def __init__(self, reason: str = "closed", errno: int = _errno.EPIPE) -> None:
        super().__init__(errno, f"pore closed: {reason}")
        self.reason = reason


class PoreCorrupt(PoreError):
    """The peer has written what no honest peer writes (an index out of range, a wrong length); the pore is closed."""

    def __init__(self, detail: str = "corrupt ring", errno: int = _errno.EBADMSG) -> None:
        super().__init__(errno, detail)
        self.reason = "corrupt"


class PoreTooBig(PoreError):
    """A message, a frame or a ring beyond its limit. `size` and `limit` in the unit of that limit."""

    def __init__(self, size: int, limit: int, what: str = "message") -> None:
        super().__init__(_errno.EMSGSIZE, f"{what} of {size} is beyond the limit {limit}")
        self.size = size
        self.limit = limit


class BackendUnavailable(PoreError):
    """No backend answers. `attempts`: each that was tried and why it failed."""

    def __init__(self, attempts: Sequence[tuple[str, str]] = (), errno: int = _errno.ENXIO) -> None:
        super().__init__(
            errno, "no backend: " + ("; ".join(f"{name}: {why}" for name, why in attempts) or "none tried")
        )
        self.attempts = tuple(attempts)


class XenstoreError(PoreError):
    """XenStore refused: `name` is its errno by name ("ENOENT"), `path` what was asked for when there was one."""

    def __init__(self, name: str, path: str = "", detail: str = "") -> None:
        super().__init__(getattr(_errno, name, 0), " ".join(part for part in (name, path, detail) if part))
        self.xs_name = name
        self.path = path

    @property
    def name(self) -> str:
        return self.xs_name


class MembraneError(PoreError):
    """A pore could not be opened or kept; `reason` is a short word: "exists", "not_found", "self", "timeout", …"""

    def __init__(self, reason: str, detail: str = "", errno: int = 0) -> None:
        super().__init__(errno, detail or reason)
        self.reason = reason
