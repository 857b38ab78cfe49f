"""Morse graphs of the loss landscape around a training run.

Names are loaded on first use (PEP 562), so that the numerics can be used, and their results read,
without importing lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_morse import deep_linear
    from lightning_morse.analysis import analyze
    from lightning_morse.callback import MorseMonitor
    from lightning_morse.combinatorial_map import outer_approximation
    from lightning_morse.deep_linear_monitor import DeepLinearMonitor
    from lightning_morse.grid import CubicalGrid
    from lightning_morse.loss_slice import LossSlice
    from lightning_morse.merge_diagram import plot_merge_diagram
    from lightning_morse.morse_sets import MorseGraph, morse_graph
    from lightning_morse.plotting import plot_basins, plot_morse_graph
    from lightning_morse.record import Ladder, MorseAnalysis, MorseSet
    from lightning_morse.subspace import AffineSubspace, plane_through

__version__ = "0.1.0"

_HOMES = {
    "AffineSubspace": "subspace",
    "CubicalGrid": "grid",
    "DeepLinearMonitor": "deep_linear_monitor",
    "Ladder": "record",
    "LossSlice": "loss_slice",
    "MorseAnalysis": "record",
    "MorseGraph": "morse_sets",
    "MorseMonitor": "callback",
    "MorseSet": "record",
    "analyze": "analysis",
    "morse_graph": "morse_sets",
    "outer_approximation": "combinatorial_map",
    "plane_through": "subspace",
    "plot_basins": "plotting",
    "plot_merge_diagram": "merge_diagram",
    "plot_morse_graph": "plotting",
}

# Modules that are public as they are, loaded on first use too.
_MODULES = ("deep_linear",)

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
