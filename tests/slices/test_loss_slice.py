import copy
import functools
import math
import random
import subprocess
import sys
import threading
import weakref
from collections import UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.utilities.compile import from_compiled
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from lightning_morse.monitoring.probe_batches import copied, moved
from lightning_morse.slices.bases import orthonormal_columns
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.module_copy import shadow_copy
from lightning_morse.slices.parameters import flat_parameters, trainable_parameters
from lightning_morse.slices.shadow_loss import ShadowLoss
from lightning_morse.slices.stand_ins import Silence, UntouchableError
from lightning_morse.slices.steps import loss_from_steps
from lightning_morse.slices.subspace import AffineSubspace
from tests.callback_models import Outside


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def slice_through(module, dim=2, seed=0):
    origin = flat_parameters(module)
    vectors = torch.randn(len(origin), dim, generator=seeded(seed)).to(origin)
    return AffineSubspace(origin, orthonormal_columns(vectors))


def points(n=5, dim=2, seed=1):
    return torch.randn(n, dim, generator=seeded(seed), dtype=torch.float64)


def batches(sizes=(8, 3), features=4, seed=2):
    generator = seeded(seed)
    return [
        (torch.randn(n, features, generator=generator), torch.randint(3, (n,), generator=generator))
        for n in sizes
    ]


def classify(module, batch):
    x, y = batch
    return cross_entropy(module(x), y)


def mlp(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), *layers, nn.Linear(6, 3))


def everything(module):
    """All that a user could find changed, in comparable form."""
    return {
        "state": {k: (id(v), v.clone()) for k, v in module.state_dict(keep_vars=True).items()},
        "versions": [t._version for t in (*module.parameters(), *module.buffers())],
        "grads": [
            None if p.grad is None else (id(p.grad), p.grad.clone()) for p in module.parameters()
        ],
        "flags": [m.training for m in module.modules()]
        + [p.requires_grad for p in module.parameters()],
        "hooks": [list(m._forward_hooks.items()) for m in module.modules()],
        "names": [sorted(vars(m)) for m in module.modules()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
        "types": [type(m) for m in module.modules()],
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture
def untouched():
    """Assert at the end that the modules it was called with, and the generators, are unchanged."""
    watched = []

    def watch(module):
        watched.append((module, everything(module)))
        return module

    yield watch
    assert watched
    for module, before in watched:
        after = everything(module)
        for key in before:
            assert same(before[key], after[key]), key


def hand_made(module, subspace, x, probe, loss_fn=classify):
    """The definition: a copy, ``vector_to_parameters``, a loop."""
    reference = copy.deepcopy(module).eval()
    for part, twin in zip(module.modules(), reference.modules(), strict=True):
        if isinstance(part, nn.modules.batchnorm._NormBase):
            twin.train(part.training)
    trainable = [p for p in reference.parameters() if p.requires_grad]
    losses = []
    for point in x:
        theta = subspace.origin + subspace.directions @ point.to(subspace.origin)
        nn.utils.vector_to_parameters(theta, trainable)
        with torch.no_grad():
            total = sum(len(b[0]) * loss_fn(reference, b).double() for b in probe)
        losses.append(total / sum(len(b[0]) for b in probe))
    return torch.stack(losses)


# ------------------------------------------------------------------ the loss


def test_against_a_hand_made_copy(untouched):
    module = untouched(mlp())
    subspace = slice_through(module)
    loss = LossSlice(module, subspace, batches(), classify)(points())
    assert loss.dtype == torch.float64
    assert loss.shape == (5,)
    torch.testing.assert_close(
        loss, hand_made(module, subspace, points(), batches()), rtol=1e-6, atol=0
    )


def test_float64_weights_are_evaluated_in_float64():
    module = mlp().double()
    probe = [(x.double(), y) for x, y in batches()]
    subspace = slice_through(module)
    loss = LossSlice(module, subspace, probe, classify)(points())
    torch.testing.assert_close(
        loss, hand_made(module, subspace, points(), probe), rtol=1e-14, atol=0
    )


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), dim=st.integers(1, 3))
def test_mean_over_batches_is_the_mean_over_samples(sizes, dim):
    module = mlp()
    probe = batches(sizes)
    whole = [tuple(torch.cat(part) for part in zip(*probe, strict=True))]
    subspace, x = slice_through(module, dim), points(3, dim)
    torch.testing.assert_close(
        LossSlice(module, subspace, probe, classify)(x),
        LossSlice(module, subspace, whole, classify)(x),
        rtol=1e-5,
        atol=0,
    )


def test_at_the_origin_it_is_the_loss_of_the_module_bit_for_bit():
    module = mlp().eval()
    (probe,) = batches((8,))
    loss = LossSlice(module, slice_through(module), [probe], classify)
    assert loss(torch.zeros(1, 2)).item() == classify(module, probe).item()
    loss(points())
    assert loss(torch.zeros(1, 2)).item() == classify(module, probe).item()


