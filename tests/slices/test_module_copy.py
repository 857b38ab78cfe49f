"""Ways in which a step could reach the original through its copy."""

import abc
import functools
import gc
import os
import tempfile
import types
import weakref
from collections import Counter
from typing import ClassVar, Generic, TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.module_copy import shadow_copy
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.reached import reached_by_steps
from lightning_morse.slices.stand_ins import UntouchableError
from lightning_morse.slices.subspace import AffineSubspace


class Closes:
    """Does something when it is collected, as temporary files do."""

    closed: list = []  # noqa: RUF012

    def __del__(self):
        self.closed.append(1)


class Module(nn.Module):
    counts = Counter()  # noqa: RUF012
    rng = np.random.RandomState(0)

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 1)
        self.seen = []

    @functools.lru_cache(maxsize=4)  # noqa: B019 (people write this)
    def scale(self, n):
        return n * 2.0


def test_class_attributes_are_those_of_the_copy():
    module = Module()
    state = module.rng.get_state()[1].tolist()
    shadow = shadow_copy(module)
    shadow.counts["a"] += 1
    type(shadow).fresh = 1
    shadow.rng.rand()
    assert Module.counts == {}
    assert not hasattr(Module, "fresh")
    assert Module.rng.get_state()[1].tolist() == state


def test_cached_methods_do_not_keep_copies_alive():
    shadow = shadow_copy(Module())
    assert shadow.scale(3) == 6
    gone = weakref.ref(shadow)
    del shadow
    gc.collect()
    assert gone() is None


def test_what_ends_with_an_object_does_not_end_with_its_copy():
    module = Module()
    module.helper, module.file = Closes(), tempfile.NamedTemporaryFile()  # noqa: SIM115
    shadow = shadow_copy(module)
    del shadow
    gc.collect()
    assert Closes.closed == []
    assert os.path.exists(module.file.name)
    module.file.close()


def test_a_module_that_ends_with_something_ends_once():
    ended = []

    class Ends(nn.Linear):
        def __del__(self):
            ended.append(1)

    module = Ends(2, 1)
    shadow_copy(module)
    gc.collect()
    assert ended == []


def test_hooks_of_parametrised_layers_lead_to_the_copy():
    module = Module()
    nn.utils.parametrizations.weight_norm(module.net)
    module.net.register_forward_hook(lambda *args: module.seen.append(1))
    shadow = shadow_copy(module)
    shadow.net(torch.zeros(1, 2))
    assert module.seen == []
    assert torch.equal(shadow.net.weight, module.net.weight)


def test_state_kept_in_functions_is_copied():
    module = Module()

    def hook(layer, inputs, output, kept=[0]):  # noqa: B006 (people write this)
        kept[0] += 1
        hook.calls += 1

    hook.calls = 0
    module.net.register_forward_hook(hook)
    shadow_copy(module).net(torch.zeros(1, 2))
    assert hook.__defaults__ == ([0],)


def test_weak_containers_hold_the_copies():
    module = Module()
    module.by_name = weakref.WeakValueDictionary(net=module.net)
    module.of_layer = weakref.WeakKeyDictionary({module.net: [1]})
    shadow = shadow_copy(module)
    assert shadow.by_name["net"] is shadow.net is not module.net
    shadow.of_layer[shadow.net].append(2)
    assert module.of_layer[module.net] == [1]


def test_a_registering_metaclass_does_not_learn_of_the_copy():
    registry = []

    class Registers(type):
        def __init__(cls, name, bases, namespace):
            super().__init__(name, bases, namespace)
            registry.append(cls)

    class Registered(nn.Linear, metaclass=Registers):
        table: list = []  # noqa: RUF012

    shadow = shadow_copy(Registered(2, 1))
    assert registry == [Registered]
    assert shadow.table is not Registered.table


def test_traced_modules_are_copied():
    module = Module()
    module.traced = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    shadow = shadow_copy(module)
    x = torch.randn(3, 2)
    assert torch.equal(shadow.traced(x), module.traced(x))


@pytest.mark.parametrize("kind", ["returns itself", "fails half-way"])
def test_an_own_way_of_copying_is_not_trusted(kind):
    class Own:
        def __init__(self):
            self.values = [1]

        def __deepcopy__(self, memo):
            if kind == "returns itself":
                return self
            memo[id(self.values)] = "half"
            raise RuntimeError("no")

    module = Module()
    module.own = Own()
    shadow = shadow_copy(module)
    shadow.own.values.append(2)
    assert module.own.values == [1]


