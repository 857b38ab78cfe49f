"""Modules of many kinds: the run is the one without the callback, and analyses succeed."""

from __future__ import annotations

import queue
import random
import threading
from functools import partial
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.tensorboard import SummaryWriter

from lightning_morse.slices.parameters import as_real
from tests.callback_models import monitor, rng_state, seed_all, trainer

pytestmark = pytest.mark.usefixtures("no_pictures")

N, BATCH = 64, 8


def data() -> TensorDataset:
    x = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x[:, :2].prod(dim=1) > 0).long())


class Base(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))

    def loss(self, batch: Any) -> torch.Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, index: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


# --------------------------------------------------- steps that reach for what is not theirs


class StepsItsScheduler(Base):
    def training_step(self, batch, index):
        self.lr_schedulers().step()
        return self.loss(batch)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class ChangesItsRate(Base):
    def training_step(self, batch, index):
        for group in self.optimizers().param_groups:
            group["lr"] *= 0.9
        return self.loss(batch)


class Stops(Base):
    """Where the loss is high, which it is on the slice long after it is not in training."""

    def training_step(self, batch, index):
        loss = self.loss(batch)
        if loss > 1.5:
            self.trainer.should_stop = True
        return loss


class WritesToItsNeighbours(Base):
    def training_step(self, batch, index):
        self.trainer.callback_metrics["mine"] = torch.tensor(float(index))
        for other in self.trainer.callbacks:
            other.touched = getattr(other, "touched", 0) + 1
        self.trainer.train_dataloader.dataset.tensors[0].mul_(0.99)
        return self.loss(batch)


class ClosesOverItself(Base):
    def __init__(self):
        super().__init__()
        self.scale = 1.0
        self.net.register_forward_hook(lambda *args: setattr(self, "scale", 0.99 * self.scale))

    def training_step(self, batch, index):
        return self.scale * self.loss(batch)


class CountsInItsClass(Base):
    calls = [0]  # noqa: RUF012

    def training_step(self, batch, index):
        self.calls[0] += 1
        type(self).last = index
        return self.loss(batch) * (1 + 0.001 * self.calls[0])


class Counting(nn.Module):
    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return x * (1 + 0.01 * (Counting.calls % 7))


class CountsInAPart(Base):
    def __init__(self):
        super().__init__()
        self.net.append(Counting())
        self.net.append(Counting())

    @staticmethod
    def begin():
        Counting.calls = 0


class KeepsTextInAClosure(Base):
    def __init__(self):
        super().__init__()
        phase, first = "", None

        def hook(module, given, out):
            nonlocal phase, first, late
            phase = "" if len(phase) > 5 else phase + "x"
            first = (1.0,) if first is None else (first[0] * 0.99,)
            late = first[0]
            return out * (1 + 0.1 * len(phase)) * late

        self.net.register_forward_hook(hook)
        if phase:
            late = 0.0


def with_a_count(step):
    """A decorator of the user's."""
    calls = 0

    def counting(self, batch, index):
        nonlocal calls
        calls += 1
        return step(self, batch, index) * (1 + 0.01 * (calls % 7))

    return counting


class CountsInItsMethods(Base):
    """In a closure and in a default argument, as a cache is kept."""

    @staticmethod
    def begin():
        CountsInItsMethods.loss.__defaults__[0].clear()
        counting = CountsInItsMethods.training_step
        counting.__closure__[counting.__code__.co_freevars.index("calls")].cell_contents = 0

    def loss(self, batch, seen=[]):  # noqa: B006 (people write this)
        seen.append(len(seen) % 5)
        return super().loss(batch) * (1 + 0.1 * seen[-1])

    @with_a_count
    def training_step(self, batch, index):
        return self.loss(batch)


N_STEPS = 0


class Scaled(torch.autograd.Function):
    """Counts in its class, which no module is of."""

    calls = 0

    @staticmethod
    def forward(ctx, x):
        Scaled.calls += 1
        return x * (1 + 0.01 * (Scaled.calls % 5))

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def warmup():
    warmup.calls += 1
    return min(1.0, 0.1 * warmup.calls)


