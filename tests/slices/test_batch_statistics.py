"""The loss with the statistics of each batch, against a network in train mode without dropout."""

import copy
import math

import pytest
import torch
from torch import distributed, nn
from torch.nn.functional import batch_norm

import lightning_morse.slices.batch_statistics as home
from lightning_morse.slices.batch_statistics import choose_statistics
from lightning_morse.slices.curvature import loss_gradient
from lightning_morse.slices.loss_slice import LossSlice
from lightning_morse.slices.module_copy import shadow_copy
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.shadow_loss import ShadowLoss
from lightning_morse.slices.subspace import AffineSubspace

WIDTH = 4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def line_through(module, seed=0):
    origin = flat_parameters(module)
    direction = torch.randn(len(origin), 1, generator=seeded(seed)).to(origin)
    return AffineSubspace(origin, direction / direction.norm())


def mean_square(module, batch):
    return module(batch).square().mean()


class ActivatedNorm(nn.BatchNorm2d):
    """As in timm: the body of torch's forward pass once more, then modules of its own."""

    def __init__(self, width):
        super().__init__(width)
        self.drop, self.act = nn.Dropout(0.5), nn.ReLU()

    def forward(self, x):
        if self.training and self.track_running_stats:
            self.num_batches_tracked.add_(1)
        x = batch_norm(
            x,
            self.running_mean if not self.training or self.track_running_stats else None,
            self.running_var if not self.training or self.track_running_stats else None,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            self.momentum,
            self.eps,
        )
        return self.act(self.drop(x))


class OwnNorm(nn.Module):
    """No class of torch; binds its buffers anew, as some libraries do."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
            self.running_mean = 0.9 * self.running_mean + 0.1 * mean
            self.running_var.mul_(0.9).add_(0.1 * var)
        mean, var = (t[:, None, None] for t in (mean, var))
        return (x - mean) / (var + 1e-5).sqrt()


def lazy():
    norm = nn.LazyBatchNorm2d()
    norm(torch.randn(2, WIDTH, 3, 3, generator=seeded()))
    return norm


NORMS = {
    "batch norm": lambda: nn.BatchNorm2d(WIDTH),
    "not affine": lambda: nn.BatchNorm2d(WIDTH, affine=False),
    "cumulative": lambda: nn.BatchNorm2d(WIDTH, momentum=None),
    "synchronised": lambda: nn.SyncBatchNorm(WIDTH),
    "lazy": lazy,
    "instance norm": lambda: nn.InstanceNorm2d(WIDTH, track_running_stats=True, affine=True),
    "of another library": lambda: ActivatedNorm(WIDTH),
    "no class of torch": lambda: OwnNorm(WIDTH),
}


def network(make):
    """Convolutions, dropout and a norm whose running statistics are far from those of a batch."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, WIDTH, 3), make(), nn.Tanh(), nn.Dropout(0.5), nn.Conv2d(WIDTH, 3, 2)
    )
    module[1].running_mean.fill_(3.0)
    module[1].running_var.fill_(0.2)
    return module


def images(sizes=(6, 3)):
    return [torch.randn(n, 2, 6, 6, generator=seeded(n)) for n in sizes]


def by_hand(module, plane, x, probe, norms=(1,)):
    """Each time a fresh copy, of which only the norms themselves are in train mode."""
    losses = []
    for point in x:
        total = 0.0
        for batch in probe:
            twin = copy.deepcopy(module).eval()
            for i in norms:
                twin[i].training = True
            theta = plane.origin + plane.directions @ point.to(plane.origin)
            nn.utils.vector_to_parameters(theta, twin.parameters())
            with torch.no_grad():
                total += len(batch) * mean_square(twin, batch).item()
        losses.append(total / sum(map(len, probe)))
    return torch.tensor(losses, dtype=torch.float64)


X = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("kind", NORMS)
def test_it_is_the_loss_of_a_training_step_without_dropout(kind):
    module, probe = network(NORMS[kind]), images()
    before = copy.deepcopy(module.state_dict())
    plane = line_through(module)
    loss = LossSlice(module, plane, probe, mean_square)
    found = loss(X)
    torch.testing.assert_close(found, by_hand(module, plane, X, probe), rtol=1e-5, atol=0)
    deployed = LossSlice(module, plane, probe, mean_square, batch_norm="running")(X)
    torch.testing.assert_close(deployed, by_hand(module, plane, X, probe, ()), rtol=1e-5, atol=0)
    assert ((found - deployed).abs() > 1e-3).all()
    assert loss.statistics.of_batch == ["1"]
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert module[1].training


@pytest.mark.parametrize("kind", NORMS)
def test_neither_order_nor_a_point_without_a_finite_loss_matters(kind):
    module, probe = network(NORMS[kind]), images()
    loss = LossSlice(module, line_through(module), probe, mean_square)
    first = loss(X)
    far = torch.tensor([[1e30], [1e38]], dtype=torch.float64)
    assert not loss(far).isfinite().all()
    assert torch.equal(loss(X), first)
    assert torch.equal(loss(X.flip(0)), first.flip(0))


@pytest.mark.parametrize("kind", NORMS)
def test_buffers_of_the_copy_do_not_drift_within_an_evaluation(kind):
    module = network(NORMS[kind])
    shadow = shadow_copy(module)
    choose_statistics(module, shadow, "batch")
    buffers = dict(shadow.named_buffers())
    before = {name: value.clone() for name, value in buffers.items()}
    for batch in images():
        shadow(batch)
        shadow(batch * math.inf)
    after = dict(shadow.named_buffers())
    assert all(after[name] is value for name, value in buffers.items())
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("kind", NORMS)
def test_a_layer_that_is_frozen_uses_its_running_statistics(kind):
    module, probe = network(NORMS[kind]), images()
    module[1].eval()
    plane = line_through(module)
    loss = LossSlice(module, plane, probe, mean_square)
    torch.testing.assert_close(loss(X), by_hand(module, plane, X, probe, ()), rtol=1e-5, atol=0)
    assert (loss.statistics.layers, loss.statistics.of_batch) == (["1"], [])


