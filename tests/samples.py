"""The listings of the documentation, to be run as they are printed."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

__all__ = ["erlang", "execute", "listing", "listings"]

ROOT = Path(__file__).parents[1]


def listings(page: str, language: str) -> list[str]:
    """Those of a page ("docs/straws.md") in one language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def listing(page: str, language: str, beginning: str = "") -> str:
    """The only one that begins so."""
    (found,) = (text for text in listings(page, language) if text.startswith(beginning))
    return found


def erlang(text: str, **names: str) -> str:
    """What can be evaluated: without comments and the last dot; `b="c@d"`: this node in place of 'b@127.0.0.1'."""
    text = "\n".join(line.partition("%")[0] for line in text.splitlines()).rstrip().removesuffix(".")
    return renamed(text, **names)


def renamed(text: str, **names: str) -> str:
    for name, node in names.items():
        text = text.replace(f"{name}@127.0.0.1", node)
    return text


async def execute(text: str, names: dict[str, Any]) -> dict[str, Any]:
    """Runs Python that may await at its top; the names that it has bound."""
    code = compile(text, "listing", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.iscoroutine(result):
        await result
    return names
