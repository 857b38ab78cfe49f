"""What the copy of a module sees in place of its trainer."""

import io
import multiprocessing

import pytest
import pytorch_lightning as pl
import torch
import tqdm
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_morse.slices.module_copy import shadow_copy
from lightning_morse.slices.stand_ins import Inert, Silence, UntouchableError
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


class Holder(nn.Module):
    def __init__(self, held):
        super().__init__()
        self.layer, self.held = nn.Linear(1, 1), held


def stand_in(held):
    return shadow_copy(Holder(held)).held


def test_a_progress_bar_shows_nothing_and_loops_as_ever():
    shown = io.StringIO()
    bar = tqdm.tqdm(range(3), file=shown, mininterval=0)
    before, n = shown.getvalue(), bar.n
    seen = stand_in(bar)
    seen.update(1)
    seen.set_postfix(loss=1.0)
    seen.refresh()
    with seen as inside:
        assert list(inside) == [0, 1, 2]
    assert (shown.getvalue(), bar.n, bar.disable) == (before, n, False)
    bar.close()


@pytest.mark.parametrize("kind", [multiprocessing.Lock, multiprocessing.RLock])
def test_a_lock_of_processes_is_another_one(kind):
    lock = kind()
    with lock, stand_in(lock):
        pass


class Buffer(nn.Module, Dataset):
    def __init__(self):
        super().__init__()
        self.register_buffer("x", torch.ones(4))

    def __len__(self):
        return len(self.x)

    def forward(self, n):
        return self.x[:n]


def test_a_module_is_copied_even_if_it_is_a_data_set():
    buffer = Buffer()
    seen = stand_in(buffer)
    seen(2).mul_(3)
    assert (seen.x.sum(), buffer.x.sum()) == (8, 4)


class Number:
    """Cannot be copied, since it has something to do in the end."""

    def __init__(self, value):
        self.value, self.items = value, [1.0, 2.0]

    def __del__(self):
        pass

    def __mul__(self, other):
        return self.value * other

    __rmul__ = __mul__

    def __neg__(self):
        return -self.value

    def __isub__(self, other):
        self.value -= other
        return self

    def __float__(self):
        return float(self.value)

    def __index__(self):
        return 1

    def __eq__(self, other):
        return isinstance(other, Number) and other.value == self.value

    def __hash__(self):
        return 5

    def __repr__(self):
        return f"Number({self.value})"

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        return iter(self.items)

    def __getitem__(self, index):
        return self.items[index]

    def __setitem__(self, index, value):
        self.items[index] = value

    def __call__(self, x):
        return x + self.value

    def __enter__(self):
        self.value += 1
        return self

    def __exit__(self, *error):
        self.value -= 1


def test_what_cannot_be_copied_can_do_what_its_class_can():
    number = Number(3.0)
    seen = stand_in(number)
    assert (seen * torch.ones(1)).item() == (torch.ones(1) * seen).item() == 3
    assert (float(seen), [0, 7][seen], seen(1), len(seen), list(seen)) == (3, 7, 4, 2, [1, 2])
    assert seen == number
    assert (-seen) == -3
    assert (hash(seen), repr(seen)) == (5, "Number(3.0)")
    with seen as inside:
        assert inside.value == 4
    seen[0] = 9
    seen -= 1
    assert (seen[0], seen.value) == (9, 2)
    assert (number.items, number.value) == ([1, 2], 3)
    with pytest.raises(TypeError):
        seen + 1
    assert not hasattr(type(seen), "__next__")


class Rate(float):
    def __del__(self):
        pass


class Listed(list):
    def __del__(self):
        pass


def test_numbers_and_lists_that_cannot_be_copied_are_read():
    assert (stand_in(Rate(0.5)) * 4, 4 * stand_in(Rate(0.5))) == (2, 2)
    listed = Listed([[1], 2])
    seen = stand_in(listed)
    assert (len(seen), seen[0], list(seen), 2 in seen) == (2, [1], [[1], 2], True)
    seen[0].append(3)
    assert listed == [[1], 2]
    with pytest.raises(UntouchableError):
        seen[1] = 3


class Scale(torch.optim.SGD):
    def __float__(self):
        return 2.0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return True


def test_what_is_inert_has_no_value_and_hides_no_error():
    seen = stand_in(Scale([nn.Parameter(torch.ones(1))], 0.1))
    assert type(seen).__mro__[1] is Inert
    with pytest.raises(UntouchableError):
        float(seen)
    with pytest.raises(KeyError), seen:
        raise KeyError
