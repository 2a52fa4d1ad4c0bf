"""Connections that must not come about, and how each side learns why."""

from __future__ import annotations

import logging

import pytest
from beamkit.beam import Beam, unique

from node import EpmdError, HandshakeRefused, NoConnection

pytestmark = pytest.mark.usefixtures("python_only")


def causes(error: BaseException | None) -> list[BaseException]:
    return [] if error is None else [error, *causes(error.__cause__)]


def test_our_cookie_is_wrong(beam: Beam, start_node) -> None:
    """The exception says that it was the cookie; ping is False; with the right one it works."""
    node = start_node(cookie="not-the-cookie")
    with pytest.raises(NoConnection, match="cookie") as caught:
        node.do(lambda node: node.connect(beam.name))
    refusals = [error for error in causes(caught.value) if isinstance(error, HandshakeRefused)]
    assert refusals and refusals[0].reason == "cookie"
    assert node.do(lambda node: node.ping(beam.name)) is False
    assert beam.eval("lists:member(Py, nodes(connected))", Py=node.name) == "false"
    assert start_node().do(lambda node: node.ping(beam.name)) is True


def test_call_and_deliver_with_the_wrong_cookie(beam: Beam, start_node) -> None:
    node = start_node(cookie="not-the-cookie")
    with pytest.raises(NoConnection, match="cookie"):
        node.do(lambda node: node.call(("rex", beam.name), 1, None))
    with pytest.raises(NoConnection, match="cookie"):
        node.do(lambda node: node.deliver(("rex", beam.name), 1))


def test_the_cookie_of_the_beam_is_wrong(beam: Beam, start_node, caplog: pytest.LogCaptureFixture) -> None:
    """Our log says that it was the cookie, and whose."""
    node = start_node(cookie="not-the-cookie")
    with caplog.at_level(logging.INFO):
        assert beam.eval("net_adm:ping(Py)", Py=node.name) == "pang"
    assert any("cookie" in record.getMessage() and beam.name in record.getMessage() for record in caplog.records)


def test_a_cookie_for_one_peer(beam: Beam, start_node) -> None:
    node = start_node(cookie="not-the-cookie", cookies={beam.name: beam.cookie})
    assert node.do(lambda node: node.ping(beam.name)) is True


def test_a_cookie_that_is_not_ascii(start_node, runtime, start_beam) -> None:
    """OTP digests the cookie's latin-1 bytes."""
    beam = start_beam(runtime, cookie="kéks")
    node = start_node(cookie="kéks")
    assert node.do(lambda node: node.ping(beam.name)) is True
    node.do(disconnect_all)
    assert beam.eval("net_adm:ping(Py)", Py=node.name) == "pong"


async def disconnect_all(node) -> None:
    for name in node.nodes():
        node.disconnect(name)


def test_name_that_a_beam_has(beam: Beam, start_node) -> None:
    """A clear error, and the BEAM is not disturbed."""
    with pytest.raises(EpmdError, match=beam.name.split("@")[0]):
        start_node(beam.name)
    assert beam.eval("node()") == f"'{beam.name}'"


def test_name_that_another_python_node_has(start_node) -> None:
    name = unique("twice")
    start_node(name)
    with pytest.raises(EpmdError, match="twice"):
        start_node(name)


def test_name_that_python_has_is_refused_to_a_beam(start_node, runtime, start_beam) -> None:
    node = start_node()
    with pytest.raises(RuntimeError, match="in use|already"):
        start_beam(runtime, node.name)


def test_allow_list(beam: Beam, start_node) -> None:
    """Who is not on it can't connect; our own connections are our own decision."""
    node = start_node(allow=["someone@127.0.0.1"])
    assert beam.eval("net_adm:ping(Py)", Py=node.name) == "pang"
    friendly = start_node(allow=[beam.name])
    assert beam.eval("net_adm:ping(Py)", Py=friendly.name) == "pong"


def test_beam_that_does_not_allow_us(own_beam: Beam, start_node) -> None:
    """net_kernel:allow/1."""
    own_beam.eval("net_kernel:allow(['someone@127.0.0.1'])")
    node = start_node()
    with pytest.raises(NoConnection) as caught:
        node.do(lambda node: node.connect(own_beam.name))
    refusals = [error for error in causes(caught.value) if isinstance(error, HandshakeRefused)]
    assert refusals and refusals[0].reason == "not_allowed"


def test_a_port_where_something_else_listens(start_node, epmd_port: int) -> None:
    """A static route to epmd's own port: no hang, an error."""
    node = start_node(routes={"odd@127.0.0.1": ("127.0.0.1", epmd_port)})
    with pytest.raises(NoConnection):
        node.do(lambda node: node.connect("odd@127.0.0.1"))


def dist_port(beam: Beam) -> int:
    text = '{port, P, _} = erl_epmd:port_please(hd(string:split(atom_to_list(node()), "@")), {127,0,0,1}), P'
    return int(beam.eval(text))


def test_another_node_than_the_one_wanted(beam: Beam, start_node) -> None:
    """A route that leads to a BEAM of another name is refused by name."""
    port = dist_port(beam)
    node = start_node(routes={"other@127.0.0.1": ("127.0.0.1", port)})
    with pytest.raises(NoConnection):
        node.do(lambda node: node.connect("other@127.0.0.1"))


def test_static_route_without_epmd(beam: Beam, start_node) -> None:
    port = dist_port(beam)
    node = start_node(listen=None, epmd_port=1, routes={beam.name: ("127.0.0.1", port)})
    assert node.do(lambda node: node.ping(beam.name)) is True


def test_short_names(runtime, start_beam, start_node) -> None:
    """-sname: names whose host has no dot; a node with long names can't be reached from one with short names."""
    beam = start_beam(runtime, unique("short").replace("127.0.0.1", "localhost"), short=True)
    node = start_node(unique("py").replace("127.0.0.1", "localhost"))
    assert beam.eval("net_adm:ping(Py)", Py=node.name) == "pong"
    node.do(disconnect_all)
    assert node.do(lambda node: node.ping(beam.name)) is True


def test_embedded_epmd(runtime, start_beam, start_node, free_port: int) -> None:
    """No epmd runs: the Python node brings one, and a BEAM that starts later finds it and is found."""
    node = start_node(epmd_port=free_port)
    beam = start_beam(runtime, epmd_port=free_port)
    assert beam.eval("net_adm:ping(Py)", Py=node.name) == "pong"
    names = beam.eval("{ok, L} = net_adm:names({127,0,0,1}), lists:sort([N || {N, _} <- L])")
    assert names == "[" + ",".join(f'"{n.split("@")[0]}"' for n in sorted([beam.name, node.name])) + "]"
    other = start_node(epmd_port=free_port)
    assert other.do(lambda node: node.ping(beam.name)) is True