def test_points_are_independent_of_their_neighbours():
    module = mlp()
    loss = LossSlice(module, slice_through(module), batches(), classify)
    one_by_one = torch.cat([loss(point[None]) for point in points()])
    assert torch.equal(loss(points()), one_by_one)
    assert torch.equal(loss(points().flip(0)), one_by_one.flip(0))
    assert loss(torch.empty(0, 2)).shape == (0,)


def test_parameters_that_a_module_does_not_tell_its_optimizer():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def parameters(self, recurse=True):
            return self.head.parameters(recurse)

        def forward(self, x):
            return self.head(self.body(x))

    module = Model()
    same = nn.Sequential(module.body, module.head)
    subspace = slice_through(same)
    loss = LossSlice(module, subspace, batches(), classify)(points())
    assert torch.equal(loss, LossSlice(same, subspace, batches(), classify)(points()))


def test_frozen_weights_stay_and_tied_weights_move_together(untouched):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.frozen = nn.Linear(4, 4).requires_grad_(False)
            self.one = nn.Linear(4, 4)
            self.two = nn.Linear(4, 4)
            self.two.weight = self.one.weight
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.two(self.one(self.frozen(x))))

    module = untouched(Tied())
    names = [name for name, _ in trainable_parameters(module)]
    assert names == ["one.weight", "one.bias", "two.bias", "head.weight", "head.bias"]
    subspace = slice_through(module)
    loss = LossSlice(module, subspace, batches(), classify)(points())
    torch.testing.assert_close(
        loss, hand_made(module, subspace, points(), batches()), rtol=1e-5, atol=0
    )


def test_non_finite_losses_come_back_as_they_are():
    module = nn.Linear(1, 1, bias=False)
    line = AffineSubspace(torch.zeros(1), torch.ones(1, 1))
    loss = LossSlice(module, line, [torch.ones(1, 1)], lambda net, x: 1 / net(x) + net(x).log())
    values = loss(torch.tensor([[1.0], [0.0], [-1.0]]))
    assert values[0] == 1
    assert values[1:].isnan().all()
    loss = LossSlice(module, line, [torch.ones(1, 1)], lambda net, x: 1 / net(x))
    assert loss(torch.tensor([[0.0], [2.0]])).tolist() == [math.inf, 0.5]


def test_memory_of_the_weights_does_not_grow():
    module = mlp()
    noted = Outside(seen=[])

    def spy(net, batch):
        noted.seen.append([p.data_ptr() for p in net.parameters()])
        return classify(net, batch)

    LossSlice(module, slice_through(module), batches(), spy)(points())
    assert len(noted.seen) > 1
    assert all(pointers == noted.seen[0] for pointers in noted.seen)
    assert not set(noted.seen[0]) & {p.data_ptr() for p in module.parameters()}


# ------------------------------------------------------------------ a function, and no trace


def test_batchnorm_in_train_mode(untouched):
    module = mlp(nn.BatchNorm1d(6))
    classify(module, batches()[0]).backward()
    untouched(module)
    assert module.training
    subspace = slice_through(module)
    loss = LossSlice(module, subspace, batches(), classify)(points())
    torch.testing.assert_close(
        loss, hand_made(module, subspace, points(), batches()), rtol=1e-5, atol=0
    )


def test_module_that_forces_batchnorm_into_train_mode(untouched):
    class Stubborn(nn.BatchNorm1d):
        def forward(self, x):
            before = self.running_mean.clone()
            super().train()
            super().forward(x)
            assert not torch.equal(before, self.running_mean)
            self.training = False
            return super().forward(x)

    module = untouched(mlp(Stubborn(6)))
    loss = LossSlice(module, slice_through(module), batches(), classify)
    first = loss(points())
    assert torch.equal(loss(points()), first)
    assert torch.equal(loss(points()[3:]), first[3:])


def test_dropout_is_off(untouched):
    module = untouched(mlp(nn.Dropout(0.9)))
    loss = LossSlice(module, slice_through(module), batches(), classify)
    assert torch.equal(loss(points()), loss(points()))
    (probe,) = batches((8,))
    at_origin = LossSlice(module, slice_through(module), [probe], classify)(torch.zeros(1, 2))
    assert at_origin.item() == classify(copy.deepcopy(module).eval(), probe).item()


@pytest.mark.parametrize("source", ["torch", "numpy", "python"])
def test_stochastic_loss_is_one_function(untouched, source):
    draw = {
        "torch": lambda: torch.randn(()),
        "numpy": lambda: torch.tensor(np.random.normal()),
        "python": lambda: torch.tensor(random.gauss(0, 1)),
    }[source]
    module = untouched(mlp())

    def noise_only(net, batch):
        return draw()

    loss = LossSlice(module, slice_through(module), batches(), noise_only, seed=3)
    values = loss(points())
    assert (values == values[0]).all()
    assert torch.equal(loss(points()), values)
    other = LossSlice(module, slice_through(module), batches(), noise_only, seed=4)
    assert not torch.equal(other(points()), values)


def test_stochastic_loss_does_not_depend_on_where_the_global_generators_stand():
    module = mlp()
    loss = LossSlice(module, slice_through(module), batches(), lambda net, batch: torch.randn(()))
    values = loss(points())
    torch.rand(3)
    assert torch.equal(loss(points()), values)


