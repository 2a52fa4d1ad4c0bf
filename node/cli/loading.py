"""APP of ``strawbridge run``: from ``module:attr`` or ``file.py:attr`` to the function it names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from .failure import NEGATIVE, USAGE, Failure

__all__ = ["load"]


def load(app: str) -> Callable[..., Any]:
    """The callable that app names. Failure(USAGE) when there is none, Failure(NEGATIVE) when its module fails."""
    path, colon, attribute = app.rpartition(":")
    if not colon or not path or not attribute:
        raise Failure(USAGE, f"not an app: {app} (it looks like module:attr or file.py:attr)")
    module = _file(Path(path)) if path.endswith(".py") else _module(path)
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise Failure(USAGE, f"{path} has no {attribute}") from None
    if not callable(found):
        raise Failure(USAGE, f"{app} is a {type(found).__name__}, not a function that takes the node")
    function: Callable[..., Any] = found
    return function


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise Failure(USAGE, f"no such file: {path}")
    path = path.resolve()
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Failure(USAGE, f"not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(name, module)
    sys.path.insert(0, str(path.parent))  # as python file.py does
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _failed(str(path), error) from error
    return module


def _module(name: str) -> ModuleType:
    sys.path.insert(0, "")  # as python -m does
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The module itself or a package above it; a module that it imports is its own trouble.
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise Failure(USAGE, f"no module named {error.name}") from None
        raise _failed(name, error) from error
    except (ValueError, TypeError):
        raise Failure(USAGE, f"not a module's name: {name}") from None
    except Exception as error:
        raise _failed(name, error) from error


def _failed(what: str, error: Exception) -> Failure:
    """The app's own failure: its author needs the stack, without our frames and importlib's."""
    stack = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in stack if "importlib" not in frame.filename and frame.filename != __file__]
    text = "".join(traceback.format_list(own) + traceback.format_exception_only(error)).rstrip()
    return Failure(NEGATIVE, f"{what} can't be loaded:\n{text}")
