"""A Python node in a domain: for scenarios in which processes talk, not bare straws. talk.escript is the same in
Erlang.

python talk.py serve          exports `echo`: {Name, Payload} from a domain is answered: {echoed, Payload} to Name there
python talk.py ask DOMID      asks there, with payloads of all sizes; prints "answered N"
python talk.py dist NODE      asks a BEAM by distribution; the same
python talk.py gate NODE      exports `echo` of a BEAM: what it answers goes out through `strawman` here

Each prints "domain N" when it is one.
"""

from __future__ import annotations

import asyncio
import os
import sys

from node import Atom, Node, Process, StrawError

ECHOED = Atom("echoed")
COOKIE = "scenarios"
TRIES = 20
SIZES = (0, 1, 100, 5000, 20_000, 300_000)


async def echo(me: Process) -> None:
    while True:
        match await me.receive():
            case (Atom("straw"), domid, (Atom() as name, payload)):
                await me.node.strawman.send(domid, name, (ECHOED, payload))


async def opened(node: Node, domid: int) -> None:
    """An emulated machine that is busy may take longer than an open may."""
    for _ in range(TRIES):
        try:
            await node.strawman.open(domid)
        except StrawError as error:
            print(f"open: {error.reason}", flush=True)
            if error.reason == "exists":
                return
            await asyncio.sleep(1)
        else:
            return


async def ask(node: Node, domid: int) -> int:
    """How many answers came; all that were asked for, or it raises."""
    answers: asyncio.Queue[object] = asyncio.Queue()

    async def hear(me: Process) -> None:
        while True:
            answers.put_nowait(await me.receive())

    node.register("answers", hear, straw=True)
    await opened(node, domid)
    for size in SIZES:
        payload = os.urandom(size)
        await node.strawman.send(domid, "echo", (Atom("answers"), payload))
        answer = await answers.get()
        assert answer == (ECHOED, payload), f"{str(answer)[:100]} to {size} bytes"
    return len(SIZES)


async def dist(argument: str) -> None:
    answers: asyncio.Queue[object] = asyncio.Queue()

    async def ask(me: Process) -> None:
        for size in SIZES:
            payload = os.urandom(size)
            me.send(("echo", argument), (me.pid, payload))
            answers.put_nowait(await me.receive() == (ECHOED, payload))

    node = Node("talk@10.9.0.2", COOKIE, listen=None)
    async with node:
        await node.connect(argument)
        node.spawn(ask)
        assert all([await answers.get() for _ in SIZES])
        print(f"answered {len(SIZES)}", flush=True)


async def main(role: str, argument: str = "") -> None:
    if role == "dist":
        await dist(argument)
        return
    node = Node("talk@127.0.0.1", COOKIE, listen=None, pores=True)
    if role == "serve":
        node.register("echo", echo)
        node.strawman.export("echo", sender=True)
    elif role == "gate":
        node.strawman.export("echo", to=("echo", argument), sender=True)
    async with node:
        print(f"domain {node.strawman.domid}", flush=True)
        if role == "gate":
            await node.connect(argument)
            print("connected", flush=True)
        if role == "ask":
            print(f"answered {await ask(node, int(argument))}", flush=True)
        else:
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
