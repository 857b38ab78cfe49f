"""Batches of any make."""

import logging
import sys
import weakref
from collections import UserDict, deque, namedtuple
from dataclasses import dataclass, field
from functools import wraps
from itertools import pairwise

import numpy as np
import pytest
import torch

from lightning_morse import MorseMonitor
from lightning_morse.monitoring.run_record import RunRecord
from lightning_morse.slices import batches
from lightning_morse.slices.batches import batch_size, mapped, tensors_in
from lightning_morse.slices.copying import bare_clone
from lightning_morse.slices.stand_ins import Untouchable, UntouchableError

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


class Refusing(torch.Tensor):
    def as_subclass(self, cls):
        raise RuntimeError("no clone")


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


class Node:
    def __init__(self, x, parent=None):
        self.x, self.parent, self.owner, self.near = x, parent, None, {self}
        self.children = []
        if parent is not None:
            parent.children.append(self)
            parent.near.add(self)
            self.owner = weakref.ref(parent)


def test_what_refers_to_itself_does_so_in_the_copy():
    root = Node(ONE)
    leaf = Node(2 * ONE, root)
    copied = mapped(root, torch.clone)
    twin = copied.children[0]
    assert copied is not root
    assert twin is not leaf
    assert twin.parent is twin.owner() is copied
    assert copied.near == {copied, twin}
    assert torch.equal(twin.x, leaf.x)
    assert twin.x is not leaf.x
    assert leaf.parent is leaf.owner() is root

    entries = [ONE]
    pair = (entries,)
    entries.append(pair)
    twins = mapped(pair, torch.clone)
    assert twins[0][1] is twins
    assert twins[0] is not entries


def test_chains_of_any_length_are_copied():
    nodes = [Node(ONE) for _ in range(sys.getrecursionlimit())]
    for a, b in pairwise(nodes):
        a.next, b.previous = b, a
    copied = mapped(nodes, torch.clone)
    assert copied[0].next is copied[1]
    assert copied[-1].previous is copied[-2]
    assert batch_size(copied) == 2


class Only:
    """There is one."""

    def __init__(self):
        self.table = [ONE]

    def __copy__(self):
        return self


class Shared:
    """All have the same attributes."""

    everything = {}  # noqa: RUF012

    def __new__(cls):
        made = object.__new__(cls)
        made.__dict__ = cls.everything
        return made


def test_what_is_its_own_copy_is_left_as_it_is():
    log, only, shared = logging.getLogger("of.a.batch"), Only(), Shared()
    shared.table = only.table
    parent, tensor = log.parent, only.table[0]
    assert mapped([log, only, shared], torch.clone) == [log, only, shared]
    assert log.parent is parent
    assert logging.getLogger().handlers == logging.root.handlers
    assert only.table is shared.table
    assert only.table[0] is tensor


def test_functions_are_called_unless_they_keep_something():
    def scaled(x):
        return 2 * x

    @wraps(scaled)
    def decorated(x):
        return scaled(x)

    def counting(x):
        counting.seen.append(len(x))

    seen = counting.seen = []
    copied = mapped({"f": scaled, "g": decorated, "h": counting}, torch.clone)
    assert copied["f"] is scaled
    assert copied["g"] is decorated
    with pytest.raises(UntouchableError, match="part of the batch that keeps something"):
        copied["h"](ONE)
    assert counting.seen is seen == []


def test_a_bound_method_is_one_of_the_copy():
    owner = Late(ONE)
    copied = mapped([owner.__post_init__, owner], torch.clone)
    assert copied[0].__self__ is copied[1] is not owner


class Dataset:
    def __init__(self, n):
        self.items = [Slotted(ONE) for _ in range(n)]


def test_a_data_set_that_a_batch_refers_to_is_left_out(monkeypatch):
    looked_at = []
    monkeypatch.setattr(
        batches, "is_atomic", lambda v, old=batches.is_atomic: looked_at.append(v) or old(v)
    )
    batch = Graph(3, 3)
    batch.dataset = Dataset(2 * batches.MOST_OBJECTS)
    cloned = []
    copied = mapped(batch, lambda t: cloned.append(t) or t.clone())
    assert len(cloned) == 1
    assert len(looked_at) < 100  # classes, not objects
    assert torch.equal(copied.x, batch.x)
    assert batch_size(copied) == 3
    with pytest.raises(UntouchableError, match="refers to very many objects, a list"):
        copied.dataset.items[0]