def test_state_of_the_module_starts_afresh_at_each_point(untouched):
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.register_buffer("seen", torch.zeros(()))
            self.register_buffer("expanded", torch.zeros(1).expand(3))
            self.total = torch.zeros(())
            self.calls = 0
            self.outputs = []
            self.own = torch.Generator().manual_seed(1)

        def forward(self, x):
            drift = self.seen + self.total + self.calls + len(self.outputs) + self.expanded.sum()
            drift = drift + torch.rand((), generator=self.own) + len(getattr(self, "cache", ()))
            self.seen = self.seen + 1  # rebinds
            self.total += 1  # in place
            self.calls += 1
            self.outputs.append(drift)
            self.cache = [1]
            return self.layer(x) * (1 + drift)

    module = untouched(Stateful())
    loss = LossSlice(module, slice_through(module), batches(), classify)
    first = loss(points())
    assert torch.equal(loss(points()), first)
    assert torch.equal(loss(points()[4:]), first[4:])
    assert (module.calls, module.outputs, module.total.item()) == (0, [], 0)


def test_batches_are_protected_from_the_loss(untouched):
    module = untouched(mlp())
    probe = [
        UserDict(x=torch.ones(2, 4), y=torch.zeros(2).long()),
        {"x": torch.ones(3, 4), "y": torch.zeros(3).long()},
    ]

    def greedy(net, batch):
        x, y = batch.pop("x"), batch.pop("y")
        return cross_entropy(net(x.mul_(2)), y)

    loss = LossSlice(module, slice_through(module), probe, greedy)
    assert torch.equal(loss(points()), loss(points()))
    assert (probe[0]["x"] == 1).all()
    assert (probe[1]["x"] == 1).all()


def test_user_exception_passes_through_and_leaves_no_trace(untouched):
    module = untouched(mlp(nn.BatchNorm1d(6), nn.Dropout()))
    noted = Outside(seen=[])

    class Boom(Exception):
        pass

    def fails(net, batch):
        noted.seen.append(torch.rand(()).item() + np.random.rand() + random.random())
        if len(noted.seen) == 4:
            raise Boom
        return classify(net, batch)

    loss = LossSlice(module, slice_through(module), batches(), fails)
    with pytest.raises(Boom):
        loss(points())
    assert torch.isfinite(loss(points())).all()


def test_grads_graph_and_modes_of_the_caller():
    module = mlp()

    def check(net, batch):
        assert not torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")
        assert not any(m.training for m in net.modules())
        assert all(p.requires_grad for p in net.parameters())
        assert all(p.grad is None for p in net.parameters())
        return classify(net, batch)

    classify(module, batches()[0]).backward()
    subspace = slice_through(module)
    reference = LossSlice(module, subspace, batches(), check)(points())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(LossSlice(module, subspace, batches(), check)(points()), reference)
        assert torch.is_autocast_enabled("cpu")
    with torch.inference_mode():
        inside = LossSlice(module, subspace, batches(), check)
        assert torch.equal(inside(points()), reference)
    assert torch.equal(inside(points()), reference)
    x = points().requires_grad_()
    assert torch.is_grad_enabled()
    assert not inside(x).requires_grad


def hooked(net, batch):
    hidden = net[1](net[0](batch[0]))
    hidden.register_hook(lambda gradient: 0.5 * gradient)
    return cross_entropy(net[2](hidden), batch[1])


def retaining(net, batch):
    hidden = net[1](net[0](batch[0]))
    hidden.retain_grad()
    return cross_entropy(net[2](hidden), batch[1])


def asserting(net, batch):
    loss = classify(net, batch)
    assert loss.requires_grad
    return loss


def counted(net, batch):
    net.calls = getattr(net, "calls", 0) + 1  # of which one that failed must not count
    return asserting(net, batch) * (1 if batch[0].shape[0] == 8 else net.calls - 1)


@pytest.mark.parametrize("loss_fn", [hooked, retaining, asserting, counted])
def test_a_loss_that_needs_its_graph(untouched, loss_fn):
    module = untouched(mlp())
    subspace = slice_through(module)
    loss = LossSlice(module, subspace, batches(), loss_fn)
    assert torch.equal(loss(points()), LossSlice(module, subspace, batches(), classify)(points()))
    assert all(weight.grad is None for weight in loss._loss.weights)


def test_what_is_set_to_gather_statistics_is_not_undone():
    module = mlp(nn.BatchNorm1d(6))
    loss = ShadowLoss(module, batches(), asserting, batch_norm="running")
    with torch.no_grad():
        loss.reset()
        loss.module[2].training = True
        with pytest.raises(AssertionError):
            list(loss.parts())
        assert loss.module[2].training
        loss.reset()
        assert len(list(loss.parts())) == 2


def test_batches_require_gradients_where_they_do_in_training():
    module = mlp()
    given = torch.randn(4, 4, generator=seeded(), requires_grad=True)

    def loss_fn(net, x):
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        return slope.square().mean()

    def by_itself(net, x):
        return loss_fn(net, x.requires_grad_())

    subspace = slice_through(module)
    loss = LossSlice(module, subspace, [given], loss_fn)(points())
    (kept,) = moved([copied(given)], "cpu")
    assert kept.requires_grad
    assert torch.equal(loss, LossSlice(module, subspace, [kept], loss_fn)(points()))
    assert torch.equal(loss, LossSlice(module, subspace, [given.detach()], by_itself)(points()))
    assert given.grad is None


