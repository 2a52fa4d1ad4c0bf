"""A client of XenStore for asyncio: our store, a real xenstored's socket, or the domain's own /dev/xen/xenbus.

Paths are `str`, values come as `bytes`. Every refusal is an XenstoreError with the name of its errno; once the
connection is gone every call, and every watch, gives XenstoreError ENOTCONN. Not thread-safe: use it on its loop.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from operator import eq
from types import TracebackType
from typing import Final, TypeAlias, TypeVar

from ..errors import XenstoreError
from .subscriptions import Owner, Subscription, Watches, seen
from .transport import StoreTransport, open_transport
from .wire import ClientConnection, Op, Replied, WatchFired, strings

__all__ = ["Transaction", "Value", "XenStore"]

Value: TypeAlias = "str | bytes | int"
Target: TypeAlias = "str | os.PathLike[str] | socket.socket | None"
Texts: TypeAlias = list[str]  # inside a class with a method `list` that name is taken
Pieces: TypeAlias = list[bytes]
T = TypeVar("T")

TRIES: Final = 100
"""How often `transaction` starts again before EAGAIN is given to the caller."""

_INTEGER: Final = re.compile(rb"-?(0|[1-9][0-9]{0,18})")
_OK: Final = b"OK\0"


class _Nodes:
    """The operations on nodes, outside a transaction or in one. Paths may be relative to the domain's own."""

    _tid = 0

    async def _ask(self, op: Op, payload: bytes) -> bytes:
        raise NotImplementedError

    async def read(self, path: str) -> bytes:
        return await self._ask(Op.READ, _path(path))

    async def read_integer(self, path: str) -> int:
        """The value as a decimal number; XenstoreError EINVAL when it is none."""
        value = await self.read(path)
        if not _INTEGER.fullmatch(value):
            raise XenstoreError("EINVAL", path, "not an integer")
        return int(value)

    async def write(self, path: str, value: Value) -> None:
        """Sets a value and makes the node, with what is missing above it. Text is written as UTF-8."""
        await self._do(Op.WRITE, _path(path) + _bytes(value))

    async def mkdir(self, path: str) -> None:
        """Makes a node if there is none."""
        await self._do(Op.MKDIR, _path(path))

    async def delete(self, path: str) -> None:
        """Removes a node and all below it; one that is not there is no error when the node above it is."""
        await self._do(Op.RM, _path(path))

    async def exists(self, path: str) -> bool:
        """Whether there is such a node; EACCES when that is not ours to know."""
        try:
            await self._ask(Op.READ, _path(path))
        except XenstoreError as error:
            if error.name != "ENOENT":
                raise
            return False
        return True

    async def list(self, path: str) -> Texts:
        """The names of the nodes right below."""
        try:
            names = strings(await self._ask(Op.DIRECTORY, _path(path)))
        except XenstoreError as error:
            if error.name != "E2BIG":
                raise
            names = await self._list_parts(path)
        return [name.decode("latin-1") for name in names]

    async def _list_parts(self, path: str) -> Pieces:
        """A list that is too long for one reply. Begins again when the node changes meanwhile."""
        generation = everything = b""
        while True:
            reply = await self._ask(Op.DIRECTORY_PART, _path(path) + b"%d\0" % len(everything))
            now, _, part = reply.partition(b"\0")
            if everything and now != generation:
                everything = b""
                continue
            generation = now
            # An empty name, one NUL more, comes after the last.
            if part.endswith(b"\0\0") or part in (b"\0", b""):
                return strings(everything + part[:-1])
            everything += part

    async def get_perms(self, path: str) -> Texts:
        """["n0", "r5"]: the owner with what everybody may do, then exceptions."""
        return [text.decode("latin-1") for text in strings(await self._ask(Op.GET_PERMS, _path(path)))]

    async def set_perms(self, path: str, perms: Iterable[str]) -> None:
        await self._do(Op.SET_PERMS, _path(path) + b"".join(_path(perm) for perm in perms))

    async def _do(self, op: Op, payload: bytes) -> None:
        reply = await self._ask(op, payload)
        if reply != _OK:
            raise XenstoreError("EPROTO", detail=f"{op.name} was answered {reply[:16]!r}")


