"""GenServer: a process that answers calls, casts and other messages, one at a time, by methods of a class.

The protocol is gen_server's, so that gen_server:call/cast, GenServer.call and Node.call reach it alike; sys.py adds
what OTP's sys module asks. Methods may be `async def` (on the loop) or `def` (in a worker thread, unless registered
with inline=True); the next message waits until the method has returned.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import PeerBusy, ProcessExit
from ..runtime.process import Process
from ..runtime.reasons import charlist, crash_reason
from ..runtime.signals import NORMAL, SHUTDOWN, is_quiet
from ..terms import Atom, Pid
from . import sys
from .gen import GEN_CALL, GEN_CAST, Caller, is_from, reply
from .threads import in_thread

if TYPE_CHECKING:
    from ..node import Node  # for annotations only

__all__ = ["GenServer", "NoReply", "Reply", "Stop", "run"]

log = logging.getLogger("strawbridge.gen_server")

_TIMEOUT = Atom("timeout")
_SYSTEM = Atom("system")
_FUNCTION_CLAUSE = Atom("function_clause")
_UNSET: Any = object()


@dataclass(frozen=True, slots=True)
class Reply:
    """Returned by handle_call: the reply (also None). timeout: seconds until handle_info(Atom("timeout"))."""

    value: Any
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class NoReply:
    """Returned by any method: go on. From handle_call: the reply comes later, by self.reply(caller, value)."""

    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """Returned by any method: end with a reason (a term; 'normal', 'shutdown' and {shutdown, _} are quiet).

    reply: what the caller gets first, in handle_call.
    """

    reason: Any = NORMAL
    reply: Any = _UNSET


class GenServer:
    """Subclass it and write the methods you need. `self.process`, `self.pid` and `self.node` say who you are."""

    process: Process

    @property
    def pid(self) -> Pid:
        """Our own pid."""
        return self.process.pid

    @property
    def node(self) -> Node:
        """The Node that we run on."""
        return self.process.node

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Called first, with the arguments given to register(); may return NoReply(timeout=…) or Stop(reason)."""

    def handle_call(self, request: Any, caller: Caller) -> Any:
        """A call. Return the reply, Reply(value), NoReply() or Stop(reason, reply=…); None is an error."""
        raise NotImplementedError(f"{type(self).__name__} has no handle_call")

    def handle_cast(self, request: Any) -> Any:
        """A cast. Return None, NoReply(timeout=…) or Stop(reason)."""
        raise NotImplementedError(f"{type(self).__name__} has no handle_cast")

    def handle_info(self, message: Any) -> Any:
        """Any other message: DOWN, EXIT (when trapping), timeout, plain sends. Return as handle_cast does."""
        log.error("%r got an unexpected message: %.500r", self.process, message)

    def terminate(self, reason: Any) -> Any:
        """Called last, unless the server was killed. reason: the exit reason, a term.

        After an exit signal the process has ended already for the cluster: it can clean up, but send nothing.
        """

    def reply(self, caller: Caller, value: Any) -> None:
        """Answer a call for which handle_call returned NoReply(). Only from the loop's thread or from a method."""
        reply(self.process, caller, value)

    def send(self, to: Any, message: Any) -> None:
        """Send a message as this process; see Process.send."""
        self.process.send(to, message)


#: Inherited as they are these do nothing, so they need no thread.
_DEFAULTS = frozenset({GenServer.init, GenServer.terminate, GenServer.handle_info})


class _Loop:
    """The loop of one server: which method for which message, and what its result means."""

    def __init__(self, process: Process, server: GenServer, inline: bool) -> None:
        self.process = process
        self.server = server
        self.inline = inline
        self.handle_call = self.runner(server.handle_call)
        self.handle_cast = self.runner(server.handle_cast)
        self.handle_info = self.runner(server.handle_info)
        self.timeout: float | None = None
        self.suspended = False

    def runner(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """How to run a method: as it is when async, inline or a default, else in a worker thread."""
        if inspect.iscoroutinefunction(method):
            return method
        if self.inline or getattr(method, "__func__", None) in _DEFAULTS:

            async def on_loop(*args: Any) -> Any:
                result = method(*args)
                return await result if inspect.isawaitable(result) else result

            return on_loop

        async def threaded(*args: Any) -> Any:
            return await in_thread(self.process.router, method, *args)

        return threaded

    async def serve(self, args: tuple[Any, ...]) -> None:
        process = self.process
        self.after(await self.runner(self.server.init)(*args))
        mailbox = process.mailbox
        queue = mailbox.queue
        while True:
            if queue and process._held is None:
                message = mailbox.pop()
            else:
                try:
                    message = await process.receive(None, self.timeout)
                except TimeoutError:
                    self.after(await self.handle_info(_TIMEOUT))
                    continue
            size = len(message) if type(message) is tuple else 0
            if size == 3 and message[0] is GEN_CALL and is_from(message[1]):
                self.after_call(message[1], await self.handle_call(message[2], message[1]))
            elif size == 2 and message[0] is GEN_CAST:
                self.after(await self.handle_cast(message[1]))
            elif size == 3 and message[0] is _SYSTEM and is_from(message[1]):
                await sys.handle(process, self.server, message[1], message[2])
            else:
                self.after(await self.handle_info(message))

    def after_call(self, caller: Caller, result: Any) -> None:
        kind = type(result)
        if kind is Reply:
            self.reply(caller, result.value)
            self.timeout = result.timeout
        elif kind is NoReply:
            self.timeout = result.timeout
        elif kind is Stop:
            if result.reply is not _UNSET:
                self.reply(caller, result.reply)
            raise ProcessExit(_reason(result.reason))
        elif result is None:
            raise ProcessExit((_FUNCTION_CLAUSE, [_where(self.server.handle_call)]))
        else:
            self.reply(caller, result)
            self.timeout = None

    def reply(self, caller: Caller, value: Any) -> None:
        try:
            reply(self.process, caller, value)
        except PeerBusy as busy:  # one client that takes nothing does not end the server of all others
            log.warning("%r can't answer: %s", self.process, busy)

    def after(self, result: Any) -> None:
        kind = type(result)
        if kind is NoReply or kind is Reply:
            self.timeout = result.timeout
        elif kind is Stop:
            raise ProcessExit(_reason(result.reason))
        else:
            self.timeout = None


def _reason(reason: Any) -> Any:
    return Atom(reason) if isinstance(reason, str) else reason


def _where(method: Callable[..., Any]) -> Any:
    """A stack frame for a method that returned nothing."""
    code = inspect.unwrap(method).__code__
    place = [(Atom("file"), charlist(code.co_filename[-255:])), (Atom("line"), code.co_firstlineno)]
    return (Atom(method.__module__[:255]), Atom(code.co_qualname[:255]), code.co_argcount, place)


async def run(process: Process, make: Callable[[], GenServer], inline: bool, args: tuple[Any, ...]) -> None:
    """The handler of a server's process. make: gives the instance (a restarted server gets a new one)."""
    server = make()
    server.process = process
    loop = _Loop(process, server, inline)
    try:
        await loop.serve(args)
    except asyncio.CancelledError:
        # The node closes; or an exit signal came: then the process has ended for the cluster and can send no more.
        reason = SHUTDOWN if process.alive else process.exit_reason
        if reason is not sys.KILLED:
            await loop.runner(server.terminate)(reason)
        raise
    except BaseException as error:
        reason = crash_reason(error)
        if isinstance(error, ProcessExit) and not is_quiet(reason):
            log.error("%r stops: %.2000r", process, reason)
        await loop.runner(server.terminate)(reason)
        raise