class Detector(nn.Module):
    """Has losses only in training, as torchvision's detectors."""

    def __init__(self, noise):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), noise, nn.Linear(6, 3))

    def forward(self, batch):
        out = self.net(batch[0])
        return {"all": cross_entropy(out, batch[1])} if self.training else out.argmax(1)


def test_losses_that_there_are_only_in_training(untouched):
    module, plain = untouched(Detector(nn.Dropout(0.9))), Detector(nn.Identity())
    subspace = slice_through(module)
    loss = LossSlice(module, subspace, batches(), lambda net, batch: sum(net(batch).values()))
    expected = LossSlice(plain, subspace, batches(), lambda net, batch: classify(net.net, batch))
    assert torch.equal(loss(points()), expected(points()))
    assert loss.conceded == ("with self.training true",)
    assert loss.statistics.of_batch == ["net.1"]


def test_a_loss_that_fails_in_every_way_raises_the_first_error():
    calls = Outside(errors=[])

    def loss_fn(net, batch):
        calls.errors.append(KeyError(len(calls.errors)))
        raise calls.errors[-1]

    module = Detector(nn.Identity())
    loss = LossSlice(module, slice_through(module), batches(), loss_fn)
    for _ in range(2):
        calls.errors.clear()
        with pytest.raises(KeyError, match="0"):
            loss(points())
        assert len(calls.errors) == 4


