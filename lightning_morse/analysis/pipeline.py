"""The stages in order: from a loss on a box to its Morse graph, basins and mu."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import SupportsIndex

import networkx as nx
import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array, Cells
from lightning_morse.analysis.description import describe
from lightning_morse.analysis.design import (
    FEWEST_SAMPLES,
    beside_samples,
    design,
    evaluate,
    first_samples,
    n_held_back,
    nearest_diverged,
)
from lightning_morse.analysis.ladder import BESIDE_BAND, climb, unclimbed
from lightning_morse.analysis.phase_portrait import MakeBand, phase_portrait
from lightning_morse.analysis.placement import Loss, add_samples
from lightning_morse.arguments import integer_of_at_least, level_of_confidence
from lightning_morse.bands.gradient import GradientBand, gradient_band, simulated_band
from lightning_morse.conley.basins import exit_volumes, reach_of_cells
from lightning_morse.gp.calibration import Calibrated, check, fit_calibrated, inflate, refit
from lightning_morse.gp.process import GaussianProcess, Posterior, SurrogateError
from lightning_morse.grids.cubical import CubicalGrid, check_box
from lightning_morse.grids.lattice import Lattice
from lightning_morse.result import MorseAnalysis
from lightning_morse.stopwatch import Stopwatch, one_thread

_FEWEST_CELLS = 4


def analyze(
    loss: Loss,
    lower: ArrayLike,
    upper: ArrayLike,
    n_samples: int = 128,
    resolution: int | Sequence[int] = 128,
    confidence: float = 0.95,
    seed: int = 0,
    band: str = "proved",
) -> MorseAnalysis:
    r"""Find the attractors of the gradient flow of a loss on a box, their basins, and how sure.

    The loss is evaluated at the centre of the box and a scrambled Sobol design, then where the
    picture is undecided (:mod:`lightning_morse.analysis.placement`). A Gaussian process is fitted,
    and the flow of every gradient field inside its simultaneous band is enclosed on a cubical grid.
    Given that the (warped) loss is a sample path of the fitted process, all of the following holds
    at once with probability at least ``confidence``: each attractor reported holds an attractor of
    the gradient flow, every critical point in the box lies in a Morse set (or in a cell from which
    the exterior can be reached without one), every Morse index, every certain basin label and every
    escape is right. The number of attractors holds with probability at least ``result.mu >=
    confidence``, each single one with ``result.morse_sets[i].mu``. See
    :mod:`lightning_morse.bands.gradient` for what is proved and what is not,
    :mod:`lightning_morse.enclosure.flow_map` for the enclosure, :mod:`lightning_morse.gp.kac_rice`
    for the indices, :mod:`lightning_morse.analysis.ladder` for ``mu``.

    Args:
        loss: Callable on ``(n, d)`` float64 tensors that returns ``(n,)``; it need not be
            differentiable by autograd. NaN or infinity marks a point where it diverged: the cells
            nearest to such points count as exterior.
        lower: Lower corner of the box, shape ``(d,)``.
        upper: Upper corner, same shape.
        n_samples: Number of loss evaluations there may be, the centre included; at least 16.
            Fewer are made where the picture is resolved before.
        resolution: Cells on each axis: one number, or one an axis; at least 4.
        confidence: The level at which everything has to hold, in (0, 1).
        seed: Of the design, the places to sample and the simulation. Nothing reads or moves a
            global generator.
        band: ``"proved"``, or ``"simulated"`` for one that is some 10 % narrower and rests on
            simulated sample paths (see :mod:`lightning_morse.bands.gradient`).

    Returns:
        The analysis.

    Raises:
        ValueError: If an argument is out of range, or the loss returns the wrong shape.
        SurrogateError: (a ``ValueError``) If the loss diverged at all samples or too many of them,
            is constant, or no surrogate can be trusted.

    Example:
        >>> result = analyze(lambda x: (x**2 - 1).square().sum(1), [-2.0], [2.0], n_samples=32)
        >>> result.n_attractors, [abs(round(float(m.center[0]), 2)) for m in result.morse_sets]
        (2, [1.0, 1.0, 0.0])
    """
    low, up = check_box(lower, upper)
    shape = _check_arguments(len(low), n_samples, resolution, confidence, band)
    clock = Stopwatch()
    with clock("loss"):
        samples = design(low, up, first_samples(n_samples), seed)
        losses = evaluate(loss, samples)
    return analyze_further(
        loss, samples, losses, low, up, n_samples, shape, confidence, seed, band, clock
    )


def analyze_further(
    loss: Loss,
    samples: Array,
    losses: Array,
    lower: ArrayLike,
    upper: ArrayLike,
    n_samples: int,
    resolution: int | Sequence[int] = 128,
    confidence: float = 0.95,
    seed: int = 0,
    band: str = "proved",
    clock: Stopwatch | None = None,
) -> MorseAnalysis:
    """Analyse a loss that has been evaluated at some points, adding further samples.

    Args:
        loss: As in :func:`analyze`.
        samples: Where the loss was evaluated, shape ``(n, d)``; row 0 the centre of the box.
        losses: The losses, shape ``(n,)``; not finite where it diverged.
        lower: Lower corner of the box, shape ``(d,)``.
        upper: Upper corner, same shape.
        n_samples: Number of loss evaluations there may be, those given included.
        resolution: As in :func:`analyze`.
        confidence: As in :func:`analyze`.
        seed: As in :func:`analyze`.
        band: As in :func:`analyze`.
        clock: Wall times so far; the stages add theirs.

    Returns:
        The analysis.

    Raises:
        ValueError: As :func:`analyze` does.
    """
    low, up = check_box(lower, upper)
    x, values = _checked_samples(samples, losses, len(low))
    shape = _check_arguments(len(low), max(len(x), n_samples), resolution, confidence, band)
    clock = clock or Stopwatch()
    grid = CubicalGrid(low, up, shape)
    first = len(x)
    n_checks = min(n_held_back(n_samples), max(0, n_samples - first))
    x, values = add_samples(
        loss,
        x,
        values,
        grid,
        n_samples - n_checks,
        # Where to look next is an estimate: it need not be simulated.
        _band_maker("proved", confidence, seed),
        BESIDE_BAND * (1 - confidence),
        seed,
        clock,
    )
    partners, points = beside_samples(grid, x[:first], values[:first], n_checks, seed)
    if len(partners):
        with clock("loss"):
            held_back = evaluate(loss, points)
        x, values = np.concatenate([x, points]), np.concatenate([values, held_back])
    with one_thread():
        return _analyze(x, values, partners, grid, confidence, seed, band, clock)


def analyze_samples(
    samples: ArrayLike,
    losses: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    resolution: int | Sequence[int] = 128,
    confidence: float = 0.95,
    seed: int = 0,
    band: str = "proved",
    clock: Stopwatch | None = None,
) -> MorseAnalysis:
    """Analyse a loss of which only samples are at hand; :func:`analyze` without the evaluations.

    Args:
        samples: Where the loss was evaluated, shape ``(n, d)``.
        losses: The losses, shape ``(n,)``; not finite where it diverged.
        lower: Lower corner of the box, shape ``(d,)``.
        upper: Upper corner, same shape.
        resolution: As in :func:`analyze`.
        confidence: As in :func:`analyze`.
        seed: Of the simulation.
        band: As in :func:`analyze`.
        clock: Wall times so far; the stages add theirs.

    Returns:
        The analysis.

    Raises:
        ValueError: As :func:`analyze` does.
    """
    low, up = check_box(lower, upper)
    x, values = _checked_samples(samples, losses, len(low))
    shape = _check_arguments(len(low), len(x), resolution, confidence, band)
    with one_thread():
        grid = CubicalGrid(low, up, shape)
        nothing = np.zeros(0, dtype=np.int64)
        return _analyze(x, values, nothing, grid, confidence, seed, band, clock or Stopwatch())


def _analyze(
    x: Array,
    values: Array,
    partners: Cells,
    grid: CubicalGrid,
    confidence: float,
    seed: int,
    band: str,
    clock: Stopwatch,
) -> MorseAnalysis:
    """All stages after the evaluations; the last samples lie beside their partners."""
    finite = np.isfinite(values)
    with clock("fit"):
        if not finite.any():
            raise SurrogateError(
                f"the loss is not finite at any of the {len(x)} samples: the box has to be "
                "smaller, or the loss is broken"
            )
        calibrated = _fitted(x, values, partners, grid)
        surrogate = calibrated.surrogate
    lattice = Lattice.of(grid)
    diverged = nearest_diverged(grid, x, finite)
    beside = BESIDE_BAND * (1 - confidence)
    make_band = _band_maker(band, confidence, seed)
    portrait = phase_portrait(surrogate, lattice, make_band, beside, diverged, clock)
    found, labels = portrait.found, portrait.labels
    with clock("record"):
        exits = exit_volumes(found, labels, portrait.images.exits & ~diverged[:, None, None])
        sets = describe(portrait, surrogate)
        # Attractors first, then by loss: the numbers a person reads.
        order = sorted(range(len(sets)), key=lambda i: (not sets[i].is_attractor, sets[i].loss))
        number = {old: new for new, old in enumerate(order)}
        renumber = np.array([number[i] for i in range(len(sets))] + [-2, -1], dtype=np.int32)
        reach = reach_of_cells(found, number)
        posterior, warp = portrait.posterior, surrogate.warp
        deviation = posterior.deviation * warp.inverse_slope(posterior.mean)
        graph = nx.DiGraph()
        graph.add_nodes_from(range(len(sets)))
        graph.add_edges_from((number[q], number[p]) for q, p in found.graph.edges)
        sets = [sets[i] for i in order]
    with clock("ladder"):
        exact = all(m.resolved for m in sets)
        # With the cells around it that may hold a critical point and lead there: those that a
        # wider band leaves room for a minimum in are among them.
        possible = portrait.critical
        attractors = [
            np.union1d(m.cells, np.flatnonzero(possible & (renumber[labels] == i)))
            for i, m in enumerate(sets)
            if m.is_attractor
        ]
        mu = max(confidence, portrait.level)
        if calibrated.trusted:
            climbed = climb(
                surrogate,
                posterior,
                portrait.enclosure,
                attractors,
                confidence,
                lowest=None if band == "simulated" else portrait.band,
                outside=diverged,
                counted=exact,
            )
            each = np.maximum(climbed.each, mu)
            mu = max(mu, climbed.exact if exact else climbed.together)
        else:
            # A bound that rests on a model which the samples refute is worth nothing.
            climbed, each, mu = unclimbed(attractors, confidence), np.zeros(len(attractors)), 0.0
        for i in range(len(attractors)):
            sets[i] = dataclasses.replace(sets[i], mu=float(each[i]))
    return MorseAnalysis(
        grid=grid,
        morse_sets=tuple(sets),
        graph=graph,
        labels=renumber[labels],
        diverged=diverged,
        exit_volumes=exits,
        mu=mu,
        confidence=float(confidence),
        mean_loss=warp.inverse(lattice.grid_corners(posterior.mean)),
        samples=x,
        sample_losses=values,
        calibration=calibrated.factor,
        surrogate=_facts(calibrated, portrait.band.c),
        seconds=dict(clock.seconds),
        ladder=climbed.ladder,
        loss_deviation=lattice.grid_corners(deviation),
        reach=reach,
    )


def _fitted(x: Array, values: Array, partners: Cells, grid: CubicalGrid) -> Calibrated:
    """A surrogate of all samples, judged by the last ones before it has seen these."""
    n = len(x) - len(partners)
    finite = np.isfinite(values)
    seen = finite[:n]
    calibrated = fit_calibrated(x[:n][seen], values[:n][seen], grid.lower, grid.upper)
    usable = np.flatnonzero(finite[n:])
    if not usable.size:
        return calibrated
    start, end = partners[usable], n + usable
    largest = check(calibrated, x[start], x[end], values[start], values[end])
    whole = refit(calibrated, x[finite], values[finite], grid.lower, grid.upper)
    return inflate(whole, largest, len(usable))


def _band_maker(kind: str, confidence: float, seed: int) -> MakeBand:
    """Makes the band on the gradient, which leaves something for all that is claimed beside it."""
    level = confidence + BESIDE_BAND * (1 - confidence)

    def make(surrogate: GaussianProcess, lattice: Lattice, posterior: Posterior) -> GradientBand:
        if kind == "proved":
            return gradient_band(surrogate, lattice, posterior, level)
        rng = np.random.default_rng([seed, 1])  # not the stream of the design
        return simulated_band(surrogate, lattice, posterior, level, rng)

    return make


def _checked_samples(samples: ArrayLike, losses: ArrayLike, dim: int) -> tuple[Array, Array]:
    x = np.asarray(samples, dtype=np.float64)
    values = np.asarray(losses, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != dim or values.shape != x.shape[:1]:
        raise ValueError(
            f"samples must have shape (n, {dim}) and losses (n,), got {x.shape} and {values.shape}"
        )
    return x, values


def _check_arguments(
    dim: int, n_samples: int, resolution: int | Sequence[int], confidence: float, band: str
) -> tuple[int, ...]:
    """Check the numbers that do not depend on the loss; return the cells on each axis."""
    integer_of_at_least("n_samples", n_samples, FEWEST_SAMPLES)
    shape = tuple(resolution) if isinstance(resolution, Sequence) else (resolution,) * dim
    if len(shape) != dim or not all(
        isinstance(n, SupportsIndex) and n >= _FEWEST_CELLS for n in shape
    ):
        raise ValueError(
            f"resolution must be an integer of at least {_FEWEST_CELLS}, or {dim} of them for the "
            f"{dim} axes of the box, got {resolution!r}"
        )
    level_of_confidence(confidence)
    if band not in ("proved", "simulated"):
        raise ValueError(f"band must be 'proved' or 'simulated', got {band!r}")
    return tuple(int(n) for n in shape)


def _facts(calibrated: Calibrated, c: float) -> dict[str, float | int | str | list[float] | None]:
    surrogate = calibrated.surrogate
    floor = surrogate.warp.floor
    return {
        "kernel": surrogate.kernel.name,
        "n": len(surrogate.y),
        "lengthscales": surrogate.lengthscales.tolist(),
        "mean": surrogate.mean,
        "deviation": math.sqrt(surrogate.variance),
        "noise_deviation": math.sqrt(surrogate.variance * surrogate.noise),
        "loss_origin": surrogate.warp.origin,
        "loss_floor": floor if math.isfinite(floor) else None,
        "log_evidence": surrogate.log_evidence,
        "largest_residual": calibrated.largest_residual,
        "largest_held_back": calibrated.largest_held_back,
        "band_deviations": c,
    }
