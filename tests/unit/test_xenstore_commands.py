"""Every command of the store as bytes: what is asked, what is answered. Expectations are xenstored 4.17's."""

from __future__ import annotations

import pytest

from pores.errors import XenstoreError
from pores.xenstore.commands import Service
from pores.xenstore.tree import Tree
from pores.xenstore.wire import MAX_PAYLOAD, Message, MessageReader, Op, encode


class Client:
    def __init__(self, tree: Tree, domid: int) -> None:
        self.woken = 0
        self.service = Service(tree, domid, self._wake)
        self._reader = MessageReader()
        self._rid = 0

    def _wake(self) -> None:
        self.woken += 1

    def messages(self) -> list[Message]:
        self._reader.feed(self.service.data_to_send())
        messages = []
        while (message := self._reader.next()) is not None:
            messages.append(message)
        return messages

    def send(self, op: int, payload: bytes, tid: int = 0) -> int:
        self._rid += 1
        self.service.receive_data(encode(Message(op, self._rid, tid, payload)))
        return self._rid

    def ask(self, op: int, payload: bytes, tid: int = 0) -> bytes | str:
        """The reply's payload, or the error's name."""
        rid = self.send(op, payload, tid)
        assert self.service.work(10) == 1
        replies = [message for message in self.messages() if message.op != Op.WATCH_EVENT]
        assert [(reply.rid, reply.tid) for reply in replies] == [(rid, tid)]
        if replies[0].op == Op.ERROR:
            assert replies[0].payload[-1:] == b"\0"
            return replies[0].payload[:-1].decode()
        assert replies[0].op == op
        return replies[0].payload


@pytest.fixture
def zero(tree: Tree) -> Client:
    return Client(tree, 0)


@pytest.fixture
def five(tree: Tree) -> Client:
    return Client(tree, 5)


OK = b"OK\0"


def test_values_have_no_nul(zero: Client) -> None:
    for value in (b"", b"v", b"\0\0", b"x" * (MAX_PAYLOAD - 3)):
        assert zero.ask(Op.WRITE, b"/a\0" + value) == OK
        assert zero.ask(Op.READ, b"/a\0") == value
    assert zero.ask(Op.WRITE, b"/a") == "EINVAL"
    assert zero.ask(Op.WRITE, b"") == "EINVAL"
    for payload in (b"", b"/a", b"/a\0b", b"/a\0\0", b"\0", b"/\xe4\0"):
        assert zero.ask(Op.READ, payload) == "EINVAL"


def test_nodes(zero: Client) -> None:
    assert zero.ask(Op.MKDIR, b"/a/b\0") == OK
    assert zero.ask(Op.MKDIR, b"/a/c\0") == OK
    assert zero.ask(Op.DIRECTORY, b"/a\0") == b"b\0c\0"
    assert zero.ask(Op.DIRECTORY, b"/a/b\0") == b""
    assert zero.ask(Op.RM, b"/a/b\0") == OK
    assert zero.ask(Op.RM, b"/a/b\0") == OK
    assert zero.ask(Op.RM, b"/a/b/c\0") == "ENOENT"
    assert zero.ask(Op.RM, b"/\0") == "EINVAL"
    assert zero.ask(Op.READ, b"/a/b\0") == "ENOENT"


def test_perms(zero: Client, five: Client) -> None:
    zero.ask(Op.MKDIR, b"/a\0")
    assert zero.ask(Op.GET_PERMS, b"/a\0") == b"n0\0"
    assert zero.ask(Op.SET_PERMS, b"/a\0n0\0r5\0") == OK
    assert zero.ask(Op.GET_PERMS, b"/a\0") == b"n0\0r5\0"
    assert zero.ask(Op.SET_PERMS, b"/a\0n0\0b5\0rest") == OK  # what follows the last NUL is nothing
    for payload in (b"", b"/a", b"/a\0", b"/a\0n0", b"/a\0q0\0"):
        assert zero.ask(Op.SET_PERMS, payload) == "EINVAL"
    assert five.ask(Op.SET_PERMS, b"/a\0b5\0") == "EACCES"
    assert zero.ask(Op.SET_PERMS, b"@releaseDomain\0n0\0r5\0") == OK
    assert five.ask(Op.SET_PERMS, b"data\0n5\0" + b"r0\0" * 5) == "ENOSPC"


