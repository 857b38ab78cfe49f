"""Barriers between networks on digits: do the bounds hold, and what do averages gain?

    python benchmarks/bench_connectivity.py [--pairs 200] [--runs 10] [--only bounds averaging]

*Bounds.* Pools of networks: five architectures, two with batch norm; three runs each, by SGD or
AdamW; weights at four times of each run, and a copy of each final perceptron with its hidden units
permuted. For random pairs of one architecture the bounds of ``connectivity`` at 0.95 are held
against 1,001 evaluations on the line: as they come by default, and with ``precision`` of 2 % of the
range of the losses on the dense line. One row per architecture and setting: pairs, how often both
bounds hold, verdicts at 1 % of the range, wrong ones among them, evaluations per pair (median, 90 %
quantile, largest), and the median width of the bounds in per cent of the range.

*Averaging.* Runs of SGD with a high constant learning rate on labels of which three tenths are
wrong, so that training never comes to rest. ``average`` gets the last six checkpoints; its mean is
held against each of them by the loss and the errors on held-out data. Then one of the six is
replaced by the last one of another run, which has to be left out. One row per run.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import beta
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lightning_morse as lm
from lightning_morse.mode_connectivity.averaging import average
from lightning_morse.mode_connectivity.point_loss import LossAtWeights
from lightning_morse.slices.parameters import flat_parameters

N_TRAIN, N_PROBE, BATCH = 1_400, 256, 32
STEPS = (20, 100, 300, 800)
N_DENSE = 1_001
# Bounds are compared up to this share of the range: losses are in single precision.
ROUNDING = 1e-5
PRECISION = 0.02  # share of the range, of the second setting
PARTS = ("bounds", "averaging")
# A rate at which the loss does not settle, and is three times the usual 0.1.
HIGH_RATE, SHARE_WRONG = 0.3, 0.3
LAST = (1_500, 1_700, 1_900, 2_100, 2_300, 2_500)


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


def perceptron_with_batch_norm() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Linear(32, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


MAKE = {
    "relu": lambda: mlp([64, 32, 32, 10], nn.ReLU),
    "tanh": lambda: mlp([64, 32, 10], nn.Tanh),
    "deep gelu": lambda: mlp([64, 24, 24, 24, 24, 24, 10], nn.GELU),
    "relu, batch norm": perceptron_with_batch_norm,
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
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: Sequence[int],
    seed: int,
    labels: Tensor | None = None,
) -> list[dict[str, Tensor]]:
    """State dicts of a network at some steps of its training."""
    x, y = data()
    y = y if labels is None else labels
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


def made(kind: str, seed: int) -> nn.Module:
    """A network with its first weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MAKE[kind]()


def pool(kind: str, n_runs: int = 3, steps: Sequence[int] = STEPS) -> list[dict[str, Tensor]]:
    found = []
    for seed in range(n_runs):
        net = made(kind, seed)
        states = train(net, optimizer_of(net, seed), steps, seed)
        found += states
        if "batch norm" not in kind:
            found.append(permuted(states[-1], seed))
    return found


def probe() -> list[tuple[Tensor, Tensor]]:
    x, y = data()
    half = N_PROBE // 2
    return [(x[:half], y[:half]), (x[half:N_PROBE], y[half:N_PROBE])]


def flat(net: nn.Module, state: dict[str, Tensor]) -> Tensor:
    net.load_state_dict(state)
    return flat_parameters(net)


def held_out() -> list[tuple[Tensor, Tensor]]:
    x, y = data()
    return [(x[N_TRAIN:], y[N_TRAIN:])]


def dense_line(loss: LossAtWeights, a: Tensor, b: Tensor) -> np.ndarray:
    """Losses at 1,001 points of a line, shape ``(1001,)``."""
    shares = np.linspace(0, 1, N_DENSE).tolist()
    return np.array([loss(torch.lerp(a, b, share)) for share in shares])


# ------------------------------------------------------------------ do the bounds hold?


@dataclass(frozen=True)
class Held:
    """The bounds on one barrier against the dense line; losses in shares of its range."""

    holds: bool
    verdict: str
    wrong: bool
    evaluations: int
    width: float


def held_against(found: lm.Connectivity, dense: np.ndarray) -> Held:
    """Compare bounds with the losses on a dense line."""
    chord = np.linspace(dense[0], dense[-1], len(dense))
    true, span = max(0.0, float((dense - chord).max())), float(np.ptp(dense))
    # The dense line misses its own highest point by no more than it changes from point to point.
    grain = float(np.abs(np.diff(dense)).max())
    lower, upper = float(found.lower[0, 1]), float(found.upper[0, 1])
    verdict = found.verdict(0, 1)
    return Held(
        holds=lower <= true + grain and true <= upper + ROUNDING * span,
        verdict=verdict,
        wrong=(verdict == "connected" and true > found.tolerance + ROUNDING * span)
        or (verdict == "not connected" and true + grain <= found.tolerance),
        evaluations=len(found.profiles[0].shares),
        width=(upper - lower) / span,
    )


