"""What OTP's sys module asks of a server: ``{system, From, Request}``.

get_state, get_status, suspend, resume, terminate (gen_server:stop/1,3 uses it) and replace_state, whose fun could run
only if it were an exported function of this node: it is answered as by a BEAM without that module. Tracing and
statistics are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import EncodeError, ProcessExit
from ..etf import encode
from ..runtime.process import Process
from ..runtime.reasons import MAX_TEXT
from ..runtime.signals import KILLED
from ..terms import Atom
from ..wire.flags import Flag
from .gen import Caller, is_from, reply

if TYPE_CHECKING:
    from .gen_server import GenServer

__all__ = ["KILLED", "handle"]

_OK = Atom("ok")
_ERROR = Atom("error")
_SYSTEM = Atom("system")
_RESUME = Atom("resume")


def _state(server: GenServer) -> Any:
    """The server's attributes as a map; those without a term as text."""
    state: dict[Any, Any] = {}
    for name, value in vars(server).items():
        if name == "process":
            continue
        try:
            encode(value)
            state[Atom(name)] = value
        except EncodeError:
            state[Atom(name)] = repr(value)[:MAX_TEXT]
    return state


def _in_the_callers_form(process: Process, caller: Caller, state: Any) -> Any:
    """sys:get_state of OTP 28 wants ``{ok, State}``, that of OTP 25 the bare state; 26 and 27 were not run."""
    node = caller[0].node
    if node is not process.router.name and process.router.peers.get(node).flags & Flag.ALTACT_SIG:
        return (_OK, state)
    return state


async def handle(process: Process, server: GenServer, caller: Caller, request: Any) -> None:
    """Answer one system message; a suspended server handles nothing else until it is resumed."""
    suspended = False
    while True:
        match request:
            case Atom("get_state"):
                reply(process, caller, _in_the_callers_form(process, caller, _state(server)))
            case Atom("get_status"):
                reply(process, caller, _status(process, server, suspended))
            case Atom("suspend"):
                suspended = True
                reply(process, caller, _OK)
            case Atom("resume"):
                suspended = False
                reply(process, caller, _OK)
            case (Atom("replace_state"), _):
                where = (Atom("gen_server"), Atom("system_replace_state"))
                reply(process, caller, (_ERROR, (Atom("callback_failed"), where, (_ERROR, Atom("undef")))))
            case (Atom("terminate"), reason):
                reply(process, caller, _OK)
                raise ProcessExit(reason)
            case _:
                reply(process, caller, (_ERROR, (Atom("unknown_system_msg"), request)))
        if not suspended:
            return
        _, caller, request = await process.receive(match=_is_system)


def _is_system(message: Any) -> bool:
    return type(message) is tuple and len(message) == 3 and message[0] is _SYSTEM and is_from(message[1])


def _status(process: Process, server: GenServer, suspended: bool) -> Any:
    """``{status, Pid, {module, Mod}, [PDict, SysState, Parent, Debug, Misc]}``."""
    module = Atom(type(server).__qualname__[:255])
    sys_state = Atom("suspended" if suspended else "running")
    misc = [(Atom("data"), [("State", _state(server))])]
    return (Atom("status"), process.pid, (Atom("module"), module), [[], sys_state, process.pid, [], misc])
