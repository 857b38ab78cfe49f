r"""How far the samples bear out the surrogates, and what could hide between them.

All bounds hold *given* that the loss is a sample path of the fitted process. Whether it is shows
where the process predicts a loss before it has seen it (prequential evidence: Dawid 1984). Every
sample that is placed for a box whose surrogate has been fitted is such a test. It is a *surprise*
if its error, in deviations of today's caution, is larger than the largest of so many errors may be.
Tests by a surrogate that had seen less than half of what the present one has are not counted: they
say little of it.

*Rule.* With ``n`` tests and ``k`` surprises among them, that a further test were none has
probability :math:`(n - k + 1) / (n + 2)` (rule of succession: Laplace 1774; the mean of the share
of such tests, which is uniform before the first). That is taken for the probability that the
process is adequate where nothing was sampled, and multiplies every bound. It supposes that what
the claims need is as likely to be told by the surrogate as what was tested; samples lie where the
flow is open, so the tests are harder than a random one. This is an argument, not a proof: how often
claims are false is counted by ``benchmarks/reliability.py``.

*Scale.* A basin narrower than the gaps between the samples shows nowhere, in no test. So a claim
about the number of attractors is one about basins wider than :func:`finest_width`.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from lightning_morse._typing import Array
from lightning_morse.analysis.tower import Tower
from lightning_morse.facts import Evidence
from lightning_morse.gp.calibration import (
    Calibrated,
    expected_largest,
    fit_calibrated,
    prediction_errors,
)
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.cubical import CubicalGrid

# The probability with which samples would have shown a basin of the finest width.
_SHOWN = 0.95
# About how many places are tried for a hidden basin.
_PLACES = 4096
# Share of the present samples that a surrogate has to have seen for its predictions to count.
_COUNTS_FROM = 0.5
# Keeps the random halves apart from the other streams of a seed.
_HALVES_STREAM = 5


def evidence_for(tower: Tower, models: list[Calibrated], mu_model: float) -> Evidence:
    """What the samples say of the surrogates of a tower.

    Where no sample was predicted before it was used, as none is where samples are given, each half
    of the samples is predicted from the other one.

    Args:
        tower: The boxes and their samples.
        models: The surrogate of each box.
        mu_model: The bound given the model, which is kept beside it.
    """
    errors = np.concatenate(
        [_errors_of_box(tower, k) / model.factor for k, model in enumerate(models)]
    )
    if not errors.size:
        errors = _errors_of_halves(tower) / models[0].factor
    n = len(errors)
    surprises = int((errors > expected_largest(n)).sum()) if n else 0
    finest = finest_width(tower.settings.grid, tower.everything.points)
    return Evidence(n, surprises, mu_model, finest)


def _errors_of_box(tower: Tower, k: int) -> Array:
    box = tower.boxes[k]
    counted = [e for n, e in box.predicted if n >= _COUNTS_FROM * len(box.samples)]
    return np.concatenate([np.empty(0), *counted])


def _errors_of_halves(tower: Tower) -> Array:
    """Errors with which each random half of the samples is predicted from the other one."""
    seen, grid = tower.everything.finite, tower.settings.grid
    rng = np.random.default_rng([tower.settings.seed, _HALVES_STREAM])
    order = rng.permutation(len(seen))
    halves = order[: len(seen) // 2], order[len(seen) // 2 :]
    errors = [np.empty(0)]
    for fitted, other in (halves, halves[::-1]):
        try:
            model = fit_calibrated(seen.points[fitted], seen.losses[fitted], grid.lower, grid.upper)
        except SurrogateError:  # half of them determine none: no test
            continue
        errors.append(prediction_errors(model, seen.points[other], seen.losses[other]))
    return np.concatenate(errors)


def finest_width(grid: CubicalGrid, points: Array) -> float:
    """Width of the narrowest basin that samples would have shown with probability 0.95.

    A basin at a random place of the box shows if a sample lies in it. So it is twice the distance
    to the nearest sample that 95 % of all places do not exceed.

    Args:
        grid: The grid of the box.
        points: The samples, shape ``(n, d)``, ``n`` at least 1.

    Returns:
        As a share of the width of the box, distances along each axis in units of its width.

    Example:
        >>> round(finest_width(CubicalGrid([0.0], [2.0], (8,)), np.array([[0.5], [1.5]])), 2)
        0.48
    """
    per_axis = max(2, round(_PLACES ** (1 / grid.dim)))
    places = CubicalGrid(grid.lower, grid.upper, (per_axis,) * grid.dim).cell_centers()
    width = grid.upper - grid.lower
    distance, _ = cKDTree(points / width).query(places / width)
    return min(1.0, 2 * float(np.quantile(distance, _SHOWN)))
