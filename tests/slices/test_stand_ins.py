"""What the copy of a module sees in place of its trainer."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_morse.slices.module_copy import shadow_copy
from lightning_morse.slices.stand_ins import Silence, UntouchableError
from lightning_morse.slices.world import World


class Counts(Callback):
    def __init__(self):
        self.seen = []


class Net(pl.LightningModule):
    def __init__(self, look):
        super().__init__()
        self.net, self.look, self.found = nn.Linear(2, 1), look, None

    def training_step(self, batch, index):
        if self.found is None:
            self.found = self.look(self)
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), 0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def during_a_fit(tmp_path, look):
    """What ``look(module)`` returns in the middle of a fit."""
    module = Net(look)
    trainer = pl.Trainer(
        max_steps=1, max_epochs=3, logger=CSVLogger(tmp_path), callbacks=[Counts()],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        accelerator="cpu", default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(torch.ones(8, 2)), 4))
    return module.found


def test_the_trainer_reads_like_the_real_one(tmp_path):
    names = (
        *("current_epoch", "global_step", "max_epochs", "max_steps", "world_size", "precision"),
        *("num_training_batches", "accumulate_grad_batches", "is_global_zero", "training"),
        *("estimated_stepping_batches", "log_dir", "default_root_dir", "num_devices"),
        *("should_stop", "sanity_checking", "global_rank", "is_last_batch"),
    )

    def look(module):
        real, seen = module.trainer, shadow_copy(module).trainer
        assert seen is not real
        assert isinstance(seen, pl.Trainer)
        return [(n, getattr(real, n), getattr(seen, n)) for n in names]

    for name, real, seen in during_a_fit(tmp_path, look):
        assert seen == real, name


def test_optimizers_and_schedulers_are_read_and_written_without_effect(tmp_path):
    def look(module):
        shadow = shadow_copy(module)
        optimizer, scheduler = shadow.optimizers(), shadow.lr_schedulers()
        own = {id(p) for p in shadow.parameters()}
        seen = [optimizer.param_groups[0]["lr"], scheduler.get_last_lr()]
        assert {id(p) for g in optimizer.param_groups for p in g["params"]} == own
        scheduler.step()
        seen.append(scheduler.get_last_lr())
        optimizer.param_groups[0]["lr"] = 7.0
        optimizer.step()
        optimizer.zero_grad()
        real = module.optimizers(), module.lr_schedulers()
        return [*seen, real[0].param_groups[0]["lr"], real[1].get_last_lr(), real[1].last_epoch]

    assert during_a_fit(tmp_path, look) == [0.1, [0.1], [pytest.approx(0.01)], 0.1, [0.1], 0]


def test_writes_are_kept_away_named_and_forgotten(tmp_path):
    def look(module):
        world = World()
        shadow = shadow_copy(module, world)
        shadow.trainer.should_stop = True
        shadow.trainer.callback_metrics["mine"] = torch.ones(1)
        shadow.trainer.callbacks[0].seen.append(1)
        shadow.trainer.logger.log_metrics({"a": 1.0}, step=3)
        shadow.trainer.save_checkpoint(tmp_path / "never.ckpt")
        inside = shadow.trainer.should_stop, len(shadow.trainer.callbacks[0].seen)
        world.forget()
        after = module.trainer.should_stop, list(module.trainer.callbacks[0].seen)
        mine = "mine" in module.trainer.callback_metrics
        again = shadow.trainer.should_stop
        return inside, after, mine, again, list(world.kept_away)

    inside, after, mine, again, names = during_a_fit(tmp_path, look)
    assert inside == (True, 1)
    assert after == (False, [])
    assert not mine
    assert again is False
    assert "self.trainer.should_stop" in names
    assert any("log_metrics" in name for name in names)
    assert any("save_checkpoint" in name for name in names)
    assert not (tmp_path / "never.ckpt").exists()


def test_a_loader_can_be_read_and_an_iterator_of_the_run_cannot(tmp_path):
    def look(module):
        shadow = shadow_copy(module)
        batches = len(shadow.trainer.train_dataloader)
        first = next(iter(shadow.trainer.train_dataloader))[0]
        with pytest.raises(UntouchableError):
            next(shadow.trainer.fit_loop._data_fetcher.iterator._iterator)
        return batches, first.shape

    assert during_a_fit(tmp_path, look) == (2, (4, 2))


def test_silence_takes_anything():
    silence = Silence()
    with silence.experiment.profile("x") as inside:
        inside["a"] = silence.add_scalar("a", 1)[0]
    assert list(silence) == []
    with pytest.raises(AttributeError):
        silence.__nonsense__  # noqa: B018
