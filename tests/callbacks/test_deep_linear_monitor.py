"""The monitor of linear networks in training runs."""

import logging
import runpy
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_morse import DeepLinearMonitor
from tests.callback_models import fit, rng_state, seed_all, trainer

EXAMPLE = Path(__file__).parents[2] / "examples" / "linear_digits.py"


class Linear(pl.LightningModule):
    """A stack of linear layers in double precision."""

    def __init__(self, bias=False, make=None, loss=nn.functional.mse_loss, between=nn.Identity):
        super().__init__()
        biases = bias if isinstance(bias, tuple) else (bias,) * 3
        self.net = nn.Sequential(
            nn.Linear(3, 4, bias=biases[0]),
            between(),
            nn.Linear(4, 4, bias=biases[1]),
            between(),
            nn.Linear(4, 2, bias=biases[2]),
        ).double()
        self.loss = loss
        self.make = make or (lambda parameters: torch.optim.SGD(parameters, lr=0.05))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return self.make(self.parameters())


def data(batch_size=16, classes=False):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(64, 3, generator=generator).double()
    y = x @ torch.tensor([[2.0, 0.0], [0.0, 0.8], [0.0, 0.0]]).double() + 0.5
    y = y.argmax(1) if classes else y
    return DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=True)


@pytest.fixture
def no_staircases(monkeypatch):
    """Most of what a short run costs, where nobody looks at them."""
    monkeypatch.setattr(DeepLinearMonitor, "_draw", lambda *_: None)


def run(tmp_path, monitor, module=None, loader=None, seed=0, **options):
    seed_all(seed)
    module = module or Linear()
    callbacks = [monitor] if monitor else []
    runner = trainer(tmp_path, *callbacks, **options)
    runner.fit(module, loader or data())
    return module, runner


@pytest.mark.parametrize("kind", ["linear", "adam", "other"])
def test_a_run_with_the_callback_is_the_run_without(kind, tmp_path):
    def once(monitor):
        callbacks = [monitor] if monitor else []
        if kind == "other":
            module, runner = fit(tmp_path, *callbacks)
            seen = module.seen
        else:
            adam = kind == "adam"
            seed_all()
            make = (lambda p: torch.optim.Adam(p, lr=0.01)) if adam else None
            module, runner = run(tmp_path, monitor, Linear(bias=adam, make=make))
            seen = []
        metrics = {
            k: v.item()
            for k, v in runner.callback_metrics.items()
            if not k.startswith(("linear/", "network/"))
        }
        state = [t.tolist() for t in module.state_dict().values()]
        optimizer = repr(runner.optimizers[0].state_dict())
        return state, optimizer, metrics, seen, rng_state()

    monitor = DeepLinearMonitor(every_n_steps=2, energy_every=1)
    assert once(None) == once(monitor)
    assert len(monitor.history) > 1  # the monitor was not idle
    assert monitor.stack is not None
    assert (monitor.history[-1]["linear/active"] == 1) == (kind != "other")


@pytest.mark.usefixtures("no_staircases")
@pytest.mark.parametrize("bias", [False, True])
def test_drift_of_plain_descent_is_explained(bias, tmp_path):
    monitor = DeepLinearMonitor(every_n_steps=4)
    run(tmp_path, monitor, Linear(bias), max_epochs=5)
    last = monitor.history[-1]
    assert last["linear/drift"] > 1e-4
    assert last["linear/drift_unexplained"] < 1e-12


@pytest.mark.usefixtures("no_staircases")
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=0.01),
        lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1),
    ],
)
def test_drift_of_other_optimizers_is_not_explained(make, tmp_path):
    monitor = DeepLinearMonitor()
    run(tmp_path, monitor, Linear(make=make))
    assert monitor.history[-1]["linear/drift_unexplained"] > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("bias", [False, True])
