"""The store itself: nodes, domains, sessions with their watches and transactions. No bytes, no sockets.

A `Session` is one connection of one domain. Its operations have the names of XenStore's; what a change tells the
watches is handed to each session's `deliver` while the operation runs, so an event about a client's own write comes
before the reply to it, as with xenstored 4.17 (which the whole file follows; errors are XenstoreError by its rules).
The domains' trees are those of straw-rules, part 5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..errors import XenstoreError
from .limits import Limits
from .nodes import Change, Clock, View
from .paths import INTRODUCE_DOMAIN, MAX_PATH, RELEASE_DOMAIN, canonical, check_path, domain_path, parent_of
from .perms import OWN, READ, WRITE, Perm, Perms, access_of, format_perms, parse_perms, perms_for
from .transactions import CHILDREN, PERMS, VALUE, Transaction, carry_out
from .watches import Event, Watch, WatchIndex

__all__ = ["Domain", "Session", "Tree"]

MAX_ID: Final = 0xFFFF_FFFF


class Domain:
    """A domain that the store knows, and what its sessions use of its limits together."""

    def __init__(self, domid: int) -> None:
        self.domid = domid
        self.sessions: dict[Session, None] = {}
        self.watches = 0
        self.transactions = 0
        self.transaction_bytes = 0


class Tree:
    """A whole store. limits: of each unprivileged domain."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.domains: dict[int, Domain] = {}
        self.watches = WatchIndex()
        self._nodes = View.new(Clock(), self.limits)
        self._special: dict[str, Perms] = {INTRODUCE_DOMAIN: (Perm(0, 0),), RELEASE_DOMAIN: (Perm(0, 0),)}
        self._nodes.mkdir(0, "/tool/xenstored")
        self.domains[0] = Domain(0)
        self._lay_out(0, "Domain-0")

    # ── domains ──

    def introduce(self, domid: int, name: str | None = None, *, home: bool = True) -> None:
        """A new domain: makes its tree (unless home=False) and tells the watches of @introduceDomain.

        EEXIST when it is there already, EINVAL for a number that no domain can have.
        """
        if not 0 < domid < 0x7FF0:
            raise XenstoreError("EINVAL", detail=f"domain {domid}")
        if domid in self.domains:
            raise XenstoreError("EEXIST", detail=f"domain {domid}")
        self.domains[domid] = Domain(domid)
        if home:
            self._lay_out(domid, f"domain-{domid}" if name is None else name)
        self._special_event(INTRODUCE_DOMAIN, domid)

    def release(self, domid: int) -> None:
        """The end of a domain: its sessions close, its nodes go wherever they are, its tree goes, and all hear of it.

        Watches hear of its nodes before those of @releaseDomain. ENOENT when there is no such domain.
        """
        domain = self.domains.get(domid)
        if domain is None or domid == 0:
            raise XenstoreError("ENOENT", detail=f"domain {domid}")
        for session in list(domain.sessions):
            session.close()
        nodes = self._nodes
        nodes.forget_domain(domid)
        for path in (domain_path(domid), self._vm_path(domid)):
            if nodes.find(path) is not None:  # domain 0 may have removed it
                nodes.remove(0, path)
        del self.domains[domid]
        for name, perms in self._special.items():
            owner = perms[0]._replace(domid=0) if perms[0].domid == domid else perms[0]
            self._special[name] = (owner, *(entry for entry in perms[1:] if entry.domid != domid))
        self._tell()
        self._special_event(RELEASE_DOMAIN, domid)

    @staticmethod
    def _vm_path(domid: int) -> str:
        return f"/vm/00000000-0000-0000-0000-{domid:012}"

    def _lay_out(self, domid: int, name: str) -> None:
        """What a toolstack makes for a domain."""
        home, vm = domain_path(domid), self._vm_path(domid)
        readable = perms_for(f"n0 r{domid}") if domid else perms_for("n0")
        nodes = self._nodes
        for path, value, perms in (
            (vm, b"", readable),
            (f"{vm}/name", name.encode(), readable),
            (home, b"", readable),
            (f"{home}/domid", str(domid).encode(), readable),
            (f"{home}/name", name.encode(), readable),
            (f"{home}/vm", vm.encode(), readable),
            (f"{home}/data", b"", perms_for(f"n{domid}")),
        ):
            nodes.write(0, path, value)
            if nodes.get_perms(0, path) != perms:
                nodes.set_perms(0, path, perms)
        self._tell()

    def is_introduced(self, domid: int) -> bool:
        """Whether it is a domain of this store, as domain 0 always is."""
        return domid in self.domains

    def open(
        self,
        domid: int,
        deliver: Callable[[Event], None] = lambda event: None,
        ended: Callable[[], None] = lambda: None,
    ) -> Session:
        """A connection of a domain; ENOENT when there is no such domain.

        deliver: takes its events, in order. ended: called once when the session is closed, by whomever. Neither may
        call back into the store.
        """
        domain = self.domains.get(domid)
        if domain is None:
            raise XenstoreError("ENOENT", detail=f"domain {domid}")
        session = Session(self, domain, deliver, ended)
        domain.sessions[session] = None
        return session

    # ── for the sessions ──

    def _living(self, perms: Perms) -> Perms:
        """Permissions with the entries of domains that do not exist marked dead. ENOENT when the owner is one."""
        if perms[0].domid not in self.domains:
            raise XenstoreError("ENOENT", detail=f"no domain {perms[0].domid}")
        if all(entry.domid in self.domains for entry in perms):
            return perms
        return tuple(entry._replace(dead=entry.domid not in self.domains) for entry in perms)

    def _tell(self) -> None:
        """Hands what changed in the nodes to the watches that it concerns and whose domain may know."""
        changes = self._nodes.changes
        if changes:
            self._nodes.changes = []
            for change in changes:
                self._fire(change)

    def _fire(self, change: Change) -> None:
        path = change.path
        watches = self.watches.at(path) if change.exact else self.watches.concerned(path)
        may: dict[int, bool] = {}
        for watch in watches:
            domid = watch.session.domid
            known = may.get(domid)
            if known is None:
                known = may[domid] = any(access_of(domid, perms) & READ for perms in change.seen_by)
            if known:
                watch.session.deliver(watch.event(path))

    def _special_event(self, name: str, domid: int) -> None:
        """@introduceDomain or @releaseDomain; also in the newer forms that tell or ask for one domain."""
        perms = self._special[name]
        one = f"{name}/{domid}"
        for path in (name, one):
            for watch in self.watches.at(path):
                if access_of(watch.session.domid, perms) & READ:
                    watch.session.deliver(watch.event(one if watch.depth == 1 else path))


