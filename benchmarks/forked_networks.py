"""Small networks on digits, and the training of many copies of one at a time, for `forked_runs.py`.

Copies are stacked and trained by ``vmap``: twenty take little longer than a few. Optimizers are
those of torch, written for stacked weights; a test holds them together. Weights and the order of
the data come from generators that are given, never from the global one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

BATCH, N_TRAIN = 16, 1280
STEPS_PER_EPOCH = N_TRAIN // BATCH
# Share of a run in which the learning rate goes to zero.
LAST_PART = 1 / 3

Weights = dict[str, Tensor]

# ------------------------------------------------------------------- networks


class Residual(nn.Module):
    """Two convolutions with batch norm, always of the batch, and a connection past them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm2d, width, track_running_stats=False)
        self.first, self.norm = nn.Conv2d(width, width, 3, padding=1), norm()
        self.second, self.last = nn.Conv2d(width, width, 3, padding=1), norm()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.last(self.second(F.relu(self.norm(self.first(x))))))


class ResidualNet(nn.Module):
    """A residual network with batch norm on images halved once."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Residual(width), Residual(width))
        self.head = nn.Linear(width * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x.view(-1, 1, 8, 8))).flatten(1))


class Recurrent(nn.Module):
    """A gated recurrent unit that reads a digit row by row, without the kernel vmap cannot take."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.of_input, self.of_state = nn.Linear(8, 3 * width), nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.of_input(x.view(-1, 8, 8))
        state = torch.zeros(len(x), self.width, dtype=x.dtype)
        for t in range(8):
            reset, update, new = rows[:, t].chunk(3, dim=-1)
            own_reset, own_update, own_new = self.of_state(state).chunk(3, dim=-1)
            gate = torch.sigmoid(update + own_update)
            fresh = torch.tanh(new + torch.sigmoid(reset + own_reset) * own_new)
            state = (1 - gate) * fresh + gate * state
        return self.out(state)


class Encoder(nn.Module):
    """One layer of a transformer, normalised first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, places, width = x.shape
        parts = self.mixed(self.before(x)).view(n, places, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query @ key.transpose(-1, -2) / math.sqrt(width / self.heads)).softmax(-1)
        x = x + self.joined((weights @ value).transpose(1, 2).reshape(n, places, width))
        return x + self.down(F.gelu(self.up(self.between(x))))


class Transformer(nn.Module):
    """Two layers over the rows of a digit."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.rows, self.places = nn.Linear(8, width), nn.Parameter(torch.empty(8, width))
        self.layers = nn.Sequential(Encoder(width, 2), Encoder(width, 2))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.rows(x.view(-1, 8, 8)) + self.places).mean(1))


def deep_mlp(width: int = 32) -> nn.Module:
    """Seven layers."""
    layers: list[nn.Module] = [nn.Linear(64, width), nn.ReLU()]
    for _ in range(5):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": deep_mlp,
    "resnet": ResidualNet,
    "gru": Recurrent,
    "transformer": Transformer,
}


