"""An analysis from beginning to end: from a loss on a box to its Morse graph, basins and mu.

1. A design fills the box, and the loss is evaluated there (:func:`analyze`).
2. A surrogate is fitted and a coarse phase portrait drawn; unless that is resolved, the loss is
   evaluated where the portrait is undecided, and so on (:func:`sample_where_undecided`).
3. A few evaluations beside the design are held out as directional derivatives.
4. The final surrogate is fitted, judged by the held-out derivatives, and drawn on the full grid;
   its attractors are followed to wider bands (:func:`conclude`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array, Loss
from lightning_morse.analysis.description import critical_points, describe, reading_order
from lightning_morse.analysis.design import FEWEST_SAMPLES, design, first_samples
from lightning_morse.analysis.ladder import BESIDE_BAND, climb, unclimbed
from lightning_morse.analysis.phase_portrait import PhasePortrait, phase_portrait
from lightning_morse.analysis.placement import (
    batch_size,
    candidate_places,
    choose_batch,
    coarse_lattice,
    is_resolved,
)
from lightning_morse.analysis.samples import (
    HeldOut,
    Samples,
    evaluate,
    hold_out,
    n_held_out,
    nearest_diverged,
)
from lightning_morse.arguments import integer_of_at_least, level_of_confidence
from lightning_morse.bands.gradient import GradientBand, gradient_band, simulated_band
from lightning_morse.conley.basins import exit_volumes, reach_of_cells
from lightning_morse.facts import SurrogateFacts
from lightning_morse.gp.calibration import Calibrated, check, fit_calibrated, inflate, refit
from lightning_morse.gp.process import GaussianProcess, Posterior, SurrogateError
from lightning_morse.grids.cubical import CubicalGrid, check_box
from lightning_morse.grids.lattice import Lattice
from lightning_morse.result import Ladder, MorseAnalysis
from lightning_morse.stopwatch import Stopwatch, one_thread

# With fewer cells per axis every cell touches the boundary or its neighbour does: no picture.
_FEWEST_CELLS = 4
# Keep the random numbers of each purpose apart from the other streams of a seed.
_SIMULATION_STREAM, _PLACES_STREAM = 1, 2


@dataclass(frozen=True, eq=False)
class Settings:
    """The arguments of an analysis that do not depend on the loss, checked.

    Attributes:
        grid: The cubical grid of the box.
        confidence: The level at which everything has to hold, in (0, 1).
        seed: Of everything that is random.
        band: ``"proved"`` or ``"simulated"``.
    """

    grid: CubicalGrid
    confidence: float
    seed: int
    band: str = "proved"

    @property
    def failure_beside_band(self) -> float:
        """Probability with which claims may be false although the band holds."""
        return BESIDE_BAND * (1 - self.confidence)

    def proved_band(
        self, surrogate: GaussianProcess, lattice: Lattice, posterior: Posterior
    ) -> GradientBand:
        """Band on the gradient that leaves room for the claims beside it."""
        return gradient_band(surrogate, lattice, posterior, self._level_of_band)

    def make_band(
        self, surrogate: GaussianProcess, lattice: Lattice, posterior: Posterior
    ) -> GradientBand:
        """The same, of the kind asked for."""
        if self.band == "proved":
            return self.proved_band(surrogate, lattice, posterior)
        rng = np.random.default_rng([self.seed, _SIMULATION_STREAM])
        return simulated_band(surrogate, lattice, posterior, self._level_of_band, rng)

    @property
    def _level_of_band(self) -> float:
        return self.confidence + BESIDE_BAND * (1 - self.confidence)


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
    r"""Find the attractors of the gradient flow of a loss on a box, their basins, and how certain.

    The loss is evaluated at the centre of the box and a scrambled Sobol design, then where the
    picture is undecided (:mod:`lightning_morse.analysis.placement`). A Gaussian process is fitted,
    and the flow of every gradient field inside its simultaneous band is enclosed on a cubical grid.
    Given that the (warped) loss is a sample path of the fitted process, the following statements
    hold simultaneously with probability at least ``confidence``: each attractor reported holds an
    attractor of the gradient flow; every critical point in the box lies in a Morse set (or in a
    cell from which the exterior can be reached without meeting one); every Morse index, every
    certain basin label and every escape is right. The number of attractors holds with probability
    at least ``result.mu >= confidence``, each single attractor with ``result.morse_sets[i].mu``.
    See :mod:`lightning_morse.bands.gradient` for what is proved and what is not,
    :mod:`lightning_morse.enclosure.flow_map` for the enclosure, :mod:`lightning_morse.gp.kac_rice`
    for the indices, :mod:`lightning_morse.analysis.ladder` for ``mu``.

    Args:
        loss: Callable on ``(n, d)`` float64 tensors that returns ``(n,)``; it need not be
            differentiable by autograd. NaN or infinity marks a point where it diverged: the cells
            nearest to such points count as exterior.
        lower: Lower corner of the box, shape ``(d,)``.
        upper: Upper corner, same shape.
        n_samples: Most loss evaluations, the centre included; at least 16. Fewer are made where the
            picture is resolved earlier.
        resolution: Cells per axis: one number, or one for each axis; at least 4.
        confidence: The level at which everything has to hold, in (0, 1).
        seed: Of the design, the places to sample and the simulation. No global generator is read or
            advanced.
        band: ``"proved"``, or ``"simulated"`` for one that is some 10 % narrower and rests on
            simulated sample paths (see :mod:`lightning_morse.bands.gradient`).

    Returns:
        The analysis.

    Raises:
        ValueError: If an argument is out of range, or the loss returns the wrong shape.
        SurrogateError: (a ``ValueError``) If the loss diverged at all or too many samples, is
            constant, or no surrogate can be trusted.

    Example:
        >>> result = analyze(lambda x: (x**2 - 1).square().sum(1), [-2.0], [2.0], n_samples=32)
        >>> result.n_attractors, [abs(round(float(m.center[0]), 2)) for m in result.morse_sets]
        (2, [1.0, 1.0, 0.0])
    """
    settings = _settings(lower, upper, n_samples, resolution, confidence, seed, band)
    clock = Stopwatch()
    with clock("loss"):
        points = design(lower, upper, first_samples(n_samples), seed)
        samples = Samples(points, evaluate(loss, points))
    return _analyze(loss, samples, settings, n_samples, clock)


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
        losses: The losses, shape ``(n,)``; not finite where the loss diverged.
        lower: Lower corner of the box, shape ``(d,)``.
        upper: Upper corner, same shape.
        n_samples: Most loss evaluations, those given included.
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
    given = _checked_samples(samples, losses, lower, upper)
    most = max(len(given), n_samples)
    settings = _settings(lower, upper, most, resolution, confidence, seed, band)
    return _analyze(loss, given, settings, n_samples, clock or Stopwatch())


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
        losses: The losses, shape ``(n,)``; not finite where the loss diverged.
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
    given = _checked_samples(samples, losses, lower, upper)
    settings = _settings(lower, upper, len(given), resolution, confidence, seed, band)
    return conclude(given, HeldOut.none(settings.grid.dim), settings, clock or Stopwatch())


def _analyze(
    loss: Loss, first: Samples, settings: Settings, n_samples: int, clock: Stopwatch
) -> MorseAnalysis:
    """All that follows the design."""
    n_checks = min(n_held_out(n_samples), max(0, n_samples - len(first)))
    samples = sample_where_undecided(loss, first, settings, n_samples - n_checks, clock)
    with clock("loss"):
        held_out = hold_out(loss, first, settings.grid, n_checks, settings.seed)
    return conclude(samples, held_out, settings, clock)


def sample_where_undecided(
    loss: Loss, samples: Samples, settings: Settings, n_samples: int, clock: Stopwatch
) -> Samples:
    """Evaluate the loss where the picture is undecided, until it is resolved or samples run out.

    Where the samples do not determine a surrogate, the box is filled further instead.

    Args:
        loss: As in :func:`analyze`.
        samples: The samples so far.
        settings: The settings. Bands are always the proved ones: where to look next is an
            estimate, and need not be simulated.
        n_samples: Number of samples there may be in the end.
        clock: Takes the time of the evaluations ("loss") and of the choices ("sampling").

    Returns:
        All samples, those given first.
    """
    coarse = coarse_lattice(settings.grid)
    batch = batch_size(n_samples - len(samples))
    calibrated: Calibrated | None = None
    while len(samples) < n_samples:
        n_new = min(batch, n_samples - len(samples))
        rng = np.random.default_rng([settings.seed, _PLACES_STREAM, len(samples)])
        with clock("sampling"), one_thread():
            places = candidate_places(settings.grid, rng)
            try:
                calibrated = _fitted(samples, settings.grid, calibrated)
                portrait = phase_portrait(
                    calibrated.surrogate,
                    coarse,
                    settings.proved_band,
                    settings.failure_beside_band,
                    nearest_diverged(coarse.grid, samples),
                    Stopwatch(),  # all of it counts as sampling
                )
                if is_resolved(portrait):
                    break
                new = choose_batch(portrait, places, n_new, rng)
            except SurrogateError:
                calibrated, new = None, places[:n_new]
        with clock("loss"):
            losses = evaluate(loss, new)
        samples = samples.followed_by(new, losses)
    return samples


def conclude(
    samples: Samples, held_out: HeldOut, settings: Settings, clock: Stopwatch
) -> MorseAnalysis:
    """Fit, judge and draw: all that is done once the loss has been evaluated.

    Args:
        samples: The samples.
        held_out: Samples beside some of them that judge the surrogate before they join the others.
        settings: The settings.
        clock: Wall times so far; the stages add theirs.

    Raises:
        SurrogateError: If the loss is not finite at any sample, or no surrogate can be trusted.
    """
    grid, everything = settings.grid, samples.followed_by(held_out.points, held_out.losses)
    with one_thread():
        with clock("fit"):
            calibrated = _judged(samples, held_out, grid)
        portrait = phase_portrait(
            calibrated.surrogate,
            Lattice.of(grid),
            settings.make_band,
            settings.failure_beside_band,
            nearest_diverged(grid, everything),
            clock,
        )
        with clock("record"):
            located = critical_points(portrait)
            order = reading_order(portrait, located.losses)
            reach = reach_of_cells(portrait.found, {old: new for new, old in enumerate(order)})
            portrait, located = portrait.renumbered(order), located.renumbered(order)
            exits = portrait.images.exits & ~portrait.diverged[:, None, None]
            exits_through = exit_volumes(portrait.found, portrait.labels, exits)
        with clock("ladder"):
            ladder, each, mu = _confidences(portrait, calibrated, settings)
        with clock("record"):
            sets = describe(portrait, located, each)
            mean, deviation = _losses_on_grid(portrait)
    return MorseAnalysis(
        grid=grid,
        morse_sets=sets,
        graph=portrait.found.graph,
        labels=portrait.labels,
        diverged=portrait.diverged,
        exit_volumes=exits_through,
        mu=mu,
        confidence=settings.confidence,
        mean_loss=mean,
        samples=everything.points,
        sample_losses=everything.losses,
        calibration=calibrated.factor,
        surrogate=_facts(calibrated, portrait.band.c),
        seconds=dict(clock.seconds),
        ladder=ladder,
        loss_deviation=deviation,
        reach=reach,
    )


def _fitted(samples: Samples, grid: CubicalGrid, previous: Calibrated | None) -> Calibrated:
    """A surrogate of the samples, of the model chosen before if there is one."""
    seen = samples.finite
    if previous is None:
        return fit_calibrated(seen.points, seen.losses, grid.lower, grid.upper)
    return refit(previous, seen.points, seen.losses, grid.lower, grid.upper)


def _judged(samples: Samples, held_out: HeldOut, grid: CubicalGrid) -> Calibrated:
    """A surrogate of all samples, judged by the held-out ones before it has seen them."""
    if not samples.is_finite.any():
        raise SurrogateError(
            f"the loss is not finite at any of the {len(samples) + len(held_out)} samples: the "
            "box has to be smaller, or the loss is broken"
        )
    calibrated = _fitted(samples, grid, None)
    usable = held_out.finite
    if not len(usable):
        return calibrated
    start, before = samples.points[usable.partners], samples.losses[usable.partners]
    largest = check(calibrated, start, usable.points, before, usable.losses)
    whole = _fitted(samples.followed_by(usable.points, usable.losses), grid, calibrated)
    return inflate(whole, largest, len(usable))


def _confidences(
    portrait: PhasePortrait, calibrated: Calibrated, settings: Settings
) -> tuple[Ladder, Array, float]:
    """The ladder, the confidence of each attractor, and that of the number of attractors."""
    attractors = portrait.attracting_cells()
    if not calibrated.trusted:
        # A bound that rests on a model which the samples refute is worth nothing.
        ladder = unclimbed(attractors, settings.confidence).ladder
        return ladder, np.zeros(len(attractors)), 0.0
    exact, least = portrait.is_exact, max(settings.confidence, portrait.level)
    proved = settings.band == "proved"
    climbed = climb(portrait, attractors, settings.confidence, proved=proved, counted=exact)
    together = climbed.exact if exact else climbed.together
    return climbed.ladder, np.maximum(climbed.each, least), max(least, together)


def _losses_on_grid(portrait: PhasePortrait) -> tuple[Array, Array]:
    """Mean of the loss at the vertices of the grid and its deviation, to first order."""
    posterior, warp = portrait.posterior, portrait.surrogate.warp
    deviation = posterior.deviation * warp.inverse_slope(posterior.mean)
    corners = portrait.lattice.grid_corners
    return warp.inverse(corners(posterior.mean)), corners(deviation)


def _facts(calibrated: Calibrated, band_deviations: float) -> SurrogateFacts:
    surrogate = calibrated.surrogate
    floor = surrogate.warp.floor
    return SurrogateFacts(
        kernel=surrogate.kernel.name,
        n=len(surrogate.y),
        lengthscales=tuple(surrogate.lengthscales.tolist()),
        mean=surrogate.mean,
        deviation=math.sqrt(surrogate.variance),
        noise_deviation=math.sqrt(surrogate.variance * surrogate.noise),
        loss_origin=surrogate.warp.origin,
        loss_floor=floor if math.isfinite(floor) else None,
        log_evidence=surrogate.log_evidence,
        largest_residual=calibrated.largest_residual,
        largest_held_out=calibrated.largest_held_out,
        band_deviations=band_deviations,
    )


def _checked_samples(
    samples: ArrayLike, losses: ArrayLike, lower: ArrayLike, upper: ArrayLike
) -> Samples:
    dim = len(check_box(lower, upper)[0])
    x = np.asarray(samples, dtype=np.float64)
    values = np.asarray(losses, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != dim or values.shape != x.shape[:1]:
        raise ValueError(
            f"samples must have shape (n, {dim}) and losses (n,), got {x.shape} and {values.shape}"
        )
    return Samples(x, values)


def _settings(
    lower: ArrayLike,
    upper: ArrayLike,
    n_samples: int,
    resolution: int | Sequence[int],
    confidence: float,
    seed: int,
    band: str,
) -> Settings:
    """Check what does not depend on the loss."""
    low, up = check_box(lower, upper)
    integer_of_at_least("n_samples", n_samples, FEWEST_SAMPLES)
    shape = tuple(resolution) if isinstance(resolution, Sequence) else (resolution,) * len(low)
    if len(shape) != len(low) or not all(
        isinstance(n, SupportsIndex) and n >= _FEWEST_CELLS for n in shape
    ):
        raise ValueError(
            f"resolution must be an integer of at least {_FEWEST_CELLS}, or {len(low)} of them for "
            f"the {len(low)} axes of the box, got {resolution!r}"
        )
    level = level_of_confidence(confidence)
    if band not in ("proved", "simulated"):
        raise ValueError(f"band must be 'proved' or 'simulated', got {band!r}")
    return Settings(CubicalGrid(low, up, tuple(int(n) for n in shape)), level, seed, band)
