"""Erlang's text form of terms: what one types into the Erlang shell, and what ``~0tp`` prints.

This is for people: the command line, logs, tests. It is not the wire format (node.etf), and it evaluates nothing:
no variables, no operators, no function calls.
"""

from __future__ import annotations

from .parse import parse
from .print import format
from .scan import TermSyntaxError

__all__ = ["TermSyntaxError", "format", "parse"]
