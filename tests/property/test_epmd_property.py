"""epmd's machines over random input: whatever comes, and in whatever pieces, only the errors that are promised."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import RemoteProtocolError
from node.wire import epmd
from node.wire.epmd import Alive, ClientConnection, Dump, Found, Kill, Named, Names, PortInfo, PortPlease, Stop
from node.wire.epmd_server import SERVER_TABLE, NameTable, ServerConnection

U16 = st.integers(0, 0xFFFF)
U8 = st.integers(0, 0xFF)
names = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=epmd.MAX_NAME
).filter(lambda name: not any(c.isspace() for c in name))
infos = st.builds(PortInfo, names, U16, U8, U8, U16, U16, st.binary(max_size=epmd.MAX_EXTRA))
requests = st.one_of(
    st.builds(Alive, infos),
    st.builds(PortPlease, names),
    st.builds(Stop, names),
    st.sampled_from([Names(), Dump(), Kill()]),
)
splits = st.integers(1, 40)


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def new_server(table: NameTable | None = None, local: bool = True) -> ServerConnection:
    return ServerConnection(table or NameTable(lambda: 7), port=4369, local=local, now=0.0)


@given(requests, splits)
def test_every_request_is_read_back_in_any_pieces(request: epmd.Request, size: int) -> None:
    whole = epmd.encode_request(request)
    assert epmd.parse_request(whole[2:]) == request
    server = new_server()
    for piece in pieces(whole, size):
        assert server.next_event() is None
        server.receive_data(piece)
    assert server.next_event() == request


@given(infos, splits)
def test_what_is_registered_is_found(info: PortInfo, size: int) -> None:
    table = NameTable(lambda: 7)
    registering = new_server(table)
    registering.receive_data(epmd.encode_request(Alive(info)))
    assert registering.state == "registered"
    for request, expected in (
        (PortPlease(info.name), Found(info)),
        (Names(), Named(4369, ((info.name, info.port),))),
    ):
        server, client = new_server(table), ClientConnection(request)
        server.receive_data(client.data_to_send())
        for piece in pieces(server.data_to_send(), size):
            client.receive_data(piece)
        if isinstance(request, Names):
            client.receive_data(b"")
        assert client.next_event() == expected


@given(st.lists(st.binary(min_size=1, max_size=80), max_size=8), st.booleans())
def test_hostile_requests(chunks: list[bytes], local: bool) -> None:
    table = NameTable(lambda: 7)
    server = new_server(table, local)
    with contextlib.suppress(RemoteProtocolError):
        for chunk in chunks:
            server.receive_data(chunk)
    server.closed()
    assert table.names() == []


@given(st.sampled_from(list(b"xznkdsq")), st.binary(max_size=200), splits)
def test_hostile_bodies_are_the_same_whole_and_in_pieces(tag: int, rest: bytes, size: int) -> None:
    whole = (len(rest) + 1).to_bytes(2, "big") + bytes([tag]) + rest
    outcomes = []
    for parts in ([whole], pieces(whole, size), pieces(whole, 1)):
        server = new_server()
        try:
            for part in parts:
                server.receive_data(part)
            outcomes.append((server.state, server.data_to_send()))
        except RemoteProtocolError as error:
            outcomes.append((server.state, str(error).encode()))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@given(requests, st.binary(max_size=300), splits)
def test_hostile_replies(request: epmd.Request, reply: bytes, size: int) -> None:
    for parts in ([reply], pieces(reply, size), pieces(reply, 1)):
        client = ClientConnection(request)
        with contextlib.suppress(RemoteProtocolError):
            for part in parts:
                client.receive_data(part)
            client.receive_data(b"")
        assert client.state == "done"


@given(st.sampled_from([Alive(PortInfo("a", 1)), PortPlease("a")]), st.binary(max_size=60), st.sampled_from(b"vwy"))
def test_replies_with_the_right_tag(request: epmd.Request, rest: bytes, tag: int) -> None:
    """Nearly right ones, whole and byte by byte: the same first event or the same error."""
    outcomes = []
    for size in (1000, 1):
        client = ClientConnection(request)
        try:
            for piece in pieces(bytes([tag]) + rest, size):
                client.receive_data(piece)
                if client.state != "asking":
                    break
            outcomes.append((client.state, client.next_event()))
        except RemoteProtocolError:
            outcomes.append(("error", None))
    whole, bytewise = outcomes
    # a whole reply with bytes after it is an error at once; byte by byte it is one at the next byte
    assert whole == bytewise or (whole[0] == "error" and bytewise[0] != "asking")


@pytest.mark.parametrize("request_", [Alive(PortInfo("a", 1)), PortPlease("a"), Names(), Dump(), Kill(), Stop("a")])
def test_every_state_and_request_is_in_the_server_table(request_: epmd.Request) -> None:
    _action, state = SERVER_TABLE["reading", type(request_)]
    server = new_server()
    server.receive_data(epmd.encode_request(request_))
    assert server.state == state


@given(st.lists(st.sampled_from(["reply", "refusal", "junk", "eof", "timer"]), max_size=6))
def test_the_client_goes_only_where_its_table_says(inputs: list[str]) -> None:
    client = ClientConnection(Alive(PortInfo("a", 1)), now=0.0, timeout=1.0)
    for what in inputs:
        before = client.state
        try:
            match what:
                case "reply":
                    client.receive_data(epmd.encode_alive_reply(0, 7, 6))
                case "refusal":
                    client.receive_data(epmd.encode_alive_reply(1, 99, 6))
                case "junk":
                    client.receive_data(b"\xff")
                case "eof":
                    client.receive_data(b"")
                case "timer":
                    client.handle_timer(2.0)
        except RemoteProtocolError:
            assert client.state == "done"
        else:
            allowed = {after for (state, _), after in epmd.CLIENT_TABLE.items() if state == before}
            assert client.state in allowed
    assert (client.get_timer() is None) == (client.state != "asking")
