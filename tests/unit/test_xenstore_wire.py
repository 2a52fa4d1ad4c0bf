"""XenStore's messages and both machines, in memory."""

from __future__ import annotations

import pytest

from pores.errors import XenstoreError
from pores.xenstore.wire import (
    ERROR_NAMES,
    MAX_PAYLOAD,
    ClientConnection,
    Message,
    MessageReader,
    Op,
    Refused,
    Replied,
    ServerConnection,
    WatchFired,
    encode,
    one_string,
    strings,
)


def wire_error(name: str = "EPROTO") -> pytest.RaisesContext[XenstoreError]:
    return pytest.raises(XenstoreError, match=f"^{name}")


def test_layout() -> None:
    message = encode(Message(Op.READ, 0x01020304, 7, b"a\0"))
    assert message == bytes.fromhex("02000000 04030201 07000000 02000000") + b"a\0"


def test_numbers_are_xens() -> None:
    expected = "CONTROL DIRECTORY READ GET_PERMS WATCH UNWATCH TRANSACTION_START TRANSACTION_END INTRODUCE RELEASE"
    expected += " GET_DOMAIN_PATH WRITE MKDIR RM SET_PERMS WATCH_EVENT ERROR IS_DOMAIN_INTRODUCED RESUME SET_TARGET"
    assert [Op(number).name for number in range(20)] == expected.split()
    assert (Op.RESET_WATCHES, Op.DIRECTORY_PART) == (21, 22)


def test_whole_and_byte_by_byte() -> None:
    messages = [Message(Op.WRITE, i, 0, b"x" * size) for i, size in enumerate([0, 1, 17, MAX_PAYLOAD])]
    stream = b"".join(map(encode, messages))
    for step in (1, 7, 16, len(stream)):
        reader = MessageReader()
        got = []
        for start in range(0, len(stream), step):
            reader.feed(stream[start : start + step])
            while (message := reader.next()) is not None:
                got.append(message)
        assert got == messages
        assert reader.pending == 0


def test_a_length_is_refused_at_the_header() -> None:
    reader = MessageReader()
    head = Message(Op.READ, 1, 0, b"")
    reader.feed(encode(head) + (2).to_bytes(4, "little") * 3 + (MAX_PAYLOAD + 1).to_bytes(4, "little"))
    assert reader.next() == head  # what came before is whole
    for _ in range(2):
        with wire_error():
            reader.next()
    assert reader.pending == 0


def test_what_is_too_long_is_not_made() -> None:
    with wire_error("E2BIG"):
        encode(Message(Op.WRITE, 1, 0, b"x" * (MAX_PAYLOAD + 1)))
    client = ClientConnection()
    with wire_error("E2BIG"):
        client.request(Op.WRITE, b"x" * (MAX_PAYLOAD + 1))
    assert client.data_to_send() == b""
    server = ServerConnection()
    server.reply(Message(Op.DIRECTORY, 3, 0, b""), b"x" * (MAX_PAYLOAD + 1))
    assert server.data_to_send() == encode(Message(Op.ERROR, 3, 0, b"E2BIG\0"))
    server.event(b"x" * MAX_PAYLOAD, b"t")
    assert server.data_to_send() == b""


def test_strings() -> None:
    assert strings(b"") == []
    assert strings(b"a\0\0b\0rest") == [b"a", b"", b"b"]
    assert one_string(b"a\0") == b"a"
    for payload in (b"", b"a", b"a\0b", b"a\0b\0"):
        with wire_error("EINVAL"):
            one_string(payload)


def converse(server: ServerConnection, client: ClientConnection) -> list[Message]:
    server.receive_data(client.data_to_send())
    requests = []
    while (request := server.next_event()) is not None:
        requests.append(request)
    return requests


def test_both_ends() -> None:
    server, client = ServerConnection(), ClientConnection()
    rids = [client.request(Op.READ, b"a\0"), client.request(Op.WRITE, b"a\0v", tid=9), client.request(Op.RM, b"b\0")]
    requests = converse(server, client)
    assert [(r.op, r.rid, r.tid) for r in requests] == [(2, rids[0], 0), (11, rids[1], 9), (13, rids[2], 0)]
    server.refuse(requests[1], "EACCES")
    server.event(b"a", b"token")
    server.reply(requests[0], b"value")
    server.reply(requests[2])
    assert server.unsent > 0
    client.receive_data(server.data_to_send())
    assert server.unsent == 0
    got = []
    while (event := client.next_event()) is not None:
        got.append(event)
    assert got == [
        Refused(rids[1], "EACCES"),
        WatchFired("a", b"token"),
        Replied(rids[0], b"value"),
        Replied(rids[2], b"OK\0"),
    ]


def test_errors_that_xenstore_does_not_know_are_einval() -> None:
    server = ServerConnection()
    for name in ("ENAMETOOLONG", "", "EPROTO"):
        server.refuse(Message(Op.READ, 1, 0, b""), name)
        assert server.data_to_send() == encode(Message(Op.ERROR, 1, 0, b"EINVAL\0"))
    assert len(ERROR_NAMES) == 16


def test_an_event_that_waits_is_not_queued_again() -> None:
    server = ServerConnection()
    one = encode(Message(Op.WATCH_EVENT, 0, 0, b"a\0t\0"))
    server.event(b"a", b"t")
    server.event(b"a", b"t")
    server.event(b"a", b"u")
    server.event(b"a", b"t")
    assert server.data_to_send().count(one) == 1
    server.event(b"a", b"t")
    assert server.data_to_send() == one
    # A reply in between: whatever it says may be later than the waiting event.
    server.event(b"a", b"t")
    server.reply(Message(Op.UNWATCH, 1, 0, b""))
    server.event(b"a", b"t")
    assert server.data_to_send().count(one) == 2
    # Each of these tells of another domain.
    server.event(b"@releaseDomain", b"t")
    server.event(b"@releaseDomain", b"t")
    assert server.data_to_send().count(b"@releaseDomain\0t\0") == 2


def answer(message: Message) -> ClientConnection:
    client = ClientConnection()
    assert client.request(Op.READ, b"a\0", tid=5) == 1
    client.receive_data(encode(message))
    return client


@pytest.mark.parametrize(
    "message",
    [
        Message(Op.READ, 2, 5, b""),
        Message(Op.READ, 1, 0, b""),
        Message(Op.WRITE, 1, 5, b""),
        Message(Op.ERROR, 1, 5, b"ENOENT"),
        Message(Op.ERROR, 1, 5, b"\0"),
        Message(Op.ERROR, 1, 5, b"oops\0"),
        Message(Op.ERROR, 1, 5, b"E" * 99 + b"\0"),
        Message(Op.WATCH_EVENT, 0, 0, b"a\0"),
        Message(Op.WATCH_EVENT, 0, 0, b""),
        Message(99, 1, 5, b""),
    ],
)
def test_no_store_says_that(message: Message) -> None:
    client = answer(message)
    for _ in range(2):
        with wire_error():
            client.next_event()


def test_a_reply_counts_once() -> None:
    client = answer(Message(Op.READ, 1, 5, b"v"))
    assert client.next_event() == Replied(1, b"v")
    client.receive_data(encode(Message(Op.READ, 1, 5, b"v")))
    with wire_error():
        client.next_event()


def test_request_ids_in_use_are_not_used_again() -> None:
    client = ClientConnection()
    first = client.request(Op.READ, b"a\0")
    client._last_rid = 0xFFFF_FFFF
    assert client.request(Op.READ, b"b\0") == first + 1  # 0 is for events
