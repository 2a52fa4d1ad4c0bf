"""Waiting for what happens a moment later. How long a moment is the machine decides; how long a test waits, LONG."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["LONG", "becomes", "run", "soon", "until"]

#: Seconds until something that should happen at once is taken not to happen. None should need a tenth of it.
LONG = 60.0
#: Seconds between two looks, at the most.
_PAUSE = 0.02


async def until(condition: Callable[[], object | Awaitable[object]], limit: float = LONG) -> None:
    """Until it is so; the condition may be a coroutine function."""
    pause = 0.0
    async with asyncio.timeout(limit):
        while True:
            value = condition()
            if await value if inspect.isawaitable(value) else value:
                return
            await asyncio.sleep(pause)
            pause = min(pause + 0.0005, _PAUSE)


def soon(condition: Callable[[], Any], limit: float = LONG) -> Any:
    """As `until`, in a test with no loop; what it was in the end."""
    end = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < end, "it does not come about"
        time.sleep(0.01)
    return value


def becomes(look: Callable[[], Any], value: Any, limit: float = LONG) -> None:
    """Until what is seen is this; says what it was otherwise."""
    end = time.monotonic() + limit
    while (seen := look()) != value:
        assert time.monotonic() < end, f"{seen!r} is not {value!r}"
        time.sleep(0.01)


def run(test: Callable[[], Awaitable[None]], limit: float = LONG) -> None:
    """Runs it, and gives up when it hangs."""

    async def bounded() -> None:
        async with asyncio.timeout(limit):
            await test()

    asyncio.run(bounded())
