"""Processes of user code on a LING: an inbox, an echo, a gen_server, and gen_server:call as LING's library does it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from .strawman import CALL, Strawman
from .terms import Atom, LongPid, Pid
from .vm import TIMEOUT, Code, Exit, Machine, Process, receive

__all__ = ["KINDS", "Inbox", "call"]


class Inbox:
    """Keeps what it is sent until somebody asks for it."""

    def __init__(self) -> None:
        self.got: deque[Any] = deque()
        self.waiting: deque[Callable[[Any], None]] = deque()

    def main(self, me: Process) -> Code:
        while True:
            self.got.append((yield from receive()))
            self._give()

    def next(self, answer: Callable[[Any], None]) -> None:
        self.waiting.append(answer)
        self._give()

    def _give(self) -> None:
        while self.got and self.waiting:
            self.waiting.popleft()(self.got.popleft())


def echo(man: Strawman) -> Callable[[Process], Code]:
    """{From, Msg}: From ! {self(), Msg}"""

    def main(me: Process) -> Code:
        while True:
            message = yield from receive()
            if isinstance(message, tuple) and len(message) == 2:
                yield from man.send(message[0], (me.pid, message[1]))

    return main


def server(man: Strawman) -> Callable[[Process], Code]:
    """A gen_server: {echo, X} is answered with X, {add, A, B} with the sum, whoami with its pid, silence not at all."""

    def main(me: Process) -> Code:
        while True:
            match (yield from receive()):
                case (head, (to, tag), request) if head == CALL:
                    match request:
                        case (Atom("echo"), value):
                            answer = value
                        case (Atom("add"), a, b):
                            answer = a + b
                        case Atom("whoami"):
                            answer = me.pid
                        case Atom("silence"):
                            continue
                        case _:
                            answer = (Atom("error"), Atom("unknown_request"))
                    try:
                        yield from man.send(to, (tag, answer))
                    except Exit:  # gen:reply catches what `!` throws
                        man.notes.append("a reply could not be sent")

    return main


KINDS = {"echo": echo, "server": server}


def call(man: Strawman, machine: Machine, me: Process, to: Any, request: Any, seconds: float = 5.0) -> Code:
    """gen_server:call. A monitor of anything that is not of this LING is badarg, so it goes on without one: the reply
    or the timeout, never a DOWN.
    """
    ref = machine.make_ref()
    if isinstance(to, Pid | Atom):
        target = machine.names.get(to) if isinstance(to, Atom) else machine.processes.get(to.id)
        if target is None:
            raise Exit("noproc")
        machine.send(target, (CALL, (me.pid, ref), request))
    else:
        assert isinstance(to, LongPid | tuple)
        yield from man.send(to, (CALL, (me.pid, ref), request))
    answer = yield from receive(lambda m: isinstance(m, tuple) and len(m) == 2 and m[0] == ref, seconds)
    if answer is TIMEOUT:
        raise Exit("timeout")
    return answer[1]
