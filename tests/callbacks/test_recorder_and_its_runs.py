"""One recorder in several fits, and networks that change in the middle of one."""

import copy

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import BaseFinetuning, Callback
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.tuner import Tuner
from torch import nn

import lightning_morse as lm
from lightning_morse.slices.subspace import AffineSubspace
from tests.callback_models import Net, fit, loader, trainer

STEPS = 6  # optimizer steps in an epoch


def runs(tmp_path):
    return lm.load_runs(tmp_path / "runs")


# ------------------------------------------------------------------------------- lazy parameters


class Lazy(Net):
    """The first layer learns its size from the first batch."""

    def __init__(self):
        super().__init__()
        self.net[0] = nn.LazyLinear(8)


def test_lazy_parameters_are_recorded_once_they_have_sizes(tmp_path):
    recorder = lm.WeightRecorder(tmp_path / "runs", every_n_steps=1)
    module, _ = fit(tmp_path, recorder, module=Lazy(), limit_val_batches=0)
    (run,) = runs(tmp_path)
    assert run.steps.tolist() == list(range(1, 2 * STEPS + 1))
    assert run.states.shape[1] == sum(p.numel() for p in module.parameters())


def test_a_subspace_of_another_network_that_was_lazy_is_said(tmp_path, caplog):
    plane = AffineSubspace(torch.zeros(7), torch.eye(7)[:, :2])
    recorder = lm.WeightRecorder(tmp_path / "runs", every_n_steps=1, subspace=plane)
    with caplog.at_level("WARNING", "lightning_morse"):
        _, runner = fit(tmp_path, recorder, module=Lazy(), limit_val_batches=0)
    assert runner.global_step == 2 * STEPS
    assert caplog.text.count("subspace must be one of the 57 trainable weights of Lazy") == 1
    assert not recorder._kept


def test_a_network_of_which_nothing_trains_does_not_end_the_run(tmp_path, caplog):
    class Frozen(Net):
        def __init__(self):
            super().__init__()
            self.net.requires_grad_(False)
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            return None

        def configure_optimizers(self):
            return None

    with caplog.at_level("WARNING", "lightning_morse"):
        fit(tmp_path, lm.WeightRecorder(tmp_path / "runs"), module=Frozen())
    assert "at least one parameter that requires a gradient" in caplog.text


# ----------------------------------------------------------------------------------- several fits


def test_every_fold_gets_a_run_of_its_own(tmp_path):
    recorder = lm.WeightRecorder(tmp_path / "runs")
    ids = []
    for epochs in (3, 1, 2):
        fit(tmp_path, recorder, max_epochs=epochs)
        ids.append(recorder.run_id)
    assert len(set(ids)) == 3
    steps = {run.run_id: run.steps.tolist() for run in runs(tmp_path)}
    assert steps[ids[0]] == [0, STEPS, 2 * STEPS, 3 * STEPS]
    assert steps[ids[1]] == [0, STEPS]
    assert steps[ids[2]] == [0, STEPS, 2 * STEPS]


def test_a_copy_of_a_recorder_gets_a_run_of_its_own(tmp_path):
    recorder = lm.WeightRecorder(tmp_path / "runs")
    for _ in range(2):
        fit(tmp_path, copy.deepcopy(recorder), max_epochs=1)
    assert len(runs(tmp_path)) == 2


def test_a_name_stands_for_one_run(tmp_path, monkeypatch):
    recorder = lm.WeightRecorder(tmp_path / "runs", run_id="r")
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    fit(tmp_path, recorder)
    before = (tmp_path / "runs" / "r.npz").read_bytes()
    monkeypatch.setenv("PL_GLOBAL_SEED", "2")
    with pytest.raises(FileExistsError, match="Give each run a recorder with a run_id of its own"):
        fit(tmp_path, recorder, max_epochs=1)
    assert (tmp_path / "runs" / "r.npz").read_bytes() == before
    recorder.run_id = "s"
    fit(tmp_path, recorder, max_epochs=1)
    assert [(r.run_id, len(r.steps), r.seed) for r in runs(tmp_path)] == [("r", 3, 1), ("s", 2, 2)]


