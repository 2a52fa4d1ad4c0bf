"""Whole straws between domains of one host, in one process: sizes, order, back-pressure, ends."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # membranekit; there is no __init__.py below tests/

from membranekit.local import Node, make_node, nodes, run, settled

from pores.active import all_of, any_of
from pores.aio import Membrane
from pores.backends import local
from pores.errors import MembraneError, PoreClosed, PoreTooBig, XenstoreError
from pores.host.server import Host
from pores.keys import Terms
from pores.straw import Straw

LING_LIKE = Terms()
RINGS = [LING_LIKE, Terms(dialect="otp"), Terms(dialect="otp", ring_bytes=4096, suppress=True), None]


@pytest.mark.parametrize("wishes", RINGS)
def test_frames_of_every_size_both_ways(tmp_path: Path, wishes: Terms | None) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h", wishes=wishes) as (_, one, other):
            ours, theirs = await one.open(other)
            assert ours.peer == other.domid and theirs.peer == one.domid
            assert ours.we_opened and not theirs.we_opened
            for size in (0, 1, 3, 4, 5, 100, 4091, 4092, 4096, 16371, 16372, 16376, 100_000, 1 << 20):
                frame = os.urandom(size)
                await ours.send(frame)
                assert await theirs.receive() == frame
                await theirs.send(frame)
                assert await ours.receive() == frame
            await ours.close()

    run(test)


@pytest.mark.parametrize("wishes", RINGS)
def test_many_frames_at_once_keep_their_order(tmp_path: Path, wishes: Terms | None) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h", wishes=wishes) as (_, one, other):
            ours, theirs = await one.open(other)
            frames = [n.to_bytes(4, "big") * (n % 700) for n in range(3000)]

            async def send(straw: Straw) -> None:
                for frame in frames:
                    await straw.send(frame)

            async def receive(straw: Straw) -> None:
                for frame in frames:
                    assert await straw.receive() == frame

            # Both directions are full at the same time: reading never waits for writing.
            await asyncio.gather(send(ours), send(theirs), receive(ours), receive(theirs))
            assert ours.frames_out == theirs.frames_in == len(frames)

    run(test)


@pytest.mark.parametrize("size", [4092, 4093, 5000, 8192, 8193])
def test_a_frame_that_the_ring_never_holds_leaves_with_small_ones(tmp_path: Path, size: int) -> None:
    async def test() -> None:
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
        async with nodes(tmp_path / "h", wishes=RINGS[2]) as (_, one, other):
            ours, theirs = await one.open(other)
            frames = [b"a", b"b" * 100, b"c" * size, b"d", b"e" * size, b"f"]
            assert all(ours.send_nowait(frame) for frame in frames)
            assert [await theirs.receive() for _ in frames] == frames
        assert failures == []

    run(test)


def test_a_slow_reader_makes_the_writer_wait(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h") as (_, one, other):
            ours, theirs = await one.open(other)
            theirs.pause()
            ours.unsent_limit = 1 << 20
            frame = b"x" * 100_000
            count = 0
            while ours.send_nowait(frame):
                count += 1
            assert ours.busy and ours.unsent > 1 << 20
            waiting = asyncio.create_task(ours.send(frame))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            theirs.resume()
            for _ in range(count + 1):
                assert await theirs.receive() == frame
            await waiting
            await ours.drain()
            assert not ours.unsent

    run(test)


@pytest.mark.parametrize("wishes", RINGS)
def test_answers_of_one_look_leave_together_and_in_order(tmp_path: Path, wishes: Terms | None) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h", wishes=wishes) as (_, one, other):
            ours, theirs = await one.open(other)

            def answer(frames: list[bytes]) -> None:
                for frame in frames:
                    assert theirs.send_nowait(frame + b" yes") and theirs.send_nowait(frame)

            theirs.on_frames(answer)
            frames = [b"%d" % n * (n % 300) for n in range(1000)]
            for frame in frames:
                ours.send_nowait(frame)
            for frame in frames:
                assert await ours.receive() == frame + b" yes"
                assert await ours.receive() == frame
            assert not theirs.unsent and theirs.frames_out == 2000 and theirs.frames_in == 1000
            if wishes is None:
                assert theirs.pore.info().pokes < 1000
            await ours.close()

    run(test)


def test_a_callback_that_fails_has_answered_what_it_has(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h") as (_, one, other):
            ours, theirs = await one.open(other)
            failed: list[dict[str, object]] = []
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: failed.append(context))

            def answer(frames: list[bytes]) -> None:
                theirs.send_nowait(frames[0])
                raise ValueError(frames)

            theirs.on_frames(answer)
            for n in range(3):
                ours.send_nowait(b"%d" % n)
                assert await ours.receive() == b"%d" % n
            assert len(failed) == 3
            await ours.close()

    run(test)


@pytest.mark.parametrize("wishes", RINGS)
def test_frames_in_pieces_and_as_views(tmp_path: Path, wishes: Terms | None) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h", wishes=wishes) as (_, one, other):
            ours, theirs = await one.open(other)
            got: list[bytes] = []
            kinds: set[type] = set()

            def callback(frames: list[bytes | memoryview]) -> None:
                kinds.update(map(type, frames))
                got.extend(map(bytes, frames))

            theirs.on_frames(callback, views=True)
            sent = []
            for size in (0, 1, 100, 20_000, 300_000, 3 << 20, 5 << 20, 7):
                pieces = [b"head", os.urandom(size), b"", b"tail"]
                for frame in ([b"before"], pieces, [b"after"]):
                    assert ours.send_nowait(frame)
                    sent.append(b"".join(frame))
                await settled(lambda: len(got) == len(sent))
            assert got == sent and ours.frames_out == theirs.frames_in == len(sent) and not ours.unsent
            assert kinds == {bytes, memoryview}, "those that the ring does not hold"
            await ours.close()

    run(test)


def test_pieces_count_as_what_is_unsent(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h") as (_, one, other):
            ours, theirs = await one.open(other)
            theirs.pause()
            ours.unsent_limit = 1 << 20
            count = 0
            while ours.send_nowait([b"x" * 50_000] * 2):
                count += 1
            assert ours.busy and count >= 10
            assert not ours.send_nowait(b"no")
            theirs.resume()
            for _ in range(count):
                assert await theirs.receive() == b"x" * 100_000
            await ours.close()
            with pytest.raises(PoreClosed):
                ours.send_nowait([b"late"])

    run(test)


@pytest.mark.parametrize("wishes", RINGS)
def test_a_frame_begun_with_others_behind_it(tmp_path: Path, wishes: Terms | None) -> None:
    """More than half a ring is in it, and the peer takes nothing before it is whole: half a ring will never be free."""

    async def test() -> None:
        async with nodes(tmp_path / "h", wishes=wishes) as (_, one, other):
            ours, theirs = await one.open(other)
            ring = ours.pore.info().out_size
            theirs.pause()
            first, long = bytes(ring * 3 // 10), os.urandom(ring * 9 // 10)
            assert ours.send_nowait([first[:100], first[100:]])
            assert ours.send_nowait([long[:100], long[100:]])
            assert ours.send_nowait([bytes(ring), bytes(ring)])
            theirs.resume()
            for frame in (first, long, bytes(2 * ring)):
                assert await theirs.receive() == frame
            await ours.close()

    run(test)


@pytest.mark.parametrize("wishes", RINGS)
def test_a_long_frame_that_is_not_whole_at_the_end(tmp_path: Path, wishes: Terms | None) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h", wishes=wishes) as (_, one, other):
            ours, theirs = await one.open(other)
            await ours.send(b"whole")
            ours.send_nowait(bytes(3 << 20))
            assert await theirs.receive() == b"whole"
            await ours.close("enough", flush=0)
            with pytest.raises(PoreClosed):
                await theirs.receive()
            assert theirs.truncated

    run(test)


def test_a_callback_gets_all_that_one_look_brought(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h") as (_, one, other):
            ours, theirs = await one.open(other)
            got: list[bytes] = []
            ended: list[str] = []
            theirs.on_frames(got.extend)
            theirs.on_closed(ended.append)
            for n in range(100):
                ours.send_nowait(b"%d" % n)
            await ours.close("enough")
            await settled(lambda: ended)
            assert got == [b"%d" % n for n in range(100)] and ended == ["peer_closed"]
            assert ours.closed == "enough" and theirs.closed == "peer_closed" and not theirs.truncated

    run(test)


def test_what_was_sent_before_the_end_is_delivered_before_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h") as (_, one, other):
            for closer in (0, 1):
                ends = await one.open(other)
                mine, yours = ends[closer], ends[1 - closer]
                for n in range(50):
                    mine.send_nowait(b"%d" % n)
                await mine.close()
                assert [frame async for frame in yours] == [b"%d" % n for n in range(50)]
                with pytest.raises(PoreClosed, match="peer_closed"):
                    await yours.receive()
                with pytest.raises(PoreClosed):
                    mine.send_nowait(b"")
                await settled(lambda: not one.membrane.machine.pores and not other.membrane.machine.pores)

    run(test)


def test_the_end_in_the_middle_of_a_frame_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h") as (_, one, other):
            ours, theirs = await one.open(other)
            ours.send_nowait(b"whole")
            await ours.drain()
            ours.pore.write(b"\0\0\0\x0512")
            await ours.close()
            assert await theirs.receive() == b"whole"
            with pytest.raises(PoreClosed):
                await theirs.receive()
            assert theirs.truncated

    run(test)


def test_frames_beyond_the_limit_are_dropped_and_the_straw_lives(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h") as (_, one, other):
            ours, theirs = await one.open(other)
            theirs._reader.limit = theirs.max_frame = 1000
            for size in (1000, 1001, 300_000, 5):
                await ours.send(b"x" * size)
            assert [len(await theirs.receive()), len(await theirs.receive())] == [1000, 5]
            assert theirs.oversized == 2 and other.membrane.counts["oversized"] == 2
            with pytest.raises(PoreTooBig):
                ours.send_nowait(_Long())

    class _Long(bytes):
        def __len__(self) -> int:
            return 1 << 32

    run(test)


def test_a_corrupt_ring_closes_the_straw_on_both_sides(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h", wishes=LING_LIKE) as (host, one, other):
            ours, theirs = await one.open(other)
            grant = next(iter(host._hypervisor.domains[other.domid].grants.values()))
            os.pwrite(grant.fd, b"\xff\xff\xff\x7f", 0)  # in_prod: what the opener has written
            await ours.send(b"hello")
            os.pwrite(grant.fd, b"\xff\xff\xff\x7f", 0)
            await settled(lambda: theirs.closed and ours.closed)
            assert theirs.closed == "corrupt"
            ours, theirs = await one.open(other)
            await ours.send(b"again")
            assert await theirs.receive() == b"again"

    run(test)


def test_refusals(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h") as (_, one, other):
            for peer, reason in ((one.domid, "self"), (77, "not_found"), (1 << 20, "not_found")):
                with pytest.raises(MembraneError) as caught:
                    await one.membrane.open(peer)
                assert caught.value.reason == reason
            await one.open(other)
            for node, peer in ((one, other), (other, one)):
                with pytest.raises(MembraneError) as caught:
                    await node.membrane.open(peer.domid)
                assert caught.value.reason == "exists"
            with pytest.raises(MembraneError) as caught:
                await Membrane(one.backend, one.store).start()
            assert caught.value.reason == "straw_taken"

    run(test)


def test_both_open_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h") as (_, one, other):
            for _ in range(5):
                ours, theirs = await asyncio.gather(one.membrane.open(other.domid), other.membrane.open(one.domid))
                assert one.membrane.straw(other.domid) is ours and other.membrane.straw(one.domid) is theirs
                assert ours.we_opened and not theirs.we_opened  # the lower domain's
                await ours.send(b"ping")
                assert await theirs.receive() == b"ping"
                await ours.close()
                await settled(lambda: not one.membrane.machine.pores and not other.membrane.machine.pores)

    run(test)


def test_both_open_at_once_as_ling_would(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h", wishes=LING_LIKE) as (_, one, other):
            ours, theirs = await asyncio.gather(one.membrane.open(other.domid), other.membrane.open(one.domid))
            assert ours.we_opened and theirs.we_opened
            await settled(lambda: one.came.qsize() and other.came.qsize())
            # Two straws; both send on the one that the lower domain opened.
            assert one.membrane.straw(other.domid) is ours
            assert other.membrane.straw(one.domid) is await other.came.get()

    run(test)


def test_an_open_that_is_cancelled(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h") as (_, one, other):
            for turns in range(0, 40, 3):
                opening = asyncio.create_task(one.membrane.open(other.domid))
                for _ in range(turns):
                    await asyncio.sleep(0)
                opening.cancel()
                await asyncio.wait([opening])
                if not opening.cancelled():
                    await opening.result().close()
                await settled(lambda: not one.membrane.machine.pores and not other.membrane.machine.pores)
                assert set(one.backend.held.values()) == set(other.backend.held.values()) == {0}

    run(test, limit=60)


def test_a_host_that_ends(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h", 3) as (host, one, other, third):
            ours, theirs = await one.open(other)
            ours.send_nowait(b"last words")
            down: list[str] = []
            one.membrane.on_down = down.append
            await host.close()
            await settled(lambda: ours.closed and theirs.closed and down)
            assert ours.closed == "host_down" and [frame async for frame in theirs] == [b"last words"]
            assert theirs.closed == "host_down"
            with pytest.raises(MembraneError):
                await third.membrane.open(one.domid)

    run(test)


class DyingHost:
    """A host that was killed: nothing of it runs any more, and its descriptors close one by one."""

    def __init__(self, host: Host) -> None:
        self._sockets = {domid: connection._socket for domid, connection in host._connections.items()}
        for sock in self._sockets.values():
            asyncio.get_running_loop().remove_reader(sock)

    def lose(self, node: Node) -> None:
        self._sockets[node.domid].shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("wishes", RINGS)
def test_a_host_that_dies_slowly(tmp_path: Path, wishes: Terms | None) -> None:
    """One domain sees it long before the other, which first sees nothing but the end of the one."""

    async def test() -> None:
        async with nodes(tmp_path / "h", wishes=wishes) as (host, one, other):
            ours, theirs = await one.open(other)
            waiting = asyncio.create_task(theirs.send(bytes(20 << 20)))
            more = asyncio.create_task(theirs.send(b"more"))
            drained = asyncio.create_task(theirs.drain())
            dying = DyingHost(host)
            dying.lose(one)
            await settled(lambda: ours.closed)
            assert ours.closed == "host_down"
            await settled(lambda: theirs._doubtful)
            await asyncio.sleep(0.05)
            await waiting
            assert not theirs.closed and not theirs.ended and not more.done() and not drained.done()
            dying.lose(other)
            for task in (more, drained):
                with pytest.raises(PoreClosed, match="host_down"):
                    await task
            assert theirs.closed == "host_down"
            with pytest.raises(PoreClosed, match="host_down"):
                await theirs.receive()

    run(test)


def test_a_host_that_hangs_does_not_hide_a_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h") as (host, one, other):
            _, theirs = await one.open(other)
            monkeypatch.setattr(local, "ANSWER_TIME", 0.05)
            DyingHost(host)
            await one.backend.close()
            await settled(lambda: theirs.ended)
            assert theirs.ended == "peer_gone"
            await host.close()

    run(test)


def test_a_domain_that_ends_without_a_word(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h", 3) as (_, one, other, third):
            ours, theirs = await one.open(other)
            back, forth = await third.open(one)
            for straw in (ours, forth):
                straw.send_nowait(b"last words")
                await straw.drain()
            one.backend._connection.close()  # as by SIGKILL: the host and the peers see it, it does not
            for straw in (ours, forth):
                straw.pore.close()
            assert [frame async for frame in theirs] == [b"last words"] == [frame async for frame in back]
            assert theirs.closed == back.closed == "peer_gone"
            await settled(lambda: not other.membrane.machine.pores and not third.membrane.machine.pores)
            one.backend._end("test")

    run(test)


def test_conditions_of_several_pores(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h", 3) as (_, one, two, three):
            a_in, a = await one.open(two)
            b_in, b = await one.open(three)
            a.pause()
            b.pause()
            await asyncio.sleep(0.01)
            either = asyncio.create_task(any_of(a.has_data(), b.has_data()))
            both = asyncio.create_task(all_of(a.has_data(), b.has_data()))
            b_in.send_nowait(b"x")
            (met,) = await either
            assert met.active is b and not both.done()
            a_in.send_nowait(b"y")
            assert len(await both) == 2
            # Room: the ring is filled, then read.
            told: list[bool] = []
            size = a_in.pore.info().out_size
            a_in.notify_when(size, told.append)
            await asyncio.sleep(0.01)
            assert not told
            a.resume()
            await settled(lambda: told == [True])
            room, gone = a_in.has_room(1000), a_in.has_ended()
            assert await any_of(room, gone) == [room]
            await a_in.close()
            assert await any_of(gone) == [gone]
            with pytest.raises(PoreClosed):
                await a_in.has_data().wait()
            b_in.notify_when(size + 1, told.append)
            await b_in.close()
            await settled(lambda: told == [True, False])

    run(test)


def test_forged_knocks_get_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h", 3) as (_, one, other, stranger):
            top = f"/local/domain/{other.domid}/data/straw"
            for name, value in (
                (str(one.domid), f"/local/domain/{one.domid}/data/warts/{other.domid}"),
                (str(stranger.domid), f"/local/domain/{one.domid}/data/warts/{other.domid}"),
                ("0", "/local/domain/0/data/warts/2"),
                ("007", "x"),
                ("..", "x"),
            ):
                try:
                    await stranger.store.write(f"{top}/{name}/warts", value)
                except XenstoreError as error:
                    assert name == ".." and error.name == "EINVAL"
            await settled(lambda: sum(other.membrane.counts.values()) == 4)
            assert set(other.backend.held.values()) == {0} and not other.membrane.straws
            ours, theirs = await one.open(other)  # sweeps away what the stranger left in its name
            await ours.send(b"hello")
            assert await theirs.receive() == b"hello"
            for key in ("state", "ring-refs", "x"):
                with pytest.raises(XenstoreError, match="EACCES"):
                    await stranger.store.write(f"{top}/{one.domid}/{key}", "6")

    run(test)


def test_keys_of_a_stopped_node_are_gone(tmp_path: Path) -> None:
    async def test() -> None:
        async with nodes(tmp_path / "h") as (host, one, other):
            await one.open(other)
            await one.close()
            await settled(lambda: not other.membrane.machine.pores)
            await settled(lambda: host.domids == [other.domid])
            back: Node = await make_node(tmp_path / "h", 1)
            await back.open(other)
            await back.close()

    run(test)
