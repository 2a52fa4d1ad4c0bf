"""Sending from other threads: encode there, where an error can be raised, and hand over to the loop's thread."""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..errors import EncodeError, PeerBusy
from ..etf import encode_frame
from ..terms import Atom, Pid, Reference
from ..wire import control as c
from .peers import Peer, alias_send

if TYPE_CHECKING:
    from .router import Router

__all__ = ["Outside"]

_EMPTY = Atom("")


class Outside:
    """What other threads have sent, until the loop takes it. One per node."""

    __slots__ = ("_bytes", "_lock", "_router", "_waiting")

    def __init__(self, router: Router) -> None:
        self._router = router
        self._waiting: deque[tuple[Any, Any, int]] = deque()
        #: of it, for peers: it counts towards their limits
        self._bytes = 0
        self._lock = Lock()

    def send(self, sender: Pid, to: Any, message: Any) -> Peer | None:
        """Router.send() in another thread: encode here, where an error can be raised, and queue on the loop."""
        router = self._router
        kind = type(to)
        node = to.node if kind is Pid or kind is Reference else to[1] if kind is tuple else router.name
        if node is router.name:
            self._queue(to, router.local_copy(message))
            return None
        peer: Peer = router.peers.get(node)
        if kind is Pid:
            control: tuple[Any, ...] = (c.SEND, _EMPTY, to)
        elif kind is tuple:
            control = (c.REG_SEND, sender, _EMPTY, to[0])
        else:
            control = alias_send(peer, sender, to)
        peer.check_room(self._bytes)
        frame = encode_frame(control, message, none=router.node.none)
        self._queue(peer, frame, sum(map(len, frame)))
        return peer

    def _queue(self, to: Any, what: Any, size: int = 0) -> None:
        with self._lock:
            self._bytes += size
        self._waiting.append((to, what, size))
        # Each append is followed by a call: the loop may find the queue empty, never a message waiting.
        self._router.turn.loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        router = self._router
        queue = self._waiting
        while queue:
            to, what, size = queue.popleft()
            if size:
                with self._lock:
                    self._bytes -= size
            kind = type(to)
            if kind is Pid or kind is Atom or kind is tuple:
                process = router.find(to[0] if kind is tuple else to)
                if process is None:
                    router.dropped += 1
                else:
                    try:
                        process.deliver(what)
                    except (EncodeError, PeerBusy):
                        router.dropped += 1  # a process beyond a straw; who sent is not here any more, the log says why
            elif kind is Reference:
                router.alias_arrived(to, what)
            else:
                to.signal_encoded(what)
