"""strawman on a BEAM among strangers: what they are not let to do, and that they fill nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import pytest
from beamkit.beam import Beam
from beamkit.strawbeam import BIG, ENVELOPE, OTPS, counted, envelope, next_of
from membranekit.local import damaged, raw_domain
from membranekit.processes import HostProcess
from waiting import run, until

from node import Atom, etf
from pores.backends.local import LocalBackend
from pores.errors import XenstoreError
from pores.straw import Straw
from pores.xenstore.client import XenStore

pytestmark = pytest.mark.usefixtures("python_only")


@OTPS
def test_nobody_is_reached_until_exported(
    domain: Callable[..., Beam], host: HostProcess, rundir: str, otp: str
) -> None:
    async def test() -> None:
        beam = domain(otp, 6)
        for name in ("rex", "strawman", "init", "membrane", "{user, node()}", "whereis(init)"):
            assert await beam.ask(f"strawman:export({name})") == "{error,service}"
        assert await beam.ask("strawman:export(fine, #{to => code_server})") == "{error,service}"
        assert await beam.ask("[strawman:export(X, O) || {X, O} <- [{5, #{}}, {a, #{b => c}}, {a, b}]]") == (
            "[{error,badarg},{error,badarg},{error,badarg}]"
        )
        assert await beam.ask("strawman:export(told, #{to => inbox, domains => [9], sender => true})") == "ok"
        assert await beam.ask("strawman:export(other, #{to => inbox, domains => [8]})") == "ok"
        async with raw_domain(rundir, 9) as enemy:
            straw: Straw = await enemy.open(6)
            for name in ("rex", "private", "init", "strawman", (Atom("inbox"), Atom("nonode@nohost"))):
                await straw.send(envelope(name, 1))
            await counted(beam, "unknown", 5)
            for message in (
                (Atom("$gen_call"), (1, 2), Atom("count")),
                (Atom("$gen_call"), Atom("x"), Atom("count")),
                (Atom("EXIT"), 1, Atom("kill")),
                (Atom("system"), (1, 2), Atom("get_state")),
                (Atom("DOWN"), 1, Atom("process"), 2, Atom("normal")),
            ):
                await straw.send(envelope("inbox", message))
            await straw.send(envelope("other", Atom("no")))
            await counted(beam, "refused", 6)
            await straw.send(envelope("told", Atom("yes")))
            assert await beam.ask("strawman_probe:next()") == "{straw,9,yes}"
            await straw.send(envelope((6, Atom("inbox")), Atom("here")))
            assert await beam.ask("strawman_probe:next()") == "here"
            assert await beam.ask("strawman:unexport(told)") == "ok"
            await straw.send(envelope("told", Atom("yes")))
            await counted(beam, "unknown", 6)
            await beam.ask("exit(whereis(private), kill), strawman:export(private)")
            await straw.send(envelope("private", Atom("yes")))
            await counted(beam, "undelivered", 1)

            # Whatever it writes: no atom is made, and the straw lives on.
            before = int(await beam.ask("erlang:system_info(atom_count)"))
            dice = random.Random(5)
            honest = envelope("inbox", {Atom("k"): [1, b"x" * 40, 2.5]})
            for n in range(3000):
                await straw.send(envelope("inbox", Atom(f"strange{n}")))
                await straw.send(envelope(f"stranger{n}", 1))
                await straw.send(damaged(honest, dice))
            await straw.send(b"\x83" + b"l\x00\x00\x00\x01" * 100_000)
            await straw.send(bytes((16 << 20) + 1))
            await straw.send(envelope("inbox", Atom("last")))
            while await next_of(beam) is not Atom("last"):
                pass
            await counted(beam, "malformed", 500)
            await counted(beam, "oversized", 1)
            await counted(beam, "unknown", 6000)
            assert int(await beam.ask("erlang:system_info(atom_count)")) - before < 500
            assert straw.closed == ""

    run(test)


@OTPS
def test_a_slow_peer(domain: Callable[..., Beam], host: HostProcess, rundir: str, otp: str) -> None:
    """What is unsent is bounded; the rest is dropped, counted and told; what the peer sends is read all the same."""

    async def test() -> None:
        beam = domain(otp, 6)
        async with raw_domain(rundir, 9) as slow:
            straw: Straw = await slow.open(6)
            straw.pause()
            flood = """
                {ok, Straw} = strawman:split(9),
                Big = binary:copy(<<"x">>, 1 bsl 20),
                [Straw ! {envelope, buddy, {N, Big}} || N <- lists:seq(1, 40)],
                Told = receive {straw_busy, 9} -> told after 20000 -> no end,
                {Told, strawman:send({9, buddy}, 1), receive {straw_busy, 9} -> twice after 0 -> once end}
                """
            assert await beam.ask(flood) == "{told,{error,straw_busy},once}"
            await straw.send(envelope("inbox", Atom("still")))
            assert await beam.ask("strawman_probe:next()") == "still"
            dropped = int(await beam.ask("maps:get(dropped_busy, strawman:counts())"))
            straw.resume()
            for n in range(1, 41 - (dropped - 1)):
                _, _, (number, big) = etf.decode(await straw.receive())
                assert (number, len(big)) == (n, BIG)
            assert await beam.ask("strawman:send({9, buddy}, after_all)") == "ok"
            assert etf.decode(await straw.receive()) == (ENVELOPE, Atom("buddy"), Atom("after_all"))

    run(test)


@OTPS
def test_a_slow_receiver(domain: Callable[..., Beam], host: HostProcess, rundir: str, otp: str) -> None:
    """A process that does not read its mailbox stops the straw that fills it; all of it arrives in the end."""

    async def test() -> None:
        beam = domain(otp, 6)
        slow = """
            register(slow, spawn(fun() ->
                receive go -> ok end,
                (fun Loop(N) -> receive {N, _} -> Loop(N + 1); {tell, P} -> P ! {count, N}, Loop(N) end end)(0)
            end)), strawman:export(slow)
            """
        assert await beam.ask(slow) == "ok"
        async with raw_domain(rundir, 9) as flooder:
            straw: Straw = await flooder.open(6)
            count = 100_000
            sent = 0
            while sent < count and straw.send_nowait(envelope("slow", (sent, bytes(300)))):
                sent += 1
                if sent % 100 == 0:
                    await asyncio.sleep(0)
            waiting = "element(2, process_info(whereis(slow), message_queue_len))"
            assert sent < count, "the rest is with its sender"
            await beam.ask_until(f"{waiting} > 20000", "true")
            for _ in range(10):  # and in the ring, however long it takes
                await asyncio.sleep(0.05)
                assert int(await beam.ask(waiting)) < 25_000
            assert await beam.ask("slow ! go, ok") == "ok"
            while sent < count:
                await straw.send(envelope("slow", (sent, bytes(300))))
                sent += 1
            await beam.ask_until("slow ! {tell, self()}, receive {count, N} -> N end", str(count))

    run(test)


@OTPS
def test_strangers_in_the_store(domain: Callable[..., Beam], host: HostProcess, rundir: str, otp: str) -> None:
    """Knocks in another's name, refs that nobody granted, states that nobody has: counted, and straws work on."""

    async def test() -> None:
        beam = domain(otp, 6)
        store = await XenStore.connect(f"{rundir}/xenstored/socket")
        backend = await LocalBackend.connect(rundir, 9)
        mine = await backend.store()
        try:
            await mine.mkdir("data/warts/6")
            await mine.write("data/warts/6/straw", "/local/domain/6/data/straw/8")
            await mine.write("data/warts/6/state", "2")
            ours = "/local/domain/6/data/straw"
            for n, (name, value) in enumerate(
                [
                    ("8", "/local/domain/8/data/warts/6"),  # not its domain
                    ("08", "/local/domain/9/data/warts/6"),
                    ("6", "/local/domain/6/data/warts/6"),
                    ("9", "/local/domain/9/data/warts/7"),
                    ("10", "x" * 1000),
                ]
            ):
                await mine.mkdir(f"{ours}/{name}")
                await mine.write(f"{ours}/{name}/warts", value)
                await beam.ask_until("lists:sum([0 | maps:values(membrane:counts())]) > N".replace("N", str(n)), "true")
            await beam.ask_until(
                "{membrane:pores(), straw_backend:held()}", "{#{},#{channels => 0,grants => 0,mappings => 0}}"
            )
        finally:
            await mine.close()
            await backend.close()
        async with raw_domain(rundir, 10) as honest:
            for name in ("8", "08", "6", "10"):
                with contextlib.suppress(Exception):
                    await store.delete(f"/local/domain/6/data/straw/{name}")
            straw: Straw = await honest.open(6)
            await straw.send(envelope("inbox", Atom("yes")))
            assert await beam.ask("strawman_probe:next()") == "yes"
        assert await beam.ask("application:stop(straw)") == "ok"
        await store.close()

    run(test)


