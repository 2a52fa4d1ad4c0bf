"""Ping both ways, what a BEAM's node lists say, and connections that must be refused."""

from __future__ import annotations

import pytest
from beamkit.beam import Beam, unique


def test_beam_pings(beam: Beam, subject) -> None:
    assert beam.eval("net_adm:ping(Py)", Py=subject.name) == "pong"
    assert beam.eval("net_adm:ping(Py)", Py=subject.name) == "pong"


def test_ping_of_a_name_that_nobody_has(beam: Beam, subject) -> None:
    assert beam.eval("net_adm:ping(Py)", Py=unique("nobody")) == "pang"


def test_the_subject_is_a_hidden_node(beam: Beam, subject) -> None:
    assert beam.eval("net_adm:ping(Py)", Py=subject.name) == "pong"
    assert beam.eval("lists:member(Py, nodes(hidden))", Py=subject.name) == "true"
    assert beam.eval("lists:member(Py, nodes())", Py=subject.name) == "false"
    assert beam.eval("lists:member(Py, nodes(connected))", Py=subject.name) == "true"


def test_connect_node_and_disconnect(beam: Beam, subject) -> None:
    """net_kernel:connect_node/1, then the BEAM drops the connection and makes it again."""
    for _ in range(3):
        assert beam.eval("net_kernel:connect_node(Py)", Py=subject.name) == "true"
        assert beam.eval("gen_server:call({calc, Py}, {add, 1, 2})", Py=subject.name) == "3"
        assert beam.eval("erlang:disconnect_node(Py)", Py=subject.name) == "true"
        assert beam.eval("lists:member(Py, nodes(connected))", Py=subject.name) == "false"


def test_nodeup_and_nodedown_of_a_hidden_node(beam: Beam, subject) -> None:
    assert beam.eval(
        """
        net_kernel:monitor_nodes(true, #{node_type => all, nodedown_reason => true}),
        true = net_kernel:connect_node(Py),
        {nodeup, Py, _} = interop_peer:got(),
        erlang:disconnect_node(Py),
        {nodedown, Py, #{nodedown_reason := Reason, node_type := Type}} = interop_peer:got(),
        {Type, Reason}
        """,
        Py=subject.name,
    ) in ("{hidden,disconnect}", "{hidden,connection_closed}")


def test_epmd_names_shows_it(beam: Beam, subject) -> None:
    short = subject.name.split("@")[0]
    text = "{ok, L} = net_adm:names({127,0,0,1}), lists:keymember(Short, 1, L)"
    assert beam.eval(text, Short=list(short.encode())) == "true"


def test_is_auth_as_the_oldest_ping_asks(beam: Beam, subject) -> None:
    assert beam.eval("gen_server:call({net_kernel, Py}, {is_auth, node()}, 5000)", Py=subject.name) == "yes"


def test_wrong_cookie_of_the_beam(beam: Beam, subject) -> None:
    """The BEAM uses another cookie for us: pang at once, no hang, and fine again with the right one."""
    text = """
        Right = erlang:get_cookie(),
        erlang:set_cookie(Py, wrong_cookie),
        First = net_adm:ping(Py),
        erlang:set_cookie(Py, Right),
        {First, net_adm:ping(Py)}
        """
    assert beam.eval(text, Py=subject.name) == "{pang,pong}"


@pytest.mark.parametrize("count", [8])
def test_many_pings_at_once(beam: Beam, subject, count: int) -> None:
    """Several processes of a BEAM that is not connected yet ping at the same moment."""
    text = """
        Parent = self(),
        Pids = [spawn_link(fun() -> Parent ! {self(), net_adm:ping(Py)} end) || _ <- lists:seq(1, Count)],
        [receive {P, Answer} -> Answer end || P <- Pids]
        """
    assert beam.eval(text, Py=subject.name, Count=count) == "[" + ",".join(["pong"] * count) + "]"