def test_final_scalars_are_those_of_least_squares(bias, tmp_path):
    monitor = DeepLinearMonitor(every_n_epochs=50)
    _, runner = run(tmp_path, monitor, Linear(bias), max_epochs=200)
    last = monitor.history[-1]
    x, y = (t.numpy() for t in data().dataset.tensors)
    columns = np.column_stack([x, np.ones(len(x))]) if bias else x
    left = np.square(y - columns @ np.linalg.lstsq(columns, y, rcond=None)[0]).mean()
    assert last["linear/loss"] == pytest.approx(left, abs=1e-3)
    assert last["linear/level"] == last["linear/modes_learned"] == 2
    assert last["linear/mode/0"] == pytest.approx(1.0, abs=0.02)
    assert last["linear/score"] == pytest.approx(1.0)
    assert 0 < last["linear/stability"] < 1
    assert last["linear/stability"] == pytest.approx(last["linear/sharpness"] * 0.05 / 2)
    assert runner.callback_metrics["linear/level"].item() == 2
    assert (tmp_path / "linear" / "staircase.png").exists()


@pytest.mark.usefixtures("no_staircases")
def test_energy(tmp_path):
    slow = DeepLinearMonitor(energy_every=1)
    run(tmp_path, slow, Linear(make=lambda p: torch.optim.SGD(p, lr=1e-4)))
    assert slow.history[-1]["network/energy_ratio"] == pytest.approx(1.0, abs=1e-3)
    assert slow.history[-1]["network/energy_violations"] == 0.0
    fast = DeepLinearMonitor(energy_every=1)
    run(tmp_path, fast, Linear(make=lambda p: torch.optim.SGD(p, lr=1.5)), max_epochs=1)
    assert fast.history[-1]["network/energy_violations"] > 0


def test_non_linear_modules_only_show_their_score(tmp_path, caplog):
    monitor = DeepLinearMonitor()
    with caplog.at_level(logging.WARNING, "lightning_morse"):
        _, runner = run(tmp_path, monitor, Linear(True, between=nn.ReLU))
    assert "account for" in caplog.text
    last = monitor.history[-1]
    assert last["linear/active"] == 0
    assert 0 <= last["linear/score"] < 0.99
    assert not [k for k in last if k.startswith(("linear/mode/", "linear/balance/"))]
    assert "network/strength_mean/3" in last
    assert runner.callback_metrics["linear/active"].item() == 0
    with pytest.raises(RuntimeError, match="no report of a linear network"):
        monitor.figure()


@pytest.mark.parametrize(
    ("module", "loader", "message"),
    [
        (lambda: Linear((True, False, False)), data(), "a hidden layer has a bias and the last"),
        (
            lambda: Linear(loss=nn.functional.cross_entropy),
            data(classes=True),
            "the loss must be a multiple of the squared error",
        ),
        (
            lambda: Linear(loss=lambda found, y: nn.functional.mse_loss(found, y) + 0.1),
            data(),
            "the loss must be a multiple of the squared error",
        ),
    ],
)
def test_cases_outside_the_theory_are_reported(module, loader, message, tmp_path, caplog):
    monitor = DeepLinearMonitor()
    with caplog.at_level(logging.WARNING, "lightning_morse"):
        run(tmp_path, monitor, module(), loader)
    assert message in caplog.text
    assert not any("linear/mode/0" in row for row in monitor.history)


def test_a_module_whose_network_is_not_found_does_not_end_the_run(tmp_path, caplog):
    class Odd(Linear):
        forward = pl.LightningModule.forward

        def __init__(self):
            super().__init__()
            self.spare = nn.Linear(1, 1).double()

        def training_step(self, batch, batch_idx):
            return self.loss(self.net(batch[0]), batch[1]) + 0 * self.spare.weight.sum()

    with caplog.at_level(logging.WARNING, "lightning_morse"):
        run(tmp_path, DeepLinearMonitor(), Odd())
    assert "network must name the submodule" in caplog.text
    named = DeepLinearMonitor(network="net")
    run(tmp_path, named, Odd())
    assert named.history[-1]["linear/active"] == 1
    assert named.stack.names == ("net.0", "net.2", "net.4")


