r"""Joint sample paths of the error of the gradient on a lattice, and their largest values.

The error of the posterior mean, :math:`e = \nabla f - m`, is a Gaussian field that does not depend
on the observed values. By Matheron's rule a draw of it is a prior path minus the posterior mean
given noisy samples of that path (Wilson et al., "Efficiently sampling functions from Gaussian
process posteriors", ICML 2020). Under a product kernel the covariance of prior paths is a product
of factors, one per axis, so no matrix of the size of the lattice is needed.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from scipy.linalg import cho_solve, eigh

from lightning_morse._typing import Array
from lightning_morse.gp.kernels import Matern
from lightning_morse.gp.process import GaussianProcess, Posterior
from lightning_morse.grids.lattice import Lattice

# Variance that low-rank factors may omit, as a share of the smallest posterior variance. The level
# of a simulated band depends on it: deviations may come out 0.05 % too small.
_LEFT_OUT = 1e-3
# Memory for one batch of paths, in numbers; never affects the distribution of the result.
_BATCH = 4_000_000


def largest_errors(
    surrogate: GaussianProcess,
    lattice: Lattice,
    posterior: Posterior,
    n_paths: int,
    rng: np.random.Generator,
) -> Array:
    r"""Largest standardised error of the gradient on the lattice, for independent paths.

    Args:
        surrogate: The fitted surrogate.
        lattice: The lattice, ``d`` axes.
        posterior: The posterior at its points.
        n_paths: Number of paths.
        rng: Source of the paths.

    Returns:
        For each path :math:`\max_{x, i} |e_i(x)| / s_i(x)` over lattice points and axes, shape
        ``(n_paths,)``, in the order of the paths.
    """
    deviation = posterior.gradient_deviation.reshape(*(n + 1 for n in lattice.cells), -1)
    allowed = (
        _LEFT_OUT
        * np.square(posterior.gradient_deviation / surrogate.prior_gradient_deviation).min()
    )
    factors = [
        _AxisFactor(
            surrogate.kernel, lattice.axes[j], surrogate.x[:, j], scale, allowed / lattice.dim
        )
        for j, scale in enumerate(surrogate.lengthscales)
    ]
    ranks = tuple(f.rank for f in factors)
    amplitude = np.sqrt(surrogate.variance)
    per_path = max(deviation.size, int(np.prod(ranks)), surrogate.x.shape[0] * max(ranks))
    batch = max(1, _BATCH // per_path)
    largest = np.empty(n_paths)
    for start in range(0, n_paths, batch):
        count = min(batch, n_paths - start)
        white = rng.standard_normal((count, *ranks))
        observed = _at_samples(white, factors)
        observed += np.sqrt(surrogate.noise) * rng.standard_normal(observed.shape)
        weights = cho_solve((surrogate.cholesky, True), observed.T).T
        worst = np.zeros(count)
        for i in range(lattice.dim):
            path = _on_lattice(
                white, [f.slope if j == i else f.value for j, f in enumerate(factors)]
            )
            cross = [f.cross_slope if j == i else f.cross_value for j, f in enumerate(factors)]
            path -= _weighted(weights, cross)
            ratio = np.abs(path) * amplitude / deviation[..., i]
            worst = np.maximum(worst, ratio.reshape(count, -1).max(axis=1))
        largest[start : start + count] = worst
    return largest


class _AxisFactor:
    """One axis of the prior: a joint low-rank factor of values and slopes, and cross-covariances.

    Attributes:
        value: Rows for values at the lattice coordinates, shape ``(n_points, rank)``.
        slope: Rows for slopes there, same shape.
        at_samples: Rows for values at the samples' coordinates, shape ``(n, rank)``.
        cross_value: Covariance of values there with values at the samples, ``(n_points, n)``.
        cross_slope: Covariance of slopes there with values at the samples, same shape.
    """

    def __init__(
        self, kernel: Matern, points: Array, samples: Array, scale: float, allowed: float
    ) -> None:
        both = np.concatenate([points, samples])
        n = len(points)
        unit = np.sqrt(kernel.slope_variance) / scale  # deviation of a slope
        slope_value = kernel.derivative(points, both, scale, 1) / unit
        covariance = np.block(
            [
                [kernel.derivative(both, both, scale, 0), slope_value.T],
                [slope_value, -kernel.derivative(points, points, scale, 2) / unit**2],
            ]
        )
        values, vectors = eigh(covariance)
        # From the largest down, until no more than allowed is omitted anywhere.
        share = np.square(vectors[:, ::-1]) * np.maximum(values[::-1], 0.0)
        left = share[:, ::-1].cumsum(axis=1)[:, ::-1].max(axis=0)
        self.rank = max(1, int(np.searchsorted(-left, -allowed)))
        rows = vectors[:, ::-1][:, : self.rank] * np.sqrt(np.maximum(values[::-1][: self.rank], 0))
        self.value, self.at_samples, slope = np.split(rows, [n, len(both)])
        self.slope = slope * unit
        self.cross_value = kernel.derivative(points, samples, scale, 0)
        self.cross_slope = kernel.derivative(points, samples, scale, 1)


def _on_lattice(white: Array, rows: list[Array]) -> Array:
    """Paths on the lattice from white noise, ``(count, *ranks)`` to ``(count, *points)``."""
    # Contract the leading axis of the noise each time; its lattice axis moves to the end.
    return reduce(lambda path, row: np.tensordot(path, row, axes=(1, 1)), rows, white)


def _at_samples(white: Array, factors: list[_AxisFactor]) -> Array:
    """Paths at the samples, ``(count, *ranks)`` to ``(count, n)``."""
    first, *rest = (f.at_samples for f in factors)
    path = np.moveaxis(np.tensordot(white, first, axes=(1, 1)), -1, 1)
    for row in rest:
        path = np.einsum("snk...,nk->sn...", path, row)
    return path


def _weighted(weights: Array, cross: list[Array]) -> Array:
    """Sum over the samples of the weight times the product of one factor per axis."""
    *leading, last = cross
    path = weights[:, None, :]
    for factor in leading:
        path = (path[:, :, None, :] * factor).reshape(len(weights), -1, factor.shape[1])
    return (path @ last.T).reshape(len(weights), *(len(f) for f in cross))
