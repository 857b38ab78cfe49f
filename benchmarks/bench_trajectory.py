"""The analysis of recorded runs against the same surrogate evaluated one box at a time.

    python benchmarks/bench_trajectory.py [--pairs 100] [--depth 15] [--repeats 5] [--stride 1]

The released code of DOODL3 hands CMGDB a Python callable: the corners of every box go, one by one,
through a Gaussian process, and the smallest box around the answers is the image (68 s for 2^15
boxes and 100 pairs of Iris runs, mean alone). Here both sides use the *same* fitted processes:
mean and deviation of each coordinate. Cell by cell they are evaluated in two ways: "bare", with as
few NumPy calls as the formula needs, and through scikit-learn's ``predict`` with the same kernel
and hyper-parameters. A time counts only if the boxes are those of the analysis, up to rounding.

The analysis is everything but the fit, which is the same for both: posterior on the lattice, band,
boxes, map, Morse graph, basins, ladder, record. The cell-by-cell side is the boxes alone, so the
ratio is a lower bound; next to it is the ratio with our fit counted against us. Only ``--stride 1``
evaluates every box; with stride ``k`` every ``k``-th box is timed, and the time multiplied.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Kernel

from lightning_morse.bands.value import mean_remainder, value_band
from lightning_morse.conley.point_maps import time_map
from lightning_morse.gp.kernels import Matern
from lightning_morse.gp.process import GaussianProcess
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice
from lightning_morse.stopwatch import Stopwatch, one_thread
from lightning_morse.trajectories.fit import fit_trajectory_map
from lightning_morse.trajectories.learned_map import TrajectoryMap
from lightning_morse.trajectories.pairs import Pairs, pairs_of_runs
from lightning_morse.trajectories.pipeline import analyze_pairs

Array = NDArray[np.float64]
PointMap = Callable[[Array], tuple[Array, Array]]


def bistable_field(z: Array) -> Array:
    """Two sinks, (1, 1) and (3, -1), and a saddle, (2, 0)."""
    x, y = z[:, 0], z[:, 1]
    return np.stack([x * (2 - x - y), y * (4 * x - x**2 - 3)], axis=1)


def sampled_pairs(n: int, grid: CubicalGrid, seed: int) -> Pairs:
    """Pairs of the flow after 0.4 units of time, with noise 0.005."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(grid.lower, grid.upper, (n, 2))
    end = time_map(bistable_field, 0.4, 20)(start) + 0.005 * rng.standard_normal((n, 2))
    return pairs_of_runs(list(np.stack([start, end], axis=1)))


class ProductMatern(Kernel):
    """The kernel of a surrogate as a scikit-learn kernel; its hyper-parameters are fixed."""

    def __init__(self, kernel: Matern, lengthscales: Array, variance: float) -> None:
        self.kernel = kernel
        self.lengthscales = lengthscales
        self.variance = variance

    def __call__(self, X, Y=None, eval_gradient=False):
        other = X if Y is None else Y
        value = self.variance
        for axis, scale in enumerate(self.lengthscales):
            value = value * self.kernel.derivative(X[:, axis], other[:, axis], scale, 0)
        return value

    def diag(self, X):
        return np.full(len(X), self.variance)

    def is_stationary(self):
        return True


def bare(model: TrajectoryMap) -> PointMap:
    """Displacement of one state and its deviation, in as few calls as the formula needs."""

    def one(process: GaussianProcess, x: Array) -> tuple[float, float]:
        cross = process.prior_correlation(x[None], process.x, (0,) * x.size)[0]
        half = solve_triangular(process.cholesky, cross, lower=True, check_finite=False)
        variance = process.variance * max(1 - half @ half, 0.0)
        return process.mean + cross @ process.weights, variance**0.5

    def point(x: Array) -> tuple[Array, Array]:
        mean, deviation = zip(*(one(p, x) for p in model.processes), strict=True)
        return np.array(mean), np.array(deviation)

    return point


