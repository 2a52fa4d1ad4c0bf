"""The scenarios of straws and tubes between domains (scenarios.py), on the local host and on a booted Xen.

One list for both: what is tested on Xen and what is tested without it can't drift apart. All scenarios of Xen run in
one boot, one after the other, and each test waits for its own; the console is kept as build/xen/console.log.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the modules here are those that run in the guests

import boot  # noqa: E402
import images  # noqa: E402
from local import Local  # noqa: E402
from scenarios import SCENARIOS, Scenario  # noqa: E402

ON_BOTH = [pytest.param(one, id=one.name) for one in SCENARIOS if not one.only]
ON_XEN = [pytest.param(one, id=one.name) for one in SCENARIOS if one.only in ("", "xen")]


@pytest.mark.parametrize("scenario", ON_BOTH)
def test_local(scenario: Scenario, tmp_path: Path) -> None:
    if scenario.beam and (shutil.which("escript") is None or not (HERE.parents[1] / "erl/ebin/straw.app").exists()):
        pytest.skip("no escript, or erl/ is not built (make erl)")

    async def main() -> None:
        platform = Local(tmp_path / "host")
        await platform.start()
        try:
            async with asyncio.timeout(120):
                await scenario.run(platform)
            assert await platform.leaks() == []
        finally:
            await platform.close()

    asyncio.run(main())


@pytest.fixture(scope="module")
def booted(request: pytest.FixtureRequest) -> Iterator[boot.Boot]:
    """Xen is being booted, and runs one after the other what is asked for here."""
    if why := boot.need():
        pytest.skip(f"no Xen: {why}")
    work = HERE.parents[1] / "build/xen"
    try:
        images.build(work)
    except images.Missing as error:
        pytest.skip(f"no Xen: {error}")
    chosen = [item.callspec.params["scenario"].name for item in request.session.items if "test_xen[" in item.name]
    names = "all" if len(chosen) == len(ON_XEN) else ",".join(chosen)
    found = boot.Boot()
    machine = threading.Thread(target=boot.boot, args=(work, names), kwargs={"found": found})
    machine.start()
    yield found
    found.stop = not found.ended
    machine.join()
    print(f"Xen: {found.seconds:.0f} s, {found.megabytes:.0f} MB; the console is in {found.log}")


@pytest.mark.parametrize("scenario", ON_XEN)
def test_xen(scenario: Scenario, booted: boot.Boot) -> None:
    while scenario.name not in booted.results and not booted.over:
        time.sleep(0.1)
    if scenario.name not in booted.results:
        tail = booted.log.read_text(errors="replace").splitlines()[-30:]
        pytest.fail("the machine ended before this was run; its last words:\n" + "\n".join(tail))
    verdict, seconds = booted.results[scenario.name]
    print(f"{seconds:.1f} s on the emulated machine")
    assert verdict == "PASSED", "\n".join(booted.errors.get(scenario.name, ["see " + str(booted.log)]))
