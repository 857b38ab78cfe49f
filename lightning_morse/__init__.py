"""Morse graphs of the loss landscape around a training run.

Names are loaded on first use (PEP 562), so that the numerics can be used, and their results read,
without importing lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_morse import deep_linear
    from lightning_morse.analysis.pipeline import analyze
    from lightning_morse.callbacks.deep_linear_monitor import DeepLinearMonitor
    from lightning_morse.callbacks.morse_monitor import MorseMonitor
    from lightning_morse.callbacks.weight_recorder import WeightRecorder
    from lightning_morse.conley.adaptive_map import adaptive_outer_approximation
    from lightning_morse.conley.attractor_lattice import attracting_block, down_sets
    from lightning_morse.conley.basins import separatrix
    from lightning_morse.conley.box_maps import (
        corner_box_map,
        corner_images,
        lipschitz_box_map,
        lipschitz_images,
    )
    from lightning_morse.conley.combinatorial_map import outer_approximation
    from lightning_morse.conley.index import ConleyIndex, conley_indices
    from lightning_morse.conley.morse_sets import MorseGraph, morse_graph
    from lightning_morse.conley.point_maps import time_map
    from lightning_morse.conley.recurrence import period
    from lightning_morse.conley.refinement import RefinedMorseGraph, refined_morse_graph
    from lightning_morse.conley.retraction import OrderRetraction, order_retraction
    from lightning_morse.files.schema import DamagedFile
    from lightning_morse.grids.adaptive import AdaptiveGrid
    from lightning_morse.grids.cubical import CubicalGrid
    from lightning_morse.mode_connectivity.pipeline import connectivity
    from lightning_morse.mode_connectivity.record import Connectivity
    from lightning_morse.monitoring.tracking import AttractorTracker
    from lightning_morse.plotting.basins import plot_basins
    from lightning_morse.plotting.merge_diagram import plot_merge_diagram
    from lightning_morse.plotting.morse_graph import plot_morse_graph
    from lightning_morse.plotting.timeline import plot_timeline
    from lightning_morse.result import Ladder, MorseAnalysis, MorseSet
    from lightning_morse.slices.loss_slice import LossSlice
    from lightning_morse.slices.subspace import AffineSubspace, plane_through
    from lightning_morse.trajectories.pipeline import analyze_trajectories
    from lightning_morse.trajectories.runs import Run, load_runs

__version__ = "0.1.0"

_HOMES = {
    "AdaptiveGrid": "grids.adaptive",
    "AffineSubspace": "slices.subspace",
    "AttractorTracker": "monitoring.tracking",
    "ConleyIndex": "conley.index",
    "Connectivity": "mode_connectivity.record",
    "CubicalGrid": "grids.cubical",
    "DamagedFile": "files.schema",
    "DeepLinearMonitor": "callbacks.deep_linear_monitor",
    "Ladder": "result",
    "LossSlice": "slices.loss_slice",
    "MorseAnalysis": "result",
    "MorseGraph": "conley.morse_sets",
    "MorseMonitor": "callbacks.morse_monitor",
    "MorseSet": "result",
    "OrderRetraction": "conley.retraction",
    "RefinedMorseGraph": "conley.refinement",
    "adaptive_outer_approximation": "conley.adaptive_map",
    "Run": "trajectories.runs",
    "WeightRecorder": "callbacks.weight_recorder",
    "analyze": "analysis.pipeline",
    "analyze_trajectories": "trajectories.pipeline",
    "attracting_block": "conley.attractor_lattice",
    "conley_indices": "conley.index",
    "connectivity": "mode_connectivity.pipeline",
    "corner_box_map": "conley.box_maps",
    "corner_images": "conley.box_maps",
    "down_sets": "conley.attractor_lattice",
    "lipschitz_box_map": "conley.box_maps",
    "lipschitz_images": "conley.box_maps",
    "load_runs": "trajectories.runs",
    "morse_graph": "conley.morse_sets",
    "order_retraction": "conley.retraction",
    "outer_approximation": "conley.combinatorial_map",
    "period": "conley.recurrence",
    "plane_through": "slices.subspace",
    "plot_basins": "plotting.basins",
    "plot_merge_diagram": "plotting.merge_diagram",
    "plot_morse_graph": "plotting.morse_graph",
    "plot_timeline": "plotting.timeline",
    "refined_morse_graph": "conley.refinement",
    "separatrix": "conley.basins",
    "time_map": "conley.point_maps",
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
