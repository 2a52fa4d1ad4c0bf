"""Node: the layers put together, and the face that users call.

It owns everything that a node has open: the listening socket, connections, the epmd registration, the processes, the
worker threads. Several nodes may live in one operating system process; nothing is shared between them.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

from .blocking import Blocking
from .errors import CallError, LocalProtocolError, NoConnection, NodeError, PeerBusy
from .net.cookie import check_cookie, find_cookie, read_cookie
from .net.epmd import EpmdClient, EpmdKeeper, Registration, ensure_epmd
from .net.options import LocalNode, NetOptions
from .net.peer import Peer
from .net.table import PeerTable
from .otp import gen
from .otp.exports import Exports
from .otp.io import user
from .otp.net_kernel import NetKernel
from .otp.rpc import Rex, Spawner, rpc
from .otp.supervisor import ChildSpec, Restart, Supervisor, start_process
from .runtime.incoming import Incoming
from .runtime.peers import address
from .runtime.process import Process
from .runtime.router import Router
from .runtime.signals import SHUTDOWN
from .runtime.timers import Deadlines
from .runtime.waiter import Turn
from .strawman.manager import Strawman
from .strawman.server import StrawmanServer
from .terms import Atom, Pid, Reference
from .wire.flags import our_flags
from .wire.names import is_allowed, split_node, valid_host, valid_node_name

__all__ = ["Link", "Monitor", "Node"]

log = logging.getLogger("strawbridge.node")

#: Worker threads of one node for blocking handlers and exports.
THREADS = 32
#: Seconds that processes get to end when the node closes.
EXIT_TIME = 5.0
#: Outages remembered, so that clients with a name of their own leave nothing behind for ever.
MAX_OUTAGES = 1000

_YES = Atom("yes")


class Node:
    """A node of an Erlang cluster.

    name: ``name@host``; a host with a dot or a colon makes it a long name as OTP has it. cookie: the cluster's
    secret; without it, cookie_file, else OTP's rules ($HOME/.erlang.cookie). hidden: as ``erl -hidden``; visible nodes
    would have to take part in `global`. listen: the address to listen on, loopback unless told; None: neither listen
    nor register (for scripts that only call). port: 0 for any. epmd_port: ERL_EPMD_PORT or 4369. embed_epmd: run an
    epmd in this process when none runs. net_ticktime: seconds, as the cluster's. none: the atom that None is sent as.
    cookies: per-peer cookies. allow: peers that may connect (names, hosts, or ``name@``); everybody with the cookie
    if None. routes: node name -> (host, port), instead of asking epmd. threads: worker threads for blocking
    functions. on_undelivered(node, reason, count): called when queued messages could not be delivered.
    net: further limits (NetOptions). pores: be a domain as well, of the host service of this user (True) or in that
    folder, which is started when none runs; domid: the domain id wanted, 0 for any. See `strawman`. embed_host: if the
    host service has to be started, it runs in this process, and ends with the node (implies pores).
    named_by: a node that gives this one its name when it starts (a dynamic node name, OTP 23); name is then the host
    alone and listen None. start() raises NoConnection when it can't be reached or gives none.

    Raises ValueError for a name that is none, CookieError when there is no usable cookie.
    """

    def __init__(
        self,
        name: str,
        cookie: str | None = None,
        *,
        cookie_file: str | None = None,
        hidden: bool = True,
        listen: str | None = "127.0.0.1",
        port: int = 0,
        epmd_port: int | None = None,
        embed_epmd: bool = True,
        net_ticktime: float = 60.0,
        none: str = "undefined",
        cookies: Mapping[str, str] | None = None,
        allow: Iterable[str] | None = None,
        routes: Mapping[str, tuple[str, int]] | None = None,
        threads: int = THREADS,
        on_undelivered: Callable[[str, str, int], None] | None = None,
        net: NetOptions | None = None,
        pores: bool | str | os.PathLike[str] | None = None,
        domid: int = 0,
        embed_host: bool = False,
        named_by: str | None = None,
    ) -> None:
        if named_by is None:
            check_name(name)
        elif listen is not None or not valid_host(name):
            raise ValueError("a node that is named by a peer gives its host as name, and listen=None")
        self.name = name
        self.none = none
        self.hidden = hidden
        self.creation = secrets.randbelow((1 << 32) - 4) + 4
        if cookie is not None:
            self._cookie = check_cookie(cookie)
        else:
            self._cookie = find_cookie() if cookie_file is None else read_cookie(cookie_file)
        self._named_by = named_by
        self._cookies = dict(cookies or {})
        self._allow = None if allow is None else tuple(allow)
        self._listen = listen
        self._port = port
        self._epmd = EpmdClient(port=epmd_port)
        self._embed_epmd = embed_epmd
        self._routes = dict(routes or {})
        self._net = net or NetOptions(net_ticktime=net_ticktime, none=none)
        self._on_undelivered = on_undelivered
        #: signals that could not be delivered because a connection ended or was not to be had
        self.undelivered = 0
        self._outages: set[Atom] = set()  # peers down to which something was lost, until they are up again
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix=f"{name} worker")
        self.exports = Exports()
        self.blocking = Blocking(self)
        #: straws to other domains: open, send, export, close
        self.strawman = Strawman(self, pores or embed_host, domid, embed_host=embed_host)
        self._specs: list[ChildSpec] = []
        self._router: Router | None = None
        self._table: PeerTable | None = None
        self._supervisor: Supervisor | None = None
        self._keeper: EpmdKeeper | None = None
        self._registration: Registration | None = None
        self._closed: asyncio.Future[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Node {self.name}{'' if self.running else ' (not running)'}>"

    # Life.

    @property
    def running(self) -> bool:
        """Whether it was started and is not closing."""
        return self._router is not None and self._closing is None

    @property
    def router(self) -> Router:
        """The processes of this node. LocalProtocolError when it is not running."""
        if self._router is None:
            raise LocalProtocolError(f"the node {self.name} is not started: use `async with node:` or node.start()")
        return self._router

    @property
    def port(self) -> int:
        """The port that it listens on, 0 when it does not."""
        return self._port

    async def start(self, app: Callable[[Node], Any] | None = None) -> None:
        """Start the processes registered so far, run the app, listen, and register with epmd.

        app: called with this node, sync or async, before anybody can reach it, so that its names and exports are there
        from the first moment. It returns when that is done: what goes on for longer belongs in a process. When the
        node closes meanwhile (the app may do that), start() returns and wait_closed() says why.
        Raises EpmdError (the name is taken, no epmd), OSError (the address can't be listened on), StrawError (no host,
        the domain id is taken), and what app raises.
        """
        if self._router is not None or self._closing is not None:
            raise LocalProtocolError(f"the node {self.name} was started before: a new Node makes a new incarnation")
        loop = asyncio.get_running_loop()
        self._closed = loop.create_future()
        local = LocalNode(
            self.name, self.creation, self._cookie_of, our_flags(visible=not self.hidden), self._is_allowed
        )
        handler = _Unnamed()
        self._table = PeerTable(local, handler, resolve=self._resolve, options=self._net)
        if self._named_by is not None:
            try:
                await self._table.get(Atom(self._named_by)).connect()
            except BaseException:
                await self.close()
                raise
            self.name, self.creation = local.name, local.creation
        router = Router(Atom(self.name), self.creation, Turn(loop), Deadlines(loop), self)
        router.peers = self._table
        handler.incoming = Incoming(router)
        self._router = router
        router.node_watchers.append(self._on_node)
        router.caller = gen.CallerProcess(router, "caller")
        router.spawn_requests = Spawner(router, self.exports)
        self._supervisor = Supervisor(router, self._give_up)
        try:
            self._supervisor.start(ChildSpec("user", user, (), "permanent", True))
            self._supervisor.start(ChildSpec("net_kernel", NetKernel, (), "permanent", True))
            self._supervisor.start(ChildSpec("rex", Rex(self.exports), (), "permanent", True))
            if self.strawman.enabled:
                await self.strawman.start()
                self._supervisor.start(ChildSpec("strawman", StrawmanServer, (self.strawman,), "permanent", True))
            for spec in self._specs:
                self._supervisor.start(spec)
            if app is not None:
                await self._prepare(app)
            self.strawman.release()
            if self._listen is not None and self._closing is None:
                await self._open(self._listen)
        except BaseException:
            await self.close()
            raise

    async def _prepare(self, app: Callable[[Node], Any]) -> None:
        assert self._closed is not None
        result = app(self)
        if not inspect.isawaitable(result):
            return
        task = asyncio.ensure_future(result)
        try:
            await asyncio.wait((task, self._closed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))  # it may clean up, and may fail at that
            if not task.cancelled():
                task.result()

    async def _open(self, listen: str) -> None:
        assert self._table is not None
        alive, host = split_node(self.name)
        self._keeper = await ensure_epmd(self._epmd, host, embed=self._embed_epmd)
        self._port = await self._table.listen(listen, self._port)
        self._registration = await self._epmd.register(alive, self._port, hidden=self.hidden)
        log.info("%s listens on %s port %d", self.name, listen, self._port)

    async def close(self) -> None:
        """Unregister, end all processes with the reason shutdown, write out what is queued, close. May be repeated."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._supervisor is not None:
            self._supervisor.close()
        if self._registration is not None:
            await self._registration.close()
        await self.strawman.stop()
        router = self._router
        if router is not None:
            running = [process for process in router.processes.values() if process.task is not None]
            tasks = [process.task for process in running if process.task is not None]
            for process in running:
                process.shutdown()
            if tasks:
                _, late = await asyncio.wait(tasks, timeout=EXIT_TIME)
                for task in late:
                    log.warning("%s does not end: left behind", task.get_name())
            for process in list(router.processes.values()):
                process.end(SHUTDOWN)
        if self._table is not None:
            await self._table.close()
        if self._keeper is not None:
            await self._keeper.close()
        if router is not None:
            router.deadlines.close()
        self.threads.shutdown(wait=False, cancel_futures=True)
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    def _give_up(self, error: NodeError) -> None:
        log.critical("%s stops: %s", self.name, error)
        if self._closed is not None and not self._closed.done():
            self._closed.set_exception(error)
            self._closed.exception()  # wait_closed() may never be called
        self._closing = asyncio.get_running_loop().create_task(self._close())

    async def wait_closed(self) -> None:
        """Return when the node has closed; raise TooManyRestarts when it gave up."""
        if self._closed is None:
            raise LocalProtocolError(f"the node {self.name} is not started")
        await asyncio.shield(self._closed)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # What the layers below ask of the node.

    def _cookie_of(self, peer: str) -> str:
        return self._cookies.get(peer, self._cookie)

    def _is_allowed(self, peer: str) -> bool:
        return self._allow is None or is_allowed(peer, self._allow)

    async def _resolve(self, name: str) -> tuple[str, int]:
        if name in self._routes:
            return self._routes[name]
        alive, host = split_node(name)
        found = await self._epmd.lookup(alive, host)
        if found is None:
            raise NoConnection(name, f"epmd on {host} knows no node called {alive!r}")
        return host, found.port

    def _on_node(self, up: bool, node: Atom, reason: str) -> None:
        if up:
            self._outages.discard(node)
        log.info("%s is %s", node, "up" if up else f"down: {reason}")

    def count_undelivered(self, node: Atom, reason: str, count: int) -> None:
        """Messages queued to a peer are lost (the router reports each outage once)."""
        self.undelivered += count
        # One line for each peer and outage: every further message may be another attempt that fails.
        level = logging.DEBUG if node in self._outages else logging.WARNING
        log.log(level, "%d message(s) to %s could not be delivered: %s", count, node, reason)
        if len(self._outages) >= MAX_OUTAGES:
            self._outages.clear()
        self._outages.add(node)
        if self._on_undelivered is not None:
            try:
                self._on_undelivered(node.name, reason, count)
            except Exception:
                log.exception("on_undelivered failed")

    # Handlers and exports.

    def register(
        self,
        name: str | Atom,
        handler: Any,
        *args: Any,
        restart: Restart = "temporary",
        inline: bool = False,
        straw: bool = False,
    ) -> Process | None:
        """Run a handler as a process with a name.

        handler: a coroutine function (called with its Process and args), a GenServer class or instance (args go to
        init), or a plain function (called with each message, in a worker thread). inline: the function, or the
        `def` methods of the server, never block, so they may run on the loop. restart: when it is started again.
        straw: envelopes from other domains may reach it too (strawman.export()).
        The process, or None before the node has started. ValueError when the name is taken.
        """
        text = name.name if isinstance(name, Atom) else name
        spec = ChildSpec(text, handler, args, restart, inline)
        process = None
        if self._supervisor is not None:
            process = self._supervisor.start(spec)
        elif any(other.name == text for other in self._specs):
            raise ValueError(f"the name {text!r} is taken")
        else:
            self._specs.append(spec)
        if straw:
            self.strawman.export(text)
        return process

    def spawn(self, handler: Any, *args: Any, name: str | None = None, inline: bool = False) -> Process:
        """Start a handler of any kind that register() takes, with a name or without."""
        return start_process(self.router, handler, args, name=name, inline=inline)

    def export(self, module: str, function: str, callable_: Callable[..., Any], *, inline: bool = False) -> None:
        """Let rpc:call and erpc:call run this function as module:function. Nothing else can be called.

        Runs in a worker thread unless it is a coroutine function or inline (it never blocks).
        """
        self.exports.add(module, function, callable_, inline=inline)

    def whereis(self, name: str | Atom) -> Pid | None:
        """The pid of a local registered process."""
        process = self.router.registry.get(Atom(name) if isinstance(name, str) else name)
        return None if process is None else process.pid

    def registered(self) -> list[str]:
        """The registered names of this node."""
        return [name.name for name in self.router.registry.names()]

    @asynccontextmanager
    async def process(self, name: str | None = None) -> AsyncIterator[Process]:
        """A process for the code inside the `async with`: it can receive, link, monitor. Exit signals are trapped."""
        me = Process(self.router, "coroutine")
        me.trap_exit = True
        try:
            if name is not None:
                me.register(name)
            yield me
        except BaseException:
            me.end(Atom("error"))
            raise
        finally:
            me.end(Atom("normal"))

    # Other nodes.

    def peer(self, node: str | Atom) -> Peer:
        """The one Peer of a node name."""
        name = Atom(node) if isinstance(node, str) else node
        if self._table is None:
            raise LocalProtocolError(f"the node {self.name} is not started")
        if "@" not in name.name:
            raise ValueError(f"not a node name: {name.name!r} has no '@host'")
        return self._table.get(name)

    async def connect(self, node: str | Atom) -> None:
        """Be connected to a node. NoConnection says why that is impossible; its cause may be a HandshakeRefused."""
        await self.peer(node).connect()

    async def ping(self, node: str | Atom, timeout: float | None = 7.0) -> bool:
        """net_adm:ping: connect if need be and ask the node's net_kernel. False when either fails."""
        name = Atom(node) if isinstance(node, str) else node
        if name is self.router.name:
            return True
        try:
            async with asyncio.timeout(timeout):
                await self.connect(name)
                request = (Atom("is_auth"), self.router.name)
                return await self.call(("net_kernel", name), request, None) is _YES
        except (NoConnection, PeerBusy, CallError, TimeoutError) as error:
            log.info("ping %s: %s", name, error)
            return False

    def disconnect(self, node: str | Atom) -> None:
        """Close the connection to a node, if there is one."""
        self.peer(node).disconnect("closed by node.disconnect()")

    def nodes(self) -> list[str]:
        """The nodes that this one is connected to."""
        return [] if self._table is None else [peer.node.name for peer in self._table.peers()]

    def on_nodes(self, callback: Callable[[bool, str, str], None]) -> Callable[[], None]:
        """Call back (up, node, reason) at each nodeup and nodedown. Returns a function that stops it."""

        def watcher(up: bool, node: Atom, reason: str) -> None:
            callback(up, node.name, reason)

        watchers = self.router.node_watchers
        watchers.append(watcher)
        return lambda: watchers.remove(watcher) if watcher in watchers else None

    # Messages.

    def send(self, to: Any, message: Any) -> None:
        """Send to a Pid, a registered name, (name, node), or an alias. From any thread; never blocks.

        Raises EncodeError, PeerBusy (nothing was queued then). What can't be delivered later is logged, counted in
        `undelivered` and reported to on_undelivered; deliver() waits instead.
        """
        self.router.send(self.router.caller.pid, to, message)

    async def deliver(self, to: Any, message: Any) -> None:
        """Send, having waited for the connection and for room. NoConnection when there is none to be had."""
        target = address(to)
        node = target[1] if type(target) is tuple else self.router.name if type(target) is Atom else target.node
        if node is self.router.name:
            self.send(target, message)
            return
        peer = self.peer(node)
        await peer.connect()
        if peer.busy:
            await peer.drain()
        self.send(target, message)
        peer.flush()
        if peer.busy:
            await peer.drain()

    def call(
        self, to: Any, request: Any, timeout: float | None = 5.0, *, caller: Process | None = None
    ) -> Coroutine[Any, Any, Any]:
        """gen_server:call. timeout: seconds, None for ever. caller: the process that asks, if there is one.

        Raises CallTimeout, NoProc, CallExit (the server ended first), NodeDown/NoConnection, EncodeError.
        """
        router = self.router
        return gen.call(router, caller or router.caller, to, request, timeout)

    def cast(self, to: Any, request: Any, *, sender: Process | None = None) -> None:
        """gen_server:cast. Raises as send() does."""
        gen.cast(sender or self.router.caller, to, request)

    async def rpc(
        self,
        node: str | Atom,
        module: str | Atom,
        function: str | Atom,
        args: Iterable[Any] = (),
        timeout: float | None = 5.0,
    ) -> Any:
        """Call module:function(args…) on a node, as erpc:call does, and return its value.

        Raises RemoteError (with reason and stack), RemoteExit, RemoteThrow, CallTimeout, NodeDown/NoConnection.
        """
        names = [Atom(name) if isinstance(name, str) else name for name in (node, module, function)]
        return await rpc(self.router, self.exports, names[0], names[1], names[2], list(args), timeout)

    def monitor(self, target: Any) -> Monitor:
        """Watch a process: `await` the Monitor for the reason of its end."""
        return Monitor(self.router, target)

    def link(self, pid: Pid) -> Link:
        """Link to a process by a small process of our own that traps exits: `await` the Link for the reason."""
        return Link(self.router, pid)


