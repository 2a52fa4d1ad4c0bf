"""Python calls a BEAM: ping, send, call, cast, rpc, monitor, link, from coroutines and from other threads."""

from __future__ import annotations

import asyncio
import threading

import pytest
from beamkit.beam import Beam, unique
from waiting import LONG, until

from node import (
    Atom,
    CallExit,
    CallTimeout,
    EncodeError,
    LocalProtocolError,
    NoConnection,
    NodeDown,
    NoProc,
    Pid,
    RemoteError,
    RemoteExit,
    RemoteThrow,
)

pytestmark = pytest.mark.usefixtures("python_only")

#: Seconds that a call may take on a slow machine; no test waits for it.


@pytest.fixture
def server(beam: Beam) -> tuple[str, str]:
    """The address of interop_peer's gen_server on the BEAM."""
    beam.eval("logger:set_primary_config(level, none), interop_peer:start()")
    return ("server", beam.name)


def test_ping(beam: Beam, subject) -> None:
    assert subject.do(lambda node: node.ping(beam.name)) is True
    assert subject.do(lambda node: node.ping(Atom(beam.name))) is True


def test_ping_of_nobody(subject) -> None:
    assert subject.do(lambda node: node.ping(unique("nobody"))) is False


def test_connect_says_why_not(subject) -> None:
    with pytest.raises(NoConnection, match="nobody"):
        subject.do(lambda node: node.connect(unique("nobody")))


def test_call(server, subject) -> None:
    assert subject.do(lambda node: node.call(server, (Atom("sum"), [1, 2, 3]), timeout=LONG)) == 6
    assert subject.do(lambda node: node.call((Atom("server"), Atom(server[1])), (Atom("sum"), [1]), LONG)) == 1


def test_call_by_pid(server, subject) -> None:
    async def test(node) -> None:
        pid = await node.rpc(server[1], "erlang", "whereis", [Atom("server")])
        assert isinstance(pid, Pid)
        assert await node.call(pid, (Atom("sum"), [4, 5]), LONG) == 9

    subject.do(test)


def test_call_answered_later(server, subject) -> None:
    assert subject.do(lambda node: node.call(server, (Atom("later"), 50, Atom("done")), LONG)) is Atom("done")


def test_many_calls_at_once(server, subject) -> None:
    async def test(node) -> list[int]:
        return await asyncio.gather(*(node.call(server, (Atom("sum"), [n, 1]), LONG) for n in range(1000)))

    assert subject.do(test) == list(range(1, 1001))


def test_call_times_out_and_a_late_reply_is_dropped(server, subject) -> None:
    async def test(node) -> None:
        with pytest.raises(CallTimeout):
            await node.call(server, (Atom("later"), 150, Atom("late")), 0.02)
        with pytest.raises(TimeoutError):
            await node.call(server, Atom("never"), 0.02)
        assert await node.call(server, (Atom("later"), 300, Atom("done")), LONG) is Atom("done")

    subject.do(test)


def test_call_of_a_name_that_nobody_has(server, subject) -> None:
    """At once, not after the timeout (there is none)."""
    with pytest.raises(NoProc):
        subject.do(lambda node: node.call(("nobody", server[1]), Atom("hi"), None))


def test_call_of_a_dead_pid(beam: Beam, subject) -> None:
    async def test(node) -> None:
        pid = await beam.ask_term("{P, M} = spawn_monitor(fun() -> ok end), receive {'DOWN', M, _, _, _} -> P end")
        with pytest.raises(NoProc):
            await node.call(pid, Atom("hi"), None)

    subject.do(test)


@pytest.mark.parametrize("request_", [(Atom("exit"), Atom("bye")), (Atom("stop"), Atom("bye"))])
def test_call_of_a_server_that_exits(server, subject, request_) -> None:
    with pytest.raises(CallExit) as caught:
        subject.do(lambda node: node.call(server, request_, None))
    assert caught.value.reason == Atom("bye")


def test_call_of_a_server_that_crashes(server, subject) -> None:
    with pytest.raises(CallExit) as caught:
        subject.do(lambda node: node.call(server, Atom("crash"), None))
    reason, stack = caught.value.reason
    assert reason is Atom("crashed")
    assert stack[0][:3] == (Atom("interop_peer"), Atom("handle_call"), 3)


