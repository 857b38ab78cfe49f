"""Ways in which a step could reach the original through its copy."""

import functools
import gc
import os
import tempfile
import weakref
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from lightning_morse.slices.module_copy import shadow_copy


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
