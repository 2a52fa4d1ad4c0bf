"""A client's watches: counted, owned, and given back.

The store gives a domain about a hundred watches, so many subscriptions of one path share one watch; it is given back
when the last of them goes. Each watch has a token of its own, so that a late event never reaches a newer one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final

from ..errors import XenstoreError
from .wire import Op, WatchFired

if TYPE_CHECKING:
    from .client import XenStore

__all__ = ["Owner", "Subscription", "Watches", "seen"]

QUEUE: Final = 10_000
"""Events kept for a subscription that is not read; beyond it the oldest go: the newest tells as much."""


class _Shared:
    """One watch of the store and those who hear it. ready: the store's reply to WATCH."""

    def __init__(self, path: str, token: bytes, ready: asyncio.Future[bytes]) -> None:
        self.path = path
        self.token = token
        self.ready = ready
        self.subscriptions: dict[Subscription, None] = {}
        self.told = False


class Subscription:
    """Somebody's interest in a path. Events are paths, in the form in which `path` was given."""

    def __init__(
        self, watches: Watches, path: str, callback: Callable[[str], None] | None, owner: Owner | None
    ) -> None:
        self.path = path
        self.active = True
        self._watches = watches
        self._callback = callback
        self._owner = owner
        self._events: deque[str] = deque(maxlen=QUEUE)
        self._woken: asyncio.Future[None] | None = None
        self._lost: XenstoreError | None = None

    async def next(self) -> str:
        """The next event. XenstoreError ENOTCONN when the connection is gone, ENOENT when this was ended."""
        while not self._events:
            if self._lost is not None:
                raise XenstoreError(self._lost.name, self.path)
            if not self.active:
                raise XenstoreError("ENOENT", self.path, "no longer watched")
            if self._woken is None or self._woken.done():
                self._woken = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._woken)  # others may wait on it
        return self._events.popleft()

    def clear(self) -> None:
        """Forgets the events that wait to be read."""
        self._events.clear()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> str:
        """Ends when the subscription was ended; a lost connection is an error."""
        try:
            return await self.next()
        except XenstoreError as error:
            if error.name == "ENOENT":
                raise StopAsyncIteration from None
            raise

    async def unwatch(self) -> None:
        """Ends it; no event comes after this was called. May be called twice."""
        reply = self._watches.drop(self)
        if reply is not None:
            with contextlib.suppress(XenstoreError):  # gone is gone
                await asyncio.shield(reply)

    def _end(self, lost: XenstoreError | None = None) -> None:
        self.active = False
        self._lost = lost
        if lost is None:
            self._events.clear()
        if self._owner is not None:
            self._owner._subscriptions.pop(self, None)
        self._wake()

    def _tell(self, path: str) -> None:
        if self._callback is not None:
            try:
                self._callback(path)
            except Exception as error:  # one subscriber's fault is not the others'
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"a watch's callback failed: {self.path}", "exception": error}
                )
        else:
            self._events.append(path)
            self._wake()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


class Owner:
    """Somebody whose watches go when it goes. Use as an async context manager, or `close` it."""

    def __init__(self, store: XenStore) -> None:
        self._store = store
        self._subscriptions: dict[Subscription, None] = {}
        self._closed = False

    async def watch(self, path: str, callback: Callable[[str], None] | None = None) -> Subscription:
        """As `XenStore.watch`, for this owner."""
        return await self._store.watch(path, callback, self)

    async def close(self) -> None:
        """Ends all its watches. May be called twice."""
        self._closed = True
        # All are asked for before the first reply is waited for, so a cancel does not leave some behind.
        replies = [self._store._watches.drop(subscription) for subscription in list(self._subscriptions)]
        for reply in replies:
            if reply is not None:
                with contextlib.suppress(XenstoreError):
                    await asyncio.shield(reply)

    async def __aenter__(self) -> Owner:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Watches:
    """All watches of one connection."""

    def __init__(self, store: XenStore) -> None:
        self._store = store
        self._by_path: dict[str, _Shared] = {}
        self._by_token: dict[bytes, _Shared] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._by_path)

    async def subscribe(self, path: str, callback: Callable[[str], None] | None, owner: Owner | None) -> Subscription:
        if "\0" in path or not path.isascii():
            raise XenstoreError("EINVAL", detail=f"no valid path: {path[:64]!r}")
        if owner is not None and owner._closed:
            raise XenstoreError("EINVAL", path, "its owner is gone")
        subscription = Subscription(self, path, callback, owner)
        shared = self._by_path.get(path)
        if shared is None:
            self._count += 1
            token = b"%d" % self._count
            ready = self._store._send(Op.WATCH, path.encode() + b"\0" + token + b"\0")
            ready.add_done_callback(seen)
            shared = self._by_path[path] = self._by_token[token] = _Shared(path, token, ready)
        elif shared.told:
            # The store's own first event is over; this one gets its own.
            asyncio.get_running_loop().call_soon(self._first, subscription, path)
        shared.subscriptions[subscription] = None
        if owner is not None:
            owner._subscriptions[subscription] = None
        try:
            await asyncio.shield(shared.ready)
        except XenstoreError as error:
            self._remove(shared)
            subscription._end()
            raise XenstoreError(error.name, path) from None
        except BaseException:
            self.drop(subscription)
            raise
        if not subscription.active:  # ended while the store was asked
            raise XenstoreError(subscription._lost.name if subscription._lost else "ENOENT", path)
        return subscription

    @staticmethod
    def _first(subscription: Subscription, path: str) -> None:
        if subscription.active:
            subscription._tell(path)

    def drop(self, subscription: Subscription) -> asyncio.Future[bytes] | None:
        """Ends a subscription at once; the future is the store's reply when this was the last of its watch."""
        if not subscription.active:
            return None
        subscription._end()
        shared = self._by_path.get(subscription.path)
        if shared is None or subscription not in shared.subscriptions:
            return None
        del shared.subscriptions[subscription]
        if shared.subscriptions:
            return None
        self._remove(shared)
        reply = self._store._send(Op.UNWATCH, shared.path.encode() + b"\0" + shared.token + b"\0")
        reply.add_done_callback(seen)
        return reply

    def _remove(self, shared: _Shared) -> None:
        if self._by_path.get(shared.path) is shared:
            del self._by_path[shared.path]
        self._by_token.pop(shared.token, None)

    def fired(self, event: WatchFired) -> None:
        """Hands an event on; one of a watch that was given back is ignored."""
        shared = self._by_token.get(event.token)
        if shared is not None:
            shared.told = True
            for subscription in list(shared.subscriptions):
                if subscription.active:
                    subscription._tell(event.path)

    def lost(self, why: XenstoreError) -> None:
        """The connection is gone: every subscription ends with this error."""
        for subscription in self._forget_all():
            subscription._end(why)

    def forget(self) -> None:
        """The store has forgotten all watches."""
        for subscription in self._forget_all():
            subscription._end()

    def _forget_all(self) -> list[Subscription]:
        subscriptions = [s for shared in self._by_path.values() for s in shared.subscriptions]
        self._by_path.clear()
        self._by_token.clear()
        return subscriptions


def seen(future: asyncio.Future[bytes]) -> None:
    """Takes note of a future's error that nobody may wait for."""
    if not future.cancelled():
        future.exception()