def test_call_of_a_node_that_is_not_there(subject) -> None:
    with pytest.raises(NoConnection):
        subject.do(lambda node: node.call(("server", unique("nobody")), Atom("hi"), None))


def test_call_when_the_connection_breaks(beam: Beam, server, subject) -> None:
    async def test(node) -> None:
        waiting = asyncio.ensure_future(node.call(server, Atom("never"), None))
        assert await node.call(server, (Atom("sum"), [1]), LONG) == 1
        await beam.ask("erlang:disconnect_node(Py)", Py=node.name)
        with pytest.raises(NodeDown):
            await waiting

    subject.do(test)


def test_unencodable_request(server, subject) -> None:
    """EncodeError with the path, before anything is sent: the connection stays."""

    async def test(node) -> None:
        assert await node.call(server, (Atom("sum"), [1]), LONG) == 1
        for bad in (float("nan"), float("inf"), 1 << (8 * 524281), "\ud800", object(), {"a": 1, b"a": 2}):
            with pytest.raises(EncodeError) as caught:
                await node.call(server, (Atom("echo"), [bad]), LONG)
            assert "[0]" in caught.value.path
        assert node.nodes() == [server[1]]
        assert await node.call(server, (Atom("sum"), [1]), LONG) == 1

    subject.do(test)


def test_biggest_integer_that_may_be_sent(server, subject) -> None:
    """2**(8 * 524280) - 1 is what OTP 28 takes; the connection stays."""
    big = (1 << (8 * 524280)) - 1
    for value in (big, -big):
        assert subject.do(lambda node, value=value: node.call(server, (Atom("echo"), value), LONG)) == value


def test_terms_there_and_back(server, subject) -> None:
    values = [
        0, -1, 255, 256, 1 << 27, 1 << 64, -(1 << 200), 1.5, -0.0, True, False, Atom("undefined"), Atom("nil"),
        Atom("ü" * 255),
        b"", b"x" * 70000, "text", [], [1, 2, 3], list(range(70000)), (), (1,), tuple(range(300)), {},
        {1: 2, Atom("a"): b"b"},
        [[], [[]], {}], {"k": [1, {"n": 2.5}]},
    ]  # fmt: skip

    async def test(node) -> None:
        for value in values:
            back = await node.call(server, (Atom("echo"), value), LONG)
            want = value.encode() if isinstance(value, str) else value
            if value == {"k": [1, {"n": 2.5}]}:
                want = {b"k": [1, {b"n": 2.5}]}
            assert back == want and type(back) is type(want)

    subject.do(test)


def test_cast_and_send(beam: Beam, server, subject) -> None:
    async def test(node) -> None:
        await node.call(server, Atom("seen"), LONG)
        node.cast(server, (Atom("a"), 1))
        node.send(server, Atom("plain"))
        pid = await node.rpc(server[1], "erlang", "whereis", [Atom("server")])
        node.send(pid, [b"to", Atom("pid")])
        await node.deliver(server, Atom("delivered"))
        seen = await node.call(server, Atom("seen"), LONG)
        # one sender's messages come in order; node.call may use another
        assert seen == [
            (Atom("cast"), (Atom("a"), 1)), (Atom("info"), Atom("plain")), (Atom("info"), [b"to", Atom("pid")]),
            (Atom("info"), Atom("delivered")),
        ]  # fmt: skip

    subject.do(test)


def test_send_to_nobody_is_dropped(server, subject) -> None:
    async def test(node) -> None:
        node.send(("nobody", server[1]), 1)
        assert await node.call(server, (Atom("sum"), [1]), LONG) == 1

    subject.do(test)


def test_deliver_to_a_node_that_is_not_there(subject) -> None:
    with pytest.raises(NoConnection):
        subject.do(lambda node: node.deliver(("x", unique("nobody")), 1))


def test_send_to_a_node_that_is_not_there_is_reported(subject) -> None:
    """send() can't wait: what is lost is counted."""

    async def test(node) -> None:
        for n in range(3):
            node.send(("x", "nobody_at_all@127.0.0.1"), n)
        await until(lambda: node.undelivered >= 3)
        assert node.undelivered == 3

    subject.do(test)


# -- rpc -----------------------------------------------------------------------------------------------


