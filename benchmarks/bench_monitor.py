"""The cost of MorseMonitor: wall time of a run, and of one loss evaluation.

    python benchmarks/bench_monitor.py             # about ten minutes
    python benchmarks/bench_monitor.py --seconds 2 --repeats 1

*Overhead*: the same run with the callback at its defaults and without it; and, within the run with
it, the ratio of the time inside its hooks to the time outside, which does not depend on how busy
the machine was during another run. That ratio has to stay below ``max_overhead`` plus one
percentage point. A run shorter than some twenty analyses cannot comply, since the first analysis is
always made.

*Evaluation*: the loss at a point of the slice relative to the bare loss of the module on the same
batches. The ratio has to stay below 1.15.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_morse import AffineSubspace, LossSlice, MorseMonitor
from lightning_morse.slices.bases import orthonormal_columns
from lightning_morse.slices.parameters import flat_parameters

MAX_OVERHEAD = 0.05
POINTS_OVER = 0.01
MOST_A_FORWARD = 1.15


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


def train(net: str, epochs: int, *callbacks: pl.Callback) -> tuple[float, float]:
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
        loader = DataLoader(data(), batch_size=64, shuffle=True)
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.fit(module, loader)
        return time.perf_counter() - wall, time.process_time() - cpu


class Timed(MorseMonitor):
    """Measures its hooks from outside."""

    inside = 0.0


def _timed(hook: str) -> None:
    def timed(self: Timed, *args: Any) -> None:
        start = time.perf_counter()
        getattr(MorseMonitor, hook)(self, *args)
        self.inside += time.perf_counter() - start

    setattr(Timed, hook, timed)


for _hook in ("on_fit_start", "on_train_start", "on_train_batch_start", "on_train_batch_end"):
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


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, and say which limits are exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=150, help="of each run, roughly")
    parser.add_argument("--repeats", type=int, default=21, help="of each evaluation")
    args = parser.parse_args(argv)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    torch.set_num_threads(1)
    found = {
        "evaluation": {net: evaluation(net, args.repeats) for net in ("mlp", "cnn")},
        "overhead": {net: overhead(net, args.seconds) for net in ("digits", "cnn")},
    }
    print(json.dumps(found, indent=2))
    for net, facts in found["evaluation"].items():
        verdict = "holds" if facts["ratio"] <= MOST_A_FORWARD else "DOES NOT HOLD"
        print(f"evaluation, {net}: {facts['ratio']:.3f} of a forward pass: {verdict}")
    for net, facts in found["overhead"].items():
        verdict = (
            "holds" if facts["overhead_hooks"] <= MAX_OVERHEAD + POINTS_OVER else "DOES NOT HOLD"
        )
        print(f"overhead, {net}: {facts['overhead_hooks']:.3f}: {verdict}")
    return found


if __name__ == "__main__":
    main()
