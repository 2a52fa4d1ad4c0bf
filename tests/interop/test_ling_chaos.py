"""LINGs (tests/lingkit) and domains that open, close, send, stop and pause at random: none dies, and nothing is left.

What is random comes from a seed, when things happen does not: STRAWBRIDGE_CHAOS=100 tries so many seeds.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from beamkit.commandline import CommandLine
from lingkit import ext
from lingkit.driver import LingProcess
from lingkit.stage import RawDomain, Stage, stage
from lingkit.terms import Atom as A
from lingkit.terms import to_json
from waiting import soon

from pores.errors import MembraneError, PoreClosed
from pores.keys import Terms
from pores.straw import Straw

pytestmark = pytest.mark.usefixtures("python_only")

SEEDS = int(os.environ.get("STRAWBRIDGE_CHAOS", "4"))
STEPS = 60


@pytest.fixture
def on(epmd_port: int, cookie: str, tmp_path: Path) -> Iterator[Stage]:
    with stage(CommandLine(epmd_port, cookie, tmp_path)) as it:
        yield it


class Chaos:
    def __init__(self, on: Stage, seed: int) -> None:
        self.on = on
        self.dice = random.Random(seed)
        self.lings = [on.ling() for _ in range(2)]
        for ling in self.lings:
            ling.spawn("inbox", "buddy")
        self.domains = [on.raw(wishes=wishes) for wishes in (None, Terms())]
        self.sending: dict[int, int] = {}
        """The number of what a LING is sending. A LING that opens twice at once dies by itself."""
        self.futures: list[Future[Any]] = []
        self.number = 0
        self.heard: dict[Any, int] = {}
        """How far each sender has been heard."""

    def step(self) -> None:
        self.check()
        ling, domain = self.dice.choice(self.lings), self.dice.choice(self.domains)
        what = self.dice.choices(
            [self.opens, self.ling_says, self.says, self.closes, self.pauses, self.stops, self.waits],
            [3, 5, 4, 3, 3, 1, 3],
        )[0]
        what(ling, domain)

    def check(self) -> None:
        """Every LING lives; what has arrived is what was sent, in order."""
        for ling in self.lings:
            number = self.sending.get(ling.domid, 0)
            answers = ling._answers.get(number)
            if answers is not None and not answers.empty():
                ling.result(number)
                del self.sending[ling.domid]
        for ling in self.lings:
            assert ling.process.poll() is None, ling.died
        self.futures = [future for future in self.futures if not future.done() or self.result(future)]

    def result(self, future: Future[Any]) -> bool:
        error = future.exception()
        assert error is None or isinstance(error, MembraneError | PoreClosed), error
        if isinstance(error, MembraneError):
            assert error.reason in ("exists", "timeout", "stopped", "peer_gone", "refused"), error
        return False

    def start(self, work: Any) -> None:
        assert self.on._loop is not None
        self.futures.append(asyncio.run_coroutine_threadsafe(work, self.on._loop.loop))

    # What can happen.

    def opens(self, ling: LingProcess, domain: RawDomain) -> None:
        async def work() -> None:
            domain.came.put_nowait(await domain.membrane.open(ling.domid))

        self.start(work())

    def ling_says(self, ling: LingProcess, domain: RawDomain) -> None:
        """By its straw, or by one that it opens."""
        if ling.domid in self.sending:
            return
        messages = []
        for _ in range(self.dice.randrange(1, 6)):
            self.number += 1
            message = (A(f"ling{ling.domid}"), self.number, b"x" * self.dice.choice([0, 10, 5000, 40_000]))
            messages.append(to_json(message))
        self.sending[ling.domid] = ling.start("send", to=to_json((domain.domid, A("x"))), msgs=messages)

    def straws(self, domain: RawDomain) -> list[Straw]:
        """Those that it has now, with somebody who hears what comes there."""

        async def take() -> list[Straw]:
            held: list[Straw] = getattr(domain, "held", [])
            while not domain.came.empty():
                straw = domain.came.get_nowait()
                straw.on_frames(lambda frames: [self.hear(bytes(frame)) for frame in frames])
                held.append(straw)
            domain.held = [straw for straw in held if not straw.closed]  # type: ignore[attr-defined]
            return list(domain.held)  # type: ignore[attr-defined]

        found: list[Straw] = self.on.do(take())
        return found

    def hear(self, frame: bytes) -> None:
        head, to, (sender, number, _) = ext.decode(frame, 0)
        assert (head, to) == (A("envelope"), A("x"))
        self.heard[sender] = max(self.heard.get(sender, 0), number)

    def says(self, ling: LingProcess, domain: RawDomain) -> None:
        for straw in self.straws(domain):
            self.number += 1
            body = b"y" * self.dice.choice([0, 10, 5000, 40_000])
            frame = ext.encode((A("envelope"), A("buddy"), (A(f"d{id(straw)}"), self.number, body)), 0)
            self.start(straw.send(frame))

    def closes(self, ling: LingProcess, domain: RawDomain) -> None:
        straws = self.straws(domain)
        if straws:
            self.start(self.dice.choice(straws).close())

    def pauses(self, ling: LingProcess, domain: RawDomain) -> None:
        os.kill(ling.pid, signal.SIGSTOP)
        try:
            for _ in range(self.dice.randrange(3)):
                self.dice.choice([self.opens, self.says, self.closes])(ling, domain)
            time.sleep(self.dice.random() * 0.1)
        finally:
            os.kill(ling.pid, signal.SIGCONT)

    def stops(self, ling: LingProcess, domain: RawDomain) -> None:
        """A clean end, in the midst of what is under way."""
        domain.close()
        self.domains.remove(domain)
        self.domains.append(self.on.raw(wishes=self.dice.choice([None, Terms()])))

    def waits(self, ling: LingProcess, domain: RawDomain) -> None:
        time.sleep(self.dice.random() * 0.05)

    # The end.

    def end(self) -> None:
        soon(lambda: self.check() or not self.sending)
        for domain in self.domains:
            domain.close()
            assert set(domain.backend.held.values()) == {0}, domain.backend.held
        soon(lambda: self.check() or not self.futures)
        for ling in self.lings:
            soon(lambda ling=ling: not ling.status()["straws"] and not ling.status()["pores"])
            status = ling.status()
            assert (status["granted"], status["mapped"], status["watches"]) == (0, 0, 1), status
            assert self.on.keys(ling.domid) == []
            last: dict[Any, int] = {}
            for _ in range(status["frames"][0]):
                sender, number, _body = ling.next("buddy")
                assert number > last.get(sender, 0)
                last[sender] = number


@pytest.mark.parametrize("seed", range(SEEDS))
def test_chaos(on: Stage, seed: int) -> None:
    chaos = Chaos(on, seed)
    for _ in range(STEPS):
        chaos.step()
    chaos.end()
