"""The process `strawman`: the gen_server that LING's code, a BEAM and Python call alike.

    {open, DomId}        ok | {error, exists | self | not_found | timeout | straw_taken | host_down | ...}
    {open, DomId, json}  the same, for a straw in json
    {split, DomId}       {ok, StrawPid} | {error, not_found}
    {close, DomId}       ok | {error, not_found}
    {proxy, DomId, Name} {ok, Pid} | {error, Reason}, a process that stands for a name over there
    domid, domains       our domain id; those that we have a straw to

The message ``{envelope, {DomId, Name}, Msg}`` opens a straw on first use and forwards; called with, it is answered ok
or {error, Reason}. Nothing here blocks: an open is answered when it ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..otp.gen import Caller
from ..otp.gen_server import GenServer, NoReply
from ..terms import Atom
from .errors import StrawError
from .formats import Format

if TYPE_CHECKING:
    from .manager import Strawman

__all__ = ["StrawmanServer"]

_OK = Atom("ok")
_ERROR = Atom("error")
_ENVELOPE = Atom("envelope")
_NOT_FOUND = (_ERROR, Atom("not_found"))
_UNKNOWN = (_ERROR, Atom("unknown_request"))
_FORMATS: dict[Any, Format] = {Atom("erlang"): "erlang", Atom("json"): "json"}


class StrawmanServer(GenServer):
    """Made again after a crash; the straws are the manager's and live on."""

    def init(self, *args: Any, **kwargs: Any) -> None:
        self._manager: Strawman = args[0]

    async def handle_call(self, request: Any, caller: Caller) -> Any:
        manager = self._manager
        if type(request) is not tuple and type(request) is not Atom:
            return _UNKNOWN
        match request:
            case (Atom("open"), int(domid)):
                return self._open(domid, "erlang", caller)
            case (Atom("open"), int(domid), Atom() as word) if word in _FORMATS:
                return self._open(domid, _FORMATS[word], caller)
            case (Atom("split"), int(domid)):
                process = manager.process(domid)
                if process is None:
                    return _NOT_FOUND
                process.add_owner(caller[0])
                return (_OK, process.pid)
            case (Atom("close"), int(domid)):
                return self._later(caller, self._closed(domid))
            case (Atom("proxy"), int(domid), Atom() as name):
                return self._later(caller, self._proxy(domid, name))
            case (Atom("envelope"), _, _):
                return self._forward(request)
            case Atom("domid"):
                return manager.domid
            case Atom("domains"):
                return manager.domains
        return _UNKNOWN

    async def handle_cast(self, request: Any) -> Any:
        """No casts are known: dropped, as any message of no meaning."""

    async def handle_info(self, message: Any) -> Any:
        if type(message) is tuple and len(message) == 3 and message[0] is _ENVELOPE:
            self._forward(message)

    def _forward(self, envelope: Any) -> Any:
        place = envelope[1]
        if type(place) is not tuple or len(place) != 2 or type(place[0]) is not int or not 0 <= place[0] < 1 << 32:
            self._manager.warn("addr", "strawman takes {envelope, {DomId, Name}, Msg}, not for %.100r", place)
            return (_ERROR, Atom("badarg"))
        return self._manager.forward(place[0], place[1], envelope[2])

    def _open(self, domid: int, format: Format, caller: Caller) -> NoReply:
        return self._later(caller, self._opened(domid, format, caller))

    def _later(self, caller: Caller, answer: Any) -> NoReply:
        async def work() -> None:
            try:
                self.reply(caller, await answer)
            except StrawError as error:
                self.reply(caller, (_ERROR, Atom(error.reason)))

        self._manager.spawn(work())
        return NoReply()

    async def _opened(self, domid: int, format: Format, caller: Caller) -> Any:
        process = await self._manager.open_process(domid, format)
        process.add_owner(caller[0])
        return _OK

    async def _proxy(self, domid: int, name: Atom) -> Any:
        return (_OK, await self._manager.proxy(domid, name))

    async def _closed(self, domid: int) -> Any:
        return _OK if await self._manager.close(domid) else _NOT_FOUND