def counted(function):
    """A decorator of the user's that keeps something."""
    calls = 0

    @functools.wraps(function)
    def counting(self, *args):
        nonlocal calls
        calls += 1
        return function(self, *args) + 100 * calls

    return counting


def keeping_methods():
    """A class and its base, whose methods keep something each in its own way; and what is kept."""
    seen, total = [], 0

    class Base(nn.Linear):
        def forward(self, x, cache=[]):  # noqa: B006 (people write this)
            cache.append(1)
            return super().forward(x) + len(cache)

    class Keeps(Base):
        def forward(self, x):
            return super().forward(x)

        @counted
        def step(self):
            return 0

        def add(self):
            nonlocal total
            total += 1
            seen.append(total)
            return total, list(seen)

        @staticmethod
        def put(found=[]):  # noqa: B006
            found.append(1)
            return len(found)

        @classmethod
        def put_too(cls, *, found=[]):  # noqa: B006
            found.append(1)
            return len(found)

        @property
        def told(self):
            seen.append("told")
            return len(seen)

        def down(self, n):
            self.down.__func__.most = max(n, getattr(self.down.__func__, "most", 0))
            return self.down(n - 1) if n else self.down.__func__.most

        down.most = 0

        def __len__(self):
            seen.append("len")
            return len(seen)

    return Keeps(2, 1), lambda: (seen, total, Base.forward.__defaults__, vars(Keeps.down))


def test_what_methods_keep_is_that_of_the_copy():
    module, kept = keeping_methods()
    shadow = shadow_copy(module)
    x = torch.zeros(1, 2)
    torch.testing.assert_close(shadow(x) + 1, shadow(x))
    assert (shadow.step(), shadow.step()) == (100, 200)
    assert (shadow.add(), shadow.add()) == ((1, [1]), (2, [1, 2]))
    assert (shadow.put(), shadow.put(), shadow.put_too(), shadow.put_too()) == (1, 2, 1, 2)
    assert (shadow.told, shadow.told, len(shadow), shadow.down(3)) == (3, 4, 5, 3)
    assert kept() == ([], 0, ([],), {"most": 0})
    assert module.step() == 100
    assert (module.put(), module.put_too()) == (1, 1)
    assert isinstance(shadow, type(module))


def test_methods_that_keep_nothing_are_shared():
    class Plain(nn.Linear):
        def forward(self, x, scale=2.0, *, shift=(1, 2)):
            return super().forward(scale * x) + shift[0]

        @property
        def width(self):
            return self.in_features

    assert type(shadow_copy(Plain(2, 1))) is Plain


def test_functions_that_share_a_cell_share_that_of_the_copy():
    def made():
        count = 0

        def up(self):
            nonlocal count
            count += 1

        def value(self):
            return count

        def down(self, n):
            return down(self, n - 1) if n else down

        return up, value, down

    class Counts(nn.Linear):
        up, value, down = made()

    module = Counts(2, 1)
    shadow = shadow_copy(module)
    shadow.up()
    assert (shadow.value(), module.value()) == (1, 0)
    assert shadow.down(2) is shadow.down.__func__ is not module.down.__func__


def test_a_compiled_method_is_the_eager_one_in_the_copy():
    class Compiled(nn.Linear):
        @torch.compile
        def forward(self, x):
            return super().forward(x)

    module = Compiled(2, 1)
    assert not hasattr(type(shadow_copy(module)).forward, "_torchdynamo_orig_callable")


def test_slots_and_metaclasses_do_not_stand_in_the_way():
    class Registers(abc.ABCMeta):
        made: list = []  # noqa: RUF012

        def __init__(cls, name, bases, namespace):
            super().__init__(name, bases, namespace)
            Registers.made.append(name)

    class Mixin(metaclass=Registers):
        __slots__ = ()
        told: list = []  # noqa: RUF012

        def __init_subclass__(cls, **kwargs):
            Mixin.told.append(cls.__name__)

        def tell(self, kept=[]):  # noqa: B006
            kept.append(1)
            return len(kept)

    class Slotted(Mixin, nn.Linear, metaclass=Registers):
        __slots__ = ("extra",)

    module = Slotted(2, 1)
    module.extra = [1]
    shadow = shadow_copy(module)
    assert (shadow.tell(), shadow.tell(), module.tell()) == (1, 2, 1)
    assert shadow.extra == [1]
    assert shadow.extra is not module.extra
    assert Registers.made == ["Mixin", "Slotted"]
    assert Mixin.told == ["Slotted"]