def test_autocast_of_the_loss_itself_does_not_return_stale_losses():
    module = mlp()

    def mixed(net, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return classify(net, batch)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = LossSlice(module, slice_through(module), batches(), mixed)(points())
    assert len(set(losses.tolist())) == len(losses)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_evaluated_in_float32(untouched, dtype):
    module = untouched(mlp(nn.BatchNorm1d(6)).to(dtype))
    probe = [(x.to(dtype), y) for x, y in batches()]
    subspace = slice_through(module)
    loss = LossSlice(module, subspace, probe, classify)(points())
    exact = copy.deepcopy(module).float()
    wide = [(x.float(), y) for x, y in probe]
    torch.testing.assert_close(loss, hand_made(exact, subspace, points(), wide), rtol=1e-6, atol=0)
    assert probe[0][0].dtype == dtype


def test_weights_of_two_precisions():
    module = mlp()
    module[2].double()

    def loss_fn(net, batch):
        return cross_entropy(net[2](net[1](net[0](batch[0])).double()), batch[1])

    subspace = slice_through(module)
    assert subspace.origin.dtype == torch.float64
    loss = LossSlice(module, subspace, batches(), loss_fn)
    at_origin = sum(len(b[0]) * loss_fn(module, b) for b in batches()) / 11
    assert loss(torch.zeros(1, 2)).item() == pytest.approx(at_origin.item(), rel=1e-15)
    same_in_double = hand_made(copy.deepcopy(module).double(), subspace, points(), doubled())
    torch.testing.assert_close(loss(points()), same_in_double, rtol=1e-5, atol=0)


class Unsized(nn.Linear):
    """Has no truth value, as a compiled module has none."""

    def __len__(self):
        raise TypeError("no len()")


def test_parts_that_have_no_length():
    module = nn.Sequential(nn.Sequential(Unsized(4, 3)))
    loss = LossSlice(module, slice_through(module), batches(), classify)
    assert torch.isfinite(loss(points())).all()


def test_nothing_is_conceded_where_no_way_works():
    module = nn.Sequential(nn.Sequential(nn.Linear(4, 3)))

    def fails(module, batch):
        raise KeyError("whatever the way")

    loss = LossSlice(module, slice_through(module), batches(), fails)
    with pytest.raises(KeyError, match="whatever"):
        loss(points())
    assert loss.conceded == ()


class Cast(nn.Module):
    """Casts its input by hand to the half precision that a part of it has."""

    def __init__(self, trains=True):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(4, 5).bfloat16().requires_grad_(trains)
        self.register_buffer("shift", torch.randn(5).bfloat16())
        self.head = nn.Linear(5, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.head((self.body(x.bfloat16()) + self.shift).float() + self.calls)


@pytest.mark.parametrize("trains", [True, False])
def test_casts_by_hand_are_evaluated_in_the_precision_of_the_module(untouched, trains):
    module = untouched(Cast(trains))
    subspace = slice_through(module)
    loss = LossSlice(module, subspace, batches(), classify)
    expected = []
    for point in points():
        reference = copy.deepcopy(module)
        trainable = [p for p in reference.parameters() if p.requires_grad]
        pieces = subspace.point(point).split([p.numel() for p in trainable])
        for weight, piece in zip(trainable, pieces, strict=True):
            weight.data.copy_(piece.view_as(weight))
        expected.append(sum(len(b[0]) * classify(reference, b).item() for b in batches()) / 11)
    assert loss(points()).tolist() == pytest.approx(expected, rel=1e-6)
    assert loss.conceded == ("in the precision of training",)
    assert torch.equal(loss(points()), loss(points()))


def test_a_part_in_double_precision_stays_in_it():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 5).bfloat16(), nn.Linear(5, 3).double()

        def forward(self, x):
            return self.head(self.body(x.to(self.body.weight.dtype)).double())

    module = Model()
    exact = copy.deepcopy(module)
    exact.body.float()
    subspace = slice_through(module)
    loss = LossSlice(module, subspace, batches(), classify)
    expected = sum(len(b[0]) * classify(exact, b).item() for b in batches()) / 11
    assert loss(torch.zeros(1, 2)).item() == pytest.approx(expected, rel=1e-14)
    assert loss.conceded == ()


def test_half_precision_beside_weights_in_float32_is_evaluated_in_float32():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()
            self.register_buffer("bank", torch.randn(3, 7).bfloat16())

        def forward(self, x):
            return self.net(x) @ self.bank

    module = Model()
    probe = [(x.bfloat16(), y) for x, y in batches()]
    exact = copy.deepcopy(module).float()
    subspace = slice_through(module)
    loss = LossSlice(module, subspace, probe, classify)
    expected = hand_made(exact, subspace, points(), [(x.float(), y) for x, y in probe])
    torch.testing.assert_close(loss(points()), expected, rtol=1e-6, atol=0)
    assert (loss.conceded, module.bank.dtype) == ((), torch.bfloat16)


class Trained(pl.LightningModule):
    """Has a trainer that says its precision."""

    def __init__(self, precision):
        super().__init__()
        self.net = mlp()
        self._trainer = Outside(precision=precision)


def test_steps_have_the_default_type_of_double_precision():
    module = Trained("64-true").double()
    probe = [(x.double(), y) for x, y in batches()]
    before = torch.get_default_dtype()

    def loss_fn(net, batch):
        return classify(net.net, batch) + net.net(torch.ones(1, 4)).square().mean()

    loss = LossSlice(module, slice_through(module), probe, loss_fn)(points())
    assert torch.isfinite(loss).all()
    assert torch.get_default_dtype() == before


def test_what_only_autocast_makes_fit_is_evaluated_with_it():
    module = Trained("bf16-mixed")

    def loss_fn(net, batch):
        hidden = net.net[0](batch[0])
        into = torch.empty(len(hidden), 6, dtype=torch.bfloat16)
        return cross_entropy(
            net.net[2](torch.addmm(hidden, into.zero_(), into.new_ones(6, 6))), batch[1]
        )

    def mixed(net, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return loss_fn(net, batch)

    subspace = slice_through(module)
    loss = LossSlice(module, subspace, batches(), loss_fn)
    values = loss(points())
    assert loss.conceded == ("in the precision of training",)
    assert torch.equal(values, LossSlice(module, subspace, batches(), mixed)(points()))


def test_lightning_says_the_precision_of_the_copy():
    module = Trained("bf16-true").to(torch.bfloat16)
    probe = [(x.bfloat16(), y) for x, y in batches()]

    def loss_fn(net, batch):
        return classify(net.net, (batch[0].to(net.dtype), batch[1]))

    subspace = slice_through(module)
    loss = LossSlice(module, subspace, probe, loss_fn)(points())
    assert torch.equal(loss, LossSlice(module.net, subspace, probe, classify)(points()))
    assert module.dtype == torch.bfloat16


def doubled():
    return [(x.double(), y) for x, y in batches()]


# ------------------------------------------------------------------ the weight of a batch


@dataclass
class Labelled:
    name: str
    x: torch.Tensor


class Plain:
    def __init__(self, x):
        self.x = x


Pair = namedtuple("Pair", "weight x")
THREE = torch.ones(3, 1)


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (THREE, 3),
        ([THREE, torch.ones(5)], 1),
        ({"meta": {"id": "a"}, "data": [None, (THREE,)]}, 3),
        (UserDict(x=THREE), 3),
        (Labelled("a", THREE), 3),
        ([Labelled("a", THREE)], 3),
        (Plain(THREE), 3),
        (Pair(torch.tensor(7.0), THREE), 3),
        (torch.tensor(7.0), 1),
        ([1, "text", None], 1),
        (4, 1),
    ],
)
def test_size_of_a_batch(batch, size):
    module = nn.Linear(1, 1, bias=False)
    line = AffineSubspace(torch.zeros(1), torch.ones(1, 1))
    values = iter([0.0, 1.0])
    loss = LossSlice(
        module, line, [torch.ones(2), batch], lambda net, b: torch.tensor(next(values))
    )
    assert loss(torch.zeros(1, 1)).item() == pytest.approx(size / (2 + size))


# ------------------------------------------------------------------ shadow_copy


class Recorder:
    """Stands for a trainer: cannot be copied, and remembers what it is told."""

    def __init__(self):
        self.lock = threading.Lock()
        self.told = []
        self.current_epoch = 3
        self.logger, self.loggers = Silence(), [Silence()]


