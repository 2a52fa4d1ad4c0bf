"""What the guides show of terms is what happens."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def test_sessions_in_terms() -> None:
    sessions = re.findall(r"^```python\n(>>> .*?)^```", (DOCS / "terms.md").read_text(), re.MULTILINE | re.DOTALL)
    assert sessions
    for session in sessions:
        test = doctest.DocTestParser().get_doctest(session, {}, "terms.md", None, None)
        assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize("guide", sorted(DOCS.glob("*.md")), ids=lambda guide: guide.name)
def test_links_between_guides(guide: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", guide.read_text()):
        assert (guide.parent / target).exists(), target
