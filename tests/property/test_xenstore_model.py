"""The store against a simple model: permissions, watches, transactions and domains, in any order.

The model is a flat dict of paths that is copied for every transaction, with rules written down as plainly as they
are in straw-rules part 5; it knows nothing of snapshots, epochs or indexes. Whatever is done, both must give the same
results, the same errors, the same events in the same order, and at the end hold the same tree.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pores.errors import XenstoreError
from pores.xenstore.limits import Limits
from pores.xenstore.tree import Session, Tree

DOMAINS = (0, 5, 7)
NAMES = ("a", "b")
PATHS = ["/"] + [f"/{x}" for x in NAMES] + [f"/{x}/{y}" for x in NAMES for y in NAMES]
PATHS += [f"{path}/{z}" for path in PATHS[3:] for z in NAMES]

paths = st.sampled_from(PATHS)
domids = st.sampled_from(DOMAINS)
values = st.sampled_from([b"", b"1", b"2"])
entries = st.builds(lambda letter, domid: f"{letter}{domid}", st.sampled_from("nrwb"), st.sampled_from([0, 5, 7, 9]))
perm_lists = st.lists(entries, min_size=1, max_size=3)


def steps_at(places: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.one_of(
        st.tuples(st.just("read"), places, st.sampled_from(["value", "perms", "names"])),
        st.tuples(st.just("write"), places, values),
        st.tuples(st.just("mkdir"), places),
        st.tuples(st.just("remove"), places),
        st.tuples(st.just("set_perms"), places, perm_lists),
    )


steps = steps_at(paths)
near_steps = steps_at(st.sampled_from(["/a", "/a/a", "/a/b", "/a/a/a"]))
slots = st.integers(0, 2)
which = st.integers(1, 2)


class Refused(Exception):
    pass


@dataclass
class Entry:
    value: bytes
    perms: list[str]
    dead: set[int] = field(default_factory=set)  # places of entries that count for nothing
    made: int = 0
    value_at: int = 0
    perms_at: int = 0
    names_at: int = 0


def stamp(entry: Entry | None, kind: str) -> int:
    """When a part of an entry last changed; 0 for none."""
    return 0 if entry is None else {"value": entry.value_at, "perms": entry.perms_at, "names": entry.names_at}[kind]


def above(path: str) -> str:
    return path.rsplit("/", 1)[0] or "/"


def under(path: str, top: str) -> bool:
    return path != top and (top == "/" or path.startswith(top + "/"))


def rights(who: int, perms: list[str], dead: set[int]) -> str:
    """'rwo', or what of it."""
    if who == 0 or perms[0][1:] == str(who):
        return "rwo"
    letter = next((p[0] for i, p in enumerate(perms) if i and i not in dead and p[1:] == str(who)), perms[0][0])
    return {"n": "", "r": "r", "w": "w", "b": "rw"}[letter]


Told = tuple[str, bool, list[tuple[list[str], set[int]]]]  # path, exactly there only, permissions that count


class Nodes:
    """A whole tree as a dict; children in the order in which they were made."""

    def __init__(self) -> None:
        self.all: dict[str, Entry] = {"/": Entry(b"", ["n0"])}

    def children(self, path: str) -> list[str]:
        return [p for p in self.all if p != "/" and above(p) == path]

    def get(self, who: int, path: str, need: str) -> Entry:
        if path in self.all:
            entry = self.all[path]
            if not set(need) <= set(rights(who, entry.perms, entry.dead)):
                raise Refused("EACCES")
            return entry
        near = path
        while near not in self.all:
            near = above(near)
        entry = self.all[near]
        raise Refused("ENOENT" if set(need) & set(rights(who, entry.perms, entry.dead)) else "EACCES")

    def seen_by(self, path: str) -> list[tuple[list[str], set[int]]]:
        places = [path, above(path)]
        return [(list(self.all[p].perms), set(self.all[p].dead)) for p in places]

    def put(self, who: int, path: str, value: bytes | None, now: int) -> list[Told]:
        """write; mkdir when value is None."""
        try:
            entry = self.get(who, path, "w")
        except Refused as refused:
            if refused.args[0] != "ENOENT":
                raise
            missing = [path]
            while above(missing[-1]) not in self.all:
                missing.append(above(missing[-1]))
            for new in reversed(missing):
                parent = self.all[above(new)]
                perms = list(parent.perms)
                dead = set(parent.dead)
                if who:
                    perms[0] = f"{perms[0][0]}{who}"
                self.all[new] = Entry(b"", perms, dead, now, now, now, now)
                parent.names_at = now
            self.all[path].value = value or b""
        else:
            if value is None:
                return []
            entry.value, entry.value_at = value, now
        return [(path, False, self.seen_by(path))]

    def remove(self, who: int, path: str, now: int) -> list[Told]:
        try:
            self.get(who, path, "w")
        except Refused as refused:
            if refused.args[0] == "ENOENT" and above(path) in self.all:
                return []
            raise
        if path == "/":
            raise Refused("EINVAL")
        told: list[Told] = []

        def go(top: str) -> None:
            for child in self.children(top):
                go(child)
            told.append((top, top != path, self.seen_by(top)))

        go(path)
        for gone, _, _ in told:
            del self.all[gone]
        self.all[above(path)].names_at = now
        return told

    def set_perms(self, who: int, path: str, perms: list[str], dead: set[int], now: int) -> list[Told]:
        entry = self.get(who, path, "wo")
        if who and perms[0][1:] != entry.perms[0][1:]:
            raise Refused("EPERM")
        before = self.seen_by(path)
        entry.perms, entry.dead, entry.perms_at = list(perms), dead, now
        return [(path, False, before + self.seen_by(path))]


@dataclass
class ModelTransaction:
    nodes: Nodes
    before: Nodes
    read: dict[tuple[str, str], int] = field(default_factory=dict)
    steps: list[tuple[Any, ...]] = field(default_factory=list)
    named: list[str] = field(default_factory=list)


class Model:
    def __init__(self) -> None:
        self.nodes = Nodes()
        self.now = 0
        self.domains = {0, 5, 7}
        self.watches: list[tuple[str, str, str]] = []  # session, path, token
        self.transactions: dict[tuple[str, int], ModelTransaction] = {}
        self.events: dict[str, list[tuple[str, str]]] = {}

    def tick(self) -> int:
        self.now += 1
        return self.now

    def dead(self, perms: list[str]) -> set[int]:
        if int(perms[0][1:]) not in self.domains:
            raise Refused("ENOENT")
        return {i for i, p in enumerate(perms) if int(p[1:]) not in self.domains}

    def tell(self, told: list[Told]) -> None:
        for path, exact, seen_by in told:
            for session, watched, token in self.watches:
                if path == watched or (not exact and under(path, watched)):
                    who = int(session.split(":")[0])
                    if any("r" in rights(who, perms, dead) for perms, dead in seen_by):
                        self.events[session].append((path, token))

    def read(self, session: str, kind: str, path: str, slot: int) -> Any:
        who = int(session.split(":")[0])
        transaction = self.transactions.get((session, slot))
        nodes = transaction.nodes if transaction else self.nodes
        if transaction:
            self.look(transaction, who, path, "r")
            self.depend(transaction, kind, path)
        entry = nodes.get(who, path, "r")
        if kind == "value":
            return entry.value
        if kind == "perms":
            return list(entry.perms)
        return [p.rsplit("/", 1)[1] for p in nodes.children(path)]

    @staticmethod
    def look(transaction: ModelTransaction, who: int, path: str, need: str) -> None:
        """Notes what xenstored looks at: the node, and, if it is no use, those above up to one that exists."""
        nodes = transaction.nodes
        entry = nodes.all.get(path)
        looked = [path]
        if entry is None or not set(need) <= set(rights(who, entry.perms, entry.dead)):
            while looked[-1] != "/":
                looked.append(above(looked[-1]))
                if looked[-1] in nodes.all:
                    break
        transaction.named += [path for path in looked if path not in transaction.named]

    @staticmethod
    def look_below(transaction: ModelTransaction, path: str) -> None:
        """For a remove: the parent, and the whole subtree from its top."""

        def go(top: str) -> list[str]:
            return [top] + [below for child in transaction.nodes.children(top) for below in go(child)]

        looked = [above(path), *(go(path) if path in transaction.nodes.all else [])]
        transaction.named += [path for path in looked if path not in transaction.named]

    @staticmethod
    def depend(transaction: ModelTransaction, kind: str, path: str) -> None:
        before, ours = transaction.before.all.get(path), transaction.nodes.all.get(path)
        same_node = before is not None and ours is not None and before.made == ours.made
        if (kind == "names" and same_node) or stamp(ours, kind) == stamp(before, kind):
            transaction.read.setdefault((path, kind), stamp(before, kind))

    def change(self, session: str, slot: int, step: tuple[Any, ...]) -> None:
        who = int(session.split(":")[0])
        if step[0] == "set_perms":
            self.dead(step[2])
        transaction = self.transactions.get((session, slot))
        if transaction is None:
            self.tell(self.do(self.nodes, who, step))
        else:
            self.look(transaction, who, step[1], "wo" if step[0] == "set_perms" else "w")
            if step[0] == "remove" and step[1] != "/":
                self.look_below(transaction, step[1])
            self.do(transaction.nodes, who, step)
            transaction.steps.append(step)

    def do(self, nodes: Nodes, who: int, step: tuple[Any, ...]) -> list[Told]:
        verb, path, *rest = step
        if verb == "write":
            return nodes.put(who, path, rest[0], self.tick())
        if verb == "mkdir":
            return nodes.put(who, path, None, self.tick())
        if verb == "remove":
            return nodes.remove(who, path, self.tick())
        return nodes.set_perms(who, path, rest[0], self.dead(rest[0]), self.tick())

    def start(self, session: str, slot: int) -> None:
        nodes = copy.deepcopy(self.nodes)
        self.transactions[session, slot] = ModelTransaction(nodes, copy.deepcopy(nodes))

    def end(self, session: str, slot: int, commit: bool) -> None:
        transaction = self.transactions.pop((session, slot))
        if not commit:
            return
        for (path, kind), stamp in transaction.read.items():
            entry = self.nodes.all.get(path)
            now = (
                0
                if entry is None
                else {"value": entry.value_at, "perms": entry.perms_at, "names": entry.names_at}[kind]
            )
            if now != stamp:
                raise Refused("EAGAIN")
        after = copy.deepcopy(self.nodes)
        told: list[Told] = []
        try:
            for step in transaction.steps:
                told += self.do(after, int(session.split(":")[0]), step)
        except Refused:
            raise Refused("EAGAIN") from None
        place = {path: i for i, path in enumerate(transaction.named)}
        merged: list[Told] = []
        for path in sorted(dict.fromkeys(path for path, _, _ in told), key=lambda path: place.get(path, len(place))):
            # As the node was; if it is still there also as it is, and its parent, if that has had its turn.
            seen_by = []
            if path in self.nodes.all:
                seen_by.append((self.nodes.all[path].perms, self.nodes.all[path].dead))
            if path in after.all:
                seen_by.append((after.all[path].perms, after.all[path].dead))
                early = place.get(above(path), len(place)) > place.get(path, len(place))
                parent = (self.nodes if early else after).all.get(above(path))
                if parent is not None:
                    seen_by.append((parent.perms, parent.dead))
            merged.append((path, all(exact for other, exact, _ in told if other == path), seen_by))
        self.nodes = after
        self.tell(merged)

    def release(self, domid: int) -> None:
        for session in [s for s in self.events if s.startswith(f"{domid}:")]:
            self.close(session)
        self.domains.discard(domid)

        def walk(path: str) -> None:
            entry = self.nodes.all[path]
            if path != "/" and entry.perms[0][1:] == str(domid):
                doomed.append(path)
                return
            for child in self.nodes.children(path):
                walk(child)

        doomed: list[str] = []
        walk("/")
        # The permissions that are told with a removed node are those at that moment.
        told = [t for path in doomed for t in self.nodes.remove(0, path, self.tick())]
        for entry in self.nodes.all.values():
            places = {i for i, p in enumerate(entry.perms) if p[1:] == str(domid)}
            if places:
                if 0 in places:
                    entry.perms[0] = f"{entry.perms[0][0]}0"
                entry.dead |= places - {0}
                entry.perms_at = self.tick()
        self.tell(told)

    def close(self, session: str) -> None:
        self.watches = [watch for watch in self.watches if watch[0] != session]
        for key in [key for key in self.transactions if key[0] == session]:
            del self.transactions[key]


class StoreMachine(RuleBasedStateMachine):
    """Two sessions of each domain, each with up to two open transactions (slots 1 and 2; slot 0 is outside)."""

    @initialize(perms=st.sampled_from([["n0"], ["r0"], ["b0"], ["b0"], ["r0", "b5"]]))
    def begin(self, perms: list[str]) -> None:
        self.tree = Tree(Limits())
        self.model = Model()
        self.sessions: dict[str, Session] = {}
        self.tids: dict[tuple[str, int], int] = {}
        self.got: dict[str, list[tuple[str, str]]] = {}
        zero = self.tree.open(0)
        for name in ("tool", "vm", "local"):  # the model has none of the host's own nodes
            zero.remove(f"/{name}")
        zero.close()
        self.model.nodes.all["/"].names_at = 0
        for domid in (5, 7):
            self.tree.introduce(domid, home=False)
        for domid in DOMAINS:
            self.open(f"{domid}:1")
            self.open(f"{domid}:2")
        self.both(
            "0:1", lambda s: s.set_perms("/", ["b0"]), lambda: self.model.change("0:1", 0, ("set_perms", "/", ["b0"]))
        )

    def open(self, name: str) -> None:
        got: list[tuple[str, str]] = []
        self.sessions[name] = self.tree.open(
            int(name.split(":")[0]), lambda event: got.append((event.path, event.token.decode()))
        )
        self.got[name] = got
        self.model.events[name] = []

    def both(self, name: str, real: Any, model: Any) -> Any:
        """Does it in both; the results or the errors must be the same."""
        try:
            result: Any = real(self.sessions[name])
        except XenstoreError as error:
            result = error.name
        try:
            expected = model()
        except Refused as refused:
            expected = refused.args[0]
        assert result == expected
        return result

    def alive(self, domid: int) -> bool:
        return domid in self.model.domains

    def tid(self, name: str, slot: int) -> tuple[int, int]:
        """The transaction in a slot if there is one, else slot 0."""
        return (slot, self.tids[name, slot]) if (name, slot) in self.tids else (0, 0)

    # Rules. `which` says which of a domain's two sessions.

    @rule(domid=domids, which=which, slot=slots, step=steps)
    def act(self, domid: int, which: int, slot: int, step: tuple[Any, ...]) -> None:
        """One operation, outside a transaction or in one."""
        if not self.alive(domid):
            return
        name = f"{domid}:{which}"
        slot, tid = self.tid(name, slot)
        verb, path, *rest = step
        if verb == "read":
            kind = rest[0]
            real = {
                "value": lambda s: s.read(path, tid),
                "perms": lambda s: s.get_perms(path, tid),
                "names": lambda s: s.directory(path, tid)[0],
            }[kind]
            self.both(name, real, lambda: self.model.read(name, kind, path, slot))
        else:
            self.both(
                name,
                lambda s: getattr(s, verb)(path, *rest, tid),
                lambda: self.model.change(name, slot, step),
            )

    @rule(
        names=st.tuples(domids, domids, which),
        before=st.lists(near_steps, max_size=2),
        inside=st.lists(near_steps, min_size=1, max_size=4),
        outside=st.lists(near_steps, min_size=1, max_size=2),
    )
    def duel(self, names: tuple[int, int, int], before: Any, inside: Any, outside: Any) -> None:
        """A transaction and somebody else at the same few nodes: what chance alone would seldom bring together."""
        ours, theirs, which = names
        name = f"{ours}:{which}"
        if not self.alive(ours) or (name, 1) in self.tids:
            return
        for step in before:
            self.act(0, 1, 0, step)
        self.start(ours, which, 1)
        for step in inside:
            self.act(ours, which, 1, step)
        for step in outside:
            self.act(theirs, which, 0, step)
        self.finish(name, 1, True)

    @rule(domid=domids, which=which, path=paths, token=st.sampled_from(["t", "u"]))
    def watch(self, domid: int, which: int, path: str, token: str) -> None:
        if not self.alive(domid):
            return
        name = f"{domid}:{which}"

        def real(session: Session) -> None:
            session.first_event(session.watch(path, token.encode()))

        def model() -> None:
            if (name, path, token) in self.model.watches:
                raise Refused("EEXIST")
            self.model.watches.append((name, path, token))
            self.model.events[name].append((path, token))

        self.both(name, real, model)

    @rule(domid=domids, which=which, path=paths, token=st.sampled_from(["t", "u"]))
    def unwatch(self, domid: int, which: int, path: str, token: str) -> None:
        if not self.alive(domid):
            return
        name = f"{domid}:{which}"

        def model() -> None:
            if (name, path, token) not in self.model.watches:
                raise Refused("ENOENT")
            self.model.watches.remove((name, path, token))

        self.both(name, lambda s: s.unwatch(path, token.encode()), model)

    @rule(domid=domids, which=which, slot=st.integers(1, 2))
    def start(self, domid: int, which: int, slot: int) -> None:
        name = f"{domid}:{which}"
        if self.alive(domid) and (name, slot) not in self.tids:
            self.tids[name, slot] = self.sessions[name].start_transaction()
            self.model.start(name, slot)

    @rule(which=st.integers(0, 5), commit=st.sampled_from([True, True, True, False]))
    def end(self, which: int, commit: bool) -> None:
        if self.tids:
            name, slot = sorted(self.tids)[which % len(self.tids)]
            self.finish(name, slot, commit)

    def finish(self, name: str, slot: int, commit: bool) -> None:
        tid = self.tids.pop((name, slot))
        self.both(name, lambda s: s.end_transaction(tid, commit), lambda: self.model.end(name, slot, commit))

    @rule(domid=st.sampled_from([5, 7]))
    def come_and_go(self, domid: int) -> None:
        if self.alive(domid):
            self.tree.release(domid)
            self.model.release(domid)
            self.tids = {key: tid for key, tid in self.tids.items() if not key[0].startswith(f"{domid}:")}
            for which in (1, 2):
                assert self.sessions[f"{domid}:{which}"].closed
        else:
            self.tree.introduce(domid, home=False)
            self.model.domains.add(domid)
            self.open(f"{domid}:1")
            self.open(f"{domid}:2")

    @invariant()
    def same_events(self) -> None:
        if hasattr(self, "got"):
            assert self.got == self.model.events

    @invariant()
    def same_tree(self) -> None:
        if not hasattr(self, "tree"):
            return
        found = {}
        owned: dict[int, int] = {}
        stack = [("/", self.tree._nodes.root)]
        while stack:
            path, node = stack.pop()
            perms = [f"{'nrwb'[entry.access]}{entry.domid}" for entry in node.perms]
            found[path] = (node.value, perms, [i for i, entry in enumerate(node.perms) if entry.dead])
            owned[node.perms[0].domid] = owned.get(node.perms[0].domid, 0) + 1
            assert node.names_size == sum(len(name) + 1 for name in node.children)
            top = "" if path == "/" else path
            stack.extend((f"{top}/{name}", child) for name, child in node.children.items())
        assert found == {p: (e.value, e.perms, sorted(e.dead)) for p, e in self.model.nodes.all.items()}
        assert owned == self.tree._nodes.owned


StoreMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestStore = StoreMachine.TestCase


def random_step(random: Random) -> tuple[Any, ...]:
    path = random.choice(["/a", "/a", "/a/a", "/a/b", "/a/a/a", "/"])
    verb = random.choice(["read", "read", "write", "write", "mkdir", "remove", "set_perms"])
    if verb == "read":
        return verb, path, random.choice(["value", "perms", "names"])
    if verb == "write":
        return verb, path, random.choice([b"", b"1", b"2"])
    if verb == "set_perms":
        count = random.choice([1, 2, 3])
        return verb, path, [f"{random.choice('nrwbbb')}{random.choice([0, 5, 7, 9])}" for _ in range(count)]
    return verb, path


@pytest.mark.parametrize("seed", range(16))
def test_long_walks(seed: int) -> None:
    """The same machine, much longer and with everything happening at once: shrinking can't do this."""
    random = Random(seed)
    machine = StoreMachine()
    machine.begin(perms=["b0"])
    for _ in range(3000):
        domid, which = random.choice(DOMAINS), random.choice([1, 2])
        dice = random.random()
        if dice < 0.5:
            machine.act(domid=domid, which=which, slot=random.choice([0, 0, 1, 2]), step=random_step(random))
        elif dice < 0.58:
            machine.start(domid=domid, which=which, slot=random.choice([1, 2]))
        elif dice < 0.66:
            machine.end(which=random.randrange(6), commit=random.random() < 0.9)
        elif dice < 0.72:
            machine.watch(domid=domid, which=which, path=random.choice(PATHS), token=random.choice("tu"))
        elif dice < 0.76:
            machine.unwatch(domid=domid, which=which, path=random.choice(PATHS), token=random.choice("tu"))
        elif dice < 0.99:
            machine.duel(
                names=(domid, random.choice(DOMAINS), which),
                before=[random_step(random)],
                inside=[random_step(random) for _ in range(4)],
                outside=[random_step(random)],
            )
        else:
            machine.come_and_go(domid=random.choice([5, 7]))
        machine.same_events()
        machine.same_tree()