def test_state_survives_a_checkpoint(tmp_path):
    monitor = DeepLinearMonitor()
    _, runner = run(tmp_path, monitor, max_epochs=2)
    path = tmp_path / "run.ckpt"
    runner.save_checkpoint(path)
    resumed = DeepLinearMonitor()
    seed_all()
    trainer(tmp_path, resumed, max_epochs=4).fit(Linear(), data(), ckpt_path=path)
    assert len(resumed.history) == 4
    assert resumed.history[:2] == monitor.history
    assert resumed.history[-1]["linear/drift_unexplained"] < 1e-12
    assert resumed.history[-1]["linear/drift"] > monitor.history[-1]["linear/drift"] / 2


def test_fast_dev_run_is_left_alone(tmp_path):
    monitor = DeepLinearMonitor()
    run(tmp_path, monitor, fast_dev_run=1)
    assert monitor.history == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_epochs": 1, "every_n_steps": 1}, "exclude each other"),
        ({"every_n_steps": 0}, "every_n_steps must be an integer of at least 1"),
        ({"energy_every": 1.5}, "energy_every must be an integer"),
        ({"target_fn": 3}, "target_fn must be callable"),
        ({"linearity": 0.0}, r"linearity must be a number in \(0, 1\], got 0.0"),
        ({"linearity": True}, r"linearity must be a number in \(0, 1\], got True"),
        ({"linearity": "high"}, r"linearity must be a number in \(0, 1\], got 'high'"),
        ({"network": 3}, "network must be the name of a submodule, got 3. Give it as in"),
        ({"network": ""}, "network must be the name of a submodule, got ''"),
    ],
)
def test_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        DeepLinearMonitor(**options)


def climbs(monitor):
    levels = [row["linear/level"] for row in monitor.history if row["linear/level"] >= 0]
    assert levels == sorted(levels)
    return sorted(set(levels))


@pytest.mark.usefixtures("no_staircases")
@pytest.mark.slow
def test_level_climbs(tmp_path):
    """From small weights two modes are learned one after the other."""

    class Small(Linear):
        def __init__(self):
            super().__init__(make=lambda p: torch.optim.SGD(p, lr=0.1))
            for p in self.parameters():
                nn.init.normal_(p, std=0.02)

    monitor = DeepLinearMonitor(every_n_steps=5)
    x = torch.randn(256, 3, generator=torch.Generator().manual_seed(0)).double()
    y = x[:, :2] * torch.tensor([2.0, 0.8])
    loader = DataLoader([(x, y)] * 50, batch_size=None)
    run(tmp_path, monitor, Small(), loader, max_epochs=12)
    assert climbs(monitor) == [0, 1, 2]
    assert monitor.history[-1]["linear/escape_steps"] == 0
    first = next(row for row in monitor.history if row["linear/level"] == 1)
    assert first["linear/loss"] == pytest.approx(first["linear/level_loss"], rel=0.1)


@pytest.mark.usefixtures("no_staircases")
@pytest.mark.slow
def test_digits_climb_the_staircase(tmp_path, capsys):
    monitor = runpy.run_path(str(EXAMPLE))["main"](["--out", str(tmp_path)])
    assert climbs(monitor) == [0, 1, 2, 3]
    assert (tmp_path / "staircase.png").exists()
    for row in monitor.history:
        if row["linear/level"] >= 0:
            assert row["linear/loss"] == pytest.approx(row["linear/level_loss"], rel=0.02)
    assert "3 modes learned" in capsys.readouterr().out


def test_a_staircase_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch, caplog):
    def half(figure, file, **options):
        file.write(b"half a figure")
        raise OSError("No space left on device")

    (tmp_path / "linear").mkdir()
    (tmp_path / "linear/staircase.png").write_bytes(b"old")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half)
    with caplog.at_level(logging.WARNING, "lightning_morse"):
        run(tmp_path, DeepLinearMonitor(), max_epochs=2)
    assert "No space left on device" in caplog.text
    assert [p.name for p in (tmp_path / "linear").iterdir()] == ["staircase.png"]
    assert (tmp_path / "linear/staircase.png").read_bytes() == b"old"
