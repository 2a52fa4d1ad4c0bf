"""What tests of strawman on BEAMs share. The BEAMs have strawman_probe.erl; a fixture of conftest.py, `domain`, starts
them.
"""

from __future__ import annotations

from typing import Any

import pytest

from node import Atom, etf

from .beam import Beam

__all__ = ["BIG", "ENVELOPE", "OTPS", "counted", "envelope", "next_of"]

OTPS = pytest.mark.parametrize("otp", ["otp25", "otp28"])
ENVELOPE = Atom("envelope")
BIG = 1 << 20


async def next_of(beam: Beam, name: str = "inbox") -> Any:
    return await beam.ask_term(f"strawman_probe:next({name})")


async def counted(beam: Beam, name: str, least: int) -> None:
    await beam.ask_until(f"maps:get({name}, strawman:counts()) >= {least}", "true")


def envelope(to: Any, message: Any, **options: Any) -> bytes:
    return etf.encode((ENVELOPE, Atom(to) if isinstance(to, str) else to, message), **options)
