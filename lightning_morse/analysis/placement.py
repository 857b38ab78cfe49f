r"""Where to evaluate the loss next: where the picture is undecided.

A cell is undecided when the band is wide compared with the gradient itself, so the loss is
evaluated where that most lowers

.. math:: \sum_x \log\bigl(c^2 |s(x)|^2 + |m(x)|^2 + |H(x)|^2\bigr)

with :math:`m, s` the posterior mean and deviation of the gradient and :math:`H` its Jacobian (a
gradient cannot be resolved better than it varies from one cell to the next), all in units of cells.
The sum runs over undecided cells and a few others; three tenths of them lie in unresolved Morse
sets, because these keep a count from being exact. A batch is chosen greedily: how a sample changes
the deviations is known before its loss is. This is the variance reduction of Cohn ("Neural network
exploration using optimal experiment design", NIPS 1993) for relative errors, relative to what was
known before the batch.

Choosing samples in view of earlier ones does not invalidate the band: it is a statement about the
posterior, which depends on the samples and not on how they were chosen. So none of the numbers
below bears on soundness; they decide how far a budget of evaluations goes.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import binary_erosion

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.analysis.design import spread
from lightning_morse.analysis.patchwork import AnyChart
from lightning_morse.analysis.phase_portrait import PhasePortrait
from lightning_morse.conley.reach import UNDECIDED
from lightning_morse.gp.process import GaussianProcess, derivative_order
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.shares import share_of_box

# Most cells per axis of the grid that undecided cells are read from, by dimension: some 4,000 cells
# show where to look next, and a portrait on them costs little beside a fit.
_COARSE = {1: 256, 2: 64, 3: 16}
_COARSE_IN_HIGHER_DIMENSION = 12
# On three axes so few cells decide nothing however many samples there are: beyond this many it is
# twice as many per axis. It made a count of five minima exact at 1,000 samples (docs/decisions.md).
_MANY_SAMPLES = 256
# Cells that are to gain from a batch, and places it is chosen from: the choice takes time in
# proportion to both.
_TARGETS = 600
_CANDIDATES = 1024
# Weight of a decided cell among the targets; that of an undecided one is 1.
_WEIGHT_OF_DECIDED = 0.02
# Share of the targets that lie in unresolved Morse sets.
_SHARE_IN_UNRESOLVED = 0.3
# No larger share than this is undecided where a picture is resolved, cells within so many of a
# decided one not counted: between basins some stay undecided on any grid.
_UNDECIDED_IS_FINE, _NEAR_DECIDED = 0.05, 2


def coarse_grid(grid: CubicalGrid, n_samples: int = 0) -> CubicalGrid:
    """Grid on the same box, coarse enough to be analysed once per batch.

    Args:
        grid: The grid.
        n_samples: How many samples there are; on three axes the grid is finer where they are many.
    """
    most = _COARSE.get(grid.dim, _COARSE_IN_HIGHER_DIMENSION)
    if grid.dim == 3 and n_samples > _MANY_SAMPLES:
        most *= 2
    return CubicalGrid(grid.lower, grid.upper, [min(n, most) for n in grid.shape])


def candidate_places(lower: Array, upper: Array, rng: np.random.Generator) -> Array:
    """Points of a box that a batch is chosen from, shape ``(n, d)``."""
    return spread(lower, upper, _CANDIDATES, rng)


def is_resolved(portrait: PhasePortrait) -> bool:
    """Whether every Morse set is resolved, and few cells undecided but for those at borders."""
    if not portrait.is_exact:
        return False
    nested, open_ = portrait.nested, portrait.labels == UNDECIDED
    far_from_borders = []
    for k, grid in enumerate(nested.grids):
        # Cells that a smaller box covers are judged there.
        on_grid = np.ones(grid.size, dtype=bool)
        on_grid[nested.uncovered[k]] = open_[nested.part(k)]
        structure = np.ones((2 * _NEAR_DECIDED + 1,) * grid.dim)
        inner = binary_erosion(on_grid.reshape(grid.shape), structure, border_value=1).ravel()
        far_from_borders.append(inner)
    share = share_of_box(nested.gathered(far_from_borders), nested.volumes)
    return share <= _UNDECIDED_IS_FINE


def is_decided(portrait: PhasePortrait) -> bool:
    """Whether few cells are undecided, those at borders included."""
    undecided = share_of_box(portrait.labels == UNDECIDED, portrait.nested.volumes)
    return undecided <= _UNDECIDED_IS_FINE


def choose_batch(
    portrait: PhasePortrait,
    k: int,
    places: Array,
    n_new: int,
    rng: np.random.Generator,
    wanted: Mask | None = None,
) -> Array:
    """Choose the next points to evaluate the loss at, in one of the boxes.

    Args:
        portrait: The picture so far.
        k: Number of the box.
        places: Points to choose from, shape ``(m, d)``.
        n_new: Number of points to choose.
        rng: Of the cells that are to gain.
        wanted: Which cells are to gain, shape ``(nested.size,)``; those that are undecided if left
            out.

    Returns:
        Shape ``(n_new, d)``, in the order they were chosen.
    """
    nested, chart = portrait.nested, portrait.charts[k]
    grid, part = nested.grids[k], nested.part(k)
    gains = (portrait.labels == UNDECIDED) if wanted is None else wanted
    weight = np.where(gains[part], 1.0, _WEIGHT_OF_DECIDED)
    chance = weight / weight.sum()
    unresolved = _cells_of_unresolved(portrait)
    unresolved = unresolved[(unresolved >= part.start) & (unresolved < part.stop)] - part.start
    if wanted is not None:
        unresolved = unresolved[wanted[part][unresolved]]
    if unresolved.size:
        chance *= 1 - _SHARE_IN_UNRESOLVED
        chance[unresolved] += _SHARE_IN_UNRESOLVED / unresolved.size
    cells = rng.choice(weight.size, min(_TARGETS, weight.size), replace=False, p=chance)
    targets = grid.cell_centers()[nested.uncovered[k][cells]]
    return _among_parts(chart, targets, gains[part][cells], places, n_new)


def _among_parts(chart: AnyChart, targets: Array, open_: Mask, places: Array, n_new: int) -> Array:
    """Choose among places for targets; in each part of the grid by how many of these are open."""
    if len(chart.patches) == 1:
        (only,) = (patch.chart for patch in chart.patches)
        about = only.surrogate, targets, chart.grid.cell_widths, only.band.c
        return places[most_informative(*about, places, n_new)]
    chosen = []
    of_target, of_place = (chart.part_of(points) for points in (targets, places))
    n_parts = len(chart.patches)
    room = np.bincount(of_place, minlength=n_parts)
    wanted = np.bincount(of_target[open_], minlength=n_parts)
    numbers = _allotted(wanted, room, n_new)
    for i, patch in enumerate(chart.patches):
        if numbers[i]:
            one, mine = patch.chart, places[of_place == i]
            about = one.surrogate, targets[of_target == i], chart.grid.cell_widths, one.band.c
            chosen.append(mine[most_informative(*about, mine, int(numbers[i]))])
    return np.concatenate(chosen)


def _allotted(wanted: Cells, room: Cells, n: int) -> Cells:
    """Divide ``n`` in proportion to what is wanted, nowhere more than there is room for."""
    given = np.zeros(len(wanted), dtype=np.int64)
    for _ in range(min(n, int(room.sum()))):
        # By the method of Jefferson; what is wanted nowhere goes wherever there is room.
        given[np.where(given < room, (wanted + 1e-9) / (given + 1), -1.0).argmax()] += 1
    return given


def _cells_of_unresolved(portrait: PhasePortrait) -> Cells:
    resolved = portrait.settled.resolved
    sets = [cells for i, cells in enumerate(portrait.found.morse_sets) if not resolved[i]]
    return np.concatenate([np.zeros(0, dtype=np.int64), *sets])


def most_informative(
    surrogate: GaussianProcess,
    targets: Array,
    widths: Array,
    c: float,
    places: Array,
    n_new: int,
) -> Cells:
    """Choose, one after the other, the places that say most about the gradient at some targets.

    Args:
        surrogate: The surrogate so far.
        targets: Where the gradient matters, shape ``(m, d)``.
        widths: Unit of length along each axis, shape ``(d,)``.
        c: Number of deviations in the band.
        places: Where the loss may be evaluated, shape ``(k, d)``.
        n_new: Number of places to choose.

    Returns:
        Numbers of the places in the order they were chosen, shape ``(n_new,)``.
    """
    d = targets.shape[1]
    at = surrogate.posterior(targets)
    signal = np.square(at.gradient / widths).sum(axis=1)
    signal += np.square(at.hessian * (widths / widths[:, None])).sum(axis=(1, 2))
    spread = np.square(at.gradient_deviation / widths).sum(axis=1)
    weight = np.sqrt(surrogate.variance / (spread + signal / c**2))

    known = surrogate.reduced(places, derivative_order(d))
    # Posterior covariance of the targets' gradients with the losses at the places.
    slopes = np.empty((d, len(targets), len(places)))
    orders = [derivative_order(d, i) for i in range(d)]
    priors = surrogate.prior_correlations(targets, places, orders)
    for slope, order, prior, width in zip(slopes, orders, priors, widths, strict=True):
        np.matmul(surrogate.reduced(targets, order).T, known, out=slope)
        np.subtract(prior, slope, out=slope)
        slope *= (weight / width)[:, None]
    across = slopes.reshape(-1, len(places))
    explained = np.einsum("ij,ij->j", across, across)
    own = np.maximum(1.0 - np.square(known).sum(axis=0), 0.0) + surrogate.noise
    chosen: list[int] = []
    # Covariance of each chosen place, given those before it, with the targets and with the places.
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
    return np.array(chosen, dtype=np.int64)
