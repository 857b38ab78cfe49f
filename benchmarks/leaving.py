"""Is training ever said to leave for good where there is an attractor?

    python benchmarks/leaving.py [--seeds 0 1 2] [--epochs 20] [--every 2] [--out rows.jsonl]

Data that a network separates have the minimum of their cross-entropy at infinity: weights go on and
on, and analyses say that they leave. Wine, iris and breast cancer, each with a linear classifier
and with one hidden layer of 512, Adam at 1e-2 and 1e-3, all data, batches of 32; default arguments
apart from the period and ``max_overhead=1``.

For each analysis that says so the loss is looked at on 61 x 61 points over 16 times the reach of
the trajectory in each direction: steepest descent on this lattice from the current weights ends at
the edge, or at a minimum; from there a search on circles (`dense_look.py`) either finds its way on
to the edge, or an attractor. In single precision the cross-entropy of a margin above 17 is zero,
and a plateau of zeros would pass for an attractor. So the look is taken in double precision, with
the cross-entropy as ``log(1 + sum exp(z_j - z_y))``, which is exact down to margins of 700.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_morse as lm
from lightning_morse.conley.reach import ESCAPES, UNDECIDED
from lightning_morse.slices.bases import orthonormal_columns
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.subspace import AffineSubspace

sys.path.insert(0, str(Path(__file__).parent))
from dense_look import rest_points
from ordinary_runs import quiet_trainer
from real_runs import DENSE, DENSE_REACH, Seen, interval, reach_of, watched
from true_flow import lattice_minimum

TABLES = {"wine": load_wine, "iris": load_iris, "cancer": load_breast_cancer}
RATES = {"linear": 1e-2, "wide": 1e-3}


class Classifier(pl.LightningModule):
    """A linear classifier, or one with a wide hidden layer."""

    def __init__(self, kind: str, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.rate = RATES[kind]
        self.net = (
            nn.Linear(n_features, n_classes)
            if kind == "linear"
            else nn.Sequential(nn.Linear(n_features, 512), nn.ReLU(), nn.Linear(512, n_classes))
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.rate)


def exact_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean cross-entropy without the rounding of a logarithm of a number close to 1."""
    margins = logits - logits.gather(1, classes[:, None])
    others = torch.ones_like(margins).scatter(1, classes[:, None], 0.0)
    return torch.log1p((others * margins.exp()).sum(1)).mean()


def seen(table: str, kind: str, seed: int, epochs: int, every: int) -> tuple[Any, list[Seen]]:
    """Train once; the monitor and its analyses."""
    features, classes = TABLES[table](return_X_y=True)
    x = torch.tensor((features - features.mean(0)) / features.std(0), dtype=torch.float32)
    pl.seed_everything(seed, verbose=False)
    module = Classifier(kind, x.shape[1], int(classes.max()) + 1)
    monitor = lm.MorseMonitor(every_n_epochs=every, max_overhead=1.0)
    loader = DataLoader(TensorDataset(x, torch.tensor(classes)), 32, shuffle=True)
    with tempfile.TemporaryDirectory() as folder, watched() as found:
        trainer = quiet_trainer(epochs, monitor, folder)
        trainer.fit(module, loader)
    return monitor, found


def in_double(loss: LossSlice) -> LossSlice:
    """The same loss in double precision, its cross-entropy exact."""
    shadow, plane = loss._loss, loss.subspace
    net = copy.deepcopy(shadow.module.net).double()
    directions = orthonormal_columns(plane.directions.double())
    batches = [[x.double(), y] for x, y in shadow.batches]
    return LossSlice(
        net,
        AffineSubspace(plane.origin.double(), directions),
        batches,
        lambda net, batch: exact_cross_entropy(net(batch[0]), batch[1]),
    )


