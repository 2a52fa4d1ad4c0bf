"""XenStore's commands: a request's bytes become an operation of a `Session`, its result or error becomes a reply.

`Service` is one whole connection of the store without its socket: bytes in, bytes out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from ..errors import XenstoreError
from .paths import domain_path
from .tree import Session, Tree
from .watches import Event, Watch
from .wire import MAX_PAYLOAD, Message, Op, ServerConnection, one_string, strings

__all__ = ["Service"]

_NUMBER: Final = re.compile(rb"\s*[+-]?[0-9]{1,10}")
_DEPTH: Final = re.compile(rb"[0-9]{1,9}")
DOMID_SELF: Final = 0x7FF0

OK: Final = b"OK\0"


class Service:
    """The store as one client sees it. domid: whose connection it is; ENOENT when there is no such domain."""

    def __init__(self, tree: Tree, domid: int, woken: Callable[[], None] = lambda: None) -> None:
        """woken: called when there is something to send, or the domain was released, by somebody else's doing."""
        self._wire = ServerConnection()
        self._woken = woken
        self.tree = tree
        self.session = tree.open(domid, self._deliver, woken)

    @property
    def unsent(self) -> int:
        """Bytes that `data_to_send` would give."""
        return self._wire.unsent

    @property
    def pending(self) -> int:
        """Bytes received and not yet worked on."""
        return self._wire.pending

    def receive_data(self, data: bytes) -> None:
        self._wire.receive_data(data)

    def work(self, most: int) -> int:
        """Carries out at most so many of the requests received; returns how many it were. XenstoreError EPROTO."""
        for done in range(most):
            request = None if self.session.closed else self._wire.next_event()
            if request is None:
                return done
            self._carry_out(request)
        return most

    def data_to_send(self) -> bytes:
        return self._wire.data_to_send()

    def close(self) -> None:
        self.session.close()

    def _deliver(self, event: Event) -> None:
        self._wire.event(event.path.encode("latin-1"), event.token)
        self._woken()

    def _carry_out(self, request: Message) -> None:
        try:
            if request.op == Op.WATCH:
                # The one command whose reply comes before an event of its own.
                watch = _watch(self.session, request.payload)
                self._wire.reply(request)
                self.session.first_event(watch)
                return
            if request.op in _PRIVILEGED and not self.session.privileged:
                raise XenstoreError("EACCES")
            command = _COMMANDS.get(request.op)
            if command is None:
                raise XenstoreError("ENOSYS")
            tid = 0 if request.op == Op.UNWATCH else self.session.check_tid(request.tid)
            reply = command(self.session, request.payload, tid)
        except XenstoreError as error:
            self._wire.refuse(request, error.name)
        else:
            self._wire.reply(request, reply)


def _path(payload: bytes) -> str:
    return one_string(payload).decode("latin-1")


def _number(text: bytes) -> int:
    """As C's atoi: what does not begin with a number is 0."""
    match = _NUMBER.match(text)
    return int(match[0]) if match else 0


def _read(session: Session, payload: bytes, tid: int) -> bytes:
    return session.read(_path(payload), tid)


def _directory(session: Session, payload: bytes, tid: int) -> bytes:
    return session.listing(_path(payload), tid)[0]


def _directory_part(session: Session, payload: bytes, tid: int) -> bytes:
    """<generation>, then names from a byte offset on, as many as fit; an empty one after the last."""
    args = strings(payload)
    if len(args) != 2:
        raise XenstoreError("EINVAL")
    everything, generation = session.listing(args[0].decode("latin-1"), tid)
    offset = _number(args[1])
    head = b"%d\0" % generation
    if offset < 0 or offset >= len(everything):
        return head + b"\0"
    room = MAX_PAYLOAD - len(head) - 1
    part = everything[offset : offset + room]
    if len(part) == len(everything) - offset:
        return head + part + b"\0"
    return head + part[: part.rfind(b"\0") + 1]


def _get_perms(session: Session, payload: bytes, tid: int) -> bytes:
    return "".join(f"{perm}\0" for perm in session.get_perms(_path(payload), tid)).encode()


def _set_perms(session: Session, payload: bytes, tid: int) -> bytes:
    args = [text.decode("latin-1") for text in strings(payload)]
    if len(args) < 2:
        raise XenstoreError("EINVAL")
    session.set_perms(args[0], args[1:], tid)
    return OK


def _write(session: Session, payload: bytes, tid: int) -> bytes:
    path, nul, value = payload.partition(b"\0")
    if not nul:
        raise XenstoreError("EINVAL")
    session.write(path.decode("latin-1"), value, tid)
    return OK


