"""Processes of one node among themselves: life, links, monitors, names, servers. No network."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from waiting import LONG, until

from node import (
    Atom,
    CallExit,
    CallTimeout,
    EncodeError,
    GenServer,
    Node,
    NoProc,
    NoReply,
    Process,
    ProcessExit,
    RemoteError,
    RemoteExit,
    RemoteThrow,
    Reply,
    Stop,
    TooManyRestarts,
)

NORMAL, EXIT, DOWN = Atom("normal"), Atom("EXIT"), Atom("DOWN")


def run(test: Callable[[Node], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with Node("unit@127.0.0.1", "secret", listen=None, **options) as node:
            async with asyncio.timeout(LONG):
                await test(node)

    asyncio.run(main())


async def echo(me: Process) -> None:
    while True:
        sender, message = await me.receive()
        me.send(sender, message)


def test_messages_between_processes() -> None:
    async def test(node: Node) -> None:
        node.register("echo", echo)
        async with node.process() as me:
            me.send("echo", (me.pid, 1))
            me.send(("echo", node.name), (me.pid, 2))
            pid = node.whereis("echo")
            me.send(pid, (me.pid, 3))
            assert [await me.receive() for _ in range(3)] == [1, 2, 3]

    run(test)


def test_a_local_message_is_what_a_remote_one_would_be() -> None:
    async def test(node: Node) -> None:
        async with node.process() as me:
            mutable = [1, {"key": "text"}]
            me.send(me.pid, mutable)
            mutable.append(2)
            assert await me.receive() == [1, {b"key": b"text"}]
            with pytest.raises(EncodeError, match=r"\[1\]"):
                me.send(me.pid, [1, object()])

    run(test)


def test_a_send_to_nobody_is_dropped_and_counted() -> None:
    async def test(node: Node) -> None:
        node.send("nobody", 1)
        assert node.router.dropped == 1
        with pytest.raises(TypeError, match="not a Pid"):
            node.send(5, 1)

    run(test)


def test_names() -> None:
    async def test(node: Node) -> None:
        first = node.register("one", echo)
        assert first is not None
        with pytest.raises(ValueError, match="taken"):
            node.register("one", echo)
        assert node.whereis("one") == first.pid
        first.kill()
        assert node.whereis("one") is None
        node.register("one", echo)
        assert "one" in node.registered()

    run(test)


def test_links_carry_exits_and_trapping_makes_messages() -> None:
    async def test(node: Node) -> None:
        async def child(me: Process) -> None:
            await me.receive()
            me.exit(Atom("boom"))

        async def parent(me: Process) -> None:
            me.spawn(child, link=True, name="child")
            await me.receive()

        first = node.spawn(parent)
        async with node.process() as me:
            me.link(first.pid)
            await until(lambda: node.whereis("child") is not None)
            me.send("child", 1)
            assert await me.receive() == (EXIT, first.pid, Atom("boom"))
        assert not first.alive

    run(test)


def test_a_link_to_nobody_is_an_exit_noproc() -> None:
    async def test(node: Node) -> None:
        gone = node.spawn(echo)
        gone.kill()
        async with node.process() as me:
            me.link(gone.pid)
            assert await me.receive() == (EXIT, gone.pid, Atom("noproc"))
        assert await node.link(gone.pid) is Atom("noproc")

    run(test)


def test_kill_can_not_be_trapped() -> None:
    async def test(node: Node) -> None:
        async def stubborn(me: Process) -> None:
            me.trap_exit = True
            while True:
                await me.receive()

        process = node.spawn(stubborn)
        await asyncio.sleep(0)
        async with node.process() as me:
            ref = me.monitor(process.pid)
            me.send_exit(process.pid, "please")
            me.send_exit(process.pid, "kill")
            assert await me.receive() == (DOWN, ref, Atom("process"), process.pid, Atom("killed"))

    run(test)


def test_monitors_by_pid_and_by_name() -> None:
    async def test(node: Node) -> None:
        process = node.register("echo", echo)
        assert process is not None
        async with node.process() as me:
            by_pid, by_name = me.monitor(process.pid), me.monitor("echo")
            process.on_exit_signal(me.pid, Atom("bye"), linked=False)
            downs = {message[1]: message for message in [await me.receive(), await me.receive()]}
            assert downs[by_pid][3:] == (process.pid, Atom("bye"))
            assert downs[by_name][3:] == ((Atom("echo"), Atom(node.name)), Atom("bye"))
            ref = me.monitor("echo")
            assert await me.receive() == (
                DOWN,
                ref,
                Atom("process"),
                (Atom("echo"), Atom(node.name)),
                Atom("noproc"),
            )

    run(test)


def test_demonitor_takes_a_down_back() -> None:
    async def test(node: Node) -> None:
        process = node.spawn(echo)
        async with node.process() as me:
            ref = me.monitor(process.pid)
            process.kill()
            me.demonitor(ref)
            with pytest.raises(TimeoutError):
                await me.receive(timeout=0.01)

    run(test)


def test_a_crash_is_an_exit_with_reason_and_stack() -> None:
    async def test(node: Node) -> None:
        async def crash(me: Process) -> None:
            await me.receive()
            raise ValueError("no good")

        process = node.spawn(crash)
        monitor = node.monitor(process.pid)
        node.send(process.pid, 1)
        (python, kind, text), stack = await monitor
        assert (python, kind, text) == (Atom("python"), Atom("ValueError"), b"no good")
        module, function, arity, place = stack[0]
        assert arity == 1 and function.name.endswith("crash") and isinstance(module, Atom)
        assert place[0][0] is Atom("file") and bytes(place[0][1]).decode().endswith("test_process.py")
        assert place[1][0] is Atom("line") and place[1][1] > 0

    run(test)


def test_a_reason_without_a_term_still_arrives() -> None:
    async def test(node: Node) -> None:
        async def odd(me: Process) -> None:
            raise ProcessExit(object())

        process = node.spawn(odd)
        reason = await node.monitor(process.pid)
        assert reason[:2] == (Atom("python"), Atom("EncodeError"))

    run(test)


class Calc(GenServer):
    def init(self, start: int = 0) -> None:
        self.total = start

    async def handle_call(self, request: Any, caller: Any) -> Any:
        match request:
            case tuple((Atom("add"), int(a), int(b))):
                return a + b
            case Atom("none"):
                return None
            case Atom("reply_none"):
                return Reply(None)
            case Atom("later"):
                asyncio.get_running_loop().call_later(0.01, self.reply, caller, b"later")
                return NoReply()
            case Atom("never"):
                return NoReply()
            case Atom("stop"):
                return Stop("done", reply=1)
            case Atom("total"):
                return self.total
            case _:
                raise ValueError(request)

    async def handle_cast(self, request: Any) -> Any:
        self.total += request

    async def handle_info(self, message: Any) -> Any:
        self.total += 100
        return NoReply(timeout=0.01) if message == 1 else None


def test_gen_server_calls() -> None:
    async def test(node: Node) -> None:
        node.register("calc", Calc, 5)
        assert await node.call("calc", (Atom("add"), 1, 2)) == 3
        assert await node.call("calc", Atom("reply_none")) is Atom("undefined")
        assert await node.call("calc", Atom("later")) == b"later"
        node.cast("calc", 2)
        assert await node.call("calc", Atom("total")) == 7
        with pytest.raises(CallTimeout):
            await node.call("calc", Atom("never"), timeout=0.01)
        assert await node.call("calc", Atom("stop")) == 1
        with pytest.raises(NoProc):
            await node.call("calc", Atom("stop"))
        assert not node.router.calls

    run(test)


def test_gen_server_timeout_reaches_handle_info() -> None:
    async def test(node: Node) -> None:
        server = Calc()
        node.register("calc", server)
        node.send("calc", 1)
        await until(lambda: getattr(server, "total", 0) == 200)  # once by the message, once by the timeout

    run(test)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [(Atom("none"), Atom("function_clause")), (7, (Atom("python"), Atom("ValueError"), b"7"))],
)
def test_a_call_that_crashes_the_server(request_: Any, reason: Any) -> None:
    async def test(node: Node) -> None:
        node.register("calc", Calc)
        with pytest.raises(CallExit) as caught:
            await node.call("calc", request_)
        assert caught.value.reason[0] == reason
        assert isinstance(caught.value.reason[1], list)

    run(test)


def test_calls_from_a_process() -> None:
    async def test(node: Node) -> None:
        node.register("calc", Calc)
        async with node.process() as me:
            assert await me.call("calc", (Atom("add"), 1, 2)) == 3
            me.cast("calc", 4)
            with pytest.raises(CallTimeout):
                await me.call("calc", Atom("never"), 0.01)
            assert not me.mailbox.queue

    run(test)


def test_terminate_is_called_at_every_end_but_kill() -> None:
    ended: list[Any] = []

    class Server(GenServer):
        def handle_call(self, request: Any, caller: Any) -> Any:
            raise KeyError("x")

        async def terminate(self, reason: Any) -> None:
            ended.append(reason)

    async def test(node: Node) -> None:
        for name in ("a", "b", "c", "d"):
            node.register(name, Server)
        async with node.process() as me:
            with pytest.raises(CallExit):
                await me.call("a", 1)
            me.send_exit(node.whereis("b"), "stop_please")
            me.send_exit(node.whereis("c"), "kill")
        await until(lambda: node.whereis("b") is None and node.whereis("c") is None)
        await until(lambda: len(ended) == 2)

    run(test)
    assert [reason if isinstance(reason, Atom) else reason[0][1] for reason in ended] == [
        Atom("KeyError"),
        Atom("stop_please"),
        Atom("shutdown"),
    ]


def test_sync_methods_run_in_a_thread_unless_inline() -> None:
    class Where(GenServer):
        def handle_call(self, request: Any, caller: Any) -> Any:
            return threading.current_thread().name

    async def test(node: Node) -> None:
        node.register("thread", Where)
        node.register("inline", Where, inline=True)
        assert b"worker" in await node.call("thread", 1)
        assert await node.call("inline", 1) == threading.current_thread().name.encode()

    run(test)


def test_plain_functions() -> None:
    got: list[Any] = []

    def double(number: int) -> int:
        if number < 0:
            raise ValueError(number)
        return number * 2

    async def test(node: Node) -> None:
        for name, inline in (("thread", False), ("inline", True)):
            node.register(name, double, inline=inline)
            assert await asyncio.gather(*(node.call(name, n) for n in range(300))) == [n * 2 for n in range(300)]
            with pytest.raises(CallExit):
                await node.call(name, -1)
            assert node.whereis(name) is None
        node.register("sink", got.append, inline=True)
        for number in range(5):
            node.send("sink", number)
        node.cast("sink", b"cast")
        while len(got) < 6:
            await asyncio.sleep(0)
        assert got == [0, 1, 2, 3, 4, b"cast"]

    run(test)


def test_order_is_kept_in_worker_threads() -> None:
    got: list[int] = []

    async def test(node: Node) -> None:
        node.register("sink", got.append)
        for number in range(2000):
            node.send("sink", number)
        await until(lambda: len(got) >= 2000)

    run(test)
    assert got == list(range(2000))


def test_restarts() -> None:
    async def test(node: Node) -> None:
        first = node.register("calc", Calc, restart="permanent")
        quiet = node.register("quiet", Calc, restart="transient")
        assert first is not None and quiet is not None
        first.kill()
        quiet.end(NORMAL)
        await until(lambda: node.whereis("calc") not in (None, first.pid))
        assert node.whereis("quiet") is None

    run(test)


def test_too_many_restarts_stop_the_node() -> None:
    async def hopeless(me: Process) -> None:
        raise OSError("again")

    async def main() -> None:
        node = Node("unit@127.0.0.1", "secret", listen=None)
        node.register("hopeless", hopeless, restart="permanent")
        await node.start()
        with pytest.raises(TooManyRestarts, match="hopeless"):
            await node.wait_closed()
        await node.close()

    asyncio.run(main())


def test_rpc_to_ourselves_runs_exports_only() -> None:
    def fail(kind: bytes) -> None:
        if kind == b"throw":
            raise RemoteThrow(1)
        if kind == b"exit":
            raise ProcessExit(Atom("out"))
        raise LookupError("x")

    async def test(node: Node) -> None:
        node.export("m", "pow", pow)
        node.export("m", "fail", fail)
        assert await node.rpc(node.name, "m", "pow", [2, 10]) == 1024
        with pytest.raises(RemoteThrow):
            await node.rpc(node.name, "m", "fail", ["throw"])
        with pytest.raises(RemoteExit):
            await node.rpc(node.name, "m", "fail", ["exit"])
        with pytest.raises(RemoteError, match="LookupError"):
            await node.rpc(node.name, "m", "fail", ["error"])
        for module, function, args in (("os", "getpid", []), ("m", "nothing", []), ("m", "fail", [1, 2])):
            with pytest.raises(RemoteError) as caught:
                await node.rpc(node.name, module, function, args)
            assert caught.value.reason is Atom("undef")
            assert caught.value.stack == [(Atom(module), Atom(function), args, [])]

    run(test)


def test_from_other_threads() -> None:
    async def test(node: Node) -> None:
        node.register("calc", Calc)
        node.export("m", "f", lambda: 5)
        results: list[Any] = []

        def work() -> None:
            results.append(node.blocking.call("calc", (Atom("add"), 2, 3)))
            node.send("calc", 5)
            node.blocking.cast("calc", 1)
            results.append(node.blocking.call("calc", Atom("total")))
            results.append(node.blocking.rpc(node.name, "m", "f"))
            with pytest.raises(EncodeError):
                node.send("calc", object())

        await asyncio.to_thread(work)
        assert results == [5, 101, 5]
        with pytest.raises(Exception, match="would block the event loop"):
            node.blocking.call("calc", 1)

    run(test)


def test_a_long_chain_of_links_ends_as_one() -> None:
    async def test(node: Node) -> None:
        chain = [node.spawn(echo) for _ in range(5000)]
        for left, right in itertools.pairwise(chain):
            left.link(right.pid)
        last = node.monitor(chain[-1].pid)
        chain[0].on_exit_signal(chain[0].pid, Atom("boom"), linked=False)
        assert await last is Atom("boom")
        assert not any(process.alive for process in chain)

    run(test)


def test_nobody_can_end_the_process_that_calls_for_others() -> None:
    async def test(node: Node) -> None:
        node.register("calc", Calc)
        async with node.process() as me:
            me.send_exit(node.router.caller.pid, "kill")
            me.link(node.router.caller.pid)
        assert await node.call("calc", (Atom("add"), 1, 2)) == 3

    run(test)


def test_nothing_comes_from_a_process_after_its_end() -> None:
    async def test(node: Node) -> None:
        async with node.process("me") as me:
            other = Process(node.router, "other")
            other.kill()
            for act in (
                lambda: other.send(me.pid, 1),
                lambda: other.link(me.pid),
                lambda: other.monitor(me.pid),
                lambda: other.send_exit(me.pid, "x"),
                lambda: other.spawn(echo),
            ):
                with pytest.raises(ProcessExit):
                    act()
            assert not me.mailbox.queue and me.alive

    run(test)


def test_a_server_may_send_while_the_node_closes() -> None:
    got: list[Any] = []
    began: list[Any] = []

    class Last(GenServer):
        def init(self) -> None:
            began.append(self)

        async def terminate(self, reason: Any) -> None:
            self.send("sink", reason)

    async def test(node: Node) -> None:
        node.register("sink", got.append, inline=True)
        node.register("last", Last)
        await until(lambda: began)

    run(test)
    assert got == [Atom("shutdown")]


def test_a_waiting_coroutine_sees_the_end_of_its_process() -> None:
    async def test(node: Node) -> None:
        async with node.process() as me:
            asyncio.get_running_loop().call_soon(me.kill)
            with pytest.raises(ProcessExit):
                await me.receive()
            with pytest.raises(ProcessExit):
                await me.receive()

    run(test)


def test_closing_ends_everything() -> None:
    seen: list[str] = []

    async def waits(me: Process) -> None:
        try:
            await me.receive()
        finally:
            seen.append("cleaned up")

    async def main() -> None:
        node = Node("unit@127.0.0.1", "secret", listen=None)
        await node.start()
        process = node.spawn(waits)
        await asyncio.sleep(0)
        call = asyncio.ensure_future(node.call(process.pid, 1, None))
        await asyncio.sleep(0)
        seen.clear()
        node.spawn(waits)
        await asyncio.sleep(0)
        await node.close()
        await node.close()
        await node.wait_closed()
        with pytest.raises((CallExit, ValueError, NoProc)):
            await call
        assert not node.router.processes
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    asyncio.run(main())
    assert "cleaned up" in seen


@pytest.mark.parametrize("name", ["py", "py@", "@host", "a@b@c", "a b@c", ""])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="not a node name"):
        Node(name, "secret", listen=None)