class Keeps:
    """A loss function that is an object, or a method of one."""

    def __init__(self):
        self.values = []

    def __call__(self, module, batch, seen=[]):  # noqa: B006
        seen.append(1)
        return self.loss(module, batch) + len(seen)

    def loss(self, module, batch):
        self.values.append(1)
        return module(batch).sum() + len(self.values)

    def told(self):
        return len(self.values), *self.__call__.__defaults__


def loss_functions():
    """Each with what it keeps."""
    values, count = [], 0

    def closes(module, batch):
        nonlocal count
        count += 1
        values.append(1)
        return module(batch).sum() + count + len(values)

    def given(module, batch, kept=[], *, more={}):  # noqa: B006
        kept.append(1)
        more[len(more)] = 1
        return module(batch).sum() + len(kept) + len(more)

    def counts(module, batch):
        counts.calls += 1
        return module(batch).sum() + counts.calls

    counts.calls = 0
    first, second = Keeps(), Keeps()
    return {
        "function": (closes, lambda: (values, count)),
        "default": (given, lambda: (given.__defaults__, given.__kwdefaults__)),
        "attribute": (counts, lambda: counts.calls),
        "lambda": (
            lambda module, batch: (values.append(1), module(batch).sum() + len(values))[1],
            lambda: values,
        ),
        "partial": (functools.partial(given, kept=values), lambda: values),
        "bound method": (first.loss, first.told),
        "object": (second, second.told),
        "partial of a method": (functools.partial(first.loss), first.told),
    }


@pytest.mark.parametrize("kind", loss_functions())
def test_what_a_loss_function_keeps_is_that_of_the_copy(kind):
    loss_fn, kept = loss_functions()[kind]
    module, before = nn.Linear(2, 1), repr(kept())
    plane = AffineSubspace(flat_parameters(module), torch.eye(3)[:, :1])
    loss = LossSlice(module, plane, [torch.ones(1, 2)], loss_fn)
    here = torch.zeros(1, 1)
    assert loss(here) == loss(here)  # and every evaluation begins with the same
    assert repr(kept()) == before


def test_a_loss_function_that_belongs_to_the_module_is_one_of_the_copy():
    module = Module()
    module.loss = types.MethodType(lambda self, net, batch: self.net(batch).sum(), module)
    plane = AffineSubspace(flat_parameters(module), torch.eye(3)[:, :1])
    loss = LossSlice(module, plane, [torch.ones(1, 2)], module.loss)
    assert len(loss(torch.tensor([[0.0], [1.0]])).unique()) == 2


def test_a_function_shares_what_is_large_or_has_no_copy_but_not_what_is_used_up(monkeypatch):
    monkeypatch.setattr("lightning_morse.slices.world._LARGE_BYTES", 100)
    small, large, handle = torch.ones(2), torch.ones(99), Handle()
    numbers = (n for n in range(1, 9))

    def reads(module, batch):
        assert large.data_ptr() == where
        assert handle.same()
        return module(batch).sum() * small.add_(1).sum() * large.sum()

    def uses_up(module, batch):
        return module(batch).sum() * next(numbers)

    where, module = large.data_ptr(), nn.Linear(2, 1)
    plane = AffineSubspace(flat_parameters(module), torch.eye(3)[:, :1])
    for loss_fn in (reads, uses_up):
        loss = LossSlice(module, plane, [torch.ones(1, 2)], loss_fn)
        if loss_fn is reads:
            loss(torch.zeros(1, 1))
            continue
        with pytest.raises(UntouchableError, match="loss_fn"):
            loss(torch.zeros(1, 1))
    assert small.tolist() == [1, 1]
    assert next(numbers) == 1


class Handle:
    """Of something outside, which has no copy."""

    __slots__ = ("known",)

    def __init__(self):
        self.known = id(self)

    def __reduce_ex__(self, protocol):
        raise TypeError("no copy")

    def same(self):
        return self.known == id(self)


NOISE = np.random.default_rng(0)


