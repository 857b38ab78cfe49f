"""Functions of many scales: how many attractors are found, and whether labels are right.

    python benchmarks/many_scales.py [--functions beale ackley ...] [--seeds 0 1 2] [--samples 512]
        [--resolution 128] [--labels 50] [--given]

Known functions, each on a rectangle over which its values, its slopes, or the widths of its basins
differ by orders of magnitude. ``analyze`` with so many evaluations; its attractors are held against
all local minima (:mod:`dense_look`), and labels, from points drawn among those with a certain
label, against the flow of the exact gradient (:mod:`true_flow`, as in ``reliability.py``).

With ``--given`` samples are not placed but those of a Sobol sequence: what an analysis costs, and
what it finds, as there are more of them.

The first six are those of the table in RESULTS.md; the others are of the same kind. Formulas are as
in Surjanovic and Bingham, "Virtual Library of Simulation Experiments" (2013), but for Mueller and
Brown (Theoretica Chimica Acta 53, 1979) and the ridge, a bowl with a Gaussian wall of width 0.05.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import qmc
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from dense_look import all_minima
from populations import Landscape, by_autograd
from reliability import claim_of, held, label_verdicts

import lightning_morse as lm
from lightning_morse.analysis.pipeline import analyze_samples

Formula = Callable[[Tensor, Tensor], Tensor]
# Points per axis of the lattice on which minima are looked for, and the narrowest feature, in
# half-widths: the unit of length of the true flow.
_DENSE, _FINEST = 401, 0.02


@dataclass(frozen=True)
class Known:
    """A formula in two variables and the rectangle it is looked at on."""

    formula: Formula
    lower: tuple[float, float]
    upper: tuple[float, float]

    def landscape(self) -> Landscape:
        """The function about the middle of its rectangle."""
        middle = torch.tensor([0.5 * (a + b) for a, b in zip(self.lower, self.upper, strict=True)])
        middle = middle.double()
        half = 0.5 * np.subtract(self.upper, self.lower)

        def loss(x: Tensor) -> Tensor:
            return self.formula(*(x + middle).unbind(1))

        gradient = by_autograd(loss)
        return Landscape(loss, gradient, half, False, _FINEST, _DENSE, {})


def beale(x: Tensor, y: Tensor) -> Tensor:
    """One minimum at the end of a bent valley; up to 1.8e5 in the corners."""
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def mueller_brown(x: Tensor, y: Tensor) -> Tensor:
    """Three minima in narrow valleys."""
    heights, at_x, at_y = (-200, -100, -170, 15), (1, 0, -0.5, -1), (0, 0.5, 1.5, 1)
    forms = zip((-1, -1, -6.5, 0.7), (0, 0, 11, 0.6), (-10, -10, -6.5, 0.7), strict=True)
    total = torch.zeros_like(x)
    for height, (a, b, c), u, v in zip(heights, forms, at_x, at_y, strict=True):
        dx, dy = x - u, y - v
        total = total + height * torch.exp(a * dx**2 + b * dx * dy + c * dy**2)
    return total


def goldstein_price(x: Tensor, y: Tensor) -> Tensor:
    """Four minima from 3 to 840; up to 1e6 in the corners."""
    first = 19 - 14 * x + 3 * x**2 - 14 * y + 6 * x * y + 3 * y**2
    second = 18 - 32 * x + 12 * x**2 + 48 * y - 36 * x * y + 27 * y**2
    return (1 + (x + y + 1) ** 2 * first) * (30 + (2 * x - 3 * y) ** 2 * second)


def ackley(x: Tensor, y: Tensor) -> Tensor:
    """Nine minima on a cone, the middle one at its tip."""
    radius = torch.sqrt(0.5 * (x**2 + y**2) + 1e-300)
    waves = 0.5 * (torch.cos(2 * math.pi * x) + torch.cos(2 * math.pi * y))
    return -20 * torch.exp(-0.2 * radius) - torch.exp(waves) + math.e + 20


def rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    """One minimum in a bent valley a hundred times as steep across as the usual one."""
    return (1 - x) ** 2 + 1e4 * (y - x**2) ** 2


def ridge(x: Tensor, y: Tensor) -> Tensor:
    """A bowl with a thin wall beside its bottom."""
    return x**2 + y**2 + 2 * torch.exp(-((x - 0.3) ** 2) / (2 * 0.05**2))


def branin(x: Tensor, y: Tensor) -> Tensor:
    """Three minima of equal height, up to 308."""
    inner = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return inner**2 + 10 * (1 - 1 / (8 * math.pi)) * torch.cos(x) + 10


def six_hump_camel(x: Tensor, y: Tensor) -> Tensor:
    """Six minima, up to 163."""
    return (4 - 2.1 * x**2 + x**4 / 3) * x**2 + x * y + (-4 + 4 * y**2) * y**2


def three_hump_camel(x: Tensor, y: Tensor) -> Tensor:
    """Three minima, up to 2,000."""
    return 2 * x**2 - 1.05 * x**4 + x**6 / 6 + x * y + y**2


def levy(x: Tensor, y: Tensor) -> Tensor:
    """Nine minima in steep rows."""
    u, v = 1 + (x - 1) / 4, 1 + (y - 1) / 4
    first = (u - 1) ** 2 * (1 + 10 * torch.sin(math.pi * u + 1) ** 2)
    last = (v - 1) ** 2 * (1 + torch.sin(2 * math.pi * v) ** 2)
    return torch.sin(math.pi * u) ** 2 + first + last


def wells(x: Tensor, y: Tensor) -> Tensor:
    """Two wells, one twenty times as wide and half as deep as the other, on a bowl."""
    wide = torch.exp(-((x + 1) ** 2 + y**2) / 2)
    narrow = 2 * torch.exp(-((x - 1.2) ** 2 + (y - 0.4) ** 2) / (2 * 0.05**2))
    return 0.1 * (x**2 + y**2) - wide - narrow


FUNCTIONS = {
    "beale": Known(beale, (-4.5, -4.5), (4.5, 4.5)),
    "mueller_brown": Known(mueller_brown, (-1.5, -0.5), (1.2, 2.0)),
    "goldstein_price": Known(goldstein_price, (-2.0, -2.0), (2.0, 2.0)),
    "ackley": Known(ackley, (-1.6, -1.6), (1.6, 1.6)),
    "rosenbrock": Known(rosenbrock, (-2.0, -2.0), (2.0, 2.0)),
    "ridge": Known(ridge, (-2.0, -2.0), (2.0, 2.0)),
    "branin": Known(branin, (-5.0, 0.0), (10.0, 15.0)),
    "six_hump_camel": Known(six_hump_camel, (-3.0, -2.0), (3.0, 2.0)),
    "three_hump_camel": Known(three_hump_camel, (-5.0, -5.0), (5.0, 5.0)),
    "levy": Known(levy, (-5.0, -5.0), (5.0, 5.0)),
    "wells": Known(wells, (-3.0, -3.0), (3.0, 3.0)),
}

HEADS = ("function", "seed", "minima", "claim", "mu", "evaluations", "boxes", "parts", "undecided")
HEADS = (*HEADS, "false labels / followed", "seconds")


def row(name: str, seed: int, args: argparse.Namespace) -> list[str]:
    """One analysis, held against the truth."""
    truth = FUNCTIONS[name].landscape()
    minima = all_minima(truth.values, truth.half, truth.dense)
    box = -truth.half, truth.half
    start = time.process_time()
    if args.given:
        points = qmc.Sobol(2, rng=np.random.default_rng(seed)).random(args.samples)
        points = box[0] + points * (box[1] - box[0])
        losses = truth.loss(torch.from_numpy(points)).numpy()
        result = analyze_samples(points, losses, *box, args.resolution, seed=seed)
    else:
        result = lm.analyze(truth.loss, *box, args.samples, args.resolution, seed=seed)
    seconds = time.process_time() - start
    verdicts = held(result, minima, merged=False)
    labels = label_verdicts(truth, result, args.labels, np.random.default_rng(seed))
    claim = claim_of(result)
    said = f"{claim['claim']} {claim['claimed']}"
    if verdicts["unfounded"]:
        said += f" ({verdicts['unfounded']} without a minimum)"
    followed = labels["followed"] - labels["unfinished"]
    return [
        *(name, str(seed), str(verdicts["minima"]), said, f"{result.mu:.3f}"),
        *(str(len(result.samples)), str(len(result.boxes)), str(result.surrogate.leaves)),
        f"{result.undecided:.2f}",
        *(f"{labels['false_labels']} / {followed}", f"{seconds:.1f}"),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--functions", nargs="+", choices=FUNCTIONS, default=list(FUNCTIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=512, help="most evaluations")
    parser.add_argument("--resolution", type=int, default=128, help="cells on each axis")
    parser.add_argument("--labels", type=int, default=50, help="labels to follow, an analysis")
    parser.add_argument("--given", action="store_true", help="samples of a Sobol sequence")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|")
    for name in args.functions:
        for seed in args.seeds:
            print(f"| {' | '.join(row(name, seed, args))} |", flush=True)


if __name__ == "__main__":
    main()
