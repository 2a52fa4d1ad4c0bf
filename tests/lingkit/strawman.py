"""LING's strawman: one process that does one thing at a time and waits for ever, and a process for each straw.

Every step is in LING's order, with LING's watches, and ends the node where LING's crashes (a kernel process that dies
takes the node with it). It opens on demand, closes nothing by itself but at a clean stop, and knows no closing states.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

from . import ext, jsx
from .hyper import Hyper
from .pore import StrawPore
from .terms import Atom, LongPid, Pid, show
from .vm import TIMEOUT, Code, Exit, Machine, Process, die, receive
from .xs import XenStore

__all__ = ["CALL", "ENVELOPE", "Straw", "Strawman"]

INITIALISING, INIT_WAIT, INITIALISED, CONNECTED, CLOSED = "1", "2", "3", "4", "6"
TOP, WARTS_TOP = "data/straw", "data/warts"
CALL, ENVELOPE = Atom("$gen_call"), Atom("envelope")
#: Seconds that gen_server:call waits.
PATIENCE = 5.0
#: Seconds that LING's supervisor gives the strawman to stop.
SHUTDOWN = 2.0


class Straw(NamedTuple):
    role: str
    domid: int
    process: Process
    state_path: str
    """The peer's, watched."""
    directory: str
    """Ours."""