class Transaction(_Nodes):
    """One transaction. Ends by `commit` or `rollback`; as an async context manager by leaving the block."""

    def __init__(self, store: XenStore, tid: int) -> None:
        self._store = store
        self._tid = tid
        self._open = True

    async def _ask(self, op: Op, payload: bytes) -> bytes:
        if not self._open:
            raise XenstoreError("ENOENT", detail="the transaction is over")
        return await self._store._request(op, payload, self._tid)

    async def commit(self) -> None:
        """Everything at once, or XenstoreError EAGAIN: nothing was done, what was read has changed."""
        await self._end(b"T\0")

    async def rollback(self) -> None:
        """Nothing of it. May be called on a transaction that is over."""
        if self._open:
            await self._end(b"F\0")

    async def _end(self, how: bytes) -> None:
        if not self._open:
            raise XenstoreError("ENOENT", detail="the transaction is over")
        self._open = False
        await self._store._request(Op.TRANSACTION_END, how, self._tid)

    def _abandon(self) -> None:
        """As `rollback`, without waiting: for somebody who was cancelled."""
        if self._open:
            self._open = False
            self._store._send(Op.TRANSACTION_END, b"F\0", self._tid).add_done_callback(seen)

    async def __aenter__(self) -> Transaction:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._open:
            return
        if kind is None:
            await self.commit()
        else:
            self._abandon()


