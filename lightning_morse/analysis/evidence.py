r"""How far the samples bear out the surrogates, and what could hide between them.

All bounds hold *given* that the loss is a sample path of the fitted process. Whether it is shows
where the process predicts a loss before it has seen it (prequential evidence: Dawid 1984). Every
sample that is placed for a box whose surrogate has been fitted is such a test. Claims rest on a
band: that nowhere an error is larger than so many deviations. A test is a *surprise* if its error,
in deviations of today's caution, is larger than that.

*Places.* Tests at one place say nothing of another. ``n`` random places would meet 63 % of ``n``
equal cells of a box; tests that meet ``m`` of them count as ``m / 0.63``, at most as ``n``.

*Rule.* With ``n`` tests and ``k`` surprises among them, that a further test were none has
probability :math:`(n - k + 1) / (n + 2)` (rule of succession: Laplace 1774; the mean of the share
of such tests, which is uniform before the first). That is taken for the probability that the
process is adequate where nothing was sampled, and multiplies every bound. It supposes that what
the claims need is as likely to be told by the surrogate as what was tested; samples lie where the
flow is open, so the tests are harder than a random one. This is an argument, not a proof: how often
claims are false is counted by ``benchmarks/reliability.py``.

*Scale.* The well of an attractor is the part of its basin below the lowest pass out of it. One that
is narrower than the gaps between the samples shows nowhere, in no test, however wide the basin. So
a claim about the number of attractors is one about wells wider than :func:`finest_width`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from lightning_morse._typing import Array
from lightning_morse.analysis.leaves import Parts
from lightning_morse.analysis.samples import Samples
from lightning_morse.analysis.surrogates import Model, factor_at, predicted_by
from lightning_morse.analysis.tower import Predicted, Tower
from lightning_morse.facts import Evidence
from lightning_morse.gp.calibration import fit_calibrated
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.cubical import CubicalGrid

# The probability with which samples would have shown a well of the finest width.
_SHOWN = 0.95
# About how many places are tried for a hidden well.
_PLACES = 4096
# Share of n equal cells that n random places meet, for large n.
_MET_AT_RANDOM = 1 - math.exp(-1)
# Keeps the random halves apart from the other streams of a seed.
_HALVES_STREAM = 5


def evidence_for(
    tower: Tower, models: Sequence[Model], bands: Sequence[float], mu_model: float
) -> Evidence:
    """What the samples say of the surrogates of a tower.

    Where no sample was predicted before it was used, as none is where samples are given, each half
    of the samples is predicted from the other one.

    Args:
        tower: The boxes and their samples.
        models: The surrogate of each box.
        bands: How many deviations the band of each box allows for.
        mu_model: The bound given the model, which is kept beside it.
    """
    tests = [box.predicted for box in tower.boxes]
    if not any(tests):
        tests = [_tests_of_halves(tower, models[0]), *tests[1:]]
    tests = [
        [_of_claims(each, model) for each in found]
        for found, model in zip(tests, models, strict=True)
    ]
    errors = [
        np.concatenate(
            [np.empty(0), *(each.errors / factor_at(model, each.points) for each in found)]
        )
        for found, model in zip(tests, models, strict=True)
    ]
    n = sum(map(len, errors))
    places = sum(
        n_places(np.concatenate([each.points for each in found]), box.lower, box.upper)
        for found, box in zip(tests, tower.boxes, strict=True)
        if found
    )
    surprises = sum(int((e > band).sum()) for e, band in zip(errors, bands, strict=True))
    finest = finest_width(tower.settings.grid, tower.everything.points)
    return Evidence(n, places, surprises, mu_model, finest)


def n_places(points: Array, lower: Array, upper: Array) -> int:
    """As how many points at random places of a box some points count, see above.

    Args:
        points: Shape ``(n, d)``.
        lower: Lower corner of the box, shape ``(d,)``.
        upper: Upper corner, same shape.

    Example:
        >>> spread, zero, one = np.linspace(0.05, 0.95, 10)[:, None], np.zeros(1), np.ones(1)
        >>> n_places(spread, zero, one), n_places(0.01 * spread, zero, one)
        (10, 1)
    """
    n, dim = points.shape
    if not n:
        return 0
    per_axis = max(1, round(n ** (1 / dim)))
    share = (points - lower) / (upper - lower)
    cells = np.clip((share * per_axis).astype(np.int64), 0, per_axis - 1)
    n_met = len(np.unique(cells, axis=0))
    return min(len(points), int(n_met / _MET_AT_RANDOM))


def _of_claims(tests: Predicted, model: Model) -> Predicted:
    """The tests where something is claimed: those in parts that are refuted vouch for nothing."""
    if not isinstance(model, Parts):
        return tests
    kept = model.trusted_at(tests.points)
    return Predicted(tests.points[kept], tests.errors[kept])


def _tests_of_halves(tower: Tower, model: Model) -> list[Predicted]:
    """Each random half of the samples predicted from the other one; part by part, if there are."""
    rng = np.random.default_rng([tower.settings.seed, _HALVES_STREAM])
    grid = tower.settings.grid
    if not isinstance(model, Parts):
        return _halves(tower.everything.finite, grid.lower, grid.upper, rng)
    tests = []
    for part in model.parts:
        x = part.leaf.seen.points
        for found in _halves(part.leaf.seen, x.min(axis=0), x.max(axis=0), rng):
            own = model.holds(part, found.points)
            tests.append(Predicted(found.points[own], found.errors[own]))
    return tests


def _halves(seen: Samples, lower: Array, upper: Array, rng: np.random.Generator) -> list[Predicted]:
    """Each random half of some samples in a box, predicted from the other one."""
    order = rng.permutation(len(seen))
    halves = order[: len(seen) // 2], order[len(seen) // 2 :]
    tests = []
    for fitted, other in (halves, halves[::-1]):
        try:
            model = fit_calibrated(seen.points[fitted], seen.losses[fitted], lower, upper)
        except SurrogateError:  # half of them determine none: no test
            continue
        tests.append(predicted_by(model, seen.at(other)))
    return tests


def finest_width(grid: CubicalGrid, points: Array) -> float:
    """Width of the narrowest well that samples would have shown with probability 0.95.

    A well at a random place of the box shows if a sample lies in it. So it is twice the distance
    to the nearest sample that 95 % of all places do not exceed.

    Args:
        grid: The grid of the box.
        points: The samples, shape ``(n, d)``, ``n`` at least 1.

    Returns:
        As a share of the width of the box, distances along each axis in units of its width.

    Example:
        >>> round(finest_width(CubicalGrid([0.0], [2.0], (8,)), np.array([[0.5], [1.5]])), 1)
        0.5
    """
    per_axis = max(2, round(_PLACES ** (1 / grid.dim)))
    places = CubicalGrid(grid.lower, grid.upper, (per_axis,) * grid.dim).cell_centers()
    width = grid.upper - grid.lower
    distance, _ = cKDTree(points / width).query(places / width)
    return min(1.0, 2 * float(np.quantile(distance, _SHOWN)))
