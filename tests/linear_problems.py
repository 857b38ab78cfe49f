"""Data and networks for the tests of linear networks, and Hessians by automatic differentiation."""

from itertools import pairwise

import numpy as np
import torch
from torch import nn

from lightning_morse import deep_linear as dl

TWO = dl.Moments(np.eye(2), np.diag([3.0, 1.0]), 10.0)
THREE = dl.Moments(np.eye(3), np.diag([3.0, 2.0, 1.0]), 14.0)
SIZES = [(3, 2), (3, 4, 2), (2, 3, 3, 4), (4, 2, 3, 2, 5)]


def random_moments(rng, n_in, n_out):
    """Moments with well separated modes, often few; inputs are white, coloured or singular."""
    rank = int(rng.integers(1, min(n_in, n_out) + 1))
    seen = n_in if rng.random() < 0.7 else int(rng.integers(rank, n_in + 1))
    basis = np.linalg.qr(rng.normal(size=(n_in, n_in)))[0][:, :seen]
    variances = np.ones(seen) if rng.random() < 0.3 else rng.uniform(0.3, 3.0, seen)
    right = np.linalg.qr(rng.normal(size=(seen, seen)))[0][:, :rank]
    left = np.linalg.qr(rng.normal(size=(n_out, n_out)))[0][:, :rank]
    strengths = np.cumsum(rng.uniform(0.3, 1.0, rank))[::-1]
    root = basis * np.sqrt(variances)
    spare = rng.uniform(0, 1)
    return dl.Moments(
        (basis * variances) @ basis.T,
        (left * strengths) @ right.T @ root.T,
        float(np.square(strengths).sum()) + spare,
    )


def random_problem(sizes, seed=0, n_examples=12):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_examples, sizes[0])) @ rng.normal(size=(sizes[0], sizes[0]))
    y = rng.normal(size=(n_examples, sizes[-1])) + x @ rng.normal(size=(sizes[0], sizes[-1]))
    shapes = zip(sizes[1:], sizes[:-1], strict=True)
    return [0.7 * rng.normal(size=shape) for shape in shapes], x, y


def stack_of(weights):
    """The same network in PyTorch."""
    layers = [torch.nn.Linear(*w.shape[::-1], bias=False).double() for w in weights]
    for layer, w in zip(layers, weights, strict=True):
        layer.weight.data = torch.from_numpy(w.copy())
    return torch.nn.Sequential(*layers)


def network(*sizes, bias=True, between=nn.Identity):
    torch.manual_seed(0)
    parts = []
    for a, b in pairwise(sizes):
        parts += [nn.Linear(a, b, bias=bias), between()]
    return nn.Sequential(*parts[:-1]).double()


def relative(found, expected):
    return np.abs(found - expected).max() / max(1.0, np.abs(expected).max())


def hessian_values(weights, moments):
    """Hessian eigenvalues by automatic differentiation of the loss."""
    xx, yx = torch.from_numpy(moments.xx), torch.from_numpy(moments.yx)
    sizes = [np.size(w) for w in weights]
    shapes = [np.shape(w) for w in weights]

    def loss(flat):
        product = torch.eye(shapes[0][1], dtype=flat.dtype)
        for part, shape in zip(flat.split(sizes), shapes, strict=True):
            product = part.view(shape) @ product
        return ((product @ xx) * product).sum() / 2 - (product * yx).sum()

    flat = torch.from_numpy(np.concatenate([np.ravel(w) for w in weights]))
    return torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat)).numpy()
