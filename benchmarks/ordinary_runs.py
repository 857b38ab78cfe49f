"""Ten ordinary trainings on data that scikit-learn brings along, a minute each at most.

Networks, losses and optimizers are those of beginners' tutorials: default initialisation, default
hyper-parameters but for the learning rate, mini-batches of 32 or 64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import Logger
from sklearn.datasets import load_diabetes, load_digits, make_friedman1
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.utils.data import DataLoader, TensorDataset, random_split

# ------------------------------------------------------------------- networks


class Residual(nn.Module):
    """Two convolutions with batch norm, and a connection past them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second, self.last = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.last(self.second(F.relu(self.norm(self.first(x))))))


class Recurrent(nn.Module):
    """Reads a digit row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.out = nn.GRU(8, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(x.view(-1, 8, 8))[0][:, -1])


class VisionTransformer(nn.Module):
    """Two encoder layers over the sixteen patches of 2 x 2 pixels of a digit."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.place = nn.Parameter(0.02 * torch.randn(1, 16, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x.view(-1, 1, 8, 8)).flatten(2).transpose(1, 2)
        return self.head(self.encoder(patches + self.place).mean(1))


class VariationalAutoencoder(nn.Module):
    """Reconstruction of a digit from a random code, and the mean and log-variance of the code."""

    def __init__(self, code: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2 * code))
        self.decoder = nn.Sequential(nn.Linear(code, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        code = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return self.decoder(code), mean, log_variance


def mlp(inputs: int, outputs: int, width: int = 64) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )


def image(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *layers)


def conv_net() -> nn.Module:
    return image(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def res_net() -> nn.Module:
    return image(
        nn.Conv2d(1, 16, 3, padding=1),
        Residual(16),
        Residual(16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 8),
        nn.Linear(8, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
    )


# ------------------------------------------------------------ data and losses

Data = tuple[Tensor, Tensor]


def digits() -> Data:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)


def digits_twice() -> Data:
    images, _ = digits()
    return images, images


def standardised(features: Tensor, target: Tensor) -> Data:
    return (features - features.mean(0)) / features.std(0), (target - target.mean()) / target.std()


def diabetes() -> Data:
    return standardised(
        *(torch.tensor(a, dtype=torch.float32) for a in load_diabetes(return_X_y=True))
    )


def friedman() -> Data:
    made = make_friedman1(n_samples=1000, noise=1.0, random_state=0)
    return standardised(*(torch.tensor(a, dtype=torch.float32) for a in made))


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output.squeeze(1), target)


def huber(output: Tensor, target: Tensor) -> Tensor:
    return F.huber_loss(output.squeeze(1), target)


def negative_evidence_bound(output: tuple[Tensor, Tensor, Tensor], images: Tensor) -> Tensor:
    """Up to a constant and a factor, with a Gaussian of deviation 0.3 for a pixel."""
    made, mean, log_variance = output
    misfit = F.mse_loss(made, images, reduction="none").sum(1) / (2 * 0.3**2)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
    return (misfit + divergence).mean()


# ----------------------------------------------------------------------- runs


class Run(NamedTuple):
    """What is trained, on what, and how."""

    network: Callable[[], nn.Module]
    loss: Callable[..., Tensor]
    optimizer: Callable[..., torch.optim.Optimizer]
    data: Callable[[], Data]
    batch: int


def momentum_sgd(weights: object) -> torch.optim.Optimizer:
    return SGD(weights, 0.05, momentum=0.9, weight_decay=5e-4)


def adam(weights: object) -> torch.optim.Optimizer:
    return Adam(weights, 1e-3)


def fast_adam(weights: object) -> torch.optim.Optimizer:
    return Adam(weights, 3e-3)


def adamw(weights: object) -> torch.optim.Optimizer:
    return AdamW(weights, 1e-3)


RUNS = {
    "cnn_adam": Run(conv_net, F.cross_entropy, adam, digits, 64),
    "mlp_adamw": Run(lambda: mlp(64, 10), F.cross_entropy, adamw, digits, 64),
    "mlp_sgd": Run(lambda: mlp(64, 10), F.cross_entropy, momentum_sgd, digits, 64),
    "resnet_sgd": Run(res_net, F.cross_entropy, momentum_sgd, digits, 64),
    "gru_adam": Run(Recurrent, F.cross_entropy, fast_adam, digits, 64),
    "autoencoder_adam": Run(autoencoder, F.mse_loss, adam, digits_twice, 64),
    "diabetes_adam": Run(lambda: mlp(10, 1), squared_error, adam, diabetes, 32),
    "vit_adamw": Run(VisionTransformer, F.cross_entropy, adamw, digits, 64),
    "huber_adam": Run(lambda: mlp(10, 1), huber, adam, friedman, 32),
    "vae_adam": Run(VariationalAutoencoder, negative_evidence_bound, adam, digits_twice, 64),
}
# Trained far too long, say for 130 epochs: not one of the ten.
LONG = {"wide_adam": Run(lambda: mlp(64, 10, 128), F.cross_entropy, adam, digits, 64)}


class Module(pl.LightningModule):
    """The network of a run, with the steps that Lightning asks for."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.net, self.loss, self.optimizer = run.network(), run.loss, run.optimizer

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())


def train(
    run: str | Run,
    seed: int,
    epochs: int,
    callback: pl.Callback,
    folder: str,
    logger: Logger | bool = False,
) -> None:
    """Train on the CPU with a callback, four fifths of the data.

    Args:
        run: The run, or its name.
        seed: Of weights, split and batches, drawn from the global generators as users do.
        epochs: Number of epochs.
        callback: Watches.
        folder: Where the trainer may write.
        logger: The trainer's.
    """
    run = {**RUNS, **LONG}[run] if isinstance(run, str) else run
    pl.seed_everything(seed, verbose=False)
    module = Module(run)
    training, held_out = random_split(TensorDataset(*run.data()), [0.8, 0.2])
    quiet_trainer(epochs, callback, folder, logger).fit(
        module, DataLoader(training, run.batch, shuffle=True), DataLoader(held_out, 256)
    )


def quiet_trainer(
    epochs: int, callback: pl.Callback, folder: str, logger: Logger | bool = False
) -> pl.Trainer:
    """A trainer on the CPU that writes and shows nothing but what its callback does."""
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[callback],
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
