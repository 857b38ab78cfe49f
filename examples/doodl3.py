"""100 runs on Iris, and the Morse graph of the map their weights follow.

    python examples/doodl3.py --out pictures

After the first experiment of Eslami et al., "Extracting Global Dynamics of Loss Landscape in Deep
Learning Models" (arXiv 2106.07683): petal length and width, 75 flowers to train on and 75 to test,
one softmax layer of 9 weights that start uniform in [-2, 2], cross-entropy, Adam. All runs are
trained at once (torch.func). The state is looked at in two ways: the two weights that spread most,
and the two first principal components of the weights at all epochs.

What is learnt is a map of two coordinates. The other seven and the two moments of Adam are not
among them; what they do counts as noise, which it is not. With no weight decay the weights of
separable classes grow for ever, so most starts are expected to leave the box or to stay undecided.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_iris
from torch import Tensor
from torch.func import grad, vmap

import lightning_morse as lm


def flowers(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Standardised petal length and width with their species: 75 to train on, 75 to test."""
    iris = load_iris()
    order = np.random.default_rng(seed).permutation(150)
    x = torch.tensor(iris.data[order][:, 2:])
    y = torch.tensor(iris.target[order])
    x = (x - x[:75].mean(dim=0)) / x[:75].std(dim=0)
    return x[:75], y[:75], x[75:], y[75:]


def logits(weights: Tensor, x: Tensor) -> Tensor:
    return x @ weights[:6].reshape(2, 3) + weights[6:]


def loss(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits(weights, x), y)


def train(
    x: Tensor, y: Tensor, n_runs: int, epochs: int, rate: float, decay: float, seed: int
) -> Tensor:
    """Weights of all runs after every epoch (one step of Adam), shape (runs, epochs + 1, 9)."""
    generator = torch.Generator().manual_seed(seed)
    w = 4 * torch.rand(n_runs, 9, generator=generator, dtype=torch.float64) - 2
    slope = vmap(grad(loss), in_dims=(0, None, None))
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    path = [w]
    for t in range(1, epochs + 1):
        g = slope(w, x, y) + decay * w
        first = 0.9 * first + 0.1 * g
        second = 0.999 * second + 0.001 * g**2
        step = (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
        w = w - rate * step
        path.append(w)
    return torch.stack(path, dim=1)


def state_spaces(path: Tensor) -> dict[str, np.ndarray]:
    """Two coordinates of all states, shape (runs, epochs + 1, 2), chosen in two ways."""
    flat = path.reshape(-1, 9)
    widest = flat.std(dim=0).argsort(descending=True)[:2].sort().values
    _, _, components = torch.linalg.svd(flat - flat.mean(dim=0), full_matrices=False)
    names = f"weights {widest.tolist()}"
    return {
        names: path[..., widest].numpy(),
        "principal components": ((path - flat.mean(dim=0)) @ components[:2].T).numpy(),
    }


def by_basin(result: lm.MorseAnalysis, states: np.ndarray, final: Tensor, data: tuple) -> str:
    """Share of the runs that start in each basin, with their last loss and accuracy."""
    x, y, x_test, y_test = data
    label = result.basin_of(states[:, 0])
    losses = vmap(loss, in_dims=(0, None, None))(final, x, y).numpy()
    guess = vmap(logits, in_dims=(0, None))(final, x_test).argmax(dim=2)
    accuracy = (guess == y_test).double().mean(dim=1).numpy()
    rows = ["| start in | runs | training loss | test accuracy |", "|---|---|---|---|"]
    for value in [*result.attractors, -1, -2]:
        of = label == value
        name = {-1: "undecided", -2: "leaves"}.get(value, f"basin {value}")
        if of.any():
            rows.append(
                f"| {name} | {of.mean():.0%} | {losses[of].mean():.4f} | "
                f"{accuracy[of].mean():.3f} |"
            )
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> dict[str, lm.MorseAnalysis]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--lag", type=int, default=40, help="epochs the map stands for")
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--decay", type=float, default=0.0, help="weight decay, in the gradient")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="folder for pictures")
    given = parser.parse_args(arguments)

    data = flowers(given.seed)
    start = time.perf_counter()
    path = train(data[0], data[1], given.runs, given.epochs, given.rate, given.decay, given.seed)
    print(f"{given.runs} runs of {given.epochs} epochs: {time.perf_counter() - start:.1f} s")
    results = {}
    for name, states in state_spaces(path).items():
        start = time.perf_counter()
        result = lm.analyze_trajectories(
            list(states), lag=given.lag, resolution=given.resolution, seed=given.seed
        )
        facts = result.surrogate
        print(f"\n## {name}: {result.claim}, mu {result.mu:.3f}\n")
        print(result.table(), "\n")
        print(by_basin(result, states, path[:, -1], data))
        print(
            f"\nleaves {result.escape:.0%}, undecided {result.undecided:.0%}, unknown "
            f"{facts['unknown']:.0%} of the box; noise {np.round(facts['noise_deviation'], 3)}, "
            f"residuals {result.calibration:.2f} of what they should be at most; "
            f"{facts['n']} pairs, {time.perf_counter() - start:.1f} s"
        )
        results[name] = result
        if given.out is not None:
            given.out.mkdir(parents=True, exist_ok=True)
            stem = name.split()[0]
            lm.plot_basins(result).savefig(given.out / f"{stem}_basins.png")
            lm.plot_morse_graph(result).savefig(given.out / f"{stem}_graph.png")
    return results


if __name__ == "__main__":
    main()
