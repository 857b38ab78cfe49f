"""The plane through three independently trained networks, and the basins in it.

Three small networks learn scikit-learn's handwritten digits from different starts. Their weights
span a plane of weight space; ``analyze`` finds an attractor at each of them. Run with
``python examples/three_solutions.py --activation tanh``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import lightning_morse as lm

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}
WEIGHT_DECAY = 1e-3


def make_network(activation: str) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), ACTIVATIONS[activation](), nn.Linear(32, 10)).double()


def regularised_loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, digits = batch
    squares = sum(p.square().sum() for p in network.parameters())
    return cross_entropy(network(images), digits) + WEIGHT_DECAY * squares


def train(batch: tuple[Tensor, Tensor], activation: str, seed: int, steps: int) -> Tensor:
    """Flat weights of one trained network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = make_network(activation)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        regularised_loss(network, batch).backward()
        optimizer.step()
    return torch.cat([p.detach().ravel() for p in network.parameters()])


def main(argv: Sequence[str] | None = None) -> tuple[lm.MorseAnalysis, np.ndarray]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activation", choices=sorted(ACTIVATIONS), default="tanh")
    parser.add_argument("--steps", type=int, default=600, help="training steps of each network")
    parser.add_argument("--samples", type=int, default=128, help="loss evaluations")
    parser.add_argument("--resolution", type=int, default=128, help="cells on each axis")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/three_solutions"), help="folder")
    args = parser.parse_args(argv)

    images, digits = load_digits(return_X_y=True)
    batch = torch.from_numpy(images / 16), torch.from_numpy(digits)
    weights = [train(batch, args.activation, 3 * args.seed + k, args.steps) for k in range(3)]
    plane = lm.plane_through(weights)
    solutions = plane.project(torch.stack(weights)).numpy()
    loss = lm.LossSlice(make_network(args.activation), plane, [batch], regularised_loss)
    half_width = 1.5 * np.abs(solutions).max(axis=0)
    result = lm.analyze(
        loss, -half_width, half_width, n_samples=args.samples, resolution=args.resolution
    )

    args.out.mkdir(parents=True, exist_ok=True)
    lm.plot_basins(result).savefig(args.out / "basins.png")
    lm.plot_morse_graph(result).savefig(args.out / "graph.png")
    lm.plot_merge_diagram(result).savefig(args.out / "merge.png")
    print(
        f"{result.claim}, wrong with probability {1 - result.mu:.2g} at most, "
        f"{result.undecided:.1%} of the box undecided"
    )
    print(result.table())
    print(f"Basins of the three solutions: {result.basin_of(solutions).tolist()}")
    print(f"Pictures: {args.out / 'basins.png'}, {args.out / 'graph.png'}")
    return result, solutions


if __name__ == "__main__":
    main()