@pytest.mark.parametrize("run_id", ["r", None])
def test_a_trainer_that_trains_further_goes_on_with_its_run(run_id, tmp_path):
    recorder = lm.WeightRecorder(tmp_path / "runs", run_id=run_id)
    module, runner = fit(tmp_path, recorder)
    fit(tmp_path, recorder, fast_dev_run=True)  # of which nothing is kept
    runner.fit_loop.max_epochs = 4
    runner.fit(module, loader())
    (run,) = runs(tmp_path)
    assert run.steps.tolist() == [STEPS * k for k in range(5)]


@pytest.mark.parametrize("run_id", ["r", None])
def test_a_used_recorder_resumes_from_a_checkpoint(run_id, tmp_path):
    recorder = lm.WeightRecorder(tmp_path / "runs", run_id=run_id)
    _, runner = fit(tmp_path, recorder)
    runner.save_checkpoint(tmp_path / "c.ckpt")
    first = recorder.run_id
    fit(tmp_path, recorder, max_epochs=3, ckpt_path=str(tmp_path / "c.ckpt"))
    assert recorder.run_id == first
    (run,) = runs(tmp_path)
    assert run.steps.tolist() == [0, STEPS, 2 * STEPS, 3 * STEPS]
    if run_id is None:  # and then there may be another one
        fit(tmp_path, recorder)
        assert len(runs(tmp_path)) == 2


class Late(SingleDeviceStrategy):
    restore_checkpoint_after_setup = True  # as with sharded weights


def test_a_checkpoint_that_is_loaded_late(tmp_path):
    recorder = lm.WeightRecorder(tmp_path / "runs", run_id="r")
    _, runner = fit(tmp_path, recorder)
    runner.save_checkpoint(tmp_path / "c.ckpt")
    again = lm.WeightRecorder(tmp_path / "runs", run_id="r")
    path = str(tmp_path / "c.ckpt")
    fit(tmp_path, again, ckpt_path=path, max_epochs=3, strategy=Late(torch.device("cpu")))
    (run,) = runs(tmp_path)
    assert run.steps.tolist() == [0, STEPS, 2 * STEPS, 3 * STEPS]
    with pytest.raises(FileExistsError, match="two runs of one id"):
        fit(tmp_path, again, strategy=Late(torch.device("cpu")))


def test_a_fit_that_fails_at_once_writes_nothing_of_the_run_before(tmp_path):
    class Stop(Callback):
        def on_sanity_check_start(self, *_):
            raise KeyError("broken")

    recorder = lm.WeightRecorder(tmp_path / "runs")
    fit(tmp_path, recorder)
    with pytest.raises(KeyError, match="broken"):
        fit(tmp_path, recorder, Stop())
    assert len(runs(tmp_path)) == 1


def test_a_search_for_a_learning_rate_is_no_run(tmp_path):
    class Rated(Net):
        lr = 0.02

    recorder = lm.WeightRecorder(tmp_path / "runs", run_id="r")
    fit(tmp_path, recorder)
    module, runner = Rated(), trainer(tmp_path, recorder)
    Tuner(runner).lr_find(module, loader(), num_training=5)
    with pytest.raises(FileExistsError, match="two runs of one id"):
        runner.fit(module, loader())
    (run,) = runs(tmp_path)
    assert run.steps.tolist() == [0, STEPS, 2 * STEPS]


# --------------------------------------------------------------- networks that change in between


class Finetuning(BaseFinetuning):
    def freeze_before_training(self, module):
        self.freeze(module.net[0])

    def finetune_function(self, module, epoch, optimizer):
        if epoch == 2:
            self.unfreeze_and_add_param_group(module.net[0], optimizer)


class Chosen(Net):
    def configure_optimizers(self):
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=0.02)


def test_weights_unfrozen_later_are_not_in_and_that_is_said_once(tmp_path, caplog):
    recorder = lm.WeightRecorder(tmp_path / "runs", every_n_steps=3)
    with caplog.at_level("WARNING", "lightning_morse"):
        module, _ = fit(tmp_path, Finetuning(), recorder, module=Chosen(), max_epochs=4)
    (run,) = runs(tmp_path)
    assert run.steps.tolist() == list(range(0, 4 * STEPS + 1, 3))
    last = torch.cat([p.detach().reshape(-1) for p in module.net[1:].parameters()])
    assert np.array_equal(run.states[-1], last.numpy())
    assert caplog.text.count("trainable at step 15 were not at the first record") == 1
    assert caplog.text.count("WeightRecorder") == 1


