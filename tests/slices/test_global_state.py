"""What a step writes to by name is put back: every evaluation and training find it as it was."""

from __future__ import annotations

import collections
import queue
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.subspace import AffineSubspace

N = 1
SEEN: list = []
TABLE: dict = {"n": 1, "rows": [[1.0]], "names": {"a"}}
ROWS: collections.deque = collections.deque([1, 2], maxlen=2)
WAITING: queue.Queue = queue.Queue()
WAITING.put(3)
TENSOR = torch.ones(3)
HELD = {"tensor": torch.zeros(2)}
ARRAY = np.ones(3)
LARGE = torch.zeros(1 << 15)
LONG = list(range(2_000))
MANY = [list(range(100)) for _ in range(100)]


class Counts:
    __slots__ = ("held", "n")
    total: ClassVar[int] = 1

    def __init__(self):
        self.n, self.held = 1, {}

    def next(self):
        self.n += 1
        Counts.total += 1
        self.held[self.n] = self
        return self.n + Counts.total


COUNTS = Counts()


class Says:
    """Complains whatever it is asked, as models of pydantic do that are not finished."""

    __slots__ = ("unset",)

    def __getattr__(self, name):
        raise RuntimeError(f"no {name} before this is finished")


UNFINISHED = {"model": Says()}


class Noisy(torch.autograd.Function):
    calls = 1

    @staticmethod
    def forward(ctx, x):
        Noisy.calls += 1
        return x * Noisy.calls

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def by_name(net, x):
    global N
    N += 1
    return net(x).sum() * N


def bound_only_here(net, x):
    global NEW
    NEW = net(x).sum()
    return NEW


def removed(net, x):
    global N
    factor = N
    del N
    return net(x).sum() * factor


def in_containers(net, x):
    TABLE["n"] += 1
    TABLE["rows"][0].append(TABLE["n"])
    TABLE["names"].add(str(TABLE["n"]))
    ROWS.append(TABLE["n"])
    SEEN.append(x)
    return net(x).sum() * (sum(ROWS) + len(SEEN) + len(TABLE["names"]) + sum(TABLE["rows"][0]))


def in_objects(net, x):
    return net(x).sum() * COUNTS.next()


def in_an_autograd_function(net, x):
    return Noisy.apply(net(x)).sum()


def helper(seen=[], *, more={"n": 0}):  # noqa: B006
    seen.append(0)
    more["n"] += 1
    helper.calls += 1
    return len(seen) + more["n"] + helper.calls


helper.calls = 0


def in_a_function(net, x):
    return net(x).sum() * helper()


def beside_what_complains(net, x):
    TABLE["n"] += len(UNFINISHED)
    return net(x).sum() * TABLE["n"]


def from_a_queue(net, x):
    return net(x).sum() * WAITING.get_nowait()


def in_tensors(net, x):
    TENSOR.mul_(2)
    HELD["tensor"][0] += 1
    ARRAY[1] += 1
    return net(x).sum() * TENSOR.sum() * HELD["tensor"].sum() * ARRAY.sum()


def state():
    return {
        "TENSOR": (TENSOR.tolist(), HELD["tensor"].tolist(), ARRAY.tolist()),
        "WAITING": list(WAITING.queue),
        "N": globals().get("N"),
        "NEW": "NEW" in globals(),
        "SEEN": list(SEEN),
        "TABLE": repr({**TABLE, "names": sorted(TABLE["names"])}),
        "ROWS": list(ROWS),
        "COUNTS": (COUNTS.n, dict(COUNTS.held), Counts.total),
        "Noisy": Noisy.calls,
        "helper": (repr(helper.__defaults__), repr(helper.__kwdefaults__), helper.calls),
    }


STEPS = [
    *(by_name, bound_only_here, removed, in_containers, in_objects, in_an_autograd_function),
    *(in_a_function, beside_what_complains, from_a_queue, in_tensors),
]


def slice_of(step):
    net = nn.Linear(2, 1)
    plane = AffineSubspace(flat_parameters(net), torch.eye(3)[:, :1])
    return LossSlice(net, plane, [torch.ones(1, 2)], step)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_what_a_step_writes_to_by_name_is_as_before(step):
    before = state()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss = slice_of(step)
    found = [float(loss(torch.tensor([[0.5]]))[0]) for _ in range(3)]
    assert found[0] == found[1] == found[2], "every evaluation starts from the same"
    assert state() == before
    # The step does write to something, else this shows nothing.
    step(nn.Linear(2, 1), torch.ones(1, 2))
    assert state() != before
    _put_back(before)


def _put_back(before):
    global N
    N = before["N"]
    globals().pop("NEW", None)
    SEEN.clear()
    TENSOR.fill_(1.0)
    HELD["tensor"].zero_()
    ARRAY.fill(1.0)
    WAITING.queue.extend([3][len(WAITING.queue) :])
    TABLE.update(n=1, rows=[[1.0]], names={"a"})
    ROWS.extend(before["ROWS"])
    COUNTS.n, Counts.total, Noisy.calls, helper.calls = 1, 1, 1, 0
    COUNTS.held.clear()
    helper.__defaults__[0].clear()
    helper.__kwdefaults__["more"]["n"] = 0


def test_what_training_writes_between_two_evaluations_stays():
    loss = slice_of(by_name)
    before = state()
    loss(torch.zeros(1, 1))
    by_name(nn.Linear(2, 1), torch.ones(1, 2))
    loss(torch.zeros(1, 1))
    assert before["N"] + 1 == N
    _put_back(before)


def test_a_whole_data_set_is_not_looked_through():
    def step(net, x):
        for one in (LONG, MANY[-1], MANY[0]):
            one[0] += 1
        return net(x).sum()

    loss = slice_of(step)
    loss(torch.zeros(1, 1))
    assert LONG[0] == 1, "it is long, and nobody has put it back"
    # Of many lists only some are.
    assert sorted([MANY[0][0], MANY[-1][0]]) == [0, 1]
    LONG[0] = MANY[0][0] = MANY[-1][0] = 0


def test_large_tensors_and_what_is_trained_are_the_runs_own():
    trained = nn.Parameter(torch.zeros(1))
    HELD["trained"] = trained

    def step(net, x):
        with torch.no_grad():
            LARGE[0] += 1
            HELD["trained"] += 1
        return net(x).sum()

    loss = slice_of(step)
    loss(torch.zeros(1, 1))
    assert float(LARGE[0]) == 1
    assert trained.tolist() == [1]
    LARGE[0] = 0
    del HELD["trained"]
