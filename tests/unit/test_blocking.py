"""Programs without an event loop: a node in a thread of its own, and straws by functions that wait."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from samples import listing

from node import Atom, GenServer, LocalProtocolError, Node, Process, StrawError
from pores._native import straw_pages
from pores.messages import Messages
from pores.pore import ACTIVE, PASSIVE, Pore


class Calc(GenServer):
    def handle_call(self, request: Any, sender: Any) -> Any:
        return request * 2


def make(name: str, host: Path | None = None, **options: Any) -> Node:
    return Node(f"{name}@127.0.0.1", "secret", listen=None, pores=host and str(host), **options)


def loops() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.endswith(" loop")]


def test_a_node_in_a_thread() -> None:
    mine = make("a")
    mine.register("calc", Calc)
    with mine.blocking as node:
        assert loops() == ["a@127.0.0.1 loop"]
        assert node.call("calc", 21) == 42
        assert mine.running
    assert not mine.running and not loops()
    with pytest.raises(LocalProtocolError, match="a new Node"), mine.blocking:
        raise AssertionError("a node runs once")
    assert not loops()


def test_a_node_that_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "h").write_text("")
    with pytest.raises(StrawError, match="is not a folder"), make("a", tmp_path / "h").blocking:
        raise AssertionError("it has not started")
    assert not loops()


def test_an_error_in_the_block_leaves_it() -> None:
    with pytest.raises(ZeroDivisionError), make("a").blocking:
        print(1 // 0)
    assert not loops()


def test_straws(tmp_path: Path) -> None:
    with (
        make("a", tmp_path / "h", embed_host=True).blocking as a,
        make("b", tmp_path / "h").blocking as b,
        b.strawman.listen("buddy") as inbox,
    ):
        assert (a.strawman.domid, b.strawman.domid) == (1, 2)
        with pytest.raises(TimeoutError):
            inbox.receive(timeout=0)
        a.strawman.send(2, "buddy", {"first": 1})
        a.strawman.send(2, "buddy", b"second")
        b.send("buddy", Atom("not an envelope"))
        a.strawman.send(2, "buddy", 3)
        assert inbox.receive(10) == (1, {b"first": 1})
        assert [message for _, message in zip("..", inbox, strict=False)] == [(1, b"second"), (1, 3)]
        a.strawman.flush(2)
        assert a.strawman.domains == [2] and a.strawman.close(2) and not a.strawman.close(2)
        assert a.strawman.domains == []
        while b.strawman.domains:
            pass
        assert a.strawman.open(2, format="json").node is Atom("a@127.0.0.1")
        a.strawman.send(2, "buddy", {"k": None})
        assert inbox.receive(10) == (1, (Atom("json"), {b"k": Atom("null")}))
        with pytest.raises(StrawError, match="exists"):
            a.strawman.open(2)
        with pytest.raises(ValueError, match="taken"):
            b.strawman.listen("buddy")
        inbox.close()
        b.strawman.export("alias", to="calc", domains=[1])
        b.strawman.unexport("alias")
        with b.strawman.listen("buddy", domains=[7]) as picky:
            a.strawman.send(2, "buddy", 1)
            with pytest.raises(TimeoutError):
                picky.receive(timeout=0.05)
    assert not loops()


def test_straws_from_threads_of_a_program_that_has_a_loop(tmp_path: Path) -> None:
    async def main() -> None:
        async with make("a", tmp_path / "h", embed_host=True) as a, make("b", tmp_path / "h") as b:
            inbox = await asyncio.to_thread(b.blocking.strawman.listen, "buddy")
            taking = asyncio.create_task(asyncio.to_thread(inbox.receive, 10))
            await asyncio.to_thread(a.blocking.strawman.send, 2, "buddy", 5)
            assert await taking == (1, 5)
            await asyncio.to_thread(inbox.close)
            with pytest.raises(LocalProtocolError, match="would block the event loop"):
                a.blocking.strawman.send(2, "buddy", 5)

    asyncio.run(main())


def test_the_script_in_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = listing("docs/strawman.md", "python", "with Node(")
    monkeypatch.setenv("STRAWBRIDGE_HOST", str(tmp_path / "h"))
    buddy = make("b", tmp_path / "h", embed_host=True, domid=5)

    async def answer(me: Process) -> None:
        _, domid, (word, name) = await me.receive()
        await buddy.strawman.send(domid, name, (word, word))

    buddy.register("buddy", answer)
    buddy.strawman.export("buddy", sender=True)
    names: dict[str, Any] = {"Node": Node, "Atom": Atom}
    with buddy.blocking:
        exec(script, names)
    assert (names["domid"], names["answer"]) == (5, (Atom("hello"), Atom("hello")))


def test_the_messages_in_the_guide() -> None:
    script = listing("docs/straws.md", "python", "from pores.messages")
    memory = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, straw_pages(1 << 20) * 4096)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    ends = [end.detach() for end in socket.socketpair()]
    ours, theirs = (
        Pore.straw(memory, end, role=role, ring_bytes=1 << 20)
        for end, role in zip(ends, (ACTIVE, PASSIVE), strict=True)
    )
    os.close(memory)
    with theirs, Messages(theirs) as messages:
        messages.send(b"back")
        names: dict[str, Any] = {"pore": ours}
        exec(script, names)
        assert names["frame"] == b"back" and ours.closed
        assert list(messages) == [b"leaves now", b"leaves with others"]