class CountsByName(Base):
    """In a global variable, a class and a function of the script."""

    @staticmethod
    def begin():
        global N_STEPS
        N_STEPS = Scaled.calls = warmup.calls = 0

    def training_step(self, batch, index):
        global N_STEPS
        N_STEPS += 1
        return Scaled.apply(self.loss(batch)) * warmup() * (1 + 0.01 * (N_STEPS % 7))


class OnlyOne:
    instance = None

    def __new__(cls):
        if cls.instance is None:
            cls.instance = super().__new__(cls)
            cls.instance.calls = []
        return cls.instance


class RefersToTheOnlyOne(Base):
    def __init__(self):
        super().__init__()
        self.registry = OnlyOne()

    @staticmethod
    def begin():
        OnlyOne.instance = None

    def training_step(self, batch, index):
        self.registry.calls.append(index)
        return self.loss(batch) * (1 + 0.001 * len(self.registry.calls))


NOISE, DRAWS, TOSSES = np.random.default_rng(0), torch.Generator(), random.Random(0)
NOT_SEEDED = random.SystemRandom()
OLD_NOISE = np.random.RandomState(0)


def jitter(x):
    """Not a method, as in many a script."""
    x = x + 0.1 * torch.from_numpy(NOISE.normal(size=x.shape)).float()
    return x + 0.1 * torch.randn(x.shape, generator=DRAWS) + 0.1 * TOSSES.random()


class DrawsFromGlobals(Base):
    @staticmethod
    def begin():
        NOISE.bit_generator.state = np.random.default_rng(0).bit_generator.state
        DRAWS.manual_seed(0)
        TOSSES.seed(0)

    def training_step(self, batch, index):
        return self.loss([jitter(batch[0]), batch[1]])


class DrawsFromItsBatch(Base):
    def transfer_batch_to_device(self, batch, device, index):
        return [*batch, NOISE]

    begin = staticmethod(DrawsFromGlobals.begin)

    def training_step(self, batch, index):
        x, y, noise = batch
        return self.loss([x + 0.1 * torch.from_numpy(noise.normal(size=x.shape)).float(), y])


class DrawsFromAnOldStream(DrawsFromItsBatch):
    def transfer_batch_to_device(self, batch, device, index):
        return [*batch, OLD_NOISE]

    @staticmethod
    def begin():
        OLD_NOISE.seed(0)


class Slot:
    """A place in a pool, given back when nobody needs it."""

    taken = 0

    def __init__(self):
        Slot.taken += 1

    def __del__(self):
        Slot.taken -= 1


class HoldsASlot(Base):
    """Whose batches hold one, which the step does not use."""

    def transfer_batch_to_device(self, batch, device, index):
        return [*batch, Slot()]

    def training_step(self, batch, index):
        assert 1 <= Slot.taken <= 2
        return self.loss(batch[:2])


class WritesEvents(Base):
    """With a writer and its thread of its own."""

    def on_fit_start(self):
        self.tensorboard = SummaryWriter(self.trainer.default_root_dir, max_queue=2)

    def training_step(self, batch, index):
        for name, weight in self.named_parameters():
            self.tensorboard.add_scalar(name, weight.norm(), self.global_step)
        return self.loss(batch)

    def on_fit_end(self):
        self.tensorboard.close()


# --------------------------------------------------------------- losses of other kinds


class PhysicsInformed(Base):
    def loss(self, batch):
        x = batch[0].clone().requires_grad_()
        u = self.net(x)[:, 0]
        slope = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        return (slope[:, 0] + u).square().mean()


class PenalisesItsGradient(Base):
    def loss(self, batch):
        loss = super().loss(batch)
        slopes = torch.autograd.grad(loss, list(self.parameters()), create_graph=True)
        return loss + 0.1 * sum(s.square().sum() for s in slopes)


class KeepsADistribution(Base):
    def loss(self, batch):
        self.last = torch.distributions.Categorical(logits=self.net(batch[0]))
        self.kept = [self.last.logits, {"loss": -self.last.log_prob(batch[1])}]
        return -self.last.log_prob(batch[1]).mean()


class RaisesFarAway(Base):
    def loss(self, batch):
        logits = self.net(batch[0])
        if logits.abs().max() > 5:
            raise ValueError(f"out of range:\n{logits}")
        return functional.cross_entropy(logits, batch[1])


