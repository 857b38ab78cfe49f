"""A map of several scales, learnt by one process for the entire box and by local ones.

    python benchmarks/local_maps.py [--pairs 300 900 2400 6000] [--seeds 1]

The flow ``r' = -k r (r^2 - a) (r^2 - b) (r^2 - c)``, ``phi' = 1`` in the plane, ``a < b < c``: two
attracting limit cycles, a repelling one between them, and an outside that attracts strongly (in the
corners of the box 3,000 times as fast as the inner cycle does). Its time map is sampled without
noise at uniform states. *Before*: the box is never cut. *After*: as analysed now.

*Certain*: share of the box with a certain basin, 0 where ``mu`` is 0, for then nothing is claimed.
*Wrong*: among 20,000 states, those whose label is not true: their limit cycle is not in the
attractor they are said to reach, or they are said to leave the known part of the box and do not.
*Outside*: those of them that start in a known cell and whose image is not in the box of the cell.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from lightning_morse.grids import partition
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice
from lightning_morse.result import MorseAnalysis
from lightning_morse.stopwatch import one_thread
from lightning_morse.trajectories.local_fit import fit_local_map
from lightning_morse.trajectories.pairs import Pairs, pairs_of_runs
from lightning_morse.trajectories.pipeline import analyze_pairs
from lightning_morse.words import short_of_one

Array = NDArray[np.float64]

INNER, BETWEEN, OUTER, RATE = 0.5, 1.5, 3.0, 0.3
TIME, HALF_WIDTH = 0.5, 2.5
# Runge-Kutta steps of the squared radius: the fastest rate in the box times a step is below 1/2.
STEPS = 4000


def rings(x: Array, steps: int = STEPS) -> Array:
    """The time map of the flow at states of shape ``(n, 2)``."""

    def rate(w: Array) -> Array:
        return -2 * RATE * w * (w - INNER) * (w - BETWEEN) * (w - OUTER)

    before = (x**2).sum(axis=1)
    w, h = before, TIME / steps
    for _ in range(steps):
        k1 = rate(w)
        k2 = rate(w + h / 2 * k1)
        k3 = rate(w + h / 2 * k2)
        w = w + h / 6 * (k1 + 2 * (k2 + k3) + rate(w + h * k3))
    grown = np.sqrt(w / np.maximum(before, 1e-300))[:, None] * x
    cos, sin = math.cos(TIME), math.sin(TIME)
    return np.stack(
        [cos * grown[:, 0] - sin * grown[:, 1], sin * grown[:, 0] + cos * grown[:, 1]], 1
    )


def sampled(n: int, seed: int) -> Pairs:
    """Pairs of uniform states and their exact images."""
    start = np.random.default_rng(seed).uniform(-HALF_WIDTH, HALF_WIDTH, (n, 2))
    return pairs_of_runs(list(np.stack([start, rings(start)], axis=1)))


def limit(x: Array) -> Array:
    """A point of the limit cycle that each state approaches."""
    w = (x**2).sum(axis=1, keepdims=True)
    return np.asarray(x * np.sqrt(np.where(w > BETWEEN, OUTER, INNER) / w))


def wrong_labels(result: MorseAnalysis, states: Array, n_steps: int = 80) -> int:
    """Number of states with a certain label that is not true."""
    if result.mu == 0:
        return 0
    label, grid = result.basin_of(states), result.grid
    wrong = 0
    for i, found in enumerate(m for m in result.morse_sets if m.is_attractor):
        wrong += int((~np.isin(grid.cell_of(limit(states[label == i])), found.cells)).sum())
    leaving = states[label == -2]
    left = np.zeros(len(leaving), dtype=bool)
    for _ in range(n_steps if len(leaving) else 0):
        cell = grid.cell_of(leaving)
        left |= (cell < 0) | result.diverged[cell]
        leaving = rings(leaving, 1500)
    return wrong + int((~left).sum())


def images_outside(pairs: Pairs, grid: CubicalGrid, states: Array, seed: int = 0) -> int:
    """Number of states in known cells whose true image is not in the image box of the cell."""
    lattice = Lattice(grid, (1, 1))
    model = fit_local_map(pairs, lattice, np.random.default_rng([seed, 2]))
    low, up = model.image_boxes(model.bands(0.95))
    cell, image = grid.cell_of(states), rings(states)
    outside = ((image < low[cell]) | (image > up[cell])).any(axis=1)
    return int((outside & ~model.unknown_cells()[cell]).sum())


@dataclass(frozen=True)
class Row:
    """What is found from some pairs; see the docstring of this module."""

    pairs: int
    local: bool
    leaves: int
    void: float
    attractors: int
    mu: float
    certain: float
    inflation: float
    wrong: int
    outside: int | None
    seconds: float

    def __str__(self) -> str:
        return (
            f"| {self.pairs} | {'local' if self.local else 'one'} | {self.leaves} "
            f"| {self.void:.3f} | {self.attractors} | {short_of_one(self.mu)} "
            f"| {self.certain:.3f} | {self.inflation:.2f} | {self.wrong} | {self.outside} "
            f"| {self.seconds:.1f} |"
        )


def measured(
    n: int,
    local: bool,
    seed: int,
    resolution: int = 128,
    n_states: int = 20_000,
    images: bool = True,
) -> Row:
    """One row of the table; without ``images`` nothing is said of them, in half of the time."""
    grid = CubicalGrid([-HALF_WIDTH] * 2, [HALF_WIDTH] * 2, (resolution,) * 2)
    pairs = sampled(n, seed)
    states = np.random.default_rng([seed, 9]).uniform(grid.lower, grid.upper, (n_states, 2))
    never_cut = partition.NEVER_CUT if local else n
    with mock.patch.object(partition, "NEVER_CUT", never_cut), one_thread():
        begin = time.perf_counter()
        result = analyze_pairs(pairs, grid)
        seconds = time.perf_counter() - begin
        outside = images_outside(pairs, grid, states) if images else None
    return Row(
        pairs=n,
        local=local,
        leaves=result.surrogate.leaves,
        void=result.surrogate.void,
        attractors=result.n_attractors,
        mu=result.mu,
        certain=float((result.labels >= 0).mean()) if result.mu > 0 else 0.0,
        inflation=result.calibration,
        wrong=wrong_labels(result, states),
        outside=outside,
        seconds=seconds,
    )


def rows(pairs: list[int], seeds: list[int], ways: list[bool]) -> Iterator[Row]:
    """The rows of the table, one by one."""
    for n in pairs:
        for local in ways:
            for seed in seeds:
                yield measured(n, local, seed)


def main(arguments: list[str] | None = None) -> list[Row]:
    """Print a table; return its rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", type=int, default=[300, 900, 2400, 6000])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--ways", nargs="+", choices=["one", "local"], default=["one", "local"])
    given = parser.parse_args(arguments)
    print(
        "| pairs | processes | leaves | void | attractors | mu | certain | inflation | wrong "
        "| outside | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    found = []
    for row in rows(given.pairs, given.seeds, [way == "local" for way in given.ways]):
        print(row, flush=True)
        found.append(row)
    return found


if __name__ == "__main__":
    main()
