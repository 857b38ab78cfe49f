"""Ten short trainings and what is said of each: the pictures and the page of docs/gallery.md.

    python examples/gallery.py --images docs/images --page docs/gallery.md
    python examples/gallery.py --only moons wine

Each is analysed once, at its end. Prints the sentence on it; writes its picture.
"""

from __future__ import annotations

import argparse
import io
import logging
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from sklearn import datasets
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_morse import MorseMonitor

SAMPLES, RESOLUTION = 96, 96
DPI, COLORS = 90, 64  # of the pictures, which have to be small
WIDTH = 119  # of the page, in characters

Loss = Callable[[Tensor, Tensor], Tensor]


def table(load: Callable[..., Any], *, regression: bool = False) -> tuple[Tensor, Tensor]:
    """A data set of scikit-learn, inputs (and targets of a regression) standardised."""
    x, y = load(return_X_y=True)
    inputs = standard(torch.tensor(x, dtype=torch.float32))
    if regression:
        return inputs, standard(torch.tensor(y, dtype=torch.float32))[:, None]
    return inputs, torch.tensor(y)


def standard(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / x.std(0).clamp(min=1e-6)


def digits() -> tuple[Tensor, Tensor]:
    """The 1,797 images of 8 x 8 pixels."""
    x, y = datasets.load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)


def to_itself() -> tuple[Tensor, Tensor]:
    """The digits as their own targets."""
    x, _ = digits()
    return x, x


def moons() -> tuple[Tensor, Tensor]:
    """Two crescents that reach into each other."""
    x, y = datasets.make_moons(400, noise=0.15, random_state=0)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def perceptron(*sizes: int, activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers[:-1])