class SkipsBatches(Base):
    def training_step(self, batch, index):
        return None if index % 3 == 0 else self.loss(batch)


class SkipsWhatIsNotFinite(Base):
    def training_step(self, batch, index):
        loss = self.loss(batch)
        return loss if loss < 2 else None


class Complex(Base):
    def __init__(self):
        super().__init__()
        self.net, self.mix = nn.Linear(4, 2), nn.Parameter(torch.randn(4, 4, dtype=torch.cfloat))

    def loss(self, batch):
        return functional.cross_entropy(self.net((batch[0] + 0j).mm(self.mix).abs()), batch[1])


class Parametrised(Base):
    def __init__(self):
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.net[0])
        nn.utils.parametrizations.spectral_norm(self.net[2])


class TakesAnIterator(Base):
    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        return self.loss(batch)


class Lazy(Base):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.LazyLinear(2))


class ManualWithValidation(Base):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()

    def validation_step(self, batch, index):
        return self.loss(batch)


class Adapted(Base):
    """A frozen base in eight bits, and an adapter that is trained."""

    def __init__(self):
        super().__init__()
        frozen = torch.randint(-9, 9, (6, 4), dtype=torch.int8)
        self.frozen = nn.Parameter(frozen, requires_grad=False)
        self.register_buffer("mask", torch.ones(6, dtype=torch.uint8))
        self.a, self.b = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.zeros(6, 2))
        self.net = nn.Linear(6, 2)

    def loss(self, batch):
        weight = 0.1 * self.frozen.float() * self.mask[:, None] + self.b @ self.a
        return functional.cross_entropy(self.net(batch[0] @ weight.T), batch[1])


class KeepsItsTrainer(Base):
    """As libraries do that build their own trainer."""

    def on_fit_start(self):
        self.kwargs = {"callbacks": self.trainer.callbacks, "lock": threading.Lock()}
        self.loader = self.trainer.train_dataloader


class Prints(Base):
    def training_step(self, batch, index):
        print("training step")
        return self.loss(batch)


class NeedsItsGraph(Base):
    def train(self, mode=True):
        super().train(mode)
        self.net[0].eval()

    def training_step(self, batch, index):
        loss = self.loss(batch)
        assert loss.requires_grad
        return loss


class HasLossesInTrainingOnly(Base):
    def loss(self, batch):
        if not self.training:
            raise NotImplementedError
        return super().loss(batch)


class DrawsNumbers(Base):
    """In the default type, which is another one in a step."""

    def loss(self, batch):
        return super().loss(batch) + self.net(torch.randn(3, 4)).square().mean()


class CastsByHand(Base):
    def loss(self, batch):
        return functional.cross_entropy(self.net(batch[0].bfloat16()).float(), batch[1])


class KeepsABank(Base):
    def __init__(self):
        super().__init__()
        self.bank = torch.randn(2, 6).bfloat16()

    def loss(self, batch):
        return functional.cross_entropy(torch.mm(self.net(batch[0]), self.bank), batch[1])


KINDS = [
    *(StepsItsScheduler, ChangesItsRate, Stops, WritesToItsNeighbours, ClosesOverItself),
    *(CountsInItsClass, PhysicsInformed, PenalisesItsGradient, KeepsADistribution),
    *(RaisesFarAway, SkipsBatches, SkipsWhatIsNotFinite, Complex, Parametrised, TakesAnIterator),
    *(Lazy, ManualWithValidation, Adapted, KeepsItsTrainer, Prints),
    *(NeedsItsGraph, HasLossesInTrainingOnly),
    *(CountsInAPart, KeepsTextInAClosure, RefersToTheOnlyOne, CountsInItsMethods),
    CountsByName,
    *(DrawsFromGlobals, DrawsFromItsBatch, DrawsFromAnOldStream, HoldsASlot, WritesEvents),
]


class Neighbour(pl.Callback):
    touched = 0


