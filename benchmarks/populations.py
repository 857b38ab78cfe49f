"""Losses on a square that no Gaussian process drew, each from a generator of its own.

(a) *Holes*: a tilted bowl minus a Gaussian hole at a random place, of depth 0.3 to 2 and a width
    (standard deviation) log-uniform in 0.03 to 0.5.
(b) *Kinks*: a bowl plus the maximum of affine functions, ridges and valleys with round or sharp
    crests, and steps between plateaus, all of these times a strength log-uniform in 0.02 to 1.
(c) *Slices* of trained networks, with tanh, GELU, ReLU, and ReLU after batch norm; planes along the
    trajectory, random ones, and through three solutions (:mod:`real_slices`).
(d) *Scales*: a bowl plus waves, bumps and steps, smooth all of them, with lengthscales over one and
    a half decades and amplitudes that fall with a power of the lengthscale.

(a), (b) and (d) live on the square from -1 to 1, (c) on a rectangle around the origin. What a
function is depends on its population, its number and the seed alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from real_slices import ACTIVATIONS, KINDS, WEIGHT_DECAY, Digits, layers, make_slice

POPULATIONS = {"a": "holes", "b": "kinks", "c": "slices", "d": "scales"}
NETWORKS = (*ACTIVATIONS, "batch norm")
# Width and depth of a hole.
_HOLE_WIDTH, _HOLE_DEPTH = (0.03, 0.5), (0.3, 2.0)
# Width of ridges and steps between plateaus, and strength of all that is no bowl.
_RIDGE_WIDTH, _STRENGTH = (0.05, 0.5), (0.02, 1.0)
# Lengthscales, the power of them that amplitudes fall with, and the deviation of the longest.
_SCALES, _POWERS, _HEIGHT = (0.05, 2.0), (0.5, 2.0), 0.7
# Added to the variance of an input of batch norm, as torch does by default.
_EPSILON = 1e-5

Loss = Callable[[Tensor], Tensor]
Gradient = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Landscape:
    """A loss on the rectangle from ``-half`` to ``half``.

    Attributes:
        loss: Losses, shape ``(n,)``, at points of shape ``(n, 2)``, inside the rectangle or not.
        gradient: Its gradients at points, both of shape ``(n, 2)``; one of the one-sided limits
            where there is none.
        half: Half-widths, shape ``(2,)``.
        kinked: Whether it has kinks.
        finest: The narrowest of what it is made of, in half-widths; an estimate for networks.
        dense: Points per axis of a lattice on which no minimum is overlooked.
        facts: What it is, for a record.
    """

    loss: Loss
    gradient: Gradient
    half: np.ndarray
    kinked: bool
    finest: float
    dense: int
    facts: dict[str, float | str]

    def values(self, points: np.ndarray) -> np.ndarray:
        """Losses at points of shape ``(n, 2)``."""
        with torch.no_grad():
            return self.loss(torch.from_numpy(np.ascontiguousarray(points))).numpy()


def landscape(population: str, number: int, seed: int = 0) -> Landscape:
    """The function of a population with a number; ``seed`` does not count for networks."""
    if population == "c":
        return network_slice(number)
    draw = {"a": hole, "b": kinks, "d": scales}[population]
    return draw(np.random.default_rng([seed, ord(population), number]))


def of_formula(
    loss: Loss, *, kinked: bool, finest: float, dense: int, facts: dict[str, float | str]
) -> Landscape:
    """A loss on the square from -1 to 1, differentiated by autograd."""
    return Landscape(loss, by_autograd(loss), np.ones(2), kinked, finest, dense, facts)


def by_autograd(loss: Loss) -> Gradient:
    """The gradient of a loss of which each value depends on its own point alone."""

    def gradient(points: np.ndarray) -> np.ndarray:
        x = torch.tensor(points, requires_grad=True)
        return torch.autograd.grad(loss(x).sum(), x)[0].numpy()

    return gradient


# ---------------------------------------------------------------- (a), (b), (d)


def hole(rng: np.random.Generator) -> Landscape:
    """A tilted bowl, whose bottom is in the square, minus a Gaussian hole anywhere in it."""
    tilt, place = torch.from_numpy(rng.uniform(-1, 1, (2, 2)))
    depth, width = rng.uniform(*_HOLE_DEPTH), _log_uniform(rng, _HOLE_WIDTH)

    def loss(x: Tensor) -> Tensor:
        away = (x - place).square().sum(1)
        return x.square().sum(1) + x @ tilt - depth * torch.exp(-0.5 * away / width**2)

    facts = {"depth": depth, "width": width}
    return of_formula(loss, kinked=False, finest=width, dense=401, facts=facts)


def kinks(rng: np.random.Generator) -> Landscape:
    """A bowl, a maximum of affine functions, ridges and plateaus."""
    bowl = _bowl(rng)
    pieces = int(rng.integers(3, 9))
    slopes = torch.from_numpy(rng.normal(0, 0.5, (2, pieces)))
    offsets = torch.from_numpy(rng.uniform(-0.3, 0.3, pieces))
    n_ridges, n_steps = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    count = n_ridges + n_steps
    across, where = _directions(rng, count), torch.from_numpy(rng.uniform(-0.8, 0.8, count))
    width = torch.from_numpy(np.array([_log_uniform(rng, _RIDGE_WIDTH) for _ in range(count)]))
    height = torch.from_numpy(rng.uniform(-0.6, 0.6, count))
    sharp, strength = torch.from_numpy(rng.random(n_ridges) < 0.5), _log_uniform(rng, _STRENGTH)

    def loss(x: Tensor) -> Tensor:
        along = (x @ across - where) / width
        ridge, step = along[:, :n_ridges], along[:, n_ridges:]
        tent = (1 - ridge.abs()).clamp_min(0)
        parts = torch.where(sharp, tent, torch.exp(-0.5 * ridge.square())), step.clamp(0, 1)
        rough = (x @ slopes + offsets).amax(1) + torch.cat(parts, 1) @ height
        return bowl(x) + strength * rough

    facts = {"pieces": pieces, "ridges": n_ridges, "plateaus": n_steps, "strength": strength}
    return of_formula(loss, kinked=True, finest=float(width.min()), dense=801, facts=facts)


def scales(rng: np.random.Generator) -> Landscape:
    """A bowl, and smooth features of very different lengthscales."""
    bowl, count = _bowl(rng), int(rng.integers(6, 15))
    size = torch.from_numpy(np.array([_log_uniform(rng, _SCALES) for _ in range(count)]))
    power = rng.uniform(*_POWERS)
    height = torch.from_numpy(_HEIGHT * rng.normal(size=count)) * (size / _SCALES[1]) ** power
    across, place = _directions(rng, count), torch.from_numpy(rng.uniform(-1, 1, (2, count)))
    phase = torch.from_numpy(rng.uniform(0, 2 * math.pi, count))
    kind = torch.from_numpy(rng.integers(0, 3, count))

    def loss(x: Tensor) -> Tensor:
        along = (x @ across - (place * across).sum(0)) / size
        away = (x[:, :, None] - place).square().sum(1) / size.square()
        wave, bump, step = torch.cos(along + phase), torch.exp(-0.5 * away), torch.tanh(along)
        return bowl(x) + torch.where(kind == 0, wave, torch.where(kind == 1, bump, step)) @ height

    finest = float(size.min())
    facts = {"features": count, "finest": finest, "power": power}
    return of_formula(loss, kinked=False, finest=finest, dense=401, facts=facts)


def _bowl(rng: np.random.Generator) -> Loss:
    steepness, bottom = rng.uniform(0.3, 1.0), torch.from_numpy(rng.uniform(-0.5, 0.5, 2))
    return lambda x: steepness * (x - bottom).square().sum(1)


def _directions(rng: np.random.Generator, count: int) -> Tensor:
    """Unit vectors, shape ``(2, count)``."""
    angle = rng.uniform(0, 2 * math.pi, count)
    return torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)]))


def _log_uniform(rng: np.random.Generator, ends: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(ends))))


# -------------------------------------------------------------------------- (c)


@dataclass(frozen=True, eq=False)
class NormedDigits(Digits):
    """The probe set for networks with batch norm in front of the ReLU, over the whole of it."""

    def losses(self, weights: Tensor) -> Tensor:
        """Losses of networks, shape ``(n,)``, from flat weights, shape ``(n, k)``."""
        losses = []
        for flat in weights:
            w1, b1, w2, b2 = layers(flat)
            inputs = self.images @ w1.T + b1
            variance, mean = torch.var_mean(inputs, dim=0, correction=0)
            hidden = torch.relu((inputs - mean) / (variance + _EPSILON).sqrt())
            loss = torch.nn.functional.cross_entropy(hidden @ w2.T + b2, self.labels)
            losses.append(loss + WEIGHT_DECAY * flat.square().sum())
        return torch.stack(losses)

    def train(self, activation: str, seed: int, steps: int) -> tuple[Tensor, Tensor]:
        """As for the other networks, from the same initial weights."""
        start = super().train("relu", seed, 1)[1][0]
        flat, path = start.clone().requires_grad_(), []
        optimizer = torch.optim.Adam([flat], lr=1e-2)
        for step in range(steps):
            if step % 10 == 0:
                path.append(flat.detach().clone())
            optimizer.zero_grad()
            self.losses(flat[None]).sum().backward()
            optimizer.step()
        return flat.detach(), torch.stack(path)


@lru_cache(maxsize=1)
def network_slice(number: int, n_digits: int = 512, steps: int = 600) -> Landscape:
    """A slice of a trained network: activations take turns, then kinds of planes, then seeds."""
    activation = NETWORKS[number % len(NETWORKS)]
    kind = KINDS[number // len(NETWORKS) % len(KINDS)]
    seed = number // (len(NETWORKS) * len(KINDS))
    digits = Digits.subset(n_digits)
    facts: dict[str, float | str] = {"activation": activation, "kind": kind, "seed": seed}
    normed = activation == "batch norm"
    if normed:
        digits = NormedDigits(digits.images, digits.labels)
    network = make_slice(digits, kind, activation, seed, steps)
    shape = {"half": network.half, "finest": 0.2, "dense": 101, "facts": facts}
    if not normed:
        kinked = activation == "relu"
        return Landscape(
            network.loss, lambda x: network.loss_and_gradient(x)[1], kinked=kinked, **shape
        )
    plane = network.plane

    def loss(x: Tensor) -> Tensor:
        return digits.losses(plane.origin + x @ plane.directions.T)

    return Landscape(loss, by_autograd(loss), kinked=True, **shape)