def convolutional() -> nn.Module:
    """Two convolutions with batch norm."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(72, 10)),
    )


@dataclass(frozen=True)
class Case:
    """A training.

    Attributes:
        title: Heading of its section.
        about: What is trained, and how.
        data: Makes inputs and targets.
        net: Makes the network.
        optimizer: Makes the optimizer of some weights.
        epochs: How many.
        loss: Of outputs and targets.
        decay: Weight decay, as part of the loss.
        batch: Examples in a batch.
    """

    title: str
    about: str
    data: Callable[[], tuple[Tensor, Tensor]]
    net: Callable[[], nn.Module]
    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer]
    epochs: int
    loss: Loss = nn.functional.cross_entropy
    decay: float = 0.0
    batch: int = 64


class Module(pl.LightningModule):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case, self.net = case, case.net()

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        squares = sum(p.square().sum() for p in self.parameters())
        return self.case.loss(self.net(x), y) + 0.5 * self.case.decay * squares

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.case.optimizer(self.parameters())


adam = partial(partial, torch.optim.Adam)
sgd = partial(partial, torch.optim.SGD)


def usual(title: str, about: str, rate: float = 5e-3, epochs: int = 12) -> Case:
    """The usual run, or one that differs in rate or length."""
    net = partial(perceptron, 64, 32, 10)
    return Case(title, about, digits, net, adam(lr=rate), epochs, decay=1e-3)


CASES = {
    "usual": usual(
        "A usual run",
        "Digits, a perceptron 64-32-10 with tanh, Adam at 0.005, weight decay, 12 epochs.",
    ),
    "early": usual("The same, stopped too early", "The same network after 2 epochs.", epochs=2),
    "slow": usual(
        "The same, with a rate that is too small",
        "The same network after 12 epochs of Adam at 0.0001.",
        rate=1e-4,
    ),
    "fast": usual(
        "The same, with a rate that is too large",
        "The same network after 12 epochs of Adam at 0.05, ten times as much.",
        rate=0.05,
    ),
    "relu": Case(
        "Kinks",
        "Digits, a perceptron with ReLU and no weight decay, SGD with momentum, 20 epochs.",
        digits,
        lambda: perceptron(64, 32, 10, activation=nn.ReLU),
        *(sgd(lr=0.05, momentum=0.9), 20),
    ),
    "batch-norm": Case(
        "Batch norm",
        "Digits, two convolutions with batch norm, Adam at 0.003, weight decay, 8 epochs.",
        *(digits, convolutional, adam(lr=3e-3), 8),
        decay=1e-3,
    ),
    "linear": Case(
        "A convex loss",
        "Breast cancer, logistic regression, weight decay, SGD at 0.1, 30 epochs. There is no "
        "saddle: the mark at the right edge is a place that may hold one as far as the samples "
        "tell. A barrier is that of the lowest such place, and may be lower than the true one.",
        *(partial(table, datasets.load_breast_cancer), lambda: nn.Linear(30, 2)),
        *(sgd(lr=0.1), 30),
        decay=1e-2,
    ),
    "wine": Case(
        "Few examples",
        "Wine, 178 examples, a perceptron 13-8-3 with tanh, Adam at 0.01, weight decay, 40 epochs.",
        *(partial(table, datasets.load_wine), lambda: perceptron(13, 8, 3), adam(lr=0.01), 40),
        decay=1e-2,
    ),
    "moons": Case(
        "A small network",
        "Two moons, a perceptron 2-4-2 with tanh, no weight decay, full batches, SGD at 1, 300 "
        "epochs.",
        *(moons, lambda: perceptron(2, 4, 2), sgd(lr=1.0), 300),
        batch=400,
    ),
    "autoencoder": Case(
        "No classes",
        "Digits, an autoencoder 64-8-64 with tanh, Adam at 0.003, weight decay, 20 epochs.",
        *(to_itself, lambda: perceptron(64, 8, 64), adam(lr=3e-3), 20),
        loss=nn.functional.mse_loss,
        decay=1e-4,
    ),
}


def train(case: Case, seed: int = 0) -> MorseMonitor:
    """Train, with one analysis at the end."""
    pl.seed_everything(seed, verbose=False)
    monitor = MorseMonitor(
        n_samples=SAMPLES,
        resolution=RESOLUTION,
        seed=seed,
        every_n_epochs=case.epochs,
        max_overhead=1.0,
    )
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(TensorDataset(*case.data()), case.batch, shuffle=True, generator=order)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=case.epochs,
            accelerator="cpu",
            callbacks=[monitor],
            logger=False,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Module(case), loader)
    return monitor


def draw(monitor: MorseMonitor, path: Path) -> None:
    """Write the picture of the last analysis as a small PNG."""
    png = io.BytesIO()
    monitor.figures()["basins"].savefig(png, dpi=DPI)
    small = Image.open(png).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


ABOUT = """\
Ten short trainings on data sets of scikit-learn, and what is said of each at its end. Made by
`examples/gallery.py` (`make figures`), which also writes this page; a test trains them again and
holds the sentences against it. Every picture is a plane through the weights at the end, spanned by
the first two principal directions of the way there."""


def head() -> str:
    return f"# Gallery\n\n{textwrap.fill(ABOUT, WIDTH)}\n"


def section(case: Case, said: str, link: str) -> str:
    """A section of the page."""
    quotation = textwrap.fill(said, WIDTH, initial_indent="> ", subsequent_indent="> ")
    about = textwrap.fill(case.about, WIDTH)
    return f"## {case.title}\n\n{about}\n\n{quotation}\n\n![{case.title}]({link})\n"


def main(argv: Sequence[str] | None = None) -> dict[str, str]:
    """Train, draw and tell; return the sentences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, default=Path("runs/gallery"), help="folder")
    parser.add_argument("--page", type=Path, help="where to write the page")
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    args = parser.parse_args(argv)
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_morse"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    args.images.mkdir(parents=True, exist_ok=True)

    found, sections = {}, [head()]
    for name in args.only:
        start, path = time.monotonic(), args.images / f"gallery-{name}.png"
        monitor = train(CASES[name])
        draw(monitor, path)
        found[name] = monitor.sentence
        sections.append(section(CASES[name], monitor.sentence, f"images/{path.name}"))
        took, size = time.monotonic() - start, path.stat().st_size / 1000
        print(f"{path} ({size:.0f} kB, {took:.1f} s): {monitor.sentence}")
    if args.page is not None:
        args.page.write_text("\n".join(sections), encoding="utf-8")
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