def test_a_crowd_of_forged_knocks(domain: Callable[..., Beam], host: HostProcess, rundir: str) -> None:
    """A stranger fills our tree as far as the store lets it: nothing comes of it, and a start removes it all."""

    async def test() -> None:
        beam = domain("otp25", 6)
        backend = await LocalBackend.connect(rundir, 8)
        store = await backend.store()
        made = 0
        with contextlib.suppress(XenstoreError):
            for n in range(10_000, 12_000):
                path = f"/local/domain/6/data/straw/{n}"
                await store.mkdir(path)
                await store.write(f"{path}/warts", f"/local/domain/{n}/data/warts/6")
                made += 1
        assert made > 100
        await beam.ask_until("maps:get(unreadable, membrane:counts(), 0) >= 100", "true")
        await beam.ask_until("membrane:pores()", "#{}")  # one may be looked at just now
        # Killed and started again, as the same domain of the same host.
        await beam.ask("persistent_term:put(killed, whereis(membrane)), exit(whereis(membrane), kill)")
        again = "is_pid(whereis(membrane)) andalso whereis(membrane) =/= persistent_term:get(killed)"
        await beam.ask_until(again, "true")
        await until(lambda: is_empty(store, "/local/domain/6/data/straw"))
        await beam.ask_until("catch strawman:domid()", "6")
        await store.close()
        await backend.close()
        async with raw_domain(rundir, 9) as honest:
            straw: Straw = await honest.open(6)
            await straw.send(envelope("inbox", Atom("yes")))
            assert await beam.ask("strawman_probe:next()") == "yes"

    run(test)


async def is_empty(store: XenStore, path: str) -> bool:
    """Not while it is made anew: before it has its permissions it is not ours to see."""
    with contextlib.suppress(XenstoreError):
        return await store.list(path) == []
    return False