def draws(module, batch, scale):
    return module(batch).sum() + scale * NOISE.normal()


@pytest.mark.parametrize("kind", [functools.partial, lambda f, scale: Draws(f, scale)])
def test_generators_beside_a_loss_function_of_any_kind_are_found(kind):
    found = reached_by_steps(nn.Linear(2, 1), kind(draws, scale=1.0)).generators
    assert any(one is NOISE for one in found)


class Draws:
    def __init__(self, function, scale):
        self.function, self.scale = function, scale

    def __call__(self, module, batch):
        return self.function(module, batch, self.scale)


@pytest.mark.parametrize("collects", [False, True], ids=["at once", "with the garbage"])
def test_classes_made_for_a_copy_are_gone_when_it_is_given_up(collects):
    module, _ = keeping_methods()
    ended = []
    if collects:
        type(module).__del__ = lambda self: ended.append(1)
    plane = AffineSubspace(flat_parameters(module), torch.eye(3)[:, :1])
    loss = LossSlice(module, plane, [torch.ones(1, 2)], lambda net, x: net(x).sum())
    loss(torch.zeros(1, 1))
    bases = type(module).__mro__[:2]
    assert len(bases[0].__subclasses__()) == len(bases[1].__subclasses__()) - 1 == 1
    loss.close()
    copied = loss._loss.module
    assert isinstance(copied, type(module))
    if collects:
        del loss, copied
        gc.collect()
    else:
        assert copied.told == 1  # whoever has got hold of it has a module
    assert bases[0].__subclasses__() == []
    assert bases[1].__subclasses__() == [bases[0]]
    assert ended == []


Item = TypeVar("Item")


class Abstract(abc.ABC):  # noqa: B024
    """As libraries have it: what is not a module comes first."""

    registered: ClassVar[list] = []

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.registered.append(cls.__name__)


def counting(*bases):
    """A layer that counts its calls in its class."""

    class Counting(*bases):
        calls: ClassVar[list] = []

        def forward(self, x):
            type(self).calls.append(1)
            return super().forward(x)

    return Counting


@pytest.mark.parametrize(
    "bases",
    [
        (abc.ABC, nn.Linear),
        (Abstract, nn.Linear),
        (Generic[Item], nn.Linear),
        (nn.Linear, abc.ABC),
        (Abstract, nn.SyncBatchNorm),
    ],
    ids=["abstract", "registered", "generic", "abstract last", "synchronised"],
)
def test_a_module_may_derive_from_something_else_first(bases):
    class_ = counting(counting(*bases))
    module = class_(2, 1) if issubclass(class_, nn.Linear) else class_(2)
    registered = Abstract.registered[:]
    weights = flat_parameters(module)
    plane = AffineSubspace(weights, torch.eye(len(weights))[:, :1])
    loss = LossSlice(module, plane, [torch.randn(4, 2)], lambda net, x: net(x).square().mean())
    assert torch.isfinite(loss(torch.zeros(3, 1))).all()
    assert not any(base.calls for base in class_.__mro__ if "calls" in vars(base))
    assert Abstract.registered == registered
    assert isinstance(loss._loss.module, class_)
    loss.close()
    assert class_.__subclasses__() == []


class Adapter(nn.Linear):
    """Merges what is trained into its weights to be evaluated, as adapters do."""

    def __init__(self):
        super().__init__(2, 1)
        self.weight.requires_grad_(False)
        self.change = nn.Parameter(torch.zeros(1, 2))
        self.merged = False

    def train(self, mode=True):
        if not mode and not self.merged:
            self.weight.data += self.change.data
            self.merged = True
        self.training = mode

    def forward(self, x):
        return x @ (self.weight if self.merged else self.weight + self.change).T + self.bias


def test_modes_are_set_without_the_methods_of_the_module():
    module = nn.Sequential(Adapter(), nn.Dropout())
    weights = flat_parameters(module)
    plane = AffineSubspace(weights, torch.eye(len(weights))[:, :1])
    loss = LossSlice(module[0], plane, [torch.ones(4, 2)], lambda net, x: net(x).square().mean())
    assert len(set(loss(torch.tensor([[0.0], [1.0], [2.0]])).tolist())) == 3
    shadow = shadow_copy(module)
    assert not any(part.training for part in shadow.modules())
    assert module.training
    assert module[0].training