class _Unnamed:
    """Hears of peers for a node that has no name yet, and so no processes: what comes before that is for nobody."""

    def __init__(self) -> None:
        self.incoming: Incoming | None = None

    def peer_up(self, peer: Peer) -> None:
        if self.incoming is not None:
            self.incoming.peer_up(peer)

    def peer_signals(self, peer: Peer, batch: list[tuple[Any, Any]]) -> None:
        if self.incoming is not None:
            self.incoming.peer_signals(peer, batch)

    def peer_down(self, peer: Peer, reason: str, undelivered: int) -> None:
        if self.incoming is not None:
            self.incoming.peer_down(peer, reason, undelivered)

    def peer_drained(self, peer: Peer) -> None:
        if self.incoming is not None:
            self.incoming.peer_drained(peer)


class _Watch:
    """What Monitor and Link have in common: a small process that waits for one message."""

    def __init__(self, router: Router) -> None:
        self._process = Process(router, type(self).__name__.lower())
        self._process.trap_exit = True
        self._reason: asyncio.Task[Any] | None = None

    def __await__(self) -> Any:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        if self._reason is None:
            self._reason = asyncio.ensure_future(self._receive())
        return await asyncio.shield(self._reason)

    async def _receive(self) -> Any:
        message = await self._process.receive()
        self._process.end(Atom("normal"))
        return message[-1]

    def close(self) -> None:
        """Stop watching. May be called twice."""
        self._process.end(Atom("normal"))
        if self._reason is not None:
            self._reason.cancel()


class Monitor(_Watch):
    """A monitor held by no process of the user. Await it for the exit reason (noproc, noconnection, …)."""

    def __init__(self, router: Router, target: Any) -> None:
        super().__init__(router)
        self.ref: Reference = self._process.monitor(target)


class Link(_Watch):
    """A link held by no process of the user. Await it for the exit reason; exit() ends the other side with it."""

    def __init__(self, router: Router, pid: Pid) -> None:
        super().__init__(router)
        self._process.link(pid)

    def exit(self, reason: Any) -> None:
        """End our end of the link with a reason, which the linked process gets as an exit signal."""
        self._process.end(Atom(reason) if isinstance(reason, str) else reason)
        self.close()


def check_name(name: str) -> None:
    """ValueError with the rule broken: OTP's of short and long names."""
    if not valid_node_name(name):
        raise ValueError(f"{name!r} is not a node name: it must be name@host, for instance py@127.0.0.1")
    if split_node(name)[1] == "localhost":
        # Legal as a short name (erl -sname x@localhost), never as a long one; no BEAM with long names can reach it.
        log.debug("%s is a short name: nodes with long names can't connect to it", name)