class Session:
    """One connection of one domain to the store: what it may do by the commands of XenStore.

    Paths may be relative to the domain's home. tid: a transaction of this session, 0 for none.
    """

    def __init__(self, tree: Tree, domain: Domain, deliver: Callable[[Event], None], ended: Callable[[], None]) -> None:
        self.tree = tree
        self.domid = domain.domid
        self.deliver = deliver
        self._ended = ended
        self.closed = False
        self._home = domain_path(domain.domid)
        self._domain = domain
        self._watches: dict[tuple[str, bytes], Watch] = {}
        self._transactions: dict[int, Transaction] = {}
        self._next_tid = 1

    @property
    def privileged(self) -> bool:
        """Domain 0 may read and write everything."""
        return self.domid == 0

    def close(self) -> None:
        """Its watches and transactions go. May be called twice."""
        if not self.closed:
            self.closed = True
            self.reset_watches()
            self._domain.sessions.pop(self, None)
            self._ended()

    # ── nodes ──

    def read(self, path: str, tid: int = 0) -> bytes:
        view, path, transaction = self._at(path, tid, READ)
        try:
            return view.read(self.domid, path)
        finally:
            if transaction is not None:
                transaction.note_read(path, VALUE)

    def directory(self, path: str, tid: int = 0) -> tuple[list[str], int]:
        """The names of the children, and a number that changes whenever they or the node do."""
        names, generation = self.listing(path, tid)
        return names.decode().split("\0")[:-1], generation

    def listing(self, path: str, tid: int = 0) -> tuple[bytes, int]:
        """As `directory`, the names as DIRECTORY has them: each with a NUL."""
        view, path, transaction = self._at(path, tid, READ)
        try:
            node = view.directory(self.domid, path)
        finally:
            if transaction is not None:
                transaction.note_read(path, CHILDREN)
        return node.names(), max(node.value_gen, node.perms_gen, node.children_gen)

    def get_perms(self, path: str, tid: int = 0) -> list[str]:
        view, path, transaction = self._at(path, tid, READ)
        try:
            return format_perms(view.get_perms(self.domid, path))
        finally:
            if transaction is not None:
                transaction.note_read(path, PERMS)

    def write(self, path: str, value: bytes, tid: int = 0) -> None:
        """Makes the node, and those above it, when they are missing. EACCES; ENOSPC beyond a quota."""
        self._change("write", path, value, tid, WRITE)

    def mkdir(self, path: str, tid: int = 0) -> None:
        """Makes an empty node, and those above it; nothing when it is there."""
        self._change("mkdir", path, b"", tid, WRITE)

    def remove(self, path: str, tid: int = 0) -> None:
        """With all below it. ENOENT: it is not there, nor the one above it."""
        self._change("remove", path, b"", tid, WRITE)

    def set_perms(self, path: str, texts: list[str], tid: int = 0) -> None:
        """texts: ["n0", "r5"]. Also for @introduceDomain and @releaseDomain, by their owner."""
        perms = parse_perms(texts)
        if self.domid and len(perms) > self.tree.limits.permissions:
            raise XenstoreError("ENOSPC", path, "too many permissions")
        living = self.tree._living(perms)
        if path[:1] == "@":
            self._set_special(path, living)
            return
        self._change("set_perms", path, living, tid, WRITE | OWN)

    def _set_special(self, name: str, perms: Perms) -> None:
        old = self.tree._special.get(name)
        if old is None:
            raise XenstoreError("EINVAL", name)
        if access_of(self.domid, old) & (WRITE | OWN) != WRITE | OWN:
            raise XenstoreError("EACCES", name)
        self.tree._special[name] = perms

    def _at(self, path: str, tid: int, need: int) -> tuple[View, str, Transaction | None]:
        """The view in which to work, the canonical path, and the transaction if there is one.

        In a transaction the nodes that xenstored looks at for such a request are named, in its order.
        """
        transaction = self._transaction(tid)
        path = check_path(canonical(path, self._home))
        if transaction is None:
            return self.tree._nodes, path, None
        view = transaction.view
        self._name(transaction, path)
        node = view.find(path)
        if node is None or access_of(self.domid, node.perms) & need != need:
            above = path
            while above != "/":
                above = parent_of(above)
                self._name(transaction, above)
                if view.find(above) is not None:
                    break
        return view, path, transaction

    def _name(self, transaction: Transaction, path: str) -> None:
        transaction.name(path)
        if self.domid and len(transaction.named) > self.tree.limits.transaction_nodes:
            transaction.failed = True
            raise XenstoreError("ENOSPC", path, "too many nodes in one transaction")

    def _change(self, verb: str, path: str, argument: bytes | Perms, tid: int, need: int) -> None:
        """A change: told to the watches, or kept in its transaction for the commit."""
        view, path, transaction = self._at(path, tid, need)
        if transaction is None:
            carry_out(view, self.domid, verb, path, argument)
            self.tree._tell()
            return
        if verb == "remove" and len(path) > 1:
            for named in (parent_of(path), *view.subtree(path)):
                self._name(transaction, named)
        try:
            carry_out(view, self.domid, verb, path, argument)
        except XenstoreError as error:
            if error.name == "ENOSPC":  # xenstored can't undo what it has begun
                transaction.failed = True
            raise
        view.changes = []
        before = transaction.bytes
        transaction.note_step(verb, path, argument)
        self._domain.transaction_bytes += transaction.bytes - before
        if self.domid and self._domain.transaction_bytes > self.tree.limits.transaction_bytes:
            transaction.failed = True
            raise XenstoreError("ENOMEM", path, "too much in open transactions")

    # ── watches ──

    def watch(self, path: str, token: bytes, depth: int | None = None) -> Watch:
        """Sets a watch. The caller sends the reply and then calls `first_event`.

        EEXIST when it is there already, E2BIG beyond the limit.
        """
        home = None
        if path[:1] == "@":
            if len(path) > MAX_PATH:
                raise XenstoreError("EINVAL", path[:64])
        else:
            home = None if path[:1] == "/" else self._home
            path = check_path(canonical(path, self._home))
        key = (path, token)
        if key in self._watches:
            raise XenstoreError("EEXIST", path)
        if self.domid and self._domain.watches >= self.tree.limits.watches:
            raise XenstoreError("E2BIG", path, "too many watches")
        watch = self._watches[key] = Watch(self, path, token, home, depth)
        self._domain.watches += 1
        self.tree.watches.add(watch)
        return watch

    def first_event(self, watch: Watch) -> None:
        """The event that every watch gives once when it is set, whether its node exists or not."""
        self.deliver(watch.event(watch.path))

    def unwatch(self, path: str, token: bytes) -> None:
        watch = self._watches.pop((canonical(path, self._home), token), None)
        if watch is None:
            raise XenstoreError("ENOENT", path)
        self._drop_watch(watch)

    def _drop_watch(self, watch: Watch) -> None:
        self._domain.watches -= 1
        self.tree.watches.discard(watch)

    def reset_watches(self) -> None:
        """All watches and all transactions go."""
        for watch in self._watches.values():
            self._drop_watch(watch)
        self._watches.clear()
        for tid in list(self._transactions):
            self._drop_transaction(tid)

    # ── transactions ──

    def start_transaction(self, tid: int = 0) -> int:
        """Its tid. EBUSY: within another one; ENOSPC: the domain has too many."""
        if self._transaction(tid) is not None:
            raise XenstoreError("EBUSY", detail="transactions do not nest")
        if self.domid and self._domain.transactions >= self.tree.limits.transactions:
            raise XenstoreError("ENOSPC", detail="too many transactions")
        while self._next_tid in self._transactions or self._next_tid == 0:
            self._next_tid = (self._next_tid + 1) & MAX_ID
        tid = self._next_tid
        self._next_tid = (tid + 1) & MAX_ID
        self._transactions[tid] = Transaction(self.tree._nodes)
        self._domain.transactions += 1
        return tid

    def end_transaction(self, tid: int, commit: bool) -> None:
        """Ends it in any case. EAGAIN: nothing was done, try again; ENOMEM: it had passed a limit."""
        transaction = self._transaction(tid)
        if transaction is None:
            raise XenstoreError("ENOENT", detail="no transaction")
        self._drop_transaction(tid)
        if commit:
            if transaction.failed:
                raise XenstoreError("ENOMEM", detail="the transaction had failed")
            tree = self.tree
            tree._nodes = transaction.commit(tree._nodes, self.domid, tree._living)
            tree._tell()

    def _transaction(self, tid: int) -> Transaction | None:
        if tid == 0:
            return None
        transaction = self._transactions.get(tid)
        if transaction is None:
            raise XenstoreError("ENOENT", detail=f"no transaction {tid}")
        return transaction

    def check_tid(self, tid: int) -> int:
        """The same number when it is 0 or an open transaction of this session; ENOENT."""
        self._transaction(tid)
        return tid

    def _drop_transaction(self, tid: int) -> None:
        transaction = self._transactions.pop(tid)
        self._domain.transactions -= 1
        self._domain.transaction_bytes -= transaction.bytes
