"""Parts of a batch: which batches can be cut, and at which examples."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from lightning_morse.monitoring.batch_parts import (
    FEWEST_EXAMPLES,
    FEWEST_WITH_STATISTICS,
    Part,
    fewest_examples,
    n_divisible,
    part_of,
)

N = 16
Pair = namedtuple("Pair", ["x", "y"])


@dataclass
class Sample:
    x: Tensor
    y: Tensor
    weight: Tensor | None = None


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    deep: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Counted:
    x: Tensor
    batch_size: int = N


class Graphs:
    """As a batch of graphs: rows are nodes."""

    def __init__(self) -> None:
        self.x, self.batch, self.num_graphs = torch.zeros(N, 3), torch.zeros(N), 4


class Labelled(Tensor):
    pass


def x() -> Tensor:
    return torch.arange(3.0 * N).reshape(N, 3)


def y() -> Tensor:
    return torch.arange(N)


DIVISIBLE = {
    "tensor": lambda: x(),
    "list": lambda: [x(), y()],
    "tuple": lambda: (x(), y()),
    "dict": lambda: {"x": x(), "y": y(), "mask": None},
    "ordered": lambda: OrderedDict(x=x(), y=y()),
    "named": lambda: Pair(x(), y()),
    "dataclass": lambda: Sample(x(), y()),
    "frozen": lambda: Frozen(x(), {"y": y()}),
    "nested": lambda: [{"x": x(), "more": (x(), Pair(y(), x()))}, y()],
    "with a number": lambda: [x(), y(), torch.tensor(2.0)],
    "tokens and targets": lambda: [torch.zeros(N, 5).long(), torch.zeros(N, 5).long()],
    "alike by name": lambda: {name: y() for name in "abcd"},
    "one field": lambda: [torch.zeros(N, N)],
}
WHOLE = {
    "one example": lambda: [torch.zeros(1, 3), torch.zeros(1)],
    "none": lambda: [torch.zeros(0, 3)],
    "no rows": lambda: [torch.tensor(1.0)],
    "no tensors": lambda: [],
    "other lengths": lambda: [x(), torch.zeros(40)],
    "one row more": lambda: {"x": x(), "more": [y(), torch.zeros(1, 3)]},
    "a number": lambda: [x(), y(), 3],
    "a count": lambda: Counted(x()),
    "strings": lambda: [x(), ["a"] * N],
    "string": lambda: {"x": x(), "name": "a"},
    "arrays": lambda: [x(), np.zeros(N)],
    "numbers as keys": lambda: dict(enumerate([x(), y()])),
    "dicts of examples": lambda: [{"x": torch.zeros(i + 1, 3)} for i in range(N)],
    "examples": lambda: [torch.zeros(64, 3) for _ in range(N)],
    "as many examples as rows": lambda: [torch.zeros(2, 3), torch.zeros(2, 3)],
    "objects": lambda: [x(), [object()] * N],
    "sparse": lambda: [x().to_sparse(), y()],
    "packed": lambda: pack_sequence([torch.zeros(1), torch.zeros(1)]),
    "graphs": Graphs,
    "graphs in a list": lambda: [Graphs(), y()],
    "own class": lambda: [x().as_subclass(Labelled), y()],
    "own mapping": lambda: UserDict(x=x(), y=y()),
    "a module": lambda: nn.Linear(3, 3),
    "nothing": lambda: None,
}


@pytest.mark.parametrize("kind", DIVISIBLE)
def test_what_can_be_cut(kind):
    batch = DIVISIBLE[kind]()
    assert n_divisible(batch) == N
    cut = part_of(batch, 8, seed=3)
    assert n_divisible(cut) == 8
    assert type(cut) is type(batch)
    assert n_divisible(batch) == N  # as it was


@pytest.mark.parametrize("kind", WHOLE)
def test_what_stays_whole(kind):
    batch = WHOLE[kind]()
    assert n_divisible(batch) == 0
    assert part_of(batch, 1, seed=3) is batch


def test_the_same_examples_of_all_tensors_in_their_order():
    cut = part_of([{"x": x(), "scale": torch.tensor(2.0)}, y()], 8, seed=0)
    rows = cut[1]
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert torch.equal(cut[0]["x"], x()[rows])
    assert cut[0]["scale"] == 2.0


def test_the_examples_depend_on_the_seed_alone():
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first = part_of(y(), 8, seed=0)
    torch.manual_seed(1)
    assert torch.equal(part_of(y(), 8, seed=0), first)
    assert not torch.equal(part_of(y(), 8, seed=1), first)
    assert set(part_of(y(), 4, seed=0).tolist()) < set(first.tolist())
    assert np.array_equal(state[1], np.random.get_state()[1])
    torch.random.set_rng_state(state[0])


def test_examples_are_drawn_evenly():
    counts = torch.zeros(N)
    for seed in range(400):
        counts[part_of(y(), 8, seed=seed)] += 1
    assert (counts / 400 - 0.5).abs().max() < 0.1  # four deviations


def test_a_batch_of_no_more_examples_stays_as_it_is():
    batch = [x(), y()]
    assert part_of(batch, N, seed=0) is batch
    assert part_of(batch, 2 * N, seed=0) is batch


def test_statistics_of_a_batch_take_more_examples():
    plain = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.GroupNorm(1, 3))
    assert fewest_examples(plain, of_batch=False) == FEWEST_EXAMPLES
    assert fewest_examples(plain, of_batch=True) == FEWEST_WITH_STATISTICS
    running = nn.Sequential(nn.BatchNorm1d(3))
    assert fewest_examples(running, of_batch=False) == FEWEST_EXAMPLES
    never = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False))
    assert fewest_examples(never, of_batch=False) == FEWEST_WITH_STATISTICS


def test_in_words():
    assert Part(8, 16).words == "8 of the 16 examples of one probe batch"
