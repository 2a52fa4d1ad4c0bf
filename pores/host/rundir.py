"""Where a host service lives: its folder, checked as ssh checks its own, and what it remembers there."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from ..errors import BackendUnavailable

__all__ = ["RunDir", "default_rundir"]


def default_rundir() -> Path:
    """STRAWBRIDGE_HOST, else a folder of this user: $XDG_RUNTIME_DIR/strawbridge, else /tmp/strawbridge-<uid>."""
    given = os.environ.get("STRAWBRIDGE_HOST")
    if given:
        return Path(given)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "strawbridge" if runtime else Path(f"/tmp/strawbridge-{os.getuid()}")


class RunDir:
    """The folder of one host service.

    Made with mode 0700 when missing; BackendUnavailable when it belongs to somebody else, is open to others, or is no
    folder: whoever can write there could play the host.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path) if path is not None else default_rundir()

    def make(self) -> None:
        """Create and check it."""
        with contextlib.suppress(FileExistsError):
            self.path.mkdir(mode=0o700, parents=True)
        self.check()

    def check(self) -> None:
        try:
            found = self.path.lstat()
        except OSError as error:
            raise BackendUnavailable([("local", f"{self.path}: {error.strerror}")]) from error
        if not stat.S_ISDIR(found.st_mode):
            problem = "is not a folder"
        elif found.st_uid != os.getuid():
            problem = f"belongs to uid {found.st_uid}"
        elif found.st_mode & 0o077:
            problem = f"has mode {stat.S_IMODE(found.st_mode):o}: others could get in (chmod 700 it)"
        else:
            return
        raise BackendUnavailable([("local", f"{self.path} {problem}")])

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self.path / "host.sock"

    @property
    def store(self) -> Path:
        """The store's socket as domain 0: what XENSTORED_PATH names."""
        return self.path / "xenstored" / "socket"

    def domain_store(self, domid: int) -> Path:
        """A shell's way into a domain's view of the store."""
        return self.path / "dom" / str(domid) / "socket"

    @property
    def lock(self) -> Path:
        return self.path / "host.lock"

    @property
    def log(self) -> Path:
        return self.path / "host.log"

    def last_domid(self) -> int:
        """The highest domain id that an earlier host gave out, 0 when there was none."""
        try:
            return int((self.path / "last_domid").read_text())
        except (OSError, ValueError):
            return 0

    def remember_domid(self, domid: int) -> None:
        (self.path / "last_domid").write_text(str(domid))
