"""Records what a LING (tests/lingkit) and a Python node say to each other into ling_straws.json, which lies beside it.

Run it by hand; tests/interop/test_ling_golden.py records again and compares. For each conversation: what either domain
changes in the store, in the order in which it asked for it; the order of all states; the frames of either direction.
Masked is what is random or counted: refs, ports, ids of the node's pids, words of the references that it makes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from lingkit.driver import LingProcess
from lingkit.terms import Atom as A

from node import Atom, GenServer, Node, Process
from pores.host.server import Host
from pores.xenstore import server
from pores.xenstore.commands import Service
from pores.xenstore.wire import Op

LING, NODE = 5, 6
FILE = Path(__file__).with_name("ling_straws.json")
#: Seconds until something that should happen at once is taken not to happen.
LIMIT = 30

_CHANGES = {
    Op.MKDIR: "mkdir",
    Op.WRITE: "write",
    Op.RM: "rm",
    Op.SET_PERMS: "set_perms",
    Op.TRANSACTION_START: "begin",
    Op.TRANSACTION_END: "end",
}
_COUNTED = re.compile(r"/(ring-ref-\d|event-channel)$")


class Conversation:
    """A host in a thread of this process, whose store is listened to; a LING, and a node of this process."""

    def __init__(self, rundir: Path) -> None:
        self.rundir = rundir
        self.changes: dict[int, list[list[str]]] = {LING: [], NODE: []}
        self.states: list[list[Any]] = []
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.got: asyncio.Queue[Any] = asyncio.Queue()
        self.ling: LingProcess
        self.node: Node

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(LIMIT)

    def changed(self, domid: int, op: int, payload: bytes, tid: int) -> None:
        if op not in _CHANGES or domid not in self.changes:
            return
        path, *values = payload.decode("latin-1").removesuffix("\0").split("\0")
        if op == Op.WRITE and _COUNTED.search(path):
            values = [f"<{_COUNTED.search(path)[1].partition('-')[0]}>"]  # type: ignore[index]
        self.changes[domid].append([_CHANGES[Op(op)], *(part for part in (path, *values) if part)])
        if path.endswith("/state") or op == Op.RM:
            where = path.replace(f"/local/domain/{domid}/data", "data")
            self.states.append([domid, _CHANGES[Op(op)], where, *values])

    @contextlib.contextmanager
    def listened(self) -> Iterator[None]:
        conversation = self

        class Listening(Service):
            def _carry_out(self, request: Any) -> None:
                conversation.changed(self.session.domid, request.op, request.payload, request.tid)
                super()._carry_out(request)

        with mock.patch.object(server, "Service", Listening):
            yield

    async def _inbox(self, me: Process) -> None:
        while True:
            self.got.put_nowait(await me.receive())

    @contextlib.contextmanager
    def with_node(self) -> Iterator[None]:
        node = self.node = Node("golden@127.0.0.1", "golden", listen=None, pores=str(self.rundir), domid=NODE)
        node.register("inbox", self._inbox, straw=True)

        async def up() -> None:
            await node.start()
            while not node.strawman.domid:
                await asyncio.sleep(0.01)

        self.run(up())
        try:
            yield
        finally:
            self.run(node.close())

    @contextlib.contextmanager
    def peers(self) -> Iterator[None]:
        log = self.rundir / "ling.log"
        with LingProcess(self.rundir, LING, "--record", str(log)) as self.ling:
            self.ling.spawn("inbox", "buddy")
            with self.with_node():
                yield
        self.log = [json.loads(line) for line in log.read_text().splitlines()]

    # What happens in a conversation.

    def node_opens(self, *form: Any) -> None:
        assert self.run(self.node.call("strawman", (Atom("open"), LING, *form))) is Atom("ok")
        self.soon(lambda: self.ling.status()["straws"])

    def ling_opens(self) -> None:
        assert self.ling.open(NODE) == ""
        self.soon(lambda: self.node.strawman.domains)

    def node_says(self, message: Any) -> Any:
        self.run(self.node.strawman.send(LING, "buddy", message))
        return self.ling.next("buddy")

    def ling_says(self, message: Any) -> Any:
        assert self.ling.send((NODE, A("inbox")), message) == ""
        return self.run(self.got.get())

    def node_closes(self) -> None:
        self.run(self.node.strawman.close(LING))
        self.soon(lambda: not self.ling.status()["straws"])
        self.quiet()

    def ling_stops(self) -> None:
        assert self.ling.stop() == "stopped"
        self.soon(lambda: not self.node.strawman.domains)
        self.quiet()

    def quiet(self) -> None:
        """Until the node's tree has no straw any more."""

        async def look() -> bool:
            tree = self.host.store.tree.open(NODE)
            try:
                return not any(tree.directory(f"data/{top}")[0] for top in ("straw", "warts"))
            finally:
                tree.close()

        self.soon(lambda: self.run(look()))

    def soon(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)

    @contextlib.contextmanager
    def hosted(self) -> Iterator[None]:
        """The host, and afterwards the end of its thread."""
        with self.listened():
            self.host = Host(self.rundir)
            self.run(self.host.start())
            try:
                yield
            finally:
                self.run(self.host.close())
                self.loop.call_soon_threadsafe(self.loop.stop)
                self.thread.join(LIMIT)
                self.loop.close()

    def record(self, what: Callable[[Conversation], None]) -> dict[str, Any]:
        with self.hosted(), self.peers():
            what(self)
        return {
            "ling changes": self.changes[LING],
            "node changes": self.changes[NODE],
            "states": self.states,
            "to ling": self._frames("in"),
            "to node": self._frames("out"),
        }

    def _frames(self, direction: str) -> list[str]:
        data = b"".join(bytes.fromhex(line[4]) for line in self.log if line[:2] == ["straw", direction])
        frames = []
        while data:
            length = int.from_bytes(data[:4])
            frames.append(masked(data[4 : 4 + length]).hex())
            data = data[4 + length :]
        return frames


