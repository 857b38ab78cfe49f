r"""How often the band of `mu` holds when the loss is what the surrogate assumes.

    python benchmarks/coverage.py [--draws 400] [--dims 1 2] [--kernels 5/2 7/2]
        [--lengthscales 0.2 0.5 1.5] [--surrogates given fitted chosen] [--band proved]

Losses are drawn from the prior itself, a Gaussian process with product Matern kernel on the unit
box, jointly with their gradients. Each is sampled at the design of an analysis and the surrogate is
conditioned on the samples. The band is then checked for the true gradient (of the warped
loss) everywhere on a lattice four times finer than the one it was computed on. A point on a face
must lie in the band of every cell it belongs to, since cells are closed. Four surrogates:

* given: the true kernel and hyper-parameters, no warp;
* fitted: the true kernel, all hyper-parameters fitted, warp included;
* chosen: as ``analyze`` does it, kernel and calibration included. Draws on which it would report a
  mu of 0 count as refused;
* placed: the same with the second half of the samples placed where the phase portrait of the draw
  is undecided, as ``analyze`` places them. All samples are moved to the nearest points of the fine
  lattice, where the draw is known. Not part of the default: it takes a second or two per draw.

One row for each setting (kernel of the prior, dimension, lengthscale in box widths), surrogate and
level:

* covered: share of the draws whose gradient stays in the band on the whole fine lattice, with its
  exact (Clopper-Pearson) 95 % interval; excess: covered minus level;
* needed: the factor by which the band could be scaled and still cover the level's share of the
  draws; 1 means the band is as narrow as possible, more than 1 that it is too narrow;
* refused: draws for which no surrogate was trusted; they are not counted;
* warped: number of fits that chose a warp, and how many of them are not covered; other kernel: the
  same for the kernel that is not the prior's; below: draws with values below the floor of the
  warp, where the band holds nothing; they count as not covered.

On three axes the lattice is coarse, so the band is that of a halved one, with deviations estimated
inside the cells. This is not part of the default either.

The default takes about a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy.stats import beta

from lightning_morse.analysis import placement
from lightning_morse.analysis.design import design, first_samples
from lightning_morse.analysis.exploration import Explorer
from lightning_morse.analysis.plan import Plan
from lightning_morse.analysis.samples import Samples
from lightning_morse.analysis.sampling import Sampler
from lightning_morse.analysis.settings import Settings
from lightning_morse.analysis.tower import Tower
from lightning_morse.bands.gradient import gradient_band, simulated_band
from lightning_morse.gp.calibration import fit_calibrated
from lightning_morse.gp.fit import fit
from lightning_morse.gp.kernels import MATERN_5_2, MATERN_7_2, Matern
from lightning_morse.gp.process import GaussianProcess, SurrogateError
from lightning_morse.grids.cubical import CubicalGrid
from lightning_morse.grids.lattice import Lattice
from lightning_morse.stopwatch import Stopwatch

KERNELS = {"5/2": MATERN_5_2, "7/2": MATERN_7_2}
LEVELS = (0.5, 0.8, 0.95)
SURROGATES = ("given", "fitted", "chosen", "placed")
BANDS = ("proved", "simulated")
FINER = 4
SAMPLES = {1: 32, 2: 64, 3: 128}
RESOLUTION = {1: 256, 2: 64, 3: 16}
# Relative to the signal; the smallest that a fit allows.
NOISE = 1e-11


def interval(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper-Pearson) interval for the probability behind a number of hits."""
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


def factor(kernel, values_at, slopes_at, lengthscale):
    """Factors of the values and the derivatives of a draw along one axis.

    Returns:
        ``V``, shape (len(values_at), k), and ``D``, shape (len(slopes_at), k), such that ``V z``
        and ``D z`` are values and derivatives of one draw if ``z`` is white.
    """
    cross = -lengthscale * kernel.derivative(values_at, slopes_at, lengthscale, 1)
    covariance = np.block(
        [
            [kernel.derivative(values_at, values_at, lengthscale, 0), cross],
            [cross.T, -(lengthscale**2) * kernel.derivative(slopes_at, slopes_at, lengthscale, 2)],
        ]
    )
    variances, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(variances, 0))
    return root[: len(values_at)], root[len(values_at) :] / lengthscale


