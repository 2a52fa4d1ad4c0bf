"""The membrane of erl/ is the membrane of pores/: one table, and the same answer to everything.

Python's tests of its machine are run once more and recorded: what each machine was told, and what it said. The Erlang
machine (pure, as Python's) is told the same, step by step, and has to say the same.
"""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from beamkit.runtimes import RELEASES, clean_env, find_runtime, need

from node import Atom, etf
from pores import membrane_table
from pores.keys import Terms, domid_of
from pores.kinds import STRAW_KIND
from pores.membrane import Machine
from pores.work import Closed, Event, Key, Opened, PoreWork, Refused, Reported, Started, StoreWork

pytestmark = pytest.mark.usefixtures("python_only")

ROOT = Path(__file__).parents[2]
ERL = ROOT / "erl"


def test_the_table_is_the_same() -> None:
    assert (ERL / "priv" / "membrane.table").read_text() == membrane_table.erlang_terms()


@pytest.fixture(scope="session")
def machine_beams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pure modules and the replay, compiled."""
    into = tmp_path_factory.mktemp("machine")
    sources = [*sorted((ERL / "src").glob("membrane_*.erl")), ERL / "test" / "membrane_replay.erl"]
    erlc = [need("erlc", "erlang-base"), "-Wall", "-Werror", "-I", str(ERL / "src"), "-pa", str(into), "-o", str(into)]
    done = subprocess.run([*erlc, *map(str, sources)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return into


def evaluate(label: str, beams: Path, text: str) -> str:
    """What Erlang text prints as a term, in a BEAM of its own without a name."""
    runtime = find_runtime(label)
    done = subprocess.run(
        [runtime.erl, "-noshell", "-noinput", "-pa", str(beams), "-eval", f'io:format("~0p", [{text}]), halt().'],
        capture_output=True, text=True, timeout=100, env=clean_env(**runtime.env),
    )  # fmt: skip
    return done.stdout + done.stderr


def test_the_same_states_are_busy(machine_beams: Path) -> None:
    table = ERL / "priv" / "membrane.table"
    text = (
        f"(fun(T) -> [lists:sort([S || S <- membrane_table:states(R, T), membrane_table:is_busy(R, S, T)])"
        f' || R <- [passive, active]] end)(membrane_table:load("{table}"))'
    )
    expected = [sorted(membrane_table.BUSY[role]) for role in ("passive", "active")]
    assert evaluate("otp25", machine_beams, text).replace("'", "") == str(expected).replace("'", "").replace(" ", "")


# ── recording ──


class Recorder(Machine):
    """Python's machine, with a list of what came in and what went out."""

    traces: ClassVar[list[Recorder]] = []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps: list[Any] = []
        self._depth = 0
        self._numbers = itertools.count()
        self._works: list[tuple[int, StoreWork | PoreWork]] = []
        self._by_work: dict[int, int] = {}
        self._kept: list[Any] = []
        self._told: list[Event] = []
        self.traces.append(self)

    def put(self, work: StoreWork | PoreWork) -> None:
        number = next(self._numbers)
        self._works.append((number, work))
        self._by_work[id(work)] = number
        self._kept.append(work)
        super().put(work)

    def tell(self, event: Event) -> None:
        self._told.append(event)
        super().tell(event)

    def number(self, work: StoreWork | PoreWork) -> int:
        return self._by_work[id(work)]

    def record(self, entry: Any) -> None:
        works = [(number, _work(work)) for number, work in self._works]
        timer = self.get_timer()
        self.steps.append(
            (entry, works, [_event(event) for event in self._told], UNDEFINED if timer is None else timer)
        )
        self._works, self._told = [], []

    def trace(self) -> Any:
        limits = {Atom(name): value for name, value in vars(self.limits).items()}
        kind = "membrane_straw" if self.kind is STRAW_KIND else "membrane_tube"
        return (Atom(kind), self.me, _terms(self.wishes), limits, self.steps)


UNDEFINED, NONE = Atom("undefined"), Atom("none")


def _who(peer: int, tid: str) -> Any:
    number = domid_of(tid)
    return (peer, -1 if number is None else number) if tid else peer


def _key(key: Key | None) -> Any:
    return NONE if key is None else (Atom(key.role), _who(key.peer, key.tid))


def _terms(terms: Terms) -> Any:
    return (Atom(terms.format), Atom(terms.dialect or "ling"), terms.ring_bytes, terms.suppress)


def _step(step: tuple[Any, ...]) -> Any:
    verb, *rest = step
    if verb == "atomic":
        return (Atom(verb), [_step(one) for one in rest[0]])
    if verb == "set_perms":
        return (Atom(verb), rest[0].encode(), [perm.encode() for perm in rest[1:]])
    return (Atom(verb), *(text.encode() for text in rest))