def test_long_directories_in_parts(zero: Client) -> None:
    names = [f"child-with-a-long-name-{i}" for i in range(1000)]
    for name in names:
        zero.ask(Op.MKDIR, f"/big/{name}\0".encode())
    assert zero.ask(Op.DIRECTORY, b"/big\0") == "E2BIG"
    got = b""
    generations = set()
    while True:
        reply = zero.ask(Op.DIRECTORY_PART, b"/big\0%d\0" % len(got))
        assert isinstance(reply, bytes)
        generation, _, part = reply.partition(b"\0")
        generations.add(generation)
        if part.endswith(b"\0\0"):
            got += part[:-1]
            break
        assert part.endswith(b"\0")
        got += part
    assert got.decode().split("\0")[:-1] == names
    assert len(generations) == 1
    beyond = zero.ask(Op.DIRECTORY_PART, b"/big\0%d\0" % len(got))
    assert beyond == generations.pop() + b"\0\0"
    zero.ask(Op.MKDIR, b"/empty\0")
    assert zero.ask(Op.DIRECTORY_PART, b"/empty\0" + b"0\0")[-2:] == b"\0\0"
    for payload in (b"/big\0", b"/big", b"", b"/big\0" + b"1\0" + b"2\0"):
        assert zero.ask(Op.DIRECTORY_PART, payload) == "EINVAL"


def test_the_reply_to_watch_comes_before_its_event(five: Client) -> None:
    rid = five.send(Op.WATCH, b"data/straw\0token\0", 99)  # the transaction is ignored
    five.service.work(1)
    assert five.messages() == [
        Message(Op.WATCH, rid, 99, OK),
        Message(Op.WATCH_EVENT, 0, 0, b"data/straw\0token\0"),
    ]


def test_the_event_of_an_own_change_comes_before_its_reply(five: Client) -> None:
    five.ask(Op.WATCH, b"data\0t\0")
    rid = five.send(Op.WRITE, b"data/x\0v")
    five.service.work(1)
    assert five.messages() == [
        Message(Op.WATCH_EVENT, 0, 0, b"data/x\0t\0"),
        Message(Op.WRITE, rid, 0, OK),
    ]


def test_watches(zero: Client, five: Client) -> None:
    assert five.ask(Op.WATCH, b"data\0t\0") == OK
    assert five.ask(Op.WATCH, b"data\0t\0") == "EEXIST"
    assert five.ask(Op.WATCH, b"data\0\0") == OK
    assert five.ask(Op.WATCH, b"data\0deep\0" + b"1\0") == OK
    for payload in (b"", b"data\0", b"data\0t", b"data\0a\0b\0", b"data\0a\0" + b"1\0" + b"2\0", b"//\0t\0"):
        assert five.ask(Op.WATCH, payload) == "EINVAL"
    five.woken = 0
    zero.ask(Op.WRITE, b"/local/domain/5/data/x/y\0v")
    assert five.woken == 2
    assert [m.payload for m in five.messages()] == [b"data/x/y\0t\0", b"data/x/y\0\0"]
    assert five.ask(Op.UNWATCH, b"data\0t\0", 99) == OK
    assert five.ask(Op.UNWATCH, b"data\0t\0") == "ENOENT"
    assert five.ask(Op.UNWATCH, b"data\0") == "EINVAL"
    assert five.ask(Op.RESET_WATCHES, b"\0") == OK
    zero.ask(Op.WRITE, b"/local/domain/5/data/x\0v")
    assert five.messages() == []


def test_transactions(zero: Client) -> None:
    assert zero.ask(Op.TRANSACTION_START, b"\0") == b"1\0"
    assert zero.ask(Op.WRITE, b"/a\0v", 1) == OK
    assert zero.ask(Op.READ, b"/a\0") == "ENOENT"
    assert zero.ask(Op.READ, b"/a\0", 1) == b"v"
    assert zero.ask(Op.READ, b"/a\0", 2) == "ENOENT"
    assert zero.ask(Op.TRANSACTION_START, b"\0", 1) == "EBUSY"
    for payload in (b"", b"T", b"X\0", b"T\0T\0"):
        assert zero.ask(Op.TRANSACTION_END, payload, 1) == "EINVAL"
    assert zero.ask(Op.TRANSACTION_END, b"T\0", 1) == OK
    assert zero.ask(Op.TRANSACTION_END, b"T\0", 1) == "ENOENT"
    assert zero.ask(Op.TRANSACTION_END, b"T\0") == "ENOENT"
    assert zero.ask(Op.READ, b"/a\0") == b"v"


