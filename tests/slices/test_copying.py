"""Copies of what hangs on a module, held against what copy.deepcopy makes where it can."""

from __future__ import annotations

import collections
import copy
import functools
import threading
import weakref
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from lightning_morse.slices.copying import Copier
from lightning_morse.slices.module_state import ModuleState


def copier():
    return Copier(lambda value: None, lambda value: "guarded")


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self):
        self.a, self.b = [1], {"x": 2}


class Counter(dict):
    def __init__(self):
        super().__init__(n=[1])
        self.extra = [2]


@dataclass(frozen=True)
class Frozen:
    values: list


class Refuses:
    def __init__(self):
        self.values = [1]

    def __reduce_ex__(self, protocol):
        raise TypeError("not this one")


class NeedsLabels(torch.Tensor):
    @staticmethod
    def __new__(cls, x, labels):
        return x.as_subclass(cls)

    def __init__(self, x, labels):
        self.labels = labels

    def clone(self, *args, **kwargs):
        return NeedsLabels(super().clone(*args, **kwargs), list(self.labels))


@pytest.mark.parametrize(
    "value",
    [
        [1, [2, {"a": {3}}], (4, [5])],
        collections.OrderedDict(b=[1], a=[2]),
        collections.deque([[1], [2]], maxlen=2),
        np.arange(6).reshape(2, 3),
        np.array([{"a": 1}], dtype=object),
        {"s": Slotted()},
        Frozen([1, 2]),
        functools.partial(max, [1, 2], key=abs),
    ],
    ids=lambda value: type(value).__name__,
)
def test_copies_are_those_of_deepcopy(value):
    copied, expected = copier().copy(value), copy.deepcopy(value)
    assert type(copied) is type(value)
    assert repr_of(copied) == repr_of(expected)
    assert copied is not value


def repr_of(value):
    if isinstance(value, dict) and "s" in value:
        return value["s"].a, value["s"].b
    return repr(value)


def test_a_default_factory_and_attributes_of_a_dict_are_kept():
    groups = collections.defaultdict(list, a=[1])
    copied = copier().copy(groups)
    copied["b"].append(2)
    assert groups == {"a": [1]}
    assert copied == {"a": [1], "b": [2]}
    counter = Counter()
    other = copier().copy(counter)
    other["n"].append(5)
    other.extra.append(6)
    assert (counter["n"], counter.extra, other["n"], other.extra) == ([1], [2], [1, 5], [2, 6])


def test_one_object_stays_one_and_a_cycle_a_cycle():
    inner = [1]
    value = {"a": inner, "b": (inner, 2)}
    value["self"] = value
    copied = copier().copy(value)
    assert copied["a"] is copied["b"][0] is not inner
    assert copied["self"] is copied


def test_a_lock_is_a_new_one_that_is_free():
    lock = threading.Lock()
    with lock:
        copied = copier().copy({"lock": lock, "event": threading.Event()})
        assert not copied["lock"].locked()
    assert not copied["event"].is_set()


def test_a_hook_that_closes_over_its_module_closes_over_the_copy():
    layer, seen, count = nn.Linear(2, 1), [], 0

    def hook(*args):
        nonlocal count
        count += 1
        seen.append(layer)

    layer.register_forward_hook(hook)
    copied = copier().copy(layer)
    copied(torch.zeros(1, 2))
    assert seen == []
    assert count == 0


def test_bound_methods_and_weak_references_lead_to_the_copy():
    owner = Frozen([1])
    value = {"owner": owner, "ask": owner.__eq__, "ref": weakref.ref(owner)}
    copied = copier().copy(value)
    assert copied["ask"].__self__ is copied["owner"] is copied["ref"]() is not owner


