"""Objects of the user, named by their import paths."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def imported(name: str, callable_only: bool = True) -> Any:
    """The object with an import path such as ``mypackage.losses:himmelblau``.

    Raises:
        ImportError: If it is no such path, or there is no such module.
        AttributeError: If the module has no such object.
        TypeError: If it is no function, unless anything will do.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ImportError("expected MODULE:FUNCTION, such as mypackage.losses:himmelblau")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as with python -m
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    if callable_only and not callable(found):
        raise TypeError(f"it is a {type(found).__name__}, not a function")
    return found
