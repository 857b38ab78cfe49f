"""A network that holds very many objects: copying it ends with the time there is."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import numpy as np
import pytest

from lightning_morse import MorseMonitor
from lightning_morse.callbacks import _schedule
from lightning_morse.monitoring.budget import Budget
from lightning_morse.slices.module_copy import shadow_copy
from lightning_morse.slices.world import World
from tests.callback_models import Net, fit, rng_state, seed_all

pytestmark = pytest.mark.usefixtures("no_pictures")

TICK = 2e-3


class Transition:
    def __init__(self, n):
        self.state, self.reward = np.full(4, float(n)), n


class Replays(Net):
    """With a buffer of what it has seen, in an attribute."""

    def __init__(self, n):
        seed_all()
        super().__init__()
        self.buffer = [Transition(k) for k in range(n)]

    def training_step(self, batch, index):
        self.buffer[index].reward += 1
        return super().training_step(batch, index)


@pytest.fixture
def ticking(monkeypatch):
    """Time goes on whenever somebody looks at the clock: at every few hundred objects, for one."""
    ticks = iter(range(10**9))
    monkeypatch.setattr(_schedule, "Budget", partial(Budget, clock=lambda: TICK * next(ticks)))


@pytest.mark.parametrize("n", [10, 60_000])
def test_copying_ends_with_the_time_there_is(n, tmp_path, ticking, caplog):
    caplog.set_level("INFO", "lightning_morse")
    bare, _ = fit(tmp_path / "a", module=Replays(n))
    bare_state = rng_state()
    watch = MorseMonitor(grace=1.2, n_samples=16, resolution=8, dim=1)
    module, _ = fit(tmp_path / "b", watch, module=Replays(n))
    budget = watch._schedule.budget
    assert budget.spent() <= budget.grace + budget.max_overhead * budget.trained()
    assert bool(watch.history) == (n == 10)
    if n > 10:
        assert budget.spent() > 0.1  # it was tried
        assert "not analysed" in caplog.text
    assert rng_state() == bare_state
    assert module.seen == bare.seen
    assert [t.reward for t in module.buffer] == [t.reward for t in bare.buffer]
    for name, value in bare.state_dict().items():
        assert value.equal(module.state_dict()[name])


def test_a_copy_that_was_given_up_goes(monkeypatch):
    made = []

    class Noted(Transition):
        def __setstate__(self, state):
            vars(self).update(state)
            made.append(weakref.ref(self))

    module = Replays(0)
    module.buffer = [Noted(k) for k in range(2000)]

    def check():
        if len(made) > 1000:
            raise TimeoutError("no time left")

    with pytest.raises(TimeoutError):
        shadow_copy(module, World(check=check))
    assert 1000 < len(made) < 1500
    gc.collect()
    assert not any(one() for one in made)
