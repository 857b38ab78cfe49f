"""The scalars that a run logs, under bare names, and how an analysis gives them.

:func:`published` adds the name of the monitor where they leave the package; nothing inside knows
of it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

import numpy as np

from lightning_morse._typing import Array
from lightning_morse.conley.reach import UNDECIDED
from lightning_morse.result import Curvature, MorseAnalysis

# Loggers keep single precision, in which a bound on a probability must not round up to 1.
BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))

# What a row of the history says where nothing is known, beside ``failed``. It is not published: no
# value is there before it has been measured.
UNKNOWN = {
    "attractors": 0.0,
    "unresolved": 0.0,
    "morse_sets": 0.0,
    "mu": 0.0,
    "mu_model": 0.0,
    "mu_smallest": 0.0,
    "mu_current": 0.0,
    "basin_current": float(UNDECIDED),
    "basin_switches": 0.0,
    "basin_forks": 0.0,
    "identity_current": float(UNDECIDED),
    "settled": -1.0,
    "exit_face": -1.0,
    "basin_max": 0.0,
    "escape": 0.0,
    "undecided": 1.0,
    "finest": 1.0,
    "barrier": 0.0,
    "headroom": 0.0,
    "sharpness": 0.0,
    "sharpness_attractor": 0.0,
    "sharpness_limit": 0.0,
    "sharpness_critical": 0.0,
    "explained": 0.0,
    "residual": 0.0,
    "calibration": 0.0,
    "seconds": 0.0,
    "overhead": 0.0,
    "failed": 0.0,
}

# In checkpoints of version 0.1 the names carry this prefix, whatever the monitor is called.
_OLD_PREFIX = "morse/"


def readings(
    result: MorseAnalysis, current: Array, loss_now: float, face: tuple[int, int] | None = None
) -> dict[str, float]:
    """The scalars that an analysis gives at the current weights, all of them finite.

    Args:
        result: The analysis.
        current: The weights in slice coordinates, shape ``(d,)``.
        loss_now: The loss there; NaN if unknown.
        face: Axis and side of the face through which they leave the box, if they certainly do.
    """
    basin = int(result.basin_of(current[None])[0])
    barrier = headroom = mu_current = 0.0
    below: Curvature | None = None
    if basin >= 0:
        mu_current = result.morse_sets[basin].mu or 0.0
        barrier = result.barrier(basin)
        # The centre of an attractor is an estimate: the weights may have come lower.
        headroom = max(0.0, loss_now - result.morse_sets[basin].loss)
        below = result.morse_sets[basin].curvature
    mus = [result.morse_sets[i].mu or 0.0 for i in result.attractors]
    found = {
        "attractors": float(result.n_attractors),
        "unresolved": float(result.n_unresolved),
        "morse_sets": float(result.n_morse_sets),
        "mu": min(result.mu, BELOW_ONE),
        "mu_model": min(result.mu_model, BELOW_ONE),
        "mu_smallest": min([*mus, BELOW_ONE]) if mus else 0.0,
        "mu_current": min(mu_current, BELOW_ONE),
        "basin_current": float(basin),
        "exit_face": -1.0 if face is None else float(2 * face[0] + face[1]),
        "basin_max": max(result.basin_volumes.values(), default=0.0),
        "escape": result.escape,
        "undecided": result.undecided,
        "finest": result.finest,
        "barrier": barrier,
        "headroom": headroom,
        "sharpness": _certain(result.curvature),
        "sharpness_attractor": _certain(below),
        "calibration": result.calibration,
    }
    return {k: float(v) if math.isfinite(v) else UNKNOWN[k] for k, v in found.items()}


def _certain(curvature: Curvature | None) -> float:
    """What the largest curvature certainly is at least; 0 where nothing above that is certain."""
    return 0.0 if curvature is None else max(0.0, curvature.at_least)


def published(name: str, scalars: Mapping[str, float]) -> dict[str, float]:
    """The scalars as others see them, under the name of a monitor.

    Example:
        >>> published("morse", {"mu": 0.5})
        {'morse/mu': 0.5}
    """
    # The same names in every row of a history: once in memory.
    return {sys.intern(f"{name}/{key}"): value for key, value in scalars.items()}


def from_checkpoint(scalars: Mapping[str, float]) -> dict[str, float]:
    """The scalars of a checkpoint, of this version or of 0.1, under bare names.

    Example:
        >>> from_checkpoint({"morse/mu": 0.5}) == from_checkpoint({"mu": 0.5})
        True
    """
    return {key.removeprefix(_OLD_PREFIX): value for key, value in scalars.items()}
