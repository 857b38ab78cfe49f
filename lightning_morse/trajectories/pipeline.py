"""An analysis of trajectories from beginning to end: from runs to the Morse graph of their map."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from lightning_morse._typing import Array
from lightning_morse.conley.recurrence import period
from lightning_morse.gp.calibration import PLAINLY_WRONG
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.cubical import CubicalGrid, check_resolved
from lightning_morse.result import MorseAnalysis
from lightning_morse.result.frame import Frame
from lightning_morse.stopwatch import Stopwatch, one_thread
from lightning_morse.trajectories.description import described, facts_of
from lightning_morse.trajectories.ladder import MapAtLevel, MapClimb, climb_map
from lightning_morse.trajectories.pairs import Pairs, pairs_of_runs
from lightning_morse.trajectories.portrait import MapPortrait, map_portrait
from lightning_morse.trajectories.settings import Settings, check_numbers, grid_on


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
    ``result.diverged``. Nothing is claimed of what may get there: a set that may is no attractor,
    and its cells are undecided. Where no attractor is certain and a Morse set or an unknown cell is
    left, nothing is claimed, and ``result.mu`` is 0.

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
    check_numbers(confidence, noise, step_level)
    with clock("pairs"):
        pairs = pairs_of_runs(trajectories, lag, run_ids, steps, overlapping)
        grid = grid_on(pairs, lower, upper, resolution)
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
    check_numbers(confidence, noise, step_level)
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
    settings = Settings(frame.grid(grid), float(confidence), seed, noise, step_level)
    with one_thread():
        portrait = map_portrait(used, settings, clock)
        with clock("ladder"):
            climbed = _climbed(portrait, settings)
        with clock("record"):
            each, mu = _confidences(portrait, climbed)
            periods = [period(portrait.image, cells) for cells in portrait.found.morse_sets]
            sets = described(portrait, periods, each)
            facts = facts_of(portrait, settings, used, len(pairs), periods)
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


def _climbed(portrait: MapPortrait, settings: Settings) -> MapClimb:
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


def _confidences(portrait: MapPortrait, climbed: MapClimb) -> tuple[Array, float]:
    """Confidence of each attractor and of the claim about their number.

    None where the samples refute the model. That of the claim is also 0 where none is made: there
    is no certain attractor, and a Morse set or an unknown cell may hide one.
    """
    if portrait.model.factors.max() >= PLAINLY_WRONG:
        return 0 * climbed.each, 0.0
    found = portrait.found
    is_open = len(found.morse_sets) > 0 or bool(portrait.unknown.any())
    return climbed.each, 0.0 if is_open and not found.attractors else climbed.together
