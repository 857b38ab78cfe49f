"""The scalars that a run logs, and how an analysis gives them."""

from __future__ import annotations

import math

import numpy as np

from lightning_morse._typing import Array
from lightning_morse.result import UNDECIDED, MorseAnalysis

# Loggers keep single precision, in which a bound on a probability must not become 1.
BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))

# Every value is finite from the first step on: EarlyStopping ends a run on NaN or a missing key.
BEFORE_FIRST = {
    "morse/attractors": 0.0,
    "morse/unresolved": 0.0,
    "morse/morse_sets": 0.0,
    "morse/mu": 0.0,
    "morse/mu_smallest": 0.0,
    "morse/mu_current": 0.0,
    "morse/basin_current": float(UNDECIDED),
    "morse/basin_switches": 0.0,
    "morse/identity_current": float(UNDECIDED),
    "morse/basin_max": 0.0,
    "morse/escape": 0.0,
    "morse/undecided": 1.0,
    "morse/barrier": 0.0,
    "morse/headroom": 0.0,
    "morse/explained": 0.0,
    "morse/residual": 0.0,
    "morse/calibration": 0.0,
    "morse/seconds": 0.0,
    "morse/overhead": 0.0,
    "morse/failed": 0.0,
}


def readings(result: MorseAnalysis, current: Array, loss_now: float) -> dict[str, float]:
    """The scalars that an analysis gives at the current point, all of them finite.

    Args:
        result: The analysis.
        current: Where the weights are, coordinates of the slice, shape ``(d,)``.
        loss_now: The loss there.
    """
    basin = int(result.basin_of(current[None])[0])
    barrier = headroom = mu_current = 0.0
    if basin >= 0:
        mu_current = result.morse_sets[basin].mu or 0.0
        barrier = result.barrier(basin)
        headroom = loss_now - result.morse_sets[basin].loss
    mus = [result.morse_sets[i].mu or 0.0 for i in result.attractors]
    found = {
        "morse/attractors": float(result.n_attractors),
        "morse/unresolved": float(result.n_unresolved),
        "morse/morse_sets": float(result.n_morse_sets),
        "morse/mu": min(result.mu, BELOW_ONE),
        "morse/mu_smallest": min([*mus, BELOW_ONE]) if mus else 0.0,
        "morse/mu_current": min(mu_current, BELOW_ONE),
        "morse/basin_current": float(basin),
        "morse/basin_max": max(result.basin_volumes.values(), default=0.0),
        "morse/escape": result.escape,
        "morse/undecided": result.undecided,
        "morse/barrier": barrier,
        "morse/headroom": headroom,
        "morse/calibration": result.calibration,
    }
    return {k: float(v) if math.isfinite(v) else BEFORE_FIRST[k] for k, v in found.items()}