_PID = re.compile(rb"(?<=\xa0\0{8}\0\0\0" + bytes([NODE]) + rb").{4}", re.DOTALL)
_TABLE_REF = re.compile(rb"(?<=\x72\x00\x03\x73\x0d" + b"domain%d@straw" % NODE + rb"\x01).{12}", re.DOTALL)
_OWN_REF = re.compile(rb"\x72\x00\x03\x73.\d+:golden@127\.0\.0\.1\0.{12}", re.DOTALL)

_WORDS = b"\0\0\0\1" * 3


def masked(frame: bytes) -> bytes:
    """Without what is random: ids of the node's pids, words of references, the creation in their node's name."""
    node = b"0:golden@127.0.0.1"
    frame = _OWN_REF.sub(b"\x72\x00\x03\x73" + bytes([len(node)]) + node + b"\0" + _WORDS, frame)
    return _TABLE_REF.sub(_WORDS, _PID.sub(bytes(4), frame))


def words(atom: Callable[[str], Any]) -> list[Any]:
    """Terms with one side's atoms."""
    return [
        0,
        -1,
        255,
        256,
        (1 << 27) - 1,
        1 << 27,
        -(1 << 31),
        1 << 31,
        -(1 << 80),
        2.5,
        atom("h\xe9"),
        b"",
        b"bin",
        [],
        [1, 2, 3],
        [1, 256],
        (atom("t"), [(), [atom("nested")]]),
    ]


def terms(it: Conversation) -> None:
    for theirs, ours in zip(words(Atom), words(A), strict=True):
        assert it.node_says(theirs) == ours
        assert it.ling_says(ours) == theirs


def node_opens_and_closes(it: Conversation) -> None:
    it.node_opens()
    terms(it)
    it.node_closes()


def ling_opens_node_closes(it: Conversation) -> None:
    it.ling_opens()
    terms(it)
    it.node_closes()


def node_opens_ling_stops(it: Conversation) -> None:
    it.node_opens()
    it.node_says(1)
    it.ling_stops()


def ling_opens_and_stops(it: Conversation) -> None:
    it.ling_opens()
    it.ling_says(1)
    it.ling_stops()


def json_straw(it: Conversation) -> None:
    it.node_opens(Atom("json"))
    assert it.node_says({"k": [1, 2.5, None, "h\xe9", {}]}) == (
        A("json"),
        [(b"k", [1, 2.5, A("null"), b"h\xc3\xa9", [()]])],
    )
    it.ling_says([(b"k", [1, 2.5, A("null"), b"h\xc3\xa9", [()]])])
    it.node_closes()


def again_the_other_way(it: Conversation) -> None:
    it.node_opens()
    it.node_says(1)
    it.node_closes()
    it.ling_opens()
    it.ling_says(2)
    it.node_closes()
    it.node_opens()
    it.node_says(3)
    it.node_closes()


class Server(GenServer):
    """Answers {echo, X} with X and whoami with its pid."""

    async def handle_call(self, request: Any, caller: Any) -> Any:
        return request[1] if isinstance(request, tuple) else self.pid


def calls(it: Conversation) -> None:
    """Each calls the other's server, by its name and by its pid."""

    async def served() -> None:
        it.node.register("server", Server, straw=True)

    it.run(served())
    it.node_opens()
    it.ling.spawn("server", "server")
    theirs = it.ling.call((NODE, A("server")), A("whoami"))
    assert it.ling.call(theirs, (A("echo"), theirs)) == theirs
    proxy = it.run(it.node.strawman.proxy(LING, "server"))
    pid = it.run(it.node.call(proxy, Atom("whoami")))
    assert it.run(it.node.call(pid, (Atom("echo"), pid))) == pid
    it.node_closes()


CONVERSATIONS: dict[str, Callable[[Conversation], None]] = {
    "node opens and closes": node_opens_and_closes,
    "ling opens, node closes": ling_opens_node_closes,
    "node opens, ling stops": node_opens_ling_stops,
    "ling opens and stops": ling_opens_and_stops,
    "json": json_straw,
    "again, the other way": again_the_other_way,
    "calls": calls,
}


#: Where the LING's end is heard of in two ways, and it depends on which is first whether the node says 5.
ENDS_AT_ONCE = "ling opens and stops"


def record(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="ling-") as folder:
        parts = Conversation(Path(folder)).record(CONVERSATIONS[name])
    if name == ENDS_AT_ONCE:
        parts = {what: [entry for entry in entries if entry[-1] != "5"] for what, entries in parts.items()}
    return parts


def main() -> None:
    records = {name: record(name) for name in CONVERSATIONS}
    FILE.write_text(dumped(records))


def dumped(records: dict[str, Any]) -> str:
    """A line for each entry: a difference can be read."""
    lines = []
    for name, parts in records.items():
        inner = []
        for part, entries in parts.items():
            body = ",\n".join(f"   {json.dumps(entry)}" for entry in entries)
            inner.append(f"  {json.dumps(part)}: [\n{body}\n  ]")
        lines.append(f" {json.dumps(name)}: {{\n" + ",\n".join(inner) + "\n }")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
