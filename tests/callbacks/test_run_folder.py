"""Each run has a folder of its own."""

import pytest
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from lightning_morse.view.runs import read_runs
from tests.callback_models import fit, monitor, stub_analysis


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    stub_analysis(monkeypatch)


def records(folder):
    return sorted(p.name for p in folder.glob("morse/step-*.view.json"))


def test_without_a_logger_two_runs_do_not_share_a_folder(tmp_path):
    for _ in range(2):
        fit(tmp_path, monitor(), max_epochs=1)
    again = monitor()
    for _ in range(2):
        fit(tmp_path, again, max_epochs=1)
    folders = sorted((tmp_path / "morse_runs").iterdir())
    assert [f.name for f in folders] == ["run_0", "run_1", "run_2", "run_3"]
    assert [len(records(f)) for f in folders] == [1, 1, 1, 1]
    assert len(read_runs(tmp_path)) == 4


def test_two_monitors_of_one_run_are_side_by_side(tmp_path):
    fit(tmp_path, monitor(), monitor(name="other", seed=1), max_epochs=1)
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.view.json"))
    assert len(found) == 2


def test_a_resumed_run_goes_on_in_its_folder(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="last")
    fit(tmp_path, monitor(), saver, max_epochs=1, enable_checkpointing=True)
    path = str(tmp_path / "last.ckpt")
    fit(tmp_path, monitor(), max_epochs=2, ckpt_path=path)
    (folder,) = (tmp_path / "morse_runs").iterdir()
    assert len(records(folder)) == 2


def test_with_a_logger_it_is_the_log_directory(tmp_path):
    logger = CSVLogger(tmp_path, name="", version=0)
    fit(tmp_path, monitor(), max_epochs=1, logger=logger)
    assert len(records(tmp_path / "version_0")) == 1
    assert not (tmp_path / "morse_runs").exists()


class Shared(CSVLogger):
    """A logger that has one folder for all of its runs, as W&B and MLflow do."""

    log_dir = None

    def __init__(self, folder, version):
        super().__init__(folder, name="project", version=version)

    @property
    def experiment(self):
        return None

    def log_metrics(self, metrics, step=None):
        pass

    def save(self):
        pass


@pytest.mark.parametrize(("version", "name"), [("a1b2", "a1b2"), (3, "version_3")])
def test_where_a_logger_has_one_folder_for_all_runs_each_has_its_own(tmp_path, version, name):
    fit(tmp_path, monitor(), max_epochs=1, logger=Shared(tmp_path, version))
    assert len(records(tmp_path / "project" / name)) == 1
    assert not (tmp_path / "morse").exists()


def test_a_run_without_analyses_makes_none(tmp_path):
    fit(tmp_path, monitor(), fast_dev_run=True)
    assert not (tmp_path / "morse_runs").exists()