def _offer(offer: Any) -> Any:
    return (list(offer.refs), list(offer.ports)) if offer.ports else NONE


def _work(work: StoreWork | PoreWork) -> Any:
    if isinstance(work, StoreWork):
        return (Atom("store"), _key(work.key), Atom(work.tag), [_step(step) for step in work.steps])
    return (Atom("pore"), _key(work.key), Atom(work.verb), _terms(work.terms), _offer(work.offer))


def _event(event: Event) -> Any:
    match event:
        case Opened(key, terms, asked):
            return (Atom("opened"), _key(key), _terms(terms), asked)
        case Refused(peer, tid, reason):
            return (Atom("refused"), _who(peer, tid), Atom(reason))
        case Closed(key, reason):
            return (Atom("closed"), _key(key), Atom(reason))
        case Reported(what, peer, _):
            return (Atom("reported"), Atom(what), peer)
        case Started():
            return Atom("started")
    return Atom("stopped")


def _value(value: Any) -> Any:
    if value is None:
        return UNDEFINED
    if isinstance(value, list):
        return [item.encode() for item in value]
    return bytes(value)


def _outer(name: str, entry: Callable[..., Any]) -> None:
    original = getattr(Machine, name)

    def method(self: Recorder, *args: Any, **kwargs: Any) -> Any:
        self._depth += 1
        try:
            return original(self, *args, **kwargs)
        finally:
            self._depth -= 1
            if not self._depth:
                self.record((Atom(name), *entry(self, *args, **kwargs)))

    setattr(Recorder, name, method)


_outer("start", lambda m, now: (now,))
_outer(
    "open",
    lambda m, peer, now, tid="", wishes=None: (_who(peer, tid), NONE if wishes is None else _terms(wishes), now),
)
_outer("close", lambda m, key, now, why="closed": (_key(key), Atom(why), now))
_outer("give_up", lambda m, peer, now, tid="": (_who(peer, tid), now))
_outer("stop", lambda m, now: (now,))
_outer("ended", lambda m, key, now, why: (_key(key), Atom(why), now))
_outer("domain_gone", lambda m, peer, now: (peer, now))
_outer("host_down", lambda m, now: (now,))
_outer("handle_timer", lambda m, now: (now,))
_outer("changed", lambda m, key, now: (_key(key), now))
_outer("knocked", lambda m, path, now: (path.encode(), now))
_outer(
    "store_result",
    lambda m, work, result, now: (
        m.number(work), [_value(value) for value in result.values], Atom(result.error.lower()), now,
    ),
)  # fmt: skip


def _pore_result(m: Recorder, work: PoreWork, result: Any, now: float) -> Any:
    if result.busy:
        told: Any = Atom("busy")
    elif result.error:
        told = (Atom("error"), Atom(result.error))
    elif work.verb == "grant":
        told = (Atom("ok"), _offer(result.offer))
    else:
        told = Atom("ok")
    return m.number(work), told, now


_outer("pore_result", _pore_result)


def _load(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """tests/unit/NAME.py, with machines that are recorded."""
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    import membranekit.world as world

    monkeypatch.setattr(world, "Machine", Recorder)
    spec = importlib.util.spec_from_file_location(f"recorded_{name}", ROOT / f"tests/unit/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, f"recorded_{name}", module)
    spec.loader.exec_module(module)
    return module


def _cases(module: ModuleType) -> Iterator[Callable[[], None]]:
    """Every test with every of its parameters."""
    for name, test in vars(module).items():
        if not name.startswith("test_"):
            continue
        choices: list[list[dict[str, Any]]] = []
        for mark in getattr(test, "pytestmark", ()):
            if mark.name == "parametrize":
                names = [mark.args[0]] if isinstance(mark.args[0], str) else list(mark.args[0])
                choices.append(
                    [dict(zip(names, value if len(names) > 1 else (value,), strict=True)) for value in mark.args[1]]
                )
        for combination in itertools.product(*choices):
            arguments = {key: value for part in combination for key, value in part.items()}
            if set(arguments) == set(test.__code__.co_varnames[: test.__code__.co_argcount]):
                yield lambda test=test, arguments=arguments: test(**arguments)  # type: ignore[misc]


@pytest.mark.parametrize("label", RELEASES)
def test_the_two_machines_say_the_same(
    label: str, machine_beams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Recorder.traces = []
    for name in ("test_membrane", "test_membrane_stop", "test_tube_machine"):
        for case in _cases(_load(monkeypatch, name)):
            case()
    traces = Recorder.traces
    assert len(traces) > 500
    file = tmp_path / "traces"
    file.write_bytes(etf.encode([recorder.trace() for recorder in traces]))
    table = ERL / "priv" / "membrane.table"
    assert evaluate(label, machine_beams, f'membrane_replay:run("{table}", "{file}")') == "ok"
