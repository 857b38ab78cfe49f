"""No hook of a recorder or of a monitor of linear networks ends a run."""

import pytest

import lightning_morse as lm
from tests.callback_models import fit


class Broken:
    """A trainer or module of which nothing can be read."""

    def __getattr__(self, name):
        raise RuntimeError(f"no {name}")


MAKE = [lm.WeightRecorder, lambda _: lm.DeepLinearMonitor()]
HOOKS = [
    ("on_fit_start", 2),
    ("on_train_start", 2),
    ("on_train_batch_start", 4),
    ("on_before_optimizer_step", 3),
    ("on_train_batch_end", 5),
    ("on_train_epoch_end", 2),
    ("on_train_end", 2),
    ("on_exception", 3),
    ("on_save_checkpoint", 3),
]


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize(("hook", "n"), HOOKS)
def test_no_hook_ends_the_run(make, hook, n, tmp_path, caplog):
    with caplog.at_level("WARNING", "lightning_morse"):
        getattr(make(tmp_path), hook)(*[Broken()] * n)
    assert "RuntimeError: no " in caplog.text or not caplog.text


@pytest.mark.parametrize("make", MAKE)
def test_a_folder_nobody_may_read_does_not_end_the_run(make, tmp_path, monkeypatch):
    def refused(self):
        raise PermissionError("not yours")

    monkeypatch.setattr("pathlib.Path.exists", refused)
    _, runner = fit(tmp_path, make(tmp_path / "runs"))
    assert runner.global_step == 12


@pytest.mark.parametrize("make", MAKE)
def test_a_request_to_end_the_run_passes(make, tmp_path):
    class Interrupted:
        def __getattr__(self, name):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path).on_train_batch_end(*[Interrupted()] * 5)


@pytest.mark.parametrize("state", [{}, {"names": 3}, {"names": ["net.0"], "sums": "none"}])
def test_a_foreign_state_is_left_alone(state, tmp_path, caplog):
    monitor = lm.DeepLinearMonitor()
    with caplog.at_level("WARNING", "lightning_morse"):
        monitor.load_state_dict(state)
    assert "going on from a checkpoint failed" in caplog.text
    fit(tmp_path, monitor)
    assert len(monitor.history) == 2


def test_a_state_that_cannot_be_made_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    def broken(self):
        raise RuntimeError("no state")

    monkeypatch.setattr("lightning_morse.deep_linear.linear_run.LinearRun.state_dict", broken)
    monitor = lm.DeepLinearMonitor()
    _, runner = fit(tmp_path, monitor)
    with caplog.at_level("WARNING", "lightning_morse"):
        runner.save_checkpoint(tmp_path / "c.ckpt")
    assert "RuntimeError: no state" in caplog.text
    again = lm.DeepLinearMonitor()
    fit(tmp_path, again, max_epochs=3, ckpt_path=str(tmp_path / "c.ckpt"))
    assert len(again.history) == 1
