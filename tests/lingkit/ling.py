"""A LING as a process: a domain of a local host that behaves as LING does, and dies where LING dies.

python ling.py RUNDIR [--domid N] [--lenient] [--record FILE]

It is driven by lines of JSON, `{"id": 1, "do": "send", "to": …, "msg": …}`; terms as in terms.py. Where LING's VM or a
kernel process of its dies, it says `LING died: why` and exits with 86. What it is like inside: README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).parents[1]))

from lingkit import procs
from lingkit.ext import deep_terms
from lingkit.hyper import Hyper
from lingkit.strawman import Strawman
from lingkit.terms import Atom, from_json, to_json
from lingkit.vm import Code, Exit, Machine, Process, die
from lingkit.xs import XenStore


class Ling:
    def __init__(self, rundir: str, domid: int, lenient: bool, record: TextIO | None) -> None:
        self.machine = Machine()
        self.hyper = Hyper(rundir, domid)
        self.machine.listen(self.hyper.fileno(), self.hyper.events)
        self.store = XenStore(self.machine, self.hyper.store())
        self.man = Strawman(self.machine, self.hyper, self.store, lenient)
        self.machine.on_crash = self._crashed
        self.inboxes: dict[str, procs.Inbox] = {}
        self.line = bytearray()
        self.machine.listen(0, self._readable)
        if record is not None:
            self._record(record)

    def _record(self, file: TextIO) -> None:
        def log(kind: str) -> Callable[..., None]:
            def line(*what: Any) -> None:
                plain = [item.hex() if isinstance(item, bytes) else item for item in what]
                file.write(json.dumps([kind, *plain]) + "\n")
                file.flush()

            return line

        self.store.log = log("store")
        self.man.log = log("straw")

    def _crashed(self, process: Process, error: BaseException) -> None:
        if process.name in self.inboxes or process.name.startswith("user"):
            self.man.notes.append(f"{process.name} crashed: {error!r}")
        else:
            die(f"{process.name or process.pid} crashes: {error!r}")

    # The line.

    def _readable(self) -> None:
        data = os.read(0, 1 << 20)
        if not data:
            os._exit(0)  # who drives it is gone
        self.line += data
        while b"\n" in self.line:
            text, _, rest = bytes(self.line).partition(b"\n")
            self.line = bytearray(rest)
            self._do(json.loads(text))

    def _say(self, what: dict[str, Any]) -> None:
        print(json.dumps(what), flush=True)

    def _do(self, what: dict[str, Any]) -> None:
        number, verb = what["id"], what["do"]
        if verb == "next":
            self.inboxes[what["name"]].next(lambda message: self._say({"id": number, "message": to_json(message)}))
        elif verb == "spawn":
            self._say({"id": number, "pid": to_json(self._spawn(what["kind"], what.get("name", "")).pid)})
        elif verb == "status":
            self._say({"id": number, **self._status()})
        elif verb == "stop":
            self._stop(number)
        elif verb == "exit":
            process = self.machine.processes.get(from_json(what["pid"]).id)
            if process is not None:
                self.machine.exit(process)
            self._say({"id": number})
        else:
            self.machine.spawn(lambda me: self._user(me, number, what), f"user {verb}")

    def _user(self, me: Process, number: int, what: dict[str, Any]) -> Code:
        """What a process of user code does for one command."""
        try:
            result = yield from getattr(self, "_do_" + what["do"])(me, what)
        except Exit as error:
            result = {"error": str(error)}
        self._say({"id": number, **result})

    def _do_send(self, me: Process, what: dict[str, Any]) -> Code:
        to, messages = from_json(what["to"]), from_json(what["msgs"])
        for _ in range(what.get("times", 1)):
            for message in messages:
                yield from self.man.send(to, message)
        return {}

    def _do_open(self, me: Process, what: dict[str, Any]) -> Code:
        verdict, why = yield from self.man.ask(("open", what["domid"]))
        return {} if verdict == "ok" else {"error": why}

    def _do_call(self, me: Process, what: dict[str, Any]) -> Code:
        answer = yield from procs.call(
            self.man, self.machine, me, from_json(what["to"]), from_json(what["request"]), what.get("seconds", 5.0)
        )
        return {"reply": to_json(answer)}

    def _do_calls(self, me: Process, what: dict[str, Any]) -> Code:
        """{echo, N} for each N below `count`; each from a process of its own if `fresh`."""
        to, good = from_json(what["to"]), 0
        for n in range(what["count"]):
            if what.get("fresh"):
                done = self.machine.make_ref()

                def one(caller: Process, n: int = n, done: Any = done) -> Code:
                    answer = yield from procs.call(self.man, self.machine, caller, to, (Atom("echo"), n), 30.0)
                    self.machine.send(me, (done, answer))

                self.machine.spawn(one, "user call")
                _, answer = yield (lambda m, done=done: isinstance(m, tuple) and m[0] == done, 30.0)
            else:
                answer = yield from procs.call(self.man, self.machine, me, to, (Atom("echo"), n), 30.0)
            good += answer == n
        return {"good": good}

    def _spawn(self, kind: str, name: str) -> Process:
        if kind == "inbox":
            inbox = self.inboxes[name] = procs.Inbox()
            process = self.machine.spawn(inbox.main, name)
        else:
            process = self.machine.spawn(procs.KINDS[kind](self.man), f"user {kind}")
        if name:
            self.machine.register(name, process)
        return process

    def _status(self) -> dict[str, Any]:
        pores = self.man.pores
        return {
            "straws": [[s.role, s.domid, self.man.formats.get(s.process, "")] for s in self.man.straws],
            "notes": self.man.notes,
            "maps": self.man.maps,
            "granted": self.hyper.granted,
            "mapped": self.hyper.mapped,
            "pores": len(pores),
            "watches": len(self.store.watches),
            "processes": len(self.machine.processes),
            "mail": {p.name: len(p.mailbox) for p in self.machine.processes.values() if p.mailbox},
            "bytes": [sum(p.bytes_in for p in pores.values()), sum(p.bytes_out for p in pores.values())],
            "frames": [self.man.frames_in, self.man.frames_out],
        }

    def _stop(self, number: int) -> None:
        """A clean shutdown: the strawman's terminate. What waits longer than LING's supervisor does is killed."""

        def done(how: str = "stopped") -> None:
            self._say({"id": number, "how": how})
            os._exit(0)

        def killer(me: Process) -> Code:
            yield (lambda message: False), 2.0
            for straw in self.man.straws:
                self.machine.exit(straw.process)
            done("killed")

        self.machine.spawn(killer, "user supervisor")
        self.machine.send(self.man.process, ("stop", done))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rundir")
    parser.add_argument("--domid", type=int, default=0)
    parser.add_argument("--lenient", action="store_true", help="what it can't read is noted, and it lives on")
    parser.add_argument("--record", type=argparse.FileType("w"), help="a file for what crosses straws and store")
    options = parser.parse_args()
    with deep_terms():
        ling = Ling(options.rundir, options.domid, options.lenient, options.record)
        ling.man.on_up = lambda: ling._say({"domid": ling.hyper.domid, "os_pid": os.getpid()})
        ling.machine.run()


if __name__ == "__main__":
    main()
