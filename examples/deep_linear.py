"""Deep linear networks, for which the Morse graph is known in closed form.

On slices of networks of ``nn.Linear`` layers, ``analyze`` finds the attractors, saddles and
repellers that the theory predicts. Run with ``python examples/deep_linear.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import lightning_morse as lm

Batch = tuple[Tensor, Tensor]


def linear_network(sizes: Sequence[int]) -> nn.Sequential:
    layers = (nn.Linear(a, b, bias=False) for a, b in pairwise(sizes))
    return nn.Sequential(*layers).double()


def loss_with_decay(decay: float) -> Callable[[nn.Module, Batch], Tensor]:
    def loss(network: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        squares = sum(p.square().sum() for p in network.parameters())
        return (network(x) - y).square().sum(1).mean() / 2 + decay / 2 * squares

    return loss


def mode_data(strengths: Sequence[float]) -> Batch:
    """White inputs, and targets with modes of the given strengths."""
    n = len(strengths)
    x = n**0.5 * torch.eye(n, dtype=torch.float64)
    return x, x * torch.tensor(strengths, dtype=torch.float64)


def slice_of(
    sizes: Sequence[int],
    strengths: Sequence[float],
    together: Sequence[Sequence[int]],
    decay: float = 0.0,
) -> lm.LossSlice:
    """The loss as a function of a few weights; those of a group move together along one axis."""
    network = linear_network(sizes)
    total = sum(p.numel() for p in network.parameters())
    directions = torch.zeros(total, len(together), dtype=torch.float64)
    for axis, group in enumerate(together):
        directions[list(group), axis] = len(group) ** -0.5
    subspace = lm.AffineSubspace(torch.zeros(total, dtype=torch.float64), directions)
    return lm.LossSlice(network, subspace, [mode_data(strengths)], loss_with_decay(decay))


def two_modes() -> lm.LossSlice:
    """(3 - a^2)^2 / 2 + (1 - b^2)^2 / 2 at (a, b) sqrt 2: both layers are diag(a, b)."""
    return slice_of((2, 2, 2), [3.0, 1.0], [(0, 4), (3, 7)])


def swap() -> lm.LossSlice:
    """((a^2 - 3)^2 + (b^2 - 1)^2 + 2 a^2 b^2) / 2 at (a, b) sqrt 2: one hidden unit."""
    return slice_of((2, 1, 2), [3.0, 1.0], [(0, 2), (1, 3)])


def chain(depth: int, decay: float) -> lm.LossSlice:
    """(1 - w_L ... w_1)^2 / 2 + decay |w|^2 / 2: one unit per layer."""
    return slice_of((1,) * (depth + 1), [1.0], [(layer,) for layer in range(depth)], decay)


SLICES = {
    "two_modes": (two_modes, (3.4, 2.3)),
    "swap": (swap, (3.4, 2.4)),
    "chain": (lambda: chain(2, 0.2), (1.6, 1.6)),
    "chain_without_decay": (lambda: chain(2, 0.0), (2.0, 2.0)),
}


def main(argv: Sequence[str] | None = None) -> dict[str, lm.MorseAnalysis]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", nargs="+", choices=sorted(SLICES), default=list(SLICES))
    parser.add_argument("--samples", type=int, default=128, help="loss evaluations")
    parser.add_argument("--resolution", type=int, default=128, help="cells per axis")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/deep_linear"), help="output folder")
    args = parser.parse_args(argv)

    args.out.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in args.slices:
        make, half = SLICES[name]
        upper = np.array(half)
        result = lm.analyze(make(), -upper, upper, args.samples, args.resolution, seed=args.seed)
        lm.plot_basins(result).savefig(args.out / f"{name}.png")
        bound = f", mu {result.mu:.7g}" if result.mu else ""
        print(f"{name}: {result.claim}{bound}")
        print(result.table())
        results[name] = result
    print(f"Pictures: {args.out}")
    return results


if __name__ == "__main__":
    main()
