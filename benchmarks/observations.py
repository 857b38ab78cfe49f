r"""Do gradients tell more than values, for the same number of forward passes?

    python benchmarks/observations.py [--seeds 3] [--evaluations 128]

A forward and a backward pass together count as three forward passes. So 128 values are compared
with 42 points with value and gradient. The gradient is observed through ``d`` further values half a
per cent of the box away, which the surrogate takes as values; they are not counted. Both
designs fill the box, and no sample is placed adaptively. Slices: planes through three networks (see
``real_slices.py``), Himmelblau's function, the sum of three double wells.

One row per slice: attractors found, share of the box in certain basins, and the mean over the
lattice of the posterior deviation of the gradient, relative to that with values.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch
from real_slices import Digits, make_slice

from lightning_morse.analysis.design import design
from lightning_morse.analysis.pipeline import analyze_samples
from lightning_morse.gp.calibration import fit_calibrated

COST_OF_GRADIENT = 3
STEP = 5e-3


def himmelblau(x: torch.Tensor) -> torch.Tensor:
    return (x[:, 0] ** 2 + x[:, 1] - 11) ** 2 + (x[:, 0] + x[:, 1] ** 2 - 7) ** 2


def wells(x: torch.Tensor) -> torch.Tensor:
    return (x**2 - 1).square().sum(dim=1)


def with_neighbours(x: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Points, and for each a neighbour along every axis, towards the middle of the box."""
    steps = -np.where(x > 0, 1.0, -1.0)[:, None] * np.diag(2 * STEP * half)
    return np.concatenate([x, (x[:, None] + steps).reshape(-1, x.shape[1])])


def compare(
    loss: Callable[[torch.Tensor], torch.Tensor],
    half: np.ndarray,
    evaluations: int,
    resolution: int,
    seed: int,
) -> dict[str, float]:
    """Analyse the same slice from values and from gradients."""
    designs = {
        "values": design(-half, half, evaluations, seed),
        "gradients": with_neighbours(
            design(-half, half, evaluations // COST_OF_GRADIENT, seed), half
        ),
    }
    lattice = np.stack(
        [m.ravel() for m in np.meshgrid(*[np.linspace(-h, h, 17) for h in half])], axis=1
    )
    row = {}
    for name, x in designs.items():
        values = loss(torch.from_numpy(x)).numpy()
        result = analyze_samples(x, values, -half, half, resolution)
        surrogate = fit_calibrated(x, values, -half, half).surrogate
        row[f"{name} found"] = result.n_attractors
        row[f"{name} share"] = float(np.mean(result.labels >= 0))
        row[f"{name} deviation"] = float(np.mean(surrogate.posterior(lattice).gradient_deviation))
    return row


def main(argv: Sequence[str] | None = None) -> list[dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=128)
    parser.add_argument("--digits", type=int, default=512, help="size of the probe set")
    parser.add_argument("--steps", type=int, default=600, help="training steps of each network")
    parser.add_argument("--resolution", type=int, default=128, help="cells per axis of the planes")
    args = parser.parse_args(argv)
    digits = Digits.subset(args.digits)
    slices = []
    for activation in ("tanh", "relu"):
        for seed in range(args.seeds):
            network = make_slice(digits, "solutions", activation, seed, args.steps)
            name = f"three solutions, {activation}, {seed}"
            slices.append((name, network.loss, network.half, args.resolution, seed))
    slices.append(("Himmelblau", himmelblau, np.full(2, 5.0), args.resolution, 0))
    slices.append(("three double wells", wells, np.full(3, 1.6), min(32, args.resolution), 0))
    print("| slice | attractors: values, gradients | certain: values, gradients | deviation |")
    print("|---|---|---|---|")
    rows = []
    for name, loss, half, resolution, seed in slices:
        row = compare(loss, half, args.evaluations, resolution, seed)
        rows.append(row)
        print(
            f"| {name} | {row['values found']}, {row['gradients found']} "
            f"| {row['values share']:.2f}, {row['gradients share']:.2f} "
            f"| {row['gradients deviation'] / row['values deviation']:.2f} |",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