class Talkative(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 3)
        self.kept = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = cross_entropy(self.net(x), y) * self.trainer.current_epoch
        self.log("loss", loss, prog_bar=True)
        self.log_dict({"a": loss})
        self.print("hello")
        self.logger.experiment.add_scalar("x", 1)
        self.loggers[0].log_metrics({"x": 1})
        self.logger.experiment["x"].append(1)
        self.kept.append(loss)
        return loss


def test_lightning_module_that_logs_and_asks_its_trainer(untouched, capsys):
    module = Talkative()
    trainer = module._trainer = Recorder()
    x, y = batches()[0]
    history = cross_entropy(module.net(x), y)
    module.kept.append(history)
    untouched(module)
    losses = LossSlice(module, slice_through(module), batches())(points())
    subspace = slice_through(module)
    expected = 3 * hand_made(module.net, subspace, points(), batches())
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=0)
    assert module.trainer is trainer
    assert module.kept == [history]
    assert history.grad_fn is not None
    assert capsys.readouterr().out == ""


def test_steps_during_a_real_fit_see_the_trainer_and_change_nothing(tmp_path):
    class Model(Talkative):
        def training_step(self, batch, batch_idx):
            loss = cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            assert self.trainer.global_step >= 0
            return loss + 0 * self.current_epoch

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.1)

    class Look(pl.Callback):
        losses = None

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            before = everything(module)
            self.losses = LossSlice(module, slice_through(module), [batch])(points())
            assert same(before, everything(module))
            metrics = dict(trainer.callback_metrics)
            assert metrics["loss"] == outputs["loss"].detach()

    def fit(*callbacks):
        model = Model()
        data = torch.utils.data.TensorDataset(*batches((12,))[0])
        trainer = pl.Trainer(
            max_epochs=2,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
            default_root_dir=tmp_path,
        )
        pl.seed_everything(1, verbose=False)
        trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=4, shuffle=True))
        return flat_parameters(model)

    look = Look()
    assert torch.equal(fit(look), fit())
    assert torch.isfinite(look.losses).all()


def test_nested_lightning_modules_share_their_trainer():
    outer = Talkative()
    outer.inner = Talkative()
    outer._trainer = outer.inner._trainer = Recorder()
    fabric = Recorder()
    outer._fabric = weakref.proxy(fabric)
    shadow = shadow_copy(outer)
    assert shadow._trainer is not outer._trainer
    assert shadow.inner._trainer is shadow._trainer
    assert type(shadow._fabric) is not weakref.ProxyType
    assert isinstance(shadow.inner, Talkative)
    assert type(shadow).__name__ == "Talkative"
    outer._fabric = None


def test_shadow_copy_leaves_registries_of_subclasses_alone():
    registry = []

    class Registered(Talkative):
        def __init_subclass__(cls, **kwargs):
            registry.append(cls)
            super().__init_subclass__(**kwargs)

    shadow_copy(Registered())
    assert registry == []


def test_methods_named_log_of_other_modules_work():
    class Log(nn.Linear):
        def log(self, x):
            return x.log()

    assert shadow_copy(Log(1, 1)).log(torch.ones(1)).item() == 0