def _mkdir(session: Session, payload: bytes, tid: int) -> bytes:
    session.mkdir(_path(payload), tid)
    return OK


def _rm(session: Session, payload: bytes, tid: int) -> bytes:
    session.remove(_path(payload), tid)
    return OK


def _watch(session: Session, payload: bytes) -> Watch:
    """<path> <token>, and in newer Xens <depth>."""
    args = strings(payload)
    depth = None
    if len(args) == 3 and _DEPTH.fullmatch(args[2]):
        depth = int(args[2])
    elif len(args) != 2:
        raise XenstoreError("EINVAL")
    return session.watch(args[0].decode("latin-1"), args[1], depth)


def _unwatch(session: Session, payload: bytes, tid: int) -> bytes:
    args = strings(payload)
    if len(args) != 2:
        raise XenstoreError("EINVAL")
    session.unwatch(args[0].decode("latin-1"), args[1])
    return OK


def _reset_watches(session: Session, payload: bytes, tid: int) -> bytes:
    session.reset_watches()
    return OK


def _transaction_start(session: Session, payload: bytes, tid: int) -> bytes:
    return b"%d\0" % session.start_transaction(tid)


def _transaction_end(session: Session, payload: bytes, tid: int) -> bytes:
    if payload not in (b"T\0", b"F\0"):
        raise XenstoreError("EINVAL")
    session.end_transaction(tid, payload == b"T\0")
    return OK


def _get_domain_path(session: Session, payload: bytes, tid: int) -> bytes:
    return domain_path(_number(one_string(payload)) & 0xFFFF_FFFF).encode() + b"\0"


def _is_introduced(session: Session, payload: bytes, tid: int) -> bytes:
    domid = _number(one_string(payload))
    return b"T\0" if domid == DOMID_SELF or session.tree.is_introduced(domid) else b"F\0"


def _introduce(session: Session, payload: bytes, tid: int) -> bytes:
    """<domid> <page> <port>: the page and the port are the hypervisor's, so only the number is used."""
    args = strings(payload)
    if len(args) < 3 or _number(args[2]) <= 0:
        raise XenstoreError("EINVAL")
    domid = _number(args[0])
    if not session.tree.is_introduced(domid):
        session.tree.introduce(domid, home=False)
    return OK


def _release(session: Session, payload: bytes, tid: int) -> bytes:
    domid = _number(one_string(payload))
    if domid == 0:
        raise XenstoreError("EINVAL")
    session.tree.release(domid)
    return OK


def _resume(session: Session, payload: bytes, tid: int) -> bytes:
    domid = _number(one_string(payload))
    if domid == 0:
        raise XenstoreError("EINVAL")
    if not session.tree.is_introduced(domid):
        raise XenstoreError("ENOENT")
    return OK


def _control(session: Session, payload: bytes, tid: int) -> bytes:
    """Only `help` and `print`: there is no daemon of its own to control."""
    args = strings(payload)
    if args[:1] == [b"help"]:
        return b"Supported commands:\nhelp\nprint <text>\n\0"
    if args[:1] == [b"print"] and len(args) == 2:
        return OK
    raise XenstoreError("EINVAL")


_COMMANDS: Final[dict[int, Callable[[Session, bytes, int], bytes]]] = {
    Op.CONTROL: _control,
    Op.DIRECTORY: _directory,
    Op.DIRECTORY_PART: _directory_part,
    Op.GET_DOMAIN_PATH: _get_domain_path,
    Op.GET_PERMS: _get_perms,
    Op.INTRODUCE: _introduce,
    Op.IS_DOMAIN_INTRODUCED: _is_introduced,
    Op.MKDIR: _mkdir,
    Op.READ: _read,
    Op.RELEASE: _release,
    Op.RESET_WATCHES: _reset_watches,
    Op.RESUME: _resume,
    Op.RM: _rm,
    Op.SET_PERMS: _set_perms,
    Op.TRANSACTION_END: _transaction_end,
    Op.TRANSACTION_START: _transaction_start,
    Op.UNWATCH: _unwatch,
    Op.WRITE: _write,
}
"""Each takes the session, the payload and the transaction, and gives the reply. WATCH is `_watch`."""

_PRIVILEGED: Final = frozenset(
    {Op.CONTROL, Op.INTRODUCE, Op.IS_DOMAIN_INTRODUCED, Op.RELEASE, Op.RESUME, Op.SET_TARGET}
)
