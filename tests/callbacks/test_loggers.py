"""Where findings go: every kind of logger, both names of Lightning, and its command line."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lightning_morse import MorseMonitor
from lightning_morse.callbacks.logger_kinds import COLUMNS, Telling
from lightning_morse.monitoring.scalars import UNKNOWN, published
from tests.callback_models import Net, fit, loader, monitor, one_attractor, stub_analysis


@pytest.fixture(autouse=True)
def analysis(monkeypatch):
    stub_analysis(monkeypatch)


def test_mlflow_takes_all(tmp_path, mlflow_logger):
    mlflow, logger = pytest.importorskip("mlflow"), mlflow_logger
    watch = monitor()
    fit(tmp_path, watch, logger=logger)
    client = mlflow.tracking.MlflowClient(f"file:{tmp_path / 'store'}")
    points = client.get_metric_history(logger.run_id, "morse/mu")
    assert [(p.step, p.value) for p in points] == [
        (row["step"], pytest.approx(row["morse/mu"])) for row in watch.history
    ]
    assert set(published("morse", UNKNOWN)) <= set(client.get_run(logger.run_id).data.metrics)
    names = {Path(a.path).name for a in client.list_artifacts(logger.run_id, "morse")}
    kinds = ("basins.png", "graph.png", "merge.png", "sets.md", "sets.json")
    expected = {f"step-{step:07d}-{kind}" for step in (5, 11) for kind in kinds}
    assert names == expected | {"step-0000011-timeline.png", "report"}
    table = json.loads(stored(tmp_path, "step-0000011-sets.json").read_text())
    assert table["columns"] == list(COLUMNS)
    assert table["data"] == expected_rows(watch, 11)
    assert client.get_run(logger.run_id).data.tags["morse/sentence"] == watch.sentence
    assert_is_report(stored(tmp_path, "report.html"), watch)
    assert not list(tmp_path.rglob("*.npz"))
    # MLflow takes each folder in its store for an experiment.
    assert not (tmp_path / "store" / "morse").exists()


@pytest.fixture
def mlflow_logger(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return MLFlowLogger(tracking_uri=f"file:{tmp_path / 'store'}", experiment_name="x")


@pytest.fixture
def wandb_logger(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("DATA", "CACHE", "CONFIG"):  # artifacts are kept there until they are sent
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name.lower()))
    return WandbLogger(save_dir=tmp_path, offline=True, project="x")


def stored(folder, name):
    """The one file of a name below a folder."""
    (path,) = folder.rglob(name)
    return path


def expected_rows(watch, step):
    """The rows of the stand-in for an analysis: an attractor and a set that is not resolved."""
    low, high = watch.result.morse_sets
    share, cells = watch.result.basin_volumes[0], 1 / 24**2
    centers = (", ".join(f"{c:.3g}" for c in m.center) for m in (low, high))
    return [
        [step, 0, "attractor", 0, 0.125, None, cells, share, 0.97, next(centers)],
        [step, 1, "may hide a minimum", None, 0.5, None, cells, None, None, next(centers)],
    ]


def assert_is_report(path, watch):
    """It is the page of all analyses of the run."""
    page = path.read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>")
    records = re.findall(r'<script type="application/json" id="record-[0-9]+">(.*?)</script>', page)
    # The one that is shown first comes first.
    steps = sorted(json.loads(r)["step"] for r in records)
    assert steps == [row["step"] for row in watch.history]


def test_mlflow_with_pandas_takes_one_table_of_all_analyses(tmp_path, monkeypatch, mlflow_logger):
    tables = []
    monkeypatch.setattr("lightning_morse.callbacks.logger_kinds._has_pandas", lambda: True)
    monkeypatch.setattr(
        "mlflow.tracking.MlflowClient.log_table",
        lambda self, run_id, data, artifact_file: tables.append((run_id, data, artifact_file)),
    )
    watch = monitor()
    fit(tmp_path, watch, logger=mlflow_logger)
    assert [(run, name) for run, _, name in tables] == [
        (mlflow_logger.run_id, "morse/sets.json")
    ] * 2
    for (_, data, _), step in zip(tables, (5, 11), strict=True):
        assert list(data) == list(COLUMNS)
        assert data["step"] == [step] * 2
    rows = [list(row) for row in zip(*tables[1][1].values(), strict=True)]
    assert rows == expected_rows(watch, 11)
    assert not list(tmp_path.rglob("*sets.json"))


@pytest.mark.slow
def test_wandb_offline_takes_all(tmp_path, caplog, wandb_logger):
    watch = monitor()
    with caplog.at_level(logging.WARNING, "lightning_morse"):
        fit(tmp_path, watch, logger=wandb_logger)
    assert not [r.getMessage() for r in caplog.records if r.name == "lightning_morse"]
    summary = dict(wandb_logger.experiment.summary)
    assert set(published("morse", UNKNOWN)) <= set(summary)
    assert summary["morse/sentence"] == watch.sentence
    wandb_logger.experiment.finish()
    images = [p.name for p in tmp_path.rglob("*.png")]
    assert len([name for name in images if "basins" in name]) == 2
    tables = sorted((tmp_path / "wandb").rglob("*.table.json"), key=lambda p: p.stat().st_mtime_ns)
    assert len(tables) == 2
    table = json.loads(tables[-1].read_text())
    assert table["columns"] == list(COLUMNS)
    assert table["data"] == expected_rows(watch, 11)
    pages = [
        p for p in (tmp_path / "data").rglob("*") if p.is_file() and b"<html" in p.read_bytes()
    ]
    assert len(pages) == 1
    assert_is_report(pages[0], watch)
    assert not list(tmp_path.rglob("*.npz"))


def test_a_report_is_of_its_own_run(tmp_path, mlflow_logger):
    """Other runs of a logger without folders of their own have left records in the same place."""
    fit(tmp_path, monitor(), logger=mlflow_logger, max_epochs=3)
    again = MLFlowLogger(tracking_uri=mlflow_logger._tracking_uri, experiment_name="y")
    watch = monitor()
    fit(tmp_path, watch, logger=again, max_epochs=2)
    pages = [p for p in tmp_path.rglob("report.html") if again.run_id in str(p)]
    assert len(pages) == 1
    assert_is_report(pages[0], watch)


def test_a_report_that_cannot_be_given_ends_nothing(tmp_path, monkeypatch, caplog, mlflow_logger):
    def fails(*args, **options):
        raise OSError("no such host")

    monkeypatch.setattr("mlflow.tracking.MlflowClient.log_artifacts", fails)
    watch = monitor()
    with caplog.at_level(logging.WARNING, "lightning_morse"):
        _, runner = fit(tmp_path, watch, logger=mlflow_logger)
    assert runner.state.finished
    said = [r.getMessage() for r in caplog.records if r.name == "lightning_morse"]
    assert said == ["MorseMonitor: giving the report to MLFlowLogger failed: OSError: no such host"]


def test_without_an_analysis_there_is_no_report(tmp_path, monkeypatch, mlflow_logger):
    def fails(*args, **options):
        raise ValueError("no")

    monkeypatch.setattr("lightning_morse.monitoring.exploring.analyze_turning", fails)
    watch = monitor()
    fit(tmp_path, watch, logger=mlflow_logger)
    assert [row["morse/failed"] for row in watch.history] == [1, 1]
    assert not list(tmp_path.rglob("report.html"))


def test_loggers_that_take_no_report_cost_none(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "lightning_morse.callbacks.loggers.write_report", lambda *args: made.append(args)
    )
    board = TensorBoardLogger(tmp_path / "b", name="", version=0)
    fit(tmp_path, monitor(), logger=[board, CSVLogger(tmp_path / "a")])
    assert made == []


def test_numbers_that_are_not_finite_are_no_numbers_in_a_table():
    result = one_attractor(lambda x: (x**2).sum(1), None, [-1, -1], [1, 1], None, 16, 8, 0.95, 0)
    odd = dataclasses.replace(result.morse_sets[1], loss=math.nan, loss_deviation=math.inf)
    result = dataclasses.replace(result, morse_sets=(result.morse_sets[0], odd))
    row = dict(zip(COLUMNS, Telling(result, "", 3, "m").rows()[1], strict=True))
    assert (row["loss"], row["loss deviation"], row["step"]) == (None, None, 3)


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