def test_grad_is_not_copied_and_hooks_that_compute_weights_run():
    module = mlp()
    nn.utils.prune.l1_unstructured(module[0], "weight", amount=0.5)
    nn.utils.parametrizations.weight_norm(module[2])
    classify(module, batches()[0]).backward()
    # deepcopy refuses the tensor with a history that pruning leaves behind.
    with pytest.raises(RuntimeError):
        copy.deepcopy(module)
    assert all(p.grad is None for p in shadow_copy(module).parameters())
    subspace = slice_through(module)
    loss = LossSlice(module, subspace, batches(), classify)(points())
    expected = []
    for point in points():
        nn.utils.vector_to_parameters(subspace.point(point), module.parameters())
        expected.append(sum(len(b[0]) * classify(module, b).item() for b in batches()) / 11)
    torch.testing.assert_close(loss, loss.new_tensor(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize("where", ["submodule", "in place", "method"])
def test_compiled_modules_are_evaluated_eagerly_on_the_copy(where):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()
            if where == "submodule":
                self.net = torch.compile(self.net, backend=backend)
            elif where == "in place":
                self.net.compile(backend=backend)
            else:
                self.forward = torch.compile(self.forward, backend=backend)

        def forward(self, x):
            return self.net(x)

    module = Model()
    plain = nn.Module()
    plain.net = mlp()
    plain.forward = plain.net.forward
    subspace = slice_through(plain)
    loss = LossSlice(module, subspace, batches(), classify)(points())
    assert not graphs
    expected = hand_made(plain.net, subspace, points(), batches())
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_compiled_lightning_module():
    compiled = torch.compile(Talkative(), backend="eager")
    module = from_compiled(compiled)
    module._trainer = Recorder()
    subspace = slice_through(module)
    losses = LossSlice(module, subspace, batches())(points())
    expected = 3 * hand_made(Talkative().net, subspace, points(), batches())
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=0)


def test_what_cannot_be_copied_is_stood_in_for():
    module = mlp()
    module.lock, module.source = threading.Lock(), (i for i in range(3))
    module.handle = open(__file__)  # noqa: SIM115
    shadow = shadow_copy(module)
    with shadow.lock:
        assert not module.lock.locked()
    for use in (lambda: next(shadow.source), lambda: shadow.handle.read()):
        with pytest.raises(UntouchableError, match=r"cannot be copied, .* change the run"):
            use()
    assert next(module.source) == 0
    assert module.handle.tell() == 0
    module.handle.close()


# ------------------------------------------------------------------ bad input


def test_invalid_modules():
    with pytest.raises(ValueError, match="got Sequential with 4 parameters and none that does"):
        trainable_parameters(mlp().requires_grad_(False))
    with pytest.raises(ValueError, match="got Tanh with 0 parameters"):
        flat_parameters(nn.Tanh())
    with pytest.raises(ValueError, match=r"lazy parameter '0.weight'"):
        trainable_parameters(nn.Sequential(nn.LazyLinear(3)))


def test_flat_parameters_is_a_copy():
    module = mlp()
    flat = flat_parameters(module)
    torch.testing.assert_close(flat, nn.utils.parameters_to_vector(module.parameters()).detach())
    before = module[0].weight.clone()
    flat += 1
    assert torch.equal(module[0].weight, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subspace": AffineSubspace(torch.zeros(2), torch.eye(2))}, "each of the 51 .* got 2"),
        ({"batches": []}, "batches must hold at least one"),
        ({"batches": [torch.ones(2, 4), torch.ones(0, 4)]}, r"batches\[1\] must not be empty"),
        ({"loss_fn": "mse"}, "loss_fn must be callable .* got 'mse'"),
    ],
)
def test_invalid_arguments(arguments, message):
    module = mlp()
    fine: dict[str, Any] = {
        "subspace": slice_through(module),
        "batches": batches(),
        "loss_fn": classify,
    }
    with pytest.raises(ValueError, match=message):
        LossSlice(module, **{**fine, **arguments})


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, "must return the loss of at least one of the 2 probe batches, got None for each"),
        (1.0, "got a float"),
        (torch.ones(3), r"got a tensor of shape \(3,\)"),
        (torch.ones(0), r"got a tensor of shape \(0,\)"),
        ({"loss": torch.ones(())}, r"got a dict with keys \['loss'\]"),
    ],
)
def test_invalid_losses(untouched, output, message):
    module = untouched(mlp())
    loss = LossSlice(module, slice_through(module), batches(), lambda net, batch: output)
    with pytest.raises(ValueError, match=message):
        loss(points())


def test_one_element_of_any_shape_is_a_loss():
    module = mlp()
    loss = LossSlice(
        module, slice_through(module), batches(), lambda net, b: torch.full((1, 1), 2.0)
    )
    assert loss(points(2)).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2), r"x must have shape \(n, 2\).* got \(2,\)"),
        (torch.zeros(1, 3), r"x must have shape \(n, 2\).* got \(1, 3\)"),
        (torch.tensor([[0.0, 0.0], [math.nan, 0.0]]), "x must be finite, got .* in row 1"),
    ],
)
def test_invalid_points(x, message):
    module = mlp()
    with pytest.raises(ValueError, match=message):
        LossSlice(module, slice_through(module), batches(), classify)(x)


# ------------------------------------------------------------------ loss_from_steps


def stepping(**steps):
    """A LightningModule class with these steps."""
    return type("Stepping", (pl.LightningModule,), steps)()


ONE, TWO = torch.tensor(1.0), torch.tensor(2.0)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ({"training_step": lambda self, batch, batch_idx: ONE}, 1),
        ({"training_step": lambda self, batch: {"loss": ONE, "logits": None}}, 1),
        ({"validation_step": lambda self, batch, batch_idx: TWO}, 2),
        ({"validation_step": lambda self, batch, batch_idx, dataloader_idx: TWO}, 2),
        (
            {
                "training_step": lambda self, batch, batch_idx: ONE,
                "validation_step": lambda self, batch, batch_idx: TWO,
            },
            1,
        ),
        ({"training_step": lambda self, batch, i: torch.full((1,), float(i))}, 7),
        ({"training_step": lambda self, *args: torch.tensor(float(args[1]))}, 7),
        ({"training_step": lambda self, b, i, dataloader_idx=5: ONE * dataloader_idx}, 5),
    ],
)
def test_loss_from_steps(steps, expected):
    assert loss_from_steps(stepping(**steps), None, batch_idx=7).item() == expected


def decorated(step):
    @functools.wraps(step)
    def wrapper(*args, **kwargs):
        return step(*args, **kwargs)

    return wrapper


class Prepares(pl.LightningModule):
    """Prepares weights of examples before each step, and asks a trainer for what only that has."""

    def __init__(self, asks=False, skips=False):
        super().__init__()
        self.net, self.asks, self.skips = nn.Linear(4, 3), asks, skips

    def on_train_batch_start(self, batch, batch_idx):
        self.weights = 1 + batch[1].float()
        if self.asks:
            self.trainer.what_only_a_trainer_has()
        return -1 if self.skips and batch_idx else None

    def training_step(self, batch, batch_idx):
        losses = cross_entropy(self.net(batch[0]), batch[1], reduction="none")
        return (self.weights * losses).mean()