def through_sklearn(model: TrajectoryMap) -> PointMap:
    """The same through ``GaussianProcessRegressor.predict``, one state per call."""
    fitted = [
        GaussianProcessRegressor(
            ProductMatern(p.kernel, p.lengthscales, p.variance),
            alpha=p.noise * p.variance,
            optimizer=None,
        ).fit(p.x, p.y - p.mean)
        for p in model.processes
    ]

    def point(x: Array) -> tuple[Array, Array]:
        found = [f.predict(x[None], return_std=True) for f in fitted]
        means = [p.mean + m[0] for p, (m, _) in zip(model.processes, found, strict=True)]
        return np.array(means), np.array([s[0] for _, s in found])

    return point


def cell_by_cell(
    point: PointMap, grid: CubicalGrid, c: float, wide: Array, cells: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Image boxes of some cells: the corners of each, one by one, as in CMGDB's box map."""
    low, up = grid.cell_bounds()
    image_low, image_up = np.empty((cells.size, grid.dim)), np.empty((cells.size, grid.dim))
    for row, cell in enumerate(cells):
        least, most = [], []
        for corner in itertools.product(*zip(low[cell], up[cell], strict=True)):
            x = np.array(corner)
            mean, deviation = point(x)
            least.append(x + mean - c * deviation)
            most.append(x + mean + c * deviation)
        image_low[row] = np.min(least, axis=0) - wide
        image_up[row] = np.max(most, axis=0) + wide
    return image_low, image_up


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Print a table; return its rows by how the cells are evaluated."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--depth", type=int, default=15, help="2^depth boxes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--stride", type=int, default=1, help="time every k-th box")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    shape = (2 ** ((given.depth + 1) // 2), 2 ** (given.depth // 2))
    grid = CubicalGrid([0.5, -1.5], [3.5, 1.8], shape)
    pairs = sampled_pairs(given.pairs, grid, given.seed)
    with one_thread():
        model = fit_trajectory_map(
            pairs, grid.lower, grid.upper, np.random.default_rng([given.seed, 2])
        )
    lattice = Lattice(grid, tuple(-(-64 // n) for n in shape))
    band = value_band(model.processes, lattice, 0.95)
    wide = band.between + [mean_remainder(p, lattice) for p in model.processes]
    reference = model.image_boxes(lattice, model.values(lattice), band)

    cells = np.arange(0, grid.size, given.stride)
    ways = {"bare": bare(model), "scikit-learn": through_sklearn(model)}
    slow: dict[str, float] = {}
    ours: list[tuple[float, float]] = []
    for name, point in ways.items():
        # Our runs surround each of the slow ones, so that both see the same load.
        for _ in range(given.repeats):
            start = time.perf_counter()
            result = analyze_pairs(pairs, grid, seed=given.seed, clock=(clock := Stopwatch()))
            whole = time.perf_counter() - start
            ours.append((whole - clock.seconds["fit"], whole))
        with one_thread():
            start = time.perf_counter()
            boxes = cell_by_cell(point, grid, band.c, wide, cells)
            slow[name] = (time.perf_counter() - start) * grid.size / cells.size
        if max(lattice.refinement) == 1:
            for mine, theirs in zip(reference, boxes, strict=True):
                np.testing.assert_allclose(mine[cells], theirs, atol=1e-6)
    without, whole = (statistics.median(column) for column in zip(*ours, strict=True))
    print(f"{result.claim}; {result.n_morse_sets} Morse sets; {result.surrogate.n} pairs\n")
    print("| boxes | cell by cell | seconds | analysis | ratio | with our fit | ratio |")
    print("|---|---|---|---|---|---|---|")
    rows = {}
    for name, seconds in slow.items():
        rows[name] = {"seconds": seconds, "ratio": seconds / without, "with_fit": seconds / whole}
        print(
            f"| {grid.size} | {name} | {seconds:.1f} | {without:.3f} | {seconds / without:.0f} "
            f"| {whole:.3f} | {seconds / whole:.0f} |"
        )
    return rows


if __name__ == "__main__":
    main()