def run(kind, root, *watch, batches=None, **options):
    """What is left of a run, to be compared."""
    seed_all(1)
    CountsInItsClass.calls[:] = [0]
    getattr(kind, "begin", lambda: None)()
    module, neighbour = kind(), Neighbour()
    loader = batches() if batches else DataLoader(data(), BATCH, shuffle=True)
    runner = trainer(root, neighbour, *watch, **options)
    runner.fit(module, loader)
    state = {k: as_real(v) for k, v in module.state_dict().items()}
    return {
        "state": {k: v.tolist() for k, v in state.items()},
        "rates": [g["lr"] for o in runner.optimizers for g in o.param_groups],
        "random": rng_state(),
        "ended": (runner.global_step, runner.current_epoch, runner.should_stop),
        "neighbour": neighbour.touched,
        "class": list(CountsInItsClass.calls),
        "metrics": {k: float(v) for k, v in runner.callback_metrics.items() if "morse/" not in k},
    }


def watching(**options):
    return monitor(**{"n_samples": 16, "resolution": 8, **options})


@pytest.mark.parametrize("kind", KINDS)
def test_the_run_is_the_same_and_every_analysis_succeeds(kind, tmp_path, capsys):
    bare = run(kind, tmp_path / "a")
    printed = capsys.readouterr().out
    watch = watching(n_samples=32) if kind is Stops else watching()
    assert run(kind, tmp_path / "b", watch) == bare
    assert capsys.readouterr().out == printed
    assert watch.history
    assert [row["morse/failed"] for row in watch.history] == [0.0] * len(watch.history)


@pytest.mark.parametrize(
    ("kind", "precision"),
    [(DrawsNumbers, "64-true"), (CastsByHand, "bf16-true"), (KeepsABank, "bf16-mixed")],
)
def test_what_fits_in_the_precision_of_training_only(kind, precision, tmp_path):
    bare = run(kind, tmp_path / "a", precision=precision)
    watch = watching()
    assert run(kind, tmp_path / "b", watch, precision=precision) == bare
    assert watch.history
    assert not any(row["morse/failed"] for row in watch.history)


def points_that_require_gradients():
    x, y = data().tensors
    return DataLoader(TensorDataset(x.clone().requires_grad_(), y), BATCH, shuffle=True)


class DifferentiatesByItsData(Base):
    def training_step(self, batch, index):
        out = self.net(batch[0])
        (slope,) = torch.autograd.grad(out.sum(), batch[0], create_graph=True)
        return functional.cross_entropy(out, batch[1]) + slope.square().mean()


def test_data_that_requires_gradients(tmp_path):
    given = {"batches": points_that_require_gradients}
    bare = run(DifferentiatesByItsData, tmp_path / "a", **given)
    watch = watching()
    assert run(DifferentiatesByItsData, tmp_path / "b", watch, **given) == bare
    assert watch.history
    assert not any(row["morse/failed"] for row in watch.history)


class Scale:
    """A loss that is an object, which the run uses as well."""

    def __init__(self):
        self.calls = 0

    def __call__(self, module, batch, kept=[]):  # noqa: B006 (people write this)
        self.calls += 1
        kept[:] = [len(kept) % 5] * (len(kept) + 1)
        return Base.loss(module, batch) * (1 + 0.01 * (self.calls % 7) + 0.01 * kept[0])


def scaled():
    """The same, a function."""
    calls, last = [], 0.0

    def loss(module, batch):
        nonlocal last
        calls.append(last)
        last = len(calls) % 7
        return Base.loss(module, batch) * (1 + 0.01 * last)

    return loss


def own_loss(kind):
    if kind == "object":
        Scale.__call__.__defaults__[0].clear()
        return Scale()
    return {"function": scaled(), "method": Scale().__call__, "partial": partial(Scale())}[kind]


class HasALoss(Base):
    def training_step(self, batch, index):
        return self.own(self, batch)


@pytest.mark.parametrize("kind", ["function", "object", "method", "partial"])
def test_a_loss_function_that_keeps_something_is_the_same_afterwards(kind, tmp_path):
    ends = []
    for n, watched in enumerate((False, True)):
        Scale.__call__.__defaults__[0].clear()
        HasALoss.own = staticmethod(own_loss(kind))
        watch = [watching(loss_fn=HasALoss.own)] if watched else []
        ends.append(run(HasALoss, tmp_path / str(n), *watch))
    assert ends[0] == ends[1]
    assert [row["morse/failed"] for row in watch[0].history] == [0.0] * len(watch[0].history)


