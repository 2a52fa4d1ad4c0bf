"""A process that other domains of this machine reach through shared memory.

``buddy`` is exported to straws: {add, A, B, Name} from a domain is answered with {sum, A + B} to Name there. Nothing
else of this node can be reached by straw.

    $ strawbridge run examples/straw_buddy.py:app --domid 5
    $ python examples/straw_ask.py 5 2 3
    5
    $ strawbridge straw send 5 buddy '{hello, <<"world">>}'
    ok

LING's code, and a BEAM connected to another such node, say `strawman:open(5)`, or just
`strawman ! {envelope, {5, buddy}, {add, 2, 3, me}}`.
"""

from node import Atom, Node, Process


async def buddy(me: Process) -> None:
    while True:
        match await me.receive():
            case (Atom("straw"), domid, (Atom("add"), a, b, Atom() as name)):
                await me.node.strawman.send(domid, name, (Atom("sum"), a + b))
            case (Atom("straw"), domid, message):
                print(f"domain {domid} says {message!r}", flush=True)


def app(node: Node) -> None:
    node.register("buddy", buddy, restart="permanent")
    node.strawman.export("buddy", sender=True)