class Strawman:
    """log: told of bytes that cross a straw, as (direction, role, domid, bytes)."""

    def __init__(self, machine: Machine, hyper: Hyper, store: XenStore, lenient: bool = False) -> None:
        self.machine, self.hyper, self.xs = machine, hyper, store
        self.lenient = lenient
        self.straws: list[Straw] = []
        self.formats: dict[Process, str] = {}
        self.pores: dict[Process, StrawPore] = {}
        self.notes: list[str] = []
        """What LING would print."""
        self.maps = 0
        """Maps that came in: any of them kills this LING if it is sent on."""
        self.stopping = False
        self.frames_in = self.frames_out = 0
        self.log: Callable[..., None] = lambda *what: None
        self.on_up: Callable[[], None] = lambda: None
        self.process = machine.register("strawman", machine.spawn(self._main, "strawman"))

    # The API: what user code calls (generators).

    def ask(self, request: Any) -> Code:
        """gen_server:call(strawman, request). Exit after 5 s."""
        me = self.machine.current
        assert me is not None
        ref = self.machine.make_ref()
        self.machine.send(self.process, (CALL, (me, ref), request))
        answer = yield from receive(lambda m: isinstance(m, tuple) and m[0] == ref, PATIENCE)
        if answer is TIMEOUT:
            raise Exit("timeout")
        return answer[1]

    def send(self, to: Any, message: Any) -> Code:
        """To ! Message, from the running process."""
        if isinstance(to, Atom):
            if to not in self.machine.names:
                raise Exit("badarg")
            self.machine.send(self.machine.names[to], message)
        elif isinstance(to, Pid):
            self.machine.send(self.machine.processes.get(to.id), message)
        elif isinstance(to, LongPid):
            if to.box:
                raise Exit("not_implemented")
            straw = yield from self._straw_to(to.domid)
            self.machine.send(straw, (ENVELOPE, to, message))
        elif isinstance(to, tuple) and len(to) == 2 and isinstance(to[0], int) and isinstance(to[1], Atom):
            if to[0] == self.hyper.domid:
                yield from self.send(to[1], message)
                return
            straw = yield from self._straw_to(to[0])
            self.machine.send(straw, (ENVELOPE, to[1], message))
        else:
            raise Exit("badarg")

    def _straw_to(self, domid: int) -> Code:
        verdict, straw = yield from self.ask(("split", domid))
        if verdict == "error":
            verdict, why = yield from self.ask(("open", domid))
            if verdict == "error":
                raise Exit(f"bad_container: {why}")
            verdict, straw = yield from self.ask(("split", domid))
        return straw

    # The server.

    def _main(self, me: Process) -> Code:
        xs = self.xs
        domid = yield from xs.domid()
        yield from self._ok(xs.mkdir(TOP))
        yield from self._ok(xs.set_perms(TOP, [f"b{domid}"]))
        yield from self._ok(xs.mkdir(WARTS_TOP))
        yield from self._ok(xs.set_perms(WARTS_TOP, [f"r{domid}"]))
        yield from self._ok(xs.watch(TOP))
        self.on_up()
        while True:
            message = yield from receive()
            match message:
                case (head, (caller, ref), request) if head == CALL and isinstance(caller, Process):
                    answer = yield from self._call(request)
                    self.machine.send(caller, (ref, answer))
                case ("watch", path):
                    yield from self._changed(path)
                case ("stop", done):
                    self.stopping = True
                    yield from self._terminate()
                    done()
                    return
                case _:
                    self.notes.append(f"info {show(message)}")

    def _ok(self, call: Code) -> Code:
        """ok = …, {ok,_} = …: anything else is a badmatch."""
        verdict, value = yield from call
        if verdict != "ok":
            die(f"its strawman crashes: no match of ok with {{error,{value}}}")
        return value

    def _call(self, request: Any) -> Code:
        verb, domid = request
        if verb == "split":
            for straw in self.straws:
                if straw.domid == domid:
                    return "ok", straw.process
            return "error", "not_found"
        warts = f"/local/domain/{self.hyper.domid}/data/warts/{domid}"
        directory = f"/local/domain/{domid}/data/straw/{self.hyper.domid}"
        verdict, _ = yield from self.xs.read(warts)
        if verdict == "ok":
            return "error", "exists"
        verdict, _ = yield from self.xs.mkdir(directory)
        if verdict != "ok":
            return "error", "not_found"
        return (yield from self._open(domid, warts, directory))

    def _open(self, domid: int, warts: str, directory: str) -> Code:
        xs = self.xs
        tid = yield from self._ok(xs.transaction())
        yield from self._ok(xs.mkdir(warts, tid))
        yield from self._ok(xs.write(f"{warts}/straw", directory, tid))
        yield from self._ok(xs.write(f"{warts}/state", INIT_WAIT, tid))
        yield from self._ok(xs.write(f"{directory}/warts", warts, tid))
        yield from self._ok(xs.commit(tid))
        state = f"{directory}/state"
        yield from self._ok(xs.watch(state))
        verdict, why = yield from xs.wait(state, INITIALISED)
        if verdict == "error":
            yield from self._ok(xs.delete(warts))
            yield from xs.unwatch(state)
            return verdict, why
        refs = []
        for n in range(1, 9):
            refs.append((yield from self._ok(xs.read_integer(f"{directory}/ring-ref-{n}"))))
        port = yield from self._ok(xs.read_integer(f"{directory}/event-channel"))
        form = yield from self._format(directory, warts)

        def make(irq: Callable[[], None]) -> StrawPore:
            return StrawPore.map(self.hyper, self.machine, domid, refs, port, irq)

        process = self._spawn("passive", domid, form, make)
        yield from self._ok(xs.write(f"{warts}/state", CONNECTED))
        verdict, why = yield from xs.wait(state, CONNECTED)
        if verdict == "error":
            yield from self._ok(xs.delete(warts))
            yield from xs.unwatch(state)
            self.machine.exit(process)
            return verdict, why
        self.straws.insert(0, Straw("passive", domid, process, state, warts))
        return "ok", None

    def _knocked(self, domid: int, warts: str, directory: str) -> Code:
        xs = self.xs
        yield from self._ok(xs.write(f"{directory}/state", INITIALISING))
        state = f"{warts}/state"
        yield from self._ok(xs.watch(state))
        verdict, _ = yield from xs.wait(state, INIT_WAIT)
        if verdict == "error":
            yield from self._ok(xs.delete(directory))
            yield from xs.unwatch(state)
            return
        form = yield from self._format(directory, warts)

        def make(irq: Callable[[], None]) -> StrawPore:
            return StrawPore.grant(self.hyper, self.machine, domid, irq)

        process = self._spawn("active", domid, form, make)
        pore = self.pores[process]
        tid = yield from self._ok(xs.transaction())
        for n, ref in enumerate(pore.refs, 1):
            yield from self._ok(xs.write(f"{directory}/ring-ref-{n}", ref, tid))
        yield from self._ok(xs.write(f"{directory}/event-channel", pore.channel.port, tid))
        yield from self._ok(xs.write(f"{directory}/state", INITIALISED, tid))
        yield from self._ok(xs.commit(tid))
        yield from self._ok(xs.wait(state, CONNECTED))
        yield from self._ok(xs.write(f"{directory}/state", CONNECTED))
        self.straws.insert(0, Straw("active", domid, process, state, directory))

    def _format(self, one: str, other: str) -> Code:
        formats = []
        for directory in (one, other):
            verdict, value = yield from self.xs.read(f"{directory}/format")
            formats.append(value if verdict == "ok" else "erlang")
        return "erlang" if formats == ["erlang", "erlang"] else "json"

    def _changed(self, path: str) -> Code:
        if path.startswith(TOP):
            names = [name for name in path[len(TOP) :].split("/") if name]
            if len(names) == 2 and names[1] == "warts":
                verdict, warts = yield from self.xs.read(path)
                if verdict != "ok":
                    die(f"its strawman crashes: a knock was withdrawn ({path}: {warts})")
                if not names[0].isdecimal():
                    die(f"its strawman crashes: no number in {path}")
                yield from self._knocked(int(names[0]), warts, f"{TOP}/{names[0]}")
            return
        straw = next((straw for straw in self.straws if straw.state_path == path), None)
        if straw is None:
            return
        verdict, value = yield from self.xs.read(path)
        if (verdict, value) == ("ok", CONNECTED) or (verdict == "ok" and straw.role == "active"):
            return
        yield from self.xs.unwatch(path)
        self.machine.exit(straw.process)
        yield from self._ok(self.xs.delete(straw.directory))
        self.notes.append(f"connection to domain {straw.domid} lost")
        self.straws.remove(straw)

    def _terminate(self) -> Code:
        for straw in self.straws:
            if straw.role == "active":
                yield from self._ok(self.xs.delete(straw.directory))
                yield from self.xs.wait(straw.state_path, CLOSED)
            self.machine.exit(straw.process)
        self.straws.clear()

    # The straws' processes.

    def _spawn(self, role: str, domid: int, form: str, make: Callable[[Callable[[], None]], StrawPore]) -> Process:
        """LING's strawman waits here until the new process has its pore: it is made at once."""

        def body(me: Process) -> Code:
            yield from self._looper(pore, role, domid, form)

        process = self.machine.spawn(body, f"straw {role} {domid}")
        pore = make(lambda: self.machine.send(process, ("irq", None)))
        self.pores[process] = pore
        self.formats[process] = form

        def end() -> None:
            del self.pores[process], self.formats[process]
            pore.destroy()

        process.ending.append(end)
        return process

    def _looper(self, pore: StrawPore, role: str, domid: int, form: str) -> Code:
        """Writes what there is room for, delivers what is complete, reads what is there; else waits."""
        readable, room = pore.avail()
        unread, unsent = bytearray(), bytearray()
        length: int | None = None
        while True:
            if unsent and room > 0:
                chip = bytes(unsent[:room])
                del unsent[: len(chip)]
                self.log("out", role, domid, chip)
                pore.write(chip)
                pore.poke()
                readable, room = pore.avail()
            elif length is None and len(unread) >= 4:
                length = int.from_bytes(unread[:4])
                del unread[:4]
            elif length is not None and len(unread) >= length:
                frame = bytes(unread[:length])
                del unread[:length]
                length = None
                self.frames_in += 1
                yield from self._deliver(frame, form, domid)
            elif readable > 0:
                data = pore.read()
                self.log("in", role, domid, data)
                unread += data
                pore.poke()
                readable, room = pore.avail()
            else:
                message = yield from receive(lambda m: _for_looper(m, form))
                if message == ("irq", None):
                    readable, room = pore.avail()
                    continue
                frame = self._frame(message, form)
                if frame is not None:
                    self.frames_out += 1
                    unsent += len(frame).to_bytes(4) + frame

    def _frame(self, envelope: Any, form: str) -> bytes | None:
        if form == "erlang":
            try:
                return ext.encode(envelope, self.hyper.domid)
            except ext.Fatal as error:
                die(str(error))
            except ext.TooDeep:
                die("its straw's process crashes: term_to_binary is system_limit")
        with contextlib.suppress(ValueError):
            return jsx.encode([(b"addr", envelope[1].name.encode("latin-1")), (b"msg", envelope[2])])
        self.notes.append("malformed JSON to send")
        return None

    def _deliver(self, frame: bytes, form: str, domid: int) -> Code:
        try:
            if form == "json":
                pairs = dict(jsx.decode(frame))
                to, message = Atom(pairs[b"addr"].decode("latin-1")), (Atom("json"), pairs[b"msg"])
            else:
                head, to, message = ext.decode(frame, self.hyper.domid)
                if head != ENVELOPE:
                    raise ValueError("no envelope")
        except (ext.Undecodable, ValueError, TypeError, KeyError) as error:
            # LING's own straw goes on, without this message. Nothing that it can't read should be sent to it.
            self.notes.append(f"bad message: {error}")
            if not self.lenient:
                die(f"a message that it can't read from domain {domid}: {error}: {frame[:80].hex()}")
            return
        self.maps += _maps(message)
        try:
            yield from self.send(to, message)
        except Exit as error:
            self.notes.append(f"undelivered: {show(to)} {error}")


def _for_looper(message: Any, form: str) -> bool:
    if message == ("irq", None):
        return True
    if not (isinstance(message, tuple) and len(message) == 3 and message[0] == ENVELOPE):
        return False
    return form == "erlang" or isinstance(message[1], Atom)


def _maps(term: Any) -> int:
    """How many maps there are in it."""
    count, rest = 0, [term]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            count += 1
            rest += [*item, *item.values()]
        elif isinstance(item, list | tuple):
            rest += item
    return count