@pytest.mark.parametrize(
    "much",
    [
        lambda: [ONE] * (batches.MOST_OBJECTS + 1),
        lambda: tuple([ONE] * (batches.MOST_OBJECTS + 1)),
        lambda: dict.fromkeys(range(batches.MOST_OBJECTS + 1), ONE),
        lambda: [0] * (batches.MOST_ENTRIES + 1),
    ],
)
def test_what_holds_very_much_is_left_out(much):
    assert type(mapped([much(), ONE], torch.clone)[0]) is Untouchable
    assert type(mapped(much(), torch.clone)) is Untouchable


def test_in_a_chain_that_is_too_long_the_far_end_is_left_out():
    nodes = [Slotted(None) for _ in range(batches.MOST_OBJECTS + 2)]
    for a, b in pairwise(nodes):
        a.x = b
    copied = mapped(nodes[0], torch.clone)
    length = 0
    while type(copied) is Slotted:
        copied, length = copied.x, length + 1
    assert length == batches.MOST_OBJECTS
    assert type(copied) is Untouchable

    nested = ONE
    for _ in range(10_000):
        nested = (nested,)
    copied = mapped(nested, torch.clone)
    while type(copied) is tuple:
        (copied,) = copied
    assert type(copied) is Untouchable


def test_an_iterator_goes_on_by_itself_in_the_copy():
    begun = iter([1, ONE, 3])
    next(begun)
    batch = {
        "zip": zip((ONE, 2 * ONE), [0, 1], strict=True),
        "map": map(len, [ONE]),
        "begun": begun,
        "by two": zip(*[iter((1, 2, 3, 4))] * 2, strict=True),
    }
    for _ in range(2):
        copied = mapped(batch, torch.clone)
        assert [(int(x.sum()), n) for x, n in copied["zip"]] == [(2, 0), (4, 1)]
        assert list(copied["map"]) == [2]
        assert torch.equal(next(copied["begun"]), ONE)
        assert list(copied["begun"]) == [3]
        assert list(copied["by two"]) == [(1, 2), (3, 4)]
    assert len(list(batch["zip"])) == 2
    assert len(list(batch["begun"])) == 2


class Closing:
    def __del__(self):
        """Close something."""


@pytest.mark.parametrize(
    "part",
    [
        (n for n in range(3)),
        zip([1], (n for n in range(3)), strict=True),
        filter(None, [1]),
        iter({1: 2}),
        iter(int, 1),
        Closing(),
    ],
    ids=lambda part: type(part).__name__,
)
def test_what_a_copy_would_use_up_or_end_is_not_touched(part):
    copied = mapped([part], torch.clone)[0]
    assert type(copied) is Untouchable
    with pytest.raises(UntouchableError, match="part of the batch that"):
        next(copied)
    assert mapped([copied], torch.clone)[0] is copied


class Empty:
    __slots__ = ()


@pytest.mark.parametrize("sentinel", [object(), Empty()])
def test_a_sentinel_is_the_same_in_the_copy(sentinel):
    assert mapped((ONE, sentinel), torch.clone)[1] is sentinel


def test_containers_are_copied_all_the_way_down():
    rows = np.empty(2, dtype=object)
    rows[0], rows[1] = [ONE], ONE
    batch = [deque([[ONE]]), rows, ONE.max(0)]
    copied = mapped(batch, lambda t: t + 1)
    assert type(copied[0]) is deque
    assert type(copied[2]) is type(batch[2])
    for part in (copied[0][0][0], copied[1][0][0], copied[1][1], copied[2].values):
        assert (part == 2).all()
    assert rows[1] is batch[0][0][0] is rows[0][0] is ONE


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_a_nested_tensor_has_as_many_examples_as_parts(layout):
    parts = [torch.ones(n, 3) for n in (2, 4, 1)]
    ragged = torch.nested.nested_tensor(parts, layout=layout)
    assert batch_size([ragged, torch.ones(3)]) == 3
    assert batch_size(mapped(ragged, bare_clone)) == 3


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


def test_batches_that_cannot_be_copied_are_not_tried_all_through_a_run():
    record = RunRecord(MorseMonitor(probe_batches=2).settings)
    tried = 0
    while record.wants_batches and tried < 5:
        tried += 1
        with pytest.raises(RuntimeError, match="no clone"):
            record.add_batch([ONE.as_subclass(Refusing)], tried)
    assert tried == 2
    assert not record.probe
    record.forget()
    record.add_batch([ONE], 0)
    assert record.wants_batches
    assert len(record.probe) == 1