def test_rpc(beam: Beam, subject) -> None:
    async def test(node) -> None:
        assert await node.rpc(beam.name, "erlang", "node", []) is Atom(beam.name)
        assert await node.rpc(beam.name, Atom("lists"), Atom("seq"), [1, 5]) == [1, 2, 3, 4, 5]
        assert await node.rpc(beam.name, "interop_peer", "ident", [(Atom("error"), 1)]) == (Atom("error"), 1)

    subject.do(test)


def test_rpc_error(beam: Beam, subject) -> None:
    with pytest.raises(RemoteError) as caught:
        subject.do(lambda node: node.rpc(beam.name, "interop_peer", "fail", [(Atom("why"), 1)], timeout=LONG))
    assert caught.value.reason == (Atom("why"), 1)
    assert caught.value.stack[0][:2] == (Atom("interop_peer"), Atom("fail"))


def test_rpc_undef(beam: Beam, subject) -> None:
    with pytest.raises(RemoteError) as caught:
        subject.do(lambda node: node.rpc(beam.name, "nomod", "f", [1], timeout=LONG))
    assert caught.value.reason is Atom("undef")
    assert caught.value.stack[0][:3] == (Atom("nomod"), Atom("f"), [1])


def test_rpc_exit(beam: Beam, subject) -> None:
    with pytest.raises(RemoteExit) as caught:
        subject.do(lambda node: node.rpc(beam.name, "interop_peer", "exit_with", [Atom("bye")], timeout=LONG))
    assert caught.value.reason is Atom("bye")


def test_rpc_throw(beam: Beam, subject) -> None:
    with pytest.raises(RemoteThrow) as caught:
        subject.do(lambda node: node.rpc(beam.name, "interop_peer", "throw_it", [[1]], timeout=LONG))
    assert caught.value.value == [1]


def test_rpc_timeout(beam: Beam, subject) -> None:
    with pytest.raises(CallTimeout):
        subject.do(lambda node: node.rpc(beam.name, "timer", "sleep", [2000], timeout=0.05))


def test_rpc_to_a_node_that_is_not_there(subject) -> None:
    with pytest.raises(NoConnection):
        subject.do(lambda node: node.rpc(unique("nobody"), "erlang", "node", [], timeout=None))


def test_rpc_when_the_connection_breaks(beam: Beam, subject) -> None:
    async def test(node) -> None:
        waiting = asyncio.ensure_future(node.rpc(beam.name, "timer", "sleep", [20000], timeout=None))
        assert await node.rpc(beam.name, "erlang", "node", []) is Atom(beam.name)
        await beam.ask("erlang:disconnect_node(Py)", Py=node.name)
        with pytest.raises(NodeDown):
            await waiting

    subject.do(test)


def test_many_rpcs_at_once(beam: Beam, subject) -> None:
    async def test(node) -> list[int]:
        return await asyncio.gather(*(node.rpc(beam.name, "erlang", "abs", [-n], LONG) for n in range(500)))

    assert subject.do(test) == list(range(500))


def test_python_calls_itself_like_any_node(subject) -> None:
    async def test(node) -> None:
        assert await node.ping(node.name) is True
        assert await node.call("calc", (Atom("add"), 1, 2)) == 3
        assert await node.call(("calc", node.name), (Atom("add"), 1, 2)) == 3
        assert await node.rpc(node.name, "math", "sqrt", [16.0]) == 4.0
        with pytest.raises(NoProc):
            await node.call("nobody", 1)

    subject.do(test)


# -- monitors and links --------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["bye", "normal", "kill"])
def test_monitor(beam: Beam, subject, reason: str) -> None:
    async def test(node) -> None:
        pid = await beam.ask_term("spawn(interop_peer, sleeper, [])")
        monitor = node.monitor(pid)
        node.send(pid, (Atom("exit"), Atom(reason)))
        assert await asyncio.wait_for(monitor, LONG) is Atom(reason)

    subject.do(test)


def test_monitor_of_what_is_not_there(beam: Beam, subject) -> None:
    async def test(node) -> None:
        assert await asyncio.wait_for(node.monitor(("nobody", beam.name)), LONG) is Atom("noproc")
        assert await asyncio.wait_for(node.monitor(("x", unique("nobody"))), LONG) is Atom("noconnection")

    subject.do(test)


