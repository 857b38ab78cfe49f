"""Checkpoint files named by values of the monitor, as docs/cost.md says."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_morse import MorseMonitor
from tests.callback_models import Net, fit, loader, stub_analysis

ROOT = Path(__file__).parent.parent.parent
FILENAME = "epoch{epoch:02d}-mu{morse/mu:.2f}"
TINY = {"directions": "random", "dim": 1, "n_samples": 16, "resolution": 8, "extent": [0.5]}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    stub_analysis(monkeypatch)


def section():
    text = (ROOT / "docs/cost.md").read_text()
    return text.partition("## Names of checkpoint files")[2].partition("\n## ")[0]


def block(kind):
    return re.search(rf"```{kind}\n(.*?)```", section(), re.S)[1]


def expected(watch):
    """The name of the file of each epoch, by the value of the last analysis."""
    found, mu = set(), math.nan
    rows = {row["epoch"]: row["morse/mu"] for row in watch.history}
    for epoch in range(max(rows) + 1):
        mu = float(np.float32(rows.get(epoch, mu)))  # as Lightning keeps it
        found.add(f"epoch{epoch:02d}-mu{mu:.2f}.ckpt")
    return found


@pytest.mark.parametrize("every", [1, 2])
def test_a_file_has_the_value_and_no_folder(tmp_path, every):
    assert FILENAME in block("python")
    saver = ModelCheckpoint(
        tmp_path / "kept",
        monitor="morse/mu",
        mode="max",
        filename=FILENAME,
        auto_insert_metric_name=False,
        save_top_k=-1,
    )
    watch = MorseMonitor(**TINY, every_n_epochs=every, max_overhead=1.0)
    fit(tmp_path, watch, saver, max_epochs=4, enable_checkpointing=True)
    kept = {p.relative_to(tmp_path / "kept").as_posix() for p in tmp_path.rglob("*.ckpt")}
    assert kept == expected(watch)
    assert "epoch03-mu0.95.ckpt" in kept
    if every == 2:
        assert "epoch00-munan.ckpt" in kept


def test_with_the_name_of_the_metric_there_would_be_a_folder(tmp_path):
    """What the page warns of is so."""
    saver = ModelCheckpoint(tmp_path / "kept", monitor="morse/mu", filename="{morse/mu:.2f}")
    fit(
        tmp_path,
        MorseMonitor(**TINY, every_n_epochs=1, max_overhead=1.0),
        saver,
        max_epochs=1,
        enable_checkpointing=True,
    )
    (path,) = tmp_path.rglob("*.ckpt")
    assert path.parent.name == "morse"


def test_the_yaml_of_the_page_does_the_same(tmp_path, monkeypatch):
    pytest.importorskip("jsonargparse")
    from pytorch_lightning.cli import LightningCLI

    given = {
        "directions": "random",
        "dim": 1,
        "n_samples": 16,
        "resolution": 8,
        "max_overhead": 1.0,
    }
    more = "".join(f"        {name}: {value}\n" for name, value in given.items())
    text = block("yaml").replace(
        "        every_n_epochs: 1\n", f"        every_n_epochs: 1\n{more}"
    )
    text += "  max_epochs: 2\n  accelerator: cpu\n  logger: false\n  enable_progress_bar: false\n"
    (tmp_path / "config.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    options = ["--config", "config.yaml"]
    cli = LightningCLI(Net, run=False, args=options, save_config_callback=None)
    cli.trainer.fit(cli.model, loader())
    (watch,) = [c for c in cli.trainer.callbacks if isinstance(c, MorseMonitor)]
    (path,) = tmp_path.rglob("*.ckpt")  # the best one
    assert path.name in expected(watch)
    assert path.parent.name == "checkpoints"
