"""From when on is it settled where a training ends, and what in one run tells?

    python benchmarks/forked_runs.py [--settings mlp_sgd ...] [--seeds 0 1 2 3 4] [--steps 720]
        [--out rows.jsonl]
    python benchmarks/forked_runs.py --table rows.jsonl [--tolerance 0.02]

Instability analysis (Frankle, Dziugaite, Roy, Carbin 2020, arXiv 1912.05671) of eight settings on
digits: four networks (`forked_networks.py`) with SGD and with AdamW, batches of 16, rates high
enough that the answer varies, which go to zero in the last third. A run is trained by Lightning
with a ``MorseMonitor``, which looks at fourteen steps, with at most 128 samples and 64 cells per
axis; its pictures are not drawn. At ten points, denser early, two copies go on with batches in
orders of their own, to the last step.

*The truth* of a run is the first fork from which on, there and at all later ones, the barrier
between the final weights of both copies is at most the tolerance: the largest excess of the loss
over the line between the end losses, at 21 points of the straight line, on all examples trained on,
batch norm with the statistics of these examples at each point. A run whose last fork still has a
barrier counts as settled at its end.

*Candidates.* ``settled`` is the scalar as it stands after the run: the first analysis since which
the weights have been in the basin of the same attractor. An analysis that is undecided breaks it
off; "undecided passed over" is the first analysis since which no other attractor was certain. A run
in which neither names a step counts as settled at its end, and as not answered. Of every other
quantity the rule is: settled from the first fork on from which it stays beyond a threshold.
Threshold and side are those with the least mean error in the other seven settings. "The clock" is
the same rule about the number of steps: it says the same of every run of a setting. (Its rank
correlation tends to be negative: the later a setting, the earlier the others are without it.)

*The tables.* Errors of the step in epochs, and the rank correlation (Spearman) of the step said
with the truth over all runs, with a bootstrap interval of 95 %. Then the rank correlations of each
quantity with the barrier: over the forks of a run, mean over the runs in which it varies; and over
runs at the same fork, mean over forks, where the clock says nothing.

Each run is one row of ``--out``, a file of JSON lines that is appended to; what is in it is not
made again. No global generator has a part in weights or batches.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import grad
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parent))
from forked_networks import (
    NETWORKS,
    STEPS_PER_EPOCH,
    Copies,
    Forks,
    Optimizer,
    barrier_between,
    digits,
    initialised,
    loss_of,
    order,
    share_of_rate,
)

import lightning_morse as lm
from lightning_morse.callbacks._account import Account
from lightning_morse.callbacks._schedule import Schedule

# Steps at which a run is forked, and those at which it is analysed besides; it is at the end, too.
FORKS = (0, 5, 10, 20, 40, 80, 140, 240, 360, 540)
LOOKS = (30, 110, 300, 630)
SETTINGS: dict[str, tuple[str, Optimizer]] = {
    "mlp_sgd": ("mlp", Optimizer("sgd", 0.05, 0.9)),
    "mlp_adamw": ("mlp", Optimizer("adamw", 3e-3)),
    "resnet_sgd": ("resnet", Optimizer("sgd", 0.5)),
    "resnet_adamw": ("resnet", Optimizer("adamw", 5e-2)),
    "gru_sgd": ("gru", Optimizer("sgd", 0.2, 0.9)),
    "gru_adamw": ("gru", Optimizer("adamw", 3e-2)),
    "transformer_sgd": ("transformer", Optimizer("sgd", 0.05, 0.9)),
    "transformer_adamw": ("transformer", Optimizer("adamw", 1e-2)),
}
# Largest barrier that counts as none, units of the loss.
TOLERANCE = 0.02
# Examples on which the largest eigenvalue of the Hessian is found, and its relative accuracy.
_FEW, _ACCURACY = 256, 0.05
# Thresholds that are tried: so many quantiles of what was seen.
_THRESHOLDS = 60
_DRAWS = 1000
# What each quantity is, by its column.
QUANTITIES = {
    "basin": "(b) volume of the current basin",
    "barrier": "(c) barrier around its attractor",
    "loss": "(d) training loss",
    "gradient": "(d) gradient norm",
    "distance": "(d) distance travelled",
    "top": "(d) sharpness, by Lanczos",
    "sharpness": "(d) sharpness, of the slice",
    "step": "the clock",
}

Row = dict[str, Any]


# ----------------------------------------------------------------------- runs


class Module(pl.LightningModule):
    """A network as Lightning trains it."""

    def __init__(self, net: nn.Module, by: Optimizer, steps: int) -> None:
        super().__init__()
        self.net, self.by, self.steps = net, by, steps

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.by.of_torch(self.parameters())
        schedule = LambdaLR(optimizer, lambda step: share_of_rate(step, self.steps))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class Keeper(pl.Callback):
    """Keeps the state of a run at its forks, and what it looks like there."""

    def __init__(self, forks: Sequence[int], data: tuple[Tensor, Tensor]) -> None:
        self.forks, self._data = forks, data
        self.states: dict[int, Copies] = {}
        self.seen: dict[int, dict[str, float]] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._start = nn.utils.parameters_to_vector(pl_module.net.parameters()).detach().clone()
        self._keep(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step in self.forks:
            self._keep(trainer, pl_module)

    def _keep(self, trainer: pl.Trainer, module: Any) -> None:
        step, net = trainer.global_step, module.net
        self.states[step] = Copies.of(net, trainer.optimizers[0], step)
        weights = {k: p.detach().clone() for k, p in net.named_parameters()}
        loss = loss_of(net)
        slopes = grad(loss)(weights, *self._data)
        now = nn.utils.parameters_to_vector(net.parameters()).detach()
        self.seen[step] = {
            "loss": float(loss(weights, *self._data)),
            "gradient": math.sqrt(sum(float(g.square().sum()) for g in slopes.values())),
            "distance": float((now - self._start).norm()),
            "top": top_eigenvalue(net, weights, [part[:_FEW] for part in self._data]),
        }


def top_eigenvalue(net: nn.Module, weights: dict[str, Tensor], data: Sequence[Tensor]) -> float:
    """Largest eigenvalue of the Hessian of the loss, by Lanczos."""
    loss, sizes = loss_of(net), [p.numel() for p in weights.values()]

    def product(v: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(v.ravel()).float().split(sizes)
        along = {k: d.view_as(p) for (k, p), d in zip(weights.items(), parts, strict=True)}

        def slope(w: dict[str, Tensor]) -> Tensor:
            slopes = grad(loss)(w, *data)
            return torch.stack([(slopes[k] * along[k]).sum() for k in w]).sum()

        found = grad(slope)(weights)
        return torch.cat([p.flatten() for p in found.values()]).double().numpy()

    n = sum(sizes)
    start = np.random.default_rng(0).normal(size=n)
    operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
    (found,) = eigsh(operator, 1, which="LA", v0=start, tol=_ACCURACY, return_eigenvectors=False)
    return float(found)


def monitored(
    net: nn.Module, by: Optimizer, data: tuple[Tensor, Tensor], batches: Tensor
) -> tuple[lm.MorseMonitor, Keeper]:
    """Train a network with a monitor.

    Args:
        net: The network, trained in place.
        by: How.
        data: Images and labels.
        batches: The examples of each step.
    """
    steps = len(batches)
    # A period only says how often weights are kept; when to look is said below.
    monitor = lm.MorseMonitor(every_n_steps=10, max_overhead=1.0, n_samples=128, resolution=64)
    keeper = Keeper([fork for fork in FORKS if fork < steps], data)
    looks = {*FORKS, *LOOKS, steps} - {0}
    loader = DataLoader(TensorDataset(*data), batch_sampler=batches.tolist())
    due = mock.patch.object(Schedule, "is_due", lambda _, trainer: trainer.global_step in looks)
    undrawn = mock.patch.object(Account, "draw", return_value=None)
    with tempfile.TemporaryDirectory() as folder, due, undrawn:
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            callbacks=[keeper, monitor],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        trainer.fit(Module(net, by, steps), loader)
    return monitor, keeper


def made(name: str, seed: int, steps: int) -> Row:
    """A run, its forks, and what it looked like at each."""
    network, by = SETTINGS[name]
    net, data = initialised(NETWORKS[network], seed), digits(seed)
    begun = time.perf_counter()
    monitor, keeper = monitored(net, by, data, order(seed, steps))
    watched = time.perf_counter()
    ends = Forks(net, by, data, seed, steps).ends(keeper.states)
    barriers = [barrier_between(net, data, *pair) for pair in ends.values()]
    course = [analysis_of(row) for row in monitor.history]
    return {
        "setting": name,
        "seed": seed,
        "steps": steps,
        "forks": list(ends),
        "barriers": barriers,
        "seen": [{**keeper.seen[fork], **at(course, fork)} for fork in ends],
        "settled": course[-1]["settled"],
        "course": course,
        "final_loss": course[-1]["loss"],
        "seconds": [round(watched - begun, 1), round(time.perf_counter() - watched, 1)],
    }


def analysis_of(row: Row) -> dict[str, float | None]:
    """What an analysis said, with steps as the number of steps taken."""
    identity, settled = row["morse/identity_current"], row["morse/settled"]
    return {
        "step": row["step"] + 1,
        "identity": identity,
        "settled": settled + 1 if settled >= 0 else -1,
        "basin": row["basins"].get(int(identity), 0.0) if identity >= 0 else 0.0,
        "barrier": row["morse/barrier"],
        "sharpness": row["morse/sharpness"],
        "undecided": row["morse/undecided"],
        "loss": row["loss"],
        "failed": row["morse/failed"],
    }


def at(course: Sequence[dict[str, Any]], step: int) -> dict[str, float]:
    """What the last analysis up to a step said; zeros where there was none."""
    known = [one for one in course if one["step"] <= step and not one["failed"]]
    names = ("basin", "barrier", "sharpness")
    return {name: known[-1][name] if known else 0.0 for name in names} | {"step": step}


# ---------------------------------------------------------------------- steps


def settled_from(forks: Sequence[int], is_settled: Sequence[bool], end: int) -> int:
    """The first fork from which on it is settled at all later ones; the end if there is none.

    Example:
        >>> settled_from([0, 10, 20, 40], [True, False, True, True], 100)
        20
    """
    found = end
    for fork, settled in zip(reversed(forks), reversed(is_settled), strict=True):
        if not settled:
            break
        found = fork
    return found


def truth_of(row: Row, tolerance: float) -> int:
    """The step from which on the barrier vanishes."""
    return settled_from(row["forks"], [b <= tolerance for b in row["barriers"]], row["steps"])


def said_by_settled(row: Row) -> int:
    """The step that ``settled`` names; the end if it names none."""
    return int(row["settled"]) if row["settled"] >= 0 else int(row["steps"])


def said_by_identity(row: Row) -> int:
    """The first analysis since which no other attractor was certain; the end if none ever was."""
    found, identity = row["steps"], None
    for one in reversed(row["course"]):
        if one["failed"] or one["identity"] < 0:
            continue
        identity = one["identity"] if identity is None else identity
        if one["identity"] != identity:
            break
        found = one["step"]
    return int(found)


Rule = Callable[[Row], int]


def rule_of(name: str, threshold: float, side: int) -> Rule:
    """Settled from the first fork on from which a quantity stays beyond a threshold."""

    def said(row: Row) -> int:
        beyond = [side * one[name] >= side * threshold for one in row["seen"]]
        return settled_from(row["forks"], beyond, row["steps"])

    return said


def learnt_rule(name: str, rows: Sequence[Row], tolerance: float) -> Rule:
    """The rule about a quantity with the least mean error in some runs."""
    seen = np.array([one[name] for row in rows for one in row["seen"]])
    values = np.unique(np.quantile(seen, np.linspace(0, 1, _THRESHOLDS), method="nearest"))
    truth = [truth_of(row, tolerance) for row in rows]

    def error(rule: Rule) -> float:
        return sum(abs(rule(row) - t) for row, t in zip(rows, truth, strict=True))

    rules = [rule_of(name, float(value), side) for value in values for side in (1, -1)]
    return min(rules, key=error)


def said_by(name: str, rows: Sequence[Row], tolerance: float) -> list[int]:
    """What the rule about a quantity says of each run, learnt in the other settings."""
    found = []
    for row in rows:
        others = [other for other in rows if other["setting"] != row["setting"]]
        found.append(_learnt_once(name, others, tolerance)(row))
    return found


_LEARNT: dict[tuple[str, float, tuple[tuple[str, int], ...]], Rule] = {}


def _learnt_once(name: str, rows: Sequence[Row], tolerance: float) -> Rule:
    key = name, tolerance, tuple((row["setting"], row["seed"]) for row in rows)
    if key not in _LEARNT:
        _LEARNT[key] = learnt_rule(name, rows, tolerance)
    return _LEARNT[key]


# ---------------------------------------------------------------- correlations


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's; NaN where one of them does not vary."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Mean ranks of equal values; far faster than SciPy's for few of them."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def with_interval(a: Sequence[float], b: Sequence[float]) -> str:
    """A rank correlation with its bootstrap interval of 95 %."""
    whole = rank_correlation(a, b)
    if math.isnan(whole):
        return "none"
    x, y, rng = np.array(a), np.array(b), np.random.default_rng(0)
    draws = [rng.integers(0, len(x), len(x)) for _ in range(_DRAWS)]
    found = [r for d in draws if not math.isnan(r := rank_correlation(x[d], y[d]))]
    low, high = np.quantile(found, [0.025, 0.975])
    return f"{whole:.2f} ({low:.2f} to {high:.2f})"


def over_forks(name: str, rows: Sequence[Row]) -> float:
    """Rank correlation with the barrier over the forks of a run, mean over runs."""
    found = [rank_correlation([one[name] for one in row["seen"]], row["barriers"]) for row in rows]
    return _mean(found)


def over_runs(name: str, rows: Sequence[Row]) -> float:
    """The same over runs at the same fork, mean over forks."""
    found = []
    for k in range(min(len(row["forks"]) for row in rows)):
        values = [row["seen"][k][name] for row in rows]
        found.append(rank_correlation(values, [row["barriers"][k] for row in rows]))
    return _mean(found)


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


# ---------------------------------------------------------------------- tables


def table(rows: Sequence[Row], tolerance: float) -> str:
    """The tables, in Markdown."""
    truth = [truth_of(row, tolerance) for row in rows]
    answered = sum(row["settled"] >= 0 for row in rows)
    ever = sum(any(one["identity"] >= 0 for one in row["course"]) for row in rows)
    said = {
        f"(a) settled, answered in {answered}": [said_by_settled(row) for row in rows],
        f"(a) undecided passed over, in {ever}": [said_by_identity(row) for row in rows],
    }
    if len({row["setting"] for row in rows}) > 1:  # else there is nothing to learn from
        said |= {QUANTITIES[name]: said_by(name, rows, tolerance) for name in QUANTITIES}
    lines = [*truths(rows, tolerance), ""]
    lines += _markdown(
        ("what says it", "rank correlation", "median error", "mean", "too early", "too late"),
        [(name, *errors(steps, truth)) for name, steps in said.items()],
    )
    lines += ["", "Errors in epochs. Rank correlation of quantities with the barrier:", ""]
    lines += _markdown(
        ("quantity", "over the forks of a run", "over runs at the same fork"),
        [
            (says, f"{over_forks(name, rows):.2f}", f"{over_runs(name, rows):.2f}")
            for name, says in QUANTITIES.items()
        ],
    )
    return "\n".join(lines)


def truths(rows: Sequence[Row], tolerance: float) -> list[str]:
    """The truth and the barriers of each setting."""
    lines = []
    for name in dict.fromkeys(row["setting"] for row in rows):
        own = [row for row in rows if row["setting"] == name]
        steps = sorted(truth_of(row, tolerance) for row in own)
        typical = np.median([row["barriers"] for row in own], axis=0)
        shown = ", ".join(f"{b:.2f}" for b in typical)
        lines.append((name, ", ".join(map(str, steps)), shown, f"{_seconds(own):.0f}"))
    heads = "setting", f"settled from step (barrier at most {tolerance:g})", "median barriers", "s"
    return [
        f"Forks at steps {rows[0]['forks']} of {rows[0]['steps']}.",
        "",
        *_markdown(heads, lines),
    ]


def _seconds(rows: Sequence[Row]) -> float:
    return float(np.median([sum(row["seconds"]) for row in rows]))


def errors(said: Sequence[int], truth: Sequence[int]) -> tuple[str, ...]:
    """The columns of one candidate."""
    off = (np.array(said) - np.array(truth)) / STEPS_PER_EPOCH
    early, late = int((off < 0).sum()), int((off > 0).sum())
    middle, mean = np.median(np.abs(off)), np.mean(np.abs(off))
    return with_interval(said, truth), f"{middle:.2f}", f"{mean:.2f}", f"{early}", f"{late}"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return [*head, *(f"| {' | '.join(row)} |" for row in rows)]


# ------------------------------------------------------------------------ main


def read(path: Path) -> list[Row]:
    """The rows of a file; of equal setting and seed the last."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines() if line]
    return list({(row["setting"], row["seed"]): row for row in rows}.values())


def told(row: Row) -> str:
    barriers = " ".join(f"{b:.2f}" for b in row["barriers"])
    facts = f"barriers {barriers}  settled {row['settled']:g}  loss {row['final_loss']:.3g}"
    return f"{row['setting']} seed {row['seed']}  {facts}  seconds {row['seconds']}"


def main(arguments: list[str] | None = None) -> list[Row]:
    """Make the runs asked for, or print the table of runs made before; return the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=720)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    parser.add_argument("--table", metavar="FILE", type=Path, help="print the table of these rows")
    given = parser.parse_args(arguments)
    if given.table:
        rows = read(given.table)
        print(table(rows, given.tolerance))
        return rows
    for name in ("pytorch_lightning", "lightning_morse"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = read(given.out) if given.out else []
    known = {(row["setting"], row["seed"]) for row in rows}
    for seed in given.seeds:
        for name in given.settings:
            if (name, seed) in known:
                continue
            row = made(name, seed, given.steps)
            print(told(row), flush=True)
            rows.append(row)
            if given.out:
                with given.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    print(table(rows, given.tolerance))
    return rows


if __name__ == "__main__":
    main()
