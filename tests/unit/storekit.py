"""What the tests of the store share."""

from __future__ import annotations

import pytest

from pores.errors import XenstoreError

__all__ = ["refused"]


def refused(name: str) -> pytest.RaisesContext[XenstoreError]:
    """`with refused("EACCES"):` the store says no, by this name; words that it says behind the name may follow."""
    return pytest.raises(XenstoreError, match=f"^{name}")
