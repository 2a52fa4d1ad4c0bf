"""The architecture, kept: which module may import which, what is forbidden where, and names that are not ours.

The rules are the project's "arrows of import". The checker works on source text, so nothing is imported, and
its own tests feed it bad trees: a rule that can't fail keeps nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Rooms from the bottom up. A module may import from its own room and from those below it: room -> height.
ROOMS = {
    "node._etf": 0,
    "node.errors": 1,
    "node.logs": 2,
    "node.terms": 2,
    "node.etf": 3,
    "node.syntax": 4,
    "node.wire": 4,
    "node.runtime": 5,
    "node.blocking": 7,
    "node.blocking_straws": 6,
    "node.net": 6,
    "node.otp": 6,
    "node.strawman": 7,  # its driver is a server of node.otp
    "node.node": 8,
    "node": 9,  # the public face; the command line is one of its users
    "node.cli": 10,
    "node.__main__": 11,
    "pores._pore": 0,
    "pores.errors": 0,
    "pores._native": 1,
    "pores": 2,
}
ETF_EXTENSION = "node._etf"
ETF_USERS = ("node.terms", "node.etf")
PORES_USERS = ("node.strawman", "node.net.pore")
NATIVE = "pores._native"
CFFI = ("cffi", "_cffi_backend", "pores._pore")
EXTENSIONS = (ETF_EXTENSION, "pores._pore")

SANS_IO = (
    "node.errors",
    "node.terms",
    "node.etf",
    "node.syntax",
    "node.wire",
    "node.runtime.signals",
    "pores.framing",
    *(
        f"pores.{name}"
        for name in ("acceptor", "keys", "kinds", "membrane", "membrane_table", "negotiation", "opener", "work")
    ),
    *(
        f"pores.xenstore.{name}"
        for name in ("commands", "limits", "nodes", "paths", "perms", "transactions", "tree", "watches", "wire")
    ),
)
IO_MODULES = [
    "asyncio",
    "datetime",
    "logging",
    "multiprocessing",
    "os",
    "random",
    "secrets",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "uuid",
]

# PyPI's unrelated package `node` has these.
OTHERS_NAMES = [
    "base",
    "behaviors",
    "compat",
    "events",
    "interfaces",
    "locking",
    "schema",
    "serializer",
    "testing",
    "tests",
    "utils",
]


def inside(module: str, places: tuple[str, ...] | list[str]) -> bool:
    return any(module == place or module.startswith(place + ".") for place in places)


def room(module: str) -> str | None:
    """The most exact room of a module, or None when it has none."""
    parts = module.split(".")
    if parts == ["node"]:
        return "node"
    for length in range(len(parts), 1 if parts[0] == "node" else 0, -1):
        name = ".".join(parts[:length])
        if name in ROOMS:
            return name
    return None


def module_name(path: str) -> str:
    parts = path.removesuffix(".pyi").removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements but those that only type checkers see."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from executed(other)
        else:
            yield child
            yield from executed(child)


def imported(path: str, source: str, known: set[str]) -> Iterator[tuple[int, str, bool]]:
    """(line, absolute name of a module, was it written with dots) for each import, wherever it stands in the file.

    Except below `if TYPE_CHECKING:`: what is never executed is no arrow, and a lower room may name a type of a higher.
    """
    module = module_name(path)
    package = module if path.rsplit("/", 1)[-1].startswith("__init__.") else module.rpartition(".")[0]
    for statement in executed(ast.parse(source, path)):
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield statement.lineno, alias.name, False
        elif isinstance(statement, ast.ImportFrom):
            base = statement.module or ""
            if statement.level:
                up = package.split(".")[: len(package.split(".")) - (statement.level - 1)]
                base = ".".join([*up, *([statement.module] if statement.module else [])])
            for alias in statement.names:
                name = f"{base}.{alias.name}"
                yield statement.lineno, name if name in known or name in EXTENSIONS else base, statement.level > 0


def violations(tree: Mapping[str, str]) -> list[str]:
    """What is wrong in a tree of sources: path from the root -> text. Each line begins with path and line number."""
    known = {module_name(path) for path in tree}
    found = []
    for path, source in sorted(tree.items()):
        module = module_name(path)
        our_room = room(module)
        parts = module.split(".")
        if our_room is None:
            found.append(f"{path}:1: has no room; say in ROOMS where it stands")
            continue
        if len(parts) > 1 and parts[0] == "node" and parts[1] in OTHERS_NAMES:
            found.append(f"{path}:1: node.{parts[1]} is a module of another distribution")
        for line, target, dotted in imported(path, source, known):
            where = f"{path}:{line}"
            top = target.split(".")[0]
            if top == parts[0] and not dotted:
                found.append(f"{where}: imports {target} by its whole name; inside a package imports are relative")
            if top in IO_MODULES and inside(module, SANS_IO):
                found.append(f"{where}: {top} in a sans-IO place; callers pass time, random numbers and bytes in")
            if inside(target, CFFI) and module not in (NATIVE, "pores._pore"):
                found.append(f"{where}: only {NATIVE} touches cffi and what it makes")
            if inside(target, [ETF_EXTENSION]) and not inside(module, ETF_USERS):
                found.append(f"{where}: {ETF_EXTENSION} is for {' and '.join(ETF_USERS)} alone")
            if parts[0] == "pores" and top == "node":
                found.append(f"{where}: pores knows nothing of node")
            if parts[0] == "node" and top == "pores" and not inside(module, PORES_USERS):
                found.append(f"{where}: only {' and '.join(PORES_USERS)} import pores")
            if top == parts[0]:
                their_room = room(target)
                if their_room is None:
                    found.append(f"{where}: imports {target}, which has no room")
                elif their_room != our_room and ROOMS[their_room] >= ROOMS[our_room]:
                    found.append(f"{where}: an arrow from {our_room} up to {their_room}")
    return found


def c_violations(tree: Mapping[str, str]) -> list[str]:
    """Only the codec is a CPython extension: the pores' C serves Python (by cffi) and the BEAM alike."""
    include = re.compile(r'^\s*#\s*include\s*[<"]Python\.h[>"]', re.MULTILINE)
    return [
        f"{path}: includes Python.h; only csrc/etf may"
        for path, source in sorted(tree.items())
        if not path.startswith("csrc/etf/") and include.search(source)
    ]


