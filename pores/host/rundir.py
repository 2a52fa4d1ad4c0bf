"""Where a host service lives: its folder, checked as ssh checks its own, and what it remembers there."""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path
from typing import NamedTuple

from ..errors import BackendUnavailable

__all__ = ["Peer", "RunDir", "default_rundir", "is_trusted", "peer_of"]


class Peer(NamedTuple):
    """Who is at the other end of a unix socket, by the kernel's word."""

    pid: int
    uid: int
    gid: int


def peer_of(sock: socket.socket) -> Peer:
    """The process that connected, or the one that listens."""
    return Peer(*struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))))


def is_trusted(uid: int) -> bool:
    """Whether a host service of that user may play the hypervisor for us: our own, or root's."""
    return uid in (0, os.getuid())


def default_rundir() -> Path:
    """STRAWBRIDGE_HOST, else a folder of this user.

    That is $XDG_RUNTIME_DIR/strawbridge, else /run/strawbridge-<uid> where it is or can be made, else
    /tmp/strawbridge-<uid>.
    """
    given = os.environ.get("STRAWBRIDGE_HOST")
    if given:
        return Path(given)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "strawbridge"
    return _own_rundir(Path("/run"), Path("/tmp"))


def _own_rundir(*parents: Path) -> Path:
    folders = [parent / f"strawbridge-{os.getuid()}" for parent in parents]
    for folder in folders[:-1]:
        if folder.is_dir() or os.access(folder.parent, os.W_OK):
            return folder
    return folders[-1]


class RunDir:
    """The folder of one host service.

    Nothing in it is used, and nothing is started there, unless it belongs to us or to root, and others can neither
    write there, who could play the host, nor look. BackendUnavailable says what is wrong, and what to do.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path) if path is not None else default_rundir()

    def check(self) -> None:
        """May a host service in it be trusted?"""
        self._check()

    def make(self) -> None:
        """Makes and checks it for a host service of ours."""
        try:
            self.path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            pass
        except OSError as error:
            raise self._bad(f": {error.strerror} (STRAWBRIDGE_HOST can name another folder)") from error
        owner = self._check()
        if owner != os.getuid():
            raise self._bad(f" has no host service that answers, and only its owner, uid {owner}, can start one there")

    def share(self, shared: bool) -> None:
        """Whether other users may come in, to its control socket."""
        self.path.chmod(0o711 if shared else 0o700)

    def _check(self) -> int:
        try:
            found = self.path.lstat()
        except OSError as error:
            raise self._bad(f": {error.strerror}") from error
        if not stat.S_ISDIR(found.st_mode):
            raise self._bad(" is not a folder")
        if not is_trusted(found.st_uid):
            raise self._bad(f" belongs to uid {found.st_uid}: only a host service of your own or of root is trusted")
        if found.st_mode & 0o066:
            raise self._bad(f" has mode {stat.S_IMODE(found.st_mode):o}: others could get in (chmod 700 it)")
        return found.st_uid

    def _bad(self, problem: str) -> BackendUnavailable:
        return BackendUnavailable([("local", f"{self.path}{problem}")])

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
        """Held by the one host."""
        return self.path / "host.lock"

    @property
    def start_lock(self) -> Path:
        """Held by the one who starts a host."""
        return self.path / "start.lock"

    @property
    def log(self) -> Path:
        """Where a host that was started by itself logs to."""
        return self.path / "host.log"

    def last_domid(self) -> int:
        """The highest domain id that an earlier host gave out, 0 when there was none."""
        try:
            return int((self.path / "last_domid").read_text())
        except (OSError, ValueError):
            return 0

    def remember_domid(self, domid: int) -> None:
        """For the next host: see `last_domid`."""
        (self.path / "last_domid").write_text(str(domid))
