"""Selective receive: order, predicates, timeouts, cancellation, and that nothing is ever lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from node.runtime.mailbox import Mailbox
from node.runtime.timers import Deadlines
from node.runtime.waiter import Turn, Waiter


class Gate:
    """Counts what the mailbox asks of it."""

    mailbox_limit = 10

    def __init__(self) -> None:
        self.calls: list[str] = []

    def shut(self, mailbox: Mailbox) -> None:
        self.calls.append("shut")

    def reopen(self, mailbox: Mailbox) -> None:
        self.calls.append("reopen")


def run(test: Callable[[Mailbox, Turn], Awaitable[None]]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        turn = Turn(loop)
        deadlines = Deadlines(loop)
        try:
            await test(Mailbox(turn, deadlines, Gate()), turn)
        finally:
            deadlines.close()

    asyncio.run(main())


def test_messages_come_in_order() -> None:
    async def test(box: Mailbox, turn: Turn) -> None:
        for number in range(5):
            box.put(number)
        assert [await box.receive(None, None) for _ in range(5)] == [0, 1, 2, 3, 4]

    run(test)


def test_a_match_leaves_the_others_in_order() -> None:
    async def test(box: Mailbox, turn: Turn) -> None:
        for number in range(6):
            box.put(number)
        assert await box.receive(lambda n: n == 3, None) == 3
        assert await box.receive(lambda n: n % 2 == 1, None) == 1
        assert list(box.queue) == [0, 2, 4, 5]

    run(test)


def test_a_match_that_raises_raises_in_the_receiver_and_loses_nothing() -> None:
    async def test(box: Mailbox, turn: Turn) -> None:
        task = asyncio.create_task(_receive(box, lambda m: m[0] == 1))
        await asyncio.sleep(0)
        box.put(5)
        box.put((1, 2))
        with pytest.raises(TypeError):
            await task
        assert list(box.queue) == [5, (1, 2)]

    run(test)


def test_a_waiting_receiver_is_tested_once_per_message() -> None:
    async def test(box: Mailbox, turn: Turn) -> None:
        seen: list[int] = []

        def match(number: int) -> bool:
            seen.append(number)
            return number == 9

        box.put(0)
        task = asyncio.create_task(_receive(box, match))
        await asyncio.sleep(0)
        for number in range(1, 10):
            box.put(number)
        assert await task == 9
        assert seen == list(range(10))
        assert list(box.queue) == list(range(9))

    run(test)


async def _receive(box: Mailbox, match: Any = None, timeout: float | None = None) -> Any:
    return await box.receive(match, timeout)


def test_the_receiver_of_a_batch_runs_when_all_of_it_is_there() -> None:
    async def test(box: Mailbox, turn: Turn) -> None:
        got: list[int] = []

        async def receiver() -> None:
            while True:
                got.append(await box.receive(None, None))

        task = asyncio.create_task(receiver())
        await asyncio.sleep(0)

        def callback() -> None:  # as a read callback: no task is running
            turn.begin()
            for number in range(3):
                box.put(number)
            seen.append(list(got))
            turn.settle()  # an exit signal comes next
            seen.append(list(got))
            box.put(3)
            turn.finish()
            seen.append(list(got))

        seen: list[list[int]] = []
        done = asyncio.Event()
        asyncio.get_running_loop().call_soon(lambda: (callback(), done.set()))
        await done.wait()
        task.cancel()
        assert seen == [[], [0, 1, 2], [0, 1, 2, 3]]

    run(test)


def test_one_that_fails_to_run_does_not_keep_the_others_from_it() -> None:
    async def test(box: Mailbox, turn: Turn) -> None:
        ran: list[str] = []

        class Fails:
            def run(self) -> None:
                raise SystemExit

        class Runs:
            def run(self) -> None:
                ran.append("ran")

        turn.wake(Fails())
        turn.wake(Runs())
        with pytest.raises(SystemExit):
            turn.run_ready()
        while not ran:
            await asyncio.sleep(0)

    run(test)


def test_a_batch_inside_a_task_wakes_nobody_at_once() -> None:
    async def test(box: Mailbox, turn: Turn) -> None:
        task = asyncio.create_task(_receive(box))
        await asyncio.sleep(0)
        turn.begin()
        box.put("x")
        turn.finish()
        assert not task.done()
        assert await task == "x"

    run(test)


def test_outside_a_turn_the_receiver_runs_later() -> None:
    async def test(box: Mailbox, turn: Turn) -> None:
        task = asyncio.create_task(_receive(box))
        await asyncio.sleep(0)
        box.put("x")  # this test is a task: the other must not be stepped inside it
        assert not task.done()
        assert await task == "x"

    run(test)


def test_timeout() -> None:
    async def test(box: Mailbox, turn: Turn) -> None:
        box.put("other")
        with pytest.raises(TimeoutError):
            await box.receive(lambda m: m == "never", 0.01)
        with pytest.raises(TimeoutError):
            await box.receive(lambda m: m == "never", 0)
        assert await box.receive(None, 0.01) == "other"

    run(test)


def test_a_message_after_the_deadline_is_kept() -> None:
    async def test(box: Mailbox, turn: Turn) -> None:
        task = asyncio.create_task(_receive(box, None, 60))
        await asyncio.sleep(0)
        waiter = box._waiter
        assert waiter is not None
        waiter.fail(TimeoutError())  # the deadline fires, the task has not run yet
        box.put("late")
        with pytest.raises(TimeoutError):
            await task
        assert await box.receive(None, None) == "late"

    run(test)


def test_cancelling_a_receiver_that_was_just_given_a_message_loses_nothing() -> None:
    async def test(box: Mailbox, turn: Turn) -> None:
        box.put("skipped")
        task = asyncio.create_task(_receive(box, lambda m: m == "mine"))
        await asyncio.sleep(0)
        box.put("mine")
        box.put("after")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert list(box.queue) == ["skipped", "mine", "after"]

    run(test)


def test_asyncio_timeout_around_receive() -> None:
    async def test(box: Mailbox, turn: Turn) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await box.receive(None, None)
        box.put(1)
        assert await box.receive(None, None) == 1
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_receive(box), 0.01)

    run(test)


def test_only_one_receiver_at_a_time() -> None:
    async def test(box: Mailbox, turn: Turn) -> None:
        task = asyncio.create_task(_receive(box))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another receive"):
            await box.receive(None, None)
        task.cancel()

    run(test)


def test_waiter_is_awaitable_before_and_after_its_value() -> None:
    async def test(box: Mailbox, turn: Turn) -> None:
        early = Waiter(turn)
        early.wake(1)
        early.wake(2)
        early.fail(ValueError())
        assert await early == 1
        late = Waiter(turn)
        asyncio.get_running_loop().call_soon(late.fail, KeyError("k"))
        with pytest.raises(KeyError):
            await late

    run(test)


def test_deadlines_fire_in_any_order_and_can_be_cancelled_twice() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        deadlines = Deadlines(loop)
        fired: list[str] = []
        done = asyncio.Event()
        deadlines.after(0.3, lambda: (fired.append("long"), done.set()))
        deadlines.after(0.15, lambda: fired.append("middle"))
        deadlines.after(0.01, lambda: fired.append("short"))
        cancelled = [deadlines.after(seconds, lambda: fired.append("cancelled")) for seconds in (0.01, 0.16)]
        for deadline in cancelled:
            deadline.cancel()
            deadline.cancel()
        await done.wait()
        assert fired == ["short", "middle", "long"]
        deadlines.after(60, lambda: None)
        deadlines.close()
        deadlines.close()

    asyncio.run(main())


def test_a_full_mailbox_shuts_its_gate_until_half_is_taken() -> None:
    async def test(box: Mailbox, turn: Turn) -> None:
        gate = box._gate
        assert isinstance(gate, Gate)
        for number in range(12):
            box.put(number)
        assert gate.calls == ["shut", "shut"]
        for _ in range(6):
            await box.receive(None, None)
        assert gate.calls == ["shut", "shut"]
        await box.receive(lambda n: n == 11, None)
        assert gate.calls == ["shut", "shut", "reopen"]
        for number in range(12):
            box.put(number)
        box.clear()
        assert gate.calls[-1] == "reopen"
        assert not box.queue

    run(test)