def test_a_step_may_look_at_its_network_in_eval_mode():
    def both(module, batch):
        before = module(batch).square().mean()
        module.eval()
        return before - module(batch).square().mean()

    module, probe = network(NORMS["batch norm"]), images((6,))
    plane = line_through(module)
    loss = LossSlice(module, plane, probe, both)
    expected = by_hand(module, plane, X, probe) - by_hand(module, plane, X, probe, ())
    torch.testing.assert_close(loss(X), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(loss(X), loss(X))


def test_layers_without_running_statistics_are_left_alone():
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4)
    )
    shadow = shadow_copy(module)
    assert choose_statistics(module, shadow, "batch").layers == []
    assert not any(part.training for part in shadow.modules())


def test_gradients_are_those_of_the_same_loss():
    module, probe = network(NORMS["batch norm"]), images((6,))
    twin = copy.deepcopy(module).eval()
    twin[1].train()
    gradient = torch.autograd.grad(mean_square(twin, probe[0]), list(twin.parameters()))
    found = loss_gradient(ShadowLoss(module, probe, mean_square))
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in gradient]))
    twin = copy.deepcopy(module).eval()
    gradient = torch.autograd.grad(mean_square(twin, probe[0]), list(twin.parameters()))
    deployed = loss_gradient(ShadowLoss(module, probe, mean_square, batch_norm="running"))
    torch.testing.assert_close(deployed, torch.cat([g.flatten() for g in gradient]))


@pytest.mark.parametrize(
    ("norm", "one"),
    [
        (nn.BatchNorm1d(3), torch.ones(1, 3)),
        (nn.InstanceNorm1d(3, track_running_stats=True), torch.ones(2, 3, 1)),
        (nn.SyncBatchNorm(3), torch.ones(1, 3)),
    ],
    ids=["batch norm", "instance norm", "synchronised"],
)
def test_one_value_per_channel_takes_the_running_statistics(norm, one):
    module = nn.Sequential(
        norm, nn.Dropout(0.5), nn.Conv1d(3, 1, 1) if one.ndim == 3 else nn.Linear(3, 1)
    )
    norm.running_mean.fill_(2.0)
    many = torch.randn(8, *one.shape[1:-1], *([5] if one.ndim == 3 else [3]), generator=seeded())
    probe = [many, one]
    with pytest.raises(ValueError, match="more than 1"):
        module(one)
    plane = line_through(module)
    loss = LossSlice(module, plane, probe, mean_square)
    found = loss(X)
    shares = torch.tensor([len(many), len(one)]) / (len(many) + len(one))
    expected = shares[0] * by_hand(module, plane, X, [many], (0,)) + shares[1] * by_hand(
        module, plane, X, [one], ()
    )
    torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=1e-7)
    assert list(loss.statistics.too_few) == ["0"]
    assert torch.equal(loss(X.flip(0)), found.flip(0))


def test_other_errors_of_a_layer_pass():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="2D or 3D"):
        LossSlice(module, line_through(module), [torch.ones(2, 3, 3, 3)], mean_square)(X[:1])


def test_derived_synchronised_layers_do_not_synchronise(monkeypatch):
    """Not even where torch.distributed says that there are others, who do not take part."""

    class Twice(nn.SyncBatchNorm):
        def forward(self, x):
            return 2 * super().forward(x)

    def called(*args, **kwargs):
        raise AssertionError("an exchange")

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda *_: 2)
    monkeypatch.setattr(distributed, "all_gather", called)
    for make, factor in ((nn.SyncBatchNorm, 1), (Twice, 4)):
        module, probe = network(lambda make=make: make(WIDTH))[:2], images((6,))
        plain = network(NORMS["batch norm"])[:2]
        plane = line_through(module)
        loss = LossSlice(module, plane, probe, mean_square)(X)
        expected = factor * by_hand(plain, line_through(plain), X, probe)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
        assert isinstance(shadow_copy(module)[1], make)


class Exchanges(nn.BatchNorm2d):
    """As in some libraries: asks the others for their statistics, in training mode only."""

    def forward(self, x):
        if self.training:
            mean = x.mean((0, 2, 3))
            distributed.all_reduce(mean)
            x = x - mean[:, None, None]
        return super().forward(x)


@pytest.fixture
def group():
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("others", [False, True])
def test_layers_that_would_wait_for_other_processes_do_not(group, others, monkeypatch):
    module, probe = network(lambda: Exchanges(WIDTH)), images()
    with monkeypatch.context() as patch:
        patch.setattr(home, "_is_one_of_several", lambda: others)
        plane = line_through(module)
        loss = LossSlice(module, plane, probe, mean_square)
        found = loss(X)
    expected = by_hand(module, plane, X, probe, () if others else (1,))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert list(loss.statistics.exchanging) == ["1"] * others


@pytest.mark.parametrize("wrong", ["train", None, True, ["batch"]])
def test_a_wrong_choice_is_refused(wrong):
    module = nn.Linear(2, 1)
    with pytest.raises(ValueError, match=r"batch_norm must be 'batch' .* or 'running' .*, got"):
        LossSlice(module, line_through(module), [torch.ones(1, 2)], mean_square, batch_norm=wrong)
