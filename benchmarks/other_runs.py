"""Twenty more trainings, of kinds that nothing was developed on: other losses, layers, optimizers.

Margins, absolute errors, Poisson counts, mixtures of Gaussians, label smoothing, a contrastive
loss; dropout, batch norm, an LSTM, attention, embeddings, linear models; nine optimizers. Data that
scikit-learn brings along or makes, and waves.
"""

from __future__ import annotations

import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn import datasets
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, RMSprop

sys.path.insert(0, str(Path(__file__).parent))
from ordinary_runs import (
    Data,
    Run,
    adam,
    diabetes,
    digits,
    fast_adam,
    squared_error,
    standardised,
)

# ------------------------------------------------------------------- networks


class Layers(nn.Module):
    """Linear layers of the given widths, each but the last with an activation.

    Args:
        widths: Inputs, hidden widths, outputs.
        activation: Makes an activation.
        between: Makes what goes before each activation, given its width; None for nothing.
    """

    def __init__(self, *widths: int, activation: type[nn.Module] = nn.ReLU, between=None) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for before, after in pairwise(widths[:-1]):
            parts += [nn.Linear(before, after), *([between(after)] if between else [])]
            parts.append(activation())
        self.net = nn.Sequential(*parts, nn.Linear(widths[-2], widths[-1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Wave(nn.Module):
    """Foretells the next value of a wave."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(1, 24, batch_first=True), nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x[..., None])[0][:, -1])


class Bag(nn.Module):
    """A digit as a bag of pixels, each with its grey as a word."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.EmbeddingBag(17 * 64, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.words((16 * x).long() + 17 * torch.arange(64)))


class Attentive(nn.Module):
    """One layer of attention over the rows of a digit."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.norm = nn.Linear(8, 32), nn.LayerNorm(32)
        self.attention, self.out = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows(x.view(-1, 8, 8))
        return self.out(self.norm(rows + self.attention(rows, rows, rows)[0]).mean(1))


# --------------------------------------------------------------------- losses


def each_by_itself(output: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output, F.one_hot(target, 10).float())


def focal(output: Tensor, target: Tensor) -> Tensor:
    losses = F.cross_entropy(output, target, reduction="none")
    return ((1 - torch.exp(-losses)).square() * losses).mean()


def absolute(output: Tensor, target: Tensor) -> Tensor:
    return F.l1_loss(output.squeeze(1), target)


def counts(output: Tensor, target: Tensor) -> Tensor:
    return F.poisson_nll_loss(output.squeeze(1), target)


def mixture(output: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of a mixture of three Gaussians, up to a constant."""
    weight, mean, log_deviation = output.split(3, dim=1)
    height = F.log_softmax(weight, 1) - log_deviation
    off = (target[:, None] - mean) / log_deviation.exp()
    return -torch.logsumexp(height - 0.5 * off.square(), 1).mean()


def contrastive(output: Tensor, target: Tensor) -> Tensor:
    """Images of one class are to be near each other on the sphere."""
    places = F.normalize(output)
    itself = torch.eye(len(places))
    alike = (target[:, None] == target).float() - itself
    near = F.log_softmax(places @ places.T / 0.3 - 1e4 * itself, 1)
    return -((near * alike).sum(1) / alike.sum(1).clamp(min=1)).mean()


# ----------------------------------------------------------------------- data


def as_data(features: object, target: object, *, scaled: bool = False) -> Data:
    x = torch.tensor(np.asarray(features), dtype=torch.float32)
    if scaled:
        x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    y = torch.tensor(np.asarray(target))
    return x, y if y.dtype == torch.int64 else y.float()


def waves() -> Data:
    rng = np.random.default_rng(0)
    times = rng.uniform(0, 6, (800, 1)) + 0.2 * np.arange(20)
    noisy = np.sin(times) + 0.1 * rng.normal(size=times.shape)
    return as_data(noisy[:, :-1], noisy[:, -1])


def friedman(number: int, noise: float) -> Data:
    made = getattr(datasets, f"make_friedman{number}")(800, noise=noise, random_state=0)
    return standardised(*as_data(*made))


def events() -> Data:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 8))
    return as_data(x, rng.poisson(np.exp(0.5 * x[:, 0] - 0.3 * x[:, 1])).astype(float))


def moons() -> Data:
    return as_data(*datasets.make_moons(600, noise=0.25, random_state=0))


def circles() -> Data:
    return as_data(*datasets.make_circles(600, noise=0.1, factor=0.5, random_state=0))


def blobs() -> Data:
    made = datasets.make_blobs(600, 10, centers=5, cluster_std=5, random_state=0)
    return as_data(*made, scaled=True)


def cancer() -> Data:
    return as_data(*datasets.load_breast_cancer(return_X_y=True), scaled=True)


# ----------------------------------------------------------------------- runs

smooth = partial(F.cross_entropy, label_smoothing=0.1)
entropy, margins = F.cross_entropy, F.multi_margin_loss
tanh = partial(Layers, activation=nn.Tanh)
normed = partial(Layers, between=nn.BatchNorm1d)
dropped = partial(Layers, between=lambda width: nn.Dropout(0.3))
nesterov = partial(SGD, lr=0.05, momentum=0.9, nesterov=True)

OTHER = {
    "bce_rms": Run(
        partial(Layers, 64, 64, 10), each_by_itself, partial(RMSprop, lr=1e-3), digits, 64
    ),
    "hinge_sgd": Run(partial(Layers, 64, 64, 10), margins, partial(SGD, lr=0.1), digits, 32),
    "focal_adam": Run(partial(Layers, 64, 64, 10), focal, adam, digits, 64),
    "smooth_adamw": Run(
        partial(Layers, 64, 128, 64, 10, activation=nn.GELU),
        *(smooth, partial(AdamW, lr=2e-3, weight_decay=0.05), digits, 64),
    ),
    "dropout_nadam": Run(
        partial(dropped, 64, 128, 10), entropy, partial(NAdam, lr=1e-3), digits, 64
    ),
    "norm_nesterov": Run(partial(normed, 64, 64, 64, 10), entropy, nesterov, digits, 64),
    "deep_tanh": Run(partial(tanh, 64, 32, 32, 32, 32, 10), entropy, adam, digits, 64),
    "bag_adagrad": Run(Bag, entropy, partial(Adagrad, lr=0.05), digits, 64),
    "attention_adam": Run(Attentive, entropy, adam, digits, 64),
    "lstm_adam": Run(Wave, squared_error, fast_adam, waves, 32),
    "friedman2_sgd": Run(
        partial(Layers, 4, 32, 32, 1),
        *(squared_error, partial(SGD, lr=0.02, momentum=0.9), partial(friedman, 2, 20.0), 32),
    ),
    "friedman3_l1": Run(partial(Layers, 4, 64, 1), absolute, adam, partial(friedman, 3, 0.1), 32),
    "moons_adam": Run(partial(Layers, 2, 32, 32, 2), entropy, partial(Adam, lr=1e-2), moons, 32),
    "circles_sgd": Run(partial(tanh, 2, 64, 2), entropy, partial(SGD, lr=0.1), circles, 32),
    "poisson_adam": Run(partial(Layers, 8, 32, 1), counts, adam, events, 32),
    "mixture_adam": Run(partial(tanh, 10, 32, 9), mixture, adam, diabetes, 32),
    "contrastive_adam": Run(partial(Layers, 64, 64, 16), contrastive, adam, digits, 64),
    "logistic_sgd": Run(partial(nn.Linear, 10, 5), entropy, partial(SGD, lr=0.1), blobs, 32),
    "decay_adamw": Run(
        partial(Layers, 30, 32, 2),
        *(entropy, partial(AdamW, lr=1e-3, weight_decay=0.1), cancer, 32),
    ),
    "linear_sgd": Run(
        partial(nn.Linear, 10, 1), squared_error, partial(SGD, lr=0.01), diabetes, 32
    ),
}
