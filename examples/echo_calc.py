"""Two named processes and one function for rpc: the smallest app for ``strawbridge run``.

Start it, then talk to it from any Erlang or Elixir node with the same cookie:

    STRAWBRIDGE_COOKIE=secret strawbridge run examples/echo_calc.py:app --name py@127.0.0.1

    $ erl -name a@127.0.0.1 -setcookie secret
    1> net_adm:ping('py@127.0.0.1').
    pong
    2> gen_server:call({calc, 'py@127.0.0.1'}, {add, 2, 3}).
    5
    3> {echo, 'py@127.0.0.1'} ! {self(), 1, hello}, flush().
    Shell got {1,hello}
    4> rpc:call('py@127.0.0.1', math, sqrt, [2.0]).
    1.4142135623730951
"""

import math

from node import Atom, GenServer, Node, Process


async def echo(me: Process) -> None:
    """Sends {Ref, Payload} back for each {Sender, Ref, Payload}."""
    while True:
        sender, ref, payload = await me.receive()
        me.send(sender, (ref, payload))


class Calc(GenServer):
    """Answers {add, A, B} and {divide, A, B}; whatever else is asked ends it, and the caller sees why."""

    async def handle_call(self, request, caller):
        match request:
            case tuple((Atom("add"), int(a) | float(a), int(b) | float(b))):
                return a + b
            case tuple((Atom("divide"), int(a) | float(a), int(b) | float(b))):
                return a / b
            case _:
                raise ValueError(request)


def app(node: Node) -> None:
    node.register("echo", echo)
    node.register("calc", Calc, restart="permanent")  # {divide, 1, 0} ends it, and it is there again
    node.export("math", "sqrt", math.sqrt)  # the only function that others may call by rpc
