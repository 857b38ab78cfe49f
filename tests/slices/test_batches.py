"""Batches of any make."""

from collections import UserDict, namedtuple
from dataclasses import dataclass, field

import pytest
import torch

from lightning_morse.slices.batches import batch_size, mapped, tensors_in
from lightning_morse.slices.copying import bare_clone

Pair = namedtuple("Pair", "x y")


@dataclass
class Late:
    x: torch.Tensor
    twice: torch.Tensor = field(init=False)

    def __post_init__(self):
        self.twice = 2 * self.x


@dataclass(frozen=True)
class Frozen:
    x: torch.Tensor


class Graph:
    def __init__(self, nodes, graphs):
        self.x, self.num_graphs = torch.zeros(nodes, 2), graphs


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


class Named(torch.Tensor):
    """Loses its names in every operation."""

    @staticmethod
    def of(x, names):
        made = x.as_subclass(Named)
        made.names_of = names
        return made


ONE = torch.ones(2, 1)


@pytest.mark.parametrize(
    "batch",
    [
        ONE,
        [ONE, (ONE, None, "text")],
        {"a": {"b": ONE}},
        Pair(ONE, 3),
        Late(ONE),
        Frozen(ONE),
        Graph(2, 1),
        Slotted(ONE),
        UserDict(x=ONE),
        Named.of(torch.ones(2, 1), ["a"]),
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_every_tensor_is_mapped_and_nothing_is_shared(batch):
    copied = mapped(batch, lambda t: t + 1)
    assert type(copied) is type(batch)
    before, after = list(every_tensor(batch)), list(every_tensor(copied))
    assert len(before) == len(after) >= 1
    for a, b in zip(before, after, strict=True):
        assert torch.equal(b, a + 1)


def every_tensor(batch):
    return tensors_in(batch.x if isinstance(batch, Slotted) else batch)


@pytest.mark.parametrize("change", [torch.clone, bare_clone, lambda t: t.to("cpu")])
def test_tensors_keep_what_their_class_adds(change):
    named = Named.of(torch.ones(2, 2), ["a", "b"])
    (copied,) = mapped([named], change)
    assert type(copied) is Named
    assert copied.names_of == ["a", "b"]
    assert copied.names_of is not named.names_of
    copied.names_of.append("c")
    assert named.names_of == ["a", "b"]
    assert torch.equal(copied, named)


def test_a_parameter_and_a_tensor_with_a_dispatch_of_its_own_are_changed_as_they_are():
    assert type(mapped(torch.nn.Parameter(ONE), torch.clone)) is torch.Tensor
    parts = [torch.ones(2, 3), torch.ones(4, 3)]
    ragged = torch.nested.nested_tensor(parts, layout=torch.jagged)
    copied = mapped(ragged, torch.clone)
    assert copied.is_nested
    for part, twin in zip(parts, copied.unbind(), strict=True):
        assert torch.equal(part, twin)


def test_what_is_one_object_stays_one():
    a, b = mapped([ONE, ONE], torch.clone)
    assert a is b is not ONE


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        ([torch.zeros(4, 2), torch.zeros(4)], 4),
        ([torch.zeros(4, 2), torch.tensor(1.0)], 4),
        (Graph(9, 2), 2),
        ([Graph(9, 2), torch.zeros(2)], 2),
        ({"atoms": torch.zeros(9, 3), "energy": torch.zeros(2)}, 1),
        (Late(torch.zeros(5, 1)), 5),
        ((3, "text"), 1),
        (torch.zeros(0, 2), 0),
    ],
)
def test_the_size_of_a_batch_is_what_it_says_or_one(batch, size):
    assert batch_size(batch) == size