class Freezing(Net):
    def on_train_epoch_start(self):
        self.net[0].requires_grad_(self.current_epoch < 1)


@pytest.mark.parametrize("in_plane", [False, True])
def test_weights_frozen_later_stay_in(in_plane, tmp_path, caplog):
    plane = AffineSubspace(torch.zeros(57), torch.eye(57)[:, :2]) if in_plane else None
    recorder = lm.WeightRecorder(tmp_path / "runs", subspace=plane)
    with caplog.at_level("WARNING", "lightning_morse"):
        fit(tmp_path, recorder, module=Freezing(), max_epochs=3)
    (run,) = runs(tmp_path)
    assert run.states.shape == (4, 2 if in_plane else 57)
    assert not caplog.text


@pytest.mark.parametrize("in_plane", [False, True])
def test_a_layer_that_is_replaced_ends_the_record(in_plane, tmp_path, caplog):
    class Grown(Net):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.net[0], self.net[1] = nn.Linear(3, 9), nn.BatchNorm1d(9)
                self.net[4] = nn.Linear(9, 1)

    plane = AffineSubspace(torch.zeros(57), torch.eye(57)[:, :2]) if in_plane else None
    recorder = lm.WeightRecorder(tmp_path / "runs", every_n_steps=2, subspace=plane)
    with caplog.at_level("WARNING", "lightning_morse"):
        fit(tmp_path, recorder, module=Grown(), max_epochs=3, num_sanity_val_steps=0)
    (run,) = runs(tmp_path)
    assert run.steps.tolist() == [0, 2, 4, 6]
    assert len(recorder._kept) == 4
    said = "recorded weights changed from 57 to 64 before step 8; the record ends there"
    assert caplog.text.count(said) == 1
    assert caplog.text.count("WeightRecorder") == 1


def test_a_resumed_run_records_the_same_weights(tmp_path):
    recorder = lm.WeightRecorder(tmp_path / "runs")
    _, runner = fit(tmp_path, recorder, module=Freezing())
    runner.save_checkpoint(tmp_path / "c.ckpt")
    again = lm.WeightRecorder(tmp_path / "runs")
    fit(tmp_path, again, module=Freezing(), max_epochs=3, ckpt_path=str(tmp_path / "c.ckpt"))
    (run,) = runs(tmp_path)
    assert run.steps.tolist() == [0, STEPS, 2 * STEPS, 3 * STEPS]
    assert run.states.shape == (4, 57)


def test_a_checkpoint_that_does_not_say_which_weights(tmp_path, caplog):
    recorder = lm.WeightRecorder(tmp_path / "runs")
    _, runner = fit(tmp_path, recorder, module=Freezing())
    runner.save_checkpoint(tmp_path / "c.ckpt")
    state = torch.load(tmp_path / "c.ckpt", weights_only=True)
    del state["callbacks"][recorder.state_key]["weights"]
    again = lm.WeightRecorder(tmp_path / "runs")
    module = Chosen()
    module.net[0].requires_grad_(False)
    with caplog.at_level("WARNING", "lightning_morse"):
        again.load_state_dict(state["callbacks"][recorder.state_key])
        again._go_on(2 * STEPS)
        assert again._state(module, 3 * STEPS) is None
    assert "changed from 57 to 25 before step 18; the record ends there" in caplog.text


@pytest.mark.parametrize("state", [{}, {"run_id": "r"}, {"due": "x", "stride": None}])
def test_a_foreign_state_begins_a_new_record(state, tmp_path, caplog):
    recorder = lm.WeightRecorder(tmp_path / "runs")
    with caplog.at_level("WARNING", "lightning_morse"):
        recorder.load_state_dict(state)
    assert "going on from a checkpoint failed: KeyError" in caplog.text
    fit(tmp_path, recorder)
    (run,) = runs(tmp_path)
    assert run.steps.tolist() == [0, STEPS, 2 * STEPS]