class XenStore(_Nodes):
    """One connection to a store, made by `connect`."""

    def __init__(self, transport: StoreTransport) -> None:
        """Takes a transport of its own and starts it."""
        self._transport = transport
        self._wire = ClientConnection()
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._watches = Watches(self)
        self._lost: XenstoreError | None = None
        self._over = asyncio.Event()
        self._on_lost: list[Callable[[XenstoreError], None]] = []
        transport.on_data = self._received
        transport.on_lost = self._transport_lost
        transport.start()

    @classmethod
    async def connect(cls, target: Target = None) -> XenStore:
        """Connects to a path (a socket or a device) or takes over a connected socket.

        None is where Xen's tools look: XENSTORED_PATH, XENSTORED_RUNDIR, /var/run/xenstored/socket, the device.
        Raises XenstoreError ENOTCONN, with the OSError as its cause.
        """
        try:
            return cls(await open_transport(target))
        except OSError as error:
            raise XenstoreError("ENOTCONN", detail=str(error)) from error

    # ── the connection ──

    @property
    def closed(self) -> bool:
        """Whether `close` was called, or the store is lost."""
        return self._lost is not None

    async def close(self) -> None:
        """Ends the connection; its watches and transactions go with it. May be called twice."""
        self._transport.close()
        self._end(XenstoreError("ENOTCONN", detail="closed"))

    async def wait_closed(self) -> None:
        """Returns when the connection is over, by whomever."""
        await self._over.wait()

    def on_lost(self, callback: Callable[[XenstoreError], None]) -> None:
        """Calls back once when the connection ends, also by `close`; soon, if it has already."""
        if self._lost is not None:
            self._loop.call_soon(callback, self._lost)
        else:
            self._on_lost.append(callback)

    async def __aenter__(self) -> XenStore:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _transport_lost(self, error: OSError | None) -> None:
        self._end(XenstoreError("ENOTCONN", detail=str(error) if error else "the store has ended the connection"))

    def _end(self, why: XenstoreError) -> None:
        if self._lost is not None:
            return
        self._lost = why
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(_again(why))
        self._watches.lost(why)
        self._over.set()
        for callback in self._on_lost:
            self._loop.call_soon(callback, why)

    def _received(self, data: bytes) -> None:
        self._wire.receive_data(data)
        try:
            while (event := self._wire.next_event()) is not None:
                if isinstance(event, WatchFired):
                    self._watches.fired(event)
                    continue
                future = self._waiting.pop(event.rid, None)
                if future is None or future.done():
                    continue  # the caller has gone away
                if isinstance(event, Replied):
                    future.set_result(event.payload)
                else:
                    future.set_exception(XenstoreError(event.name))
        except XenstoreError as error:  # EPROTO: this is no store
            self._transport.close()
            self._end(error)

    def _send(self, op: Op, payload: bytes, tid: int = 0) -> asyncio.Future[bytes]:
        """Sends a request at once; the future is its reply. Errors are in the future, too."""
        future: asyncio.Future[bytes] = self._loop.create_future()
        if self._lost is not None:
            future.set_exception(_again(self._lost))
            return future
        try:
            rid = self._wire.request(op, payload, tid)
        except XenstoreError as error:
            future.set_exception(error)
            return future
        self._waiting[rid] = future
        self._transport.write(self._wire.data_to_send())
        return future

    async def _request(self, op: Op, payload: bytes, tid: int = 0) -> bytes:
        try:
            return await self._send(op, payload, tid)
        except XenstoreError as error:
            if not error.path and b"\0" in payload:
                path = payload.split(b"\0", 1)[0].decode("latin-1")
                raise XenstoreError(error.name, path, error.detail.removeprefix(error.name).strip()) from None
            raise

    async def _ask(self, op: Op, payload: bytes) -> bytes:
        return await self._request(op, payload)

    # ── transactions ──

    async def begin(self) -> Transaction:
        """A transaction to be ended by hand: its `commit` may give EAGAIN."""
        reply = self._send(Op.TRANSACTION_START, b"\0")
        try:
            return Transaction(self, _number(await asyncio.shield(reply)))
        except asyncio.CancelledError:
            reply.add_done_callback(self._end_late)
            raise

    def _end_late(self, reply: asyncio.Future[bytes]) -> None:
        """Ends a transaction that was begun for somebody who did not wait for it."""
        if not reply.cancelled() and reply.exception() is None:
            Transaction(self, _number(reply.result()))._abandon()

    async def transaction(self, work: Callable[[Transaction], Awaitable[T]], tries: int = TRIES) -> T:
        """Runs `work` in a transaction and commits it; runs it again whenever the commit gives EAGAIN.

        What `work` raises ends the transaction without a trace. After `tries` times EAGAIN is raised.
        """
        while True:
            tries -= 1
            transaction = await self.begin()
            try:
                result = await work(transaction)
                await transaction.commit()
            except XenstoreError as error:
                transaction._abandon()
                if error.name != "EAGAIN" or tries <= 0:
                    raise
            except BaseException:
                transaction._abandon()
                raise
            else:
                return result

    # ── watches ──

    async def watch(
        self, path: str, callback: Callable[[str], None] | None = None, owner: Owner | None = None
    ) -> Subscription:
        """Watches a node and all below it; `@introduceDomain` and `@releaseDomain` too.

        The first event comes at once, whether the node exists or not. callback: gets the changed path (relative when
        `path` is) on the loop; without one, read the subscription: `await s.next()`, `async for path in s`.
        Watching the same path again takes no second watch of the store. It ends with `unwatch`, or with its owner.
        """
        return await self._watches.subscribe(path, callback, owner)

    async def unwatch(self, subscription: Subscription) -> None:
        """Ends it; no event comes after this was called. May be called twice."""
        await subscription.unwatch()

    def owner(self) -> Owner:
        """Somebody whose watches go when it goes: `async with store.owner() as o: await o.watch(path, callback)`."""
        return Owner(self)

    @property
    def watches(self) -> int:
        """How many watches of the store this connection uses."""
        return len(self._watches)

    async def wait(self, path: str, wanted: Value | Callable[[bytes], bool]) -> bytes:
        """Waits until a node has a value, or one for which `wanted` is true; returns it. A missing node is waited for.

        Any other refusal is raised. There is no time limit: put `asyncio.timeout` around it.
        """
        fits = wanted if callable(wanted) else partial(eq, _bytes(wanted))
        async with self.owner() as owner:
            events = await owner.watch(path)
            while True:
                await events.next()
                events.clear()  # however many came, one look is enough
                try:
                    found = await self.read(path)
                except XenstoreError as error:
                    if error.name != "ENOENT":
                        raise
                    continue
                if fits(found):
                    return found

    # ── domains ──

    async def domid(self) -> int:
        """Our own number."""
        return await self.read_integer("domid")

    async def get_domain_path(self, domid: int) -> str:
        """The domain's home, "/local/domain/<domid>", whether it is there or not."""
        reply = await self._request(Op.GET_DOMAIN_PATH, b"%d\0" % domid)
        return reply.rstrip(b"\0").decode("latin-1")

    async def is_domain_introduced(self, domid: int) -> bool:
        """Only domain 0 may ask (EACCES)."""
        return await self._request(Op.IS_DOMAIN_INTRODUCED, b"%d\0" % domid) == b"T\0"

    async def reset_watches(self) -> None:
        """All watches and transactions of this connection go; what was subscribed hears no more."""
        self._watches.forget()
        await self._request(Op.RESET_WATCHES, b"\0")


def _again(error: XenstoreError) -> XenstoreError:
    """A new error like this one: one exception object must not be raised in many tasks."""
    return XenstoreError(error.name, error.path, error.detail.removeprefix(error.name).strip())


def _path(path: str) -> bytes:
    """Text with its NUL; EINVAL for what the wire can't carry."""
    if "\0" in path or not path.isascii():
        raise XenstoreError("EINVAL", detail=f"no valid path: {path[:64]!r}")
    return path.encode() + b"\0"


def _bytes(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else str(int(value))).encode()


def _number(reply: bytes) -> int:
    text = reply.rstrip(b"\0")
    if not text.isdigit() or not 0 < int(text[:12]) <= 0xFFFF_FFFF:
        raise XenstoreError("EPROTO", detail=f"not a number: {reply[:16]!r}")
    return int(text)
