"""Whom envelopes from other domains may reach: a table of names, empty unless filled. No input or output.

Anybody can knock, and on a shared host in another's name too, so nothing is reachable that was not exported to straws.
What an exported process gets is a message; a message that has the shape of a signal is refused, because the receiver
would act on it as if it came from the system. A call is let through when its caller is one that crossed the straw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..otp.gen import GEN_CALL, is_from
from ..terms import Atom, ImproperList, Pid
from .formats import is_address
from .tables import is_alias

__all__ = ["SERVICES", "SIGNALS", "Export", "StrawExports", "is_forged"]

#: Processes of a node itself, ours or a BEAM's, that no export can name: what kernel and stdlib register (OTP 25, 28).
SERVICES = frozenset(
    Atom(name)
    for name in (
        *("strawman", "rex", "net_kernel", "user", "user_drv", "user_drv_writer", "init", "auth", "boot_server"),
        *("application_controller", "code_server", "erl_prim_loader", "erl_signal_server", "erts_code_purger"),
        *("file_server_2", "disk_log_server", "disk_log_sup", "dets", "dets_sup", "ddll_server", "os_server", "heart"),
        *("global_group", "global_group_check", "global_name_server", "inet_db", "erl_epmd", "net_sup", "pg"),
        *("kernel_config", "kernel_refc", "kernel_safe_sup", "kernel_sup", "socket_registry", "error_logger"),
        *("logger", "logger_handler_watcher", "logger_proxy", "logger_std_h_default", "logger_sup"),
        *("standard_error", "standard_error_sup", "standard_error_writer"),
    )
)

_SYSTEM = Atom("system")
_EXIT = Atom("EXIT")
_DOWN = Atom("DOWN")
#: What a message that may be forged begins with.
SIGNALS = frozenset((GEN_CALL, _SYSTEM, _EXIT, _DOWN))


@dataclass(frozen=True, slots=True)
class Export:
    """to: where envelopes go: an Atom, a Pid or (name, node). domains: who may send them; None: every domain.

    sender: the message arrives as ``{straw, DomId, Msg}``. is_plain: it goes to a name here, as it is, from everybody.
    """

    to: Any
    domains: frozenset[int] | None
    sender: bool
    is_plain: bool


class StrawExports:
    """The exports of one node, by the address that an envelope bears."""

    def __init__(self) -> None:
        self._table: dict[Any, Export] = {}
        #: find(addr): the export that an envelope's address means, or None
        self.find: Callable[[Any], Export | None] = self._table.get

    def add(self, name: Any, to: Any = None, domains: Iterable[int] | None = None, sender: bool = False) -> None:
        """Let envelopes for `name` (str, Atom, or a (name, node) pair) go to `to`, itself unless given.

        ValueError for one of SERVICES, TypeError for what is no address, and for a pid as a name: whom the other
        domain knows by a pid it may send to anyway.
        """
        key = _address(name)
        if type(key) is Pid:
            raise TypeError("a pid is no name: a process is reached by its pid when the pid was sent there")
        target = key if to is None else _address(to)
        for address in (key, target):
            if (address[0] if type(address) is tuple else address) in SERVICES:
                raise ValueError(f"{address!r} is a service of the node itself: it can't be exported to straws")
        is_plain = type(target) is Atom and domains is None and not sender
        self._table[key] = Export(target, None if domains is None else frozenset(domains), sender, is_plain)

    def remove(self, name: Any) -> None:
        """Take an export back. May be called twice."""
        self._table.pop(_address(name), None)

    def names(self) -> list[Any]:
        """What is exported."""
        return list(self._table)


def is_forged(message: Any, knows: Callable[[Any], bool] = lambda alias: False) -> bool:
    """Whether a message looks like a signal or a system message, or like a call whose answer would go astray.

    A caller's pid has crossed, so it is one of theirs or one that we told them; an alias that they name must have come
    from us: knows(alias) says whether it did.
    """
    if type(message) is not tuple or not message:
        return False
    size, head = len(message), message[0]
    if size == 3:
        if head is GEN_CALL:
            return not is_from(message[1]) or _strange_alias(message[1][1], knows)
        return head is _SYSTEM or head is _EXIT
    return size == 5 and head is _DOWN


def _strange_alias(tag: Any, knows: Callable[[Any], bool]) -> bool:
    """As gen:reply/2 looks at a tag: ``[alias|Ref]`` or ``[[alias|Ref] | _]``."""
    if type(tag) is list and tag:
        tag = tag[0]
    elif type(tag) is ImproperList and type(tag.items[0]) is ImproperList:
        tag = tag.items[0]
    return is_alias(tag) and not knows(tag)


def _address(name: Any) -> Any:
    if isinstance(name, str):
        return Atom(name)
    if type(name) is tuple and len(name) == 2 and all(isinstance(part, (str, Atom)) for part in name):
        return tuple(Atom(part) if isinstance(part, str) else part for part in name)
    pid = getattr(name, "pid", name)  # a Process
    if type(pid) is Pid or (type(pid) is Atom and is_address(pid)):
        return pid
    raise TypeError(f"not a name, a pid or (name, node): {name!r}")
