"""The pattern for EarlyStopping in the README and in the docstring of MorseMonitor."""

import pytest
from pytorch_lightning.callbacks import Callback, EarlyStopping

from tests.callback_models import Net, loader, monitor, trainer


class Looks(Callback):
    """The epochs at whose end there was a value."""

    def __init__(self, key):
        self.key = key
        self.epochs = []

    def on_train_epoch_end(self, trainer, pl_module):
        if self.key in trainer.callback_metrics:
            self.epochs.append(trainer.current_epoch)


@pytest.mark.parametrize("validates", [True, False])
def test_patience_counts_analyses(tmp_path, validates):
    stop = EarlyStopping("morse/morse_sets", min_delta=1e6, patience=1, strict=False)
    looks, watch = Looks("morse/morse_sets"), monitor(dim=1, n_samples=16, every_n_epochs=3)
    runner = trainer(tmp_path, watch, stop, looks, max_epochs=20)
    val = loader(8, shuffle=False) if validates else None
    runner.fit(Net(), loader(8), val)
    # The first value cannot be an improvement; the second exhausts the patience.
    assert looks.epochs == [2, 5]
    assert runner.current_epoch == 6
    assert [row["epoch"] for row in watch.history] == [2, 5]
    assert not any(row["morse/failed"] for row in watch.history)
