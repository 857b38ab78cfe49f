"""The recorder in real runs: what it writes, that it changes nothing, resuming and failing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

import lightning_morse as lm
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.subspace import AffineSubspace
from tests.callback_models import Net, fit, rng_state

ROOT = Path(__file__).parents[2]
STEPS = 6  # optimizer steps in an epoch


def record(tmp_path, *more, fit_options=None, **options):
    recorder = lm.WeightRecorder(tmp_path / "runs", run_id="r", **options)
    module, runner = fit(tmp_path, recorder, *more, **(fit_options or {}))
    return recorder, module, runner


def only_run(tmp_path):
    (run,) = lm.load_runs(tmp_path / "runs")
    return run


def test_a_state_at_the_start_and_after_every_epoch(tmp_path):
    _, module, _ = record(tmp_path, seed=5, fit_options={"max_epochs": 3})
    run = only_run(tmp_path)
    assert run.run_id == "r"
    assert run.seed == 5
    assert run.steps.tolist() == [0, STEPS, 2 * STEPS, 3 * STEPS]
    assert np.array_equal(run.states[-1], flat_parameters(module).numpy())
    assert run.states.dtype == np.float32
    assert np.isnan(run.losses[0])
    assert np.isfinite(run.losses[1:]).all()
    assert os.listdir(tmp_path / "runs") == ["r.npz"]


def test_every_fourth_step(tmp_path):
    record(tmp_path, every_n_steps=4)
    assert only_run(tmp_path).steps.tolist() == [0, 4, 8, 12]


def test_every_second_epoch(tmp_path):
    record(tmp_path, every_n_epochs=2, fit_options={"max_epochs": 5})
    assert only_run(tmp_path).steps.tolist() == [0, 2 * STEPS, 4 * STEPS]


def test_memory_is_bounded_and_states_stay_evenly_spaced(tmp_path):
    recorder, *_ = record(tmp_path, every_n_steps=1, max_records=5, fit_options={"max_epochs": 5})
    run = only_run(tmp_path)
    assert run.steps.tolist() == [0, 8, 16, 24]
    assert len(recorder._kept) <= 5


def test_the_run_is_bit_identical_with_and_without(tmp_path):
    plain, _ = fit(tmp_path)
    after = rng_state()
    _, recorded, _ = record(tmp_path, every_n_steps=1)
    assert rng_state() == after
    for name, value in plain.state_dict().items():
        assert torch.equal(value, recorded.state_dict()[name]), name
    assert plain.seen == recorded.seen


def test_coordinates_in_a_subspace(tmp_path):
    p = sum(q.numel() for q in Net().parameters())
    plane = AffineSubspace(torch.zeros(p), torch.eye(p)[:, :2])
    _, module, _ = record(tmp_path, subspace=plane)
    run = only_run(tmp_path)
    assert run.states.shape == (3, 2)
    assert run.states[-1] == pytest.approx(flat_parameters(module)[:2].numpy())


def test_a_subspace_of_another_network_is_refused_before_training(tmp_path):
    plane = AffineSubspace(torch.zeros(7), torch.eye(7)[:, :2])
    with pytest.raises(ValueError, match=r"subspace must be one of the 57 .* got one of 7"):
        record(tmp_path, subspace=plane)
    assert not (tmp_path / "runs").exists()


class Hyper(Net):
    def __init__(self, rate=0.1, what=None):
        super().__init__()
        self.save_hyperparameters()


def test_hyper_parameters_and_the_global_seed_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    record(tmp_path, fit_options={"module": Hyper(0.3, what=torch.nn.Tanh)})
    run = only_run(tmp_path)
    assert run.seed == 17
    assert run.hyper_parameters == {"rate": 0.3, "what": str(torch.nn.Tanh)}


def test_a_run_id_is_drawn_without_moving_a_generator(tmp_path):
    before = rng_state()
    ids = {lm.WeightRecorder(tmp_path).run_id for _ in range(3)}
    assert len(ids) == 3
    assert rng_state() == before


def test_a_second_run_of_the_same_id_is_refused_before_training(tmp_path):
    record(tmp_path)
    with pytest.raises(FileExistsError, match="two runs of one id"):
        record(tmp_path)
    assert only_run(tmp_path).steps.tolist() == [0, STEPS, 2 * STEPS]


class Stop(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise KeyError("broken")


def test_an_exception_leaves_what_was_recorded(tmp_path):
    with pytest.raises(KeyError, match="broken"):
        record(tmp_path, Stop(9), every_n_steps=2)
    assert only_run(tmp_path).steps.tolist() == [0, 2, 4, 6, 8]


@pytest.mark.slow
def test_a_killed_process_loses_no_finished_epoch(tmp_path):
    code = f"""
import os, signal
import pytorch_lightning as pl
import lightning_morse as lm
from tests.callback_models import fit

