"""Whose a class or a function is: the user's, or that of Python or of a library."""

from __future__ import annotations

import sys
from typing import Any

# Classes of these hold nothing that a step would change.
LIBRARIES = ("torch.", "pytorch_lightning.", "lightning.", "lightning_fabric.", "torchmetrics.")
_OURS = "lightning_morse."
# Packages whose functions keep nothing that a step would change but the global generators.
_OF_OTHERS = {*sys.stdlib_module_names, "numpy", "scipy", "sklearn", "pandas", "PIL", "torchvision"}


def is_of_library(cls: type) -> bool:
    """Whether a class is one of torch, Lightning or the like."""
    return f"{cls.__module__}.".startswith(LIBRARIES)


def is_of_python(cls: type) -> bool:
    """Whether a class is Python's own."""
    return str(cls.__module__).partition(".")[0] in sys.stdlib_module_names


def is_users_file(name: Any) -> bool:
    """Whether the name of a Python module is that of one that the user may have written."""
    home = str(name)
    known = f"{home}.".startswith((*LIBRARIES, _OURS))
    return not known and home.partition(".")[0] not in _OF_OTHERS


def users_bases(cls: type) -> list[type]:
    """The classes that a class derives from but those of libraries, the most special first."""
    return [base for base in cls.__mro__ if not is_of_library(base) and base is not object]


def users_classes(cls: type) -> list[type]:
    """Those of them that are neither Python's own nor of this package."""
    return [
        base
        for base in users_bases(cls)
        if not f"{base.__module__}.".startswith(_OURS) and not is_of_python(base)
    ]
