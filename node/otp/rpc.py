"""Remote calls into and out of this node.

Since OTP 23 rpc:call and erpc:call are a monitored SPAWN_REQUEST of erpc:execute_call/4, whose result travels as the
exit reason of the process spawned (erpc.erl). The older form is a call to the server `rex` (rpc.erl): erl_call, ei
and Jinterface use it, and we do towards peers that can't spawn.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ..errors import CallTimeout, EncodeError, NoConnection, NodeDown, ProcessExit, RemoteError, RemoteExit, RemoteThrow
from ..etf import encode
from ..logs import SparingLog
from ..runtime.peers import Peer
from ..runtime.process import Process
from ..runtime.reasons import exception_reason
from ..runtime.router import Router
from ..runtime.signals import NOCONNECTION
from ..runtime.waiter import Waiter
from ..terms import Atom, Pid, Reference
from ..wire import control as c
from ..wire.flags import Flag
from . import gen
from .exports import Exports, Outcome
from .gen_server import GenServer, NoReply

__all__ = ["Rex", "Spawner", "rpc"]

log = logging.getLogger("strawbridge.rpc")

_ERPC = Atom("erpc")
_EXECUTE_CALL = Atom("execute_call")
_EXECUTE_CAST = Atom("execute_cast")
_MONITOR = Atom("monitor")
_LINK = Atom("link")
_BADRPC = Atom("badrpc")
_EXIT = Atom("EXIT")
_REX = Atom("rex")
_CALL = Atom("call")
_SPAWN = int(Flag.SPAWN)
_KINDS = {kind: Atom(kind) for kind in ("return", "throw", "exit", "error")}


def _checked(outcome: Outcome) -> Outcome:
    """An outcome that can be sent: a result without a term is an error of the function."""
    try:
        encode(list(outcome[1:]))
    except EncodeError as error:
        return ("error", exception_reason(error), [])
    return outcome


class Spawner:
    """Answers SPAWN_REQUEST: every spawned process runs one exported function."""

    def __init__(self, router: Router, exports: Exports) -> None:
        self._router = router
        self._exports = exports
        self._log = SparingLog(log)

    def on_request(
        self, peer: Peer, request_id: Reference, sender: Pid, leader: Pid, mfa: Any, options: Any, args: Any
    ) -> None:
        """Start the process, set up its link and monitor, answer with its pid."""
        router = self._router
        process = Process(router, "rpc")
        process.group_leader = leader
        flags = 0
        for option in options if type(options) is list else ():
            if option is _LINK:
                process.links.on_link(sender)
                router.across(peer.node).links[sender, process.pid] = process
                flags |= c.SPAWN_LINKED
            elif option is _MONITOR or (type(option) is tuple and option and option[0] is _MONITOR):
                process.watchers[request_id] = (sender, process.pid)
                router.across(peer.node).monitors_in[request_id] = process
                flags |= c.SPAWN_MONITORED
        peer.signal((c.SPAWN_REPLY, request_id, sender, flags, process.pid))
        process.start(self._run, mfa[0], mfa[1], args)

    async def _run(self, process: Process, module: Atom, function: Atom, args: Any) -> None:
        if module is _ERPC and function is _EXECUTE_CALL and type(args) is list and len(args) == 4:
            ref, module, function, args = args
            outcome = _checked(await self._exports.run(self._router, module, function, args))
            raise ProcessExit((ref, _KINDS[outcome[0]], *outcome[1:]))
        wrapped = module is _ERPC and function is _EXECUTE_CAST and type(args) is list and len(args) == 3
        if wrapped:
            module, function, args = args
        outcome = await self._exports.run(self._router, module, function, args)
        kind, value = outcome[0], outcome[1]
        if kind == "return":
            return
        text = "%r spawned %s:%s ended with %s: %.1000r"
        self._log.write(logging.ERROR, "spawned", text, process, module, function, kind, value)
        if kind == "exit":
            raise ProcessExit(value)
        if kind == "throw":
            raise ProcessExit(((Atom("nocatch"), value), []))
        reason = (value, outcome[2])
        raise ProcessExit(((Atom("exception"), reason), []) if wrapped else reason)


class Rex(GenServer):
    """The server `rex`."""

    def __init__(self, exports: Exports) -> None:
        self._exports = exports

    async def handle_call(self, request: Any, caller: gen.Caller) -> Any:
        match request:
            case (Atom("call" | "block_call"), module, function, args, _):
                self._start(module, function, args, lambda value: gen.reply_aside(self.process, caller, value))
        return NoReply()  # rex answers nothing else, as OTP's

    async def handle_cast(self, request: Any) -> Any:
        match request:
            case (Atom("cast"), module, function, args, _):
                self._start(module, function, args, lambda value: None)

    async def handle_info(self, message: Any) -> Any:
        match message:
            case (Pid() as sender, Atom("features_request")):
                self._answer(sender, (Atom("features_reply"), self.process.router.name, [_ERPC]))
            case (Pid() as sender, (Atom("call"), module, function, args, _)):
                # C nodes, Jinterface, erl_call
                self._start(module, function, args, lambda value: self._answer(sender, (_REX, value)))
            case (Pid() as sender, (Atom("send"), Atom() as name, text)):
                self._answer(name, (sender, text))
            case (Pid() as sender, (Atom("sbcast"), Atom() as name, text)):
                here = self.process.router.name
                known = self.process.router.find(name) is not None
                self._answer(name, text)
                self._answer(sender, (_REX, here, here if known else (Atom("nonexisting_name"), name)))

    def _answer(self, to: Any, message: Any) -> None:
        gen.send_aside(self.process, to, message)

    def _start(self, module: Any, function: Any, args: Any, answer: Any) -> None:
        async def run(process: Process) -> None:
            outcome = _checked(await self._exports.run(process.router, module, function, args))
            kind, value = outcome[0], outcome[1]
            if kind in ("return", "throw"):
                answer(value)
            else:
                answer((_BADRPC, (_EXIT, (value, outcome[2]) if kind == "error" else value)))

        self.process.router.spawn(run, label="rpc")


class _SpawnCall(Waiter):
    """A SPAWN_REQUEST of ours; await it for its result."""

    __slots__ = ("limit", "node", "pid", "ref", "tag")

    def __init__(self, router: Router, node: Atom, limit: float | None) -> None:
        super().__init__(router.turn)
        self.ref = router.new_ref()
        self.tag = router.new_ref()
        self.node = node
        self.limit = limit
        self.pid: Pid | None = None

    def expired(self) -> None:
        assert self.limit is not None
        self.fail(CallTimeout(self.limit))

    def on_reply(self, value: Any) -> None:
        """Nothing replies to these."""

    def on_spawned(self, result: Any) -> None:
        if type(result) is Pid:
            self.pid = result
        else:
            self.fail(RemoteError((_ERPC, result)))

    def on_down(self, reason: Any) -> None:
        if isinstance(reason, NoConnection):
            self.fail(reason)
        elif reason is NOCONNECTION:
            self.fail(NodeDown(self.node.name, "no connection"))
        elif type(reason) is tuple and len(reason) >= 3 and reason[0] == self.tag:
            self._result(*reason[1:])
        else:
            self.fail(RemoteExit((Atom("signal"), reason)))

    def _result(self, kind: Any, value: Any, stack: Any = None) -> None:
        if kind is _KINDS["return"]:
            self.wake(value)
        elif kind is _KINDS["throw"]:
            self.fail(RemoteThrow(value))
        elif kind is _KINDS["exit"]:
            self.fail(RemoteExit(value))
        else:
            self.fail(RemoteError(value, stack))


async def rpc(
    router: Router, exports: Exports, node: Atom, module: Atom, function: Atom, args: list[Any], timeout: float | None
) -> Any:
    """Call module:function on a node. Raises RemoteError, RemoteExit, RemoteThrow, CallTimeout, NoConnection."""
    if node is router.name:
        return _raise_or_return(await exports.run(router, module, function, router.local_copy(args)))
    peer = router.peers.get(node)
    if timeout is None or peer.state == "up":
        await peer.connect()
    else:
        # The timeout is for all of it.
        end = router.turn.loop.time() + timeout
        try:
            async with asyncio.timeout_at(end):
                await peer.connect()
        except TimeoutError:
            raise CallTimeout(timeout) from None
        timeout = max(end - router.turn.loop.time(), 0.0)
    if not peer.flags & _SPAWN:
        return await _rpc_by_rex(router, node, module, function, args, timeout)
    call = _SpawnCall(router, node, timeout)
    caller = router.caller
    lone = not router.calls and not router.turn.crowded
    router.watch_call(call, node, call.ref)
    deadline = None
    try:
        mfa = (_ERPC, _EXECUTE_CALL, 4)
        leader = router.leader
        request = (c.SPAWN_REQUEST, call.ref, caller.pid, leader, mfa, [_MONITOR])
        peer.signal(request, [call.tag, module, function, args])
        if lone:
            peer.flush()
        if timeout is not None:
            deadline = router.deadlines.after(timeout, call.expired)
        return await call
    finally:
        if deadline is not None:
            deadline.cancel()
        if router.forget_call(node, call.ref) and call.pid is not None:
            peer.signal((c.DEMONITOR_P, caller.pid, call.pid, call.ref))


async def _rpc_by_rex(
    router: Router, node: Atom, module: Atom, function: Atom, args: list[Any], timeout: float | None
) -> Any:
    request = (_CALL, module, function, args, router.leader)
    value = await gen.call(router, router.caller, (_REX, node), request, timeout)
    match value:
        case (Atom("badrpc"), (Atom("EXIT"), (reason, list() as stack))):
            raise RemoteError(reason, stack)
        case (Atom("badrpc"), (Atom("EXIT"), reason)):
            raise RemoteExit(reason)
        case (Atom("badrpc"), reason):
            raise RemoteError((_BADRPC, reason))
    return value


def _raise_or_return(outcome: Outcome) -> Any:
    kind, value = outcome[0], outcome[1]
    if kind == "return":
        return value
    if kind == "throw":
        raise RemoteThrow(value)
    if kind == "exit":
        raise RemoteExit(value)
    raise RemoteError(value, outcome[2])
