"""What a step does to the class of its module is undone, and the class is known as ever."""

from __future__ import annotations

import collections
import copy
import weakref
from contextlib import closing
from typing import ClassVar

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.module_copy import shadow_copy
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.subspace import AffineSubspace


class Count:
    """A descriptor that counts how often it is read."""

    def __init__(self):
        self.n = 0

    def __get__(self, one, owner=None):
        self.n += 1
        return self.n


class Helper:
    made: ClassVar[list] = []

    def __init__(self):
        self.n = 0
        self.made.append(self)


class Net(nn.Module):
    """Writes to its own class by name."""

    calls, scale, word = 0, 4.0, "a"
    hist: ClassVar[list] = []
    table: ClassVar[dict] = {"a": [1]}
    groups = collections.defaultdict(set)  # noqa: RUF012
    bank, array, random = torch.zeros(3), np.zeros(3), np.random.default_rng(0)
    helper, read = Helper(), Count()

    def __init__(self):
        super().__init__()
        self.layer, self.own = nn.Linear(2, 1), Helper()

    @classmethod
    def count(cls):
        cls.calls += 1
        return cls.calls

    @staticmethod
    def keep(kept=[]):  # noqa: B006 (people write this)
        kept.append(1)
        return len(kept) + len(Net.hist)

    def forward(self, x):
        Net.calls += 1
        __class__.hist.append(1)
        Net.table["a"].append(Net.calls)
        Net.groups[1].add(2)
        Net.bank.add_(1)
        Net.array += Net.random.normal()
        for helper in Helper.made:
            helper.n += 1
        Net.fresh = True
        state = Net.calls + self.read + self.count() + Net.keep() + Net.helper.n + Net.bank.sum()
        return self.layer(x) * (state + len(Net.table["a"]) + Net.array.sum())


def line(module):
    weights = flat_parameters(module)
    return AffineSubspace(weights, torch.eye(len(weights))[:, :1])


def held():
    """What the class holds."""
    tensors = Net.bank.tolist(), Net.bank.data_ptr(), Net.array.tolist()
    containers = copy.deepcopy((Net.hist, Net.table, Net.groups, Net.keep.__defaults__))
    others = vars(Net)["read"].n, [one.n for one in Helper.made], Net.calls, hasattr(Net, "fresh")
    return repr((tensors, containers, others, Net.random.bit_generator.state))


def test_what_a_class_holds_is_put_back():
    module, before = Net(), held()
    with closing(LossSlice(module, line(module), [torch.ones(1, 2)], lambda m, x: m(x).sum())) as f:
        here = torch.zeros(1, 1)
        assert f(here) == f(here)  # every evaluation begins with the same
    assert held() == before
    assert Net.bank.add_(0) is Net.bank


def test_a_slice_that_is_not_evaluated_leaves_classes_alone():
    module = Net()
    loss = LossSlice(module, line(module), [torch.ones(1, 2)], lambda m, x: m(x).sum())
    Net.calls, before = Net.calls + 1, Net.calls
    loss.close()
    assert Net.calls == before + 1
    Net.calls = before


def test_a_class_whose_metaclass_forbids_that_is_put_back():
    class Meta(type):
        def __setattr__(cls, name, value):
            if name == "calls" and value == 0:
                raise AttributeError("never again")
            super().__setattr__(name, value)

    class Counts(nn.Linear, metaclass=Meta):
        calls = 0

        def forward(self, x):
            Counts.calls += 1
            return super().forward(x)

    module = Counts(2, 1)
    with closing(LossSlice(module, line(module), [torch.ones(1, 2)], lambda m, x: m(x).sum())) as f:
        f(torch.zeros(2, 1))
    assert Counts.calls == 0


def test_constants_of_a_class_make_no_class_for_copies():
    class Block(nn.Linear):
        expansion, name, sizes = 4, "block", (1, 2)

        def forward(self, x):
            return self.expansion * super(type(self), self).forward(x)

    module = Block(2, 1)
    shadow = shadow_copy(module)
    assert type(shadow) is Block
    x = torch.ones(1, 2)
    assert torch.equal(shadow(x), module(x))


@pytest.mark.parametrize("name", ["log", "log_dict", "print"])
def test_a_copy_that_logs_is_quiet_and_of_the_same_class(name):
    class Logs(pl.LightningModule):
        def __init__(self):
            super(self.__class__, self).__init__()
            self.layer = nn.Linear(2, 1)

    shadow = shadow_copy(Logs())
    assert type(shadow) is Logs
    getattr(shadow, name)("loss", 1.0)
    getattr(copy.deepcopy(shadow), name)("loss", 1.0)


class Value:
    """A descriptor that keeps a value for each module."""

    def __init__(self):
        self.values = weakref.WeakKeyDictionary()

    def __get__(self, one, owner=None):
        return self if one is None else self.values[one]

    def __set__(self, one, value):
        self.values[one] = value


def test_a_descriptor_keeps_the_values_of_a_copy_apart():
    class Warm(nn.Linear):
        temperature = Value()

        def forward(self, x):
            self.temperature *= 0.5
            return super().forward(x) / self.temperature

    module = Warm(2, 1)
    module.temperature = 2.0
    shadow = shadow_copy(module)
    shadow(torch.ones(1, 2))
    assert (shadow.temperature, module.temperature) == (1.0, 2.0)
    with closing(LossSlice(module, line(module), [torch.ones(1, 2)], lambda m, x: m(x).sum())) as f:
        assert f(torch.zeros(1, 1)) == f(torch.zeros(1, 1))
    assert dict(Warm.temperature.values) == {module: 2.0}
