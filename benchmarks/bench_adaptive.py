"""Morse graphs on adaptive grids: cells and seconds, compared with CMGDB.

    python benchmarks/bench_adaptive.py [--repeats 3] [--cases ...] [--skip-cmgdb]

In the first table both sides start from the same coarse grid, refine the recurrent cells down to
the same depth, and evaluate the same vectorised point map at the corners of boxes with one box of
padding. A time counts only if the Morse sets are the same, cell for cell. The order need not be the
same: the last two columns count its pairs. Every pair of the uniform grid is among ours.

The second table is for the engine alone: gradient flows, where the cells that can contain a
critical point are known from bounds on the Hessian, and undecided cells are refined as well.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import CMGDB
import networkx as nx
import numpy as np
from bench_engine import leslie, print_rows, timed

from lightning_morse import CubicalGrid, RefinedMorseGraph, refined_morse_graph
from lightning_morse.conley.box_maps import BoxMap, corner_box_map
from lightning_morse.conley.point_maps import PointMap, time_map
from lightning_morse.conley.reach import UNDECIDED


def himmelblau_gradient(x):
    a, b = x[:, 0] ** 2 + x[:, 1] - 11, x[:, 0] + x[:, 1] ** 2 - 7
    return np.stack([4 * x[:, 0] * a + 2 * b, 2 * a + 4 * x[:, 1] * b], axis=1)


def himmelblau_critical(lower, upper):
    """Boxes that can contain a zero of the gradient, by bounds on the Hessian over each box."""
    x, y = (0.5 * (lower + upper)).T
    h, k = (0.5 * (upper - lower) * (1 + 1e-9)).T
    across = 4 * (np.abs(x + y) + h + k)
    first = np.abs(12 * x**2 + 4 * y - 42) + 12 * (2 * np.abs(x) + h) * h + 4 * k
    second = np.abs(12 * y**2 + 4 * x - 26) + 12 * (2 * np.abs(y) + k) * k + 4 * h
    reach = np.stack([first * h + across * k, across * h + second * k], axis=1)
    return (np.abs(himmelblau_gradient(0.5 * (lower + upper))) <= reach + 1e-9).all(axis=1)


himmelblau_flow = time_map(lambda x: -himmelblau_gradient(x), 0.1, 50)
wells_flow = time_map(lambda x: x - x * x * x, 2.0, 40)


def wells_images(lower, upper):
    """Exact up to the error of Runge-Kutta, below 1e-5, since each coordinate is increasing."""
    return wells_flow(lower) - 1e-5, wells_flow(upper) + 1e-5


def wells_critical(lower, upper):
    return np.any([(lower <= c) & (upper >= c) for c in (-1, 0, 1)], axis=0).all(axis=1)


@dataclass(frozen=True)
class Beside:
    """A map to refine here and with CMGDB; the coarse grid has powers of two of cells per axis."""

    point_map: PointMap
    lower: list[float]
    upper: list[float]
    halvings: int
    depth: int

    @property
    def grid(self) -> CubicalGrid:
        """Where the refinement starts."""
        return CubicalGrid(self.lower, self.upper, (2**self.halvings,) * len(self.lower))


@dataclass(frozen=True)
class Alone:
    """A gradient flow to refine."""

    images: BoxMap
    critical: Callable
    grid: CubicalGrid
    depth: int
    refine: str


def wells_grid(d: int, cells: int) -> CubicalGrid:
    return CubicalGrid([-1.7] * d, [1.6] * d, (cells,) * d)


HIMMELBLAU = CubicalGrid([-5.0] * 2, [5.0] * 2, (64, 64))
CASES: dict[str, Beside | Alone] = {
    "Himmelblau": Beside(himmelblau_flow, [-5.0] * 2, [5.0] * 2, 6, 6),
    "Leslie": Beside(leslie, [-0.001] * 2, [90.0, 70.0], 4, 4),
    "Leslie, finer": Beside(leslie, [-0.001] * 2, [90.0, 70.0], 6, 6),
    "wells 3-D": Beside(wells_flow, [-1.7] * 3, [1.6] * 3, 4, 4),
    **{
        f"Himmelblau, {refine}": Alone(
            corner_box_map(himmelblau_flow, padding=0.1), himmelblau_critical, HIMMELBLAU, 6, refine
        )
        for refine in ("recurrent", "undecided")
    },
    "wells 3-D, recurrent": Alone(wells_images, wells_critical, wells_grid(3, 16), 8, "recurrent"),
    "wells 3-D, undecided": Alone(wells_images, wells_critical, wells_grid(3, 16), 4, "undecided"),
    "wells 4-D, recurrent": Alone(wells_images, wells_critical, wells_grid(4, 8), 9, "recurrent"),
    "wells 4-D, undecided": Alone(wells_images, wells_critical, wells_grid(4, 8), 2, "undecided"),
    "wells 5-D, recurrent": Alone(wells_images, wells_critical, wells_grid(5, 7), 6, "recurrent"),
}


def ours(case: Beside | Alone) -> RefinedMorseGraph:
    if isinstance(case, Beside):
        return refined_morse_graph(corner_box_map(case.point_map, padding=1), case.grid, case.depth)
    return refined_morse_graph(
        case.images, case.grid, case.depth, refine=case.refine, critical=case.critical
    )


def theirs(case: Beside):
    def point(x):
        return case.point_map(np.array([x]))[0]

    dim = len(case.lower)
    finest = dim * (case.halvings + case.depth)
    model = CMGDB.Model(
        finest,
        finest,
        dim * case.halvings,
        2**30,
        case.lower,
        case.upper,
        lambda rect: CMGDB.BoxMap(point, rect, padding=True),
    )
    model.set_batch_map(lambda rects: CMGDB.BoxMapBatch(case.point_map, rects, padding=True))
    return CMGDB.ComputeMorseGraph(model)[0]


def graph_of_ours(result: RefinedMorseGraph):
    sets = [frozenset(cells.tolist()) for cells in result.found.morse_sets]
    pairs = nx.transitive_closure(result.found.graph).edges
    return set(sets), {(sets[q], sets[p]) for q, p in pairs}


def graph_of_theirs(found, result: RefinedMorseGraph):
    """CMGDB's Morse sets in cells of our grid; a box that is not a cell of it is an error."""
    dim, sets = result.grid.dim, []
    for v in found.vertices():
        boxes = np.array([found.phase_space_box(c) for c in found.morse_set(v)])
        cells = result.grid.cell_of((boxes[:, :dim] + boxes[:, dim:]) / 2)
        if not np.allclose(np.hstack(result.grid.cell_bounds(cells)), boxes, atol=1e-9):
            raise AssertionError("a Morse set of CMGDB holds a box that is no cell here")
        sets.append(frozenset(cells.tolist()))
    order = nx.transitive_closure(nx.DiGraph(found.edges()))
    return set(sets), {(sets[q], sets[p]) for q, p in order.edges}


