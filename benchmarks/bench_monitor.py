"""The cost of MorseMonitor: wall time of a run, and of one loss evaluation.

    python benchmarks/bench_monitor.py             # about ten minutes
    python benchmarks/bench_monitor.py --seconds 2 --repeats 1
    python benchmarks/bench_monitor.py --whole mlp cnn transformer   # about an hour and a half
    python benchmarks/bench_monitor.py --whole mlp --pairs 1 --scale 0.2

*Whole processes* (``--whole``): wall time of a process that trains with the callback at its
defaults over one that trains without it, median of alternating pairs, with the number of analyses:
an MLP for ten seconds, a convolutional network for two minutes with a checkpoint every epoch, and a
transformer of 17 million weights for half a minute. ``--scale`` shortens all of them. The time with
the callback has to stay below 1.05 times the other plus 2 s. CPU time, that of the process that
draws included, is told beside it: on a machine shared with others it varies less.

*Overhead*: the same run with the callback at its defaults and without it; and, within the run with
it, the ratio of the time inside its hooks to the time outside, which does not depend on how busy
the machine was during another run. That ratio has to stay below ``max_overhead`` plus one
percentage point and the grace over the length of the run.

*Evaluation*: the loss at a point of the slice relative to the bare loss of the module on the same
batches. The ratio has to stay below 1.15.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_morse import AffineSubspace, LossSlice, MorseMonitor
from lightning_morse.slices.bases import orthonormal_columns
from lightning_morse.slices.parameters import flat_parameters

MAX_OVERHEAD = 0.05
POINTS_OVER = 0.01
GRACE = 2.0
MOST_A_FORWARD = 1.15
# Epochs of the run that tells how long an epoch takes, and the first ones, which take longer.
_TRIED_EPOCHS, _FIRST_EPOCHS = 8, 2


class Classifier(pl.LightningModule):
    """Cross-entropy and Adam around a network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def digits_net() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


NETS: dict[str, Callable[[], nn.Module]] = {"digits": digits_net, "mlp": mlp, "cnn": cnn}


def data() -> TensorDataset:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))


def train(
    net: str, epochs: int, *callbacks: pl.Callback, batch_size: int = 64
) -> tuple[float, float]:
    """Wall time and CPU time of a run."""
    torch.manual_seed(0)
    module = Classifier(NETS[net]())
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=list(callbacks),
            logger=TensorBoardLogger(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = DataLoader(data(), batch_size=batch_size, shuffle=True)
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.fit(module, loader)
        return time.perf_counter() - wall, time.process_time() - cpu


def median_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The median, and its standard error were the values normal."""
    return statistics.median(values), 1.25 * statistics.stdev(values) / len(values) ** 0.5


class Timed(MorseMonitor):
    """Measures its hooks from outside."""

    inside = 0.0


def _timed(hook: str) -> None:
    def timed(self: Timed, *args: Any) -> None:
        start = time.perf_counter()
        getattr(MorseMonitor, hook)(self, *args)
        self.inside += time.perf_counter() - start

    setattr(Timed, hook, timed)


for _hook in (
    "on_fit_start",
    "on_train_start",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_train_end",
):
    _timed(_hook)


def overhead(net: str, seconds: float) -> dict[str, Any]:
    """The same run with and without the callback, of about the given number of seconds."""
    train(net, 1)  # what is done only once per process
    epochs = max(2, round(seconds * 3 / train(net, 3)[0]))
    monitor = Timed()
    watched, watched_cpu = train(net, epochs, monitor)
    bare, bare_cpu = train(net, epochs)
    return {
        "epochs": epochs,
        "analyses": len(monitor.history),
        "seconds_bare": bare,
        "seconds_watched": watched,
        "overhead_hooks": monitor.inside / (watched - monitor.inside),
        "overhead_wall": watched / bare - 1,
        "overhead_cpu": watched_cpu / bare_cpu - 1,
        "overhead_reported": monitor.history[-1]["morse/overhead"],
        "analysis_seconds": statistics.mean(r["morse/seconds"] for r in monitor.history),
    }


def evaluation(net: str, repeats: int) -> dict[str, float]:
    """One loss at a point of a slice against the bare loss, medians of alternating runs."""
    torch.manual_seed(0)
    module = Classifier(NETS[net]())
    loader = DataLoader(data(), batch_size=64, shuffle=True)
    batches = [batch for batch, _ in zip(loader, range(4), strict=False)]
    weights = flat_parameters(module)
    directions = orthonormal_columns(torch.randn(len(weights), 2))

    def loss_fn(network: Any, batch: Sequence[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(network.net(batch[0]), batch[1])

    loss = LossSlice(module, AffineSubspace(weights, directions), batches, loss_fn)
    points = 0.01 * torch.randn(32, 2, dtype=torch.float64)
    module.eval()

    def bare() -> None:
        with torch.no_grad():
            for _ in points:
                for batch in batches:
                    loss_fn(module, batch).item()

    def timed(work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) / len(points)

    timed(bare), timed(lambda: loss(points))
    pairs = [(timed(bare), timed(lambda: loss(points))) for _ in range(repeats)]
    return {
        "bare_ms": 1e3 * statistics.median(b for b, _ in pairs),
        "slice_ms": 1e3 * statistics.median(s for _, s in pairs),
        "ratio": statistics.median(s / b for b, s in pairs),
    }


# ------------------------------------------------------------------------- whole processes


class Transformer(nn.Module):
    """Predicts the next of 64 symbols; 17 million weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(512, 512)
        layer = nn.TransformerEncoderLayer(512, 8, 1600, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head = nn.Linear(512, 512)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.embedding(x)).mean(dim=1))