def read(*patterns: str) -> dict[str, str]:
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for pattern in patterns
        for path in ROOT.glob(pattern)
    }


# ---- the tree -------------------------------------------------------------------------------------------------


def test_the_arrows_of_import() -> None:
    tree = read("node/**/*.py", "node/**/*.pyi", "pores/**/*.py", "pores/**/*.pyi")
    assert "node/__init__.py" in tree
    assert not violations(tree), "\n" + "\n".join(violations(tree))


def test_the_c_sources() -> None:
    tree = read("csrc/**/*.c", "csrc/**/*.h")
    assert any(path.startswith("csrc/etf/") for path in tree)
    assert not c_violations(tree)


def test_tests_are_no_packages() -> None:
    """With --import-mode=importlib; a folder called node or pores would hide the real one."""
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not [path for path in (ROOT / "tests").rglob("*") if path.is_dir() and path.name in ("node", "pores")]


# ---- the checker ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("node/wire/a.py", "from ..runtime import b", "an arrow from node.wire up to node.runtime"),
        ("node/wire/a.py", "def f():\n    from ..net.table import T", "an arrow from node.wire up to node.net"),
        ("node/net/a.py", "from ..otp import rpc", "an arrow from node.net up to node.otp"),
        ("node/runtime/a.py", "from .. import Atom", "an arrow from node.runtime up to node"),
        ("node/runtime/a.py", "from ..node import Node", "an arrow from node.runtime up to node.node"),
        ("node/errors.py", "from .terms import Atom", "an arrow from node.errors up to node.terms"),
        ("node/wire/a.py", "from node.errors import NodeError", "imports are relative"),
        ("node/wire/a.py", "import node.errors", "imports are relative"),
        ("node/wire/a.py", "import asyncio", "asyncio in a sans-IO place"),
        ("node/terms.py", "import os.path", "os in a sans-IO place"),
        ("node/etf/__init__.py", "from time import monotonic", "time in a sans-IO place"),
        ("node/runtime/signals.py", "import threading", "threading in a sans-IO place"),
        ("pores/xenstore/wire.py", "import socket", "socket in a sans-IO place"),
        ("node/wire/a.py", "from .._etf import Atom", "node._etf is for"),
        ("node/wire/a.py", "from .. import _etf", "node._etf is for"),
        ("node/node.py", "import pores", "import pores"),
        ("node/net/tcp.py", "from pores.pore import Pore", "import pores"),
        ("pores/pore.py", "from node import Atom", "pores knows nothing of node"),
        ("pores/pore.py", "import cffi", "only pores._native"),
        ("pores/pore.py", "from ._pore import lib", "only pores._native"),
        ("pores/pore.py", "from . import _pore", "only pores._native"),
        ("pores/errors.py", "from ._native import lib", "an arrow from pores.errors up to pores._native"),
        ("node/wire/a.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import asyncio", "asyncio in a sans-IO place"),
        ("node/wire/a.py", "if X:\n    try:\n        import asyncio\n    except: pass", "asyncio in a sans-IO place"),
        ("node/utils.py", "", "has no room"),
        ("node/testing/x.py", "", "has no room"),
    ],
)
def test_the_checker_finds(path: str, source: str, complaint: str) -> None:
    found = violations({path: source, "node/net/table.py": "", "node/runtime/b.py": ""})
    assert len(found) >= 1
    assert complaint in found[0]
    assert found[0].startswith(f"{path}:")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("node/wire/a.py", "import struct\nfrom ..etf import encode\nfrom . import b\nfrom .b import c"),
        ("node/terms.py", "from . import _etf\nfrom ._etf import Atom\nfrom .errors import NodeError"),
        ("node/etf/__init__.py", "from .. import _etf"),
        ("node/net/pore.py", "import pores\nimport asyncio"),
        ("node/strawman.py", "from pores import straw"),
        ("node/runtime/router.py", "import asyncio\nfrom ..terms import Atom"),
        ("node/__init__.py", "from .node import Node\nfrom .terms import Atom"),
        ("node/runtime/process.py", "if TYPE_CHECKING:\n    from ..node import Node"),
        ("node/__main__.py", "from .cli import main"),
        ("pores/_native.py", "from ._pore import ffi, lib\nfrom .errors import PoreError"),
        ("pores/aio.py", "import asyncio\nfrom .pore import Pore\nfrom . import errors"),
    ],
)
def test_the_checker_lets_pass(path: str, source: str) -> None:
    assert violations({path: source}) == []


def test_the_checker_knows_others_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROOMS, "node.events", 3)
    assert "another distribution" in violations({"node/events.py": ""})[0]


def test_the_c_checker() -> None:
    bad = {
        "csrc/pore/ring.c": "#include <stdint.h>\n#  include <Python.h>\n",
        "csrc/include/pore.h": "/* no Python.h */",
    }
    assert c_violations(bad) == ["csrc/pore/ring.c: includes Python.h; only csrc/etf may"]
    assert c_violations({"csrc/etf/etf.h": '#include "Python.h"'}) == []