@pytest.mark.parametrize("kind", [CountsInItsMethods, CountsInAPart])
def test_analyses_leave_no_classes_behind(kind, tmp_path):
    seen = []

    class Looks(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            seen.append([*kind.__subclasses__(), *Counting.__subclasses__()])

    watch = watching()
    run(kind, tmp_path, watch, Looks(), max_epochs=3)
    assert len(watch.history) == 3
    assert seen == [[], [], []]
    assert kind.__subclasses__() == []


class HandsOver(Base):
    """To a thread of its own, which takes one thing at a time."""

    def on_fit_start(self):
        self.line = queue.Queue(maxsize=1)
        threading.Thread(target=self.drain, args=(self.line,), daemon=True).start()

    @staticmethod
    def drain(line):
        while line.get() is not None:
            pass

    def training_step(self, batch, index):
        for x in batch[0]:
            self.line.put(float(x.sum()))
        return self.loss(batch)

    def on_fit_end(self):
        self.line.put(None)


class TakesFromAThread(Base):
    """A step that gets what another thread makes meanwhile."""

    def on_fit_start(self):
        self.line, self.asked = queue.Queue(), threading.Event()
        threading.Thread(target=self.fill, args=(self.asked, self.line), daemon=True).start()

    @staticmethod
    def fill(asked, line):
        asked.wait()
        for k in range(1000):
            line.put(1.0 + 0.001 * k)

    def training_step(self, batch, index):
        self.asked.set()
        return self.line.get() * self.loss(batch)


class Negatives(Base):
    """An iterator comes with every batch."""

    @staticmethod
    def begin():
        Negatives.numbers = iter(range(10**6))

    def transfer_batch_to_device(self, batch, device, index):
        return [*batch, (n for n in self.numbers)]

    def training_step(self, batch, index):
        return self.loss(batch[:2]) * (1 + 1e-3 * next(batch[2]))


@pytest.mark.parametrize("kind", [HandsOver, Negatives])
def test_what_others_take_or_use_up_fails_the_analysis_and_not_the_run(kind, tmp_path, caplog):
    bare = run(kind, tmp_path / "a")
    watch = watching()
    assert run(kind, tmp_path / "b", watch) == bare
    assert "UntouchableError" in caplog.text
    assert all(row["morse/failed"] == 1 for row in watch.history)


def test_a_step_that_gets_from_a_thread_does_not_wait_for_it(tmp_path):
    """What there is in the queue is there in the copy, too."""
    bare = run(TakesFromAThread, tmp_path / "a")
    assert run(TakesFromAThread, tmp_path / "b", watching()) == bare


class CountsFunctions(TorchFunctionMode):
    calls = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.calls += 1
        return function(*args, **(kwargs or {}))


class Watches(pl.Callback):
    """Counts the calls of all modules, and the operations and functions of training."""

    def on_train_start(self, trainer, pl_module):
        self.calls, self.operations = 0, FlopCounterMode(display=False)
        self.functions = CountsFunctions()
        self.functions.__enter__()
        register = torch.nn.modules.module.register_module_forward_hook
        self.handle = register(lambda *_: setattr(self, "calls", self.calls + 1))
        self.operations.__enter__()

    def on_train_end(self, trainer, pl_module):
        self.operations.__exit__(None, None, None)
        self.functions.__exit__(None, None, None)
        self.handle.remove()


def test_hooks_and_modes_of_the_whole_process_do_not_see_analyses(tmp_path):
    seen = []
    for watch in ([], [watching()]):
        watches = Watches()
        run(Base, tmp_path / str(len(seen)), watches, *watch)
        calls, functions = watches.calls, watches.functions.calls
        seen.append((calls, functions, watches.operations.get_total_flops()))
    assert seen[0] == seen[1]
    assert min(seen[0]) > 0


def test_what_a_step_writes_is_told_once(tmp_path, caplog):
    run(StepsItsScheduler, tmp_path, watching())
    told = [r.getMessage() for r in caplog.records if "keep that away" in r.getMessage()]
    assert len(told) == 1
    assert "scheduler" in told[0]


def test_a_point_where_the_loss_raises_has_diverged_and_is_told_in_a_line(tmp_path, caplog):
    watch = watching(extent=10.0)
    run(RaisesFarAway, tmp_path, watch)
    told = [r.getMessage() for r in caplog.records if "cannot be evaluated" in r.getMessage()]
    assert len(told) == 1
    assert "\n" not in told[0]
    assert "out of range" in told[0]


# ------------------------------------------------------------------- what the network lacks


class Frozen(Base):
    def training_step(self, batch, index):
        return self.loss(batch).requires_grad_()

    def configure_optimizers(self):
        self.requires_grad_(False)
        return torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)