def initialised(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network with weights as torch draws them by default, from a generator of its own.

    Matrices and their biases are uniform within one over the root of the inputs; norms begin as the
    identity, and places with a deviation of 0.02.
    """
    with torch.device("meta"):
        network = make()
    network, rng = network.to_empty(device="cpu"), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            own = dict(module.named_parameters(recurse=False))
            if "places" in own:
                own["places"].normal_(0, 0.02, generator=rng)
            elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                own["weight"].fill_(1)
                own["bias"].zero_()
            elif own:
                bound = 1 / math.sqrt(own["weight"][0].numel())
                for p in own.values():
                    p.uniform_(-bound, bound, generator=rng)
    return network


# ----------------------------------------------------------------------- data


def digits(seed: int) -> tuple[Tensor, Tensor]:
    """Images and labels to train on: a random part of the data, as many as whole batches take."""
    images, labels = load_digits(return_X_y=True)
    rng = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=rng)[:N_TRAIN]
    return torch.tensor(images / 16, dtype=torch.float32)[chosen], torch.tensor(labels)[chosen]


def order(seed: int, steps: int, *of: int) -> Tensor:
    """Which examples each step sees, shape ``(steps, BATCH)``: epochs in random order.

    Args:
        seed: Of the run.
        steps: Number of steps.
        of: Numbers that tell this order from others of the run.
    """
    mixed = seed
    for number in of:
        mixed = mixed * 10_007 + number + 1
    rng = torch.Generator().manual_seed(mixed)
    epochs = [torch.randperm(N_TRAIN, generator=rng) for _ in range(-(-steps // STEPS_PER_EPOCH))]
    return torch.cat([torch.empty(0, dtype=torch.int64), *epochs])[: steps * BATCH].view(-1, BATCH)


# ------------------------------------------------------------------- training


@dataclass(frozen=True)
class Optimizer:
    """An optimizer with the hyper-parameters torch has by default, but for the rate.

    Attributes:
        kind: "sgd" or "adamw".
        rate: The learning rate.
        momentum: Of SGD.
    """

    kind: str
    rate: float
    momentum: float = 0.0

    def of_torch(self, weights: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        """The same for a single network."""
        if self.kind == "sgd":
            return torch.optim.SGD(weights, self.rate, momentum=self.momentum)
        return torch.optim.AdamW(weights, self.rate, foreach=False)


def share_of_rate(step: int, steps: int) -> float:
    """The learning rate of a step over the first one: constant, and linear to zero in the end.

    At a constant rate it is luck whether the last step lands on a spike of the loss.

    Example:
        >>> [share_of_rate(step, 300) for step in (0, 200, 250, 299)]
        [1.0, 1.0, 0.5, 0.01]
    """
    return min(1.0, (steps - step) / (steps * LAST_PART))


@dataclass
class Copies:
    """Copies of one network in training, stacked along the first axis of each tensor.

    Attributes:
        weights: By name.
        first: First moments of the gradients, or momentum.
        second: Second moments; empty for SGD.
        steps: Steps that each copy has taken, shape ``(n,)``.
    """

    weights: Weights
    first: Weights
    second: Weights
    steps: Tensor

    @classmethod
    def of(cls, network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Copies:
        """One copy of a network and the state of its optimizer."""
        weights = {k: p.detach().clone()[None] for k, p in network.named_parameters()}
        states = [optimizer.state.get(p, {}) for p in network.parameters()]

        def moments(name: str) -> Weights:
            found = {}
            for (key, p), state in zip(weights.items(), states, strict=True):
                kept = state.get(name)
                found[key] = torch.zeros_like(p) if kept is None else kept.clone()[None]
            return found

        if isinstance(optimizer, torch.optim.SGD):
            return cls(weights, moments("momentum_buffer"), {}, torch.tensor([steps]))
        given = moments("exp_avg"), moments("exp_avg_sq")
        return cls(weights, *given, torch.tensor([steps]))

    def joined(self, other: Copies) -> Copies:
        """These and others."""

        def join(a: Weights, b: Weights) -> Weights:
            return {key: torch.cat([value, b[key]]) for key, value in a.items()}

        return Copies(
            join(self.weights, other.weights),
            join(self.first, other.first),
            join(self.second, other.second),
            torch.cat([self.steps, other.steps]),
        )

    def step(self, gradients: Weights, by: Optimizer) -> None:
        """Take one step each."""
        self.steps = self.steps + 1
        for key, g in gradients.items():
            w = self.weights[key]
            if by.kind == "sgd":
                self.first[key].mul_(by.momentum).add_(g)
                w.add_(self.first[key], alpha=-by.rate)
                continue
            first, second = self.first[key], self.second[key]
            first.lerp_(g, 0.1)
            second.mul_(0.999).addcmul_(g, g, value=0.001)
            shape = (-1, *[1] * (w.dim() - 1))
            done = self.steps.to(torch.float64)
            size = (by.rate / (1 - 0.9**done)).to(w.dtype).view(shape)
            root = (1 - 0.999**done).sqrt().to(w.dtype).view(shape)
            w.mul_(1 - by.rate * 0.01)
            w.sub_(size * first / (second.sqrt() / root + 1e-8))


def loss_of(network: nn.Module) -> Callable[[Weights, Tensor, Tensor], Tensor]:
    """The loss of a network as a function of its weights."""

    def loss(weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(network, weights, (x,)), y)

    return loss


class Forks:
    """Trains all forks of a run at once, each pair from its fork on.

    Args:
        network: Tells the architecture.
        by: The optimizer.
        data: Images and labels.
        seed: Of the run.
        steps: Steps of a whole training.
    """

    def __init__(
        self,
        network: nn.Module,
        by: Optimizer,
        data: tuple[Tensor, Tensor],
        seed: int,
        steps: int,
    ) -> None:
        self._gradient = vmap(grad(loss_of(network)))
        self._by, self._data, self._seed, self._n = by, data, seed, steps

    def ends(self, forks: dict[int, Copies]) -> dict[int, list[Weights]]:
        """The final weights of two copies for each fork.

        Args:
            forks: The state of the run after so many steps.
        """
        copies: Copies | None = None
        orders: list[Tensor] = []
        x, y = self._data
        for step in range(self._n):
            if step in forks:
                pair = forks[step].joined(forks[step])
                copies = pair if copies is None else copies.joined(pair)
                # Steps that were taken before the fork are never looked up.
                ahead = torch.zeros(step, BATCH, dtype=torch.int64)
                for c in range(2):
                    new = order(self._seed, self._n - step, step, c)
                    orders.append(torch.cat([ahead, new]))
                seen = torch.stack(orders, dim=1)
            if copies is not None:
                chosen, rate = seen[step], self._by.rate * share_of_rate(step, self._n)
                slopes = self._gradient(copies.weights, x[chosen], y[chosen])
                copies.step(slopes, replace(self._by, rate=rate))
        assert copies is not None, "there is a fork"
        rows = [{k: w[i] for k, w in copies.weights.items()} for i in range(len(orders))]
        return {fork: rows[2 * i : 2 * i + 2] for i, fork in enumerate(sorted(forks))}


def barrier_between(
    network: nn.Module, data: tuple[Tensor, Tensor], a: Weights, b: Weights, points: int = 21
) -> float:
    """Largest excess of the loss on a straight line over the line between the losses of its ends.

    On all examples to train on; batch norm has the statistics of these at each point.

    Args:
        network: Tells the architecture.
        data: Images and labels.
        a: Weights at one end.
        b: Weights at the other.
        points: Evaluations, the ends included.
    """
    loss, shares = loss_of(network), torch.linspace(0, 1, points)
    with torch.no_grad():
        losses = torch.stack(
            [loss({k: torch.lerp(a[k], b[k], t) for k in a}, *data) for t in shares]
        ).double()
    chord = torch.lerp(losses[0], losses[-1], shares.double())
    excess = float((losses - chord).max())
    return max(0.0, excess) if math.isfinite(excess) else math.inf
