"""epmd's messages and both machines, in memory, and against the golden bytes of a real epmd."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest

from node.errors import LocalProtocolError, RemoteProtocolError
from node.wire import epmd
from node.wire.epmd import (
    Accepted,
    Alive,
    ClientConnection,
    Dump,
    Dumped,
    Found,
    Kill,
    Lost,
    Named,
    Names,
    PortInfo,
    PortPlease,
    Refused,
    Stop,
    TimedOut,
)
from node.wire.epmd_server import IDLE_TIMEOUT, NameTable, ServerConnection

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "epmd.json").read_text())
CASES = {case["what"]: (bytes.fromhex(case["request"]), bytes.fromhex(case["reply"])) for case in GOLDEN["cases"]}
ABC = PortInfo("abc", 5555, extra=b"xyz")
OLD = PortInfo("old", 5555, epmd.HIDDEN, highest=5)
BUECHER = PortInfo("bücher", 65535)

REQUESTS = {
    "names of an empty epmd": Names(),
    "register abc, version 6": Alive(ABC),
    "register abc again": Alive(PortInfo("abc", 5555)),
    "register old, version 5, hidden": Alive(OLD),
    "register old again": Alive(PortInfo("old", 5555, highest=5)),
    "register a name in UTF-8": Alive(BUECHER),
    "look abc up": PortPlease("abc"),
    "look old up": PortPlease("old"),
    "look bücher up": PortPlease("bücher"),
    "look an unknown name up": PortPlease("none"),
    "names": Names(),
    "dump": Dump(),
    "kill with live nodes": Kill(),
    "stop without -relaxed_command_check": Stop("abc"),
}
EVENTS = {
    "names of an empty epmd": Named(GOLDEN["port"], ()),
    "register abc again": Refused(1),
    "register old, version 5, hidden": Accepted(1),
    "register old again": Refused(1),
    "look abc up": Found(ABC),
    "look old up": Found(OLD),
    "look bücher up": Found(BUECHER),
    "look an unknown name up": Found(None),
    "names": Named(GOLDEN["port"], (("bücher", 65535), ("old", 5555), ("abc", 5555))),
}


def answer(request: epmd.Request, reply: bytes, step: int = 1 << 20) -> epmd.ClientEvent | None:
    """What the client makes of a reply that comes in pieces of `step` bytes; texts end with the connection."""
    client = ClientConnection(request)
    client.data_to_send()
    for start in range(0, len(reply), step):
        client.receive_data(reply[start : start + step])
    if isinstance(request, Names | Dump):
        client.receive_data(b"")
    return client.next_event()


def server(table: NameTable | None = None, *, local: bool = True, now: float = 0.0) -> ServerConnection:
    numbers = count(100)
    return ServerConnection(table or NameTable(lambda: next(numbers)), port=4369, local=local, now=now)


def serve(table: NameTable, request: bytes) -> tuple[ServerConnection, bytes]:
    connection = server(table)
    connection.receive_data(request)
    return connection, connection.data_to_send()


@pytest.mark.parametrize("what", REQUESTS)
def test_requests_are_those_that_real_epmd_took(what: str) -> None:
    golden, _reply = CASES[what]
    assert epmd.encode_request(REQUESTS[what]) == golden
    assert epmd.parse_request(golden[2:]) == REQUESTS[what]


@pytest.mark.parametrize("step", [1, 2, 1 << 20])
@pytest.mark.parametrize("what", EVENTS)
def test_replies_of_real_epmd_are_understood(what: str, step: int) -> None:
    assert answer(REQUESTS[what], CASES[what][1], step) == EVENTS[what]


def test_registering_with_a_peer_of_version_6_gives_32_bits() -> None:
    event = answer(Alive(ABC), CASES["register abc, version 6"][1])
    assert isinstance(event, Accepted)
    assert event.creation > 3


def test_our_server_says_what_real_epmd_says() -> None:
    """Every golden request in its order; only the creations and the dump may differ."""
    numbers = count(100)
    table = NameTable(lambda: next(numbers))
    for case in GOLDEN["cases"]:
        _request, golden = CASES[case["what"]]
        connection = ServerConnection(table, port=GOLDEN["port"], local=True, now=0.0)
        connection.receive_data(bytes.fromhex(case["request"]))
        ours = connection.data_to_send()
        if case["what"] == "dump":
            assert ours[:4] == golden[:4]
            assert ours[4:].startswith(epmd.EMBEDDED_MARK)
            for name in ("abc", "old", "bücher"):
                assert f"active name     <{name}> at port".encode() in ours
        elif connection.state == "registered":
            assert ours[:2] == golden[:2]
            assert len(ours) == len(golden)
            assert any(ours[2:])
        else:
            assert ours == golden, case["what"]
            assert connection.state == "closing"


def test_the_dump_of_real_epmd_has_no_mark_of_ours() -> None:
    event = answer(Dump(), CASES["dump"][1])
    assert isinstance(event, Dumped)
    assert not event.text.startswith(epmd.EMBEDDED_MARK)


@pytest.mark.parametrize(("highest", "tag", "size"), [(4, 121, 4), (5, 121, 4), (6, 118, 6), (7, 118, 6)])
def test_the_version_chooses_the_reply(highest: int, tag: int, size: int) -> None:
    table = NameTable(lambda: 0xFFFFFFFF)
    _connection, reply = serve(table, epmd.encode_request(Alive(PortInfo("n", 1, highest=highest))))
    assert reply[0] == tag
    assert len(reply) == size
    creation = int.from_bytes(reply[2:], "big")
    assert creation in (1, 2, 3) if size == 4 else creation == 0xFFFFFFFF


def test_a_name_is_free_when_its_connection_is_gone() -> None:
    table = NameTable(lambda: 1)
    request = epmd.encode_request(Alive(ABC))
    first, _ = serve(table, request)
    second, reply = serve(table, request)
    assert reply[1] == 1
    assert second.state == "closing"
    second.closed()
    assert table.lookup("abc") == ABC  # the refused one must not free the name of the other
    first.closed()
    first.closed()
    assert table.lookup("abc") is None
    third, reply = serve(table, request)
    assert reply[1] == 0
    third.receive_data(b"")
    assert table.names() == []


def test_bytes_after_a_registration_end_it() -> None:
    """As real epmd: it closes such a connection, and the name is free."""
    table = NameTable(lambda: 1)
    connection, _ = serve(table, epmd.encode_request(Alive(ABC)))
    with pytest.raises(RemoteProtocolError):
        connection.receive_data(b"x")
    connection.closed()
    assert table.names() == []


@pytest.mark.parametrize("request_", [Alive(ABC), Dump(), Kill(), Stop("abc")])
def test_other_hosts_may_only_ask(request_: epmd.Request) -> None:
    connection = server(local=False)
    with pytest.raises(RemoteProtocolError):
        connection.receive_data(epmd.encode_request(request_))
    assert connection.data_to_send() == b""
    assert connection.state == "closing"


def test_other_hosts_may_look_up() -> None:
    for request in (PortPlease("abc"), Names()):
        connection = server(local=False)
        connection.receive_data(epmd.encode_request(request))
        assert connection.data_to_send()


def test_a_full_table_refuses() -> None:
    table = NameTable(lambda: 1, max_names=2)
    assert table.register(PortInfo("a", 1)) is not None
    assert table.register(PortInfo("b", 1)) is not None
    assert table.register(PortInfo("c", 1)) is None
    table.release("a")
    assert table.register(PortInfo("c", 1)) is not None


def test_the_idle_timer_ends_a_connection_but_no_registration() -> None:
    idle = server(now=10.0)
    timer = idle.get_timer()
    assert timer == 10.0 + IDLE_TIMEOUT
    idle.handle_timer(timer - 1)
    assert idle.state == "reading"
    idle.handle_timer(timer)
    assert idle.state == "closing"

    kept, _ = serve(NameTable(lambda: 1), epmd.encode_request(Alive(ABC)))
    assert kept.get_timer() is None
    kept.handle_timer(1e9)
    assert kept.state == "registered"


def test_the_clients_deadline() -> None:
    client = ClientConnection(PortPlease("abc"), now=5.0, timeout=2.0)
    assert client.get_timer() == 7.0
    client.handle_timer(6.9)
    assert client.next_event() is None
    client.handle_timer(7.0)
    assert client.next_event() == TimedOut()
    assert client.get_timer() is None
    assert ClientConnection(Names()).get_timer() is None


def test_a_registration_outlives_the_deadline_and_ends_with_its_connection() -> None:
    client = ClientConnection(Alive(ABC), now=0.0, timeout=2.0)
    client.receive_data(epmd.encode_alive_reply(0, 7, 6))
    assert client.next_event() == Accepted(7)
    assert client.get_timer() is None
    client.handle_timer(100.0)
    assert client.state == "registered"
    client.receive_data(b"")
    assert client.next_event() == Lost()


@pytest.mark.parametrize("name", ["", "x" * 256, "a b", "a\nname b at port 1", "a\0", "a\x85", "a\ud800"])
def test_names_that_cannot_be_sent(name: str) -> None:
    for request in (Alive(PortInfo(name, 1)), PortPlease(name)):
        with pytest.raises(LocalProtocolError):
            epmd.encode_request(request)


@pytest.mark.parametrize("name", ["x" * 255, "\U0001f40d" * 255, "é"])
def test_names_up_to_the_limit(name: str) -> None:
    info = PortInfo(name, 1, extra=b"e" * epmd.MAX_EXTRA)
    table = NameTable(lambda: 1)
    _, reply = serve(table, epmd.encode_request(Alive(info)))
    assert reply[1] == 0
    _, reply = serve(table, epmd.encode_request(PortPlease(name)))
    assert answer(PortPlease(name), reply) == Found(info)


@pytest.mark.parametrize("info", [PortInfo("a", -1), PortInfo("a", 65536), PortInfo("a", 1, extra=b"x" * 1021)])
def test_ports_and_extras_that_cannot_be_sent(info: PortInfo) -> None:
    with pytest.raises(LocalProtocolError):
        epmd.encode_request(Alive(info))


@pytest.mark.parametrize(
    "body",
    [
        b"q",
        b"z",
        b"z\0",
        b"za\xff",
        b"za b",
        b"z" + b"a" * 256,
        b"x",
        b"x" + b"\0" * 11,
        b"x\x15\xb3M\0\0\6\0\5\0\3ab",
        b"x\x15\xb3M\0\0\6\0\5\0\3abc\0\4xyz",
        b"x\x15\xb3M\0\0\6\0\5\0\4ab\nc\0\0",
        b"x\x15\xb3M\0\0\6\0\5\0\1\xff\0\0",
        b"x\x15\xb3M\0\0\6\0\5\0\1a\x03\xfd" + b"e" * 1021,
    ],
)
def test_bodies_that_are_no_request(body: bytes) -> None:
    connection = server()
    with pytest.raises(RemoteProtocolError):
        connection.receive_data(len(body).to_bytes(2, "big") + body)
    assert connection.data_to_send() == b""
    assert connection.state == "closing"


def test_lengths_on_both_sides_of_the_limit() -> None:
    for size in (0, epmd.MAX_REQUEST + 1):
        with pytest.raises(RemoteProtocolError):
            server().receive_data(size.to_bytes(2, "big"))
    connection = server()
    connection.receive_data(epmd.MAX_REQUEST.to_bytes(2, "big"))
    assert connection.state == "reading"


def test_two_requests_on_a_connection_are_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        server().receive_data(b"\0\1n\0\1n")


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (Alive(ABC), b"w\0"),
        (Alive(ABC), b"v\0\0\0\0"),
        (PortPlease("a"), b"y"),
        (PortPlease("a"), b"w"),
        (PortPlease("a"), b""),
        (PortPlease("a"), b"w\0\0\1M\0\0\6\0\5\0\0"),
        (PortPlease("a"), b"w\0\0\1M\0\0\6\0\5\0\1\xff\0\0"),
        (PortPlease("a"), b"w\0\0\1M\0\0\6\0\5\0\1a\xff\xff"),
        (Names(), b""),
        (Names(), b"\0\0\x11"),
        (Names(), b"\0\1\0\0"),
        (Names(), b"\0\0\x11\x11name a at port 1"),
        (Names(), b"\0\0\x11\x11name a at port 65536\n"),
        (Names(), b"\0\0\x11\x11name a at port -1\n"),
        (Names(), b"\0\0\x11\x11name \xff at port 1\n"),
        (Names(), b"\0\0\x11\x11\n"),
        (Names(), b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        (Dump(), b"\0"),
    ],
)
def test_replies_that_are_none(request_: epmd.Request, reply: bytes) -> None:
    for step in (1, 1 << 20):
        client = ClientConnection(request_)
        with pytest.raises(RemoteProtocolError):
            for start in range(0, len(reply), step):
                client.receive_data(reply[start : start + step])
            client.receive_data(b"")
        assert client.state == "done"
        assert client.next_event() is None


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (Alive(ABC), b"y\0\0\1"),
        (Alive(ABC), b"y\1\0\1"),
        (PortPlease("a"), b"w\1"),
        (PortPlease("a"), b"w\0\0\1M\0\0\6\0\5\0\1a\0\0"),
    ],
)
def test_more_than_a_reply(request_: epmd.Request, reply: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        ClientConnection(request_).receive_data(reply + b"x")
    client = ClientConnection(request_)
    client.receive_data(reply)
    with pytest.raises(RemoteProtocolError):
        client.receive_data(b"x")
    assert client.state == "done"


def test_a_text_without_an_end_is_bounded() -> None:
    client = ClientConnection(Names())
    with pytest.raises(RemoteProtocolError):
        for _ in range(epmd.MAX_TEXT // 65536 + 1):
            client.receive_data(b"x" * 65536)