def wide_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 1000), nn.ReLU(), nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 10)
    )


@dataclass(frozen=True)
class Case:
    """A run to be timed as a whole.

    Attributes:
        net: Makes the network.
        seconds: Length of the run, roughly.
        data: Makes the data.
        batch: Batch size.
        checkpoints: Whether to write one every epoch.
        analyses: How many there have to be.
    """

    net: Callable[[], nn.Module]
    seconds: float
    data: Callable[[], TensorDataset]
    batch: int
    checkpoints: bool
    analyses: int


def symbols() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(512, (512, 16), generator=generator)
    return TensorDataset(x, x[:, 0])


WHOLE = {
    "mlp": Case(wide_mlp, 10, data, 64, False, 2),
    "cnn": Case(cnn, 120, data, 32, True, 6),
    "transformer": Case(Transformer, 30, symbols, 16, False, 1),
}


class Ends(pl.Callback):
    """Notes when epochs end."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_train_epoch_end(self, *args: Any) -> None:
        self.at.append(time.perf_counter())

    @property
    def an_epoch(self) -> float:
        """Seconds of an epoch but the first ones; NaN if there are no others."""
        after = self.at[_FIRST_EPOCHS - 1 :]
        return (after[-1] - after[0]) / (len(after) - 1) if len(after) > 1 else math.nan


def run_whole(name: str, epochs: int, watched: bool) -> dict[str, Any]:
    """One run, in this process: seconds of the fit, and what was seen."""
    case = WHOLE[name]
    torch.manual_seed(0)
    module, given = Classifier(case.net()), case.data()
    ends = Ends()
    callbacks: list[pl.Callback] = [*([MorseMonitor()] if watched else []), ends]
    with tempfile.TemporaryDirectory() as folder:
        if case.checkpoints:
            callbacks.append(ModelCheckpoint(folder, save_top_k=1))
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=callbacks,
            logger=TensorBoardLogger(folder),
            enable_checkpointing=case.checkpoints,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        start = time.perf_counter()
        trainer.fit(module, DataLoader(given, batch_size=case.batch, shuffle=True))
        seconds = time.perf_counter() - start
        written = sum(path.stat().st_size for path in Path(folder).rglob("*.ckpt"))
    history = callbacks[0].history if watched else []
    found = {"fit": seconds, "analyses": len(history), "checkpoint_bytes": written}
    found["an_epoch"] = ends.an_epoch
    if history:
        last = history[-1]["step"] == trainer.global_step - 1
        found |= {"last_is_final": last, "share": history[-1]["morse/overhead"]}
    return found


def in_a_process(name: str, epochs: int, watched: bool) -> dict[str, Any]:
    """The same in a process of its own, with its wall time and CPU time."""
    command = [sys.executable, __file__, "--child", name, str(epochs), str(int(watched))]
    before, start = _cpu_of_children(), time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    took = {"wall": time.perf_counter() - start, "cpu": _cpu_of_children() - before}
    return {**took, **json.loads(ended.stdout.splitlines()[-1])}


def _cpu_of_children() -> float:
    """CPU seconds of all processes that have ended, those that drew included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def whole(name: str, pairs: int, scale: float) -> dict[str, Any]:
    """Pairs of processes with and without the callback, alternating."""
    an_epoch = in_a_process(name, _TRIED_EPOCHS, False)["an_epoch"]
    epochs = max(2, round(scale * WHOLE[name].seconds / an_epoch))
    with_it, bare = [], []
    for _ in range(pairs):
        bare.append(in_a_process(name, epochs, False))
        with_it.append(in_a_process(name, epochs, True))
    excess = [
        w["wall"] - (1 + MAX_OVERHEAD) * b["wall"] for w, b in zip(with_it, bare, strict=True)
    ]
    return {
        "epochs": epochs,
        "bare": statistics.median(b["wall"] for b in bare),
        "watched": statistics.median(w["wall"] for w in with_it),
        "excess": statistics.median(excess),
        "cpu_bare": statistics.median(b["cpu"] for b in bare),
        "cpu_watched": statistics.median(w["cpu"] for w in with_it),
        "analyses": statistics.median_low([w["analyses"] for w in with_it]),
        "last_is_final": all(w.get("last_is_final", False) for w in with_it),
        "share": statistics.median(w.get("share", 0.0) for w in with_it),
        "checkpoint_growth": with_it[0]["checkpoint_bytes"] - bare[0]["checkpoint_bytes"],
    }


