"""Where findings go: every kind of logger, both names of Lightning, and its command line."""

from __future__ import annotations

import logging
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lightning_morse import MorseMonitor
from lightning_morse.monitoring.scalars import UNKNOWN, published
from tests.callback_models import Net, fit, loader, monitor, stub_analysis


@pytest.fixture(autouse=True)
def analysis(monkeypatch):
    stub_analysis(monkeypatch)


def test_mlflow_takes_all(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    logger = MLFlowLogger(tracking_uri=f"file:{tmp_path / 'store'}", experiment_name="x")
    watch = monitor()
    fit(tmp_path, watch, logger=logger)
    client = mlflow.tracking.MlflowClient(f"file:{tmp_path / 'store'}")
    points = client.get_metric_history(logger.run_id, "morse/mu")
    assert [(p.step, p.value) for p in points] == [
        (row["step"], pytest.approx(row["morse/mu"])) for row in watch.history
    ]
    assert set(published("morse", UNKNOWN)) <= set(client.get_run(logger.run_id).data.metrics)
    names = {Path(a.path).name for a in client.list_artifacts(logger.run_id, "morse")}
    kinds = ("basins.png", "graph.png", "merge.png", "sets.md")
    expected = {f"step-{step:07d}-{kind}" for step in (5, 11) for kind in kinds}
    assert names == expected | {"step-0000011-timeline.png"}
    assert not list(tmp_path.rglob("*.npz"))


def test_wandb_offline_takes_all(tmp_path, monkeypatch, caplog):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="x")
    with caplog.at_level(logging.WARNING, "lightning_morse"):
        fit(tmp_path, monitor(), logger=logger)
    assert not [r.getMessage() for r in caplog.records if r.name == "lightning_morse"]
    summary = dict(logger.experiment.summary)
    assert set(published("morse", UNKNOWN)) <= set(summary)
    logger.experiment.finish()
    images = [p.name for p in tmp_path.rglob("*.png")]
    assert len([name for name in images if "basins" in name]) == 2
    assert not list(tmp_path.rglob("*.npz"))


def test_several_loggers_each_get_theirs(tmp_path):
    csv = CSVLogger(tmp_path / "a", name="", version=0)
    board = TensorBoardLogger(tmp_path / "b", name="", version=0)
    fit(tmp_path, monitor(), logger=[csv, board])
    assert "morse/mu" in (tmp_path / "a" / "version_0" / "metrics.csv").read_text()
    assert list((tmp_path / "b").rglob("events*"))
    assert not list(tmp_path.rglob("*.npz"))  # TensorBoard has the figures


def test_a_logger_that_cannot_draw_costs_the_others_nothing(tmp_path, caplog):
    def fails(*args, **options):
        raise OSError("disk full")

    class Draws(CSVLogger):
        @property
        def experiment(self):
            writer = super().experiment
            writer.add_image = writer.add_text = writer.flush = fails
            return writer

    with caplog.at_level(logging.WARNING, "lightning_morse"):
        fit(tmp_path, monitor(), logger=Draws(tmp_path, name="", version=0))
    assert len(list(tmp_path.rglob("*.npz"))) == 2  # so there are files after all
    said = [r.getMessage() for r in caplog.records if r.name == "lightning_morse"]
    assert said == ["MorseMonitor: drawing to Draws failed: OSError: disk full"]


@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
def test_both_names_of_lightning(namespace, tmp_path):
    pytest.importorskip(namespace)
    library = __import__(namespace, fromlist=["Trainer"])

    class Module(library.LightningModule):
        __init__ = Net.__init__
        training_step = Net.training_step
        configure_optimizers = Net.configure_optimizers

    Module.__init__ = lambda self: own_init(self, library.LightningModule)
    watch = monitor()
    keeper = library.callbacks.ModelCheckpoint(dirpath=tmp_path, monitor="morse/mu", mode="max")
    runner = library.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[watch, keeper],
        logger=library.loggers.TensorBoardLogger(tmp_path, name="x", version=0),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    runner.fit(Module(), loader())
    assert [row["morse/failed"] for row in watch.history] == [0, 0]
    assert float(keeper.best_model_score) == pytest.approx(watch.history[0]["morse/mu"])
    assert not list(tmp_path.rglob("*.npz"))


def own_init(module, base):
    base.__init__(module)
    module.net = Net().net
    module.seen = []


CONFIG = """
trainer:
  max_epochs: 1
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lightning_morse.MorseMonitor
      init_args:
        directions: random
        dim: 1
        every_n_steps: 3
        n_samples: 16
        resolution: 8
        extent: [0.5]
        loss_fn: lightning_morse.slices.steps.loss_from_steps
        max_overhead: 1.0
        snapshot_dtype: bfloat16
        on_error: raise
        name: morse_cli
"""


def test_lightning_cli_reads_it_from_yaml(tmp_path, monkeypatch):
    pytest.importorskip("jsonargparse")
    from pytorch_lightning.cli import LightningCLI

    config = tmp_path / "config.yaml"
    config.write_text(dedent(CONFIG))
    monkeypatch.chdir(tmp_path)  # where a Trainer without a folder writes
    cli = LightningCLI(Net, run=False, args=["--config", str(config)], save_config_callback=None)
    (watch,) = [c for c in cli.trainer.callbacks if isinstance(c, MorseMonitor)]
    assert (watch.settings.dim, watch.period.steps, watch.name) == (1, 3, "morse_cli")
    cli.trainer.fit(cli.model, loader())
    assert [row["morse_cli/failed"] for row in watch.history] == [0, 0]
    assert watch.result.grid.upper.tolist() == [0.5]
    assert watch._run.trajectory.snapshots().dtype == torch.bfloat16


def test_lightning_cli_refuses_what_is_wrong(tmp_path, capsys):
    pytest.importorskip("jsonargparse")
    from pytorch_lightning.cli import LightningCLI

    config = tmp_path / "config.yaml"
    config.write_text(dedent(CONFIG).replace("dim: 1", "dim: one"))
    with pytest.raises(SystemExit):
        LightningCLI(Net, run=False, args=["--config", str(config)], save_config_callback=None)
    assert "dim" in capsys.readouterr().err
