"""Elixir (Debian's 1.14 on OTP 25) and Python: GenServer both ways, monitors, :rpc, and Elixir's values."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from beamkit.beam import Beam, unique
from beamkit.runtimes import HERE, find_runtime, need
from waiting import LONG


@pytest.fixture(scope="module")
def elixir(_starter) -> Iterator[Beam]:
    """A node of the real `elixir` command with elixir/peer.exs."""
    program = need("elixir", "elixir")
    running = _starter(find_runtime("otp25"), unique("ex"), elixir=program)
    running.elixir(f'Code.require_file("{HERE}/elixir/peer.exs"); InteropPeer.start()')
    yield running
    running.close()


def py(subject) -> str:
    return f':"{subject.name}"'


def test_ping(elixir: Beam, subject) -> None:
    assert elixir.elixir(f"Node.ping({py(subject)})") == ":pong"
    assert elixir.elixir(f"Node.connect({py(subject)})") == "true"
    assert elixir.elixir(f"{py(subject)} in Node.list(:hidden)") == "true"


def test_genserver_call_and_cast(elixir: Beam, subject) -> None:
    calc = f"{{:calc, {py(subject)}}}"
    assert elixir.elixir(f"GenServer.call({calc}, {{:add, 1, 2}})") == "3"
    assert elixir.elixir(f"GenServer.cast({calc}, %{{a: 1}}); GenServer.call({calc}, :notes)") == "[cast: %{a: 1}]"
    assert elixir.elixir(f"pid = GenServer.call({calc}, :pid); GenServer.call(pid, {{:add, 2, 2}}, :infinity)") == "4"


def test_elixir_values(elixir: Beam, subject) -> None:
    """Structs, keyword lists, strings, charlists, ranges, nil and booleans come back as they went."""
    text = f"""
    values = [nil, true, "text", 'chars', [a: 1, b: 2], 1..3, %{{"k" => :v}}, %InteropPoint{{x: 1}}, ~D[2026-11-22],
              MapSet.new([1, 2]), {{:ok, "é"}}, InteropPeer, &String.upcase/1, self(), make_ref(), 1.5, <<1::3>>]
    for v <- values, GenServer.call({{:calc, {py(subject)}}}, {{:echo, v}}) !== v, do: v
    """
    assert elixir.elixir(text) == "[]"


def test_call_of_a_name_that_nobody_has(elixir: Beam, subject) -> None:
    text = f"try do GenServer.call({{:nobody, {py(subject)}}}, 1, :infinity) catch :exit, {{reason, _}} -> reason end"
    assert elixir.elixir(text) == ":noproc"


def test_call_that_raises(elixir: Beam, subject) -> None:
    """The exit is one that Elixir can format."""
    text = f"""
    try do
      GenServer.call({{:calc, {py(subject)}}}, {{:raise, "no good"}})
    catch
      :exit, reason -> Exception.format_exit(reason)
    end
    """
    found = elixir.elixir(text)
    assert "ValueError" in found and "no good" in found


def test_monitor_and_link(elixir: Beam, subject) -> None:
    text = f"""
    node = {py(subject)}
    ref = make_ref()
    send({{:puppets, node}}, {{:new, self(), ref}})
    pid = receive do {{^ref, pid}} -> pid after 20000 -> raise "no puppet" end
    Process.flag(:trap_exit, true)
    Process.link(pid)
    monitor = Process.monitor(pid)
    named = Process.monitor({{:nobody, node}})
    send(pid, {{:cmd, self(), 1, {{:exit, {{:shutdown, :bye}}}}}})
    down = receive do {{:DOWN, ^monitor, :process, ^pid, reason}} -> reason after 20000 -> :none end
    exit = receive do {{:EXIT, ^pid, reason}} -> reason after 20000 -> :none end
    noproc = receive do {{:DOWN, ^named, :process, {{:nobody, ^node}}, reason}} -> reason after 20000 -> :none end
    {{down, exit, noproc}}
    """
    assert elixir.elixir(text) == "{{:shutdown, :bye}, {:shutdown, :bye}, :noproc}"


def test_rpc_and_erpc(elixir: Beam, subject) -> None:
    assert elixir.elixir(f":rpc.call({py(subject)}, :math, :sqrt, [16.0])") == "4.0"
    assert elixir.elixir(f":erpc.call({py(subject)}, :py, :add, [1, 2])") == "3"
    text = f'try do :erpc.call({py(subject)}, :py, :raise, ["no good"]) rescue e -> Exception.message(e) end'
    assert "no good" in elixir.elixir(text)
    text = f"try do :erpc.call({py(subject)}, :nomod, :f, []) rescue e in ErlangError -> elem(e.original, 1) end"
    assert elixir.elixir(text) == ":undef"


def test_task_and_agent_idioms(elixir: Beam, subject) -> None:
    """Task.async_stream of calls; Node.monitor; :erpc.multicall."""
    node = py(subject)
    text = f"""
    1..50 |> Task.async_stream(&GenServer.call({{:calc, {node}}}, {{:add, &1, 1}}))
    |> Enum.map(&elem(&1, 1)) |> Enum.sum()
    """
    assert elixir.elixir(text) == str(sum(range(2, 52)))
    text = (
        f"Node.monitor({node}, true); Node.disconnect({node}); receive do {{:nodedown, n}} -> n after 20000 -> nil end"
    )
    assert elixir.elixir(text) == f':"{subject.name}"'


def test_python_calls_a_genserver(elixir: Beam, subject, python_only: None) -> None:
    from node import Atom, CallExit

    server = ("ex_server", elixir.name)

    async def test(node) -> None:
        put, get = Atom("put"), Atom("get")
        assert await node.call(server, (put, Atom("key"), "väl"), LONG) is Atom("ok")
        assert await node.call(server, (get, Atom("key")), LONG) == "väl".encode()
        node.cast(server, (put, "list", [1, 2]))
        assert await node.call(server, (get, "list"), LONG) == [1, 2]
        assert await node.call(server, (get, Atom("missing")), LONG) is Atom("nil")
        node.send(server, {"any": Atom("message")})
        state = await node.call(server, Atom("state"), LONG)
        assert state[Atom("info")] == {b"any": Atom("message")}
        assert await node.rpc(elixir.name, "Elixir.String", "upcase", ["abc"]) == b"ABC"
        with pytest.raises(CallExit) as caught:
            await node.call(server, Atom("boom"), LONG)
        error = caught.value.reason[0]
        assert error[Atom("__struct__")] is Atom("Elixir.ArgumentError")
        assert error[Atom("message")] == b"no good"

    subject.do(test)


def test_none_as_nil(elixir: Beam, start_node, python_only: None) -> None:
    """With none="nil" Python's None is Elixir's nil."""
    node = start_node(none="nil")
    assert elixir.elixir(f':rpc.call(:"{node.name}", :py, :nothing, [])') == "nil"
    text = f'GenServer.call({{:calc, :"{node.name}"}}, {{:echo, nil}})'
    assert elixir.elixir(text) == "nil"
