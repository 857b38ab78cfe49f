"""The stages in order: from a loss on a box to its Morse graph, basins and mu."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import SupportsIndex

import networkx as nx
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from scipy.stats import qmc
from threadpoolctl import threadpool_limits

from lightning_morse.basins import certain_labels, exit_volumes
from lightning_morse.calibration import Calibrated, fit_calibrated
from lightning_morse.combinatorial_map import outer_approximation
from lightning_morse.confidence import gradient_band, simulated_band
from lightning_morse.description import describe
from lightning_morse.gradient_flow import FlowEnclosure, critical_cells
from lightning_morse.grid import CubicalGrid, check_box
from lightning_morse.ladder import FOR_CURVATURE, climb, unclimbed
from lightning_morse.lattice import Lattice
from lightning_morse.morse_sets import morse_graph
from lightning_morse.record import MorseAnalysis
from lightning_morse.surrogate import SurrogateError

Array = NDArray[np.float64]
Loss = Callable[[torch.Tensor], torch.Tensor]

_FEWEST_SAMPLES = 16
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

    The loss is evaluated at the centre of the box and a scrambled Sobol design, a Gaussian process
    is fitted, and the flow of every gradient field inside its simultaneous band is enclosed on a
    cubical grid. Given that the (warped) loss is a sample path of the fitted process, all of the
    following holds at once with probability at least ``confidence``: each attractor reported holds
    an attractor of the gradient flow, every critical point in the box lies in a Morse set (or in a
    cell from which the exterior can be reached without one), every certain basin label and every
    escape is right. The number of attractors holds with probability at least
    ``result.mu >= confidence``, each single one with ``result.morse_sets[i].mu``. See
    :mod:`lightning_morse.confidence` for what is proved and what is not,
    :mod:`lightning_morse.gradient_flow` for the enclosure, :mod:`lightning_morse.ladder` for
    ``mu``.

    Args:
        loss: Callable on ``(n, d)`` float64 tensors that returns ``(n,)``; it need not be
            differentiable by autograd. NaN or infinity marks a point where it diverged: the cells
            nearest to such points count as exterior.
        lower: Lower corner of the box, shape ``(d,)``.
        upper: Upper corner, same shape.
        n_samples: Number of loss evaluations, the centre included; at least 16. Powers of two
            fill the box best.
        resolution: Cells on each axis: one number, or one an axis; at least 4.
        confidence: The level at which everything has to hold, in (0, 1).
        seed: Of the Sobol scrambling and the simulation. Nothing reads or moves a global generator.
        band: ``"proved"``, or ``"simulated"`` for one that is some 10 % narrower and rests on
            simulated sample paths (see :mod:`lightning_morse.confidence`).

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
    clock = _Clock()

    with clock("loss"):
        samples = design(low, up, n_samples, seed)
        losses = _evaluate(loss, samples)
    return analyze_samples(samples, losses, low, up, shape, confidence, seed, band, clock)


def analyze_samples(
    samples: ArrayLike,
    losses: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    resolution: int | Sequence[int] = 128,
    confidence: float = 0.95,
    seed: int = 0,
    band: str = "proved",
    clock: _Clock | None = None,
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
    x = np.asarray(samples, dtype=np.float64)
    values = np.asarray(losses, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != len(low) or values.shape != x.shape[:1]:
        raise ValueError(
            f"samples must have shape (n, {len(low)}) and losses (n,), got {x.shape} and "
            f"{values.shape}"
        )
    shape = _check_arguments(len(low), len(x), resolution, confidence, band)
    # Threads only get in each other's way in matrices as small as these: on two busy cores a fit
    # of 0.5 s took 10 s.
    with threadpool_limits(limits=1, user_api="blas"):
        grid = CubicalGrid(low, up, shape)
        return _analyze(x, values, grid, confidence, seed, band, clock or _Clock())


def _analyze(
    x: Array,
    values: Array,
    grid: CubicalGrid,
    confidence: float,
    seed: int,
    band_kind: str,
    clock: _Clock,
) -> MorseAnalysis:
    """All stages after the evaluations, on checked arguments."""
    finite = np.isfinite(values)

    with clock("fit"):
        if not finite.any():
            raise SurrogateError(
                f"the loss is not finite at any of the {len(x)} samples: the box has to be "
                "smaller, or the loss is broken"
            )
        calibrated = fit_calibrated(x[finite], values[finite], grid.lower, grid.upper)
        surrogate = calibrated.surrogate
    with clock("posterior"):
        lattice = Lattice.of(grid)
        posterior = surrogate.lattice_posterior(lattice.axes)
    with clock("band"):
        # What the band on the Hessian needs is set aside beforehand.
        on_curvature = FOR_CURVATURE * (1 - confidence)
        for_gradient = confidence + on_curvature
        if band_kind == "simulated":
            rng = np.random.default_rng([seed, 1])  # not the stream of the design
            band = simulated_band(surrogate, lattice, posterior, for_gradient, rng)
        else:
            band = gradient_band(surrogate, lattice, posterior, for_gradient)
    with clock("enclosure"):
        enclosure = FlowEnclosure.of(lattice, posterior)
        images = enclosure.images(band)
    with clock("map"):
        diverged = _nearest_diverged(grid, x, finite)
        image = outer_approximation(
            images.lower,
            images.upper,
            grid,
            exits=images.exits.any(axis=(1, 2)),
            exterior_cells=diverged,
        )
    with clock("graph"):
        candidates = critical_cells(lattice, posterior, band)
        critical = lattice.any_in_grid_cell(candidates)
        found = morse_graph(image, critical=critical & ~diverged)
    with clock("basins"):
        labels = certain_labels(found)
        exits = exit_volumes(found, labels, images.exits & ~diverged[:, None, None])
    with clock("record"):
        sets = describe(found, lattice, surrogate, posterior, candidates, on_curvature)
        # Attractors first, then by loss: the numbers a person reads.
        order = sorted(range(len(sets)), key=lambda i: (not sets[i].is_attractor, sets[i].loss))
        number = {old: new for new, old in enumerate(order)}
        renumber = np.array([number[i] for i in range(len(sets))] + [-2, -1], dtype=np.int32)
        graph = nx.DiGraph()
        graph.add_nodes_from(range(len(sets)))
        graph.add_edges_from((number[q], number[p]) for q, p in found.graph.edges)
        sets = [sets[i] for i in order]
    with clock("ladder"):
        attractors = [m.cells for m in sets if m.is_attractor]
        mu = max(confidence, band.level - on_curvature)
        if calibrated.trusted:
            up = climb(
                surrogate,
                posterior,
                enclosure,
                attractors,
                confidence,
                lowest=None if band_kind == "simulated" else band,
                outside=diverged,
                counted=all(m.resolved for m in sets),
            )
            each = np.maximum(up.each, mu)
            mu = max(mu, up.exact if all(m.resolved for m in sets) else up.together)
        else:
            # A bound that rests on a model which the samples refute is worth nothing.
            up, each, mu = unclimbed(attractors, confidence), np.zeros(len(attractors)), 0.0
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
        mean_loss=surrogate.warp.inverse(lattice.grid_corners(posterior.mean)),
        samples=x,
        sample_losses=values,
        calibration=calibrated.factor,
        surrogate=_facts(calibrated, band.c),
        seconds=dict(clock.seconds),
        ladder=up.ladder,
    )


def design(lower: ArrayLike, upper: ArrayLike, n_samples: int, seed: int) -> Array:
    """Centre of a box, then a scrambled Sobol sequence in it, drawn towards the boundary.

    A gradient is known worst at the boundary, where samples lie on one side only, and a flow that
    cannot be told from leaving the box makes its whole basin undecided. Each coordinate is
    therefore spread by the mean of the uniform and the arcsine law (that of Chebyshev nodes).

    The first points of a longer design are those of a shorter one with the same seed.

    Args:
        lower: Lower corner, shape ``(d,)``.
        upper: Upper corner, same shape.
        n_samples: Number of points, the centre included.
        seed: Of the scrambling.

    Returns:
        Shape ``(n_samples, d)``.
    """
    low, up = check_box(lower, upper)
    sobol = qmc.Sobol(len(low), scramble=True, rng=np.random.default_rng(seed))
    # Drawn in powers of two, which keeps the sequence balanced and the sampler from warning.
    uniform = sobol.random_base2(math.ceil(math.log2(n_samples)))[: n_samples - 1]
    unit = 0.5 * uniform + 0.25 * (1 - np.cos(np.pi * uniform))
    return np.concatenate([0.5 * (low + up)[None], low + unit * (up - low)])


def _check_arguments(
    dim: int, n_samples: int, resolution: int | Sequence[int], confidence: float, band: str
) -> tuple[int, ...]:
    """Check the numbers that do not depend on the loss; return the cells on each axis."""
    if not isinstance(n_samples, SupportsIndex) or n_samples < _FEWEST_SAMPLES:
        raise ValueError(
            f"n_samples must be an integer of at least {_FEWEST_SAMPLES}, got {n_samples!r}"
        )
    shape = tuple(resolution) if isinstance(resolution, Sequence) else (resolution,) * dim
    if len(shape) != dim or not all(
        isinstance(n, SupportsIndex) and n >= _FEWEST_CELLS for n in shape
    ):
        raise ValueError(
            f"resolution must be an integer of at least {_FEWEST_CELLS}, or {dim} of them for the "
            f"{dim} axes of the box, got {resolution!r}"
        )
    if not (isinstance(confidence, (int, float)) and 0 < confidence < 1):
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence!r}")
    if band not in ("proved", "simulated"):
        raise ValueError(f"band must be 'proved' or 'simulated', got {band!r}")
    return tuple(int(n) for n in shape)


def _evaluate(loss: Loss, samples: Array) -> Array:
    """Losses at the samples, whatever dtype and device they come in."""
    n = len(samples)
    values = loss(torch.from_numpy(samples.copy()))
    if not isinstance(values, torch.Tensor):
        raise ValueError(
            f"loss must return a tensor of shape ({n},) for {n} points, got {type(values).__name__}"
        )
    if values.shape != (n,):
        raise ValueError(
            f"loss must return one number for each of the {n} points, shape ({n},), got "
            f"{tuple(values.shape)}; reduce over all axes but the first"
        )
    return values.detach().to("cpu", torch.float64).numpy()


def _nearest_diverged(grid: CubicalGrid, x: Array, finite: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells whose nearest sample, in widths of the box, has a loss that is not finite."""
    if finite.all():
        return np.zeros(grid.size, dtype=bool)
    width = grid.upper - grid.lower
    _, nearest = cKDTree(x / width).query(grid.cell_centers() / width)
    return ~finite[nearest]


def _facts(calibrated: Calibrated, c: float) -> dict[str, float | int | str | list[float] | None]:
    surrogate = calibrated.surrogate
    floor = surrogate.warp.floor
    return {
        "kernel": surrogate.kernel.name,
        "n": len(surrogate.y),
        "lengthscales": surrogate.lengthscales.tolist(),
        "deviation": math.sqrt(surrogate.variance),
        "noise_deviation": math.sqrt(surrogate.variance * surrogate.noise),
        "loss_floor": floor if math.isfinite(floor) else None,
        "log_evidence": surrogate.log_evidence,
        "largest_residual": calibrated.largest_residual,
        "band_deviations": c,
    }


class _Clock:
    """Wall time of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = time.perf_counter() - start