class Kill(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 9:
            os.kill(os.getpid(), signal.SIGKILL)

recorder = lm.WeightRecorder({str(tmp_path / "runs")!r}, run_id="r", every_n_steps=1)
fit({str(tmp_path)!r}, recorder, Kill())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert only_run(tmp_path).steps.tolist() == list(range(STEPS + 1))


def test_a_resumed_run_goes_on_in_its_file(tmp_path):
    saver = ModelCheckpoint(tmp_path / "c", filename="{epoch}", save_top_k=-1)
    options = {"max_epochs": 3, "enable_checkpointing": True}
    record(tmp_path, saver, every_n_steps=2, fit_options=options)
    whole = only_run(tmp_path)
    again = lm.WeightRecorder(tmp_path / "runs", run_id="other", every_n_steps=2)
    fit(tmp_path, again, max_epochs=4, ckpt_path=str(tmp_path / "c" / "epoch=1.ckpt"))
    assert again.run_id == "r"
    run = only_run(tmp_path)
    assert run.steps.tolist() == list(range(0, 4 * STEPS + 1, 2))
    part = whole.steps <= 2 * STEPS
    assert np.array_equal(run.states[: part.sum()], whole.states[part])
    state = torch.load(tmp_path / "c" / "epoch=1.ckpt", weights_only=True)
    (kept,) = [v for k, v in state["callbacks"].items() if "WeightRecorder" in k]
    assert set(kept) == {"run_id", "stride", "due", "last_step", "weights"}


def test_a_lost_file_is_said_and_recording_starts_again(tmp_path, caplog):
    saver = ModelCheckpoint(tmp_path / "c", filename="{epoch}", save_top_k=-1)
    record(tmp_path, saver, fit_options={"enable_checkpointing": True})
    (tmp_path / "runs" / "r.npz").unlink()
    again = lm.WeightRecorder(tmp_path / "runs")
    with caplog.at_level("WARNING", "lightning_morse"):
        fit(tmp_path, again, max_epochs=3, ckpt_path=str(tmp_path / "c" / "epoch=1.ckpt"))
    assert "starts again at step 12" in caplog.text
    assert only_run(tmp_path).steps.tolist() == [12, 18]


def test_a_folder_that_cannot_be_written_does_not_end_the_run(tmp_path, caplog):
    (tmp_path / "runs").write_text("a file, not a folder")
    with caplog.at_level("WARNING", "lightning_morse"):
        _, _, runner = record(tmp_path)
    assert runner.global_step == 2 * STEPS
    assert caplog.text.count("writing") == 1


def test_a_dry_run_writes_nothing(tmp_path):
    record(tmp_path, fit_options={"fast_dev_run": True})
    assert not (tmp_path / "runs").exists()


def test_it_works_under_the_other_name_of_lightning(tmp_path):
    other = pytest.importorskip("lightning.pytorch")
    assert isinstance(lm.WeightRecorder(tmp_path), other.Callback)
    assert isinstance(lm.WeightRecorder(tmp_path), pl.Callback)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_epochs": 1, "every_n_steps": 1}, "exclude each other"),
        ({"every_n_epochs": 0}, "every_n_epochs must be an integer of at least 1, got 0"),
        ({"every_n_steps": 1.5}, "every_n_steps must be an integer"),
        ({"max_records": 2}, "max_records must be an integer of at least 3, got 2"),
        ({"run_id": "../up"}, "run_id must be a name of letters"),
        ({"run_id": ""}, "run_id must be a name of letters"),
        ({"subspace": 3}, "subspace must be an AffineSubspace, got 3. Make one"),
        ({"subspace": "pca"}, "subspace must be an AffineSubspace, got 'pca'"),
        ({"subspace": torch.eye(3)}, "subspace must be an AffineSubspace, got Tensor"),
        ({"seed": "x"}, "seed must be an integer of at least 0, got 'x'"),
        ({"seed": 1.5}, "seed must be an integer of at least 0, got 1.5"),
        ({"seed": True}, "seed must be an integer of at least 0, got True"),
        ({"folder": 3}, "folder must be the path of a folder, got 3"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        lm.WeightRecorder(**{"folder": tmp_path, **options})


def test_recorded_runs_can_be_analysed(tmp_path):
    """A quadratic loss in two weights: gradient descent halves the distance every step."""
    target = torch.tensor([0.3, -0.2])

    class Quadratic(pl.LightningModule):
        def __init__(self, start):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32))

        def training_step(self, batch, batch_idx):
            return 0.5 * (self.w - target).square().sum()

        def validation_step(self, batch, batch_idx):
            pass

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.5)

    rng = np.random.default_rng(0)
    for k in range(12):
        recorder = lm.WeightRecorder(tmp_path / "runs", run_id=f"r{k}", every_n_steps=1)
        fit(
            tmp_path,
            recorder,
            module=Quadratic(rng.uniform(-1, 1, 2)),
            max_epochs=1,
            limit_val_batches=0,
        )
    runs = lm.load_runs(tmp_path / "runs")
    result = lm.analyze_trajectories(
        [r.states for r in runs],
        run_ids=[r.run_id for r in runs],
        steps=[r.steps for r in runs],
        resolution=64,
    )
    assert result.n_attractors == 1
    assert result.morse_sets[0].center == pytest.approx(target.numpy(), abs=0.05)
