"""Links and monitors between Python and a BEAM, from the Python side.

``watcher`` takes {watch, Pid} and {join, Pid} from anyone:

* watch: a monitor. When the process ends, its reason is kept, whatever it was; ``noconnection`` when its node is gone.
* join: a link. The two live and die together; as watcher traps exits, it gets {'EXIT', Pid, Reason} as a message.

{report, Pid} sends it all reasons so far, as [{Kind, Reason}].

    1> W = {watcher, 'py@127.0.0.1'}, P = spawn(fun() -> receive after 1000 -> exit(tired) end end), W ! {watch, P}.
    2> timer:sleep(1500), W ! {report, self()}, flush().
    Shell got [{down,tired}]
"""

from node import Atom, Node, Process


async def watcher(me: Process) -> None:
    me.trap_exit = True
    seen = []
    while True:
        match await me.receive():
            case (Atom("watch"), pid):
                me.monitor(pid)
            case (Atom("join"), pid):
                me.link(pid)
            case (Atom("report"), pid):
                me.send(pid, seen)
            case (Atom("DOWN"), _ref, Atom("process"), _pid, reason):
                seen.append((Atom("down"), reason))
            case (Atom("EXIT"), _pid, reason):
                seen.append((Atom("exit"), reason))


def app(node: Node) -> None:
    node.register("watcher", watcher)