def main_whole(names: Sequence[str], pairs: int, scale: float) -> dict[str, Any]:
    """Measure whole processes, print, and say which limits are exceeded."""
    found = {name: whole(name, pairs, scale) for name in names}
    print(json.dumps(found, indent=2))
    for name, facts in found.items():
        verdict = "holds" if facts["excess"] <= GRACE else "DOES NOT HOLD"
        print(
            f"whole, {name}: {facts['watched']:.1f} s over {facts['bare']:.1f} s, "
            f"{facts['excess']:.2f} s beyond {1 + MAX_OVERHEAD:g} times: {verdict}"
        )
        enough = facts["analyses"] >= WHOLE[name].analyses and facts["last_is_final"]
        said = "" if scale == 1 else " (wanted of the whole length)"
        print(
            f"whole, {name}: {facts['analyses']} analyses of {WHOLE[name].analyses} wanted{said}: "
            f"{'holds' if enough else 'DOES NOT HOLD'}"
        )
    return found


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, and say which limits are exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=150, help="of each run, roughly")
    parser.add_argument("--repeats", type=int, default=21, help="of each evaluation")
    parser.add_argument("--whole", nargs="+", choices=sorted(WHOLE), help="whole processes only")
    parser.add_argument("--pairs", type=int, default=5, help="of whole processes")
    parser.add_argument("--scale", type=float, default=1.0, help="of the length of whole runs")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    torch.set_num_threads(1)
    if args.child:
        name, epochs, watched = args.child
        facts = run_whole(name, int(epochs), watched == "1")
        print(json.dumps(facts))
        return facts
    if args.whole:
        return main_whole(args.whole, args.pairs, args.scale)
    found = {
        "evaluation": {net: evaluation(net, args.repeats) for net in ("mlp", "cnn")},
        "overhead": {net: overhead(net, args.seconds) for net in ("digits", "cnn")},
    }
    print(json.dumps(found, indent=2))
    for net, facts in found["evaluation"].items():
        verdict = "holds" if facts["ratio"] <= MOST_A_FORWARD else "DOES NOT HOLD"
        print(f"evaluation, {net}: {facts['ratio']:.3f} of a forward pass: {verdict}")
    for net, facts in found["overhead"].items():
        most = MAX_OVERHEAD + POINTS_OVER + GRACE / facts["seconds_bare"]
        verdict = "holds" if facts["overhead_hooks"] <= most else "DOES NOT HOLD"
        print(f"overhead, {net}: {facts['overhead_hooks']:.3f}: {verdict}")
    return found


if __name__ == "__main__":
    main()
