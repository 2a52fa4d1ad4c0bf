"""The machine below LING's processes: a scheduler of generators, selective receive, and what ends it all.

A process is a generator that yields what it waits for: `message = yield from receive(match)`. One runs at a time, until
it waits; nobody is interrupted. That is LING's scheduler as far as the order of things goes.
"""

from __future__ import annotations

import heapq
import json
import math
import os
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from .terms import Atom, Pid, Ref

__all__ = ["DIED", "TIMEOUT", "Code", "Exit", "Machine", "Process", "die", "receive"]

DIED = 86
"""How a LING that died exits."""

Match = Callable[[Any], bool]
Code = Generator[Any, Any, Any]
TIMEOUT = object()
"""What `receive` returns when nothing came in time."""


def die(why: str) -> Any:
    """The VM, or a process that the VM can't do without, is at its end."""
    print(f"LING died: {why}", file=sys.stderr, flush=True)
    print(json.dumps({"died": why}), flush=True)
    os._exit(DIED)


class Exit(Exception):
    """A process ends by itself, with a reason."""


def receive(match: Match = lambda message: True, seconds: float | None = None) -> Code:
    """The first message in the mailbox that matches, or TIMEOUT."""
    return (yield match, seconds)


class Process:
    def __init__(self, pid: Pid, name: str) -> None:
        self.pid, self.name = pid, name
        self.mailbox: deque[Any] = deque()
        self.code: Code | None = None
        self.waits: tuple[Match, int] | None = None
        """What it waits for, and the number of this wait (timers are for one wait)."""
        self.ending: list[Callable[[], None]] = []
        """What goes with it: pores."""


class Machine:
    """All processes of a LING, the sources that it listens to, and its clock."""

    def __init__(self) -> None:
        self.processes: dict[int, Process] = {}
        self.names: dict[Atom, Process] = {}
        self.sources: dict[int, Callable[[], None]] = {}
        self.poll = select.poll()
        self.running: deque[tuple[Process, Any]] = deque()
        self.timers: list[tuple[float, int, Process]] = []
        self.wait_number = 0
        self.next_pid = 1
        self.next_ref = 0
        self.current: Process | None = None
        self.on_crash: Callable[[Process, BaseException], None] = lambda process, error: None

    # processes

    def spawn(self, code: Callable[[Process], Code], name: str = "") -> Process:
        process = Process(Pid(self.next_pid), name)
        self.next_pid += 1
        self.processes[process.pid.id] = process
        process.code = code(process)
        self.running.append((process, None))
        return process

    def register(self, name: str, process: Process) -> Process:
        self.names[Atom(name)] = process
        process.name = process.name or name
        return process

    def make_ref(self) -> Ref:
        number, self.next_ref = self.next_ref, self.next_ref + 1
        return Ref(Atom("local"), 0, (0, number >> 32, number & 0xFFFFFFFF))

    def send(self, process: Process | None, message: Any) -> None:
        """To a process that may be dead."""
        if process is None or process.code is None:
            return
        process.mailbox.append(message)
        if process.waits is not None and process.waits[0](message):
            process.mailbox.pop()
            self._wake(process, message)

    def _wake(self, process: Process, value: Any) -> None:
        process.waits = None
        self.running.append((process, value))

    def exit(self, process: Process) -> None:
        """Ends a process, now: what it owns goes with it."""
        if process.code is None:
            return
        code, process.code, process.waits = process.code, None, None
        if process is not self.current:
            code.close()
        del self.processes[process.pid.id]
        for name in [name for name, holder in self.names.items() if holder is process]:
            del self.names[name]
        for end in process.ending:
            end()

    # what it listens to

    def listen(self, fd: int, ready: Callable[[], None]) -> None:
        self.sources[fd] = ready
        self.poll.register(fd, select.POLLIN)

    def ignore(self, fd: int) -> None:
        if self.sources.pop(fd, None) is not None:
            self.poll.unregister(fd)

    # the loop

    def run(self) -> None:
        """Until nothing can happen any more, which is never while stdin is open."""
        while True:
            while self.running:
                self._step(*self.running.popleft())
                self._poll(0)
            if not self.sources and not self.timers:
                return
            due = self.timers[0][0] - time.monotonic() if self.timers else None
            self._poll(None if due is None else max(0.0, due))

    def _step(self, process: Process, value: Any) -> None:
        if process.code is None:
            return
        self.current = process
        try:
            match, seconds = process.code.send(value)
        except StopIteration:
            self.exit(process)
            return
        except Exception as error:
            self.exit(process)
            self.on_crash(process, error)
            return
        finally:
            self.current = None
        if process.code is None:
            return
        for message in process.mailbox:
            if match(message):
                process.mailbox.remove(message)
                self.running.append((process, message))
                return
        self.wait_number += 1
        process.waits = match, self.wait_number
        if seconds is not None:
            heapq.heappush(self.timers, (time.monotonic() + seconds, self.wait_number, process))

    def _poll(self, seconds: float | None) -> None:
        for source, _ in self.poll.poll(None if seconds is None else math.ceil(seconds * 1000)):
            if source in self.sources:
                self.sources[source]()
        now = time.monotonic()
        while self.timers and self.timers[0][0] <= now:
            _, number, process = heapq.heappop(self.timers)
            if process.waits is not None and process.waits[1] == number:
                self._wake(process, TIMEOUT)
