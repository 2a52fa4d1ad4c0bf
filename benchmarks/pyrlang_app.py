"""The peer of the distribution benchmark for the old Pyrlang library: run by the Python named by PYRLANG_PYTHON.

    pyrlang_app.py NAME COOKIE

Needs the packages `pyrlang` (the library of github.com/Pyrlang, not PyPI's package of that name) and `term` there.
"""

import os
import sys

from pyrlang.dist_proto import epmd_client
from pyrlang.gen.decorators import call, cast
from pyrlang.gen.server import GenServer
from pyrlang.node import Node
from pyrlang.process import Process
from term import Atom

# It has no setting for epmd's port.
epmd_client.EPMD_DEFAULT_PORT = int(os.environ["ERL_EPMD_PORT"])


class Echo(Process):
    def __init__(self) -> None:
        super().__init__()
        self.get_node().register_name(self, Atom("echo"))

    def handle_one_inbox_message(self, msg) -> None:
        sender, ref, payload = msg
        self.get_node().send_nowait(self.pid_, sender, (ref, payload))


class Server(GenServer):
    def __init__(self, name) -> None:
        super().__init__()
        self.casts = 0
        self.get_node().register_name(self, Atom(name))

    @call(1, lambda msg: True)
    def handle(self, msg):
        if msg == Atom("count"):
            casts, self.casts = self.casts, 0
            return casts
        return msg[1] + msg[2] if msg[0] == Atom("add") else msg[1]

    @cast(1, lambda msg: True)
    def on_cast(self, msg) -> None:
        self.casts += 1


def main() -> None:
    node = Node(node_name=sys.argv[1], cookie=sys.argv[2])
    Echo()
    Server("calc")
    Server("sink")
    node.get_loop().call_later(0.5, lambda: print("ready", flush=True))
    node.run()


main()
