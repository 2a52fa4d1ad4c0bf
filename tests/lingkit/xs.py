"""LING's xenstore process: requests and replies on the store's wire, watch events to who asked for them.

It dies of what LING's dies of (an empty value, a reply to nothing), and loses what LING's loses (an event that comes
before the reply to its WATCH). Values are text, as LING's strings.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

from .vm import Code, Machine, Process, die, receive

__all__ = ["XenStore"]

DIRECTORY, READ, GET_PERMS, WATCH, UNWATCH, START, END = 1, 2, 3, 4, 5, 6, 7
WRITE, MKDIR, RM, SET_PERMS, WATCH_EVENT, ERROR = 11, 12, 13, 14, 15, 16
HEADER = struct.Struct("<IIII")

Result = tuple[str, Any]
"""("ok", None), ("ok", text or number or list), ("error", "enoent")."""


class XenStore:
    """`log` is told of every request, reply and event: for records."""

    def __init__(self, machine: Machine, connection: socket.socket) -> None:
        self.machine, self.socket = machine, connection
        self.log: Callable[..., None] = lambda *what: None
        self.inbox = bytearray()
        self.calls: dict[int, tuple[Process, int, Any]] = {}
        self.free: list[int] = []
        self.next_rid = 1
        self.watches: list[tuple[str, str, Process]] = []
        machine.listen(connection.fileno(), self._readable)

    def _readable(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            print("LING: the machine is off (the store is gone)", file=sys.stderr, flush=True)
            os._exit(0)
        self.inbox += data
        while len(self.inbox) >= HEADER.size:
            op, rid, _, length = HEADER.unpack_from(self.inbox)
            if len(self.inbox) < HEADER.size + length:
                break
            payload = bytes(self.inbox[HEADER.size : HEADER.size + length])
            del self.inbox[: HEADER.size + length]
            self._came(op, rid, payload)

    def _came(self, op: int, rid: int, payload: bytes) -> None:
        if not payload:
            what = self.calls.get(rid, (None, op, "?"))[2]
            die(f"its xenstore process can't take an empty value: {what}")
        text = payload.removesuffix(b"\0").decode("latin-1")
        if op == WATCH_EVENT:
            path, token = text.split("\0")
            self.log("event", path)
            for known, _, process in self.watches:
                if known == token:
                    self.machine.send(process, ("watch", path))
            return
        if rid not in self.calls:
            die(f"its xenstore process has a reply to nothing: {rid}")
        process, asked, argument = self.calls.pop(rid)
        self.free.append(rid)
        result = _unpack(op, text)
        self.log("reply", asked, result)
        if op == WATCH:
            self.watches.insert(0, (argument[1], argument[0], process))
        self.machine.send(process, ("xenstore", rid, result))

    def call(self, op: int, payload: Any, tid: int = 0) -> Code:
        process = self.machine.current
        assert process is not None
        if self.free:
            rid = self.free.pop()
        else:
            rid, self.next_rid = self.next_rid, self.next_rid + 1
        if op == WRITE:
            data = "\0".join(payload)
        elif isinstance(payload, list):
            data = "".join(f"{part}\0" for part in payload)
        else:
            data = f"{payload}\0"
        self.log("call", op, payload, tid)
        self.calls[rid] = process, op, payload
        self.socket.sendall(HEADER.pack(op, rid, tid, len(data)) + data.encode("latin-1"))
        message = yield from receive(lambda m: isinstance(m, tuple) and m[:2] == ("xenstore", rid))
        return message[2]

    # LING's API; every one a generator, with its result.

    def read(self, path: str) -> Code:
        return self.call(READ, path)

    def read_integer(self, path: str) -> Code:
        verdict, value = yield from self.read(path)
        if verdict == "error":
            return verdict, value
        try:
            return "ok", int(value)
        except ValueError:
            return "error", "not_integer"

    def write(self, path: str, value: object, tid: int = 0) -> Code:
        return self.call(WRITE, [path, str(value)], tid)

    def mkdir(self, path: str, tid: int = 0) -> Code:
        return self.call(MKDIR, path, tid)

    def delete(self, path: str, tid: int = 0) -> Code:
        return self.call(RM, path, tid)

    def set_perms(self, path: str, perms: list[str]) -> Code:
        return self.call(SET_PERMS, [path, *perms])

    def watch(self, path: str) -> Code:
        return self.call(WATCH, [path, os.urandom(8).hex()])

    def unwatch(self, path: str) -> Code:
        """All of the caller's watches of this path."""
        mine = [w for w in self.watches if w[1] == path and w[2] is self.machine.current]
        self.watches = [w for w in self.watches if w not in mine]
        for token, _, _ in mine:
            yield from self.call(UNWATCH, [path, token])

    def transaction(self) -> Code:
        return self.call(START, "")

    def commit(self, tid: int) -> Code:
        return self.call(END, "T", tid)

    def domid(self) -> Code:
        verdict, value = yield from self.read("domid")
        assert verdict == "ok"
        return int(value)

    def wait(self, path: str, target: str) -> Code:
        """For ever: until the value is this, or reading it fails otherwise than by ENOENT."""
        while True:
            yield from receive(lambda m: m == ("watch", path))
            verdict, value = yield from self.read(path)
            if verdict == "error" and value != "enoent":
                return verdict, value
            if (verdict, value) == ("ok", target):
                return "ok", None


def _unpack(op: int, text: str) -> Result:
    if op == ERROR:
        return "error", text.lower()
    if op == START:
        return "ok", int(text)
    if op == DIRECTORY:
        return "ok", [name for name in text.split("\0") if name]
    if text == "OK":
        return "ok", None
    return "ok", [part for part in text.split("\0") if part] if "\0" in text else text
