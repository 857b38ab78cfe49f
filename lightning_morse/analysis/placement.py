r"""Where to evaluate the loss: first everywhere, then where it decides something.

The first half of the samples fills the box. Each further batch goes where the picture drawn from
the samples so far is undecided. What makes a cell undecided is a band that is wide beside the
gradient itself, so the loss is evaluated where that most lowers

.. math:: \sum_x \log\bigl(c^2 |s(x)|^2 + |m(x)|^2 + |H(x)|^2\bigr)

with :math:`m, s` the posterior mean and deviation of the gradient, :math:`H` its Jacobian (nowhere
can the gradient be resolved better than it varies from one cell to the next), all in units of
cells, over undecided cells and a few others, a fifth of them in Morse sets that are not resolved:
these keep a count from being exact. A batch is chosen greedily; how a sample changes the deviations
is known before its loss is. This is the variance reduction of Cohn ("Neural network exploration
using optimal experiment design", NIPS 1993) for relative errors; they are relative to what was
known before the batch.

A last few evaluations lie so close to samples of the design that the differences are directional
derivatives; the surrogate is judged by them before they join the other samples.

Choosing samples by what was seen does not invalidate the band: it is a statement about the
posterior, which depends on the samples and not on how they were chosen.
"""

from __future__ import annotations

import math

import numpy as np

from lightning_morse._typing import Array, Cells, Loss, Mask
from lightning_morse.analysis.design import _spread, evaluate, nearest_diverged
from lightning_morse.analysis.phase_portrait import MakeBand, PhasePortrait, phase_portrait
from lightning_morse.gp.calibration import Calibrated, fit_calibrated, refit
from lightning_morse.gp.process import GaussianProcess, SurrogateError
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice
from lightning_morse.result import UNDECIDED
from lightning_morse.stopwatch import Stopwatch, one_thread

# Number of batches that the second half of the samples comes in.
_BATCHES = 8
# Cells on each axis of the grid that the undecided cells are read from.
_COARSE = {1: 256, 2: 64, 3: 16}
_COARSEST = 12
# Points that are to gain from a batch, and points it may be chosen from.
_TARGETS = 600
_CANDIDATES = 1024
# How much rarer a decided cell is among the targets than an undecided one.
_DECIDED = 0.02
# Share of the targets in Morse sets that are not resolved: they keep a count from being exact.
_DOUBTFUL = 0.2
# No more samples where every Morse set is resolved and at most this share is undecided.
_RESOLVED = 0.05


def add_samples(
    loss: Loss,
    samples: Array,
    losses: Array,
    grid: CubicalGrid,
    n_samples: int,
    make_band: MakeBand,
    failure: float,
    seed: int,
    clock: Stopwatch,
) -> tuple[Array, Array]:
    """Evaluate the loss where the picture is undecided, until it is resolved or samples run out.

    Where the samples do not determine a surrogate, the box is filled further instead.

    Args:
        loss: As of :func:`lightning_morse.analyze`.
        samples: The samples so far, shape ``(n, d)``.
        losses: Their losses, shape ``(n,)``; not finite where the loss diverged.
        grid: The grid of the analysis.
        n_samples: How many samples there may be in the end.
        make_band: Makes the band.
        failure: As of :func:`lightning_morse.analysis.phase_portrait.phase_portrait`.
        seed: Of the places to choose from.
        clock: Takes the time of the evaluations ("loss") and of the choices ("sampling").

    Returns:
        All samples and their losses, those given first.
    """
    low, up = grid.lower, grid.upper
    most = _COARSE.get(grid.dim, _COARSEST)
    coarse = Lattice.of(CubicalGrid(low, up, [min(n, most) for n in grid.shape]))
    batch = max(1, math.ceil((n_samples - len(samples)) / _BATCHES))
    calibrated: Calibrated | None = None
    while len(samples) < n_samples:
        rng = np.random.default_rng([seed, 2, len(samples)])
        n_new = min(batch, n_samples - len(samples))
        with clock("sampling"), one_thread():
            places = _spread(low, up, _CANDIDATES, rng)
            finite = np.isfinite(losses)
            diverged = nearest_diverged(coarse.grid, samples, finite)
            try:
                seen = samples[finite], losses[finite], low, up
                calibrated = (
                    fit_calibrated(*seen) if calibrated is None else refit(calibrated, *seen)
                )
                surrogate = calibrated.surrogate
                portrait = phase_portrait(
                    surrogate, coarse, make_band, failure, diverged, Stopwatch()
                )
                if portrait.settled.resolved.all() and _undecided(portrait).mean() <= _RESOLVED:
                    break
                new = _chosen(surrogate, portrait, places, n_new, rng)
            except SurrogateError:
                calibrated, new = None, places[:n_new]
        with clock("loss"):
            losses = np.concatenate([losses, evaluate(loss, new)])
        samples = np.concatenate([samples, new])
    return samples, losses


