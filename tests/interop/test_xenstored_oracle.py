"""Our store beside Debian's xenstored 4.17 itself: the same requests from three domains, the same answers and events.

xenstored runs here without Xen by a small preloaded library (c/xenstored_shim.c): domain 0 speaks over its socket, the
others over ring pages in files. Transactions run undisturbed here: where they conflict the two differ on purpose
(docs/xenstore.md).
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from beamkit.runtimes import need
from waiting import LONG

from pores.xenstore.commands import Service
from pores.xenstore.tree import Tree
from pores.xenstore.wire import Message, MessageReader, Op, encode

XENSTORED = Path("/usr/lib/xen-4.17/bin/xenstored")
SHIM = Path(__file__).parent / "c" / "xenstored_shim.c"
PAGE = 4096
HALF = 1024


class Client:
    """One connection: sends requests, collects what comes."""

    def __init__(self) -> None:
        self._reader = MessageReader()
        self._rid = 0

    def number_from(self, rid: int) -> None:
        self._rid = rid

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def read(self) -> bytes:
        raise NotImplementedError

    def ask(self, op: int, payload: bytes, tid: int = 0) -> list[Message]:
        """Everything that comes up to the reply, the reply last."""
        self._rid += 1
        self.write(encode(Message(op, self._rid, tid, payload)))
        got: list[Message] = []
        deadline = time.monotonic() + LONG
        while True:
            while (message := self._reader.next()) is not None:
                got.append(message)
                if message.op != Op.WATCH_EVENT and message.rid == self._rid:
                    return got
            assert time.monotonic() < deadline, "no answer"
            self._reader.feed(self.read())

    def events(self) -> list[bytes]:
        """The events so far: those that come before the answer to a question that changes nothing."""
        return [message.payload for message in self.ask(Op.GET_DOMAIN_PATH, b"0\0")[:-1]]


class OursClient(Client):
    def __init__(self, tree: Tree, domid: int) -> None:
        super().__init__()
        self._service = Service(tree, domid)

    def write(self, data: bytes) -> None:
        self._service.receive_data(data)
        self._service.work(1)

    def read(self) -> bytes:
        return self._service.data_to_send()


class SocketClient(Client):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(LONG)
        self._sock.connect(str(path))

    def write(self, data: bytes) -> None:
        self._sock.sendall(data)

    def read(self) -> bytes:
        return self._sock.recv(65536)

    def close(self) -> None:
        self._sock.close()


class RingClient(Client):
    """A domain at its ring page: requests at 0, replies at 1024, then req_cons, req_prod, rsp_cons, rsp_prod."""

    def __init__(self, folder: Path, domid: int) -> None:
        super().__init__()
        self._domid = domid
        self._folder = folder
        with (folder / f"ring-{domid}").open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), PAGE)

    def _index(self, number: int) -> int:
        return int(struct.unpack_from("<I", self._page, 2 * HALF + 4 * number)[0])

    def _set_index(self, number: int, value: int) -> None:
        struct.pack_into("<I", self._page, 2 * HALF + 4 * number, value & 0xFFFF_FFFF)
        with (self._folder / "evtchn").open("r+b", buffering=0) as fifo:
            fifo.write(struct.pack("<I", self._domid + 100))

    def write(self, data: bytes) -> None:
        while data:
            cons, prod = self._index(0), self._index(1)
            room = HALF - ((prod - cons) & 0xFFFF_FFFF)
            start = prod % HALF
            piece = data[: min(room, HALF - start)]
            if piece:
                self._page[start : start + len(piece)] = piece
                self._set_index(1, prod + len(piece))
                data = data[len(piece) :]
            else:
                time.sleep(0.0005)

    def read(self) -> bytes:
        cons, prod = self._index(2), self._index(3)
        start = cons % HALF
        data = self._page[HALF + start : HALF + min(start + ((prod - cons) & 0xFFFF_FFFF), HALF)]
        if data:
            self._set_index(2, cons + len(data))
        else:
            time.sleep(0.0002)
        return data

    def close(self) -> None:
        self._page.close()


class Real:
    """Debian's xenstored with domains 5 and 7."""

    def __init__(self, folder: Path, shim: Path) -> None:
        (folder / "xsd_port").write_text("3")
        os.mkfifo(folder / "evtchn")
        for domid in (0, 5, 7):
            (folder / f"ring-{domid}").write_bytes(bytes(PAGE))
        path = folder / "socket"
        env = {**os.environ, "LD_PRELOAD": str(shim), "SHIM_DIR": str(folder)}
        env |= {"XENSTORED_PATH": str(path), "XENSTORED_RUNDIR": str(folder)}
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [XENSTORED, "-N", "--pid-file", str(folder / "pid"), "-w", "watch-event=1000000000"],
                env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
            )  # fmt: skip
        deadline = time.monotonic() + LONG
        while not path.exists():
            assert self._process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.01)
        zero = SocketClient(path)
        for domid in (5, 7):
            assert zero.ask(Op.INTRODUCE, b"%d\0" % domid + b"1\0" + b"1\0")[-1].payload == b"OK\0"
        self.clients: dict[int, Client] = {0: zero, 5: RingClient(folder, 5), 7: RingClient(folder, 7)}

    def close(self) -> None:
        for client in self.clients.values():
            client.close()  # type: ignore[attr-defined]
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not XENSTORED.exists():
        pytest.skip("no xenstored (package xen-utils-4.17)")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    subprocess.run(
        [need("gcc", "gcc"), "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o", library, SHIM], check=True
    )
    return library


