"""How often the image boxes of a learned map contain all true images of all cells.

    python benchmarks/trajectory_coverage.py --repetitions 200

For each map and noise level: runs from random starts, the map learned from them with its
hyper-parameters fitted to the same pairs, boxes at the requested level. A repetition *holds* if at
each of many points of the box the true image lies in the image box of the point's cell. Only known
cells count; the others are exterior, and nothing is claimed about them. Also reported: the share of
single (point, coordinate) images outside, the median half-width of the boxes, in cells, beyond what
the image of the cell itself takes, and the unknown share of the box.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lightning_morse.bands.value import failure_bound
from lightning_morse.conley.combinatorial_map import outer_approximation
from lightning_morse.conley.morse_sets import morse_graph
from lightning_morse.conley.point_maps import time_map
from lightning_morse.gp.calibration import PLAINLY_WRONG
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice
from lightning_morse.trajectories.ladder import MapAtLevel, climb_map
from lightning_morse.trajectories.local_fit import fit_local_map
from lightning_morse.trajectories.pairs import pairs_of_runs
from lightning_morse.words import short_of_one

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A known map, its box, and how it is sampled."""

    name: str
    point_map: Callable[[Array], Array]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    n_runs: int
    length: int
    resolution: int


def bistable_field(z: Array) -> Array:
    """The field (x (2 - x - y), y (4 x - x^2 - 3)): sinks (1, 1) and (3, -1), a saddle (2, 0)."""
    x, y = z[:, 0], z[:, 1]
    return np.stack([x * (2 - x - y), y * (4 * x - x**2 - 3)], axis=1)


CASES = {
    "cubic": Case(
        "cubic", lambda x: x + 0.4 * (x - x**3), (-1.5,), (1.5,), n_runs=20, length=4, resolution=64
    ),
    "waves": Case(
        "waves",
        lambda x: 0.7 * x + 0.4 * np.sin(4 * x),
        (-2.0,),
        (2.0,),
        n_runs=40,
        length=3,
        resolution=64,
    ),
    "kinked": Case(
        "kinked",
        lambda x: 0.9 - 1.6 * np.abs(x),
        (-1.0,),
        (1.0,),
        n_runs=30,
        length=3,
        resolution=64,
    ),
    "valley": Case(
        "valley",
        lambda x: 0.3 * np.abs(x - 0.2) + 0.1 * x - 0.3,
        (-1.5,),
        (1.5,),
        n_runs=30,
        length=3,
        resolution=64,
    ),
    "bistable": Case(
        "bistable",
        time_map(bistable_field, 0.4, 8),
        (0.5, -1.5),
        (3.5, 1.8),
        n_runs=60,
        length=3,
        resolution=32,
    ),
}


def sample_runs(case: Case, noise: float, rng: np.random.Generator) -> list[Array]:
    """Runs of a case with Gaussian noise in every step, shape ``(length, d)`` each."""
    states = [rng.uniform(case.lower, case.upper, (case.n_runs, len(case.lower)))]
    for _ in range(case.length - 1):
        ideal = case.point_map(states[-1])
        states.append(ideal + noise * rng.standard_normal(ideal.shape))
    return list(np.stack(states, axis=1))


def one_repetition(
    case: Case, noise: float, confidence: float, seed: int, n_points: int = 4000
) -> tuple[bool, float, float, float]:
    """Whether the boxes hold all images; share outside; median excess half-width; unknown share."""
    rng = np.random.default_rng([seed, 7])
    grid = CubicalGrid(case.lower, case.upper, (case.resolution,) * len(case.lower))
    lattice = Lattice(grid, (1,) * grid.dim)
    pairs = pairs_of_runs(sample_runs(case, noise, rng)).starting_in(grid.lower, grid.upper)
    model = fit_local_map(pairs, lattice, rng)
    bands = model.bands(confidence)
    low, up = model.image_boxes(bands)
    unknown = model.unknown_cells()
    points = rng.uniform(grid.lower, grid.upper, (n_points, grid.dim))
    cell = grid.cell_of(points)
    known = ~unknown[cell]
    image = case.point_map(points)
    outside = ((image < low[cell]) | (image > up[cell]))[known]
    around = np.concatenate(
        [
            band.c * part.largest_corner(values.deviation) / grid.cell_widths
            for band, part, values in zip(bands, model.lattices, model.values, strict=True)
            if values is not None
        ]
    )
    return (
        not outside.any(),
        float(outside.sum() / points.size),
        float(np.median(around)),
        float(unknown.mean()),
    )