def attractor(one: Seen) -> tuple[np.ndarray, float] | None:
    """Where steepest descent from the current weights ends inside, in reaches of the trajectory.

    And the loss there, as a share of what it is at the weights. None if it does not end inside.

    First on the lattice. A lattice has minima of its own in a valley that is oblique to it, so from
    its minimum the search goes on in circles, on the logarithm of the loss.
    """
    reach, loss = reach_of(one.look), in_double(one.loss)

    def heights(u: np.ndarray) -> np.ndarray:
        losses = loss(torch.from_numpy(u * DENSE_REACH * reach)).numpy()
        assert losses.min() > 0, "a loss of zero: even double precision cannot tell"
        return np.log(losses)

    axis = np.linspace(-1, 1, DENSE)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    losses = heights(points.reshape(-1, 2)).reshape(DENSE, DENSE)
    current = one.look.current.numpy() / (DENSE_REACH * reach)
    start = [int(np.abs(axis - x).argmin()) for x in current]
    step = axis[1] - axis[0]
    end = lattice_minimum(losses, start, step * reach / reach.max())
    if end is None:
        return None
    rest = rest_points(heights, points[end][None], step, 1.0)
    if (np.abs(rest) >= 1).any():
        return None
    height, now = heights(np.vstack([rest, current]))
    return rest[0] * DENSE_REACH, float(np.exp(height - now))


def in_the_box(one: Seen, place: np.ndarray) -> bool:
    """Whether a place, in reaches of the trajectory, lies in the box of an analysis."""
    result = one.found.result
    assert result is not None, "the first process holds the result"
    return bool(result.grid.cell_of((place * reach_of(one.look))[None])[0] >= 0)


def rows(table: str, kind: str, seed: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """What each analysis of a run says, and what the dense look shows."""
    monitor, found = seen(table, kind, seed, given.epochs, given.every)
    out = []
    labels = {f"epoch {row['epoch'] + 1}": row["morse/basin_current"] for row in monitor.history}
    for one in found:
        label = int(labels[one.title])
        row = {"run": f"{table}_{kind}", "seed": seed, "when": one.title}
        row["says"] = {UNDECIDED: "undecided", ESCAPES: "leaves"}.get(label, "basin")
        if label == ESCAPES:
            there = attractor(one)
            row["attractor"] = None if there is None else [there[0].tolist(), there[1]]
            row["in_the_box"] = there is not None and in_the_box(one, there[0])
        out.append(row)
    return out


def main() -> None:
    """Make the runs and print how often each is said."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--out", help="file of JSON lines to append to")
    given = parser.parse_args()
    for name in ("pytorch_lightning", "lightning_morse"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    everything = []
    print("| run | in a basin | leaves | undecided | leaves, with an attractor |")
    print("|---|---|---|---|---|")
    for table in given.tables:
        for kind in RATES:
            own = [row for seed in given.seeds for row in rows(table, kind, seed, given)]
            everything += own
            print(f"| {table}, {kind} | {' | '.join(counts(own))} |", flush=True)
            if given.out:
                with Path(given.out).open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in own)
    print(f"| all | {' | '.join(counts(everything))} |")
    leaving = [row for row in everything if row["says"] == "leaves"]
    print("\nsaid to leave, with an attractor:", interval(with_attractor(leaving), len(leaving)))
    print("of these in the box:", sum(row["in_the_box"] for row in leaving))
    shares = [f"{row['attractor'][1]:.1e}" for row in leaving if row["attractor"] is not None]
    print("loss there, as a share of what it is at the weights:", ", ".join(shares) or "none")


def with_attractor(leaving: list[dict[str, Any]]) -> int:
    """How many have an attractor in the dense look."""
    return sum(row["attractor"] is not None for row in leaving)


def counts(some: list[dict[str, Any]]) -> list[str]:
    """How often each is said, and how often the dense look contradicts."""
    by = {say: [row for row in some if row["says"] == say] for say in ("basin", "leaves")}
    n = [len(by["basin"]), len(by["leaves"]), len(some) - len(by["basin"]) - len(by["leaves"])]
    return [*map(str, n), str(with_attractor(by["leaves"]))]


if __name__ == "__main__":
    main()