@pytest.fixture
def real(tmp_path: Path, shim: Path) -> Iterator[dict[int, Client]]:
    real = Real(tmp_path, shim)
    yield real.clients
    real.close()


@pytest.fixture
def ours() -> dict[int, Client]:
    tree = Tree()
    zero = tree.open(0)
    for name in ("/vm", "/local"):  # what a toolstack makes, xenstored does not
        zero.remove(name)
    zero.close()
    for domid in (5, 7):
        tree.introduce(domid, home=False)
    return {domid: OursClient(tree, domid) for domid in (0, 5, 7)}


def without_generation(messages: list[Message]) -> list[Message]:
    return [message._replace(payload=message.payload.partition(b"\0")[2]) for message in messages]


class Pair:
    """Both stores; whatever is asked, the answers and the events must be the same."""

    def __init__(self, real: dict[int, Client], ours: dict[int, Client]) -> None:
        self.real, self.ours = real, ours
        for clients in (real, ours):  # the same request ids from now on
            for client in clients.values():
                client.number_from(100)

    def ask(
        self, domid: int, op: Op, *words: bytes, tid: int = 0, end: bytes = b"\0", malformed: bool = False
    ) -> bytes:
        payload = b"\0".join(words) + end
        expected = self.real[domid].ask(op, payload, tid)
        got = self.ours[domid].ask(op, payload, tid)
        what = (domid, op.name, payload, tid)
        if op == Op.DIRECTORY_PART:  # generations are numbers of one's own
            expected, got = without_generation(expected), without_generation(got)
        assert got == expected, what
        for other in (0, 5, 7):
            assert self.ours[other].events() == self.real[other].events(), (what, other)
        return got[-1].payload


@pytest.fixture
def pair(real: dict[int, Client], ours: dict[int, Client]) -> Pair:
    return Pair(real, ours)


PATHS = [b"/a", b"/a/b", b"/a/b/c", b"/a/d", b"/a/d/e", b"x", b"x/y", b"/"]
PATHS += [b"/local/domain/5/x", b"/local/domain/7/x/y"]
ODD_PATHS = [b"", b"//", b"/a/", b"/a.b", b"a//b", b"/\xff", b"@releaseDomain", b"@x"]
ODD_PATHS += [b"/" + b"p" * 2047, b"/" + b"p" * 2048]
PERMS = [b"n0", b"r0", b"b0", b"w0", b"n5", b"r5", b"b5", b"w5", b"n7", b"r7", b"b7", b"b9"]
ODD_PERMS = [b"", b"x0", b"n", b"r5x", b"n99"]


def random_request(random: Random) -> tuple[Op, list[bytes]]:
    odd = random.random() < 0.05
    path = random.choice(ODD_PATHS if odd else PATHS)
    kind = random.randrange(20)
    if kind < 3:
        return Op.READ, [path]
    if kind < 5:
        return Op.DIRECTORY, [path]
    if kind < 6:
        return Op.GET_PERMS, [path]
    if kind < 9:
        return Op.WRITE, [path, random.choice([b"", b"1", b"value"])]
    if kind < 11:
        return Op.MKDIR, [path]
    if kind < 13:
        return Op.RM, [path]
    if kind < 16:
        perms = random.choices(PERMS, k=random.choice([1, 1, 2, 3]))
        if random.random() < 0.05:
            perms.append(random.choice(ODD_PERMS))
        if path[:1] == b"@":  # to a refusal of these, xenstored's errno is by chance, too
            path = b"/a"
        return Op.SET_PERMS, [path, *perms]
    if kind < 18:
        return Op.WATCH, [path, random.choice([b"t", b"u"])]
    if kind < 19:
        return Op.UNWATCH, [path, random.choice([b"t", b"u"])]
    return Op.DIRECTORY_PART, [path, random.choice([b"0", b"2", b"99"])]


