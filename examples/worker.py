"""A worker that Erlang looks after: guard.erl, beside this file, monitors it and starts it again by rpc.

A Python process that ends tells everyone who monitors it why, with the Python stack in the reason.

    STRAWBRIDGE_COOKIE=secret strawbridge run examples/worker.py:app --name py@127.0.0.1

    $ erlc examples/guard.erl
    $ erl -name a@127.0.0.1 -setcookie secret -eval "guard:start('py@127.0.0.1')."
"""

from node import Atom, Node, Process


async def worker(me: Process) -> None:
    """Answers {Sender, N} with 100 divided by N."""
    while True:
        sender, number = await me.receive()
        me.send(sender, (Atom("quotient"), 100 // number))  # 0 ends it: the guard sees ZeroDivisionError


def app(node: Node) -> None:
    async def start_worker():  # async: it runs on the node's loop, where processes can be started
        """What guard.erl calls: {ok, Pid}, a new one or the one that runs."""
        pid = node.whereis("worker") or node.spawn(worker, name="worker").pid
        return (Atom("ok"), pid)

    node.export("worker", "start", start_worker)
