"""A Python script that uses a gen_server of a BEAM (counter.erl, beside this file), then goes.

$ erlc examples/counter.erl
$ erl -name a@127.0.0.1 -setcookie secret -s counter
$ STRAWBRIDGE_COOKIE=secret python examples/client.py a@127.0.0.1
"""

import asyncio
import os
import sys

from node import Atom, CallExit, Node


async def main(beam: str) -> None:
    name = f"client{os.getpid()}@127.0.0.1"
    async with Node(name, cookie=os.environ.get("STRAWBRIDGE_COOKIE")) as node:
        counter = ("counter", beam)
        node.cast(counter, (Atom("add"), 5))  # no answer wanted
        total = await node.call(counter, (Atom("add"), 37), timeout=5.0)
        print("the counter is at", total)

        try:
            await node.call(counter, (Atom("add"), Atom("oops")))
        except CallExit as error:  # the gen_server crashed, as an Erlang caller would see it
            reason, _stack = error.reason[:2]
            print("the counter ended:", reason)

        print("it runs on", await node.rpc(beam, "erlang", "node", []))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