def test_tensors_lose_their_history_and_keep_their_class():
    weight = torch.ones(2, requires_grad=True)
    kept = [2 * weight, torch.distributions.Normal(weight, 1.0), NeedsLabels(3 * weight, ["u"])]
    scaled, normal, labelled = copier().copy(kept)
    assert scaled.tolist() == [2, 2]
    assert not scaled.requires_grad
    assert normal.mean.tolist() == [1, 1]
    assert normal.mean is not weight
    assert type(labelled) is NeedsLabels
    assert labelled.labels == ["u"]
    assert labelled.labels is not kept[2].labels


def test_views_of_one_storage_stay_together():
    whole = torch.zeros(4)
    a, b = copier().copy([whole[:2], whole[1:3]])
    a[1] = 5
    assert b[0] == 5
    assert whole.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("value", [(i for i in range(2)), Refuses(), open], ids=type)
def test_what_cannot_be_copied_is_guarded(value):
    copied = copier().copy([value, [1]])
    assert copied == (["guarded", [1]] if value is not open else [open, [1]])


def test_what_is_replaced_is_not_looked_into():
    class Foreign:
        pass

    foreign = Foreign()
    made = Copier(lambda v: "theirs" if isinstance(v, Foreign) else None, lambda v: None)
    assert made.copy({"a": [foreign]}) == {"a": ["theirs"]}


class Interned:
    """The same object for the same name, as symbols are."""

    __slots__ = ("name",)
    known: ClassVar[dict[str, Interned]] = {}

    def __new__(cls, name):
        if name not in cls.known:
            cls.known[name] = super().__new__(cls)
            cls.known[name].name = name
        return cls.known[name]

    def __reduce__(self):
        return Interned, (self.name,)


class Single:
    """The only one, which holds something."""

    instance: ClassVar[Single | None] = None

    def __new__(cls):
        if cls.instance is None:
            cls.instance = super().__new__(cls)
            cls.instance.calls = []
        return cls.instance


def test_the_only_one_of_its_kind_is_a_constant_or_guarded():
    assert copier().copy([Interned("x")]) == [Interned("x")]
    single = Single()
    assert copier().copy([single, 1]) == ["guarded", 1]
    assert single.calls == []
    assert Single() is single


def test_an_object_whose_class_names_no_module_is_copied():
    nowhere = type("Nowhere", (), {"__module__": None})()
    nowhere.parts = [1]
    copied = copier().copy(nowhere)
    assert copied is not nowhere
    assert copied.parts == [1]
    assert copied.parts is not nowhere.parts
    ModuleState(copied).restore()


def test_cells_of_a_copy_are_its_own():
    def counting():
        text, empty = "", None
        del empty

        def count():
            nonlocal text, empty
            text += "x"
            empty = text
            return text, empty

        return count

    count = counting()
    copied = copier().copy(count)
    assert copied() == ("x", "x")
    assert copied() == ("xx", "xx")
    assert count() == ("x", "x")


def out_of_time(after):
    """A check that raises from some call on, and the number of calls."""
    calls = []

    def check():
        calls.append(1)
        if len(calls) > after:
            raise TimeoutError("no time left")

    return check, calls


@pytest.mark.parametrize("make", [lambda k: [k], Slotted, lambda k: Frozen([k])])
def test_copying_can_be_ended_and_what_ends_it_is_no_object_without_a_copy(make):
    values = [make(k) if make is not Slotted else Slotted() for k in range(2000)]
    check, calls = out_of_time(after=2)
    made = Copier(lambda value: None, lambda value: "guarded", check=check)
    with pytest.raises(TimeoutError):
        made.copy({"values": values})
    assert len(calls) == 3
    check, calls = out_of_time(after=10**6)
    made = Copier(lambda value: None, lambda value: "guarded", check=check)
    assert len(made.copy(values)) == 2000
    assert len(calls) >= 7


def test_tracking_and_the_first_restoring_can_be_ended():
    values = [[k] for k in range(2000)]
    check, calls = out_of_time(after=3)
    with pytest.raises(TimeoutError):
        ModuleState(values, check=check)
    check, calls = out_of_time(after=10**6)
    state = ModuleState(values, check=check)
    tracked = len(calls)
    state.restore()
    restored = len(calls)
    values[0].append(1)
    state.restore()
    assert tracked < restored == len(calls)
    assert values[0] == [0]


