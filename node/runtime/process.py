"""One process: a pid, a mailbox, names, links, monitors and the task that runs its handler.

What a signal does is decided in signals.py, where it goes in router.py. This is not an operating system process and
not a thread: it is an asyncio task with Erlang's rules of life and death. Use it on the loop's thread only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import NoConnection, ProcessExit
from ..terms import Atom, Pid, Reference
from .mailbox import Mailbox, Match
from .reasons import crash_reason
from .signals import DOWN, EXIT, KILL, NORMAL, PROCESS, SHUTDOWN, Links, is_quiet, on_exit_signal

if TYPE_CHECKING:
    from ..node import Node  # for annotations only: nothing of the node is used here
    from .peers import Peer
    from .router import Router

__all__ = ["Handler", "Process", "Target"]

log = logging.getLogger("strawbridge.process")

_NODEUP = Atom("nodeup")
_NODEDOWN = Atom("nodedown")

#: What a message can be sent to: a pid, a registered name, a (name, node) pair, an alias, or a local process.
Target = "Pid | str | Atom | tuple[str | Atom, str | Atom] | Reference | Process"
#: A handler that runs as a process: a coroutine function whose first argument is the process.
Handler = Callable[..., Coroutine[Any, Any, Any]]


class Process:
    """A process of the cluster. Handlers get theirs as their first argument; others come from Node.process().

    Attributes: pid; names (registered ones); trap_exit (True turns exit signals into ``(EXIT, pid, reason)``
    messages); alive; exit_reason (a term, once it has ended); node (the Node that it belongs to).
    """

    __slots__ = (
        "__weakref__",
        "_held",
        "alive",
        "exit_reason",
        "group_leader",
        "label",
        "links",
        "mailbox",
        "monitors",
        "names",
        "on_exit",
        "pid",
        "router",
        "task",
        "trap_exit",
        "watchers",
    )

    #: what is delivered stays here, so it is a copy; False: it is made into bytes before deliver() returns
    keeps: ClassVar[bool] = True

    def __init__(self, router: Router, label: str) -> None:
        self.router = router
        self.label = label
        self.pid: Pid = router.new_pid()
        self.mailbox = Mailbox(router.turn, router.deadlines, router)
        self.names: list[Atom] = []
        self.links = Links()
        #: our monitors: reference -> what is monitored (a pid or (name, node))
        self.monitors: dict[Reference, Any] = {}
        #: who monitors us: reference -> (watcher's pid, how it calls us: our pid or a name)
        self.watchers: dict[Reference, tuple[Pid, Any]] = {}
        self.trap_exit = False
        self.alive = True
        self.exit_reason: Any = None
        self.group_leader: Pid | None = None
        self.task: asyncio.Task[None] | None = None
        self.on_exit: list[Callable[[Process, Any], object]] = []
        self._held: Peer | None = None
        router.add(self)

    def __repr__(self) -> str:
        name = self.names[0].name if self.names else self.label
        return f"<Process {name} {self.pid.id}{'' if self.alive else ' ended'}>"

    @property
    def node(self) -> Node:
        """The node that this process belongs to."""
        return self.router.node

    # Messages.

    def deliver(self, message: Any) -> None:
        """A message arrives (the router calls this)."""
        self.mailbox.put(message)

    async def receive(self, match: Match | None = None, timeout: float | None = None) -> Any:
        """Wait for the next message, or for the first one for which match(message) is true.

        Messages that do not match stay in the mailbox, in order. timeout: seconds, then TimeoutError.
        Raises ProcessExit when this process has ended.
        """
        mailbox = self.mailbox
        if self._held is not None:
            await self._release()
        elif match is None and mailbox.queue:  # an ended process has nothing there
            return mailbox.pop()
        if not self.alive:
            raise ProcessExit(self.exit_reason)
        return await mailbox.receive(match, timeout)

    async def _release(self) -> None:
        """This process sent more than its peer takes: it waits for the peer."""
        peer, self._held = self._held, None
        if peer is not None and self.alive:
            peer.flush()
            if peer.busy:
                try:
                    await peer.drain()
                except NoConnection:
                    pass  # it was reported when the connection ended; there is nothing left to wait for

    def send(self, to: Any, message: Any) -> None:
        """Send to a Pid, a registered name, a (name, node) pair or an alias. Never blocks.

        Raises EncodeError when the message has no term, PeerBusy past the hard limit of unsent bytes. After more
        than 1 MiB unsent to one peer the next receive() waits until the peer has taken it. ProcessExit when this
        process has ended.
        """
        self._check_alive()
        peer = self.router.send(self.pid, to, message)
        if peer is not None and peer.busy:
            self._held = peer

    def call(self, to: Any, request: Any, timeout: float | None = 5.0) -> Coroutine[Any, Any, Any]:
        """gen_server:call as this process; see Node.call."""
        return self.node.call(to, request, timeout, caller=self)

    def cast(self, to: Any, request: Any) -> None:
        """gen_server:cast; see Node.cast."""
        self.node.cast(to, request, sender=self)

    def _check_alive(self) -> None:
        """Nothing comes from a process after its end, also while its handler still cleans up."""
        if not self.alive:
            raise ProcessExit(self.exit_reason)

    # Links, monitors, exits.

    def link(self, pid: Pid) -> None:
        """Link to a process. If there is none, an exit signal with reason noproc arrives."""
        self._check_alive()
        self.router.link(self, pid)
        self._check_alive()

    def unlink(self, pid: Pid) -> None:
        """Remove a link; no exit signal over it arrives afterwards."""
        self.router.unlink(self, pid)

    def monitor(self, target: Any) -> Reference:
        """Monitor a pid, a name or a (name, node) pair: its end arrives as ``(DOWN, ref, process, target, reason)``."""
        self._check_alive()
        return self.router.monitor(self, target)

    def demonitor(self, ref: Reference, flush: bool = True) -> None:
        """Stop monitoring. flush: also remove a DOWN message that has arrived already."""
        self.router.demonitor(self, ref)
        if flush:
            queue = self.mailbox.queue
            for index, message in enumerate(queue):
                if type(message) is tuple and len(message) == 5 and message[0] is DOWN and message[1] == ref:
                    del queue[index]
                    break

    def monitor_nodes(self) -> None:
        """Get ``(nodeup, node)`` and ``(nodedown, node)`` messages from now on, as net_kernel:monitor_nodes(true)."""

        def watcher(up: bool, node: Atom, reason: str) -> None:
            self.deliver((_NODEUP if up else _NODEDOWN, node))

        self.router.node_watchers.append(watcher)
        self.on_exit.append(lambda process, reason: self.router.node_watchers.remove(watcher))

    def exit(self, reason: Any = NORMAL) -> None:
        """End this process with a reason, by raising ProcessExit; linked and monitoring processes see it."""
        raise ProcessExit(Atom(reason) if isinstance(reason, str) else reason)

    def send_exit(self, pid: Pid, reason: Any) -> None:
        """exit/2: send an exit signal to a process."""
        self._check_alive()
        self.router.exit2(self.pid, pid, Atom(reason) if isinstance(reason, str) else reason)

    def register(self, name: str | Atom) -> None:
        """Give this process a name. ValueError when it is taken."""
        self.router.registry.register(name, self)

    def spawn(self, handler: Handler, *args: Any, link: bool = False, name: str | Atom | None = None) -> Process:
        """Start another process on this node; its handler gets the new Process and args."""
        self._check_alive()
        child = self.router.spawn(handler, *args, name=name)
        if link:
            self.link(child.pid)
        return child

    # Life.

    def start(self, handler: Handler, *args: Any) -> None:
        """Run the handler in a task of its own."""
        self.task = self.router.turn.loop.create_task(self._run(handler, args), name=f"{self.label} {self.pid.id}")

    async def _run(self, handler: Handler, args: tuple[Any, ...]) -> None:
        reason: Any = NORMAL
        try:
            await handler(self, *args)
        except asyncio.CancelledError:
            reason = SHUTDOWN  # or an exit signal: then the process has ended already
        except ProcessExit as error:
            reason = error.reason
        except Exception as error:
            reason = crash_reason(error)
            what = "ended by an exception" if self.alive else "failed to clean up"
            log.error("%r %s", self, what, exc_info=error)
        except BaseException as error:
            reason = crash_reason(error)
            raise
        finally:
            self.task = None
            self.end(reason)

    def on_exit_signal(self, sender: Pid, reason: Any, *, linked: bool) -> None:
        """An exit signal arrives; for one over a link the caller has checked that the link is active."""
        if not self.alive:
            return
        action, reason = on_exit_signal(reason, linked=linked, trapping=self.trap_exit, own=sender == self.pid)
        if action == "message":
            self.deliver((EXIT, sender, reason))
        elif action == "end":
            self.end(reason)

    def on_down(self, ref: Reference, target: Any, reason: Any) -> None:
        """A monitored process is down (the router has removed the monitor)."""
        self.deliver((DOWN, ref, PROCESS, target, reason))

    def end(self, reason: Any) -> None:
        """The process ends now: the cluster sees it at once, the handler gets CancelledError where it waits."""
        if not self.alive:
            return
        self.alive = False
        self.exit_reason = reason
        self.router.ended(self, reason)
        self.mailbox.clear()
        self.mailbox.fail(ProcessExit(reason))
        task, self.task = self.task, None
        if task is not None:
            if not is_quiet(reason):
                log.info("%r ended by an exit signal: %r", self, reason)
            task.cancel()
        for callback in self.on_exit:
            callback(self, reason)

    def shutdown(self) -> None:
        """End a running handler in good order: it is cancelled and may send while it cleans up; end() is at once."""
        if self.task is not None:
            self.task.cancel()

    def kill(self) -> None:
        """End it as exit(Pid, kill) does."""
        self.on_exit_signal(self.pid, KILL, linked=False)
