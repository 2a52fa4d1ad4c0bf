"""Builds the cffi module `pores._pore` (API mode) from csrc/include/pore.h and csrc/pore/*.c. Not shipped in the wheel.

pore.h is plain enough for cffi to read, so there is no second list of declarations that could differ.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

# cffi gives the GIL away around every call, which costs more than most of ours take. Short calls keep it; those that
# can wait give it away themselves.
PREAMBLE = """
#include "pore.h"

#undef Py_BEGIN_ALLOW_THREADS
#undef Py_END_ALLOW_THREADS
#define Py_BEGIN_ALLOW_THREADS {
#define Py_END_ALLOW_THREADS }
"""

# name, result, parameters
WAITING = [
    ("pore_wait", "int", "struct pore_table *table, pore_id id, int what, uint32_t slots, int64_t timeout_us"),
    ("pore_spin", "int", "struct pore_table *table, pore_id id, int what, uint32_t slots"),
    ("pore_wait_frames", "long", "struct pore_inbox *inbox"),
    ("pore_close", "int", "struct pore_table *table, pore_id id"),
    ("pore_close_owned", "int", "struct pore_table *table, uint64_t owner"),
    ("pore_close_all", "int", "struct pore_table *table"),
]


def waiting(name: str, result: str, parameters: str) -> str:
    """A function that releases the GIL around the one of this name, and takes its name."""
    arguments = ", ".join(re.findall(r"(\w+)(?:,|$)", parameters))
    return f"""
static {result} {name}_released({parameters}) {{
    PyThreadState *state = PyEval_SaveThread();
    {result} result = {name}({arguments});
    PyEval_RestoreThread(state);
    return result;
}}
#define {name} {name}_released
"""


def declarations() -> str:
    """What pore.h declares, without its preprocessor lines."""
    return re.sub(r"^#.*\n", "", (ROOT / "csrc/include/pore.h").read_text(), flags=re.MULTILINE)


def relative(path: Path) -> str:
    """setuptools wants sources relative to the project."""
    return os.path.relpath(path, ROOT)


# What only Python has: its objects, whose id() is their address (frames.c).
OBJECTS = """
long pore_list_frames(uintptr_t inbox, uintptr_t list);
long pore_list_drained(uintptr_t inbox, uintptr_t list);
long pore_list_lingered(uintptr_t inbox, uintptr_t list);
long pore_list_waited(uintptr_t inbox, uintptr_t list);
long pore_put_frame(uintptr_t inbox, uintptr_t frame);
long pore_put_frames(uintptr_t inbox, uintptr_t list, int flags);
"""

ffi = FFI()
ffi.cdef(declarations() + OBJECTS)
ffi.set_source(
    "pores._pore",
    PREAMBLE + "".join(waiting(*function) for function in WAITING) + (HERE / "frames.c").read_text(),
    sources=[relative(path) for path in sorted((ROOT / "csrc/pore").glob("*.c"))],
    depends=[relative(path) for path in [*sorted((ROOT / "csrc").glob("[ip]*/*.h")), HERE / "frames.c"]],
    include_dirs=["csrc/include"],
    extra_compile_args=["-O3", "-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden"],
    libraries=["pthread"],
)
