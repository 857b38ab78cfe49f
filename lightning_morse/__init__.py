"""Morse graphs of the loss landscape around a training run.

Names are loaded on first use (PEP 562), so that the numerics can be used, and their results read,
without importing lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_morse import deep_linear
    from lightning_morse.adaptive_grid import AdaptiveGrid
    from lightning_morse.adaptive_map import adaptive_outer_approximation
    from lightning_morse.analysis import analyze
    from lightning_morse.box_maps import (
        corner_box_map,
        corner_images,
        lipschitz_box_map,
        lipschitz_images,
        time_map,
    )
    from lightning_morse.callback import MorseMonitor
    from lightning_morse.combinatorial_map import outer_approximation
    from lightning_morse.conley import ConleyIndex, conley_indices
    from lightning_morse.deep_linear_monitor import DeepLinearMonitor
    from lightning_morse.grid import CubicalGrid
    from lightning_morse.loss_slice import LossSlice
    from lightning_morse.merge_diagram import plot_merge_diagram
    from lightning_morse.morse_sets import MorseGraph, morse_graph
    from lightning_morse.plotting import plot_basins, plot_morse_graph
    from lightning_morse.record import Ladder, MorseAnalysis, MorseSet
    from lightning_morse.recurrence import period
    from lightning_morse.refinement import RefinedMorseGraph, refined_morse_graph
    from lightning_morse.retraction import (
        OrderRetraction,
        attracting_block,
        down_sets,
        order_retraction,
        separatrix,
    )
    from lightning_morse.run_files import Run, load_runs
    from lightning_morse.subspace import AffineSubspace, plane_through
    from lightning_morse.timeline import plot_timeline
    from lightning_morse.tracking import AttractorTracker
    from lightning_morse.trajectory_analysis import analyze_trajectories
    from lightning_morse.weight_recorder import WeightRecorder

__version__ = "0.1.0"

_HOMES = {
    "AdaptiveGrid": "adaptive_grid",
    "AffineSubspace": "subspace",
    "AttractorTracker": "tracking",
    "ConleyIndex": "conley",
    "CubicalGrid": "grid",
    "DeepLinearMonitor": "deep_linear_monitor",
    "Ladder": "record",
    "LossSlice": "loss_slice",
    "MorseAnalysis": "record",
    "MorseGraph": "morse_sets",
    "MorseMonitor": "callback",
    "MorseSet": "record",
    "OrderRetraction": "retraction",
    "RefinedMorseGraph": "refinement",
    "adaptive_outer_approximation": "adaptive_map",
    "Run": "run_files",
    "WeightRecorder": "weight_recorder",
    "analyze": "analysis",
    "analyze_trajectories": "trajectory_analysis",
    "attracting_block": "retraction",
    "conley_indices": "conley",
    "corner_box_map": "box_maps",
    "corner_images": "box_maps",
    "down_sets": "retraction",
    "lipschitz_box_map": "box_maps",
    "lipschitz_images": "box_maps",
    "load_runs": "run_files",
    "morse_graph": "morse_sets",
    "order_retraction": "retraction",
    "outer_approximation": "combinatorial_map",
    "period": "recurrence",
    "plane_through": "subspace",
    "plot_basins": "plotting",
    "plot_merge_diagram": "merge_diagram",
    "plot_morse_graph": "plotting",
    "plot_timeline": "timeline",
    "refined_morse_graph": "refinement",
    "separatrix": "retraction",
    "time_map": "box_maps",
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
