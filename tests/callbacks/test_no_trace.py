"""A run with the callback and the same run without it are bit-identical."""

from __future__ import annotations

import copy
import csv
import dataclasses
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from pytorch_lightning.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_morse import MorseMonitor
from tests.callback_models import Net, monitor, rng_state, seed_all, stub_analysis, trainer

N = 48
PAGE = Path(__file__).parents[2] / "docs" / "no-trace.md"


class Plain(Net):
    """The steps of Net around any network, with a metric that is never reset."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.error = torchmetrics.MeanSquaredError()
        self.logged = torchmetrics.MeanSquaredError()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        self.seen.append(float(x.sum()))
        prediction = self.net(x)
        self.error.update(prediction.detach().float(), y)
        self.logged.update(prediction.detach().float(), y)
        self.log("error", self.logged)  # which resets it at the end of the epoch
        loss = nn.functional.mse_loss(prediction, y)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 4, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x[..., None])[0][:, -1])


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x[..., None])).mean(dim=1))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(3, 3)
        self.decode = nn.Linear(3, 3)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x).tanh()).sum(dim=1, keepdim=True)


class Traceable(Plain):
    """All in training_step can be compiled; ``log`` cannot."""

    def on_train_batch_start(self, batch: list[Tensor], batch_idx: int) -> None:
        self.seen.append(float(batch[0].sum()))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def on_train_batch_end(self, outputs: Any, batch: list[Tensor], batch_idx: int) -> None:
        self.log("train_loss", outputs["loss"], on_step=True, on_epoch=True)


class FrozenNorm(Plain):
    """Normalisation of a pretrained network: in eval mode and without gradients throughout."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)))
        self.net[1].requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        self.net[1].eval()


class Adversaries(Plain):
    """Two optimizers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 1))
        self.other = nn.Linear(1, 1)
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        first, second = self.optimizers()
        for optimizer, sign in ((first, 1.0), (second, -1.0)):
            loss = sign * self.other(super().training_step(batch, batch_idx)[None]).sum()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.Adam(self.net.parameters(), lr=0.02),
            torch.optim.SGD(self.other.parameters(), lr=0.02, momentum=0.9),
        ]


class ByHand(Plain):
    """Steps taken by hand, and the loss returned; validation only logs."""

    def __init__(self, lightnings_backward: bool) -> None:
        super().__init__(mlp(nn.BatchNorm1d(8)))
        self.automatic_optimization = False
        self.lightnings_backward = lightnings_backward

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        optimizer = self.optimizers()
        self.toggle_optimizer(optimizer)
        loss = super().training_step(batch, batch_idx)
        optimizer.zero_grad()
        if self.lightnings_backward:
            self.manual_backward(loss)
        else:
            loss.backward()
        self.clip_gradients(optimizer, 0.5, "norm")
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        return loss


class Scheduled(Plain):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2)]


def data() -> TensorDataset:
    x = torch.randn(N, 3, generator=torch.Generator().manual_seed(1))
    return TensorDataset(x, (x[:, :1] * x[:, 1:2]).tanh())


class Noisy(Dataset):
    """Augmentation: every access to an example draws from the global generator."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        x, y = data()[i]
        return x + 0.1 * torch.randn(3), y


class Stream(IterableDataset):
    """It has no length and cannot be restarted."""

    def __iter__(self) -> Any:
        for x, y in data():
            yield x + 0.1 * torch.randn(3), y


def loader(**options: Any) -> DataLoader:
    dataset = options.pop("dataset", None) or data()
    return DataLoader(dataset, **{"batch_size": 8, "shuffle": True, **options})


def own_generator() -> DataLoader:
    return loader(generator=torch.Generator().manual_seed(3))


def mlp(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), *layers, nn.Tanh(), nn.Linear(8, 1))


def regression(module: Any, batch: list[Tensor]) -> Tensor:
    return nn.functional.mse_loss(module.net(batch[0]), batch[1])


@dataclass(frozen=True)
class Case:
    """One feature of a run."""

    module: Callable[[], pl.LightningModule]
    loader: Callable[[], DataLoader] = loader
    callbacks: Callable[[], list[pl.Callback]] = list
    options: dict[str, Any] = field(default_factory=dict)
    watch: dict[str, Any] = field(default_factory=dict)
    compiled: bool = False


CASES = {
    "batch_norm": Case(lambda: Plain(mlp(nn.BatchNorm1d(8)))),
    "frozen_batch_norm": Case(FrozenNorm),
    "dropout": Case(lambda: Plain(mlp(nn.Dropout(0.5)))),
    "accumulation": Case(lambda: Plain(mlp()), options={"accumulate_grad_batches": 4}),
    "clipping": Case(lambda: Plain(mlp()), options={"gradient_clip_val": 0.1}),
    "bf16_mixed": Case(lambda: Plain(mlp(nn.BatchNorm1d(8))), options={"precision": "bf16-mixed"}),
    "double": Case(lambda: Plain(mlp()), options={"precision": "64-true"}),
    "scheduler": Case(lambda: Scheduled(mlp())),
    "ema": Case(lambda: Plain(mlp()), callbacks=lambda: [EMAWeightAveraging(decay=0.5)]),
    "swa": Case(
        lambda: Plain(mlp(nn.BatchNorm1d(8))),
        callbacks=lambda: [StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)],
        options={"max_epochs": 4},
    ),
    "manual_optimization": Case(Adversaries, watch={"loss_fn": regression}),
    "manual_optimization_returning_the_loss": Case(lambda: ByHand(True)),
    "manual_optimization_with_autograd": Case(lambda: ByHand(False)),
    "persistent_workers": Case(
        lambda: Plain(mlp()),
        lambda: loader(dataset=Noisy(), num_workers=1, persistent_workers=True),
    ),
    "iterable": Case(lambda: Plain(mlp()), lambda: loader(dataset=Stream(), shuffle=False)),
    "augmentation": Case(lambda: Plain(mlp()), lambda: loader(dataset=Noisy())),
    "own_generator": Case(lambda: Plain(mlp()), own_generator),
    "lstm": Case(lambda: Plain(Recurrent())),
    "attention": Case(lambda: Plain(Attentive())),
    "tied_weights": Case(lambda: Plain(Tied())),
    "torch_compile": Case(
        lambda: Traceable(mlp(nn.BatchNorm1d(8), nn.Dropout(0.2))), compiled=True
    ),
}