def blocks_of_repetition(
    case: Case, noise: float, confidence: float, seed: int, n_points: int = 60
) -> list[tuple[bool, float]]:
    """Whether the block of each attractor is mapped into itself, and the attractor's ``mu``."""
    rng = np.random.default_rng([seed, 7])
    grid = CubicalGrid(case.lower, case.upper, (case.resolution,) * len(case.lower))
    lattice = Lattice(grid, (1,) * grid.dim)
    pairs = pairs_of_runs(sample_runs(case, noise, rng)).starting_in(grid.lower, grid.upper)
    model = fit_local_map(pairs, lattice, rng)
    if model.factors.max() >= PLAINLY_WRONG:
        return []
    unknown = model.unknown_cells()

    def map_at(level: float) -> MapAtLevel:
        bands = model.bands(level)
        return MapAtLevel(bands[0].c, partial(model.image_boxes, bands, None))

    everything = np.arange(grid.size)
    image = outer_approximation(
        *map_at(confidence).images(everything), grid, exterior_cells=unknown
    )
    found = morse_graph(image)
    attractors = [found.morse_sets[a] for a in found.attractors]
    climbed = climb_map(map_at, lattice, attractors, confidence, unknown, model.n_points)
    out = []
    for i, mu in enumerate(climbed.each):
        # The level that gives mu: without it the lowest one.
        fails = [
            failure_bound(map_at(level).c, grid.dim, model.n_points(b[i]))
            if b[i].size and (climbed.ladder.blocks[j] == i).sum() == 1
            else 1.0
            for j, (level, b) in enumerate(
                zip(climbed.ladder.levels.tolist(), climbed.blocks, strict=True)
            )
        ]
        block = climbed.blocks[int(np.argmin(fails))][i]
        low, up = (corner[block] for corner in grid.cell_bounds())
        points = rng.uniform(low, up, (n_points, *low.shape)).reshape(-1, grid.dim)
        landed = grid.cell_of(case.point_map(points))
        out.append((bool(np.isin(landed, block).all()), float(mu)))
    return out


def print_blocks(cases: list[Case], noises: list[float], repetitions: int, level: float) -> None:
    """The table of blocks."""
    print(
        "| map | noise | blocks | not mapped into themselves | median 1 - mu | largest mu of one |"
    )
    print("|---|---|---|---|---|---|")
    for case in cases:
        for noise in noises:
            rows = [
                r
                for seed in range(repetitions)
                for r in blocks_of_repetition(case, noise, level, seed)
            ]
            wrong = [mu for held, mu in rows if not held]
            lacking = f"{np.median([1 - mu for _, mu in rows]):.1e}" if rows else "-"
            worst = short_of_one(max(wrong)) if wrong else "-"
            print(
                f"| {case.name} | {noise:g} | {len(rows)} | {len(wrong)} | {lacking} | {worst} |",
                flush=True,
            )


def main(arguments: list[str] | None = None) -> dict[tuple[str, float], float]:
    """Print a table; return the share of repetitions that hold for each case and noise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--noise", nargs="+", type=float, default=[0.003, 0.03, 0.15])
    parser.add_argument("--times", type=int, default=1, help="so many times the runs of a case")
    parser.add_argument("--blocks", action="store_true", help="blocks of attractors instead")
    given = parser.parse_args(arguments)
    cases = [
        dataclasses.replace(CASES[name], n_runs=given.times * CASES[name].n_runs)
        for name in given.cases
    ]
    if given.blocks:
        print_blocks(cases, given.noise, given.repetitions, given.confidence)
        return {}
    print("| map | noise | holds | images outside | half-width, cells | unknown | seconds each |")
    print("|---|---|---|---|---|---|---|")
    shares = {}
    for case in cases:
        for noise in given.noise:
            start = time.perf_counter()
            rows = [
                one_repetition(case, noise, given.confidence, seed)
                for seed in range(given.repetitions)
            ]
            held, outside, width, unknown = np.mean(rows, axis=0)
            each = (time.perf_counter() - start) / given.repetitions
            shares[case.name, noise] = float(held)
            print(
                f"| {case.name} | {noise:g} | {held:.3f} | {outside:.2e} | {width:.2f} "
                f"| {unknown:.3f} | {each:.2f} |",
                flush=True,
            )
    return shares


if __name__ == "__main__":
    main()