def test_link(beam: Beam, subject) -> None:
    async def test(node) -> None:
        pid = await beam.ask_term("spawn(interop_peer, sleeper, [])")
        link = node.link(pid)
        node.send(pid, (Atom("exit"), (Atom("a"), Atom("b"))))
        assert await asyncio.wait_for(link, LONG) == (Atom("a"), Atom("b"))

    subject.do(test)


def test_our_end_of_a_link(beam: Beam, subject) -> None:
    async def test(node) -> None:
        down = asyncio.wrap_future(
            beam.submit("""
            {P, M} = spawn_monitor(interop_peer, sleeper, []), register(linked_sleeper, P),
            receive {'DOWN', M, process, P, Reason} -> Reason after 20000 -> none end""")
        )
        while (pid := await node.rpc(beam.name, "erlang", "whereis", [Atom("linked_sleeper")])) is Atom("undefined"):
            await asyncio.sleep(0.01)
        node.link(pid).exit("our_reason")
        assert await down == b"our_reason"

    subject.do(test)


def test_process_block(beam: Beam, server, subject) -> None:
    """`async with node.process() as me` can receive, selectively and with a timeout."""

    async def test(node) -> None:
        async with node.process() as me:
            relay = await node.rpc(beam.name, "erlang", "spawn", [Atom("interop_peer"), Atom("relay"), [me.pid]])
            for n in range(3):
                me.send(relay, n)
            assert await me.receive(match=lambda m: m == (Atom("relayed"), 2), timeout=LONG) == (Atom("relayed"), 2)
            assert await me.receive(timeout=LONG) == (Atom("relayed"), 0)
            assert await me.receive(timeout=LONG) == (Atom("relayed"), 1)
            with pytest.raises(TimeoutError):
                await me.receive(timeout=0.01)
            ref = me.monitor(relay)
            me.send_exit(relay, Atom("kill"))
            assert await me.receive(timeout=LONG) == (Atom("DOWN"), ref, Atom("process"), relay, Atom("killed"))
            assert await me.call(server, (Atom("sum"), [1, 2]), LONG) == 3

    subject.do(test)


# -- other threads -------------------------------------------------------------------------------------


def test_blocking_calls_from_this_thread(beam: Beam, server, subject) -> None:
    blocking = subject.node.blocking
    assert blocking.ping(beam.name) is True
    assert blocking.call(server, (Atom("sum"), [1, 2]), LONG) == 3
    assert blocking.rpc(beam.name, "erlang", "abs", [-5]) == 5
    blocking.call(server, Atom("seen"), LONG)
    blocking.cast(server, 1)
    blocking.send(server, 2)
    assert blocking.call(server, Atom("seen"), LONG) == [(Atom("cast"), 1), (Atom("info"), 2)]
    with pytest.raises(NoProc):
        blocking.call(("nobody", beam.name), 1, None)
    with pytest.raises(CallTimeout):
        blocking.call(server, Atom("never"), 0.02)


def test_blocking_calls_from_many_threads(server, subject) -> None:
    results: list[int] = []
    errors: list[BaseException] = []

    def work(index: int) -> None:
        try:
            results.extend(subject.node.blocking.call(server, (Atom("sum"), [index, n]), LONG) for n in range(50))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(results) == sorted(i + n for i in range(8) for n in range(50))


def test_sends_from_many_threads(beam: Beam, subject) -> None:
    """Each thread's messages come in order."""
    threads, each = 8, 500
    waiting = beam.submit("P = interop_peer:collect_start(Total), interop_peer:collect_wait(P)", Total=threads * each)
    beam.eval("(fun W() -> case whereis(collector) of undefined -> timer:sleep(5), W(); P -> P end end)()")

    def work(index: int) -> None:
        for n in range(1, each + 1):
            subject.node.send(("collector", beam.name), (index, n))

    running = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    want = "{ok,[" + ",".join(f"{{{i},{each}}}" for i in range(threads)) + "]}"
    assert waiting.result(60).decode() == want


def test_blocking_on_the_loop_is_an_error(beam: Beam, subject) -> None:
    async def test(node) -> None:
        with pytest.raises(LocalProtocolError):
            node.blocking.ping(beam.name)

    subject.do(test)