class Manual(ManualWithValidation):
    validation_step = pl.LightningModule.validation_step


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Frozen, "requires a gradient"), (Manual, r"Pass loss_fn\(module, batch\)")],
)
def test_no_analysis_is_no_end_of_the_run(kind, message, tmp_path, caplog):
    watch = watching()
    assert run(kind, tmp_path / "b", watch) == run(kind, tmp_path / "a")
    assert {row["morse/failed"] for row in watch.history} == {1.0}
    assert watch.result is None
    with pytest.raises(ValueError, match=message):
        run(kind, tmp_path / "c", watching(on_error="raise"))


def test_directions_that_do_not_fit_are_no_end_of_the_run(tmp_path):
    watch = watching(directions=torch.eye(5, 2))
    run(Base, tmp_path, watch)
    assert {row["morse/failed"] for row in watch.history} == {1.0}


# ----------------------------------------------------------------------- weights that change


class LayerWise(Base):
    """Two blocks of one size, trained one after the other."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 2).requires_grad_(False)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def on_train_epoch_start(self):
        self.a.requires_grad_(self.current_epoch < 2)
        self.b.requires_grad_(self.current_epoch >= 2)

    def loss(self, batch):
        hidden = self.b(self.a(batch[0]).tanh()).tanh()
        return functional.cross_entropy(self.net(hidden), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam([*self.a.parameters(), *self.b.parameters()], 3e-3)


def test_other_weights_of_the_same_size_begin_a_new_record(tmp_path, caplog):
    watch = watching()
    run(LayerWise, tmp_path, watch, max_epochs=4)
    assert "begin anew" in caplog.text
    snapshots = watch._run.trajectory.snapshots().double()
    steps = snapshots.diff(dim=0).norm(dim=1)
    assert len(snapshots) > 2
    assert steps.max() < 8 * steps.median()
    assert not any(row["morse/failed"] for row in watch.history)


# ---------------------------------------------------------------------------- runs by steps


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield from data()


def endless():
    return DataLoader(Endless(), BATCH)


def test_an_endless_stream_is_analysed_every_so_many_steps(tmp_path, caplog):
    caplog.set_level("INFO", "lightning_morse")
    watch = watching()
    run(Base, tmp_path, watch, batches=endless, max_steps=40, max_epochs=-1)
    assert [row["step"] for row in watch.history] == [9, 19, 29, 39]
    assert "until one has ended there is an analysis every 10 steps" in caplog.text


class OfUnknownLength(IterableDataset):
    def __iter__(self):
        yield from data()


def test_epochs_of_unknown_length_are_analysed_when_they_end(tmp_path):
    def loader():
        return DataLoader(OfUnknownLength(), BATCH)

    watch = watching(every_n_epochs=2)
    run(Base, tmp_path, watch, batches=loader, max_epochs=5)
    assert [row["epoch"] for row in watch.history] == [1, 3, 4]


@pytest.mark.parametrize(("max_steps", "steps"), [(5, [1, 3, 4]), (12, [7, 11]), (16, [7, 15])])
def test_the_last_weights_are_analysed_wherever_the_run_ends(max_steps, steps, tmp_path):
    watch = watching()
    run(Base, tmp_path, watch, max_steps=max_steps, max_epochs=-1)
    assert [row["step"] for row in watch.history] == steps


def test_a_period_longer_than_the_run_leaves_the_last_weights(tmp_path):
    watch = watching(every_n_epochs=5)
    run(Base, tmp_path, watch, max_epochs=2)
    assert [row["epoch"] for row in watch.history] == [1]
