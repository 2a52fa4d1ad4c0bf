"""Random programs of links, monitors, names and exits: this node shows what a BEAM shows (erl/signal_gen.erl).

The reference is a second BEAM with ref_node's application; both runs use the same seed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest
from beamkit.beam import Beam, unique
from beamkit.runtimes import Runtime

pytestmark = pytest.mark.usefixtures("python_only")
STEPS = 150
PROGRAMS = 4


@pytest.fixture(scope="module")
def reference(runtime: Runtime, _starter) -> Iterator[Beam]:
    running = _starter(runtime, unique("reference"), args=["-hidden"])
    yield running
    running.close()


def steps(trace: str) -> list[str]:
    """One text a step."""
    return re.split(r"(?<=\}),(?=\{\d+,\{[a-z_]+,\d+)", trace)


def test_same_as_a_beam(beam: Beam, reference: Beam, subject) -> None:
    for _ in range(PROGRAMS):
        seed = random.randrange(1 << 30)
        differences = [first_difference(beam, reference, subject, seed)]
        if differences[0]:
            differences.append(first_difference(beam, reference, subject, seed))
        if all(differences):
            pytest.fail(f"signal_gen:run(Node, {STEPS}, {seed}):\n{differences[0]}")


def first_difference(beam: Beam, reference: Beam, subject, seed: int) -> str:
    """Run one program against both; what differs, or ''."""
    text = "signal_gen:run(Node, Steps, Seed)"
    reference.eval("ref_node:start()")
    want = beam.eval(text, Node=reference.name, Steps=STEPS, Seed=seed)
    reference.eval("ref_node:stop()")
    found = beam.eval(text, Node=subject.name, Steps=STEPS, Seed=seed)
    if found == want:
        return ""
    pairs = list(zip(steps(want), steps(found), strict=False))
    first = next(index for index, (a, b) in enumerate(pairs) if a != b)
    before = "\n".join(step for step, _ in pairs[max(0, first - 12) : first])
    return f"step {first}, before:\n{before}\na BEAM:    {pairs[first][0]}\nthis node: {pairs[first][1]}"
