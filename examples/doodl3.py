"""100 runs on Iris and on two digits, and the Morse graph of the map their weights follow.

    python examples/doodl3.py                      # the whole table, a few minutes on two cores
    python examples/doodl3.py --tasks iris --epochs 150 --batches 10 --out pictures

After the experiments of Eslami et al., "Extracting Global Dynamics of Loss Landscape in Deep
Learning Models" (arXiv 2106.07683). Iris: petal length and width, 75 flowers for training and 75
for testing, one softmax layer whose 9 weights are initialised uniformly in [-2, 2]. Digits: 0
against 1 of scikit-learn's 8 x 8 images, half of them for testing, one or two convolutional layers
of 4 channels and a linear one. Cross-entropy and Adam, with the examples shuffled for every run and
epoch. The 100 runs of a setting are trained together (torch.func over stacked weights).

The map is learned in two ways. *As in the paper*: one pair per run, its weights before training and
after the last epoch, restricted to the two weights with the largest spread. *All epochs*: the first
two principal components of the weights after every epoch, in pairs a tenth of the training apart.

Either way two coordinates stand for the entire state. The influence of the other weights and of
Adam's moments is treated as noise, which it is not; and without weight decay the weights of
separable classes grow forever. It is therefore no failure if no attractor is certain. With
``--decay`` there is a minimum.

Columns of the table: recurrent sets of the map; how many of them are certainly attractors, and the
bound on their confidence; fraction, mean final training loss and test accuracy of the runs that
start in the basin of each attractor, in undecided cells, or where they certainly leave the box; the
unknown fraction of the box; noise relative to the size of the displacements; residuals relative to
their largest expected size (from 2 on ``mu`` is 0); and what the mean of the surrogate claims by
itself: attractors, and the fraction of the runs in their basins.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits, load_iris
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional

import lightning_morse as lm
from lightning_morse.conley.basins import certain_labels
from lightning_morse.conley.box_maps import corner_images
from lightning_morse.trajectories.fit import fit_trajectory_map
from lightning_morse.trajectories.pairs import pairs_of_runs
from lightning_morse.words import short_of_one

CHANNELS = 4
PAIRS_PER_RUN = 10


@dataclass(frozen=True)
class Task:
    """A data set, and a network that maps flat weights and a batch to logits."""

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    logits: Callable[[Tensor, Tensor], Tensor]
    scale: Tensor  # initial weights are uniform in [-scale, scale], shape (p,)

    def loss(self, weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(self.logits(weights, x), y)


def split(x: Tensor, y: Tensor, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Split the examples into halves for training and testing."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    half = len(y) // 2
    return (x[order[:half]], y[order[:half]]), (x[order[half:]], y[order[half:]])


def iris(seed: int) -> Task:
    data = load_iris()
    train, test = split(torch.tensor(data.data[:, 2:]), torch.tensor(data.target), seed)
    mean, deviation = train[0].mean(dim=0), train[0].std(dim=0)

    def logits(weights: Tensor, x: Tensor) -> Tensor:
        return (x - mean) / deviation @ weights[:6].reshape(2, 3) + weights[6:]

    return Task("iris", train, test, logits, torch.full((9,), 2.0, dtype=torch.float64))


def digits(depth: int, seed: int) -> Task:
    """0 against 1: ``depth`` tanh convolutions, average pooling over quadrants, a linear layer."""
    x, y = load_digits(n_class=2, return_X_y=True)
    images = torch.tensor(x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    train, test = split(images, torch.tensor(y), seed)
    shapes = [(CHANNELS, 1 if k == 0 else CHANNELS, 3, 3) for k in range(depth)] + [(2, 16)]
    sizes = [size for shape in shapes for size in (math.prod(shape), shape[0])]
    fan_in = [math.prod(shape[1:]) for shape in shapes for _ in range(2)]

    def logits(weights: Tensor, x: Tensor) -> Tensor:
        parts = iter(weights.split(sizes))
        for shape in shapes[:-1]:
            x = functional.conv2d(x, next(parts).reshape(shape), next(parts), padding=1).tanh()
        quarters = functional.avg_pool2d(x, 4).flatten(start_dim=1)
        return functional.linear(quarters, next(parts).reshape(shapes[-1]), next(parts))

    scale = torch.cat([torch.full((n,), f**-0.5) for n, f in zip(sizes, fan_in, strict=True)])
    return Task(f"digits depth {depth}", train, test, logits, scale)


def train(
    task: Task, n_runs: int, epochs: int, batch: int, rate: float, decay: float, seed: int
) -> Tensor:
    """Weights of all runs before training and after every epoch, shape (runs, epochs + 1, p)."""
    generator = torch.Generator().manual_seed(seed)
    x, y = task.train
    w = (2 * torch.rand(n_runs, len(task.scale), generator=generator) - 1).to(task.scale)
    w = w * task.scale
    slope = vmap(grad(task.loss))
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    path, step = [w], 0
    for _ in range(epochs):
        order = torch.rand(n_runs, len(y), generator=generator).argsort(dim=1)
        for chosen in order.split(batch, dim=1):
            step += 1
            g = slope(w, x[chosen], y[chosen]) + decay * w
            first = 0.9 * first + 0.1 * g
            second = 0.999 * second + 0.001 * g**2
            size = rate * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            w = w - size * first / (second.sqrt() + 1e-8)
        path.append(w)
    return torch.stack(path, dim=1)


def first_and_last(path: Tensor) -> tuple[np.ndarray, int]:
    """The two weights with the largest spread, first and last, shape (runs, 2, 2), and the lag."""
    ends = path[:, [0, -1]].double()
    widest = ends.reshape(-1, path.shape[2]).std(dim=0).argsort(descending=True)[:2]
    return ends[..., widest.sort().values].numpy(), 1


def all_epochs(path: Tensor) -> tuple[np.ndarray, int]:
    """Two principal components of all states, shape (runs, epochs + 1, 2), and the lag."""
    flat = path.reshape(-1, path.shape[2]).double()
    center = flat.mean(dim=0)
    _, vectors = torch.linalg.eigh((flat - center).T @ (flat - center))
    states = (path.double() - center) @ vectors[:, -2:].flip(1)
    return states.numpy(), max(1, (path.shape[1] - 1) // PAIRS_PER_RUN)


SPACES = {"first and last": first_and_last, "all epochs": all_epochs}


def by_basin(result: lm.MorseAnalysis, states: np.ndarray, final: Tensor, task: Task) -> list[str]:
    """Fraction, mean final training loss and test accuracy of the runs that start in each basin."""
    label = result.basin_of(states[:, 0])
    losses = vmap(task.loss, in_dims=(0, None, None))(final, *task.train).numpy()
    guess = vmap(task.logits, in_dims=(0, None))(final, task.test[0]).argmax(dim=2)
    accuracy = (guess == task.test[1]).double().mean(dim=1).numpy()

    def described(value: int) -> str:
        of = label == value
        if not of.any():
            return "-"
        return f"{of.mean():.0%}, {losses[of].mean():.3g}, {accuracy[of].mean():.3f}"

    return ["; ".join(map(described, result.attractors)) or "-", described(-1), described(-2)]


def of_the_mean(result: lm.MorseAnalysis, states: np.ndarray, lag: int, seed: int) -> str:
    """What the mean of the same surrogate claims without its deviation, padded by one cell.

    The number of attractors, and the fraction of the runs that start in their basins.
    """
    grid = result.grid
    pairs = pairs_of_runs(list(states), lag).starting_in(grid.lower, grid.upper)
    rng = np.random.default_rng([seed, 2])
    model = fit_trajectory_map(pairs, grid.lower, grid.upper, rng)
    found = lm.morse_graph(
        lm.outer_approximation(*corner_images(model.mean, grid, padding=1), grid)
    )
    labels = certain_labels(found)[grid.cell_of(states[:, 0])]
    return f"{len(found.attractors)}, {(labels >= 0).mean():.0%}"


HEAD = (
    "| task | batch | epochs | states | Morse sets | attractors | mu | in basins | undecided "
    "| leave | unknown | noise | residuals | mean alone |\n" + "|---" * 14 + "|"
)


def row(
    task: Task, batch: int, epochs: int, space: str, path: Tensor, resolution: int, seed: int
) -> tuple[str, lm.MorseAnalysis]:
    """Analyse the first epochs of the runs; returns a row of the table and the analysis."""
    part = path[:, : epochs + 1]
    states, lag = SPACES[space](part)
    result = lm.analyze_trajectories(list(states), lag=lag, resolution=resolution, seed=seed)
    facts = result.surrogate
    moved = np.array(facts.deviation)
    noise = (np.array(facts.noise_deviation) / moved).max()
    cells = [
        *(task.name, batch, epochs, space, result.n_morse_sets, result.n_attractors),
        short_of_one(result.mu) if result.n_attractors else "-",
        *by_basin(result, states, part[:, -1], task),
        *(f"{facts.unknown:.0%}", f"{noise:.2f}", f"{result.calibration:.2f}"),
        of_the_mean(result, states, lag, seed),
    ]
    return "| " + " | ".join(map(str, cells)) + " |", result


def main(arguments: list[str] | None = None) -> dict[tuple, lm.MorseAnalysis]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["iris", "digits"])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--epochs", type=int, nargs="+", default=None)
    parser.add_argument("--batches", type=int, nargs="+", default=None)
    parser.add_argument(
        "--depths", type=int, nargs="+", default=[1, 2], help="convolutions, for the digits"
    )
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument(
        "--decay", type=float, default=0.0, help="weight decay, added to the gradient"
    )
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="output folder for pictures")
    given = parser.parse_args(arguments)

    settings = []
    if "iris" in given.tasks:
        settings += [(iris(given.seed), [5, 10, 20, 40], [100, 150, 300, 450])]
    if "digits" in given.tasks:
        settings += [(digits(d, given.seed), [10, 40], [5, 10, 20]) for d in given.depths]
    results, training, start = {}, 0.0, time.perf_counter()
    print(HEAD)
    for task, batches, lengths in settings:
        lengths = given.epochs or lengths
        for batch in given.batches or batches:
            began = time.perf_counter()
            path = train(task, given.runs, max(lengths), batch, given.rate, given.decay, given.seed)
            training += time.perf_counter() - began
            for epochs, space in itertools.product(lengths, SPACES):
                line, result = row(task, batch, epochs, space, path, given.resolution, given.seed)
                print(line, flush=True)
                results[task.name, batch, epochs, space] = result
                if given.out is not None:
                    given.out.mkdir(parents=True, exist_ok=True)
                    stem = f"{task.name} {batch} {epochs} {space}".replace(",", "").replace(
                        " ", "_"
                    )
                    lm.plot_basins(result).savefig(given.out / f"{stem}_basins.png")
                    lm.plot_morse_graph(result).savefig(given.out / f"{stem}_graph.png")
    whole = time.perf_counter() - start
    print(f"\ntraining {training:.0f} s, everything {whole:.0f} s")
    return results


if __name__ == "__main__":
    main()