def along_axes(matrices, tensor):
    """Apply one matrix to each axis of a tensor."""
    for axis, matrix in enumerate(matrices):
        tensor = np.moveaxis(np.tensordot(matrix, tensor, (1, axis)), 0, axis)
    return tensor


class Prior:
    """Draws from the prior: values at sample points, values and gradients on a lattice.

    With a product kernel a draw on a product of coordinates is ``A_1 Z A_2^T`` with ``Z`` white and
    ``A_j`` a factor of the covariance along axis ``j``; the sample points are the diagonal of the
    product of their coordinates.
    """

    def __init__(self, kernel, samples, axes, lengthscale):
        self.at_samples, self.values, self.slopes = [], [], []
        for coordinates, axis in zip(samples.T, axes, strict=True):
            values, slopes = factor(kernel, np.concatenate([coordinates, axis]), axis, lengthscale)
            self.at_samples.append(values[: len(coordinates)])
            self.values.append(values[len(coordinates) :])
            self.slopes.append(slopes)

    def draw(self, rng):
        """Values at the samples, values and gradient (last axis) on the lattice, of one draw."""
        white = rng.standard_normal([a.shape[1] for a in self.values])
        at_samples = np.tensordot(self.at_samples[0], white, 1)
        for rows in self.at_samples[1:]:
            at_samples = np.einsum("nk...,nk->n...", at_samples, rows)
        gradient = [
            along_axes([*self.values[:j], slope, *self.values[j + 1 :]], white)
            for j, slope in enumerate(self.slopes)
        ]
        return at_samples, along_axes(self.values, white), np.stack(gradient, axis=-1)


def mean_gradient(surrogate, axes):
    """Posterior mean of the gradient on a lattice, by the product structure of the kernel."""
    letters = "abc"[: len(axes)]
    subscripts = ",".join(f"{c}n" for c in letters) + f",n->{letters}"
    parts = []
    for i in range(len(axes)):
        factors = [
            surrogate.kernel.derivative(
                axis, surrogate.x[:, j], float(surrogate.lengthscales[j]), int(i == j)
            )
            for j, axis in enumerate(axes)
        ]
        parts.append(np.einsum(subscripts, *factors, surrogate.weights, optimize=True))
    return np.stack(parts, axis=-1)


