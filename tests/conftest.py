"""Settings for all tests. Fixtures are where they are used; those of real BEAMs in interop/conftest.py."""

from __future__ import annotations

from hypothesis import settings

# Tests never race the clock: a slow machine is no failure. A failing example can be repeated by what is printed.
settings.register_profile("strawbridge", deadline=None, print_blob=True)
settings.load_profile("strawbridge")
