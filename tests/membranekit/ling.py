"""A LING in the world in memory: strawman.erl of the seed, with its blocking waits and its assertions.

It does what LING does, no more: one thing at a time, waits that never end, no close by states, a crash where a match
fails and a dead VM where memory is taken from under it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

from pores.errors import XenstoreError
from pores.work import Offer

from .world import Broken, World

__all__ = ["Ling"]

#: A path and the state to wait for there; None: others may do something here.
Wait = tuple[str, str] | None


class Ling:
    """A strawman on LING. `straws` has what it holds: {peer: (role, offer)}."""

    def __init__(self, world: World, domid: int) -> None:
        self.world = world
        self.domid = domid
        world.tree.introduce(domid)
        self.session = world.tree.open(domid, self._deliver)
        self.home = f"/local/domain/{domid}"
        self.mailbox: deque[tuple[str, Any]] = deque()
        self.straws: dict[tuple[str, int], Offer] = {}
        self.paths: dict[str, tuple[str, int, str]] = {}
        self.opened: dict[int, str] = {}
        self.running: Generator[Wait, None, None] | None = None
        self.waiting: Wait | None = None
        self._watched: list[tuple[str, bytes]] = []
        self._token = 0
        self.leaked = 0
        self.mute = False
        """A LING that is busy with something else: it begins nothing new."""
        s = self.session
        s.mkdir("data/straw")
        s.set_perms("data/straw", [f"b{domid}"])
        s.mkdir("data/warts")
        s.set_perms("data/warts", [f"r{domid}"])
        self._watch("data/straw")
        world.actors.append(self)

    def _deliver(self, event: Any) -> None:
        self.mailbox.append(("watch", event.path))

    def _watch(self, path: str) -> None:
        self._token += 1
        self._watched.append((path, b"%d" % self._token))
        self.session.first_event(self.session.watch(path, b"%d" % self._token))

    def _unwatch(self, path: str) -> None:
        """All watches of this path, as LING's unwatch/1."""
        for watched, token in list(self._watched):
            if watched == path:
                self._watched.remove((watched, token))
                self.session.unwatch(path, token)

    def open(self, peer: int) -> None:
        self.mailbox.append(("open", peer))

    def shut(self, role: str, peer: int) -> None:
        """Its straw process exits: what terminate/2 does of one straw."""
        self.mailbox.append(("shut", (role, peer)))

    def wakes(self) -> float | None:
        return None

    def ready(self) -> bool:
        if self.running is None:
            return bool(self.mailbox) and not self.mute
        if self.waiting is None:
            return True
        return ("watch", self.waiting[0]) in self.mailbox

    def step(self) -> None:
        if self.running is None:
            what, argument = self.mailbox.popleft()
            self.running = {"watch": self._changed, "open": self._open, "shut": self._shut}[what](argument)
            self.waiting = None
            return
        if self.waiting is not None:
            path, wanted = self.waiting
            self.mailbox.remove(("watch", path))
            try:
                if self.session.read(path).decode() != wanted:
                    return
            except XenstoreError as error:
                if error.name != "ENOENT":
                    raise
                return  # `wait` ignores enoent
            self.waiting = None
        try:
            self.waiting = next(self.running)
        except StopIteration:
            self.running = None

    def _read(self, path: str) -> str:
        try:
            value = self.session.read(path)
        except XenstoreError as error:
            raise Broken(f"LING's strawman crashes: {{ok,_}} = read({path}) is {error.name}") from error
        if not value:
            raise Broken(f"LING's xenstore dies of an empty value at {path}")
        return value.decode()

    def _format(self, straw: str, warts: str) -> str:
        formats = []
        for path in (straw, warts):
            try:
                formats.append(self.session.read(f"{path}/format").decode())
            except XenstoreError:
                formats.append("erlang")
        return "erlang" if formats == ["erlang", "erlang"] else "json"

    def _changed(self, path: str) -> Generator[Wait, None, None]:
        if path.startswith("data/straw"):
            names = path[len("data/straw") :].strip("/").split("/")
            if len(names) == 2 and names[1] == "warts":
                yield from self._knock(int(names[0]), self._read(path), f"{self.home}/data/straw/{names[0]}")
            return
        if path not in self.paths:
            return
        role, peer, directory = self.paths[path]
        try:
            state = self.session.read(path).decode()
        except XenstoreError:
            state = None
        if state == "4" or (state is not None and role == "active"):
            return
        del self.paths[path]
        self._unwatch(path)
        self._destroy(role, peer)
        self.session.remove(directory)

    def _destroy(self, role: str, peer: int) -> None:
        offer = self.straws.pop((role, peer))
        hypervisor = self.world.hypervisor
        if role == "passive":
            hypervisor.unmap(peer, offer)
        elif not hypervisor.end_access(self.domid, offer):
            raise Broken("LING's VM dies: its pages are mapped and it ends access")

    def _open(self, peer: int) -> Generator[Wait, None, None]:
        warts, straw = f"{self.home}/data/warts/{peer}", f"/local/domain/{peer}/data/straw/{self.domid}"
        s = self.session
        try:
            s.read(warts)
            self.opened[peer] = "exists"
            return
        except XenstoreError:
            pass
        try:
            s.mkdir(straw)
        except XenstoreError:
            self.opened[peer] = "not_found"
            return
        yield None
        tid = s.start_transaction()
        s.mkdir(warts, tid)
        s.write(f"{warts}/straw", straw.encode(), tid)
        s.write(f"{warts}/state", b"2", tid)
        s.write(f"{straw}/warts", warts.encode(), tid)
        yield None
        s.end_transaction(tid, True)
        self._watch(f"{straw}/state")
        yield (f"{straw}/state", "3")
        refs = tuple(int(self._read(f"{straw}/ring-ref-{n}")) for n in range(1, 9))
        offer = Offer(refs, (int(self._read(f"{straw}/event-channel")),))
        if not self.world.hypervisor.map(self.domid, peer, offer):
            raise Broken("LING's VM dies: it maps dead refs")
        self.straws["passive", peer] = offer
        s.write(f"{warts}/state", b"4")
        yield (f"{straw}/state", "4")
        self.paths[f"{straw}/state"] = ("passive", peer, warts)
        self.opened[peer] = self._format(straw, warts)

    def _knock(self, peer: int, warts: str, straw: str) -> Generator[Wait, None, None]:
        s = self.session
        s.write(f"{straw}/state", b"1")
        self._watch(f"{warts}/state")
        yield (f"{warts}/state", "2")
        offer = self.world.hypervisor.grant(self.domid, peer, 8)
        old = self.straws.pop(("active", peer), None)
        if old is not None:
            # It was busy for so long that the peer took the old directory away itself: LING never notices, and keeps
            # the old pages for ever.
            self.leaked += 1
            self.world.hypervisor.end_access(self.domid, old)
        self.straws["active", peer] = offer
        self.formats = self._format(straw, warts)
        tid = s.start_transaction()
        for n, ref in enumerate(offer.refs, 1):
            s.write(f"{straw}/ring-ref-{n}", str(ref).encode(), tid)
        s.write(f"{straw}/event-channel", str(offer.ports[0]).encode(), tid)
        s.write(f"{straw}/state", b"3", tid)
        s.end_transaction(tid, True)
        yield (f"{warts}/state", "4")
        s.write(f"{straw}/state", b"4")
        self.paths[f"{warts}/state"] = ("active", peer, straw)

    def _shut(self, which: tuple[str, int]) -> Generator[Wait, None, None]:
        role, peer = which
        path, (_, _, directory) = next((p, e) for p, e in self.paths.items() if e[:2] == which)
        if role == "active":
            self.session.remove(directory)
            yield (path, "6")
        del self.paths[path]
        self._destroy(role, peer)
