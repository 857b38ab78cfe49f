"""From runs to the Morse graph of the map that moves them on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from lightning_morse._typing import Array, Cells, Mask
from lightning_morse.bands.value import ValueBand, value_band
from lightning_morse.conley.basins import certain_labels, exit_volumes, reach_of_cells
from lightning_morse.conley.combinatorial_map import outer_approximation
from lightning_morse.conley.index import conley_indices
from lightning_morse.conley.morse_sets import MorseGraph, morse_graph
from lightning_morse.conley.recurrence import drifts, period
from lightning_morse.gp.calibration import PLAINLY_WRONG
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.cubical import CubicalGrid, check_box
from lightning_morse.grids.lattice import Lattice
from lightning_morse.result import MorseAnalysis, MorseSet
from lightning_morse.stopwatch import Stopwatch, one_thread
from lightning_morse.trajectories.fit import fit_trajectory_map
from lightning_morse.trajectories.ladder import Rung, climb_map
from lightning_morse.trajectories.learned_map import TrajectoryMap
from lightning_morse.trajectories.pairs import Pairs, pairs_of_runs

_FEWEST_CELLS = 4
# Lattice points an axis below which the lattice is finer than the grid.
_FEWEST_POINTS = {1: 256, 2: 64, 3: 24}
# How far the box reaches beyond the states, as a share of their range.
_MARGIN = 0.05
# Cells of a Morse set looked at for its centre.
_LOOKED_AT = 2000


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
    r"""Find the attractors of the map that runs follow, their basins, and how sure.

    A Gaussian process a coordinate is fitted to the displacements over ``lag`` steps
    (:mod:`lightning_morse.trajectories.learned_map`); every map inside its simultaneous band is
    enclosed on a cubical grid. Given the premises stated there, all of this holds at once with
    probability at least ``confidence``: each attractor reported holds an attractor of the map,
    everything that recurs in the known part of the box lies in a Morse set (or in cells that may
    leave it), and every certain basin label is right.

    A map, unlike a gradient flow, may recur without a fixed point: a component is dropped only if
    all its points certainly drift one way (:func:`lightning_morse.conley.recurrence.drifts`), and
    each Morse set has a period (:func:`lightning_morse.conley.recurrence.period`), in
    ``result.surrogate["periods"]``, and an index pair with Betti numbers
    (:func:`lightning_morse.conley.index.conley_indices`), in ``result.surrogate["betti"]``. Cells
    where the pairs say too little (:meth:`TrajectoryMap.unknown_cells
    <lightning_morse.trajectories.learned_map.TrajectoryMap.unknown_cells>`) are in
    ``result.diverged`` and count as exterior: what may get there is no attractor.

    The record is that of :func:`lightning_morse.analyze`. There is no loss here: ``mean_loss``,
    ``sample_losses`` and the losses of the Morse sets are NaN, indices are None. No Morse set is
    ``resolved`` (a band on values does not tell one attractor from several close by, nor a saddle
    from a set that hides one), so the claim is always "at least". Attractors are followed to wider
    bands (:mod:`lightning_morse.trajectories.ladder`), so ``mu`` of the claim and of each attractor
    is often much nearer to 1 than ``confidence``. ``samples`` are the states that start a pair in
    the box; ``-2`` among the labels and ``escape`` stand for "leaves the box or what is known of
    it".

    Args:
        trajectories: One array a run, shape ``(T_k, d)``, ``d`` from 1 to 3, oldest state first. A
            run is used up to its first state that is not finite, and then named in
            ``result.surrogate["cut_runs"]``.
        lag: Number of steps the map stands for. Longer ones move further: about a cell or more.
        lower: Lower corner of the box, shape ``(d,)``; the range of the states and 5 % by default.
            Pairs that start outside the box are left out; ends may lie anywhere.
        upper: Upper corner.
        resolution: Cells on each axis: one number, or one an axis; at least 4.
        confidence: The level at which everything has to hold, in (0, 1).
        seed: Of the pairs that hyper-parameters are fitted to, where there are more than 300.
        noise: ``"mean"``: what is said is said of the mean dynamics. ``"steps"``: the boxes hold
            single noisy steps too, each with probability ``step_level``; an attractor is then a
            block that a step leaves with at most the rest of that probability.
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
    """Analyse pairs of states; :func:`analyze_trajectories` after the pairs are made.

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
    if grid.dim != pairs.start.shape[1] or any(grid.periodic):
        raise ValueError(
            f"grid must have {pairs.start.shape[1]} axes like the states, none periodic, got "
            f"{grid.dim} axes, periodic {grid.periodic}"
        )
    clock = clock or Stopwatch()
    used = pairs.starting_in(grid.lower, grid.upper)
    fewest = 2 * grid.dim + 4
    if len(used) < fewest:
        raise SurrogateError(
            f"at least {fewest} pairs that start in the box are needed for {grid.dim} axes, got "
            f"{len(used)} of {len(pairs)}. Give a larger box, more runs or longer ones"
        )
    with one_thread():
        return _analyze(used, len(pairs), grid, confidence, seed, noise, step_level, clock)


def _analyze(
    pairs: Pairs,
    n_pairs: int,
    grid: CubicalGrid,
    confidence: float,
    seed: int,
    noise: str,
    step_level: float,
    clock: Stopwatch,
) -> MorseAnalysis:
    rng = np.random.default_rng([seed, 2])  # neither the stream of a design nor of a simulation
    with clock("fit"):
        model = fit_trajectory_map(pairs, grid.lower, grid.upper, rng)
    fewest = _FEWEST_POINTS[grid.dim]
    lattice = Lattice(grid, tuple(math.ceil(fewest / n) for n in grid.shape))
    with clock("posterior"):
        values = model.values(lattice)
    with clock("band"):
        band = value_band(model.processes, lattice, confidence)
        unknown = model.unknown_cells(lattice, values)
    with clock("enclosure"):
        single = step_level if noise == "steps" else None
        low, up = model.image_boxes(lattice, values, band, single)
        moves = model.displacement_boxes(lattice, values, band, single)
    with clock("map"):
        image = outer_approximation(low, up, grid, exterior_cells=unknown)
    with clock("graph"):
        found = _without_drift(morse_graph(image), image, *moves)
    with clock("basins"):
        labels = certain_labels(found)
        faces = np.stack([low < grid.lower, up > grid.upper], axis=2) & ~unknown[:, None, None]
        exits = exit_volumes(found, labels, faces)
    with clock("ladder"):

        def rung_at(level: float) -> Rung:
            wider = value_band(model.processes, lattice, level)
            return Rung(wider.c, partial(model.image_boxes, lattice, values, wider, single))

        climbed = climb_map(
            rung_at, lattice, [found.morse_sets[a] for a in found.attractors], confidence, unknown
        )
    with clock("record"):
        trusted = model.factors.max() < PLAINLY_WRONG
        mus = dict(
            zip(found.attractors, climbed.each if trusted else 0 * climbed.each, strict=True)
        )
        order = sorted(range(len(found.morse_sets)), key=lambda i: (i not in found.attractors, i))
        number = {old: new for new, old in enumerate(order)}
        periods = [period(image, found.morse_sets[old]) for old in order]
        sets = [
            _described(found, old, periods[number[old]], model, grid, mus.get(old)) for old in order
        ]
        indices = conley_indices(image, found, grid)
        betti = [None if (c := indices[old]) is None else list(c.betti) for old in order]
        graph = nx.DiGraph()
        graph.add_nodes_from(range(len(sets)))
        graph.add_edges_from((number[q], number[p]) for q, p in found.graph.edges)
        # The labels -2 and -1 stay what they are.
        renumber = np.array([number[i] for i in range(len(sets))] + [-2, -1], dtype=np.int32)
        facts = _facts(model, pairs, n_pairs, band, periods, betti, noise, step_level, unknown)
    return MorseAnalysis(
        grid=grid,
        morse_sets=tuple(sets),
        graph=graph,
        labels=renumber[labels],
        diverged=unknown,
        exit_volumes=exits,
        mu=climbed.together if trusted else 0.0,
        confidence=float(confidence),
        mean_loss=np.full(tuple(s + 1 for s in grid.shape), np.nan),
        samples=pairs.start,
        sample_losses=np.full(len(pairs), np.nan),
        calibration=float(model.factors.max()),
        surrogate=facts,
        seconds=dict(clock.seconds),
        ladder=climbed.ladder,
        reach=reach_of_cells(found, number),
    )


def _without_drift(found: MorseGraph, image: csr_array, low: Array, up: Array) -> MorseGraph:
    """The Morse graph without the components that certainly hold nothing recurrent."""
    kept = np.zeros(len(low), dtype=bool)
    for cells in found.morse_sets:
        kept[cells] = not drifts(low[cells], up[cells])
    return morse_graph(image, critical=kept)


def _described(
    found: MorseGraph,
    number: int,
    rounds: int,
    model: TrajectoryMap,
    grid: CubicalGrid,
    mu: float | None,
) -> MorseSet:
    cells = found.morse_sets[number]
    return MorseSet(
        cells=cells,
        is_attractor=number in found.attractors,
        resolved=False,
        index=None,
        center=_center(cells, rounds, model, grid),
        loss=math.nan,
        volume=cells.size / grid.size,
        mu=None if mu is None else float(mu),
    )


def _center(cells: Cells, rounds: int, model: TrajectoryMap, grid: CubicalGrid) -> Array:
    """Centre of the cell that comes back closest to itself after as many steps as the period."""
    some = cells[:: math.ceil(cells.size / _LOOKED_AT)]
    low, up = grid.cell_bounds()
    middle = 0.5 * (low[some] + up[some])
    later = middle
    for _ in range(rounds):
        later = model.mean(later)
    apart = np.linalg.norm((later - middle) / grid.cell_widths, axis=1)
    nearest: Array = middle[int(np.argmin(apart))]
    return nearest


def _facts(
    model: TrajectoryMap,
    pairs: Pairs,
    n_pairs: int,
    band: ValueBand,
    periods: list[int],
    betti: list[list[int] | None],
    noise: str,
    step_level: float,
    unknown: Mask,
) -> dict[str, Any]:
    return {
        "kernel": model.processes[0].kernel.name,
        "n": len(pairs),
        "n_outside": n_pairs - len(pairs),
        "n_runs": len(pairs.run_ids),
        "cut_runs": list(pairs.cut),
        "lag": model.lag,
        "lengthscales": [p.lengthscales.tolist() for p in model.processes],
        "mean": [p.mean for p in model.processes],
        "deviation": model.prior_deviation.tolist(),
        "noise_deviation": model.noise_deviation.tolist(),
        "noise": noise,
        "step_level": step_level if noise == "steps" else None,
        "factors": model.factors.tolist(),
        "band_deviations": band.c,
        "band_between": band.between.tolist(),
        "periods": periods,
        "betti": betti,
        "unknown": float(unknown.mean()),
    }


def _grid(
    pairs: Pairs,
    lower: ArrayLike | None,
    upper: ArrayLike | None,
    resolution: int | Sequence[int],
) -> CubicalGrid:
    dim = pairs.start.shape[1]
    if dim > 3:
        raise ValueError(
            f"states must have 1, 2 or 3 coordinates, got {dim}: the cells of a grid grow with its "
            "power. Project the runs to a subspace first"
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
