"""MorseMonitor(dynamics=...) on a module whose loss is that of the slice: the answers are known."""

import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from lightning_morse import MorseMonitor
from lightning_morse.monitoring.scalars import published
from lightning_morse.monitoring.snapshot_map import before_first
from tests.callback_models import fit, rng_state

pytestmark = pytest.mark.usefixtures("no_pictures")

CURVATURES = (1.0, 0.2)


class Bowl(pl.LightningModule):
    """(x^2 + 0.2 y^2) / 2 in the weights x and y, whatever the batch."""

    def __init__(self, optimizer, curvatures=CURVATURES, start=(1.5, -1.0)):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(start))
        self.curvatures = torch.tensor(curvatures)
        self.optimizer = optimizer

    def training_step(self, batch, batch_idx):
        return 0.5 * (self.curvatures * self.w**2).sum()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


class Sideways(torch.optim.SGD):
    """Steps turned by a given angle, in the plane of the two weights."""

    def __init__(self, parameters, lr, turn):
        super().__init__(parameters, lr)
        c, s = math.cos(turn), math.sin(turn)
        self.rotation = torch.tensor([[c, -s], [s, c]])

    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.data -= group["lr"] * self.rotation @ p.grad
        return loss


def watched(tmp_path, optimizer, module=None, **options):
    """A monitor after a run, analysed every 30 steps in the plane of both weights."""
    given = {"directions": torch.eye(2), "every_n_steps": 30, "resolution": 32, "n_samples": 32}
    monitor = MorseMonitor(**(given | {"max_overhead": 1.0, "on_error": "raise"} | options))
    module = module or Bowl(optimizer)
    fit(tmp_path, monitor, module=module, max_epochs=5, limit_val_batches=0)
    assert len(monitor.history) >= 1
    return monitor


def sgd(**options):
    return lambda parameters: torch.optim.SGD(parameters, **options)


def test_plain_gradient_descent_follows_the_flow(tmp_path):
    found = watched(tmp_path, sgd(lr=0.02)).history[-1]
    assert found["morse/flow_angle"] == pytest.approx(0, abs=0.03)
    assert found["morse/flow_length"] == pytest.approx(1, abs=0.03)
    assert "morse/trajectory_mu" not in found


@pytest.mark.parametrize("turn", [0.4, -1.0])
def test_an_optimizer_that_pushes_sideways_is_found_out(tmp_path, turn):
    found = watched(tmp_path, lambda p: Sideways(p, 0.02, turn)).history[-1]
    assert found["morse/flow_angle"] == pytest.approx(abs(turn), abs=0.04)
    assert found["morse/flow_length"] == pytest.approx(1, abs=0.05)


def test_momentum_goes_further_than_the_flow(tmp_path):
    """With momentum 0.5, twice as far once it has picked up speed."""
    found = watched(tmp_path, sgd(lr=0.02, momentum=0.5)).history[-1]
    assert found["morse/flow_angle"] == pytest.approx(0, abs=0.06)
    assert 1.7 < found["morse/flow_length"] < 2.05


def test_schedules_are_part_of_the_time(tmp_path):
    class Falling(Bowl):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
            fall = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
            return [optimizer], [{"scheduler": fall, "interval": "step"}]

    found = watched(tmp_path, None, Falling(None)).history[-1]
    assert found["morse/flow_length"] == pytest.approx(1, abs=0.04)


def test_two_rates_have_no_common_time(tmp_path):
    class Two(Bowl):
        def configure_optimizers(self):
            other = torch.nn.Parameter(torch.zeros(1))
            groups = [{"params": [self.w]}, {"params": [other], "lr": 0.1}]
            return torch.optim.SGD(groups, lr=0.02)

    found = watched(tmp_path, None, Two(None)).history[-1]
    assert found["morse/flow_angle"] == found["morse/flow_length"] == -1


def test_the_attractor_of_a_swinging_run_is_certain(tmp_path):
    """Descent at a rate of 1.6 on a unit curvature: -0.6 of the weight remains after each step."""
    bowl = Bowl(sgd(lr=1.6), (1.0,), (1.0,))
    monitor = watched(
        tmp_path,
        None,
        bowl,
        directions=torch.ones(1, 1),
        dim=1,
        dynamics="trajectory",
        resolution=64,
        every_n_steps=15,
    )
    found = monitor.history[-1]
    assert found["morse/attractors"] == 1
    assert found["morse/mu"] >= 0.95
    assert found["morse/failed"] == 0
    # The loss was not evaluated: there is none to report, and no flow to compare with.
    assert found["morse/barrier"] == found["morse/headroom"] == 0
    assert found["morse/flow_angle"] == -1
    assert found["morse/trajectory_unknown"] == monitor.result.diverged.mean() < 0.5
    assert np.isnan(monitor.result.mean_loss).all()
    assert monitor.figures().keys() == {"basins", "graph", "merge", "timeline"}


