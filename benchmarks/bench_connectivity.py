"""Barriers between networks on digits: do the bounds hold, and what do averages gain?

    python benchmarks/bench_connectivity.py [--pairs 200] [--runs 10] [--only bounds averaging]

*Bounds.* Pools of networks (four architectures, one with batch norm; three runs each, by SGD or
AdamW; weights at four times of each run, and a copy of each final network with its hidden units
permuted). For random pairs of one architecture the bounds of ``connectivity`` at 0.95 are held
against 1,001 evaluations on the line. One row per architecture: pairs, how often both bounds hold,
verdicts, wrong verdicts, evaluations per pair (median, largest), width of the bounds in tolerances.

*Averaging.* Ten runs of SGD with a high constant learning rate: the mean of the last checkpoints
that are certainly connected against each of them, on held-out data; and the same sets with one
checkpoint of another run, which has to be left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lightning_morse.mode_connectivity.point_loss import LossAtWeights
from lightning_morse.slices.parameters import flat_parameters

N_TRAIN, N_PROBE, BATCH = 1_400, 256, 32
STEPS = (20, 100, 300, 800)
N_DENSE = 1_001


def loss_of(net: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])


def mlp(widths: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


MAKE = {
    "relu": lambda: mlp([64, 32, 32, 10], nn.ReLU),
    "tanh": lambda: mlp([64, 32, 10], nn.Tanh),
    "deep gelu": lambda: mlp([64, 24, 24, 24, 24, 24, 10], nn.GELU),
    "conv, batch norm": convolutional,
}


def data() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.tensor(images[order] / 16, dtype=torch.float32)
    return x, torch.tensor(labels[order])


def optimizer_of(net: nn.Module, seed: int) -> torch.optim.Optimizer:
    if seed % 2:
        return torch.optim.AdamW(net.parameters(), lr=5e-3)
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


def train(
    net: nn.Module, optimizer: torch.optim.Optimizer, steps: Sequence[int], seed: int
) -> list[dict[str, Tensor]]:
    """State dicts of a network at some steps of its training."""
    x, y = data()
    rng = np.random.default_rng(seed)
    net.train()
    found = []
    for step in range(1, max(steps) + 1):
        rows = rng.choice(N_TRAIN, BATCH, replace=False)
        optimizer.zero_grad()
        loss_of(net, (x[rows], y[rows])).backward()
        optimizer.step()
        if step in steps:
            found.append({k: v.clone() for k, v in net.state_dict().items()})
    return found


def permuted(state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The same function of a multilayer perceptron, with its hidden units in another order."""
    rng = np.random.default_rng(seed)
    names = [k.removesuffix(".weight") for k in state if k.endswith(".weight")]
    new = {k: v.clone() for k, v in state.items()}
    for before, after in itertools.pairwise(names):
        order = rng.permutation(len(state[f"{before}.bias"]))
        new[f"{before}.weight"] = new[f"{before}.weight"][order]
        new[f"{before}.bias"] = new[f"{before}.bias"][order]
        new[f"{after}.weight"] = new[f"{after}.weight"][:, order]
    return new


def pool(kind: str, n_runs: int = 3, steps: Sequence[int] = STEPS) -> list[dict[str, Tensor]]:
    found = []
    for seed in range(n_runs):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = MAKE[kind]()
        states = train(net, optimizer_of(net, seed), steps, seed)
        found += states
        if "conv" not in kind:
            found.append(permuted(states[-1], seed))
    return found


def probe() -> list[tuple[Tensor, Tensor]]:
    x, y = data()
    half = N_PROBE // 2
    return [(x[:half], y[:half]), (x[half:N_PROBE], y[half:N_PROBE])]


def flat(net: nn.Module, state: dict[str, Tensor]) -> Tensor:
    net.load_state_dict(state)
    return flat_parameters(net)


def dense_line(loss: LossAtWeights, a: Tensor, b: Tensor) -> np.ndarray:
    """Losses at 1,001 points of a line, shape ``(1001,)``."""
    shares = np.linspace(0, 1, N_DENSE).tolist()
    return np.array([loss(torch.lerp(a, b, share)) for share in shares])
