"""What the acts of ``strawbridge demo`` play on: a Python node, a real BEAM, and steps that count only when observed.

A step counts only when the value that really arrived is the expected one, within a deadline. What the BEAM saw comes
back as lines of its stdout; what Python saw is compared here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from .. import Node, NodeError
from ..syntax import TermSyntaxError, parse
from .beam import Beam
from .failure import NEGATIVE, Failure, shown

__all__ = ["STEP_TIME", "Act", "Stage", "nothing"]

STEP_TIME = 30.0  # seconds for one step: the start of a BEAM takes some on a busy machine


@contextlib.asynccontextmanager
async def nothing() -> AsyncIterator[dict[str, Any]]:
    """An act that needs nothing around it."""
    yield {}


@dataclass(frozen=True, slots=True)
class Act:
    """One act. play: its steps; its docstring is the title. program: what the BEAM runs, with Py bound to our node.

    prepare: registers what the BEAM will reach. around: what must be there before the node, and the node's options.
    """

    play: Callable[[Stage], Awaitable[None]]
    program: str
    prepare: Callable[[Node], None]
    around: Callable[[], contextlib.AbstractAsyncContextManager[dict[str, Any]]] = nothing


class Stage:
    """What an act plays on: the Python node, the BEAM, and the list of steps already shown."""

    def __init__(self, node: Node, beam: Beam, beam_name: str) -> None:
        self.node = node
        self.beam = beam
        self.beam_name = beam_name
        self.steps = 0

    async def expect(self, what: str, answer: Awaitable[Any], expected: Any) -> Any:
        """Shows one step. The answer must come in time and be `expected` (a value, or a predicate)."""
        value = await self.answer(what, answer)
        if not (expected(value) if callable(expected) else _same(value, expected)):
            raise self.failure(what, f"got {shown(value)}")
        self.steps += 1
        print(f"  {self.steps:2}. {what} -> {_shortened(shown(value))}", flush=True)
        return value

    async def answer(self, what: str, answer: Awaitable[Any]) -> Any:
        """The answer, in time, or the step has failed."""
        try:
            return await asyncio.wait_for(answer, STEP_TIME)
        except TimeoutError:
            raise self.failure(what, f"nothing came within {STEP_TIME:g} s") from None
        except NodeError as error:
            raise self.failure(what, f"{type(error).__name__}: {error}") from error

    async def said(self, step: str) -> Any:
        """The value of the next line of the BEAM, which has to be about that step."""
        line = await self.beam.line()
        head, _, text = line.partition(" ")
        if head != step:
            raise self.failure(step, f"the BEAM said {line!r}" if line else "the BEAM has ended")
        try:
            return parse(text)
        except TermSyntaxError as error:
            raise self.failure(step, str(error)) from error

    def failure(self, step: str, reason: str) -> Failure:
        text = f"demo: step {self.steps + 1} failed: {step}: {reason}"
        if self.beam.complaints:
            text += f"\nthe BEAM's stderr:\n{self.beam.complaints.rstrip()}"
        return Failure(NEGATIVE, text)


def _same(value: Any, expected: Any) -> bool:
    """1, 1.0 and True are three different terms."""
    return type(value) is type(expected) and value == expected


def _shortened(text: str, limit: int = 100) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
