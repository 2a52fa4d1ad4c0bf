"""The command line: ``strawbridge``, which is ``python -m node``.

It turns arguments into calls of the public face and errors into one line and an exit code. What can be done with it
can be done from Python as well; nothing else imports it.
"""

from __future__ import annotations

from .main import main

__all__ = ["main"]