@pytest.mark.parametrize("seed", range(12))
def test_the_same_answers_and_events(pair: Pair, seed: int) -> None:
    random = Random(seed)
    pair.ask(0, Op.MKDIR, b"/a")
    pair.ask(0, Op.SET_PERMS, b"/a", b"b0")
    for domid in (5, 7):
        pair.ask(0, Op.MKDIR, b"/local/domain/%d" % domid)
        pair.ask(0, Op.SET_PERMS, b"/local/domain/%d" % domid, b"n%d" % domid)
    for _ in range(400):
        domid = random.choice([0, 5, 7])
        if random.random() < 0.1:
            tid = int(pair.ask(domid, Op.TRANSACTION_START, b"").rstrip(b"\0"))
            for _ in range(random.randrange(5)):
                op, words = random_request(random)
                end = b"" if op == Op.WRITE else b"\0"
                pair.ask(domid, op, *words, tid=tid, end=end)
            pair.ask(domid, Op.TRANSACTION_END, random.choice([b"T", b"T", b"F"]), tid=tid)
        else:
            op, words = random_request(random)
            pair.ask(domid, op, *words, end=b"" if op == Op.WRITE else b"\0")


NOT_ASKED = [Op.WATCH_EVENT, Op.CONTROL, Op.RELEASE, Op.INTRODUCE, Op.SET_TARGET, Op.RESUME]
# Without a path these give whatever errno was before, or no answer at all when it was 0: xenstored's own mistake.
NOT_ASKED += [Op.READ, Op.DIRECTORY, Op.GET_PERMS, Op.MKDIR, Op.RM]
ODD_PAYLOADS = [
    ([b""], b""),
    ([b""], b"\0"),
    ([b"/tool"], b""),
    ([b"/tool", b""], b""),
    ([b"/tool", b"x", b"y", b"z"], b"\0"),
    ([b"T"], b"\0"),
    ([b"5"], b"\0"),
    ([b"/tool", b"n0"], b""),
    ([b"\xff"], b"\0"),
]


def test_odd_requests(pair: Pair) -> None:
    """Payloads that are nearly right."""
    for domid in (0, 5):
        for op in Op:
            if op in NOT_ASKED:
                continue
            for words, end in ODD_PAYLOADS:
                pair.ask(domid, op, *words, end=end)
            pair.ask(domid, op, b"/tool", tid=77)


def test_limits(pair: Pair) -> None:
    """As many nodes, watches, transactions and bytes as xenstored gives, and not one more."""
    pair.ask(0, Op.MKDIR, b"/five")
    pair.ask(0, Op.SET_PERMS, b"/five", b"b5")
    results = [pair.ask(5, Op.WATCH, b"/five/%d" % i, b"t") for i in range(132)]
    assert results.count(b"OK\0") == 129
    pair.ask(5, Op.RESET_WATCHES, b"")
    results = [pair.ask(5, Op.TRANSACTION_START, b"") for _ in range(13)]
    assert results.count(b"ENOSPC\0") == 2
    pair.ask(5, Op.RESET_WATCHES, b"")
    for size in (2014, 2015, 2016, 2017):
        pair.ask(5, Op.WRITE, b"/five/v", b"v" * size, end=b"")
    results = [pair.ask(5, Op.MKDIR, b"/five/%s%03d" % (b"n" * 60, i)) for i in range(40)]
    assert b"ENOSPC\0" in results
    for count in range(4, 7):
        pair.ask(5, Op.SET_PERMS, b"/five/v", b"n5", *[b"r0"] * count)
    path = b"/five" + b"/x" * 500
    for i in range(3):
        pair.ask(5, Op.MKDIR, path.replace(b"x", b"abc"[i : i + 1]))


def test_domains(pair: Pair) -> None:
    for path in (b"@introduceDomain", b"@releaseDomain"):
        for domid in (0, 5):
            pair.ask(domid, Op.WATCH, path, b"t")
    pair.ask(0, Op.MKDIR, b"/straw")
    pair.ask(0, Op.SET_PERMS, b"/straw", b"b0", b"b5")
    pair.ask(5, Op.WATCH, b"/straw", b"s")
    pair.ask(7, Op.WRITE, b"/straw/7/warts", b"1", end=b"")
    pair.ask(7, Op.WRITE, b"/straw/7/state", b"1", end=b"")
    pair.ask(5, Op.WRITE, b"/straw/7/other", b"1", end=b"")
    pair.ask(0, Op.SET_PERMS, b"@releaseDomain", b"n0", b"r5")
    expected = pair.real[0].ask(Op.RELEASE, b"7\0")
    got = pair.ours[0].ask(Op.RELEASE, b"7\0")
    assert got == expected
    for domid in (0, 5):
        assert pair.ours[domid].events() == pair.real[domid].events()
    pair.real.pop(7), pair.ours.pop(7)
    for client in (pair.real, pair.ours):
        assert client[0].ask(Op.DIRECTORY, b"/straw\0")[-1].payload == b""
        assert client[0].ask(Op.IS_DOMAIN_INTRODUCED, b"7\0")[-1].payload == b"F\0"
