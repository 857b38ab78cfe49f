"""Private attributes that we rely on, and what is said when one is gone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lightning_morse._compat import batches_that_stepped


def test_the_step_lightning_logs_with_is_found(tmp_path):
    from tests.callback_models import fit

    _, runner = fit(tmp_path, max_epochs=1, accumulate_grad_batches=2)
    assert batches_that_stepped(runner) == 3


def test_its_absence_is_explained():
    trainer = SimpleNamespace(fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace()))
    message = "must have the private attribute trainer.fit_loop.epoch_loop._batches_that_stepped"
    with pytest.raises(RuntimeError, match=message):
        batches_that_stepped(trainer)
