"""The dynamics that a run's own snapshots show, and the scalars for it.

The snapshots of one run lie on a curve, so the map learnt from them is known only near that curve,
and an attractor is reported only if a whole block of known cells maps into itself. On 360 simulated
runs of 24 steps (a double well, Himmelblau's function, the Van der Pol oscillator) no block and no
label was wrong. 71 of 80 noise-free descents showed their attractor; with noise of 0.001 per step
in a box of width 3 none did (``benchmarks/snapshot_claims.py``).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array
from lightning_morse.conley.reach import UNDECIDED
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.monitoring.flow_check import UNKNOWN, FlowCheck
from lightning_morse.monitoring.scalars import BELOW_ONE
from lightning_morse.result import MorseAnalysis
from lightning_morse.trajectories.pairs import pairs_of_runs
from lightning_morse.trajectories.pipeline import analyze_pairs

DYNAMICS = ("gradient", "trajectory", "both")

_FLOW = {"flow_angle": UNKNOWN, "flow_length": UNKNOWN}
_OF_ANY_MAP = {"trajectory_unknown": 1.0}
_SIDE_BY_SIDE = {
    "trajectory_attractors": 0.0,
    "trajectory_mu": 0.0,
    "trajectory_basin_current": float(UNDECIDED),
    "trajectory_undecided": 1.0,
}
# By choice of dynamics.
_BEFORE_FIRST = {
    "gradient": _FLOW,
    "trajectory": {**_FLOW, **_OF_ANY_MAP},
    "both": {**_FLOW, **_SIDE_BY_SIDE, **_OF_ANY_MAP},
}


def before_first(dynamics: str) -> dict[str, float]:
    """The scalars that a choice of dynamics adds, before anything is known.

    Args:
        dynamics: ``"gradient"``, ``"trajectory"`` or ``"both"``.
    """
    return dict(_BEFORE_FIRST[dynamics])


def analyze_snapshots(
    states: ArrayLike,
    half: ArrayLike,
    resolution: int,
    confidence: float = 0.95,
    seed: int = 0,
) -> MorseAnalysis:
    """Analyse the map from one snapshot of a run to the next.

    Args:
        states: Coordinates of evenly spaced snapshots, oldest first, shape ``(T, d)``.
        half: Half-widths of the box around zero, shape ``(d,)``.
        resolution: Cells per axis.
        confidence: As in :func:`lightning_morse.analyze_trajectories`.
        seed: As there.

    Returns:
        The analysis; it is undecided what becomes of what may come to cells about which the run
        says too little.

    Raises:
        ValueError: If there are too few snapshots in the box, or nothing can be learnt from them.

    Example:
        A run that oscillates about 0 and comes to rest there:

        >>> x = [[(-0.6) ** t] for t in range(16)]
        >>> analyze_snapshots(x, [1.5], 32).claim
        'at least 1 attractor'
    """
    width = np.asarray(half, dtype=np.float64)
    grid = CubicalGrid(-width, width, (resolution,) * len(width))
    return analyze_pairs(pairs_of_runs([states]), grid, confidence, seed)


def map_readings(result: MorseAnalysis) -> dict[str, float]:
    """The scalars of any analysis of snapshots, also of one made instead of that of the loss.

    Args:
        result: The analysis of the snapshots.
    """
    return {"trajectory_unknown": float(result.diverged.mean())}


def trajectory_readings(result: MorseAnalysis, current: Array) -> dict[str, float]:
    """The scalars of an analysis of snapshots made beside one of the loss.

    Args:
        result: The analysis of the snapshots.
        current: The weights in slice coordinates, shape ``(d,)``.
    """
    return {
        "trajectory_attractors": float(result.n_attractors),
        "trajectory_mu": min(result.mu, BELOW_ONE),
        "trajectory_basin_current": float(result.basin_of(current[None])[0]),
        "trajectory_undecided": result.undecided,
        **map_readings(result),
    }


def flow_readings(found: FlowCheck) -> dict[str, float]:
    """The scalars of a comparison of training with the gradient flow; all finite."""
    values = {"flow_angle": found.angle, "flow_length": found.length}
    return {k: v if math.isfinite(v) else UNKNOWN for k, v in values.items()}
