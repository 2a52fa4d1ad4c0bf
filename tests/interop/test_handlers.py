"""Handlers as Python users write them, driven by a BEAM: plain functions, blocking and inline methods, restarts,
asyncio's own tools inside a handler, results and reasons that have no term."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from beamkit import pyapp
from beamkit.beam import Beam

from node import Atom, GenServer, NoReply, Process, Reply, Stop

pytestmark = pytest.mark.usefixtures("python_only")


class Sync(GenServer):
    """`def` methods: they run in a worker thread."""

    def init(self, start: int = 0):
        self.total = start

    def handle_call(self, request, caller):
        match request:
            case (Atom("add"), n):
                self.total += n
                return self.total
            case (Atom("block"), ms):
                time.sleep(ms / 1000)
                return Atom("done")
            case Atom("none"):
                return Reply(None)
            case (Atom("idle"), ms):
                return Reply(Atom("ok"), timeout=ms / 1000)
            case (Atom("later"), value):
                self.later = (caller, value)
                return NoReply()
            case Atom("nan"):
                return float("nan")
            case Atom("huge_text"):
                raise ValueError("x" * 5_000_000)
            case Atom("recursion"):
                return self.handle_call(request, caller)
            case Atom("surrogate"):
                raise ValueError("\ud800")
            case Atom("total"):
                return self.total

    def handle_cast(self, request):
        if request is Atom("now"):
            self.reply(*self.later)
        elif request is Atom("stop"):
            return Stop(Atom("cast_said_so"))
        return None

    def handle_info(self, message):
        if message is Atom("timeout"):
            self.total = -1

    def terminate(self, reason):
        ended.append(reason)


ended: list = []


class Refuses(GenServer):
    async def init(self):
        return Stop(Atom("not_today"))


async def tools(me: Process) -> None:
    """asyncio.timeout, TaskGroup, to_thread in a handler; its task is a real one."""
    while True:
        sender, ref, what = await me.receive()
        try:
            async with asyncio.timeout(0.02):
                await me.receive(match=lambda message: message is Atom("never"))
        except TimeoutError:
            result = [Atom("timeout")]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0, n)) for n in range(3)]
        result += [task.result() for task in tasks]
        result.append(await asyncio.to_thread(lambda: 7))
        result.append(asyncio.current_task() is not None)
        me.send(sender, (ref, [*result, what]))


async def says_nan(me: Process) -> None:
    await me.receive()
    me.exit((Atom("bad"), float("nan")))


def double(message):
    """A plain function: each message is its argument."""
    return 2 * message


def app(node) -> None:
    ended.clear()
    pyapp.app(node)
    node.register("sync", Sync, 10, restart="permanent")
    node.register("inline", Sync, inline=True, restart="transient")
    node.register("temporary", Sync)
    node.register("double", double)
    node.register("double_inline", double, inline=True)
    node.register("tools", tools)
    node.register("says_nan", says_nan)
    node.export("py", "nan", lambda: float("nan"))
    node.export("py", "obj", object)


@pytest.fixture
def node(start_node):
    return start_node(app=app)


def test_plain_functions(beam: Beam, node) -> None:
    text = """
        {gen_server:call({double, Py}, 4), gen_server:call({double_inline, Py}, 5), begin {double, Py} ! 6, ok end,
         gen_server:call({double, Py}, "ab"),
         [gen_server:call({double, Py}, N) || N <- lists:seq(1, 200)] =:= [2 * N || N <- lists:seq(1, 200)]}
        """
    assert beam.eval(text, Py=node.name) == '{8,10,ok,"abab",true}'


@pytest.mark.parametrize("name", ["sync", "inline", "temporary"])
def test_gen_server_of_plain_methods(beam: Beam, node, name: str) -> None:
    start = 10 if name == "sync" else 0
    text = """
        [gen_server:call({Name, Py}, {add, 1}) || _ <- lists:seq(1, 100)],
        R = gen_server:send_request({Name, Py}, {later, late}),
        none = case gen_server:call({Name, Py}, none) of undefined -> none end,
        timeout = gen_server:wait_response(R, 0),
        gen_server:cast({Name, Py}, now),
        {reply, late} = gen_server:receive_response(R, 20000),
        gen_server:call({Name, Py}, total)
        """
    assert beam.eval(text, Py=node.name, Name=name) == str(start + 100)


def test_timeout_of_a_reply(beam: Beam, node) -> None:
    text = """
        ok = gen_server:call({sync, Py}, {idle, 1}),
        Try = fun Try() -> case rpc:call(Py, py, add, [0, 0]) of 0 -> timer:sleep(20) end end,
        Try(),
        gen_server:call({sync, Py}, total)
        """
    assert beam.eval(text, Py=node.name) in ("-1", "10")


def test_a_blocking_method_stalls_only_its_server(beam: Beam, node) -> None:
    text = """
        Slow = gen_server:send_request({sync, Py}, {block, 1000}),
        Waits = gen_server:send_request({sync, Py}, total),
        [3 = gen_server:call({calc, Py}, {add, 1, 2}) || _ <- lists:seq(1, 50)],
        8 = gen_server:call({double, Py}, 4),
        timeout = gen_server:wait_response(Waits, 0),
        {reply, done} = gen_server:receive_response(Slow, 20000),
        gen_server:receive_response(Waits, 20000)
        """
    assert beam.eval(text, Py=node.name) == "{reply,10}"


def test_restarts(beam: Beam, node) -> None:
    """permanent comes back with its arguments, transient after a crash, temporary not."""
    text = """
        Stop = fun(Name) -> M = monitor(process, {Name, Py}), gen_server:cast({Name, Py}, stop),
                   receive {'DOWN', M, process, _, R} -> R after 20000 -> none end end,
        Reasons = [Stop(N) || N <- [sync, inline, temporary]],
        Again = fun Again(0, _) -> gone;
                    Again(N, Name) -> try gen_server:call({Name, Py}, total)
                                      catch exit:{noproc, _} -> timer:sleep(5), Again(N - 1, Name) end end,
        {Reasons, [Again(20, N) || N <- [sync, inline, temporary]]}
        """
    want = "{[cast_said_so,cast_said_so,cast_said_so],[10,0,gone]}"
    assert beam.eval(text, Py=node.name) == want
    assert ended == [Atom("cast_said_so")] * 3


def test_asyncio_tools_in_a_handler(beam: Beam, node) -> None:
    text = """
        Ask = fun(W) -> R = make_ref(), {tools, Py} ! {self(), R, W}, receive {R, V} -> V after 20000 -> none end end,
        [Ask(W) || W <- [a, b]]
        """
    assert beam.eval(text, Py=node.name) == "[[timeout,0,1,2,7,true,a],[timeout,0,1,2,7,true,b]]"


def test_a_reply_that_has_no_term(beam: Beam, node) -> None:
    """The server crashes, the caller sees the exit, the connection stays."""
    text = """
        pong = net_adm:ping(Py), monitor_node(Py, true),
        Reason = try gen_server:call({sync, Py}, nan)
                 catch exit:{{{python, What, Text}, _}, _} -> {What, is_binary(Text)} end,
        {badrpc, {'EXIT', {{python, W1, _}, _}}} = rpc:call(Py, py, nan, []),
        {badrpc, {'EXIT', {{python, W2, _}, _}}} = rpc:call(Py, py, obj, []),
        3 = gen_server:call({calc, Py}, {add, 1, 2}),
        {Reason, W1, W2, interop_peer:all()}
        """
    assert beam.eval(text, Py=node.name) == "{{'EncodeError',true},'EncodeError','EncodeError',[]}"


def test_an_exit_reason_that_has_no_term(beam: Beam, node) -> None:
    """DOWN still comes, with a readable stand-in, and the connection stays."""
    text = """
        monitor_node(Py, true), M = monitor(process, {says_nan, Py}), {says_nan, Py} ! go,
        {'DOWN', M, process, {says_nan, Py}, {python, 'EncodeError', Text}} = interop_peer:got(),
        3 = gen_server:call({calc, Py}, {add, 1, 2}),
        {is_binary(Text), interop_peer:all()}
        """
    assert beam.eval(text, Py=node.name) == "{true,[]}"


@pytest.mark.parametrize("how", ["huge_text", "recursion", "surrogate"])
def test_crash_reasons_are_bounded(beam: Beam, node, how: str) -> None:
    text = """
        try gen_server:call({sync, Py}, How, 30000)
        catch exit:{{{python, What, Text}, Stack} = Reason, _} ->
            {What, is_binary(Text), byte_size(term_to_binary(Reason)) < 20000, length(Stack) < 100}
        end
        """
    what = "RecursionError" if how == "recursion" else "ValueError"
    assert beam.eval(text, Py=node.name, How=how) == f"{{'{what}',true,true,true}}"


def test_init_that_stops(beam: Beam, start_node, caplog: pytest.LogCaptureFixture) -> None:
    """A temporary server that refuses in init is simply not there."""

    def with_refusal(node) -> None:
        app(node)
        node.register("refuses", Refuses)

    node = start_node(app=with_refusal)
    text = "try gen_server:call({refuses, Py}, x) catch exit:{R, _} -> R end"
    assert beam.eval(text, Py=node.name) in ("noproc", "not_today")
    assert beam.eval("gen_server:call({calc, Py}, {add, 1, 2})", Py=node.name) == "3"


def test_too_many_restarts_stop_the_node(beam: Beam, start_python, caplog: pytest.LogCaptureFixture) -> None:
    """A permanent server that keeps crashing: the process ends with a non-zero exit code, the BEAM sees nodedown."""
    python = start_python()
    text = """
        monitor_node(Py, true),
        Kill = fun Kill() -> gen_server:cast({rex, Py}, nothing),
                   try gen_server:call({calc, Py}, {raise, <<"again">>}) catch _:_ -> ok end,
                   receive {nodedown, Py} -> nodedown after 5 -> Kill() end end,
        Kill()
        """
    with caplog.at_level(logging.CRITICAL):
        assert beam.eval(text, Py=python.name) == "nodedown"
    assert python.process.wait(30) != 0


def test_sys_functions(beam: Beam, node) -> None:
    """sys:get_state, get_status, suspend, resume of a Python GenServer; replace_state with a fun is refused."""
    text = """
        S = {sync, Py},
        #{total := 10} = sys:get_state(S),
        {status, Pid, {module, _}, [_, running | _]} = sys:get_status(S),
        ok = sys:suspend(S),
        R = gen_server:send_request(S, total), timeout = gen_server:wait_response(R, 0),
        {status, Pid, _, [_, suspended | _]} = sys:get_status(S),
        ok = sys:resume(S),
        {reply, 10} = gen_server:receive_response(R, 20000),
        Replaced = try sys:replace_state(S, fun(_) -> 1 end) catch _:_ -> refused end,
        10 = gen_server:call(S, total),
        {node(Pid) =:= Py, Replaced, gen_server:stop(S)}
        """
    assert beam.eval(text, Py=node.name) == "{true,refused,ok}"
