"""Where the directions of a slice come from, and what takes their place where they do not exist."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_morse.slices.bases import Whole
from lightning_morse.slices.directions import DirectionSource
from lightning_morse.slices.parameters import flat_parameters
from lightning_morse.slices.shadow_loss import ShadowLoss
from tests.slices.matrices import gaussian, gram


@pytest.fixture
def network():
    module = nn.Linear(3, 4).double()
    module.load_state_dict({"weight": gaussian(4, 3, seed=1), "bias": gaussian(4, seed=2)})
    return module


def slice_of(source, module, path, rows=None, loss_fn=None):
    def loss():
        given = loss_fn or (lambda net, batch: net(batch).square().mean())
        return ShadowLoss(module, [gaussian(6, 3, seed=3)], given)

    parameters = dict(module.named_parameters())
    source.bind(parameters)
    options = {} if rows is None else {"rows": rows}
    return source.slice_at(flat_parameters(module), path, parameters, loss, **options)


def path_to(module):
    """A trajectory of six weights that ends at those of the module."""
    here = flat_parameters(module)
    return torch.cat([here + gaussian(5, 16, seed=4), here[None]])


@pytest.mark.parametrize("kind", ["pca", "random", "gradient", "hessian"])
def test_each_kind_gives_what_it_is_called(kind, network):
    path = path_to(network)
    found = slice_of(DirectionSource(kind, 2, None, 0), network, path)
    assert (found.kind, found.fallback) == (kind, "")
    assert torch.equal(found.subspace.origin, flat_parameters(network))
    torch.testing.assert_close(gram(found.subspace.directions), torch.eye(2).double())
    torch.testing.assert_close(found.inside, found.subspace.project(path[:-1]))


@pytest.mark.parametrize("moving", [1, 2])
def test_too_few_distinct_snapshots(moving, network):
    path = path_to(network)
    path[: 6 - moving] = path[5 - moving]
    found = slice_of(DirectionSource("pca", 1, None, 0), network, path)
    if moving == 1:
        assert found.kind == "random"
        assert found.fallback == "there are only 2 distinct snapshots of the trajectory yet"
    else:
        assert (found.kind, found.fallback) == ("pca", "")


def test_a_trajectory_with_too_few_dimensions_falls_back(network):
    path = flat_parameters(network) + torch.arange(-5.0, 1.0).double()[:, None] * gaussian(16)
    found = slice_of(DirectionSource("pca", 2, None, 0), network, path)
    assert found.kind == "random"
    assert "got 6 snapshots that span 1" in found.fallback


@pytest.mark.parametrize("kind", ["gradient", "hessian"])
@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_a_loss_without_derivatives_falls_back(kind, error, network):
    def fails(module, batch):
        raise error("no second derivative")

    path = path_to(network)
    found = slice_of(DirectionSource(kind, 2, None, 7), network, path, loss_fn=fails)
    assert (found.kind, found.fallback) == ("random", "no second derivative")
    same = slice_of(DirectionSource("random", 2, None, 7), network, path)
    assert torch.equal(found.subspace.directions, same.subspace.directions)


def test_errors_of_exchanges_between_processes_pass(network):
    class Broken(Whole):
        def sum(self, here):
            raise RuntimeError("in process 1: lost")

    with pytest.raises(RuntimeError, match="in process 1: lost"):
        slice_of(DirectionSource("pca", 1, None, 0), network, path_to(network), Broken())


def test_random_directions_stay_the_same_throughout_a_run(network):
    source = DirectionSource("random", 2, None, 0)
    path = path_to(network)
    first = slice_of(source, network, path)
    with torch.no_grad():
        network.weight += 1
    later = slice_of(source, network, torch.cat([path, flat_parameters(network)[None]]))
    assert torch.equal(first.subspace.directions, later.subspace.directions)
    assert not torch.equal(first.subspace.origin, later.subspace.origin)


def test_a_plane_through_checkpoints_stays_where_it_is(network):
    corners = [gaussian(16, seed=k) for k in (5, 6, 7)]
    found = slice_of(DirectionSource("checkpoints", 2, corners, 0), network, path_to(network))
    assert found.kind == "checkpoints"
    torch.testing.assert_close(found.subspace.origin, torch.stack(corners).mean(dim=0))
    for x, corner in zip(found.inside, corners, strict=True):
        torch.testing.assert_close(found.subspace.point(x), corner)


def test_weights_that_were_frozen_during_the_run_are_noticed(network):
    source = DirectionSource([torch.ones(16)], 1, None, 0)
    path = path_to(network)
    slice_of(source, network, path)
    with pytest.raises(ValueError, match=r"given for 16 trainable weights, .* now has 12"):
        source.slice_at(flat_parameters(network)[:12], path[:, :12], {}, lambda: None)
