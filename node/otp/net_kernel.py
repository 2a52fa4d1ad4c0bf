"""The server `net_kernel`: what net_adm:ping asks."""

from __future__ import annotations

from typing import Any

from ..terms import Atom
from .gen import Caller, reply_aside
from .gen_server import GenServer, NoReply

__all__ = ["NetKernel"]

_YES = Atom("yes")


class NetKernel(GenServer):
    """Answers ``{is_auth, Node}`` with yes; whoever can ask has passed the handshake."""

    async def handle_call(self, request: Any, caller: Caller) -> Any:
        match request:
            case (Atom("is_auth"), Atom()):
                reply_aside(self.process, caller, _YES)
        return NoReply()

    async def handle_cast(self, request: Any) -> Any:
        """OTP's net_kernel ignores casts that it does not know."""

    async def handle_info(self, message: Any) -> Any:
        """Likewise."""
