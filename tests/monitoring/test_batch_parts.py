"""Parts of a batch: which batches can be cut, and at which examples."""

from __future__ import annotations

import sys
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from lightning_morse.monitoring.batch_parts import (
    FEWEST_EXAMPLES,
    FEWEST_WITH_STATISTICS,
    Part,
    _may_be_numbers,
    fewest_examples,
    n_divisible,
    part_of,
)
from lightning_morse.monitoring.probe_batches import is_plain

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
    "tokens and targets": lambda: [torch.zeros(N, 5).long(), torch.zeros(N, 5).long()],
    "as many tokens as examples": lambda: [torch.arange(N * N).reshape(N, N) % 7, y()],
    "alike by name": lambda: {name: y() for name in "abcd"},
    "one field": lambda: [torch.zeros(N, N, 3)],
    "batches of two loaders": lambda: [{"x": x()}, [x(), y()]],
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
    "a tensor that counts": lambda: {"x": x(), "n": torch.tensor(N)},
    "a tensor without dimensions": lambda: [x(), y(), torch.tensor(2.0)],
    "neighbours": lambda: {"x": x(), "adjacent": torch.zeros(N, N)},
    "shares": lambda: {"x": x(), "adjacent": torch.arange(1.0 * N * N).reshape(N, N)},
    "counts beside features": lambda: {"x": x(), "n": torch.arange(N * N).reshape(N, N) % 7},
    "ranks as floats": lambda: [torch.arange(1.0 * N * N).reshape(N, N) % 7, y()],
    "unsigned": lambda: [(torch.arange(N * N).reshape(N, N) % 7).to(torch.uint16), y()],
    "empty": lambda: [torch.zeros(0, 0).long()],
    "empty beside others": lambda: [x(), torch.zeros(0, 0).long()],
    "links": lambda: {"x": y(), "adjacent": (torch.arange(N * N).reshape(N, N) % 7 > 2).long()},
    "links and loops": lambda: {"x": y(), "linked": torch.ones(N, N).tril().bool()},
    "counts of links": lambda: {"x": y(), "n": torch.arange(N * N).reshape(N, N).triu(1)},
    "steps": lambda: {"x": y(), "n": y()[:, None] + y()},
    "examples of two fields": lambda: [(torch.zeros(100, 3), torch.zeros(100))] * 4,
    "examples by name": lambda: [{"x": torch.zeros(100, 3)}, {"x": torch.zeros(100, 3)}],
    "examples in lists": lambda: {"all": [[torch.zeros(9)], [torch.zeros(9)]]},
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


@dataclass
class Node:
    features: torch.Tensor
    parent: Any = None


def test_what_holds_itself_stays_whole_however_deep_recursion_may_go():
    node, listed = Node(torch.ones(4, 2)), [torch.ones(4)]
    node.parent = node
    listed.append(listed)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(10**6)
    try:
        for batch in (node, listed):
            assert n_divisible(batch) == 0
        assert not is_plain(listed)
    finally:
        sys.setrecursionlimit(before)
    assert is_plain([{"ids": (1, "a")}])


def test_on_an_accelerator_integers_may_be_numbers_of_examples():
    class Elsewhere:
        """A tensor that says it is on an accelerator."""

        def __init__(self, tensor):
            self.tensor, self.device = tensor, torch.device("cuda")

        def __getattr__(self, name):
            return getattr(self.tensor, name)

        def __len__(self):
            return len(self.tensor)

    partners, classes = torch.arange(N).roll(1), torch.arange(N) % FEWEST_EXAMPLES
    assert _may_be_numbers(Elsewhere(partners))
    assert not _may_be_numbers(Elsewhere(classes))  # in range among any number of examples
    assert not _may_be_numbers(Elsewhere(1000 * partners))  # none that there are
    assert not _may_be_numbers(Elsewhere(x()))
    assert not _may_be_numbers(partners)


def test_the_same_examples_of_all_tensors_in_their_order():
    cut = part_of([{"x": x()}, y()], 8, seed=0)
    rows = cut[1]
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert torch.equal(cut[0]["x"], x()[rows])


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