@pytest.mark.parametrize("asks", [False, True])
def test_what_is_prepared_before_a_step_is_prepared_for_probe_batches(asks):
    module, given = Prepares(asks), batches((8, 3))
    module.weights = torch.ones(3)  # of another batch
    loss = LossSlice(module, slice_through(module), given)
    losses = [((1 + y) * cross_entropy(module.net(x), y, reduction="none")).sum() for x, y in given]
    expected = sum(losses).item() / 11
    assert loss(torch.zeros(1, 2)).item() == pytest.approx(expected, rel=1e-5)
    assert module.weights.tolist() == [1, 1, 1]


def test_a_batch_that_is_skipped_before_its_step_does_not_count():
    module, given = Prepares(skips=True), batches((8, 3))
    loss = LossSlice(module, slice_through(module), given)
    x, y = given[0]
    alone = ((1 + y) * cross_entropy(module.net(x), y, reduction="none")).mean()
    assert loss(torch.zeros(1, 2)).item() == pytest.approx(alone.item(), rel=1e-5)
    assert loss.n_examples == 8


def test_one_decorator_on_steps_that_take_other_arguments():
    steps = (lambda s, b, i, d: ONE * d + 1, lambda s, b: TWO, lambda s, b, i: ONE * i)
    found = [loss_from_steps(stepping(training_step=decorated(s)), None, 7) for s in steps]
    assert found == [1, 2, 7]


def test_loss_from_inherited_and_patched_steps():
    class Parent(pl.LightningModule):
        def training_step(self, batch, batch_idx):
            return ONE

    class Child(Parent):
        pass

    assert loss_from_steps(Child(), None) is ONE
    patched = pl.LightningModule()
    patched.training_step = lambda batch: TWO
    assert loss_from_steps(patched, None) is TWO
    boring = BoringModel()  # from lightning, but not from its core
    assert loss_from_steps(boring, torch.ones(1, 32)).numel() == 1


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (pl.LightningModule(), "must define training_step or validation_step, got LightningModule"),
        (nn.Linear(1, 1), "must define training_step or validation_step, got Linear"),
        (stepping(validation_step=lambda s, b: None), r"Stepping.validation_step must .* got None"),
        (stepping(validation_step=lambda s, b: {"x": ONE}), r"validation_step .* keys \['x'\]"),
        (stepping(training_step=lambda s, b: {"loss": 1.0}), r"training_step .* keys \['loss'\]"),
        (stepping(training_step=lambda s, b: torch.ones(2)), r"got a tensor of shape \(2,\)"),
    ],
)
def test_steps_without_a_loss(module, message):
    with pytest.raises(ValueError, match=message) as raised:
        loss_from_steps(module, None)
    assert "loss_fn" in str(raised.value)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ({"training_step": lambda s, b: ONE, "validation_step": lambda s, b: TWO}, 2),
        ({"training_step": lambda s, b: {"loss": ONE}, "validation_step": lambda s, b: None}, 1),
        ({"training_step": lambda s, b: ONE}, 1),
    ],
)
def test_manual_optimization_takes_the_loss_where_a_step_returns_it(steps, expected):
    module = stepping(**steps)
    module.automatic_optimization = False
    assert loss_from_steps(module, None) == expected


@pytest.mark.parametrize(
    "steps",
    [
        {},
        {"training_step": lambda self, batch: None},
        {"training_step": lambda s, b: {"x": ONE}, "validation_step": lambda s, b: None},
    ],
)
def test_manual_optimization_without_a_loss_needs_loss_fn(steps):
    module = stepping(**steps)
    module.automatic_optimization = False
    with pytest.raises(ValueError, match=r"loss_fn must be given .* manual optimization"):
        loss_from_steps(module, None)


def test_validation_step_is_the_loss_of_a_slice_by_default():
    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 1)

        def validation_step(self, batch):
            return {"loss": mse_loss(self.net(batch), batch[:, :1])}

    module = Model()
    loss = LossSlice(module, slice_through(module), [torch.ones(2, 4)])
    assert torch.isfinite(loss(points())).all()


@pytest.mark.slow
def test_lightning_is_not_imported():
    code = (
        "import sys, lightning_morse.slices.loss_slice\n"
        "assert not {'lightning', 'pytorch_lightning'} & set(sys.modules), 'lightning was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_everything_stays_on_the_device_of_the_module():
    module = nn.Linear(3, 1).cuda()
    weights = flat_parameters(module)
    directions = orthonormal_columns(torch.randn(4, 2, device="cuda"))
    noted = Outside(seen=[])

    def loss_fn(network, batch):
        noted.seen.append({p.device.type for p in network.parameters()} | {batch.device.type})
        return network(batch).square().mean()

    loss = LossSlice(
        module, AffineSubspace(weights, directions), [torch.ones(5, 3).cuda()], loss_fn
    )
    found = loss(torch.zeros(2, 2, dtype=torch.float64))
    assert found.device.type == "cpu"  # that of the points
    assert noted.seen == [{"cuda"}] * 2