def metrics(folder: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv without the columns of the callback."""
    with (folder / "metrics.csv").open() as file:
        rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
    ours = [{k: v for k, v in row.items() if not k.startswith("morse/")} for row in rows]
    return [row for row in ours if set(row) - {"step"}]


def saved(runner: pl.Trainer, root: Path) -> dict[str, Any]:
    """A checkpoint of the run without what callbacks keep in it."""
    path = root / "end.ckpt"
    runner.save_checkpoint(path)
    content = torch.load(path, weights_only=False)
    return {k: v for k, v in content.items() if k != "callbacks"}


def footprint(case: Case, root: Path, *watch: pl.Callback) -> dict[str, Any]:
    """Train, and return every trace of the run."""
    seed_all()
    module: Any = case.module()
    logger = CSVLogger(root, name="", version=0)
    options = {"max_epochs": 2, "logger": logger, **case.options}
    runner = trainer(root, *case.callbacks(), *watch, **options)
    runner.fit(torch.compile(module) if case.compiled else module, case.loader(), loader())
    return {
        "state_dict": copy.deepcopy(dict(module.state_dict())),
        "optimizers": [copy.deepcopy(o.state_dict()) for o in runner.optimizers],
        "gradients": {k: p.grad for k, p in module.named_parameters()},
        "modes": [m.training for m in module.modules()],
        "trained": [p.requires_grad for p in module.parameters()],
        "torchmetrics": module.error.metric_state,
        "data": module.seen,
        "generators": rng_state(),
        "accelerators": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "metrics.csv": metrics(Path(logger.log_dir)),
        "schedulers": [
            copy.deepcopy(c.scheduler.state_dict()) for c in runner.lr_scheduler_configs
        ],
        "ended": [runner.global_step, runner.current_epoch, runner.should_stop],
        "checkpoint": saved(runner, root),
        "callback_metrics": {k: v for k, v in runner.callback_metrics.items() if "morse/" not in k},
    }


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two footprints differ by as much as a bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and a.equal(b)
        return [] if same else [where]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for k in a for d in differences(a[k], b[k], f"{where}/{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [d for i, (x, y) in pairs for d in differences(x, y, f"{where}/{i}")]
    return [] if type(a) is type(b) and a == b else [where]


def both(case: Case, root: Path) -> tuple[dict[str, Any], dict[str, Any], MorseMonitor]:
    watch = monitor(n_samples=16, resolution=8, every_n_steps=3, **case.watch)
    return footprint(case, root / "a"), footprint(case, root / "b", watch), watch


def assert_no_trace(case: Case, root: Path) -> None:
    bare, watched, watch = both(case, root)
    assert len(watch.history) >= 1
    assert not any(row["morse/failed"] for row in watch.history)
    assert bare["metrics.csv"]
    assert differences(bare, watched) == []


def needs(name: str) -> list[Any]:
    if not CASES[name].compiled:
        return []
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    return [pytest.mark.slow, pytest.mark.skipif(compiler is None, reason="no C++ compiler")]


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=needs(n), id=n) for n in CASES])
def test_no_trace(name, tmp_path, monkeypatch):
    stub_analysis(monkeypatch)
    assert_no_trace(CASES[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in CASES if not CASES[n].compiled])
def test_no_trace_of_whole_analyses(name, request, tmp_path):
    if name != "batch_norm":  # another process draws, whatever the network
        request.getfixturevalue("no_pictures")
    assert_no_trace(CASES[name], tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", [n for n in CASES if not CASES[n].compiled])
def test_no_trace_on_a_gpu(name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    case = CASES[name]
    options = {**case.options, "accelerator": "gpu", "devices": 1}
    assert_no_trace(dataclasses.replace(case, options=options), tmp_path)


class Draws(MorseMonitor):
    def on_train_batch_end(self, *args):
        torch.rand(1)


class Evaluates(MorseMonitor):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.net(batch[0])


class Steps(MorseMonitor):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.training_step(batch, batch_idx)


class Fetches(MorseMonitor):
    def on_train_batch_start(self, trainer, *args):
        next(iter(trainer.train_dataloader))


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("name", "clumsy", "trace"),
    [
        ("batch_norm", Evaluates, "/state_dict/net.1.running_mean"),
        ("dropout", Draws, "/generators/0"),
        ("dropout", Steps, "/torchmetrics/total"),
        ("own_generator", Fetches, "/data/"),
    ],
)
def test_a_clumsy_callback_leaves_a_trace(name, clumsy, trace, tmp_path):
    """The comparison detects differences."""
    bare = footprint(CASES[name], tmp_path / "a")
    found = differences(bare, footprint(CASES[name], tmp_path / "b", clumsy()))
    assert any(where.startswith(trace) for where in found), found


def test_every_test_in_the_matrix_of_the_page_exists():
    rows = re.findall(r"^\|.*`(test_\w+)\[(\w+)\]` \|$", PAGE.read_text(), re.MULTILINE)
    assert {function for function, _ in rows} <= {name for name in globals() if "test_" in name}
    assert sorted(case for _, case in rows) == sorted(CASES)
