"""Every evaluation starts from the same, whatever a step has changed."""

import collections
import random

import numpy as np
import pytest
import torch
from torch import nn

from lightning_morse.slices import contents
from lightning_morse.slices.module_state import ModuleState


class Keeper(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.norm = nn.BatchNorm1d(3)
        self.values, self.names, self.group = [1, [2]], {"a": {"b": 1}}, {1, 2}
        self.empty, self.queue = [], collections.deque([1, 2])
        self.array, self.bank = np.zeros(3), torch.zeros(600, 600)
        self.generator, self.numpy = torch.Generator().manual_seed(1), np.random.default_rng(2)
        self.python, self.flag = random.Random(3), True
        self.record = Record()


class Record:
    __slots__ = ("entries", "n")

    def __init__(self):
        self.entries, self.n = [1], 0


def everything(m):
    return repr(
        [
            *(m.mean.tolist(), m.norm.running_mean.tolist(), int(m.norm.num_batches_tracked)),
            *(
                m.values,
                m.names,
                m.group,
                m.empty,
                list(m.queue),
                m.array.tolist(),
                getattr(m, "flag", 0),
            ),
            *(float(m.bank.sum()), m.generator.get_state().sum().item(), m.training),
            *(m.numpy.bit_generator.state, m.python.getstate(), sorted(vars(m))),
            *(m.record.entries, m.record.n, [p.requires_grad for p in m.parameters()]),
        ]
    )


CHANGES = {
    "in place": lambda m: m.mean.add_(1),
    "past the counter": lambda m: m.mean.data.add_(1),
    "through NumPy": lambda m: m.mean.numpy().fill(7),
    "rebound": lambda m: setattr(m, "mean", torch.ones(2)),
    "a kernel": lambda m: m.norm.train()(torch.randn(4, 3)),
    "a list inside": lambda m: m.values[1].append(3),
    "a list": lambda m: m.values.reverse(),
    "a dict inside": lambda m: m.names["a"].clear(),
    "another order": lambda m: m.names.update(a=m.names.pop("a"), c=1),
    "a set": lambda m: m.group.discard(1),
    "no longer empty": lambda m: m.empty.append(1),
    "a queue": lambda m: m.queue.rotate(),
    "an array": lambda m: m.array.fill(2),
    "a large tensor": lambda m: m.bank.add_(1),
    "a large tensor, past the counter": lambda m: m.bank.data.add_(1),
    "generators": lambda m: (
        m.numpy.random(),
        m.python.random(),
        torch.rand(1, generator=m.generator),
    ),
    "an attribute": lambda m: setattr(m, "flag", None),
    "a new attribute": lambda m: setattr(m, "fresh", 1),
    "an attribute gone": lambda m: delattr(m, "flag"),
    "modes": lambda m: m.eval(),
    "slots": lambda m: (setattr(m.record, "n", 4), m.record.entries.append(2)),
    "asking for gradients": lambda m: m.requires_grad_(False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_changed_is_put_back(change):
    module = Keeper()
    before = everything(module)
    state = ModuleState(module)
    state.restore()
    for _ in range(3):
        CHANGES[change](module)
        assert everything(module) != before
        state.restore()
        assert everything(module) == before


def test_a_large_tensor_is_taken_from_its_original_and_not_kept_twice():
    original = torch.arange(1e6)
    module = nn.Module()
    module.bank = original.clone()
    state = ModuleState(module, originals={id(module.bank): original})
    module.bank.zero_()
    state.restore()
    assert torch.equal(module.bank, original)
    original.add_(1)
    module.bank.zero_()
    with pytest.raises(RuntimeError, match=r"writes to a tensor of shape .* Make a new slice"):
        state.restore()


def test_what_is_not_changed_is_not_copied(monkeypatch):
    """A memory bank costs nothing at an evaluation that only reads it."""
    module = nn.Module()
    module.bank, module.rows = torch.zeros(1 << 20), [float(i) for i in range(1000)]
    state = ModuleState(module)
    for _ in range(2):
        state.restore()
    monkeypatch.setattr(contents, "same_values", None)  # contents are not even compared
    at = module.bank.data_ptr(), id(module.rows)
    state.restore()
    assert (module.bank.data_ptr(), id(module.rows)) == at


def test_a_cell_of_a_closure_is_put_back():
    count = 0

    def hook(*args):
        nonlocal count
        count += 1

    module = nn.Linear(1, 1)
    module.register_forward_hook(hook)
    state = ModuleState(module)
    module(torch.zeros(1, 1))
    assert count == 1
    state.restore()
    assert count == 0


@pytest.mark.parametrize("make", [lambda: np.zeros(200_000), lambda: np.full(3, np.nan)])
def test_arrays_of_any_size_are_put_back(make):
    module = nn.Module()
    module.array = make()
    state = ModuleState(module)
    for _ in range(2):
        state.restore()
        module.array[1] += 1
        module.array[0] = 4
    state.restore()
    assert np.array_equal(module.array, make(), equal_nan=True)


def test_arrays_of_objects_are_put_back():
    module, inner = nn.Module(), [1]
    module.array = np.array([0, None, inner], dtype=object)
    state = ModuleState(module)
    state.restore()
    module.array[0] += 1
    module.array[2].append(2)
    module.array[2] = None
    state.restore()
    assert module.array.tolist() == [0, None, [1]]
    assert module.array[2] is inner
