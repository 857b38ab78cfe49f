"""An analysis of trajectories from beginning to end: from runs to the Morse graph of their map."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.bands.value import ValueBand
from lightning_morse.conley.basins import exit_volumes, reach_of_cells
from lightning_morse.conley.combinatorial_map import outer_approximation
from lightning_morse.conley.index import conley_indices
from lightning_morse.conley.morse_sets import MorseGraph, morse_graph
from lightning_morse.conley.reach import Reach
from lightning_morse.conley.recurrence import drifts, period
from lightning_morse.facts import MapFacts
from lightning_morse.gp.calibration import PLAINLY_WRONG
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.cubical import CubicalGrid, check_box, check_resolved
from lightning_morse.grids.lattice import Lattice
from lightning_morse.result import MorseAnalysis, MorseSet
from lightning_morse.result.frame import Frame
from lightning_morse.stopwatch import Stopwatch, one_thread
from lightning_morse.trajectories.ladder import MapAtLevel, MapClimb, climb_map
from lightning_morse.trajectories.local_fit import fit_local_map
from lightning_morse.trajectories.local_map import LocalMap
from lightning_morse.trajectories.pairs import Pairs, pairs_of_runs

# With fewer cells per axis every cell touches the boundary or its neighbour does: no picture.
_FEWEST_CELLS = 4
_MOST_AXES = 3
# Lattice points per axis, by dimension, below which the lattice is made finer than the grid. The
# band is sound on any lattice; on a coarse one it is wider between the points.
_FEWEST_POINTS = {1: 256, 2: 64, 3: 24}
# How far the default box reaches beyond the states, as a share of their range: states at the edge
# would have images outside.
_MARGIN = 0.05
# Most cells of a Morse set tried as its centre. A centre is an estimate, nothing depends on it.
_CELLS_TRIED_AS_CENTER = 2000
# Keeps the random numbers apart from those of a design or a simulation with the same seed.
_STREAM = 2


@dataclass(frozen=True, eq=False)
class _Settings:
    """Arguments of an analysis, see :func:`analyze_trajectories`."""

    grid: CubicalGrid
    confidence: float
    seed: int
    noise: str
    step_level: float

    @property
    def level_of_steps(self) -> float | None:
        """Probability with which the boxes hold a single step; None if they hold the mean."""
        return self.step_level if self.noise == "steps" else None


@dataclass(frozen=True, eq=False)
class _MapPortrait:
    """The dynamics on a grid according to the learnt map.

    Attributes:
        model: The learnt map.
        lattice: The points at which it was evaluated.
        bands: The simultaneous bands on its values, one per leaf.
        unknown: Cells where the pairs say too little, shape ``(grid.size,)``; they are exterior.
        image: The outer approximation.
        found: Its Morse graph, attractors first, without the components that drift.
        reach: The Morse sets each cell may reach, and whether it may leave the box.
        exits: Fraction of the box that leaves through each face, shape ``(d, 2)``.
    """

    model: LocalMap
    lattice: Lattice
    bands: tuple[ValueBand, ...]
    unknown: Mask
    image: csr_array
    found: MorseGraph
    reach: Reach
    exits: Array

    @property
    def labels(self) -> NDArray[np.int32]:
        """The certain basins, shape ``(grid.size,)``."""
        return self.reach.labels(self.found.attractors)


def analyze_trajectories(
    trajectories: Sequence[ArrayLike],
    lag: int = 1,
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
    resolution: int | Sequence[int] = 128,
    confidence: float = 0.95,
    seed: int = 0,
    noise: str = "mean",
    step_level: float = 0.95,
    run_ids: Sequence[object] | None = None,
    steps: Sequence[ArrayLike] | None = None,
    overlapping: bool = False,
) -> MorseAnalysis:
    r"""Find the attractors of the map that runs follow, their basins, and how certain.

    One Gaussian process per coordinate is fitted to the displacements over ``lag`` steps
    (:mod:`lightning_morse.trajectories.learned_map`), and every map inside its simultaneous band is
    enclosed on a cubical grid. Given the premises stated there, the following statements hold
    simultaneously with probability at least ``confidence``: each attractor reported holds an
    attractor of the map, all recurrence in the known part of the box lies in a Morse set (or in
    cells that may leave it), and every certain basin label is right.

    A map, unlike a gradient flow, may be recurrent without a fixed point: a component is dropped
    only if all its points certainly drift one way
    (:func:`lightning_morse.conley.recurrence.drifts`), and each Morse set has a period
    (:func:`lightning_morse.conley.recurrence.period`), in ``result.surrogate.periods``, and an
    index pair with Betti numbers (:func:`lightning_morse.conley.index.conley_indices`), in
    ``result.surrogate.betti``. Cells where the pairs say too little
    (:meth:`TrajectoryMap.unknown_cells
    <lightning_morse.trajectories.learned_map.TrajectoryMap.unknown_cells>`) are in
    ``result.diverged`` and count as exterior: a set that may get there is no attractor.

    The record is that of :func:`lightning_morse.analyze`. There is no loss here: ``mean_loss``,
    ``sample_losses`` and the losses of the Morse sets are NaN, indices are None. No Morse set is
    ``resolved`` (a band on values cannot tell one attractor from several close together, nor a
    saddle from a set that hides one), so the claim is always "at least". Attractors are followed to
    wider bands (:mod:`lightning_morse.trajectories.ladder`), so ``mu`` of the claim and of each
    attractor is often much closer to 1 than ``confidence``. ``samples`` are the states that start a
    pair in the box; ``-2`` among the labels and ``escape`` stand for "leaves the known part of the
    box".

    Args:
        trajectories: One array per run, shape ``(T_k, d)``, ``d`` from 1 to 3, oldest state first.
            A run is used up to its first state that is not finite, and is then named in
            ``result.surrogate.cut_runs``.
        lag: Number of steps the map stands for; long enough to move by about a cell or more.
        lower: Lower corner of the box, shape ``(d,)``; by default the range of the states and 5 %
            more on each side. Pairs that start outside the box are left out; ends may lie anywhere.
        upper: Upper corner.
        resolution: Cells per axis: one number, or one for each axis; at least 4.
        confidence: The level at which everything has to hold, in (0, 1).
        seed: Of the pairs that hyper-parameters are fitted to, where there are more than 300.
        noise: ``"mean"``: the statements are about the mean dynamics. ``"steps"``: the boxes also
            hold single noisy steps, each with probability ``step_level``; an attractor is then a
            block that a step leaves with probability at most ``1 - step_level``.
        step_level: That probability, in (0, 1).
        run_ids: A name for each run, all different; their positions by default.
        steps: The step of each state of each run; 0, 1, ... by default.
        overlapping: Whether pairs of the same run may share steps; only for runs free of noise.

    Returns:
        The analysis.

    Raises:
        ValueError: If an argument is out of range, or the runs do not fit together (see
            :func:`lightning_morse.trajectories.pairs.pairs_of_runs`).
        SurrogateError: (a ``ValueError``) If there are too few pairs in the box, or no surrogate
            can be trusted.

    Example:
        >>> halving = [[[2.0 * s * 0.5**t] for t in range(6)] for s in (-1, -0.3, 0.4, 1)]
        >>> result = analyze_trajectories(halving, resolution=64)
        >>> result.claim, round(abs(float(result.morse_sets[0].center[0])), 1)
        ('at least 1 attractor', 0.0)
    """
    clock = Stopwatch()
    _check_numbers(confidence, noise, step_level)
    with clock("pairs"):
        pairs = pairs_of_runs(trajectories, lag, run_ids, steps, overlapping)
        grid = _grid(pairs, lower, upper, resolution)
    return analyze_pairs(pairs, grid, confidence, seed, noise, step_level, clock)


def analyze_pairs(
    pairs: Pairs,
    grid: CubicalGrid,
    confidence: float = 0.95,
    seed: int = 0,
    noise: str = "mean",
    step_level: float = 0.95,
    clock: Stopwatch | None = None,
) -> MorseAnalysis:
    """Analyse pairs of states: :func:`analyze_trajectories` once the pairs are made.

    Args:
        pairs: The pairs; those that start outside the grid's box are left out.
        grid: The cubical grid, ``d`` axes, none of them periodic.
        confidence: As in :func:`analyze_trajectories`.
        seed: As there.
        noise: As there.
        step_level: As there.
        clock: Wall times so far; the stages add theirs.

    Returns:
        The analysis.

    Raises:
        ValueError: As :func:`analyze_trajectories` does.
        SurrogateError: As there.
    """
    _check_numbers(confidence, noise, step_level)
    check_resolved(grid)
    if grid.dim != pairs.start.shape[1] or any(grid.periodic):
        raise ValueError(
            f"grid must have {pairs.start.shape[1]} axes like the states, none periodic, got "
            f"{grid.dim} axes, periodic {grid.periodic}"
        )
    clock = clock or Stopwatch()
    used = pairs.starting_in(grid.lower, grid.upper)
    # Fewer pairs do not determine the dim + 3 hyper-parameters of a process.
    fewest = 2 * grid.dim + 4
    if len(used) < fewest:
        raise SurrogateError(
            f"at least {fewest} pairs that start in the box are needed for {grid.dim} axes, got "
            f"{len(used)} of {len(pairs)}. Give a larger box, more runs or longer ones"
        )
    frame = Frame.of(grid.lower, grid.upper)
    used = _in_frame(used, frame)
    settings = _Settings(frame.grid(grid), float(confidence), seed, noise, step_level)
    with one_thread():
        portrait = _portrait(used, settings, clock)
        with clock("ladder"):
            climbed = _climbed(portrait, settings)
        with clock("record"):
            each, mu = _confidences(portrait.model, climbed)
            periods = [period(portrait.image, cells) for cells in portrait.found.morse_sets]
            sets = _described(portrait, periods, each)
            facts = _facts(portrait, settings, used, len(pairs), periods)
    result = MorseAnalysis(
        grid=settings.grid,
        morse_sets=sets,
        graph=portrait.found.graph,
        labels=portrait.labels,
        diverged=portrait.unknown,
        exit_volumes=portrait.exits,
        mu=mu,
        confidence=settings.confidence,
        mean_loss=np.full(tuple(s + 1 for s in grid.shape), np.nan),
        samples=used.start,
        sample_losses=np.full(len(used), np.nan),
        calibration=float(portrait.model.factors.max()),
        surrogate=facts,
        seconds=dict(clock.seconds),
        ladder=climbed.ladder,
        reach=portrait.reach,
    )
    return frame.in_units(result)


def _in_frame(pairs: Pairs, frame: Frame) -> Pairs:
    """The pairs with their states in the frame of the box."""
    start, end = frame.points(pairs.start), frame.points(pairs.end)
    if not np.isfinite(end).all():
        raise SurrogateError(
            f"a run goes from the box to {np.abs(pairs.end).max():.3g}, so far that no float holds "
            "the distance in widths of the box. Leave out the states after it diverged"
        )
    return dataclasses.replace(pairs, start=start, end=end)


def _portrait(pairs: Pairs, settings: _Settings, clock: Stopwatch) -> _MapPortrait:
    """Fit the map, enclose it at the level asked for, and find its Morse graph and basins."""
    grid, single = settings.grid, settings.level_of_steps
    rng = np.random.default_rng([settings.seed, _STREAM])
    fewest = _FEWEST_POINTS[grid.dim]
    lattice = Lattice(grid, tuple(math.ceil(fewest / n) for n in grid.shape))
    with clock("fit"):
        model = fit_local_map(pairs, lattice, rng)
    with clock("posterior"):
        unknown = model.unknown_cells()
    with clock("band"):
        bands = model.bands(settings.confidence)
    with clock("enclosure"):
        low, up = model.image_boxes(bands, single)
        moves = model.displacement_boxes(bands, single)
        if np.isnan([*low, *up, *moves[0], *moves[1]]).any():
            raise SurrogateError("images of cells have left the range of floats: nothing is known")
    with clock("map"):
        image = outer_approximation(low, up, grid, exterior_cells=unknown)
    with clock("graph"):
        found = _without_drift(morse_graph(image), image, *moves)
    with clock("basins"):
        rest = [i for i in range(len(found.morse_sets)) if i not in found.attractors]
        order = [*found.attractors, *rest]
        reach = reach_of_cells(found, {old: new for new, old in enumerate(order)})
        found = found.renumbered(order)
        faces = np.stack([low < grid.lower, up > grid.upper], axis=2) & ~unknown[:, None, None]
        exits = exit_volumes(found, reach.labels(found.attractors), faces)
    return _MapPortrait(model, lattice, bands, unknown, image, found, reach, exits)


def _without_drift(found: MorseGraph, image: csr_array, low: Array, up: Array) -> MorseGraph:
    """The Morse graph without the components that certainly hold nothing recurrent."""
    kept = np.zeros(len(low), dtype=bool)
    for cells in found.morse_sets:
        kept[cells] = not drifts(low[cells], up[cells])
    return morse_graph(image, critical=kept)


def _climbed(portrait: _MapPortrait, settings: _Settings) -> MapClimb:
    """Follow the attractors up to wider and wider bands."""
    model = portrait.model

    def map_at(level: float) -> MapAtLevel:
        bands = model.bands(level)
        return MapAtLevel(bands[0].c, partial(model.image_boxes, bands, settings.level_of_steps))

    attractors = [portrait.found.morse_sets[a] for a in portrait.found.attractors]
    return climb_map(
        map_at,
        portrait.lattice,
        attractors,
        settings.confidence,
        portrait.unknown,
        model.n_points,
    )


def _confidences(model: LocalMap, climbed: MapClimb) -> tuple[Array, float]:
    """Confidence of each attractor and of their number; none where the samples refute the model."""
    if model.factors.max() < PLAINLY_WRONG:
        return climbed.each, climbed.together
    return 0 * climbed.each, 0.0


def _described(portrait: _MapPortrait, periods: Sequence[int], mu: Array) -> tuple[MorseSet, ...]:
    """One record per Morse set; attractors, which have a ``mu``, come first."""
    grid, bounds = portrait.lattice.grid, dict(enumerate(mu.tolist()))
    return tuple(
        MorseSet(
            cells=cells,
            is_attractor=number in bounds,
            resolved=False,
            index=None,
            center=_center(cells, rounds, portrait.model, grid),
            loss=math.nan,
            volume=cells.size / grid.size,
            mu=bounds.get(number),
        )
        for number, (cells, rounds) in enumerate(
            zip(portrait.found.morse_sets, periods, strict=True)
        )
    )


def _center(cells: Cells, rounds: int, model: LocalMap, grid: CubicalGrid) -> Array:
    """Centre of the cell that returns closest to itself after as many steps as the period."""
    some = cells[:: math.ceil(cells.size / _CELLS_TRIED_AS_CENTER)]
    low, up = grid.cell_bounds()
    middle = 0.5 * (low[some] + up[some])
    later = middle
    for _ in range(rounds):
        later = model.mean(later)
    apart = np.linalg.norm((later - middle) / grid.cell_widths, axis=1)
    nearest: Array = middle[int(np.argmin(apart))]
    return nearest


def _facts(
    portrait: _MapPortrait,
    settings: _Settings,
    pairs: Pairs,
    n_pairs: int,
    periods: Sequence[int],
) -> MapFacts:
    model = portrait.model
    indices = conley_indices(portrait.image, portrait.found, portrait.lattice.grid)
    each = [m.processes for m in model.standing]
    void = np.isin(model.leaf_of_cell, np.flatnonzero(model.void))
    return MapFacts(
        kernel=each[0][0].kernel.name,
        n=len(pairs),
        n_outside=n_pairs - len(pairs),
        n_runs=len(pairs.run_ids),
        cut_runs=tuple(pairs.cut),
        lag=pairs.lag,
        lengthscales=tuple(
            map(tuple, np.median([[p.lengthscales for p in ps] for ps in each], axis=0).tolist())
        ),
        mean=_typical([np.array([p.mean for p in ps]) for ps in each]),
        deviation=_typical([m.prior_deviation for m in model.standing]),
        noise_deviation=_typical([m.noise_deviation for m in model.standing]),
        noise=settings.noise,
        step_level=settings.level_of_steps,
        factors=tuple(model.factors.tolist()),
        band_deviations=portrait.bands[0].c,
        band_between=_largest([b.between for b in portrait.bands if b.between.size]),
        periods=tuple(periods),
        betti=tuple(None if found is None else found.betti for found in indices),
        unknown=float(portrait.unknown.mean()),
        leaves=len(model.leaves),
        void=float(void.mean()),
    )


def _typical(each: Sequence[Array]) -> tuple[float, ...]:
    """Median over the leaves, per coordinate."""
    return tuple(np.median(each, axis=0).tolist())


def _largest(each: Sequence[Array]) -> tuple[float, ...]:
    """Maximum over the leaves, per coordinate."""
    return tuple(np.max(each, axis=0).tolist())


def _grid(
    pairs: Pairs,
    lower: ArrayLike | None,
    upper: ArrayLike | None,
    resolution: int | Sequence[int],
) -> CubicalGrid:
    dim = pairs.start.shape[1]
    if dim > _MOST_AXES:
        raise ValueError(
            f"states must have 1, 2 or 3 coordinates, got {dim}: the number of cells grows "
            "exponentially with it. Project the runs to a subspace first"
        )
    if (lower is None) != (upper is None):
        raise ValueError("lower and upper must be given both or neither, got one of them")
    if lower is None or upper is None:
        states = np.concatenate([pairs.start, pairs.end])
        least, most = states.min(axis=0), states.max(axis=0)
        flat = np.flatnonzero(~(most > least))
        if flat.size:
            raise ValueError(
                f"coordinate {flat[0]} is {least[flat[0]]:g} in all states: it has no dynamics. "
                "Leave it out, or give a box"
            )
        lower, upper = least - _MARGIN * (most - least), most + _MARGIN * (most - least)
    low, up = check_box(lower, upper)
    if len(low) != dim:
        raise ValueError(
            f"lower and upper must have one number for each of the {dim} coordinates of the "
            f"states, got {len(low)}"
        )
    shape: tuple[Any, ...] = (
        tuple(resolution) if isinstance(resolution, Sequence) else (resolution,) * dim
    )
    if len(shape) != dim or not all(
        isinstance(n, int | np.integer) and n >= _FEWEST_CELLS for n in shape
    ):
        raise ValueError(
            f"resolution must be an integer of at least {_FEWEST_CELLS}, or {dim} of them for the "
            f"{dim} axes of the box, got {resolution!r}"
        )
    return CubicalGrid(low, up, shape)


def _check_numbers(confidence: float, noise: str, step_level: float) -> None:
    for name, value in (("confidence", confidence), ("step_level", step_level)):
        if not (isinstance(value, int | float) and 0 < value < 1):
            raise ValueError(f"{name} must lie strictly between 0 and 1, got {value!r}")
    if noise not in ("mean", "steps"):
        raise ValueError(f"noise must be 'mean' or 'steps', got {noise!r}")
