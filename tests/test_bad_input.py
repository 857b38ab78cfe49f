"""Modules and runs that the monitor can do little with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_morse import MorseMonitor
from tests.callback_models import Net, fit, loader, monitor, seed_all, stub_analysis, trainer


@pytest.fixture(autouse=True)
def analysis(monkeypatch):
    stub_analysis(monkeypatch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"max_overhead": 0},
            r"max_overhead must be a share of the time of training in \(0, 1\].*got 0",
        ),
        ({"max_overhead": 1.5}, "max_overhead must be a share"),
        ({"max_overhead": "5 %"}, "max_overhead must be a share"),
        ({"max_overhead": True}, "max_overhead must be a share"),
        ({"snapshot_dtype": "int8"}, "snapshot_dtype must be one of 'float64', .* got 'int8'"),
        ({"snapshot_dtype": torch.float32}, "snapshot_dtype must be one of"),
        ({"on_error": "ignore"}, "on_error must be 'warn' or 'raise', got 'ignore'"),
        ({"name": "a/b"}, "name must be letters, digits.* got 'a/b'"),
        ({"name": ""}, "name must be letters"),
        ({"name": None}, "name must be letters"),
    ],
)
def test_arguments_are_checked_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        MorseMonitor(**options)


def test_parameters_that_stay_lazy(tmp_path):
    class Lazy(Net):
        def __init__(self):
            super().__init__()
            self.unused = nn.LazyLinear(1)

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), 0.1)

    watch = monitor()
    fit(tmp_path, watch, module=Lazy())
    assert {row["morse/failed"] for row in watch.history} == {1.0}
    with pytest.raises(ValueError, match=r"got a lazy parameter 'unused\.weight'"):
        fit(tmp_path, monitor(on_error="raise"), module=Lazy())


def test_lazy_parameters_that_are_ready_in_time(tmp_path):
    class Lazy(Net):
        def __init__(self):
            super().__init__()
            self.net = nn.LazyLinear(1)

        def setup(self, stage):
            self.net(torch.zeros(2, 3))

    watch = monitor()
    fit(tmp_path, watch, module=Lazy())
    assert [row["morse/failed"] for row in watch.history] == [0, 0]


def test_several_dtypes(tmp_path):
    class Mixed(Net):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1).double())

        def training_step(self, batch, batch_idx):
            x, y = batch
            hidden = self.net[1](self.net[0](x))
            return nn.functional.mse_loss(self.net[2](hidden.double()), y.double())

        def validation_step(self, batch, batch_idx):
            pass

    watch = monitor()
    fit(tmp_path, watch, module=Mixed())
    assert [row["morse/failed"] for row in watch.history] == [0, 0]


def test_a_parameter_on_another_device_fails_the_analysis_only(tmp_path, caplog):
    class Elsewhere(Net):
        def on_train_start(self):
            self.ghost = nn.Parameter(torch.zeros(2, device="meta"))

        def on_train_end(self):
            del self.ghost

    watch = monitor()
    with caplog.at_level("WARNING", "lightning_morse"):
        module, _ = fit(tmp_path, watch, module=Elsewhere())
    assert len(module.seen) == 12
    assert [row["morse/failed"] for row in watch.history] == [1, 1]
    assert any("meta" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("returns", ["dict", "None", "tensor with grad", "metrics"])
def test_whatever_validation_step_returns(returns, tmp_path):
    class Validates(Net):
        def validation_step(self, batch, batch_idx):
            with torch.enable_grad():
                loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
            assert loss.requires_grad
            outputs = {"dict": {"loss": loss}, "None": None, "metrics": {"accuracy": 1.0}}
            return outputs.get(returns, loss)

    watch = monitor()
    fit(tmp_path, watch, module=Validates())
    assert [row["morse/failed"] for row in watch.history] == [0, 0]


@pytest.mark.parametrize("returns", ["None", "dict without loss"])
def test_a_training_step_without_a_loss_is_a_failure_that_says_so(returns, tmp_path, caplog):
    class Wordless(Net):
        def training_step(self, batch, batch_idx):
            if self.trainer.global_step < 6 and self.training:
                return super().training_step(batch, batch_idx)
            return None if returns == "None" else {"accuracy": 1.0}

    watch = monitor()
    with caplog.at_level("WARNING", "lightning_morse"):
        fit(tmp_path, watch, module=Wordless(), max_epochs=1)
    assert [row["morse/failed"] for row in watch.history] == [1]
    assert any("must return the loss" in r.getMessage() for r in caplog.records)


def test_nothing_to_train(tmp_path):
    watch = monitor()
    _, runner = fit(tmp_path, watch, limit_train_batches=0)
    assert watch.history == []
    assert not (tmp_path / "morse").exists()
    assert runner.state.finished


@pytest.mark.parametrize("what", ["fast_dev_run", "validate", "test", "predict"])
def test_silent_where_nothing_is_trained(what, tmp_path, caplog):
    class Tested(Net):
        def test_step(self, batch, batch_idx):
            self.log("test_loss", self.validation_step(batch, batch_idx))

        def predict_step(self, batch, batch_idx):
            return self.net(batch[0])

    seed_all()
    watch, module = monitor(), Tested()
    runner = trainer(tmp_path, watch, fast_dev_run=what == "fast_dev_run")
    with caplog.at_level("INFO", "lightning_morse"):
        if what == "fast_dev_run":
            runner.fit(module, loader())
        else:
            getattr(runner, what)(module, loader(16, shuffle=False))
    assert watch.history == []
    assert not list(tmp_path.rglob("morse*"))
    assert not [r for r in caplog.records if r.name == "lightning_morse"]
    if what != "fast_dev_run":
        assert not [k for k in runner.callback_metrics if k.startswith("morse")]
