r"""Kernels and warps on real slices: does the band hold the gradient, and what is resolved?

    python benchmarks/kernels.py [--seeds 2] [--samples 128]

Product Matern-5/2 and 7/2, each for the loss as it is and for its logarithm above a fitted floor,
on the slices of ``real_slices.py`` with a design that fills the box. (Paths of product Matern-3/2
have no gradient with a differentiable mean, so nothing could be enclosed.) One row per slice and
model: log evidence relative to the best; largest standardised leave-one-out residual; largest error
of the gradient over 65 x 65 points in standard deviations, as fitted, without inflation (a band of
4.8 of them holds if it is smaller); attractors found and share in certain basins with these
deviations.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from real_slices import Digits, NetworkSlice, make_slice

from lightning_morse.analysis.charts import chart
from lightning_morse.analysis.design import design
from lightning_morse.analysis.phase_portrait import phase_portrait
from lightning_morse.bands.gradient import gradient_band
from lightning_morse.gp.fit import fit
from lightning_morse.gp.kernels import MATERN_5_2, MATERN_7_2
from lightning_morse.gp.process import SurrogateError
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice
from lightning_morse.grids.nested import NestedGrid
from lightning_morse.stopwatch import Stopwatch

MODELS = {
    f"{kernel.name.split('-')[-1]}, {warp}": (kernel, warp == "log")
    for kernel in (MATERN_5_2, MATERN_7_2)
    for warp in ("plain", "log")
}


def main(argv: Sequence[str] | None = None) -> list[dict[str, object]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--digits", type=int, default=512, help="size of the probe set")
    parser.add_argument("--steps", type=int, default=600, help="training steps of each network")
    parser.add_argument("--resolution", type=int, default=128, help="cells on each axis")
    args = parser.parse_args(argv)
    digits = Digits.subset(args.digits)
    rows: list[dict[str, object]] = []
    print("| slice | model | evidence | largest residual | largest error | attractors | certain |")
    print("|---|---|---|---|---|---|---|")
    for kind in ("pca", "random", "solutions"):
        for activation in ("tanh", "relu"):
            for seed in range(args.seeds):
                network = make_slice(digits, kind, activation, seed, args.steps)
                found = list(compared(network, args.samples, args.resolution, seed))
                best = max(float(row["evidence"]) for row in found)
                for row in found:
                    row["slice"] = f"{kind}, {activation}, {seed}"
                    row["evidence"] = float(row["evidence"]) - best
                    print(
                        f"| {row['slice']} | {row['model']} | {row['evidence']:.0f} "
                        f"| {row['residual']:.1f} | {row['error']:.1f} | {row['attractors']} "
                        f"| {row['certain']:.2f} |",
                        flush=True,
                    )
                rows += found
    return rows


def compared(
    network: NetworkSlice, n_samples: int, resolution: int, seed: int
) -> Iterator[dict[str, object]]:
    """Each model that can be fitted to samples of a slice, held against its true gradient."""
    low, up = -network.half, network.half
    x = design(low, up, n_samples, seed)
    losses = network.loss(torch.from_numpy(x)).numpy()
    axes = [np.linspace(-h, h, 65) for h in network.half]
    points = np.stack([m.ravel() for m in np.meshgrid(*axes)], axis=1)
    there, gradient = network.loss_and_gradient(points)
    lattice = Lattice.of(CubicalGrid(low, up, (resolution,) * 2))
    for name, (kernel, warped) in MODELS.items():
        try:
            surrogate = fit(x, losses, low, up, kernel, warped)
        except SurrogateError:
            continue
        # Where the log is requested but not chosen, the fit is the plain one again.
        if warped and math.isinf(surrogate.warp.scale):
            continue
        at = surrogate.posterior(points)
        bend = 1 + (there - surrogate.warp.origin) / surrogate.warp.scale
        error = np.abs(gradient / bend[:, None] - at.gradient)
        band = partial(gradient_band, confidence=0.955)
        nowhere = np.zeros(lattice.grid.size, dtype=bool)
        only = chart(surrogate, lattice, band, nowhere, Stopwatch())
        portrait = phase_portrait(NestedGrid.of(lattice.grid), [only], 0.005, Stopwatch())
        yield {
            "model": name,
            "evidence": surrogate.log_evidence,
            "residual": float(np.abs(surrogate.leave_one_out()).max()),
            "error": float((error / at.gradient_deviation).max()),
            "attractors": len(portrait.found.attractors),
            "certain": float(np.mean(portrait.labels >= 0)),
        }


if __name__ == "__main__":
    main()