def test_what_nobody_can_write_to_is_shared(tmp_path):
    np.save(tmp_path / "kept.npy", np.arange(4.0))
    own = np.arange(4.0)
    own.flags.writeable = False
    of_bytes = np.frombuffer(b"12345678", dtype=np.int64)
    mapped = np.load(tmp_path / "kept.npy", mmap_mode="r")
    for array in (own, own[1:], of_bytes, mapped, mapped[1:]):
        assert copier().copy(array) is array
    behind = np.arange(4.0)
    view = behind[:]
    view.flags.writeable = False
    written = np.load(tmp_path / "kept.npy", mmap_mode="c")
    for array in (view, np.frombuffer(bytearray(8), dtype=np.int64), written, np.ones(2)):
        assert copier().copy(array) is not array


class AttrDict(dict):
    """A dict that is its own attributes."""

    def __init__(self, **entries):
        super().__init__(**entries)
        self.__dict__ = self


def test_a_dict_that_is_its_own_attributes_is_one_in_the_copy():
    value = AttrDict(n=0, inner=[1])
    copied = copier().copy(value)
    state = ModuleState(copied)
    copied.n += 1
    copied["inner"].append(2)
    copied.fresh = True
    assert (copied["n"], copied.inner, copied["fresh"]) == (1, [1, 2], True)
    assert value == {"n": 0, "inner": [1]}
    state.restore()
    assert copied == {"n": 0, "inner": [1]}


def test_a_proxy_leads_to_the_copy():
    module = nn.Linear(2, 1)
    module.helper = Frozen([weakref.proxy(module)])
    gone = weakref.proxy(nn.Linear(2, 1))
    copied = copier().copy(module)
    assert copied.helper.values[0].weight is copied.weight is not module.weight
    assert len(copier().copy([gone])) == 1
    ModuleState([gone]).restore()


class Mangled:
    __slots__ = ("__count", "later")

    def __init__(self):
        self.__count = [1]

    def up(self):
        self.__count = [*self.__count, 1]
        self.later = True
        return len(self.__count)


@dataclass(frozen=True)
class FrozenSlots:
    __slots__ = ("values",)
    values: list


def test_slots_are_copied_and_put_back_whatever_they_are_called():
    class Both(Mangled, nn.Linear):
        def __init__(self):
            nn.Linear.__init__(self, 2, 1)
            Mangled.__init__(self)

    for value in (Mangled(), Both()):
        copied = copier().copy(value)
        state = ModuleState(copied)
        assert (copied.up(), copied.up()) == (2, 3)
        state.restore()
        assert not hasattr(copied, "later")
        assert (copied.up(), value.up()) == (2, 2)
    frozen = FrozenSlots([1])
    copied = copier().copy(frozen)
    assert copied == frozen
    assert copied.values is not frozen.values


def test_a_sentinel_is_itself():
    unset = object()
    assert copier().copy([unset])[0] is unset


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Parameter(torch.ones(2)),
        lambda: torch.ones(2),
        lambda: torch.ones(2, requires_grad=True),
        lambda: 2 * torch.ones(2, requires_grad=True),
        lambda: NeedsLabels(torch.ones(2), ["u"]),
    ],
)
def test_attributes_of_tensors_are_copied_and_put_back(make):
    tensor = make()
    tensor.reg, tensor.lock, tensor.seen, tensor.me = 5.0, threading.Lock(), [], tensor
    copied = copier().copy(tensor)
    assert copied.requires_grad == (tensor.requires_grad and tensor.is_leaf)
    assert type(copied) is type(tensor)
    assert copied.me is copied
    state = ModuleState(passed_over=[copied])
    copied.seen.append(copied.reg)
    copied.reg = 6.0
    assert (tensor.reg, tensor.seen) == (5.0, [])
    assert copied.lock.acquire(blocking=False)
    state.restore()
    assert (copied.reg, copied.seen) == (5.0, [])
