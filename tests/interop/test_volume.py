"""Much at once: large messages, many messages in order from several senders, both ways."""

from __future__ import annotations

import asyncio

import pytest
from beamkit.beam import Beam

MEGABYTES = 20


def test_a_large_message_each_way(beam: Beam, subject) -> None:
    text = """
        B = crypto:strong_rand_bytes(Size),
        {B =:= interop_peer:echo(Py, B), B =:= gen_server:call({calc, Py}, {echo, B}, 30000)}
        """
    assert beam.eval(text, Py=subject.name, Size=MEGABYTES << 20) == "{true,true}"


def test_a_large_message_of_many_terms(beam: Beam, subject) -> None:
    text = """
        L = [{N, integer_to_binary(N), [N, N + 1, N + 2], #{N => atom}} || N <- lists:seq(1, 200000)],
        L =:= interop_peer:echo(Py, L)
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_small_calls_beside_a_large_message(beam: Beam, subject) -> None:
    """Others are answered while large messages go to and fro."""
    text = """
        B = binary:copy(<<1,2,3,4,5,6,7,8>>, Size div 8), Me = self(),
        Pids = [spawn_link(fun() -> Me ! {self(), B =:= interop_peer:echo(Py, B)} end) || _ <- [1, 2, 3]],
        [3 = gen_server:call({calc, Py}, {add, 1, 2}, 30000) || _ <- lists:seq(1, 200)],
        [receive {P, Same} -> Same end || P <- Pids]
        """
    assert beam.eval(text, Py=subject.name, Size=MEGABYTES << 20) == "[true,true,true]"


@pytest.mark.parametrize("senders", [1, 10])
def test_messages_from_a_beam_come_in_order(beam: Beam, subject, senders: int) -> None:
    """A puppet passes each on to the test's process: all there, each sender's in order, both ways."""
    text = """
        P = interop_peer:puppet(Py), Each = 10000 div Senders,
        interop_peer:flood(P, Senders, Each),
        Got = [receive {puppet, P, {Index, N}} -> {Index, N} after 20000 -> error(missing) end
               || _ <- lists:seq(1, 10000)],
        {[ok || I <- lists:seq(1, Senders), [N || {J, N} <- Got, J =:= I] =:= lists:seq(1, Each)] =:=
             lists:duplicate(Senders, ok), interop_peer:all()}
        """
    assert beam.eval(text, Py=subject.name, Senders=senders) == "{true,[]}"


def test_ten_thousand_calls_in_flight(beam: Beam, subject) -> None:
    text = """
        Ids = [gen_server:send_request({calc, Py}, {add, N, 1}) || N <- lists:seq(1, 10000)],
        Sums = [begin {reply, V} = gen_server:receive_response(Id, 30000), V end || Id <- Ids],
        Sums =:= lists:seq(2, 10001)
        """
    assert beam.eval(text, Py=subject.name) == "true"


def test_ten_thousand_monitors(beam: Beam, subject) -> None:
    text = """
        P = interop_peer:puppet(Py),
        Ms = [monitor(process, P) || _ <- lists:seq(1, 10000)],
        interop_peer:tell(P, {exit, bye}),
        Downs = [receive {'DOWN', D, process, P, bye} -> D after 20000 -> error(no_down) end || _ <- Ms],
        {lists:sort(Downs) =:= lists:sort(Ms), interop_peer:all()}
        """
    assert beam.eval(text, Py=subject.name) == "{true,[]}"


# -- from Python -------------------------------------------------------------------------------------


def test_messages_from_python_come_in_order(beam: Beam, subject, python_only: None) -> None:
    """10,000 from several processes of the node to one name of the BEAM."""
    senders, each = 8, 1250

    async def flood(node) -> None:
        async def sender(me, index: int) -> None:
            for n in range(1, each + 1):
                me.send(("collector", beam.name), (index, n))
                if n % 100 == 0:
                    await asyncio.sleep(0)

        for index in range(senders):
            node.spawn(sender, index)

    waiting = beam.submit("P = interop_peer:collect_start(Total), interop_peer:collect_wait(P)", Total=senders * each)
    beam.eval("(fun W() -> case whereis(collector) of undefined -> timer:sleep(5), W(); P -> P end end)()")
    subject.do(flood)
    want = "{ok,[" + ",".join(f"{{{i},{each}}}" for i in range(senders)) + "]}"
    assert waiting.result(60).decode() == want


def test_large_messages_from_python(beam: Beam, subject, python_only: None) -> None:
    """deliver() waits for room: none is lost, none is refused."""
    block = bytes(range(256)) * 4096

    async def send(node) -> None:
        for n in range(1, 101):
            await node.deliver(("collector", beam.name), (block, n))

    waiting = beam.submit("""
        register(collector, self()), put(ready, yes),
        R = [receive {B, N} -> {byte_size(B), N} after 20000 -> error(missing) end || N <- lists:seq(1, 100)],
        unregister(collector), lists:usort([S || {S, _} <- R])
        """)
    beam.eval("(fun W() -> case whereis(collector) of undefined -> timer:sleep(5), W(); P -> P end end)()")
    subject.do(send)
    assert waiting.result(60).decode() == f"[{len(block)}]"
