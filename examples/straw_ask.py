"""A script that becomes a domain for one question: python examples/straw_ask.py DOMID A B.

It asks buddy of straw_buddy.py for A + B. It is no member of any cluster: it listens on no port and has no cookie that
anybody else knows.
"""

import asyncio
import secrets
import sys

from node import Atom, Node, Process


async def main(domid: int, a: int, b: int) -> None:
    answered = asyncio.Event()

    async def me(process: Process) -> None:
        match await process.receive():
            case (Atom("sum"), total):
                print(total)
                answered.set()

    node = Node("straw_ask@127.0.0.1", secrets.token_hex(16), listen=None, pores=True)
    node.register("me", me, straw=True)
    async with node, asyncio.timeout(10):
        await node.strawman.send(domid, "buddy", (Atom("add"), a, b, Atom("me")))
        await answered.wait()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:4])))