def test_both_readings_side_by_side(tmp_path):
    monitor = watched(
        tmp_path,
        None,
        Bowl(sgd(lr=1.6), (1.0,), (1.0,)),
        directions=torch.ones(1, 1),
        dim=1,
        dynamics="both",
        resolution=64,
        every_n_steps=15,
        extent=1.2,
    )
    found = monitor.history[-1]
    assert found["morse/attractors"] == found["morse/trajectory_attractors"] == 1
    assert found["morse/trajectory_mu"] >= 0.95
    assert found["morse/trajectory_basin_current"] == 0
    assert 0 <= found["morse/trajectory_unknown"] < 0.5
    assert np.isfinite(monitor.result.mean_loss).all()
    # It overshoots: 1.6 x in the time in which the flow does 1 - exp(-1.6) of x.
    assert found["morse/flow_angle"] == pytest.approx(0, abs=1e-3)
    assert found["morse/flow_length"] == pytest.approx(1.6 / (1 - math.exp(-1.6)), rel=0.02)


def test_too_few_snapshots_are_said_and_training_goes_on(tmp_path, caplog):
    with caplog.at_level("WARNING", "lightning_morse"):
        monitor = watched(tmp_path, sgd(lr=0.1), dynamics="both", max_snapshots=4, on_error="warn")
    found = monitor.history[-1]
    assert found["morse/failed"] == 0
    assert found["morse/attractors"] == 1
    assert found["morse/flow_angle"] >= 0
    assert found["morse/trajectory_unknown"] == found["morse/trajectory_undecided"] == 1
    assert found["morse/trajectory_basin_current"] == -1
    assert caplog.text.count("no reading of the snapshots (SurrogateError: at least 8 pairs") == 1

    caplog.clear()
    with caplog.at_level("WARNING", "lightning_morse"):
        alone = watched(
            tmp_path, sgd(lr=0.1), dynamics="trajectory", max_snapshots=4, on_error="warn"
        )
    assert alone.history[-1]["morse/failed"] == 1
    assert alone.history[-1]["morse/trajectory_unknown"] == 1
    assert caplog.text.count("no analysis, training goes on (SurrogateError: at least 8") == 1


def test_all_scalars_are_there_and_finite_after_a_failed_analysis(tmp_path):
    def fails(module, batch):
        raise ValueError("nothing to see")

    monitor = MorseMonitor(dynamics="both", name="m", loss_fn=fails, max_overhead=1.0)
    fit(tmp_path, monitor, max_epochs=1, limit_val_batches=0, limit_train_batches=2)
    (row,) = monitor.history
    for name in published("m", before_first("both")):
        assert math.isfinite(row[name])
    assert row["m/flow_angle"] == -1
    assert row["m/failed"] == 1


def test_it_leaves_no_trace(tmp_path):
    plain, _ = fit(tmp_path, max_epochs=2)
    state = rng_state()
    monitor = MorseMonitor(
        dynamics="both", n_samples=32, resolution=16, max_overhead=1.0, on_error="raise"
    )
    seen, _ = fit(tmp_path, monitor, max_epochs=2)
    assert rng_state() == state
    for name, value in plain.state_dict().items():
        assert torch.equal(value, seen.state_dict()[name])
    assert len(monitor.history) == 2


def test_a_resumed_run_compares_the_same(tmp_path):
    saver = pl.callbacks.ModelCheckpoint(
        tmp_path / "c", filename="{step}", every_n_train_steps=12, save_top_k=-1
    )
    options = {"every_n_steps": 24, "directions": torch.eye(2), "resolution": 16}
    options |= {"n_samples": 32, "max_overhead": 1.0}
    runs = []
    for extra, checkpoint in (([saver], None), ([], str(tmp_path / "c" / "step=12.ckpt"))):
        monitor = MorseMonitor(**options)
        fit(
            tmp_path,
            monitor,
            *extra,
            module=Bowl(sgd(lr=0.05)),
            max_epochs=4,
            limit_val_batches=0,
            enable_checkpointing=bool(extra),
            ckpt_path=checkpoint,
        )
        runs.append(monitor.history[-1])
    for key in ("step", "morse/flow_angle", "morse/flow_length"):
        assert runs[0][key] == runs[1][key]
    assert runs[0]["morse/flow_length"] == pytest.approx(1, abs=0.05)


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="'gradient', 'trajectory', 'both', got 'flow'"):
        MorseMonitor(dynamics="flow")