def bounds(kind: str, n_pairs: int, steps: Sequence[int], seed: int) -> dict[str, list[Held]]:
    """Random pairs of one architecture, by setting."""
    states, net = pool(kind, steps=steps), made(kind, 0)
    flats = [flat(net, state) for state in states]
    loss = LossAtWeights(net.train(), probe(), loss_of)
    rng = np.random.default_rng(seed)
    found: dict[str, list[Held]] = {"default": [], "precise": []}
    for _ in range(n_pairs):
        ends = [flats[i] for i in rng.choice(len(flats), 2, replace=False)]
        dense = dense_line(loss, *ends)
        for name, share in (("default", None), ("precise", PRECISION)):
            precision = None if share is None else share * float(np.ptp(dense))
            record = lm.connectivity(net, probe(), ends, loss_fn=loss_of, precision=precision)
            found[name].append(held_against(record, dense))
    return found


def rows_of_bounds(found: dict[str, dict[str, list[Held]]]) -> list[dict[str, object]]:
    """Rows by architecture and setting, and for all together."""
    rows = []
    for setting in ("default", "precise"):
        groups = {kind: by[setting] for kind, by in found.items()}
        groups["all"] = [held for group in groups.values() for held in group]
        for kind, group in groups.items():
            counts = np.array([h.evaluations for h in group])
            verdicts = [h.verdict for h in group]
            said = ("connected", "not connected", "undecided")
            low, high = interval(sum(h.holds for h in group), len(group))
            rows.append(
                {
                    "setting": setting,
                    "networks": kind,
                    "pairs": len(group),
                    "bounds hold": sum(h.holds for h in group),
                    "share, 95 %": f"{low:.3f} to {high:.3f}",
                    **{name: verdicts.count(name) for name in said},
                    "wrong": sum(h.wrong for h in group),
                    "evaluations": "{:.0f}, {:.0f}, {}".format(
                        *np.quantile(counts, [0.5, 0.9]), counts.max()
                    ),
                    "width, %": f"{100 * np.median([h.width for h in group]):.2g}",
                }
            )
    return rows


def interval(hits: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's interval for a share."""
    low = beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1.0
    return float(low), float(high)


# ------------------------------------------------------------------ what do averages gain?


def noisy_labels(seed: int) -> Tensor:
    """The labels, three tenths of those for training drawn anew."""
    rng = np.random.default_rng([seed, 1])
    labels = data()[1].clone()
    wrong = np.flatnonzero(rng.random(N_TRAIN) < SHARE_WRONG)
    labels[wrong] = torch.from_numpy(rng.integers(0, 10, len(wrong)))
    return labels


def restless_run(seed: int, steps: Sequence[int]) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Checkpoints of a run that never comes to rest, and its labels."""
    net, labels = made("relu", seed), noisy_labels(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=HIGH_RATE)
    return train(net, optimizer, steps, seed, labels), labels


def errors(net: nn.Module, theta: Tensor) -> float:
    """Share of held-out digits that are taken for others, in per cent."""
    torch.nn.utils.vector_to_parameters(theta, net.parameters())
    x, y = held_out()[0]
    with torch.no_grad():
        return 100 * float((net.eval()(x).argmax(1) != y).double().mean())


def averaged(seed: int, steps: Sequence[int]) -> dict[str, object]:
    """One run: the mean of its last checkpoints, and a foreign one among them."""
    states, labels = restless_run(seed, steps)
    foreign = restless_run(seed + 1_000, steps)[0][-1]
    net, batches = made("relu", 0), [(data()[0][:N_TRAIN], labels[:N_TRAIN])]
    loss = LossAtWeights(net, held_out(), loss_of)
    found = average(net, batches, states, loss_fn=loss_of)
    assert not isinstance(found.checkpoint, Tensor)
    mean, members = flat(net, dict(found.checkpoint)), [flat(net, states[i]) for i in found.members]
    losses, wrong = [loss(m) for m in members], [errors(net, m) for m in members]
    place = seed % len(states)
    mixed = [*states[:place], foreign, *states[place + 1 :]]
    again = average(net.train(), batches, mixed, loss_fn=loss_of)
    return {
        "run": seed,
        "in the mean": len(members),
        "training loss": f"{found.loss:.3f}",
        "of each": f"{min(found.record.losses):.3f} to {max(found.record.losses):.3f}",
        "held-out loss": f"{loss(mean):.3f}",
        "best of them": f"{min(losses):.3f}",
        "errors, %": f"{errors(net, mean):.1f}",
        "fewest of them": f"{min(wrong):.1f}",
        "beats each": loss(mean) < min(losses),
        "foreign one caught": set(again.left_out) == {place},
        "evaluations": found.record.n_evaluations,
    }


def table(rows: Sequence[dict[str, object]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main(arguments: list[str] | None = None) -> dict[str, list[dict[str, object]]]:
    """Print the tables; return their rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--networks", nargs="+", choices=MAKE, default=list(MAKE))
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--steps", nargs="+", type=int, default=STEPS)
    parser.add_argument("--last", nargs="+", type=int, default=LAST)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    args = parser.parse_args(arguments)
    found: dict[str, list[dict[str, object]]] = {}
    start = time.perf_counter()
    if "bounds" in args.only:
        each = -(-args.pairs // len(args.networks))
        held = {kind: bounds(kind, each, args.steps, n) for n, kind in enumerate(args.networks)}
        found["bounds"] = rows_of_bounds(held)
        print(table(found["bounds"]), end="\n\n", flush=True)
    if "averaging" in args.only:
        found["averaging"] = [averaged(seed, args.last) for seed in range(args.runs)]
        print(table(found["averaging"]), end="\n\n")
    print(f"{time.perf_counter() - start:.0f} s")
    return found


if __name__ == "__main__":
    main()
