"""Settings for all tests. Fixtures are where they are used; those of real BEAMs in interop/conftest.py."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# What several files use; there is no __init__.py below tests/. Last, for they must not hide anything.
sys.path += [str(Path(__file__).parent / folder) for folder in ("", "unit", "interop")]

# Tests never race the clock: a slow machine is no failure. A failing example can be repeated by what is printed.
settings.register_profile("strawbridge", deadline=None, print_blob=True)
settings.load_profile("strawbridge")


#: Folders of few tests that take minutes: first, so that files side by side do not end with waiting for one of them.
SLOW = ("xen", "native")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first; otherwise as they stand."""
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return SLOW.index(folder) if folder in SLOW else len(SLOW)

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, Any]:
    """What a test has printed or logged may be no Unicode; the reports of parallel runs have to be."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report