def radius_at_points(radius, lattice, finer=FINER):
    """Half-width of the band at points of a finer lattice: the narrowest over their cells."""
    out = radius.reshape(*lattice.cells, -1)
    for axis, n in enumerate(lattice.cells):
        point = np.arange(finer * n + 1)
        upper = np.minimum(point // finer, n - 1)
        lower = np.maximum(-(-point // finer) - 1, 0)
        out = np.minimum(out.take(lower, axis), out.take(upper, axis))
    return out


def band_at(kind, surrogate, lattice, posterior, level):
    if kind == "proved":
        return gradient_band(surrogate, lattice, posterior, level)
    rng = np.random.default_rng(round(1000 * level))
    return simulated_band(surrogate, lattice, posterior, level, rng)


def worst_ratios(surrogate, lattice, fine_axes, values, gradient, band):
    """Largest ratio of error to band over the fine lattice, per level; at most 1 if it holds."""
    posterior = surrogate.lattice_posterior(lattice.axes)
    mean = mean_gradient(surrogate, fine_axes)
    coarse = mean[(slice(None, None, FINER),) * lattice.dim].reshape(-1, lattice.dim)
    if not np.allclose(coarse, posterior.gradient, rtol=1e-6, atol=1e-6 * np.abs(coarse).max()):
        raise AssertionError("the surrogate's mean is not the one this benchmark knows")
    warp = surrogate.warp
    if math.isfinite(warp.scale):
        above = 1 + (values - warp.origin) / warp.scale
        if not above.min() > 0:
            return [math.inf] * len(LEVELS)
        gradient = gradient / above[..., None]
    error = np.abs(gradient - mean)
    return [
        float(
            np.max(
                error
                / radius_at_points(
                    band_at(band, surrogate, lattice, posterior, level).radius, lattice
                )
            )
        )
        for level in LEVELS
    ]


def place(loss, grid, first, n_samples, seed):
    """Samples as an analysis places them, and the losses there."""
    samples = Samples(first, loss(torch.from_numpy(first)).numpy())
    settings = Settings(grid, confidence=0.95, seed=seed)
    tower = Tower(settings, samples)
    plan = Plan.of(n_samples, grid.dim, most=2 * n_samples)
    sampler = Sampler(loss, tower, plan, Stopwatch())
    # Some evaluations are kept to judge the surrogate and to measure losses; here all are placed.
    kept = next(
        k for k in range(n_samples) if sampler.left(n_samples + k) == n_samples - len(first)
    )
    Explorer(sampler).complete(n_samples + kept)
    return tower.everything.points, tower.everything.losses


def surrogate_of(
    kind: str, kernel: Matern, lengthscale: float, samples: np.ndarray, losses: np.ndarray
) -> GaussianProcess | None:
    """The surrogate of a given kind, None where it is refused."""
    dim = samples.shape[1]
    low, up = np.zeros(dim), np.ones(dim)
    if kind == "given":
        return GaussianProcess(
            x=samples,
            y=losses,
            lengthscales=np.full(dim, lengthscale),
            variance=1.0,
            noise=NOISE,
            mean=0.0,
            kernel=kernel,
        )
    try:
        if kind == "fitted":
            return fit(samples, losses, low, up, kernel)
        chosen = fit_calibrated(samples, losses, low, up)
    except SurrogateError:
        return None
    return chosen.surrogate if chosen.trusted else None


def on_lattice(spread, axes):
    """Let ``placement.spread`` give points of a lattice."""

    def moved(*arguments):
        points = spread(*arguments)
        return np.stack(
            [a[np.abs(a[:, None] - x).argmin(axis=0)] for a, x in zip(axes, points.T, strict=True)],
            axis=1,
        )

    return moved


def experiment(
    kernel: Matern,
    dim: int,
    lengthscale: float,
    draws: int,
    n_samples: int,
    resolution: int,
    seed: int,
    kinds: Sequence[str] = SURROGATES[:3],
    band: str = "proved",
) -> Iterator[dict[str, Any]]:
    """One setting; yields one row per surrogate and level."""
    low, up = np.zeros(dim), np.ones(dim)
    grid = CubicalGrid(low, up, (resolution,) * dim)
    lattice = Lattice(grid, (1,) * dim)
    fine_axes = [np.linspace(0, 1, FINER * n + 1) for n in lattice.cells]
    samples = design(low, up, n_samples, seed)
    prior = Prior(kernel, samples, fine_axes, lengthscale)
    rng = np.random.default_rng([seed, dim, round(1000 * lengthscale)])
    found: dict[str, list[Trial]] = {kind: [] for kind in kinds}
    for _ in range(draws):
        losses, values, gradient = prior.draw(rng)
        for kind in kinds:
            seen = samples, losses
            if kind == "placed":
                known = partial(values_at, values, fine_axes)
                spread = on_lattice(placement.spread, fine_axes)
                with mock.patch.object(placement, "spread", spread):
                    first = design(low, up, first_samples(n_samples), seed)
                    seen = place(known, grid, first, n_samples, seed)
            surrogate = surrogate_of(kind, kernel, lengthscale, *seen)
            if surrogate is not None:
                ratios = worst_ratios(surrogate, lattice, fine_axes, values, gradient, band)
                is_warped = math.isfinite(surrogate.warp.scale)
                found[kind].append(Trial(ratios, is_warped, surrogate.kernel != kernel))
    setting = {"prior": kernel.name.split("-")[-1], "dim": dim, "lengthscale": lengthscale}
    for kind, trials in found.items():
        for row in rows_of(trials):
            yield {**setting, "kind": kind, **row, "refused": draws - len(trials)}


@dataclass(frozen=True)
class Trial:
    """One surrogate: its ratio of error to band by level, and of what kind it turned out to be."""

    ratios: Sequence[float]
    is_warped: bool
    has_other_kernel: bool


def values_at(values: np.ndarray, fine_axes: Sequence[np.ndarray], x: torch.Tensor) -> torch.Tensor:
    """A drawn function at points of the fine lattice, shape ``(n,)``."""
    index = [
        np.abs(a[:, None] - c).argmin(axis=0) for a, c in zip(fine_axes, x.numpy().T, strict=True)
    ]
    return torch.from_numpy(values[tuple(index)])


def rows_of(trials: Sequence[Trial]) -> Iterator[dict[str, Any]]:
    """What is counted of some trials, one row per level."""
    table = np.array([trial.ratios for trial in trials]).reshape(-1, len(LEVELS))
    warped = np.array([trial.is_warped for trial in trials], dtype=bool)
    other = np.array([trial.has_other_kernel for trial in trials], dtype=bool)
    for level, worst in zip(LEVELS, table.T, strict=True):
        missed = worst > 1
        hits, n = int((~missed).sum()), len(worst)
        yield {
            "level": level,
            "hits": hits,
            "trials": n,
            "interval": interval(hits, n),
            "needed": float(np.quantile(worst, level, method="higher")) if n else math.nan,
            "warped": (int(warped.sum()), int(missed[warped].sum())),
            "other": (int(other.sum()), int(missed[other].sum())),
            "below": int(np.isinf(worst).sum()),
        }


HEADER = """\
| prior | dim | lengthscale | surrogate | level | covered | 95 % interval | excess | needed | \
refused | warped | other kernel | below |
|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def as_row(row: dict[str, Any]) -> str:
    share = row["hits"] / max(row["trials"], 1)
    low, high = row["interval"]
    alarm = " **below**" if high < row["level"] else ""
    counts = [f"{n}, {missed} missed" if n else "0" for n, missed in (row["warped"], row["other"])]
    return (
        f"| {row['prior']} | {row['dim']} | {row['lengthscale']:g} | {row['kind']} "
        f"| {row['level']:g} | {row['hits']}/{row['trials']} = {share:.3f}{alarm} "
        f"| {low:.3f} to {high:.3f} | {share - row['level']:+.3f} | {row['needed']:.2f} "
        f"| {row['refused']} | {counts[0]} | {counts[1]} | {row['below']} |"
    )


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=400, help="losses drawn for each setting")
    parser.add_argument("--dims", type=int, nargs="+", choices=(1, 2, 3), default=(1, 2))
    parser.add_argument("--kernels", nargs="+", choices=sorted(KERNELS), default=tuple(KERNELS))
    parser.add_argument(
        "--lengthscales", type=float, nargs="+", default=(0.2, 0.5, 1.5), help="in box widths"
    )
    parser.add_argument(
        "--resolution", type=int, help=f"lattice cells on each axis (by dimension: {RESOLUTION})"
    )
    parser.add_argument("--samples", type=int, help=f"loss samples (by dimension: {SAMPLES})")
    parser.add_argument("--surrogates", nargs="+", choices=SURROGATES, default=SURROGATES[:3])
    parser.add_argument("--band", choices=BANDS, default=BANDS[0])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    rows = []
    start = time.perf_counter()
    print(HEADER)
    for name, dim, lengthscale in product(args.kernels, args.dims, args.lengthscales):
        n_samples = args.samples or SAMPLES[dim]
        resolution = args.resolution or RESOLUTION[dim]
        for row in experiment(
            KERNELS[name],
            dim,
            lengthscale,
            args.draws,
            n_samples,
            resolution,
            args.seed,
            args.surrogates,
            args.band,
        ):
            rows.append(row)
            print(as_row(row), flush=True)
    print(f"\n{args.draws} draws a setting, {time.perf_counter() - start:.0f} s")
    return rows


if __name__ == "__main__":
    main()
