"""Running blocking functions off the loop, so that ticks and other handlers go on."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from ..runtime.router import Router

__all__ = ["in_thread"]


async def in_thread(router: Router, function: Callable[..., Any], *args: Any) -> Any:
    """Run function(*args) in one of the node's worker threads and wait for it, also when cancelled meanwhile.

    A thread can't be stopped: a cancelled caller waits for its end, so that nothing else of the same process runs
    beside it.
    """
    loop = router.turn.loop
    context = contextvars.copy_context()
    future = loop.run_in_executor(router.node.threads, lambda: context.run(function, *args))
    try:
        result = await asyncio.shield(future)
    except asyncio.CancelledError:
        if not future.done():
            await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # seen: its process is gone
        raise
    return await result if asyncio.iscoroutine(result) else result
