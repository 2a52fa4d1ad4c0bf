"""``strawbridge demo``: a Python node and a real BEAM talk to each other, each step shown as it happens.

The first step that fails ends the demo with its name. Each act has a stage of its own, which is cleaned up after it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import secrets
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from .. import Node
from ..net.epmd_server import EpmdServer
from . import demo_distribution, demo_straws
from .beam import find_erl, start_beam
from .failure import NEGATIVE, OK, Failure, as_failure
from .signals import stop_signals
from .stage import Act, Stage

__all__ = ["ACTS", "demo"]

ACTS: list[Act] = [demo_distribution.ACT, demo_straws.ACT]


def demo(arguments: argparse.Namespace) -> int:
    """0 only if every step of every act was really observed."""
    erl, environment, source = find_erl(arguments.erl)
    logging.basicConfig(level=logging.CRITICAL)  # one handler crashes on purpose; its stack would look like a fault
    started = time.monotonic()
    with as_failure():
        steps = asyncio.run(_until_signal(_play(erl, environment, source)))
    print(f"all {steps} steps were observed, in {time.monotonic() - started:.1f} s")
    return OK


async def _until_signal(play: Coroutine[Any, Any, int]) -> int:
    """SIGINT and SIGTERM end the play in order: no BEAM is left behind."""
    with stop_signals() as stopped:
        playing = asyncio.create_task(play)
        signal = asyncio.create_task(stopped.wait())
        await asyncio.wait((playing, signal), return_when=asyncio.FIRST_COMPLETED)
        signal.cancel()
        if not playing.done():
            playing.cancel()
            await asyncio.wait((playing,))
            raise Failure(NEGATIVE, "demo: stopped by a signal")
        return playing.result()


async def _play(erl: str, environment: dict[str, str], source: str) -> int:
    steps = 0
    for act in ACTS:
        async with act.around() as options, _stage(erl, environment, act, options) as stage:
            release = await stage.answer("start of the BEAM", stage.said("otp"))
            print((act.play.__doc__ or "").strip())
            print(f"the BEAM: Erlang/OTP {''.join(map(chr, release))} ({source}), {stage.beam_name}")
            print(f"Python:   {sys.version.split()[0]}, {stage.node.name}", flush=True)
            await act.play(stage)
            steps += stage.steps
    return steps


@contextlib.asynccontextmanager
async def _stage(erl: str, environment: dict[str, str], act: Act, options: dict[str, Any]) -> AsyncIterator[Stage]:
    """An epmd, a Python node with its handlers, and a BEAM, all on loopback and gone at the end."""
    tag = secrets.token_hex(3)
    py, beam_name, cookie = f"py-{tag}@127.0.0.1", f"beam-{tag}@127.0.0.1", secrets.token_hex(16)
    epmd = EpmdServer()
    port = await epmd.start(port=0)
    try:
        async with Node(py, cookie=cookie, epmd_port=port, **options) as node:
            act.prepare(node)
            program = f"Py = '{py}', {act.program}"
            async with start_beam(erl, environment, beam_name, cookie, port, program) as beam:
                yield Stage(node, beam, beam_name)
    finally:
        await epmd.close()
