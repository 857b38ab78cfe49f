"""What steps lead to by name and that belongs to the script: all of it is found."""

import functools
import types
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from lightning_morse.slices import reached
from lightning_morse.slices.reached import reached_by_steps, stored_globals


def stream():
    return torch.Generator().manual_seed(3)


class Augment:
    def __init__(self):
        self.parts = [{"rng": np.random.default_rng(0)}]

    def __call__(self, x):
        return x + self.parts[0]["rng"].normal()


class Slotted:
    __slots__ = ("rng", "unset")

    def __init__(self):
        self.rng = stream()


class Kept:
    rng = stream()

    @staticmethod
    def jitter(x):
        return x + torch.randn((), generator=Kept.rng)


def file_of_helpers():
    """Another file, from which a function is imported."""
    file = types.ModuleType("helpers")
    code = "import torch\nRNG = torch.Generator()\n"
    code += "def inner(x): return x + torch.randn((), generator=RNG)\n"
    exec(code + "def jitter(x): return inner(x)\n", vars(file))
    return file


IN_A_DICT, IN_A_QUEUE = {"aug": stream()}, deque([(stream(),)])
AUGMENT, SLOTTED, FILE = Augment(), Slotted(), file_of_helpers()
JITTER = FILE.jitter
PARTIAL = functools.partial(lambda x, rng: x + torch.randn((), generator=rng), rng=stream())
CIRCLE: list = []
CIRCLE.append(CIRCLE)


def closing_over(rng):
    return lambda x: x + torch.randn((), generator=rng)


CLOSING = closing_over(stream())

STEPS = {
    "in a dictionary": (
        lambda self, x: x + torch.randn((), generator=IN_A_DICT["aug"]),
        IN_A_DICT["aug"],
    ),
    "in a tuple in a queue": (
        lambda self, x: x + torch.randn((), generator=IN_A_QUEUE[0][0]),
        IN_A_QUEUE[0][0],
    ),
    "in an object": (lambda self, x: AUGMENT(x), AUGMENT.parts[0]["rng"]),
    "in a slot": (lambda self, x: x + torch.randn((), generator=SLOTTED.rng), SLOTTED.rng),
    "in a class": (lambda self, x: Kept.jitter(x), Kept.rng),
    "in the file of a function": (lambda self, x: JITTER(x), FILE.RNG),
    "in a file": (lambda self, x: FILE.jitter(x), FILE.RNG),
    "in a function inside": (lambda self, x: [FILE.inner(y) for y in x], FILE.RNG),
    "in a partial": (lambda self, x: PARTIAL(x), PARTIAL.keywords["rng"]),
    "in a closure": (lambda self, x: CLOSING(x), CLOSING.__closure__[0].cell_contents),
}


@pytest.mark.parametrize("where", STEPS)
def test_a_generator_that_a_step_leads_to_is_found(where):
    step, wanted = STEPS[where]
    module = type("Stepping", (nn.Linear,), {"training_step": step})(2, 1)
    assert any(one is wanted for one in reached_by_steps(module).generators)


def test_what_refers_to_itself_and_what_is_large_is_looked_at_no_longer_than_that(monkeypatch):
    module = type("Stepping", (nn.Linear,), {"training_step": lambda self, x: CIRCLE})(2, 1)
    reached_by_steps(module)
    monkeypatch.setattr(reached, "_MOST", 10)
    many = [object() for _ in range(100)] + [stream()]
    loss = functools.partial(lambda module, batch, given: 0.0, given=many)
    assert not any(one is many[-1] for one in reached_by_steps(nn.Linear(2, 1), loss).generators)


def test_functions_of_libraries_are_not_looked_into():
    def step(self, x):
        return nn.functional.cross_entropy(np.asarray(x), torch.zeros(1))

    module = type("Stepping", (nn.Linear,), {"training_step": step})(2, 1)
    known = {id(value) for value in globals().values()}
    assert all(id(one) in known for one in reached_by_steps(module).generators)


def test_global_variables_that_a_function_or_one_inside_it_binds_are_known():
    code = "def step():\n    global A\n    A = B\n    C = 1\n    def inner():\n        global D\n"
    names = {}
    exec(code + "        del D\n    return inner, C\n", names)
    assert stored_globals(names["step"]) == ("A", "D")