def _undecided(portrait: PhasePortrait) -> Mask:
    return portrait.labels == UNDECIDED


def _cells_of_unresolved(portrait: PhasePortrait) -> Cells:
    resolved = portrait.settled.resolved
    sets = [cells for i, cells in enumerate(portrait.found.morse_sets) if not resolved[i]]
    return np.concatenate([np.zeros(0, dtype=np.int64), *sets])


def _chosen(
    surrogate: GaussianProcess,
    portrait: PhasePortrait,
    places: Array,
    n_new: int,
    rng: np.random.Generator,
) -> Array:
    """The next batch of samples, out of some places."""
    grid = portrait.lattice.grid
    weight = np.where(_undecided(portrait), 1.0, _DECIDED)
    chance = weight / weight.sum()
    doubtful = _cells_of_unresolved(portrait)
    if doubtful.size:
        chance *= 1 - _DOUBTFUL
        chance[doubtful] += _DOUBTFUL / doubtful.size
    cells = rng.choice(grid.size, min(_TARGETS, grid.size), replace=False, p=chance)
    targets = grid.cell_centers()[cells]
    best = most_informative(surrogate, targets, grid.cell_widths, portrait.band.c, places, n_new)
    return places[best]


def most_informative(
    surrogate: GaussianProcess,
    targets: Array,
    widths: Array,
    c: float,
    places: Array,
    n_new: int,
) -> Cells:
    """Choose, one after the other, the places that tell most about the gradient at some targets.

    Args:
        surrogate: The surrogate so far.
        targets: Where the gradient matters, shape ``(m, d)``.
        widths: The unit of length on each axis, shape ``(d,)``.
        c: Number of deviations in the band.
        places: Where the loss may be evaluated, shape ``(k, d)``.
        n_new: How many places to choose.

    Returns:
        Numbers of the places in the order they were chosen, shape ``(n_new,)``.
    """
    d = targets.shape[1]
    at = surrogate.posterior(targets)
    signal = np.square(at.gradient / widths).sum(axis=1)
    signal += np.square(at.hessian * (widths / widths[:, None])).sum(axis=(1, 2))
    spread = np.square(at.gradient_deviation / widths).sum(axis=1)
    weight = np.sqrt(surrogate.variance / (spread + signal / c**2))

    known = surrogate.reduced(places, (0,) * d)
    slopes = []  # of the targets, their covariance with the places
    for i in range(d):
        order = tuple(int(k == i) for k in range(d))
        prior = surrogate.prior_correlation(targets, places, order)
        left = prior - surrogate.reduced(targets, order).T @ known
        slopes.append(left * (weight / widths[i])[:, None])
    across = np.concatenate(slopes)
    explained = np.square(across).sum(axis=0)
    own = np.maximum(1.0 - np.square(known).sum(axis=0), 0.0) + surrogate.noise
    chosen: list[int] = []
    # What a chosen place adds to the samples: how it moves with the targets, and with the places.
    columns, rows = np.empty((len(across), n_new)), np.empty((n_new, len(places)))
    for n in range(n_new):
        score = explained / own
        score[chosen] = -1.0
        best = int(np.argmax(score))
        chosen.append(best)
        column = across[:, best] - columns[:, :n] @ rows[:n, best]
        prior = surrogate.prior_correlation(places[best : best + 1], places, (0,) * d)[0]
        moved = prior - known[:, best] @ known - rows[:n, best] @ rows[:n]
        rows[n] = moved / math.sqrt(own[best])
        columns[:, n] = column / math.sqrt(own[best])
        along = columns[:, n] @ across - (columns[:, n] @ columns[:, :n]) @ rows[:n]
        explained += rows[n] * (rows[n] * np.square(columns[:, n]).sum() - 2 * along)
        own = np.maximum(own - np.square(rows[n]), surrogate.noise)
    return np.array(chosen)
