"""Fixtures of several unit tests."""

from __future__ import annotations

import pytest

from pores.xenstore.tree import Tree


@pytest.fixture
def tree() -> Tree:
    """A store with the domains 5, 7 and 9."""
    tree = Tree()
    for domid in (5, 7, 9):
        tree.introduce(domid)
    return tree
