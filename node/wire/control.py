"""Control messages: their numbers, their shapes, and the check that a peer keeps to them.

A control message is the first term of a frame, a tuple whose first element is the operation; some are followed by a
second term, the payload (erl_dist_protocol, "Protocol between Connected Nodes"; 37 is described in the emulator only).
TABLE says for each operation which fields it has and whether there is a payload. What does not fit is a
RemoteProtocolError: the connection is dropped, as a BEAM does, and the node lives.

Not here: what the messages do (node.runtime), or whether the pids in them are alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..errors import RemoteProtocolError
from ..etf import NO_PAYLOAD
from ..terms import Atom, Pid, Reference

__all__ = [
    "ALIAS_SEND",
    "ALIAS_SEND_TT",
    "ALTACT_ALIAS",
    "ALTACT_EXIT",
    "ALTACT_NAME",
    "ALTACT_PRIO",
    "ALTACT_SIG_SEND",
    "ALTACT_TOKEN",
    "DEMONITOR_P",
    "EXIT",
    "EXIT2",
    "EXIT2_TT",
    "EXIT_TT",
    "GROUP_LEADER",
    "LINK",
    "MAX_UNLINK_ID",
    "MONITOR_P",
    "MONITOR_P_EXIT",
    "PAYLOAD_EXIT",
    "PAYLOAD_EXIT2",
    "PAYLOAD_EXIT2_TT",
    "PAYLOAD_EXIT_TT",
    "PAYLOAD_MONITOR_P_EXIT",
    "REG_SEND",
    "REG_SEND_TT",
    "SEND",
    "SEND_SENDER",
    "SEND_SENDER_TT",
    "SEND_TT",
    "SPAWN_LINKED",
    "SPAWN_MONITORED",
    "SPAWN_REPLY",
    "SPAWN_REPLY_TT",
    "SPAWN_REQUEST",
    "SPAWN_REQUEST_TT",
    "TABLE",
    "UNLINK_ID",
    "UNLINK_ID_ACK",
    "Kind",
    "Shape",
    "check",
    "check_batch",
]

LINK: Final = 1
SEND: Final = 2
EXIT: Final = 3
REG_SEND: Final = 6
GROUP_LEADER: Final = 7
EXIT2: Final = 8
SEND_TT: Final = 12
EXIT_TT: Final = 13
REG_SEND_TT: Final = 16
EXIT2_TT: Final = 18
MONITOR_P: Final = 19
DEMONITOR_P: Final = 20
MONITOR_P_EXIT: Final = 21
SEND_SENDER: Final = 22
SEND_SENDER_TT: Final = 23
PAYLOAD_EXIT: Final = 24
PAYLOAD_EXIT_TT: Final = 25
PAYLOAD_EXIT2: Final = 26
PAYLOAD_EXIT2_TT: Final = 27
PAYLOAD_MONITOR_P_EXIT: Final = 28
SPAWN_REQUEST: Final = 29
SPAWN_REQUEST_TT: Final = 30
SPAWN_REPLY: Final = 31
SPAWN_REPLY_TT: Final = 32
ALIAS_SEND: Final = 33
ALIAS_SEND_TT: Final = 34
UNLINK_ID: Final = 35
UNLINK_ID_ACK: Final = 36
ALTACT_SIG_SEND: Final = 37
# 4, the old UNLINK, is an error as in OTP 26 and later: UNLINK_ID is mandatory here. 5 (NODE_LINK) is gone for ages.

#: Bits of the flags field of ALTACT_SIG_SEND. Without ALIAS and NAME the target is a pid; other bits are ignored.
ALTACT_PRIO: Final = 1
ALTACT_TOKEN: Final = 2
ALTACT_ALIAS: Final = 4
ALTACT_NAME: Final = 8
ALTACT_EXIT: Final = 16

#: Bits of the flags field of SPAWN_REPLY.
SPAWN_LINKED: Final = 1
SPAWN_MONITORED: Final = 2

#: Identifiers of UNLINK_ID are 1..2^64-1 ("Link Protocol").
MAX_UNLINK_ID: Final = (1 << 64) - 1

Kind = Callable[[Any, Atom, Atom], bool]


# The kinds of field: (value, the peer's node name, ours) -> whether it fits. A pid that a peer gives as the origin of
# a link, monitor or exit must be its own, and the target ours (of any incarnation): a BEAM insists on both.


def any_term(value: Any, peer: Atom, ours: Atom) -> bool:
    """Trace tokens, reasons, fields kept for compatibility."""
    return True


def pid(value: Any, peer: Atom, ours: Atom) -> bool:
    """A pid of any node."""
    return type(value) is Pid


def peer_pid(value: Any, peer: Atom, ours: Atom) -> bool:
    """A pid of the peer."""
    return type(value) is Pid and value.node is peer


def our_pid(value: Any, peer: Atom, ours: Atom) -> bool:
    """A pid of ours, maybe of an earlier incarnation."""
    return type(value) is Pid and value.node is ours


def atom(value: Any, peer: Atom, ours: Atom) -> bool:
    """An atom; true and false arrive as bool."""
    return type(value) is Atom or type(value) is bool


def reference(value: Any, peer: Atom, ours: Atom) -> bool:
    """A reference of any node (aliases and monitors may be anybody's)."""
    return type(value) is Reference


def our_process(value: Any, peer: Atom, ours: Atom) -> bool:
    """A pid of ours or a registered name here."""
    return our_pid(value, peer, ours) or atom(value, peer, ours)


def process(value: Any, peer: Atom, ours: Atom) -> bool:
    """A pid of another node, or a registered name there."""
    return (type(value) is Pid and value.node is not ours) or atom(value, peer, ours)


def unlink_id(value: Any, peer: Atom, ours: Atom) -> bool:
    """1..2^64-1."""
    return type(value) is int and 0 < value <= MAX_UNLINK_ID


def bits(value: Any, peer: Atom, ours: Atom) -> bool:
    """Flags: not negative; bits we don't know are for later versions."""
    return type(value) is int and value >= 0


def mfa(value: Any, peer: Atom, ours: Atom) -> bool:
    """{Module, Function, Arity}."""
    return (
        type(value) is tuple
        and len(value) == 3
        and atom(value[0], peer, ours)
        and atom(value[1], peer, ours)
        and type(value[2]) is int
        and value[2] >= 0
    )


def proper_list(value: Any, peer: Atom, ours: Atom) -> bool:
    """A list with [] at its end."""
    return type(value) is list


@dataclass(frozen=True)
class Shape:
    """The fields behind the operation, and whether a payload follows. more: a newer peer may append fields."""

    name: str
    fields: tuple[Kind, ...]
    payload: bool = False
    more: bool = False


TABLE: Final[dict[int, Shape]] = {
    LINK: Shape("LINK", (peer_pid, our_pid)),
    SEND: Shape("SEND", (any_term, pid), payload=True),
    EXIT: Shape("EXIT", (peer_pid, our_pid, any_term)),
    REG_SEND: Shape("REG_SEND", (pid, any_term, atom), payload=True),
    GROUP_LEADER: Shape("GROUP_LEADER", (pid, pid)),
    EXIT2: Shape("EXIT2", (peer_pid, our_pid, any_term)),
    SEND_TT: Shape("SEND_TT", (any_term, pid, any_term), payload=True),
    EXIT_TT: Shape("EXIT_TT", (peer_pid, our_pid, any_term, any_term)),
    REG_SEND_TT: Shape("REG_SEND_TT", (pid, any_term, atom, any_term), payload=True),
    EXIT2_TT: Shape("EXIT2_TT", (peer_pid, our_pid, any_term, any_term)),
    MONITOR_P: Shape("MONITOR_P", (peer_pid, our_process, reference)),
    DEMONITOR_P: Shape("DEMONITOR_P", (peer_pid, our_process, reference)),
    MONITOR_P_EXIT: Shape("MONITOR_P_EXIT", (process, our_pid, reference, any_term)),
    SEND_SENDER: Shape("SEND_SENDER", (pid, pid), payload=True),
    SEND_SENDER_TT: Shape("SEND_SENDER_TT", (pid, pid, any_term), payload=True),
    PAYLOAD_EXIT: Shape("PAYLOAD_EXIT", (peer_pid, our_pid), payload=True),
    PAYLOAD_EXIT_TT: Shape("PAYLOAD_EXIT_TT", (peer_pid, our_pid, any_term), payload=True),
    PAYLOAD_EXIT2: Shape("PAYLOAD_EXIT2", (peer_pid, our_pid), payload=True),
    PAYLOAD_EXIT2_TT: Shape("PAYLOAD_EXIT2_TT", (peer_pid, our_pid, any_term), payload=True),
    PAYLOAD_MONITOR_P_EXIT: Shape("PAYLOAD_MONITOR_P_EXIT", (process, our_pid, reference), payload=True),
    SPAWN_REQUEST: Shape("SPAWN_REQUEST", (reference, peer_pid, pid, mfa, proper_list), payload=True),
    SPAWN_REQUEST_TT: Shape("SPAWN_REQUEST_TT", (reference, peer_pid, pid, mfa, proper_list, any_term), payload=True),
    SPAWN_REPLY: Shape("SPAWN_REPLY", (reference, our_pid, bits, process)),
    SPAWN_REPLY_TT: Shape("SPAWN_REPLY_TT", (reference, our_pid, bits, process, any_term)),
    ALIAS_SEND: Shape("ALIAS_SEND", (pid, reference), payload=True),
    ALIAS_SEND_TT: Shape("ALIAS_SEND_TT", (pid, reference, any_term), payload=True),
    UNLINK_ID: Shape("UNLINK_ID", (unlink_id, peer_pid, our_pid)),
    UNLINK_ID_ACK: Shape("UNLINK_ID_ACK", (unlink_id, peer_pid, our_pid)),
    ALTACT_SIG_SEND: Shape("ALTACT_SIG_SEND", (bits, pid, any_term), payload=True, more=True),
}


def check(control: Sequence[Any], payload: object, peer: Atom, ours: Atom) -> None:
    """RemoteProtocolError when a frame does not fit TABLE. peer, ours: the node names, as atoms.

    payload: the frame's second term, NO_PAYLOAD when there is none; an undecodable one (a DecodeError) counts as there.
    """
    op = control[0] if control else None
    shape = TABLE.get(op) if type(op) is int else None
    if shape is None:
        raise RemoteProtocolError(f"{peer}: unknown operation in control message {_shown(control)}")
    fields = control[1:]
    if len(fields) != len(shape.fields) and not (shape.more and len(fields) > len(shape.fields)):
        raise RemoteProtocolError(f"{peer}: {shape.name} with {len(fields)} fields: {_shown(control)}")
    for index, (kind, value) in enumerate(zip(shape.fields, fields, strict=False), 1):
        if not kind(value, peer, ours):
            raise RemoteProtocolError(
                f"{peer}: {shape.name} where field {index} is no {kind.__name__}: {_shown(control)}"
            )
    if shape.payload == (payload is NO_PAYLOAD):
        raise RemoteProtocolError(f"{peer}: {shape.name} {'without' if shape.payload else 'with'} a payload")
    if op == ALTACT_SIG_SEND:
        _check_altact(control, peer, ours)


def _check_altact(control: Sequence[Any], peer: Atom, ours: Atom) -> None:
    flags, target = control[1], control[3]
    by_alias, by_name = flags & ALTACT_ALIAS, flags & ALTACT_NAME
    kind = reference if by_alias else atom if by_name else pid
    if not kind(target, peer, ours) or (by_alias and by_name) or (flags & ALTACT_TOKEN and len(control) < 5):
        raise RemoteProtocolError(f"{peer}: ALTACT_SIG_SEND that contradicts its flags: {_shown(control)}")
    if flags & ALTACT_EXIT and not peer_pid(control[2], peer, ours):
        raise RemoteProtocolError(f"{peer}: ALTACT_SIG_SEND, an exit that is not from there: {_shown(control)}")


_MONITOR_OR_DEMONITOR: Final = (MONITOR_P, DEMONITOR_P)


def check_batch(batch: Iterable[tuple[Any, object]], peer: Atom, ours: Atom) -> None:
    """check() for all frames of one read, at a cost of about 0.1 µs for the operations that come by the thousand.

    The branches are TABLE's rows for these, written out; whatever they don't let through goes to check().
    """
    for control, payload in batch:
        try:
            op = control[0]
            if op == SEND_SENDER:
                _, sender, to = control
                if type(to) is Pid and type(sender) is Pid and payload is not NO_PAYLOAD and type(op) is int:
                    continue
            elif op == REG_SEND:
                _, sender, _, to = control
                if type(to) is Atom and type(sender) is Pid and payload is not NO_PAYLOAD and type(op) is int:
                    continue
            elif op == SEND:
                _, _, to = control
                if type(to) is Pid and payload is not NO_PAYLOAD and type(op) is int:
                    continue
            elif op == ALTACT_SIG_SEND:
                _, flags, sender, to = control
                if (
                    type(to) is Reference
                    and (flags == ALTACT_ALIAS or flags == ALTACT_ALIAS | ALTACT_PRIO)
                    and type(sender) is Pid
                    and payload is not NO_PAYLOAD
                    and type(op) is type(flags) is int
                ):
                    continue
            elif op == ALIAS_SEND:
                _, sender, to = control
                if type(to) is Reference and type(sender) is Pid and payload is not NO_PAYLOAD and type(op) is int:
                    continue
            elif op in _MONITOR_OR_DEMONITOR:
                _, watcher, target, ref = control
                if (
                    type(watcher) is Pid
                    and watcher.node is peer
                    and type(ref) is Reference
                    and (type(target) is Atom or (type(target) is Pid and target.node is ours))
                    and payload is NO_PAYLOAD
                    and type(op) is int
                ):
                    continue
            elif op == PAYLOAD_MONITOR_P_EXIT:
                _, target, watcher, ref = control
                if (
                    type(watcher) is Pid
                    and watcher.node is ours
                    and type(ref) is Reference
                    and (type(target) is Atom or (type(target) is Pid and target.node is not ours))
                    and payload is not NO_PAYLOAD
                    and type(op) is int
                ):
                    continue
            elif op == SPAWN_REQUEST:
                _, ref, parent, leader, call, options = control
                if (
                    type(ref) is Reference
                    and type(parent) is Pid
                    and parent.node is peer
                    and type(leader) is Pid
                    and mfa(call, peer, ours)
                    and type(options) is list
                    and payload is not NO_PAYLOAD
                    and type(op) is int
                ):
                    continue
        except (ValueError, IndexError):  # wrong arity: check() says it in words
            pass
        check(control, payload, peer, ours)


def _shown(control: object) -> str:
    text = repr(control)
    return text if len(text) <= 200 else text[:200] + "…"
