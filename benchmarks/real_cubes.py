r"""Real networks in three dimensions: does the gradient stay in the band, are labels right?

    python benchmarks/real_cubes.py [--seeds 3] [--samples 256] [--resolution 32]

Networks, probe set and boxes are those of ``real_slices.py``, with three directions. The exact
gradient is compared with the band at every point of the lattice, where the band is that of a halved
lattice with deviations estimated inside the cells (:mod:`lightning_morse.bands.gradient`). From
some points of certain cells the exact gradient flow of the warped loss is followed in small steps;
a label is disputed if it ends farther than two cells from every cell of the attractor it names, or,
for a cell that escapes, inside the box where the flow is at rest.

One row per slice: what is claimed and 1 - mu, shares of the box in certain basins and escaping,
number of halvings, largest error over band, starts followed and labels disputed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

import lightning_morse as lm
from lightning_morse.bands.gradient import gradient_band
from lightning_morse.conley.reach import ESCAPES, UNDECIDED
from lightning_morse.grids.lattice import Lattice
from lightning_morse.slices.bases import pca_directions, random_directions
from lightning_morse.slices.subspace import AffineSubspace

sys.path.insert(0, str(Path(__file__).parent))
import real_slices as planes
import torch

KINDS = ("pca", "random")
ACTIVATIONS = ("tanh", "gelu", "relu")
CONFIDENCE = 0.95


def make_cube(
    digits: planes.Digits, kind: str, activation: str, seed: int, steps: int
) -> planes.NetworkSlice:
    """A slice with three directions; the box as in the plane."""
    weights, path = digits.train(activation, 3 * seed, steps)
    if kind == "pca":
        space = AffineSubspace(weights, pca_directions(torch.cat([path, weights[None]]), 3))
        half = planes.half_widths(space.project(path).numpy())
    else:
        generator = torch.Generator().manual_seed(seed)
        directions, norms = random_directions(planes.layers(weights), 3, generator)
        space, half = AffineSubspace(weights, directions), norms.numpy()
    return planes.NetworkSlice(digits, activation, space, half)


def largest_ratio(network: planes.NetworkSlice, result: lm.MorseAnalysis) -> tuple[float, int]:
    """Largest error of the gradient over the band on the lattice, and halvings of the lattice."""
    lattice = Lattice.of(result.grid)
    surrogate = planes.surrogate_of(result)
    posterior = surrogate.lattice_posterior(lattice.axes)
    band = gradient_band(surrogate, lattice, posterior, 1 - 0.9 * (1 - CONFIDENCE))
    points = np.stack(np.meshgrid(*lattice.axes, indexing="ij"), -1).reshape(-1, lattice.dim)
    loss, gradient = network.loss_and_gradient(points)
    bend = 1 + (loss - surrogate.warp.origin) / surrogate.warp.scale
    error = np.abs(gradient / bend[:, None] - posterior.gradient)
    error[bend <= 0] = np.inf
    # A point lies in the band of every cell it is a corner of.
    worst = lattice.largest_corner(error)
    return float((worst / band.radius).max()), band.halvings


def disputed(
    network: planes.NetworkSlice, result: lm.MorseAnalysis, n_starts: int, seed: int
) -> tuple[int, int]:
    """Number of flows followed from certain cells, and of those that contradict their label."""
    grid = result.grid
    certain = np.flatnonzero(result.labels != UNDECIDED)
    if not certain.size:
        return 0, 0
    rng = np.random.default_rng(seed)
    cells = rng.choice(certain, n_starts)
    x = grid.cell_centers()[cells] + (rng.random((n_starts, 3)) - 0.5) * grid.cell_widths
    inside = np.ones(n_starts, dtype=bool)
    for _ in range(1200):
        _, gradient = network.loss_and_gradient(x[inside])
        # Half a cell at most, and never further than the flow at rest would go.
        pace = np.abs(gradient / grid.cell_widths).max(axis=1, keepdims=True)
        x[inside] -= np.minimum(0.1 / np.maximum(pace, 1e-12), 3.0) * gradient
        inside &= ((x >= grid.lower) & (x <= grid.upper)).all(axis=1)
        if not inside.any():
            break
    wrong = 0
    for start, end, stays in zip(result.labels[cells], x, inside, strict=True):
        if start == ESCAPES:
            wrong += bool(stays)
            continue
        home = grid.cell_centers()[result.morse_sets[start].cells]
        away = np.abs((end - home) / grid.cell_widths).max(axis=1).min()
        wrong += not stays or away > 2.5
    return n_starts, wrong


HEADER = """\
| slice | activation | seed | claimed | 1 - mu | in basins | escape | halvings | error / band | \
samples | followed, disputed |
|---|---|---|---|---|---|---|---|---|---|---|"""


def main(argv: Sequence[str] | None = None) -> list[dict[str, object]]:
    """Print the table; return its rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each kind and activation")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--activations", nargs="+", choices=ACTIVATIONS, default=ACTIVATIONS)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--digits", type=int, default=512)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--starts", type=int, default=60)
    options = parser.parse_args(argv)
    digits = planes.Digits.subset(options.digits)
    began, rows = time.perf_counter(), []
    print(HEADER)
    for kind, activation, seed in product(options.kinds, options.activations, range(options.seeds)):
        network = make_cube(digits, kind, activation, seed, options.steps)
        result = lm.analyze(
            network.loss,
            -network.half,
            network.half,
            options.samples,
            options.resolution,
            CONFIDENCE,
            seed,
        )
        ratio, halvings = largest_ratio(network, result)
        followed, wrong = disputed(network, result, options.starts, seed)
        basins = sum(result.basin_volumes.values())
        rows.append({"ratio": ratio, "halvings": halvings, "followed": followed, "wrong": wrong})
        print(
            f"| {kind} | {activation} | {seed} | {result.claim} | {1 - result.mu:.1e} "
            f"| {basins:.2f} | {result.escape:.2f} | {halvings} | {ratio:.2f} "
            f"| {len(result.samples)} | {followed}, {wrong} |",
            flush=True,
        )
    outside = sum(r["ratio"] > 1 for r in rows)
    wrong = sum(r["wrong"] for r in rows)
    print(
        f"\n{len(rows)} slices, gradient outside the band on {outside}, {wrong} of "
        f"{sum(r['followed'] for r in rows)} labels disputed, {time.perf_counter() - began:.0f} s"
    )
    return rows


if __name__ == "__main__":
    main()
