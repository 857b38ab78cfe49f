"""Manual optimization in a copy: gradients are there for whoever looks at them, and stay there."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_morse.slices.gradients import Gradients, Unasked
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.subspace import AffineSubspace

# A parameter of the run that no module holds.
ELSEWHERE = nn.Parameter(torch.ones(()))


class Manual(pl.LightningModule):
    """Evaluates its own loss on a line at its third step."""

    def __init__(self, step, optimizer=torch.optim.SGD):
        super().__init__()
        self.net, self.step, self.optimizer = nn.Linear(2, 1), step, optimizer
        self.automatic_optimization = False
        self.inside, self.values, self.untouched = False, None, None

    def loss(self, batch):
        return (self.net(batch[0]).square() * ELSEWHERE).mean()

    def training_step(self, batch, index):
        if self.global_step == 2 and not self.inside and self.values is None:
            self.inside = True
            before = [p.clone() for p in self.parameters()], [p.grad for p in self.parameters()]
            seen = LossSlice(self, line(self), [batch, batch])
            self.values = seen(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
            self.built_graph = seen._loss._differentiates
            after = self.parameters()
            self.untouched = all(
                torch.equal(p, old) and p.grad is grad
                for p, old, grad in zip(after, *before, strict=True)
            )
            self.inside = False
        return self.step(self, batch)

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), 0.1)


def line(module):
    origin = flat_parameters(module)
    return AffineSubspace(origin, torch.eye(len(origin), 1))


def plain(self, batch):
    optimizer = self.optimizers()
    optimizer.zero_grad()
    loss = self.loss(batch)
    self.manual_backward(loss)
    self.clip_gradients(optimizer, 1.0, "norm")
    optimizer.step()
    return {"loss": loss.detach()}


def with_closure(self, batch):
    optimizer = self.optimizers()

    def closure():
        optimizer.zero_grad()
        loss = self.loss(batch)
        self.manual_backward(loss)
        return loss

    return {"loss": optimizer.step(closure).detach()}


def with_norm(self, batch):
    optimizer = self.optimizers()
    optimizer.zero_grad()
    loss = self.loss(batch)
    self.manual_backward(loss)
    norm = sum(p.grad.square().sum() for p in self.net.parameters())
    optimizer.step()
    return {"loss": loss.detach() + norm}


def fitted(step, optimizer=torch.optim.SGD):
    torch.manual_seed(0)
    module = Manual(step, optimizer)
    trainer = pl.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(torch.ones(16, 2)), 4))
    assert module.values is not None
    return module


@pytest.mark.parametrize("step", [plain, with_closure])
def test_a_step_that_does_not_look_at_gradients_is_evaluated_without_a_graph(step):
    module = fitted(step)
    assert module.untouched
    assert torch.isfinite(module.values).all()
    assert module.built_graph is False


def test_a_closure_is_called_once_and_its_value_returned():
    module = fitted(with_closure, torch.optim.LBFGS)
    assert module.untouched
    assert torch.isfinite(module.values).all()


def test_gradients_are_those_of_the_point_and_no_parameter_outside_gets_one():
    ELSEWHERE.grad = None
    module = fitted(with_norm)
    assert module.untouched
    assert module.built_graph is True
    assert ELSEWHERE.grad is not None  # from training
    before = ELSEWHERE.grad.clone()

    net = nn.Linear(2, 1)
    world = Gradients(net.parameters)
    world.backward((net(torch.ones(1, 2)) * ELSEWHERE).sum())
    assert torch.equal(net.weight.grad, torch.ones(1, 2))
    assert torch.equal(ELSEWHERE.grad, before)


def test_the_loss_may_depend_on_gradients():
    module = fitted(with_norm)
    # Without momentum or noise, the loss at 0 is what the same step returns in training.
    torch.manual_seed(0)
    again = Manual(with_norm)
    returned = []
    again.step = lambda self, batch: returned.append(with_norm(self, batch)) or returned[-1]
    again.values = torch.zeros(())
    trainer = pl.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(again, DataLoader(TensorDataset(torch.ones(16, 2)), 4))
    assert module.values[0].item() == pytest.approx(returned[2]["loss"].item(), rel=1e-6)


@pytest.mark.parametrize(
    "look",
    [
        lambda p: p.grad.norm(),
        lambda p: p.grad.shape,
        lambda p: p.grad.data,
        lambda p: 1 + p.grad,
        lambda p: torch.nn.utils.clip_grad_norm_([p], 1.0),
        lambda p: torch._foreach_norm([p.grad]),
    ],
)
def test_who_looks_at_an_unasked_gradient_is_told_that_there_is_no_graph(look):
    weight = nn.Parameter(torch.ones(2))
    with torch.no_grad():
        Gradients(lambda: [weight]).backward(torch.ones(()))
    assert type(weight.grad) is Unasked
    with pytest.raises(RuntimeError, match="does not require grad"):
        look(weight)
    assert weight.grad is None  # so that computed ones are added to nothing


def test_gradients_are_forgotten_where_an_optimizer_would():
    ours, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    gradients = Gradients(lambda: [ours])
    ours.grad, other.grad = torch.ones(2), torch.ones(2)
    gradients.forget([ours, other])
    assert ours.grad is None
    assert other.grad is not None