def test_domains(zero: Client, five: Client, tree: Tree) -> None:
    assert five.ask(Op.GET_DOMAIN_PATH, b"7\0") == b"/local/domain/7\0"
    assert five.ask(Op.GET_DOMAIN_PATH, b"007x\0") == b"/local/domain/7\0"
    assert five.ask(Op.GET_DOMAIN_PATH, b"x\0") == b"/local/domain/0\0"
    assert five.ask(Op.GET_DOMAIN_PATH, b"") == "EINVAL"
    assert zero.ask(Op.IS_DOMAIN_INTRODUCED, b"5\0") == b"T\0"
    assert zero.ask(Op.IS_DOMAIN_INTRODUCED, b"6\0") == b"F\0"
    assert zero.ask(Op.IS_DOMAIN_INTRODUCED, b"32752\0") == b"T\0"
    assert zero.ask(Op.INTRODUCE, b"6\0" + b"1\0" + b"1\0") == OK
    assert tree.is_introduced(6)
    assert zero.ask(Op.INTRODUCE, b"6\0" + b"1\0" + b"1\0") == OK
    for payload in (b"6\0", b"40000\0" + b"1\0" + b"1\0", b"8\0" + b"1\0" + b"0\0"):
        assert zero.ask(Op.INTRODUCE, payload) == "EINVAL"
    assert zero.ask(Op.RESUME, b"6\0") == OK
    assert zero.ask(Op.RESUME, b"8\0") == "ENOENT"
    assert zero.ask(Op.RELEASE, b"6\0") == OK
    assert zero.ask(Op.RELEASE, b"6\0") == "ENOENT"
    assert zero.ask(Op.RELEASE, b"0\0") == "EINVAL"
    assert zero.ask(Op.RELEASE, b"") == "EINVAL"


def test_what_only_domain_0_may(zero: Client, five: Client) -> None:
    for op in (Op.CONTROL, Op.INTRODUCE, Op.RELEASE, Op.IS_DOMAIN_INTRODUCED, Op.RESUME, Op.SET_TARGET):
        assert five.ask(op, b"5\0") == "EACCES"


def test_control_is_minimal(zero: Client) -> None:
    assert b"help" in zero.ask(Op.CONTROL, b"help\0")  # type: ignore[operator]
    assert zero.ask(Op.CONTROL, b"print\0text\0") == OK
    for payload in (b"", b"live-update\0", b"print\0", b"quota\0"):
        assert zero.ask(Op.CONTROL, payload) == "EINVAL"


def test_unknown_commands(zero: Client) -> None:
    for op in (Op.WATCH_EVENT, Op.ERROR, Op.SET_TARGET, 20, 23, 128, 0xFFFF_FFFF):
        assert zero.ask(op, b"") == "ENOSYS"


def test_a_released_domain_is_not_served(five: Client, zero: Client) -> None:
    five.ask(Op.WATCH, b"data\0t\0")
    five.woken = 0
    zero.ask(Op.RELEASE, b"5\0")
    assert five.woken >= 1
    five.send(Op.READ, b"domid\0")
    assert five.service.work(1) == 0
    assert five.service.session.closed
    five.service.close()


def test_work_in_portions(zero: Client) -> None:
    for _ in range(5):
        zero.send(Op.READ, b"/\0")
    assert zero.service.work(2) == 2
    assert zero.service.pending > 0
    assert [zero.service.work(2), zero.service.work(2)] == [2, 1]
    assert zero.service.pending == 0
    assert len(zero.messages()) == 5
    zero.service.receive_data(b"\xff" * 16)
    with pytest.raises(XenstoreError, match="^EPROTO"):
        zero.service.work(1)