def row(name: str, case: Beside | Alone, result: RefinedMorseGraph) -> dict[str, float | str]:
    finest = max(case.grid.shape) << case.depth
    cells = math.prod(case.grid.shape) << case.depth * case.grid.dim
    return {
        "map": name,
        "cells per axis": f"{max(case.grid.shape)} to {finest}",
        "uniform grid": f"{cells:.2g}",
        "cells": str(result.grid.size),
        "edges": str(result.image.nnz),
        "Morse sets": str(len(result.found.morse_sets)),
        "attractors": str(len(result.found.attractors)),
    }


def compare(name: str, case: Beside, repeats: int) -> dict[str, float | str]:
    """One row: the graphs first, then the times, alternating."""
    result, reference = ours(case), theirs(case)
    (sets, pairs), (their_sets, their_pairs) = (
        graph_of_ours(result),
        graph_of_theirs(reference, result),
    )
    if sets != their_sets:
        raise AssertionError(f"{name}: the Morse sets differ")
    turns = [(timed(theirs, case)[0], timed(ours, case)[0]) for _ in range(repeats)]
    return {
        **row(name, case, result),
        "CMGDB [s]": statistics.median(a for a, _ in turns),
        "ours [s]": statistics.median(b for _, b in turns),
        "pairs in order": str(len(pairs)),
        "CMGDB's": f"{len(their_pairs)}, {len(pairs - their_pairs)} of ours missing",
    }


def measure(name: str, case: Alone, repeats: int) -> dict[str, float | str]:
    times, results = zip(*(timed(ours, case) for _ in range(repeats)), strict=True)
    result = results[0]
    return {
        **row(name, case, result),
        "complete": str(result.complete),
        "undecided": result.volume(UNDECIDED),
        "graph [s]": statistics.median(times),
    }


def main(arguments: list[str] | None = None) -> list[dict[str, float | str]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--skip-cmgdb", action="store_true")
    options = parser.parse_args(arguments)
    chosen = {name: CASES[name] for name in options.cases}
    beside = [
        compare(name, case, options.repeats)
        for name, case in chosen.items()
        if isinstance(case, Beside) and not options.skip_cmgdb
    ]
    alone = [
        measure(name, case, options.repeats)
        for name, case in chosen.items()
        if isinstance(case, Alone)
    ]
    for rows in (beside, alone):
        if rows:
            print_rows(rows)
    return beside + alone


if __name__ == "__main__":
    main()
