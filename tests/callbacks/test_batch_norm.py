"""Which statistics batch norm uses in analyses of a run, and what is said of it."""

import copy
import logging

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from lightning_morse import MorseMonitor
from tests.callback_models import Net, fit, loader, monitor, seed_all, stub_analysis, trainer


@pytest.fixture(autouse=True)
def stubs(monkeypatch):
    stub_analysis(monkeypatch)


def losses_at_the_weights(module, watch):
    """The loss of the last weights with the statistics of the batches, and with running ones."""
    found = {}
    for kind in ("batch", "running"):
        net = copy.deepcopy(module.net).eval()
        net[1].train(kind == "batch")
        net[1].track_running_stats = False
        with torch.no_grad():
            losses = [nn.functional.mse_loss(net(x), y) for x, y in watch._run.probe]
        found[kind] = float(torch.stack(losses).mean())
    assert abs(found["batch"] - found["running"]) > 1e-3
    return found


def told(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "lightning_morse"]


@pytest.mark.parametrize("kind", ["batch", "running"])
@pytest.mark.parametrize("at_the_end", [False, True])
def test_the_loss_is_that_of_the_statistics_asked_for(kind, at_the_end, tmp_path, caplog):
    # At the end of a fit the last validation is over.
    period = {"every_n_epochs": 3} if at_the_end else {"every_n_epochs": 1}
    watch = monitor(batch_norm=kind, **period)
    with caplog.at_level(logging.INFO, "lightning_morse"):
        module, _ = fit(tmp_path, watch, max_epochs=2)
    losses = losses_at_the_weights(module, watch)
    assert watch.result.sample_losses[0] == pytest.approx(losses[kind], rel=1e-5)
    count = {"batch": 1, "running": 0}[kind]
    message = (
        f"MorseMonitor: {count} of 1 layers that keep running statistics use those of the batch in "
        f"analyses (batch_norm='{kind}')"
    )
    assert told(caplog).count(message) == 1


class Frozen(Net):
    def on_train_epoch_start(self):
        self.net[1].eval()


def test_a_layer_frozen_in_training_keeps_its_running_statistics(tmp_path, caplog):
    watch = monitor()
    with caplog.at_level(logging.INFO, "lightning_morse"):
        module, _ = fit(tmp_path, watch, module=Frozen())
    net = copy.deepcopy(module.net).eval()
    with torch.no_grad():
        losses = [nn.functional.mse_loss(net(x), y) for x, y in watch._run.probe]
    expected = float(torch.stack(losses).mean())
    assert watch.result.sample_losses[0] == pytest.approx(expected, rel=1e-5)
    assert any("0 of 1 layers" in message for message in told(caplog))


class LeavesOutSingles(Net):
    """Skips a batch of one example, which batch norm refuses, but in training only."""

    def training_step(self, batch, batch_idx):
        if self.training and len(batch[0]) == 1:
            return None
        return super().training_step(batch, batch_idx)


def test_a_probe_batch_of_one_example_takes_running_statistics_and_it_is_said_once(
    tmp_path, caplog
):
    seed_all()
    watch = monitor(every_n_epochs=1)
    data = Subset(loader().dataset, range(17))
    with caplog.at_level(logging.WARNING, "lightning_morse"):
        runner = trainer(tmp_path, watch, max_epochs=3)
        runner.fit(LeavesOutSingles(), DataLoader(data, batch_size=16))
    assert [len(x) for x, _ in watch._run.probe] == [16, 1]
    assert len(watch.history) == 3
    assert not any(row["morse/failed"] for row in watch.history)
    warnings = [message for message in told(caplog) if "statistics" in message]
    assert warnings == [
        "MorseMonitor: analyses use the running statistics of net.1: a probe batch has only one "
        "value per channel"
    ]


def test_directions_from_derivatives_are_of_the_same_loss(tmp_path):
    first = {}
    for kind in ("batch", "running"):
        watch = monitor(directions="gradient", dim=1, batch_norm=kind)
        seen = first.setdefault(kind, [])
        choose = watch._source.slice_at

        def keep(*given, choose=choose, seen=seen):
            chosen = choose(*given)
            seen.append((chosen.kind, chosen.subspace.directions[:, 0]))
            return chosen

        watch._source.slice_at = keep
        fit(tmp_path, watch, max_epochs=1)
    (a, one), (b, other) = first["batch"][0], first["running"][0]
    assert a == b == "gradient"
    assert abs(float(one @ other)) < 0.999


@pytest.mark.parametrize("wrong", ["eval", None, 1])
def test_a_wrong_choice_is_refused(wrong):
    with pytest.raises(ValueError, match=r"batch_norm must be 'batch' .* or 'running' .*, got"):
        MorseMonitor(batch_norm=wrong)


def test_the_choice_is_a_setting():
    assert MorseMonitor().settings.batch_norm == "batch"
    assert MorseMonitor(batch_norm="running").settings.batch_norm == "running"
