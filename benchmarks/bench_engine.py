"""The engine against CMGDB's batch mode: from the same vectorised point map to the Morse graph.

    python benchmarks/bench_engine.py [--repeats 5] [--cells 14 16 18 20] [--skip-process]

Both sides get the same point map, evaluate it at the corners of all cells of a uniform grid, add
one cell of padding, and find the Morse sets and their order. A time counts only if the two graphs
are the same: the same Morse sets, cell for cell, and the same order. The two alternate, and
the ratio is the median over the repetitions. CMGDB runs with all cells at its finest level and its
default chunks and cache; refining from coarse cells, which it can also do, is another task. Both
compute what each cell can reach only on request; the last column is the engine's time with it.

Memory is the peak that NumPy allocated (tracemalloc, in a run of its own), including the boxes
and the map, per edge of the map.

The last table drives CMGDB as DOODL3 does, one cell at a time, with a scikit-learn Gaussian process
as the map.
"""

from __future__ import annotations

import argparse
import statistics
import time
import tracemalloc
from dataclasses import dataclass

import CMGDB
import networkx as nx
import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from lightning_morse import CubicalGrid, morse_graph, outer_approximation
from lightning_morse.conley.box_maps import corner_images
from lightning_morse.conley.point_maps import PointMap, time_map


def leslie(x):
    young, old = x[:, 0], x[:, 1]
    offspring = (19.6 * young + 23.68 * old) * np.exp(-0.1 * (young + old))
    return np.stack([offspring, 0.7 * young], axis=1)


def van_der_pol(x):
    return np.stack([x[:, 1], (1 - x[:, 0] ** 2) * x[:, 1] - x[:, 0]], axis=1)


def double_wells(x):
    return x - x * x * x


@dataclass(frozen=True)
class Case:
    """A point map on a box."""

    name: str
    point_map: PointMap
    lower: list[float]
    upper: list[float]

    def grid(self, depth: int) -> CubicalGrid:
        """The grid of 2^depth cells obtained by halving the axes in turn."""
        dim = len(self.lower)
        shape = [2 ** ((depth - axis + dim - 1) // dim) for axis in range(dim)]
        return CubicalGrid(self.lower, self.upper, shape)


CASES = {
    "Leslie": Case("Leslie", leslie, [-0.001] * 2, [90.0, 70.0]),
    "Van der Pol": Case("Van der Pol", time_map(van_der_pol, 0.3, 4), [-4.0] * 2, [4.0] * 2),
    **{
        f"wells {d}-D": Case(f"wells {d}-D", time_map(double_wells, 0.7, 4), [-1.7] * d, [1.6] * d)
        for d in (1, 2, 3)
    },
}


def ours(case: Case, depth: int):
    grid = case.grid(depth)
    image = outer_approximation(*corner_images(case.point_map, grid, padding=1), grid)
    return morse_graph(image), image


def theirs(case: Case, depth: int, *, batch: bool = True):
    def point(x):
        return case.point_map(np.array([x]))[0]

    model = CMGDB.Model(
        depth, case.lower, case.upper, lambda rect: CMGDB.BoxMap(point, rect, padding=True)
    )
    if batch:
        model.set_batch_map(lambda rects: CMGDB.BoxMapBatch(case.point_map, rects, padding=True))
    return CMGDB.ComputeMorseGraph(model)


def graph_of_ours(found):
    sets = [frozenset(cells.tolist()) for cells in found.morse_sets]
    return set(sets), {(sets[q], sets[p]) for q, p in nx.transitive_closure(found.graph).edges}


def graph_of_theirs(found, grid: CubicalGrid):
    sets = []
    for v in found.vertices():
        boxes = np.array([found.phase_space_box(c) for c in found.morse_set(v)])
        centers = (boxes[:, : grid.dim] + boxes[:, grid.dim :]) / 2
        sets.append(frozenset(grid.cell_of(centers).tolist()))
    order = nx.transitive_closure(nx.DiGraph(found.edges()))
    return set(sets), {(sets[q], sets[p]) for q, p in order.edges}


def timed(function, *arguments, **options):
    start = time.perf_counter()
    result = function(*arguments, **options)
    return time.perf_counter() - start, result


def compare(case: Case, depth: int, repeats: int) -> dict[str, float | str]:
    """One row: the graphs first, then the times, alternating, then the memory."""
    found, image = ours(case, depth)
    reference, _ = theirs(case, depth)
    if graph_of_ours(found) != graph_of_theirs(reference, case.grid(depth)):
        raise AssertionError(f"{case.name} at 2^{depth}: the two Morse graphs differ")
    edges, sets = image.nnz, len(found.morse_sets)
    del found, image, reference
    pairs = []
    for _ in range(repeats):
        a, _ = timed(theirs, case, depth)
        b, _ = timed(ours, case, depth)
        pairs.append((a, b))
    with_reach = [timed(lambda: ours(case, depth)[0].reach)[0] for _ in range(repeats)]
    tracemalloc.start()
    ours(case, depth)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "map": case.name,
        "cells": f"2^{depth}",
        "edges per cell": edges / 2**depth,
        "Morse sets": sets,
        "CMGDB [s]": statistics.median(a for a, _ in pairs),
        "ours [s]": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
        "bytes per edge": peak / edges,
        "with reach [s]": statistics.median(with_reach),
    }


def process_case(n: int = 100) -> Case:
    """A Gaussian process fitted to the Van der Pol flow after one unit of time."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-4, 4, (n, 2))
    y = time_map(van_der_pol, 1.0, 40)(x)
    process = GaussianProcessRegressor(
        RBF([2.0, 2.0], (0.5, 20.0)), alpha=1e-8, normalize_y=True
    ).fit(x, y)
    return Case("process", process.predict, [-4.0] * 2, [4.0] * 2)


def compare_process(case: Case, depth: int) -> dict[str, float | str]:
    """One row: CMGDB cell by cell against all lattice points together."""
    a, (reference, _) = timed(theirs, case, depth, batch=False)
    times = []
    for _ in range(5):
        b, (found, image) = timed(ours, case, depth)
        times.append(b)
    if graph_of_ours(found) != graph_of_theirs(reference, case.grid(depth)):
        raise AssertionError(f"process at 2^{depth}: the two Morse graphs differ")
    return {
        "map": "GP, cell by cell",
        "cells": f"2^{depth}",
        "edges per cell": image.nnz / 2**depth,
        "Morse sets": len(found.morse_sets),
        "CMGDB [s]": a,
        "ours [s]": statistics.median(times),
        "ratio": a / statistics.median(times),
    }


def print_rows(rows: list[dict[str, float | str]]) -> None:
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        cells = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()]
        print("| " + " | ".join(cells) + " |", flush=True)
    print()


def main(arguments: list[str] | None = None) -> list[dict[str, float | str]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cells", type=int, nargs="+", default=[14, 16, 18, 20])
    parser.add_argument("--maps", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--process-cells", type=int, default=15)
    parser.add_argument("--skip-process", action="store_true")
    options = parser.parse_args(arguments)
    rows = [
        compare(CASES[name], depth, options.repeats)
        for name in options.maps
        for depth in options.cells
    ]
    print_rows(rows)
    if not options.skip_process:
        row = compare_process(process_case(), options.process_cells)
        print_rows([row])
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
